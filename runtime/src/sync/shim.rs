//! Where the lock of this module gets its atomics and its luck from, so that loom can put its own there
//! (`tests/lock_loom.rs`).

pub(super) use crate::lock::{Mutex as QueueLock, MutexGuard as QueueGuard};
pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::sched;
use std::hint;

/// Waits for a tenth of a microsecond or so.
pub(super) fn pause() {
    for _ in 0..32 {
        hint::spin_loop();
    }
}

/// Whether the holder of a lock may be running right now, on another processor or in a plain thread, and there is nothing
/// better to do here: others wait for this processor, they go first.
pub(super) fn worth_spinning() -> bool {
    sched::others_run() && !sched::has_next_here()
}
