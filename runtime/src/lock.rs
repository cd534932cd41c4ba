//! The runtime's locks: one byte, taken only where the stack has room for what comes.
//!
//! ```text
//!   lock     one compare-and-swap ── held? stand back, look again ── still? let others run ── still? sleep, 50 µs … 0.8 ms
//!   unlock   one plain store: nobody has to be told
//! ```
//!
//! Such a lock is held for some dozens of instructions, and hardly ever wanted by two at a time, so what it costs is what it costs
//! when nobody else is there: one locked instruction instead of the two of a lock whose holder must find out who sleeps. A holder
//! that the system has stopped halfway is what makes others sleep; then they look again by and by.
//!
//! Who finds it held stands back for [`PAUSE`], a hundred times as long as it is held, and does not look meanwhile. Two that want
//! a lock all the time would fetch its line, and that of what it guards, from each other at every turn; so one of them has a
//! hundred turns without the other, and then it is the other way round.
//!
//! A goroutine whose overflow ends it alone ([`on_stack_overflow`](crate::Builder::on_stack_overflow)) must not end with a
//! lock held, or after it has taken a waiter off a list and before it has woken it. So the stack is asked *before*: whoever
//! takes a lock has [`ROOM`] bytes left, which is more than anything needs that the runtime does from then on. With less the
//! stack overflows here and now, where nothing is half done. Who holds such a lock already is not asked again: the thread's
//! M counts them.
//!
//! The locks inside the scheduler are others, [`sched::lock`](crate::sched::lock): who gets there has come through here, or
//! through [`room`].

use baton_alloc::{current, latch};
use baton_stack::Desc;
use parking_lot::lock_api::{self, GuardNoSend, RawMutex};
use std::{
    hint::{self, black_box},
    ptr,
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        compiler_fence,
    },
    thread,
    time::{Duration, Instant},
};

/// What a critical part of the runtime may need of a goroutine's stack; half of it, as a rule, in a debug build.
const ROOM: usize = 16 << 10;

/// A mutex of the runtime.
pub(crate) type Mutex<T> = lock_api::Mutex<Raw, T>;
/// Its guard.
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Raw, T>;

/// Whether it is held.
pub(crate) struct Raw(AtomicBool);

/// Between two looks at a lock that is held.
const PAUSE: Duration = Duration::from_micros(2);

/// Looks before others are let run.
const LOOKS: u32 = 8;

/// Times that others are let run before the thread sleeps.
const YIELDS: u32 = 4;

/// The first sleep; the longest is sixteen times as long.
const SLEEP: Duration = Duration::from_micros(50);

// SAFETY: one compare-and-swap at a time succeeds until the holder's store, which releases what the next one acquires.
unsafe impl RawMutex for Raw {
    const INIT: Self = Self(AtomicBool::new(false));
    type Guard = GuardNoSend;

    #[inline(always)]
    fn lock(&self) -> GuardNoSend {
        count();
        if !self.acquire() {
            self.wait();
        }
        GuardNoSend::new()
    }

    #[inline(always)]
    fn try_lock(&self) -> Option<GuardNoSend> {
        count();
        if self.acquire() {
            return Some(GuardNoSend::new());
        }
        uncount();
        None
    }

    #[inline(always)]
    unsafe fn unlock(&self, _: GuardNoSend) {
        self.0.store(false, Release);
        uncount();
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl Raw {
    #[inline(always)]
    fn acquire(&self) -> bool {
        self.0.compare_exchange(false, true, Acquire, Relaxed).is_ok()
    }

    #[cold]
    fn wait(&self) {
        for round in 0_u32.. {
            for _ in 0..LOOKS {
                stand_back(PAUSE);
                if !self.is_locked() && self.acquire() {
                    return;
                }
            }
            match round.checked_sub(YIELDS) {
                None => thread::yield_now(),
                Some(slept) => current::wait_for_lock(|| thread::sleep(SLEEP * (1 << slept.min(4)))),
            }
        }
    }
}

/// Does nothing for so long, on the processor: who has what is wanted has it for himself meanwhile.
pub(crate) fn stand_back(pause: Duration) {
    let start = Instant::now();
    while start.elapsed() < pause {
        for _ in 0..8 {
            hint::spin_loop();
        }
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
