//! The search: breadth first, with a table of the states seen, so that a counterexample is a shortest one.

use crate::{
    machine::{BUFFER, State, THREADS},
    protocol::{Protocol, Steps, Violation},
    words::{NAMES, Pc},
};
use baton_explore::most;
use std::{fmt, time::Instant};

/// All states seen so far, in the order in which they were found, and a hash table of their numbers.
struct Seen {
    states: Vec<State>,
    parents: Vec<u32>,
    table: Vec<Place>,
}

/// A place of the hash table: the number of a state, or [`EMPTY`], and the state's hash.
#[derive(Clone, Copy)]
struct Place {
    state: u32,
    hash: u32,
}

const EMPTY: u32 = u32::MAX;
const EMPTY_PLACE: Place = Place { state: EMPTY, hash: 0 };

impl Seen {
    fn new(first: State) -> Self {
        let mut seen = Self {
            states: Vec::new(),
            parents: Vec::new(),
            table: vec![EMPTY_PLACE; 1 << 16],
        };
        seen.insert(first, EMPTY);
        seen
    }

    fn insert(&mut self, state: State, parent: u32) {
        if (self.states.len() + 1) * 2 > self.table.len() {
            self.grow();
        }
        let hash = state.hash();
        let is_state = |place: Place| place.hash == hash && self.states[place.state as usize] == state;
        let at = find(&self.table, hash, is_state);
        if self.table[at].state == EMPTY {
            let number = self.states.len() as u32;
            self.table[at] = Place { state: number, hash };
            self.states.push(state);
            self.parents.push(parent);
        }
    }

    fn grow(&mut self) {
        let mut larger = vec![EMPTY_PLACE; self.table.len() * 2];
        for &place in self.table.iter().filter(|place| place.state != EMPTY) {
            let at = find(&larger, place.hash, |_| false);
            larger[at] = place;
        }
        self.table = larger;
    }
}

/// Where in the table the state with this hash is, or belongs.
fn find(table: &[Place], hash: u32, is_state: impl Fn(Place) -> bool) -> usize {
    let mask = table.len() - 1;
    let mut at = hash as usize & mask;
    while table[at].state != EMPTY && !is_state(table[at]) {
        at = (at + 1) & mask;
    }
    at
}

/// What a search found.
pub(crate) struct Finding {
    pub(crate) states: usize,
    /// Whether these were all that can be reached.
    pub(crate) complete: bool,
    /// A bit for every [`Pc`] at which a thread was seen.
    pub(crate) visited: u128,
    /// The steps of the longest among the shortest ways to a state.
    pub(crate) depth: usize,
    pub(crate) counterexample: Option<(Violation, Vec<String>)>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states, depth {}", self.states, self.depth)?;
        if let Some((violation, steps)) = &self.counterexample {
            write!(f, ", {violation:?} after {} steps:", steps.len())?;
            for (n, step) in steps.iter().enumerate() {
                write!(f, "\n  {:3}  {step}", n + 1)?;
            }
        }
        Ok(())
    }
}

/// Explores a protocol that must be right, and that must have come by each of these places.
pub(crate) fn is_right(protocol: Protocol, places: &[Pc]) {
    let finding = explore(protocol, most());
    assert!(finding.counterexample.is_none(), "the protocol is wrong: {finding}");
    for &pc in places.iter().filter(|_| finding.complete) {
        assert!(finding.visited & 1 << pc as u32 != 0, "the model never came to {pc:?}");
    }
}

/// Explores a protocol that must be wrong in this way.
pub(crate) fn is_wrong(protocol: Protocol, expected: Violation) {
    let finding = explore(protocol, usize::MAX);
    let found = finding.counterexample.map(|(violation, _)| violation);
    assert_eq!(found, Some(expected), "the checks do not bite");
}

/// Visits the states that the protocol can reach, nearest first, up to the first one that is wrong, and no more than `most`.
fn explore(protocol: Protocol, most: usize) -> Finding {
    let started = Instant::now(); // printed, never compared
    let mut seen = Seen::new(protocol.start());
    let mut steps = Steps::new();
    let mut violation = None;
    let mut visited = 0;
    let mut next = 0;
    while violation.is_none() && next < seen.states.len().min(most) {
        let state = seen.states[next];
        visited |= state.threads.iter().fold(0, |bits, t| bits | 1 << t.pc as u32);
        protocol.steps(&state, &mut steps);
        violation = protocol.wrong(&state);
        if steps.is_empty() && violation.is_none() {
            violation = protocol.wrong_at_the_end(&state);
        }
        for (_, successor) in &steps {
            seen.insert(*successor, next as u32);
        }
        next += 1;
    }
    let way = way(&protocol, &seen, next - 1);
    let finding = Finding {
        states: next,
        complete: next == seen.states.len(),
        visited,
        depth: way.len(),
        counterexample: violation.map(|v| (v, way)),
    };
    println!(
        "{protocol:?}, buffers of {BUFFER}: {:.1?}, {finding}",
        started.elapsed()
    );
    finding
}

/// The steps from the start to state number `n`.
fn way(protocol: &Protocol, seen: &Seen, n: usize) -> Vec<String> {
    let mut way = Vec::new();
    let mut steps = Steps::new();
    let mut n = n;
    while seen.parents[n] != EMPTY {
        let parent = seen.parents[n] as usize;
        let (before, after) = (&seen.states[parent], &seen.states[n]);
        protocol.steps(before, &mut steps);
        let (name, _) = steps
            .iter()
            .find(|(_, s)| s == after)
            .expect("a parent leads to its child");
        let t = (0..THREADS)
            .find(|&t| before.threads[t] != after.threads[t])
            .expect("a step is a thread's");
        way.push(format!("{:8}{name}", NAMES[t]));
        n = parent;
    }
    way.reverse();
    way
}
