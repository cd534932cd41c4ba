//! Waiting for a group of goroutines, in the shape of crossbeam's `WaitGroup`.
//!
//! ```text
//!   member: 3 shares, member: 1, member: 1 ──▶ Group: 5 shares ◀── who waits
//!   └───── together one count of the Arc ─────┘                 └─ a count each
//! ```
//!
//! The group counts shares, not members, and a member has some to spare: its clone gets one of them, and the group hears nothing of that
//! (weighted reference counting: D. I. Bevan, "Distributed garbage collection using reference counting", 1987). So whoever starts
//! goroutines, each with a member, does not touch the line from which other processors take those that are done.
//!
//! # Invariants
//!
//! 1. As long as there are members they hold the group's memory, together: who leaves as the last gives that up, as its last act.
//! 2. Who waits holds it as well, for himself; nobody joins a group that has no member.
//! 3. Each member has a share, and the group counts at least those of all members; it counts no others when nobody clones.

use super::{
    Until, park,
    shim::{
        Arc, AtomicU32, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};
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
    time::{Duration, Instant},
};

/// What a member takes from the group when it has none to spare. (In a model, few enough to run out.)
const SHARES: u32 = if cfg!(baton_loom) { 2 } else { 1 << 16 };

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
    /// This member's.
    shares: AtomicU32,
}

// SAFETY: what a group has is atomics and a list under a lock.
unsafe impl Send for WaitGroup {}
// SAFETY: as above.
unsafe impl Sync for WaitGroup {}

struct Group {
    /// Shares of members that are not done.
    shares: AtomicUsize,
    waiting: Mutex<WaitList>,
}

impl WaitGroup {
    /// A group with one member: this value.
    #[must_use]
    pub fn new() -> Self {
        let group = Arc::new(Group {
            shares: AtomicUsize::new(SHARES as usize),
            waiting: Mutex::new(WaitList::new()),
        });
        Self::of(NonNull::from(&**ManuallyDrop::new(group)), SHARES)
    }

    /// A member with so many of the group's shares, which are counted already.
    fn of(group: NonNull<Group>, shares: u32) -> Self {
        Self {
            group,
            shares: AtomicU32::new(shares),
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
        if group.shares.load(Acquire) == 0 {
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
        let rejoin = |shares| (shares > 0).then_some(shares + 1);
        match group.shares.fetch_update(Relaxed, Acquire, rejoin) {
            Ok(_) => Err(Self::of(NonNull::from(&*group), 1)),
            Err(_) => Ok(()), // the last has just left
        }
    }
}

impl Clone for WaitGroup {
    fn clone(&self) -> Self {
        let spare = |shares| (shares > 1).then(|| shares - 1);
        if self.shares.fetch_update(Relaxed, Relaxed, spare).is_err() {
            self.take_more();
        }
        Self::of(self.group, 1)
    }
}

impl Drop for WaitGroup {
    fn drop(&mut self) {
        let shares = self.shares.load(Relaxed) as usize;
        if self.group().shares.fetch_sub(shares, AcqRel) == shares {
            self.leave_last();
        }
    }
}

impl WaitGroup {
    /// Takes shares from the group: one for a clone, and some to spare.
    #[cold]
    fn take_more(&self) {
        // So many are only there if members are forgotten, and a few more would be as if there were none.
        if self.group().shares.fetch_add(SHARES as usize, Relaxed) > usize::MAX / 2 {
            process::abort();
        }
        self.shares.fetch_add(SHARES - 1, Relaxed);
    }

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
        f.debug_struct("WaitGroup").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(baton_loom)))]
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
        assert_eq!(group.shares.load(Relaxed), 0);
    }

    /// Of clones, of members that have nothing to spare, of one that several threads clone at once.
    #[test]
    fn the_group_counts_the_shares_of_its_members() {
        let first = WaitGroup::new();
        let shares = |members: &[WaitGroup]| -> usize { members.iter().map(|m| m.shares.load(Relaxed) as usize).sum() };
        let mut members = vec![first.clone()];
        for _ in 0..100 {
            members.push(members.last().unwrap().clone());
        }
        std::thread::scope(|s| {
            let clones = |_| s.spawn(|| (0..SHARES as usize).map(|_| first.clone()).collect::<Vec<_>>());
            let threads: Vec<_> = (0..2).map(clones).collect();
            threads.into_iter().for_each(|t| members.extend(t.join().unwrap()));
        });
        let group = first.hold();
        members.push(first);
        assert_eq!(group.shares.load(Relaxed), shares(&members));
        while let Some(member) = members.pop() {
            assert_ne!(group.shares.load(Relaxed), 0);
            drop(member);
        }
        assert_eq!(group.shares.load(Relaxed), 0);
    }
}
