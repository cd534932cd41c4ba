//! The monitor: a thread without a P that looks after Ps whose M does not get on.
//!
//! ```text
//!   a P's tick stands still, and goroutines wait that nobody else can run:
//!     declared blocking call ······ for 20 µs ···················· take P   (handoff: declared)
//!     thread sleeps in the kernel · CPU clock stood, /proc says so take P   (handoff: undeclared)
//!     thread computes ············· for 10 ms ···················· take P   (handoff: hog)
//! ```
//!
//! A P that is taken goes on the idle list with all that it owns, and an M that was reserved beforehand picks it up. With
//! no M to be had (the cap, or a kernel that refuses threads) nothing is taken: that P waits with its M.
//!
//! The CPU clock alone would not do: a runnable thread that gets no CPU shows a still clock too. Without /proc only the
//! 10 ms rule is left. A round in which the monitor itself overslept proves nothing about others and is skipped.
//!
//! The monitor also makes the Ms (a goroutine's stack is no place for pthread_create), and wakes somebody when a timer is
//! due on a P whose M is busy.

use super::{
    Sched, find,
    idle::{self, release_p},
    os::{self, Probe},
    sched,
};
use crate::{
    fatal,
    m::M,
    metrics,
    time::{self, heap::NEVER},
};
use baton_alloc::{
    futex,
    latch::{self, Taken},
};
use baton_stack::AltStack;
use std::{
    collections::HashMap,
    ptr,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

/// After this long in a declared blocking call the P may be taken, in nanoseconds.
const DECLARED_NS: u64 = 20_000;
/// After this long with a sleeping thread.
const UNDECLARED_NS: u64 = 50_000;
/// After this long at all: the time slice, Go's.
const SLICE_NS: u64 = 10_000_000;

/// The sleep just after a declared call.
const SLEEP_DECLARED_NS: u64 = 20_000;
/// The sleep before the second look at a P that stands still; from there it doubles.
const SLEEP_FIRST_NS: u64 = 50_000;
/// The longest sleep while goroutines wait: with the second look, a thread that sleeps is found within half a millisecond.
const SLEEP_BUSY_NS: u64 = 400_000;
/// The longest sleep while Ps run.
const SLEEP_QUIET_NS: u64 = 10_000_000;

/// What others see of the monitor.
#[derive(Debug)]
pub(crate) struct Sysmon {
    /// Bumped to wake it.
    alarm: AtomicU32,
    /// It sleeps for long, or for ever: whoever makes work should [`alert`](Self::alert) it.
    dozes: AtomicBool,
    /// Ms that were asked for and are not made yet. They count as spinning.
    wanted: AtomicU32,
    /// Ms made so far.
    ms: AtomicU32,
    /// The largest number of Ms was reached, or a thread was refused, and a warning given.
    warned: AtomicBool,
    /// Looks so far.
    pub(crate) rounds: AtomicU64,
    pub(crate) handoffs: [AtomicU64; 3],
    /// Takes that found the M inside a section or its P locked.
    pub(crate) missed: AtomicU64,
}

/// Why a P was taken: an index of `Sysmon::handoffs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Declared = 0,
    Undeclared = 1,
    Hog = 2,
}

impl Sysmon {
    pub(super) fn new() -> Self {
        Self {
            alarm: AtomicU32::new(0),
            dozes: AtomicBool::new(false),
            wanted: AtomicU32::new(0),
            ms: AtomicU32::new(0),
            warned: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            handoffs: [const { AtomicU64::new(0) }; 3],
            missed: AtomicU64::new(0),
        }
    }

    /// Whether it sleeps for long.
    #[inline]
    pub(super) fn dozes(&self) -> bool {
        self.dozes.load(Relaxed)
    }

    /// There is work: the monitor should be awake while it waits.
    #[inline]
    pub(super) fn alert(&self) {
        if self.dozes() {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.dozes.swap(false, SeqCst) {
            self.alarm.fetch_add(1, SeqCst);
            futex::wake(&self.alarm, 1);
        }
    }

    /// Asks for a new M, which the caller has counted as spinning.
    pub(super) fn request_m(&self) {
        self.wanted.fetch_add(1, AcqRel);
        self.alarm.fetch_add(1, SeqCst);
        futex::wake(&self.alarm, 1);
    }

    /// Whether another M could be made, as far as the cap goes.
    pub(super) fn may_make_m(&self, sched: &Sched) -> bool {
        (self.ms.load(Relaxed) as usize) < sched.config.max_threads && !self.warned.load(Relaxed)
    }

    /// Ms made so far.
    pub(crate) fn ms(&self) -> u32 {
        self.ms.load(Relaxed)
    }
}

/// What the monitor remembers of a P from its last look.
struct Record {
    m: *const M,
    tick: u32,
    blocking: u32,
    /// When it first looked like this.
    since: u64,
    /// The M's CPU time at the last look.
    cpu: Option<u64>,
}

/// Starts the monitor's thread.
pub(super) fn start() {
    let started = thread::Builder::new()
        .name("baton-sysmon".into())
        .spawn(|| Monitor::new(sched()).run());
    if let Err(error) = started {
        fatal::no_thread("the monitor", &error);
    }
}

struct Monitor {
    sched: &'static Sched,
    records: Vec<Record>,
    probes: HashMap<u32, Probe>,
    next_m: u32,
}

impl Monitor {
    fn new(sched: &'static Sched) -> Self {
        let records = sched.ps.iter().map(|_| Record {
            m: ptr::null(),
            tick: 0,
            blocking: 0,
            since: 0,
            cpu: None,
        });
        Self {
            sched,
            records: records.collect(),
            probes: HashMap::new(),
            next_m: 0,
        }
    }

    fn run(mut self) {
        block_signals();
        // SAFETY: sets this thread's own timer slack: its short sleeps should be short.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let sysmon = &self.sched.sysmon;
        let mut period = SLEEP_FIRST_NS;
        loop {
            let alarm = sysmon.alarm.load(SeqCst);
            self.make_ms();
            let before = time::now();
            let overslept = !self.sleep(alarm, period, before);
            sysmon.rounds.fetch_add(1, Relaxed);
            let seen = self.look(overslept);
            period = if seen.declared && seen.waiting {
                SLEEP_DECLARED_NS
            } else if seen.suspicious {
                SLEEP_FIRST_NS
            } else {
                (period * 2).min(if seen.waiting { SLEEP_BUSY_NS } else { SLEEP_QUIET_NS })
            };
        }
    }

    /// Sleeps for `period`, or until an alarm or a timer. `false`: for much longer than that.
    fn sleep(&self, alarm: u32, period: u64, before: u64) -> bool {
        let sysmon = &self.sched.sysmon;
        let mut timeout = Some(period);
        let doze = period > SLEEP_BUSY_NS;
        if doze {
            sysmon.dozes.store(true, SeqCst);
            drop(latch::barrier()); // pushers have no fence: see README.md, "The sleeper pays"
            if self.sched.has_work(time::now) || self.sched.ps.iter().any(|p| p.runq.has_next()) {
                sysmon.dozes.store(false, SeqCst); // nobody would wake it
                timeout = Some(SLEEP_BUSY_NS);
            } else if self.sched.idle_ps.load(SeqCst) as usize == self.sched.ps.len() {
                timeout = None; // nothing runs: whoever gets a P says so
            }
        }
        let due = self.sched.earliest();
        if due != NEVER && self.sched.keeper.load(SeqCst).is_null() {
            let early = due.saturating_sub(before).max(SLEEP_FIRST_NS);
            timeout = Some(timeout.map_or(early, |period| period.min(early)));
        }
        if sysmon.wanted.load(SeqCst) == 0 {
            futex::wait(&sysmon.alarm, alarm, timeout.map(Duration::from_nanos));
        }
        sysmon.dozes.store(false, SeqCst);
        timeout.is_none_or(|period| time::now() - before < period + SLICE_NS / 2)
    }

    /// One look at all Ps: notes who gets on, takes Ps from those who do not.
    fn look(&mut self, overslept: bool) -> Seen {
        let sched = self.sched;
        let now = time::now();
        let mut seen = Seen::default();
        let mut suspects: Vec<(usize, Cause)> = Vec::new();
        let idle = sched.idle_ps.load(SeqCst) != 0;
        let mut abandoned = false; // a P without an M has goroutines
        for (i, p) in sched.ps.iter().enumerate() {
            let record = &mut self.records[i];
            let m = p
                .latch
                .m()
                .map_or(ptr::null(), |m| m.sched.load(Relaxed).cast::<M>().cast_const());
            // SAFETY: null or an M of ours, and Ms are never freed.
            let Some(m) = (unsafe { m.as_ref() }) else {
                record.m = ptr::null();
                abandoned |= p.runq.len() > 0 || p.runq.has_next();
                continue;
            };
            let due = p.due.load(Acquire);
            let late = due != NEVER && due <= now;
            if late {
                p.timers_due.store(true, Relaxed);
            }
            let waiting = late || p.runq.len() > 0 || p.runq.has_next() || (!idle && sched.global.len() > 0);
            seen.waiting |= waiting;
            let (tick, blocking) = (p.tick.load(Relaxed), m.blocking.load(Relaxed));
            if !ptr::eq(record.m, m) || record.tick != tick || record.blocking != blocking {
                *record = Record {
                    m,
                    tick,
                    blocking,
                    since: now,
                    cpu: None,
                };
                seen.declared |= blocking % 2 == 1;
                continue;
            }
            if !waiting || overslept {
                record.cpu = None;
                continue;
            }
            if idle {
                // Somebody else can take what waits here.
                idle::wake_one(sched);
            }
            let still = now - record.since;
            let declared = blocking % 2 == 1;
            seen.declared |= declared;
            seen.suspicious |= record.cpu.is_none();
            let sleeps = !declared && self.sleeps(i, m, still >= SLICE_NS);
            if declared && still >= DECLARED_NS {
                suspects.push((i, Cause::Declared));
            } else if sleeps && still >= UNDECLARED_NS {
                suspects.push((i, Cause::Undeclared));
            } else if !declared && still >= SLICE_NS {
                suspects.push((i, Cause::Hog));
            }
        }
        if abandoned || sched.earliest() <= now || sched.global.len() > 0 {
            seen.waiting = true;
            if idle {
                idle::wake_one(sched);
            }
        }
        self.take(&suspects);
        seen
    }

    /// Whether the thread of `m` sleeps in the kernel, by one look at /proc; not worth it, unless it is `overdue` anyway, if
    /// its CPU clock went on since the last time.
    fn sleeps(&mut self, i: usize, m: &M, overdue: bool) -> bool {
        let record = &mut self.records[i];
        let cpu = os::cpu_time(m.cpu_clock.load(Relaxed));
        let stood = cpu.is_some() && cpu == record.cpu;
        record.cpu = cpu;
        (stood || overdue)
            && self
                .probes
                .entry(m.id)
                .or_insert_with(|| Probe::open(m.tid.load(Relaxed)))
                .sleeps()
                == Some(true)
    }

    /// Takes the Ps of the suspects, with one barrier for all, as far as there are Ms to go on with them.
    ///
    /// While a P is locked its M may wait for it, so nothing else is waited for meanwhile: Ms are reserved before the first P
    /// is locked, and sent on their way after the last was unlocked.
    fn take(&mut self, suspects: &[(usize, Cause)]) {
        let sched = self.sched;
        let mut reserved = Vec::with_capacity(suspects.len());
        for &(i, cause) in suspects {
            let Some(m) = idle::reserve_m(sched).or_else(|| self.make_m()) else {
                break;
            };
            reserved.push((sched.ps[i], i, cause, m));
        }
        if reserved.is_empty() {
            return;
        }
        let locked: Vec<_> = reserved.iter().map(|(p, ..)| p.latch.suspect()).collect();
        let barrier = latch::barrier();
        let taken: Vec<_> = locked
            .into_iter()
            .zip(&reserved)
            .map(|(suspect, (p, i, ..))| {
                // SAFETY: the barrier came after the suspects.
                let taken = suspect.and_then(|suspect| unsafe { suspect.confirm(&barrier) });
                // The M may have got on since the look; then there is nothing to take.
                let stands_still = p.tick.load(Relaxed) == self.records[*i].tick;
                taken.filter(|_| stands_still).map(Taken::detach)
            })
            .collect();
        for (detached, (p, _, cause, m)) in taken.into_iter().zip(reserved) {
            if let Some(detached) = detached {
                detached.release();
                metrics::count(&sched.sysmon.handoffs[cause as usize]);
                release_p(sched, p);
                idle::start_reserved(m);
            } else {
                sched.sysmon.missed.fetch_add(1, Relaxed);
                idle::start_reserved(m); // it finds nothing and goes back to sleep
            }
        }
    }

    /// Makes the Ms that were asked for.
    fn make_ms(&mut self) {
        while self.sched.sysmon.wanted.load(Acquire) > 0 {
            self.sched.sysmon.wanted.fetch_sub(1, AcqRel);
            match idle::reserve_m(self.sched) {
                // One went idle meanwhile; it was counted as spinning twice.
                Some(m) => {
                    self.sched.spinning.fetch_sub(1, AcqRel);
                    idle::start_reserved(m);
                }
                None => match self.make_m() {
                    Some(m) => {
                        self.sched.spinning.fetch_sub(1, AcqRel);
                        idle::start_reserved(m);
                    }
                    None => idle::stop_spinning(self.sched),
                },
            }
        }
    }

    /// Makes an M, which counts as spinning and sleeps until it is started.
    fn make_m(&mut self) -> Option<&'static M> {
        let sched = self.sched;
        if sched.sysmon.ms.load(Relaxed) as usize >= sched.config.max_threads {
            self.warn(&format!(
                "{} threads run already, the most that max_threads allows; goroutines that wait for a processor held by a \
                 blocked thread wait for that thread; raise it with Runtime::builder().max_threads(n) or BATON_MAX_THREADS=n",
                sched.config.max_threads
            ));
            return None;
        }
        let m: &'static M = Box::leak(Box::new(M::new(self.next_m, sched)));
        let thread = thread::Builder::new().name(format!("baton-m{}", m.id)).spawn(move || {
            m.adopt_thread();
            metrics::register(m);
            let altstack = AltStack::install();
            if let Err(error) = &altstack {
                fatal::no_handler(error);
            }
            m.note.sleep(None);
            find::run(m)
        });
        if let Err(error) = thread {
            if sched.sysmon.ms() == 0 {
                fatal::no_thread("the first goroutine", &error);
            }
            self.warn(&format!(
                "the system refuses another thread ({error}); {} run; goroutines that wait for a processor held by a blocked \
                 thread wait for that thread; raise the limit of threads (ulimit -u, pids.max)",
                sched.sysmon.ms()
            ));
            return None;
        }
        self.next_m += 1;
        sched.sysmon.ms.fetch_add(1, Relaxed);
        sched.spinning.fetch_add(1, AcqRel);
        Some(m)
    }

    /// Says once that there are no more threads.
    fn warn(&self, message: &str) {
        if !self.sched.sysmon.warned.swap(true, Relaxed) {
            eprintln!("baton: {message}");
        }
    }
}

/// What a look at all Ps gave.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// A P is in a declared blocking call.
    declared: bool,
    /// Goroutines wait for somebody to run them.
    waiting: bool,
    /// A P stands still since the last look, for the first time, while goroutines wait.
    suspicious: bool,
}

/// Blocks all asynchronous signals on this thread, and so on every M, which inherit the mask: a signal handler without an
/// alternate stack must not run on a goroutine's. The main thread and plain threads take the signals.
fn block_signals() {
    // SAFETY: fills a set that lives here and changes this thread's mask only.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        for synchronous in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGABRT,
            libc::SIGSYS,
        ] {
            libc::sigdelset(set.as_mut_ptr(), synchronous);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}
