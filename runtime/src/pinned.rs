//! Goroutines that stay on one thread: spawned so, or locked to it for a while.
//!
//! ```text
//!   baton::spawn ─▶ a queue, may be stolen ─▶ first run, on M: from now on M's
//!        made ready: any queue, as every goroutine ─▶ picked by another M2 ─┬─ M is awake ──▶ M's inbox
//!                                                                           └─ M sleeps ───▶ M's inbox, and M2's P goes to M
//! ```
//!
//! A pinned goroutine waits its turn in ordinary queues: there it is no more than a ticket for its M. Whoever picks it and is not
//! that M brings it home ([`deliver`]). So wake-ups, stealing and fairness are those of all goroutines, and the road of
//! those that migrate has one comparison more.
//!
//! # Invariants
//!
//! 1. `G.kind` is `Pinned` while `Body.locks` is not 0; both are written by the goroutine itself. Its M is `Body.last_m`.
//! 2. What is in the inbox of an M that sleeps is nowhere: so it is filled under the scheduler's `idle` lock while the M is
//!    awake, or by who has just taken the M off the idle list; and an M goes on the list with an empty inbox only
//!    (`idle::sleep`).
//! 3. An inbox is emptied by its M alone.

use crate::{
    g::{G, Kind},
    m::{self, M},
    p::P,
    sched::lock::Mutex,
};
use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
};

/// Goroutines that only this M may run, and a P that comes along with one.
pub(crate) struct Inbox {
    /// Goroutines in `mail`; written under its lock.
    len: AtomicUsize,
    mail: Mutex<VecDeque<Mail>>,
    /// The P that somebody gave up so that this M can run its mail, or null. Written by who has taken the M off the idle
    /// list, taken by the M.
    given: AtomicPtr<P>,
    /// Whether the mail's turn is next, so that neither it nor the P's own queue starves; the M's.
    turn: Cell<bool>,
}

/// The right to a runnable goroutine.
struct Mail(NonNull<G>);

// SAFETY: a right to a goroutine that does not run may move to another thread.
unsafe impl Send for Mail {}

impl Inbox {
    pub(crate) const fn new() -> Self {
        Self {
            len: AtomicUsize::new(0),
            mail: Mutex::new(VecDeque::new()),
            given: AtomicPtr::new(ptr::null_mut()),
            turn: Cell::new(false),
        }
    }

    /// Whether something is in it: exact under the `idle` lock.
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        self.len.load(Relaxed) != 0
    }

    /// The next goroutine, every other time that this is asked, and if `may`. On the M's own thread.
    pub(crate) fn take_in_turn(&self, may: impl FnOnce() -> bool) -> Option<NonNull<G>> {
        self.turn.set(!self.turn.get());
        if !self.turn.get() || !may() {
            return None;
        }
        let mut mail = self.mail.lock();
        let Mail(g) = mail.pop_front()?;
        self.len.store(mail.len(), Relaxed);
        Some(g)
    }

    /// Takes everything, to put it on ordinary queues again. On the M's own thread.
    pub(crate) fn take_all(&self) -> Vec<*mut G> {
        let mut mail = self.mail.lock();
        self.len.store(0, Relaxed);
        mail.drain(..).map(|Mail(g)| g.as_ptr()).collect()
    }

    /// Adds a goroutine (invariant 2).
    pub(crate) fn put(&self, g: NonNull<G>) {
        let mut mail = self.mail.lock();
        mail.push_back(Mail(g));
        self.len.store(mail.len(), Relaxed);
    }

    /// Leaves a P for the M, which the caller has taken off the idle list and is about to wake.
    pub(crate) fn give(&self, p: &'static P) {
        self.given.store(ptr::from_ref(p).cast_mut(), SeqCst);
    }

    /// The P that was left for this M; the caller binds it.
    pub(crate) fn take_given(&self) -> Option<&'static P> {
        if self.given.load(Relaxed).is_null() {
            return None;
        }
        // SAFETY: null or a P, and those are never freed.
        unsafe { self.given.swap(ptr::null_mut(), SeqCst).as_ref() }
    }
}

/// The M that `g` must run on, if that is not `m`.
#[inline]
pub(crate) fn elsewhere(m: &'static M, g: NonNull<G>) -> Option<&'static M> {
    // SAFETY: out of a queue it is the caller's.
    let this = unsafe { g.as_ref() };
    if this.kind.get() == Kind::Migrating {
        return None;
    }
    // SAFETY: the body of a goroutine that is the caller's; null if it has not run. Ms are never freed.
    let home = unsafe { this.body.get().as_ref()?.last_m.get().as_ref()? };
    (!ptr::eq(home, m)).then_some(home)
}

/// Keeps the calling goroutine on its thread until the guard is dropped (Go's `runtime.LockOSThread`). It may be nested: the
/// last guard counts. Costs a few plain stores, and so does a park while locked, unless another thread has to be woken.
///
/// For libraries whose state belongs to a thread: an OpenGL context, a Python interpreter's state, `setns`. Other
/// goroutines may run on the thread while this one waits.
///
/// In a plain thread, within [`on_big_stack`](crate::on_big_stack), and in a goroutine that [`spawn`](crate::spawn) started, there is
/// nothing to do. A guard counts for the goroutine that made it: dropped by another one, or within `on_big_stack`, it lets go of nothing,
/// and the goroutine stays on its thread for good.
///
/// ```
/// use std::thread;
///
/// baton::run(|| {
///     let guard = baton::lock_os_thread();
///     let before = thread::current().id();
///     baton::yield_now();
///     assert_eq!(thread::current().id(), before);
///     drop(guard); // from here on it may change its thread again
/// });
/// ```
#[must_use = "the goroutine is locked to its thread as long as the guard lives"]
pub fn lock_os_thread() -> OsThreadGuard {
    let locked = m::current_goroutine().filter(|(_, g)| {
        // SAFETY: the running goroutine.
        unsafe { g.as_ref() }.kind.get() != Kind::Simulated
    });
    let goroutine = locked.map(|(m, g)| {
        // SAFETY: the running goroutine, and its body.
        let (g, body) = unsafe { (g.as_ref(), &*m.body.get()) };
        m.pins.set(true);
        body.locks.set(body.locks.get() + 1);
        g.kind.set(Kind::Pinned);
        g.id()
    });
    OsThreadGuard {
        goroutine,
        not_send: PhantomData,
    }
}

/// Keeps a goroutine on its thread: see [`lock_os_thread`].
pub struct OsThreadGuard {
    /// Who is locked by it, and must not be let go by anybody else: safe code can leave a guard to another goroutine of its thread.
    goroutine: Option<u64>,
    not_send: PhantomData<*mut ()>,
}

impl Drop for OsThreadGuard {
    fn drop(&mut self) {
        let Some((m, g)) = m::current_goroutine() else {
            return;
        };
        // SAFETY: the running goroutine, and its body.
        let (g, body) = unsafe { (g.as_ref(), &*m.body.get()) };
        if self.goroutine == Some(g.id()) {
            body.locks.set(body.locks.get() - 1);
            if body.locks.get() == 0 {
                g.kind.set(Kind::Migrating);
            }
        }
    }
}

impl fmt::Debug for OsThreadGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OsThreadGuard").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{on_big_stack, spawn};

    #[test]
    fn a_guard_lets_go_of_what_it_has_locked_alone() {
        let kinds = spawn(|| {
            let (_, g) = m::current_goroutine().expect("in a goroutine");
            // SAFETY: the running goroutine.
            let (id, kind) = unsafe { (g.as_ref().id(), || g.as_ref().kind.get()) };
            drop(on_big_stack(lock_os_thread)); // it locked nothing
            let after_inert = kind();
            drop(OsThreadGuard {
                goroutine: Some(id + 1), // left in a thread-local by another goroutine of this thread
                not_send: PhantomData,
            });
            let after_anothers = kind();
            drop(lock_os_thread());
            [after_inert, after_anothers, kind()]
        });
        assert_eq!(kinds.join().unwrap(), [Kind::Pinned; 3]);
    }
}
