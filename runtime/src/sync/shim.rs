//! Where the primitives of this module get their atomics and their luck from, so that loom can put its own there
//! (`lock_loom.rs` and `sync_loom.rs` in `alloc/tests`).

pub(super) use crate::lock::{Mutex as QueueLock, MutexGuard as QueueGuard};
pub(super) use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use crate::{lock, sched};
use std::time::Duration;

/// What a state is likely to be, before a compare-and-swap says what it is: the state itself, for a compare-and-swap in vain costs as much
/// as one that succeeds. (A model takes the `usual` state for granted, and is the smaller for it.)
#[inline]
pub(super) fn look(state: &AtomicUsize, _usual: usize) -> usize {
    state.load(Ordering::Relaxed)
}

/// Stands back for some hundred times as long as a short critical section takes.
pub(super) fn pause() {
    lock::stand_back(Duration::from_micros(4));
}

/// Whether the holder of a lock may be running right now, on another processor or in a plain thread.
pub(super) fn worth_spinning() -> bool {
    sched::others_run()
}
