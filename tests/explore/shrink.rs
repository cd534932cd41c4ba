//! Every interleaving of the protocol by which pages are taken from a parked goroutine (`stack/src/shrink.rs`), on a machine
//! with store buffers: one thread resumes and suspends, one shrinks. Without the barrier the search must find the two at
//! work together; and if what was taken is noted by a plain store, too: it may overwrite that the owner runs.

use baton_explore::reach;

/// Rounds of each thread.
const ROUNDS: u8 = 3;

/// How the protocol is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Barrier {
    /// membarrier: empties the store buffers of both.
    Membarrier,
    /// The owner fences, the shrinker too.
    Fences,
    /// The shrinker's fence alone.
    ShrinkerOnly,
    /// The owner's fence alone.
    OwnerOnly,
}

/// How the shrinker notes in `PARKED` what it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Note {
    /// Compare and exchange, with what it saw before.
    Exchange,
    /// A plain store.
    Store,
}

/// A word of memory: `PARKED` or `CLAIMED`.
type Word = usize;
const PARKED: Word = 0;
const CLAIMED: Word = 1;

/// `PARKED`: pages were taken. Others may be taken later, by a shrinker that takes more.
const GONE: u8 = 2;

/// Memory, and for each thread what it has stored and nobody else has seen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    memory: [u8; 2],
    buffers: [Vec<(Word, u8)>; 2],
    owner: Owner,
    owner_rounds: u8,
    shrinker: Shrinker,
    shrinker_rounds: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Owner {
    Parked,
    Stored,
    Fenced,
    Running,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Shrinker {
    Idle,
    Claimed,
    Ordered,
    /// With what it saw in `PARKED`.
    Taking(u8),
    Noted,
}

const OWNER: usize = 0;
const SHRINKER: usize = 1;

impl State {
    fn start() -> Self {
        Self {
            memory: [1, 0],
            buffers: [Vec::new(), Vec::new()],
            owner: Owner::Parked,
            owner_rounds: 0,
            shrinker: Shrinker::Idle,
            shrinker_rounds: 0,
        }
    }

    fn store(&mut self, thread: usize, word: Word, value: u8) {
        self.buffers[thread].push((word, value));
    }

    /// What a thread reads: its own last store, else memory.
    fn load(&self, thread: usize, word: Word) -> u8 {
        let own = self.buffers[thread].iter().rev().find(|(w, _)| *w == word);
        own.map_or(self.memory[word], |(_, value)| *value)
    }

    fn drain(&mut self, thread: usize) {
        for (word, value) in std::mem::take(&mut self.buffers[thread]) {
            self.memory[word] = value;
        }
    }

    fn is_wrong(&self) -> bool {
        self.owner == Owner::Running && matches!(self.shrinker, Shrinker::Taking(_))
    }

    fn step_owner(&self, barrier: Barrier) -> Option<Self> {
        let mut next = self.clone();
        match self.owner {
            Owner::Parked if self.owner_rounds == ROUNDS => return None,
            Owner::Parked => {
                next.owner_rounds += 1;
                next.store(OWNER, PARKED, 0);
                next.owner = Owner::Stored;
            }
            Owner::Stored => {
                if matches!(barrier, Barrier::Fences | Barrier::OwnerOnly) {
                    next.drain(OWNER);
                }
                next.owner = Owner::Fenced;
            }
            Owner::Fenced if self.load(OWNER, CLAIMED) != 0 => return None, // waits
            Owner::Fenced => next.owner = Owner::Running,
            Owner::Running => {
                next.store(OWNER, PARKED, 1);
                next.owner = Owner::Parked;
            }
        }
        Some(next)
    }

    fn step_shrinker(&self, barrier: Barrier, note: Note) -> Option<Self> {
        let mut next = self.clone();
        match self.shrinker {
            Shrinker::Idle if self.shrinker_rounds == ROUNDS => return None,
            Shrinker::Idle => {
                next.shrinker_rounds += 1;
                next.store(SHRINKER, CLAIMED, 1);
                next.shrinker = Shrinker::Claimed;
            }
            Shrinker::Claimed => {
                if barrier != Barrier::OwnerOnly {
                    next.drain(SHRINKER);
                }
                if barrier == Barrier::Membarrier {
                    next.drain(OWNER);
                }
                next.shrinker = Shrinker::Ordered;
            }
            Shrinker::Ordered => {
                next.shrinker = match self.load(SHRINKER, PARKED) {
                    0 => Shrinker::Noted,
                    parked => Shrinker::Taking(parked),
                };
            }
            Shrinker::Taking(seen) => {
                match note {
                    Note::Exchange => {
                        next.drain(SHRINKER);
                        if next.memory[PARKED] == seen {
                            next.memory[PARKED] = GONE;
                        }
                    }
                    Note::Store => next.store(SHRINKER, PARKED, GONE),
                }
                next.shrinker = Shrinker::Noted;
            }
            Shrinker::Noted => {
                next.store(SHRINKER, CLAIMED, 0);
                next.shrinker = Shrinker::Idle;
            }
        }
        Some(next)
    }

    /// The store that has waited longest becomes visible.
    fn step_buffer(&self, thread: usize) -> Option<Self> {
        let &(word, value) = self.buffers[thread].first()?;
        let mut next = self.clone();
        next.buffers[thread].remove(0);
        next.memory[word] = value;
        Some(next)
    }
}

/// The number of states, or a wrong one.
fn explore(barrier: Barrier, note: Note) -> Result<usize, State> {
    reach(State::start(), |state| {
        if state.is_wrong() {
            return Err(state.clone());
        }
        let steps = [
            state.step_owner(barrier),
            state.step_shrinker(barrier, note),
            state.step_buffer(OWNER),
            state.step_buffer(SHRINKER),
        ];
        let stuck = steps.iter().all(Option::is_none);
        let done = state.owner_rounds == ROUNDS && state.shrinker_rounds == ROUNDS;
        assert!(
            !stuck || done && state.owner == Owner::Parked,
            "somebody waits for ever: {state:?}"
        );
        Ok(steps.into_iter().flatten().collect())
    })
}

#[test]
fn nobody_runs_where_pages_are_taken() {
    for barrier in [Barrier::Membarrier, Barrier::Fences] {
        let states = explore(barrier, Note::Exchange).unwrap_or_else(|state| panic!("{barrier:?}: {state:?}"));
        assert!(states > 100);
        println!("{barrier:?}: {states} states");
    }
}

#[test]
fn a_fence_on_one_side_alone_is_wrong() {
    assert!(explore(Barrier::ShrinkerOnly, Note::Exchange).is_err());
    assert!(explore(Barrier::OwnerOnly, Note::Exchange).is_err());
}

#[test]
fn a_note_that_overwrites_is_wrong() {
    assert!(explore(Barrier::Membarrier, Note::Store).is_err());
    assert!(explore(Barrier::Fences, Note::Store).is_err());
}
