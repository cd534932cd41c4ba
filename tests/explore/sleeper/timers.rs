//! The model of timers: whoever inserts one, and the keeper, the one sleeper that sleeps only until the earliest.
//!
//! Times are urgencies, so that none is 0 and two bits suffice: 0 never, 1 late, 2 early. In `keeper_until`, 3 says that
//! there is no keeper, so that no timer is more urgent.
//!
//! | thread | begins | may then |
//! |---|---|---|
//! | M0 | runs a goroutine on P0 | insert timers, late ones and early ones, and then compute for ever |
//! | M1, M2 | find nothing | sleep, one of them as the keeper, be woken or sleep their time out, run what they find for ever or to its end |
//! | outside | is a plain thread, or an M that goes round | push work and wake an M, fire all timers that there are |

use crate::{
    machine::{State, Step, Thread},
    protocol::{Steps, Violation, write},
    words::{DUE, GLOBAL, KEEPER, OUTSIDE, Pc, UNTIL, listed, lock, note},
};

/// What a faulty protocol does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The keeper issues no barrier.
    NoBarrier,
    /// It says so without the lock, so that one that was dismissed meanwhile speaks for its successor.
    SaysWithoutLock,
    /// In fence mode, who inserts a timer has no fence.
    NoPusherFence,
    /// A sleeper whose time is out does not look whether somebody has taken it off the list.
    NoLeave,
}

/// The model, or a faulty one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    pub(crate) fence_mode: bool,
    /// Timers that M0 inserts, and rounds of the plain thread.
    pub(crate) inserts: u8,
    pub(crate) rounds: u8,
    /// Whether each sleeper may sleep its time out, once.
    pub(crate) time_out: bool,
    /// Whether the keeper looks at the timers again after it has said until when it sleeps.
    pub(crate) second_look: bool,
    pub(crate) fault: Option<Fault>,
}

/// `keeper_until`: there is no keeper.
const NOBODY: u8 = 3;

/// In `other` of M1 and M2: this one went to sleep as the keeper.
const KEEPS: u8 = 1;
/// In `other` of M1 and M2: it may sleep its time out.
const MAY_TIME_OUT: u8 = 2;
/// In `other` of M1 and M2, shifted: the timer that it saw last.
const SEEN: u8 = 2;

impl Timers {
    /// `p` is: of M0 and the plain thread, 1 + the M at hand, or the timer at hand; of a sleeper, until when it sleeps.
    /// `other` is, of M0 and the plain thread, what they have left to do.
    pub(crate) fn start(&self) -> State {
        let thread = |pc, other| Thread::new(pc, 0, other);
        let may_time_out = if self.time_out { MAY_TIME_OUT } else { 0 };
        let sleeper = thread(Pc::SleepLock, may_time_out);
        let mut state = State {
            memory: 0,
            threads: [
                thread(Pc::Insert, self.inserts),
                sleeper,
                sleeper,
                thread(Pc::Outside, self.rounds),
            ],
        };
        state.write(UNTIL, NOBODY);
        state.write(DUE, 2);
        state
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The next steps of thread `t`.
    pub(crate) fn steps(&self, t: usize, s: &State, out: &mut Steps) {
        let Thread { pc, p, other, .. } = s.threads[t];
        let at = s.at(t);
        let still = s.flushed(t);
        let free = still && s.read(lock(0)) == 0;
        let sleeper = t == 1 || t == 2;
        let mut push = |name, step: Step| {
            if step.fits {
                out.push((name, step.state));
            }
        };
        let back = if t == OUTSIDE { Pc::Outside } else { Pc::Insert };
        match pc {
            // M0
            Pc::Insert => {
                push("computes for ever", at.goto(Pc::Done));
                if other > 0 {
                    for (urgency, name) in [(1, "inserts a late timer"), (2, "inserts an early timer")] {
                        let due = s.load(t, DUE).max(urgency);
                        push(name, at.store(DUE, due).p(urgency).other(other - 1).goto(Pc::PushFence));
                    }
                }
            }
            // timer_inserted: pusher_fence; when < keeper_until
            Pc::PushFence if self.fence_mode && !self.is(Fault::NoPusherFence) && !still => {}
            Pc::PushFence => push("pusher's fence, if any", at.goto(Pc::InsertLook)),
            Pc::InsertLook if p > s.load(t, UNTIL) => {
                push("the keeper would sleep longer", at.goto(Pc::KeeperLock));
            }
            Pc::InsertLook => push("the keeper, if any, is up in time", at.goto(back)),
            // wake_keeper
            Pc::KeeperLock if free => push("wake_keeper: lock", at.lock(0).goto(Pc::KeeperPop)),
            Pc::KeeperLock => {}
            Pc::KeeperPop => match s.load(t, KEEPER) {
                0 => push("wake_keeper: no keeper; unlock", at.unlock(0).goto(back)),
                keeper => {
                    let popped = write(at, listed(usize::from(keeper) - 1), 0).p(keeper);
                    push("wake_keeper: off the list", popped.goto(Pc::Dismiss));
                }
            },
            Pc::Dismiss => {
                let m = if sleeper { t as u8 + 1 } else { p };
                let dismissed = if s.load(t, KEEPER) == m {
                    write(at, KEEPER, 0).store(UNTIL, NOBODY)
                } else {
                    at
                };
                let next = if sleeper { Pc::Search } else { Pc::WakeNote };
                push(
                    "dismisses the keeper, if it was; unlock",
                    dismissed.unlock(0).goto(next),
                );
            }
            Pc::WakeNote => {
                let m = usize::from(p) - 1;
                push(["", "wakes M1", "wakes M2"][m], write(at, note(m), 1).p(0).goto(back));
            }
            // The plain thread.
            Pc::Outside => {
                push("stops", at.goto(Pc::Done));
                if other > 0 && still {
                    let pushed = write(at, GLOBAL, s.read(GLOBAL) + 1).other(other - 1);
                    push("pushes to the global queue", pushed.goto(Pc::WakeLock));
                    if s.flushed(0) && s.read(DUE) > 0 {
                        let fired = write(at, DUE, 0).other(other - 1);
                        push("time passes; an M fires the timers", fired);
                    }
                }
            }
            Pc::WakeLock if free => push("wake_one: lock", at.lock(0).goto(Pc::WakePop)),
            Pc::WakeLock => {}
            // pop_m: the keeper only if there is no other
            Pc::WakePop => {
                let mut ms: Vec<usize> = (1..=2).filter(|&m| s.load(t, listed(m)) == 1).collect();
                ms.sort_by_key(|&m| usize::from(s.load(t, KEEPER)) == m + 1);
                match ms.first() {
                    Some(&m) => push(
                        "wake_one: off the list",
                        write(at, listed(m), 0).p(m as u8 + 1).goto(Pc::Dismiss),
                    ),
                    None => push("wake_one: nobody; unlock", at.unlock(0).goto(back)),
                }
            }

            // M1 and M2
            Pc::Search if s.load(t, GLOBAL) == 0 => push("finds nothing", at.p(0).goto(Pc::SleepLock)),
            Pc::Search if still => {
                let popped = write(at, GLOBAL, s.read(GLOBAL) - 1);
                push("finds work", popped.p(0).goto(Pc::Run));
            }
            Pc::Search => {}
            Pc::Run => {
                push("computes for ever", at.goto(Pc::Done));
                push("ends its goroutine", at.goto(Pc::Search));
            }
            Pc::SleepLock if free => push("sleep: lock", at.lock(0).goto(Pc::SleepPublish)),
            Pc::SleepLock => {}
            Pc::SleepPublish => push("sleep: on the list", write(at, listed(t), 1).goto(Pc::SleepKeep)),
            Pc::SleepKeep if s.load(t, KEEPER) == 0 => {
                let keeper = write(at, KEEPER, t as u8 + 1).store(UNTIL, 0).unlock(0);
                push(
                    "sleep: as the keeper; unlock",
                    keeper.other(other | KEEPS).goto(Pc::SleepBarrier),
                );
            }
            Pc::SleepKeep => push(
                "sleep: not as the keeper; unlock",
                at.unlock(0).other(other & !KEEPS).goto(Pc::SleepBarrier),
            ),
            Pc::SleepBarrier if self.is(Fault::NoBarrier) => push("sleep: no barrier", at.goto(Pc::LookDue)),
            Pc::SleepBarrier if still && (self.fence_mode || self.is(Fault::NoPusherFence) || s.flushed(0)) => {
                push("sleep: barrier", at.goto(Pc::LookDue));
            }
            Pc::SleepBarrier => {}
            Pc::LookDue => {
                let seen = if other & KEEPS != 0 { s.load(t, DUE) } else { 0 };
                push(
                    "sleep: looks at the timers",
                    at.other(other & (KEEPS | MAY_TIME_OUT) | seen << SEEN)
                        .goto(Pc::LookWork),
                );
            }
            Pc::LookWork if s.load(t, GLOBAL) > 0 => push("sleep: there is work", at.goto(Pc::LeaveLock)),
            Pc::LookWork if other >> SEEN == p => push("sleep: knows until when", at.goto(Pc::Asleep)),
            Pc::LookWork if self.is(Fault::SaysWithoutLock) => push(
                "sleep: says until when, unlocked",
                at.store(UNTIL, other >> SEEN).p(other >> SEEN).goto(Pc::SleepBarrier),
            ),
            Pc::LookWork => push(
                "sleep: another time than before",
                at.p(other >> SEEN).goto(Pc::KeepLock),
            ),
            // keep_until
            Pc::KeepLock if free => push("keep_until: lock", at.lock(0).goto(Pc::Keep)),
            Pc::KeepLock => {}
            Pc::Keep if usize::from(s.load(t, KEEPER)) == t + 1 => {
                let next = if self.second_look { Pc::SleepBarrier } else { Pc::Asleep };
                push("keep_until: true; unlock", at.store(UNTIL, p).unlock(0).goto(next));
            }
            Pc::Keep => push("keep_until: false; unlock", at.unlock(0).goto(Pc::Asleep)),
            // leave_list
            Pc::LeaveLock if free => push("leave_list: lock", at.lock(0).goto(Pc::Leave)),
            Pc::LeaveLock => {}
            Pc::Leave if s.load(t, listed(t)) == 1 => {
                push("leave_list: true", write(at, listed(t), 0).goto(Pc::Dismiss));
            }
            Pc::Leave => push("leave_list: false; unlock", at.unlock(0).p(0).goto(Pc::Asleep)),
            Pc::Asleep => {
                if s.load(t, note(t)) == 1 {
                    push("is woken", write(at, note(t), 0).p(0).goto(Pc::Search));
                } else if p > 0 && other & MAY_TIME_OUT != 0 {
                    let out = at.other(other & !MAY_TIME_OUT);
                    let next = if self.is(Fault::NoLeave) { Pc::Search } else { Pc::Fire };
                    push("its time is out", out.goto(next));
                }
            }
            // Its time is out: the timers up to then are due, and whoever is awake fires them.
            Pc::Fire if still && s.flushed(0) => {
                let fired = if s.read(DUE) >= p { write(at, DUE, 0) } else { at };
                push("fires what is due", fired.goto(Pc::LeaveLock));
            }
            Pc::Fire | Pc::Done => {}
            _ => unreachable!("{pc:?} in the model of timers"),
        }
    }

    pub(crate) fn wrong_at_the_end(&self, s: &State) -> Option<Violation> {
        let rests = |t: &Thread| matches!(t.pc, Pc::Done | Pc::Asleep);
        if !s.threads.iter().all(rests) || s.read(lock(0)) != 0 {
            return Some(Violation::Stuck);
        }
        let asleep = |m: usize| s.threads[m].pc == Pc::Asleep;
        if (1..=2).any(|m| asleep(m) != (s.read(listed(m)) == 1)) {
            return Some(Violation::LostNote);
        }
        if s.read(GLOBAL) > 0 && (1..=2).any(asleep) {
            return Some(Violation::LostWork);
        }
        // Without a keeper the timers are the sysmon's.
        let keeper = usize::from(s.read(KEEPER)).checked_sub(1)?;
        (s.threads[keeper].p < s.read(DUE)).then_some(Violation::Overslept)
    }
}
