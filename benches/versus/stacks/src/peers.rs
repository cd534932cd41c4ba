//! One depth on one peer, in a process of its own: prints cold, warm and churn, in nanoseconds.

use crate::recursion::descend;
use baton::{chan, go};
use corosensei::{Coroutine, CoroutineResult, stack::DefaultStack};
use std::{hint::black_box, sync::mpsc, time::Instant};

/// Address space for a depth: some to spare, and at least what a goroutine has anyway.
pub fn reservation(depth: usize) -> usize {
    (depth + depth / 16 + (64 << 10)).max(1 << 20)
}

/// How many stacks that never ran: all are alive at the same time, so not many of the deep ones.
fn colds(depth: usize) -> usize {
    ((64 << 20) / depth).clamp(1, 9)
}

/// How often to go there again.
fn again(depth: usize) -> usize {
    ((256 << 20) / depth).clamp(5, 201)
}

fn least(samples: Vec<f64>) -> f64 {
    samples.into_iter().fold(f64::INFINITY, f64::min)
}

fn nanos(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

/// The recursion alone, where the stack is memory already.
fn bare(depth: usize) -> f64 {
    black_box(descend(depth));
    let once = |_| {
        let start = Instant::now();
        black_box(descend(depth));
        nanos(start)
    };
    least((0..again(depth)).map(once).collect())
}

/// What `start` takes each time, to the end of all that it does.
fn churn(depth: usize, mut run: impl FnMut()) -> f64 {
    run();
    let once = |_| {
        let start = Instant::now();
        run();
        nanos(start)
    };
    least((0..again(depth)).map(once).collect())
}

pub fn child(peer: &str, depth: usize) {
    let [cold, warm, churn] = match peer {
        "baton" => baton::run(|| baton(depth)),
        "DefaultStack" => default_stack(depth),
        "stacker" => stacker(depth),
        "may" => may(depth),
        other => panic!("nobody is called {other}"),
    };
    println!("{cold} {warm} {churn}");
}

fn baton(depth: usize) -> [f64; 3] {
    let max_stack = reservation(depth);
    // What only the first goroutine of a process pays; of another kind, so that it leaves no stack behind.
    go!(max_stack = max_stack + 4096; || black_box(descend(1 << 10)))
        .join()
        .unwrap();
    let (release, released) = chan::bounded::<()>(0);
    let (tx, rx) = chan::bounded(1);
    let mut all = Vec::new();
    let cold = (0..colds(depth)).map(|_| {
        let (tx, released) = (tx.clone(), released.clone());
        let start = Instant::now();
        all.push(go!(max_stack = max_stack; move || {
            black_box(descend(depth));
            tx.send(nanos(start)).unwrap();
            let _ = released.recv(); // an error, when the sender is dropped
        }));
        rx.recv().unwrap()
    });
    let cold = least(cold.collect());
    drop(release);
    all.into_iter().for_each(|goroutine| goroutine.join().unwrap());
    let warm = go!(max_stack = max_stack; move || bare(depth)).join().unwrap();
    let churn = churn(depth, || {
        black_box(go!(max_stack = max_stack; move || descend(depth)).join().unwrap());
    });
    [cold, warm, churn]
}

fn default_stack(depth: usize) -> [f64; 3] {
    type Run = Coroutine<(), f64, f64, DefaultStack>;
    let new = || DefaultStack::new(reservation(depth)).expect("there is address space");
    let start = || {
        let start = Instant::now();
        let mut coroutine = Run::with_stack(new(), move |yielder, ()| {
            black_box(descend(depth));
            yielder.suspend(nanos(start));
            bare(depth)
        });
        let CoroutineResult::Yield(took) = coroutine.resume(()) else {
            unreachable!("it suspends first")
        };
        (took, coroutine)
    };
    let (cold, mut all): (Vec<_>, Vec<_>) = (0..colds(depth)).map(|_| start()).unzip();
    let mut last = all.pop().expect("there is one at least");
    let CoroutineResult::Return(warm) = last.resume(()) else {
        unreachable!("it suspends once")
    };
    for coroutine in &mut all {
        coroutine.resume(()); // to its end
    }
    let churn = churn(depth, || {
        let mut coroutine: Coroutine<(), (), usize, _> = Coroutine::with_stack(new(), move |_, ()| descend(depth));
        let CoroutineResult::Return(frames) = coroutine.resume(()) else {
            unreachable!("it does not suspend")
        };
        black_box(frames);
    });
    [least(cold), warm, churn]
}

fn stacker(depth: usize) -> [f64; 3] {
    let cold = |_| {
        let start = Instant::now();
        stacker::grow(reservation(depth), || {
            black_box(descend(depth));
            nanos(start)
        })
    };
    let cold = least((0..colds(depth)).map(cold).collect());
    let warm = stacker::grow(reservation(depth), || bare(depth));
    let churn = churn(depth, || {
        black_box(stacker::grow(reservation(depth), || descend(depth)));
    });
    [cold, warm, churn]
}

fn may(depth: usize) -> [f64; 3] {
    may::config().set_workers(1);
    fn spawn<T: Send + 'static>(depth: usize, f: impl FnOnce() -> T + Send + 'static) -> may::coroutine::JoinHandle<T> {
        let words = reservation(depth) / size_of::<usize>();
        // SAFETY: the closures of this file touch no thread-local and stay within their stack.
        unsafe { may::coroutine::Builder::new().stack_size(words).spawn(f) }.unwrap()
    }
    spawn(depth, || ()).join().unwrap();
    let (release, released) = may::sync::mpmc::channel::<()>();
    let (tx, rx) = mpsc::channel();
    let mut all = Vec::new();
    // (The first one has the stack of the one above.)
    let cold = (0..=colds(depth)).map(|_| {
        let (tx, released) = (tx.clone(), released.clone());
        let start = Instant::now();
        all.push(spawn(depth, move || {
            black_box(descend(depth));
            tx.send(nanos(start)).unwrap();
            let _ = released.recv(); // an error, when the sender is dropped
        }));
        rx.recv().unwrap()
    });
    let cold = least(cold.skip(1).collect());
    drop(release);
    all.into_iter().for_each(|coroutine| coroutine.join().unwrap());
    let warm = spawn(depth, move || bare(depth)).join().unwrap();
    let churn = churn(depth, || {
        black_box(spawn(depth, move || descend(depth)).join().unwrap());
    });
    [cold, warm, churn]
}
