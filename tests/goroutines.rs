//! Spawning, joining, panicking, naming: what a goroutine is to its user.

use baton::{Builder, JoinError, SpawnError, chan, go};
use std::{
    cell::Cell,
    future::Future,
    hint,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{self, Waker},
    thread,
};

mod path {
    pub(crate) fn add(a: u32, b: u32) -> u32 {
        a + b
    }

    pub(crate) fn size<T>(_: T) -> usize {
        size_of::<T>()
    }
}

struct Adder(u32);

impl Adder {
    fn add(&self, n: u32) -> u32 {
        self.0 + n
    }
}

#[test]
fn go_takes_closures_blocks_and_calls() {
    baton::run(|| {
        let n = 20;
        assert_eq!(go!(move || n + 1).join().unwrap(), 21);
        assert_eq!(go!(|| 1).join().unwrap(), 1);
        let held = move || n + 2;
        assert_eq!(go!(held).join().unwrap(), 22);
        let in_block = go! {
            let x = n + 1;
            x * 2
        };
        assert_eq!(in_block.join().unwrap(), 42);
        assert_eq!(go!(path::add(1, 2)).join().unwrap(), 3);
        assert_eq!(go!(path::size::<u64>(7)).join().unwrap(), 8);
        let adder = Adder(5);
        assert_eq!(go!(adder.add(6)).join().unwrap(), 11);
    });
}

#[test]
fn arguments_of_a_call_are_evaluated_by_the_spawner() {
    baton::run(|| {
        let spawner = baton::current().unwrap().id();
        let me = || u32::try_from(baton::current().unwrap().id()).unwrap();
        let spawner = u32::try_from(spawner).unwrap();
        assert_eq!(go!(path::add(me(), 0)).join().unwrap(), spawner);
    });
}

#[test]
fn options_name_a_goroutine_and_bound_its_stack() {
    baton::run(|| {
        let name = go!(name = "short"; || baton::current().unwrap().name().map(String::from));
        assert_eq!(name.join().unwrap().as_deref(), Some("short"));
        let both = go!(name = "both", max_stack = 64 << 10; path::add(2, 2));
        assert_eq!(both.join().unwrap(), 4);
        for bytes in [0, (64 << 10) - 1, (1 << 30) + 1] {
            // SAFETY: the closure touches no thread-local and holds no guard.
            let refused = unsafe { Builder::new().max_stack(bytes).spawn_migrating(|| ()) };
            let error = refused.unwrap_err();
            assert_eq!(error, SpawnError::StackSize(bytes));
            assert!(error.to_string().contains("65536"), "{error}");
        }
    });
}

#[test]
fn ids_are_never_used_twice() {
    let mut ids: Vec<u64> = baton::run(|| {
        let many: Vec<_> = (0..5_000).map(|_| go!(|| baton::current().unwrap().id())).collect();
        many.into_iter()
            .map(|handle| {
                let id = handle.id();
                assert_eq!(handle.join().unwrap(), id);
                id
            })
            .collect()
    });
    // From a plain thread too.
    ids.extend((0..100).map(|_| go!(|| ()).id()));
    ids.sort_unstable();
    let n = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), n);
    assert!(ids[0] > 0);
}

#[test]
fn a_result_is_dropped_once_whoever_is_last() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    baton::run(|| {
        for round in 0..300 {
            let counted = Counted(Arc::clone(&drops));
            let handle = go!(move || counted);
            match round % 3 {
                0 => drop(handle), // before it ran
                1 => drop(handle.join().unwrap()),
                _ => {
                    while !handle.is_finished() {
                        baton::yield_now();
                    }
                    drop(handle); // after it ended
                }
            }
        }
        while drops.load(SeqCst) < 300 {
            baton::yield_now();
        }
    });
    assert_eq!(drops.load(SeqCst), 300);
}

/// Also if the handle is dropped just between the goroutine's last look and its end.
#[test]
fn a_result_that_nobody_wants_is_dropped_in_its_goroutine() {
    const ROUNDS: usize = 30_000;
    const ELSEWHERE: usize = 1 << 32;
    struct Observed(Arc<AtomicUsize>, thread::ThreadId);
    impl Drop for Observed {
        fn drop(&mut self) {
            let expected = baton::current().is_some() || thread::current().id() == self.1;
            self.0.fetch_add(if expected { 1 } else { ELSEWHERE }, SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    // From a plain thread, so that the two run beside each other.
    for round in 0..ROUNDS {
        let ends = Arc::new(AtomicUsize::new(0));
        let its_end = Arc::clone(&ends);
        let observed = Observed(Arc::clone(&drops), thread::current().id());
        let mut handle = go!(move || {
            its_end.store(1, SeqCst);
            observed
        });
        if round % 2 == 1 {
            // Somebody was interested once.
            let polled = Pin::new(&mut handle).poll(&mut task::Context::from_waker(Waker::noop()));
            drop(polled);
        }
        while ends.load(SeqCst) == 0 {
            hint::spin_loop();
        }
        (0..round % 100).for_each(|i| _ = hint::black_box(i));
        drop(handle);
    }
    while drops.load(SeqCst) % ELSEWHERE + drops.load(SeqCst) / ELSEWHERE < ROUNDS {
        thread::yield_now();
    }
    assert_eq!(drops.load(SeqCst), ROUNDS);
}

#[test]
fn joins_work_from_threads_and_goroutines_before_and_after_the_end() {
    let (tx, rx) = chan::bounded(0);
    let waits = go!(move || rx.recv().unwrap());
    let joiner = thread::spawn(move || waits.join().unwrap());
    tx.send(7).unwrap();
    assert_eq!(joiner.join().unwrap(), 7);

    let done = go!(|| "done");
    while !done.is_finished() {
        thread::yield_now();
    }
    assert_eq!(done.join().unwrap(), "done");

    let nested = go!(|| go!(|| go!(|| 3).join().unwrap() + 1).join().unwrap() + 1);
    assert_eq!(nested.join().unwrap(), 5);
}

fn message(error: &JoinError) -> &str {
    error.message().expect("a text")
}

#[test]
fn panics_reach_join_and_take_nothing_else_down() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(|| {
        baton::run(|| {
            let error = go!(|| panic!("plain")).join().unwrap_err();
            assert_eq!(message(&error), "plain");
            let n = 3;
            let error = go!(move || panic!("formatted {n}")).join().unwrap_err();
            assert_eq!(message(&error), "formatted 3");
            assert_eq!(error.to_string(), "the goroutine panicked: formatted 3");

            // Not a text.
            let error = go!(|| panic::panic_any(Cell::new(42))).join().unwrap_err();
            assert!(error.message().is_none());
            assert_eq!(error.into_panic().downcast::<Cell<i32>>().unwrap().get(), 42);

            // From deep down: the stack has grown by then, and unwinds all the way.
            fn down(depth: usize) -> usize {
                let frame = std::hint::black_box([depth; 32]);
                assert_ne!(depth, 0, "at the bottom");
                down(depth - 1) + frame[3]
            }
            let error = go!(|| down(1_000)).join().unwrap_err();
            assert!(message(&error).contains("at the bottom"));

            // The goroutine after it, on the same stack, knows nothing of it.
            assert!(!go!(thread::panicking()).join().unwrap());
        });
    });
    panic::set_hook(hook);
    outcome.unwrap();
}

/// What happens while a goroutine unwinds: destructors that panic (and catch it), grow the stack, spawn, and wait.
#[test]
fn destructors_work_during_unwinding() {
    struct Busy(chan::Receiver<u32>, Arc<AtomicUsize>);
    impl Drop for Busy {
        fn drop(&mut self) {
            assert!(thread::panicking());
            let inner = panic::catch_unwind(AssertUnwindSafe(|| panic!("inner")));
            assert!(inner.is_err());
            // Grows the stack past its first extent.
            fn down(depth: usize) -> usize {
                let frame = std::hint::black_box([depth; 64]);
                if depth == 0 {
                    frame[0]
                } else {
                    down(depth - 1) + frame[9] - frame[8]
                }
            }
            assert_eq!(down(3_000), 0);
            // Waits: for a channel, a goroutine that panics, a clock.
            assert_eq!(self.0.recv(), Ok(5));
            assert_eq!(message(&go!(|| panic!("another")).join().unwrap_err()), "another");
            baton::time::sleep(std::time::Duration::from_millis(1));
            baton::yield_now();
            self.1.fetch_add(1, SeqCst);
        }
    }
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(|| {
        baton::run(|| {
            let dropped = Arc::new(AtomicUsize::new(0));
            let all: Vec<_> = (0..20)
                .map(|_| {
                    let (tx, rx) = chan::bounded(0);
                    let busy = Busy(rx, Arc::clone(&dropped));
                    let panics = go!(max_stack = 8 << 20; move || {
                        let _busy = busy;
                        panic!("outer")
                    });
                    (panics, go!(move || tx.send(5).unwrap()))
                })
                .collect();
            for (panics, sender) in all {
                let error = panics.join().unwrap_err();
                assert_eq!(message(&error), "outer");
                sender.join().unwrap();
            }
            assert_eq!(dropped.load(SeqCst), 20);
            // The panic count of every thread is back to where it was.
            for _ in 0..100 {
                assert!(!go!(thread::panicking()).join().unwrap());
            }
        });
    });
    panic::set_hook(hook);
    outcome.unwrap();
}

#[test]
fn run_nests_borrows_and_passes_panics_on() {
    let mut numbers = vec![1, 2, 3];
    let sum: i32 = baton::run(|| {
        numbers.push(4);
        baton::run(|| numbers.iter().sum())
    });
    assert_eq!(sum, 10);
    let payload = panic::catch_unwind(|| baton::run(|| panic::panic_any(9_u8))).unwrap_err();
    assert_eq!(payload.downcast_ref::<u8>(), Some(&9));
}

#[test]
fn errno_is_kept_over_a_park() {
    baton::run(|| {
        let all: Vec<_> = (1..50)
            .map(|n| {
                go!(move || {
                    for _ in 0..20 {
                        // SAFETY: errno is this thread's own word.
                        unsafe { *libc::__errno_location() = n };
                        baton::yield_now();
                        // SAFETY: as above, and asked for anew.
                        assert_eq!(unsafe { *libc::__errno_location() }, n);
                    }
                })
            })
            .collect();
        all.into_iter().for_each(|h| h.join().unwrap());
    });
}

#[test]
fn two_that_wake_each_other_starve_nobody() {
    static TURNS: AtomicUsize = AtomicUsize::new(0);
    static STOP: AtomicUsize = AtomicUsize::new(0);
    baton::run(|| {
        let pairs: Vec<_> = (0..2 * baton::procs())
            .map(|_| {
                let (ping, pinged) = chan::bounded::<()>(0);
                let (pong, ponged) = chan::bounded::<()>(0);
                let a = go!(move || while ping.send(()).is_ok() && ponged.recv().is_ok() {});
                let b = go!(move || {
                    while STOP.load(Relaxed) == 0 && pinged.recv().is_ok() && pong.send(()).is_ok() {
                        TURNS.fetch_add(1, Relaxed);
                    }
                });
                (a, b)
            })
            .collect();
        // The third one asks for no more than its turn in the queue, a thousand times.
        for _ in 0..1_000 {
            baton::yield_now();
        }
        STOP.store(1, Relaxed);
        for (a, b) in pairs {
            a.join().unwrap();
            b.join().unwrap();
        }
    });
    assert!(TURNS.load(Relaxed) > 0);
}

#[baton::test]
fn the_test_attribute_runs_in_a_goroutine() {
    assert_eq!(baton::current().unwrap().name(), Some("main"));
}

#[test]
fn current_and_processor_are_none_outside() {
    assert!(baton::current().is_none());
    assert!(baton::debug::processor().is_none());
    assert!(baton::debug::thread().is_none());
    baton::yield_now();
    assert_eq!(baton::blocking(|| 1), 1);
}
