//! A future's task as a party that waits: it stands where the [`Waiter`] of a goroutine or a thread would.
//!
//! ```text
//!   poll ─▶ Task { waiter, node, Waits(waker) } ─▶ a channel's list, a goroutine's join word ─▶ wake ─▶ Woken; the waker ─▶ driver
//! ```
//!
//! # Invariants
//!
//! 1. Whoever finds the waiter somewhere has a count of the `Arc`: made by [`Task::into_waiter`] before it can be found, ended by
//!    the wake, or by who takes the waiter out again. So it is there until it is woken, as a parked party's frame is.
//! 2. A wake may happen under a lock of the runtime, on g0, or where a goroutine has just ended. So it runs nothing of the
//!    program: the waker goes to the [driver](super::driver), and a task that goes with its last count holds no waker.
//! 3. The node is touched under its list's lock; whoever claims the task's ticket there has it, until the wake.

use super::driver::Driver;
use crate::{lock::Mutex, park::Waiter, waitlist::Node};
use std::{
    cell::Cell,
    mem::{self, ManuallyDrop},
    ptr,
    sync::{Arc, Weak},
    task::Waker,
};

/// One wait of a future.
#[repr(C)]
pub(crate) struct Task {
    /// First, so that its address is the task's.
    waiter: Waiter,
    node: Node,
    state: Mutex<State>,
}

enum State {
    Waits(Waker),
    /// Woken, or nobody waits any more.
    Over,
    /// Nobody waits any more for the goroutine that has ended and is about to wake.
    Abandoned,
}

// SAFETY: the goroutine is the right to free its block, which goes to whoever wakes; waiter and node are guarded as invariants 1 and
// 3 say; the waker is `Send` and `Sync` itself.
unsafe impl Send for Task {}
// SAFETY: as above.
unsafe impl Sync for Task {}

impl Task {
    /// A task that waits; its node is of this kind.
    pub(crate) fn new(waker: &Waker, kind: u32) -> Arc<Self> {
        Self::make(State::Waits(waker.clone()), kind)
    }

    /// A task that does not wait yet.
    pub(crate) fn idle(kind: u32) -> Arc<Self> {
        Self::make(State::Over, kind)
    }

    fn make(state: State, kind: u32) -> Arc<Self> {
        Arc::new_cyclic(|task: &Weak<Self>| Self {
            waiter: Waiter::of_task(),
            node: Node::for_case(task.as_ptr().cast(), kind, 0, ptr::null_mut()),
            state: Mutex::new(state),
        })
    }

    /// One more count, as the waiter that others may find and wake.
    pub(crate) fn into_waiter(this: &Arc<Self>) -> *const Waiter {
        Arc::into_raw(Arc::clone(this)).cast()
    }

    /// The count that [`into_waiter`](Self::into_waiter) made.
    ///
    /// # Safety
    ///
    /// It made one of this waiter, and that is the caller's.
    pub(crate) unsafe fn from_waiter(waiter: *const Waiter) -> Arc<Self> {
        // SAFETY: as the caller promised; the waiter is the task's first field.
        unsafe { Arc::from_raw(waiter.cast()) }
    }

    /// The task behind a waiter of which the caller has a count, which it keeps.
    ///
    /// # Safety
    ///
    /// As for [`from_waiter`](Self::from_waiter).
    pub(crate) unsafe fn borrow(waiter: &Cell<*const Waiter>) -> ManuallyDrop<Arc<Self>> {
        // SAFETY: as the caller promised.
        ManuallyDrop::new(unsafe { Self::from_waiter(waiter.get()) })
    }

    /// Makes this the waker of a task that waits. `false`: it waits no more.
    pub(crate) fn renew(&self, waker: &Waker) -> bool {
        let waker = waker.clone();
        let before = match &mut *self.state.lock() {
            State::Waits(before) => mem::replace(before, waker),
            _ => return false,
        };
        drop(before); // not under the lock: it is the program's
        true
    }

    /// A task that nobody else knows any more waits again.
    pub(crate) fn reset(&mut self, waker: &Waker) {
        *self.state.get_mut() = State::Waits(waker.clone());
    }

    /// Nobody waits any more; a wake that is on its way does nothing.
    pub(crate) fn forget(&self) {
        let before = mem::replace(&mut *self.state.lock(), State::Over);
        drop(before); // not under the lock
    }

    /// Nobody waits any more for the end of a goroutine, which has ended and wakes this task, or has. `true`: it has, and its block is
    /// the caller's; otherwise whoever wakes gets it.
    pub(crate) fn abandon(&self) -> bool {
        let mut state = self.state.lock();
        let before = match *state {
            State::Over => return true,
            _ => mem::replace(&mut *state, State::Abandoned),
        };
        drop(state);
        drop(before); // not under the lock
        false
    }

    /// Ends the wait: [`Waiter::wake`] of a task's waiter. `true`: it was [abandoned](Self::abandon).
    ///
    /// # Safety
    ///
    /// The caller has the waiter's count, which ends here.
    pub(crate) unsafe fn wake(waiter: *const Waiter) -> bool {
        // SAFETY: as the caller promised.
        let this = unsafe { Self::from_waiter(waiter) };
        let before = mem::replace(&mut *this.state.lock(), State::Over);
        match before {
            State::Waits(waker) => Driver::here().wake_later(waker),
            State::Over => {}
            State::Abandoned => return true,
        }
        false
    }

    /// Begins a wait on a list whose lock is held: gives the node for it, and the list a count.
    pub(crate) fn enlist(this: &Arc<Self>) -> &Node {
        let _ = Self::into_waiter(this);
        this.waiter.open();
        &this.node
    }

    /// Ends the wait on a list, whose lock is held, unless somebody has claimed the task: gives the node to take off, and the count
    /// to drop.
    pub(crate) fn delist(this: &Arc<Self>) -> Option<(&Node, Arc<Self>)> {
        if !this.waiter.claim_own() {
            return None;
        }
        // SAFETY: claimed here, so nobody wakes, and the list's count is ours.
        Some((&this.node, unsafe { Self::from_waiter(&raw const this.waiter) }))
    }
}
