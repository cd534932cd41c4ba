//! Simulations: the same seed gives the same interleaving, other seeds give others, time does not wait, deadlocks are
//! reported with the seed.

mod child;

use baton::{chan, go, sync::WaitGroup, testing::Simulation, time};
use std::{
    cell::Cell,
    collections::HashSet,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Who ran when: five goroutines that meet over channels, yield and sleep.
fn interleaving(seed: u64) -> Vec<(u64, u64)> {
    Simulation::seed(seed).run(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (tx, rx) = chan::bounded(1);
        let workers: Vec<_> = (0..5)
            .map(|i: u64| {
                let (log, tx, rx) = (Arc::clone(&log), tx.clone(), rx.clone());
                go!(move || {
                    for step in 0..4 {
                        log.lock().unwrap().push((i, step));
                        match (i + step) % 4 {
                            0 => baton::yield_now(),
                            1 => tx.send(i).unwrap(),
                            2 => time::sleep(Duration::from_millis(step)),
                            _ => drop(rx.try_recv()),
                        }
                    }
                })
            })
            .collect();
        drop(tx);
        while rx.recv().is_ok() {}
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        Arc::try_unwrap(log).unwrap().into_inner().unwrap()
    })
}

#[test]
fn a_seed_is_an_interleaving() {
    let seen: HashSet<_> = (0..200)
        .map(|seed| {
            let once = interleaving(seed);
            assert_eq!(once, interleaving(seed), "seed {seed}");
            once
        })
        .collect();
    assert!(seen.len() > 150, "only {} interleavings of 200 seeds", seen.len());
}

#[test]
fn both_orders_of_two_are_found() {
    let first: HashSet<u32> = (0..50)
        .map(|seed| {
            Simulation::seed(seed).run(|| {
                let (tx, rx) = chan::unbounded();
                let other = tx.clone();
                go!(move || tx.send(1).unwrap());
                go!(move || other.send(2).unwrap());
                rx.recv().unwrap()
            })
        })
        .collect();
    assert_eq!(first, HashSet::from([1, 2]));
}

/// Two goroutines that take two "locks" in opposite orders.
fn cross_over() {
    fn take_both(first: Lock, second: Lock) -> impl FnOnce() + Send {
        move || {
            first.1.recv().unwrap();
            second.1.recv().unwrap();
            second.0.send(()).unwrap();
            first.0.send(()).unwrap();
        }
    }
    type Lock = (chan::Sender<()>, chan::Receiver<()>);
    let (a, b): (Lock, Lock) = (chan::bounded(1), chan::bounded(1));
    a.0.send(()).unwrap();
    b.0.send(()).unwrap();
    let (first, second) = (take_both(a.clone(), b.clone()), take_both(b, a));
    let one = go!(name = "one"; first);
    let two = go!(name = "two"; second);
    one.join().unwrap();
    two.join().unwrap();
}

#[test]
fn a_deadlock_is_found_and_reported_with_its_seed() {
    let ran = child::run(
        "a_deadlock_is_found_and_reported_with_its_seed",
        &[],
        &[child::NO_CORE],
        || {
            let failed = (0..100).find(|&seed| panic::catch_unwind(|| Simulation::seed(seed).run(cross_over)).is_err());
            eprintln!("found {}", failed.is_some());
        },
    );
    ran.succeeded();
    ran.said(&[
        "deadlock: all goroutines of the simulation wait",
        "goroutine 2 \"one\"",
        "goroutine 3 \"two\"",
        "the simulation failed with seed",
        "found true",
    ]);
}

#[test]
fn time_does_not_wait() {
    Simulation::seed(3).run(|| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let group = WaitGroup::new();
        for hours in [3, 1, 2_u64] {
            let (order, member) = (Arc::clone(&order), group.clone());
            go!(move || {
                time::sleep(Duration::from_secs(3600 * hours));
                order.lock().unwrap().push(hours);
                drop(member);
            });
        }
        group.wait();
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
        let elapsed = Simulation::elapsed();
        assert!((3.0..3.01).contains(&(elapsed.as_secs_f64() / 3600.0)), "{elapsed:?}");
    });
}

#[test]
fn one_thread_runs_all_of_it() {
    Simulation::seeds(0..20).run(|| {
        thread_local!(static COUNT: Cell<u32> = const { Cell::new(0) });
        let before = COUNT.with(Cell::get);
        let handles: Vec<_> = (0..10)
            .map(|_| {
                go!(|| {
                    baton::yield_now();
                    COUNT.with(|count| count.set(count.get() + 1));
                })
            })
            .collect();
        handles.into_iter().for_each(|handle| handle.join().unwrap());
        assert_eq!(COUNT.with(Cell::get), before + 10);
    });
}

#[test]
fn results_and_panics_come_out() {
    assert_eq!(Simulation::seed(1).run(|| go!(|| 6 * 7).join().unwrap()), 42);
    let text = String::from("borrowed");
    assert_eq!(Simulation::seed(1).run(|| text.len()), 8);
    let failed = panic::catch_unwind(|| Simulation::seed(9).run(|| panic!("as ordered")));
    assert_eq!(failed.unwrap_err().downcast_ref::<&str>(), Some(&"as ordered"));
    let joined = Simulation::seed(2).run(|| {
        go!(|| panic!("in a goroutine"))
            .join()
            .unwrap_err()
            .message()
            .map(String::from)
    });
    assert_eq!(joined.as_deref(), Some("in a goroutine"));
}

/// What is abandoned may still be woken from outside, also while other simulations run; it does not come back.
#[test]
fn abandoned_goroutines_stay_abandoned() {
    let (tx, rx) = chan::unbounded::<u32>();
    let (seen, was_seen) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(false)));
    Simulation::seed(1).run(|| {
        let seen = Arc::clone(&seen);
        go!(move || {
            if rx.recv().is_ok() {
                *seen.lock().unwrap() = true;
            }
        });
        while Simulation::elapsed() < Duration::from_millis(1) {
            baton::yield_now();
        }
    });
    tx.send(1).unwrap();
    Simulation::seed(2).run(|| *was_seen.lock().unwrap() = *seen.lock().unwrap());
    assert!(!*was_seen.lock().unwrap());
}

/// The real scheduler goes on beside a simulation, and each wakes its own goroutines.
#[test]
fn a_simulation_and_the_scheduler_live_side_by_side() {
    let (to_world, from_outside) = chan::unbounded();
    let (to_outside, from_world) = chan::unbounded();
    let echo = baton::run(|| {
        go!(move || {
            for n in from_world {
                to_world.send(n).unwrap();
            }
        })
    });
    let sum = Simulation::seed(4).run(AssertUnwindSafe(|| {
        let mut sum = 0;
        for n in 0..100_u64 {
            to_outside.send(n).unwrap();
            // The answer comes from outside, which a simulation does not wait for.
            sum += loop {
                match from_outside.try_recv() {
                    Ok(n) => break n,
                    Err(_) => std::thread::yield_now(),
                }
            };
        }
        drop(to_outside);
        sum
    }));
    assert_eq!(sum, 4950);
    echo.join().unwrap();
}

#[test]
fn deep_stacks_and_small_ones_work() {
    fn depth(n: u32) -> u32 {
        let frame = std::hint::black_box([n; 256]);
        if n == 0 {
            0
        } else {
            depth(n - 1) + u32::from(frame[0] == n)
        }
    }
    Simulation::seeds(0..5).run(|| {
        let deep = go!(|| depth(150));
        let small = go!(max_stack = 64 << 10; || depth(10));
        assert_eq!((deep.join().unwrap(), small.join().unwrap()), (150, 10));
    });
}

/// A destructor that waits while its goroutine unwinds keeps its thread, and there is no other: said, not hung.
#[test]
fn waiting_while_unwinding_is_refused_in_words() {
    struct Waits(chan::Receiver<()>);
    impl Drop for Waits {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }
    let ran = child::run(
        "waiting_while_unwinding_is_refused_in_words",
        &[],
        &[child::NO_CORE],
        || {
            Simulation::seed(0).run(|| {
                let (tx, rx) = chan::bounded(1);
                let unwinds = go!(move || {
                    let _waits = Waits(rx);
                    panic!("on purpose");
                });
                drop(unwinds.join());
                tx.send(()).unwrap();
            });
        },
    );
    ran.died(libc::SIGABRT, &["waits in a destructor while it unwinds"]);
}

/// Whoever empties unused caches borrows that of the simulation's thread for a moment, which must not look like a processor to it.
#[test]
fn a_seed_is_an_interleaving_while_caches_are_emptied() {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    static OVER: AtomicBool = AtomicBool::new(false);
    let emptying = std::thread::spawn(|| {
        while !OVER.load(SeqCst) {
            baton::Alloc::release_free();
        }
    });
    let order = || {
        Simulation::seed(7).run(|| {
            let (tx, rx) = chan::unbounded();
            for n in 0..5 {
                let tx = tx.clone();
                go!(move || (0..20).for_each(|_| tx.send(n).unwrap()));
            }
            drop(tx);
            rx.iter().collect::<Vec<_>>()
        })
    };
    let first = order();
    let same = (0..300).all(|_| order() == first);
    OVER.store(true, SeqCst);
    emptying.join().unwrap();
    assert!(same);
}
