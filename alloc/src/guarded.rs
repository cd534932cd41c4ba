//! Data behind a lock of the allocator, and the order of those locks.
//!
//! ```text
//!   (hooks)  <  trim  <  lease  <  P.lock  <  mcentral (one class at a time)  <  mheap  <  fixalloc  <  persist  <  profile
//! ```
//!
//! A thread takes locks from left to right only. (The first is a plain lock without a rank, under which `scavenge` calls hooks.)
//! Each M notes which ranks its thread holds, one bit a rank: debug builds check the order by it, and a signal handler that
//! needs a lock finds out that the code it interrupted may hold one (see `malloc::check_unlocked`). A thread without an M is just getting or losing it, or is the scavenger: with its signals held
//! off. So whatever takes a lock for a thread that may never have allocated attaches it first.

use crate::{current, lock::Lock};
use core::{
    cell::UnsafeCell,
    sync::atomic::{Ordering, compiler_fence},
};

/// Where a lock stands in the order; the value is the number of its bit in `M.locked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rank {
    /// Held for as long as it takes to empty all caches.
    Trim,
    Lease,
    Mcentral,
    Mheap,
    Fixalloc,
    Persist,
    Profile,
}

/// A value that only the holder of its lock touches.
#[derive(Debug)]
pub(crate) struct Guarded<T> {
    lock: Lock,
    rank: Rank,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by the holder of the lock alone, one thread at a time. What it points to (spans, arenas,
// free objects) belongs to the heap and not to a thread, so `T: Send`, which raw pointers lack, is not asked for; the
// type is private to this crate.
unsafe impl<T> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self {
            lock: Lock::new(),
            rank,
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `f` on the value with the lock held. `f` neither unwinds nor takes a lock of this rank or an earlier one.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        self.lock();
        // SAFETY: the lock was just taken, and `f` cannot take it again (its rank is not after itself).
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: taken above.
        unsafe { self.unlock() };
        result
    }

    /// Takes the lock, and notes it in the calling thread's M.
    pub(crate) fn lock(&self) {
        #[cfg(debug_assertions)]
        if let Some(m) = current::m() {
            let held = m.locked.load(Ordering::Relaxed);
            assert!(held >> self.rank as u8 == 0, "{:?} after locks {held:#b}", self.rank);
        }
        self.acquire();
    }

    /// Takes the lock whatever else is held: for the fork handler, which takes all locks, in the right order.
    pub(crate) fn lock_for_fork(&self) {
        self.acquire();
    }

    /// Waits for the lock and takes it.
    fn acquire(&self) {
        self.note(true);
        if self.rank == Rank::Trim {
            self.lock.lock_long();
        } else {
            self.lock.lock();
        }
    }

    /// Whether somebody waits for the lock at this moment.
    #[cfg(test)]
    pub(crate) fn is_contended(&self) -> bool {
        // The state of a lock is its own business, but its `Debug` shows it.
        format!("{:?}", self.lock) == "Lock(2)"
    }

    /// The value.
    ///
    /// # Safety
    ///
    /// The caller holds the lock, and no other reference to the value.
    #[expect(
        clippy::mut_from_ref,
        reason = "the lock, not the borrow checker, says who may write"
    )]
    pub(crate) unsafe fn assume_locked(&self) -> &mut T {
        // SAFETY: as the caller promised.
        unsafe { &mut *self.value.get() }
    }

    /// Notes in the calling thread's M that it has the lock, or has it no more. A handler that interrupts the code
    /// around sees the note whenever the lock may be held.
    #[inline]
    fn note(&self, held: bool) {
        let Some(m) = current::m() else { return };
        compiler_fence(Ordering::SeqCst);
        let bit = 1 << self.rank as u8;
        let others = m.locked.load(Ordering::Relaxed) & !bit;
        m.locked
            .store(if held { others | bit } else { others }, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Gives the lock back.
    ///
    /// # Safety
    ///
    /// The calling thread took it with `lock`, and has used no reference to the value since.
    pub(crate) unsafe fn unlock(&self) {
        // SAFETY: as the caller promised.
        unsafe { self.lock.unlock() };
        self.note(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "the order is checked in debug builds")]
    #[should_panic(expected = "after locks")]
    fn locks_out_of_order_are_caught() {
        static MHEAP: Guarded<()> = Guarded::new(Rank::Mheap, ());
        static MCENTRAL: Guarded<()> = Guarded::new(Rank::Mcentral, ());
        crate::lease::attach();
        MHEAP.lock();
        let _undo = Undo;
        MCENTRAL.lock();

        struct Undo;
        impl Drop for Undo {
            fn drop(&mut self) {
                // SAFETY: the test took it.
                unsafe { MHEAP.unlock() }
            }
        }
    }
}
