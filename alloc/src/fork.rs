//! Fork: the child has one thread, and a heap that works.
//!
//! ```text
//!   prepare   take every lock of the allocator, in their order
//!   parent    give them back
//!   child     leave the leases of all other threads alone for ever (they may be in any state); give the locks back
//! ```
//!
//! So no lock is held, and nothing behind one is half changed, when the process splits. The child's thread keeps its own
//! lease. What the other threads' lists held is lost to the child; so is the P of a thread from which somebody was
//! just about to take it: the mcentral serves that thread from then on.

use crate::{fixalloc, lease, mcache, mcentral, mheap, sizeclass::Class, sys::thread};

/// Has the handlers run at each fork. Called once.
pub(crate) fn install() {
    // If there is no memory for it, forks are as without it: the child must not allocate if another thread did.
    thread::at_fork(prepare, parent, child);
}

unsafe extern "C" fn prepare() {
    let (leases, lease_records) = lease::guards();
    let (mheap, spans) = mheap::guards();
    leases.lock_for_fork();
    for class in Class::all() {
        mcentral::guard(class).lock_for_fork();
    }
    mheap.lock_for_fork();
    lease_records.lock_for_fork();
    mcache::guard().lock_for_fork();
    spans.lock_for_fork();
    fixalloc::persist_guard().lock_for_fork();
}

unsafe extern "C" fn parent() {
    // SAFETY: `prepare` took them on this thread.
    unsafe { unlock() };
}

unsafe extern "C" fn child() {
    // SAFETY: `prepare` took the locks on this thread, the only one that there is.
    unsafe {
        lease::after_fork();
        unlock();
    }
}

/// # Safety
///
/// The calling thread has run `prepare`.
unsafe fn unlock() {
    let (leases, lease_records) = lease::guards();
    let (mheap, spans) = mheap::guards();
    // SAFETY: as the caller promised; no reference to what the locks guard is in use.
    unsafe {
        fixalloc::persist_guard().unlock();
        spans.unlock();
        mcache::guard().unlock();
        lease_records.unlock();
        mheap.unlock();
        for class in Class::all().rev() {
            mcentral::guard(class).unlock();
        }
        leases.unlock();
    }
}
