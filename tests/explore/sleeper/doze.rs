//! The model of the sysmon's long sleep: who makes something for it to do must wake it.
//!
//! | thread | begins | does |
//! |---|---|---|
//! | M0 | runs a goroutine | pushes to its ring, with a plain store; alert |
//! | M1 | has no P, all Ps are idle | acquires a P; alert |
//! | M2 | stands for the sysmon's thread | sleeps without a time limit if all Ps are idle and nothing waits |
//! | outside | is a waker that found no idle M | asks for one: `request_m` |

use crate::{
    machine::{State, Step, Thread},
    protocol::{Steps, Violation},
    words::{ALARM, DOZES, IDLE_PS, OUTSIDE, Pc, RING, WANTED},
};

/// What a faulty protocol does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The sysmon issues no barrier.
    NoBarrier,
    /// It looks first and says then that it dozes.
    LookFirst,
    /// It reads the alarm just before it sleeps, and not before it looks.
    LateAlarm,
    /// In fence mode, the pusher has no fence.
    NoPusherFence,
}

/// The model, or a faulty one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doze {
    pub(crate) fence_mode: bool,
    pub(crate) fault: Option<Fault>,
}

/// The thread that is the sysmon.
const SYSMON: usize = 2;

impl Doze {
    pub(crate) fn start(&self) -> State {
        let thread = |pc| Thread::new(pc, 0, 0);
        let first = if self.is(Fault::LateAlarm) {
            Pc::LookWanted
        } else {
            Pc::Alarm
        };
        let mut state = State {
            memory: 0,
            threads: [thread(Pc::Run), thread(Pc::Acquire), thread(first), thread(Pc::Request)],
        };
        state.write(IDLE_PS, 1);
        state
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The next steps of thread `t`. `p` of the sysmon is the alarm that it knows.
    pub(crate) fn steps(&self, t: usize, s: &State, out: &mut Steps) {
        let Thread { pc, p, .. } = s.threads[t];
        let at = s.at(t);
        let still = s.flushed(t);
        let mut push = |name, step: Step| {
            if step.fits {
                out.push((name, step.state));
            }
        };
        let rmw = |word, value, next| {
            let mut step = at.goto(next);
            step.state.write(word, value);
            step
        };
        match pc {
            Pc::Run => push("pushes to its ring", at.store(RING, 1).goto(Pc::PushFence)),
            Pc::Acquire => push("acquires a P", at.store(IDLE_PS, 0).goto(Pc::PushFence)),
            Pc::PushFence if self.fence_mode && !self.is(Fault::NoPusherFence) && !still => {}
            Pc::PushFence => push("pusher's fence, if any", at.goto(Pc::AlertLook)),
            // alert, wake
            Pc::AlertLook if s.load(t, DOZES) == 0 => push("alert: it is awake", at.goto(Pc::Done)),
            Pc::AlertLook => push("alert: it dozes", at.goto(Pc::AlertSwap)),
            Pc::AlertSwap if !still => {}
            Pc::AlertSwap if s.read(DOZES) == 0 => push("alert: another was faster", at.goto(Pc::Done)),
            Pc::AlertSwap => push("alert: dozes = 0", rmw(DOZES, 0, Pc::AlertBump)),
            Pc::AlertBump if still => push("alarm += 1", rmw(ALARM, s.read(ALARM) + 1, Pc::Done)),
            Pc::AlertBump => {}
            Pc::Request if still => push("request_m: wanted = 1", rmw(WANTED, 1, Pc::AlertBump)),
            Pc::Request => {}

            // The sysmon.
            Pc::Alarm if self.is(Fault::LateAlarm) => push("reads the alarm", at.p(s.load(t, ALARM)).goto(Pc::Asleep)),
            Pc::Alarm => push("reads the alarm", at.p(s.load(t, ALARM)).goto(Pc::LookWanted)),
            // make_ms
            Pc::LookWanted if s.load(t, WANTED) == 0 => {
                let next = if self.is(Fault::LookFirst) {
                    Pc::SleepBarrier
                } else {
                    Pc::Doze
                };
                push("nobody wants an M", at.goto(next));
            }
            Pc::LookWanted if still => push("makes an M", rmw(WANTED, 0, Pc::Alarm)),
            Pc::LookWanted => {}
            Pc::Doze if still => {
                let next = if self.is(Fault::LookFirst) {
                    Pc::Asleep
                } else {
                    Pc::SleepBarrier
                };
                push("dozes = 1", rmw(DOZES, 1, next));
            }
            Pc::Doze => {}
            Pc::SleepBarrier if self.is(Fault::NoBarrier) => push("no barrier", at.goto(Pc::SleepLookRing)),
            Pc::SleepBarrier
                if still && (self.fence_mode || self.is(Fault::NoPusherFence) || s.flushed(0) && s.flushed(1)) =>
            {
                push("barrier", at.goto(Pc::SleepLookRing));
            }
            Pc::SleepBarrier => {}
            Pc::SleepLookRing if s.load(t, RING) > 0 => push("work waits: short sleeps", at.goto(Pc::Awake)),
            Pc::SleepLookRing => push("no work", at.goto(Pc::LookIdle)),
            Pc::LookIdle if s.load(t, IDLE_PS) == 0 => push("a P is busy: short sleeps", at.goto(Pc::Awake)),
            Pc::LookIdle => {
                let next = match self.fault {
                    Some(Fault::LookFirst) => Pc::Doze,
                    Some(Fault::LateAlarm) => Pc::Alarm,
                    _ => Pc::Asleep,
                };
                push("all Ps are idle", at.goto(next));
            }
            // It goes on looking; it may make an M that is wanted.
            Pc::Awake if still && s.read(WANTED) > 0 => push("makes an M", rmw(WANTED, 0, Pc::Awake).other(1)),
            Pc::Awake => {}
            // futex: sleeps only if the alarm is as it was, and is woken after it was changed
            Pc::Asleep if s.load(t, ALARM) != p => {
                push("is woken: dozes = 0", at.store(DOZES, 0).goto(Pc::Alarm));
            }
            Pc::Asleep | Pc::Done => {}
            _ => unreachable!("{pc:?} in the model of the sysmon's sleep"),
        }
    }

    pub(crate) fn wrong_at_the_end(&self, s: &State) -> Option<Violation> {
        let done = |t: usize| s.threads[t].pc == Pc::Done;
        let sysmon = s.threads[SYSMON].pc;
        if ![0, 1, OUTSIDE].into_iter().all(done) || !matches!(sysmon, Pc::Asleep | Pc::Awake) {
            return Some(Violation::Stuck);
        }
        let something = s.read(RING) > 0 || s.read(IDLE_PS) == 0 || s.read(WANTED) > 0;
        (sysmon == Pc::Asleep && something).then_some(Violation::LostAlert)
    }
}
