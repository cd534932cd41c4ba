//! Things that are done once, in the shape of std's.

use super::{Until, holder::party_address, park};
use crate::lock::{Mutex, MutexGuard};
use crate::{
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    waitlist::{Node, WaitList},
};
use std::{
    cell::UnsafeCell,
    convert::Infallible,
    fmt,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Deref,
    panic::{RefUnwindSafe, UnwindSafe},
    ptr,
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Runs a function once, however many goroutines and threads ask for it; they all wait until it has run.
///
/// If it panics it has not run: the panic passes on, and the next one tries again.
///
/// ```
/// use baton::sync::Once;
///
/// static START: Once = Once::new();
/// let mut ran = 0;
/// START.call_once(|| ran += 1);
/// START.call_once(|| ran += 1);
/// assert_eq!(ran, 1);
/// ```
pub struct Once {
    /// Set, with Release, when the function has run.
    done: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// Who runs the function now: an address that is nobody else's, or 0.
    runner: usize,
    waiting: WaitList,
}

/// Ends a run, done or not.
struct Run<'a> {
    once: &'a Once,
    done: bool,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let mut state = self.once.state.lock();
        state.runner = 0;
        if self.done {
            self.once.done.store(true, Release);
        }
        let all = state.waiting.claim_all(Event::Done);
        drop(state);
        all.wake_all();
    }
}

impl Once {
    /// Nothing has run.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            done: AtomicBool::new(false),
            state: Mutex::new(State {
                runner: 0,
                waiting: WaitList::new(),
            }),
        }
    }

    /// Runs `f` if none has run yet; if another is at it, waits for that one.
    ///
    /// # Panics
    ///
    /// If `f` does, or if `f` calls this again on the same `Once`.
    #[inline]
    pub fn call_once<F: FnOnce()>(&self, f: F) {
        if !self.is_completed() {
            let mut f = Some(f);
            let run = || -> Result<(), Infallible> {
                f.take().expect("it runs once")();
                Ok(())
            };
            let Some(Ok(())) = self.call_slow(run, Until::FOREVER) else {
                endless()
            };
        }
    }

    /// Whether it has run. If so, what it did has happened for the caller.
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.done.load(Acquire)
    }

    /// Waits until some function has run.
    pub fn wait(&self) {
        self.wait_limited(Until::FOREVER);
    }

    /// As [`wait`](Self::wait), until then. Whether some function has run.
    pub(crate) fn wait_limited(&self, until: Until<'_>) -> bool {
        checkpoint();
        while !self.is_completed() {
            let state = self.state.lock();
            if !self.done.load(Relaxed) && !self.wait_for_runner(state, until) {
                return false;
            }
        }
        true
    }

    /// Runs `f` unless one has run; one that fails has not. `None`: another is at it still, then.
    #[cold]
    pub(crate) fn call_slow<E>(&self, f: impl FnOnce() -> Result<(), E>, until: Until<'_>) -> Option<Result<(), E>> {
        checkpoint();
        let me = party_address().get();
        loop {
            let mut state = self.state.lock();
            if self.done.load(Relaxed) {
                // The lock orders us behind the run.
                return Some(Ok(()));
            }
            assert!(
                state.runner != me,
                "a function that is run once waits for itself: its call_once or get_or_init calls the same one again"
            );
            if state.runner == 0 {
                state.runner = me;
                break;
            }
            if !self.wait_for_runner(state, until) {
                return None;
            }
        }
        let mut run = Run {
            once: self,
            done: false,
        };
        let result = f();
        run.done = result.is_ok();
        Some(result)
    }

    /// Waits until a run has ended. `false`: it has not, then.
    fn wait_for_runner(&self, mut state: MutexGuard<'_, State>, until: Until<'_>) -> bool {
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::null_mut());
        state.waiting.push(&node);
        let ended = park(&waiter, WaitReason::Once, until, move || {
            drop(state);
            true
        });
        if !ended {
            self.state.lock().waiting.remove(&node);
        }
        ended
    }
}

/// A wait without an end has given up.
#[cold]
fn endless() -> ! {
    unreachable!("without an end, a wait does not give up")
}

impl Default for Once {
    fn default() -> Self {
        Self::new()
    }
}

// Its lists are whole whenever nobody is inside: no call here unwinds midway.
impl RefUnwindSafe for Once {}
impl UnwindSafe for Once {}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("completed", &self.is_completed()).finish()
    }
}

/// A value that is written once.
///
/// ```
/// use baton::sync::OnceLock;
///
/// static NAME: OnceLock<String> = OnceLock::new();
/// assert_eq!(NAME.get(), None);
/// assert_eq!(NAME.get_or_init(|| "baton".into()), "baton");
/// assert!(NAME.set("other".into()).is_err());
/// ```
pub struct OnceLock<T> {
    once: Once,
    /// Written by the run of `once`, read when that is done.
    value: UnsafeCell<MaybeUninit<T>>,
    owns: PhantomData<T>,
}

// SAFETY: one thread may write the value and another drop it (Send), and all may read it (Sync), as with std's.
unsafe impl<T: Sync + Send> Sync for OnceLock<T> {}
// SAFETY: it owns the value and nothing that belongs to a thread.
unsafe impl<T: Send> Send for OnceLock<T> {}
impl<T: RefUnwindSafe + UnwindSafe> RefUnwindSafe for OnceLock<T> {}
impl<T: UnwindSafe> UnwindSafe for OnceLock<T> {}

impl<T> OnceLock<T> {
    /// No value yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            once: Once::new(),
            value: UnsafeCell::new(MaybeUninit::uninit()),
            owns: PhantomData,
        }
    }

    /// The value, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: written, and never again while it is borrowed.
        self.once
            .is_completed()
            .then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The value, if there is one.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: written.
        self.once
            .is_completed()
            .then(|| unsafe { self.value.get_mut().assume_init_mut() })
    }

    /// Writes the value if there is none.
    ///
    /// # Errors
    ///
    /// There is one; the error is the new value.
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        self.get_or_init(|| value.take().expect("it runs once"));
        value.map_or(Ok(()), Err)
    }

    /// The value, which `f` makes if there is none. If others ask meanwhile, they wait for it.
    ///
    /// # Panics
    ///
    /// If `f` does (there is no value then), or asks for this value itself.
    #[inline]
    pub fn get_or_init<F: FnOnce() -> T>(&self, f: F) -> &T {
        let Ok(value) = self.get_or_try_init(|| Ok::<T, Infallible>(f()));
        value
    }

    /// As [`get_or_init`](Self::get_or_init), for an `f` that may fail.
    ///
    /// # Errors
    ///
    /// That of `f`; there is no value then.
    pub fn get_or_try_init<F: FnOnce() -> Result<T, E>, E>(&self, f: F) -> Result<&T, E> {
        if !self.once.is_completed() {
            return self.init_slow(f, Until::FOREVER).unwrap_or_else(|| endless());
        }
        // SAFETY: done, so written.
        Ok(unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The value, which `f` makes if there is none. `None`: another makes it still, then.
    pub(crate) fn init_slow<E>(&self, f: impl FnOnce() -> Result<T, E>, until: Until<'_>) -> Option<Result<&T, E>> {
        let run = || {
            let value = f()?;
            // SAFETY: this is the one run; nobody reads the value before it is done.
            unsafe { (*self.value.get()).write(value) };
            Ok(())
        };
        // SAFETY: done, so written.
        let value = |()| unsafe { (*self.value.get()).assume_init_ref() };
        self.once.call_slow(run, until).map(|done| done.map(value))
    }

    /// Waits for the value.
    pub fn wait(&self) -> &T {
        self.wait_limited(Until::FOREVER).unwrap_or_else(|| endless())
    }

    /// As [`wait`](Self::wait), until then.
    pub(crate) fn wait_limited(&self, until: Until<'_>) -> Option<&T> {
        self.once.wait_limited(until).then(|| {
            // SAFETY: done, so written.
            unsafe { (*self.value.get()).assume_init_ref() }
        })
    }

    /// Takes the value out.
    pub fn take(&mut self) -> Option<T> {
        if !self.once.is_completed() {
            return None;
        }
        self.once = Once::new();
        // SAFETY: it was written, and from now on counts as not written.
        Some(unsafe { self.value.get_mut().assume_init_read() })
    }

    /// The value.
    pub fn into_inner(mut self) -> Option<T> {
        self.take()
    }
}

impl<T> Drop for OnceLock<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> Self {
        let this = Self::new();
        this.get_or_init(|| value);
        this
    }
}

impl<T: Clone> Clone for OnceLock<T> {
    fn clone(&self) -> Self {
        self.get().cloned().map_or_else(Self::new, Self::from)
    }
}

impl<T: PartialEq> PartialEq for OnceLock<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<T: Eq> Eq for OnceLock<T> {}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceLock").field(&self.get()).finish()
    }
}

/// A value that is made at its first use.
///
/// ```
/// use baton::sync::LazyLock;
///
/// static TABLE: LazyLock<Vec<u32>> = LazyLock::new(|| (0..4).map(|i| i * i).collect());
/// assert_eq!(TABLE[3], 9);
/// ```
pub struct LazyLock<T, F = fn() -> T> {
    value: OnceLock<T>,
    /// Taken by the one run.
    make: Mutex<Option<F>>,
}

impl<T: RefUnwindSafe + UnwindSafe, F: UnwindSafe> RefUnwindSafe for LazyLock<T, F> {}

impl<T, F: FnOnce() -> T> LazyLock<T, F> {
    /// A value that `f` will make.
    pub const fn new(f: F) -> Self {
        Self {
            value: OnceLock::new(),
            make: Mutex::new(Some(f)),
        }
    }

    /// The value, made now if it was not yet.
    ///
    /// # Panics
    ///
    /// If the function that makes it does; it is gone then, so this panics at each later use too.
    #[inline]
    pub fn force(this: &Self) -> &T {
        this.value.get_or_init(|| this.make())
    }

    /// As [`force`](Self::force); if another makes the value, until then.
    pub(crate) fn force_limited(&self, until: Until<'_>) -> Option<&T> {
        let Ok(value) = self.value.init_slow(|| Ok::<T, Infallible>(self.make()), until)?;
        Some(value)
    }

    /// The value as it is, without making it.
    pub(crate) fn made(&self) -> Option<&T> {
        self.value.get()
    }

    fn make(&self) -> T {
        let make = self.make.lock().take();
        make.expect("the function of this LazyLock has panicked, so its value cannot be made")()
    }
}

impl<T, F: FnOnce() -> T> Deref for LazyLock<T, F> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        Self::force(self)
    }
}

impl<T: Default> Default for LazyLock<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T: fmt::Debug, F> fmt::Debug for LazyLock<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LazyLock").field(&self.value.get()).finish()
    }
}
