//! The first use of a stack, Baton's and corosensei's `DefaultStack` turn and turn about in one process, so that both meet the
//! same memory: for each depth the least and the median of both, in nanoseconds. And the first of a process, one a process.

use crate::recursion::descend;
use baton::{Alloc, chan, go};
use corosensei::{Coroutine, CoroutineResult, stack::DefaultStack};
use std::{hint::black_box, time::Instant};

pub const DEPTHS: [usize; 7] = [2 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// How often both do it.
fn rounds(depth: usize) -> usize {
    ((256 << 20) / depth).clamp(20, 200)
}

pub fn child(depth: usize) {
    let max_stack = super::peers::reservation(depth);
    let [baton, default] = baton::run(move || {
        // What only the first goroutine of a process pays; of another kind, so that it leaves no stack behind.
        go!(max_stack = max_stack + 4096; || black_box(descend(1 << 10)))
            .join()
            .unwrap();
        let (release, released) = chan::bounded::<()>(0);
        let (tx, rx) = chan::bounded(1);
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..rounds(depth) {
            let (tx, released) = (tx.clone(), released.clone());
            let start = Instant::now();
            drop(go!(max_stack = max_stack; move || {
                black_box(descend(depth));
                tx.send(start.elapsed()).unwrap();
                let _ = released.recv(); // an error, when the sender is dropped: until then it keeps its stack
            }));
            times[0].push(rx.recv().unwrap());
            Alloc::release_free(); // but not the pages
            let start = Instant::now();
            let stack = DefaultStack::new(max_stack).expect("there is address space");
            let mut coroutine = Coroutine::<(), (), _, DefaultStack>::with_stack(stack, move |_, ()| {
                black_box(descend(depth));
                start.elapsed()
            });
            let CoroutineResult::Return(took) = coroutine.resume(()) else {
                unreachable!("it does not suspend")
            };
            times[1].push(took);
        }
        drop(release);
        times
    });
    for mut times in [baton, default] {
        times.sort();
        println!("{} {}", times[0].as_nanos(), times[times.len() / 2].as_nanos());
    }
}

/// The first deep recursion of this process: from before there is a stack until it has ended, in nanoseconds.
pub fn fresh(whose: &str, depth: usize) {
    let max_stack = super::peers::reservation(depth);
    let on_default = move || {
        let start = Instant::now();
        let stack = DefaultStack::new(max_stack).expect("there is address space");
        let mut coroutine = Coroutine::<(), (), _, DefaultStack>::with_stack(stack, move |_, ()| {
            black_box(descend(depth));
        });
        assert!(coroutine.resume(()).as_return().is_some());
        drop(coroutine);
        start.elapsed()
    };
    black_box((Instant::now().elapsed(), descend(1 << 10))); // what they need of the C library is there
    let took = match whose {
        "baton" => baton::run(move || {
            let start = Instant::now();
            go!(max_stack = max_stack; move || black_box(descend(depth)))
                .join()
                .unwrap();
            start.elapsed()
        }),
        "main" => on_default(),
        _ => std::thread::spawn(on_default).join().unwrap(),
    };
    println!("{}", took.as_nanos());
}
