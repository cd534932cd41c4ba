//! What `go!` learns about the stacks of its goroutines. A binary of its own: it looks at what all sites have learned.

use baton::{SpawnSite, chan, go};
use std::{ops::RangeInclusive, thread, time::Duration};

mod descend;
use descend::descend;

/// What the site at this line has learned.
fn learned(line: u32) -> SpawnSite {
    let sites = baton::metrics().spawn_sites;
    let ours = |site: &&SpawnSite| site.line == line && site.file.ends_with("sites.rs");
    sites
        .iter()
        .find(ours)
        .cloned()
        .expect("a site that has measured something")
}

#[test]
fn a_site_learns_and_forgets() {
    baton::run(|| {
        let (from, to) = (line!(), line!() + 2);
        let run = |depth: usize, times: usize| {
            (0..times).for_each(|_| assert!(go!(move || descend(depth)).join().unwrap() > 0));
        };
        let line = (from..=to).next_back().unwrap();
        let class = || learned(line).stack_bytes as usize;
        // Now and then one is found deeper than it was, on a stack that others have used (the other test does), or shallower,
        // where its frames have holes. That passes; so the question is whether the right class is found by and by.
        let finds = |depth: usize, classes: RangeInclusive<usize>| {
            let found = (0..40).any(|_| {
                run(depth, 500);
                classes.contains(&class())
            });
            assert!(found, "{depth} bytes deep: {:?}", learned(line));
        };
        finds(1 << 10, 0..=16 << 10);
        finds(200 << 10, 256 << 10..=512 << 10);
        assert!(learned(line).deepest_bytes >= 200 << 10, "{:?}", learned(line));
        finds(900 << 10, 1 << 20..=1 << 20);
        // Deep ones are forgotten: a class for each that is measured.
        finds(200 << 10, 256 << 10..=512 << 10);
        finds(1 << 10, 0..=16 << 10);
    });
}

/// Deep and shallow goroutines in turn: each gets what its site needs, so of 600 deep ones hardly any grows any more.
#[test]
fn each_gets_a_stack_that_is_right_at_once() {
    baton::run(|| {
        let round = || {
            let deep: Vec<_> = (0..2).map(|_| go!(|| descend(700 << 10))).collect();
            let (tx, rx) = chan::bounded::<()>(0);
            let shallow: Vec<_> = (0..2)
                .map(|_| {
                    let rx = rx.clone();
                    go!(move || rx.recv())
                })
                .collect();
            deep.into_iter().for_each(|h| assert!(h.join().unwrap() > 0));
            drop(tx);
            shallow.into_iter().for_each(|h| assert!(h.join().unwrap().is_err()));
        };
        (0..300).for_each(|_| round());
        let before = baton::metrics();
        (0..300).for_each(|_| round());
        let after = baton::metrics();
        let traps = after.stack_traps - before.stack_traps;
        assert!(traps <= 60, "{traps} traps in 300 rounds");
        assert!(
            after.stacks - before.stacks <= 100,
            "{} more stacks",
            after.stacks - before.stacks
        );
    });
}

/// `spawn` and scopes are places as `go!` is.
#[test]
fn a_call_is_a_site_as_well() {
    baton::run(|| {
        let line = line!() + 1;
        (0..200).for_each(|_| assert!(baton::spawn(|| descend(200 << 10)).join().unwrap() > 0));
        assert!(learned(line).deepest_bytes >= 200 << 10, "{:?}", learned(line));
        assert!(learned(line).stack_bytes >= 256 << 10, "{:?}", learned(line));
        // Each sleeps with goroutines behind it, so that its processor is taken, or given up beforehand once that is the rule. (Not as
        // long as the monitor does not get the CPU: on a machine with a dozen threads for each CPU that may be for all of a crowd.)
        let crowd = || {
            let start = |_| baton::spawn(|| thread::sleep(Duration::from_millis(5)));
            let line = line!() - 1;
            let all: Vec<_> = (0..40).map(start).collect();
            all.into_iter().for_each(|one| one.join().unwrap());
            learned(line).handoffs_undeclared > 0
        };
        assert!((0..20).any(|_| crowd()));
    });
}
