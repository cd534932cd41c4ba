//! Leases: threads that come, end and die, and takers meanwhile, on the real latch and the real lock, in every
//! interleaving that loom can tell apart.
//!
//! ```text
//! RUSTFLAGS="--cfg baton_loom" cargo test -p baton-alloc --release --test lease_loom
//! ```
//!
//! ```text
//!   thread ─ attach ─▶ ┌ lease lock ────────────┐ ◀─ attach, sweep ─ thread
//!          ─ ends ───▶ │ free ─▶ lease ─▶ lease │
//!                      └────────────────────────┘
//!                          each: M, P, and what its cache holds ◀─ take ─ scavenger
//! ```
//!
//! The steps are those of `src/lease.rs`, told again (its records live in memory that loom does not know): `attach` takes a
//! free lease under the lock and binds its P; `at_exit` unbinds, flushes, and frees the lease under the lock; `sweep` does
//! the same for a thread that died attached. What the cache holds is a loom cell that the owner of the P writes to, so
//! any two owners that are not ordered are reported.

#![cfg(baton_loom)]

use baton_alloc::{
    Lock,
    latch::{Home, Kind, M, P},
};
use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Attached,
}

struct Lease {
    m: M,
    p: P,
    /// Objects in the cache; the owner of the P writes to it.
    cached: UnsafeCell<usize>,
    /// Under the lease lock.
    state: UnsafeCell<State>,
    /// The kernel's: the thread is no more.
    dead: AtomicBool,
}

/// All there is.
struct Heap {
    lock: Lock,
    leases: [Lease; 2],
    /// Objects that were flushed; under the lease lock, which stands for the mcentral's here.
    flushed: UnsafeCell<usize>,
}

// SAFETY: the cells are loom's, which checks who touches them.
unsafe impl Sync for Heap {}

impl Heap {
    /// Leaked, as the latch wants it.
    fn new() -> &'static Self {
        let lease = || Lease {
            m: M::new(),
            p: P::new(Kind::Lease, ptr::null_mut()),
            cached: UnsafeCell::new(0),
            state: UnsafeCell::new(State::Free),
            dead: AtomicBool::new(false),
        };
        Box::leak(Box::new(Self {
            lock: Lock::new(),
            leases: [lease(), lease()],
            flushed: UnsafeCell::new(0),
        }))
    }

    /// attach_new: a free lease becomes this thread's, after a sweep if `sweeps`.
    fn attach(&'static self, sweeps: bool) -> &'static Lease {
        let lease = self.lock.with(|| {
            if sweeps {
                self.sweep();
            }
            // SAFETY: under the lock.
            let is_free = |lease: &&Lease| lease.state.with(|state| unsafe { *state } == State::Free);
            let lease = self.leases.iter().find(is_free).expect("a lease for each thread");
            // SAFETY: as above.
            lease.state.with_mut(|state| unsafe { *state = State::Attached });
            lease.dead.store(false, Ordering::Relaxed);
            lease
        });
        // It fails if a taker has not let go of the P yet; then the thread binds it later.
        // SAFETY: this thread's M from here on, bound to nothing.
        unsafe { lease.m.bind(&lease.p) };
        lease
    }

    /// One free into the cache, as `malloc` does it: gone, the P is bound again; busy, the object goes past the cache.
    fn free_one(&self, lease: &'static Lease) {
        for _ in 0..2 {
            // SAFETY: this thread's M, no section open; left below.
            let p = unsafe { lease.m.enter() };
            if p.is_some() {
                // SAFETY: the thread owns the P.
                lease.cached.with_mut(|cached| unsafe { *cached += 1 });
            }
            // SAFETY: entered above.
            unsafe { lease.m.leave() };
            // SAFETY: this thread's M, no section open.
            let again = p.is_none()
                && unsafe {
                    match lease.m.look_home(false) {
                        Home::Back => true,
                        Home::Gone => lease.m.bind(&lease.p),
                        Home::Busy => false,
                    }
                };
            if p.is_some() {
                return;
            }
            if !again {
                break;
            }
        }
        self.lock.with(|| self.flush(1));
    }

    /// Counts objects in; under the lock.
    fn flush(&self, n: usize) {
        // SAFETY: under the lock.
        self.flushed.with_mut(|flushed| unsafe { *flushed += n });
    }

    /// Lease::empty, and what was in the cache: the caller is the M's thread, or stands in for it.
    fn empty(&self, lease: &'static Lease) -> usize {
        // SAFETY: as the caller promised.
        match unsafe { lease.m.unbind() } {
            // SAFETY: nobody but this M binds the lease.
            Some(_) => lease.cached.with_mut(|cached| unsafe { std::mem::take(&mut *cached) }),
            None => 0,
        }
    }

    fn at_exit(&self, lease: &'static Lease) {
        let n = self.empty(lease);
        self.lock.with(|| {
            self.flush(n);
            // SAFETY: under the lock.
            lease.state.with_mut(|state| unsafe { *state = State::Free });
        });
    }

    /// Takes the leases of dead threads back; under the lock.
    fn sweep(&'static self) {
        for lease in &self.leases {
            // SAFETY: under the lock.
            let attached = lease.state.with(|state| unsafe { *state } == State::Attached);
            // Acquire: what the kernel says of a thread that ended comes after all that it did.
            if attached && lease.dead.load(Ordering::Acquire) {
                assert!(!lease.m.is_inside());
                let n = self.empty(lease);
                self.flush(n);
                // SAFETY: under the lock.
                lease.state.with_mut(|state| unsafe { *state = State::Free });
                SWEPT.fetch_add(1, Relaxed);
            }
        }
    }

    /// The scavenger: takes a lease's P and flushes what it carries.
    fn scavenge(&'static self, lease: &'static Lease) {
        let Some(taken) = lease.p.take() else { return };
        TAKEN.fetch_add(1, Relaxed);
        // SAFETY: the P is ours.
        let n = lease.cached.with_mut(|cached| unsafe { std::mem::take(&mut *cached) });
        drop(taken);
        self.lock.with(|| self.flush(n));
    }

    /// After the run: every object that was freed was flushed once, or lies in the cache of a lease.
    fn balances(&self, freed: usize) {
        // SAFETY: all threads have ended.
        let cached: usize = self
            .leases
            .iter()
            .map(|lease| lease.cached.with(|n| unsafe { *n }))
            .sum();
        // SAFETY: as above.
        self.flushed
            .with(|flushed| assert_eq!(unsafe { *flushed } + cached, freed));
    }
}

static SWEPT: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// Two threads come and end; the second may get the first one's lease.
#[test]
fn a_lease_is_one_threads_at_a_time() {
    check(|| {
        let heap = Heap::new();
        let live = move || {
            let lease = heap.attach(false);
            heap.free_one(lease);
            heap.at_exit(lease);
        };
        let other = thread::spawn(live);
        live();
        other.join().unwrap();
        heap.balances(2);
    });
}

/// A thread ends, and another begins, while the scavenger takes the lease and gives it back.
#[test]
fn the_scavenger_may_come_at_any_time() {
    check(|| {
        let heap = Heap::new();
        let scavenger = thread::spawn(move || heap.scavenge(&heap.leases[0]));
        for _ in 0..2 {
            let lease = heap.attach(false);
            heap.free_one(lease);
            heap.at_exit(lease);
        }
        scavenger.join().unwrap();
        heap.balances(2);
    });
    assert!(TAKEN.load(Relaxed) > 0, "the model is too small");
}

/// A thread dies without a word, attached and with a full cache; another sweeps and takes its lease over, while the
/// scavenger may have it.
#[test]
fn a_dead_threads_lease_is_taken_over() {
    check(|| {
        let heap = Heap::new();
        let dies = thread::spawn(move || {
            let lease = heap.attach(false);
            heap.free_one(lease);
            // Release: the kernel's word that the thread is no more comes after all that it did.
            lease.dead.store(true, Ordering::Release);
        });
        let scavenger = thread::spawn(move || heap.scavenge(&heap.leases[0]));
        let lease = heap.attach(true);
        heap.free_one(lease);
        heap.at_exit(lease);
        dies.join().unwrap();
        scavenger.join().unwrap();
        heap.balances(2);
    });
    assert!(SWEPT.load(Relaxed) > 0, "the model is too small");
}
