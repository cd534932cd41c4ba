//! Waiting for a group of goroutines, in the shape of crossbeam's `WaitGroup`.
//!
//! ```text
//!   member, member, member ──▶ Group: members = 3 ◀── who waits
//!   └─ together one count of the Arc ─┘              └─ a count each
//! ```
//!
//! # Invariants
//!
//! 1. As long as there are members they hold the group's memory, together: who leaves as the last gives that up, as its last act.
//!    So a member costs one locked instruction when it comes and one when it goes; where others come while others go, on
//!    another processor, these are what a goroutine costs.
//! 2. Who waits holds it as well, for himself; nobody joins a group that has no member.

use super::{Until, park};
use crate::{
    lock::Mutex,
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    waitlist::{Node, WaitList},
};
use std::{
    fmt,
    mem::ManuallyDrop,
    panic::{RefUnwindSafe, UnwindSafe},
    process,
    ptr::{self, NonNull},
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
    /// Of an `Arc`: invariant 1.
    group: NonNull<Group>,
}

// SAFETY: what a group has is atomics and a list under a lock.
unsafe impl Send for WaitGroup {}
// SAFETY: as above.
unsafe impl Sync for WaitGroup {}

struct Group {
    /// Members that are not done.
    members: AtomicUsize,
    waiting: Mutex<WaitList>,
}

impl WaitGroup {
    /// A group with one member: this value.
    #[must_use]
    pub fn new() -> Self {
        let group = Arc::new(Group {
            members: AtomicUsize::new(1),
            waiting: Mutex::new(WaitList::new()),
        });
        Self::of(&ManuallyDrop::new(group))
    }

    /// A member of a group whose members have it counted already.
    fn of(group: &Arc<Group>) -> Self {
        Self {
            group: NonNull::from(&**group),
        }
    }

    fn group(&self) -> &Group {
        // SAFETY: this is a member (invariant 1).
        unsafe { self.group.as_ref() }
    }

    /// The group, for one who waits.
    fn hold(&self) -> Arc<Group> {
        let group = self.group.as_ptr();
        // SAFETY: the pointer is an `Arc`'s, which this member's group has a count of (invariant 1); the new one is the result's.
        unsafe {
            Arc::increment_strong_count(group);
            Arc::from_raw(group)
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
        let group = self.hold();
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
            Ok(_) => Err(Self::of(&group)),
            Err(_) => Ok(()), // the last has just left
        }
    }
}

impl Clone for WaitGroup {
    fn clone(&self) -> Self {
        // So many are only there if they are forgotten, and once more the count would be that of none.
        if self.group().members.fetch_add(1, Relaxed) > usize::MAX / 2 {
            process::abort();
        }
        Self { group: self.group }
    }
}

impl Drop for WaitGroup {
    fn drop(&mut self) {
        if self.group().members.fetch_sub(1, AcqRel) == 1 {
            self.leave_last();
        }
    }
}

impl WaitGroup {
    /// Wakes who waits, and gives up what the members had together.
    #[cold]
    fn leave_last(&self) {
        // SAFETY: the count of the `Arc` that the members had, of whom there are none any more, nor will be (invariants 1 and 2).
        let group = unsafe { Arc::from_raw(self.group.as_ptr()) };
        let waiting = group.waiting.lock().claim_all(Event::Done);
        waiting.wake_all();
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
            .field("members", &self.group().members.load(Relaxed))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_have_one_count_together() {
        let first = WaitGroup::new();
        let group = first.hold();
        let members: Vec<_> = (0..10).map(|_| first.clone()).collect();
        assert_eq!(Arc::strong_count(&group), 2);
        assert!(
            members[0].clone().wait_for(Duration::ZERO).is_err(),
            "others are still in"
        );
        drop(first);
        drop(members);
        assert_eq!(Arc::strong_count(&group), 1, "the last has given it up");
        assert_eq!(group.members.load(Relaxed), 0);
    }
}
