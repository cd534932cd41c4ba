//! Who holds a lock: for reports, and for locks that know their owner.

use super::RawLock;
use crate::{m, sched::checkpoint};
use baton_alloc::lease;
use std::{fmt, num::NonZeroUsize, ptr::NonNull};

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The goroutine of this number.
    Goroutine(u64),
    /// Some plain thread.
    Thread,
}

/// A goroutine's number, or [`Party::THREAD`]: a holder in one word.
pub(super) struct Party;

impl Party {
    /// No goroutine has this number.
    const THREAD: u64 = 0;
    /// Of readers nobody is noted.
    pub(super) const UNKNOWN: u64 = 0;

    /// Who calls.
    #[inline]
    pub(super) fn here() -> u64 {
        // SAFETY: the running goroutine is alive.
        m::current_goroutine().map_or(Self::THREAD, |(_, g)| unsafe { g.as_ref() }.id())
    }

    /// Who calls, at the beginning of a call that may park.
    #[inline]
    pub(super) fn at_parking_call() -> u64 {
        checkpoint();
        Self::here()
    }
}

impl Holder {
    pub(super) fn of(party: u64) -> Self {
        if party == Party::THREAD {
            Self::Thread
        } else {
            Self::Goroutine(party)
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goroutine(id) => write!(f, "goroutine {id}"),
            Self::Thread => f.write_str("a thread that runs no goroutine"),
        }
    }
}

/// In whose hands a lock is that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HeldBy {
    /// One goroutine or thread, as a [`Party`].
    Party(u64),
    /// So many who read.
    Readers(usize),
    /// Nobody: who waits was woken just now.
    Nobody,
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Party(party) => write!(f, "held by {}", Holder::of(party)),
            Self::Readers(1) => f.write_str("held by a reader"),
            Self::Readers(n) => write!(f, "held by {n} readers"),
            Self::Nobody => f.write_str("free now"),
        }
    }
}

/// Notes which lock the caller is about to wait for, if it is a goroutine.
pub(super) fn note_wait(lock: &RawLock) {
    if let Some((_, g)) = m::current_goroutine() {
        // SAFETY: the running goroutine, and its body.
        unsafe { &*g.as_ref().body.get() }.waits_for_lock(lock);
    }
}

/// An address that nobody but the caller has: its goroutine's body, also while it must not suspend, as in
/// [`on_big_stack`](crate::on_big_stack), or its thread's lease.
pub(super) fn party_address() -> NonZeroUsize {
    match m::current().and_then(|m| NonNull::new(m.body.get())) {
        Some(body) => body.addr(),
        None => NonNull::from(lease::attach()).addr(),
    }
}
