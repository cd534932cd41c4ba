//! Waiting for a 32-bit word to change, without allocating.

use super::errno;
use core::{ptr, sync::atomic::AtomicU32, time::Duration};

/// Sleeps while `*word == expected`, until woken, for at most `timeout` if one is given. May also return for no reason.
///
/// Returns `false` if the timeout passed.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> bool {
    let spec = timeout.map(|d| libc::timespec {
        tv_sec: libc::time_t::try_from(d.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(d.subsec_nanos()),
    });
    let spec = spec.as_ref().map_or(ptr::null(), ptr::from_ref);
    errno::kept(|| {
        // SAFETY: the word and the timespec outlive the call, and FUTEX_WAIT only reads both.
        let r = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                expected,
                spec,
            )
        };
        // SAFETY: errno is this thread's own word.
        r == 0 || unsafe { *libc::__errno_location() } != libc::ETIMEDOUT
    })
}

/// Wakes up to `count` threads that wait for `word`.
pub fn wake(word: &AtomicU32, count: i32) {
    // SAFETY: FUTEX_WAKE uses the address as a key only and does not touch the memory.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            count,
        );
    }
}
