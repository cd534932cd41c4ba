//! Declared blocking calls: a counter bump each way.

use super::Sched;
use crate::{m, p::P};
use std::sync::atomic::Ordering::Relaxed;

/// Runs `f`, which may block in the kernel, and says so to the scheduler.
///
/// Nothing is wrong with blocking in a goroutine *without* this: the scheduler finds out, and the goroutine's processor
/// goes to another thread, with everything that it owns. Said beforehand, it finds out sooner: after about 20 µs instead
/// of up to half a millisecond, and it costs a few nanoseconds if the call turns out to be short.
///
/// `f` runs on the goroutine's own stack and thread. After a long call the goroutine goes on without a processor until it
/// next calls Baton. In a plain thread this is just `f()`.
///
/// ```
/// let text = baton::run(|| baton::blocking(|| std::fs::read_to_string("Cargo.toml")));
/// assert!(text.is_ok());
/// ```
pub fn blocking<T>(f: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        #[inline]
        fn drop(&mut self) {
            // The M that the goroutine runs on now: `f` may have parked, and g0 closes the call of an M that it leaves.
            if let Some(m) = m::current() {
                m.leave_blocking();
            }
        }
    }
    let Some((m, _)) = m::current_goroutine() else {
        return f();
    };
    m.enter_blocking();
    let _leave = Leave;
    f()
}

impl m::M {
    /// The goroutine on this M is about to block.
    #[inline]
    fn enter_blocking(&'static self) {
        let calls = self.blocking.load(Relaxed);
        self.blocking.store(calls | 1, Relaxed);
        self.sched.expect_handoff(self);
    }

    /// It is back, or has parked.
    #[inline]
    pub(super) fn leave_blocking(&self) {
        let calls = self.blocking.load(Relaxed);
        self.blocking.store((calls | 1).wrapping_add(1), Relaxed);
    }
}

impl Sched {
    /// Wakes the sysmon from a long sleep if goroutines wait for the P that is about to be blocked.
    #[inline]
    fn expect_handoff(&self, m: &m::M) {
        if self.sysmon.dozes()
            && (self.global.len() > 0
                || m.latch()
                    .p()
                    .and_then(P::of)
                    .is_some_and(|p| p.runq.len() > 0 || p.runq.has_next()))
        {
            self.sysmon.alert();
        }
    }
}
