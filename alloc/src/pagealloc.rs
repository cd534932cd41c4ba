//! The page allocator: runs of pages, the one with the lowest address that fits.
//!
//! ```text
//!   hints    … 0 │ 0 │ 8192 │ 17 │ 0 │ 300 │ …      by slot of the arena map: the longest free run is at most this
//!                       │      │         │
//!   in_use           arena   arena     arena         looked into only if the hint is long enough
//! ```
//!
//! The slots of the arena map are in the order of addresses, so going through the hints from the lowest slot up and
//! taking the first run that fits *is* lowest-address first fit, which keeps the heap packed at one end. A hint is an
//! upper bound: it goes up at once when a run is freed, and down when a search finds that it promised too much.
//!
//! A run of more pages than an arena has takes whole arenas that lie side by side, and a part of the last one.
//!
//! # Invariants
//!
//! 1. `hints[slot] > 0` only for arenas of this page allocator.
//! 2. No run of free pages of an arena is longer than its hint.
//! 3. `pages.free` is the number of clear bits in `pages.in_use`, and no page below `pages.first` is clear.
//! 4. A page that is not in `pages.dirty` reads as zero.
//! 5. `pages.backed` counts the pages that are free and dirty, and `backed` is the sum of that over all arenas. Those are
//!    the ones that the scavenger can give back to the kernel. `in_use` counts the pages that are not free.

use crate::{
    arena::{self, ARENA, Arena, ArenaKind, SLOTS},
    pagebits::{PAGES, Search},
    sizeclass::PAGE,
    sys::mem,
};
use core::{
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

/// The hints of all slots. Atomic only so that it can be a static: the mheap lock guards it.
pub(crate) struct Hints([AtomicU16; SLOTS]);

impl Hints {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU16::new(0) }; SLOTS])
    }

    fn get(&self, slot: usize) -> usize {
        self.0.get(slot).map_or(0, |hint| hint.load(Relaxed).into())
    }

    fn set(&self, slot: usize, longest: usize) {
        debug_assert!(longest <= PAGES);
        self.0[slot].store(longest as u16, Relaxed);
    }
}

/// The pages of all arenas of one kind. Lives under the mheap lock.
pub(crate) struct PageAlloc {
    kind: ArenaKind,
    hints: &'static Hints,
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) base: NonNull<u8>,
    /// Whether every byte of it reads as zero.
    pub(crate) zeroed: bool,
}

impl PageAlloc {
    pub(crate) const fn new(kind: ArenaKind, hints: &'static Hints) -> Self {
        Self {
            kind,
            hints,
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

    /// Takes free pages that may be backed, those with the highest addresses: about `most` at most, but a whole huge page
    /// if that is asked for. They are out until they are freed.
    pub(crate) fn take_backed(&mut self, goal: Goal, most: usize) -> Option<Backed> {
        if self.backed == 0 {
            return None;
        }
        for slot in self.slots.clone().rev() {
            if self.hints.get(slot) == 0 {
                continue;
            }
            let Some(arena) = arena::at(slot) else { continue };
            // SAFETY: under the mheap lock.
            let pages = unsafe { arena.pages() };
            if pages.backed == 0 {
                continue;
            }
            let found = match goal {
                Goal::HugePages => pages.dirty.last_block(&pages.in_use, HUGE).map(|start| (start, HUGE)),
                Goal::Anything => pages.dirty.last_run(&pages.in_use, most),
            };
            if let Some((start, len)) = found {
                let backed = pages.dirty.count(start, len);
                let _zeroed = self.mark(slot * ARENA + start * PAGE, len);
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
        for slot in self.slots.clone() {
            let hint = self.hints.get(slot);
            if hint == 0 || hint < len.min(PAGES) {
                continue;
            }
            let Some(arena) = arena::at(slot) else { continue };
            let base = slot * ARENA;
            let start = if len <= PAGES && align <= PAGES {
                // SAFETY: under the mheap lock.
                let pages = unsafe { arena.pages() };
                pages.first = pages.in_use.first_clear(pages.first);
                match pages.in_use.search(pages.first, len, align) {
                    Search::Found(start) => start,
                    Search::Longest(longest) => {
                        self.hints.set(slot, longest);
                        continue;
                    }
                }
            } else if base.is_multiple_of(align * PAGE) && self.is_free(base, len) {
                0
            } else {
                continue;
            };
            let zeroed = self.mark(base + start * PAGE, len);
            return Some(Run {
                base: arena.page(start),
                zeroed,
            });
        }
        None
    }

    /// Whether `len` pages from `base` on are all ours and free.
    fn is_free(&self, base: usize, len: usize) -> bool {
        arena::pieces(base, len).all(|(slot, start, n)| {
            self.hints.get(slot) >= n
                // SAFETY: under the mheap lock.
                && arena::at(slot).is_some_and(|a| unsafe { a.pages() }.in_use.is_clear(start, n))
        })
    }

    /// Takes free pages. Says whether they all read as zero.
    fn mark(&mut self, base: usize, len: usize) -> bool {
        let mut zeroed = true;
        for (slot, start, n) in arena::pieces(base, len) {
            let Some(arena) = arena::at(slot) else { continue };
            // SAFETY: under the mheap lock.
            let pages = unsafe { arena.pages() };
            let taken = pages.in_use.insert(start, n);
            debug_assert!(taken, "a page was handed out twice");
            let backed = pages.dirty.count(start, n);
            pages.backed -= backed;
            self.backed -= backed;
            zeroed &= pages.dirty.insert(start, n);
            pages.free -= n;
            self.in_use += n;
        }
        zeroed
    }

    /// Takes the pages from `base + len` to `base + new_len` as well, if they are free and the whole stays in one arena.
    /// `base` is the start of a run of `len` pages.
    pub(crate) fn extend(&mut self, base: NonNull<u8>, len: usize, new_len: usize) -> bool {
        let base = base.addr().get();
        let (end, more) = (base + len * PAGE, new_len - len);
        if end.is_multiple_of(ARENA) || arena::pieces(base, new_len).count() > 1 || !self.is_free(end, more) {
            return false;
        }
        let _zeroed = self.mark(end, more);
        true
    }

    /// Gives pages back; `fresh` says that they read as zero. `false`: some of them are not ours, or free already.
    #[must_use]
    pub(crate) fn free(&mut self, base: NonNull<u8>, len: usize, fresh: bool) -> bool {
        let base = base.addr().get();
        for (slot, start, n) in arena::pieces(base, len) {
            let Some(arena) = arena::at(slot).filter(|_| self.slots.contains(&slot)) else {
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
            pages.free += n;
            self.in_use -= n;
            pages.first = pages.first.min(start);
            let run = pages.in_use.run_around(start, n);
            self.hints.set(slot, self.hints.get(slot).max(run));
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
            if unsafe { Arena::register(at, self.kind) }.is_none() {
                // SAFETY: the rest of the mapping, of which nobody knows.
                unsafe { mem::unmap(at, (count - i) * ARENA) };
                return (i > 0).then_some(());
            }
            let slot = arena::slot(at.addr().get());
            self.hints.set(slot, PAGES);
            self.slots = if self.arenas == 0 {
                slot..slot + 1
            } else {
                self.slots.start.min(slot)..self.slots.end.max(slot + 1)
            };
            self.arenas += 1;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The runs that are out: base page (counted from address 0) → length.
    type Model = std::collections::BTreeMap<usize, usize>;

    /// Checks every arena against the model, and invariants 1 to 3.
    fn check(pa: &PageAlloc, model: &Model) {
        let (mut found, mut in_use, mut backed) = (0, 0, 0);
        for slot in 0..SLOTS {
            let hint = pa.hints.get(slot);
            if !pa.slots.contains(&slot) {
                assert_eq!(hint, 0);
                continue;
            }
            let Some(arena) = arena::at(slot).filter(|_| hint > 0) else {
                continue;
            };
            found += 1;
            // SAFETY: the arena is this test's own.
            let pages = unsafe { arena.pages() };
            let free = (0..PAGES).filter(|&i| pages.in_use.is_clear(i, 1)).count();
            assert_eq!(pages.free, free);
            let dirty = (0..PAGES).filter(|&i| pages.in_use.is_clear(i, 1) && !pages.dirty.is_clear(i, 1));
            assert_eq!(pages.backed, dirty.count());
            (in_use, backed) = (in_use + PAGES - free, backed + pages.backed);
            assert!(pages.in_use.first_clear(0) >= pages.first);
            match pages.in_use.search(0, PAGES, 1) {
                Search::Found(_) => assert_eq!(hint, PAGES),
                Search::Longest(longest) => assert!(hint >= longest),
            }
        }
        assert!(found <= pa.arenas);
        assert!(in_use <= pa.in_use && backed == pa.backed);
        assert_eq!(pa.in_use, model.values().sum::<usize>());
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
    fn page(index: usize) -> NonNull<u8> {
        NonNull::without_provenance(core::num::NonZero::new(index * PAGE).unwrap())
    }

    /// Whether the model has room for a run there.
    fn is_free(model: &Model, start: usize, len: usize) -> bool {
        model
            .range(..start + len)
            .next_back()
            .is_none_or(|(&s, &l)| s + l <= start)
    }

    #[test]
    fn random_traces_agree_with_a_model() {
        static HINTS: Hints = Hints::new();
        let mut pa = PageAlloc::new(ArenaKind::Object, &HINTS);
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
                let align = if rng.below(3) == 0 { 1 << rng.below(14) } else { 1 };
                let arenas = pa.arenas();
                let run = pa.alloc(len, align).unwrap();
                let start = run.base.addr().get() / PAGE;
                assert!(
                    start.is_multiple_of(align) && is_free(&model, start, len),
                    "{len} pages at {align}"
                );
                if arenas == pa.arenas() && len <= PAGES && align <= PAGES {
                    // First fit: nothing lower in any arena would have done.
                    for slot in pa.slots.start..=arena::slot(start * PAGE) {
                        let first = (slot * PAGES).max(pa.slots.start * PAGES);
                        let last = ((slot + 1) * PAGES - len).min(start.saturating_sub(1));
                        let ours = HINTS.get(slot) > 0;
                        let mut at = first;
                        while ours && at <= last {
                            assert!(
                                !is_free(&model, at, len),
                                "page {at} would have been lower than {start}"
                            );
                            let blocker = model.range(..at + len).next_back().map(|(&s, &l)| s + l).unwrap();
                            at = blocker.next_multiple_of(align).max(at + align);
                        }
                    }
                }
                model.insert(start, len);
            } else {
                let pick = rng.below(model.len());
                let (&start, &len) = model.iter().nth(pick).unwrap();
                let base = page(start);
                match rng.below(8) {
                    0 if len > 1 => {
                        // The second half only, as a large object that shrinks does it.
                        let keep = len / 2;
                        assert!(pa.free(page(start + keep), len - keep, false));
                        model.insert(start, keep);
                    }
                    1 => {
                        let more = len + 1 + rng.below(4);
                        let in_arena = (start % PAGES) + more <= PAGES && (start % PAGES) + len < PAGES;
                        let fits = in_arena && is_free_after(&model, start, more);
                        assert_eq!(pa.extend(base, len, more), fits, "{len} to {more} pages");
                        if fits {
                            model.insert(start, more);
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
            assert!(pa.free(page(start), len, true));
        }
        check(&pa, &model);
        // All is one again: the longest run of side-by-side arenas can be had without growing.
        let arenas = pa.arenas();
        assert!(pa.alloc(PAGES, PAGES).is_some());
        assert_eq!(pa.arenas(), arenas);
    }

    /// Whether a run that starts at `start` could be `len` pages long.
    fn is_free_after(model: &Model, start: usize, len: usize) -> bool {
        model.range(start + 1..start + len).next().is_none()
    }

    #[test]
    fn zeroed_means_never_dirty() {
        static HINTS: Hints = Hints::new();
        let mut pa = PageAlloc::new(ArenaKind::Object, &HINTS);
        let a = pa.alloc(4, 1).unwrap();
        assert!(a.zeroed);
        assert!(pa.free(a.base, 4, false));
        assert!(
            !pa.alloc(2, 1).unwrap().zeroed,
            "what was out once may have been written to"
        );
        let b = pa.alloc(4, 1).unwrap();
        assert!(!b.zeroed, "two pages of it were out once");
        assert!(pa.free(b.base, 4, true));
        assert!(pa.alloc(4, 1).unwrap().zeroed, "given back as fresh");
    }

    #[test]
    fn what_is_backed_is_found_from_the_top() {
        static HINTS: Hints = Hints::new();
        let mut pa = PageAlloc::new(ArenaKind::Object, &HINTS);
        assert!(pa.take_backed(Goal::Anything, 100).is_none());
        let run = pa.alloc(2 * PAGES, 1).unwrap();
        let at = |index: usize| run.base.map_addr(|a| a.checked_add(index * PAGE).unwrap());
        assert!(pa.take_backed(Goal::Anything, 100).is_none(), "nothing is free");
        for (start, len) in [(3, 10), (2 * HUGE - 1, HUGE + 2), (PAGES + 7, 300)] {
            assert!(pa.free(at(start), len, false));
        }
        // One whole block of 2 MiB, in the midst of a longer run.
        let huge = pa.take_backed(Goal::HugePages, 1).unwrap();
        assert_eq!((huge.base, huge.pages, huge.backed), (at(2 * HUGE), HUGE, HUGE));
        assert!(pa.take_backed(Goal::HugePages, 1).is_none());
        assert!(pa.free(huge.base, huge.pages, true));
        // From the highest address down.
        let mut found = Vec::new();
        while let Some(run) = pa.take_backed(Goal::Anything, 200) {
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
        static HINTS: Hints = Hints::new();
        let mut pa = PageAlloc::new(ArenaKind::Stack, &HINTS);
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
