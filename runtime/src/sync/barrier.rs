//! Barriers, in the shape of std's.

use super::{Until, park};
use crate::lock::Mutex;
use crate::{
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    waitlist::{Node, WaitList},
};
use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    ptr,
    time::{Duration, Instant},
};

/// Lets nobody through until `n` have arrived; then all, and it begins anew.
///
/// What any of them did before it arrived has happened for all of them after.
///
/// ```
/// use baton::{go, sync::Barrier};
/// use std::sync::Arc;
///
/// baton::run(|| {
///     let barrier = Arc::new(Barrier::new(4));
///     let all: Vec<_> = (0..4)
///         .map(|_| {
///             let barrier = Arc::clone(&barrier);
///             go!(move || barrier.wait().is_leader())
///         })
///         .collect();
///     let leaders = all.into_iter().filter_map(|one| one.join().ok()).filter(|&leads| leads);
///     assert_eq!(leaders.count(), 1);
/// });
/// ```
pub struct Barrier {
    n: usize,
    state: Mutex<State>,
}

struct State {
    /// Those that wait.
    arrived: usize,
    list: WaitList,
}

/// What [`Barrier::wait`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    pub(crate) fn of(leads: bool) -> Self {
        Self(leads)
    }

    /// Whether this one was the last to arrive; one of each `n` is.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl Barrier {
    /// A barrier for `n`. For 0 and 1 nobody ever waits.
    #[must_use]
    pub const fn new(n: usize) -> Self {
        Self {
            n,
            state: Mutex::new(State {
                arrived: 0,
                list: WaitList::new(),
            }),
        }
    }

    /// Waits until `n` have arrived, this one included.
    pub fn wait(&self) -> BarrierWaitResult {
        BarrierWaitResult(self.arrive(Until::FOREVER) == Some(true))
    }

    /// As [`wait`](Self::wait), but `None` after `timeout`: then this one has not arrived.
    pub fn wait_for(&self, timeout: Duration) -> Option<BarrierWaitResult> {
        self.arrive(Until::timeout(timeout)).map(BarrierWaitResult)
    }

    /// As [`wait`](Self::wait), but `None` after `deadline`: then this one has not arrived.
    pub fn wait_until(&self, deadline: Instant) -> Option<BarrierWaitResult> {
        self.arrive(Until::instant(deadline)).map(BarrierWaitResult)
    }

    /// Whether this one was the last; `None` if not all came in time.
    pub(crate) fn arrive(&self, until: Until<'_>) -> Option<bool> {
        checkpoint();
        let mut state = self.state.lock();
        if state.arrived + 1 >= self.n {
            state.arrived = 0;
            let all = state.list.claim_all(Event::Done);
            drop(state);
            all.wake_all();
            return Some(true);
        }
        state.arrived += 1;
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::null_mut());
        state.list.push(&node);
        let commit = move || {
            drop(state);
            true
        };
        if park(&waiter, WaitReason::Barrier, until, commit) {
            return Some(false);
        }
        let mut state = self.state.lock();
        if !node.is_linked() {
            return Some(false); // all have arrived, this one counted, in the moment of its deadline
        }
        state.list.remove(&node);
        state.arrived -= 1;
        None
    }
}

// Its lists are whole whenever nobody is inside: no call here unwinds midway.
impl RefUnwindSafe for Barrier {}
impl UnwindSafe for Barrier {}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("n", &self.n).finish_non_exhaustive()
    }
}
