//! Who called: the return addresses on this thread's stack.
//!
//! By the unwinder that Rust's panics use, from the tables that compilers write for exceptions, so no frame pointers are
//! needed. It takes no lock and allocates nothing where the C library keeps an index of those tables (glibc from 2.35).

use core::ffi::{c_int, c_void};

unsafe extern "C" {
    fn _Unwind_Backtrace(step: extern "C" fn(*mut c_void, *mut c_void) -> c_int, arg: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// Where the addresses go.
struct Into<'a> {
    frames: &'a mut [usize],
    len: usize,
}

extern "C" fn step(context: *mut c_void, into: *mut c_void) -> c_int {
    const GO_ON: c_int = 0;
    const STOP: c_int = 5;
    // SAFETY: `capture` passes this and waits.
    let into = unsafe { &mut *into.cast::<Into<'_>>() };
    // SAFETY: the unwinder passes its context.
    let ip = unsafe { _Unwind_GetIP(context) };
    if ip == 0 || into.len == into.frames.len() {
        return STOP;
    }
    into.frames[into.len] = ip;
    into.len += 1;
    GO_ON
}

/// Puts return addresses into `frames`, the innermost first, and gives how many there are.
pub(crate) fn capture(frames: &mut [usize]) -> usize {
    let mut into = Into { frames, len: 0 };
    // SAFETY: `step` is called with `into` while this waits, and unwinds nothing.
    unsafe { _Unwind_Backtrace(step, (&raw mut into).cast()) };
    into.len
}
