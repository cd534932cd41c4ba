//! Holding the scheduler still for a look at all goroutines.
//!
//! Whoever pauses takes all Ps, as one who changes their number does. Goroutines that run go on, without a P; none that does
//! not run can begin to, since that takes a P. So what is parked or queued stays as it is until the pause ends, and can be
//! read. (A goroutine runs on an M, or its M is on the way to sleep; [`Paused::settled`] says that none was in between.)

use super::{Sched, idle, procs};
use crate::{g::G, m::M, p::P};
use baton_alloc::latch::Detached;
use baton_stack::Desc;
use parking_lot::MutexGuard;
use std::{
    collections::HashSet,
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
    ps: Vec<(&'static P, Detached)>,
    /// All Ms were asleep or running a goroutine when the pause began.
    pub(crate) settled: bool,
    /// The goroutines that run.
    pub(crate) running: Vec<Runner>,
    _procs: MutexGuard<'static, ()>,
}

/// A goroutine that runs.
pub(crate) struct Runner {
    pub(crate) m: &'static M,
    /// Its number.
    pub(crate) goroutine: u64,
    /// The stack that it runs on just now: its own, or one of `stack::grow`.
    pub(crate) stack: &'static Desc,
}

/// Takes all Ps.
pub(crate) fn pause(sched: &'static Sched) -> Paused {
    let held = sched.ps.hold();
    let ps = sched.ps.iter().map(|p| (p, procs::take(sched, p))).collect();
    let patience = Instant::now() + PATIENCE;
    let mut settled = idle::settled(sched);
    while !settled && Instant::now() < patience {
        thread::yield_now();
        settled = idle::settled(sched);
    }
    let on = |m: &'static M| {
        // SAFETY: null or a descriptor, and these are never freed.
        let stack = unsafe { m.latch().stack.load(Relaxed).cast::<Desc>().as_ref() }?;
        let goroutine = m.goroutine.load(Relaxed);
        Some(Runner { m, goroutine, stack })
    };
    let running = sched.sysmon.living_ms().into_iter().filter_map(on).collect();
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
        for (p, _) in &self.ps {
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
        for (p, taken) in self.ps.drain(..) {
            taken.release();
            idle::release_p(self.sched, p);
        }
        idle::look_again(self.sched);
    }
}
