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
