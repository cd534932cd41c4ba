//! What each spawn site has learned: how deep its goroutines go, and whether they block.
//!
//! ```text
//!   go!(…) ─▶ static Site ◀── one exit in 64: how deep did it go? ── deeper: that class at once
//!                │                                               └─ shallower: one class less
//!                └─▶ the next goroutine's stack is one of that class, warm if there is any
//! ```
//!
//! A site is a static of the expansion of `go!`, or found by the place of the call in a table that only grows ([`Site::of`]). Its first [`ALWAYS`] goroutines are measured, then one in [`ONE_IN`],
//! which its number decides, so the others pay nothing but a look at a word that hardly ever changes. A deep outlier raises the class
//! at once, since the next may be as deep; every measured goroutine that is shallower lowers it by one, so the outlier is
//! forgotten after some hundreds.
//!
//! Whether new goroutines are taken for blockers ([`habit`](crate::sched)) is a small sum: each processor that had to be taken from one
//! that slept adds to it, each new goroutine that was taken for a blocker and did not sleep takes away more.

use crate::sched::stall::Cause;
use baton_stack::Class;
use std::{
    fmt,
    panic::Location,
    ptr,
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// So many goroutines of a new site are measured.
const ALWAYS: u32 = 8;
/// Of how many goroutines one is measured afterwards.
const ONE_IN: u64 = 64;

/// From how many points on new goroutines are taken for blockers; more than [`BLOCKS_MOST`] are not counted.
const BLOCKS: u8 = 2;
const BLOCKS_MOST: u8 = 8;

/// Places of functions that start goroutines, of which this many are told apart.
const CALLS: usize = 1 << 12;
/// Of so many in a row one must be free, or the place's.
const PROBES: usize = 16;

/// A place in the program's text that starts goroutines: a [`go!`](crate::go), or a call of a function that does.
#[derive(Debug)]
pub struct Site {
    file: &'static str,
    line: u32,
    /// The index of the class that its goroutines start in.
    class: AtomicU8,
    /// Goroutines that were chosen to be measured because the site was new.
    first: AtomicU32,
    /// Goroutines measured.
    measured: AtomicU32,
    /// The greatest depth of them.
    deepest: AtomicUsize,
    /// Points for new goroutines to be taken for blockers.
    blocks: AtomicU8,
    /// Processors taken from goroutines of this site, by cause.
    handoffs: [AtomicU32; 3],
    /// Whether it is on the list.
    listed: AtomicBool,
    /// The site that came on the list before this one.
    older: AtomicPtr<Site>,
}

/// The sites of [`Site::of`], each at one of the [`PROBES`] places from its hash on; once there, it stays.
static OF_CALLS: [AtomicPtr<Site>; CALLS] = [const { AtomicPtr::new(ptr::null_mut()) }; CALLS];

/// The sites that have measured a goroutine, or lost a processor by one, the last one first.
static SITES: AtomicPtr<Site> = AtomicPtr::new(ptr::null_mut());

impl Site {
    /// A place that has not learned anything.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(file: &'static str, line: u32) -> Self {
        Self {
            file,
            line,
            class: AtomicU8::new(0),
            first: AtomicU32::new(0),
            measured: AtomicU32::new(0),
            deepest: AtomicUsize::new(0),
            blocks: AtomicU8::new(0),
            handoffs: [const { AtomicU32::new(0) }; 3],
            listed: AtomicBool::new(false),
            older: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The site of a call; `None` if the program has so many that there is no room for this one.
    pub(crate) fn of(place: &'static Location<'static>) -> Option<&'static Self> {
        let hash = (place.line() as usize ^ place.file().len() << 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (hash..hash + PROBES).find_map(|i| Self::at(&OF_CALLS[i % CALLS], place))
    }

    /// The site of `place` in this slot, where it is put if the slot is free; `None` if it is another one's.
    fn at(slot: &AtomicPtr<Self>, place: &'static Location<'static>) -> Option<&'static Self> {
        // SAFETY: null or a site that was leaked below.
        let there = |site: *mut Self| unsafe { site.as_ref() };
        let site = there(slot.load(Acquire)).or_else(|| {
            let fresh = Box::into_raw(Box::new(Self::new(place.file(), place.line())));
            match slot.compare_exchange(ptr::null_mut(), fresh, AcqRel, Acquire) {
                Ok(_) => there(fresh),
                Err(first) => {
                    // SAFETY: made just now, and nobody else knows it.
                    drop(unsafe { Box::from_raw(fresh) });
                    there(first)
                }
            }
        })?;
        (site.line == place.line() && site.file == place.file()).then_some(site)
    }

    /// The class that the site's goroutines start in.
    #[inline]
    pub(crate) fn class(&self) -> Class {
        Class::from_index(self.class.load(Relaxed))
    }

    /// Whether goroutine `id`, which is about to run for the first time, is measured: the first of the site are, later one in some, as
    /// its number has it, spread evenly whatever the rhythm in which numbers are given.
    ///
    /// The first to *begin*: a million may do so before one of them ends.
    #[inline]
    pub(crate) fn is_measured(&self, id: u64) -> bool {
        let first = self.first.load(Relaxed);
        if first < ALWAYS {
            self.first.store(first + 1, Relaxed); // one too many, if two Ms come at a time
            return true;
        }
        id.wrapping_mul(0x9e37_79b9_7f4a_7c15) <= u64::MAX / ONE_IN
    }

    /// A goroutine that was measured went this deep.
    #[cold]
    pub(crate) fn learn(&'static self, depth: usize) {
        let reached = Class::holding(depth).index() as u8;
        // Two Ms may learn at a time; what one of them loses is one step of many.
        let class = self.class.load(Relaxed);
        let next = if reached >= class { reached } else { class - 1 };
        self.class.store(next, Relaxed);
        self.deepest.fetch_max(depth, Relaxed);
        self.measured.fetch_add(1, Relaxed);
        self.list();
    }

    /// A processor was taken because of a goroutine of this site.
    pub(crate) fn handed_off(&'static self, cause: Cause) {
        self.handoffs[cause as usize].fetch_add(1, Relaxed);
        if cause != Cause::Hog {
            self.learn_blocks(true);
        }
        self.list();
    }

    /// Whether a new goroutine will probably sleep in the kernel.
    #[inline]
    pub(crate) fn blocks(&self) -> bool {
        self.blocks.load(Relaxed) >= BLOCKS
    }

    /// A goroutine slept in the kernel, or was taken for one that would and did not.
    pub(crate) fn learn_blocks(&self, slept: bool) {
        let points = self.blocks.load(Relaxed);
        let next = if slept {
            (points + 1).min(BLOCKS_MOST)
        } else {
            points.saturating_sub(BLOCKS)
        };
        if next != points {
            self.blocks.store(next, Relaxed); // two may learn at a time; a point more or less does not matter
        }
    }

    /// Puts the site on the list, if it is not there.
    fn list(&'static self) {
        if self.listed.load(Relaxed) || self.listed.swap(true, Relaxed) {
            return;
        }
        let mut first = SITES.load(Relaxed);
        loop {
            self.older.store(first, Relaxed);
            let this = ptr::from_ref(self).cast_mut();
            match SITES.compare_exchange_weak(first, this, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(now) => first = now,
            }
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a [`go!`](crate::go), or another call that starts goroutines, has learned about the stacks of its goroutines, and how often processors were taken from them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpawnSite {
    /// The file, as the compiler was given it.
    pub file: &'static str,
    /// The line.
    pub line: u32,
    /// The bytes of stack that its next goroutine starts with, if there is such a stack.
    pub stack_bytes: u64,
    /// The greatest depth that was measured, to a quarter or so.
    pub deepest_bytes: u64,
    /// Goroutines measured: the first few, then one in 64.
    pub measured: u64,
    /// Processors taken from its goroutines because of a declared blocking call.
    pub handoffs_declared: u64,
    /// Because the thread was found asleep in the kernel.
    pub handoffs_undeclared: u64,
    /// Because the goroutine computed for longer than a time slice.
    pub handoffs_hog: u64,
}

/// All sites about which something is known.
pub(crate) fn all() -> Vec<SpawnSite> {
    // SAFETY: null or a site, and sites are statics.
    let at = |site: &AtomicPtr<Site>| unsafe { site.load(Acquire).as_ref() };
    std::iter::successors(at(&SITES), |site| at(&site.older))
        .map(|site: &'static Site| SpawnSite {
            file: site.file,
            line: site.line,
            stack_bytes: site.class().bytes() as u64,
            deepest_bytes: site.deepest.load(Relaxed) as u64,
            measured: site.measured.load(Relaxed).into(),
            handoffs_declared: site.handoffs[Cause::Declared as usize].load(Relaxed).into(),
            handoffs_undeclared: site.handoffs[Cause::Undeclared as usize].load(Relaxed).into(),
            handoffs_hog: site.handoffs[Cause::Hog as usize].load(Relaxed).into(),
        })
        .collect()
}
