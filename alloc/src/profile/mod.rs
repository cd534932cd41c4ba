//! The heap profile: who allocated what is live, by sampling.
//!
//! ```text
//!   every allocation ─ LEFT -= size ─ still above 0 ───────────────────────▶ nothing
//!                                   └ crossed 0: a sample ─ backtrace ─▶ Samples: object ─▶ Stack: counts
//!                                                  LEFT += random, `rate` bytes on average
//!   every free ─ FILTER: can it be a sample? ─ no ─▶ nothing
//!                                            └ yes ─▶ Samples: off the table, off the stack's live counts
//! ```
//!
//! The distance from sample to sample is random (exponential), so that no pattern of the program can hide from it, and an
//! object of s bytes is sampled with probability 1 - e^(-s / rate). Each sample stands for the reciprocal of that: sums of
//! samples are unbiased estimates of the sums over all objects. Sizes are those of size classes: what an object takes.
//!
//! **Off, it costs nothing**: not even a look. The lists of an mcache serve an allocation only through the `bins` that the
//! latch keeps for the thread, and [`start`] takes those away from every thread (`latch::P::renew`). Then every
//! allocation and every free goes the slow way, where the question is asked.
//!
//! **On**, allocating and freeing an object takes 32 ns instead of 5, and if it is sampled, 3 µs (a stack of eight frames).
//!
//! Tables grow by mappings of their own and are behind one lock. An allocation in a signal handler that interrupted the
//! allocator with a lock held is not sampled.

mod pprof;
mod table;

use crate::{
    current,
    guarded::{Guarded, Rank},
    lease, mcache,
    sys::backtrace,
    trim,
};
use core::sync::atomic::{
    AtomicI64, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::io;
use table::Tables;

/// Bytes from sample to sample that are usual: 512 KiB.
pub const RATE: usize = 512 << 10;

/// Frames of a stack that are kept, the innermost first.
const DEPTH: usize = 64;

/// Bytes from sample to sample; 0: the profile is off.
static ON: AtomicUsize = AtomicUsize::new(0);
/// Bytes to the next sample.
static LEFT: AtomicI64 = AtomicI64::new(0);
/// State of the random numbers.
static RANDOM: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
/// How many samples' addresses fall into each slot: what frees look at first.
static FILTER: [AtomicU32; 1 << 14] = [const { AtomicU32::new(0) }; 1 << 14];

static TABLES: Guarded<Tables> = Guarded::new(Rank::Profile, Tables::new());

/// Whether samples are taken.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    ON.load(Relaxed) != 0
}

/// Starts sampling, once every `rate` bytes on average ([`RATE`] is usual, 1 takes every object). What was allocated before
/// is not in the profile. Gives `false`, and changes nothing, if it is on already.
///
/// ```
/// use baton_alloc::profile;
/// # use baton_alloc::{free, malloc};
/// # use std::alloc::Layout;
///
/// assert!(profile::start(1));
/// let object = malloc(Layout::new::<[u64; 100]>());
/// let mut file = Vec::new();
/// profile::write(&mut file)?; // `go tool pprof program file` reads it
/// assert!(!file.is_empty());
/// profile::stop();
/// # unsafe { free(object, Layout::new::<[u64; 100]>()) };
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// With a rate of 0.
pub fn start(rate: usize) -> bool {
    assert!(rate > 0, "a heap profile needs a rate of at least 1 byte");
    lease::try_attach(); // see `guarded`
    let fresh = TABLES.with(|tables| {
        if is_on() {
            return false;
        }
        tables.clear();
        FILTER.iter().for_each(|slot| slot.store(0, Relaxed));
        LEFT.store(distance(rate), Relaxed);
        ON.store(rate, Release);
        true
    });
    if fresh {
        renew_all();
    }
    fresh
}

/// Stops sampling and forgets the profile. Gives whether it was on.
pub fn stop() -> bool {
    lease::try_attach(); // see `guarded`
    let was_on = TABLES.with(|tables| {
        let was_on = is_on();
        ON.store(0, Release);
        tables.clear();
        was_on
    });
    if was_on {
        renew_all();
    }
    was_on
}

/// Writes the profile in pprof's format (`profile.proto`, not compressed): what was allocated since [`start`], and what of it
/// is live, by stack. `go tool pprof program file` and other tools of that name read it; they find the names of functions in
/// the program's debugging information. Without a profile it is an empty one.
///
/// # Errors
///
/// Those of the writer.
pub fn write(to: &mut impl io::Write) -> io::Result<()> {
    to.write_all(&pprof::encode(&snapshot(), ON.load(Acquire)))
}

/// A stack and what it allocated, estimated.
#[derive(Clone, Debug, Default, PartialEq)]
struct Site {
    frames: Vec<usize>,
    counts: Counts,
}

/// Estimated numbers and bytes of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    allocs: f64,
    alloc_bytes: f64,
    live: f64,
    live_bytes: f64,
}

/// Copies the tables, whose lock must not be held while memory is allocated for the copy.
fn snapshot() -> Vec<Site> {
    lease::try_attach(); // see `guarded`
    let mut sites = Vec::new();
    for index in 0.. {
        let mut frames = [0; DEPTH];
        let Some((len, counts)) = TABLES.with(|tables| tables.stack(index, &mut frames)) else {
            break;
        };
        sites.push(Site {
            frames: frames[..len].to_vec(),
            counts,
        });
    }
    sites
}

/// Has every thread notice that the profile was turned on or off. Under the lock of those who hold locks of Ps, so that none
/// is held when the process forks.
fn renew_all() {
    trim::guard().with(|_| {
        for cache in mcache::all() {
            // SAFETY: caches are never freed.
            if let Some(p) = unsafe { &*cache }.carrier() {
                p.renew();
            }
        }
    });
}

/// A number from 0 to 1, without either.
fn random() -> f64 {
    // splitmix64: every state is as good as the other, so threads can share it.
    let mut bits = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    ((bits >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// Bytes to the next sample: exponential, `rate` on average, and at least 1; 0 if every object is one.
fn distance(rate: usize) -> i64 {
    if rate == 1 {
        0
    } else {
        1 + (-random().ln() * rate as f64) as i64
    }
}

/// How many objects a sample of this size stands for.
fn weight(size: usize, rate: usize) -> f64 {
    if rate == 1 {
        return 1.0;
    }
    1.0 / -(-(size as f64) / rate as f64).exp_m1()
}

fn slot(object: usize) -> &'static AtomicU32 {
    &FILTER[(object >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50]
}

/// Whether this thread may take the lock of the tables: not in a signal handler that interrupted one of the allocator's.
fn unlocked() -> bool {
    current::m().is_none_or(|m| !m.holds_lock())
}

/// Notes that an object was allocated, if a sample is due. Call it when the profile [`is_on`], outside sections.
#[cold]
#[inline(never)]
pub(crate) fn note_alloc(object: *mut u8, size: usize) {
    let rate = ON.load(Acquire);
    let before = LEFT.fetch_sub(size as i64, Relaxed);
    if before > size as i64 || before <= 0 && rate != 1 || rate == 0 || object.is_null() || !unlocked() {
        return;
    }
    // The next sample is due a random distance from here; what others allocated in between counts towards it.
    let mut add = distance(rate) + size as i64 - before;
    while LEFT.fetch_add(add, AcqRel) + add <= 0 && rate > 1 {
        add = distance(rate);
    }
    let mut frames = [0; DEPTH];
    let frames = {
        let len = backtrace::capture(&mut frames);
        &frames[..len]
    };
    let noted = TABLES.with(|tables| is_on() && tables.add(object.addr(), size, weight(size, rate), frames));
    if noted {
        slot(object.addr()).fetch_add(1, Release);
    }
}

/// Notes that an object is about to be freed. Call it when the profile [`is_on`], outside sections.
#[cold]
#[inline(never)]
pub(crate) fn note_free(object: *mut u8) {
    let slot = slot(object.addr());
    if slot.load(Acquire) != 0 && unlocked() && TABLES.with(|tables| tables.remove(object.addr())) {
        slot.fetch_sub(1, Release);
    }
}

/// The lock of this module, for fork.
pub(crate) fn guard() -> &'static Guarded<impl Sized> {
    &TABLES
}
