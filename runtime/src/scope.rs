//! Scopes: goroutines that borrow from who starts them.
//!
//! ```text
//!   scope(|s| …) ── f runs ──────────────── waits for all ── returns what f did, or panics
//!                   └ s.spawn ─▶ goroutine ─▶ result ─▶ handle, or dropped ─▶ one less to wait for
//! ```
//!
//! # Invariants
//!
//! 1. A goroutine of the scope leaves its group last of all: after its closure is gone and, if nobody holds the handle,
//!    its result too. So nothing that borrows from outside is touched once [`scope`] has returned.
//! 2. A handle does not outlive the scope, since its type borrows for `'scope`.

use crate::{
    JoinError,
    g::{Handle, Kind, Payload},
    park::{WaitReason, Waiter},
    sched::{self, checkpoint},
};
use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
};

/// Runs `f`, which may start goroutines that borrow what `f` could; waits for all of them; gives what `f` returned. It is
/// [`std::thread::scope`] with goroutines, for goroutines and for plain threads.
///
/// # Panics
///
/// With what `f` panicked with. If `f` did not, but a goroutine did that nobody joined, with a message that says so. Either
/// way all goroutines of the scope have ended before.
///
/// ```
/// let mut counts = vec![0; 4];
/// let total = 10;
/// baton::scope(|s| {
///     for (i, count) in counts.iter_mut().enumerate() {
///         s.spawn(move || *count = i + total);
///     }
/// });
/// assert_eq!(counts, [10, 11, 12, 13]);
/// ```
#[track_caller]
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    checkpoint();
    let group = Arc::new(Group {
        running: AtomicUsize::new(1),
        waiter: Waiter::new(),
        panicked: AtomicBool::new(false),
    });
    let scope = Scope {
        group: Arc::clone(&group),
        scope: PhantomData,
        env: PhantomData,
    };
    let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    group
        .waiter
        .park(WaitReason::Scope, || group.running.fetch_sub(1, AcqRel) > 1);
    match result {
        Ok(_) if group.panicked.load(Acquire) => panic!("a goroutine of the scope panicked, and nobody joined it"),
        Ok(value) => value,
        Err(payload) => resume_unwind(payload),
    }
}

/// Where goroutines that borrow are started: see [`scope`].
pub struct Scope<'scope, 'env: 'scope> {
    group: Arc<Group>,
    // Invariant over both lifetimes, as std's: else 'scope could be shrunk to end before the wait.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// Who is in a scope.
struct Group {
    /// Goroutines that have not left, and one for `f` until it has returned.
    running: AtomicUsize,
    /// Who called `scope`; woken by the last goroutine, if that leaves after `f` did.
    waiter: Waiter,
    /// A goroutine panicked, and nobody asked for its result.
    panicked: AtomicBool,
}

// SAFETY: the waiter is filled by who waits before it counts itself out of `running`, and read by the one who then counts the
// last goroutine out: the counter orders them. All else is atomic.
unsafe impl Sync for Group {}
// SAFETY: as above; whoever drops the group last touches nothing but plain words.
unsafe impl Send for Group {}

/// A goroutine's place in its group.
struct Member(Arc<Group>);

impl Drop for Member {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, AcqRel) == 1 {
            self.0.waiter.wake();
        }
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a goroutine that may borrow for `'scope`. Like those of [`baton::spawn`](crate::spawn) it stays on the thread
    /// that runs it first, so it may use thread-locals and values that are not `Send`.
    ///
    /// ```
    /// let text = String::from("borrowed");
    /// let len = baton::scope(|s| s.spawn(|| text.len()).join().unwrap());
    /// assert_eq!(len, 8);
    /// ```
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        // SAFETY: a pinned goroutine has no contract to keep.
        unsafe { self.start(f, Kind::Pinned) }
    }

    /// Starts a goroutine that may borrow for `'scope` and may go on on another thread after any parking call.
    ///
    /// # Safety
    ///
    /// The contract of [`spawn_migrating`](crate::spawn_migrating).
    ///
    /// ```
    /// let text = String::from("borrowed");
    /// // SAFETY: the closure touches no thread-local and holds no guard.
    /// let len = baton::scope(|s| unsafe { s.spawn_migrating(|| text.len()) }.join().unwrap());
    /// assert_eq!(len, 8);
    /// ```
    #[track_caller]
    pub unsafe fn spawn_migrating<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        // SAFETY: as the caller promised.
        unsafe { self.start(f, Kind::Migrating) }
    }

    /// # Safety
    ///
    /// If it may migrate, the goroutine keeps the contract of `spawn_migrating`.
    #[track_caller]
    unsafe fn start<F, T>(&'scope self, f: F, kind: Kind) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let packet = Arc::new(Packet {
            result: Mutex::new(None),
            group: Arc::clone(&self.group),
        });
        let theirs = Arc::clone(&packet);
        self.group.running.fetch_add(1, Relaxed);
        let member = Member(Arc::clone(&self.group));
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(f));
            *theirs.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            drop(theirs);
            drop(member); // last: invariant 1
        };
        // SAFETY: as the caller promised; and the closure's borrows last until the scope has seen `member` go.
        let goroutine = unsafe { sched::spawn(body, None, kind) };
        ScopedJoinHandle {
            goroutine,
            packet,
            scope: PhantomData,
        }
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

/// What a goroutine leaves behind; it and its handle share it.
struct Packet<T> {
    result: Mutex<Option<Result<T, Payload>>>,
    group: Arc<Group>,
}

impl<T> Packet<T> {
    /// The result of a goroutine that has ended so.
    fn take(&self, ended: Result<(), Payload>) -> Result<T, JoinError> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (result, ended) {
            (Some(result), _) => result.map_err(JoinError::new),
            (None, Err(payload)) => Err(JoinError::new(payload)),
            (None, Ok(())) => unreachable!("a goroutine leaves its result before it ends"),
        }
    }
}

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        let result = self.result.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let panicked = matches!(result, Some(Err(_)));
        // A result that panics while it is dropped counts as a panic of its goroutine.
        if catch_unwind(AssertUnwindSafe(|| drop(result))).is_err() || panicked {
            self.group.panicked.store(true, Release);
        }
    }
}

/// The right to wait for a goroutine of a [`scope`] and to have its result.
///
/// ```
/// baton::scope(|s| {
///     let handle = s.spawn(|| 1 + 1);
///     assert!(handle.id() > 0);
///     assert_eq!(handle.join().unwrap(), 2);
/// });
/// ```
pub struct ScopedJoinHandle<'scope, T> {
    goroutine: Handle<()>,
    packet: Arc<Packet<T>>,
    scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits for the goroutine to end and gives what it returned.
    ///
    /// # Errors
    ///
    /// The goroutine panicked: the error holds what it panicked with.
    pub fn join(self) -> Result<T, JoinError> {
        checkpoint();
        let ended = self.goroutine.join();
        self.packet.take(ended)
    }

    /// Whether the goroutine has ended, so that [`join`](Self::join) would not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.goroutine.is_done()
    }

    /// The goroutine's number: counted up from 1, never used twice.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.goroutine.id()
    }
}

/// As for [`JoinHandle`](crate::JoinHandle).
impl<T> Future for ScopedJoinHandle<'_, T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.goroutine.poll(cx).map(|ended| self.packet.take(ended))
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle")
            .field("id", &self.id())
            .field("finished", &self.is_finished())
            .finish()
    }
}
