//! Selecting among goroutines: Go's classic programs and their races, on real processors and under many seeds.

use baton::{
    chan::{self, Receiver, RecvError, Select, SendError, Sender, TryRecvError, TrySendError, never},
    go, select, select_biased,
    testing::Simulation,
    time,
};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// Runs `program` on the real scheduler and under `seeds` simulated interleavings.
fn everywhere(seeds: u64, program: impl Fn() + Send + Sync) {
    baton::run(&program);
    Simulation::seeds(0..seeds).run(program);
}

/// Each of two goroutines offers to send and to receive on the same two rendezvous channels: whoever comes first, the two
/// must meet, and never both in the same role.
#[test]
fn two_selects_meet_in_either_role() {
    everywhere(1_000, || {
        let (a, b) = (chan::bounded(0), chan::bounded(0));
        let meet = |mine: Sender<u32>, other: Receiver<u32>, name| {
            select! {
                send(mine, name) -> sent => sent.map(|()| (name, 0)).unwrap(),
                recv(other) -> got => (name, got.unwrap()),
            }
        };
        let ends = (a.0.clone(), b.1.clone());
        let first = go!(move || meet(ends.0, ends.1, 1));
        let second = go!(move || meet(b.0, a.1, 2));
        let mut met = [first.join().unwrap(), second.join().unwrap()];
        met.sort_unstable();
        assert!(met == [(1, 0), (2, 1)] || met == [(1, 2), (2, 0)], "{met:?}");
    });
}

/// One sends on two channels alternately, by select; another receives from both by select; a third looks that nothing is
/// doubled or lost on the way.
#[test]
fn nothing_is_selected_twice() {
    everywhere(200, || {
        const ITERATIONS: u32 = 60;
        for capacity in [0, 1, 3] {
            let channels: Vec<_> = (0..3).map(|_| chan::bounded(capacity)).collect();
            let senders: Vec<_> = channels.iter().map(|(tx, _)| tx.clone()).collect();
            go!(move || {
                for n in 0..ITERATIONS {
                    select! {
                        send(senders[0], n) -> sent => sent.unwrap(),
                        send(senders[1], n) -> sent => sent.unwrap(),
                        send(senders[2], n) -> sent => sent.unwrap(),
                    }
                }
            });
            let (out, all) = chan::unbounded();
            for _ in 0..2 {
                let (receivers, out) = (channels.iter().map(|c| c.1.clone()).collect::<Vec<_>>(), out.clone());
                go!(move || {
                    let mut select = Select::new();
                    for rx in &receivers {
                        select.recv(rx);
                    }
                    let mut open = receivers.len();
                    while open > 0 {
                        let operation = select.select();
                        let index = operation.index();
                        match operation.recv(&receivers[index]) {
                            Ok(n) => out.send(n).unwrap(),
                            Err(RecvError) => {
                                select.remove(index);
                                open -= 1;
                            }
                        }
                    }
                });
            }
            drop((channels, out));
            let mut all: Vec<_> = all.iter().collect();
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..ITERATIONS), "capacity {capacity}: {all:?}");
        }
    });
}

/// A sender that selects promises before it evaluates its message; whoever it promised to must wait for it, and nobody
/// else gets less.
#[test]
fn promises_are_kept() {
    everywhere(500, || {
        for capacity in [0, 1, 2] {
            let (tx, rx) = chan::bounded(capacity);
            let (out, all) = chan::unbounded();
            for i in 0..3_u32 {
                let (tx, rx, out) = (tx.clone(), rx.clone(), out.clone());
                go!(move || {
                    let slow = |n| {
                        baton::yield_now();
                        n
                    };
                    for n in 0..4 {
                        if i == 0 {
                            tx.send(n).unwrap();
                        } else {
                            select! {
                                send(tx, slow(10 * i + n)) -> sent => sent.unwrap(),
                                recv(never::<()>()) -> _ => unreachable!(),
                            }
                        }
                    }
                });
                go!(move || {
                    loop {
                        let message = match i {
                            0 => rx.recv(),
                            1 => select! { recv(rx) -> message => message, recv(never()) -> message => message },
                            _ => loop {
                                match rx.recv_timeout(Duration::from_micros(3)) {
                                    Err(error) if error.is_timeout() => {}
                                    other => break other.map_err(|_| RecvError),
                                }
                            },
                        };
                        match message {
                            Ok(message) => out.send(message).unwrap(),
                            Err(RecvError) => break,
                        }
                    }
                });
            }
            drop((tx, rx, out));
            let seen: HashSet<u32> = all.iter().collect();
            assert_eq!(seen.len(), 12, "capacity {capacity}: {seen:?}");
        }
    });
}

/// A goroutine that selects sees the closing of a channel although it was asleep; one whose peers are gone goes on.
#[test]
fn closing_races_with_everything() {
    everywhere(1_000, || {
        let (tx, rx) = chan::bounded(0);
        let (stop, stopped) = chan::bounded::<()>(0);
        let sent = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let (tx, stopped, sent) = (tx.clone(), stopped.clone(), Arc::clone(&sent));
            go!(move || {
                loop {
                    select! {
                        send(tx, ()) -> result => match result {
                            Ok(()) => sent.fetch_add(1, SeqCst),
                            Err(_) => break,
                        },
                        recv(stopped) -> result => {
                            assert_eq!(result, Err(RecvError));
                            break;
                        }
                    };
                }
            });
        }
        drop(tx);
        let mut received = 0;
        for n in 0..5 {
            received += usize::from(rx.recv().is_ok());
            if n == 3 {
                select! { recv(rx) -> message => received += usize::from(message.is_ok()), default => {} }
            }
        }
        drop(stop);
        received += rx.iter().count();
        assert_eq!(received, sent.load(SeqCst));
    });
}

/// `ready` is told of partners that wait, of room, of messages and of closings, and takes nothing itself.
#[test]
fn ready_is_told_and_takes_nothing() {
    everywhere(500, || {
        for capacity in [0, 1] {
            let (tx, rx) = chan::bounded(capacity);
            let (other, asked) = (tx.clone(), rx.clone());
            let receiver = go!(move || {
                let mut got = Vec::new();
                loop {
                    let mut select = Select::new();
                    select.recv(&asked);
                    assert_eq!(select.ready(), 0);
                    match asked.try_recv() {
                        Ok(n) => got.push(n),
                        Err(error) if error.is_disconnected() => break got,
                        Err(_) => {}
                    }
                }
            });
            let sender = go!(move || {
                for n in 0..5 {
                    let mut select = Select::new();
                    select.send(&other);
                    // A rendezvous with one who merely watches cannot come about, so one side insists.
                    if capacity == 0 {
                        select! { send(other, n) -> sent => sent.unwrap() }
                    } else {
                        while other.try_send(n).is_err() {
                            select.ready();
                        }
                    }
                }
            });
            drop((tx, rx));
            sender.join().unwrap();
            assert_eq!(receiver.join().unwrap(), [0, 1, 2, 3, 4]);
        }
    });
}

/// Timeouts and peers that are equally fast, in select.
#[test]
fn a_deadline_and_a_peer_race_in_select() {
    everywhere(500, || {
        let (tx, rx) = chan::bounded(0);
        let sender = go!(move || {
            let mut sent = 0;
            for n in 0..20 {
                select! {
                    send(tx, ()) -> result => sent += usize::from(result.is_ok()),
                    default(Duration::from_micros(n % 5)) => {}
                }
            }
            sent
        });
        let mut received = 0;
        loop {
            select! {
                recv(rx) -> message => match message {
                    Ok(()) => received += 1,
                    Err(RecvError) => break,
                },
                recv(chan::after(Duration::from_micros(3))) -> _ => {}
            }
        }
        assert_eq!(sender.join().unwrap(), received);
    });
}

/// First in, first out: a pipeline of goroutines keeps the order, whatever waits in between.
#[test]
fn order_is_kept_through_select() {
    everywhere(100, || {
        let (first, mut rx) = chan::bounded(0);
        for stage in 0..6 {
            let (tx, next) = chan::bounded(stage % 3);
            let before = std::mem::replace(&mut rx, next);
            go!(move || {
                loop {
                    let n: u32 = select! {
                        recv(before) -> n => match n {
                            Ok(n) => n,
                            Err(RecvError) => break,
                        },
                        recv(never::<()>()) -> _ => unreachable!(),
                    };
                    select_biased! {
                        send(tx, n) -> sent => sent.unwrap(),
                        recv(never::<()>()) -> _ => unreachable!(),
                    }
                }
            });
        }
        go!(move || (0..30).for_each(|n| first.send(n).unwrap()));
        assert!(rx.iter().eq(0..30));
    });
}

/// The message that an operation was promised stays there for it, whoever else receives. Its party need not wait for a sender that
/// has not decided yet, and here must not: that sender waits for what the party does next.
#[test]
fn a_chosen_message_is_not_given_to_others() {
    Simulation::seeds(0..100).run(|| {
        let (tx, rx) = chan::bounded(1);
        let (gate, opened) = chan::bounded(1);
        tx.send(1).unwrap();
        let chosen = choose_to_receive(&rx);
        let late = tx.clone();
        go!(move || select! { send(late, opened.recv().unwrap()) -> sent => sent.unwrap() });
        time::sleep(Duration::from_millis(1)); // it waits for a place
        assert_eq!(rx.try_recv(), Err(TryRecvError::Empty));
        let other = rx.clone();
        let other = go!(move || other.recv());
        time::sleep(Duration::from_millis(1));
        assert_eq!(tx.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(chosen.recv(&rx), Ok(1));
        gate.send(2).unwrap();
        assert_eq!(other.join().unwrap(), Ok(2));
    });
}

/// A receive that is decided and not yet completed: the first message in the queue is promised to it.
fn choose_to_receive<T>(rx: &chan::Receiver<T>) -> chan::SelectedOperation<'_> {
    let mut select = Select::new();
    select.recv(rx);
    select.select()
}

/// While messages that others have chosen lie in the queue, a receiver waits. What comes then does not go past them: whom a later
/// operation promises a message gets the next.
#[test]
fn what_is_sent_later_does_not_pass_a_queue_of_promises() {
    Simulation::seeds(0..100).run(|| {
        let (tx, rx) = chan::bounded(2);
        tx.send(1).unwrap();
        let chosen = choose_to_receive(&rx);
        let other = rx.clone();
        let other = go!(move || {
            let first = other.recv().unwrap();
            time::sleep(Duration::from_millis(1));
            [first, select! { recv(other) -> second => second.unwrap() }]
        });
        time::sleep(Duration::from_millis(1)); // it waits
        tx.send(2).unwrap();
        tx.send(3).unwrap();
        assert_eq!(other.join().unwrap(), [1, 2]);
        assert_eq!(chosen.recv(&rx), Ok(3));
    });
}

/// The same if it is the sender that waits, for a place.
#[test]
fn who_waits_for_a_place_does_not_pass_a_queue_of_promises() {
    Simulation::seeds(0..100).run(|| {
        let (tx, rx) = chan::bounded(2);
        go!(move || (1..=4).for_each(|n| tx.send(n).unwrap()));
        time::sleep(Duration::from_millis(1)); // it waits with the third
        let mut select = Select::new();
        select.recv(&rx);
        let (one, two) = (select.clone().select(), select.select());
        let other = rx.clone();
        let other = go!(move || [other.recv(), select! { recv(other) -> second => second }]);
        time::sleep(Duration::from_millis(1));
        let mut mine = vec![one.recv(&rx)];
        let others = other.join().unwrap();
        mine.push(two.recv(&rx));
        assert!(
            mine.is_sorted_by_key(|n| n.unwrap()) && others.is_sorted_by_key(|n| n.unwrap()),
            "{mine:?} {others:?}"
        );
        assert!(
            (1..=4).all(|n| mine.iter().chain(&others).any(|m| *m == Ok(n))),
            "{mine:?} {others:?}"
        );
    });
}

/// Messages of a sender that selects go to the end of the queue too, whoever waits.
#[test]
fn a_promised_message_goes_to_the_end_of_the_queue() {
    Simulation::seeds(0..100).run(|| {
        let (tx, rx) = chan::bounded(2);
        let mut select = Select::new();
        select.send(&tx);
        let late = select.select(); // one of two places
        tx.send(1).unwrap();
        let chosen = choose_to_receive(&rx);
        let other = rx.clone();
        let other = go!(move || [other.recv().unwrap(), other.recv().unwrap()]);
        time::sleep(Duration::from_millis(1)); // it waits
        late.send(&tx, 2).unwrap();
        tx.send(3).unwrap();
        assert_eq!(other.join().unwrap(), [1, 2]);
        assert_eq!(chosen.recv(&rx), Ok(3));
    });
}

/// Either end may go while messages are promised: what was promised still comes, and nothing else is waited for.
#[test]
fn an_end_goes_while_messages_are_promised() {
    Simulation::seeds(0..100).run(|| {
        let (tx, rx) = chan::bounded(2);
        tx.send(1).unwrap();
        let chosen = choose_to_receive(&rx);
        let other = rx.clone();
        let other = go!(move || other.recv());
        time::sleep(Duration::from_millis(1)); // it waits
        drop(tx);
        assert_eq!(other.join().unwrap(), Err(RecvError));
        assert_eq!(rx.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(chosen.recv(&rx), Ok(1));

        let (tx, rx) = chan::bounded(1);
        let mut select = Select::new();
        select.send(&tx);
        let chosen = select.select();
        let other = tx.clone();
        let other = go!(move || other.send(2));
        time::sleep(Duration::from_millis(1)); // for a place
        drop(rx);
        assert_eq!(other.join().unwrap(), Err(SendError(2)));
        assert_eq!(chosen.send(&tx, 1), Err(SendError(1)));
    });
}

/// The same seed chooses the same arms.
#[test]
fn a_seed_decides_which_arm_is_chosen() {
    let choices = |seed| {
        Simulation::seed(seed).run(|| {
            let channels: Vec<_> = (0..3).map(|_| chan::unbounded()).collect();
            channels
                .iter()
                .for_each(|(tx, _)| (0..20).for_each(|n| tx.send(n).unwrap()));
            (0..20)
                .map(|_| {
                    select! {
                        recv(channels[0].1) -> _ => 0,
                        recv(channels[1].1) -> _ => 1,
                        recv(channels[2].1) -> _ => 2,
                    }
                })
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(choices(1), choices(1));
    assert!((2..10).any(|seed| choices(seed) != choices(1)));
}

/// Each of a hundred ready cases is chosen about as often as the others.
#[test]
fn many_ready_cases_are_all_chosen() {
    const CASES: usize = 100;
    const MEAN: usize = 100;
    baton::run(|| {
        let channels = [(); CASES].map(|()| chan::bounded(1));
        let mut select = Select::new();
        for (tx, rx) in &channels {
            tx.send(()).unwrap();
            select.recv(rx);
        }
        let mut chosen = [0; CASES];
        for _ in 0..MEAN * CASES {
            chosen[select.try_ready().unwrap()] += 1;
        }
        // Six standard deviations from what is to be expected.
        assert!(chosen.iter().all(|n| (MEAN - 60..=MEAN + 60).contains(n)), "{chosen:?}");
    });
}
