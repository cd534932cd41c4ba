//! Time that a thread has worked, for the scavenger's pace.

use core::{mem::MaybeUninit, time::Duration};

/// How long the calling thread has had a processor so far.
pub(crate) fn worked() -> Duration {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: every thread has this clock, so the call fills `now`.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, now.as_mut_ptr());
        now.assume_init()
    };
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
