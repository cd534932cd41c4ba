//! All goroutines: state, what they wait for and how long, where they were started, where they are.
//!
//! ```text
//!   stacks that have an owner ─▶ pause ─▶ one look at each ─▶ groups of those that are alike ─▶ text
//! ```
//!
//! There is no list of goroutines to keep: each that has run has a stack, and descriptors of stacks are never freed. Those
//! that have not run yet are a number.

use super::unwind::{Symbols, Unwinder};
use crate::{
    g::Body,
    metrics,
    park::WaitReason,
    sched::{self, pause::pause},
    time,
};
use std::{collections::HashMap, fmt::Write as _, io, panic::Location, time::Duration};

/// So many goroutines of a group are named.
const NAMED: usize = 8;

/// What goroutines of one group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    state: State,
    place: Option<&'static Location<'static>>,
    calls: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum State {
    /// On this M.
    Running(u32),
    Runnable,
    /// For what, as [`WaitReason`] names it.
    Waiting(&'static str),
}

#[derive(Debug, Default)]
struct Group {
    count: usize,
    /// Some of its goroutines: number and name.
    some: Vec<(u64, Option<String>)>,
    /// Since when the first and the last of them waits.
    first: u64,
    last: u64,
}

/// All goroutines as text: their state, what they wait for and how long, where they were started and where they are. Those
/// that are alike are one entry.
///
/// Taking it stops the scheduler for as long as it takes to look at all goroutines: about a microsecond for each. Those that
/// run go on meanwhile, and have no backtrace. Lines of source need debug information in the program (`debug =
/// "line-tables-only"`); names of functions need that it was not stripped.
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
    let sched = sched::sched();
    let mut unwinder = Unwinder::new();
    let mut groups: HashMap<Kind, Group> = HashMap::new();
    let (mut running, mut runnable, mut waiting) = (0, 0, 0);
    let alive;
    let now = time::now();
    {
        let paused = pause(sched);
        alive = metrics::goroutines() as usize;
        let queued = paused.runnable();
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
            let on = paused.running.get(&desc.as_word().addr());
            let state = if let Some(&m) = on {
                running += 1;
                State::Running(m)
            } else if queued.contains(&owner.cast_mut().cast()) || seen.reason == WaitReason::None as u8 {
                runnable += 1;
                State::Runnable
            } else {
                waiting += 1;
                State::Waiting(WaitReason::name(seen.reason))
            };
            let calls = match state {
                State::Running(_) => Vec::new(),
                // SAFETY: above where it parked the stack is mapped.
                _ => unsafe { unwinder.walk(seen.at, desc.range().start..desc.base()) },
            };
            let place = seen.place;
            let group = groups.entry(Kind { state, place, calls }).or_default();
            group.count += 1;
            group.first = if group.count == 1 {
                seen.since
            } else {
                group.first.min(seen.since)
            };
            group.last = group.last.max(seen.since);
            if group.some.len() < NAMED {
                let name = if on.is_none() && paused.settled {
                    // SAFETY: it does not run and cannot begin to before the pause ends, so it is alive.
                    unsafe { owner.cast::<crate::g::G>().as_ref() }.and_then(|g| g.name().map(String::from))
                } else {
                    None
                };
                group.some.push((seen.id, name));
            }
        });
    }
    let fresh = alive.saturating_sub(running + runnable + waiting);
    let mut text = format!(
        "baton: {alive} goroutines: {waiting} waiting, {running} running, {runnable} runnable, {fresh} not started; {} processors, \
         {} threads\n",
        sched.ps.active(),
        sched.sysmon.ms(),
    );
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(k, a), (l, b)| {
        k.state
            .cmp(&l.state)
            .then(b.count.cmp(&a.count))
            .then(a.some.cmp(&b.some))
    });
    let mut symbols = Symbols::default();
    for (kind, group) in &groups {
        print(&mut text, kind, group, now, &mut symbols);
    }
    text
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

fn print(text: &mut String, kind: &Kind, group: &Group, now: u64, symbols: &mut Symbols) {
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
    let age = |since: u64| Duration::from_millis(now.saturating_sub(since) / 1_000_000);
    let _ = match kind.state {
        State::Running(m) => write!(text, " [running on baton-m{m}]"),
        State::Runnable => text.write_str(" [runnable]"),
        State::Waiting(reason) if group.count == 1 => write!(text, " [{reason}, {:?}]", age(group.last)),
        State::Waiting(reason) => write!(text, " [{reason}, {:?} to {:?}]", age(group.last), age(group.first)),
    };
    let _ = match kind.place {
        Some(place) => writeln!(text, ", started at {place}"),
        None => writeln!(text),
    };
    // Behind the first function of a goroutine comes a word that leads back to its thread, and is no code of anybody's.
    let named = kind
        .calls
        .iter()
        .rposition(|&ip| symbols.is_known(ip))
        .map_or(0, |last| last + 1);
    for &ip in &kind.calls[..named] {
        text.push_str(symbols.lines(ip));
    }
}
