//! The four models under one name, and what can be wrong with a state.

use crate::{
    doze::Doze,
    files::Files,
    machine::{State, Step, Word},
    timers::Timers,
    work::Work,
};

/// A protocol, or a faulty one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Work(Work),
    Timers(Timers),
    Doze(Doze),
    Files(Files),
}

pub(crate) type Steps = Vec<(&'static str, State)>;

impl Protocol {
    pub(crate) fn start(&self) -> State {
        match self {
            Self::Work(model) => model.start(),
            Self::Timers(model) => model.start(),
            Self::Doze(model) => model.start(),
            Self::Files(model) => model.start(),
        }
    }

    /// All that can happen next: a thread does its next step, or the oldest store of a buffer reaches memory.
    pub(crate) fn steps(&self, s: &State, out: &mut Steps) {
        out.clear();
        for t in 0..s.threads.len() {
            if !s.flushed(t) {
                let mut next = *s;
                next.flush(t, 0);
                out.push(("(a store reaches memory)", next));
            }
            match self {
                Self::Work(model) => model.steps(t, s, out),
                Self::Timers(model) => model.steps(t, s, out),
                Self::Doze(model) => model.steps(t, s, out),
                Self::Files(model) => model.steps(t, s, out),
            }
        }
    }

    /// Every claim is about states in which nothing can happen any more.
    pub(crate) fn wrong(&self, _: &State) -> Option<Violation> {
        None
    }

    pub(crate) fn wrong_at_the_end(&self, s: &State) -> Option<Violation> {
        match self {
            Self::Work(model) => model.wrong_at_the_end(s),
            Self::Timers(model) => model.wrong_at_the_end(s),
            Self::Doze(model) => model.wrong_at_the_end(s),
            Self::Files(model) => model.wrong_at_the_end(s),
        }
    }
}

/// What the search found wrong, in a state in which nothing can happen any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A thread waits for ever where it must not.
    Stuck,
    /// A goroutine is in a queue, a P is idle, and an M sleeps.
    LostWork,
    /// An M sleeps and is on no list, so that nobody will wake it.
    LostNote,
    /// An M counts as spinning that does not spin.
    Leak,
    /// The keeper sleeps longer than until the earliest timer.
    Overslept,
    /// The sysmon sleeps without a time limit, and something is to be done.
    LostAlert,
    /// Who waits for a file sleeps, and the file is ready.
    LostFile,
}

/// Writes to memory at once. For a read-modify-write, which waits until all stores of the thread are in memory; for a word
/// that is read and written under the lock only, where the unlock that follows is buffered; and for a note, which one
/// thread waits for and may be slow to notice.
pub(crate) fn write(mut step: Step, word: Word, value: u8) -> Step {
    assert!(value <= 3, "words have two bits");
    step.state.write(word, value);
    step
}
