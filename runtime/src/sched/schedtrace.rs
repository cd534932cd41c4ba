//! A line about the scheduler each period, on standard error: `BATON_SCHEDTRACE=ms`, as Go's `GODEBUG=schedtrace=ms`.
//!
//! ```text
//! SCHED 1002ms: procs=2 idleprocs=1 threads=4 idlethreads=2 spinningthreads=0 goroutines=12 runqueue=0 [0 3] steals=2 handoffs=1
//! ```
//!
//! `runqueue` is the shared queue, the brackets hold the queues of the Ps. The monitor prints it, between its looks.

use super::{Sched, idle};
use crate::{metrics, stderr, time};
use std::{fmt::Write, sync::atomic::Ordering::Relaxed};

/// When lines are printed, in nanoseconds.
pub(super) struct Schedtrace {
    period: u64,
    start: u64,
    due: u64,
}

impl Schedtrace {
    pub(super) fn new(period: u64) -> Self {
        let start = time::now();
        let due = start + period;
        Self { period, start, due }
    }

    /// How long until the next line.
    pub(super) fn left(&self) -> u64 {
        self.due.saturating_sub(time::now())
    }

    /// Prints a line if it is time.
    pub(super) fn look(&mut self, sched: &Sched) {
        let now = time::now();
        if now < self.due {
            return;
        }
        self.due = now + self.period;
        let ms = (now - self.start) / 1_000_000;
        stderr::say(format_args!("SCHED {ms}ms: {}", line(sched)));
    }
}

fn line(sched: &Sched) -> String {
    let mut queues = String::new();
    for p in sched.ps.iter().take(sched.ps.active()) {
        let space = if queues.is_empty() { "" } else { " " };
        let _ = write!(queues, "{space}{}", p.runq.len() + usize::from(p.runq.has_next()));
    }
    let steals: u64 = metrics::ms().iter().map(|m| m.counters.steals.get()).sum();
    let handoffs: u64 = sched.sysmon.handoffs.iter().map(|cause| cause.load(Relaxed)).sum();
    format!(
        "procs={} idleprocs={} threads={} idlethreads={} spinningthreads={} goroutines={} runqueue={} [{queues}] steals={steals} \
         handoffs={handoffs}",
        sched.ps.active(),
        sched.idle_ps.load(Relaxed),
        sched.sysmon.ms(),
        idle::asleep(sched),
        sched.spinning.load(Relaxed),
        metrics::goroutines(),
        sched.global.len(),
    )
}
