//! Time, for the scavenger's pace.

use core::{mem::MaybeUninit, time::Duration};

/// The time since some moment in the past.
pub(crate) fn now() -> Duration {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the monotonic clock exists, so the call fills `now`.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr());
        now.assume_init()
    };
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
