//! Holding the scheduler still for a look at all goroutines.
//!
//! Whoever pauses takes all Ps, as one who changes their number does. Goroutines that run go on, without a P; none that does
//! not run can begin to, since that takes a P. So what is parked or queued stays as it is until the pause ends, and can be
//! read. (A goroutine runs on an M, or its M is on the way to sleep; [`Paused::settled`] says that none was in between.)

use super::{Sched, idle, procs};
use crate::{g::G, metrics, p::P};
use parking_lot::MutexGuard;
use std::{
    collections::{HashMap, HashSet},
    ptr,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

/// How long Ms may take to settle: more than any of them needs that gets the CPU.
const PATIENCE: Duration = Duration::from_millis(100);

/// The scheduler stands still until this is dropped.
pub(crate) struct Paused {
    sched: &'static Sched,
    ps: Vec<&'static P>,
    /// All Ms were asleep or running a goroutine when the pause began.
    pub(crate) settled: bool,
    /// Stacks that run, by the address of their descriptors, and on which M.
    pub(crate) running: HashMap<usize, u32>,
    _procs: MutexGuard<'static, ()>,
}

/// Takes all Ps.
pub(crate) fn pause(sched: &'static Sched) -> Paused {
    let held = sched.ps.hold();
    let ps: Vec<_> = sched.ps.iter().take(sched.ps.active()).collect();
    ps.iter().for_each(|p| procs::take(sched, p));
    let patience = Instant::now() + PATIENCE;
    let mut settled = idle::settled(sched);
    while !settled && Instant::now() < patience {
        thread::yield_now();
        settled = idle::settled(sched);
    }
    let on = |m: &crate::m::M| (m.latch().stack.load(Relaxed).addr(), m.id);
    let mut running: HashMap<_, _> = metrics::threads().into_iter().map(on).collect();
    running.remove(&0);
    Paused {
        sched,
        ps,
        settled,
        running,
        _procs: held,
    }
}

impl Paused {
    /// The goroutines that wait for a P.
    pub(crate) fn runnable(&self) -> HashSet<*mut G> {
        let mut found = HashSet::new();
        let mut note = |g| {
            found.insert(g);
        };
        for p in &self.ps {
            // SAFETY: taken, so this thread owns it.
            unsafe { p.runq.each(&mut note) };
        }
        self.sched.global.each(&mut note);
        found.remove(&ptr::null_mut());
        found
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for p in &self.ps {
            idle::release_p(self.sched, p);
        }
        idle::look_again(self.sched);
    }
}
