//! Programs in the manner of Go's own channel tests: chains, pipelines, power series that are asked for term by term,
//! channels that are switched off, selects that race. Each runs with goroutines on 1, 2 and 4 processors, with threads, and under
//! 1,000 seeds.

use baton::{
    chan::{self, Receiver, RecvError, Sender, never},
    go, select,
    testing::Simulation,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// How a program starts what runs beside it.
type Spawn = fn(Box<dyn FnOnce() + Send>);

const SEEDS: u64 = if cfg!(debug_assertions) { 300 } else { 1_000 };

fn everywhere(program: impl Fn(Spawn) + Send + Sync) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let goroutine: Spawn = |f| drop(go!(f));
    {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        for procs in [1, 2, 4] {
            baton::set_procs(procs).unwrap();
            (0..5).for_each(|_| baton::run(|| program(goroutine)));
        }
    }
    program(|f| drop(thread::spawn(f)));
    Simulation::seeds(0..SEEDS).run(|| program(goroutine));
}

/// A chain in which each waits for its neighbour: numbers come out in order, whoever runs when.
#[test]
fn a_chain_keeps_the_order() {
    everywhere(|spawn| {
        for capacity in [0, 4] {
            let (numbers, rx) = chan::bounded(capacity);
            let (start, mut turn) = chan::bounded::<()>(0);
            for i in 0..8 {
                let (done, next) = chan::bounded(0);
                let (before, rx) = (std::mem::replace(&mut turn, next), rx.clone());
                spawn(Box::new(move || {
                    before.recv().unwrap();
                    assert_eq!(rx.recv(), Ok(i));
                    done.send(()).unwrap();
                }));
            }
            spawn(Box::new(move || (0..8).for_each(|i| numbers.send(i).unwrap())));
            start.send(()).unwrap();
            turn.recv().unwrap();
        }
    });
}

/// Go's prime sieve, with a goroutine (or a thread) for each prime.
#[test]
fn a_sieve_of_filters() {
    everywhere(|spawn| {
        let (tx, mut rx) = chan::bounded(0);
        spawn(Box::new(move || {
            let _ = (2_u32..).try_for_each(|n| tx.send(n));
        }));
        let primes: Vec<_> = (0..12)
            .map(|_| {
                let prime = rx.recv().unwrap();
                let (tx, next) = chan::bounded(0);
                let from = std::mem::replace(&mut rx, next);
                spawn(Box::new(move || {
                    let _ = from.iter().filter(|n| n % prime != 0).try_for_each(|n| tx.send(n));
                }));
                prime
            })
            .collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]);
    });
}

/// A fraction, in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ratio(i64, i64);

impl Ratio {
    fn new(num: i64, den: i64) -> Self {
        let gcd = |mut a: i64, mut b: i64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let common = gcd(num, den).abs().max(1) * den.signum();
        Self(num / common, den / common)
    }

    fn plus(self, other: Self) -> Self {
        Self::new(self.0 * other.1 + other.0 * self.1, self.1 * other.1)
    }

    fn times(self, other: Self) -> Self {
        Self::new(self.0 * other.0, self.1 * other.1)
    }
}

/// A power series that computes a coefficient when it is asked for one.
struct Series {
    ask: Sender<()>,
    answer: Receiver<Ratio>,
}

impl Series {
    fn get(&self) -> Result<Ratio, RecvError> {
        self.ask.send(()).map_err(|_| RecvError)?;
        self.answer.recv()
    }
}

/// The series that `coefficients` gives, until it fails because nobody asks any more.
fn series(spawn: Spawn, mut coefficient: impl FnMut() -> Result<Ratio, RecvError> + Send + 'static) -> Series {
    let ((ask, asked), (give, answer)) = (chan::bounded(0), chan::bounded(0));
    spawn(Box::new(move || {
        while let Ok(()) = asked.recv() {
            let Ok(next) = coefficient() else { return };
            if give.send(next).is_err() {
                return;
            }
        }
    }));
    Series { ask, answer }
}

/// Two series out of one: whichever is asked first fetches, and keeps a copy for the other.
fn split(spawn: Spawn, source: Series) -> [Series; 2] {
    let (ends, sides): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let ((ask, asked), (give, answer)) = (chan::bounded::<()>(0), chan::bounded(0));
            ((asked, give), Series { ask, answer })
        })
        .unzip();
    spawn(Box::new(move || {
        let mut queues = [std::collections::VecDeque::new(), std::collections::VecDeque::new()];
        let mut asked = [ends[0].0.clone(), ends[1].0.clone()];
        let mut open = 2;
        while open > 0 {
            let (side, request) = select! {
                recv(asked[0]) -> request => (0, request),
                recv(asked[1]) -> request => (1, request),
            };
            if request.is_err() {
                asked[side] = never(); // nobody asks on this side any more
                open -= 1;
                continue;
            }
            if queues[side].is_empty() {
                let Ok(next) = source.get() else { return };
                queues.iter_mut().for_each(|queue| queue.push_back(next));
            }
            let next = queues[side].pop_front().unwrap();
            if ends[side].1.send(next).is_err() {
                return;
            }
        }
    }));
    sides.try_into().ok().unwrap()
}

/// The product: f·g = f₀·g₀ + x·(f₀·g' + g₀·f' + x·f'·g'), where f' and g' are the rest of each.
fn product(spawn: Spawn, f: Series, g: Series) -> Series {
    let mut parts = Some((f, g));
    let mut rest: Option<(Ratio, Ratio, Series, Series, Series)> = None;
    let mut first = true;
    series(spawn, move || {
        if let Some((f, g)) = parts.take() {
            let (f0, g0) = (f.get()?, g.get()?);
            let ([f1, f2], [g1, g2]) = (split(spawn, f), split(spawn, g));
            rest = Some((f0, g0, f1, g1, product(spawn, f2, g2)));
            return Ok(f0.times(g0));
        }
        let (f0, g0, f, g, both) = rest.as_ref().expect("made with the first coefficient");
        let sum = f0.times(g.get()?).plus(g0.times(f.get()?));
        Ok(if std::mem::take(&mut first) {
            sum
        } else {
            sum.plus(both.get()?)
        })
    })
}

/// The integral that begins with `constant`.
fn integral(spawn: Spawn, constant: i64, f: Series) -> Series {
    let mut n = 0;
    series(spawn, move || {
        n += 1;
        if n == 1 {
            Ok(Ratio(constant, 1))
        } else {
            Ok(f.get()?.times(Ratio::new(1, n - 1)))
        }
    })
}

/// Power series, as in Go's powser: (1/(1-x))² is 1 + 2x + 3x² …, and the integral of that is 1/(1-x) but for the constant.
#[test]
fn power_series_are_asked_for_term_by_term() {
    everywhere(|spawn| {
        const TERMS: usize = 5;
        let ones = || series(spawn, || Ok(Ratio(1, 1)));
        let [square, again] = split(spawn, product(spawn, ones(), ones()));
        let integral = integral(spawn, 1, again);
        for n in 1..=TERMS as i64 {
            assert_eq!(integral.get(), Ok(Ratio(1, 1)));
            assert_eq!(square.get(), Ok(Ratio(n, 1)));
        }
    });
}

/// Two sources that end at different times are merged; one that has ended is switched off, as with a nil channel in Go.
#[test]
fn a_merge_switches_off_what_has_ended() {
    everywhere(|spawn| {
        let (merged, all) = chan::bounded(1);
        let sources: Vec<_> = [3_u32, 7]
            .into_iter()
            .map(|n| {
                let (tx, rx) = chan::bounded(n as usize % 2);
                spawn(Box::new(move || (0..n).for_each(|i| tx.send(10 * n + i).unwrap())));
                rx
            })
            .collect();
        spawn(Box::new(move || {
            let [mut a, mut b] = <[Receiver<u32>; 2]>::try_from(sources).unwrap();
            let mut open = 2;
            while open > 0 {
                select! {
                    recv(a) -> n => match n {
                        Ok(n) => merged.send(n).unwrap(),
                        Err(RecvError) => (a, open) = (never(), open - 1),
                    },
                    recv(b) -> n => match n {
                        Ok(n) => merged.send(n).unwrap(),
                        Err(RecvError) => (b, open) = (never(), open - 1),
                    },
                }
            }
        }));
        let all: Vec<_> = all.iter().collect();
        let of = |n| all.iter().copied().filter(move |m| m / 10 == n);
        assert!(of(3).eq(30..33) && of(7).eq(70..77), "{all:?}");
    });
}

/// A channel of `n` places as a semaphore: never more than `n` are inside.
#[test]
fn a_channel_is_a_semaphore() {
    everywhere(|spawn| {
        let (enter, leave) = chan::bounded(2);
        let inside = Arc::new(AtomicUsize::new(0));
        let (done, all) = chan::unbounded();
        for _ in 0..6 {
            let (enter, leave, inside, done) = (enter.clone(), leave.clone(), Arc::clone(&inside), done.clone());
            spawn(Box::new(move || {
                enter.send(()).unwrap();
                assert!(inside.fetch_add(1, SeqCst) < 2);
                baton::yield_now();
                inside.fetch_sub(1, SeqCst);
                leave.recv().unwrap();
                done.send(()).unwrap();
            }));
        }
        drop(done);
        assert_eq!(all.iter().count(), 6);
    });
}

/// A value goes round a ring of rendezvous in which everybody selects between passing on and being told to stop.
#[test]
fn a_ring_passes_on_until_it_is_stopped() {
    everywhere(|spawn| {
        const LAPS: u32 = 10;
        let (first, mut rx) = chan::bounded(0);
        let (stop, stopped) = chan::bounded::<()>(0);
        let (count, ended) = chan::unbounded();
        for _ in 0..5 {
            let (tx, next) = chan::bounded(0);
            let (from, stopped, count) = (std::mem::replace(&mut rx, next), stopped.clone(), count.clone());
            spawn(Box::new(move || {
                'round: loop {
                    let value: u32 = select! {
                        recv(from) -> value => match value {
                            Ok(value) => value,
                            Err(RecvError) => break 'round, // the one before was told sooner
                        },
                        recv(stopped) -> _ => break 'round,
                    };
                    select! {
                        send(tx, value + 1) -> sent => if sent.is_err() {
                            break 'round;
                        },
                        recv(stopped) -> _ => break 'round,
                    }
                }
                count.send(()).unwrap();
            }));
        }
        drop(count);
        let mut value = 0;
        for _ in 0..LAPS {
            first.send(value).unwrap();
            value = rx.recv().unwrap();
        }
        assert_eq!(value, 5 * LAPS);
        drop(stop);
        assert_eq!(ended.iter().count(), 5);
    });
}

/// Go's doubleselect: whoever offers one value on four channels at once gives it to one of them, in order.
#[test]
fn what_is_offered_on_four_channels_is_sent_on_one() {
    everywhere(|spawn| {
        const N: u32 = 24;
        let (merged, all) = chan::bounded(0);
        let to: Vec<_> = (0..4)
            .map(|n| {
                let ((tx, rx), merged) = (chan::bounded(n % 2), merged.clone());
                spawn(Box::new(move || {
                    let mut last = None;
                    for i in rx {
                        assert!(last < Some(i), "out of order");
                        last = Some(i);
                        merged.send(i).unwrap();
                    }
                }));
                tx
            })
            .collect();
        drop(merged);
        spawn(Box::new(move || {
            for i in 0..N {
                select! {
                    send(to[0], i) -> sent => sent.unwrap(),
                    send(to[1], i) -> sent => sent.unwrap(),
                    send(to[2], i) -> sent => sent.unwrap(),
                    send(to[3], i) -> sent => sent.unwrap(),
                }
            }
        }));
        let mut all: Vec<u32> = all.iter().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..N));
    });
}

/// Of two channels that are ready each has its share; and so have two sends on one channel.
#[test]
fn who_selects_is_fair() {
    everywhere(|spawn| {
        const N: usize = 200;
        let filled = || {
            let (tx, rx) = chan::bounded(N);
            (0..N).for_each(|_| tx.send(()).unwrap());
            (tx, rx)
        };
        let ((_a, a), (_b, b)) = (filled(), filled());
        let first = (0..N).filter(|_| {
            select! { recv(a) -> _ => true, recv(b) -> _ => false }
        });
        let first = first.count();
        assert!((N / 5..N * 4 / 5).contains(&first), "{first} of {N}");

        let (tx, rx) = chan::bounded(0);
        spawn(Box::new(move || {
            for _ in 0..N {
                select! { send(tx, 0) -> sent => sent.unwrap(), send(tx, 1) -> sent => sent.unwrap() }
            }
        }));
        let ones: usize = rx.iter().sum();
        assert!((N / 5..N * 4 / 5).contains(&ones), "{ones} of {N}");
    });
}

/// At each moment one of the two channels has a message, or its end is gone: so `default` is never due, whatever moves meanwhile.
#[test]
fn a_select_that_could_always_go_on_takes_no_default() {
    everywhere(|spawn| {
        for closes in [false, true] {
            let ((tx, one), (other, two)) = (chan::bounded(1), chan::bounded(1));
            let (done, result) = chan::bounded(1);
            tx.send(1).unwrap();
            let receivers = (one.clone(), two.clone());
            spawn(Box::new(move || {
                let (one, two) = receivers;
                let went_on = select! { recv(one) -> _ => true, recv(two) -> _ => true, default => false };
                done.send(went_on).unwrap();
            }));
            let other = if closes {
                drop(other);
                None
            } else {
                other.send(2).unwrap();
                Some(other)
            };
            select! { recv(one) -> _ => {}, default => {} }
            assert_eq!(result.recv(), Ok(true));
            drop(other);
        }
    });
}

/// A receive without waiting from a channel that has a message and is then closed finds one or the other.
#[test]
fn a_close_hides_no_message() {
    everywhere(|spawn| {
        let (tx, rx) = chan::bounded(1);
        let (done, result) = chan::bounded(1);
        tx.send(1).unwrap();
        let receiver = rx.clone();
        spawn(Box::new(move || {
            let found = select! { recv(receiver) -> message => Some(message), default => None };
            done.send(found).unwrap();
        }));
        drop(tx);
        let here = rx.try_recv().ok();
        let there = result.recv().unwrap().expect("a message or the end").ok();
        assert_eq!(here.or(there), Some(1));
        assert!(here.is_none() || there.is_none());
    });
}

/// Some that offer and ask for the same thing on one channel meet each other as often as they want, and nobody meets himself.
/// All but one get all their turns; that one has nobody left to meet.
#[test]
fn nobody_who_selects_meets_himself() {
    everywhere(|spawn| {
        const N: usize = 20;
        for (parties, capacity) in [(2, 0), (3, 0), (5, 0), (2, 10)] {
            let (tx, rx) = chan::bounded(capacity);
            let (stop, stopped) = chan::bounded::<()>(0);
            let (done, ends) = chan::unbounded();
            for me in 0..parties {
                let (tx, rx, stopped, done) = (tx.clone(), rx.clone(), stopped.clone(), done.clone());
                spawn(Box::new(move || {
                    for _ in 0..N {
                        select! {
                            send(tx, me) -> sent => sent.unwrap(),
                            recv(rx) -> from => assert!(capacity > 0 || from != Ok(me), "from itself"),
                            recv(stopped) -> _ => break,
                        }
                    }
                    done.send(()).unwrap();
                }));
            }
            drop(done);
            assert_eq!(ends.iter().take(parties - 1).count(), parties - 1);
            drop(stop);
            assert_eq!(ends.iter().count(), 1);
        }
    });
}

/// Four channels of different capacity, each with its own traffic and with that of those who select among all; what has had
/// its share is switched off.
#[test]
fn many_select_among_many() {
    everywhere(|spawn| {
        const N: usize = 12;
        let (tx, rx): (Vec<_>, Vec<_>) = [0, 0, 2, 3].into_iter().map(chan::bounded::<usize>).unzip();
        let (done, ends) = chan::bounded(0);
        for (tx, rx) in tx.iter().cloned().zip(rx.iter().cloned()) {
            let dones = [done.clone(), done.clone()];
            let [one, other] = dones;
            spawn(Box::new(move || {
                (0..N).for_each(|i| tx.send(i).unwrap());
                one.send(()).unwrap();
            }));
            spawn(Box::new(move || {
                (0..N).for_each(|_| _ = rx.recv().unwrap());
                other.send(()).unwrap();
            }));
        }
        let (selects, mine) = (done.clone(), rx.clone());
        spawn(Box::new(move || {
            let (mut open, mut counts) = (mine, [0; 4]);
            for _ in 0..4 * N {
                let i = select! {
                    recv(open[0]) -> message => message.map(|_| 0),
                    recv(open[1]) -> message => message.map(|_| 1),
                    recv(open[2]) -> message => message.map(|_| 2),
                    recv(open[3]) -> message => message.map(|_| 3),
                };
                let i = i.unwrap();
                counts[i] += 1;
                if counts[i] == N {
                    open[i] = never();
                }
            }
            selects.send(()).unwrap();
        }));
        spawn(Box::new(move || {
            let mut counts = [0; 4];
            for i in (0..N).flat_map(|_| 0..4) {
                let mut select = chan::Select::new();
                let open: Vec<_> = (0..4).filter(|&k| counts[k] < N).collect();
                open.iter().for_each(|&k| _ = select.send(&tx[k]));
                let operation = select.select();
                let k = open[operation.index()];
                operation.send(&tx[k], i).unwrap();
                counts[k] += 1;
            }
            done.send(()).unwrap();
        }));
        assert_eq!(ends.iter().count(), 10);
    });
}

/// Work for many workers over one channel, answers over another.
#[test]
fn many_consumers_get_everything_once() {
    everywhere(|spawn| {
        const WORK: usize = 60;
        for capacity in [0, 3] {
            let ((work, todo), (answer, answers)) = (chan::bounded(capacity), chan::bounded(capacity));
            for n in 0..7 {
                let (todo, answer) = (todo.clone(), answer.clone());
                spawn(Box::new(move || {
                    for i in todo {
                        if n % 3 == i % 3 {
                            baton::yield_now();
                        }
                        answer.send(i).unwrap();
                    }
                }));
            }
            drop(answer);
            spawn(Box::new(move || (0..WORK).for_each(|i| work.send(i).unwrap())));
            let mut all: Vec<_> = answers.iter().collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..WORK));
        }
    });
}

/// One that waits for one channel twice over, beside others that wait there: whoever is woken leaves nothing behind.
#[test]
fn a_channel_may_be_selected_twice() {
    everywhere(|spawn| {
        let ((tx, rx), (stop, stopped)) = (chan::bounded(0), chan::bounded::<()>(0));
        let (done, ends) = chan::unbounded();
        for twice in [true, false, true] {
            let (rx, stopped, done) = (rx.clone(), stopped.clone(), done.clone());
            spawn(Box::new(move || {
                let mut got = 0;
                loop {
                    got += if twice {
                        select! {
                            recv(rx) -> message => message.unwrap(),
                            recv(stopped) -> _ => break,
                            recv(rx) -> message => message.unwrap(),
                        }
                    } else {
                        select! { recv(rx) -> message => message.unwrap(), recv(stopped) -> _ => break }
                    };
                }
                done.send(got).unwrap();
            }));
        }
        drop(done);
        (0..9).for_each(|_| tx.send(1).unwrap());
        drop(stop);
        assert_eq!(ends.iter().sum::<i32>(), 9);
    });
}

/// Channels of nothing: Go's nil channels.
#[test]
fn nil_channels_are_never_ready() {
    everywhere(|spawn| {
        let (nil, (tx, rx)) = (never::<u32>(), chan::bounded(0));
        select! { recv(nil) -> _ => unreachable!(), default => {} }
        select! { recv(nil) -> _ => unreachable!(), recv(never::<u32>()) -> _ => unreachable!(), default => {} }
        spawn(Box::new(move || tx.send(3).unwrap()));
        let got = select! { recv(nil) -> _ => unreachable!(), recv(rx) -> message => message };
        assert_eq!(got, Ok(3));
        assert!(nil.try_recv().is_err() && nil.is_empty());
    });
}
