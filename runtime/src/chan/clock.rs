//! Channels of time: `after`, `at` and `tick`.
//!
//! Nothing sends on them. A receiver waits until the channel is due, and takes the moment then: so a channel of time
//! costs no timer while nobody waits, and `never` costs nothing at all.
#![forbid(unsafe_code)]

use super::error::{RecvTimeoutError, TryRecvError};
use crate::{
    park::{WaitReason, Waiter},
    sched::checkpoint,
    time::{self, heap::NEVER},
};
use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
    time::{Duration, Instant},
};

/// A channel that gives a moment when it is due: once, or again and again.
///
/// `T` is `Instant`, which a function that is the identity says, so that a receiver of any `T` can be one of these.
pub(super) struct Clock<T> {
    /// When it is due next, in nanoseconds of [`time::now`]; [`NEVER`] if not again.
    due: AtomicU64,
    /// From one moment to the next; `None` if there is but one.
    period: Option<u64>,
    /// The first moment, as the program and as `due` know it.
    first: (Instant, u64),
    message: fn(Instant) -> T,
}

impl Clock<Instant> {
    /// Due at `when`, which is `due` on our clock, and then each `period`.
    pub(super) fn new(when: Instant, due: u64, period: Option<Duration>) -> Self {
        Self {
            due: AtomicU64::new(due),
            period: period.map(|period| u64::try_from(period.as_nanos()).unwrap_or(NEVER)),
            first: (when, due),
            message: |instant| instant,
        }
    }
}

impl<T> Clock<T> {
    /// When it is due next.
    pub(super) fn due(&self) -> u64 {
        self.due.load(Acquire)
    }

    /// Whether it is due.
    pub(super) fn is_due(&self) -> bool {
        let due = self.due();
        due != NEVER && due <= time::now()
    }

    /// Takes the moment `due`, which nobody else gets then. A clock that nobody read for long does not catch up.
    fn take(&self, due: u64, now: u64) -> bool {
        let next = self.period.map_or(NEVER, |period| due.max(now).saturating_add(period));
        self.due.compare_exchange(due, next, AcqRel, Acquire).is_ok()
    }

    /// Takes a moment that has come.
    pub(super) fn try_take(&self) -> Option<u64> {
        loop {
            let (due, now) = (self.due(), time::now());
            if due == NEVER || due > now {
                return None;
            }
            if self.take(due, now) {
                return Some(due);
            }
        }
    }

    /// The message for a moment that was taken.
    pub(super) fn message(&self, due: u64) -> T {
        let (first, origin) = self.first;
        (self.message)(first + Duration::from_nanos(due.saturating_sub(origin)))
    }

    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        checkpoint();
        self.try_take().map(|due| self.message(due)).ok_or(TryRecvError::Empty)
    }

    /// Receives the next moment, waiting until `deadline` at most.
    pub(super) fn recv(&self, deadline: u64) -> Result<T, RecvTimeoutError> {
        checkpoint();
        loop {
            let due = self.due();
            if due > deadline || due == NEVER {
                wait_until(deadline);
                return Err(RecvTimeoutError::Timeout);
            }
            if self.take(due, time::now()) {
                wait_until(due);
                return Ok(self.message(due));
            }
        }
    }
}

/// Waits for nothing but the time.
pub(super) fn wait_until(deadline: u64) {
    if deadline == NEVER || deadline > time::now() {
        Waiter::new().park_until(WaitReason::ChanRecv, deadline, || true);
    }
}
