//! Goroutines that block by habit: what was found asleep once runs without a P the next time.
//!
//! ```text
//!   runs with its P ── the monitor finds it asleep and takes the P ──▶ `blocks` is set
//!        ▲                                                                  │ its next turn
//!        └── it did not sleep: `blocks` is cleared ◀── its M gives the P up first; it runs without one
//! ```
//!
//! To find out that a thread sleeps takes the monitor a fraction of a millisecond, during which a P stands still. A
//! goroutine that sleeps in the kernel between any two parking calls would cost that each time. But it will do again what
//! it did the last time: so its M hands its P on *before* it lets such a goroutine run. Whether that was right is known
//! afterwards, from the kernel's count of the thread's voluntary sleeps; if not, the goroutine is an ordinary one again,
//! and the mistake has cost one handoff.
//!
//! Nothing of this happens while no other goroutine waits for the P.

use super::idle;
use crate::{g::Body, m::M, metrics};
use std::{mem::MaybeUninit, sync::atomic::Ordering::Relaxed};

/// Before a turn of a goroutine that blocks by habit: gives the P up if others wait for it.
#[cold]
#[inline(never)]
pub(super) fn before_turn(m: &'static M) {
    m.sleeps_before.set(None);
    if idle::somebody_waits(m) && idle::give_up_p(m) {
        m.sleeps_before.set(Some(sleeps()));
        metrics::count(&m.sched.sysmon.foreseen);
    }
}

/// When a goroutine whose M has no P begins a parking call or yields: learns from the turn that ends.
#[cold]
pub(super) fn after_turn(m: &'static M, body: &Body) {
    match m.sleeps_before.take() {
        Some(before) => {
            let slept = sleeps() != before;
            body.blocks.set(slept);
            if let Some(site) = m.site() {
                site.learn_blocks(slept);
            }
        }
        None if m.found_asleep.load(Relaxed) => body.blocks.set(true),
        None => {}
    }
}

/// When a goroutine whose M has no P has ended: others of its site are likely to do what it did in its last turn.
#[cold]
pub(super) fn after_end(m: &'static M) {
    if let (Some(before), Some(site)) = (m.sleeps_before.take(), m.site()) {
        site.learn_blocks(sleeps() != before);
    }
}

/// How often this thread has gone to sleep in the kernel.
fn sleeps() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: fills a struct that lives here; all its values may be zero, should the call fail.
    unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init().ru_nvcsw
    }
}
