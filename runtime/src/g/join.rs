//! The joiner's end of a goroutine: waiting for it in a goroutine or a thread, and in a future.
//!
//! ```text
//!   joiner    waiter ─▶ JOINING ─┐                       ┌─ JOINING was set: wakes the waiter, which may be a future's task
//!   goroutine                    └── ends ─▶ DONE ───────┼─ DETACHED was set: drops the result and frees the block
//!   handle    dropped ─▶ DETACHED ───────────────────────┘  neither: leaves both to the handle
//! ```
//!
//! # Invariants
//!
//! 1. Who was waited for reads `waiter`, in the block, after it has set `DONE`. So once `JOINING` is set the block stays until the
//!    wake has come: a joiner that parks goes on only then, and a future that is polled or dropped asks its task, not `DONE`.
//! 2. `AWAITED` is the handle's own note: `waiter` is a [`Task`]'s, of which the handle has one count, and whoever wakes it
//!    another (the handle again, once it has cleared `JOINING` in time).

use super::{DETACHED, DONE, G, JOINING, Payload, Task as Block};
use crate::{
    future::task::Task,
    park::{WaitReason, Waiter},
};
use std::{
    cell::Cell,
    mem::{self, ManuallyDrop},
    ptr::NonNull,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed},
    task::{self, Poll},
};

/// `join`: the handle waits as a future, see `waiter`.
const AWAITED: u32 = 8;

/// The joiner's end of a goroutine that returns `T`.
pub(crate) struct Handle<T> {
    /// `None` once a future has given the result.
    g: Option<NonNull<G>>,
    take: unsafe fn(NonNull<G>) -> Result<T, Payload>,
}

// SAFETY: the handle gives access to the join word, which is atomic, and once to the result, a `T` that may be sent.
unsafe impl<T: Send> Send for Handle<T> {}
// SAFETY: through a shared handle only the join word and constants can be read.
unsafe impl<T: Send> Sync for Handle<T> {}

impl<T> Handle<T> {
    /// The handle of a goroutine made by [`G::create`] with these very types.
    ///
    /// # Safety
    ///
    /// `F` and `T` are those that `g` was made with, and this is its only handle.
    pub(crate) unsafe fn new<F: FnOnce() -> T>(g: NonNull<G>) -> Self {
        Self {
            g: Some(g),
            take: take::<F, T>,
        }
    }

    fn g(&self) -> Option<&G> {
        // SAFETY: the block lives until DONE and DETACHED are both set, and DETACHED is ours to set.
        self.g.map(|g| unsafe { g.as_ref() })
    }

    /// The goroutine's number; 0 once a future has given the result.
    pub(crate) fn id(&self) -> u64 {
        self.g().map_or(0, G::id)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.g().is_none_or(|g| g.join.load(Acquire) & DONE != 0)
    }

    /// Waits for the end and gives the result.
    pub(crate) fn join(self) -> Result<T, Payload> {
        let Some(g) = self.g() else { spent() };
        let word = g.join.load(Acquire);
        if word & AWAITED != 0 {
            return crate::future::block_on(crate::future::Joining(self));
        }
        if word & DONE == 0 {
            let waiter = Waiter::new();
            g.waiter.set(&waiter);
            waiter.park(WaitReason::Join, || g.join.fetch_or(JOINING, AcqRel) & DONE == 0);
        }
        let this = ManuallyDrop::new(self);
        let g = this.g.expect("seen above");
        // SAFETY: done, and the handle does not run its drop, so the block is ours.
        unsafe { (this.take)(g) }
    }

    /// The result, or a note that wakes this task when it is there.
    pub(crate) fn poll(&mut self, cx: &task::Context<'_>) -> Poll<Result<T, Payload>> {
        let Some(g) = self.g() else { spent() };
        let word = g.join.load(Acquire);
        if word & AWAITED != 0 {
            // SAFETY: AWAITED is set, so this is a task of which the handle has a count.
            let task = unsafe { Task::borrow(&g.waiter) };
            if task.renew(cx.waker()) {
                return Poll::Pending;
            }
            // SAFETY: as above; the bit is cleared with the count.
            drop(unsafe { Task::from_waiter(g.waiter.get()) });
            g.join.fetch_and(!AWAITED, Relaxed);
        } else if word & DONE == 0 {
            let task = Task::new(cx.waker(), 0);
            g.waiter.set(Task::into_waiter(&task)); // the waker's count
            if g.join.fetch_or(JOINING | AWAITED, AcqRel) & DONE == 0 {
                mem::forget(task); // the handle's
                return Poll::Pending;
            }
            // SAFETY: it was done before, so nobody wakes this waiter.
            drop(unsafe { Task::from_waiter(g.waiter.get()) });
            g.join.fetch_and(!AWAITED, Relaxed);
        }
        let take = self.take;
        let g = self.g.take().expect("seen above");
        // SAFETY: done, whoever was to wake has, and the handle has forgotten the block, so it is ours.
        Poll::Ready(unsafe { take(g) })
    }
}

/// Somebody asks a second time.
#[cold]
fn spent() -> ! {
    panic!("the result of this goroutine was taken already, by a poll of its handle")
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        let Some(g) = self.g else { return };
        // SAFETY: the block lives until DONE and DETACHED are both set, and DETACHED is ours to set.
        let this = unsafe { g.as_ref() };
        if this.join.load(Relaxed) & AWAITED != 0 && !stop_awaiting(g) {
            return;
        }
        if this.join.fetch_or(DETACHED, AcqRel) & DONE != 0 {
            // SAFETY: done and detached: the block is ours (invariant 3 of `g`).
            unsafe { this.vtable.discard(g) };
        }
    }
}

/// Takes the task of a handle that is dropped back from the goroutine. `false`: the goroutine is about to wake it, and will see to the
/// block (invariant 1).
#[cold]
fn stop_awaiting(g: NonNull<G>) -> bool {
    // SAFETY: the handle's, which is not detached yet.
    let this = unsafe { g.as_ref() };
    // SAFETY: AWAITED is set, so this is a task of which the handle has a count, taken here.
    let task = unsafe { Task::from_waiter(this.waiter.get()) };
    if this.join.fetch_and(!(JOINING | AWAITED), AcqRel) & DONE == 0 {
        // SAFETY: the goroutine will not see JOINING, so the count for the wake is ours too.
        drop(unsafe { Task::from_waiter(this.waiter.get()) });
        return true;
    }
    task.abandon()
}

/// Wakes the joiner of a goroutine that has just set DONE, and found JOINING in this `word`. `true`: the joiner was a task and is gone, so
/// the block is the caller's.
///
/// # Safety
///
/// The waiter is the goroutine's, and it is woken by nobody else.
pub(super) unsafe fn wake_joiner(waiter: &Cell<*const Waiter>, word: u32) -> bool {
    if word & AWAITED != 0 {
        // SAFETY: as the caller promised, so the wake's count is its.
        return unsafe { Task::wake(waiter.get()) };
    }
    // SAFETY: the joiner waits, with its waiter and the block, until it is woken.
    unsafe { (*waiter.get()).wake() };
    false
}

/// Takes the result and frees the block.
///
/// # Safety
///
/// The goroutine is done, was made with these types, and nobody else touches the block any more.
unsafe fn take<F: FnOnce() -> T, T>(g: NonNull<G>) -> Result<T, Payload> {
    // SAFETY: as the caller promised.
    unsafe {
        let payload = &mut *g.cast::<Block<F, T>>().as_ref().payload.get();
        let result = ManuallyDrop::take(&mut payload.result);
        Block::<F, T>::free(g);
        result
    }
}
