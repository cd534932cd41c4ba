//! The model of work: pushers, spinners, sleepers, and those who wake them.
//!
//! | thread | begins | may then |
//! |---|---|---|
//! | M0 | runs a goroutine on P0 | push to its ring, take a batch from the global queue to its ring, shed half of its ring to the global queue, and then compute for ever |
//! | M1, M2 | have P1, P2 and find nothing | sleep, be woken, look, steal from P0, run what they find for ever or to its end |
//! | outside | is a plain thread | push to the global queue |
//!
//! An M that computes for ever is the worst case: its ring is left to others. A take through the latch waits until the
//! stores of the victim have reached memory, which the taker's barrier brings about.

use crate::{
    machine::{State, Step, Thread},
    protocol::{Steps, Violation, write},
    words::{GLOBAL, IDLE_PS, OUTSIDE, Pc, RING, SPINNING, listed, lock, note},
};

/// What a faulty protocol does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Sleepers issue no barrier.
    NoBarrier,
    /// Sleepers look at the queues first and then publish that they are idle.
    LookFirst,
    /// A sleeper counts as spinning until it has looked.
    LateDecrement,
    /// The last spinner that finds work wakes nobody.
    LastWakesNobody,
    /// The last spinner that finds work looks for more without a barrier.
    LastHasNoBarrier,
    /// In fence mode, the pusher has no fence.
    NoPusherFence,
    /// A waker that finds no M gives up its place as the spinner only after it has let go of the lock.
    LateGiveUp,
    /// An M that moves a batch from the global queue to its own ring wakes nobody.
    BatchWakesNobody,
    /// An M that sheds half of its ring to the global queue wakes nobody.
    ShedWakesNobody,
}

/// The model, or a faulty one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) fence_mode: bool,
    /// Pushes by M0, and by the plain thread: at most 3 in all.
    pub(crate) pushes: [u8; 2],
    /// Whether M0 may shed.
    pub(crate) sheds: bool,
    pub(crate) fault: Option<Fault>,
}

/// In `other`: this M counts as spinning.
const SPINS: u8 = 1;
/// In `other`: how many pushes are left.
const PUSHES: Bits = Bits(1);
/// In `other`: goroutines in hand, or 1 + the M that is being woken.
const HAND: Bits = Bits(3);

/// Two bits of `other`.
#[derive(Clone, Copy)]
struct Bits(u8);

impl Bits {
    fn of(self, other: u8) -> u8 {
        other >> self.0 & 3
    }
    fn set(self, other: u8, value: u8) -> u8 {
        other & !(3 << self.0) | value << self.0
    }
}

impl Work {
    pub(crate) fn start(&self) -> State {
        let thread = Thread::new;
        State {
            memory: 0,
            threads: [
                thread(Pc::Run, 1, PUSHES.set(0, self.pushes[0])),
                thread(Pc::SleepLock, 1, 0),
                thread(Pc::SleepLock, 1, 0),
                thread(Pc::Outside, 0, PUSHES.set(0, self.pushes[1])),
            ],
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether a barrier of thread `t` can be over. A membarrier has emptied the buffer of every thread; M0's is the one
    /// that matters, for nobody else pushes without a fence.
    fn barrier(&self, t: usize, s: &State) -> bool {
        s.flushed(t) && (self.fence_mode || self.is(Fault::NoPusherFence) || s.flushed(0))
    }

    /// The next steps of thread `t`.
    pub(crate) fn steps(&self, t: usize, s: &State, out: &mut Steps) {
        let Thread { pc, p, other, .. } = s.threads[t];
        let at = s.at(t);
        let still = s.flushed(t);
        let free = still && s.read(lock(0)) == 0;
        let mut push = |name, step: Step| {
            if step.fits {
                out.push((name, step.state));
            }
        };
        // Where a thread that has made its work known goes on.
        let back = if t == OUTSIDE { Pc::Outside } else { Pc::Run };
        let to_sleep = if self.is(Fault::LookFirst) {
            Pc::SleepBarrier
        } else {
            Pc::SleepLock
        };
        match pc {
            // A goroutine on this M.
            Pc::Run => {
                push("computes for ever", at.goto(Pc::Done));
                if t != 0 {
                    push("ends its goroutine", at.goto(Pc::Search));
                }
                let left = PUSHES.of(other);
                if left > 0 {
                    let pushed = at.store(RING, s.load(t, RING) + 1).other(PUSHES.set(other, left - 1));
                    push("pushes to its ring", pushed.goto(Pc::PushFence));
                }
                // take_global, every 61st turn; it has looked at its ring, and it does not spin.
                if t == 0 && still && s.read(GLOBAL) > 0 {
                    let batch = write(at, GLOBAL, 0).other(HAND.set(other, s.read(GLOBAL)));
                    push("takes a batch", batch.goto(Pc::PushBatch));
                }
                // shed: whether it was asked is a hint, so it may happen at any time.
                if t == 0 && self.sheds && s.load(t, RING) > 0 {
                    let half = s.load(t, RING).div_ceil(2);
                    let shed = at.store(RING, s.load(t, RING) - half).other(HAND.set(other, half));
                    push("takes half of its ring to shed it", shed.goto(Pc::Shed));
                }
            }
            Pc::Shed if !still => {}
            Pc::Shed => {
                let pushed = write(at, GLOBAL, s.read(GLOBAL) + HAND.of(other)).other(HAND.set(other, 0));
                let next = if self.is(Fault::ShedWakesNobody) {
                    Pc::Run
                } else {
                    Pc::PushIdle
                };
                push("pushes what it sheds to the global queue", pushed.goto(next));
            }
            Pc::PushBatch => {
                let pushed = at
                    .store(RING, s.load(t, RING) + HAND.of(other))
                    .other(HAND.set(other, 0));
                let next = if self.is(Fault::BatchWakesNobody) {
                    Pc::Run
                } else {
                    Pc::PushFence
                };
                push("pushes the batch to its ring", pushed.goto(next));
            }
            Pc::Outside if PUSHES.of(other) == 0 => push("stops", at.goto(Pc::Done)),
            // put_global_batch: a shared queue, and a fence
            Pc::Outside if still => {
                let pushed = write(at, GLOBAL, s.read(GLOBAL) + 1).other(PUSHES.set(other, PUSHES.of(other) - 1));
                push("pushes to the global queue", pushed.goto(Pc::PushIdle));
            }
            Pc::Outside => {}
            // pusher_fence
            Pc::PushFence if self.fence_mode && !self.is(Fault::NoPusherFence) && !still => {}
            Pc::PushFence => push("pusher's fence, if any", at.goto(Pc::PushIdle)),
            // pushed: idle_ps != 0 && spinning == 0
            Pc::PushIdle if s.load(t, IDLE_PS) == 0 => push("pushed: no idle P", at.goto(back)),
            Pc::PushIdle => push("pushed: an idle P", at.goto(Pc::PushSpinning)),
            Pc::PushSpinning if s.load(t, SPINNING) == 0 => push("pushed: nobody spins", at.goto(Pc::WakeCas)),
            Pc::PushSpinning => push("pushed: somebody spins", at.goto(back)),
            // wake_one
            Pc::WakeCas if !still => {}
            Pc::WakeCas if s.read(SPINNING) == 0 => {
                push("wake_one: spinning = 1", write(at, SPINNING, 1).goto(Pc::WakeLock));
            }
            Pc::WakeCas => push("wake_one: somebody spins", at.goto(back)),
            Pc::WakeLock if free => push("wake_one: lock", at.lock(0).goto(Pc::WakePop)),
            Pc::WakeLock => {}
            Pc::WakePop => {
                let ms = (1..OUTSIDE).filter(|&m| s.load(t, listed(m)) == 1);
                let ms: Vec<usize> = ms.filter(|_| s.load(t, IDLE_PS) > 0).collect();
                for &m in &ms {
                    let popped = write(at, listed(m), 0).unlock(0).other(HAND.set(other, m as u8 + 1));
                    push("wake_one: pop an M; unlock", popped.goto(Pc::WakeNote));
                }
                if ms.is_empty() && self.is(Fault::LateGiveUp) {
                    push("wake_one: nobody; unlock", at.unlock(0).goto(Pc::WakeGiveUp));
                } else if ms.is_empty() && still {
                    let none = write(at, SPINNING, s.read(SPINNING) - 1).unlock(0);
                    push("wake_one: nobody; spinning -= 1; unlock", none.goto(back));
                }
            }
            Pc::WakeGiveUp if still => {
                let none = write(at, SPINNING, s.read(SPINNING) - 1);
                push("wake_one: spinning -= 1", none.goto(back));
            }
            Pc::WakeGiveUp => {}
            Pc::WakeNote => {
                let m = usize::from(HAND.of(other)) - 1;
                let woken = write(at, note(m), 1).other(HAND.set(other, 0));
                push(["", "wakes M1", "wakes M2"][m], woken.goto(back));
            }

            // find, with a P: the own ring is empty
            Pc::Search if s.load(t, GLOBAL) == 0 => push("the global queue is empty", at.goto(Pc::StartSpinning)),
            Pc::Search if still => {
                push(
                    "pops from the global queue",
                    write(at, GLOBAL, s.read(GLOBAL) - 1).goto(Pc::Found),
                );
            }
            Pc::Search => {}
            // steal: spinning Ms are bounded by half the busy Ps, here by one, not counting those that were woken
            Pc::StartSpinning if other & SPINS != 0 => push("spins already", at.goto(Pc::SearchRing)),
            Pc::StartSpinning => {
                push("too many spin", at.goto(to_sleep));
                if still && s.read(SPINNING) == 0 {
                    let spins = write(at, SPINNING, s.read(SPINNING) + 1).other(other | SPINS);
                    push("spinning += 1", spins.goto(Pc::SearchRing));
                }
            }
            Pc::SearchRing if s.load(t, RING) == 0 => push("nothing to steal", at.goto(to_sleep)),
            Pc::SearchRing => push("something to steal", at.goto(Pc::Steal)),
            Pc::Steal if !(still && s.flushed(0)) => {}
            Pc::Steal if s.read(RING) == 0 => push("stolen by another", at.goto(to_sleep)),
            Pc::Steal => push("steals", write(at, RING, s.read(RING) - 1).goto(Pc::Found)),
            // found, stop_spinning
            Pc::Found if other & SPINS == 0 => push("runs it", at.goto(Pc::Run)),
            Pc::Found if still => {
                let last = s.read(SPINNING) == 1 && !self.is(Fault::LastWakesNobody);
                let stopped = write(at, SPINNING, s.read(SPINNING) - 1).other(other & !SPINS);
                push(
                    "stops spinning",
                    stopped.goto(if last { Pc::StopIdle } else { Pc::Run }),
                );
            }
            Pc::Found => {}
            Pc::StopIdle if s.load(t, IDLE_PS) == 0 => push("was the last; no idle P", at.goto(Pc::Run)),
            Pc::StopIdle => push("was the last; an idle P", at.goto(Pc::StopBarrier)),
            Pc::StopBarrier if self.barrier(t, s) || self.is(Fault::LastHasNoBarrier) => {
                push("barrier of the last spinner", at.goto(Pc::StopLookGlobal));
            }
            Pc::StopBarrier => {}
            Pc::StopLookGlobal if s.load(t, GLOBAL) > 0 => push("more in the global queue", at.goto(Pc::WakeCas)),
            Pc::StopLookGlobal => push("no more in the global queue", at.goto(Pc::StopLookRing)),
            Pc::StopLookRing if s.load(t, RING) > 0 => push("more in a ring", at.goto(Pc::WakeCas)),
            Pc::StopLookRing => push("no more in a ring", at.goto(Pc::Run)),

            // sleep
            Pc::SleepLock if free => push("sleep: lock", at.lock(0).goto(Pc::SleepPublish)),
            Pc::SleepLock => {}
            Pc::SleepPublish => {
                let published = write(at, listed(t), 1).store(IDLE_PS, s.load(t, IDLE_PS) + p);
                let next = match self.fault {
                    Some(Fault::LateDecrement) => Pc::SleepBarrier,
                    _ => Pc::SleepDecrement,
                };
                push("sleep: publish; unlock", published.unlock(0).p(0).goto(next));
            }
            Pc::SleepDecrement => {
                let late = self.is(Fault::LateDecrement) || self.is(Fault::LookFirst);
                let next = if late { Pc::Asleep } else { Pc::SleepBarrier };
                if other & SPINS == 0 {
                    push("sleep: did not spin", at.goto(next));
                } else if still {
                    let stopped = write(at, SPINNING, s.read(SPINNING) - 1).other(other & !SPINS);
                    push("sleep: spinning -= 1", stopped.goto(next));
                }
            }
            Pc::SleepBarrier if self.barrier(t, s) || self.is(Fault::NoBarrier) => {
                push("sleep: barrier", at.goto(Pc::SleepIdle));
            }
            Pc::SleepBarrier => {}
            Pc::SleepIdle if s.load(t, IDLE_PS) == 0 && p == 0 => push("sleep: no idle P", at.goto(self.rest())),
            Pc::SleepIdle => push("sleep: an idle P", at.goto(Pc::SleepLookGlobal)),
            Pc::SleepLookGlobal if s.load(t, GLOBAL) > 0 => push("sleep: global work", at.goto(self.up())),
            Pc::SleepLookGlobal => push("sleep: nothing global", at.goto(Pc::SleepLookRing)),
            Pc::SleepLookRing if s.load(t, RING) > 0 => push("sleep: work in a ring", at.goto(self.up())),
            Pc::SleepLookRing => push("sleep: nothing in a ring", at.goto(self.rest())),
            // leave_list, get_up
            Pc::LeaveLock if free => push("leave_list: lock", at.lock(0).goto(Pc::Leave)),
            Pc::LeaveLock => {}
            Pc::Leave if s.load(t, listed(t)) == 1 => {
                push(
                    "leave_list: true; unlock",
                    write(at, listed(t), 0).unlock(0).goto(Pc::LeaveSpin),
                );
            }
            Pc::Leave => push("leave_list: false; unlock", at.unlock(0).goto(self.rest())),
            Pc::LeaveSpin if other & SPINS != 0 => push("gets up", at.goto(Pc::AcquireLock)),
            Pc::LeaveSpin if still => {
                let spins = write(at, SPINNING, s.read(SPINNING) + 1).other(other | SPINS);
                push("gets up: spinning += 1", spins.goto(Pc::AcquireLock));
            }
            Pc::LeaveSpin => {}
            Pc::Asleep if s.load(t, note(t)) == 1 => {
                push(
                    "is woken",
                    write(at, note(t), 0).other(other | SPINS).goto(Pc::AcquireLock),
                );
            }
            Pc::Asleep => {}
            // acquire_p
            Pc::AcquireLock if free => push("acquire_p: lock", at.lock(0).goto(Pc::Acquire)),
            Pc::AcquireLock => {}
            Pc::Acquire if s.load(t, IDLE_PS) == 0 => push("acquire_p: none; unlock", at.unlock(0).goto(to_sleep)),
            Pc::Acquire => {
                let taken = at.store(IDLE_PS, s.load(t, IDLE_PS) - 1).unlock(0).p(1);
                push("acquire_p: a P; unlock", taken.goto(Pc::Search));
            }
            Pc::Done => {}
            _ => unreachable!("{pc:?} in the model of work"),
        }
    }

    /// Where a sleeper goes on that has looked and found nothing.
    fn rest(&self) -> Pc {
        match self.fault {
            Some(Fault::LookFirst) => Pc::SleepLock,
            Some(Fault::LateDecrement) => Pc::SleepDecrement,
            _ => Pc::Asleep,
        }
    }

    /// Where one goes on that has found something.
    fn up(&self) -> Pc {
        if self.is(Fault::LookFirst) {
            Pc::Search
        } else {
            Pc::LeaveLock
        }
    }

    pub(crate) fn wrong_at_the_end(&self, s: &State) -> Option<Violation> {
        let rests = |t: &Thread| matches!(t.pc, Pc::Done | Pc::Asleep);
        if !s.threads.iter().all(rests) || s.read(lock(0)) != 0 {
            return Some(Violation::Stuck);
        }
        let mut asleep = (1..OUTSIDE).filter(|&m| s.threads[m].pc == Pc::Asleep).peekable();
        if s.read(IDLE_PS) > 0 && s.read(GLOBAL) + s.read(RING) > 0 && asleep.peek().is_some() {
            return Some(Violation::LostWork);
        }
        if asleep.any(|m| s.read(listed(m)) == 0) {
            return Some(Violation::LostNote);
        }
        (s.read(SPINNING) != 0).then_some(Violation::Leak)
    }
}
