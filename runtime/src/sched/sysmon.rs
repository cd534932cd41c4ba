//! The monitor: a thread without a P that looks after Ps whose M does not get on.
//!
//! ```text
//!   a P's tick stands still, and goroutines wait that nobody else can run:
//!     declared blocking call ······ for 20 µs ····· take P   (handoff: declared)
//!     thread sleeps in the kernel · for 50 µs ····· take P   (handoff: undeclared; /proc says that it sleeps)
//!     thread computes ············· for a slice ··· take P   (handoff: hog; its CPU clock says that it computes)
//! ```
//!
//! [`verdict`] says which it is, and when nothing is to be done.
//!
//! A P that is taken goes on the idle list with all that it owns, and an M that was reserved beforehand picks it up. With
//! no M to be had (the cap, or a kernel that refuses threads) nothing is taken: that P waits with its M.
//!
//! A round in which the monitor itself overslept proves nothing about others and is skipped.
//!
//! How long it sleeps between two looks:
//!
//! | last look | sleep |
//! |---|---|
//! | a P is in a declared call, and goroutines wait | 20 µs |
//! | a P stands still for the first time, or one was taken: where one blocks there are more | 50 µs |
//! | goroutines wait | twice as long as before, up to 0.4 ms, but not past the end of a slice |
//! | Ps run, and nobody waits | twice as long as before, 0.4 to 10 ms: it may need the CPU that one of them runs on |
//! | nothing runs | until it is needed |
//!
//! The monitor also makes the Ms (a goroutine's stack is no place for pthread_create), wakes somebody when a timer is due on
//! a P whose M is busy, tells of stalls ([`stall`](super::stall)), once a second looks at the CPU quota,
//! and asks for the scavenger while goroutines run ([`scavenge`](super::scavenge)).

use super::{
    Sched, find,
    idle::{self, release_p},
    lock::Mutex,
    netpoll,
    os::{self, Probes},
    procs, quota, scavenge, sched,
    schedtrace::Schedtrace,
    stall::{Cause, Stalls},
    verdict,
};
use crate::{
    deadlock,
    debug::{probe, quit, trace},
    fatal,
    m::M,
    metrics,
    site::Site,
    stderr,
    time::{self, heap::NEVER},
};
use baton_alloc::{futex, latch};
use std::{
    ffi::CString,
    mem, ptr,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    },
    time::Duration,
};

/// A monitor that comes so late has not had the CPU, and neither may have others.
const OVERSLEPT_NS: u64 = 4_000_000;

/// Goroutines on a ring that will have had their turn within this are left to their P. To wake a thread takes as long, and what
/// it brings away it will soon bring back: goroutines with turns that short wait for each other.
const KEPT_NS: u64 = 10_000;
/// But not more than so many.
const KEPT_MOST: u64 = 16;

/// The sleep just after a declared call.
const SLEEP_DECLARED_NS: u64 = 20_000;
/// The sleep before the second look at a P that stands still; from there it doubles.
const SLEEP_FIRST_NS: u64 = 50_000;
/// The longest sleep while goroutines wait: with the second look, a thread that sleeps is found within half a millisecond.
pub(super) const SLEEP_BUSY_NS: u64 = 400_000;
/// The longest sleep while Ps run.
const SLEEP_QUIET_NS: u64 = 10_000_000;

/// Between two looks at the CPU quota.
const QUOTA_NS: u64 = 1_000_000_000;

/// When it looks again whether a thread that is not Baton's keeps a deadlock from being one: after so long, and so long at most, doubling
/// in between; in nanoseconds.
const OTHERS_FIRST_NS: u64 = 1_000_000_000;
const OTHERS_MOST_NS: u64 = 64_000_000_000;

/// The stack of an M, where [`on_big_stack`](super::on_big_stack) runs: as large as a main thread's.
const M_STACK: usize = 8 << 20;

/// What there must be beside that: the thread's signal stack, and memory for its first steps.
const M_ROOM: usize = 1 << 20;

/// What others see of the monitor.
pub(crate) struct Sysmon {
    /// Bumped to wake it.
    alarm: AtomicU32,
    /// It sleeps for long, or for ever: whoever makes work should [`alert`](Self::alert) it.
    dozes: AtomicBool,
    /// Ms that were asked for and are not made yet. They count as spinning.
    wanted: AtomicU32,
    /// Ms that have a thread.
    ms: AtomicU32,
    /// Ms whose threads have ended, for new threads.
    retired: Mutex<Vec<&'static M>>,
    /// There is no thread to be had at present.
    refused: AtomicBool,
    /// That was said once.
    warned: AtomicBool,
    /// Looks so far.
    pub(crate) rounds: AtomicU64,
    pub(crate) handoffs: [AtomicU64; 3],
    /// Takes that found the M inside a section or its P locked.
    pub(crate) missed: AtomicU64,
    /// Ps that were given up for a goroutine that blocks by habit.
    pub(crate) foreseen: AtomicU64,
}

impl Sysmon {
    pub(super) fn new() -> Self {
        Self {
            alarm: AtomicU32::new(0),
            dozes: AtomicBool::new(false),
            wanted: AtomicU32::new(0),
            ms: AtomicU32::new(0),
            retired: Mutex::new(Vec::new()),
            refused: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            handoffs: [const { AtomicU64::new(0) }; 3],
            missed: AtomicU64::new(0),
            foreseen: AtomicU64::new(0),
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

    /// Wakes it for a look, from a signal handler too.
    pub(crate) fn poke(&self) {
        self.alarm.fetch_add(1, SeqCst);
        futex::wake(&self.alarm, 1);
    }

    /// Asks for a new M, which the caller has counted as spinning.
    pub(super) fn request_m(&self) {
        self.wanted.fetch_add(1, AcqRel);
        self.alarm.fetch_add(1, SeqCst);
        futex::wake(&self.alarm, 1);
    }

    /// Whether another M could be made, as far as is known.
    pub(super) fn may_make_m(&self, sched: &Sched) -> bool {
        (self.ms.load(Relaxed) as usize) < sched.config.max_threads && !self.refused.load(Relaxed)
    }

    /// The thread of `m`, which is on no list and has no P, ends now.
    pub(super) fn retire_m(&self, m: &'static M) {
        self.retired.lock().push(m);
        self.ms.fetch_sub(1, Relaxed);
        self.refused.store(false, Relaxed);
        self.poke(); // it may have looked just now whether all are asleep, and this M was on no list
    }

    /// All Ms but those whose threads have ended.
    pub(super) fn living_ms(&self) -> Vec<&'static M> {
        let mut ms = metrics::ms();
        let retired = self.retired.lock();
        ms.retain(|&m| !retired.iter().any(|&other| ptr::eq(other, m)));
        ms
    }

    /// Ms that have a thread.
    pub(crate) fn ms(&self) -> u32 {
        self.ms.load(Relaxed)
    }
}

/// What the monitor remembers of a P from its last look.
#[derive(Clone)]
struct Record {
    m: *const M,
    tick: u32,
    /// Declared calls that had ended, and whether it was in one: a call that begins is something new as well.
    calls: u32,
    declared: bool,
    /// When it first looked like this.
    since: u64,
    /// It has been seen like this more than once.
    stood: bool,
    /// The CPU time of its thread when that was first so, in nanoseconds, if the system says it.
    used: Option<u64>,
    /// It has been seen like this more than once while goroutines waited.
    again: bool,
}

/// A P that is to be taken.
struct Suspect {
    /// Its number.
    i: usize,
    cause: Cause,
    m: &'static M,
    /// Of its goroutine.
    site: Option<&'static Site>,
    since: u64,
}

/// Starts the monitor's thread.
pub(super) fn start() {
    let thread = os::Thread {
        name: c"baton-sysmon".to_owned(),
        stack: None,
        run: Box::new(|| Monitor::new(sched()).run()),
    };
    if let Err(error) = thread.start() {
        fatal::no_thread("the monitor", &error);
    }
}

struct Monitor {
    sched: &'static Sched,
    records: Vec<Record>,
    probes: Probes,
    stalls: Stalls,
    next_m: u32,
    schedtrace: Option<Schedtrace>,
    /// When to look at the CPU quota again, and what it was.
    quota_due: u64,
    quota: usize,
    /// When to ask for the scavenger.
    requests: scavenge::Requests,
    /// How long to wait until it looks again whether only threads that are not Baton's keep a deadlock from being one, in nanoseconds.
    others_look: u64,
}

impl Monitor {
    fn new(sched: &'static Sched) -> Self {
        Self {
            sched,
            records: Vec::new(),
            probes: Probes::default(),
            stalls: Stalls::default(),
            next_m: 0,
            schedtrace: sched.config.schedtrace.map(Schedtrace::new),
            quota_due: time::now() + QUOTA_NS,
            quota: sched.config.procs,
            requests: scavenge::Requests::new(time::now()),
            others_look: OTHERS_FIRST_NS,
        }
    }

    fn run(mut self) {
        block_signals();
        os::be_prompt();
        quit::install(self.sched);
        let sysmon = &self.sched.sysmon;
        let mut period = SLEEP_BUSY_NS;
        loop {
            let alarm = sysmon.alarm.load(SeqCst);
            self.make_ms();
            let before = time::now();
            time::set_coarse(before);
            let overslept = !self.sleep(alarm, period, before);
            sysmon.rounds.fetch_add(1, Relaxed);
            let seen = self.look(overslept);
            period = if seen.declared && seen.waiting {
                SLEEP_DECLARED_NS
            } else if seen.suspicious || seen.took {
                SLEEP_FIRST_NS
            } else {
                let busy = seen.waiting || self.stalls.any();
                let next = if busy {
                    (period * 2).min(SLEEP_BUSY_NS)
                } else {
                    (period * 2).clamp(SLEEP_BUSY_NS, SLEEP_QUIET_NS)
                };
                next.min(seen.slice_ends.max(SLEEP_FIRST_NS))
            };
            self.look_at_files();
            self.look_at_quota();
            self.requests.look(self.sched, time::now());
            quit::look();
            if let Some(schedtrace) = &mut self.schedtrace {
                schedtrace.look(self.sched);
            }
        }
    }

    /// If nobody looks after the files that goroutines wait for: looks, and has an M do so if one has nothing else to do.
    fn look_at_files(&self) {
        if netpoll::is_awaited() && self.sched.poller.load(SeqCst).is_null() {
            netpoll::look_now_and_then();
            // Who spins goes idle soon, or has found work.
            if self.sched.spinning.load(SeqCst) == 0 {
                idle::recruit(self.sched);
            }
        }
    }

    /// Once a second: as many Ps as the process may use CPUs, if nobody has said how many; and a system that refused threads
    /// may have some by now.
    fn look_at_quota(&mut self) {
        let now = time::now();
        if now < self.quota_due {
            return;
        }
        self.quota_due = now + QUOTA_NS;
        self.sched.sysmon.refused.store(false, Relaxed);
        if self.sched.ps.follow()
            && let Some(cpus) = quota::cpus_if_known()
        {
            let quota = cpus.min(*crate::config::PROCS_BOUNDS.end());
            if mem::replace(&mut self.quota, quota) != quota {
                procs::follow(self.sched, quota);
            }
        }
    }

    /// Sleeps for `period`, or until an alarm or a timer. `false`: for much longer than that.
    fn sleep(&mut self, alarm: u32, period: u64, before: u64) -> bool {
        let sysmon = &self.sched.sysmon;
        let mut timeout = Some(period);
        let doze = period > SLEEP_BUSY_NS;
        if doze {
            sysmon.dozes.store(true, SeqCst);
            drop(latch::barrier()); // pushers have no fence: see README.md, "The sleeper pays"
            if self.sched.has_work(time::now) || self.sched.ps.iter().any(|p| p.runq.has_any()) {
                sysmon.dozes.store(false, SeqCst); // nobody would wake it
                timeout = Some(SLEEP_BUSY_NS);
            } else if self.sched.idle_ps.load(SeqCst) as usize >= self.sched.ps.active()
                && !(netpoll::is_awaited() && self.sched.poller.load(SeqCst).is_null())
            {
                timeout = None; // nothing runs: whoever gets a P says so
            }
        }
        let due = self.sched.earliest();
        // A keeper helps if there is a P for it. Else the owners of the Ps fire their timers, and who computes is noticed at the next look.
        let helpless = self.sched.idle_ps.load(SeqCst) == 0 && due > before;
        let least = match self.sched.keeper.load(SeqCst).is_null() {
            true => Some(SLEEP_FIRST_NS),
            false => helpless.then_some(SLEEP_BUSY_NS),
        };
        if let Some(least) = least.filter(|_| due != NEVER) {
            let early = due.saturating_sub(before).max(least);
            timeout = Some(timeout.map_or(early, |period| period.min(early)));
        }
        let mut look_again = None;
        if timeout.is_none() && due == NEVER && idle::all_asleep(self.sched) {
            let still = || sysmon.dozes.load(SeqCst) && sysmon.alarm.load(SeqCst) == alarm;
            look_again = deadlock::look(self.sched, still).then_some(self.others_look);
        }
        self.others_look = look_again.map_or(OTHERS_FIRST_NS, |period| (period * 2).min(OTHERS_MOST_NS));
        if timeout.is_none() {
            timeout = self.requests.left(self.sched, before);
            timeout = timeout.into_iter().chain(look_again).min();
        }
        if let Some(schedtrace) = &self.schedtrace {
            let left = schedtrace.left();
            timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
        if sysmon.wanted.load(SeqCst) == 0 {
            futex::wait(&sysmon.alarm, alarm, timeout.map(Duration::from_nanos));
        }
        sysmon.dozes.store(false, SeqCst);
        timeout.is_none_or(|period| time::now() - before < period + OVERSLEPT_NS)
    }

    /// One look at all Ps: notes who gets on, takes Ps from those who do not.
    fn look(&mut self, overslept: bool) -> Seen {
        let sched = self.sched;
        let now = time::now();
        let mut seen = Seen::default();
        let mut suspects = Vec::new();
        let idle = sched.idle_ps.load(SeqCst) != 0;
        let mut abandoned = false; // a P without an M has goroutines
        for (i, p) in sched.ps.iter().enumerate() {
            let m = p
                .latch
                .m()
                .map_or(ptr::null(), |m| m.sched.load(Relaxed).cast::<M>().cast_const());
            let tick = p.tick.load(Relaxed);
            // SAFETY: null or an M of ours, and Ms are never freed.
            let (calls, declared) = unsafe { m.as_ref() }.map_or((0, false), M::declares);
            let fresh = Record {
                m,
                tick,
                calls,
                declared,
                since: now,
                stood: false,
                used: None,
                again: false,
            };
            if i == self.records.len() {
                self.records.push(fresh.clone());
            }
            let record = &mut self.records[i];
            // SAFETY: as above.
            let Some(m) = (unsafe { m.as_ref() }) else {
                record.m = ptr::null();
                p.keeps.store(0, Relaxed);
                abandoned |= p.runq.has_any();
                continue;
            };
            let is_late = |due| due != NEVER && due <= now;
            let late = is_late(p.due.load(Acquire));
            let sleepers_late = is_late(sched.sleepers_due.load(Acquire));
            if late || sleepers_late {
                p.attention.store(true, Relaxed);
            }
            // What is nobody's is for the idle, if there are any.
            let waiting = late || p.runq.has_any() || (!idle && (sleepers_late || sched.global.len() > 0));
            seen.waiting |= waiting;
            seen.declared |= declared;
            let before = (record.m, record.tick, record.calls, record.declared);
            if before != (ptr::from_ref(m), tick, calls, declared) {
                let turns = u64::from(tick.wrapping_sub(record.tick));
                p.keeps.store(kept(turns, now - record.since), Relaxed);
                *record = fresh;
                let share = idle && p.runq.len() > 0;
                p.shares.store(share, Relaxed);
                if share {
                    idle::wake_one(sched);
                }
                continue;
            }
            p.keeps.store(0, Relaxed);
            let tid = m.tid.load(Relaxed);
            if !mem::replace(&mut record.stood, true) {
                record.used = os::cpu_time(tid);
            }
            if !waiting || overslept {
                continue;
            }
            if idle {
                // Somebody else can take what waits here.
                idle::wake_one(sched);
            }
            seen.suspicious |= !mem::replace(&mut record.again, true);
            let still = now - record.since;
            match verdict::cause(m, declared, still, record.used, &mut self.probes) {
                Ok(cause) => suspects.push(Suspect {
                    i,
                    cause,
                    m,
                    site: m.site(),
                    since: record.since,
                }),
                Err(left) => seen.slice_ends = seen.slice_ends.min(left),
            }
        }
        if abandoned || sched.earliest() <= now || sched.global.len() > 0 {
            seen.waiting = true;
            if idle {
                idle::wake_one(sched);
                if idle::asleep(sched) == 0 && !sched.sysmon.may_make_m(sched) {
                    procs::wake_sleepers(sched, now); // there is nobody to run them on the P that they are on
                }
            }
        }
        seen.took = self.take(suspects);
        self.stalls.tell(sched, now);
        seen
    }

    /// Takes the Ps of the suspects, with one barrier for all, as far as there are Ms to go on with them. Whether any was
    /// taken.
    ///
    /// While a P is locked its M may wait for it, so nothing else is waited for meanwhile: Ms are reserved before the first P
    /// is locked, and sent on their way after the last was unlocked.
    fn take(&mut self, suspects: Vec<Suspect>) -> bool {
        let sched = self.sched;
        let mut reserved = Vec::with_capacity(suspects.len());
        let mut made = false;
        for suspect in suspects {
            let idle = idle::reserve_m(sched);
            made |= idle.is_none();
            let Some(m) = idle.or_else(|| self.make_m()) else {
                break;
            };
            reserved.push((sched.ps.get(suspect.i), suspect, m));
        }
        if reserved.is_empty() {
            return false;
        }
        let locked: Vec<_> = reserved.iter().map(|(p, ..)| p.latch.suspect()).collect();
        let barrier = latch::barrier();
        let taken: Vec<_> = locked
            .into_iter()
            .zip(&reserved)
            .map(|(suspect, (p, suspected, _))| {
                // SAFETY: the barrier came after the suspects.
                let taken = suspect.and_then(|suspect| unsafe { suspect.confirm(&barrier) });
                // The M may have got on since the look; then there is nothing to take.
                let stands_still = p.tick.load(Relaxed) == self.records[suspected.i].tick;
                let taken = taken.filter(|_| stands_still)?;
                if let Some(m) = M::of(taken.m()) {
                    trace::taken(m, Some(suspected.cause));
                }
                Some(taken.detach())
            })
            .collect();
        let mut any = false;
        for (detached, (p, suspect, m)) in taken.into_iter().zip(reserved) {
            if let Some(detached) = detached {
                any = true;
                suspect
                    .m
                    .found_asleep
                    .store(suspect.cause == Cause::Undeclared, Relaxed);
                self.stalls.watch(sched, suspect.m, suspect.cause, suspect.since);
                detached.release();
                metrics::count(&sched.sysmon.handoffs[suspect.cause as usize]);
                if let Some(site) = suspect.site {
                    site.handed_off(suspect.cause);
                }
                release_p(sched, p);
            } else {
                sched.sysmon.missed.fetch_add(1, Relaxed);
            }
            idle::start_reserved(m); // after a take that failed it finds nothing and goes back to sleep
        }
        if any && made {
            idle::order_spare(sched);
        }
        any
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
        let retired = sched.sysmon.retired.lock().pop();
        let m = retired.unwrap_or_else(|| {
            self.next_m += 1;
            Box::leak(Box::new(M::new(self.next_m - 1, sched)))
        });
        self.probes.forget(m.tid.load(Relaxed));
        let thread = os::Thread {
            name: CString::new(format!("baton-m{}", m.id)).expect("a name without NUL"),
            stack: Some(M_STACK),
            run: Box::new(move || {
                os::be_ordinary();
                baton_stack::watch_own_stack();
                m.adopt_thread();
                metrics::register(m);
                m.note.sleep(None);
                find::run(m);
                m.leave_thread();
                sched.sysmon.retire_m(m);
            }),
        };
        if let Err(error) = os::room_for(M_STACK + M_ROOM).and_then(|()| thread.start()) {
            sched.sysmon.retired.lock().push(m);
            if sched.sysmon.ms() == 0 {
                fatal::no_thread("the first goroutine", &error);
            }
            sched.sysmon.refused.store(true, Relaxed);
            self.warn(&format!(
                "the system refuses another thread ({error}); {} run; goroutines that wait for a processor held by a blocked \
                 thread wait for that thread; raise the limit of threads (ulimit -u, pids.max)",
                sched.sysmon.ms()
            ));
            return None;
        }
        sched.sysmon.ms.fetch_add(1, Relaxed);
        sched.spinning.fetch_add(1, AcqRel);
        Some(m)
    }

    /// Says once that there are no more threads.
    fn warn(&self, message: &str) {
        if !self.sched.sysmon.warned.swap(true, Relaxed) {
            stderr::say(format_args!("baton: {message}"));
        }
    }
}

/// How many on the ring a P keeps to itself that gave so many turns in `elapsed` nanoseconds.
fn kept(turns: u64, elapsed: u64) -> u32 {
    let soon = turns.saturating_mul(KEPT_NS) / elapsed.max(1);
    soon.min(KEPT_MOST) as u32
}

/// What a look at all Ps gave.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// A P is in a declared blocking call.
    declared: bool,
    /// Goroutines wait for somebody to run them.
    waiting: bool,
    /// A P stands still since the last look, for the first time, while goroutines wait.
    suspicious: bool,
    /// A P was taken.
    took: bool,
    /// In how many nanoseconds the slice of one that stands still ends.
    slice_ends: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            declared: false,
            waiting: false,
            suspicious: false,
            took: false,
            slice_ends: u64::MAX,
        }
    }
}

/// Blocks all asynchronous signals on this thread, and so on every M, which inherit the mask: a signal handler without an
/// alternate stack must not run on a goroutine's. The main thread and plain threads take the signals. Except the one by which
/// a dump asks an M ([`probe`]): no other handler of it runs on an M unless the program sends it to one, or blocks it in the main
/// thread, which the kernel prefers.
pub(crate) fn block_signals() {
    // SAFETY: fills a set that lives here and changes this thread's mask only.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        for not_blocked in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGABRT,
            libc::SIGSYS,
            probe::SIGNAL,
        ] {
            libc::sigdelset(set.as_mut_ptr(), not_blocked);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::{find, sched};
    use crate::m;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn signals_from_outside_are_not_for_ms() {
        let blocked = crate::go!(|| {
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: the mask of this thread is read, and written to a set that lives here.
            let mask = unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr());
                set.assume_init()
            };
            // SAFETY: a set, and the number of a signal.
            move |signal| unsafe { libc::sigismember(&raw const mask, signal) == 1 }
        });
        let blocked = blocked.join().unwrap();
        for theirs in [
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGALRM,
            libc::SIGCHLD,
            libc::SIGPROF,
            libc::SIGQUIT,
        ] {
            assert!(blocked(theirs), "signal {theirs}");
        }
        for ours in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, super::probe::SIGNAL] {
            assert!(!blocked(ours), "signal {ours}");
        }
    }

    /// The monitor may have looked, and gone to sleep, while the goroutines were on no queue.
    #[test]
    fn who_moves_goroutines_wakes_the_monitor() {
        crate::run(|| {
            let m = m::current().expect("who runs a goroutine is an M");
            let sysmon = &sched().sysmon;
            let wakes = |_| {
                let before = sysmon.alarm.load(SeqCst);
                sysmon.dozes.store(true, SeqCst);
                find::keep(m, &[]);
                sysmon.alarm.load(SeqCst) != before
            };
            // Now and then it has woken by itself in between.
            assert!((0..1_000).any(wakes));
        });
    }
}
