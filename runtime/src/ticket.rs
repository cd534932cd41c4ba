//! Tickets: the right to end a wait that several parties may end.
//!
//! ```text
//!   word (type-stable):   … 6 ── open ─▶ 7 ── claim: CAS 7 → 8 ─▶ 8 ── open ─▶ 9 …
//!                                        │    by a peer, by a timer, by the waiting thread itself
//!                                        └─ the ticket is (word, 7): it is good as long as the word says 7
//! ```
//!
//! Somebody who waits on several channels, or until a deadline, has several who could wake him. Each of them claims the
//! ticket first, with one compare-and-swap; who gets it, and nobody else, wakes.
//!
//! # Invariants
//!
//! 1. The word is odd exactly while somebody waits who has not been claimed yet. It only grows, so a number never comes back.
//! 2. Whoever claimed a ticket must wake its party; until then the party's frame stays. Whoever failed to claim it touches
//!    nothing of the party any more.
//! 3. A goroutine's word lies in its stack's descriptor, which is never freed: a timer may keep the ticket for as long as it
//!    likes, and finds out by the number that the wait is over. A thread's word lies in its frame; those who may claim it
//!    find it under a lock that the thread takes before it leaves.

#[cfg(baton_loom)]
use loom::sync::atomic::AtomicU64;
#[cfg(not(baton_loom))]
use std::sync::atomic::AtomicU64;
use std::{
    ptr::NonNull,
    sync::atomic::Ordering::{AcqRel, Relaxed},
};

/// One wait that several parties may end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    word: NonNull<AtomicU64>,
    number: u64,
}

impl Ticket {
    /// The party whose word this is begins to wait. Nobody else opens tickets on this word.
    #[inline]
    pub(crate) fn open(word: &AtomicU64) -> Self {
        let number = word.load(Relaxed) + 1;
        debug_assert!(number % 2 == 1, "one wait at a time");
        // Whoever is to claim the ticket gets it from the one who opened it, by way of a lock or a timer heap.
        word.store(number, Relaxed);
        Self {
            word: NonNull::from(word),
            number,
        }
    }

    /// What the word says while this ticket is good; odd, and so never 0.
    #[inline]
    pub(crate) fn number(self) -> u64 {
        self.number
    }

    /// Ends the wait for everybody else. `true`: the caller, and nobody else, must wake its party.
    ///
    /// # Safety
    ///
    /// The word is still there (invariant 3).
    #[inline]
    pub(crate) unsafe fn claim(self) -> bool {
        // SAFETY: as the caller promised.
        claim(unsafe { self.word.as_ref() }, self.number)
    }
}

/// As [`Ticket::claim`], for those who know the word by other means.
#[inline]
pub(crate) fn claim(word: &AtomicU64, number: u64) -> bool {
    word.compare_exchange(number, number + 1, AcqRel, Relaxed).is_ok()
}

#[cfg(all(test, not(baton_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_claim_succeeds_and_a_later_wait_is_another_ticket() {
        let word = AtomicU64::new(0);
        let first = Ticket::open(&word);
        // SAFETY: the word outlives the test.
        unsafe {
            assert!(first.claim());
            assert!(!first.claim());
            let second = Ticket::open(&word);
            assert!(!first.claim(), "an old ticket does not end a new wait");
            assert!(second.claim());
        }
        assert_eq!(word.load(Relaxed) % 2, 0);
    }
}
