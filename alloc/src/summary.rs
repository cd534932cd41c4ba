//! The summary tree: where the free runs of pages are, at a glance.
//!
//! ```text
//!   level 5          root: 16 entries of 1 Pi B …                     a Sum says of the pages below it:
//!     ⋮                 ⋮                                               start    free pages at its beginning
//!   level 0          node: 16 arenas of 64 MiB                          longest  the longest free run in it
//!                       │                                               end      free pages at its end
//!   arena            16 chunks of 4 MiB ─▶ a bit for each of 512 pages
//! ```
//!
//! The tree goes over the whole address space in the order of addresses. A search goes through the entries of a node from
//! the lowest up, joining the end of one with the start of the next, and down only where a run must be: so it finds
//! the lowest run of any length in a few dozen steps, and runs go over the borders of chunks, arenas and nodes alike. A
//! change of some pages sums up their chunks, and then one node on each level as long as something changes there.
//!
//! Nodes are made when the first arena below them is, and are never freed. Pages of no arena count as taken. The idea is that
//! of Go's page allocator (`runtime/mpagealloc.go`), whose tree is of flat arrays.
//!
//! # Invariant
//!
//! After `update` of all that has changed, each `Sum` on the path of an arena is that of the pages below it. The tree is
//! the mheap lock's.

use crate::{
    arena::{self, SLOTS},
    fixalloc,
    pagebits::{CHUNK, CHUNKS, PAGES, PageBits},
};
use core::{alloc::Layout, ptr};

/// Entries of a node.
const FAN: usize = 16;
/// Levels of nodes: enough for every slot of the arena map.
const LEVELS: u32 = SLOTS.ilog2().div_ceil(FAN.ilog2());

/// What there is to know of the free pages in a piece of address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) start: usize,
    pub(crate) longest: usize,
    pub(crate) end: usize,
}

impl Sum {
    /// The sum of parts that lie side by side, each of so many pages.
    pub(crate) fn of(parts: &[Sum], each: usize) -> Self {
        let mut sum = Self::default();
        // Free pages up to here, and whether all were free until now.
        let (mut run, mut all) = (0, true);
        for part in parts {
            if part.longest == each {
                run += each;
                continue;
            }
            if all {
                (sum.start, all) = (run + part.start, false);
            }
            sum.longest = sum.longest.max(run + part.start).max(part.longest);
            run = part.end;
        }
        if all {
            sum.start = run;
        }
        sum.longest = sum.longest.max(run);
        sum.end = run;
        sum
    }
}

/// A node. All zeros: no page below it is free.
struct Node {
    /// Bit i is set if `sums[i]` is not all zeros.
    some: u16,
    sums: [Sum; FAN],
    /// The nodes one level down; not used on level 0.
    kids: [*mut Node; FAN],
}

/// The pages below an entry of a node on this level.
const fn pages_at(level: u32) -> usize {
    PAGES * FAN.pow(level)
}

/// The tree of one kind of arenas. Lives under the mheap lock.
pub(crate) struct Tree {
    root: *mut Node,
}

impl Tree {
    pub(crate) const fn new() -> Self {
        Self { root: ptr::null_mut() }
    }

    /// Makes the nodes above an arena. `None`: no memory for them.
    pub(crate) fn grow(&mut self, slot: usize) -> Option<()> {
        let mut at = &mut self.root;
        for level in (0..LEVELS).rev() {
            if at.is_null() {
                // Zeroed, which is a valid node.
                *at = fixalloc::persist(Layout::new::<Node>())?.cast::<Node>().as_ptr();
            }
            // SAFETY: nodes are never freed, and the mheap lock is held.
            at = unsafe { &mut (**at).kids[entry(slot, level)] };
        }
        Some(())
    }

    /// Notes that an arena's sum is this now.
    pub(crate) fn set(&mut self, slot: usize, sum: Sum) {
        set(self.root, LEVELS - 1, slot, sum);
    }

    /// The lowest page that `len` free pages start at, and that is not below `from`; pages are counted from address 0.
    pub(crate) fn find(&self, from: usize, len: usize) -> Option<usize> {
        let mut search = Search {
            from,
            len,
            start: 0,
            run: 0,
        };
        search.node(self.root, LEVELS - 1, 0)
    }
}

/// Which entry of a node on this level the arena falls into.
fn entry(slot: usize, level: u32) -> usize {
    (slot >> (level * FAN.ilog2())) % FAN
}

/// Sets an arena's sum in the nodes from this one down, and gives this one's own if it has changed.
fn set(node: *mut Node, level: u32, slot: usize, sum: Sum) -> Option<Sum> {
    // SAFETY: `grow` made the path, nodes are never freed, and the mheap lock is held.
    let node = unsafe { node.as_mut() }?;
    let at = entry(slot, level);
    let sum = if level == 0 {
        sum
    } else {
        set(node.kids[at], level - 1, slot, sum)?
    };
    if node.sums[at] == sum {
        return None;
    }
    node.sums[at] = sum;
    let bit = 1 << at;
    node.some = if sum.longest == 0 {
        node.some & !bit
    } else {
        node.some | bit
    };
    Some(node.sum(level))
}

impl Node {
    fn sum(&self, level: u32) -> Sum {
        let each = pages_at(level);
        if self.some.is_power_of_two() {
            // A single entry, as on the upper levels of a heap of usual size.
            let at = self.some.trailing_zeros() as usize;
            let one = self.sums[at];
            return Sum {
                start: if at == 0 { one.start } else { 0 },
                longest: one.longest,
                end: if at == FAN - 1 { one.end } else { 0 },
            };
        }
        Sum::of(&self.sums, each)
    }
}

/// A search on its way through the address space, from the lowest page up.
struct Search {
    from: usize,
    len: usize,
    /// The free run that ends where the search stands.
    start: usize,
    run: usize,
}

impl Search {
    /// Adds free pages to the run, or begins one with them. Gives its start if it is long enough.
    fn free(&mut self, at: usize, pages: usize) -> Option<usize> {
        if self.run == 0 {
            self.start = at;
        }
        self.run += pages;
        (self.run >= self.len).then_some(self.start)
    }

    /// Goes past `pages` pages from `at` on, of which `sum` is known, or into them by `down`.
    fn piece(
        &mut self,
        at: usize,
        pages: usize,
        sum: Sum,
        down: impl FnOnce(&mut Self) -> Option<usize>,
    ) -> Option<usize> {
        if at + pages <= self.from {
            return None;
        }
        if sum.longest == 0 {
            self.run = 0;
            return None;
        }
        if at < self.from {
            return down(self);
        }
        if sum.longest == pages {
            return self.free(at, pages);
        }
        if let Some(start) = self.free(at, sum.start) {
            return Some(start);
        }
        if sum.longest >= self.len {
            self.run -= sum.start;
            return down(self);
        }
        (self.start, self.run) = (at + pages - sum.end, sum.end);
        None
    }

    fn node(&mut self, node: *const Node, level: u32, at: usize) -> Option<usize> {
        // SAFETY: nodes are never freed, and the mheap lock is held.
        let node = unsafe { node.as_ref() }?;
        let pages = pages_at(level);
        let mut some = node.some;
        let mut next = 0;
        while some != 0 {
            let i = some.trailing_zeros() as usize;
            some &= some - 1;
            if i != next {
                // What is in between is taken.
                self.run = 0;
            }
            next = i + 1;
            let at = at + i * pages;
            let found = self.piece(at, pages, node.sums[i], |search| match level {
                0 => search.arena(at),
                _ => search.node(node.kids[i], level - 1, at),
            });
            if found.is_some() {
                return found;
            }
        }
        if next != FAN {
            self.run = 0;
        }
        None
    }

    fn arena(&mut self, at: usize) -> Option<usize> {
        let arena = arena::at(at / PAGES)?;
        // SAFETY: the mheap lock is held.
        let pages = unsafe { arena.pages() };
        for (chunk, &sum) in pages.sums.iter().enumerate() {
            let start = chunk * CHUNK;
            let found = self.piece(at + start, CHUNK, sum, |search| search.chunk(at, start, &pages.in_use));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Looks at the pages of a chunk one run after the other.
    fn chunk(&mut self, at: usize, chunk: usize, in_use: &PageBits) -> Option<usize> {
        let end = chunk + CHUNK;
        let mut page = chunk.max(self.from.saturating_sub(at));
        if page > chunk {
            self.run = 0;
        }
        while page < end {
            let free = in_use.next(page, false).min(end);
            if free > page {
                self.run = 0;
            }
            let taken = in_use.next(free, true).min(end);
            if free < end
                && let Some(start) = self.free(at + free, taken - free)
            {
                return Some(start);
            }
            page = taken;
        }
        None
    }
}

/// The sums of an arena's chunks, when all its pages are free.
pub(crate) const ALL_FREE: [Sum; CHUNKS] = [Sum {
    start: CHUNK,
    longest: CHUNK,
    end: CHUNK,
}; CHUNKS];

/// The sum of one chunk of a bitmap.
pub(crate) fn chunk_sum(in_use: &PageBits, chunk: usize) -> Sum {
    let mut sum = Sum::default();
    let (mut run, mut all) = (0, true);
    for &word in in_use.chunk(chunk) {
        let free = !word;
        if word == 0 {
            run += 64;
            continue;
        }
        let low = free.trailing_ones() as usize;
        if all {
            (sum.start, all) = (run + low, false);
        }
        sum.longest = sum.longest.max(run + low);
        if free.count_ones() as usize > sum.longest {
            sum.longest = sum.longest.max(longest_run(free));
        }
        run = free.leading_ones() as usize;
    }
    if all {
        sum.start = run;
    }
    sum.longest = sum.longest.max(run);
    sum.end = run;
    sum
}

/// The longest run of set bits.
fn longest_run(mut bits: u64) -> usize {
    let mut longest = 0;
    while bits != 0 {
        bits &= bits << 1;
        longest += 1;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn naive(free: &[bool]) -> Sum {
        let runs = free.split(|&free| !free).map(<[bool]>::len);
        Sum {
            start: free.iter().take_while(|&&free| free).count(),
            longest: runs.max().unwrap_or(0),
            end: free.iter().rev().take_while(|&&free| free).count(),
        }
    }

    #[test]
    fn sums_agree_with_a_model() {
        let mut rng = Rng::new(21);
        for round in 0..200 {
            let mut bits = PageBits::new();
            let mut free = [true; PAGES];
            for _ in 0..[0, 1, 4, 30, 2000][round % 5] {
                let len = 1 + rng.below([PAGES, 700, 60, 3][round % 4]);
                let start = rng.below(PAGES - len + 1);
                let _overlaps = bits.insert(start, len);
                free[start..start + len].fill(false);
            }
            let sums: [Sum; CHUNKS] = core::array::from_fn(|chunk| chunk_sum(&bits, chunk));
            for (chunk, &sum) in sums.iter().enumerate() {
                assert_eq!(sum, naive(&free[chunk * CHUNK..][..CHUNK]));
            }
            assert_eq!(Sum::of(&sums, CHUNK), naive(&free));
        }
        assert_eq!(Sum::of(&ALL_FREE, CHUNK), naive(&[true; PAGES]));
    }

    /// A node with one entry takes a short cut, which must come to the same.
    #[test]
    fn a_node_of_one_entry_is_summed_as_any_other() {
        for at in [0, 1, 7, FAN - 1] {
            let mut sums = [Sum::default(); FAN];
            for (start, longest, end) in [(0, 5, 0), (3, 9, 4), (PAGES, PAGES, PAGES), (0, 8, 8), (0, 0, 0)] {
                sums[at] = Sum { start, longest, end };
                let node = Node {
                    some: if longest == 0 { 0 } else { 1 << at },
                    sums,
                    kids: [ptr::null_mut(); FAN],
                };
                assert_eq!(node.sum(0), Sum::of(&sums, PAGES));
            }
        }
    }
}
