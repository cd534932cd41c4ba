//! The page cache of a P: some free pages of one block of 64, for spans of small objects.
//!
//! ```text
//!   mcentral ─ a span ─▶ this P's PageCache: base, 1 bit a page ─▶ n pages in a row          no lock of the mheap's
//!                           ▲ empty: what is free of the block in which the lowest free page lies
//!                         mheap
//! ```
//!
//! Pages go back to the mheap and not to the cache when their span does, so that they join their neighbours. The idea is that
//! of Go's `pageCache` (`runtime/mpagecache.go`).
//!
//! The owner of the P that carries the cache touches it, inside a section or as a taker; the number of pages in it is an
//! atomic so that others may read it.

use crate::sizeclass::PAGE;
use core::{
    cell::Cell,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Free pages that a P carries.
pub(crate) struct PageCache {
    base: Cell<NonNull<u8>>,
    /// Bit i is set if the page i after `base` is here.
    free: AtomicU64,
}

impl PageCache {
    pub(crate) const fn new() -> Self {
        Self {
            base: Cell::new(NonNull::dangling()),
            free: AtomicU64::new(0),
        }
    }

    /// Takes the lowest `pages` pages in a row.
    pub(crate) fn take(&self, pages: usize) -> Option<NonNull<u8>> {
        let free = self.free.load(Relaxed);
        let start = row(free, pages)?;
        self.free.store(free & !(mask(pages) << start), Relaxed);
        // SAFETY: the pages belong to one block.
        Some(unsafe { self.base.get().add(start as usize * PAGE) })
    }

    /// Puts pages of a block in, and gives what was there before.
    pub(crate) fn replace(&self, base: NonNull<u8>, free: u64) -> (NonNull<u8>, u64) {
        let before = (self.base.replace(base), self.free.load(Relaxed));
        self.free.store(free, Relaxed);
        before
    }

    /// Takes everything out.
    pub(crate) fn take_all(&self) -> (NonNull<u8>, u64) {
        self.replace(NonNull::dangling(), 0)
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> usize {
        self.free.load(Relaxed).count_ones() as usize
    }
}

/// The lowest `pages` bits.
pub(crate) fn mask(pages: usize) -> u64 {
    debug_assert!((1..=64).contains(&pages));
    u64::MAX >> (64 - pages)
}

/// Where the lowest row of so many set bits begins.
pub(crate) fn row(mut bits: u64, pages: usize) -> Option<u32> {
    // After each step a bit says that a row of `long` begins there.
    let mut long = 1;
    while long < pages {
        let step = long.min(pages - long);
        bits &= bits >> step;
        long += step;
    }
    (pages <= 64 && bits != 0).then(|| bits.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn rows_are_found_where_they_are() {
        let mut rng = Rng::new(9);
        for _ in 0..3000 {
            let bits = rng.next() | rng.next() & rng.next();
            for pages in 1..=16 {
                let naive = (0..=64 - pages as u32).find(|&start| bits >> start & mask(pages) == mask(pages));
                assert_eq!(row(bits, pages), naive, "{pages} of {bits:#b}");
            }
        }
        assert_eq!(
            (row(u64::MAX, 64), row(u64::MAX - 1, 64), row(0, 1)),
            (Some(0), None, None)
        );
        assert_eq!(row(u64::MAX, 65), None);
    }

    #[test]
    fn pages_go_out_once() {
        let base = NonNull::without_provenance(core::num::NonZero::new(64 * PAGE).unwrap());
        let cache = PageCache::new();
        assert_eq!(cache.take(1), None);
        cache.replace(base, 0b1111_0110);
        assert_eq!(cache.take(3).map(|at| at.addr().get()), Some(68 * PAGE));
        assert_eq!(cache.take(2).map(|at| at.addr().get()), Some(65 * PAGE));
        assert_eq!((cache.take(2), cache.pages()), (None, 1));
        assert_eq!(cache.take_all(), (base, 1 << 7));
        assert_eq!((cache.take(1), cache.pages()), (None, 0));
    }
}
