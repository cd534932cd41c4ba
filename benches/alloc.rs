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
    iter, ptr,
    sync::mpsc,
    thread,
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

/// Objects of many sizes, of which one after the other is freed and another allocated in its place.
struct Live<A: GlobalAlloc + Copy> {
    alloc: A,
    objects: Vec<(*mut u8, Layout)>,
    random: u64,
}

// SAFETY: the objects are its own, and memory belongs to no thread.
unsafe impl<A: GlobalAlloc + Copy + Send> Send for Live<A> {}

impl<A: GlobalAlloc + Copy> Live<A> {
    fn new(alloc: A, n: usize) -> Self {
        let mut live = Self {
            alloc,
            objects: Vec::with_capacity(n),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        for _ in 0..n {
            let layout = live.layout();
            live.objects.push((allocate(&alloc, layout), layout));
        }
        live
    }

    fn random(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random as usize
    }

    /// 8 B to 4 KiB, each octave as often as the others.
    fn layout(&mut self) -> Layout {
        let octave = 8 << (self.random() % 9);
        layout(octave + self.random() % octave)
    }

    fn replace(&mut self, times: usize) {
        for _ in 0..times {
            let at = self.random() % self.objects.len();
            let (old, old_layout) = self.objects[at];
            // SAFETY: allocated with this layout, and its place is taken at once.
            unsafe { free(&self.alloc, old, old_layout) };
            let layout = self.layout();
            let new = allocate(&self.alloc, layout);
            // SAFETY: the object is as large as this at least.
            unsafe { new.write(1) };
            self.objects[at] = (new, layout);
        }
    }
}

impl<A: GlobalAlloc + Copy> Drop for Live<A> {
    fn drop(&mut self) {
        for &(object, layout) in &self.objects {
            // SAFETY: allocated with this layout, and nobody has it any more.
            unsafe { free(&self.alloc, object, layout) };
        }
    }
}

/// An object that another thread frees.
struct Parcel(*mut u8);

// SAFETY: the object is its own, and memory belongs to no thread.
unsafe impl Send for Parcel {}

/// The time of `n` objects of 64 bytes that one thread allocates and another frees, in batches.
fn sent(alloc: impl GlobalAlloc + Copy + Send + Sync, n: u64) -> Duration {
    let layout = layout(64);
    let (tx, rx) = mpsc::sync_channel::<Vec<Parcel>>(8);
    let start = Instant::now();
    thread::scope(|s| {
        s.spawn(move || {
            for Parcel(object) in rx.iter().flatten() {
                // SAFETY: allocated by the other thread, and sent here once.
                unsafe { free(&alloc, object, layout) };
            }
        });
        for _ in 0..n.div_ceil(BATCH as u64) {
            let batch = iter::repeat_with(|| Parcel(allocate(&alloc, layout)));
            tx.send(batch.take(BATCH).collect()).expect("the other thread is there");
        }
        drop(tx);
    });
    start.elapsed()
}

/// The time of `n` replacements, half of them by each of two threads that exchange what they hold after each 4,096.
fn exchanged<A: GlobalAlloc + Copy + Send + Sync>(alloc: A, n: u64) -> Duration {
    const TURN: usize = 4096;
    let rounds = n.div_ceil(2 * TURN as u64);
    let (there, here) = (mpsc::channel::<Live<A>>(), mpsc::channel::<Live<A>>());
    let work = |to: mpsc::Sender<Live<A>>, from: mpsc::Receiver<Live<A>>| {
        let mut live = Live::new(alloc, TURN);
        for _ in 0..rounds {
            live.replace(TURN);
            to.send(live).expect("the other thread is there");
            live = from.recv().expect("the other thread is there");
        }
    };
    let start = Instant::now();
    thread::scope(|s| {
        s.spawn(|| work(there.0, here.1));
        work(here.0, there.1);
    });
    start.elapsed()
}

/// The time of `n` objects that grow from 64 bytes to 64 MiB, doubling, and are written.
fn grown(alloc: &impl GlobalAlloc, n: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        let mut size = 64;
        let mut object = allocate(alloc, layout(size));
        while size < 64 << 20 {
            // SAFETY: allocated with this layout; the size is not zero.
            object = unsafe { alloc.realloc(object, layout(size), 2 * size) };
            assert!(!object.is_null(), "there is memory");
            // SAFETY: so large is it now.
            unsafe { object.add(size).write_bytes(1, size) };
            size *= 2;
        }
        // SAFETY: allocated with this layout.
        unsafe { free(alloc, object, layout(size)) };
    }
    start.elapsed()
}

/// One row with both allocators, the one as [`baton::Alloc`] and the other as [`System`].
macro_rules! both {
    ($c:expr, $name:literal, $row:expr) => {
        let mut group = $c.benchmark_group(concat!("alloc/", $name));
        group.bench_function("baton", |b| b.iter_custom(|n| $row(baton::Alloc, n)));
        group.bench_function("system", |b| b.iter_custom(|n| $row(System, n)));
        group.finish();
    };
}

fn traffic(c: &mut Criterion) {
    fn mixed<A: GlobalAlloc + Copy>(alloc: A, n: u64) -> Duration {
        let mut live = Live::new(alloc, 10_000);
        let start = Instant::now();
        live.replace(n as usize);
        start.elapsed()
    }
    both!(c, "mixed", mixed);
    both!(c, "exchanged", exchanged);
    both!(c, "sent", sent);
    both!(c, "grown", |alloc, n| grown(&alloc, n));
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
    targets = pair, batch, traffic
}
criterion_main!(benches);
