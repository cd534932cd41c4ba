//! The expensive half of an asymmetric fence (membarrier(2), `MEMBARRIER_CMD_PRIVATE_EXPEDITED`).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How often a barrier was issued, for the metrics.
static ISSUED: AtomicU64 = AtomicU64::new(0);

/// Registers this process for expedited barriers. `false`: the kernel, or a sandbox, refuses them.
#[cfg(not(baton_loom))]
pub(crate) fn register() -> bool {
    command(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

/// Every thread of this process that runs now has passed a full fence when this returns `true`.
#[cfg(not(baton_loom))]
#[must_use]
pub(crate) fn barrier() -> bool {
    ISSUED.fetch_add(1, Relaxed);
    command(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

/// The number of barriers issued so far.
pub(crate) fn issued() -> u64 {
    ISSUED.load(Relaxed)
}

#[cfg(not(baton_loom))]
fn command(cmd: libc::c_int) -> bool {
    // SAFETY: membarrier takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, cmd, 0, 0) == 0 }
}
