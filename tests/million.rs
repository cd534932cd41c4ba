//! A million goroutines at once, with the kernel's limit of mappings at its default.

use baton::{chan, go, sync::WaitGroup};

/// Debug builds run a tenth, to keep within the time of a test run; the release run has them all.
const GOROUTINES: usize = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn a_million_park_on_a_channel_wake_and_are_joined() {
    let before = mappings();
    let (parked, sum) = baton::run(|| {
        let (tx, rx) = chan::bounded::<usize>(0);
        let here = WaitGroup::new();
        let handles: Vec<_> = (0..GOROUTINES)
            .map(|i| {
                let (rx, here) = (rx.clone(), here.clone());
                go!(move || {
                    drop(here);
                    rx.recv().unwrap() + i
                })
            })
            .collect();
        here.wait();
        let parked = mappings();
        let sender = go!(move || (0..GOROUTINES).for_each(|i| tx.send(i).unwrap()));
        let sum: usize = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
        sender.join().unwrap();
        (parked, sum)
    });
    assert_eq!(sum, GOROUTINES * (GOROUTINES - 1));
    // Far from one mapping for each stack.
    assert!(
        parked - before < GOROUTINES / 100,
        "{before} mappings before, {parked} with all of them parked"
    );
    let metrics = baton::metrics();
    println!(
        "{GOROUTINES} goroutines, {parked} mappings, {} stacks, {metrics:?}",
        metrics.stacks
    );
}

/// Stacks are used again: those of goroutines that ended serve those that come, whatever their size.
#[test]
fn stacks_are_used_again() {
    baton::run(|| {
        let round = |bytes: Option<usize>| {
            let (tx, rx) = chan::bounded::<()>(0);
            let all: Vec<_> = (0..1_000)
                .map(|_| {
                    let rx = rx.clone();
                    match bytes {
                        Some(bytes) => go!(max_stack = bytes; move || rx.recv().unwrap_err()),
                        None => go!(move || rx.recv().unwrap_err()),
                    }
                })
                .collect();
            baton::yield_now();
            drop(tx);
            all.into_iter().for_each(|h| drop(h.join().unwrap()));
            baton::metrics().stacks
        };
        for bytes in [None, Some(128 << 10)] {
            let first = round(bytes);
            let rounds: Vec<_> = (0..8).map(|_| round(bytes)).collect();
            // A few more may be needed when more of them happen to be parked at once; a leak is hundreds a round.
            assert!(
                rounds[7] < first + 1_500,
                "{first} stacks after the first round, then {rounds:?}"
            );
        }
        // One after the other, each with a stack of its own size.
        let before = baton::metrics().stacks;
        for _ in 0..500 {
            go!(max_stack = 192 << 10; || ()).join().unwrap();
        }
        let made = baton::metrics().stacks - before;
        assert!(
            made < 100,
            "{made} stacks for 500 goroutines that ran one after the other"
        );
    });
}
