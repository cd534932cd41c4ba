//! Telling the program of goroutines that keep a thread to themselves for long.
//!
//! The monitor watches each M whose P it took. If the same goroutine is on it still after 10 ms in all, the program's
//! hook is told, once for each stall, in a goroutine of its own: a hook that is slow, or blocks, holds nobody up. Where the
//! goroutine is that stalls, the monitor reads if its thread sleeps; else it asks the thread, and does not wait for the answer
//! ([`probe`]).

use super::Sched;
use crate::{
    debug::{Backtrace, probe},
    g::Kind,
    m::M,
    sched,
};
use std::{fmt, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

/// Why a P was taken: an index of `Sysmon::handoffs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Declared = 0,
    Undeclared = 1,
    Hog = 2,
}

/// What holds a goroutine's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallCause {
    /// A blocking call that was declared with [`blocking`](crate::blocking). ([`blocking_now`](crate::blocking_now) gives the processor up
    /// before anybody could stall.)
    Declared,
    /// A call that sleeps in the kernel, of which nobody was told.
    Undeclared,
    /// It computes.
    Computing,
}

/// A goroutine that has kept its thread to itself for longer than 10 ms, two time slices and a half, while others waited: what the hook of
/// [`RuntimeBuilder::on_stall`](crate::RuntimeBuilder::on_stall) gets. Nothing is wrong with that: its processor went to
/// another thread.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StallReport {
    /// The goroutine's number.
    pub goroutine: u64,
    /// Where it was started, as `file:line`, unless the runtime did that itself.
    pub spawned_at: Option<String>,
    /// The number of its thread: N of `baton-mN`.
    pub thread: u32,
    /// The kernel's number of its thread.
    pub tid: i32,
    /// What holds the thread.
    pub cause: StallCause,
    /// For how long so far, to within the period of the monitor.
    pub duration: Duration,
    /// Where the goroutine is; empty if that could not be had: see [`dump`](crate::dump#what-it-does-to-the-program).
    pub backtrace: Backtrace,
}

impl fmt::Display for StallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.cause {
            StallCause::Declared => "is in a declared blocking call",
            StallCause::Undeclared => "sleeps in a call that was not declared with baton::blocking",
            StallCause::Computing => "computes without a call of Baton",
        };
        let (g, m, for_so_long) = (self.goroutine, self.thread, self.duration);
        write!(
            f,
            "goroutine {g} {what} for {for_so_long:?} by now, on thread baton-m{m}"
        )?;
        if let Some(place) = &self.spawned_at {
            write!(f, ", started at {place}")?;
        }
        if !self.backtrace.is_empty() {
            write!(f, "\n{}", self.backtrace)?;
        }
        Ok(())
    }
}

/// What the program wants to be called.
#[derive(Clone)]
pub(crate) struct Hook(pub(crate) Arc<dyn Fn(&StallReport) + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// After so long, in nanoseconds, the hook is told.
const STALL_NS: u64 = 10_000_000;

/// The Ms that are watched.
#[derive(Default)]
pub(super) struct Stalls(Vec<Stall>);

struct Stall {
    m: &'static M,
    /// Goroutines that ran on this M so far: when it goes up, the stall is over.
    switches: u64,
    cause: Cause,
    since: u64,
}

impl Stalls {
    /// The P of `m` was taken, where a goroutine has stood still `since`.
    pub(super) fn watch(&mut self, sched: &Sched, m: &'static M, cause: Cause, since: u64) {
        if sched.config.on_stall.is_some() {
            let switches = m.counters.switches.get();
            self.0.push(Stall {
                m,
                switches,
                cause,
                since,
            });
        }
    }

    /// Whether there is anything to watch.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Tells of stalls that have lasted long enough at `now`.
    pub(super) fn tell(&mut self, sched: &'static Sched, now: u64) {
        let Some(Hook(hook)) = &sched.config.on_stall else {
            return;
        };
        self.0.retain(|stall| {
            let (m, duration) = (stall.m, now - stall.since);
            let (goroutine, site) = (m.goroutine.load(Relaxed), m.site());
            let on_it_still = !m.latch().stack.load(Relaxed).is_null() && m.counters.switches.get() == stall.switches;
            if !on_it_still {
                return false;
            }
            if duration < STALL_NS {
                return true;
            }
            let look = probe::look(m);
            let mut report = StallReport {
                goroutine,
                spawned_at: site.map(ToString::to_string),
                thread: m.id,
                tid: m.tid.load(Relaxed),
                cause: match stall.cause {
                    Cause::Declared => StallCause::Declared,
                    Cause::Undeclared => StallCause::Undeclared,
                    Cause::Hog => StallCause::Computing,
                },
                duration: Duration::from_nanos(duration),
                backtrace: Backtrace::default(),
            };
            let hook = Arc::clone(hook);
            let tell = move || {
                report.backtrace = Backtrace::of(look, goroutine);
                hook(&report);
            };
            // SAFETY: the closure owns what it uses, all of it `Send`. What the hook does across a parking call is under
            // the contract of `go!`, as `on_stall` says.
            drop(unsafe { sched::spawn(tell, None, Kind::Migrating) });
            false
        });
    }
}
