//! Channels and wait groups, between goroutines, threads, and both.

use baton::{
    chan::{self, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError},
    go,
    sync::WaitGroup,
    testing::Simulation,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

#[test]
fn try_forms_and_sizes() {
    let (tx, rx) = chan::bounded(2);
    assert_eq!((tx.capacity(), rx.capacity()), (Some(2), Some(2)));
    assert!(rx.is_empty() && tx.is_empty() && !tx.is_full());
    assert_eq!(rx.try_recv(), Err(TryRecvError::Empty));
    tx.try_send(1).unwrap();
    tx.try_send(2).unwrap();
    assert!(tx.is_full() && rx.is_full());
    assert_eq!(tx.try_send(3), Err(TrySendError::Full(3)));
    assert_eq!((rx.len(), tx.len()), (2, 2));
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [1, 2]);
    drop(tx);
    assert_eq!(rx.try_recv(), Err(TryRecvError::Disconnected));
    assert_eq!(rx.recv(), Err(RecvError));

    let (tx, rx) = chan::bounded(0);
    assert!(tx.is_full() && tx.is_empty());
    assert_eq!(tx.try_send(1), Err(TrySendError::Full(1)));
    drop(rx);
    assert_eq!(tx.try_send(1), Err(TrySendError::Disconnected(1)));
    assert_eq!(tx.send(1), Err(SendError(1)));
    assert_eq!(SendError(5).into_inner(), 5);

    let (a, _) = chan::unbounded::<()>();
    let (b, _) = chan::unbounded::<()>();
    assert!(a.same_channel(&a.clone()) && !a.same_channel(&b));
    assert_eq!(a.capacity(), None);
}

#[test]
fn one_sender_is_received_in_order_at_every_capacity() {
    baton::run(|| {
        for capacity in [Some(0), Some(1), Some(7), Some(128), None] {
            let (tx, rx) = capacity.map_or_else(chan::unbounded, chan::bounded);
            let sender = go!(move || (0..2_000).for_each(|i| tx.send(i).unwrap()));
            assert!(rx.iter().eq(0..2_000), "capacity {capacity:?}");
            sender.join().unwrap();
        }
    });
}

#[test]
fn every_message_arrives_once() {
    const SENDERS: usize = 8;
    const EACH: usize = 1_000;
    for capacity in [Some(0), Some(3), None] {
        let (tx, rx) = capacity.map_or_else(chan::unbounded, chan::bounded);
        let (sum_tx, sums) = chan::unbounded();
        // Half of each end are goroutines, half are threads.
        let mut threads = Vec::new();
        for i in 0..SENDERS {
            let (tx, rx, sum_tx) = (tx.clone(), rx.clone(), sum_tx.clone());
            let send = move || (0..EACH).for_each(|n| tx.send(i * EACH + n).unwrap());
            let receive = move || {
                sum_tx
                    .send(rx.iter().fold((0, 0), |(n, sum), x| (n + 1, sum + x)))
                    .unwrap()
            };
            if i % 2 == 0 {
                go!(send);
                go!(receive);
            } else {
                threads.push(std::thread::spawn(send));
                threads.push(std::thread::spawn(receive));
            }
        }
        drop((tx, rx, sum_tx));
        let (n, sum) = sums.iter().fold((0, 0), |a: (usize, usize), b| (a.0 + b.0, a.1 + b.1));
        threads.into_iter().for_each(|t| t.join().unwrap());
        let all = SENDERS * EACH;
        assert_eq!((n, sum), (all, all * (all - 1) / 2), "capacity {capacity:?}");
    }
}

#[test]
fn disconnecting_wakes_all_who_wait() {
    baton::run(|| {
        let (tx, rx) = chan::bounded::<u32>(0);
        let receivers: Vec<_> = (0..50).map(|_| rx.clone()).map(|rx| go!(move || rx.recv())).collect();
        baton::yield_now();
        drop(tx);
        for receiver in receivers {
            assert_eq!(receiver.join().unwrap(), Err(RecvError));
        }
        let (tx, rx) = chan::bounded(1);
        tx.send(0).unwrap();
        let senders: Vec<_> = (1..50)
            .map(|i| (i, tx.clone()))
            .map(|(i, tx)| go!(move || tx.send(i)))
            .collect();
        baton::yield_now();
        drop(rx);
        for (sender, i) in senders.into_iter().zip(1..) {
            assert_eq!(sender.join().unwrap(), Err(SendError(i)), "the message comes back");
        }
    });
}

#[test]
fn messages_that_nobody_receives_are_dropped() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let (tx, rx) = chan::unbounded();
    for _ in 0..10 {
        tx.send(Counted(Arc::clone(&drops))).unwrap();
    }
    drop(rx.recv());
    assert_eq!(drops.load(SeqCst), 1);
    drop(rx);
    assert_eq!(drops.load(SeqCst), 10, "with the last receiver");
    drop(tx);
    assert_eq!(drops.load(SeqCst), 10);
}

/// Go's prime sieve: a chain of goroutines, each of which lets through what its prime does not divide.
#[test]
fn sieve() {
    baton::run(|| {
        let (tx, mut rx) = chan::bounded(0);
        go!(move || {
            let _ = (2_u32..).try_for_each(|n| tx.send(n));
        });
        let mut primes = Vec::new();
        for _ in 0..100 {
            let prime = rx.recv().unwrap();
            primes.push(prime);
            let (tx, next) = chan::bounded(0);
            go!(move || {
                let _ = rx.iter().filter(|n| n % prime != 0).try_for_each(|n| tx.send(n));
            });
            rx = next;
        }
        assert_eq!(primes[99], 541);
    });
}

#[test]
fn a_wait_group_waits_for_all() {
    let done = Arc::new(AtomicUsize::new(0));
    let group = WaitGroup::new();
    for i in 0..200 {
        let (member, done) = (group.clone(), Arc::clone(&done));
        go!(move || {
            for _ in 0..i % 7 {
                baton::yield_now();
            }
            done.fetch_add(1, SeqCst);
            drop(member);
        });
    }
    // Two wait: a goroutine and this thread.
    let (other, seen) = (group.clone(), Arc::clone(&done));
    let waiter = go!(move || {
        other.wait();
        seen.load(SeqCst)
    });
    group.wait();
    assert_eq!(done.load(SeqCst), 200);
    assert_eq!(waiter.join().unwrap(), 200);
    WaitGroup::default().wait();
}

#[test]
fn sleepers_wake_in_order_and_not_too_soon() {
    let woken = |is_real: bool| {
        let (tx, rx) = chan::unbounded();
        for ms in [30_u64, 10, 20, 0, 40] {
            let tx = tx.clone();
            go!(move || {
                let (wanted, start) = (Duration::from_millis(ms), Instant::now());
                baton::time::sleep(wanted);
                assert!(!is_real || start.elapsed() >= wanted);
                tx.send(ms).unwrap();
            });
        }
        drop(tx);
        rx.iter().collect::<Vec<_>>()
    };
    // On a busy machine one may have slept enough before another begins.
    assert_eq!(baton::run(|| woken(true)).len(), 5);
    Simulation::seeds(0..20).run(|| assert_eq!(woken(false), [0, 10, 20, 30, 40]));
    // Many at once, so that the heap grows and is shared out.
    baton::run(|| {
        let all: Vec<_> = (0..5_000_u64)
            .map(|i| go!(move || baton::time::sleep(Duration::from_micros(i * 7 % 3_000))))
            .collect();
        all.into_iter().for_each(|h| h.join().unwrap());
    });
}

#[test]
fn timed_forms_wait_no_longer_than_they_are_told() {
    let check = || {
        let short = Duration::from_millis(2);
        for capacity in [0, 1] {
            let (tx, rx) = chan::bounded(capacity);
            let start = Instant::now();
            assert_eq!(rx.recv_timeout(short), Err(RecvTimeoutError::Timeout));
            assert_eq!(rx.recv_deadline(start + 2 * short), Err(RecvTimeoutError::Timeout));
            (0..capacity).for_each(|i| tx.send(i).unwrap());
            assert_eq!(tx.send_timeout(7, short), Err(SendTimeoutError::Timeout(7)));
            assert_eq!(
                tx.send_deadline(8, start + 4 * short),
                Err(SendTimeoutError::Timeout(8))
            );
            assert!(start.elapsed() >= 4 * short);
            assert_eq!(rx.try_iter().count(), capacity, "what timed out was not sent");
            drop(rx);
            assert_eq!(
                tx.send_timeout(9, Duration::MAX),
                Err(SendTimeoutError::Disconnected(9))
            );
        }
        let (tx, rx) = chan::unbounded::<()>();
        drop(tx);
        assert_eq!(rx.recv_timeout(Duration::MAX), Err(RecvTimeoutError::Disconnected));
    };
    check();
    baton::run(check);
}

/// Deadlines and peers that are equally fast: whoever wins, no message is lost, doubled, or in two hands.
#[test]
fn a_timeout_and_a_peer_race() {
    const ROUNDS: u64 = 1_000;
    for capacity in [0, 2] {
        let (tx, rx) = chan::bounded(capacity);
        let (counts, all) = chan::unbounded();
        let mut threads = Vec::new();
        for i in 0..6 {
            let wait = move |n: u64| Duration::from_nanos((n + i) * 7919 % 40_000);
            let (tx, counts_of_sent) = (tx.clone(), counts.clone());
            let send = move || {
                let mut sent = 0_i64;
                for n in 0..ROUNDS {
                    match tx.send_timeout(Box::new(n), wait(n)) {
                        Ok(()) => sent += 1,
                        Err(error) => assert_eq!(*error.into_inner(), n, "its own message comes back"),
                    }
                }
                counts_of_sent.send(sent).unwrap();
            };
            let (rx, counts_of_received) = (rx.clone(), counts.clone());
            let receive = move || {
                let mut received = 0_i64;
                for n in 0.. {
                    match rx.recv_timeout(wait(n)) {
                        Ok(message) => received += i64::from(*message < ROUNDS),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
                counts_of_received.send(-received).unwrap();
            };
            if i % 3 == 0 {
                threads.push(std::thread::spawn(send));
                threads.push(std::thread::spawn(receive));
            } else {
                go!(send);
                go!(receive);
            }
        }
        drop((tx, rx, counts));
        assert_eq!(all.iter().sum::<i64>(), 0, "as many received as sent");
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
