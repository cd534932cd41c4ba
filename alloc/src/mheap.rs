//! mheap: all pages of the process, behind one lock.
//!
//! ```text
//!   mcentral ── alloc_span ─ page cache ─┐           ┌── alloc_large, resize ── malloc
//!                            ▼                       ▼
//!   stacks ─── alloc_manual ─▶  lock ─ PageAlloc (objects)   PageAlloc (stacks)
//!                                       arenas of 64 MiB      arenas of 64 MiB, no huge pages
//! ```
//!
//! A *manual span* is a run of pages for a layer above (the stacks), which keeps track of it itself: it has no `Span`, so
//! nothing in it can be freed as an object.
//!
//! **Physical pages** of a freed run stay with the heap, ready for the next span, until the scavenger takes them
//! (`scavenge`). Without a scavenger, and in stack arenas, those of a run of 1 MiB or longer go back at once. What
//! went back reads as zero when it is handed out again, and the heap knows it.

use crate::{
    arena::{self, ArenaKind},
    current,
    fixalloc::Fixalloc,
    guarded::{Guarded, Rank},
    hardened,
    large::Spans,
    malloc,
    mspan::Span,
    pagealloc::PageAlloc,
    pagecache::{self, PageCache},
    scavenge,
    sizeclass::{Class, PAGE},
    sys::{die::die, mem},
};
use core::{
    ops::Range,
    ptr::{self, NonNull},
};

pub(crate) use crate::pagealloc::{Backed, Goal};

/// Runs of this many pages and more give their physical pages back as soon as they are freed, if nobody does it later.
const DISCARD: usize = (1 << 20) / PAGE;

/// Whether a run of object pages gives its physical pages back as soon as it is freed.
fn discards(pages: usize) -> bool {
    pages >= DISCARD && !scavenge::enabled()
}

/// What the lock guards.
pub(crate) struct Mheap {
    objects: PageAlloc,
    stacks: PageAlloc,
    pub(crate) counts: Counts,
    /// The most pages of objects that were in use at a time since the scavenger looked last.
    peak: usize,
    /// The scavenger is asked for when more free pages than this are backed.
    wake_at: usize,
    /// The scavenger is told that memory is short when the heap is larger than this, in pages.
    press_at: usize,
}

/// Pages and large objects, for the statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Pages in large objects.
    pub(crate) large_pages: usize,
    /// Pages in manual spans of object arenas.
    pub(crate) manual_pages: usize,
    /// Pages in manual spans of stack arenas.
    pub(crate) stack_pages: usize,
    pub(crate) large_allocs: u64,
    pub(crate) large_frees: u64,
}

static MHEAP: Guarded<Mheap> = Guarded::new(
    Rank::Mheap,
    Mheap {
        objects: PageAlloc::new(ArenaKind::Object, 1),
        stacks: PageAlloc::new(ArenaKind::Stack, 2),
        counts: Counts {
            large_pages: 0,
            manual_pages: 0,
            stack_pages: 0,
            large_allocs: 0,
            large_frees: 0,
        },
        peak: 0,
        wake_at: scavenge::START,
        press_at: 0,
    },
);

static SPANS: Fixalloc<Span> = Fixalloc::new();

/// A large object as it comes from the heap.
#[derive(Clone, Debug)]
pub(crate) struct Large {
    pub(crate) base: NonNull<u8>,
    /// From the first to the last of its pages that may not read as zero.
    pub(crate) dirty: Range<usize>,
}

impl Mheap {
    /// The page allocator for this kind, and the count of pages in its manual spans.
    fn of(&mut self, kind: ArenaKind) -> (&mut PageAlloc, &mut usize) {
        match kind {
            ArenaKind::Object => (&mut self.objects, &mut self.counts.manual_pages),
            ArenaKind::Stack => (&mut self.stacks, &mut self.counts.stack_pages),
        }
    }

    /// A large span in the object arenas; the arena map leads to it from its first page.
    fn large(&mut self, pages: usize, align: usize) -> Option<(&'static Span, Range<usize>)> {
        let record = SPANS.alloc()?;
        let Some(run) = self.objects.alloc(pages, align) else {
            // SAFETY: made above, and nobody knows it.
            unsafe { SPANS.free(record) };
            return None;
        };
        self.peak = self.peak.max(self.objects.in_use());
        // SAFETY: the record is large enough and ours; records of spans are never unmapped.
        let span: &'static Span = unsafe {
            record.write(Span::new(run.base, pages, None));
            record.as_ref()
        };
        map_span(span, 1, record.as_ptr());
        Some((span, run.dirty))
    }

    /// Gives the pages of a span back that the arena map leads to no more, and its record.
    fn free_span(&mut self, span: &'static Span, fresh: bool) {
        let (base, pages) = (span.base(), span.pages());
        if !self.objects.free(base, pages, fresh) {
            die(format_args!(
                "the span at {base:p} of {pages} pages was freed twice: its metadata is corrupt"
            ));
        }
        // SAFETY: it came from `SPANS`, and the map leads to it no more.
        unsafe { SPANS.free(NonNull::from(span)) };
        self.note_backed();
    }

    /// Gives back what a page cache held.
    fn free_block(&mut self, base: NonNull<u8>, bits: u64) {
        if !self.objects.free_block(base, bits) {
            die(format_args!(
                "pages at {base:p} were freed while a P had them: the metadata is corrupt"
            ));
        }
    }

    /// Asks for the scavenger if there is enough for it to do.
    fn note_backed(&self) {
        if self.objects.backed() + self.stacks.backed() > self.wake_at {
            scavenge::note_work();
        }
    }

    /// How many pages the heap has too many, if it may have `limit`, and can give back.
    fn over(&mut self, limit: usize) -> usize {
        let total = self.objects.in_use() + self.objects.backed();
        let over = total.saturating_sub(limit);
        if over > 0 && total > self.press_at {
            self.press_at = total + limit / 32;
            scavenge::note_work();
        }
        over.min(self.objects.backed())
    }
}

/// Runs `f` on the heap, and afterwards gives pages back if that made the heap larger than it may be.
fn within_limit<R>(f: impl FnOnce(&mut Mheap) -> R) -> R {
    let limit = scavenge::limit_pages();
    let (result, over) = MHEAP.with(|heap| (f(heap), heap.over(limit)));
    if over > 0 {
        scavenge::relieve(over);
    }
    result
}

/// Guards what is behind the objects of a span, if the heap is hardened, or makes it plain memory again.
fn guard(span: &Span, on: bool) {
    if hardened::ON {
        let objects = span.pages() - hardened::GUARD_PAGES;
        // SAFETY: the span is that long, and has no objects there.
        unsafe { mem::guard(span.base().add(objects * PAGE), hardened::GUARD_PAGES * PAGE, on) };
    }
}

/// A span for objects of `class`. `None`: out of memory.
pub(crate) fn alloc_span(class: Class) -> Option<&'static Span> {
    let pages = usize::from(class.info().pages) + hardened::GUARD_PAGES;
    let record = SPANS.alloc()?;
    let Some(base) = alloc_pages(pages) else {
        // SAFETY: made above, and nobody knows it.
        unsafe { SPANS.free(record) };
        return None;
    };
    // SAFETY: the record is large enough and ours; records of spans are never unmapped.
    let span: &'static Span = unsafe {
        record.write(Span::new(base, pages, Some(class)));
        record.as_ref()
    };
    map_span(span, pages, record.as_ptr());
    guard(span, true);
    Some(span)
}

/// Pages for a span of small objects: from the page cache of this thread's P, which is filled if need be.
fn alloc_pages(pages: usize) -> Option<NonNull<u8>> {
    // SAFETY: taking pages out of a page cache is a few loads and stores.
    let cached = |f: &dyn Fn(&PageCache) -> Option<NonNull<u8>>| unsafe { in_page_cache(f) };
    if let Some(Some(base)) = cached(&|cache| cache.take(pages)) {
        return Some(base);
    }
    let (base, block, free) = within_limit(|heap| {
        let (block, free) = heap.objects.alloc_block()?;
        heap.peak = heap.peak.max(heap.objects.in_use());
        match pagecache::row(free, pages) {
            Some(start) => {
                let rest = free & !(pagecache::mask(pages) << start);
                // SAFETY: the block has 64 pages.
                Some((unsafe { block.add(start as usize * PAGE) }, block, rest))
            }
            None => {
                let run = heap.objects.alloc(pages, 1);
                heap.peak = heap.peak.max(heap.objects.in_use());
                match run {
                    Some(run) => Some((run.base, block, free)),
                    None => {
                        heap.free_block(block, free);
                        None
                    }
                }
            }
        }
    })?;
    // SAFETY: putting pages into a page cache is a few loads and stores.
    let (old, rest) = unsafe { in_page_cache(|cache| cache.replace(block, free)) }.unwrap_or((block, free));
    if rest != 0 {
        MHEAP.with(|heap| heap.free_block(old, rest));
    }
    Some(base)
}

/// One section on the page cache that this thread's P carries now. `None`, with `f` not called, if there is none.
///
/// # Safety
///
/// `f` does what a section may do.
unsafe fn in_page_cache<R>(f: impl FnOnce(&PageCache) -> R) -> Option<R> {
    let m = current::m().filter(|m| !m.is_inside())?;
    // SAFETY: this thread's M, no section open; `f` is as promised.
    unsafe { malloc::section(m, |cache| f(&cache.pages)) }
}

/// Takes back what a page cache held.
///
/// # Safety
///
/// It came from there, and the caller has it alone.
pub(crate) unsafe fn free_block(base: NonNull<u8>, bits: u64) {
    MHEAP.with(|heap| heap.free_block(base, bits));
}

/// Makes the arena map lead from the first `pages` pages of a span to this record, or to none. The pages are the
/// caller's, who alone may say whose they are.
fn map_span(span: &Span, pages: usize, record: *mut Span) {
    for (slot, start, n) in arena::pieces(span.base().addr().get(), pages) {
        if let Some(arena) = arena::at(slot) {
            arena.set_span(start, n, record);
        }
    }
}

/// Takes a span back of which all objects are in.
///
/// # Safety
///
/// The caller has taken it off its mcentral's list, and nobody has an object of it.
pub(crate) unsafe fn free_span(span: &'static Span) {
    guard(span, false);
    map_span(span, span.pages(), ptr::null_mut());
    MHEAP.with(|heap| heap.free_span(span, false));
    scavenge::nudge_after_free();
}

/// A large object of `pages` pages at a multiple of `align` pages. `None`: out of memory.
pub(crate) fn alloc_large(pages: usize, align: usize) -> Option<Large> {
    within_limit(|heap| {
        let (span, dirty) = heap.large(pages, align)?;
        heap.counts.large_pages += pages;
        heap.counts.large_allocs += 1;
        Some(Large {
            base: span.base(),
            dirty,
        })
    })
}

/// The span of the large object that begins at this address, if there is one and somebody has it.
#[inline]
pub(crate) fn large_span_of(object: NonNull<u8>) -> Option<&'static Span> {
    let span = arena::span_of(object)?;
    // SAFETY: records of spans are never unmapped.
    let span: &'static Span = unsafe { span.as_ref() };
    (span.class().is_none() && span.base() == object && !span.is_cached()).then_some(span)
}

/// The span of a large object. Dies with a message if `object` is none.
#[inline]
pub(crate) fn large_span(object: NonNull<u8>) -> &'static Span {
    match large_span_of(object) {
        Some(span) => span,
        None => not_large(object),
    }
}

#[cold]
#[inline(never)]
fn not_large(object: NonNull<u8>) -> ! {
    die(format_args!(
        "free or realloc of {object:p} as a large object, which it is not: it was freed before, or its Layout is not \
         the one that it was allocated with, or another allocator made it"
    ));
}

/// Frees a large object; see the module's header on its physical pages.
///
/// # Safety
///
/// The object is the caller's.
pub(crate) unsafe fn free_large(span: &'static Span) {
    // SAFETY: as the caller promised.
    unsafe { free_one(span, 1) };
}

/// Takes large spans back that were in a cache, where their objects were counted as freed.
///
/// # Safety
///
/// They are the caller's, and in no cache any more.
pub(crate) unsafe fn free_cached(spans: Spans) {
    for span in spans {
        // SAFETY: as the caller promised.
        unsafe { free_one(span, 0) };
    }
}

/// # Safety
///
/// The span is the caller's.
unsafe fn free_one(span: &'static Span, objects: u64) {
    let pages = span.pages();
    // Outside the lock: nobody else can use these pages yet.
    // SAFETY: the pages are the caller's, who is done with them.
    let fresh = discards(pages) && unsafe { mem::discard(span.base(), pages * PAGE) };
    map_span(span, 1, ptr::null_mut());
    MHEAP.with(|heap| {
        heap.counts.large_pages -= pages;
        heap.counts.large_frees += objects;
        heap.free_span(span, fresh);
    });
    scavenge::nudge_after_free();
}

/// Makes a large object `pages` pages long without moving it: always possible to make it shorter; longer if the pages
/// behind it are free. (Less than an eighth shorter leaves it as it is.)
///
/// # Safety
///
/// The object is the caller's.
pub(crate) unsafe fn resize_large(object: NonNull<u8>, pages: usize) -> bool {
    let span = large_span(object);
    let before = span.pages();
    // (It may have an eighth more than it needs: it came from a cache.)
    if (before - before / 8..=before).contains(&pages) {
        return true;
    }
    if pages > before {
        return within_limit(|heap| {
            let extended = heap.objects.extend(object, before, pages);
            if extended {
                span.set_pages(pages);
                heap.counts.large_pages += pages - before;
                heap.peak = heap.peak.max(heap.objects.in_use());
            }
            extended
        });
    }
    let rest = before - pages;
    // SAFETY: the object is `before` pages long, and the caller needs the rest of it no more.
    let tail = unsafe { object.add(pages * PAGE) };
    // SAFETY: as above.
    let fresh = discards(rest) && unsafe { mem::discard(tail, rest * PAGE) };
    MHEAP.with(|heap| {
        span.set_pages(pages);
        heap.counts.large_pages -= rest;
        let freed = heap.objects.free(tail, rest, fresh);
        debug_assert!(freed, "the tail of a large object was free");
        heap.note_backed();
    });
    true
}

/// A run of `npages` pages of 8 KiB at a multiple of `align_pages` pages (a power of two), for the caller to manage.
/// `None`: the address space, or a limit on it, is exhausted.
///
/// The memory is readable, writable and demand-paged; what is in it is unspecified, though pages that nobody had before
/// read as zero.
#[must_use]
pub fn alloc_manual(npages: usize, align_pages: usize, kind: ArenaKind) -> Option<NonNull<u8>> {
    if npages == 0 || !align_pages.is_power_of_two() {
        return None;
    }
    MHEAP.with(|heap| {
        let (pages, count) = heap.of(kind);
        let run = pages.alloc(npages, align_pages)?;
        *count += npages;
        Some(run.base)
    })
}

/// Takes a manual span back. Its physical pages go to the kernel if it is 1 MiB or longer.
///
/// # Safety
///
/// `base` came from [`alloc_manual`] with the same `npages` and `kind`, the caller is done with it, and all of it is
/// readable and writable again: no guard is left in it.
pub unsafe fn free_manual(base: NonNull<u8>, npages: usize, kind: ArenaKind) {
    // SAFETY: the caller is done with the pages, and nobody else can use them yet.
    let fresh = npages >= DISCARD && unsafe { mem::discard(base, npages * PAGE) };
    MHEAP.with(|heap| {
        let (pages, count) = heap.of(kind);
        if !pages.free(base, npages, fresh) {
            die(format_args!(
                "the manual span at {base:p} of {npages} pages was freed twice, or is not one: free it once, with the \
                 length and kind that it was allocated with"
            ));
        }
        *count -= npages;
    });
}

/// How many pages the heap has too many, if it may have `limit`.
pub(crate) fn over(limit: usize) -> usize {
    MHEAP.with(|heap| (heap.objects.in_use() + heap.objects.backed()).saturating_sub(limit))
}

/// How many free pages are backed that need not be, if `goal` pages may be in use or backed.
pub(crate) fn excess(goal: usize) -> usize {
    MHEAP.with(|heap| {
        let total = heap.objects.in_use() + heap.objects.backed();
        total.saturating_sub(goal).min(heap.objects.backed()) + heap.stacks.backed()
    })
}

/// The most pages of objects that were in use at a time since the last call.
pub(crate) fn take_peak() -> usize {
    MHEAP.with(|heap| {
        heap.press_at = 0;
        core::mem::replace(&mut heap.peak, heap.objects.in_use())
    })
}

/// Notes that the scavenger runs, or that it ended: then it is asked for when there is a good deal more to do.
pub(crate) fn scavenger_runs(runs: bool) {
    MHEAP.with(|heap| {
        let backed = heap.objects.backed() + heap.stacks.backed();
        heap.wake_at = if runs { usize::MAX } else { backed + scavenge::START };
    });
}

/// In the child of a fork, which has no scavenger.
///
/// # Safety
///
/// The caller holds the lock.
pub(crate) unsafe fn after_fork() {
    // SAFETY: as the caller promised.
    unsafe { MHEAP.assume_locked() }.wake_at = scavenge::START;
}

/// Takes free pages that may be backed and lie below this address, of which nobody else knows until [`give_unbacked`].
pub(crate) fn take_backed(kind: ArenaKind, goal: Goal, below: usize, most: usize) -> Option<Backed> {
    let whole = mem::os_page().div_ceil(PAGE);
    MHEAP.with(|heap| heap.of(kind).0.take_backed(goal, below, most, whole))
}

/// Gives the pages back to the heap; `fresh` says that the kernel has taken what was behind them.
pub(crate) fn give_unbacked(kind: ArenaKind, run: Backed, fresh: bool) {
    MHEAP.with(|heap| {
        let freed = heap.of(kind).0.free(run.base, run.pages, fresh);
        debug_assert!(freed, "pages were freed while the scavenger had them");
    });
}

/// How many free pages may be backed.
pub(crate) fn backed() -> usize {
    MHEAP.with(|heap| heap.objects.backed() + heap.stacks.backed())
}

/// The counts, and the number of arenas of objects and of stacks.
pub(crate) fn counts() -> (Counts, usize, usize) {
    MHEAP.with(|heap| (heap.counts, heap.objects.arenas(), heap.stacks.arenas()))
}

/// The locks of this module, for fork.
pub(crate) fn guards() -> (&'static Guarded<impl Sized>, &'static Guarded<impl Sized>) {
    (&MHEAP, SPANS.guard())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_spans_of_both_kinds() {
        for kind in [ArenaKind::Object, ArenaKind::Stack] {
            let a = alloc_manual(3, 1, kind).unwrap();
            let b = alloc_manual(130, 128, kind).unwrap();
            assert!(b.addr().get().is_multiple_of(128 * PAGE));
            assert_eq!(arena::span_of(a), None, "a manual span is not a span of objects");
            // SAFETY: both are ours, and that long.
            unsafe {
                a.write_bytes(1, 3 * PAGE);
                b.write_bytes(2, 130 * PAGE);
                assert_eq!(a.add(3 * PAGE - 1).read(), 1);
                free_manual(a, 3, kind);
                free_manual(b, 130, kind);
            }
        }
        assert_eq!(alloc_manual(0, 1, ArenaKind::Stack), None);
        assert_eq!(alloc_manual(1, 3, ArenaKind::Stack), None);
        assert_eq!(alloc_manual(usize::MAX, 1, ArenaKind::Stack), None);
    }

    #[test]
    fn a_large_object_shrinks_and_grows_in_place() {
        let large = alloc_large(40, 1).unwrap();
        // SAFETY: the object is ours and is as long as it is made here.
        unsafe {
            large.base.write_bytes(3, 40 * PAGE);
            assert!(resize_large(large.base, 10));
            assert!(resize_large(large.base, 10));
            assert_eq!(large.base.add(10 * PAGE - 1).read(), 3);
            if resize_large(large.base, 20) {
                large.base.write_bytes(4, 20 * PAGE);
            }
            assert!(!resize_large(large.base, 1 << 40));
            free_large(large_span(large.base));
        }
        assert_eq!(arena::span_of(large.base), None);
    }
}
