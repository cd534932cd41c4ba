//! Condition variables.
//!
//! The list's lock comes before that of a mutex's queue, and both before that of a context: who waits gives the mutex back with the
//! list's lock held, and before it parks, since with a context as its end it parks under the lock of that, and so does who waits
//! for the mutex, with the queue's lock held.

use super::{
    Until, mutex, park,
    shim::{AtomicUsize, Ordering::Relaxed},
};
use crate::lock::{Mutex, MutexGuard};
use crate::{
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    waitlist::{Node, WaitList},
};
use lock_api::RawMutex as _;
use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    ptr,
    time::{Duration, Instant},
};

/// Waiting for a condition on what a [`Mutex`](super::Mutex) guards, in the shape of parking_lot's.
///
/// A wait ends by a notification or by its deadline, never for no reason. Whoever waited first is notified first. One condition
/// variable may serve several mutexes.
///
/// ```
/// use baton::{go, sync::{Condvar, Mutex}};
/// use std::sync::Arc;
///
/// baton::run(|| {
///     let ready = Arc::new((Mutex::new(false), Condvar::new()));
///     let other = Arc::clone(&ready);
///     go!(move || {
///         *other.0.lock() = true;
///         other.1.notify_one();
///     });
///     let mut is_ready = ready.0.lock();
///     ready.1.wait_while(&mut is_ready, |is_ready| !*is_ready);
///     assert!(*is_ready);
/// });
/// ```
pub struct Condvar {
    /// How many are in `list`; changed under its lock, before the mutex is given back. So whoever has had the mutex since
    /// sees it.
    waiting: AtomicUsize,
    list: Mutex<WaitList>,
}

/// Whether a wait ended by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it did.
    #[must_use]
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// A condition variable that nobody waits for.
    #[must_use]
    #[cfg(not(baton_loom))]
    pub const fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            list: Mutex::new(WaitList::new()),
        }
    }

    #[cfg(baton_loom)]
    pub(super) fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            list: Mutex::new(WaitList::new()),
        }
    }

    /// Wakes the one that has waited longest, if anybody waits; says whether.
    pub fn notify_one(&self) -> bool {
        if self.waiting.load(Relaxed) == 0 {
            return false;
        }
        let first = self.pop(&mut self.list.lock());
        first.inspect(|node| node.wake()).is_some()
    }

    /// Wakes all that wait; says how many.
    pub fn notify_all(&self) -> usize {
        if self.waiting.load(Relaxed) == 0 {
            return 0;
        }
        let (mut all, mut n) = (WaitList::new(), 0);
        let mut list = self.list.lock();
        while let Some(node) = self.pop(&mut list) {
            all.push(node);
            n += 1;
        }
        drop(list);
        all.wake_all();
        n
    }

    /// Gives the mutex back and waits for a notification; then takes the mutex again.
    pub fn wait<T: ?Sized>(&self, guard: &mut mutex::MutexGuard<'_, T>) {
        self.wait_limited(guard, Until::FOREVER);
    }

    /// As [`wait`](Self::wait), but for at most `timeout`, not counting the time to get the mutex again.
    pub fn wait_for<T: ?Sized>(&self, guard: &mut mutex::MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        self.wait_limited(guard, Until::timeout(timeout))
    }

    /// As [`wait`](Self::wait), but until `deadline` at most.
    pub fn wait_until<T: ?Sized>(&self, guard: &mut mutex::MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
        self.wait_limited(guard, Until::instant(deadline))
    }

    /// Waits as long as `condition` says `true`.
    pub fn wait_while<T: ?Sized>(
        &self,
        guard: &mut mutex::MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) {
        while condition(&mut *guard) {
            self.wait(guard);
        }
    }

    /// Waits as long as `condition` says `true`, for at most `timeout`.
    pub fn wait_while_for<T: ?Sized>(
        &self,
        guard: &mut mutex::MutexGuard<'_, T>,
        condition: impl FnMut(&mut T) -> bool,
        timeout: Duration,
    ) -> WaitTimeoutResult {
        self.wait_while_limited(guard, condition, Until::timeout(timeout))
    }

    /// Waits as long as `condition` says `true`, until `deadline` at most.
    pub fn wait_while_until<T: ?Sized>(
        &self,
        guard: &mut mutex::MutexGuard<'_, T>,
        condition: impl FnMut(&mut T) -> bool,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        self.wait_while_limited(guard, condition, Until::instant(deadline))
    }

    fn wait_while_limited<T: ?Sized>(
        &self,
        guard: &mut mutex::MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        until: Until<'_>,
    ) -> WaitTimeoutResult {
        let mut result = WaitTimeoutResult(false);
        while !result.timed_out() && condition(&mut *guard) {
            result = self.wait_limited(guard, until);
        }
        WaitTimeoutResult(result.timed_out() && condition(&mut *guard))
    }

    pub(crate) fn wait_limited<T: ?Sized>(
        &self,
        guard: &mut mutex::MutexGuard<'_, T>,
        until: Until<'_>,
    ) -> WaitTimeoutResult {
        checkpoint();
        // SAFETY: only locked and unlocked below, in turn, so the guard's owner holds it before and after.
        let raw = unsafe { mutex::MutexGuard::mutex(guard).raw() };
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::null_mut());
        let mut list = self.list.lock();
        list.push(&node);
        self.waiting.store(self.waiting.load(Relaxed) + 1, Relaxed);
        // Whoever gets the mutex now and notifies waits for the list's lock, until this party has parked.
        // SAFETY: the caller holds the mutex, and it is locked again below.
        unsafe { raw.unlock(lock_api::GuardSend::new()) };
        let commit = move || {
            drop(list);
            true
        };
        let timed_out = !park(&waiter, WaitReason::Condvar, until, commit);
        if timed_out {
            let mut list = self.list.lock();
            if node.is_linked() {
                list.remove(&node);
                self.one_less();
            }
        }
        // The guard's state is the same unit value for each time the mutex is held.
        let _ = raw.lock();
        WaitTimeoutResult(timed_out)
    }

    /// Takes the one off that has waited longest. It is the caller's to wake.
    fn pop<'a>(&self, list: &mut MutexGuard<'_, WaitList>) -> Option<&'a Node> {
        loop {
            let node = list.pop()?;
            self.one_less();
            // SAFETY: found on this list, whose lock is held.
            if unsafe { node.claim(Event::Done) } {
                return Some(node);
            }
        }
    }

    /// A node was taken off the list, whose lock is held.
    fn one_less(&self) {
        self.waiting.store(self.waiting.load(Relaxed) - 1, Relaxed);
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

// Its lists are whole whenever nobody is inside: no call here unwinds midway.
impl RefUnwindSafe for Condvar {}
impl UnwindSafe for Condvar {}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar")
            .field("waiting", &self.waiting.load(Relaxed))
            .finish()
    }
}
