//! What is told each time that a goroutine begins or stops to run on a thread: the trace, and the program's hooks.
//!
//! ```text
//!   g0 ── begins ─▶ on_resume ─▶ the goroutine's stack ─▶ on_park ◀─ stops ── g0
//! ```
//!
//! While there is neither, this costs one test of a byte before and after.

use super::trace;
use crate::{
    fatal,
    g::{Body, G},
    local::LocalKey,
    m::M,
};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

/// Who is to be told.
static WATCHED: AtomicU8 = AtomicU8::new(0);

pub(crate) const BY_TRACE: u8 = 1;
pub(crate) const BY_HOOKS: u8 = 2;

/// A hook of the program.
type Hook = Arc<dyn Fn(&Turn<'_>) + Send + Sync>;

/// What the program wants to be called.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) on_resume: Option<Hook>,
    pub(crate) on_park: Option<Hook>,
}

impl Hooks {
    /// Whether there is one.
    pub(crate) fn any(&self) -> bool {
        self.on_resume.is_some() || self.on_park.is_some()
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_resume", &self.on_resume.is_some())
            .field("on_park", &self.on_park.is_some())
            .finish()
    }
}

/// A goroutine that is about to run on this thread, or has just stopped: what the hooks of
/// [`RuntimeBuilder::on_resume`](crate::RuntimeBuilder::on_resume) and [`on_park`](crate::RuntimeBuilder::on_park) get.
pub struct Turn<'a> {
    goroutine: u64,
    body: &'a Body,
    ended: bool,
}

impl Turn<'_> {
    /// The goroutine's number.
    #[must_use]
    pub fn goroutine(&self) -> u64 {
        self.goroutine
    }

    /// Whether it has ended, and does not merely wait or yield.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Runs `f` with the goroutine's own value of a [`goroutine_local!`](crate::goroutine_local) variable. `None` if it has ended, and
    /// its variables were dropped. The goroutine may have the value borrowed at this moment.
    pub fn local<T: Send + 'static, R>(&self, key: &'static LocalKey<T>, f: impl FnOnce(&T) -> R) -> Option<R> {
        // SAFETY: the goroutine does not run, and this thread's M holds it.
        (!self.ended).then(|| unsafe { key.with_of(&self.body.locals, f) })
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("goroutine", &self.goroutine)
            .field("has_ended", &self.ended)
            .finish()
    }
}

/// Somebody is to be told from now on.
pub(crate) fn watch(by: u8) {
    WATCHED.fetch_or(by, Relaxed);
}

/// He is not any more.
pub(super) fn unwatch(by: u8) {
    WATCHED.fetch_and(!by, Relaxed);
}

/// Whether somebody is to be told.
#[inline(always)]
pub(crate) fn are_watched() -> bool {
    WATCHED.load(Relaxed) != 0
}

/// Whether it is this one.
#[inline(always)]
pub(super) fn are_watched_by(by: u8) -> bool {
    WATCHED.load(Relaxed) & by != 0
}

/// On g0, before `m` runs the goroutine of `body`, which is its current one.
///
/// # Safety
///
/// `g` is that goroutine, and alive.
#[inline(never)]
pub(crate) unsafe fn begins(m: &'static M, body: &Body, g: NonNull<G>) {
    m.is_watched.set(true);
    if let Some(hook) = &m.sched.config.hooks.on_resume {
        m.may_suspend(g, false);
        call(m, hook, body, false);
        m.may_suspend(g, true);
    }
    if are_watched_by(BY_TRACE) && m.world().is_none() {
        // SAFETY: as the caller promised.
        unsafe { trace::began(m, body, g) };
    }
}

/// On g0, after the goroutine of `body` has left its stack: it has `ended`, or merely `yielded`, or begins to wait.
#[inline(never)]
pub(crate) fn stops(m: &'static M, body: &Body, ended: bool, yielded: bool) {
    m.is_watched.set(false);
    if m.lane.is_open() {
        trace::stopped(m, body, ended, yielded);
    }
    if let Some(hook) = &m.sched.config.hooks.on_park {
        m.forget_goroutine();
        call(m, hook, body, ended);
    }
}

/// Calls a hook of the program, on g0 as in a plain thread: while no goroutine is current, what waits makes the thread wait.
fn call(m: &M, hook: &Hook, body: &Body, ended: bool) {
    let goroutine = m.goroutine.load(Relaxed);
    let turn = Turn { goroutine, body, ended };
    if catch_unwind(AssertUnwindSafe(|| hook(&turn))).is_err() {
        fatal::hook(goroutine);
    }
}
