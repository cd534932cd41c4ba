//! Holding the scheduler still for a look at all goroutines.
//!
//! Whoever pauses takes all Ps, as one who changes their number does. Goroutines that run go on, without a P; none that does
//! not run can begin to, since that takes a P. So what is parked or queued stays as it is until the pause ends, and can be
//! read.
//!
//! ```text
//!   all Ps taken ─▶ one look at each M ─┬─ asleep ────────────────────────────── runs nothing while there is no P
//!                     ▲                 ├─ on a goroutine's stack ─▶ a runner ── goes on, steps onto g0 and back, parks, ends
//!                     │                 └─ neither: on g0, with a goroutine in its hands perhaps
//!                     └── looks again ────────┘
//! ```
//!
//! # Invariants
//!
//! 1. In a pause that has settled a goroutine that is no runner does not run, and is alive until the pause ends. An M that was asleep,
//!    or ran another goroutine, has no way to it without a P.
//! 2. A runner may do anything meanwhile, and its goroutine may be gone: who looks goes by the list, not by what the goroutine says of
//!    itself, and follows no pointer to it. Its number and its address are told from those of all others, even so: whoever else would
//!    get them would have to begin.

use super::{Sched, idle, procs};
use crate::{
    g::{Body, G},
    m::M,
    p::P,
};
use baton_alloc::latch::{self, Detached};
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
    /// Each M was seen asleep or running a goroutine.
    pub(crate) settled: bool,
    /// The goroutines that run: if it has not settled, those of them that were seen.
    pub(crate) running: Vec<Runner>,
    _procs: MutexGuard<'static, ()>,
}

/// A goroutine that ran when the pause began.
pub(crate) struct Runner {
    pub(crate) m: &'static M,
    /// Its number.
    pub(crate) goroutine: u64,
    /// The owner of its stacks. It may be gone.
    pub(crate) owner: *const (),
}

/// Takes all Ps.
pub(crate) fn pause(sched: &'static Sched) -> Paused {
    let held = sched.ps.hold();
    let ps = sched.ps.iter().map(|p| (p, procs::take(sched, p))).collect();
    let patience = Instant::now() + PATIENCE;
    let (settled, running) = loop {
        let (settled, running) = look(sched);
        if settled || Instant::now() >= patience {
            break (settled, running);
        }
        thread::yield_now();
    };
    Paused {
        sched,
        ps,
        settled,
        running,
        _procs: held,
    }
}

/// One look at each M: whether all are asleep or runners, and the runners.
fn look(sched: &Sched) -> (bool, Vec<Runner>) {
    let awake = idle::awake(sched);
    let stacks: Vec<_> = awake.iter().map(|m| m.latch().stack.load(Relaxed)).collect();
    drop(latch::barrier()); // an M says which goroutine it runs before it says on which stack
    let on = |(&m, stack): (&&'static M, *mut ())| {
        // SAFETY: null or a descriptor, and these are never freed.
        let stack = unsafe { stack.cast::<Desc>().as_ref() }?;
        let goroutine = m.goroutine.load(Relaxed);
        let owner = find_owner(goroutine, stack)?;
        Some(Runner { m, goroutine, owner })
    };
    let runners: Vec<_> = awake.iter().zip(stacks).filter_map(on).collect();
    (runners.len() == awake.len(), runners)
}

/// The owner of the stack on which this goroutine began. It runs on `stack` now: that very one, or one of `stack::grow`. `None`: it is
/// about to end, or has only its result to drop before that.
fn find_owner(goroutine: u64, stack: &'static Desc) -> Option<*const ()> {
    let owner_of = |stack: &'static Desc| {
        let owner = stack.owner();
        // SAFETY: it has an owner, so a goroutine was bound to it, or its body is zero.
        (!owner.is_null() && unsafe { Body::look(stack) }.id == goroutine).then_some(owner)
    };
    owner_of(stack).or_else(|| {
        let mut found = None;
        baton_stack::each(&mut |stack| found = found.or_else(|| owner_of(stack)));
        found
    })
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
