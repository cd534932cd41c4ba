//! Mutexes: lock_api's types over [`RawLock`], held for writing only.

use super::{
    Party, Until,
    rawlock::{Mode::Exclusive, RawLock},
};
use crate::park::WaitReason;
use lock_api::GuardSend;
use std::{
    fmt,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// The lock of a [`Mutex`], for lock_api's generic types.
pub struct RawMutex(RawLock);

/// Mutual exclusion for goroutines and threads.
///
/// A goroutine that waits parks; its thread runs others. The API is that of parking_lot, by way of lock_api: no poisoning,
/// `const fn new`, timed and mapped forms, [guards that own an `Arc`](ArcMutexGuard).
///
/// The guard belongs to nobody: it may be held over parking calls, sent to another goroutine or thread, and dropped there.
///
/// Who comes while the mutex is free gets it, so short critical sections stay cheap. Who was woken in vain after a millisecond
/// of waiting is the next to get it, so nobody starves. The memory effects are those of every mutex: what happened before an
/// unlock has happened for whoever locks next.
///
/// ```
/// use baton::{go, sync::Mutex};
/// use std::sync::Arc;
///
/// baton::run(|| {
///     let total = Arc::new(Mutex::new(0));
///     let parts: Vec<_> = (0..10)
///         .map(|i| {
///             let total = Arc::clone(&total);
///             go!(move || *total.lock() += i)
///         })
///         .collect();
///     parts.into_iter().for_each(|part| part.join().unwrap());
///     assert_eq!(*total.lock(), 45);
/// });
/// ```
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;
/// The right to the data of a [`Mutex`], until it is dropped.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;
/// A guard of a part of what a [`Mutex`] guards: see [`lock_api::MutexGuard::map`].
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawMutex, T>;
/// A guard that keeps its [`Mutex`] alive: see [`lock_api::Mutex::lock_arc`].
pub type ArcMutexGuard<T> = lock_api::ArcMutexGuard<RawMutex, T>;

/// A mutex that its owner may lock again; it opens when each of the guards is dropped.
///
/// The owner is the goroutine (in a plain thread, the thread), wherever it goes on. Since several guards exist at a time they
/// give shared access only: put a `Cell` or a `RefCell` inside.
///
/// ```
/// use baton::sync::ReentrantMutex;
/// use std::cell::Cell;
///
/// let depth = ReentrantMutex::new(Cell::new(0));
/// let outer = depth.lock();
/// let inner = depth.lock(); // the same owner: does not wait
/// inner.set(inner.get() + 1);
/// assert_eq!(outer.get(), 1);
/// ```
pub type ReentrantMutex<T> = lock_api::ReentrantMutex<RawMutex, PartyId, T>;
/// The right to the data of a [`ReentrantMutex`], until it is dropped.
pub type ReentrantMutexGuard<'a, T> = lock_api::ReentrantMutexGuard<'a, RawMutex, PartyId, T>;
/// A guard of a part of what a [`ReentrantMutex`] guards.
pub type MappedReentrantMutexGuard<'a, T> = lock_api::MappedReentrantMutexGuard<'a, RawMutex, PartyId, T>;
/// A guard that keeps its [`ReentrantMutex`] alive.
pub type ArcReentrantMutexGuard<T> = lock_api::ArcReentrantMutexGuard<RawMutex, PartyId, T>;

/// Who owns a [`ReentrantMutex`]: a goroutine, or a plain thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartyId;

// SAFETY: a goroutine's own block or a thread's own latch record: addresses that nobody else has while it lives, the same
// wherever the goroutine goes on.
unsafe impl lock_api::GetThreadId for PartyId {
    const INIT: Self = Self;

    fn nonzero_thread_id(&self) -> NonZeroUsize {
        super::party_address()
    }
}

impl RawMutex {
    /// Who holds the mutex, now or a moment ago; `None` if nobody does.
    ///
    /// ```
    /// use baton::sync::{Holder, Mutex};
    ///
    /// let mutex = Mutex::new(());
    /// let guard = mutex.lock();
    /// // SAFETY: the raw mutex is only looked at.
    /// assert_eq!(unsafe { mutex.raw() }.holder(), Some(Holder::Thread));
    /// # drop(guard);
    /// ```
    #[must_use]
    pub fn holder(&self) -> Option<super::Holder> {
        self.0.holder().map(super::Holder::of)
    }

    #[inline]
    pub(crate) fn lock_until(&self, until: Until<'_>) -> Option<GuardSend> {
        let party = Party::at_parking_call();
        let locked = self.0.lock(Exclusive, party, WaitReason::Mutex, until);
        locked.then(GuardSend::new)
    }
}

// SAFETY: `RawLock` gives the lock in `Exclusive` mode to one party at a time.
unsafe impl lock_api::RawMutex for RawMutex {
    const INIT: Self = Self(RawLock::new());

    type Guard = GuardSend;

    #[inline]
    fn lock(&self) -> GuardSend {
        self.0
            .lock(Exclusive, Party::at_parking_call(), WaitReason::Mutex, Until::FOREVER);
        GuardSend::new()
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardSend> {
        let locked = self.0.try_lock(Exclusive);
        if locked {
            self.0.set_holder(Party::here());
        }
        locked.then(GuardSend::new)
    }

    #[inline]
    unsafe fn unlock(&self, _: GuardSend) {
        self.0.unlock(Exclusive);
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

// SAFETY: as above; the lock goes from one holder to the next.
unsafe impl lock_api::RawMutexFair for RawMutex {
    unsafe fn unlock_fair(&self, _: GuardSend) {
        self.0.unlock_fair(Exclusive);
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawMutexTimed for RawMutex {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_for(&self, timeout: Duration) -> Option<GuardSend> {
        self.lock_until(Until::timeout(timeout))
    }

    fn try_lock_until(&self, timeout: Instant) -> Option<GuardSend> {
        self.lock_until(Until::instant(timeout))
    }
}

impl fmt::Debug for RawMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMutex").field("holder", &self.holder()).finish()
    }
}
