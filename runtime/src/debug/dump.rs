//! All goroutines: state, what they wait for and how long, where they were started, where they are.
//!
//! ```text
//!   stacks that have an owner ─▶ pause ─▶ one look at each ─▶ groups of those that are alike ─▶ text
//!                                           └ those that run: a copy of their stack, from the kernel or from themselves
//! ```
//!
//! There is no list of goroutines to keep: each that has run has a stack, and descriptors of stacks are never freed. Those
//! that have not run yet are a number.

use super::{
    probe::{self, Look, PATIENCE},
    unwind::{Registers, Symbols, Unwinder},
};
use crate::{
    g::{Body, G, Seen},
    m, metrics,
    park::WaitReason,
    sched::{
        self,
        pause::{Paused, pause},
    },
    sync::HeldBy,
    time,
};
use baton_stack::Desc;
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    io,
    panic::Location,
    ptr,
    time::{Duration, Instant},
};

/// So many goroutines of a group are named.
const NAMED: usize = 8;

/// What goroutines of one group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    state: State,
    place: Option<&'static Location<'static>>,
    calls: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// On this M.
    Running(u32),
    /// Likewise, but the thread sleeps in the kernel.
    Asleep(u32),
    Runnable,
    /// For what, as [`WaitReason`] names it; for a lock, in whose hands that is.
    Waiting(&'static str, Option<HeldBy>),
}

impl State {
    /// What comes first in a dump.
    fn rank(self) -> u32 {
        match self {
            Self::Running(_) => 0,
            Self::Asleep(_) => 1,
            Self::Runnable => 2,
            Self::Waiting(..) => 3,
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    count: usize,
    /// Some of its goroutines: number and name.
    some: Vec<(u64, Option<String>)>,
    /// For how long the first and the last of them have waited, in nanoseconds.
    longest: u64,
    shortest: u64,
}

impl Group {
    fn add(&mut self, id: u64, age: u64, name: impl FnOnce() -> Option<String>) {
        self.longest = self.longest.max(age);
        self.shortest = if self.count == 0 { age } else { self.shortest.min(age) };
        self.count += 1;
        if self.some.len() < NAMED {
            self.some.push((id, name()));
        }
    }
}

/// A goroutine that runs, and the look at it.
struct Runs {
    seen: Seen,
    m: u32,
    look: Option<Look>,
}

/// What a look at all goroutines gives.
#[derive(Default)]
struct Census {
    groups: HashMap<Kind, Group>,
    runs: Vec<Runs>,
    runnable: usize,
    waiting: usize,
}

/// All goroutines as text: their state, what they wait for and how long, who holds the lock that they wait for, where they were
/// started and where they are. Those that are alike are one entry.
///
/// A thread that is between two goroutines, and gets no CPU for a tenth of a second, keeps names and the holders of locks from being
/// read; then the text says in its second line that they are left out.
///
/// Lines of source need debug information in the program (`debug = "line-tables-only"`); names of functions need that it was not
/// stripped.
///
/// # What it does to the program
///
/// It stops the scheduler for as long as it takes to look at all goroutines that do not run: about a microsecond for each. Those that
/// run go on meanwhile. Where they are is had from a copy of their stack. If their thread sleeps in the kernel, that is read from
/// /proc, and they notice nothing. If it does not, the thread is sent SIGURG, whose handler makes the copy and takes some microseconds;
/// it has the handler's alternate stack, and `SA_RESTART`. A call that sleeps and was entered in that very moment may end with
/// `EINTR`, as it may with any signal; so may one that is just about to be entered and looks for signals (`sigwait`, `signalfd`: for
/// SIGURG only). Nobody is sent a signal unless a dump is taken, or a stall reported. A goroutine that computes has no backtrace if the
/// program handles SIGURG itself, or if its thread does not answer for 0.2 s; none that runs has one where /proc is denied, nor
/// inside of [`on_big_stack`](crate::on_big_stack).
///
/// ```
/// let text = baton::run(|| {
///     let (tx, rx) = baton::chan::bounded::<()>(0);
///     let waits = baton::go!(name = "reader"; move || drop(rx.recv()));
///     baton::yield_now();
///     let text = baton::dump();
///     drop(tx);
///     waits.join().unwrap();
///     text
/// });
/// assert!(text.starts_with("baton: "), "{text}");
/// ```
#[must_use]
pub fn dump() -> String {
    let here = Registers::here();
    let sched = sched::sched();
    let mut unwinder = Unwinder::new();
    let mut census = Census::default();
    let now = time::now();
    let (alive, settled);
    {
        let paused = pause(sched);
        settled = paused.settled;
        alive = metrics::goroutines() as usize;
        census.take(&paused, &mut unwinder, now);
    }
    let Census {
        mut groups,
        runs,
        runnable,
        waiting,
    } = census;
    let running = runs.len();
    let until = Instant::now() + PATIENCE;
    for Runs { seen, m, look } in runs {
        let asleep = look.as_ref().is_some_and(Look::is_asleep);
        let state = if asleep { State::Asleep(m) } else { State::Running(m) };
        let (name, calls) = match m::current_goroutine() {
            // SAFETY: the running goroutine is alive.
            Some((m, g)) if unsafe { g.as_ref() }.id() == seen.id => {
                // SAFETY: likewise.
                let name = unsafe { g.as_ref() }.name().map(String::from);
                // SAFETY: this very stack.
                (name, unsafe { walk(&mut unwinder, here, &[m.desc()]) })
            }
            _ => {
                let copy = look.and_then(|look| look.finish(until));
                let copy = copy.filter(|copy| copy.goroutine == seen.id);
                (None, copy.map_or_else(Vec::new, |copy| copy.walk(&mut unwinder)))
            }
        };
        let place = seen.place;
        let group = groups.entry(Kind { state, place, calls }).or_default();
        group.add(seen.id, 0, || name);
    }
    let fresh = alive.saturating_sub(running + runnable + waiting);
    let mut text = format!(
        "baton: {alive} goroutines: {waiting} waiting, {running} running, {runnable} runnable, {fresh} not started; {} processors, \
         {} threads\n",
        sched.ps.active(),
        sched.sysmon.ms(),
    );
    if !settled {
        text.push_str(
            "names, and who holds which lock, are left out: a thread did not come to rest in time; dump again\n",
        );
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(kind, group)| (kind.state.rank(), usize::MAX - group.count, group.some[0].0));
    let mut symbols = Symbols::default();
    for (kind, group) in &groups {
        print(&mut text, kind, group, &mut symbols);
    }
    text
}

impl Census {
    /// Looks at all goroutines that have run, at `now`.
    fn take(&mut self, paused: &Paused, unwinder: &mut Unwinder, now: u64) {
        let here = m::current();
        let queued = paused.runnable();
        let running: HashMap<_, _> = paused
            .running
            .iter()
            .map(|runner| (runner.goroutine, runner.m))
            .collect();
        let runners: HashSet<_> = paused.running.iter().map(|runner| runner.owner).collect();
        baton_stack::each(&mut |desc| {
            let owner = desc.owner();
            if owner.is_null() {
                return;
            }
            // SAFETY: a goroutine runs on this stack, or is parked there, so its body is in place; if it just ends, what
            // is read is what was there last.
            let seen = unsafe { Body::look(desc) };
            if seen.id == 0 {
                return;
            }
            // By the list, whatever it says of itself: it may be on g0 just now, and go on, or have parked or ended meanwhile.
            if let Some(&m) = running.get(&seen.id) {
                let is_here = here.is_some_and(|here| ptr::eq(here, m));
                let look = (!is_here).then(|| probe::look(m)).flatten();
                return self.runs.push(Runs { seen, m: m.id, look });
            }
            if runners.contains(&owner) {
                return; // one of its stacks of `stack::grow`
            }
            // SAFETY: it is no runner, so it is alive until the pause ends (invariant 1 of `pause`).
            let g = paused.settled.then(|| unsafe { &*owner.cast::<G>() });
            if g.is_some_and(|g| !ptr::eq(g.body.get(), Body::place_on(desc))) {
                return; // likewise
            }
            let state = if queued.contains(&owner.cast_mut().cast()) || seen.reason() == WaitReason::None as u8 {
                self.runnable += 1;
                State::Runnable
            } else {
                self.waiting += 1;
                State::Waiting(WaitReason::name(seen.reason()), g.and_then(|_| held_by(&seen)))
            };
            // SAFETY: as above, so its body is in place.
            let top = g.map_or(desc, |g| unsafe { &*g.body.get() }.desc());
            // SAFETY: above where it parked its stacks are mapped.
            let calls = unsafe { walk(unwinder, seen.at, &[top, desc]) };
            let place = seen.place;
            let group = self.groups.entry(Kind { state, place, calls }).or_default();
            group.add(seen.id, seen.age(now), || g.and_then(|g| g.name()).map(String::from));
        });
    }
}

/// In whose hands the lock is that a parked goroutine waits for.
fn held_by(seen: &Seen) -> Option<HeldBy> {
    let waits = WaitReason::LOCKS.iter().any(|&reason| reason as u8 == seen.reason());
    // SAFETY: it waits for this lock, which so is alive; the pause keeps it from going on.
    waits.then(|| unsafe { seen.lock.as_ref() }?.held_by().into()).flatten()
}

/// The calls of a goroutine that was at `at`, on the first of its stacks.
///
/// # Safety
///
/// The first stack is open from there on; the others are stacks of the same goroutine; none of them is given back meanwhile.
unsafe fn walk(unwinder: &mut Unwinder, at: Registers, stacks: &[&Desc]) -> Vec<usize> {
    let top = stacks[0];
    let read = |address: usize| {
        let used = (top.range().contains(&at.sp) && (at.sp..top.base()).contains(&address))
            || stacks[1..]
                .iter()
                .any(|stack| (stack.limit()..stack.base()).contains(&address));
        // SAFETY: in the used part of a stack, as the caller promised; another thread may be writing, and any value will do.
        (used && address.is_multiple_of(8))
            .then(|| unsafe { ptr::with_exposed_provenance::<usize>(address).read_volatile() })
    };
    unwinder.walk(at, read).0
}

/// Writes what [`dump`] gives, for a file or a socket.
///
/// # Errors
///
/// Those of the writer.
///
/// ```
/// let mut text = Vec::new();
/// baton::run(|| baton::debug::dump_to(&mut text)).unwrap();
/// assert!(text.starts_with(b"baton: "));
/// ```
pub fn dump_to(out: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    out.write_all(dump().as_bytes())
}

fn print(text: &mut String, kind: &Kind, group: &Group, symbols: &mut Symbols) {
    let _ = text.write_str("\n");
    let _ = match group.count {
        1 => text.write_str("goroutine"),
        n => write!(text, "{n} goroutines"),
    };
    for (id, name) in &group.some {
        let _ = match name {
            Some(name) => write!(text, " {id} \"{name}\""),
            None => write!(text, " {id}"),
        };
    }
    if group.some.len() < group.count {
        let _ = text.write_str(" …");
    }
    let age = |age: u64| Duration::from_millis(age / 1_000_000);
    let _ = match kind.state {
        State::Running(m) => write!(text, " [running on baton-m{m}]"),
        State::Asleep(m) => write!(text, " [running on baton-m{m}, asleep in the kernel]"),
        State::Runnable => text.write_str(" [runnable]"),
        State::Waiting(reason, _) if group.count == 1 => write!(text, " [{reason}, {:?}]", age(group.longest)),
        State::Waiting(reason, _) => {
            write!(
                text,
                " [{reason}, {:?} to {:?}]",
                age(group.shortest),
                age(group.longest)
            )
        }
    };
    if let State::Waiting(_, Some(held_by)) = kind.state {
        let _ = write!(text, ", {held_by}");
    }
    let _ = match kind.place {
        Some(place) => writeln!(text, ", started at {place}"),
        None => writeln!(text),
    };
    let _ = symbols.print(&kind.calls, text);
}
