//! Hooks that are told of each turn of a goroutine: what belongs to a thread follows the goroutine.

mod child;

use baton::{Runtime, chan, debug::Turn, go, goroutine_local, testing::Simulation, time};
use std::{
    cell::Cell,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

// As a library keeps it that knows threads only.
thread_local! {
    static SPAN: Cell<u64> = const { Cell::new(0) };
    static DEPTH: Cell<i64> = const { Cell::new(0) };
}

goroutine_local!(static KEPT: Cell<u64> = Cell::new(0));

static RESUMED: AtomicU64 = AtomicU64::new(0);
static PARKED: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);
static RUNNING: AtomicI64 = AtomicI64::new(0);

// In functions of their own: a goroutine must not keep the address of a thread-local over a parking call.
#[inline(never)]
fn span() -> u64 {
    SPAN.get()
}

#[inline(never)]
fn enter(span: u64) {
    SPAN.set(span);
}

fn resume(turn: &Turn<'_>) {
    assert!(turn.goroutine() != 0 && !turn.has_ended() && baton::current().is_none());
    assert_eq!(DEPTH.replace(1), 0, "one goroutine at a time on a thread");
    assert_eq!(span(), 0, "nothing stays on a thread");
    enter(turn.local(&KEPT, Cell::get).unwrap());
    RESUMED.fetch_add(1, Relaxed);
}

fn park(turn: &Turn<'_>) {
    assert_eq!(DEPTH.replace(0), 1);
    let span = SPAN.take();
    assert_eq!(turn.local(&KEPT, |kept| kept.set(span)).is_none(), turn.has_ended());
    PARKED.fetch_add(1, Relaxed);
    ENDED.fetch_add(turn.has_ended().into(), Relaxed);
    baton::yield_now(); // which is the thread's, here
}

fn with_hooks(force_migration: bool) {
    let builder = Runtime::builder().on_resume(resume).on_park(park);
    let builder = builder.procs(4).force_migration(force_migration);
    builder.init().unwrap();
}

/// Enters a span and waits in many ways; it is there afterwards.
fn work(id: u64) {
    assert_eq!(span(), 0, "of whoever ran here before");
    enter(id);
    let (tx, rx) = chan::bounded(0);
    let peer = go!(move || {
        assert_eq!(span(), 0);
        enter(id << 32);
        (0..20).for_each(|i| tx.send(i).unwrap());
        assert_eq!(span(), id << 32);
    });
    for i in 0..20 {
        assert_eq!(rx.recv(), Ok(i));
        assert_eq!(span(), id);
        baton::yield_now();
        assert_eq!(span(), id);
    }
    time::sleep(Duration::from_micros(id));
    assert_eq!(span(), id);
    std::thread::sleep(Duration::from_micros(id)); // its processor may be taken
    assert_eq!(span(), id);
    peer.join().unwrap();
    assert_eq!(span(), id);
}

#[test]
fn a_span_follows_its_goroutine() {
    for force in ["0", "1"] {
        let ran = child::run(
            "a_span_follows_its_goroutine",
            &[("BATON_TEST_FORCE", force)],
            &[],
            || {
                with_hooks(std::env::var("BATON_TEST_FORCE").unwrap() == "1");
                let ids: Vec<_> = baton::run(|| {
                    let workers: Vec<_> = (1..=200).map(|id| go!(move || work(id))).collect();
                    workers.into_iter().map(|worker| worker.join().is_ok()).collect()
                });
                assert!(ids.iter().all(|&fine| fine));
                Runtime::shutdown(Duration::from_secs(60)).unwrap();
                while RESUMED.load(Relaxed) != PARKED.load(Relaxed) {
                    std::thread::yield_now(); // the last one has ended, as far as anybody can tell, and stops
                }
                assert_eq!(ENDED.load(Relaxed), 1 + 2 * 200);
                assert!(RESUMED.load(Relaxed) > 40 * 200);
                assert_eq!(span(), 0, "the main thread has none");
            },
        );
        ran.succeeded();
    }
}

/// Also one whose variables have destructors that wait.
#[test]
fn destructors_run_in_the_span() {
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            baton::yield_now();
            assert_eq!(span(), 9);
            RUNNING.fetch_add(1, Relaxed);
        }
    }
    goroutine_local!(static LATE: Waits = Waits);
    let ran = child::run("destructors_run_in_the_span", &[], &[], || {
        with_hooks(false);
        baton::run(|| {
            let handle = go!(|| {
                enter(9);
                LATE.with(|_| ());
            });
            handle.join().unwrap();
        });
        assert_eq!(RUNNING.load(Relaxed), 1);
    });
    ran.succeeded();
}

#[test]
fn simulations_are_told_of() {
    let ran = child::run("simulations_are_told_of", &[], &[], || {
        with_hooks(false);
        Simulation::seed(7).run(|| {
            let workers: Vec<_> = (1..=3).map(|id| go!(move || work(id))).collect();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
        });
        assert_eq!(RESUMED.load(Relaxed), PARKED.load(Relaxed));
        assert_eq!(ENDED.load(Relaxed), 1 + 2 * 3);
    });
    ran.succeeded();
}

#[test]
fn a_hook_that_panics_ends_the_process_in_words() {
    let name = "a_hook_that_panics_ends_the_process_in_words";
    let ran = child::run(name, &[], &[child::NO_CORE], || {
        Runtime::builder().on_park(|_| panic!("no")).init().unwrap();
        baton::run(|| time::sleep(Duration::from_millis(1)));
    });
    ran.died(libc::SIGABRT, &["the hook on_resume or on_park has panicked"]);
}
