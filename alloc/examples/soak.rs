//! Mixed load for as long as is asked for: threads come and go, Ps are taken from those that run them, objects change
//! hands, memory is given back in between. In the end nothing may be lost, and the memory taken must be bounded.
//!
//! ```text
//! cargo run --release -p baton-alloc --example soak -- 600        seconds
//! ```
//!
//! | who | does |
//! |---|---|
//! | 1 to 8 workers, as many as the hour wants | bind a P, allocate, resize, free, and check what is in the objects; hand some to others |
//! | the taker | takes Ps from workers, for a moment or for good, and looks whether their caches are what they should be |
//! | short threads | allocate a little, take objects from the exchange, and end, some with objects in a thread-local destructor |
//! | the main thread | says how many workers there are, releases free memory now and then, sets and lifts a limit, keeps the books |

#[path = "../tests/common/mod.rs"]
mod common;

use baton_alloc::{
    Alloc, Mcache,
    latch::{Kind, P},
    lease, new_cache, stats,
};
use common::{Object, Rng};
use std::{
    cell::RefCell,
    sync::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOC: Alloc = Alloc;

/// The most workers, each with a P.
const WORKERS: usize = 8;
/// The most that a worker has at a time.
const EACH: usize = 24 << 20;
/// Memory that may be taken at most: what is live at the peak, what fragmentation and caches add, and a reserve.
const BOUND: usize = 1 << 30;

/// What all threads share.
struct World {
    ps: Vec<&'static P>,
    /// How many workers are to run now.
    wanted: AtomicUsize,
    over: AtomicBool,
    /// Objects on their way from one thread to another.
    exchange: Mutex<Vec<Object>>,
    steps: AtomicU64,
    takes: AtomicU64,
    bound: AtomicU64,
    threads: AtomicU64,
}

thread_local! {
    /// What a short thread leaves to its destructors.
    static LEFT: RefCell<Vec<Object>> = const { RefCell::new(Vec::new()) };
}

/// An object as programs want them: mostly small, at times aligned or very large.
fn object(rng: &mut Rng) -> Object {
    let size = if rng.below(3000) == 0 {
        1 + rng.below(4 << 20)
    } else {
        rng.size()
    };
    let align = if rng.below(50) == 0 { 1 << rng.below(16) } else { 8 };
    Object::new(size, align, rng.next() as u8)
}

fn worker(world: &World, index: usize) {
    let m = lease::attach();
    let p = world.ps[index];
    let mut rng = Rng::new(index as u64 + 1);
    let mut live: Vec<Object> = Vec::new();
    let mut bytes = 0;
    while !world.over.load(Relaxed) {
        if index >= world.wanted.load(Relaxed) {
            // Retired: what the cache of the P holds is the scavenger's to find.
            live.clear();
            bytes = 0;
            lease::give_back(m);
            // SAFETY: this thread's M, no section open.
            let _ = unsafe { m.unbind() };
            thread::sleep(Duration::from_millis(50));
            continue;
        }
        if m.p().is_none_or(|p| p.kind() == Kind::Lease) {
            lease::give_back(m);
            // SAFETY: this thread's M, no section open, bound to nothing.
            if unsafe { m.bind(p) } {
                world.bound.fetch_add(1, Relaxed);
            }
        }
        for _ in 0..256 {
            match rng.below(100) {
                0..3 if !live.is_empty() => {
                    let pick = rng.below(live.len());
                    let size = match rng.below(3) {
                        0 => rng.size(),
                        1 => live[pick].size() * 2,
                        _ => live[pick].size() / 2 + 1,
                    }
                    .min(8 << 20);
                    bytes = bytes - live[pick].size() + size;
                    live[pick].resize(size);
                }
                3 => {
                    let mut exchange = world.exchange.lock().unwrap();
                    if let Some(object) = exchange.pop() {
                        bytes += object.size();
                        live.push(object);
                    }
                }
                4 if !live.is_empty() => {
                    let object = live.swap_remove(rng.below(live.len()));
                    bytes -= object.size();
                    let mut exchange = world.exchange.lock().unwrap();
                    if exchange.len() < 4000 {
                        exchange.push(object);
                    }
                }
                _ if bytes < EACH && rng.below(100) < 52 => {
                    let object = object(&mut rng);
                    bytes += object.size();
                    live.push(object);
                }
                _ if !live.is_empty() => {
                    let object = live.swap_remove(rng.below(live.len()));
                    bytes -= object.size();
                }
                _ => {}
            }
        }
        world.steps.fetch_add(256, Relaxed);
    }
    drop(live);
    lease::give_back(m);
    // SAFETY: this thread's M, no section open.
    let _ = unsafe { m.unbind() };
}

fn taker(world: &World) {
    let mut rng = Rng::new(99);
    while !world.over.load(Relaxed) {
        let p = world.ps[rng.below(WORKERS)];
        if let Some(taken) = p.take() {
            if rng.below(50) == 0 {
                // SAFETY: the P is taken, so its cache is this thread's.
                assert!(unsafe { Mcache::is_valid(p.cache()) }, "a taken cache is broken");
            }
            if rng.below(2) == 0 {
                taken.detach().release();
            }
            world.takes.fetch_add(1, Relaxed);
        }
        thread::sleep(Duration::from_micros(rng.below(300) as u64));
    }
}

fn short_threads(world: &World) {
    let mut seed = 1000;
    while !world.over.load(Relaxed) {
        seed += 1;
        let threads: Vec<_> = (0..4).map(|i| seed * 4 + i).collect();
        thread::scope(|scope| {
            for seed in threads {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    let mut mine: Vec<_> = (0..rng.below(200)).map(|_| object(&mut rng)).collect();
                    {
                        let mut exchange = world.exchange.lock().unwrap();
                        let from = exchange.len().saturating_sub(20);
                        mine.extend(exchange.drain(from..));
                    }
                    let kept = mine.split_off(mine.len() / 2);
                    LEFT.with(|left| *left.borrow_mut() = kept);
                });
            }
        });
        world.threads.fetch_add(4, Relaxed);
        thread::sleep(Duration::from_millis(3));
    }
}

/// Kilobytes of physical memory that the process takes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: usize = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    pages * 4096
}

/// Runs the load, and says what is live before and after it: objects, and bytes.
fn soak(seconds: u64) -> (usize, usize) {
    let world = World {
        ps: (0..WORKERS)
            .map(|_| &*Box::leak(Box::new(P::new(Kind::Processor, new_cache().expect("memory")))))
            .collect(),
        wanted: AtomicUsize::new(1),
        over: AtomicBool::new(false),
        exchange: Mutex::new(Vec::with_capacity(4096)),
        steps: AtomicU64::new(0),
        takes: AtomicU64::new(0),
        bound: AtomicU64::new(0),
        threads: AtomicU64::new(0),
    };
    let (mut most_resident, mut most_mapped) = (0, 0);
    thread::scope(|scope| {
        let world = &world;
        for index in 0..WORKERS {
            scope.spawn(move || worker(world, index));
        }
        scope.spawn(|| taker(world));
        scope.spawn(|| short_threads(world));
        let start = Instant::now();
        let mut rng = Rng::new(3);
        for tick in 0_u64.. {
            thread::sleep(Duration::from_millis(500));
            let now = stats();
            most_resident = most_resident.max(resident());
            most_mapped = most_mapped.max(now.mapped_bytes);
            assert!(most_mapped < BOUND, "the heap grows without end: {now:?}");
            world.wanted.store(1 + rng.below(WORKERS), Relaxed);
            match tick % 40 {
                13 => _ = Alloc::set_memory_limit(Some(64 << 20)),
                17 => _ = Alloc::set_memory_limit(None),
                29 => _ = Alloc::release_free(),
                _ => {}
            }
            if tick % 20 == 19 {
                println!(
                    "{:4} s: {} M steps, {} takes, {} threads; live {} MiB, resident {} MiB, mapped {} MiB",
                    start.elapsed().as_secs(),
                    world.steps.load(Relaxed) / 1_000_000,
                    world.takes.load(Relaxed),
                    world.threads.load(Relaxed),
                    (now.small_live_bytes + now.large_bytes) >> 20,
                    resident() >> 20,
                    now.mapped_bytes >> 20,
                );
            }
            if start.elapsed().as_secs() >= seconds {
                break;
            }
        }
        world.over.store(true, SeqCst);
    });
    for p in &world.ps {
        assert!(!p.is_bound());
        // SAFETY: nobody runs the P, so its cache is this thread's.
        assert!(unsafe { Mcache::is_valid(p.cache()) });
    }
    assert!(world.steps.load(Relaxed) > 0 && world.takes.load(Relaxed) > 0 && world.bound.load(Relaxed) > 0);
    println!(
        "{} M steps, {} takes, {} times bound anew, {} short threads",
        world.steps.load(Relaxed) / 1_000_000,
        world.takes.load(Relaxed),
        world.bound.load(Relaxed),
        world.threads.load(Relaxed),
    );
    (most_resident, most_mapped)
}

fn main() {
    let seconds = std::env::args()
        .nth(1)
        .map_or(10, |n| n.parse().expect("a number of seconds"));
    // Once for what is made only once: leases, and whatever the standard library keeps.
    let _figures = soak(1);
    Alloc::release_free();
    let before = stats();
    let (most_resident, most_mapped) = soak(seconds);
    Alloc::release_free();
    let after = stats();
    let lost = (after.allocs - before.allocs) as i64 - (after.frees - before.frees) as i64;
    // The Ps of a run stay for ever.
    let ps = i64::try_from(WORKERS).expect("a few");
    println!(
        "live before {} bytes in small and {} in large objects, after {} and {}; {lost} objects more, of which {ps} are Ps",
        before.small_live_bytes, before.large_bytes, after.small_live_bytes, after.large_bytes
    );
    println!(
        "at most {} MiB resident and {} MiB mapped; in the end {} MiB resident, {} KiB in caches",
        most_resident >> 20,
        most_mapped >> 20,
        resident() >> 20,
        (after.cached_bytes + after.large_cached_bytes + after.page_cache_bytes) >> 10,
    );
    assert_eq!(lost, ps, "objects lost");
    assert_eq!(after.large_bytes, before.large_bytes);
    assert!(resident() < 64 << 20, "memory that nobody uses was not given back");
    println!("RESULT ok: {seconds} s, nothing lost, memory bounded");
}
