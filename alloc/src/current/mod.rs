//! Which M this thread is: one word of thread-local storage, read by an instruction that the compiler cannot move.
//!
//! `thread_local!` will not do. A goroutine may go on on another thread after a parking call, and no Rust compiler knows
//! that: it may compute the address of a thread-local once and keep it in a register over the switch. (jemalloc met just
//! this as heap corruption under fibers: jemalloc#2890.) So the word is a thread-local symbol of our own, and each access is
//! an `asm!` block that is not `pure`: one load of the offset through the GOT (the linker turns it into a constant in an
//! executable), one access through the thread pointer, in executables and shared libraries alike, never merged with
//! another, never moved over a call.
//!
//! The word leads to an M that finds nothing (`latch::NOBODY`) until the thread's first allocation, and again once its lease
//! is given back: so who allocates need not look whether there is one.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

use crate::latch::{M, NOBODY, P};
use core::sync::atomic::Ordering::Relaxed;

/// This thread's M, or `None` if it has none yet.
///
/// The reference is good for ever (Ms are never freed), but it is *this thread's* M only until the next parking call.
#[inline(always)]
#[must_use]
pub fn m() -> Option<&'static M> {
    Some(m_or_nobody()).filter(|&m| !core::ptr::eq(m, &NOBODY))
}

/// This thread's M, or [`NOBODY`].
#[inline(always)]
pub(crate) fn m_or_nobody() -> &'static M {
    // SAFETY: the word is `NOBODY` from the start, or what `set` put there, and that is a `&'static M`.
    unsafe { &*arch::get().cast::<M>() }
}

/// The P that this thread's M runs now; `None` if it has none, or no M.
#[inline(always)]
#[must_use]
pub fn p() -> Option<&'static P> {
    m_or_nobody().p()
}

/// Runs `sleep`, in which this thread sleeps until a lock of the runtime is free that nobody holds for long, and notes that in its M:
/// [`M::lock_waits`].
pub fn wait_for_lock<R>(sleep: impl FnOnce() -> R) -> R {
    let Some(m) = m() else { return sleep() };
    let waits = m.lock_waits.load(Relaxed);
    if !waits.is_multiple_of(2) {
        return sleep(); // for a lock that is needed to wait for the other one, as when parking_lot allocates
    }
    m.lock_waits.store(waits.wrapping_add(1), Relaxed);
    let result = sleep();
    m.lock_waits.store(waits.wrapping_add(2), Relaxed);
    result
}

/// Makes `m` this thread's M.
pub(crate) fn set(m: Option<&'static M>) {
    // SAFETY: the only readers are those above, which expect a `&'static M`.
    unsafe { arch::set(core::ptr::from_ref(m.unwrap_or(&NOBODY)).cast()) }
}
