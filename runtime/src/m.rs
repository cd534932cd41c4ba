//! M, the machine: an OS thread that runs goroutines while it has a P.
//!
//! ```text
//!   thread ─ M ─ latch::M ─▶ P (while it has one)
//!                │
//!                ├─ g0: the thread's own stack, where `sched::run` looks for goroutines
//!                └─ cur: the goroutine that runs now, on its own stack
//! ```
//!
//! Plain threads have a latch M too (it holds their lease of an mcache) but no M of the scheduler: `current` is `None`
//! there, and everything that waits parks the thread itself.

use crate::{
    debug::{
        probe::Probe,
        trace::{self, Lane},
    },
    g::{Body, G},
    metrics::Counters,
    p::{Own, P},
    park::Commit,
    pinned::Inbox,
    sched::{Sched, habit::Seen, note::Note},
    site::Site,
    testing::world::World,
};
use baton_alloc::{
    current,
    latch::{self, Home},
    lease,
    mcache::Mcache,
};
use baton_stack::Desc;
use std::{
    cell::Cell,
    ffi::c_int,
    ptr::NonNull,
    sync::atomic::{
        AtomicBool, AtomicI32, AtomicPtr, AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

/// A thread of the scheduler. Never freed. On cache lines of its own, and of pairs of lines: it is written at each switch, and where two Ms
/// shared one a yield among 1,000 took 43 ns instead of 20.
#[repr(align(128))]
pub(crate) struct M {
    /// The latch's half; set once by the thread itself, before anything else.
    latch: AtomicPtr<latch::M>,
    pub(crate) sched: &'static Sched,
    pub(crate) id: u32,
    /// What this M sleeps on when it is idle.
    pub(crate) note: Note,
    /// Whether this M sleeps, if it does, where files wake it: `sched::netpoll`.
    pub(crate) polls: AtomicBool,
    /// Whether this M counts as spinning. Set by the waker before the wake, else by this M.
    pub(crate) spinning: AtomicBool,
    /// Times in a row that this M got up because others had goroutines waiting, and came back without any; this thread's.
    pub(crate) in_vain: Cell<u32>,
    /// The goroutine on this M now; this thread's.
    cur: Cell<*mut G>,
    /// Its body; this thread's.
    pub(crate) body: Cell<*mut Body>,
    /// Where this thread has its errno; set by the thread itself, before anything else.
    errno: Cell<*mut c_int>,
    /// What g0 is to do for the goroutine that just suspended; `None` if it only yielded. This thread's.
    pub(crate) commit: Cell<Option<Commit>>,
    /// Set by the monitor when it takes this M's P because the thread sleeps undeclared; cleared when this M binds a P.
    pub(crate) found_asleep: AtomicBool,
    /// What this thread had done when a goroutine that blocks by habit was last seen to run here without a P; this thread's.
    pub(crate) seen: Cell<Option<Seen>>,
    /// Goroutines may be pinned to this M, so its thread must not end; this thread's.
    pub(crate) pins: Cell<bool>,
    /// The kernel's number of this thread; set by the thread itself, before anything else.
    pub(crate) tid: AtomicI32,
    /// The number of the goroutine that ran here last; written by this thread.
    pub(crate) goroutine: AtomicU64,
    /// Its site, or null; written by this thread.
    site: AtomicPtr<Site>,
    /// Null, but in the control experiment the mcache that this M keeps for itself.
    pub(crate) cache: AtomicPtr<Mcache>,
    /// Goroutines that only this M may run.
    pub(crate) inbox: Inbox,
    /// The simulation that this M runs, or null; this thread's.
    pub(crate) world: Cell<*const World>,
    /// What this M counted; written by this thread, read by anybody.
    pub(crate) counters: Counters,
    /// Its part in a trace.
    pub(crate) lane: Lane,
    /// Somebody is to be told when the goroutine that runs here stops; this thread's.
    pub(crate) is_watched: Cell<bool>,
    /// How dumps look at the goroutine that runs here.
    pub(crate) probe: Probe,
}

// SAFETY: the cells are touched by the M's own thread alone; all else is atomic or constant.
unsafe impl Sync for M {}
// SAFETY: an M is handed to its thread once, before the thread runs.
unsafe impl Send for M {}

/// The M of this thread, if it is one of the scheduler's.
///
/// Good until the next parking call: a goroutine may go on on another M after that.
#[inline(always)]
pub(crate) fn current() -> Option<&'static M> {
    M::of(current::m()?)
}

/// The running goroutine and its M; `None` in a plain thread and on g0.
#[inline(always)]
pub(crate) fn current_goroutine() -> Option<(&'static M, NonNull<G>)> {
    let m = current()?;
    Some((m, NonNull::new(m.cur.get())?))
}

impl M {
    pub(crate) fn new(id: u32, sched: &'static Sched) -> Self {
        Self {
            latch: AtomicPtr::new(std::ptr::null_mut()),
            sched,
            id,
            note: Note::new(),
            polls: AtomicBool::new(false),
            spinning: AtomicBool::new(false),
            in_vain: Cell::new(0),
            cur: Cell::new(std::ptr::null_mut()),
            body: Cell::new(std::ptr::null_mut()),
            errno: Cell::new(std::ptr::null_mut()),
            commit: Cell::new(None),
            found_asleep: AtomicBool::new(false),
            seen: Cell::new(None),
            pins: Cell::new(false),
            tid: AtomicI32::new(0),
            goroutine: AtomicU64::new(0),
            site: AtomicPtr::new(std::ptr::null_mut()),
            cache: AtomicPtr::new(std::ptr::null_mut()),
            inbox: Inbox::new(),
            world: Cell::new(std::ptr::null()),
            counters: Counters::default(),
            lane: Lane::new(),
            is_watched: Cell::new(false),
            probe: Probe::new(),
        }
    }

    /// The scheduler's half of an M, if its thread is one of the scheduler's.
    #[inline(always)]
    pub(crate) fn of(latch: &latch::M) -> Option<&'static Self> {
        // SAFETY: the slot is null or an M of ours, and Ms are never freed.
        unsafe { latch.sched.load(Relaxed).cast::<Self>().as_ref() }
    }

    /// Makes the calling thread this M's.
    pub(crate) fn adopt_thread(&'static self) {
        let latch = lease::attach();
        self.latch.store(std::ptr::from_ref(latch).cast_mut(), Release);
        // SAFETY: gettid has no preconditions.
        self.tid.store(unsafe { libc::gettid() }, Relaxed);
        // SAFETY: has no preconditions either.
        self.errno.set(unsafe { libc::__errno_location() });
        if self.sched.config.cache_with_m && self.cache.load(Relaxed).is_null() {
            let Some(cache) = baton_alloc::new_cache() else {
                crate::fatal::out_of_memory("an mcache", 0);
            };
            self.cache.store(cache, Relaxed);
        }
        latch.sched.store(std::ptr::from_ref(self).cast_mut().cast(), Release);
    }

    /// Makes the calling thread a plain one again: for the M of a simulation, which is over.
    pub(crate) fn leave_thread(&self) {
        self.latch().sched.store(std::ptr::null_mut(), Release);
    }

    /// The simulation that this M runs.
    #[inline]
    pub(crate) fn world(&self) -> Option<&'static World> {
        // SAFETY: null, or a world that owns this M and lives as long.
        unsafe { self.world.get().as_ref() }
    }

    /// Tells the monitor which goroutine this M runs from now on, by its number and site.
    #[inline]
    pub(crate) fn show(&self, goroutine: u64, site: Option<&'static Site>) {
        self.goroutine.store(goroutine, Relaxed);
        let site = site.map_or(std::ptr::null_mut(), |site| std::ptr::from_ref(site).cast_mut());
        self.site.store(site, Relaxed);
    }

    /// The site of the goroutine that ran here last.
    pub(crate) fn site(&self) -> Option<&'static Site> {
        // SAFETY: null or a site, and sites are statics.
        unsafe { self.site.load(Relaxed).as_ref() }
    }

    /// The latch's half.
    #[inline(always)]
    pub(crate) fn latch(&self) -> &'static latch::M {
        // SAFETY: set before the M was known to anybody who could ask, to a latch M, and those are never freed.
        unsafe { &*self.latch.load(Relaxed) }
    }

    /// Where this thread has its errno: one and the same address as long as it lives.
    #[inline(always)]
    pub(crate) fn errno(&self) -> *mut c_int {
        self.errno.get()
    }

    /// Makes `g` the goroutine that runs on this M, or none.
    #[inline]
    pub(crate) fn set_current(&self, g: *mut G, body: *mut Body) {
        self.cur.set(g);
        self.body.set(body);
        // SAFETY: a body that is not null is bound to a goroutine that this M holds.
        let stack = unsafe { body.as_ref() }.map_or(std::ptr::null_mut(), |b| b.desc().as_word());
        self.latch().stack.store(stack, Relaxed);
    }

    /// The stack of the goroutine that runs on this M.
    #[inline]
    pub(crate) fn desc(&self) -> &'static Desc {
        let body = NonNull::new(self.body.get()).expect("a goroutine has a body");
        // SAFETY: the body of the running goroutine, which this thread's M holds.
        unsafe { body.as_ref() }.desc()
    }

    /// Forgets which goroutine runs, while its stack is still in use.
    pub(crate) fn forget_goroutine(&self) {
        self.cur.set(std::ptr::null_mut());
    }

    /// The goroutine runs, but must not suspend for a while (`false`), or may again.
    pub(crate) fn may_suspend(&self, g: NonNull<G>, may: bool) {
        self.cur.set(if may { g.as_ptr() } else { std::ptr::null_mut() });
    }

    /// One section on this M's P: `None`, with `f` not called, if it has none just now.
    ///
    /// # Safety
    ///
    /// This is the calling thread's M, and `f` does nothing that a section must not do: allocate, lock, call the system,
    /// park or unwind.
    #[inline(always)]
    pub(crate) unsafe fn section<R>(&self, f: impl FnOnce(&'static P, &mut Own) -> R) -> Option<R> {
        let latch = self.latch();
        // SAFETY: as the caller promised; `leave` follows below.
        let p = unsafe { latch.enter() }.and_then(P::of);
        // SAFETY: inside a section that uses P, this M is its owner.
        let result = p.map(|p| f(p, unsafe { p.own() }));
        // SAFETY: entered above.
        unsafe { latch.leave() };
        result
    }

    /// A section on this M's P, tried again if a thief only borrowed it: `None` if this M has no P.
    ///
    /// # Safety
    ///
    /// As for `section`, which calls `f` at most once.
    #[inline(always)]
    pub(crate) unsafe fn with_p<R>(&self, mut f: impl FnMut(&'static P, &mut Own) -> R) -> Option<R> {
        loop {
            // SAFETY: as the caller promised.
            let result = unsafe { self.section(&mut f) };
            if result.is_some() || !self.has_p() {
                return result;
            }
        }
    }

    /// Whether this M has a P; waits for a thief to put it back.
    #[inline]
    pub(crate) fn has_p(&self) -> bool {
        match self.latch().p() {
            Some(p) => p.kind() == latch::Kind::Processor,
            None => self.look_home(),
        }
    }

    /// Whether what a thief, or the scavenger, puts back is a processor: it may as well have been the thread's lease.
    #[cold]
    fn look_home(&self) -> bool {
        // SAFETY: callers are on this M's thread, outside sections.
        while unsafe { self.latch().look_home(true) } == Home::Back {
            if let Some(p) = self.latch().p() {
                return p.kind() == latch::Kind::Processor;
            }
        }
        false
    }

    /// Makes `p`, which the caller has taken off the idle list, this M's.
    pub(crate) fn bind(&self, p: &'static P) {
        lease::give_back(self.latch());
        trace::bound(self, p);
        self.found_asleep.store(false, Relaxed);
        self.seen.set(None); // it is about turns without a P in a row
        let cache = self.cache.load(Relaxed);
        if !cache.is_null() {
            // The control experiment: the cache belongs to M and comes along with it.
            // SAFETY: nobody runs P, and only this M's P uses the cache.
            unsafe { p.latch.replace_cache(cache) };
        }
        // SAFETY: this thread's M, outside sections, and without its lease it is bound to nothing.
        let bound = unsafe { self.latch().bind(&p.latch) };
        assert!(bound, "a P on the idle list is nobody's");
    }

    /// Gives this M's P up, if it has one still.
    pub(crate) fn unbind(&self) -> Option<&'static P> {
        if self.latch().p().is_some_and(|p| p.kind() == latch::Kind::Lease) {
            return None;
        }
        trace::unbound(self);
        // SAFETY: this thread's M, outside sections.
        unsafe { self.latch().unbind() }.and_then(P::of)
    }
}
