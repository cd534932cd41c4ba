//! Parking and waking: the one way in which anything of Baton waits, in a goroutine or in a plain thread.
//!
//! ```text
//!   goroutine   suspends to g0 ── g0 runs `commit` ── false → resumed at once
//!                                                  └─ true  → parked until `wake` (gopark, goready)
//!   thread      runs `commit` itself ── true → sleeps on its futex word until `wake`
//! ```
//!
//! `commit` is what makes the waiter findable for its waker: it unlocks a channel, sets a bit, inserts a timer. A goroutine
//! has left its stack by then, so that whoever wakes it may resume it at once on another thread.
//!
//! A goroutine that unwinds from a panic waits as a thread does: std counts panics per thread, and a goroutine that went
//! on elsewhere would leave the count behind. Its P goes to another M meanwhile, as in any blocking call.

use crate::{
    fatal,
    g::G,
    m::{self, M},
    sched,
    testing::world::World,
};
use baton_alloc::futex;
use std::{
    cell::Cell,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Release},
    },
};

/// One party that waits. It lies on the waiting party's stack, which never moves.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The goroutine, or null for a thread. Written before `commit`, constant until the wake.
    g: Cell<*mut G>,
    /// What a thread sleeps on: 1 once it is woken.
    woken: AtomicU32,
}

/// What g0 runs for a goroutine that has suspended: the closure's code and its address on the goroutine's stack.
pub(crate) type Commit = (unsafe fn(*mut ()) -> bool, *mut ());

impl Waiter {
    pub(crate) const fn new() -> Self {
        Self {
            g: Cell::new(ptr::null_mut()),
            woken: AtomicU32::new(0),
        }
    }

    /// Waits until [`wake`](Self::wake), unless `commit` says `false`.
    ///
    /// `commit` runs once everything is ready for the wake. It must not touch what it captured after the point at which
    /// a waker can find the waiter.
    pub(crate) fn park(&self, commit: impl FnOnce() -> bool) {
        match m::current_goroutine() {
            Some((m, g)) if !std::thread::panicking() => {
                self.g.set(g.as_ptr());
                park_goroutine(m, commit);
            }
            _ => {
                self.g.set(ptr::null_mut());
                if commit() {
                    if World::current().is_some() {
                        fatal::simulation_stands_still();
                    }
                    sched::blocking(|| {
                        while self.woken.load(Acquire) == 0 {
                            futex::wait(&self.woken, 0, None);
                        }
                    });
                }
            }
        }
    }

    /// Ends the wait. Called once for each wait whose `commit` said `true`; the waiter may be gone when this returns.
    pub(crate) fn wake(&self) {
        match NonNull::new(self.g.get()) {
            Some(g) => sched::ready(g),
            None => {
                let word = ptr::from_ref(&self.woken);
                self.woken.store(1, Release);
                // SAFETY: from the store on, the word may be gone; its address serves as a key only, and a wake too many
                // is harmless to whoever uses that address now.
                futex::wake(unsafe { &*word }, 1);
            }
        }
    }
}

/// Parks the running goroutine until somebody makes it ready, unless `commit` says `false`: [`Waiter::park`] for those
/// who know the goroutine by other means. `m` is this thread's M.
pub(crate) fn park_goroutine(m: &'static M, commit: impl FnOnce() -> bool) {
    let mut commit = Some(commit);
    // SAFETY: `commit` stays in place, on the goroutine's stack, until g0 has run it.
    unsafe { sched::suspend(m, (run_commit(&commit), (&raw mut commit).cast())) };
}

/// The code that runs a commit of this type, which is behind the pointer.
fn run_commit<F: FnOnce() -> bool>(_: &Option<F>) -> unsafe fn(*mut ()) -> bool {
    /// # Safety
    ///
    /// The pointer is to an `Option<F>` that is ours to take from.
    unsafe fn run<F: FnOnce() -> bool>(commit: *mut ()) -> bool {
        // SAFETY: as the caller promised. The closure is moved out first, since the goroutine may be running again, and
        // its frame gone, before the closure returns.
        let commit = unsafe { (*commit.cast::<Option<F>>()).take() };
        commit.expect("a commit runs once")()
    }
    run::<F>
}

/// Lets other goroutines run: the caller goes to the end of its P's queue. In a plain thread this is
/// [`std::thread::yield_now`].
///
/// ```
/// baton::run(|| {
///     let other = baton::go!(|| 1);
///     while !other.is_finished() {
///         baton::yield_now();
///     }
/// });
/// ```
pub fn yield_now() {
    match m::current_goroutine() {
        // SAFETY: on the goroutine's stack.
        Some((m, _)) if !std::thread::panicking() => unsafe { sched::suspend_yield(m) },
        _ => std::thread::yield_now(),
    }
}
