//! Waiting for a group of goroutines, in the shape of crossbeam's `WaitGroup`.

use super::{Until, park};
use crate::{
    lock::Mutex,
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    waitlist::{Node, WaitList},
};
use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    ptr,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::{Duration, Instant},
};

/// Each member of the group holds a clone and drops it when it is done; [`wait`](Self::wait) waits for all others.
///
/// ```
/// use baton::{go, sync::WaitGroup};
///
/// baton::run(|| {
///     let group = WaitGroup::new();
///     for _ in 0..10 {
///         let member = group.clone();
///         go!(move || drop(member));
///     }
///     group.wait();
/// });
/// ```
pub struct WaitGroup {
    group: Arc<Group>,
}

struct Group {
    /// Members that are not done.
    members: AtomicUsize,
    waiting: Mutex<WaitList>,
}

impl WaitGroup {
    /// A group with one member: this value.
    #[must_use]
    pub fn new() -> Self {
        Self {
            group: Arc::new(Group {
                members: AtomicUsize::new(1),
                waiting: Mutex::new(WaitList::new()),
            }),
        }
    }

    /// Leaves the group and waits until all others have left it.
    pub fn wait(self) {
        // Without a deadline it does not come back before that.
        drop(self.wait_limited(Until::FOREVER));
    }

    /// As [`wait`](Self::wait), but for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Some are still in; the error is this member, which is in again.
    pub fn wait_for(self, timeout: Duration) -> Result<(), Self> {
        self.wait_limited(Until::timeout(timeout))
    }

    /// As [`wait`](Self::wait), but until `deadline` at most.
    ///
    /// # Errors
    ///
    /// Some are still in; the error is this member, which is in again.
    pub fn wait_until(self, deadline: Instant) -> Result<(), Self> {
        self.wait_limited(Until::instant(deadline))
    }

    pub(crate) fn wait_limited(self, until: Until<'_>) -> Result<(), Self> {
        checkpoint();
        let group = Arc::clone(&self.group);
        drop(self);
        let mut waiting = group.waiting.lock();
        if group.members.load(Acquire) == 0 {
            return Ok(());
        }
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::null_mut());
        waiting.push(&node);
        let commit = move || {
            drop(waiting);
            true
        };
        if park(&waiter, WaitReason::WaitGroup, until, commit) {
            return Ok(());
        }
        group.waiting.lock().remove(&node);
        let rejoin = |members| (members > 0).then_some(members + 1);
        match group.members.fetch_update(Relaxed, Acquire, rejoin) {
            Ok(_) => Err(Self { group }),
            Err(_) => Ok(()), // the last has just left
        }
    }
}

impl Clone for WaitGroup {
    fn clone(&self) -> Self {
        self.group.members.fetch_add(1, Relaxed);
        Self {
            group: Arc::clone(&self.group),
        }
    }
}

impl Drop for WaitGroup {
    fn drop(&mut self) {
        if self.group.members.fetch_sub(1, AcqRel) == 1 {
            let waiting = self.group.waiting.lock().claim_all(Event::Done);
            waiting.wake_all();
        }
    }
}

impl Default for WaitGroup {
    fn default() -> Self {
        Self::new()
    }
}

// Its lists are whole whenever nobody is inside: no call here unwinds midway.
impl RefUnwindSafe for WaitGroup {}
impl UnwindSafe for WaitGroup {}

impl fmt::Debug for WaitGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitGroup")
            .field("members", &self.group.members.load(Relaxed))
            .finish()
    }
}
