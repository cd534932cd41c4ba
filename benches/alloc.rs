//! What allocation costs, in a goroutine and in a plain thread, beside the system's allocator. These guard against
//! regressions; runs on one machine compare, machines do not.
//!
//! ```text
//! cargo bench --bench alloc
//! ```

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    ptr,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Sizes of objects, the last beyond the size classes.
const SIZES: [usize; 7] = [8, 64, 256, 1 << 10, 8 << 10, 32 << 10, 64 << 10];
/// Objects of a batch.
const BATCH: usize = 1_000;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a size and a power of two")
}

fn allocate(alloc: &impl GlobalAlloc, layout: Layout) -> *mut u8 {
    // SAFETY: no size is zero.
    let object = black_box(unsafe { alloc.alloc(layout) });
    assert!(!object.is_null(), "there is memory");
    object
}

/// # Safety
///
/// `object` is from the same allocator with the same layout, and not freed yet.
unsafe fn free(alloc: &impl GlobalAlloc, object: *mut u8, layout: Layout) {
    // SAFETY: as the caller promised.
    unsafe { alloc.dealloc(object, layout) }
}

/// The time of `n` objects that are freed at once.
fn pairs(alloc: &impl GlobalAlloc, layout: Layout, n: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        let object = allocate(alloc, layout);
        // SAFETY: allocated just now.
        unsafe { free(alloc, object, layout) };
    }
    start.elapsed()
}

/// The time of `n` batches that are allocated, touched and freed in the same order.
fn batches(alloc: &impl GlobalAlloc, layout: Layout, n: u64) -> Duration {
    let mut objects = vec![ptr::null_mut(); BATCH];
    let start = Instant::now();
    for _ in 0..n {
        for object in &mut objects {
            *object = allocate(alloc, layout);
            // SAFETY: the object is as large as this at least.
            unsafe { object.write(1) };
        }
        for &object in &objects {
            // SAFETY: allocated above, and freed once.
            unsafe { free(alloc, object, layout) };
        }
    }
    start.elapsed()
}

fn pair(c: &mut Criterion) {
    let mut group = c.benchmark_group("alloc/pair");
    for size in SIZES {
        let layout = layout(size);
        group.bench_function(BenchmarkId::new("baton", size), |b| {
            b.iter_custom(|n| baton::run(|| pairs(&baton::Alloc, layout, n)));
        });
        group.bench_function(BenchmarkId::new("baton in a thread", size), |b| {
            b.iter_custom(|n| pairs(&baton::Alloc, layout, n));
        });
        group.bench_function(BenchmarkId::new("system", size), |b| {
            b.iter_custom(|n| baton::run(|| pairs(&System, layout, n)));
        });
    }
}

fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("alloc/batch");
    group.throughput(Throughput::Elements(BATCH as u64));
    for size in [8, 64, 1 << 10] {
        let layout = layout(size);
        group.bench_function(BenchmarkId::new("baton", size), |b| {
            b.iter_custom(|n| baton::run(|| batches(&baton::Alloc, layout, n)));
        });
        group.bench_function(BenchmarkId::new("system", size), |b| {
            b.iter_custom(|n| baton::run(|| batches(&System, layout, n)));
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
    targets = pair, batch
}
criterion_main!(benches);
