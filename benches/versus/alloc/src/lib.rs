//! What each allocator is asked to do. One process runs one row, once, and prints what it measured: see [`ROWS`].
//!
//! In every process a second thread is parked, since some allocators take short cuts in programs of one thread. Sizes are
//! hidden from the compiler.

use std::{
    alloc::{Layout, alloc, dealloc},
    hint::black_box,
    sync::{Barrier, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How much of everything a process does.
#[derive(Clone, Copy)]
pub struct Scale {
    /// How long a chunk of a timed loop lasts.
    pub chunk: Duration,
    /// Chunks; the fastest one counts.
    pub chunks: u32,
    /// Operations of the rows that are not chunked.
    pub operations: usize,
    /// Bytes of live objects in the rows about resident memory.
    pub bytes: usize,
}

impl Scale {
    /// A short look, and a longer one.
    #[must_use]
    pub fn new(quick: bool) -> Self {
        if quick {
            Self {
                chunk: Duration::from_millis(3),
                chunks: 8,
                operations: 400_000,
                bytes: 256 << 20,
            }
        } else {
            Self {
                chunk: Duration::from_millis(5),
                chunks: 12,
                operations: 2_000_000,
                bytes: 1 << 30,
            }
        }
    }
}

/// A row of the table, or several that one process measures.
pub struct Row {
    /// What the figures are called, their unit in brackets.
    pub names: &'static [&'static str],
    /// What is measured, in a few words.
    pub what: &'static str,
    /// Whether one round is enough, because the figure is one of memory and not of time.
    pub once: bool,
    run: fn(Scale) -> Vec<f64>,
}

/// One that times pairs of this size.
macro_rules! pair {
    ($name:literal, $size:expr) => {
        Row {
            names: &[$name],
            what: "allocate and free one object",
            once: false,
            run: |scale| pair(scale, $size),
        }
    };
}

/// One that times batches of this size and order.
macro_rules! batch {
    ($name:literal, $size:expr, $order:expr) => {
        Row {
            names: &[$name],
            what: "allocate 1,000 (256 of 64 KiB), write a word to each, free them in that order",
            once: false,
            run: |scale| batch(scale, $size, $order),
        }
    };
}

/// All rows, in the order of the table. Less is better in each.
pub const ROWS: &[Row] = &[
    pair!("pair 8 B (ns)", 8),
    pair!("pair 64 B (ns)", 64),
    pair!("pair 256 B (ns)", 256),
    pair!("pair 1 KiB (ns)", 1 << 10),
    pair!("pair 8 KiB (ns)", 8 << 10),
    pair!("pair 32 KiB (ns)", 32 << 10),
    pair!("pair 64 KiB (ns)", 64 << 10),
    pair!("pair 1 MiB (ns)", 1 << 20),
    batch!("batch lifo 8 B (ns)", 8, Order::Lifo),
    batch!("batch fifo 8 B (ns)", 8, Order::Fifo),
    batch!("batch random 8 B (ns)", 8, Order::Random),
    batch!("batch lifo 64 B (ns)", 64, Order::Lifo),
    batch!("batch fifo 64 B (ns)", 64, Order::Fifo),
    batch!("batch random 64 B (ns)", 64, Order::Random),
    batch!("batch lifo 256 B (ns)", 256, Order::Lifo),
    batch!("batch fifo 256 B (ns)", 256, Order::Fifo),
    batch!("batch random 256 B (ns)", 256, Order::Random),
    batch!("batch lifo 1 KiB (ns)", 1 << 10, Order::Lifo),
    batch!("batch fifo 1 KiB (ns)", 1 << 10, Order::Fifo),
    batch!("batch random 1 KiB (ns)", 1 << 10, Order::Random),
    batch!("batch lifo 8 KiB (ns)", 8 << 10, Order::Lifo),
    batch!("batch fifo 8 KiB (ns)", 8 << 10, Order::Fifo),
    batch!("batch random 8 KiB (ns)", 8 << 10, Order::Random),
    batch!("batch lifo 64 KiB (ns)", 64 << 10, Order::Lifo),
    batch!("batch fifo 64 KiB (ns)", 64 << 10, Order::Fifo),
    batch!("batch random 64 KiB (ns)", 64 << 10, Order::Random),
    Row {
        names: &["mixed, 1 thread (ns)"],
        what: "free one of 10,000 live objects of 8 B to 4 KiB and allocate another",
        once: false,
        run: |scale| mixed(scale, 1),
    },
    Row {
        names: &["mixed, 2 threads (ns)"],
        what: "the same on two threads, each with objects of its own",
        once: false,
        run: |scale| mixed(scale, 2),
    },
    Row {
        names: &["larson, 2 threads (ns)"],
        what: "two threads replace objects of 8 to 500 B in arrays of 4,096, and swap the arrays after each 4,096",
        once: false,
        run: larson,
    },
    Row {
        names: &["producer → consumer 64 B (ns)"],
        what: "one thread allocates 64 B, another frees it; batches of 1,000 through a channel of std",
        once: false,
        run: producer_consumer,
    },
    Row {
        names: &["Vec to 64 MiB, pushed (ms)"],
        what: "a Vec<u8> grows to 64 MiB, a byte at a time",
        once: false,
        run: |scale| grow(scale, 1),
    },
    Row {
        names: &["Vec to 64 MiB, chunks of 64 B (ms)"],
        what: "the same, 64 bytes at a time",
        once: false,
        run: |scale| grow(scale, 64),
    },
    Row {
        names: &[
            "resident / requested",
            "resident, 90 % freed (MiB)",
            "resident, all freed (MiB)",
            "resident, all freed, 2 s later (MiB)",
        ],
        what: "objects of 16 to 2,048 B, all written; a random 90 % freed; the rest freed; 2 s and 20,000 pairs later",
        once: true,
        run: resident,
    },
    Row {
        names: &["resident / live, other sizes (ratio)"],
        what: "a random 90 % of the above freed, and as many bytes of 512 B to 16 KiB in their place",
        once: true,
        run: fragmentation,
    },
];

/// Runs the row that the first argument names by its number, `quick` or not.
///
/// # Panics
///
/// Without such arguments.
pub fn main() {
    let mut args = std::env::args().skip(1);
    let number: usize = args
        .next()
        .and_then(|arg| arg.parse().ok())
        .expect("the number of a row");
    let scale = Scale::new(args.next().as_deref() == Some("quick"));
    let (_second, parked) = mpsc::channel::<()>();
    thread::spawn(move || parked.recv());
    for figure in (ROWS[number].run)(scale) {
        println!("{figure}");
    }
}

/// xorshift64*: the same numbers for every allocator.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (((self.next() >> 32) * bound as u64) >> 32) as usize
    }

    /// From `low` to `high`, each octave as likely as the other.
    fn log_uniform(&mut self, low: f64, high: f64) -> usize {
        let share = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (low * (high / low).powf(share)) as usize
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a size")
}

/// An object of `size` bytes, not written to.
fn new(size: usize) -> *mut u8 {
    // SAFETY: no row asks for 0 bytes.
    let object = unsafe { alloc(layout(size)) };
    assert!(!object.is_null(), "out of memory");
    object
}

/// # Safety
///
/// The object came from `new` with this size, and is used no more.
unsafe fn free(object: *mut u8, size: usize) {
    // SAFETY: as the caller promised.
    unsafe { dealloc(object, layout(size)) }
}

/// Nanoseconds for one turn of `body`, which takes how many turns to do: of the fastest chunk.
fn fastest(scale: Scale, mut body: impl FnMut(usize)) -> f64 {
    let mut turns = 1;
    loop {
        let start = Instant::now();
        body(turns);
        if start.elapsed() > scale.chunk / 4 {
            break;
        }
        turns *= 2;
    }
    turns *= 4;
    let chunk = |_| {
        let start = Instant::now();
        body(turns);
        start.elapsed().as_nanos() as f64 / turns as f64
    };
    (0..scale.chunks).map(chunk).fold(f64::INFINITY, f64::min)
}

fn pair(scale: Scale, size: usize) -> Vec<f64> {
    let size = black_box(size);
    let time = fastest(scale, |turns| {
        for _ in 0..turns {
            // SAFETY: allocated just before, with this size.
            unsafe { free(black_box(new(size)), size) };
        }
    });
    vec![time]
}

#[derive(Clone, Copy)]
enum Order {
    Lifo,
    Fifo,
    Random,
}

fn batch(scale: Scale, size: usize, order: Order) -> Vec<f64> {
    let count = if size >= 64 << 10 { 256 } else { 1000 };
    let mut rng = Rng(7);
    let mut sequence: Vec<usize> = (0..count).collect();
    match order {
        Order::Lifo => sequence.reverse(),
        Order::Fifo => {}
        Order::Random => (1..count).rev().for_each(|i| sequence.swap(i, rng.below(i + 1))),
    }
    let mut objects = vec![std::ptr::null_mut(); count];
    let size = black_box(size);
    let time = fastest(scale, |turns| {
        for _ in 0..turns {
            for object in &mut objects {
                *object = new(size);
                // SAFETY: at least a word long, and ours.
                unsafe { object.cast::<usize>().write(1) };
            }
            for &i in &sequence {
                // SAFETY: allocated above, each freed once.
                unsafe { free(objects[i], size) };
            }
        }
    });
    vec![time / count as f64]
}

/// Objects that are replaced one by one.
struct Live(Vec<(*mut u8, usize)>);

// SAFETY: the objects are owned, and go from one thread to another with the list.
unsafe impl Send for Live {}

impl Live {
    fn new(sizes: impl Iterator<Item = usize>) -> Self {
        Self(sizes.map(|size| (new(size), size)).collect())
    }

    fn replace(&mut self, i: usize, size: usize) {
        let (object, before) = self.0[i];
        // SAFETY: the list's own object, replaced below.
        unsafe { free(object, before) };
        let object = new(size);
        // SAFETY: at least a word long, and ours.
        unsafe { object.cast::<usize>().write(i) };
        self.0[i] = (object, size);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for &(object, size) in &self.0 {
            // SAFETY: the list's own objects.
            unsafe { free(object, size) };
        }
    }
}

/// Runs `body` on so many threads at once, and gives the nanoseconds from the first start to the last end. What a thread
/// needs is made before, by `prepare`. (The threads look at the clock themselves: who waits for them may be late.)
fn at_once<T: Send>(threads: usize, prepare: impl Fn(usize) -> T + Sync, body: impl Fn(T) + Sync) -> f64 {
    let ready = Barrier::new(threads);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|i| {
                let (ready, prepare, body) = (&ready, &prepare, &body);
                scope.spawn(move || {
                    let prepared = prepare(i);
                    ready.wait();
                    let start = Instant::now();
                    body(prepared);
                    (start, Instant::now())
                })
            })
            .collect();
        let times: Vec<_> = workers.into_iter().map(|w| w.join().expect("a worker")).collect();
        let start = times.iter().map(|&(start, _)| start).min();
        let end = times.iter().map(|&(_, end)| end).max();
        start
            .zip(end)
            .map_or(0.0, |(start, end)| (end - start).as_nanos() as f64)
    })
}

/// A power of two of random sizes, so that drawing one costs next to nothing.
fn sizes(low: f64, high: f64) -> Vec<usize> {
    let mut rng = Rng(11);
    (0..1 << 14).map(|_| rng.log_uniform(low, high)).collect()
}

fn mixed(scale: Scale, threads: usize) -> Vec<f64> {
    const LIVE: usize = 10_000;
    const CHUNKS: usize = 10;
    let sizes = sizes(8.0, 4096.0);
    let prepare = |i: usize| (Rng(i as u64 + 1), Live::new(sizes.iter().copied().cycle().take(LIVE)));
    // Of each thread the fastest chunk, while the others are at it too; of these the slowest.
    let slowest = std::sync::Mutex::new(0.0_f64);
    at_once(threads, prepare, |(mut rng, mut live)| {
        let chunk = scale.operations / CHUNKS;
        let fastest = (0..CHUNKS)
            .map(|_| {
                let start = Instant::now();
                for i in 0..chunk {
                    live.replace(rng.below(LIVE), sizes[i % sizes.len()]);
                }
                start.elapsed().as_nanos() as f64 / chunk as f64
            })
            .fold(f64::INFINITY, f64::min);
        let mut slowest = slowest.lock().expect("no panic");
        *slowest = slowest.max(fastest);
    });
    let slowest = *slowest.lock().expect("no panic");
    vec![slowest]
}

fn larson(scale: Scale) -> Vec<f64> {
    const ARRAY: usize = 4096;
    let sizes = sizes(8.0, 500.0);
    let (to_b, from_a) = mpsc::channel::<Live>();
    let (to_a, from_b) = mpsc::channel::<Live>();
    let ends = std::sync::Mutex::new(vec![(to_b, from_b), (to_a, from_a)]);
    let prepare = |i: usize| {
        let ends = ends.lock().expect("no panic").pop().expect("two ends");
        (Rng(i as u64 + 1), Live::new(sizes.iter().copied().take(ARRAY)), ends)
    };
    let rounds = (scale.operations / ARRAY).max(1);
    let time = at_once(2, prepare, |(mut rng, mut live, (to, from))| {
        for _ in 0..rounds {
            for &size in sizes.iter().take(ARRAY) {
                live.replace(rng.below(ARRAY), size);
            }
            to.send(live).expect("the other thread is there");
            live = from.recv().expect("the other thread is there");
        }
    });
    // Both threads' replacements.
    vec![time / (2 * rounds * ARRAY) as f64]
}

fn producer_consumer(scale: Scale) -> Vec<f64> {
    const BATCH: usize = 1000;
    let batches = (scale.operations / BATCH).max(1);
    // Two lists on the way there, and back when they are empty, so that the lists themselves cost nothing.
    let (full, consumer) = mpsc::sync_channel::<Vec<Box<[u64; 8]>>>(2);
    let (back, empty) = mpsc::sync_channel(3);
    (0..3).for_each(|_| back.send(Vec::with_capacity(BATCH)).expect("room"));
    let ends = std::sync::Mutex::new((Some((full, empty)), Some((consumer, back))));
    let prepare = |i: usize| {
        let mut ends = ends.lock().expect("no panic");
        if i == 0 {
            (ends.0.take(), None)
        } else {
            (None, ends.1.take())
        }
    };
    let time = at_once(2, prepare, |ends| match ends {
        (Some((full, empty)), _) => {
            for i in 0..batches {
                let mut list: Vec<_> = empty.recv().expect("the consumer is there");
                list.extend((0..BATCH).map(|_| Box::new([i as u64; 8])));
                full.send(list).expect("the consumer is there");
            }
        }
        (_, Some((consumer, back))) => {
            for mut list in consumer {
                list.clear();
                // The producer may have left.
                let _ = back.send(list);
            }
        }
        _ => unreachable!("each thread has one end"),
    });
    vec![time / (batches * BATCH) as f64]
}

fn grow(scale: Scale, chunk: usize) -> Vec<f64> {
    const LENGTH: usize = 64 << 20;
    let bytes = [1_u8; 64];
    let once = |_| {
        let start = Instant::now();
        let mut list: Vec<u8> = Vec::new();
        if chunk == 1 {
            (0..LENGTH).for_each(|i| list.push(black_box(i as u8)));
        } else {
            (0..LENGTH / chunk).for_each(|_| list.extend_from_slice(black_box(&bytes[..chunk])));
        }
        drop(black_box(list));
        start.elapsed().as_secs_f64() * 1e3
    };
    vec![(0..scale.chunks / 3).map(once).fold(f64::INFINITY, f64::min)]
}

/// Bytes of this process in physical memory.
fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4096.0
}

const MIB: f64 = (1 << 20) as f64;

/// Many objects, all written. What holds the list of them is part of `before`.
struct Heap {
    objects: Vec<(*mut u8, usize)>,
    /// Bytes asked for.
    live: usize,
    /// What was resident before the first object.
    before: f64,
}

impl Heap {
    /// Objects of 16 to 2,048 B; room for others beside.
    fn new(bytes: usize) -> Self {
        let mut rng = Rng(3);
        let mut objects = vec![(std::ptr::dangling_mut(), 1); bytes / 300];
        objects.clear();
        let mut heap = Self {
            objects,
            live: 0,
            before: resident_bytes(),
        };
        heap.fill(bytes, || rng.log_uniform(16.0, 2048.0));
        heap
    }

    fn fill(&mut self, bytes: usize, mut size: impl FnMut() -> usize) {
        while self.live < bytes {
            let size = size();
            let object = new(size);
            // SAFETY: that long, and ours.
            unsafe { object.write_bytes(1, size) };
            self.objects.push((object, size));
            self.live += size;
        }
    }

    /// Frees all but so many, chosen at random.
    fn free_all_but(&mut self, keep: usize) {
        let mut rng = Rng(5);
        while self.objects.len() > keep {
            let (object, size) = self.objects.swap_remove(rng.below(self.objects.len()));
            self.live -= size;
            // SAFETY: ours, and on the list no more.
            unsafe { free(object, size) };
        }
    }

    fn resident(&self) -> f64 {
        resident_bytes() - self.before
    }
}

fn resident(scale: Scale) -> Vec<f64> {
    let mut heap = Heap::new(scale.bytes);
    let full = heap.resident() / heap.live as f64;
    heap.free_all_but(heap.objects.len() / 10);
    let tenth = heap.resident() / MIB;
    heap.free_all_but(0);
    let none = heap.resident() / MIB;
    thread::sleep(Duration::from_secs(2));
    for i in 0..20_000 {
        let size = 16 + i % 2000;
        // SAFETY: allocated just before, with this size.
        unsafe { free(black_box(new(size)), size) };
    }
    vec![full, tenth, none, heap.resident() / MIB]
}

fn fragmentation(scale: Scale) -> Vec<f64> {
    let mut heap = Heap::new(scale.bytes);
    heap.free_all_but(heap.objects.len() / 10);
    let mut rng = Rng(9);
    heap.fill(scale.bytes, || rng.log_uniform(512.0, 16384.0));
    vec![heap.resident() / heap.live as f64]
}
