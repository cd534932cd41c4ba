//! Fork: the child has one thread, and a heap that works.
//!
//! ```text
//!   prepare   take every lock of the allocator, in their order
//!   parent    give them back
//!   child     leave the leases of all other threads alone for ever (they may be in any state); give the locks back
//! ```
//!
//! The first of these locks is the one under which hooks are called. The scavenger, of which the program does not know, so holds
//! nothing that a hook locks.
//!
//! So no lock is held, and nothing behind one is half changed, when the process splits. The child's thread keeps its own
//! lease. What the other threads' lists held is lost to the child; so is a P whose lock another thread had, which was just about
//! to take it from this one: the thread binds its lease. Nobody waits for such a lock, and whoever empties caches passes its
//! cache by. Hooks of [`scavenge`] are forgotten, until whoever has something to give back registers them again.

use crate::{fixalloc, lease, mcache, mcentral, mheap, profile, scavenge, sizeclass::Class, sys::thread, trim};

/// Has the handlers run at each fork. Called once.
pub(crate) fn install() {
    // If there is no memory for it, forks are as without it: the child must not allocate if another thread did.
    thread::at_fork(prepare, parent, child);
}

unsafe extern "C" fn prepare() {
    let (leases, lease_records) = lease::guards();
    let (mheap, spans) = mheap::guards();
    scavenge::calling().lock_long();
    trim::guard().lock_for_fork();
    leases.lock_for_fork();
    for class in Class::all() {
        mcentral::guard(class).lock_for_fork();
    }
    mheap.lock_for_fork();
    lease_records.lock_for_fork();
    mcache::guard().lock_for_fork();
    spans.lock_for_fork();
    fixalloc::persist_guard().lock_for_fork();
    profile::guard().lock_for_fork();
}

unsafe extern "C" fn parent() {
    // SAFETY: `prepare` took them on this thread.
    unsafe { unlock() };
}

unsafe extern "C" fn child() {
    // SAFETY: `prepare` took the locks on this thread, the only one that there is.
    unsafe {
        lease::after_fork();
        mheap::after_fork();
        scavenge::after_fork();
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
        profile::guard().unlock();
        fixalloc::persist_guard().unlock();
        spans.unlock();
        mcache::guard().unlock();
        lease_records.unlock();
        mheap.unlock();
        for class in Class::all().rev() {
            mcentral::guard(class).unlock();
        }
        leases.unlock();
        trim::guard().unlock();
        scavenge::calling().unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Alloc,
        guarded::Guarded,
        latch::{Kind, P},
        malloc::{free, malloc},
    };
    use core::alloc::Layout;
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        },
        thread,
    };

    /// Forks, and says whether the child found all `well`. If it waits for a lock that nobody gives back an alarm ends it.
    ///
    /// # Safety
    ///
    /// `well` calls nothing that may be locked by a thread that the child does not have; Baton's heap is what it may use.
    unsafe fn in_child(well: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs on this thread alone, does what the caller promised, and ends by `_exit` or by the alarm.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(10);
                libc::_exit(i32::from(!well()));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status == 0
        }
    }

    /// Forks while another thread holds `guard`. That thread lets go when somebody waits for the lock, which should be the
    /// fork, or when the fork is over, which is too late. The child must be able to use every level of the heap. (That it
    /// can is not enough: it would also find the lock free, and what is behind it half changed, if nobody had waited.)
    fn fork_under<T>(guard: &'static Guarded<T>) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
        lease::attach();
        let (held, over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let holder = scope.spawn(|| {
                guard.lock();
                held.store(true, SeqCst);
                let waited_for = loop {
                    match (guard.is_contended(), over.load(SeqCst)) {
                        (false, false) => thread::yield_now(),
                        (contended, _) => break contended,
                    }
                };
                // SAFETY: taken above.
                unsafe { guard.unlock() };
                waited_for
            });
            while !held.load(SeqCst) {
                thread::yield_now();
            }
            // SAFETY: it uses Baton's heap only, with the layouts that it allocated with.
            let well = unsafe {
                in_child(|| {
                    [64, 10_000, 100_000].into_iter().all(|size| {
                        let layout = Layout::from_size_align_unchecked(size, 8);
                        let served = (0..500).all(|_| !malloc(layout).is_null());
                        free(malloc(layout), layout);
                        served
                    })
                })
            };
            over.store(true, SeqCst);
            assert!(well, "the child did not end well");
            assert!(holder.join().unwrap(), "the fork did not wait for the lock");
        });
    }

    /// Forks while another thread has locked the P of this one, as who takes it does; then the child uses all that looks at Ps,
    /// and ends as a thread.
    #[test]
    fn a_p_that_was_being_taken_is_nobody_s_in_the_child() {
        thread::spawn(|| {
            let m = lease::attach();
            let p: &P = Box::leak(Box::new(P::new(Kind::Processor, mcache::new_cache().unwrap())));
            lease::give_back(m);
            // SAFETY: this thread's M, bound to nothing, outside sections.
            assert!(unsafe { m.bind(p) });
            let layout = Layout::new::<[u64; 8]>();
            // SAFETY: allocated just before, with this layout.
            unsafe { free(malloc(layout), layout) };
            let (locked, over) = (AtomicBool::new(false), AtomicBool::new(false));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let _suspect = p.suspect().unwrap();
                    locked.store(true, SeqCst);
                    while !over.load(SeqCst) {
                        thread::yield_now();
                    }
                });
                while !locked.load(SeqCst) {
                    thread::yield_now();
                }
                // SAFETY: it uses Baton's heap only, and lets this thread's M go outside of sections.
                let well = unsafe {
                    in_child(|| {
                        let hits = || mcache::all().map(|cache| (*cache).counts().hits).sum::<u64>();
                        let before = hits();
                        (0..100).for_each(|_| free(malloc(layout), layout));
                        let served = hits() > before; // by the lease
                        profile::start(1 << 20);
                        profile::stop();
                        trim::trim(trim::Trim::All);
                        served && m.unbind().is_some()
                    })
                };
                over.store(true, SeqCst);
                assert!(well, "the child did not end well");
            });
            // SAFETY: this thread's M, outside sections.
            assert!(unsafe { m.unbind() }.is_some());
        })
        .join()
        .unwrap();
    }

    /// What a hook locks may be held by a thread that the child does not have.
    #[test]
    fn the_child_has_no_hooks() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        assert!(scavenge::on_release(|_| {
            CALLS.fetch_add(1, SeqCst);
        }));
        Alloc::release_free();
        assert_ne!(CALLS.load(SeqCst), 0);
        // SAFETY: it uses Baton's heap only.
        let well = unsafe {
            in_child(|| {
                let before = CALLS.load(SeqCst);
                Alloc::release_free();
                CALLS.load(SeqCst) == before
            })
        };
        assert!(well, "the child called the hook");
    }

    #[test]
    fn no_lock_is_held_in_the_child() {
        fork_under(mcentral::guard(Class::of(Layout::new::<[u64; 8]>()).unwrap()));
        fork_under(mheap::guards().0);
        fork_under(mheap::guards().1);
        fork_under(fixalloc::persist_guard());
    }
}
