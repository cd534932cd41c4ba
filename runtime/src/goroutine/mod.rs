//! The user's view of goroutines.
//!
//! | module | what it holds |
//! |---|---|
//! | here | starting one, and the one that is running |
//! | `builder` | starting one with a name, a size of stack … |
//! | `join` | waiting for its end |

mod builder;
mod join;

pub use builder::{Builder, SpawnError};
pub use join::{JoinError, JoinHandle};

use crate::{g::Kind, m, sched, site::Site};

/// Starts a goroutine that may go on on another thread after any parking call: what [`go!`](crate::go) expands to.
///
/// # Safety
///
/// The goroutine keeps the contract of [`go!`](crate::go): across a call of Baton that may park, it holds
///
/// - no borrow of a thread-local, and does not rely on a thread-local's address or value staying the same,
/// - no value that must stay on its thread (`!Send`) and is shared with one that does,
/// - no guard that its thread owns, as a `std::sync::MutexGuard` or std's stdout lock.
///
/// # Errors
///
/// None: a goroutine that has not run yet needs nothing but a little memory.
///
/// # Panics
///
/// Does not. If there is no memory at all the process ends with a message.
///
/// ```
/// let answer = baton::run(|| {
///     // SAFETY: the closure touches no thread-local and holds no guard.
///     unsafe { baton::spawn_migrating(|| 6 * 7) }.join().unwrap()
/// });
/// assert_eq!(answer, 42);
/// ```
#[track_caller]
pub unsafe fn spawn_migrating<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: as the caller promised; the closure is 'static.
    JoinHandle(unsafe { sched::spawn(f, None, Kind::Migrating) })
}

/// What `go!` without options expands to.
///
/// # Safety
///
/// The contract of [`spawn_migrating`].
#[doc(hidden)]
#[track_caller]
pub unsafe fn spawn_at<F, T>(site: &'static Site, f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: as the caller promised; the closure is 'static.
    JoinHandle(unsafe { sched::spawn_at(f, None, Kind::Migrating, Some(site)) })
}

/// Starts a goroutine that stays on its thread: it may be stolen until it first runs, and goes on on the thread that ran it
/// first from then on. So it may hold what belongs to a thread across parking calls, as a plain thread may: thread-locals,
/// values that are not `Send`, guards. There is no contract to keep, as there is with [`go!`](crate::go).
///
/// What that costs: goroutines that are pinned to one thread take turns on it. While one of them computes or blocks in
/// the kernel the others wait for that thread, and if it blocks on a lock that another of them holds, they wait for ever (hold
/// no `std` lock across a parking call). And a switch from one thread's goroutine to another's may have to wake that thread.
/// So `go!` is the form for many goroutines, and this one is for those that need their thread.
///
/// ```
/// use std::{cell::RefCell, rc::Rc};
///
/// thread_local!(static SEEN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
///
/// let seen = baton::run(|| {
///     let (tx, rx) = baton::chan::bounded(1);
///     let reader = baton::spawn(move || {
///         let shared = Rc::new(1_u32); // not Send, and kept across parking calls
///         for n in rx {
///             SEEN.with_borrow_mut(|seen| seen.push(n + *shared));
///         }
///         SEEN.take()
///     });
///     (0..3).for_each(|n| tx.send(n).unwrap());
///     drop(tx);
///     reader.join().unwrap()
/// });
/// assert_eq!(seen, [1, 2, 3]);
/// ```
#[track_caller]
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: it is pinned; the closure is 'static.
    JoinHandle(unsafe { sched::spawn(f, None, Kind::Pinned) })
}

/// The goroutine that is running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goroutine {
    id: u64,
    name: Option<String>,
}

impl Goroutine {
    /// Its number: counted up from 1, never used twice.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name that its [`Builder`] gave it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// The goroutine that is running, or `None` in a plain thread.
///
/// ```
/// assert!(baton::current().is_none());
/// baton::run(|| assert!(baton::current().is_some()));
/// ```
#[must_use]
pub fn current() -> Option<Goroutine> {
    let (_, g) = m::current_goroutine()?;
    // SAFETY: the running goroutine is alive.
    let g = unsafe { g.as_ref() };
    Some(Goroutine {
        id: g.id(),
        name: g.name().map(String::from),
    })
}
