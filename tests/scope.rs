//! Scopes: borrowing, waiting, panics, nesting, from goroutines, threads and simulations.

use baton::{chan, testing::Simulation};
use std::{
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

fn message(payload: Box<dyn std::any::Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| String::from(*s));
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap()
}

/// What a scope does wherever it is called.
fn borrows_and_waits() {
    let mut numbers = vec![1, 2, 3, 4];
    let done = AtomicUsize::new(0);
    let sum = baton::scope(|s| {
        for n in &mut numbers {
            let done = &done;
            s.spawn(move || {
                baton::yield_now();
                *n *= 10;
                done.fetch_add(1, SeqCst);
            });
        }
        s.spawn(|| 1).join().unwrap() + s.spawn(|| 2).join().unwrap()
    });
    assert_eq!((sum, numbers, done.into_inner()), (3, vec![10, 20, 30, 40], 4));
}

#[test]
fn a_scope_borrows_and_waits_in_a_thread() {
    borrows_and_waits();
}

#[test]
fn a_scope_borrows_and_waits_in_a_goroutine() {
    baton::run(borrows_and_waits);
    baton::go!(borrows_and_waits).join().unwrap();
    baton::spawn(borrows_and_waits).join().unwrap();
}

#[test]
fn a_scope_borrows_and_waits_under_every_interleaving() {
    Simulation::seeds(0..200).run(borrows_and_waits);
}

#[test]
fn scopes_nest_and_goroutines_start_more() {
    let count = AtomicUsize::new(0);
    let grow = || {
        baton::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    s.spawn(|| count.fetch_add(1, SeqCst));
                    baton::scope(|inner| {
                        inner.spawn(|| count.fetch_add(1, SeqCst));
                    });
                    count.fetch_add(1, SeqCst);
                });
            }
        });
    };
    grow();
    baton::run(grow);
    Simulation::seeds(0..50).run(grow);
    assert_eq!(count.load(SeqCst), 9 * 52);
}

#[test]
fn panics_wait_for_the_others_first() {
    let (tx, rx) = chan::bounded(0);
    let late = AtomicUsize::new(0);
    let caught = panic::catch_unwind(AssertUnwindSafe(|| {
        baton::scope(|s| {
            s.spawn(|| {
                rx.recv().unwrap();
                late.fetch_add(1, SeqCst);
            });
            s.spawn(move || tx.send(()).unwrap());
            panic!("in the closure");
        })
    }));
    assert_eq!(message(caught.unwrap_err()), "in the closure");
    assert_eq!(late.load(SeqCst), 1);
}

#[test]
fn a_panic_that_nobody_joined_is_the_scope_s() {
    let caught = panic::catch_unwind(|| baton::scope(|s| drop(s.spawn(|| panic!("unheard")))));
    assert!(message(caught.unwrap_err()).contains("nobody joined"));
    // A result that panics when it is dropped is no better.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let caught = panic::catch_unwind(|| baton::scope(|s| drop(s.spawn(|| Bomb))));
    assert!(message(caught.unwrap_err()).contains("nobody joined"));
}

#[test]
fn a_panic_that_was_joined_is_the_joiner_s() {
    let heard = baton::scope(|s| {
        s.spawn(|| panic!("heard"))
            .join()
            .unwrap_err()
            .message()
            .map(String::from)
    });
    assert_eq!(heard.as_deref(), Some("heard"));
}

/// Results that borrow are dropped before the scope returns, also if their handles were dropped or never joined.
#[test]
fn results_are_gone_when_the_scope_is() {
    struct Counts<'a>(&'a AtomicUsize);
    impl Drop for Counts<'_> {
        fn drop(&mut self) {
            baton::yield_now();
            self.0.fetch_add(1, SeqCst);
        }
    }
    let results = || {
        let drops = AtomicUsize::new(0);
        baton::scope(|s| {
            for _ in 0..10 {
                drop(s.spawn(|| Counts(&drops)));
            }
            let kept: Vec<_> = (0..10).map(|_| s.spawn(|| Counts(&drops))).collect();
            s.spawn(move || drop(kept));
        });
        assert_eq!(drops.load(SeqCst), 20);
    };
    results();
    baton::run(results);
    Simulation::seeds(0..100).run(results);
}

#[test]
fn migrating_ones_borrow_too() {
    let text = String::from("here");
    // SAFETY: the closure touches no thread-local and holds no guard.
    let len = baton::scope(|s| unsafe { s.spawn_migrating(|| text.len()) }.join().unwrap());
    assert_eq!(len, 4);
}

/// Bounded stress: many scopes at a time, each waking its waiter from other threads.
#[test]
fn many_scopes_at_once() {
    let total = AtomicUsize::new(0);
    baton::scope(|outer| {
        for _ in 0..50 {
            outer.spawn(|| {
                for _ in 0..20 {
                    baton::scope(|s| {
                        for _ in 0..5 {
                            s.spawn(|| total.fetch_add(1, SeqCst));
                        }
                    });
                }
            });
        }
    });
    assert_eq!(total.load(SeqCst), 50 * 20 * 5);
}
