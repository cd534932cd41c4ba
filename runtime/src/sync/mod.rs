//! Synchronization that parks goroutines, and threads alike.
//!
//! | | shape of | |
//! |---|---|---|
//! | [`Mutex`], [`RwLock`], [`ReentrantMutex`] | parking_lot, lock_api | no poisoning; guards may be held over parking calls and sent away |
//! | [`Condvar`] | parking_lot | no spurious wake-ups |
//! | [`Semaphore`] | tokio | first come, first served |
//! | [`Barrier`], [`Once`], [`OnceLock`], [`LazyLock`] | std | an initializer that panics leaves `Once` and `OnceLock` as they were |
//! | [`WaitGroup`] | crossbeam | |
//! | [`Pool`] | Go's `sync.Pool` | objects lie with the processors, which carry them along |
//!
//! Everything is made by a `const fn` (but for `WaitGroup` and `Pool`), allocates nothing when it is used, and may be used by
//! plain threads, which then sleep in the kernel. What happens before what is on the page about the memory model
//! (docs/memory-model.md).

mod barrier;
mod condvar;
mod holder;
mod mutex;
mod once;
mod pool;
mod rawlock;
mod rwlock;
mod semaphore;
mod shim;
mod until;
mod wait_group;

pub use barrier::{Barrier, BarrierWaitResult};
pub use condvar::{Condvar, WaitTimeoutResult};
pub use holder::Holder;
pub use mutex::{
    ArcMutexGuard, ArcReentrantMutexGuard, MappedMutexGuard, MappedReentrantMutexGuard, Mutex, MutexGuard, PartyId,
    RawMutex, ReentrantMutex, ReentrantMutexGuard,
};
pub use once::{LazyLock, Once, OnceLock};
pub use pool::{Pool, Pooled};
pub use rwlock::{
    ArcRwLockReadGuard, ArcRwLockWriteGuard, MappedRwLockReadGuard, MappedRwLockWriteGuard, RawRwLock, RwLock,
    RwLockReadGuard, RwLockWriteGuard,
};
pub use semaphore::{ArcPermit, Permit, Semaphore};
pub use wait_group::WaitGroup;

pub(crate) use holder::HeldBy;
use holder::{Party, note_wait, party_address};
pub(crate) use rawlock::RawLock;
pub(crate) use until::{Until, park};
