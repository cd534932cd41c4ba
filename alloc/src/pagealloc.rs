//! The page allocator: runs of pages, the one with the lowest address that fits.
//!
//! ```text
//!   alloc ─ summary tree ─▶ the lowest run ─▶ its bits set ─▶ the sums above it
//!                                              │
//!   free  ──────────────────────────────────── its bits cleared
//!
//!   arena    │ in_use   1 bit a page        │ sums   16 chunks        a run may go over any number of
//!            │ dirty    1 bit a page        │                         arenas that lie side by side
//! ```
//!
//! Lowest address first keeps the heap packed at one end, so that what is free is free in long runs at the other. The
//! tree ([`summary`](crate::summary)) finds the run; the bitmaps of the arenas say what is true.
//!
//! # Invariants
//!
//! 1. Each arena belongs to one page allocator (`arena.owner()`), and all of its arenas lie in `slots`.
//! 2. `pages.sums` and the tree say of each chunk and arena what `pages.in_use` says.
//! 3. A page that is not in `pages.dirty` reads as zero.
//! 4. `pages.backed` counts the pages that are free and dirty, and `backed` is the sum of that over all arenas. Those are
//!    the ones that the scavenger can give back to the kernel. `in_use` counts the pages that are not free.

use crate::{
    arena::{self, ARENA, Arena, ArenaKind, Pages},
    pagebits::{CHUNK, PAGES},
    sizeclass::PAGE,
    summary::{self, Sum, Tree},
    sys::mem,
};
use core::{ops::Range, ptr::NonNull};

/// The pages of all arenas of one kind. Lives under the mheap lock.
pub(crate) struct PageAlloc {
    kind: ArenaKind,
    owner: u8,
    tree: Tree,
    /// All arenas lie in these slots.
    slots: Range<usize>,
    arenas: usize,
    in_use: usize,
    backed: usize,
}

/// A run of free pages that was taken to be given back to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backed {
    pub(crate) base: NonNull<u8>,
    pub(crate) pages: usize,
    /// How many of them may have physical pages behind them.
    pub(crate) backed: usize,
}

/// Which free pages to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Whole blocks of 2 MiB, which may be huge pages.
    HugePages,
    Anything,
}

/// Pages of the heap in a huge page.
const HUGE: usize = (2 << 20) / PAGE;

/// A run of pages.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) base: NonNull<u8>,
    /// From the first to the last of its pages that may not read as zero, counted from `base`.
    pub(crate) dirty: Range<usize>,
}

impl PageAlloc {
    /// `owner` is a number that no other page allocator has.
    pub(crate) const fn new(kind: ArenaKind, owner: u8) -> Self {
        Self {
            kind,
            owner,
            tree: Tree::new(),
            slots: 0..0,
            arenas: 0,
            in_use: 0,
            backed: 0,
        }
    }

    /// How many pages are out.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    /// How many free pages may have physical pages behind them.
    pub(crate) fn backed(&self) -> usize {
        self.backed
    }

    /// Takes free pages that may be backed, those with the highest addresses below the address `below`: about `most` at most, but a
    /// whole huge page if that is asked for; and pages of the system, which have `whole` of the heap's, are not divided. They are out
    /// until they are freed.
    pub(crate) fn take_backed(&mut self, goal: Goal, below: usize, most: usize, whole: usize) -> Option<Backed> {
        if self.backed == 0 {
            return None;
        }
        let slots = self.slots.start..self.slots.end.min(below.div_ceil(ARENA));
        for slot in slots.rev() {
            let Some(arena) = self.arena(slot) else { continue };
            // SAFETY: under the mheap lock.
            let pages = unsafe { arena.pages() };
            if pages.backed == 0 {
                continue;
            }
            let before = ((below - slot * ARENA) / PAGE).min(PAGES);
            let found = match goal {
                Goal::HugePages => {
                    let block = pages.dirty.last_block(&pages.in_use, before, HUGE);
                    block.map(|start| (start, HUGE))
                }
                Goal::Anything => last_whole_run(pages, before, most, whole),
            };
            if let Some((start, len)) = found {
                let backed = pages.dirty.count(start, len);
                let _dirty = self.mark(slot * ARENA + start * PAGE, len);
                return Some(Backed {
                    base: arena.page(start),
                    pages: len,
                    backed,
                });
            }
        }
        None
    }

    /// The number of arenas.
    pub(crate) fn arenas(&self) -> usize {
        self.arenas
    }

    /// The run of `len` pages at a multiple of `align` pages (a power of two) that has the lowest address. `None`: the
    /// system has no more address space.
    pub(crate) fn alloc(&mut self, len: usize, align: usize) -> Option<Run> {
        debug_assert!(len > 0 && align.is_power_of_two());
        // The alignment and the length in bytes must not overflow.
        if len.checked_add(align)? > isize::MAX as usize / PAGE {
            return None;
        }
        if let Some(run) = self.find(len, align) {
            return Some(run);
        }
        self.grow(len, align)?;
        self.find(len, align)
    }

    fn find(&mut self, len: usize, align: usize) -> Option<Run> {
        let mut from = self.slots.start * PAGES;
        loop {
            let start = self.tree.find(from, len)?;
            let aligned = start.next_multiple_of(align);
            if aligned == start {
                let dirty = self.mark(start * PAGE, len);
                return Some(Run {
                    base: page(start)?,
                    dirty,
                });
            }
            // Whatever starts at a multiple of `align` starts here or later.
            from = aligned;
        }
    }

    /// Takes what is free of the block of 64 pages in which the lowest free page lies: the start of the block, and a bit
    /// for each page taken. `None`: the system has no more address space.
    pub(crate) fn alloc_block(&mut self) -> Option<(NonNull<u8>, u64)> {
        let lowest = match self.tree.find(self.slots.start * PAGES, 1) {
            Some(lowest) => lowest,
            None => {
                self.grow(1, 1)?;
                self.tree.find(self.slots.start * PAGES, 1)?
            }
        };
        let block = lowest / 64 * 64;
        // SAFETY: under the mheap lock.
        let taken = unsafe { arena::at(block / PAGES)?.pages() }.in_use.word(block % PAGES);
        let free = !taken;
        for (start, len) in runs(free) {
            let _dirty = self.mark((block + start) * PAGE, len);
        }
        Some((page(block)?, free))
    }

    /// Gives back pages of a block that [`alloc_block`](Self::alloc_block) took. `false` as for `free`.
    #[must_use]
    pub(crate) fn free_block(&mut self, base: NonNull<u8>, bits: u64) -> bool {
        runs(bits).all(|(start, len)| {
            // SAFETY: the block has 64 pages.
            let run = unsafe { base.add(start * PAGE) };
            // Some of them may have been in use before.
            self.free(run, len, false)
        })
    }

    /// Whether `len` pages from `base` on are all ours and free.
    fn is_free(&self, base: usize, len: usize) -> bool {
        arena::pieces(base, len).all(|(slot, start, n)| {
            self.arena(slot)
                // SAFETY: under the mheap lock.
                .is_some_and(|arena| unsafe { arena.pages() }.in_use.is_clear(start, n))
        })
    }

    /// The arena in a slot, if it is ours.
    fn arena(&self, slot: usize) -> Option<&'static Arena> {
        arena::at(slot).filter(|arena| arena.owner() == self.owner)
    }

    /// Sums up the chunks of an arena that these pages lie in, and what is above them.
    fn sum_up(&mut self, slot: usize, pages: &mut Pages, start: usize, len: usize) {
        for chunk in start / CHUNK..(start + len).div_ceil(CHUNK) {
            pages.sums[chunk] = summary::chunk_sum(&pages.in_use, chunk);
        }
        self.tree.set(slot, Sum::of(&pages.sums, CHUNK));
    }

    /// Takes free pages. Says which may not read as zero: from the first to the last, counted from `base`.
    fn mark(&mut self, base: usize, len: usize) -> Range<usize> {
        let mut dirty = 0..0;
        let mut before = 0;
        for (slot, start, n) in arena::pieces(base, len) {
            let Some(arena) = self.arena(slot) else { continue };
            // SAFETY: under the mheap lock.
            let pages = unsafe { arena.pages() };
            #[cfg(feature = "asan")]
            crate::asan::opened(arena.page(start), n * PAGE);
            let taken = pages.in_use.insert(start, n);
            debug_assert!(taken, "a page was handed out twice");
            let backed = pages.dirty.count(start, n);
            pages.backed -= backed;
            self.backed -= backed;
            if backed > 0 {
                let here = pages.dirty.hull(start, n);
                let moved = |page: usize| page - start + before;
                dirty = if dirty.is_empty() {
                    moved(here.start)
                } else {
                    dirty.start
                }..moved(here.end);
            }
            let _clean = pages.dirty.insert(start, n);
            before += n;
            self.in_use += n;
            self.sum_up(slot, pages, start, n);
        }
        dirty
    }

    /// Takes the pages from `base + len` to `base + new_len` as well, if they are free.
    /// `base` is the start of a run of `len` pages.
    pub(crate) fn extend(&mut self, base: NonNull<u8>, len: usize, new_len: usize) -> bool {
        let base = base.addr().get();
        let (end, more) = (base + len * PAGE, new_len - len);
        // (A run that is longer than the address space does not get this far: the first arena that is not ours ends it.)
        if end.checked_add(more.saturating_mul(PAGE)).is_none() || !self.is_free(end, more) {
            return false;
        }
        let _dirty = self.mark(end, more);
        true
    }

    /// Gives pages back; `fresh` says that they read as zero. `false`: some of them are not ours, or free already.
    #[must_use]
    pub(crate) fn free(&mut self, base: NonNull<u8>, len: usize, fresh: bool) -> bool {
        let base = base.addr().get();
        for (slot, start, n) in arena::pieces(base, len) {
            let Some(arena) = self.arena(slot) else {
                return false;
            };
            // SAFETY: under the mheap lock.
            let pages = unsafe { arena.pages() };
            if !pages.in_use.remove(start, n) {
                return false;
            }
            if fresh {
                let _dirty = pages.dirty.remove(start, n);
            } else {
                pages.backed += n;
                self.backed += n;
            }
            self.in_use -= n;
            self.sum_up(slot, pages, start, n);
        }
        true
    }

    /// Maps arenas enough for a run of `len` pages at a multiple of `align`: as many as there are already, within
    /// limits, so that mappings stay few, or fewer if the system refuses.
    #[cold]
    fn grow(&mut self, len: usize, align: usize) -> Option<()> {
        let needed = len.div_ceil(PAGES);
        // A gibibyte of objects, or 4 GiB of stacks, at a time at most.
        let limit = match self.kind {
            ArenaKind::Object => 16,
            ArenaKind::Stack => 64,
        };
        let mut count = self.arenas.clamp(1, limit).max(needed);
        let align = ARENA.max(align * PAGE);
        let hint = if align == ARENA { self.slots.end * ARENA } else { 0 };
        loop {
            let bytes = count.checked_mul(ARENA)?;
            match mem::map(bytes, align, hint) {
                Some(base) => return self.adopt(base, count),
                None if count == needed => return None,
                None => count = (count / 2).max(needed),
            }
        }
    }

    /// Makes arenas of a fresh mapping.
    fn adopt(&mut self, base: NonNull<u8>, count: usize) -> Option<()> {
        if self.kind == ArenaKind::Stack {
            // SAFETY: the mapping is as long as this.
            unsafe { mem::no_huge_pages(base, count * ARENA) };
        }
        for i in 0..count {
            // SAFETY: `count` arenas lie in the mapping from `base` on.
            let at = unsafe { base.add(i * ARENA) };
            // SAFETY: under the mheap lock; the mapping is new, aligned, and kept if the arena is registered.
            let registered = self
                .tree
                .grow(arena::slot(at.addr().get()))
                .and_then(|()| unsafe { Arena::register(at, self.kind, self.owner) });
            if registered.is_none() {
                // SAFETY: the rest of the mapping, of which nobody knows.
                unsafe { mem::unmap(at, (count - i) * ARENA) };
                return (i > 0).then_some(());
            }
            let slot = arena::slot(at.addr().get());
            self.slots = if self.arenas == 0 {
                slot..slot + 1
            } else {
                self.slots.start.min(slot)..self.slots.end.max(slot + 1)
            };
            self.tree.set(slot, Sum::of(&summary::ALL_FREE, CHUNK));
            self.arenas += 1;
        }
        Some(())
    }
}

/// The address of a page.
fn page(index: usize) -> Option<NonNull<u8>> {
    Some(arena::at(index / PAGES)?.page(index % PAGES))
}

/// The highest run of pages below `before` that are free and dirty, of about `most` at most, without what at its ends is not `whole` pages
/// of the system: start and length.
fn last_whole_run(pages: &Pages, mut before: usize, most: usize, whole: usize) -> Option<(usize, usize)> {
    loop {
        let (first, len) = pages.dirty.last_run(&pages.in_use, before, most + 2 * (whole - 1))?;
        let (start, end) = (first.next_multiple_of(whole), (first + len) / whole * whole);
        if start < end {
            return Some((start, end - start));
        }
        before = first;
    }
}

/// The runs of set bits, lowest first: start and length.
fn runs(mut bits: u64) -> impl Iterator<Item = (usize, usize)> {
    core::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let start = bits.trailing_zeros();
        let len = (bits >> start).trailing_ones();
        bits &= !((u64::MAX >> (64 - len)) << start);
        Some((start as usize, len as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pagebits::CHUNKS, rng::Rng};
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    /// The runs that are out: first page (counted from address 0) → length.
    type Model = std::collections::BTreeMap<usize, usize>;

    /// A page allocator with arenas of its own, beside that of the heap.
    fn alone(kind: ArenaKind) -> PageAlloc {
        static NEXT: AtomicU8 = AtomicU8::new(100);
        PageAlloc::new(kind, NEXT.fetch_add(1, Relaxed))
    }

    /// Checks every arena against the model, and the invariants.
    fn check(pa: &PageAlloc, model: &Model) {
        let (mut found, mut in_use, mut backed) = (0, 0, 0);
        for slot in pa.slots.clone() {
            let Some(arena) = pa.arena(slot) else { continue };
            found += 1;
            // SAFETY: the arena is this test's own.
            let pages = unsafe { arena.pages() };
            let free = (0..PAGES).filter(|&i| pages.in_use.is_clear(i, 1)).count();
            let dirty = (0..PAGES).filter(|&i| pages.in_use.is_clear(i, 1) && !pages.dirty.is_clear(i, 1));
            assert_eq!(pages.backed, dirty.count());
            (in_use, backed) = (in_use + PAGES - free, backed + pages.backed);
            for chunk in 0..CHUNKS {
                assert_eq!(pages.sums[chunk], summary::chunk_sum(&pages.in_use, chunk));
            }
        }
        assert_eq!((found, in_use, backed), (pa.arenas, pa.in_use, pa.backed));
        assert_eq!(in_use, model.values().sum::<usize>());
        for (&start, &len) in model {
            for (slot, at, n) in arena::pieces(start * PAGE, len) {
                // SAFETY: the arena is this test's own.
                let pages = unsafe { arena::at(slot).unwrap().pages() };
                assert!(
                    (at..at + n).all(|i| !pages.in_use.is_clear(i, 1)),
                    "a page that is out is marked free"
                );
            }
        }
    }

    /// A pointer that is only good as an address.
    fn at(index: usize) -> NonNull<u8> {
        NonNull::without_provenance(core::num::NonZero::new(index * PAGE).unwrap())
    }

    /// The lowest place where a run could go, looked for gap by gap.
    fn first_fit(pa: &PageAlloc, model: &Model, len: usize, align: usize) -> Option<usize> {
        let mut gap = 0..0;
        for slot in pa.slots.clone().filter(|&slot| pa.arena(slot).is_some()) {
            if gap.end != slot * PAGES {
                gap = slot * PAGES..slot * PAGES;
            }
            let end = (slot + 1) * PAGES;
            loop {
                // The next run that is out, and ends behind the beginning of the gap.
                let next = model
                    .range(..end)
                    .rev()
                    .take_while(|&(&s, &l)| s + l > gap.start)
                    .last();
                let (start, len_out) = next.map_or((end, 0), |(&s, &l)| (s, l));
                gap.end = start.min(end);
                let aligned = gap.start.next_multiple_of(align);
                if aligned + len <= gap.end {
                    return Some(aligned);
                }
                if start >= end {
                    break;
                }
                gap = start + len_out..start + len_out;
                if gap.start >= end {
                    break;
                }
            }
            gap.end = gap.end.max(end);
        }
        None
    }

    #[test]
    fn random_traces_agree_with_a_model() {
        let mut pa = alone(ArenaKind::Object);
        let mut model = Model::new();
        let mut rng = Rng::new(11);
        for step in 0..3000 {
            let grow = rng.below(100) < if step % 1000 < 600 { 60 } else { 35 };
            if grow || model.is_empty() {
                let len = match rng.below(100) {
                    0 => PAGES + rng.below(2 * PAGES),
                    1..10 => 1 + rng.below(PAGES),
                    10..30 => 1 + rng.below(300),
                    _ => 1 + rng.below(8),
                };
                let align = if rng.below(3) == 0 { 1 << rng.below(15) } else { 1 };
                let expected = first_fit(&pa, &model, len, align);
                let arenas = pa.arenas();
                let start = pa.alloc(len, align).unwrap().base.addr().get() / PAGE;
                match expected {
                    Some(expected) => assert_eq!(start, expected, "{len} pages at {align}"),
                    None => assert!(pa.arenas() > arenas && first_fit(&pa, &model, len, align) == Some(start)),
                }
                model.insert(start, len);
            } else {
                let pick = rng.below(model.len());
                let (&start, &len) = model.iter().nth(pick).unwrap();
                let base = at(start);
                match rng.below(9) {
                    0 if len > 1 => {
                        // The second half only, as a large object that shrinks does it.
                        let keep = len / 2;
                        assert!(pa.free(at(start + keep), len - keep, false));
                        model.insert(start, keep);
                    }
                    1 => {
                        let more = len + 1 + rng.below(4);
                        let free = model.range(start + 1..start + more).next().is_none();
                        let ours = (start + len..start + more).all(|page| pa.arena(page / PAGES).is_some());
                        assert_eq!(pa.extend(base, len, more), free && ours, "{len} to {more} pages");
                        if free && ours {
                            model.insert(start, more);
                        }
                    }
                    2 => {
                        let lowest = first_fit(&pa, &model, 1, 1);
                        let arenas = pa.arenas();
                        let (block, bits) = pa.alloc_block().unwrap();
                        let block = block.addr().get() / PAGE;
                        assert!(block.is_multiple_of(64) && bits != 0);
                        match lowest {
                            Some(lowest) => assert_eq!(block + bits.trailing_zeros() as usize, lowest),
                            None => assert!(pa.arenas() > arenas),
                        }
                        for (start, len) in runs(bits) {
                            assert!(model.range(block + start..block + start + len).next().is_none());
                            model.insert(block + start, len);
                        }
                        if rng.below(2) == 0 {
                            assert!(pa.free_block(at(block), bits));
                            assert!(!pa.free_block(at(block), bits), "freed twice");
                            model.retain(|&start, _| start / 64 != block / 64 || bits >> (start % 64) & 1 == 0);
                        }
                    }
                    _ => {
                        assert!(pa.free(base, len, rng.below(2) == 0));
                        assert!(!pa.free(base, len, false), "freed twice");
                        model.remove(&start);
                    }
                }
            }
            if step % 250 == 0 {
                check(&pa, &model);
            }
        }
        for (start, len) in std::mem::take(&mut model) {
            assert!(pa.free(at(start), len, true));
        }
        check(&pa, &model);
        // All is one again: the longest run of side-by-side arenas can be had without growing.
        let arenas = pa.arenas();
        assert!(pa.alloc(PAGES, PAGES).is_some());
        assert_eq!(pa.arenas(), arenas);
    }

    #[test]
    fn the_bits_of_a_block_fall_into_runs() {
        assert_eq!(runs(0).count(), 0);
        assert_eq!(runs(u64::MAX).collect::<Vec<_>>(), [(0, 64)]);
        assert_eq!(runs(0b1110_0101).collect::<Vec<_>>(), [(0, 1), (2, 1), (5, 3)]);
        assert_eq!(runs(3 << 62).collect::<Vec<_>>(), [(62, 2)]);
    }

    #[test]
    fn zeroed_means_never_dirty() {
        let mut pa = alone(ArenaKind::Object);
        let a = pa.alloc(4, 1).unwrap();
        assert_eq!(a.dirty, 0..0);
        assert!(pa.free(a.base, 4, false));
        let b = pa.alloc(2, 1).unwrap();
        assert_eq!(b.dirty, 0..2, "what was out once may have been written to");
        let c = pa.alloc(6, 1).unwrap();
        assert_eq!(c.dirty, 0..2, "two pages of it were out once");
        assert!(pa.free(c.base, 6, true));
        let d = pa.alloc(PAGES + 9, 1).unwrap();
        assert_eq!(d.dirty, 0..0, "given back as fresh");
        // In two arenas, from the last pages of one to the first of the other.
        let at = |index: usize| at(d.base.addr().get() / PAGE + index);
        for page in [PAGES - 9, PAGES + 3] {
            assert!(pa.free(at(page), 1, false));
        }
        assert!(pa.free(at(0), PAGES - 9, true) && pa.free(at(PAGES - 8), 11, true) && pa.free(at(PAGES + 4), 5, true));
        assert_eq!(pa.alloc(PAGES + 9, 1).unwrap().dirty, PAGES - 9..PAGES + 4);
    }

    #[test]
    fn what_is_backed_is_found_from_the_top() {
        let mut pa = alone(ArenaKind::Object);
        assert!(pa.take_backed(Goal::Anything, usize::MAX, 100, 1).is_none());
        let run = pa.alloc(2 * PAGES, 1).unwrap();
        let at = |index: usize| at(run.base.addr().get() / PAGE + index);
        assert!(
            pa.take_backed(Goal::Anything, usize::MAX, 100, 1).is_none(),
            "nothing is free"
        );
        for (start, len) in [(3, 10), (2 * HUGE - 1, HUGE + 2), (PAGES + 7, 300)] {
            assert!(pa.free(at(start), len, false));
        }
        // One whole block of 2 MiB, in the midst of a longer run.
        let huge = pa.take_backed(Goal::HugePages, usize::MAX, 1, 1).unwrap();
        assert_eq!((huge.base, huge.pages, huge.backed), (at(2 * HUGE), HUGE, HUGE));
        assert!(pa.take_backed(Goal::HugePages, usize::MAX, 1, 1).is_none());
        assert!(pa.free(huge.base, huge.pages, true));
        // Below an address, in an arena and at its start.
        for (below, start, len) in [(PAGES + 107, PAGES + 97, 10), (PAGES, 3 * HUGE, 1), (5, 3, 2)] {
            let below = at(below).addr().get();
            let run = pa.take_backed(Goal::Anything, below, 10, 1).unwrap();
            assert_eq!((run.base, run.pages), (at(start), len));
            assert!(pa.free(run.base, run.pages, false));
        }
        assert!(pa.take_backed(Goal::Anything, at(3).addr().get(), 10, 1).is_none());
        // Where the system's pages have eight of the heap's: what is not a whole one is passed by.
        let (mut below, mut found) = (usize::MAX, Vec::new());
        while let Some(run) = pa.take_backed(Goal::Anything, below, 256, 8) {
            below = run.base.addr().get();
            found.push((run.base, run.pages));
            assert!(pa.free(run.base, run.pages, false));
        }
        let expected = [(PAGES + 40, 264), (PAGES + 8, 32)];
        assert_eq!(found, expected.map(|(start, len)| (at(start), len)));
        // From the highest address down.
        let mut found = Vec::new();
        while let Some(run) = pa.take_backed(Goal::Anything, usize::MAX, 200, 1) {
            assert_eq!(run.pages, run.backed);
            found.push((run.base, run.pages));
            assert!(pa.free(run.base, run.pages, true));
        }
        let expected = [
            (PAGES + 107, 200),
            (PAGES + 7, 100),
            (3 * HUGE, 1),
            (2 * HUGE - 1, 1),
            (3, 10),
        ];
        assert_eq!(found, expected.map(|(start, len)| (at(start), len)));
        assert_eq!(pa.backed(), 0);
    }

    #[test]
    fn long_runs_join_arenas_and_large_alignments_work() {
        let mut pa = alone(ArenaKind::Stack);
        let long = pa.alloc(3 * PAGES + 5, 1).unwrap();
        // SAFETY: the last byte of the run.
        unsafe { long.base.add((3 * PAGES + 5) * PAGE - 1).write(1) };
        assert!(pa.free(long.base, 3 * PAGES + 5, false));
        let again = pa.alloc(2 * PAGES, 1).unwrap();
        assert_eq!(again.base, long.base, "the same arenas");
        for align in [PAGES, 2 * PAGES, 16 * PAGES] {
            let run = pa.alloc(1, align).unwrap();
            assert!(run.base.addr().get().is_multiple_of(align * PAGE));
        }
        assert!(pa.alloc(usize::MAX / PAGE, 1).is_none());
        assert!(pa.alloc(1 << 40, 1).is_none());
    }
}
