//! Leases: how threads that have no P of the scheduler allocate.
//!
//! ```text
//!   thread ── current::m() ──▶ Lease (type-stable, reused, never freed)
//!                              ├ M      what the thread is to the latch
//!                              ├ P      of Kind::Lease ──▶ Mcache
//!                              └ tid    whose it is
//! ```
//!
//! A thread gets a lease at its first allocation. From then on its M is bound to some P: to its lease's, or, on a thread
//! of the scheduler, to a processor. [`give_back`] empties the lease before a processor is bound; a thread whose processor
//! was taken binds its lease again as soon as it allocates (`malloc`).
//!
//! | state of a lease | how it gets there | who may touch it |
//! |---|---|---|
//! | free | made; its thread ended | the holder of the lease lock |
//! | attached | a thread's first allocation | that thread |
//! | abandoned | fork (in the child); its thread died in the middle of something | nobody, ever |
//!
//! **When a thread ends**, the destructor of a pthread key flushes its cache and frees its lease. Destructors that run
//! after that one may allocate once more: the thread then attaches anew and the key is armed again. After the last round
//! of destructors nobody looks at keys any more, so a thread can die attached. Such leases are found by a *sweep*: when a
//! new lease would have to be made, and twice as many are attached as were alive at the last sweep, each attached thread
//! is looked for, and what the dead ones left is flushed. So the dead never outnumber the living by much, and the
//! cost of looking is constant for each new thread.
//!
//! A lease with objects in its lists stays full while its thread sleeps: the price of not having to ask anybody. How much
//! that is can be seen in the statistics.

use crate::{
    current,
    fixalloc::Fixalloc,
    guarded::{Guarded, Rank},
    latch::{self, Kind, M, P},
    mcache::{self, Mcache},
    sys::{
        die::die,
        thread::{self, ExitKey},
    },
};
use core::{cell::Cell, ffi::c_void, ptr, sync::atomic::Ordering::Relaxed};

/// What a thread gets at its first allocation.
#[repr(C)]
struct Lease {
    /// First, so that an M leads back to its lease.
    m: M,
    p: P,
    /// The rest is guarded by the lease lock.
    state: Cell<State>,
    tid: Cell<i32>,
    /// The next free lease.
    next_free: Cell<*mut Lease>,
    /// The lease made before this one.
    older: Cell<*mut Lease>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Attached,
    Abandoned,
}

/// What the lease lock guards.
struct Leases {
    key: Option<ExitKey>,
    youngest: *mut Lease,
    free: *mut Lease,
    made: usize,
    attached: usize,
    /// Sweep when a lease is to be made and this many are attached.
    sweep_at: usize,
}

static LEASES: Guarded<Leases> = Guarded::new(
    Rank::Lease,
    Leases {
        key: None,
        youngest: ptr::null_mut(),
        free: ptr::null_mut(),
        made: 0,
        attached: 0,
        sweep_at: FIRST_SWEEP,
    },
);

static RECORDS: Fixalloc<Lease> = Fixalloc::new();

/// Fewer attached leases than this are not worth a sweep.
const FIRST_SWEEP: usize = 32;

/// Makes sure that the calling thread has an M, and gives it.
///
/// Dies with a message if the system has no memory for one.
#[expect(clippy::must_use_candidate, reason = "some call it for its effect alone")]
pub fn attach() -> &'static M {
    let Some(m) = try_attach() else {
        die(format_args!(
            "no memory for the allocator's record of a new thread: raise the limit on address space"
        ));
    };
    m
}

/// As [`attach`], but `None` if the system has no memory.
pub(crate) fn try_attach() -> Option<&'static M> {
    match current::m() {
        Some(m) => Some(m),
        // A signal handler that allocated in the midst of this would wait for locks that its own thread holds.
        None => thread::without_signals(attach_new),
    }
}

/// Makes sure that there is a record for a thread that is about to start, so that its [`attach`] finds one. `false` if the system has
/// no memory for it.
#[must_use]
pub fn provide() -> bool {
    thread::without_signals(|| LEASES.with(Leases::provide))
}

#[cold]
fn attach_new() -> Option<&'static M> {
    let tid = thread::id();
    let (lease, key) = LEASES.with(|leases| {
        let key = leases.start()?;
        Some((leases.take(tid)?, key))
    })?;
    // SAFETY: a free lease's M is bound to nothing, and it is this thread's from here on.
    unsafe { lease.m.bind(&lease.p) };
    // (It is not bound if somebody took the lease from the thread before and has not let go of it: see `rebind`.)
    current::set(Some(&lease.m));
    key.set(ptr::from_ref(lease).cast_mut().cast());
    Some(&lease.m)
}

/// Binds the M's own lease, after its processor was taken. `false` if a taker has the lease at this moment.
///
/// # Safety
///
/// `m` is the calling thread's M, no section of it is open, and it is bound to nothing.
#[cold]
pub(crate) unsafe fn rebind(m: &'static M) -> bool {
    // SAFETY: an M that a thread runs has a lease, and Ps are never freed.
    let lease = unsafe { m.lease.load(Relaxed).as_ref() };
    // SAFETY: as the caller promised.
    lease.is_some_and(|lease| unsafe { m.bind(lease) })
}

/// Takes the M's lease off it and gives what its cache holds to the mcentral, so that the M may bind another P. Does
/// nothing if the M is not bound to its lease.
///
/// To be called on the thread whose M it is, outside sections, and followed by `bind` with nothing in between that
/// allocates (an allocation would bind the lease again).
pub fn give_back(m: &'static M) {
    let lease = m.lease.load(Relaxed);
    if !m.home().is_some_and(|home| ptr::eq(home, lease)) {
        return;
    }
    // SAFETY: leases are never freed; the caller runs on this M's thread, outside sections; `flush` gets the P as its owner.
    unsafe { m.unbind_and_empty(&*lease, |p| flush(p)) };
}

/// Flushes the cache of a lease, if there is anything in it.
///
/// # Safety
///
/// The caller owns the P, in no section: the scavenger empties idle leases too, so it holds its lock.
unsafe fn flush(p: &P) {
    let cache = p.cache();
    // SAFETY: caches are never freed.
    let counts = unsafe { &*cache }.counts();
    if counts.cached_bytes + counts.large_bytes + counts.page_bytes > 0 {
        // SAFETY: as the caller promised.
        unsafe { Mcache::flush(cache) };
    }
}

/// The destructor of the key: the thread gives its lease back.
unsafe extern "C" fn at_exit(lease: *mut c_void) {
    // SAFETY: `attach_new` set the word to a lease, and those are never freed.
    let lease: &'static Lease = unsafe { &*lease.cast::<Lease>() };
    if !current::m().is_some_and(|m| ptr::eq(m, &lease.m)) {
        return; // a forked child that runs the destructor of a thread that it does not have
    }
    thread::without_signals(|| {
        // Whatever it is bound to: a thread that is no more cannot run a P.
        // SAFETY: this thread's M, and destructors do not run inside sections.
        unsafe { lease.empty() };
        // From here on this thread has no M, and the next allocation attaches it anew.
        current::set(None);
        LEASES.with(|leases| leases.release(lease));
    });
}

impl Lease {
    /// Unbinds whatever P the M is bound to, and flushes it if it is the lease. (If the M is bound to another P, or to
    /// none, then the lease was emptied before, or a taker has it and leaves it as it is.)
    ///
    /// # Safety
    ///
    /// The caller runs on the M's thread, outside sections, or stands in for it.
    unsafe fn empty(&self) {
        // SAFETY: as the caller promised.
        unsafe { self.m.unbind_and_empty(&self.p, |p| flush(p)) };
    }
}

impl Leases {
    /// What is done once for the process, before the first M is used.
    fn start(&mut self) -> Option<ExitKey> {
        if self.key.is_none() {
            latch::init_mode();
            crate::scavenge::init();
            self.key = ExitKey::new(at_exit);
            crate::fork::install();
        }
        let Some(key) = self.key else {
            die(format_args!(
                "all thread-specific data keys (PTHREAD_KEYS_MAX) are used up before the first allocation"
            ));
        };
        Some(key)
    }

    /// Takes a free lease, or makes one, for the thread `tid`.
    fn take(&mut self, tid: i32) -> Option<&'static Lease> {
        if self.free.is_null() && self.attached >= self.sweep_at {
            self.sweep();
        }
        // SAFETY: the list holds leases, and leases are never freed.
        let lease = match unsafe { self.free.as_ref() } {
            Some(lease) => {
                self.free = lease.next_free.get();
                lease
            }
            None => self.make()?,
        };
        lease.state.set(State::Attached);
        lease.tid.set(tid);
        self.attached += 1;
        Some(lease)
    }

    /// Makes a lease if none is free.
    fn provide(&mut self) -> bool {
        if !self.free.is_null() {
            return true;
        }
        let Some(lease) = self.make() else { return false };
        self.free = ptr::from_ref(lease).cast_mut();
        true
    }

    fn make(&mut self) -> Option<&'static Lease> {
        let cache = mcache::new_cache()?;
        let record = RECORDS.alloc()?;
        let lease = Lease {
            m: M::new(),
            p: P::new(Kind::Lease, cache),
            state: Cell::new(State::Free),
            tid: Cell::new(0),
            next_free: Cell::new(ptr::null_mut()),
            older: Cell::new(self.youngest),
        };
        // SAFETY: the record is large enough and ours; records are never unmapped.
        let lease: &'static Lease = unsafe {
            record.write(lease);
            record.as_ref()
        };
        lease.m.lease.store(ptr::from_ref(&lease.p).cast_mut(), Relaxed);
        self.youngest = record.as_ptr();
        self.made += 1;
        Some(lease)
    }

    /// Puts an attached lease, unbound and empty, on the free list.
    fn release(&mut self, lease: &'static Lease) {
        debug_assert_eq!(lease.state.get(), State::Attached);
        lease.m.sched.store(ptr::null_mut(), Relaxed);
        lease.m.stack.store(ptr::null_mut(), Relaxed);
        lease.m.declared.store(0, Relaxed);
        lease.state.set(State::Free);
        lease.next_free.set(self.free);
        self.free = ptr::from_ref(lease).cast_mut();
        self.attached -= 1;
    }

    /// Takes the leases of dead threads back.
    fn sweep(&mut self) {
        let mut next = self.youngest;
        // SAFETY: the list holds leases, and leases are never freed.
        while let Some(lease) = unsafe { next.as_ref() } {
            next = lease.older.get();
            if lease.state.get() != State::Attached || !thread::is_dead(lease.tid.get()) {
                continue;
            }
            if lease.m.is_inside() || lease.m.locked.load(Relaxed) != 0 {
                // It died in the midst of a section: nobody knows in what state.
                lease.state.set(State::Abandoned);
                self.attached -= 1;
                continue;
            }
            // SAFETY: the M's thread is dead, so this thread stands in for it.
            unsafe { lease.empty() };
            self.release(lease);
        }
        self.sweep_at = FIRST_SWEEP.max(2 * self.attached);
    }
}

/// In the child of a fork, where this thread is the only one: the leases of the others may be in any state, so they are
/// left alone for ever.
///
/// # Safety
///
/// The caller holds the lease lock.
pub(crate) unsafe fn after_fork() {
    // SAFETY: as the caller promised.
    let leases = unsafe { LEASES.assume_locked() };
    let mut next = leases.youngest;
    // SAFETY: the list holds leases, and leases are never freed.
    while let Some(lease) = unsafe { next.as_ref() } {
        next = lease.older.get();
        if current::m().is_some_and(|m| ptr::eq(m, &lease.m)) {
            // The thread has a new number in the child.
            lease.tid.set(thread::id());
            lease.m.after_fork();
        } else if lease.state.get() == State::Attached {
            lease.state.set(State::Abandoned);
            leases.attached -= 1;
        }
    }
    for cache in mcache::all() {
        // SAFETY: caches are never freed.
        unsafe { &*cache }.after_fork();
    }
}

/// How many leases were made, and how many are attached to a thread.
pub(crate) fn counts() -> (usize, usize) {
    LEASES.with(|leases| (leases.made, leases.attached))
}

/// The locks of this module, for fork.
pub(crate) fn guards() -> (&'static Guarded<impl Sized>, &'static Guarded<impl Sized>) {
    (&LEASES, RECORDS.guard())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    /// Whoever empties an idle lease has it alone: its thread, which has just let it go, waits.
    #[test]
    fn a_lease_is_emptied_by_one_at_a_time() {
        let p: &P = Box::leak(Box::new(P::new(Kind::Lease, mcache::new_cache().unwrap())));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waited_for = p.while_idle(|_| {
                scope.spawn(|| {
                    // SAFETY: the thread has the P as its owner.
                    p.while_unbound(|p| unsafe { flush(p) });
                    done.store(true, SeqCst);
                });
                loop {
                    match (format!("{p:?}").contains("Lock(2)"), done.load(SeqCst)) {
                        (false, false) => std::thread::yield_now(),
                        (contended, _) => break contended,
                    }
                }
            });
            assert_eq!(waited_for, Some(true));
        });
    }
}
