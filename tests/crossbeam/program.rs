// A program written for crossbeam-channel: `tests/crossbeam.rs` compiles it once for that crate and once for Baton.

use crossbeam_channel::{
    after, at, bounded, never, select, select_biased, tick, unbounded, IntoIter, Iter, ReadyTimeoutError, Receiver,
    RecvError, RecvTimeoutError, Select, SelectTimeoutError, SelectedOperation, SendError, SendTimeoutError, Sender,
    TryIter, TryReadyError, TryRecvError, TrySelectError, TrySendError,
};
use std::{
    collections::HashSet,
    error::Error,
    fmt::{Debug, Display},
    panic::{catch_unwind, AssertUnwindSafe, RefUnwindSafe, UnwindSafe},
    sync::{
        atomic::{AtomicUsize, Ordering::SeqCst},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

const MS: Duration = Duration::from_millis(1);

fn is_portable<T: Send + Sync + UnwindSafe + RefUnwindSafe + Clone + Debug>(_: &T) {}
fn is_error<E: Error + Send + Sync + Copy + Eq + Debug + Display + 'static>(error: E) -> String {
    error.to_string()
}

#[test]
fn types_are_what_a_program_expects() {
    let (tx, rx): (Sender<String>, Receiver<String>) = bounded(1);
    is_portable(&tx);
    is_portable(&rx);
    is_portable(&after(MS));
    assert_eq!(format!("{tx:?} {rx:?}"), "Sender { .. } Receiver { .. }");
    tx.send("a".to_string()).unwrap();
    let _: Iter<'_, String> = rx.iter();
    let mut now: TryIter<'_, String> = rx.try_iter();
    assert_eq!(now.next().as_deref(), Some("a"));
    tx.send("b".to_string()).unwrap();
    drop(tx);
    for message in &rx {
        assert_eq!(message, "b");
    }
    let mut rest: IntoIter<String> = rx.into_iter();
    assert_eq!(rest.next(), None);
}

#[test]
fn errors_say_the_same() {
    assert_eq!(is_error(SendError(1)), "sending on a disconnected channel");
    assert_eq!(is_error(TrySendError::Full(1)), "sending on a full channel");
    assert_eq!(is_error(TrySendError::Disconnected(1)), "sending on a disconnected channel");
    assert_eq!(is_error(SendTimeoutError::Timeout(1)), "timed out waiting on send operation");
    assert_eq!(is_error(SendTimeoutError::Disconnected(1)), "sending on a disconnected channel");
    assert_eq!(is_error(RecvError), "receiving on an empty and disconnected channel");
    assert_eq!(is_error(TryRecvError::Empty), "receiving on an empty channel");
    assert_eq!(is_error(TryRecvError::Disconnected), "receiving on an empty and disconnected channel");
    assert_eq!(is_error(RecvTimeoutError::Timeout), "timed out waiting on receive operation");
    assert_eq!(is_error(RecvTimeoutError::Disconnected), "channel is empty and disconnected");
    assert_eq!(is_error(TrySelectError), "all operations in select would block");
    assert_eq!(is_error(SelectTimeoutError), "timed out waiting on select");
    assert_eq!(TrySendError::from(SendError(1)), TrySendError::Disconnected(1));
    assert_eq!(SendTimeoutError::from(SendError(1)), SendTimeoutError::Disconnected(1));
    assert_eq!(TryRecvError::from(RecvError), TryRecvError::Disconnected);
    assert_eq!(RecvTimeoutError::from(RecvError), RecvTimeoutError::Disconnected);
    assert_eq!((SendError(1).into_inner(), TrySendError::Full(2).into_inner()), (1, 2));
    assert_eq!(SendTimeoutError::Timeout(3).into_inner(), 3);
    assert!(TrySendError::Full(()).is_full() && TrySendError::Disconnected(()).is_disconnected());
    assert!(SendTimeoutError::Timeout(()).is_timeout() && !SendTimeoutError::Timeout(()).is_disconnected());
    assert!(TryRecvError::Empty.is_empty() && TryRecvError::Disconnected.is_disconnected());
    assert!(RecvTimeoutError::Timeout.is_timeout() && !RecvTimeoutError::Timeout.is_disconnected());
}

#[test]
fn sizes() {
    let (tx, rx) = bounded(2);
    assert_eq!((tx.len(), rx.capacity(), rx.is_empty(), tx.is_full()), (0, Some(2), true, false));
    tx.send(1).unwrap();
    tx.send(2).unwrap();
    assert_eq!((tx.len(), rx.len(), rx.is_full(), tx.is_empty()), (2, 2, true, false));
    assert_eq!(tx.try_send(3), Err(TrySendError::Full(3)));
    let (tx, rx) = bounded::<()>(0);
    assert!(tx.is_full() && tx.is_empty() && rx.is_full() && rx.is_empty());
    assert_eq!((tx.capacity(), tx.len()), (Some(0), 0));
    let (tx, rx) = unbounded::<()>();
    assert_eq!((tx.capacity(), rx.is_full()), (None, false));
    assert!(tx.same_channel(&tx.clone()) && rx.same_channel(&rx.clone()));
    assert!(!tx.same_channel(&unbounded().0) && !rx.same_channel(&never()));
    assert!(never::<()>().same_channel(&never()));
    assert_eq!((never::<()>().len(), never::<()>().capacity()), (0, Some(0)));
    let soon = after(Duration::ZERO);
    assert_eq!((soon.len(), soon.capacity(), soon.is_full()), (1, Some(1), true));
    assert!(soon.same_channel(&soon.clone()) && !soon.same_channel(&after(MS)));
    assert!(soon.try_recv().is_ok() && soon.is_empty());
}

#[test]
fn moments_come_once_and_not_too_soon() {
    let start = Instant::now();
    let timer = after(3 * MS);
    let far = after(1_000_000 * MS);
    assert_eq!(far.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(far.recv_timeout(MS), Err(RecvTimeoutError::Timeout));
    let moment = timer.recv().unwrap();
    assert!(moment >= start + 3 * MS && Instant::now() >= moment);
    assert_eq!(timer.recv_timeout(MS), Err(RecvTimeoutError::Timeout));
    let when = start + 5 * MS;
    let exact = at(when);
    let copy = exact.clone();
    assert_eq!(exact.recv(), Ok(when));
    assert!(Instant::now() >= when);
    assert_eq!(copy.try_recv(), Err(TryRecvError::Empty));
    let ticker = tick(MS);
    let ticks: Vec<_> = ticker.iter().take(4).collect();
    assert!(ticks.windows(2).all(|pair| pair[1] >= pair[0] + MS));
    thread::sleep(5 * MS);
    assert_eq!(ticker.len(), 1, "missed ticks are left out");
    assert!(ticker.try_recv().is_ok());
}

#[test]
fn timed_forms() {
    let start = Instant::now();
    let (tx, rx) = bounded(1);
    assert_eq!(rx.recv_timeout(MS), Err(RecvTimeoutError::Timeout));
    assert_eq!(rx.recv_deadline(start), Err(RecvTimeoutError::Timeout));
    assert_eq!(tx.send_timeout(1, MS), Ok(()));
    assert_eq!(tx.send_timeout(2, MS), Err(SendTimeoutError::Timeout(2)));
    assert_eq!(tx.send_deadline(3, start), Err(SendTimeoutError::Timeout(3)));
    assert_eq!(rx.recv_deadline(start), Ok(1), "what is there is there");
    drop(rx);
    assert_eq!(tx.send_timeout(4, MS), Err(SendTimeoutError::Disconnected(4)));
}

#[test]
fn forms_of_select() {
    let (s1, r1) = unbounded();
    let (s2, r2) = bounded::<&str>(0);
    let owner = [&r1].into_iter().next();
    // Owned, by reference, by an expression; blocks with and without a comma; defaults with and without arguments.
    let said = select! {
        recv(r1) -> message => { message.unwrap() }
        recv(r2) -> _ => unreachable!(),
        default => 0,
    };
    assert_eq!(said, 0);
    s1.send(5).unwrap();
    let said = select! {
        recv(owner.unwrap_or(&never())) -> message => message.unwrap(),
        send(s2, "nobody") -> _ => { unreachable!() },
        default() => 0
    };
    assert_eq!(said, 5);
    let said = select! {
        recv(&r1) -> _ => unreachable!("it is empty"),
        recv(Arc::new(r2.clone()),) -> _ => unreachable!(),
        default(MS) => "late",
    };
    assert_eq!(said, "late");
    drop(s2);
    select_biased! {
        recv(r2) -> message => assert_eq!(message, Err(RecvError)),
        recv(r1) -> _ => unreachable!(),
    }
    let full = bounded::<()>(1);
    let outcome: Result<(), SendError<()>> = select! { send(full.0, ()) -> sent => sent };
    assert_eq!(outcome, Ok(()));
    drop(full.1);
    let outcome = select!(send(full.0, ()) -> sent => sent);
    assert_eq!(outcome, Err(SendError(())));
    select! { default => {} }
}

#[test]
fn select_leaves_what_it_does_not_choose() {
    // A message is evaluated only if it is sent, and may move; bodies may leave the loop and use the ends.
    fn first_even(tx: Sender<Vec<u32>>, rx: Receiver<u32>) -> Option<u32> {
        let mut seen = Some(vec![7]);
        loop {
            select! {
                send(tx, seen.take().expect("sent once")) -> _ => unreachable!("nobody receives"),
                recv(rx) -> number => {
                    let number = number.ok()?;
                    if number % 2 == 0 {
                        drop(rx);
                        break seen.map(|seen| seen[0] + number);
                    }
                    continue;
                }
            }
        }
    }
    let (tx, _rx) = bounded(0);
    let (numbers, rx) = unbounded();
    [1, 3, 8, 9].into_iter().for_each(|n| numbers.send(n).unwrap());
    assert_eq!(first_even(tx.clone(), rx.clone()), Some(15));
    drop(numbers);
    assert_eq!(first_even(tx, rx), None);
}

#[test]
fn every_ready_arm_has_its_chance() {
    let channels: Vec<_> = (0..4).map(|_| unbounded::<()>()).collect();
    channels.iter().take(3).for_each(|(tx, _)| (0..3_000).for_each(|_| tx.send(()).unwrap()));
    let mut hits = [0_u32; 4];
    for _ in 0..3_000 {
        select! {
            recv(channels[0].1) -> _ => hits[0] += 1,
            recv(channels[1].1) -> _ => hits[1] += 1,
            recv(channels[3].1) -> _ => hits[3] += 1,
            recv(channels[2].1) -> _ => hits[2] += 1,
        }
    }
    assert!(hits[..3].iter().all(|&n| (800..1_200).contains(&n)) && hits[3] == 0, "{hits:?}");
    for _ in 0..100 {
        select_biased! {
            recv(channels[3].1) -> _ => unreachable!(),
            recv(channels[1].1) -> _ => {}
            recv(channels[0].1) -> _ => unreachable!("the first is ready"),
        }
    }
}

#[test]
fn a_list_of_operations() {
    let (s1, r1) = bounded(1);
    let (s2, r2) = unbounded();
    let mut select = Select::new();
    assert_eq!((select.recv(&r1), select.send(&s1), select.recv(&r2)), (0, 1, 2));
    let operation: SelectedOperation<'_> = select.select();
    assert_eq!(operation.index(), 1);
    assert_eq!(operation.send(&s1, 'a'), Ok(()));
    let operation = select.try_select().unwrap();
    assert_eq!((operation.index(), operation.recv(&r1)), (0, Ok('a')));
    select.remove(1);
    assert!(matches!(select.try_select(), Err(TrySelectError)));
    assert!(matches!(select.select_timeout(MS), Err(SelectTimeoutError)));
    assert!(matches!(select.select_deadline(Instant::now()), Err(SelectTimeoutError)));
    assert_eq!(select.try_ready(), Err(TryReadyError));
    assert_eq!(select.ready_timeout(MS), Err(ReadyTimeoutError));
    assert_eq!(select.ready_deadline(Instant::now()), Err(ReadyTimeoutError));
    s2.send('b').unwrap();
    assert_eq!((select.ready(), select.try_ready()), (2, Ok(2)));
    assert_eq!(select.clone().ready_timeout(MS), Ok(2));
    assert_eq!(r2.try_recv(), Ok('b'));
    drop(s2);
    let operation = select.select_timeout(MS).unwrap();
    assert_eq!((operation.index(), operation.recv(&r2)), (2, Err(RecvError)));
    let mut biased = Select::new_biased();
    let (first, second) = (at(Instant::now()), at(Instant::now()));
    biased.recv(&first);
    biased.recv(&second);
    for (index, end) in [(0, &first), (1, &second)] {
        let operation = biased.select();
        assert_eq!(operation.index(), index);
        assert!(operation.recv(end).is_ok());
    }
    let empty = catch_unwind(|| Select::new().ready());
    assert!(empty.is_err(), "no operations");
    let gone = catch_unwind(AssertUnwindSafe(|| select.remove(1)));
    assert!(gone.is_err(), "no such operation");
    let wrong = catch_unwind(AssertUnwindSafe(|| drop(select.select())));
    assert!(wrong.is_err(), "dropped without being completed");
}

/// Both sides of a rendezvous select, in both directions.
#[test]
fn two_that_select_meet() {
    const ROUNDS: usize = 2_000;
    let (left, right) = (bounded(0), bounded(0));
    let play = |(mine, other): (&Sender<usize>, &Receiver<usize>)| {
        let (mut sent, mut received) = (0, 0);
        while sent < ROUNDS || received < ROUNDS {
            let (nobody, nothing) = (bounded(1), never());
            nobody.0.send(0).unwrap();
            select! {
                send(if sent < ROUNDS { mine } else { &nobody.0 }, sent) -> result => {
                    result.unwrap();
                    sent += 1;
                }
                recv(if received < ROUNDS { other } else { &nothing }) -> message => {
                    assert_eq!(message, Ok(received));
                    received += 1;
                }
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play((&left.0, &right.1)));
        play((&right.0, &left.1));
    });
}

/// All messages arrive once, whoever waits how for them.
#[test]
fn every_kind_of_wait_at_once() {
    const EACH: usize = 600;
    for capacity in [Some(0), Some(1), Some(5), None] {
        let (tx, rx) = capacity.map_or_else(unbounded, bounded);
        let seen: Vec<HashSet<usize>> = thread::scope(|scope| {
            for i in 0..3 {
                let tx = tx.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        let message = i * EACH + n;
                        match (n + i) % 3 {
                            0 => tx.send(message).unwrap(),
                            1 => select! { send(tx, message) -> sent => sent.unwrap(), recv(never::<()>()) -> _ => {} },
                            _ => {
                                let mut message = message;
                                while let Err(error) = tx.send_timeout(message, Duration::from_micros(50)) {
                                    message = error.into_inner();
                                }
                            }
                        }
                    }
                });
            }
            let receivers: Vec<_> = (0..4)
                .map(|i| {
                    let rx = rx.clone();
                    scope.spawn(move || {
                        let mut seen = HashSet::new();
                        loop {
                            let message = match i {
                                0 => rx.recv().ok(),
                                1 => select! { recv(rx) -> message => message.ok(), recv(never()) -> message => message.ok() },
                                2 => match rx.recv_timeout(Duration::from_micros(30)) {
                                    Err(RecvTimeoutError::Timeout) => continue,
                                    other => other.ok(),
                                },
                                _ => {
                                    let mut select = Select::new();
                                    select.recv(&rx);
                                    select.ready();
                                    match rx.try_recv() {
                                        Err(TryRecvError::Empty) => continue,
                                        other => other.ok(),
                                    }
                                }
                            };
                            match message {
                                Some(message) => assert!(seen.insert(message)),
                                None => return seen,
                            }
                        }
                    })
                })
                .collect();
            drop((tx, rx));
            receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
        });
        let all: HashSet<_> = seen.iter().flatten().collect();
        assert_eq!((all.len(), seen.iter().map(HashSet::len).sum()), (3 * EACH, 3 * EACH), "capacity {capacity:?}");
    }
}

#[test]
fn messages_are_dropped_once() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    for capacity in [Some(8), None] {
        let drops = Arc::new(AtomicUsize::new(0));
        let (tx, rx) = capacity.map_or_else(unbounded, bounded);
        (0..6).for_each(|_| drop(tx.send(Counted(Arc::clone(&drops)))));
        drop(rx.recv());
        assert_eq!(drops.load(SeqCst), 1);
        drop(rx);
        drop(tx.send(Counted(Arc::clone(&drops))).unwrap_err());
        drop(tx);
        assert_eq!(drops.load(SeqCst), 7);
    }
}
