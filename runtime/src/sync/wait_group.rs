//! Waiting for a group of goroutines, in the shape of crossbeam's `WaitGroup`.

use crate::lock::Mutex;
use crate::{
    park::{Event, WaitReason},
    sched::checkpoint,
    waitlist::WaitList,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
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
        checkpoint();
        let group = Arc::clone(&self.group);
        drop(self);
        let waiting = group.waiting.lock();
        if group.members.load(Acquire) > 0 {
            WaitList::wait(waiting, WaitReason::WaitGroup, |list| list);
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

impl fmt::Debug for WaitGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitGroup")
            .field("members", &self.group.members.load(Relaxed))
            .finish()
    }
}
