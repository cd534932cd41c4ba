//! `errno` survives the allocator.
//!
//! Code that looks at `errno` after a failed call may drop a value first, and that frees memory. So whatever the
//! allocator asks of the kernel must not show there.

/// Runs `f`, and afterwards `errno` is what it was before.
pub(crate) fn kept<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: `__errno_location` gives this thread's own word, valid as long as the thread runs.
    let errno = unsafe { &mut *libc::__errno_location() };
    let before = *errno;
    let result = f();
    *errno = before;
    result
}
