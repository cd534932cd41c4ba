//! P, the processor: the baton that one M hands to another, with everything on it.
//!
//! ```text
//!   P ─ latch ─▶ mcache              seen by anybody            touched by the owner only
//!       (who may touch it)           runq, tick, due            stack cache, sleepers, goroutine ids
//! ```
//!
//! The owner is the M that runs P, inside a section, or a taker that holds P through the latch. When P moves, nothing is
//! flushed and nothing refilled: the next owner finds all of it as it was.

use crate::{
    sched::runq::RunQueue,
    time::heap::{Heap, NEVER},
};
use baton_alloc::latch::{self, Kind};
use baton_stack::StackCache;
use std::{
    cell::UnsafeCell,
    ops::Range,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// A processor. Never freed.
#[repr(C)]
pub(crate) struct P {
    /// First, so that the latch's view of a P leads back to the whole.
    pub(crate) latch: latch::P,
    pub(crate) id: usize,
    pub(crate) runq: RunQueue,
    /// Counts the goroutines that were given the P; written by the owner. The sysmon sees by it whether P gets on.
    pub(crate) tick: AtomicU32,
    /// When the earliest sleeper is due; written by the owner together with the heap.
    pub(crate) due: AtomicU64,
    /// Set by who wants the owner to look at more than its queue at its next scheduling point, so that it need not look at
    /// each: by the sysmon when `due` has passed, by a thief that has `asked`. A hint, which may get lost.
    pub(crate) attention: AtomicBool,
    /// Set by an M without work: the owner should leave half of its ring where others find it.
    pub(crate) asked: AtomicBool,
    /// So many on the ring are no work for others: their turns are so short that they will have had theirs before another M
    /// is awake. Set by the sysmon, which knows how long turns are; 0 where they are not short.
    pub(crate) keeps: AtomicU32,
    /// An M may have half of the ring all the same. Set by the sysmon now and then, cleared by who takes or gives it.
    pub(crate) shares: AtomicBool,
    /// `tick` when unused memory was last asked back: see `sched::scavenge`.
    pub(crate) rested: AtomicU32,
    own: UnsafeCell<Own>,
}

/// What only the owner touches.
pub(crate) struct Own {
    pub(crate) stacks: StackCache,
    pub(crate) sleepers: Heap,
    /// The tick from which on sleepers that are due may go before the queue again.
    pub(crate) sleepers_from: u32,
    /// Goroutines in a row that came from `runq.next`.
    pub(crate) next_streak: u32,
    /// Numbers for new goroutines.
    pub(crate) ids: Range<u64>,
}

// SAFETY: `own` is reached through `P::own` alone, whose callers own the P; all else is atomic or constant.
unsafe impl Sync for P {}
// SAFETY: nothing in a P belongs to a thread.
unsafe impl Send for P {}

impl P {
    /// A P that nobody runs, with an mcache of its own.
    pub(crate) fn new(id: usize) -> Self {
        let Some(cache) = baton_alloc::new_cache() else {
            crate::fatal::out_of_memory("an mcache", 0);
        };
        Self {
            latch: latch::P::new(Kind::Processor, cache),
            id,
            runq: RunQueue::new(),
            tick: AtomicU32::new(0),
            due: AtomicU64::new(NEVER),
            attention: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            keeps: AtomicU32::new(0),
            shares: AtomicBool::new(false),
            rested: AtomicU32::new(0),
            own: UnsafeCell::new(Own {
                stacks: StackCache::new(),
                sleepers: Heap::new(),
                sleepers_from: 0,
                next_streak: 0,
                ids: 0..0,
            }),
        }
    }

    /// The processor that the latch knows as `p`, or `None` if that is a thread's lease.
    #[inline(always)]
    pub(crate) fn of(p: &'static latch::P) -> Option<&'static P> {
        if p.kind() != Kind::Processor {
            return None;
        }
        // SAFETY: only `P::new` makes latch Ps of this kind in this crate, `latch` is the first field of a `repr(C)`
        // struct, and Ps are never freed or moved.
        Some(unsafe { &*ptr::from_ref(p).cast::<P>() })
    }

    /// Whether there are more on the ring than the P keeps to itself: a guess unless the caller owns the P.
    #[inline]
    pub(crate) fn has_surplus(&self) -> bool {
        self.runq.len() > self.keeps.load(Relaxed) as usize
    }

    /// Whether there is something on the ring for an M without work, likewise.
    pub(crate) fn has_loot(&self) -> bool {
        self.has_surplus() || (self.shares.load(Relaxed) && self.runq.len() > 0)
    }

    /// Runs `f` with what only the owner touches, for one who does not own the P: if nobody does, or if its M is in no section.
    /// `f` keeps others waiting.
    pub(crate) fn borrow<R>(&'static self, f: impl FnOnce(&mut Own) -> R) -> Option<R> {
        // SAFETY: for as long as `f` runs, nobody else has the P.
        self.latch.borrow(|_| f(unsafe { self.own() }))
    }

    /// What only the owner touches.
    ///
    /// # Safety
    ///
    /// The caller owns the P (see the module's header) for as long as it uses the reference, and takes one at a time.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the latch, not the borrow checker, says who owns a P"
    )]
    pub(crate) unsafe fn own(&self) -> &mut Own {
        // SAFETY: as the caller promised.
        unsafe { &mut *self.own.get() }
    }
}
