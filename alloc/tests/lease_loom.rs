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
//! the same for a thread that died attached; `give_back` empties the lease before a processor is bound. Who empties one
//! and how is the real code: `M::unbind_and_empty` for its thread, `P::borrow` for the scavenger, who finds it idle or takes it.
//! What a cache holds is a loom cell that the owner of the P writes to, so any two owners that are not ordered are reported.

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

/// A P and the objects in its cache; the owner of the P writes there.
struct Carrier {
    p: P,
    cached: UnsafeCell<usize>,
}

impl Carrier {
    fn new(kind: Kind) -> Self {
        Self {
            p: P::new(kind, ptr::null_mut()),
            cached: UnsafeCell::new(0),
        }
    }

    /// Takes all objects; the caller owns the P.
    fn drain(&self) -> usize {
        // SAFETY: loom checks it.
        self.cached.with_mut(|cached| unsafe { std::mem::take(&mut *cached) })
    }
}

struct Lease {
    m: M,
    own: Carrier,
    /// Under the lease lock.
    state: UnsafeCell<State>,
    /// The kernel's: the thread is no more.
    dead: AtomicBool,
}

/// All there is.
struct Heap {
    lock: Lock,
    leases: [Lease; 2],
    processor: Carrier,
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
            own: Carrier::new(Kind::Lease),
            state: UnsafeCell::new(State::Free),
            dead: AtomicBool::new(false),
        };
        Box::leak(Box::new(Self {
            lock: Lock::new(),
            leases: [lease(), lease()],
            processor: Carrier::new(Kind::Processor),
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
        unsafe { lease.m.bind(&lease.own.p) };
        lease
    }

    /// One free into the cache, as `malloc` does it: gone, the lease is bound again; busy, the object goes past the cache.
    fn free_one(&self, lease: &'static Lease) {
        for _ in 0..2 {
            // SAFETY: this thread's M, no section open; left below.
            let p = unsafe { lease.m.enter() };
            if let Some(p) = p {
                let is_lease = ptr::eq(p, &lease.own.p);
                let carrier = if is_lease { &lease.own } else { &self.processor };
                // SAFETY: the thread owns the P.
                carrier.cached.with_mut(|cached| unsafe { *cached += 1 });
            }
            // SAFETY: entered above.
            unsafe { lease.m.leave() };
            // SAFETY: this thread's M, no section open.
            let again = p.is_none()
                && unsafe {
                    match lease.m.look_home(false) {
                        Home::Back => true,
                        Home::Gone => lease.m.bind(&lease.own.p),
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
        let n = unsafe { lease.m.unbind_and_empty(&lease.own.p, |_| lease.own.drain()) };
        n.unwrap_or(0)
    }

    /// lease::give_back, and then the processor is bound.
    fn bind_processor(&'static self, lease: &'static Lease) {
        if lease.m.home().is_some_and(|home| ptr::eq(home, &lease.own.p)) {
            let n = self.empty(lease);
            self.lock.with(|| self.flush(n));
        }
        // SAFETY: this thread's M, no section open; it was bound to its lease or to nothing.
        assert!(unsafe { lease.m.bind(&self.processor.p) });
    }

    /// The monitor: takes the processor for good, unless its M does not let it.
    fn take_processor(&'static self) {
        if let Some(taken) = self.processor.p.take() {
            taken.detach().release();
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

    /// The scavenger: flushes what a lease carries, if it is idle or can be taken.
    fn scavenge(&'static self, lease: &'static Lease) {
        let n = lease.own.p.borrow(|p| {
            if p.is_bound() { &TAKEN } else { &IDLE }.fetch_add(1, Relaxed);
            lease.own.drain()
        });
        self.lock.with(|| self.flush(n.unwrap_or(0)));
    }

    /// After the run: every object that was freed was flushed once, or lies in the cache of a lease.
    fn balances(&self, freed: usize) {
        let leases = self.leases.iter().map(|lease| &lease.own);
        // SAFETY: all threads have ended.
        let cached = |carrier: &Carrier| carrier.cached.with(|n| unsafe { *n });
        let cached: usize = leases.chain([&self.processor]).map(cached).sum();
        // SAFETY: as above.
        self.flushed
            .with(|flushed| assert_eq!(unsafe { *flushed } + cached, freed));
    }
}

static SWEPT: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static IDLE: AtomicUsize = AtomicUsize::new(0);

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
    let met = [&TAKEN, &IDLE].map(|n| n.load(Relaxed) > 0);
    assert_eq!(met, [true; 2], "the model is too small");
}

/// A thread gives its lease back for a processor, loses that, and binds its lease again, while the scavenger may be at work
/// on the lease.
#[test]
fn a_lease_that_is_given_back_is_emptied_by_one_at_a_time() {
    static LOST: AtomicUsize = AtomicUsize::new(0);
    check(|| {
        let heap = Heap::new();
        let lease = heap.attach(false);
        heap.free_one(lease);
        let scavenger = thread::spawn(move || heap.scavenge(lease));
        let monitor = thread::spawn(move || heap.take_processor());
        heap.bind_processor(lease);
        heap.free_one(lease);
        LOST.fetch_add(usize::from(lease.own.p.is_bound()), Relaxed);
        heap.at_exit(lease);
        monitor.join().unwrap();
        scavenger.join().unwrap();
        heap.balances(2);
    });
    assert!(LOST.load(Relaxed) > 0, "the model is too small");
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
