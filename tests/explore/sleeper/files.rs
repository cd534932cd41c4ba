//! The model of files: who waits for one is woken when it becomes ready, whoever happens to look, and an M that sleeps in the epoll
//! instance hears of it when it is woken for something else.
//!
//! | thread | begins | does |
//! |---|---|---|
//! | M0 | stands for the sysmon's thread | sleeps without a time limit if all Ps are idle and no file needs it; looks and recruits |
//! | M1 | runs a goroutine | pushes work and wakes an M, blocks or computes for ever, or goes on |
//! | M2 | finds nothing | sleeps, as the poller or not; what it is woken for it runs as M1 does |
//! | outside | is a plain thread | has tried the file, and waits for it; the file becomes ready at any time, once |
//!
//! There are no store buffers here: what the protocol reads without a lock is written by locked instructions and system calls.

use crate::{
    machine::{State, Step, Thread, Word},
    protocol::{Steps, Violation, write},
    words::{
        ALARM, DOZES, EVENT, GLOBAL, IDLE_PS, INTERRUPT, OUTSIDE, POLLER, POLLS, Pc, READY, WAITING, listed, lock, note,
    },
};

/// What a faulty protocol does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Who wakes the poller does not interrupt it.
    NoInterrupt,
    /// He does so before he leaves a note.
    InterruptsFirst,
    /// Whoever looks takes interrupts away.
    LookDrains,
    /// Who wakes the poller gives its office to the next M that goes idle.
    WakerFreesOffice,
    /// What becomes ready while nobody waits is forgotten.
    ForgetsEdges,
    /// Who waits does not alert the sysmon.
    NoAlert,
    /// The sysmon sleeps for ever although there is no poller.
    NobodyLooks,
}

/// The model, or a faulty one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files {
    /// Goroutines that M1 and M2 may push, each.
    pub(crate) pushes: u8,
    pub(crate) fault: Option<Fault>,
}

/// The thread that is the sysmon.
const SYSMON: usize = 0;
/// There are as many Ps as Ms.
const PS: u8 = 2;

/// In `other` of M1 and M2, beside the pushes that it has left: it sleeps in the epoll instance, if it does.
const POLLING: u8 = 4;
/// In `p` of who has fetched: the file's event; an interrupt.
const GOT_EVENT: u8 = 1;
const GOT_INTERRUPT: u8 = 2;
/// In `p` of an M: it slept.
const SLEPT: u8 = 4;
/// In `p` of an M that slept: a note woke it.
const WOKEN: u8 = 8;
/// In `other` of the plain thread: the file has become ready.
const IS_READY: u8 = 1;

impl Files {
    pub(crate) fn start(&self) -> State {
        let thread = |pc, other| Thread::new(pc, 0, other);
        let mut state = State {
            memory: 0,
            threads: [
                thread(Pc::Alarm, 0),
                thread(Pc::Run, self.pushes),
                thread(Pc::SleepLock, self.pushes),
                thread(Pc::Outside, 0),
            ],
        };
        state.write(IDLE_PS, 0);
        state
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The next steps of thread `t`.
    pub(crate) fn steps(&self, t: usize, s: &State, out: &mut Steps) {
        let Thread { pc, p, other, .. } = s.threads[t];
        let at = s.at(t);
        let mut push = |name, step: Step| out.push((name, step.state));
        let free = s.read(lock(0)) == 0;
        let unlock = |step: Step| write(step, lock(0), 0);
        let add = |step: Step, word: Word| write(step, word, s.read(word) + 1);
        let sub = |step: Step, word: Word| write(step, word, s.read(word) - 1);
        let needs_look = s.read(WAITING) == 1 && s.read(POLLER) == 0;
        let awakened = if t == SYSMON { Pc::Awake } else { Pc::Run };
        if t == OUTSIDE && other & IS_READY == 0 {
            push("(the file becomes ready)", write(at, EVENT, 1).other(IS_READY));
        }
        match pc {
            // M1 and M2, running a goroutine
            Pc::Run => {
                push("computes for ever", at.goto(Pc::Done));
                push("blocks for ever, its P is idle", add(at, IDLE_PS).goto(Pc::Done));
                push("ends its goroutine", at.goto(Pc::Search));
                if other & !POLLING > 0 {
                    push("pushes", add(at, GLOBAL).other(other - 1).goto(Pc::WakeLock));
                }
            }
            Pc::WakeLock if free => push("wake: lock", at.lock(0).goto(Pc::WakePop)),
            Pc::WakeLock => {}
            // recruit
            Pc::WakePop if t == SYSMON && s.read(POLLER) != 0 => {
                push("recruit: there is a poller; unlock", unlock(at).goto(awakened));
            }
            // pop_m: the poller only if there is no other
            Pc::WakePop => {
                let mut ms: Vec<usize> = (1..=2).filter(|&m| s.read(listed(m)) == 1).collect();
                ms.sort_by_key(|&m| usize::from(s.read(POLLER)) == m + 1);
                match ms.first() {
                    None => push("wake: nobody is asleep; unlock", unlock(at).goto(awakened)),
                    Some(&m) => {
                        let mut popped = write(at, listed(m), 0).p(m as u8);
                        if self.is(Fault::WakerFreesOffice) && usize::from(s.read(POLLER)) == m + 1 {
                            popped = write(popped, POLLER, 0);
                        }
                        let next = if self.is(Fault::InterruptsFirst) {
                            Pc::Interrupt
                        } else {
                            Pc::WakeNote
                        };
                        push("wake: off the list; unlock", unlock(popped).goto(next));
                    }
                }
            }
            Pc::WakeNote => {
                let next = if self.is(Fault::InterruptsFirst) {
                    awakened
                } else {
                    Pc::Interrupt
                };
                push("wake: leaves a note", write(at, note(p.into()), 1).goto(next));
            }
            Pc::Interrupt => {
                let next = if self.is(Fault::InterruptsFirst) {
                    Pc::WakeNote
                } else {
                    awakened
                };
                if s.read(POLLS) & p != 0 && !self.is(Fault::NoInterrupt) {
                    push("wake: interrupts the poller", write(at, INTERRUPT, 1).goto(next));
                } else {
                    push("wake: it does not poll", at.goto(next));
                }
            }

            // M1 and M2, looking for work, with a P
            Pc::Search if s.read(GLOBAL) > 0 => push("finds work", sub(at, GLOBAL).goto(Pc::Run)),
            Pc::Search => push("finds no work", at.goto(Pc::Look)),
            Pc::Look if needs_look => push("is to look at the files", at.goto(Pc::LookFetch)),
            Pc::Look => push("has no reason to look at files", at.goto(Pc::SleepLock)),
            Pc::LookFetch => {
                let next = match (s.read(EVENT), t) {
                    (1, _) => Pc::Dispatch,
                    (_, SYSMON) => Pc::Recruit,
                    _ => Pc::SleepLock,
                };
                let mut looked = write(at, EVENT, 0).p(s.read(EVENT)).goto(next);
                if self.is(Fault::LookDrains) {
                    looked = write(looked, INTERRUPT, 0);
                }
                push("looks at the files", looked);
            }
            // under the watch's lock
            Pc::Dispatch => {
                let next = match t {
                    SYSMON => Pc::Recruit,
                    _ if p & SLEPT != 0 => Pc::Acquire,
                    _ => Pc::Search,
                };
                let kept = if self.is(Fault::ForgetsEdges) { 0 } else { 1 };
                let told = write(write(at, READY, kept), WAITING, 0);
                push("tells who waits for the file", told.p(0).goto(next));
            }

            // M1 and M2, going to sleep
            Pc::SleepLock if free => push("sleep: lock", at.lock(0).goto(Pc::SleepPublish)),
            Pc::SleepLock => {}
            Pc::SleepPublish => {
                let listed = add(write(at, listed(t), 1), IDLE_PS);
                let (polls, bit) = (s.read(POLLS), t as u8);
                let step = if s.read(POLLER) == 0 {
                    write(write(listed, POLLER, t as u8 + 1), POLLS, polls | bit).other(other | POLLING)
                } else {
                    write(listed, POLLS, polls & !bit).other(other & !POLLING)
                };
                push(
                    "sleep: on the list, as the poller if there is none; unlock",
                    unlock(step).p(0).goto(Pc::SleepLookGlobal),
                );
            }
            Pc::SleepLookGlobal if s.read(GLOBAL) > 0 => push("sleep: there is work", at.goto(Pc::LeaveLock)),
            Pc::SleepLookGlobal => push("sleep: there is no work", at.goto(Pc::Asleep)),
            // epoll_wait
            Pc::Asleep if other & POLLING != 0 && (1..=2).contains(&t) => {
                if s.read(EVENT) + s.read(INTERRUPT) > 0 {
                    let got = s.read(EVENT) * GOT_EVENT + s.read(INTERRUPT) * GOT_INTERRUPT;
                    push("the poller gets up", write(at, EVENT, 0).p(got).goto(Pc::Fetched));
                }
            }
            Pc::Fetched if p & GOT_INTERRUPT != 0 => {
                push("takes the interrupt", write(at, INTERRUPT, 0).p(p & !GOT_INTERRUPT));
            }
            Pc::Fetched if s.read(note(t)) == 1 => {
                let woken = write(at, note(t), 0).p(p | SLEPT | WOKEN);
                push("finds a note", woken.goto(Pc::LeaveOffice));
            }
            Pc::Fetched if p & GOT_EVENT != 0 => push("finds an event", at.p(p | SLEPT).goto(Pc::LeaveOffice)),
            Pc::Fetched => push("finds nothing", at.goto(Pc::Asleep)),
            Pc::LeaveOffice => {
                let next = match p {
                    _ if p & WOKEN == 0 => Pc::LeaveLock,
                    _ if p & GOT_EVENT != 0 => Pc::Dispatch,
                    _ => Pc::Acquire,
                };
                // (It may be another's by now where the waker has freed it.)
                let left = if usize::from(s.read(POLLER)) == t + 1 {
                    write(at, POLLER, 0)
                } else {
                    at
                };
                push("leaves its office", left.other(other & !POLLING).goto(next));
            }
            // leave_list
            Pc::LeaveLock if free => push("leave_list: lock", at.lock(0).goto(Pc::Leave)),
            Pc::LeaveLock => {}
            Pc::Leave if s.read(listed(t)) == 1 => {
                let next = match p {
                    _ if p & SLEPT == 0 && other & POLLING != 0 => Pc::LeaveOffice,
                    _ if p & GOT_EVENT != 0 => Pc::Dispatch,
                    _ => Pc::Acquire,
                };
                let woken = if next == Pc::LeaveOffice { SLEPT | WOKEN } else { p };
                let left = unlock(write(at, listed(t), 0));
                push("leave_list: true; unlock", left.p(woken).goto(next));
            }
            Pc::Leave => push("leave_list: false; unlock", unlock(at).goto(Pc::Asleep)),
            // acquire_p
            Pc::Acquire => push("acquires a P", sub(at, IDLE_PS).goto(Pc::AlertLook)),

            // alert: of an M with a P, and of the plain thread
            Pc::AlertLook => {
                let rests = if t == OUTSIDE { Pc::Asleep } else { Pc::Search };
                match s.read(DOZES) {
                    1 if t != OUTSIDE || !self.is(Fault::NoAlert) => push("alert: it dozes", at.goto(Pc::AlertSwap)),
                    _ => push("alert: it is awake", at.goto(rests)),
                }
            }
            Pc::AlertSwap => {
                let rests = if t == OUTSIDE { Pc::Asleep } else { Pc::Search };
                match s.read(DOZES) {
                    0 => push("alert: another was faster", at.goto(rests)),
                    _ => push("alert: dozes = 0", write(at, DOZES, 0).goto(Pc::AlertBump)),
                }
            }
            Pc::AlertBump => {
                let rests = if t == OUTSIDE { Pc::Asleep } else { Pc::Search };
                push("alarm += 1", write(at, ALARM, (s.read(ALARM) + 1) % 4).goto(rests));
            }

            // The plain thread.
            Pc::Outside if s.read(READY) == 1 => push("was ready since: no wait", write(at, READY, 0).goto(Pc::Done)),
            Pc::Outside => push("waits for the file", write(at, WAITING, 1).goto(Pc::AlertLook)),

            // The sysmon.
            Pc::Alarm => push("reads the alarm", at.p(s.read(ALARM)).goto(Pc::Doze)),
            Pc::Doze => push("dozes = 1", write(at, DOZES, 1).goto(Pc::LookWork)),
            Pc::LookWork if s.read(GLOBAL) > 0 => push("work waits: short sleeps", write(at, DOZES, 0).goto(Pc::Awake)),
            Pc::LookWork => push("no work", at.goto(Pc::LookIdle)),
            Pc::LookIdle if s.read(IDLE_PS) < PS => push("a P is busy: short sleeps", at.goto(Pc::Awake)),
            Pc::LookIdle => push("all Ps are idle", at.goto(Pc::LookWaiting)),
            Pc::LookWaiting if s.read(WAITING) == 0 => push("nobody waits for a file", at.goto(Pc::Asleep)),
            Pc::LookWaiting => push("somebody waits for a file", at.goto(Pc::LookPoller)),
            Pc::LookPoller if s.read(POLLER) == 0 && !self.is(Fault::NobodyLooks) => {
                push("there is no poller: short sleeps", at.goto(Pc::Awake));
            }
            Pc::LookPoller => push("there is a poller", at.goto(Pc::Asleep)),
            // A round, if that would do anything; and a longer sleep, if it would come to that.
            Pc::Awake if needs_look && s.read(EVENT) + s.read(listed(1)) + s.read(listed(2)) > 0 => {
                push("a round: looks at the files", at.goto(Pc::LookFetch));
            }
            Pc::Awake if !needs_look && s.read(GLOBAL) == 0 && s.read(IDLE_PS) == PS => {
                push("a round: nothing", at.goto(Pc::Alarm));
            }
            Pc::Recruit => push("recruits", at.goto(Pc::WakeLock)),
            Pc::Asleep if t == SYSMON => {
                if s.read(ALARM) != p {
                    push("is woken: dozes = 0", write(at, DOZES, 0).goto(Pc::Awake));
                }
            }
            // The plain thread is told by who claims it; an M sleeps on its note.
            Pc::Asleep if t == OUTSIDE => {
                if s.read(WAITING) == 0 {
                    push("is told", at.goto(Pc::Done));
                }
            }
            Pc::Asleep => {
                if s.read(note(t)) == 1 {
                    let next = if p & GOT_EVENT != 0 { Pc::Dispatch } else { Pc::Acquire };
                    push("is woken", write(at, note(t), 0).p(p | SLEPT).goto(next));
                }
            }
            Pc::Awake | Pc::Done => {}
            _ => unreachable!("{pc:?} in the model of files"),
        }
    }

    pub(crate) fn wrong_at_the_end(&self, s: &State) -> Option<Violation> {
        let rests = |t: &Thread| matches!(t.pc, Pc::Done | Pc::Asleep | Pc::Awake);
        if !s.threads.iter().all(rests) || s.read(lock(0)) != 0 {
            return Some(Violation::Stuck);
        }
        let asleep = |t: usize| s.threads[t].pc == Pc::Asleep;
        if (1..=2).any(|m| asleep(m) != (s.read(listed(m)) == 1)) {
            return Some(Violation::LostNote);
        }
        if s.read(GLOBAL) > 0 && (1..=2).any(asleep) {
            return Some(Violation::LostWork);
        }
        (asleep(OUTSIDE) && s.threads[OUTSIDE].other & IS_READY != 0).then_some(Violation::LostFile)
    }
}
