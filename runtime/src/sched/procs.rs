//! How many Ps there are, and changing that while everything runs.
//!
//! ```text
//!   slots   │ P0 │ P1 │ P2 │ P3 │    │    │ …      Ps are made when they are first needed, and never freed
//!             active ──▶│ retired  │
//! ```
//!
//! An active P is bound to an M, on the idle list, or on its way between the two. A retired one is none of that: nobody
//! can bind it, since the idle list alone leads to a P, and it owns nothing, since all that it had was given to others when
//! it retired: its goroutines to the global queue, its timers to the shared heap, its objects to the mcentral, its stacks
//! to the shared pools. A goroutine that ran on it goes on without a P, as after any handoff.

use super::{Sched, idle, pusher_fence, scavenge};
use crate::{
    config::{ConfigError, PROCS_BOUNDS},
    debug::trace,
    m::M,
    p::P,
    sched,
    time::{
        self,
        heap::{Heap, NEVER},
    },
};
use baton_alloc::{latch::Detached, mcache::Mcache};
use parking_lot::{Mutex, MutexGuard};
use std::{
    ptr, slice,
    sync::{
        OnceLock,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    thread,
};

/// All Ps.
pub(crate) struct Procs {
    /// The first `made` are there.
    slots: Box<[OnceLock<&'static P>]>,
    /// Written by who changes the number.
    made: AtomicUsize,
    /// So many of them run goroutines: never more than are made.
    active: AtomicUsize,
    /// Held by who changes the number.
    resizing: Mutex<()>,
    /// Nobody has said how many there are to be, so they follow what the machine offers.
    follow: AtomicBool,
}

impl Procs {
    pub(super) fn new(n: usize, follow: bool) -> Self {
        let procs = Self {
            slots: (0..*PROCS_BOUNDS.end()).map(|_| OnceLock::new()).collect(),
            made: AtomicUsize::new(0),
            active: AtomicUsize::new(n),
            resizing: Mutex::new(()),
            follow: AtomicBool::new(follow),
        };
        procs.make(n);
        procs
    }

    /// How many Ps run goroutines.
    #[inline]
    pub(crate) fn active(&self) -> usize {
        self.active.load(Acquire)
    }

    /// The Ps that run goroutines. One that is about to retire is not among them, although it may still have some: when it has
    /// given them away, who retires it looks for sleepers.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static P> {
        let slots: slice::Iter<'_, _> = self.slots[..self.active()].iter();
        slots.map(|slot| *slot.get().expect("it was made"))
    }

    /// One of those that were ever made.
    #[inline]
    pub(crate) fn get(&self, i: usize) -> &'static P {
        self.slots[i].get().expect("it was made")
    }

    /// Keeps the number as it is as long as the guard lives.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.resizing.lock()
    }

    /// Whether the number follows what the machine offers.
    pub(crate) fn follow(&self) -> bool {
        self.follow.load(Relaxed)
    }

    /// Makes Ps until there are `n`. By one thread at a time.
    fn make(&self, n: usize) {
        for id in self.made.load(Relaxed)..n {
            self.slots[id].get_or_init(|| Box::leak(Box::new(P::new(id))));
            self.made.store(id + 1, Relaxed);
        }
    }
}

/// Changes the number of processors while everything runs, and gives what it was before: more goroutines run at the same
/// time from now on, or fewer.
///
/// What a processor that goes has on it goes to others: goroutines, timers, free memory, free stacks. A goroutine that runs
/// on it runs on until it next calls Baton, and waits its turn there. From now on the number no longer follows changes of
/// the CPU quota, as it does if neither this nor the builder nor `BATON_PROCS` has set it.
///
/// # Errors
///
/// [`ConfigError::BadValue`] if `n` is not from 1 to 1,024.
///
/// ```
/// let before = baton::procs();
/// assert_eq!(baton::set_procs(3).unwrap(), before);
/// assert_eq!(baton::procs(), 3);
/// assert!(baton::set_procs(0).is_err());
/// ```
pub fn set_procs(n: usize) -> Result<usize, ConfigError> {
    if !PROCS_BOUNDS.contains(&n) {
        return Err(ConfigError::BadValue {
            setting: "set_procs",
            value: n.to_string(),
            expected: format!("a number from {} to {}", PROCS_BOUNDS.start(), PROCS_BOUNDS.end()),
        });
    }
    let sched = sched::sched();
    let resizing = sched.ps.hold();
    sched.ps.follow.store(false, Relaxed);
    Ok(resize(sched, n, &resizing))
}

/// What the machine offers has changed: makes it so many, unless somebody has said how many since.
pub(super) fn follow(sched: &'static Sched, n: usize) {
    let resizing = sched.ps.hold();
    if sched.ps.follow() {
        resize(sched, n, &resizing);
    }
}

/// Changes the number of active Ps to `n` and gives what it was.
fn resize(sched: &'static Sched, n: usize, _resizing: &MutexGuard<'_, ()>) -> usize {
    let before = sched.ps.active();
    sched.ps.make(n);
    sched.ps.active.store(n, SeqCst);
    for i in before..n {
        idle::release_p(sched, sched.ps.get(i));
    }
    for i in n..before {
        retire(sched, sched.ps.get(i));
    }
    idle::look_again(sched);
    before
}

/// Wakes the sleepers at `now` of Ps that nobody has, where there is no M for such a P: those that have one run them by and by.
pub(super) fn wake_sleepers(sched: &'static Sched, now: u64) {
    for p in sched.ps.iter() {
        if p.due.load(Acquire) > now || !idle::withdraw_p(sched, p) {
            continue;
        }
        let taken = p.latch.detach_idle().expect("what was on the idle list is nobody's");
        let mut due = [ptr::null_mut(); 128];
        // SAFETY: detached, and so this thread's until it is released.
        let n = time::pop_due(p, unsafe { p.own() }, now, &mut due);
        taken.release();
        idle::release_p(sched, p);
        super::ready::put_all_global(sched, &due[..n]);
    }
}

/// Takes an active P out of the game, wherever it is, and gives away what it owns.
fn retire(sched: &'static Sched, p: &'static P) {
    let taken = take(sched, p);
    // SAFETY: taken, and so this thread's until it is released: thieves, who may still count it among the active ones, and the scavenger
    // find nothing to borrow.
    let own = unsafe { p.own() };
    let mut runnable = [ptr::null_mut(); 128];
    loop {
        // SAFETY: ours.
        let mut n = unsafe { p.runq.pop_some(&mut runnable) };
        if n == 0 {
            // SAFETY: ours.
            runnable[0] = unsafe { p.runq.swap_next(ptr::null_mut()) };
            n = usize::from(!runnable[0].is_null());
        }
        if n == 0 {
            break;
        }
        sched.global.push(&runnable[..n]);
    }
    let due = own.sleepers.earliest();
    time::move_to_shared(sched, &mut own.sleepers);
    own.sleepers = Heap::new();
    p.due.store(NEVER, Release);
    sched.timer_inserted(due);
    scavenge::give_stacks(|batch| own.stacks.drain_shelf(batch));
    // SAFETY: ours, and this is no section.
    unsafe { Mcache::flush(p.latch.cache()) };
    taken.release();
    pusher_fence();
}

/// Takes an active P, wherever it is: the caller's until it is released.
pub(super) fn take(sched: &'static Sched, p: &'static P) -> Detached {
    loop {
        if idle::withdraw_p(sched, p) {
            return p.latch.detach_idle().expect("what was on the idle list is nobody's");
        }
        if let Some(taken) = p.latch.take() {
            if let Some(m) = M::of(taken.m()) {
                trace::taken(m, None);
            }
            return taken.detach();
        }
        thread::yield_now(); // on its way between an M and the idle list, it arrives in a moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thief may still count a processor among the active ones while it retires.
    #[test]
    fn what_is_taken_is_lent_to_nobody() {
        let sched = sched::sched();
        let _resizing = sched.ps.hold();
        let p = sched.ps.get(0);
        let taken = take(sched, p);
        assert!(p.borrow(|_| ()).is_none());
        taken.release();
        assert!(p.borrow(|_| ()).is_some());
        idle::release_p(sched, p);
    }
}
