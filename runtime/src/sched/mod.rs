//! The scheduler: which goroutine runs on which M, and who has the Ps.
//!
//! ```text
//!            go!, ready                                    sysmon: takes Ps from Ms that do not get on
//!                │                                                   │
//!   P ─ runq ────┤ overflow                                          ▼
//!   P ─ runq     └──────────▶ global queue            idle Ps, idle Ms (sleeping on their notes)
//!        ▲                        │
//!        └──── find: own queue, global queue, timers, other Ps' queues; else idle ────▶ run
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `runq`, `globrunq` | the queues |
//! | `find`, `steal` | the loop of g0: look for a goroutine, run it, do what it asked for |
//! | `ready` | `go!` and wake-ups: making goroutines runnable |
//! | `idle` | Ms and Ps that have nothing to do, and who wakes them (`README.md` has the protocol and its proof) |
//! | `blocking` | declared blocking calls |
//! | `habit` | goroutines that block again and again |
//! | `sysmon`, `verdict`, `stall` | the monitor: handoff, missed timers, new Ms; whose P is taken, and why; what it tells the program |
//! | `os` | what the monitor asks the kernel about a thread |
//! | `overflow` | goroutines that end because their stack is full |
//! | `procs`, `quota` | how many Ps there are; how many CPUs the process may use |
//! | `netpoll` | files that goroutines wait for |
//! | `scavenge` | stacks that processors carry go back |
//! | `pause` | holding the scheduler still for a look at all goroutines |
//! | `schedtrace` | a line about all this each period |
//! | `note`, `lock` | what an M sleeps on; the locks of all this |
//!
//! # Lock order
//!
//! A channel's or a wait group's lock → `idle`, `P.lock` (neither under the other) → the allocator's locks. `sleepers` (the
//! global timer heap) is a leaf. No lock is held while a goroutine runs, except that a parking goroutine leaves its channel's lock to g0.

mod blocking;
mod find;
pub(crate) mod globrunq;
pub(crate) mod habit;
mod idle;
pub(crate) mod lock;
pub(crate) mod netpoll;
pub(crate) mod note;
pub(crate) mod os;
mod overflow;
pub(crate) mod pause;
mod procs;
pub(crate) mod quota;
mod ready;
pub(crate) mod runq;
pub(crate) mod scavenge;
mod schedtrace;
pub(crate) mod stall;
mod steal;
pub(crate) mod sysmon;
mod verdict;

pub use blocking::{blocking, blocking_now, on_big_stack};
pub(crate) use find::{forget_current, recall_current, suspend, suspend_yield};
pub(crate) use idle::checkpoint;
pub use procs::set_procs;
pub(crate) use ready::{ready, spawn, spawn_at, spawn_own};
pub use stall::{StallCause, StallReport};

use crate::{
    config::{Config, ConfigError, Wishes},
    debug::{gdb, trace, turns},
    fatal,
    m::{self, M},
    p::P,
    time::heap::{Heap, NEVER},
};
use globrunq::GlobalQueue;
use idle::Idle;
use lock::{Mutex, MutexGuard};
pub(crate) use procs::Procs;
use std::sync::{
    LazyLock, OnceLock,
    atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, SeqCst},
        compiler_fence, fence,
    },
};
use sysmon::Sysmon;

/// All that the scheduler shares. One per process, made at first use.
pub(crate) struct Sched {
    pub(crate) config: Config,
    pub(crate) ps: Procs,
    global: GlobalQueue,
    idle: Mutex<Idle>,
    /// Ps on the idle list: a copy of `idle.ps.len()`, written under its lock.
    idle_ps: AtomicU32,
    /// Ms that look for work, those that were woken to do so included.
    spinning: AtomicU32,
    /// Sleepers whose goroutine had no P to leave them with.
    sleepers: Mutex<Heap>,
    /// When the earliest of `sleepers` is due; written under their lock.
    sleepers_due: AtomicU64,
    /// The idle M that sleeps until the next timer, or null. Written under the idle lock.
    keeper: AtomicPtr<M>,
    /// Until when the keeper sleeps; 0 if there is none, so that nobody tries to wake it. Written by the keeper, or under
    /// the idle lock.
    keeper_until: AtomicU64,
    /// The M that sleeps until a file is ready, or null. Taken under the idle lock, given back by itself.
    poller: AtomicPtr<M>,
    pub(crate) sysmon: Sysmon,
    /// The next number that no P has reserved.
    next_id: AtomicU64,
    /// Goroutines spawned by threads without a P.
    pub(crate) spawned_outside: AtomicU64,
}

/// Numbers that a P reserves at once.
const ID_BATCH: u64 = 1024;

static SCHED: OnceLock<Sched> = OnceLock::new();

/// Set in a forked child: the threads of the scheduler stayed with the parent.
static FORKED: AtomicBool = AtomicBool::new(false);

extern "C" fn in_forked_child() {
    FORKED.store(true, Relaxed);
}

/// The scheduler, started now if it was not yet.
pub(crate) fn sched() -> &'static Sched {
    SCHED.get_or_init(|| match Config::resolve(&Wishes::default()) {
        Ok(config) => Sched::start(config),
        Err(error) => fatal::config(&error),
    })
}

/// Starts the scheduler with these settings.
pub(crate) fn init(config: Config) -> Result<(), ConfigError> {
    let mut fresh = false;
    SCHED.get_or_init(|| {
        fresh = true;
        Sched::start(config)
    });
    if fresh {
        Ok(())
    } else {
        Err(ConfigError::AlreadyStarted)
    }
}

impl Sched {
    fn start(config: Config) -> Self {
        os::make_room_for_files();
        baton_alloc::lease::attach(); // probes membarrier, before any P exists
        // SAFETY: the handler does nothing but store a flag. Should there be no memory for it, a forked child is not told.
        unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
        baton_stack::set_describe(fatal::describe);
        baton_stack::set_on_overflow(overflow::on_overflow);
        if let Err(error) = baton_stack::install() {
            fatal::no_handler(&error);
        }
        scavenge::hook();
        let ps = Procs::new(config.procs, config.follow_quota);
        let sched = Self {
            idle: Mutex::new(Idle::new(ps.iter())),
            idle_ps: AtomicU32::new(u32::try_from(ps.active()).unwrap_or(u32::MAX)),
            ps,
            config,
            global: GlobalQueue::new(),
            spinning: AtomicU32::new(0),
            sleepers: Mutex::new(Heap::new()),
            sleepers_due: AtomicU64::new(NEVER),
            keeper: AtomicPtr::new(std::ptr::null_mut()),
            keeper_until: AtomicU64::new(0),
            poller: AtomicPtr::new(std::ptr::null_mut()),
            sysmon: Sysmon::new(),
            next_id: AtomicU64::new(1),
            spawned_outside: AtomicU64::new(0),
        };
        if sched.config.hooks.any() {
            turns::watch(turns::BY_HOOKS);
        }
        gdb::fill();
        if let Err(why) = trace::start_from_env() {
            fatal::setting(&why);
        }
        sysmon::start();
        sched
    }

    /// Whether any queue holds a goroutine that somebody without work could take, or a timer is due. Exact for a sleeper
    /// that has published itself and issued its barrier; a guess for everybody else.
    fn has_work(&self, now: impl FnOnce() -> u64) -> bool {
        if self.global.len() > 0 || self.ps.iter().any(P::has_loot) {
            return true;
        }
        let due = self.earliest();
        due != NEVER && due <= now()
    }

    /// The kernel's numbers of the threads that Ms have now.
    pub(crate) fn threads(&self) -> Vec<libc::pid_t> {
        self.sysmon.living_ms().iter().map(|m| m.tid.load(Relaxed)).collect()
    }

    /// When the earliest timer of all is due.
    fn earliest(&self) -> u64 {
        let ps = self.ps.iter().map(|p| p.due.load(Acquire)).min().unwrap_or(NEVER);
        ps.min(self.sleepers_due.load(Acquire))
    }

    /// A sleeper was inserted that is due at `when`: the keeper must not sleep longer.
    #[inline]
    pub(crate) fn timer_inserted(&'static self, when: u64) {
        idle::timer_inserted(self, when);
    }

    /// The sleepers that have no P.
    pub(crate) fn lock_sleepers(&self) -> MutexGuard<'_, Heap> {
        self.sleepers.lock()
    }

    /// Says when the earliest of the sleepers without a P is due; the caller holds their lock.
    pub(crate) fn publish_sleepers(&self, heap: &Heap) {
        self.sleepers_due.store(heap.earliest(), SeqCst);
    }

    /// A number for a goroutine that a thread without a P spawns. In a forked child nobody would ever run it, so that is
    /// the end.
    fn fresh_id(&self) -> u64 {
        if FORKED.load(Relaxed) {
            fatal::forked();
        }
        self.next_id.fetch_add(1, Relaxed)
    }
}

/// Whether something else may be running at this moment: on another processor, or, for a plain thread, on another CPU.
#[inline]
pub(crate) fn others_run() -> bool {
    static CPUS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    match m::current() {
        Some(m) if m.world().is_some() => false,
        Some(m) => m.sched.ps.active() > m.sched.idle_ps.load(Relaxed) as usize + 1,
        None => *CPUS > 1,
    }
}

/// The pusher's fence between "push" and "look for sleepers", where it needs one: in membarrier mode the sleeper pays.
#[inline(always)]
fn pusher_fence() {
    compiler_fence(SeqCst);
    if baton_alloc::latch::mode() == baton_alloc::latch::Mode::Fence {
        fence(SeqCst);
    }
}
