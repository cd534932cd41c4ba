//! The P latch: why a P can be taken from a running thread without asking it.
//!
//! ```text
//!   M (one per thread)                         P
//!   ┌──────────────────────────┐               ┌───────────────────────────────────┐
//!   │ state   INSIDE, FENCED   │   m ─────────▶│ lock   held by takers and binders │
//!   │ p, bins[0] ──────────────┼──────────────▶│ m      M | NONE | TAKEN           │
//!   │ home    last P bound     │               │ cache  ─▶ mcache, and whatever    │
//!   └──────────────────────────┘               │        the layers above keep here │
//!                                              └───────────────────────────────────┘
//! ```
//!
//! All that a P owns is plain data. The M that runs P touches it inside a *section*, and a section costs plain stores and
//! a load; whoever wants the P of another M pays for both sides with a barrier on every core. The idea is an asymmetric
//! Dekker: the owner sets `INSIDE`, then loads `p`; the taker clears `p`, then loads `INSIDE`; one of the two sees the
//! other, because the taker's membarrier puts a full fence between the owner's two accesses wherever they are.
//!
//! # Protocol
//!
//! ```text
//! enter      INSIDE; compiler fence (fence mode: INSIDE and FENCED, SeqCst fence); p = M.p, never kept from an earlier
//!            section
//! leave      not INSIDE (Release)
//! take(P)    try P.lock; m = P.m; not an M → fail; m.p = null; membarrier and fence; poll m.state (Acquire):
//!            not INSIDE → ours (still locked); else m.p = P (undo, still locked), unlock, fail
//! look_home  no section open: lock home; home.m == M → it was an undo, or nobody took it; else it is gone for good
//! bind       P.lock; P.m == NONE → P.m = M, M.home = P, M.p = P       (only M itself binds; the undo is the exception)
//! unbind     home.lock; home.m == M → M.p = null, home.m = NONE       (only M itself)
//! borrow(P)  try P.lock; P.m == NONE → ours as long as it is locked; else unlock, take(P)
//! detach     of what was taken: P.m = TAKEN, unlock. Of an idle P: P.lock; P.m == NONE → P.m = TAKEN
//! release    P.lock; P.m = NONE
//! ```
//!
//! # Invariants
//!
//! 1. Every change of `P.m`, `M.p` and `M.home` happens under the lock of the P concerned.
//! 2. `P.m == M` as long as M may be inside a section that uses P. Only a taker that saw M outside after clearing `M.p`
//!    and after the barrier ends that, so there is never more than one owner.
//! 3. M binds another P only after it has seen, under its home's lock, that `home.m != M`; so no undo is under way then.
//! 4. `state` is written by M's own thread alone, and once it has `FENCED` it keeps it.
//! 5. Sections are leaves: no allocation, no lock, no system call, no parking. Debug builds check the nesting.
//! 6. An idle P (`P.m == NONE`) is everybody's: it is touched under its lock. Who wants it for longer makes it `TAKEN`, wherever he
//!    has it from.
//! 7. `M.bins[0]` stands for `M.p`: it is the bins of that P's cache, and changes with it. A section uses one of the two.
//!
//! `tests/explore/latch.rs` explores the protocol exhaustively with store buffers, and shows that the two simpler forms
//! (`inside` kept per P; takers without the lock) let two owners in. `tests/latch_loom.rs` checks this file in fence mode.
//!
//! # The allocator's sections
//!
//! malloc and free open a section with `M::enter_bins`, which asks nothing: it loads `bins[state]`. Of the four, only
//! `bins[0]` ever leads to a cache. The others lead to bins in which nothing can be had, and so does `bins[0]` without a P:
//! then the section does nothing, `state` is put back, and the slow path finds out why. The states:
//!
//! | `state` | M is | a section of the allocator finds |
//! |---|---|---|
//! | 0 | outside, its sections do not fence | the cache of its P, if it has one |
//! | `INSIDE` | inside; or in a section of the allocator that finds nothing | nothing: this is a signal handler |
//! | `FENCED` | outside, all its sections from now on fence | nothing: `enter` fences |
//! | `INSIDE + FENCED` | inside a fenced section | nothing |
//!
//! # Modes
//!
//! Where membarrier(2) is refused, owners fence at every `enter` ([`Mode::Fence`]). A process can also be sandboxed later:
//! takers look at membarrier's result each time, and the first refusal switches all owners over. From then on a take of
//! an M that has not entered a fenced section since (`FENCED`) fails, because that M may still be in an unfenced one. The
//! allocator's own sections do not look at the mode; but a list serves for a while only, and then comes an `enter` that does.
//!
//! # Lock order
//!
//! `P.lock` is taken with no allocator lock held but those of trim and of the leases. Takers of several Ps only try. Under
//! `P.lock` the allocator's locks (mcentral, mheap) may be taken, by whoever drains the cache.

#[cfg(not(baton_loom))]
use crate::{
    bins::{Bins, NO_BINS},
    mcache::Mcache,
    profile,
    sync::AtomicU8,
};
use crate::{
    lock::Lock,
    sync::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, compiler_fence, fence, spin_loop},
    sys::membarrier,
};
use core::{mem::ManuallyDrop, ptr};

#[cfg(baton_loom)]
type Mcache = ();

/// What a thread is to the latch. Type-stable: once made, an M is reused for other threads but never freed.
#[derive(Debug)]
#[repr(C)]
pub struct M {
    /// [`INSIDE`] and [`FENCED`]. Written by this thread alone (invariant 4).
    state: AtomicUsize,
    /// The bins that a section of the allocator uses, by `state`. The first is written under the P's lock (invariants 1
    /// and 7), the others never.
    #[cfg(not(baton_loom))]
    bins: [AtomicPtr<Bins>; 4],
    /// The P that this M runs, or null. Written under the P's lock (invariant 1).
    p: AtomicPtr<P>,
    /// The P that this M bound last. Written by this M, under that P's lock.
    home: AtomicPtr<P>,
    /// The private P that serves this thread while it has no other: see `lease`. Written by this thread alone.
    #[cfg(not(baton_loom))]
    pub(crate) lease: AtomicPtr<P>,
    /// 1 while this thread holds a lock of the allocator. Written by this thread alone.
    #[cfg(not(baton_loom))]
    pub(crate) locked: AtomicU8,
    /// 1 while what runs on this thread is in a blocking call that it has declared. Written by this thread alone, read by
    /// the scheduler's monitor.
    #[cfg(not(baton_loom))]
    pub declared: AtomicU8,
    /// See [`lock_waits`](Self::lock_waits). Written by this thread alone.
    #[cfg(not(baton_loom))]
    pub(crate) lock_waits: AtomicU32,
    /// How many locks of the layers above this thread holds, as far as they count them. Written by this thread alone.
    pub locks: AtomicU32,
    /// How many declared calls have ended on this thread. Written by this thread alone.
    #[cfg(not(baton_loom))]
    pub declared_calls: AtomicU32,
    /// The stack that this thread runs on, for the layer that owns stacks; null for a thread's own. Written by this
    /// thread alone, read by its fault handler.
    pub stack: AtomicPtr<()>,
    /// What the scheduler keeps for this thread; null if it is not one of its own. Written by this thread alone.
    pub sched: AtomicPtr<()>,
}

/// `M.state`: this thread is inside a section.
const INSIDE: usize = 1;
/// `M.state`: this thread has entered a section in fence mode, and will enter no other.
const FENCED: usize = 2;

/// The M of threads that have none: its sections find nothing.
#[cfg(not(baton_loom))]
pub(crate) static NOBODY: M = M::with_state(INSIDE);

/// What kind of P this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A processor of the scheduler: it runs goroutines and carries a queue.
    Processor,
    /// The private P of one thread: it carries an mcache and nothing else.
    Lease,
}

/// The part of a P that the latch and the allocator know. The scheduler's P starts with one of these.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct P {
    /// The mcache that this P carries. A pointer, so that an experiment can leave the cache behind with M.
    cache: AtomicPtr<Mcache>,
    /// An M, [`NONE`] or [`TAKEN`]. Written under `lock`.
    m: AtomicPtr<M>,
    lock: Lock,
    kind: Kind,
}

/// `P.m`: no M runs this P.
const NONE: *mut M = ptr::null_mut();
/// `P.m`: a taker has this P.
const TAKEN: *mut M = ptr::without_provenance_mut(1);

/// How owners and takers of Ps are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Owners pay nothing, takers issue a membarrier.
    Membarrier,
    /// Owners issue a full fence at every section: the kernel refuses membarrier, or `BATON_LATCH=fence` is set.
    Fence,
}

/// Whether owners fence: 0, [`FROM_THE_START`], or [`SINCE_A_REFUSAL`], which does not change any more.
#[cfg(not(baton_loom))]
static FENCE_MODE: AtomicU8 = AtomicU8::new(0);
/// `FENCE_MODE`: no section was ever entered without a fence.
#[cfg(not(baton_loom))]
const FROM_THE_START: u8 = 1;
/// `FENCE_MODE`: an owner may be on its way that saw no reason to fence.
#[cfg(not(baton_loom))]
const SINCE_A_REFUSAL: u8 = 2;

#[inline(always)]
fn fence_mode() -> bool {
    #[cfg(not(baton_loom))]
    return FENCE_MODE.load(Ordering::Relaxed) != 0;
    #[cfg(baton_loom)]
    true
}

/// The mode that owners run in at present.
#[inline]
#[must_use]
pub fn mode() -> Mode {
    if fence_mode() { Mode::Fence } else { Mode::Membarrier }
}

/// Chooses the mode, before the first M is made: a probe, unless the environment forces fences.
#[cfg(not(baton_loom))]
pub(crate) fn init_mode() {
    // SAFETY: getenv reads the environment, which nobody changes while the first M of the process is made.
    let forced = unsafe {
        let value = libc::getenv(c"BATON_LATCH".as_ptr());
        !value.is_null() && core::ffi::CStr::from_ptr(value) == c"fence"
    };
    if forced || !membarrier::register() {
        FENCE_MODE.store(FROM_THE_START, Ordering::SeqCst);
    }
}

/// The number of membarriers issued so far.
#[must_use]
pub fn membarriers() -> u64 {
    membarrier::issued()
}

impl M {
    /// An M that is bound to nothing.
    #[cfg(not(baton_loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self::with_state(0)
    }

    /// An M that is bound to nothing.
    #[cfg(baton_loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            p: AtomicPtr::new(ptr::null_mut()),
            home: AtomicPtr::new(ptr::null_mut()),
            locks: AtomicU32::new(0),
            stack: AtomicPtr::new(ptr::null_mut()),
            sched: AtomicPtr::new(ptr::null_mut()),
        }
    }

    #[cfg(not(baton_loom))]
    const fn with_state(state: usize) -> Self {
        Self {
            state: AtomicUsize::new(state),
            bins: [const { AtomicPtr::new((&raw const NO_BINS).cast_mut()) }; 4],
            p: AtomicPtr::new(ptr::null_mut()),
            home: AtomicPtr::new(ptr::null_mut()),
            lease: AtomicPtr::new(ptr::null_mut()),
            locked: AtomicU8::new(0),
            declared: AtomicU8::new(0),
            lock_waits: AtomicU32::new(0),
            locks: AtomicU32::new(0),
            declared_calls: AtomicU32::new(0),
            stack: AtomicPtr::new(ptr::null_mut()),
            sched: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Whether this thread is inside a section: true only in a signal handler that interrupted one.
    #[inline(always)]
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.state.load(Ordering::Relaxed) & INSIDE != 0
    }

    /// Whether this thread holds a lock of the allocator: true only in a signal handler that interrupted such code.
    #[cfg(not(baton_loom))]
    #[inline]
    #[must_use]
    pub fn holds_lock(&self) -> bool {
        self.locked.load(Ordering::Relaxed) != 0
    }

    /// A count that is odd while this thread sleeps until a lock of the runtime is free that nobody holds for long.
    #[cfg(not(baton_loom))]
    #[inline]
    #[must_use]
    pub fn lock_waits(&self) -> u32 {
        self.lock_waits.load(Ordering::Relaxed)
    }

    /// Opens a section and gives the P that it may use. With `None` the section is open all the same: leave it.
    ///
    /// What the P owns may be touched until [`leave`](Self::leave), and not a moment longer.
    ///
    /// # Safety
    ///
    /// `self` is the calling thread's M, no section of it is open, and `leave` follows with nothing in between that may
    /// allocate, lock, park, call the system or unwind.
    #[inline(always)]
    #[must_use]
    pub unsafe fn enter(&self) -> Option<&'static P> {
        debug_assert!(!self.is_inside(), "a section inside a section");
        if self.state.load(Ordering::Relaxed) != 0 || fence_mode() {
            self.enter_fenced();
        } else {
            self.state.store(INSIDE, Ordering::Relaxed);
        }
        compiler_fence(Ordering::SeqCst);
        // Acquire: what a taker changed in P before it put P back (a thief, an undo) must be seen.
        let p = self.p.load(Ordering::Acquire);
        // SAFETY: M.p is null or a P, and Ps are never freed.
        unsafe { p.as_ref() }
    }

    #[inline]
    fn enter_fenced(&self) {
        // One store: a taker that sees that this M fences also sees that it is inside.
        self.state.store(INSIDE | FENCED, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Closes the section.
    ///
    /// # Safety
    ///
    /// `self` is the calling thread's M, and [`enter`](Self::enter) opened the section (invariant 4).
    #[inline(always)]
    pub unsafe fn leave(&self) {
        debug_assert!(self.is_inside(), "leaving a section that was not entered");
        self.state
            .store(self.state.load(Ordering::Relaxed) & FENCED, Ordering::Release);
    }

    /// Opens a section of the allocator, and gives the bins that it may use and what [`leave_bins`](Self::leave_bins)
    /// wants. May be called inside a section too, and on [`NOBODY`]: then the bins have nothing.
    ///
    /// # Safety
    ///
    /// `self` is the calling thread's M or `NOBODY`, and `leave_bins` follows with nothing in between but a few loads and
    /// stores.
    #[cfg(not(baton_loom))]
    #[inline(always)]
    pub(crate) unsafe fn enter_bins(&self) -> (&'static Bins, usize) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store(INSIDE, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `state` has two bits.
        let bins = unsafe { self.bins.get_unchecked(state) };
        // Acquire: as in `enter`.
        let bins = bins.load(Ordering::Acquire);
        // SAFETY: these are NO_BINS or those of a cache, and caches are never freed.
        (unsafe { &*bins }, state)
    }

    /// Closes a section of the allocator. `state` is what `enter_bins` gave; 0, if the bins had something.
    ///
    /// # Safety
    ///
    /// `self` is the calling thread's M, and [`enter_bins`](Self::enter_bins) opened the section.
    #[cfg(not(baton_loom))]
    #[inline(always)]
    pub(crate) unsafe fn leave_bins(&self, state: usize) {
        self.state.store(state, Ordering::Release);
    }

    /// Makes `p` what sections use. Call it under the lock of that P (invariants 1 and 7).
    #[inline]
    fn set_p(&self, p: Option<&P>) {
        // While the heap is profiled nobody has lists: all go the slow way, where samples are taken.
        #[cfg(not(baton_loom))]
        self.bins[0].store(
            p.filter(|_| !profile::is_on())
                .map_or((&raw const NO_BINS).cast_mut(), |p| p.cache().cast()),
            Ordering::Release,
        );
        // Release: the M must see what was changed in P meanwhile.
        self.p.store(
            p.map_or(ptr::null_mut(), |p| ptr::from_ref(p).cast_mut()),
            Ordering::Release,
        );
    }

    /// Binds `p` to this M, so that its sections use it. Fails if somebody else has `p`.
    ///
    /// # Safety
    ///
    /// `self` is the calling thread's M, no section of it is open, and it is bound to no P (invariant 3): it never was,
    /// or [`unbind`](Self::unbind) or [`look_home`](Self::look_home) said so.
    pub unsafe fn bind(&'static self, p: &'static P) -> bool {
        p.lock.with(|| {
            if p.m.load(Ordering::Relaxed) != NONE {
                return false;
            }
            p.m.store(ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
            self.home.store(ptr::from_ref(p).cast_mut(), Ordering::Relaxed);
            p.note_carrier();
            self.set_p(Some(p));
            true
        })
    }

    /// Gives this M's P up, so that anybody may bind it. Gives the P, or `None` if it was taken before. Waits for a taker
    /// that is at work on that P; so a thread must not call it while it holds its own P [`Taken`].
    ///
    /// # Safety
    ///
    /// `self` is the calling thread's M and no section of it is open.
    #[must_use]
    pub unsafe fn unbind(&self) -> Option<&'static P> {
        // SAFETY: home is null or a P, and Ps are never freed.
        let home = unsafe { self.home.load(Ordering::Relaxed).as_ref() }?;
        home.lock.with(|| {
            if !ptr::eq(home.m.load(Ordering::Relaxed), self) {
                return None;
            }
            self.set_p(None);
            home.m.store(NONE, Ordering::Relaxed);
            Some(home)
        })
    }

    /// As [`unbind`](Self::unbind). If that gave up `lease`, runs `empty` as the owner of that P, unless somebody has it by
    /// then: under its lock, since whoever found it idle meanwhile may be at the same.
    ///
    /// # Safety
    ///
    /// As for `unbind`.
    pub unsafe fn unbind_and_empty<R>(&self, lease: &P, empty: impl FnOnce(&P) -> R) -> Option<R> {
        // SAFETY: as the caller promised.
        let p = unsafe { self.unbind() }.filter(|&p| ptr::eq(p, lease))?;
        p.while_unbound(empty)
    }

    /// Finds out, after `enter` gave `None`, whether this M's P is gone or a taker is about to put it back. Waits for
    /// the taker if `wait` is set.
    ///
    /// # Safety
    ///
    /// `self` is the calling thread's M and no section of it is open.
    #[must_use]
    pub unsafe fn look_home(&self, wait: bool) -> Home {
        // SAFETY: home is null or a P, and Ps are never freed.
        let Some(home) = (unsafe { self.home.load(Ordering::Relaxed).as_ref() }) else {
            return Home::Gone;
        };
        if wait {
            home.lock.lock();
        } else if !home.lock.try_lock() {
            return Home::Busy;
        }
        let back = ptr::eq(home.m.load(Ordering::Relaxed), self);
        // SAFETY: taken above.
        unsafe { home.lock.unlock() };
        if back { Home::Back } else { Home::Gone }
    }

    /// In the child of a fork: lets go of a P whose lock a thread had that is no more.
    #[cfg(not(baton_loom))]
    pub(crate) fn after_fork(&self) {
        if self.home().is_some_and(P::is_locked) {
            self.set_p(None);
            self.home.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }

    /// The P that this M bound last, whether it still has it or not.
    #[must_use]
    pub fn home(&self) -> Option<&'static P> {
        // SAFETY: home is null or a P, and Ps are never freed.
        unsafe { self.home.load(Ordering::Relaxed).as_ref() }
    }

    /// The P that sections of this M would use now: a guess, unless the caller is this M inside a section.
    #[inline]
    #[must_use]
    pub fn p(&self) -> Option<&'static P> {
        // SAFETY: M.p is null or a P, and Ps are never freed.
        unsafe { self.p.load(Ordering::Acquire).as_ref() }
    }
}

impl Default for M {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`M::look_home`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The P is this M's: enter again.
    Back,
    /// The P was taken; the M is bound to nothing and may bind another.
    Gone,
    /// Somebody holds the P's lock, and the caller did not want to wait.
    Busy,
}

impl P {
    /// A P of this kind that carries `cache` and that nobody runs.
    #[must_use]
    pub fn new(kind: Kind, cache: *mut Mcache) -> Self {
        Self {
            cache: AtomicPtr::new(cache),
            m: AtomicPtr::new(NONE),
            lock: Lock::new(),
            kind,
        }
    }

    /// What kind of P this is.
    #[inline(always)]
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The mcache that this P carries.
    #[inline(always)]
    #[must_use]
    pub fn cache(&self) -> *mut Mcache {
        self.cache.load(Ordering::Relaxed)
    }

    /// Makes this P, which no M runs, carry another mcache and gives the one that it carried; `None` if an M runs it.
    ///
    /// # Safety
    ///
    /// Nobody else uses `cache`.
    pub unsafe fn replace_cache(&self, cache: *mut Mcache) -> Option<*mut Mcache> {
        self.lock.with(|| {
            if self.m.load(Ordering::Relaxed) != NONE {
                return None;
            }
            let old = self.cache();
            self.cache.store(cache, Ordering::Relaxed);
            self.note_carrier();
            Some(old)
        })
    }

    /// Tells the cache that this P carries it.
    fn note_carrier(&self) {
        #[cfg(not(baton_loom))]
        // SAFETY: the cache is null in tests, or an mcache; those are never freed.
        if let Some(cache) = unsafe { self.cache().as_ref() } {
            cache.set_carrier(self);
        }
    }

    /// Runs `f`, as the owner of this P, if no M runs it; who wants to bind it waits meanwhile. `None`, and `f` did not
    /// run, if one does, or if somebody has the lock.
    pub fn while_idle<R>(&self, f: impl FnOnce(&Self) -> R) -> Option<R> {
        if !self.lock.try_lock() {
            return None;
        }
        let result = (self.m.load(Ordering::Relaxed) == NONE).then(|| f(self));
        // SAFETY: taken above.
        unsafe { self.lock.unlock() };
        result
    }

    /// As [`while_idle`](Self::while_idle), but waits for the lock.
    pub(crate) fn while_unbound<R>(&self, f: impl FnOnce(&Self) -> R) -> Option<R> {
        self.lock
            .with(|| (self.m.load(Ordering::Relaxed) == NONE).then(|| f(self)))
    }

    /// Makes this P the caller's, if no M runs it and nobody has taken it: nobody binds or borrows it until
    /// [`Detached::release`]. Waits for who borrows it just now.
    #[must_use]
    pub fn detach_idle(&'static self) -> Option<Detached> {
        self.lock.with(|| {
            let idle = self.m.load(Ordering::Relaxed) == NONE;
            idle.then(|| {
                self.m.store(TAKEN, Ordering::Relaxed);
                Detached { p: self }
            })
        })
    }

    /// Runs `f`, as the owner of this P, if no M runs it, or if the one that does is in no section; who wants to bind or to
    /// use it waits meanwhile. `None`, and `f` did not run, if that cannot be had without waiting.
    pub fn borrow<R>(&'static self, f: impl FnOnce(&Self) -> R) -> Option<R> {
        let mut f = Some(f);
        let mut run = |p: &Self| f.take().map(|f| f(p));
        if let Some(result) = self.while_idle(&mut run) {
            return result;
        }
        let taken = self.take()?;
        run(taken.p())
    }

    /// Whether somebody has the lock: for the child of a fork, where that is for ever.
    #[cfg(not(baton_loom))]
    pub(crate) fn is_locked(&self) -> bool {
        let free = self.lock.try_lock();
        if free {
            // SAFETY: taken above.
            unsafe { self.lock.unlock() };
        }
        !free
    }

    /// Makes the M that runs this P look again whether the allocator's sections may use lists.
    #[cfg(not(baton_loom))]
    pub(crate) fn renew(&self) {
        self.lock.with(|| {
            if let Some(m) = self.m() {
                m.set_p(Some(self));
            }
        });
    }

    /// Whether an M runs this P at present: a guess.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        let m = self.m.load(Ordering::Relaxed);
        m != NONE && m != TAKEN
    }

    /// The M that runs this P at present: a guess, but Ms are never freed.
    #[must_use]
    pub fn m(&self) -> Option<&'static M> {
        let m = self.m.load(Ordering::Relaxed);
        if m == NONE || m == TAKEN {
            return None;
        }
        // SAFETY: what is neither NONE nor TAKEN is an M, and Ms are never freed.
        unsafe { m.as_ref() }
    }

    /// Takes this P from the M that runs it, if that M is in no section now: one [`suspect`](Self::suspect), one
    /// [`barrier`], one [`Suspect::confirm`].
    #[must_use]
    pub fn take(&'static self) -> Option<Taken> {
        let suspect = self.suspect()?;
        let barrier = barrier();
        // SAFETY: the barrier came after the suspect.
        unsafe { suspect.confirm(&barrier) }
    }

    /// The first step of a take: locks P and clears its M's `p`. Fails if no M runs P, or if somebody has the lock.
    ///
    /// From here to the end of the take the M cannot enter a section; keep the time short.
    #[must_use]
    pub fn suspect(&'static self) -> Option<Suspect> {
        if !self.is_bound() || !self.lock.try_lock() {
            return None;
        }
        let Some(m) = self.m() else {
            // SAFETY: taken above.
            unsafe { self.lock.unlock() };
            return None;
        };
        m.set_p(None);
        Some(Suspect { p: self, m })
    }
}

/// A barrier between the clearing of suspects' `p` and the look at their `state`. One serves any number of suspects.
#[derive(Debug)]
pub struct Barrier {
    reached_all: bool,
    /// Owners have fenced from the start.
    fenced: bool,
}

impl Barrier {
    /// Whether it ordered what the owners' side of such a protocol does, in whatever mode they are. `false` once the kernel has
    /// refused the barrier to owners that did not fence: nobody knows when the last of them has noticed.
    #[must_use]
    pub fn orders_owners(&self) -> bool {
        self.reached_all || self.fenced
    }
}

/// Issues the barrier. Call it after the last [`P::suspect`] and before the first [`Suspect::confirm`].
#[must_use]
pub fn barrier() -> Barrier {
    fence(Ordering::SeqCst);
    #[cfg(not(baton_loom))]
    let fenced = FENCE_MODE.load(Ordering::Relaxed) == FROM_THE_START;
    #[cfg(not(baton_loom))]
    let reached_all = !fence_mode() && {
        let reached = membarrier::barrier();
        if !reached {
            // The process sandboxed itself after the start: from now on owners fence.
            FENCE_MODE.store(SINCE_A_REFUSAL, Ordering::SeqCst);
        }
        reached
    };
    #[cfg(baton_loom)]
    let (fenced, reached_all) = (true, false);
    Barrier { reached_all, fenced }
}

/// A P whose lock is held and whose M cannot enter a new section. Dropped, it is put back as it was.
#[derive(Debug)]
pub struct Suspect {
    p: &'static P,
    m: &'static M,
}

impl Suspect {
    /// The P that is suspected.
    #[must_use]
    pub fn p(&self) -> &'static P {
        self.p
    }

    /// The second step of a take: P is ours if its M is in no section, or leaves it within about a microsecond.
    ///
    /// # Safety
    ///
    /// The barrier was issued after this suspect was made.
    #[must_use]
    pub unsafe fn confirm(self, barrier: &Barrier) -> Option<Taken> {
        for _ in 0..POLLS {
            let state = self.m.state.load(Ordering::Acquire);
            if !barrier.reached_all && state & FENCED == 0 {
                return None; // the M may be in an unfenced section from before the switch to fences; `drop` puts P back
            }
            if state & INSIDE == 0 {
                return Some(Taken { suspect: self });
            }
            spin_loop();
        }
        None
    }
}

/// Looks at `state` before a taker gives up: about a microsecond.
#[cfg(not(baton_loom))]
const POLLS: u32 = 40;
#[cfg(baton_loom)]
const POLLS: u32 = 1;

impl Drop for Suspect {
    fn drop(&mut self) {
        self.m.set_p(Some(self.p));
        // SAFETY: `suspect` took the lock.
        unsafe { self.p.lock.unlock() };
    }
}

/// Exclusive use of a P. Dropped, the P goes back to the M that it was taken from (a thief is done in a moment);
/// [`detach`](Self::detach) keeps it.
#[derive(Debug)]
pub struct Taken {
    suspect: Suspect,
}

impl Taken {
    /// The P that was taken.
    #[must_use]
    pub fn p(&self) -> &'static P {
        self.suspect.p
    }

    /// The M that it was taken from.
    #[must_use]
    pub fn m(&self) -> &'static M {
        self.suspect.m
    }

    /// Keeps the P: the M that had it is bound to nothing from now on. The P belongs to the caller until
    /// [`Detached::release`].
    #[must_use]
    pub fn detach(self) -> Detached {
        let this = ManuallyDrop::new(self);
        let p = this.suspect.p;
        p.m.store(TAKEN, Ordering::Relaxed);
        // SAFETY: `suspect` took the lock, and the drop that would release it does not run.
        unsafe { p.lock.unlock() };
        Detached { p }
    }
}

/// A P that was taken for good, by [`Taken::detach`] or [`P::detach_idle`]. Dropped, it is released.
#[derive(Debug)]
pub struct Detached {
    p: &'static P,
}

impl Detached {
    /// The P.
    #[must_use]
    pub fn p(&self) -> &'static P {
        self.p
    }

    /// Lets go of the P, so that any M may bind it.
    pub fn release(self) {}
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.p.lock.with(|| self.p.m.store(NONE, Ordering::Relaxed));
    }
}
