//! Contexts: when to give up, told to everything that works on one task (Go's `context`).
//!
//! ```text
//!   background ─┬─ with_timeout(1 s) ─┬─ with_cancel      a context ends when it is cancelled, when its deadline passes,
//!               │                     └─ with_value       and when its parent ends
//!               └─ with_cancel ── …
//! ```
//!
//! A context does not stop anybody. It is asked: by [`Context::err`], by its [`done`](Context::done) channel in a `select!`,
//! or by the calls of Baton that wait, each of which has a form here that ends with the context.
//!
//! | a call that waits | its form that ends with `ctx` |
//! |---|---|
//! | `rx.recv()`, `tx.send(m)`; a `select!` | [`ctx.recv(&rx)`](Context::recv), [`ctx.send(&tx, m)`](Context::send); a case `recv(ctx.done())` |
//! | `mutex.lock()`, `lock.read()`, `lock.write()` | [`ctx.lock(&mutex)`](Context::lock), [`ctx.read(&lock)`](Context::read), [`ctx.write(&lock)`](Context::write) |
//! | `condvar.wait(&mut guard)` | [`ctx.wait(&condvar, &mut guard)`](Context::wait) |
//! | `semaphore.acquire(n)` | [`ctx.acquire(&semaphore, n)`](Context::acquire) |
//! | `barrier.wait()`, `group.wait()` | [`ctx.arrive(&barrier)`](Context::arrive), [`ctx.wait_group(group)`](Context::wait_group) |
//! | `once.call_once(f)`, `once.wait()` | [`ctx.call_once(&once, f)`](Context::call_once), [`ctx.wait_once(&once)`](Context::wait_once) |
//! | `value.get_or_init(f)`, `value.wait()` of a `OnceLock` | [`ctx.get_or_init(&value, f)`](Context::get_or_init), [`ctx.wait_value(&value)`](Context::wait_value) |
//! | `time::sleep(d)` | [`ctx.sleep(d)`](Context::sleep) |
//! | `handle.join()` | [`ctx.join(handle)`](Context::join) |
//! | `block_on(future)`; a `Timer`, a `Ticker`, a `ScopedJoinHandle` | [`ctx.block_on(future)`](Context::block_on), since they are futures and streams |
//!
//! ```
//! use baton::{chan, context::{Context, ContextError}, go};
//! use std::time::Duration;
//!
//! baton::run(|| {
//!     let (ctx, cancel) = Context::background().with_cancel();
//!     let (_tx, rx) = chan::unbounded::<u32>();
//!     let worker = go!(move || ctx.recv(&rx)); // waits in vain
//!     cancel.cancel();
//!     assert_eq!(worker.join().unwrap().unwrap_err(), ContextError::Canceled.into());
//!     let ctx = Context::background().with_timeout(Duration::from_millis(1));
//!     assert_eq!(ctx.sleep(Duration::from_secs(3600)), Err(ContextError::DeadlineExceeded));
//! });
//! ```
//!
//! # Invariants
//!
//! 1. `end` is set once, under the lock; whoever sets it claims and wakes all that wait, drops the sender of `done`, and then
//!    ends the children.
//! 2. A party is put on `waiting` and parks in one step under the lock, after a look at `end`; it takes itself off, under
//!    the lock, before it leaves.
//! 3. A deadline needs no timer: those who wait have it as their own, and `err` looks at the clock. Only `done` starts a
//!    goroutine that waits for it.

mod error;
mod wait;

pub use error::{ContextError, RecvError, SendError};

use crate::{
    chan::{self, Receiver, Sender},
    go,
    lock::Mutex,
    park::{Event, WaitReason, Waiter},
    time::{self, heap::NEVER},
    waitlist::{Node, WaitList},
};
use std::{
    any::Any,
    error::Error,
    fmt, mem, ptr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Why somebody was told to give up, in the program's own words.
type Cause = Arc<dyn Error + Send + Sync>;

/// When to give up, and values that go along with a task. Clones are the same context.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

/// Cancels a [`Context`]. Dropping it does not.
#[derive(Clone, Debug)]
pub struct Cancel(Context);

pub(crate) struct Inner {
    parent: Option<Context>,
    /// Not after its parent's; [`NEVER`] if there is none.
    deadline: u64,
    value: Option<Box<dyn Any + Send + Sync>>,
    state: Mutex<State>,
}

struct State {
    end: Option<(ContextError, Option<Cause>)>,
    waiting: WaitList,
    children: Vec<Weak<Inner>>,
    /// Children at which those that are gone are next thrown out.
    sweep_at: usize,
    /// The sender is dropped at the end.
    done: Option<(Option<Sender<()>>, Receiver<()>)>,
}

impl Context {
    /// The context that never ends: where others begin.
    #[must_use]
    pub fn background() -> Self {
        Self::new(None, NEVER, None)
    }

    /// A child that ends when it is cancelled, or when this one ends.
    #[must_use]
    pub fn with_cancel(&self) -> (Self, Cancel) {
        let child = self.child(NEVER, None);
        (child.clone(), Cancel(child))
    }

    /// A child that ends after `timeout`, or when this one ends.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.child(time::deadline_in(timeout), None)
    }

    /// A child that ends at `deadline`, or when this one ends.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        self.child(time::deadline_at(deadline), None)
    }

    /// A child that has `value`, which [`value`](Self::value) finds by its type.
    ///
    /// ```
    /// use baton::context::Context;
    ///
    /// #[derive(Debug, PartialEq)]
    /// struct User(u32);
    ///
    /// let ctx = Context::background().with_value(User(7)).with_cancel().0;
    /// assert_eq!(ctx.value(), Some(&User(7)));
    /// assert_eq!(ctx.value::<u32>(), None);
    /// ```
    #[must_use]
    pub fn with_value<T: Any + Send + Sync>(&self, value: T) -> Self {
        self.child(NEVER, Some(Box::new(value)))
    }

    /// The value of this type that this context has, or else its parent, and so on.
    #[must_use]
    pub fn value<T: Any>(&self) -> Option<&T> {
        let mut at = Some(self);
        while let Some(context) = at {
            if let Some(value) = context.0.value.as_deref().and_then(|value| value.downcast_ref()) {
                return Some(value);
            }
            at = context.0.parent.as_ref();
        }
        None
    }

    /// Why this context has ended; `None` if it has not.
    #[must_use]
    pub fn err(&self) -> Option<ContextError> {
        self.0.ended()
    }

    /// What was said when it was cancelled, or when the ancestor was that ended it.
    #[must_use]
    pub fn cause(&self) -> Option<Arc<dyn Error + Send + Sync>> {
        self.0.state.lock().end.as_ref()?.1.clone()
    }

    /// How long until its deadline, or its parent's if that is earlier; `None` if it has none.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.0.deadline;
        (deadline != NEVER).then(|| Duration::from_nanos(deadline.saturating_sub(time::now())))
    }

    /// A channel on which nothing is ever sent, and which is disconnected when the context ends: for `select!`.
    ///
    /// If the context has a deadline, the first call starts a goroutine that lasts as long as the context. One without a deadline that nobody
    /// has any more, neither itself nor its [`Cancel`] nor a child, is disconnected too: nobody can say when it ends.
    ///
    /// ```
    /// use baton::{chan, context::Context, select};
    /// use std::time::Duration;
    ///
    /// baton::run(|| {
    ///     let ctx = Context::background().with_timeout(Duration::from_millis(1));
    ///     let (_tx, rx) = chan::unbounded::<()>();
    ///     select! {
    ///         recv(rx) -> _ => unreachable!("nobody sends"),
    ///         recv(ctx.done()) -> _ => assert!(ctx.err().is_some()),
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn done(&self) -> Receiver<()> {
        // What only carries a value ends with its parent, and the background never.
        let mut ends = self;
        while ends.0.value.is_some()
            && let Some(parent) = &ends.0.parent
        {
            ends = parent;
        }
        if ends.0.parent.is_none() {
            return chan::never();
        }
        ends.done_alone()
    }

    /// [`done`](Self::done) of a context that may end before its parent does.
    fn done_alone(&self) -> Receiver<()> {
        self.0.ended(); // notices a deadline that has passed
        let mut state = self.0.state.lock();
        if let Some((_, receiver)) = &state.done {
            return receiver.clone();
        }
        let (sender, receiver) = chan::bounded(0);
        let open = state.end.is_none();
        state.done = Some((open.then_some(sender), receiver.clone()));
        drop(state);
        if open && self.0.deadline != NEVER {
            let context = self.clone();
            go!(move || context.0.wait_for_end());
        }
        receiver
    }

    fn new(parent: Option<Self>, deadline: u64, value: Option<Box<dyn Any + Send + Sync>>) -> Self {
        Self(Arc::new(Inner {
            parent,
            deadline,
            value,
            state: Mutex::new(State {
                end: None,
                waiting: WaitList::new(),
                children: Vec::new(),
                sweep_at: 16,
                done: None,
            }),
        }))
    }

    fn child(&self, deadline: u64, value: Option<Box<dyn Any + Send + Sync>>) -> Self {
        let child = Self::new(Some(self.clone()), deadline.min(self.0.deadline), value);
        let mut state = self.0.state.lock();
        if let Some((error, cause)) = state.end.clone() {
            drop(state);
            child.0.finish(error, cause);
        } else {
            if state.children.len() >= state.sweep_at {
                state.children.retain(|child| child.strong_count() > 0);
                state.sweep_at = 16.max(2 * state.children.len());
            }
            state.children.push(Arc::downgrade(&child.0));
        }
        child
    }
}

impl Cancel {
    /// Ends the context and all that come from it. Only the first end of a context counts.
    pub fn cancel(&self) {
        self.0.0.finish(ContextError::Canceled, None);
    }

    /// As [`cancel`](Self::cancel), and says why: see [`Context::cause`].
    pub fn cancel_because(&self, cause: impl Error + Send + Sync + 'static) {
        self.0.0.finish(ContextError::Canceled, Some(Arc::new(cause)));
    }
}

impl Inner {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    fn ended(&self) -> Option<ContextError> {
        let end = self.state.lock().end.as_ref().map(|end| end.0);
        if end.is_none() && self.deadline != NEVER && time::now() >= self.deadline {
            self.finish(ContextError::DeadlineExceeded, None);
            return self.state.lock().end.as_ref().map(|end| end.0);
        }
        end
    }

    /// Ends this context and all that come from it, however deep the tree is.
    fn finish(&self, error: ContextError, cause: Option<Cause>) {
        let mut left = self.finish_alone(error, cause.clone());
        left.reverse(); // the next at the end
        while let Some(context) = left.pop() {
            if let Some(context) = context.upgrade() {
                left.extend(context.finish_alone(error, cause.clone()).into_iter().rev());
            }
        }
    }

    /// Ends this context and gives its children.
    fn finish_alone(&self, error: ContextError, cause: Option<Cause>) -> Vec<Weak<Self>> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return Vec::new();
        }
        state.end = Some((error, cause));
        let waiting = state.waiting.claim_all(Event::TimedOut);
        let children = mem::take(&mut state.children);
        let sender = state.done.as_mut().and_then(|done| done.0.take());
        drop(state);
        waiting.wake_all();
        drop(sender);
        children
    }

    /// Parks as [`Waiter::park_until`] does, but the end of this context is a deadline too. `commit` takes no lock: many come here with
    /// a lock held, and wait for the context's.
    pub(crate) fn park(&self, waiter: &Waiter, reason: WaitReason, deadline: u64, commit: impl FnOnce() -> bool) {
        let node = Node::new(waiter, ptr::null_mut());
        let listed = &node;
        waiter.park_until(reason, deadline.min(self.deadline), move || {
            let mut state = self.state.lock();
            if state.end.is_some() {
                waiter.claim_own(); // before `commit` goes, with the lock under which others find this party
                return false;
            }
            state.waiting.push(listed);
            let parks = commit();
            // From here on the party may have been woken; but it stays until it has had this lock.
            if !parks {
                state.waiting.remove(listed);
            }
            parks
        });
        self.state.lock().waiting.remove(&node);
    }

    /// Waits until the context has ended.
    fn wait_for_end(&self) {
        while !self.has_ended() {
            self.park(&Waiter::new(), WaitReason::Context, NEVER, || true);
        }
    }
}

impl Drop for Inner {
    /// The ancestors that nobody else has go along, one after the other, since there may be many.
    fn drop(&mut self) {
        drop(self.value.take()); // before its parent's
        let mut parent = self.parent.take();
        while let Some(Context(inner)) = parent.take() {
            if let Some(mut inner) = Arc::into_inner(inner) {
                parent = inner.parent.take();
            }
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("err", &self.err())
            .field("time_left", &self.time_left())
            .finish_non_exhaustive()
    }
}
