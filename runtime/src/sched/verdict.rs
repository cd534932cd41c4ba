//! Why the P of a thread that stands still is to be taken, or that it is not.
//!
//! ```text
//!   declared ─────────────────────────────────── for 20 µs ▶ declared
//!   sleeps ──┬─ for a lock of the runtime ────── for 100 ms ▶ undeclared
//!            └─ in any other call ────────────── for 50 µs ▶ undeclared
//!   has the CPU, or waits for it ─── a slice, a quarter of it on the CPU ▶ hog
//! ```
//!
//! A thread that waits for its CPU, or for a lock of the runtime whose holder does, is left alone: with another thread in its place one
//! more would wait. (For a lock a tenth of a second at most: then it is a blocker as any.)
//!
//! Where /proc is denied nobody knows who sleeps: then whoever stands still for a slice counts as a hog. Where the CPU clock is denied a slice is
//! wall time alone.

use super::{
    os::{self, Probes},
    stall::Cause,
    sysmon::SLEEP_BUSY_NS,
};
use crate::m::M;
use std::sync::atomic::Ordering::Relaxed;

/// After this long in a declared blocking call the P may be taken, in nanoseconds.
const DECLARED_NS: u64 = 20_000;
/// After this long with a sleeping thread.
const UNDECLARED_NS: u64 = 50_000;
/// After this long at all: the time slice. Less than Go's 10 ms by what the monitor may come late, which is up to 5 ms where goroutines
/// compute on all CPUs.
const SLICE_NS: u64 = 4_000_000;
/// Of which its thread has computed so much at least: where there are more threads than CPUs, one whose turns take microseconds may
/// wait for the CPU for longer than a slice, and so would another one in its place, as a rule.
const COMPUTED_NS: u64 = SLICE_NS / 4;
/// So long a thread may sleep for a lock of the runtime. Holders that wait for the CPU have kept others waiting for half of that.
const LOCK_NS: u64 = 100_000_000;

/// Why the P is to be taken of `m`, whose goroutine has stood `still` for so long, in a `declared` blocking call or not. If it is not: how
/// many nanoseconds it will be at least until it may be for its slice; [`u64::MAX`] where the monitor looks again before that anyway. The
/// thread had `used` so much CPU time when it was first seen to stand still, if the system says it.
pub(super) fn cause(m: &M, declared: bool, still: u64, used: Option<u64>, probes: &mut Probes) -> Result<Cause, u64> {
    let limit = if declared { DECLARED_NS } else { UNDECLARED_NS };
    if still < limit {
        Err(u64::MAX)
    } else if declared {
        Ok(Cause::Declared)
    } else {
        undeclared(blocks(probes, m, still), still, used, || {
            os::cpu_time(m.tid.load(Relaxed))
        })
    }
}

/// Whether the thread of `m`, which has stood `still` for so long, sleeps in the kernel, and not for a lock of the runtime: `None` if the
/// system does not say.
fn blocks(probes: &mut Probes, m: &M, still: u64) -> Option<bool> {
    let waits = m.latch().lock_waits();
    if still < LOCK_NS && !waits.is_multiple_of(2) {
        return Some(false);
    }
    let sleeps = probes.sleeps(m.tid.load(Relaxed))?;
    Some(sleeps && m.latch().lock_waits() == waits) // else it was for a lock, and has got it
}

/// Why the P is to be taken of a thread that has stood `still` for so long outside of declared calls, if it is; else how many nanoseconds
/// that will take at least. Whether it `blocks`, and the CPU time that it had `used` when it was first seen to stand still and that the
/// `clock` shows now, are `None` if the system does not say.
fn undeclared(
    blocks: Option<bool>,
    still: u64,
    used: Option<u64>,
    clock: impl FnOnce() -> Option<u64>,
) -> Result<Cause, u64> {
    if blocks == Some(true) {
        return Ok(Cause::Undeclared);
    }
    if still < SLICE_NS {
        return Err(SLICE_NS - still);
    }
    // Who may be asleep needs no CPU time.
    let known = blocks.and(used);
    let computed = known.and_then(|used| Some(clock()?.saturating_sub(used)));
    match computed {
        // The time that is left may not begin to pass soon.
        Some(computed) if computed < COMPUTED_NS => Err((COMPUTED_NS - computed).max(SLEEP_BUSY_NS)),
        _ => Ok(Cause::Hog),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{go, lock, m};
    use std::{sync::mpsc, thread};

    #[test]
    fn a_hog_is_who_computes_for_a_slice() {
        let why = |blocks, still, used: Option<u64>, now| undeclared(blocks, still, used, || now);
        let awake = Some(false);
        assert_eq!(why(awake, SLICE_NS - 7, Some(0), Some(SLICE_NS)), Err(7));
        assert_eq!(why(awake, SLICE_NS, Some(9), Some(9 + COMPUTED_NS)), Ok(Cause::Hog));
        let left = COMPUTED_NS / 2;
        assert_eq!(why(awake, 9 * SLICE_NS, Some(9), Some(9 + left)), Err(left));
        assert_eq!(
            why(awake, 9 * SLICE_NS, Some(9), Some(9)),
            Err(COMPUTED_NS),
            "it waits for its CPU"
        );
        assert_eq!(why(Some(true), 1, Some(9), Some(9)), Ok(Cause::Undeclared));
        // The system does not say who had the CPU, or who sleeps.
        assert_eq!(why(awake, SLICE_NS, Some(9), None), Ok(Cause::Hog));
        assert_eq!(why(awake, SLICE_NS, None, Some(9)), Ok(Cause::Hog));
        assert_eq!(
            why(None, SLICE_NS, Some(9), Some(9)),
            Ok(Cause::Hog),
            "it may sleep for ever"
        );
        assert_eq!(why(None, SLICE_NS - 7, Some(9), Some(9)), Err(7));
    }

    #[test]
    fn who_waits_for_a_lock_of_the_runtime_does_not_block() {
        static LOCK: lock::Mutex<()> = lock::Mutex::new(());
        let held = LOCK.lock();
        let (tell, told) = mpsc::channel();
        let (seen, end) = mpsc::channel::<()>();
        let waiter = go!(move || {
            let m = m::current().expect("who runs a goroutine is an M");
            tell.send((m, m.latch().lock_waits())).unwrap();
            drop(LOCK.lock());
            end.recv().unwrap_err();
        });
        let (m, before) = told.recv().unwrap();
        while m.latch().lock_waits() == before {
            thread::yield_now();
        }
        let (mut probes, mut asleep, mut blocking) = (Probes::default(), 0, 0);
        while asleep < 20 {
            match probes.sleeps(m.tid.load(Relaxed)) {
                Some(sleeps) => asleep += u32::from(sleeps),
                None => return, // the system does not say
            }
            blocking += u32::from(blocks(&mut probes, m, 0) == Some(true));
        }
        assert!(blocking < 10, "{blocking}"); // a page fault between two sleeps is no lock
        while !m.latch().lock_waits().is_multiple_of(2) {
            thread::yield_now();
        }
        assert_ne!(blocks(&mut probes, m, LOCK_NS), None);
        drop(held);
        while blocks(&mut probes, m, 0) != Some(true) {
            thread::yield_now();
        }
        drop(seen);
        waiter.join().unwrap();
    }
}
