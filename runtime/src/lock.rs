//! The runtime's locks: parking_lot's, taken only where the stack has room for what comes.
//!
//! A goroutine whose overflow ends it alone ([`on_stack_overflow`](crate::Builder::on_stack_overflow)) must not end with a
//! lock held, or after it has taken a waiter off a list and before it has woken it. So the stack is asked *before*: whoever
//! takes a lock has [`ROOM`] bytes left, which is more than anything needs that the runtime does from then on. With less the
//! stack overflows here and now, where nothing is half done. Who holds such a lock already is not asked again: the thread's
//! M counts them.
//!
//! The locks inside the scheduler (idle Ms and Ps, the shared queue and timers) are parking_lot's own: who gets there has
//! come through here, or through [`room`].

use baton_alloc::{current, latch};
use baton_stack::Desc;
use parking_lot::lock_api::{self, GuardNoSend, RawMutex};
use std::{
    hint::black_box,
    ptr,
    sync::atomic::{
        Ordering::{Relaxed, SeqCst},
        compiler_fence,
    },
};

/// What a critical part of the runtime may need of a goroutine's stack; half of it, as a rule, in a debug build.
const ROOM: usize = 16 << 10;

/// A mutex of the runtime.
pub(crate) type Mutex<T> = lock_api::Mutex<Raw, T>;
/// Its guard.
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Raw, T>;

/// parking_lot's mutex, and the look at the stack before.
pub(crate) struct Raw(parking_lot::RawMutex);

// SAFETY: parking_lot's mutex excludes; this only looks at the stack before.
unsafe impl RawMutex for Raw {
    const INIT: Self = Self(parking_lot::RawMutex::INIT);
    type Guard = GuardNoSend;

    #[inline(always)]
    fn lock(&self) -> GuardNoSend {
        count();
        self.0.lock()
    }

    #[inline(always)]
    fn try_lock(&self) -> Option<GuardNoSend> {
        count();
        let guard = self.0.try_lock();
        if guard.is_none() {
            uncount();
        }
        guard
    }

    #[inline(always)]
    unsafe fn unlock(&self, guard: GuardNoSend) {
        // SAFETY: as the caller promised.
        unsafe { self.0.unlock(guard) };
        uncount();
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

/// Notes one more lock, and sees to the room before the first.
#[inline(always)]
fn count() {
    let Some(m) = current::m() else { return };
    let held = m.locks.load(Relaxed);
    if held == 0 {
        room_on(m);
    }
    m.locks.store(held + 1, Relaxed);
    compiler_fence(SeqCst); // the fault handler sees the note whenever the lock may be held
}

/// Notes one lock less. A thread may have got its M since it took the lock; then there is nothing to note.
#[inline(always)]
fn uncount() {
    compiler_fence(SeqCst);
    if let Some(m) = current::m() {
        m.locks.store(m.locks.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

/// Makes sure that the goroutine has [`ROOM`] on its stack: overflows it if not.
#[inline(always)]
pub(crate) fn room() {
    if let Some(m) = current::m() {
        room_on(m);
    }
}

#[inline(always)]
fn room_on(m: &latch::M) {
    // SAFETY: null or the descriptor of the stack that this thread runs on; those are never freed.
    let Some(stack) = (unsafe { m.stack.load(Relaxed).cast::<Desc>().as_ref() }) else {
        return;
    };
    let here = 0_u8;
    if stack.remaining(ptr::from_ref(&here).addr()) < ROOM {
        run_out(ROOM);
    }
}

/// Uses up what is left of the stack, which is less than `bytes`.
#[cold]
#[inline(never)]
fn run_out(bytes: usize) {
    let frame = black_box([0_u8; 1 << 10]);
    if bytes > 0 {
        run_out(bytes - frame.len());
    }
    black_box(frame); // so that the call above is no jump
}
