//! Baton's memory: one heap for objects and for the stacks of goroutines.
//!
//! ```text
//!   thread ─ M ─ latch ─▶ P ─▶ mcache          lists of free objects, one pair a size class        no lock
//!                                │  ▲ refill / flush, in batches
//!                                ▼  │
//!                             mcentral         the spans of one size class that have objects in    one lock a class
//!                                │  ▲ a span / an empty span
//!                                ▼  │
//!                              mheap           pages of 8 KiB, lowest address first                one lock
//!      stacks ◀─ manual spans ───┤  ▲
//!                                ▼  │
//!                             arenas           64 MiB of address space each, for objects or stacks
//!                                │  ▲ mmap / MADV_DONTNEED
//!                                ▼  │
//!                          operating system
//! ```
//!
//! The terms and the levels are those of Go's allocator (`runtime/malloc.go`) and of TCMalloc.
//!
//! **The way down, `alloc`.** The [`Layout`](core::alloc::Layout) gives the size class (`sizeclass`). The thread's M
//! opens a section of the [`latch`] and pops an object from the list of the [`mcache`] that its P carries. If the list is
//! empty it leaves the section, takes a batch from the class's mcentral, enters again and installs the batch in whatever
//! cache is bound to it by then. The mcentral takes objects from the fullest span that has some in; if there is none it
//! gets a new span from the [`mheap`], which takes the lowest free run of pages, from a new arena if need be. Objects
//! larger than 32 KiB are spans of their own, of which the P keeps some when they are freed.
//!
//! **The way up, `free`.** The `Layout` gives the class here as well, so the object goes onto the list of the freeing
//! thread's own cache, wherever it came from. Two full lists: one goes back to the mcentral, object by object into their
//! spans. A span with all objects in goes back to the mheap, and about a second later, if nobody needs its pages, the
//! [`scavenge`]r gives what is behind them back to the kernel.
//!
//! **Who has no P.** Each thread gets a *lease* at its first allocation ([`lease`]): an M, and a private P with an mcache.
//! Threads of the scheduler give it back when they bind a processor, and take it again when the processor is taken from
//! them. In between, for the moment in which a thief holds the P, and in signal handlers that interrupted a section, the
//! mcentral serves single objects.
//!
//! **Locks** are taken in this order, and never one of the same rank under another:
//!
//! ```text
//!   (hooks) < trim < lease < P.lock < mcentral (one class at a time) < mheap < fixalloc < persist < profile
//! ```
//!
//! **Pages of the system** are 4 KiB as a rule. Where they are longer than the heap's 8 KiB (16 or 64 KiB, on aarch64) less goes
//! back to the kernel: a run stays that does not begin and end at such a page. Nor is it guarded (feature `hardened`).
//!
//! The allocator uses nothing that allocates: no thread-locals of std, no parking_lot. A thread finds its M in a word of
//! its own ([`current`]); locks are futexes ([`Lock`]); fatal messages are put together on the stack.
//!
//! | module | what |
//! |---|---|
//! | [`latch`], [`current`], `lock`, `sync` | who may touch what a P owns; which M this thread is; a lock that never allocates |
//! | `malloc`, `global`, `untyped` | dispatch, the `GlobalAlloc` on top of it, and what C needs: to free by address alone |
//! | `lease` | threads without a processor |
//! | `large`, `pagecache` | large objects, and a P's cache of freed ones; a P's cache of free pages |
//! | `sizeclass` | the table of classes, computed at compile time |
//! | [`mcache`], `bins`, `countdown`, `limits`, `chain`, `transfer`, `mcentral`, `mspan`, [`mheap`] | the levels, and the lists that go between the first two |
//! | `pagealloc`, `summary`, `pagebits`, `arena` | runs of pages, found by a tree over bitmaps; from an address to its span |
//! | [`scavenge`], `requests`, `trim` | physical pages go back to the kernel: the background thread, how it is asked for, the memory limit; caches are emptied |
//! | `fixalloc` | metadata: type-stable records outside the arenas |
//! | `hardened` | what the feature of that name checks |
//! | [`profile`] | who allocated what is live, by sampling, for pprof |
//! | `asan` | what AddressSanitizer is told (feature `asan`) |
//! | `guarded`, `fork` | data behind a lock, the order of locks, and what fork does about them |
//! | `stats`, `report`, `snapshot` | what the heap holds, in figures and as text; a picture of a cache |
//! | `sys` | the operating system |

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("baton-alloc supports Linux on x86-64 and aarch64 only");

// The model checker knows atomics and threads alone: under its cfg there is the latch, the transfer list, and what they stand on.
#[cfg(not(baton_loom))]
mod arena;
#[cfg(all(feature = "asan", not(baton_loom)))]
mod asan;
#[cfg(not(baton_loom))]
mod bins;
#[cfg(not(baton_loom))]
#[expect(unreachable_pub, reason = "the model checker reaches it")]
mod chain;
#[cfg(baton_loom)]
pub mod chain;
#[cfg(not(baton_loom))]
mod countdown;
#[cfg(not(baton_loom))]
pub mod current;
#[cfg(not(baton_loom))]
pub mod fixalloc;
#[cfg(not(baton_loom))]
mod fork;
#[cfg(not(baton_loom))]
mod global;
#[cfg(not(baton_loom))]
mod guarded;
#[cfg(not(baton_loom))]
mod hardened;
#[cfg(not(baton_loom))]
mod large;
pub mod latch;
#[cfg(not(baton_loom))]
pub mod lease;
#[cfg(not(baton_loom))]
mod limits;
mod lock;
#[cfg(not(baton_loom))]
#[cfg_attr(feature = "asan", expect(unreachable_pub, reason = "`asan` stands in front"))]
mod malloc;
#[cfg(not(baton_loom))]
pub mod mcache;
#[cfg(not(baton_loom))]
mod mcentral;
#[cfg(not(baton_loom))]
pub mod mheap;
#[cfg(not(baton_loom))]
mod mspan;
#[cfg(not(baton_loom))]
mod pagealloc;
#[cfg(not(baton_loom))]
mod pagebits;
#[cfg(not(baton_loom))]
mod pagecache;
#[cfg(not(baton_loom))]
pub mod profile;
#[cfg(not(baton_loom))]
mod report;
#[cfg(any(not(baton_loom), test))]
mod requests;
#[cfg(all(test, not(baton_loom)))]
mod rng;
#[cfg(not(baton_loom))]
pub mod scavenge;
#[cfg(not(baton_loom))]
mod sizeclass;
#[cfg(not(baton_loom))]
mod snapshot;
#[cfg(not(baton_loom))]
mod stats;
#[cfg(not(baton_loom))]
mod summary;
mod sync;
mod sys;
#[cfg(not(baton_loom))]
#[expect(unreachable_pub, reason = "the model checker reaches it")]
mod transfer;
#[cfg(baton_loom)]
pub mod transfer;
#[cfg(not(baton_loom))]
mod trim;
#[cfg(not(baton_loom))]
mod untyped;

// What stands in front: the dispatch itself, or the sanitizer's eyes before it.
#[cfg(all(feature = "asan", not(baton_loom)))]
use asan as front;
#[cfg(all(not(feature = "asan"), not(baton_loom)))]
use malloc as front;

pub use lock::Lock;
#[cfg(not(baton_loom))]
pub use {
    arena::{ARENA, ArenaKind},
    fixalloc::Fixalloc,
    front::{free, malloc, malloc_zeroed, realloc},
    global::Alloc,
    mcache::{CacheCounts, Mcache, new_cache},
    sizeclass::{CLASSES, MAX_SMALL, PAGE},
    snapshot::{Snapshot, snapshot},
    stats::{ClassStats, Classes, Stats, stats},
    sys::futex,
    untyped::{C_ALIGN, c_layout, free_untyped, realloc_untyped, usable_size},
};
