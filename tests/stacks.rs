//! Stacks are used again. A binary of its own, since it counts the stacks of the whole process.

use baton::{chan, go};

/// Those of goroutines that ended serve those that come, whatever their size.
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
            for handle in all {
                handle.join().unwrap();
            }
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
