//! What the scheduler gives back when nobody uses it, or when somebody needs it more: the stacks that processors carry. And who
//! asks for that.
//!
//! ```text
//!   monitor ── once a second, if goroutines have run ──▶ baton-scav ─▶ release ─▶ Ps that rested ─▶ the shared pools
//!                                                                └──▶ the stacks' own hook ─▶ pools, parked goroutines
//! ```
//!
//! A P that runs goroutines keeps what it carries, 4 MiB at most; one that has run none since the last call, about a second ago,
//! gives all of it to the shared pools, which give it to the system if nobody takes it from there.
//!
//! The scavenger's thread ends when there is nothing to do for two seconds, and what is to be done for stacks it cannot
//! see: a goroutine that was deep and is parked frees nothing. So the monitor asks for it while goroutines run, and once
//! more when they have stopped: then it wakes up for that alone, and sleeps for good afterwards.

use super::{SCHED, Sched};
use baton_alloc::scavenge::{self, Release};
use baton_stack::{Batch, Class, Spec, Stack, StackError};
use std::sync::atomic::Ordering::Relaxed;

/// From one request of the monitor's to the next.
const PERIOD_NS: u64 = 1_000_000_000;

/// Has [`release`] called when memory is to be given back. Before the first stack is made: what is released here then
/// reaches the pools before those are asked.
pub(super) fn hook() {
    // Without a free place nobody calls, and processors keep what they have.
    let _ = scavenge::on_release(release);
}

/// Gives the stacks of processors to the shared pools: of those that have rested, or of all.
fn release(how: Release) {
    let Some(sched) = SCHED.get() else { return };
    for p in sched.ps.iter() {
        let tick = p.tick.load(Relaxed);
        let rested = p.rested.swap(tick, Relaxed) == tick;
        if rested || how == Release::All {
            give_stacks(|batch| p.borrow(|own| own.stacks.drain_shelf(batch)) == Some(true));
        }
    }
}

/// A stack from the shared pools, or a new one. Before there is none, all that processors carry goes to the pools, since what is
/// free should be found wherever it is.
pub(crate) fn acquire(spec: Spec, class: Class) -> Result<Stack, StackError> {
    baton_stack::acquire_class(spec, class).or_else(|_| {
        release(Release::All);
        baton_stack::acquire_class(spec, class)
    })
}

/// Gives stacks of a processor to the shared pools: as long as `drain` has some.
pub(super) fn give_stacks(mut drain: impl FnMut(&mut Batch) -> bool) {
    let mut batch = Batch::new();
    while drain(&mut batch) {
        baton_stack::release_batch(&mut batch);
    }
}

/// When the monitor asks for the scavenger.
pub(super) struct Requests {
    /// Not before then.
    due: u64,
    /// What all Ps had run at the last request.
    ran: u32,
}

impl Requests {
    pub(super) fn new(now: u64) -> Self {
        Self {
            due: now + PERIOD_NS,
            ran: 0,
        }
    }

    /// What all Ps have run.
    fn ran(sched: &Sched) -> u32 {
        sched.ps.iter().fold(0, |sum, p| sum.wrapping_add(p.tick.load(Relaxed)))
    }

    /// Asks, if it is time and goroutines have run.
    pub(super) fn look(&mut self, sched: &Sched, now: u64) {
        if now < self.due {
            return;
        }
        let ran = Self::ran(sched);
        if ran != self.ran {
            self.ran = ran;
            self.due = now + PERIOD_NS;
            scavenge::want();
        }
    }

    /// How long until it asks, in nanoseconds, if nothing runs any more; `None`: it has asked since.
    pub(super) fn left(&self, sched: &Sched, now: u64) -> Option<u64> {
        (Self::ran(sched) != self.ran).then(|| self.due.saturating_sub(now))
    }
}
