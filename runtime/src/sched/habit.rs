//! Goroutines that block by habit: what was found asleep once runs without a P the next time, and for as long as it sleeps on.
//!
//! ```text
//!   runs with its P ── the monitor finds it asleep and takes the P ──▶ `blocks` is set
//!        ▲                                                                  │ its next turn
//!        │                                              its M gives the P up first; it runs without one ◀─┐
//!        │                                                                  │ a call that may park, a yield │
//!        └── it did not sleep meanwhile, or computed for long: waits its turn ◀──┴── it slept: goes on ──────┘
//! ```
//!
//! To find out that a thread sleeps takes the monitor a fraction of a millisecond, during which a P stands still. A
//! goroutine that sleeps in the kernel between any two parking calls would cost that each time. But it will do again what
//! it did the last time: so its M hands its P on *before* it lets such a goroutine run. Whether that was right is known
//! afterwards, from the kernel's count of the thread's voluntary sleeps (those for a lock of the runtime are no sign); if not, the goroutine is an ordinary one again,
//! and the mistake has cost one handoff. New goroutines of a [`Site`](crate::site::Site) where that is the rule are treated so from their first
//! turn.
//!
//! At the end of such a turn the goroutine has no P, and nobody waits for it to let one go: a yield has nothing to yield, and a
//! lock or a channel asks for no P. So if it slept, and used next to no CPU time beside, it goes on as the plain thread that it is at
//! present, instead of waiting for a P only to give it up again.
//!
//! Nothing of this happens while no other goroutine waits for the P.

use super::idle;
use crate::{m::M, metrics};
use std::{mem::MaybeUninit, sync::atomic::Ordering::Relaxed};

/// More CPU time than this between two calls that may park, in microseconds, and a goroutine waits for its turn with a P as
/// all do.
const LIGHT_US: i64 = 100;

/// What a thread had done when a goroutine without a P was looked at last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Times that it had gone to sleep in the kernel, less those that it had waited for a lock of the runtime. (It need not have slept
    /// for that; so this may become less, and a sleep be missed.)
    sleeps: i64,
    /// CPU time, in microseconds.
    cpu: i64,
    /// The goroutine has slept in this turn.
    slept: bool,
}

/// Before a turn of a goroutine that blocks by habit: gives the P up if others wait for it.
#[cold]
#[inline(never)]
pub(super) fn before_turn(m: &'static M) {
    m.seen.set(None);
    if idle::somebody_waits(m) && idle::give_up_p(m) {
        m.seen.set(Some(look(m)));
        metrics::count(&m.sched.sysmon.foreseen);
    }
}

/// When a goroutine whose M has no P begins a call that may park, or yields: learns from what it did since the last one.
/// Whether it goes on without a P.
#[cold]
pub(super) fn goes_on(m: &'static M) -> bool {
    // SAFETY: null or the body of the running goroutine, on whose stack this is.
    let Some(body) = (unsafe { m.body.get().as_ref() }) else {
        return false;
    };
    let Some(before) = m.seen.take() else {
        if m.found_asleep.load(Relaxed) {
            body.blocks.set(true);
        }
        return false;
    };
    let now = look(m);
    let slept = now.sleeps > before.sleeps;
    body.blocks.set(slept);
    if slept || !before.slept {
        learn(m, slept);
    }
    // Who is pinned to this M waits for it in its inbox, and g0 alone looks there.
    let goes_on = slept && now.cpu - before.cpu <= LIGHT_US && !m.inbox.has_mail();
    if goes_on {
        m.seen.set(Some(Seen { slept, ..now }));
    }
    goes_on
}

/// When a goroutine whose M has no P has ended.
#[cold]
pub(super) fn after_end(m: &'static M) {
    if let Some(before) = m.seen.take()
        && !before.slept
    {
        learn(m, look(m).sleeps > before.sleeps);
    }
}

/// Others of the site are likely to do what this goroutine did.
fn learn(m: &'static M, slept: bool) {
    if let Some(site) = m.site() {
        site.learn_blocks(slept);
    }
}

/// What this thread, which is that of `m`, has done so far.
fn look(m: &M) -> Seen {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: fills a struct that lives here; all its values may be zero, should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    let us = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    Seen {
        sleeps: usage.ru_nvcsw - i64::from(m.latch().lock_waits() / 2),
        cpu: us(usage.ru_utime) + us(usage.ru_stime),
        slept: false,
    }
}
