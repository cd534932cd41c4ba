//! Large objects: spans of their own, and what a P keeps of them when they are freed.
//!
//! ```text
//!   malloc ─ pages ─▶ this P's LargeCache ─ a span that fits ─▶ the object           no lock, no page fault
//!                          │    ▲       └── none ─▶ mheap
//!                 bins     ▼    │
//!       5 pages   ○ ─▶ ○        free: if there is room; else whole bins go to the mheap to make some
//!       6 pages   ○
//!       …         one bin a length up to 63 pages, then eight bins an octave
//! ```
//!
//! A freed span stays with the P that freed it, as it is and with its physical pages, and serves the next request for about
//! as many pages: the same number below 64 pages, at most an eighth more above. The spans are linked through their
//! records and not through their memory, so that nothing of theirs is touched, and a second free of the same object shows.
//!
//! **Limits.** A cache may hold [`BASE`] pages at first. Each request that finds nothing raises the limit by twice its length,
//! to [`MOST`], as long as all caches together have not been granted more than [`GRANTS`] on top of their base. Flushing
//! a cache takes its limit back to the base.
//!
//! # Who may touch what
//!
//! The owner of the P that carries the cache touches all of it, inside a section or as a taker; a cached span and the links
//! in its record are the cache's. The counters are atomics so that others may read them.

use crate::{
    current, lease, malloc,
    mheap::{self, Large},
    mspan::Span,
    profile, scavenge,
    sizeclass::PAGE,
    sys::mem,
};
use core::{
    alloc::Layout,
    cell::Cell,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// Spans of this many pages and more are not cached: 16 MiB.
const TOO_LONG: usize = (16 << 20) / PAGE;
/// The pages that a cache may hold at first: 1 MiB.
const BASE: usize = (1 << 20) / PAGE;
/// The pages that a cache may hold at most: 32 MiB.
const MOST: usize = (32 << 20) / PAGE;
/// The pages that all caches may hold beyond their base: 128 MiB.
const GRANTS: usize = (128 << 20) / PAGE;

/// From here on pages are given back to the kernel to make them zero, because writing zeros takes longer, and the program
/// may need but a few of them: 32 MiB.
const DISCARD: usize = 32 << 20;

/// A request for more pages than this fails without an attempt to make room in caches: 1 GiB.
const RECLAIM: usize = (1 << 30) / PAGE;

/// Up to here each length has a bin of its own.
const EXACT: usize = 64;
const BINS: usize = EXACT + 8 * (TOO_LONG / EXACT).ilog2() as usize;
/// How many spans of a bin are looked at.
const LOOKS: usize = 4;

/// What is left of the grants.
static GRANTS_LEFT: AtomicUsize = AtomicUsize::new(GRANTS);

/// Freed spans of about the same length.
struct Bin {
    head: Cell<*mut Span>,
    pages: Cell<usize>,
}

/// The freed large spans that a P carries.
pub(crate) struct LargeCache {
    bins: [Bin; BINS],
    /// Pages in all bins.
    pages: AtomicUsize,
    limit: Cell<usize>,
    /// The bin that is emptied next if room is needed.
    hand: Cell<usize>,
    allocs: AtomicU64,
    frees: AtomicU64,
}

/// What a cache counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Objects served from the cache.
    pub(crate) allocs: u64,
    /// Objects that went to the cache.
    pub(crate) frees: u64,
    /// Pages in it now.
    pub(crate) pages: usize,
}

/// Spans that nobody has any use for, linked through their records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spans(*mut Span);

impl Spans {
    const NONE: Self = Self(ptr::null_mut());

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_null()
    }

    /// Puts the spans of `more` in front.
    fn join(&mut self, more: *mut Span) {
        let mut last = more;
        // SAFETY: the list holds spans that are the caller's, whose records are never unmapped.
        while let Some(span) = unsafe { last.as_ref() } {
            let next = span.next();
            if next.is_null() {
                span.set_next(self.0);
                self.0 = more;
            }
            last = next;
        }
    }
}

impl Iterator for Spans {
    type Item = &'static Span;

    fn next(&mut self) -> Option<&'static Span> {
        // SAFETY: the list holds spans, whose records are never unmapped.
        let span = unsafe { self.0.as_ref() }?;
        self.0 = span.next();
        Some(span)
    }
}

/// The bin for spans of so many pages; there must be fewer than `TOO_LONG`.
#[inline]
fn bin(pages: usize) -> usize {
    if pages < EXACT {
        pages
    } else {
        let octave = pages.ilog2() as usize;
        EXACT + 8 * (octave - EXACT.ilog2() as usize) + (pages >> (octave - 3)) % 8
    }
}

/// Adds one to a counter that only its owner writes.
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl LargeCache {
    pub(crate) const fn new() -> Self {
        Self {
            bins: [const {
                Bin {
                    head: Cell::new(ptr::null_mut()),
                    pages: Cell::new(0),
                }
            }; BINS],
            pages: AtomicUsize::new(0),
            limit: Cell::new(BASE),
            hand: Cell::new(0),
            allocs: AtomicU64::new(0),
            frees: AtomicU64::new(0),
        }
    }

    /// Takes a span of at least `pages` pages, and at most an eighth more.
    #[inline]
    fn pop(&self, pages: usize) -> Option<&'static Span> {
        let bin = self.bins.get(bin(pages))?;
        let mut before: Option<&Span> = None;
        let mut at = bin.head.get();
        for _ in 0..LOOKS {
            // SAFETY: the bins hold spans, whose records are never unmapped.
            let span: &'static Span = unsafe { at.as_ref() }?;
            let long = span.pages();
            if long >= pages {
                match before {
                    Some(before) => before.set_next(span.next()),
                    None => bin.head.set(span.next()),
                }
                span.set_cached(false);
                bin.pages.set(bin.pages.get() - long);
                self.pages.store(self.pages.load(Relaxed) - long, Relaxed);
                bump(&self.allocs);
                return Some(span);
            }
            before = Some(span);
            at = span.next();
        }
        None
    }

    /// As `pop`; if there is none, notes that a larger cache would have helped.
    fn pop_or_grow(&self, pages: usize) -> Option<&'static Span> {
        let span = self.pop(pages);
        if span.is_none() {
            let want = (2 * pages).min(MOST - self.limit.get());
            let granted = GRANTS_LEFT.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(want));
            if granted.is_ok() {
                self.limit.set(self.limit.get() + want);
                if self.limit.get() >= MOST / 2 {
                    // So much is worth a look from time to time whether it is used.
                    scavenge::note_work();
                }
            }
        }
        span
    }

    /// Puts a span of `pages` pages in. `false`, and it is not there, if there is no room.
    #[inline]
    fn push(&self, span: &'static Span, pages: usize) -> bool {
        let now = self.pages.load(Relaxed) + pages;
        if now > self.limit.get() {
            return false;
        }
        let Some(bin) = self.bins.get(bin(pages)) else {
            return false;
        };
        span.set_cached(true);
        span.set_next(bin.head.get());
        bin.head.set(ptr::from_ref(span).cast_mut());
        bin.pages.set(bin.pages.get() + pages);
        self.pages.store(now, Relaxed);
        bump(&self.frees);
        true
    }

    /// Makes room for a span and puts it in. Gives what had to go: other spans, or this one if it is too long for the cache.
    fn push_or_evict(&self, span: &'static Span, pages: usize) -> (bool, Spans) {
        let mut gone = Spans::NONE;
        if pages > self.limit.get() {
            return (false, gone);
        }
        for _ in 0..BINS {
            if self.pages.load(Relaxed) + pages <= self.limit.get() {
                break;
            }
            let hand = self.hand.get();
            self.hand.set((hand + 1) % BINS);
            gone.join(self.empty(hand));
        }
        (self.push(span, pages), gone)
    }

    /// Takes all spans of a bin out.
    fn empty(&self, bin: usize) -> *mut Span {
        let bin = &self.bins[bin];
        self.pages
            .store(self.pages.load(Relaxed) - bin.pages.replace(0), Relaxed);
        bin.head.replace(ptr::null_mut())
    }

    /// Takes everything out and the limit down to its base. The caller owns the cache, and the spans from here on.
    pub(crate) fn take_all(&self) -> Spans {
        let mut all = Spans::NONE;
        for bin in 0..BINS {
            all.join(self.empty(bin));
        }
        GRANTS_LEFT.fetch_add(self.limit.replace(BASE) - BASE, Relaxed);
        all
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            allocs: self.allocs.load(Relaxed),
            frees: self.frees.load(Relaxed),
            pages: self.pages.load(Relaxed),
        }
    }
}

/// The pages that a large object of this size takes.
#[inline]
pub(crate) fn pages(size: usize) -> usize {
    size.max(1).div_ceil(PAGE)
}

/// A large object. `None`: out of memory.
#[inline]
pub(crate) fn alloc(layout: Layout) -> Option<Large> {
    let large = take(layout);
    if profile::is_on()
        && let Some(large) = &large
    {
        profile::note_alloc(large.base.as_ptr(), pages(layout.size()) * PAGE);
    }
    large
}

#[inline]
fn take(layout: Layout) -> Option<Large> {
    let pages = pages(layout.size());
    if pages < TOO_LONG
        && layout.align() <= PAGE
        && let Some(m) = current::m()
        && !m.is_inside()
        // SAFETY: this thread's M, no section open; taking a span off a bin is a few loads and stores.
        && let Some(Some(span)) = unsafe { malloc::section(m, |cache| cache.large.pop(pages)) }
    {
        return Some(reused(span));
    }
    alloc_slow(layout, pages)
}

/// As [`alloc`], but the memory is zero. Pages that nobody has written to since the kernel gave them are left alone.
#[inline(never)]
pub(crate) fn alloc_zeroed(layout: Layout) -> Option<NonNull<u8>> {
    let Large { base, dirty } = alloc(layout)?;
    let start = (dirty.start * PAGE).min(layout.size());
    let len = (dirty.end * PAGE).min(layout.size()) - start;
    // SAFETY: within the object.
    let first = unsafe { base.add(start) };
    // SAFETY: as above, and the pages of the object are its own to the end of the last one.
    if len < DISCARD || !unsafe { mem::discard(first, pages(len) * PAGE) } {
        // SAFETY: as above.
        unsafe { first.write_bytes(0, len) };
    }
    Some(base)
}

/// A span that a cache kept, as an object.
#[inline(always)]
fn reused(span: &Span) -> Large {
    #[cfg(feature = "asan")]
    crate::asan::opened(span.base(), span.pages() * PAGE);
    Large {
        base: span.base(),
        dirty: 0..span.pages(),
    }
}

#[cold]
#[inline(never)]
fn alloc_slow(layout: Layout, pages: usize) -> Option<Large> {
    // Here rather than at the first small object: a thread's M also notes which locks it holds.
    lease::try_attach();
    let align = layout.align().div_ceil(PAGE);
    if pages < TOO_LONG && align == 1 {
        // SAFETY: taking a span off a bin is a few loads and stores.
        if let Some(Some(span)) = unsafe { malloc::with_cache(|cache| cache.large.pop_or_grow(pages)) } {
            return Some(reused(span));
        }
    }
    malloc::check_unlocked();
    let large = mheap::alloc_large(pages, align).or_else(|| {
        // What lies in caches may be what is missing.
        let again = pages <= RECLAIM && scavenge::reclaim();
        again.then(|| mheap::alloc_large(pages, align)).flatten()
    });
    scavenge::nudge();
    large
}

/// Frees a large object.
///
/// # Safety
///
/// The object is the caller's.
#[inline]
pub(crate) unsafe fn free(object: NonNull<u8>) {
    let span = mheap::large_span(object);
    let pages = span.pages();
    #[cfg(feature = "asan")]
    crate::asan::closed(object, pages * PAGE);
    if profile::is_on() {
        profile::note_free(object.as_ptr());
    }
    if pages < TOO_LONG
        && let Some(m) = current::m()
        && !m.is_inside()
        // SAFETY: this thread's M, no section open; putting a span into a bin is a few loads and stores.
        && let Some(true) = unsafe { malloc::section(m, |cache| cache.large.push(span, pages)) }
    {
        return;
    }
    // SAFETY: as the caller promised.
    unsafe { free_slow(span, pages) };
}

/// # Safety
///
/// As for `free`.
#[cold]
#[inline(never)]
unsafe fn free_slow(span: &'static Span, pages: usize) {
    let (kept, gone) = if pages < TOO_LONG {
        // SAFETY: moving bins about is some loads and stores, of records that were touched when they were made.
        unsafe { malloc::with_cache(|cache| cache.large.push_or_evict(span, pages)) }.unwrap_or((false, Spans::NONE))
    } else {
        (false, Spans::NONE)
    };
    if !kept {
        malloc::check_unlocked();
        // SAFETY: as the caller promised.
        unsafe { mheap::free_large(span) };
    }
    if !gone.is_empty() {
        malloc::check_unlocked();
        // SAFETY: they were the cache's, and are in it no more.
        unsafe { mheap::free_cached(gone) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mcache::Mcache, rng::Rng};

    fn span(pages: usize) -> &'static Span {
        mheap::large_span(mheap::alloc_large(pages, 1).unwrap().base)
    }

    #[test]
    fn lengths_of_a_bin_differ_by_an_eighth() {
        for pages in 1..TOO_LONG {
            let bin_of = bin(pages);
            assert!(bin_of < BINS && (pages == 1 || bin_of >= bin(pages - 1)));
            let longest = (pages..TOO_LONG).take_while(|&p| bin(p) == bin_of).last().unwrap();
            assert!(if pages < EXACT {
                longest == pages
            } else {
                longest - pages < pages / 8
            });
        }
    }

    #[test]
    fn random_traces_keep_the_books_and_the_limit() {
        std::thread::spawn(|| {
            lease::attach();
            let cache = LargeCache::new();
            let mut rng = Rng::new(5);
            let mut out = Vec::new();
            let mut inside = std::collections::BTreeMap::new();
            for _ in 0..4000 {
                if rng.below(2) == 0 || out.is_empty() {
                    let pages = if rng.below(30) == 0 { 900 } else { 5 + rng.below(100) };
                    match cache.pop_or_grow(pages) {
                        Some(found) => {
                            let long = found.pages();
                            assert!(long >= pages && long <= pages + pages / 8);
                            assert_eq!(inside.remove(&found.base()), Some(long), "not in the cache");
                            out.push(found);
                        }
                        None => out.push(span(pages)),
                    }
                } else {
                    let back = out.swap_remove(rng.below(out.len()));
                    let (kept, gone) = cache.push_or_evict(back, back.pages());
                    for span in gone {
                        assert_eq!(inside.remove(&span.base()), Some(span.pages()));
                    }
                    // SAFETY: the test's own, and in no cache.
                    unsafe { mheap::free_cached(gone) };
                    if kept {
                        assert_eq!(inside.insert(back.base(), back.pages()), None);
                    } else {
                        // SAFETY: as above.
                        unsafe { mheap::free_large(back) };
                    }
                }
                let pages: usize = inside.values().sum();
                assert_eq!(cache.counts().pages, pages);
                assert!(pages <= cache.limit.get() && cache.limit.get() <= MOST);
            }
            let counts = cache.counts();
            assert!(counts.allocs > 200 && counts.frees > 200, "{counts:?}");
            let all = cache.take_all();
            assert_eq!(all.count(), inside.len());
            assert_eq!((cache.counts().pages, cache.limit.get()), (0, BASE));
            // SAFETY: the test's own, and in the cache no more.
            unsafe { mheap::free_cached(all) };
            for span in out {
                // SAFETY: as above.
                unsafe { mheap::free_large(span) };
            }
        })
        .join()
        .unwrap();
    }

    /// A freed object is the next one of its length, with nothing asked of the mheap, and goes back when the cache does.
    #[test]
    fn a_freed_object_comes_back() {
        std::thread::spawn(|| {
            let layout = Layout::from_size_align(300_000, 8).unwrap();
            let first = alloc(layout).unwrap().base;
            // SAFETY: ours, freed once.
            unsafe { free(first) };
            assert!(mheap::large_span_of(first).is_none(), "it is nobody's object");
            assert_eq!(alloc(layout).unwrap().base, first);
            // SAFETY: as above.
            unsafe { free(first) };
            let m = lease::attach();
            let cache = m.p().unwrap().cache();
            // SAFETY: this thread runs the P, and is in no section.
            let counts = || unsafe { &*cache }.counts();
            assert!(counts().large_bytes >= 300_000);
            // SAFETY: as above; nobody allocates on this thread meanwhile.
            unsafe { Mcache::flush(cache) };
            assert_eq!(counts().large_bytes, 0);
        })
        .join()
        .unwrap();
    }
}
