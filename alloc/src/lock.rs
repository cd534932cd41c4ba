//! A lock that never allocates.
//!
//! parking_lot keeps its waiters in a table that it allocates, so an allocator that used it would call itself. This is
//! the classic three-state futex mutex (U. Drepper, "Futexes are tricky", mutex 2) with a short spin in front.
//!
//! | word | meaning | leaves by |
//! |---|---|---|
//! | `FREE` | nobody holds it | lock: → `HELD` |
//! | `HELD` | held, nobody sleeps | unlock: → `FREE`; a sleeper: → `CONTENDED` |
//! | `CONTENDED` | held, somebody may sleep | unlock: → `FREE`, and one sleeper is woken |
//!
//! Who sleeps for such a lock says so in its M: it is about to get on, unless the holder waits for the CPU, of which another thread would
//! leave it less. Who holds one for long, milliseconds and more, is waited for in silence: [`Lock::with_long`].

use crate::sync::{AtomicU32, Ordering, spin_loop};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// Turns of the spin before a thread sleeps: about a microsecond, longer than any section under these locks lasts.
#[cfg(not(baton_loom))]
const SPINS: u32 = 40;
#[cfg(baton_loom)]
const SPINS: u32 = 1;

/// A mutex without data, poisoning or allocation.
#[derive(Debug)]
pub struct Lock(AtomicU32, #[cfg(baton_loom)] crate::sync::Futex);

impl Lock {
    /// A free lock.
    #[cfg(not(baton_loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(FREE))
    }

    /// A free lock (loom's atomics cannot be made in a constant).
    #[cfg(baton_loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU32::new(FREE), crate::sync::Futex::default())
    }

    /// Takes the lock if that needs no waiting.
    #[inline]
    #[must_use]
    pub fn try_lock(&self) -> bool {
        self.0
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes the lock, waiting for it if need be.
    #[inline]
    pub fn lock(&self) {
        if !self.try_lock() {
            self.lock_slow(true);
        }
    }

    /// As [`lock`](Self::lock), of a lock that may be held for long.
    #[inline]
    pub(crate) fn lock_long(&self) {
        if !self.try_lock() {
            self.lock_slow(false);
        }
    }

    /// Takes a lock that is held, for a `short` time or not.
    #[cold]
    fn lock_slow(&self, #[cfg_attr(baton_loom, expect(unused))] short: bool) {
        for _ in 0..SPINS {
            spin_loop();
            if self.0.load(Ordering::Relaxed) == FREE && self.try_lock() {
                return;
            }
        }
        while self.0.swap(CONTENDED, Ordering::Acquire) != FREE {
            #[cfg(not(baton_loom))]
            {
                let sleep = || {
                    crate::sys::futex::wait(&self.0, CONTENDED, None);
                };
                if short {
                    crate::current::wait_for_lock(sleep);
                } else {
                    sleep();
                }
            }
            #[cfg(baton_loom)]
            self.1.wait(&self.0, CONTENDED);
        }
    }

    /// Gives the lock back.
    ///
    /// # Safety
    ///
    /// The caller holds the lock.
    #[inline]
    pub unsafe fn unlock(&self) {
        if self.0.swap(FREE, Ordering::Release) == CONTENDED {
            #[cfg(not(baton_loom))]
            crate::sys::futex::wake(&self.0, 1);
            #[cfg(baton_loom)]
            self.1.wake();
        }
    }

    /// Runs `f` with the lock held; the lock is given back even if `f` unwinds.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        self.lock();
        let _held = Held(self);
        f()
    }

    /// As [`with`](Self::with), for an `f` that may take long.
    #[inline]
    pub fn with_long<R>(&self, f: impl FnOnce() -> R) -> R {
        self.lock_long();
        let _held = Held(self);
        f()
    }
}

/// A lock that whoever made this value took just before.
struct Held<'a>(&'a Lock);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: taken before, and given back only here.
        unsafe { self.0.unlock() }
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}
