//! Every interleaving of two who wait for one file (`runtime/src/sched/netpoll.rs`): each takes one thing at a time of what is there, and one event
//! may tell of several. Nobody may sleep on when all has come that all of them want.
//!
//! There are no store buffers here: the count is written under a lock that who waits takes as well, and the file is the kernel's.

use baton_explore::reach;

/// What each of the two wants.
const EACH: u8 = 3;

/// How the protocol is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    /// Edges are counted; who waits has read the count before he tried.
    Counts,
    /// He reads it after he has tried.
    CountsTooLate,
    /// An edge leaves a mark, which the first takes who waits.
    Marks,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    /// About to read the count.
    Begin,
    /// Has read it, and tries.
    Try {
        seen: u8,
    },
    /// There was nothing; about to take the lock.
    Wait {
        seen: u8,
    },
    Asleep,
    /// Has all that it wants.
    Done,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    /// Things yet to come, and things that are there.
    coming: u8,
    there: u8,
    /// The kernel has an event that nobody has fetched.
    event: bool,
    edges: u8,
    mark: bool,
    who: [(At, u8); 2],
}

impl State {
    fn start() -> Self {
        Self {
            coming: 2 * EACH,
            there: 0,
            event: false,
            edges: 0,
            mark: false,
            who: [(At::Begin, 0); 2],
        }
    }

    /// Something comes: one event for all that comes before it is fetched.
    fn arrive(&self) -> Option<Self> {
        (self.coming > 0).then(|| Self {
            coming: self.coming - 1,
            there: self.there + 1,
            event: true,
            ..self.clone()
        })
    }

    /// Somebody fetches the event and wakes all who sleep, under the lock.
    fn dispatch(&self) -> Option<Self> {
        self.event.then(|| {
            let mut next = Self {
                event: false,
                edges: self.edges + 1,
                mark: true,
                ..self.clone()
            };
            for (at, _) in next.who.iter_mut().filter(|(at, _)| *at == At::Asleep) {
                *at = At::Begin;
            }
            next
        })
    }

    fn step(&self, i: usize, protocol: Protocol) -> Option<Self> {
        let mut next = self.clone();
        let (at, got) = &mut next.who[i];
        *at = match *at {
            At::Begin => At::Try { seen: self.edges },
            At::Try { .. } if self.there > 0 => {
                next.there -= 1;
                *got += 1;
                if *got == EACH { At::Done } else { At::Begin }
            }
            At::Try { seen } => At::Wait { seen },
            At::Wait { seen } => {
                let again = match protocol {
                    Protocol::Counts => self.edges != seen,
                    Protocol::Marks => std::mem::take(&mut next.mark),
                    Protocol::CountsTooLate => false, // what it reads now is what there is
                };
                if again { At::Begin } else { At::Asleep }
            }
            At::Asleep | At::Done => return None,
        };
        Some(next)
    }
}

/// The number of states, or one in which somebody sleeps for ever.
fn explore(protocol: Protocol) -> Result<usize, State> {
    reach(State::start(), |state| {
        let steps = [
            state.arrive(),
            state.dispatch(),
            state.step(0, protocol),
            state.step(1, protocol),
        ];
        let stuck = steps.iter().all(Option::is_none);
        if stuck && state.who.iter().any(|(at, _)| *at != At::Done) {
            return Err(state.clone());
        }
        Ok(steps.into_iter().flatten().collect())
    })
}

#[test]
fn nobody_sleeps_while_there_is_something() {
    let states = explore(Protocol::Counts).unwrap_or_else(|state| panic!("{state:?}"));
    assert!(states > 1_000, "{states}");
    println!("{states} states");
}

#[test]
fn a_mark_that_one_takes_for_all_is_wrong() {
    let state = explore(Protocol::Marks).unwrap_err();
    assert!(state.there > 0 && !state.mark, "{state:?}");
}

#[test]
fn reading_the_count_after_the_try_is_wrong() {
    assert!(explore(Protocol::CountsTooLate).is_err());
}
