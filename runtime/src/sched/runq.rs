//! A P's own queue: a ring of 1,024 runnable goroutines, and one more that runs next.
//!
//! ```text
//!        head ──▶ ┌───┬───┬───┬───┬───┐ ◀── tail          next
//!  pop (oldest)   │ G │ G │ G │ G │   │   push            │ G │  made ready by the goroutine that runs now
//!  push_front     └───┴───┴───┴───┴───┘                   └───┘
//! ```
//!
//! # Invariants
//!
//! 1. Only the owner of the P changes the queue: its M inside a section, or a taker (see `baton_alloc::latch`). So there
//!    is no compare-and-swap here.
//! 2. Anybody may look: head, tail and `next` are atomics. What they see is a guess, good enough to decide whether a look
//!    under the latch is worth it; and a sleeper's barrier makes it exact (see `README.md`, "The sleeper pays").

use crate::g::G;
use std::{
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Slots of the ring. A power of two, so that positions may wrap. More than Go's 256: goroutines that yield in turn should
/// not take the way through the global queue.
pub(crate) const RING: usize = 1024;

/// Goroutines in a row from `next`.
pub(crate) const NEXT_STREAK: u32 = 64;

/// How many goroutines leave the ring at once when it overflows.
pub(crate) const HALF: usize = RING / 2;

#[derive(Debug)]
pub(crate) struct RunQueue {
    head: AtomicU32,
    tail: AtomicU32,
    next: AtomicPtr<G>,
    ring: [AtomicPtr<G>; RING],
}

/// The ring is full.
#[derive(Debug)]
pub(crate) struct Full;

impl RunQueue {
    pub(crate) fn new() -> Self {
        Self {
            head: AtomicU32::new(0),
            tail: AtomicU32::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            ring: [const { AtomicPtr::new(ptr::null_mut()) }; RING],
        }
    }

    /// How many goroutines the ring holds, `next` not counted: a guess unless the caller owns the P.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let head = self.head.load(Acquire);
        self.tail.load(Acquire).wrapping_sub(head) as usize
    }

    /// Whether a goroutine runs next: a guess unless the caller owns the P.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        !self.next.load(Relaxed).is_null()
    }

    /// Whether there is any goroutine here: a guess unless the caller owns the P.
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        self.has_next() || self.len() > 0
    }

    /// Adds `g` at the end.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1) and `g`.
    #[inline]
    pub(crate) unsafe fn push(&self, g: *mut G) -> Result<(), Full> {
        let tail = self.tail.load(Relaxed);
        if tail.wrapping_sub(self.head.load(Relaxed)) as usize == RING {
            return Err(Full);
        }
        self.ring[tail as usize % RING].store(g, Relaxed);
        self.tail.store(tail.wrapping_add(1), Release);
        Ok(())
    }

    /// Adds `g` at the other end, as if it were the oldest; if there is no room, the newest makes it, and is given back.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1) and `g`, and from now on whom it is given.
    pub(crate) unsafe fn push_front_displacing(&self, g: *mut G) -> *mut G {
        let (head, tail) = (self.head.load(Relaxed), self.tail.load(Relaxed));
        let mut displaced = ptr::null_mut();
        if tail.wrapping_sub(head) as usize == RING {
            let last = tail.wrapping_sub(1);
            displaced = self.ring[last as usize % RING].load(Relaxed);
            self.tail.store(last, Release);
        }
        let head = head.wrapping_sub(1);
        self.ring[head as usize % RING].store(g, Relaxed);
        self.head.store(head, Release);
        displaced
    }

    /// Takes the oldest, or null.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1).
    #[inline]
    pub(crate) unsafe fn pop(&self) -> *mut G {
        let head = self.head.load(Relaxed);
        if head == self.tail.load(Relaxed) {
            return ptr::null_mut();
        }
        self.head.store(head.wrapping_add(1), Release);
        self.ring[head as usize % RING].load(Relaxed)
    }

    /// Makes `g` (or nobody, if null) run next; gives who would have.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1) and `g`.
    #[inline]
    pub(crate) unsafe fn swap_next(&self, g: *mut G) -> *mut G {
        let old = self.next.load(Relaxed);
        self.next.store(g, Release);
        old
    }

    /// Takes what runs next: `next`, which inherits the time slice, so after [`NEXT_STREAK`] in a row from there the oldest
    /// of the ring. Null if there is nothing. If that was the oldest, and three more follow it, `ahead` sees those.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1).
    #[inline(always)]
    pub(crate) unsafe fn pop_next(&self, streak: &mut u32, ahead: impl FnOnce([*mut G; 3])) -> *mut G {
        let next = self.next.load(Relaxed);
        if !next.is_null() && *streak < NEXT_STREAK {
            *streak += 1;
            self.next.store(ptr::null_mut(), Relaxed);
            return next;
        }
        *streak = 0;
        let (head, tail) = (self.head.load(Relaxed), self.tail.load(Relaxed));
        if head == tail {
            self.next.store(ptr::null_mut(), Relaxed);
            return next;
        }
        self.head.store(head.wrapping_add(1), Release);
        let at = |i: u32| self.ring[head.wrapping_add(i) as usize % RING].load(Relaxed);
        if tail.wrapping_sub(head) > 3 {
            ahead([at(1), at(2), at(3)]);
        }
        at(0)
    }

    /// Shows all goroutines of the queue to `see`.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1).
    pub(crate) unsafe fn each(&self, mut see: impl FnMut(*mut G)) {
        let (head, tail) = (self.head.load(Relaxed), self.tail.load(Relaxed));
        (0..tail.wrapping_sub(head)).for_each(|i| see(self.ring[head.wrapping_add(i) as usize % RING].load(Relaxed)));
        see(self.next.load(Relaxed));
    }

    /// Takes up to `into.len()` of the oldest and says how many.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1).
    pub(crate) unsafe fn pop_some(&self, into: &mut [*mut G]) -> usize {
        let mut n = 0;
        for slot in into {
            // SAFETY: as the caller promised.
            let g = unsafe { self.pop() };
            if g.is_null() {
                break;
            }
            *slot = g;
            n += 1;
        }
        n
    }

    /// Takes up to `into.len()` of the newest, in their order, and says how many.
    ///
    /// # Safety
    ///
    /// The caller owns the P (invariant 1).
    pub(crate) unsafe fn pop_newest(&self, into: &mut [*mut G]) -> usize {
        let (head, tail) = (self.head.load(Relaxed), self.tail.load(Relaxed));
        let n = into.len().min(tail.wrapping_sub(head) as usize);
        let first = tail.wrapping_sub(n as u32);
        for (slot, at) in into[..n].iter_mut().zip(first as usize..) {
            *slot = self.ring[at % RING].load(Relaxed);
        }
        self.tail.store(first, Release);
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(n: usize) -> *mut G {
        ptr::without_provenance_mut(n)
    }

    #[test]
    fn first_in_first_out_across_the_wrap() {
        let q = RunQueue::new();
        for round in 0..5 {
            for i in 1..=800 {
                // SAFETY: the queue is this test's own, and nobody follows the pointers.
                unsafe { q.push(fake(round * 1000 + i)) }.unwrap();
            }
            assert_eq!(q.len(), 800);
            for i in 1..=800 {
                // SAFETY: as above.
                assert_eq!(unsafe { q.pop() }, fake(round * 1000 + i));
            }
            // SAFETY: as above.
            assert!(unsafe { q.pop() }.is_null());
        }
    }

    #[test]
    fn full_is_said_and_half_can_leave() {
        let q = RunQueue::new();
        for i in 1..=RING {
            // SAFETY: the queue is this test's own, and nobody follows the pointers.
            unsafe { q.push(fake(i)) }.unwrap();
        }
        // SAFETY: as above.
        assert!(unsafe { q.push(fake(9999)) }.is_err());
        let mut out = [ptr::null_mut(); HALF];
        // SAFETY: as above.
        assert_eq!(unsafe { q.pop_some(&mut out) }, HALF);
        assert_eq!(out[0], fake(1));
        assert_eq!(out[HALF - 1], fake(HALF));
        assert_eq!(q.len(), HALF);
        let mut out = [ptr::null_mut(); 2 * HALF];
        // SAFETY: as above.
        assert_eq!(unsafe { q.pop_newest(&mut out[..3]) }, 3);
        assert_eq!(out[..3], [RING - 2, RING - 1, RING].map(fake));
        // SAFETY: as above.
        assert_eq!(unsafe { q.pop_newest(&mut out) }, HALF - 3);
        assert_eq!((out[0], q.len()), (fake(HALF + 1), 0));
    }

    #[test]
    fn who_goes_first_displaces_the_newest() {
        let q = RunQueue::new();
        for i in 1..RING {
            // SAFETY: the queue is this test's own, and nobody follows the pointers.
            unsafe { q.push(fake(i)) }.unwrap();
        }
        // SAFETY: as above.
        let displaced = unsafe { [8001, 8002, 8003].map(|n| q.push_front_displacing(fake(n))) };
        assert_eq!(displaced, [ptr::null_mut(), fake(RING - 1), fake(RING - 2)]);
        // SAFETY: as above.
        let first = unsafe { [q.pop(), q.pop(), q.pop(), q.pop()] };
        assert_eq!(first, [fake(8003), fake(8002), fake(8001), fake(1)]);
        assert_eq!(q.len(), RING - 4);
    }

    #[test]
    fn next_is_one_slot() {
        let q = RunQueue::new();
        // SAFETY: the queue is this test's own, and nobody follows the pointers.
        unsafe {
            assert!(q.swap_next(fake(1)).is_null());
            assert!(q.has_next());
            assert_eq!(q.swap_next(fake(2)), fake(1));
            assert_eq!(q.swap_next(ptr::null_mut()), fake(2));
        }
        assert!(!q.has_next());
        assert_eq!(q.len(), 0);
    }
}
