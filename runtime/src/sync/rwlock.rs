//! Reader-writer locks: lock_api's types over [`RawLock`].

use super::{
    Party, Until,
    rawlock::{
        Mode::{Exclusive, Shared},
        RawLock,
    },
};
use crate::{park::WaitReason, sched::checkpoint};
use lock_api::GuardSend;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// The lock of a [`RwLock`], for lock_api's generic types.
pub struct RawRwLock(RawLock);

/// Many readers or one writer, goroutines and threads alike: as [`Mutex`](super::Mutex) in everything else.
///
/// Readers get in while others read, unless somebody waits: then who comes queues up behind, so that a writer has his turn.
/// A writer that lets go wakes whoever waited first, and all readers behind who waited in a row.
///
/// A reader that locks again while it reads may wait for a writer that waits for it. Do not.
///
/// ```
/// use baton::sync::RwLock;
///
/// let names = RwLock::new(vec!["a"]);
/// names.write().push("b");
/// let (one, two) = (names.read(), names.read());
/// assert_eq!(one.len() + two.len(), 4);
/// ```
pub type RwLock<T> = lock_api::RwLock<RawRwLock, T>;
/// The right to read what a [`RwLock`] guards, until it is dropped.
pub type RwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawRwLock, T>;
/// The right to write what a [`RwLock`] guards, until it is dropped.
pub type RwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawRwLock, T>;
/// A read guard of a part of what a [`RwLock`] guards.
pub type MappedRwLockReadGuard<'a, T> = lock_api::MappedRwLockReadGuard<'a, RawRwLock, T>;
/// A write guard of a part of what a [`RwLock`] guards.
pub type MappedRwLockWriteGuard<'a, T> = lock_api::MappedRwLockWriteGuard<'a, RawRwLock, T>;
/// A read guard that keeps its [`RwLock`] alive.
pub type ArcRwLockReadGuard<T> = lock_api::ArcRwLockReadGuard<RawRwLock, T>;
/// A write guard that keeps its [`RwLock`] alive.
pub type ArcRwLockWriteGuard<T> = lock_api::ArcRwLockWriteGuard<RawRwLock, T>;

impl RawRwLock {
    /// Who holds the lock for writing, now or a moment ago; `None` if nobody does.
    #[must_use]
    pub fn holder(&self) -> Option<super::Holder> {
        self.0.holder().map(super::Holder::of)
    }

    #[inline]
    pub(crate) fn read_until(&self, until: Until<'_>) -> Option<GuardSend> {
        checkpoint();
        let locked = self.0.lock(Shared, Party::UNKNOWN, WaitReason::RwLockRead, until);
        locked.then(GuardSend::new)
    }

    #[inline]
    pub(crate) fn write_until(&self, until: Until<'_>) -> Option<GuardSend> {
        let party = Party::at_parking_call();
        let locked = self.0.lock(Exclusive, party, WaitReason::RwLockWrite, until);
        locked.then(GuardSend::new)
    }
}

// SAFETY: `RawLock` keeps a holder in `Exclusive` mode and all others apart.
unsafe impl lock_api::RawRwLock for RawRwLock {
    const INIT: Self = Self(RawLock::new());

    type SharedGuard = GuardSend;
    type ExclusiveGuard = GuardSend;

    #[inline]
    fn lock_shared(&self) -> GuardSend {
        checkpoint();
        self.0
            .lock(Shared, Party::UNKNOWN, WaitReason::RwLockRead, Until::FOREVER);
        GuardSend::new()
    }

    #[inline]
    fn try_lock_shared(&self) -> Option<GuardSend> {
        self.0.try_lock(Shared).then(GuardSend::new)
    }

    #[inline]
    unsafe fn unlock_shared(&self, _: GuardSend) {
        self.0.unlock(Shared);
    }

    #[inline]
    fn lock_exclusive(&self) -> GuardSend {
        self.0.lock(
            Exclusive,
            Party::at_parking_call(),
            WaitReason::RwLockWrite,
            Until::FOREVER,
        );
        GuardSend::new()
    }

    #[inline]
    fn try_lock_exclusive(&self) -> Option<GuardSend> {
        let locked = self.0.try_lock(Exclusive);
        if locked {
            self.0.set_holder(Party::here());
        }
        locked.then(GuardSend::new)
    }

    #[inline]
    unsafe fn unlock_exclusive(&self, _: GuardSend) {
        self.0.unlock(Exclusive);
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    fn is_locked_exclusive(&self) -> bool {
        self.0.is_locked_exclusive()
    }
}

// SAFETY: as above; the lock goes from one holder to the next.
unsafe impl lock_api::RawRwLockFair for RawRwLock {
    unsafe fn unlock_shared_fair(&self, _: GuardSend) {
        self.0.unlock_fair(Shared);
    }

    unsafe fn unlock_exclusive_fair(&self, _: GuardSend) {
        self.0.unlock_fair(Exclusive);
    }
}

// SAFETY: as above; the writer becomes one of the readers in one step.
unsafe impl lock_api::RawRwLockDowngrade for RawRwLock {
    unsafe fn downgrade(&self, guard: GuardSend) -> GuardSend {
        self.0.downgrade();
        guard
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawRwLockTimed for RawRwLock {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_shared_for(&self, timeout: Duration) -> Option<GuardSend> {
        self.read_until(Until::timeout(timeout))
    }

    fn try_lock_shared_until(&self, timeout: Instant) -> Option<GuardSend> {
        self.read_until(Until::instant(timeout))
    }

    fn try_lock_exclusive_for(&self, timeout: Duration) -> Option<GuardSend> {
        self.write_until(Until::timeout(timeout))
    }

    fn try_lock_exclusive_until(&self, timeout: Instant) -> Option<GuardSend> {
        self.write_until(Until::instant(timeout))
    }
}

impl fmt::Debug for RawRwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRwLock").field("writer", &self.holder()).finish()
    }
}
