//! The bins of an mcache: what the fast path touches, and nothing else.
//!
//! ```text
//!   Bins[class]   head ─▶ ○ ─▶ ○ ─▶ ○          alloc pops, free pushes: a few plain loads and stores
//!                 avail, room                  how many pops and pushes until somebody counts
//! ```
//!
//! Nothing here looks whether the list is empty or full: `avail` and `room` say how often that is not needed, and who has
//! used one of them up goes to [`mcache`](crate::mcache), which settles.

use crate::{
    chain::Free,
    countdown::Countdowns,
    sizeclass::{BIN, BinAt, CLASSES},
};
use core::{
    cell::Cell,
    mem::offset_of,
    ptr::{self, NonNull},
};

/// What the fast path touches of a class: a quarter of a cache line.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Bin {
    /// [`AVAIL`] and [`ROOM`]. First, since that is what the address of a bin is computed for.
    left: Countdowns,
    /// The first object of the list.
    pub(crate) head: Cell<*mut Free>,
}

/// Pops until the next settlement; never more than there are objects on the list.
const AVAIL: usize = 0;
/// Pushes until the next settlement.
const ROOM: usize = 1;

/// The bins of a cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Bins([Bin; CLASSES]);

// SAFETY: `head` is touched by the owner of the cache alone, after a successful countdown (of `NO_BINS`, by
// nobody); the rest is atomic.
unsafe impl Sync for Bins {}

/// The bins of no cache: nothing can be had from them, and nothing put there.
pub(crate) static NO_BINS: Bins = Bins::new();

impl Bin {
    const fn new() -> Self {
        Self {
            left: Countdowns::empty(),
            head: Cell::new(ptr::null_mut()),
        }
    }

    /// How often may still be popped, and pushed.
    pub(crate) fn left(&self) -> (u32, u32) {
        (self.left.left::<AVAIL>(), self.left.left::<ROOM>())
    }

    /// Says how often may be popped and pushed from now on. Call it as the owner; the list has `avail` objects.
    pub(crate) fn grant(&self, avail: u32, room: u32) {
        self.left.set::<AVAIL>(avail);
        self.left.set::<ROOM>(room);
    }
}

impl Bins {
    /// Bins that have nothing and take nothing, until they are granted it.
    pub(crate) const fn new() -> Self {
        Self([const { Bin::new() }; CLASSES])
    }

    /// The bin of a class.
    #[inline(always)]
    pub(crate) fn at(&self, at: BinAt) -> &Bin {
        const { assert!(size_of::<Bin>() == BIN && offset_of!(Bin, left) == 0) };
        // SAFETY: the offset is the number of a class times the size of a bin.
        unsafe { &*ptr::from_ref(self).byte_add(at.offset()).cast() }
    }

    /// Takes an object off the list, if that is known to have one.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, or these are `NO_BINS`.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self, at: BinAt) -> Option<NonNull<u8>> {
        // SAFETY: a bin begins with its countdowns.
        if !unsafe { Countdowns::down::<AVAIL, _>(self, at.offset()) } {
            return None;
        }
        let head = &self.at(at).head;
        // SAFETY: no more objects are popped than the list had at the last settlement, so it is not empty.
        let object = unsafe { NonNull::new_unchecked(head.get()) };
        // SAFETY: what is on the list is a free object that holds a link.
        head.set(unsafe { object.read() }.next);
        Some(object.cast())
    }

    /// Puts an object on the list. `false`, and the object is not there, if the list is not known to have room.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, or these are `NO_BINS`; and the object, which is of this class.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, object: NonNull<u8>, at: BinAt) -> bool {
        // SAFETY: as in `pop`.
        if !unsafe { Countdowns::down::<ROOM, _>(self, at.offset()) } {
            return false;
        }
        let head = &self.at(at).head;
        let object = object.cast::<Free>();
        // SAFETY: the object is free and holds at least a word.
        unsafe { object.write(Free { next: head.get() }) };
        head.set(object.as_ptr());
        true
    }
}

/// Keeps the countdowns of `NO_BINS`, which everybody counts down in vain, from ever coming round to a positive number.
pub(crate) fn no_bins_stay_empty(at: BinAt) {
    NO_BINS.at(at).left.stay_empty();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_is_a_quarter_of_a_cache_line() {
        assert_eq!(size_of::<Bin>(), 16);
    }
}
