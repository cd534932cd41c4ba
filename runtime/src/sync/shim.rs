//! Where the lock of this module gets its atomics and its luck from, so that loom can put its own there
//! (`tests/lock_loom.rs`).

pub(super) use crate::lock::{Mutex as QueueLock, MutexGuard as QueueGuard};
pub(super) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::{lock, sched};
use std::time::Duration;

/// Stands back for some hundred times as long as a short critical section takes.
pub(super) fn pause() {
    lock::stand_back(Duration::from_micros(4));
}

/// Whether the holder of a lock may be running right now, on another processor or in a plain thread.
pub(super) fn worth_spinning() -> bool {
    sched::others_run()
}
