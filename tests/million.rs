//! A million goroutines at once, with the kernel's limit of mappings at its default.

use baton::{chan, go, sync::WaitGroup};

/// Debug builds run a tenth, to keep within the time of a test run; the release run has them all. Where each guard is a mapping of its own, as on kernels without guard markers, there is room for some 30,000.
fn goroutines() -> usize {
    match std::env::var("BATON_GUARD") {
        Ok(guard) if guard == "mprotect" => 10_000,
        _ if cfg!(debug_assertions) => 100_000,
        _ => 1_000_000,
    }
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn a_million_park_on_a_channel_wake_and_are_joined() {
    let n = goroutines();
    let before = mappings();
    let (parked, sum) = baton::run(|| {
        let (tx, rx) = chan::bounded::<usize>(0);
        let here = WaitGroup::new();
        let handles: Vec<_> = (0..n)
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
        let sender = go!(move || (0..n).for_each(|i| tx.send(i).unwrap()));
        let sum: usize = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
        sender.join().unwrap();
        (parked, sum)
    });
    assert_eq!(sum, n * (n - 1));
    // Far from one mapping for each stack, unless it cannot be helped: at the worst, when none can be joined to its neighbour, one for
    // each slab of 64.
    assert!(
        n == 10_000 || parked - before < n / 32,
        "{before} mappings before, {parked} with all of them parked"
    );
    let metrics = baton::metrics();
    println!(
        "{n} goroutines, {parked} mappings, {} stacks, {metrics:?}",
        metrics.stacks
    );
}
