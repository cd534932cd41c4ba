//! Goroutines that work on one task and fail together (Go's `errgroup`).

use crate::{
    context::{Cancel, Context},
    lock::Mutex,
    spawn_migrating,
    sync::{ArcPermit, Semaphore, WaitGroup},
};
use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

/// A group of goroutines. The first that fails ends the group's context, and its error is the group's.
///
/// ```
/// use baton::{context::Context, errgroup::Group};
///
/// baton::run(|| {
///     let (mut group, ctx) = Group::with_context(&Context::background());
///     group.set_limit(4);
///     for i in 0..10 {
///         let ctx = ctx.clone();
///         group.go(move || match i {
///             7 => Err("seven is bad luck"),
///             _ => ctx.err().map_or(Ok(()), |_| Ok(())), // gives up when another has failed
///         });
///     }
///     assert_eq!(group.wait(), Err("seven is bad luck"));
///     assert!(ctx.err().is_some());
/// });
/// ```
pub struct Group<E> {
    members: WaitGroup,
    limit: Option<Arc<Semaphore>>,
    shared: Arc<Shared<E>>,
}

struct Shared<E> {
    cancel: Cancel,
    first: Mutex<Option<Failure<E>>>,
}

/// How a member failed.
enum Failure<E> {
    Error(E),
    Panic(Box<dyn Any + Send>),
}

impl<E: Send + 'static> Group<E> {
    /// An empty group, and the context of its members: it ends when the first of them fails, when [`wait`](Self::wait) is
    /// done, or when `parent` ends.
    #[must_use]
    pub fn with_context(parent: &Context) -> (Self, Context) {
        let (context, cancel) = parent.with_cancel();
        let group = Self {
            members: WaitGroup::new(),
            limit: None,
            shared: Arc::new(Shared {
                cancel,
                first: Mutex::new(None),
            }),
        };
        (group, context)
    }

    /// An empty group.
    #[must_use]
    pub fn new() -> Self {
        Self::with_context(&Context::background()).0
    }

    /// At most `n` members run at a time from now on; what runs already is not counted.
    pub fn set_limit(&mut self, n: usize) {
        self.limit = Some(Arc::new(Semaphore::new(n)));
    }

    /// Starts a goroutine in the group, waiting until the limit allows it. Its contract is that of [`go!`](crate::go).
    pub fn go<F>(&self, f: F)
    where
        F: FnOnce() -> Result<(), E> + Send + 'static,
    {
        let permit = self.limit.as_ref().map(|limit| limit.acquire_arc(1));
        self.start(permit, f);
    }

    /// Starts a goroutine in the group if the limit allows it now; says whether.
    pub fn try_go<F>(&self, f: F) -> bool
    where
        F: FnOnce() -> Result<(), E> + Send + 'static,
    {
        match self.limit.as_ref().map(|limit| limit.try_acquire_arc(1)) {
            Some(None) => return false,
            permit => self.start(permit.flatten(), f),
        }
        true
    }

    fn start<F>(&self, permit: Option<ArcPermit>, f: F)
    where
        F: FnOnce() -> Result<(), E> + Send + 'static,
    {
        let member = self.members.clone();
        let shared = Arc::clone(&self.shared);
        let run = move || {
            let failure = match catch_unwind(AssertUnwindSafe(f)) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Failure::Error(error)),
                Err(payload) => Some(Failure::Panic(payload)),
            };
            if let Some(failure) = failure {
                let mut first = shared.first.lock();
                let late = if first.is_none() {
                    first.replace(failure)
                } else {
                    Some(failure)
                };
                drop(first);
                shared.cancel.cancel();
                drop(late); // not under the lock: it may do anything
            }
            drop(shared); // before whoever waits goes on
            drop(permit);
            drop(member);
        };
        // SAFETY: the user of `go` signs the contract of `go!`; what is around `f` holds nothing that belongs to a thread.
        drop(unsafe { spawn_migrating(run) });
    }

    /// Waits for all members.
    ///
    /// # Errors
    ///
    /// That of the first member that failed.
    ///
    /// # Panics
    ///
    /// With what the first member that failed panicked with.
    pub fn wait(self) -> Result<(), E> {
        self.members.wait();
        self.shared.cancel.cancel();
        let first = self.shared.first.lock().take();
        match first {
            None => Ok(()),
            Some(Failure::Error(error)) => Err(error),
            Some(Failure::Panic(payload)) => resume_unwind(payload),
        }
    }
}

impl<E: Send + 'static> Default for Group<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> fmt::Debug for Group<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}
