//! What waits on one P comes to another that has nothing to do: thieves ask first, and take only from those who do not answer.
//!
//! ```text
//!   thief   `asked`, `attention` ─▶ a moment ─▶ again ─▶ still stands there? ─ take through the latch, a barrier on every core
//!                   │                                    └ has got on: ask once more
//!   owner           └─▶ at its next turn, or `go!`: half of its ring to the global queue
//! ```

use super::{
    find::{LOOT, keep},
    ready::put_all_global,
};
use crate::{
    debug::trace,
    g::G,
    m::M,
    p::{Own, P},
    time::{self, heap::NEVER},
};
use std::{
    hint, ptr,
    sync::atomic::Ordering::{AcqRel, Relaxed},
};

/// Rounds over the other Ps before a spinning M gives up; in the last it also takes what would run next there.
const STEAL_ROUNDS: u32 = 4;

/// In so many of them it only asks: the owner of the P sheds half of its ring at its next scheduling point, which costs it less
/// than a take, a barrier on every core.
const ASK_ROUNDS: u32 = 2;

/// Turns of the processor's pause between two such rounds: together a few microseconds, enough for a P that is about to
/// run its runnext to do so.
const STEAL_PAUSE: u32 = 64;

/// Leaves half of what waits here to those who have asked for it, if they still have nothing.
#[cold]
pub(super) fn shed(m: &'static M) -> bool {
    let Some(p) = m.latch().p().and_then(P::of).filter(|p| p.asked.load(Relaxed)) else {
        return false;
    };
    p.asked.store(false, Relaxed);
    p.shares.store(false, Relaxed);
    if m.sched.idle_ps.load(Relaxed) == 0 && m.sched.spinning.load(Relaxed) == 0 {
        return false;
    }
    let mut some = [ptr::null_mut(); LOOT];
    // SAFETY: this thread's M; a section with queue operations.
    let n = unsafe {
        m.with_p(|p, _| {
            let half = (p.runq.len() + usize::from(p.runq.has_next())) / 2;
            p.runq.pop_some(&mut some[..half.min(LOOT)])
        })
    };
    let n = n.unwrap_or(0);
    if n > 0 {
        m.counters.sheds.add(1);
        trace::shed(m, n);
        put_all_global(m.sched, &some[..n]);
    }
    n > 0
}

/// Looks at the other Ps, as a spinning M: asks those with work to shed some, and if none does so in time, takes half of what
/// the first one has. `ticks` is room for the
/// ticks of all Ps.
pub(super) fn steal(m: &'static M, ticks: &mut Vec<u32>) -> bool {
    let sched = m.sched;
    let ps = sched.ps.active();
    if ps < 2 {
        return false;
    }
    if !m.spinning.load(Relaxed) {
        let busy = (sched.ps.active() as u32).saturating_sub(sched.idle_ps.load(Relaxed));
        if 2 * sched.spinning.load(Relaxed) >= busy {
            return false;
        }
        m.spinning.store(true, Relaxed);
        sched.spinning.fetch_add(1, AcqRel);
    }
    ticks.clear();
    ticks.extend((0..ps).map(|i| sched.ps.get(i).tick.load(Relaxed)));
    let start = m.counters.switches.get() as usize;
    for round in 0..STEAL_ROUNDS {
        for i in 0..ps {
            let i = (start + i) % ps;
            let victim = sched.ps.get(i);
            let moved = victim.tick.load(Relaxed) != ticks[i];
            let has_ring = victim.has_loot();
            let due = victim.due.load(Relaxed);
            let is_due = due != NEVER && due <= time::now();
            // Who gets on will hear a question soon, and answers it for less than a take costs all.
            if has_ring && (round < ASK_ROUNDS || moved && !is_due) {
                victim.asked.store(true, Relaxed);
                victim.attention.store(true, Relaxed);
                continue;
            }
            let is_slow = !moved && victim.keeps.load(Relaxed) == 0;
            let has_next = round + 1 == STEAL_ROUNDS && is_slow && victim.runq.has_next();
            if (has_ring || has_next || is_due) && steal_from(m, victim, has_next) {
                return true;
            }
        }
        if sched.global.len() > 0 {
            return true;
        }
        for _ in 0..STEAL_PAUSE {
            hint::spin_loop();
        }
    }
    false
}

/// Takes half the ring of `victim`, its due sleepers, and, if `next`, what it would run next: under its lock if nobody has it, else
/// through the latch.
fn steal_from(m: &'static M, victim: &'static P, next: bool) -> bool {
    if m.latch().p().and_then(P::of).is_some_and(|own| ptr::eq(own, victim)) {
        return false;
    }
    m.counters.steal_tries.add(1);
    let mut loot = [ptr::null_mut(); LOOT];
    // SAFETY: whoever borrows the P owns what is its own meanwhile.
    let Some(n) = victim.borrow(|own| unsafe { rob(victim, own, next, &mut loot) }) else {
        return false;
    };
    if n == 0 {
        return false;
    }
    m.counters.steals.add(1);
    trace::stole(m, victim, n);
    keep(m, &loot[..n]);
    true
}

/// What a thief takes.
///
/// # Safety
///
/// The caller owns the P.
unsafe fn rob(victim: &'static P, own: &mut Own, next: bool, loot: &mut [*mut G; LOOT]) -> usize {
    victim.asked.store(false, Relaxed);
    victim.shares.store(false, Relaxed);
    let half = victim.runq.len().div_ceil(2).min(LOOT);
    // SAFETY: as the caller promised.
    let mut n = unsafe { victim.runq.pop_some(&mut loot[..half]) };
    if next && n == 0 {
        // SAFETY: as above.
        loot[0] = unsafe { victim.runq.swap_next(ptr::null_mut()) };
        n += usize::from(!loot[0].is_null());
    }
    if n < LOOT && victim.due.load(Relaxed) != NEVER {
        n += time::pop_due(victim, own, time::now(), &mut loot[n..]);
    }
    n
}
