//! What a deep stack costs, new and used before, beside corosensei's `DefaultStack`. These guard against regressions; runs
//! on one machine compare, machines do not. `BATON_STACK_GROWTH=demand` measures the other growth mode.
//!
//! ```text
//! cargo bench --bench stack
//! ```
//!
//! A cold goroutine gets a stack that never ran: those before it hold theirs until the depth is done, without the deep
//! pages. Its time is from `go!` to the end of the recursion, that of a coroutine from the mapping to the same point.

use baton::{
    chan::{self, Receiver},
    go,
};
use corosensei::{Coroutine, CoroutineResult, stack::DefaultStack};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use recursion::descend;
use std::{
    hint::black_box,
    ptr,
    time::{Duration, Instant},
};

#[path = "../examples/shared/recursion.rs"]
mod recursion;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

const DEPTHS: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// The reservation for a depth: another for each, so that no pool has what another depth left.
fn reservation(depth: usize) -> usize {
    (1 << 20) + depth
}

/// A goroutine on a new stack, which it holds until the other end of `released` is dropped: how long it took.
fn cold_goroutine(depth: usize, released: &Receiver<()>) -> Duration {
    let (tx, rx) = chan::bounded(1);
    let released = released.clone();
    let start = Instant::now();
    go!(max_stack = reservation(depth); move || {
        black_box(descend(depth));
        let took = start.elapsed();
        give_back(depth);
        tx.send(took).unwrap();
        let _ = released.recv(); // an error, when the sender is dropped
    });
    rx.recv().unwrap()
}

/// Gives what lies deeper than two pages on this stack back to the system, so that many can be held.
#[inline(never)]
fn give_back(depth: usize) {
    const PAGE: usize = 4096;
    let here = 0_u8;
    let page = ptr::from_ref(&here).map_addr(|address| address & !(PAGE - 1));
    let pages = (depth / PAGE).saturating_sub(2);
    let lowest = page.wrapping_sub(depth).cast_mut();
    // SAFETY: the recursion was as deep as that and has come back, so the pages are this stack's and nobody needs them.
    unsafe { libc::madvise(lowest.cast(), pages * PAGE, libc::MADV_DONTNEED) };
}

fn new_stack(depth: usize) -> DefaultStack {
    DefaultStack::new(reservation(depth)).expect("there is address space")
}

/// A coroutine on this stack.
fn coroutine(depth: usize, stack: DefaultStack) -> DefaultStack {
    let mut coroutine = Coroutine::<(), (), usize, DefaultStack>::with_stack(stack, move |_, ()| descend(depth));
    match coroutine.resume(()) {
        CoroutineResult::Return(frames) => black_box(frames),
        CoroutineResult::Yield(()) => unreachable!("it never suspends"),
    };
    coroutine.into_stack()
}

fn cold(c: &mut Criterion) {
    let mut group = c.benchmark_group("stack/cold");
    // As short as that because all goroutines' stacks are held.
    group.warm_up_time(Duration::from_millis(20));
    group.measurement_time(Duration::from_millis(100));
    for depth in DEPTHS {
        let (release, released) = chan::bounded(0);
        group.bench_function(BenchmarkId::new("baton", depth), |b| {
            b.iter_custom(|n| baton::run(|| (0..n).map(|_| cold_goroutine(depth, &released)).sum()));
        });
        drop(release);
        group.bench_function(BenchmarkId::new("DefaultStack", depth), |b| {
            b.iter_custom(|n| {
                let one = || {
                    let start = Instant::now();
                    let stack = coroutine(depth, new_stack(depth));
                    let took = start.elapsed();
                    drop(stack);
                    took
                };
                (0..n).map(|_| one()).sum()
            });
        });
    }
}

fn warm(c: &mut Criterion) {
    let mut group = c.benchmark_group("stack/warm");
    for depth in DEPTHS {
        group.bench_function(BenchmarkId::new("baton", depth), |b| {
            b.iter_custom(|n| {
                baton::run(|| {
                    let start = Instant::now();
                    for _ in 0..n {
                        let goroutine = go!(max_stack = reservation(depth); move || descend(depth));
                        black_box(goroutine.join().unwrap());
                    }
                    start.elapsed()
                })
            });
        });
        group.bench_function(BenchmarkId::new("DefaultStack", depth), |b| {
            b.iter_custom(|n| {
                let mut stack = new_stack(depth);
                let start = Instant::now();
                for _ in 0..n {
                    stack = coroutine(depth, stack);
                }
                start.elapsed()
            });
        });
    }
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! {
    name = benches;
    config = short();
    targets = warm, cold
}
criterion_main!(benches);
