//! The scavenger: gives physical pages back that the program does not need any more.
//!
//! ```text
//!   frees ─▶ free pages that are still backed  ── 16 MiB ──▶ thread `baton-scav`, a look every 250 ms
//!                                                              │ 1. caches and chains that nobody used since: flush
//!            one second's peak + 1/32 = what may stay ◀───────│ 2. hooks: whatever the layers above keep (stacks)
//!            whole huge pages first, highest address first ◀───│ 3. pages beyond the goal: madvise, in paces
//!                                                              └ 4. two seconds without work: the thread ends
//! ```
//!
//! **What stays.** The highest number of pages that were in use within the last second, and 1/32 of that, at least 2 MiB:
//! a program that goes up and down within a second keeps its pages, and one second after a load falls they go. The
//! lowest addresses stay, since those are handed out first.
//!
//! **Huge pages.** Aligned blocks of 2 MiB that are free all over go first: that gives most back for a call and breaks no huge
//! page up. Shorter runs follow, because a heap that has only those would else never shrink.
//!
//! **What the kernel refuses** stays: memory that the program has locked (`mlock`). The search goes from the highest address down
//! and never up again, so a sweep asks for nothing twice, and what lies below is found all the same. Where all is locked
//! (`mlockall`) it gives up after some refusals.
//!
//! **Pace.** It gives back 8 MiB at most at a time, so the pages that it has in its hands are few, and after every two
//! milliseconds of work it sleeps for as long: it takes at most half a processor. (Time that it waits for a processor
//! does not count: on a busy machine it would else come to nothing.)
//!
//! **Life of the thread.** Nobody starts it before there is something to do, and it ends when there is nothing left; so it
//! keeps no process alive whose other threads have ended, and a forked child gets one of its own when it needs it. It
//! blocks all signals and has no memory but its stack. Where the heap serves the C library as well, only allocations start it
//! ([`frees_start_no_thread`]). `BATON_SCAVENGE=off`, or [`Alloc::set_scavenger`]`(false)`, keeps it
//! from starting; then runs of 1 MiB and more go back when they are freed, and the rest by [`Alloc::release_free`].
//!
//! **The limit** ([`Alloc::set_memory_limit`], `BATON_MEMORY_LIMIT`) is soft: when pages are handed out that make the heap larger than
//! that, free pages are given back at once, by the thread that allocates; if that is not enough, the scavenger empties
//! all caches and calls the hooks. What the program holds stays, whatever the limit.
//!
//! # Who may touch what
//!
//! The statics here are atomics that anybody reads and writes. Pages are taken out of the page allocator before they are
//! given back, so nobody else has them meanwhile, and no lock is held during the call to the kernel.
//!
//! Hooks are called under `CALLING`, one thread at a time: a fork waits for it, so that no lock that a hook takes is held by it in the
//! child. It comes before `Trim` and before all that hooks take. Who holds it notes no rank, because a hook may free objects.

use crate::{
    Alloc, Lock,
    arena::ArenaKind,
    current, lease,
    mheap::{self, Backed, Goal},
    requests::Requests,
    sizeclass::PAGE,
    sys::{
        clock, env, mem,
        thread::{self, Task},
    },
    trim::{Trim, trim},
};
use core::{
    ptr,
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release as Publish},
    },
    time::Duration,
};

/// Free pages that are still backed, before the thread is started for them: 16 MiB.
pub(crate) const START: usize = (16 << 20) / PAGE;
/// The least that stays: 2 MiB.
const MARGIN: usize = (2 << 20) / PAGE;
/// The pages of one step: 8 MiB.
const STEP: usize = (8 << 20) / PAGE;
/// Work from one rest to the next.
const SPELL: Duration = Duration::from_millis(2);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(250);
/// Looks that a peak is remembered for.
const WINDOW: usize = 4;
/// Looks without work after which the thread ends.
const PATIENCE: u32 = 8;
/// Looks from one call of the hooks to the next.
const HOOKS_EVERY: u32 = 4;
/// Refusals of the kernel, one after the other, after which the rest is taken for locked as well.
const REFUSALS: u32 = 256;

/// How much a hook is to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// What has not been used since the last call, about a second ago.
    Unused,
    /// Everything that is not in use: memory is short, or the program asked for it.
    All,
}

/// What [`on_release`] registers.
pub type Hook = fn(Release);

/// Filled from the first on; emptied only in the child of a fork.
static HOOKS: [AtomicPtr<()>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];
/// Held while hooks are called.
static CALLING: Lock = Lock::new();

/// Whether the thread may be started.
static ENABLED: AtomicBool = AtomicBool::new(true);
/// Whether frees start it too.
static FREES_START: AtomicBool = AtomicBool::new(true);
/// The thread, and whether it is wanted.
static REQUESTS: Requests = Requests::new();
/// Bytes; `usize::MAX` for no limit.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Pages given back to the kernel since the start.
static RELEASED: AtomicUsize = AtomicUsize::new(0);

/// Reads the environment. Called once, before the first object is handed out.
pub(crate) fn init() {
    if env::is(c"BATON_SCAVENGE", c"off") {
        ENABLED.store(false, Relaxed);
    }
    if let Some(bytes) = env::bytes(c"BATON_MEMORY_LIMIT") {
        LIMIT.store(bytes, Relaxed);
    }
}

/// Has `hook` called when memory is to be given back: about once a second while the scavenger is at work, and at once when
/// memory is short or [`Alloc::release_free`] is called. One that is registered already stays so, once, and that costs next to nothing.
/// `false`: there are eight others.
///
/// For layers that keep memory for later, such as pools of stacks. A hook runs on the scavenger's thread, or on the one
/// that calls `release_free`, one hook at a time, with no lock held that allocation takes. It must not panic, must not allocate, must not
/// have hooks called itself, and should take locks only for a moment: a fork waits for it to end. It cannot be unregistered. The child of
/// a fork has no hooks until they are registered there: what those of the parent lock may be held by threads that the child does not
/// have. So who registers one does it again when it has something new to give back.
///
/// ```
/// use baton_alloc::{
///     Alloc,
///     scavenge::{Release, on_release},
/// };
/// use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
///
/// static CALLED: AtomicBool = AtomicBool::new(false);
/// assert!(on_release(|how| CALLED.store(how == Release::All, SeqCst)));
/// Alloc::release_free();
/// assert!(CALLED.load(SeqCst));
/// ```
#[must_use]
pub fn on_release(hook: Hook) -> bool {
    let hook = hook as *mut ();
    HOOKS.iter().any(|slot| {
        let there = slot.load(Relaxed);
        let put = || slot.compare_exchange(ptr::null_mut(), hook, Publish, Relaxed);
        there == hook || there.is_null() && put().err().is_none_or(|there| there == hook)
    })
}

fn call_hooks(how: Release) {
    CALLING.with_long(|| {
        for slot in &HOOKS {
            let hook = slot.load(Acquire);
            if !hook.is_null() {
                // SAFETY: `on_release` put a `Hook` there.
                let hook = unsafe { core::mem::transmute::<*mut (), Hook>(hook) };
                hook(how);
            }
        }
    });
}

/// The lock under which hooks are called, for fork.
pub(crate) fn calling() -> &'static Lock {
    &CALLING
}

/// Sees to it that the environment has been read, which goes before what the program says later, and that this thread has an M: see
/// `guarded`.
fn initialised() {
    lease::try_attach();
}

/// Whether the scavenger may run.
pub(crate) fn enabled() -> bool {
    ENABLED.load(Relaxed)
}

impl Alloc {
    /// Allows or forbids the background thread that gives unused memory back. Forbidden, a running one ends within a
    /// quarter of a second; then runs of 1 MiB and more go back when they are freed, and everything else only by
    /// [`release_free`](Self::release_free) or the memory limit.
    ///
    /// ```
    /// baton_alloc::Alloc::set_scavenger(false);
    /// assert!(!baton_alloc::Alloc::scavenger());
    /// ```
    pub fn set_scavenger(enabled: bool) {
        initialised();
        ENABLED.store(enabled, Relaxed);
    }

    /// Whether the background thread may run: not after [`set_scavenger`](Self::set_scavenger)`(false)`, nor under
    /// `BATON_SCAVENGE=off`.
    #[must_use]
    pub fn scavenger() -> bool {
        initialised();
        enabled()
    }

    /// Sets the soft limit on the bytes that the heap takes, or with `None` takes it away. Gives the limit that there was.
    ///
    /// Counted are pages of objects, free ones included that were not given back, whether the program has written to them
    /// or not; the scavenger also compares the limit with what the process takes as a whole, where /proc tells. A heap
    /// above the limit gives back what it can, at once and again and again; allocation goes on whatever comes of it.
    ///
    /// ```
    /// use baton_alloc::Alloc;
    ///
    /// Alloc::set_memory_limit(Some(512 << 20));
    /// assert_eq!(Alloc::memory_limit(), Some(512 << 20));
    /// assert_eq!(Alloc::set_memory_limit(None), Some(512 << 20));
    /// ```
    pub fn set_memory_limit(bytes: Option<usize>) -> Option<usize> {
        initialised();
        let before = LIMIT.swap(bytes.unwrap_or(usize::MAX), Relaxed);
        let over = mheap::over(limit_pages());
        if over > 0 {
            trim(Trim::All);
            call_hooks(Release::All);
            release_pages(over, Pace::Run);
        }
        Some(before).filter(|&limit| limit != usize::MAX)
    }

    /// The soft limit in bytes on what the heap takes; `None` if there is none.
    #[must_use]
    pub fn memory_limit() -> Option<usize> {
        initialised();
        Some(LIMIT.load(Relaxed)).filter(|&limit| limit != usize::MAX)
    }

    /// Gives back at once all that is not in use: what lies in the caches of all threads that are not in the midst of a
    /// request, what the [hooks](on_release) find, and all free pages. Gives the number of bytes of pages that went.
    ///
    /// Takes some milliseconds for each hundred megabytes, and what follows is slower for a while, because pages and lists
    /// have to be filled again. For the moment after which little memory is needed for long.
    ///
    /// ```
    /// drop(vec![1_u8; 64 << 20]);
    /// baton_alloc::Alloc::release_free();
    /// ```
    #[expect(clippy::must_use_candidate, reason = "most call it for its effect")]
    pub fn release_free() -> usize {
        initialised();
        trim(Trim::All);
        call_hooks(Release::All);
        release_pages(usize::MAX, Pace::Run) * PAGE
    }
}

/// The limit in pages of the heap.
#[inline]
pub(crate) fn limit_pages() -> usize {
    LIMIT.load(Relaxed) / PAGE
}

/// Bytes of pages that were given back to the kernel since the start.
pub(crate) fn released() -> usize {
    RELEASED.load(Relaxed) * PAGE
}

/// Has the scavenger started by allocations alone from now on: frees only note that it is wanted. (One that runs they still wake.)
///
/// For a heap that is the C library's `malloc`. That frees a thread's memory under a lock which it also takes to make a thread;
/// it never allocates under that lock.
pub fn frees_start_no_thread() {
    FREES_START.store(false, Relaxed);
}

/// Asks for the scavenger: a hook's owner has memory that may go if nobody uses it soon. (The heap itself asks when 16 MiB
/// of its own are free.) Costs next to nothing if it runs already; not to be called inside a section of the latch.
///
/// ```
/// baton_alloc::scavenge::want();
/// ```
pub fn want() {
    initialised(); // a thread without an M starts nothing
    REQUESTS.note();
    nudge();
}

/// Notes, under whatever lock, that there is work; the next [`nudge`] sees to it.
pub(crate) fn note_work() {
    REQUESTS.note();
}

/// Starts the thread if it is wanted and this is a place where that can be done. By who allocates.
#[inline]
pub(crate) fn nudge() {
    if REQUESTS.is_noted() {
        start(true);
    }
}

/// As [`nudge`], by who has freed something.
#[inline]
pub(crate) fn nudge_after_free() {
    if REQUESTS.is_noted() {
        start(FREES_START.load(Relaxed));
    }
}

/// Starts the thread, if one may be `made` here, or wakes the one that there is.
#[cold]
#[inline(never)]
fn start(made: bool) {
    if !ENABLED.load(Relaxed) {
        return;
    }
    // Making a thread takes locks of the C library's and may allocate: not under a lock of ours, not inside a section. A thread
    // without an M is just getting one, with the lock of the leases, or is the scavenger. Somebody else comes by later.
    if current::m().is_none_or(|m| m.is_inside() || m.locked.load(Relaxed) != 0) {
        return;
    }
    if !made {
        if REQUESTS.is_running() {
            REQUESTS.wake();
        }
    } else if REQUESTS.claim() {
        REQUESTS.take();
        mheap::scavenger_runs(true);
        if !thread::spawn(&TASK) {
            // The next who frees a good deal tries again.
            mheap::scavenger_runs(false);
            REQUESTS.resign();
        }
    } else {
        REQUESTS.wake();
    }
}

static TASK: Task = Task {
    name: c"baton-scav",
    run,
};

/// The thread.
fn run() {
    let mut peaks = [0; WINDOW];
    let mut idle = 0;
    for look in 0_u32.. {
        let worked = {
            peaks[look as usize % WINDOW] = mheap::take_peak();
            let peak = peaks.into_iter().max().unwrap_or(0);
            look_around(look, peak)
        };
        idle = if worked { 0 } else { idle + 1 };
        if idle >= PATIENCE || !ENABLED.load(Relaxed) {
            mheap::scavenger_runs(false);
            if REQUESTS.end() {
                return;
            }
            mheap::scavenger_runs(true);
        }
        // Memory that is short does not wait for the next look, or not as long.
        if REQUESTS.take() {
            idle = 0;
            thread::sleep(LOOK / 8);
        } else {
            REQUESTS.sleep(LOOK);
        }
    }
}

/// One look: says whether there was anything to do.
fn look_around(look: u32, peak: usize) -> bool {
    let limit = LIMIT.load(Relaxed);
    let short = limit != usize::MAX && (mheap::over(limit / PAGE) > 0 || mem::resident().is_some_and(|r| r > limit));
    let trimmed = trim(if short { Trim::All } else { Trim::Unused });
    if short {
        call_hooks(Release::All);
    } else if look % HOOKS_EVERY == HOOKS_EVERY - 1 {
        call_hooks(Release::Unused);
    }
    let goal = if short { 0 } else { peak + (peak / 32).max(MARGIN) };
    let released = release_pages(mheap::excess(goal), Pace::Walk);
    trimmed || released > 0
}

/// Whether to sleep between steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Walk,
    Run,
}

/// Gives back up to so many free pages. Gives how many went.
fn release_pages(want: usize, pace: Pace) -> usize {
    let mut released = 0;
    let mut spell = Duration::ZERO;
    let kinds = [ArenaKind::Object, ArenaKind::Stack];
    let sweeps = [Goal::HugePages, Goal::Anything].into_iter();
    for (goal, kind) in sweeps.flat_map(|goal| kinds.map(|kind| (goal, kind))) {
        let (mut below, mut refused) = (usize::MAX, 0);
        while released < want && refused < REFUSALS {
            let start = clock::worked();
            let Some(run) = mheap::take_backed(kind, goal, below, (want - released).min(STEP)) else {
                break;
            };
            below = run.base.addr().get();
            if release_run(kind, run) {
                released += run.backed;
                refused = 0;
            } else {
                refused += 1;
            }
            spell += clock::worked().saturating_sub(start);
            if pace == Pace::Walk && spell >= SPELL {
                thread::sleep(spell);
                spell = Duration::ZERO;
            }
        }
    }
    released
}

/// Gives a run of pages back that was taken for that. `false`: the kernel refuses, and they stay as they are.
fn release_run(kind: ArenaKind, run: Backed) -> bool {
    // SAFETY: the pages are ours from `take_backed` to `give_unbacked`, and nobody needs what is in them.
    let fresh = unsafe { mem::discard(run.base, run.pages * PAGE) };
    mheap::give_unbacked(kind, run, fresh);
    if fresh {
        RELEASED.fetch_add(run.backed, Relaxed);
    }
    fresh
}

/// Gives pages back because the heap has become larger than the limit. May be called under an mcentral's lock.
#[cold]
pub(crate) fn relieve(over: usize) {
    release_pages(over, Pace::Run);
}

/// Empties all caches that can be had, because the system has no more memory. Says whether there was anything in one.
#[cold]
pub(crate) fn reclaim() -> bool {
    trim(Trim::All)
}

/// In the child of a fork, which has no scavenger, and none of the threads that may hold what hooks lock.
pub(crate) fn after_fork() {
    HOOKS.iter().for_each(|slot| slot.store(ptr::null_mut(), Relaxed));
    REQUESTS.after_fork();
}
