//! The locks inside the scheduler: idle Ms and Ps, the queues that have no P, the timers that have none.
//!
//! parking_lot's mutex, but who has to wait says so in its M: the monitor leaves its P alone then, as it does with every lock of the
//! runtime that is held for some instructions only.

use baton_alloc::current;
use parking_lot::lock_api::{self, RawMutex};

/// A mutex inside the scheduler.
pub(crate) type Mutex<T> = lock_api::Mutex<Raw, T>;
/// Its guard.
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Raw, T>;

/// parking_lot's part.
pub(crate) struct Raw(parking_lot::RawMutex);

// SAFETY: all is left to a lock that keeps what the trait asks for.
unsafe impl RawMutex for Raw {
    const INIT: Self = Self(parking_lot::RawMutex::INIT);
    type Guard = <parking_lot::RawMutex as RawMutex>::Guard;

    #[inline]
    fn lock(&self) -> Self::Guard {
        let at_once = self.0.try_lock();
        at_once.unwrap_or_else(|| current::wait_for_lock(|| self.0.lock()))
    }

    #[inline]
    fn try_lock(&self) -> Option<Self::Guard> {
        self.0.try_lock()
    }

    #[inline]
    unsafe fn unlock(&self, guard: Self::Guard) {
        // SAFETY: as the caller promised.
        unsafe { self.0.unlock(guard) }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}
