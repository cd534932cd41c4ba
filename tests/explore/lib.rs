//! Models of Baton's protocols, and the search through all their states.
//!
//! ```text
//!   latch    one owner per P                            alloc/src/latch.rs           ┐ machine.rs  threads with store buffers
//!   sleeper  no wake-up, timer, alert, file is lost     runtime/src/sched            ┘ search.rs   breadth first
//!   edges    two who wait for one file get theirs       runtime/src/sched/netpoll.rs
//!   select   no wait on channels is lost or doubled     runtime/src/chan
//!   shrink   pages go from parked goroutines only       stack/src/shrink.rs
//! ```
//!
//! They run no code of the runtime: they are what its protocols say, step by step. So they are optimised in debug builds too.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
};

/// Whether the largest models are wanted, which take minutes and a gigabyte: `BATON_EXPLORE=all`, as `.ci/run` does once. The others
/// have one thread or one push less.
#[must_use]
pub fn thorough() -> bool {
    std::env::var_os("BATON_EXPLORE").is_some_and(|how| how == "all")
}

/// How many states of a protocol that is right are visited: the nearest, to keep within the time of a test run, or all if the
/// run is thorough.
#[must_use]
pub fn most() -> usize {
    if thorough() { usize::MAX } else { 100_000 }
}

/// Visits all states that can be reached from `start`, the nearest first, and counts them.
///
/// # Errors
///
/// What `steps` says of a state that is wrong, instead of the states that follow it.
pub fn reach<S: Clone + Eq + Hash, E>(start: S, mut steps: impl FnMut(&S) -> Result<Vec<S>, E>) -> Result<usize, E> {
    let mut seen = HashSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(state) = open.pop_front() {
        for next in steps(&state)? {
            if seen.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    Ok(seen.len())
}
