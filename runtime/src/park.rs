//! Parking and waking: the one way in which anything of Baton waits, in a goroutine or in a plain thread.
//!
//! ```text
//!   goroutine   suspends to g0 ── g0 runs `commit` ── false → resumed at once
//!                                                  └─ true  → parked until `wake` (gopark, goready)
//!   thread      runs `commit` itself ── true → sleeps on its futex word until `wake`
//! ```
//!
//! `commit` is what makes the waiter findable for its waker: it unlocks a channel, sets a bit, inserts a timer. A goroutine
//! has left its stack by then, so that whoever wakes it may resume it at once on another thread.
//!
//! | call | who may wake | a waker |
//! |---|---|---|
//! | [`Waiter::park`] | exactly one, whoever takes the waiter out of where it waits | calls [`Waiter::wake`] |
//! | [`Waiter::park_until`] | several: peers on several lists, a timer | calls [`Waiter::claim`], and `wake` if that says `true` |
//!
//! A peer that does not know how the other side waits calls `claim` always: it costs a compare-and-swap only where several
//! may wake. [`ticket`](crate::ticket) says why nobody is woken twice. A deadline is a timer in the P's heap, which stays
//! there when somebody else was faster; it goes when it is due or when the heap is full (`time/heap.rs`).
//!
//! A goroutine that unwinds from a panic waits as a thread does: std counts panics per thread, and a goroutine that went
//! on elsewhere would leave the count behind. Its P goes to another M meanwhile, as in any blocking call.

use crate::{
    fatal,
    future::task::Task,
    g::G,
    m::{self, M},
    sched,
    testing::world::World,
    ticket::Ticket,
    time::{
        self,
        heap::{NEVER, Sleeper},
    },
};
use baton_alloc::futex;
use std::{
    cell::Cell,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

/// What a goroutine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum WaitReason {
    /// It has never waited.
    None,
    ChanSend,
    ChanRecv,
    Select,
    Sleep,
    Join,
    WaitGroup,
    Scope,
    Mutex,
    RwLockRead,
    RwLockWrite,
    Condvar,
    Semaphore,
    Barrier,
    Once,
    Context,
    Future,
    Io,
}

impl WaitReason {
    /// What is said of a wait that is none of these.
    const OTHER: &'static str = "waiting";

    /// Waits for a lock: a goroutine notes which.
    pub(crate) const LOCKS: [Self; 3] = [Self::Mutex, Self::RwLockRead, Self::RwLockWrite];

    /// In words, those of all numbers from 0 on, one in a line.
    pub(crate) fn names() -> String {
        (0..=Self::Io as u8)
            .map(|reason| format!("{}\n", Self::name(reason)))
            .collect()
    }

    /// In words, of its number.
    pub(crate) fn name(reason: u8) -> &'static str {
        const NAMES: [(WaitReason, &str); 17] = [
            (WaitReason::ChanSend, "channel send"),
            (WaitReason::ChanRecv, "channel receive"),
            (WaitReason::Select, "select"),
            (WaitReason::Sleep, "sleep"),
            (WaitReason::Join, "join"),
            (WaitReason::WaitGroup, "wait group"),
            (WaitReason::Scope, "scope"),
            (WaitReason::Mutex, "mutex"),
            (WaitReason::RwLockRead, "rwlock read"),
            (WaitReason::RwLockWrite, "rwlock write"),
            (WaitReason::Condvar, "condvar"),
            (WaitReason::Semaphore, "semaphore"),
            (WaitReason::Barrier, "barrier"),
            (WaitReason::Once, "once"),
            (WaitReason::Context, "context"),
            (WaitReason::Future, "future"),
            (WaitReason::Io, "io"),
        ];
        let name = NAMES.iter().find(|(known, _)| *known as u8 == reason);
        name.map_or(Self::OTHER, |(_, name)| name)
    }
}

/// One party that waits. It lies on the waiting party's stack, which never moves.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The goroutine, or null for a thread. Written before `commit`, constant until the wake.
    g: Cell<*mut G>,
    /// What several wakers must claim; `None` if there can be but one. Written before `commit`, constant until the wake.
    ticket: Cell<Option<Ticket>>,
    /// What the claimer left: to which of the things waited for something happened, and what. The claimer's until the wake.
    case: Cell<u32>,
    outcome: Cell<Event>,
    /// A thread's ticket.
    word: AtomicU64,
    /// What a thread sleeps on: 1 once it is woken. [`OF_TASK`] for ever if the waiter is a future's.
    woken: AtomicU32,
}

/// `Waiter::woken` of a waiter that is a [`Task`]'s.
const OF_TASK: u32 = 2;

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The deadline.
    TimedOut,
    /// What was waited for.
    Done,
    /// What was waited for has come to an end.
    Closed,
}

/// What g0 runs for a goroutine that has suspended: the closure's code and its address on the goroutine's stack.
pub(crate) type Commit = (unsafe fn(*mut ()) -> bool, *mut ());

impl Waiter {
    pub(crate) const fn new() -> Self {
        Self {
            g: Cell::new(ptr::null_mut()),
            ticket: Cell::new(None),
            case: Cell::new(0),
            outcome: Cell::new(Event::TimedOut),
            word: AtomicU64::new(0),
            woken: AtomicU32::new(0),
        }
    }

    /// The waiter that a [`Task`] begins with. It never parks.
    pub(crate) const fn of_task() -> Self {
        Self {
            woken: AtomicU32::new(OF_TASK),
            ..Self::new()
        }
    }

    /// A task begins to wait for what several may claim.
    pub(crate) fn open(&self) {
        self.ticket.set(Some(Ticket::open(&self.word)));
    }

    /// The party takes the right to wake it back. `false`: somebody has it.
    pub(crate) fn claim_own(&self) -> bool {
        // SAFETY: the word is in this very waiter.
        self.ticket.get().is_some_and(|ticket| unsafe { ticket.claim() })
    }

    /// Waits until [`wake`](Self::wake), unless `commit` says `false`. A waiter waits once.
    ///
    /// `commit` runs once everything is ready for the wake. It must not touch what it captured after the point at which
    /// a waker can find the waiter.
    #[inline(always)] // the fewer functions there are between two switches, the fewer returns: see `switch`
    pub(crate) fn park(&self, reason: WaitReason, commit: impl FnOnce() -> bool) {
        match m::current_goroutine() {
            Some((m, g)) if !std::thread::panicking() => {
                self.g.set(g.as_ptr());
                park_goroutine(m, g, reason, commit);
            }
            _ => {
                if commit() {
                    self.sleep(NEVER);
                }
            }
        }
    }

    /// Waits until somebody has claimed and woken this waiter, or until `deadline`, in nanoseconds as of
    /// [`time::now`], unless `commit` says `false`.
    ///
    /// As for `park`; what is more, nobody finds the waiter before `commit`, and after a wait that timed out it may still
    /// be on the lists where it waited: take it off, under their locks, before the frame goes.
    pub(crate) fn park_until(&self, reason: WaitReason, deadline: u64, commit: impl FnOnce() -> bool) {
        match m::current_goroutine() {
            Some((m, g)) if !std::thread::panicking() => {
                let desc = m.desc();
                let ticket = Ticket::open(&desc.ticket);
                self.g.set(g.as_ptr());
                self.ticket.set(Some(ticket));
                park_goroutine(m, g, reason, move || {
                    if !commit() {
                        // SAFETY: descriptors are never freed. Nobody has found the waiter; if `commit` has claimed it, this does nothing.
                        unsafe { ticket.claim() };
                        return false;
                    }
                    if deadline != NEVER {
                        time::insert(m, Sleeper::claiming(deadline, desc, ticket));
                    }
                    true
                });
            }
            _ => {
                let ticket = Ticket::open(&self.word);
                self.ticket.set(Some(ticket));
                // SAFETY: the word is in this very frame.
                if commit() && !self.sleep(deadline) && !unsafe { ticket.claim() } {
                    self.sleep(NEVER); // claimed already: the wake is on its way
                }
            }
        }
    }

    /// What ended the wait: what the claimer left, else the deadline.
    #[inline]
    pub(crate) fn outcome(&self) -> Event {
        self.outcome.get()
    }

    /// To which of the things waited for it happened.
    #[inline]
    pub(crate) fn case(&self) -> u32 {
        self.case.get()
    }

    /// Takes the right to wake this waiter, and leaves `case` and `outcome` for it. `false`: somebody else was faster, and the waiter
    /// must not be touched any more once the lock is given back under which it was found.
    ///
    /// # Safety
    ///
    /// The waiter was found on a list whose lock is held.
    #[inline]
    pub(crate) unsafe fn claim(&self, case: u32, outcome: Event) -> bool {
        if let Some(ticket) = self.ticket.get() {
            // SAFETY: a thread stays, with its word, until it has taken the lock that the caller holds; a goroutine's
            // word is in a descriptor.
            if !unsafe { ticket.claim() } {
                return false;
            }
        }
        self.case.set(case);
        self.outcome.set(outcome);
        true
    }

    /// Ends the wait. Called once for each wait whose `commit` said `true`, by whoever has the right to; the waiter may be
    /// gone when this returns.
    #[inline]
    pub(crate) fn wake(&self) {
        match NonNull::new(self.g.get()) {
            Some(g) => sched::ready(g),
            None => self.wake_other(),
        }
    }

    /// Wakes a task or a thread.
    #[cold]
    fn wake_other(&self) {
        if self.woken.load(Relaxed) == OF_TASK {
            // SAFETY: the caller has the right to wake this task, and so its count.
            let abandoned = unsafe { Task::wake(self) };
            debug_assert!(!abandoned, "only those of goroutines that end are, and these see to it");
            return;
        }
        let word = ptr::from_ref(&self.woken);
        self.woken.store(1, Release);
        // SAFETY: from the store on, the word may be gone; its address serves as a key only, and a wake too many
        // is harmless to whoever uses that address now.
        futex::wake(unsafe { &*word }, 1);
    }

    /// A thread's sleep until the wake (`true`) or until `deadline` (`false`).
    fn sleep(&self, deadline: u64) -> bool {
        if World::current().is_some() {
            fatal::simulation_stands_still();
        }
        sched::blocking(|| {
            while self.woken.load(Acquire) == 0 {
                let left = (deadline != NEVER).then(|| Duration::from_nanos(deadline.saturating_sub(time::now())));
                if left.is_some_and(|left| left.is_zero()) {
                    return false;
                }
                futex::wait(&self.woken, 0, left);
            }
            true
        })
    }
}

/// Parks the running goroutine until somebody makes it ready, unless `commit` says `false`: [`Waiter::park`] for those
/// who know the goroutine by other means. `g` is that goroutine, and `m` this thread's M.
#[inline(always)]
pub(crate) fn park_goroutine(m: &'static M, g: NonNull<G>, reason: WaitReason, commit: impl FnOnce() -> bool) {
    // SAFETY: the running goroutine, and its body.
    unsafe { &*g.as_ref().body.get() }.waits_for(reason);
    let mut commit = ManuallyDrop::new(commit);
    // SAFETY: `commit` stays in place, on the goroutine's stack, until g0 has run it, which it does once.
    unsafe { sched::suspend(m, (run_commit(&commit), (&raw mut commit).cast())) };
}

/// The code that runs a commit of this type, which is behind the pointer.
fn run_commit<F: FnOnce() -> bool>(_: &ManuallyDrop<F>) -> unsafe fn(*mut ()) -> bool {
    /// # Safety
    ///
    /// The pointer is to an `F` that is ours to take, once.
    unsafe fn run<F: FnOnce() -> bool>(commit: *mut ()) -> bool {
        // SAFETY: as the caller promised. The closure is moved out first, since the goroutine may be running again, and
        // its frame gone, before the closure returns.
        let commit = unsafe { commit.cast::<F>().read() };
        commit()
    }
    run::<F>
}

/// Lets other goroutines run: the caller goes to the end of its P's queue. In a plain thread this is
/// [`std::thread::yield_now`].
///
/// ```
/// baton::run(|| {
///     let other = baton::go!(|| 1);
///     while !other.is_finished() {
///         baton::yield_now();
///     }
/// });
/// ```
pub fn yield_now() {
    match m::current_goroutine() {
        // SAFETY: on the goroutine's stack.
        Some((m, _)) if !std::thread::panicking() => unsafe { sched::suspend_yield(m) },
        _ => std::thread::yield_now(),
    }
}
