//! How long a call waits: for ever, until a deadline, as long as a context lasts.

use crate::{
    context::Inner,
    park::{Event, WaitReason, Waiter},
    time::{self, heap::NEVER},
};
use std::time::{Duration, Instant};

/// The end of somebody's patience.
#[derive(Clone, Copy)]
pub(crate) struct Until<'a> {
    /// In nanoseconds of [`time::now`].
    deadline: u64,
    context: Option<&'a Inner>,
}

impl<'a> Until<'a> {
    pub(crate) const FOREVER: Self = Self {
        deadline: NEVER,
        context: None,
    };

    pub(crate) fn timeout(timeout: Duration) -> Self {
        Self {
            deadline: time::deadline_in(timeout),
            context: None,
        }
    }

    pub(crate) fn instant(deadline: Instant) -> Self {
        Self {
            deadline: time::deadline_at(deadline),
            context: None,
        }
    }

    /// Until `deadline`, on the clock of [`time::now`], or the end of `context`.
    pub(crate) fn end_of(context: &'a Inner, deadline: u64) -> Self {
        Self {
            deadline,
            context: Some(context),
        }
    }

    /// Whether it is over already.
    pub(crate) fn has_passed(self) -> bool {
        let late = self.deadline != NEVER && time::now() >= self.deadline;
        late || self.context.is_some_and(Inner::has_ended)
    }
}

/// Waits until somebody has claimed and woken `waiter` (`true`), or `until` then: see [`Waiter::park_until`]. `commit` is not
/// called if it is over already. Without an end the wake costs no claim.
pub(crate) fn park(waiter: &Waiter, reason: WaitReason, until: Until<'_>, commit: impl FnOnce() -> bool) -> bool {
    match until.context {
        None if until.deadline == NEVER => {
            waiter.park(reason, commit);
            return true;
        }
        None => waiter.park_until(reason, until.deadline, commit),
        Some(context) => context.park(waiter, reason, until.deadline, commit),
    }
    waiter.outcome() != Event::TimedOut
}
