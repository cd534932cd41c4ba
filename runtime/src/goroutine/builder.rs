//! Options for one goroutine.

use super::JoinHandle;
use crate::{
    config::STACK_BOUNDS,
    g::{Kind, OnStackOverflow, Options},
    sched,
    site::Site,
};
use baton_stack::{Class, Spec, StackError};
use std::fmt;

/// Options for a goroutine, as `std::thread::Builder` has them for a thread.
///
/// ```
/// let name = baton::run(|| {
///     let builder = baton::Builder::new().name("worker").max_stack(256 << 10);
///     // SAFETY: the closure touches no thread-local and holds no guard.
///     let worker = unsafe { builder.spawn_migrating(|| baton::current().unwrap().name().map(String::from)) };
///     worker.unwrap().join().unwrap()
/// });
/// assert_eq!(name.as_deref(), Some("worker"));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it spawns"]
pub struct Builder {
    options: Options,
    /// The `go!` that this is for.
    site: Option<&'static Site>,
}

impl Builder {
    /// No options yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the goroutine, for messages about it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into().into_boxed_str());
        self
    }

    /// The largest stack of the goroutine, in bytes, from 64 KiB to 1 GiB. It is address space; memory is used as the
    /// stack is.
    pub fn max_stack(mut self, bytes: usize) -> Self {
        self.options.max_stack = Some(bytes);
        self
    }

    /// Says which `go!` this is for.
    #[doc(hidden)]
    pub fn __at(mut self, site: &'static Site) -> Self {
        self.site = Some(site);
        self
    }

    /// What happens when the stack overflows. By default the process ends with a report.
    ///
    /// With [`OnStackOverflow::End`] only the goroutine ends, at the instruction that needed more than there is. **Nothing is
    /// dropped**: what it held stays as it was, for ever. Its stack stays mapped and is never used again, so what others
    /// borrowed from it stays good; a lock that it held stays locked, a channel that it held an end of is never closed, a
    /// wait group that it was to leave waits for ever. So let such a goroutine own nothing that others wait for, and get
    /// its result by `join`.
    ///
    /// The process ends all the same if the overflow would leave something half done: in the middle of an allocation of Baton's heap,
    /// while the goroutine unwinds from a panic, in a signal handler that runs on its stack, and in a
    /// [simulation](crate::testing). Goroutines of a [`scope`](crate::scope()) have no such option: what they borrow must be
    /// free again when the scope ends. (A handler of an asynchronous signal that the goroutine itself unblocked is not seen.)
    ///
    /// ```
    /// use baton::{Builder, JoinError, OnStackOverflow};
    ///
    /// fn endless(n: u64) -> u64 {
    ///     std::hint::black_box(endless(n + 1)) + n
    /// }
    ///
    /// baton::run(|| {
    ///     let builder = Builder::new().max_stack(64 << 10).on_stack_overflow(OnStackOverflow::End);
    ///     let handle = builder.spawn(|| endless(0)).unwrap();
    ///     assert!(matches!(handle.join(), Err(JoinError::StackOverflow)));
    /// });
    /// ```
    pub fn on_stack_overflow(mut self, what: OnStackOverflow) -> Self {
        self.options.on_stack_overflow = what;
        self
    }

    fn check(&self) -> Result<(), SpawnError> {
        match self.options.max_stack {
            Some(bytes) if !STACK_BOUNDS.contains(&bytes) => Err(SpawnError::StackSize(bytes)),
            _ => Ok(()),
        }
    }

    /// [`spawn`](Self::spawn), with the stack now and not at the first run: so that there is none is an error here. (With
    /// `spawn` and `go!`, the process ends with the same words when a goroutine should run and no stack can be had.)
    ///
    /// # Errors
    ///
    /// As `spawn`, and [`SpawnError::Stack`] if the address space, the mappings or the memory for another stack cannot be
    /// had. The error's text says what to change. The closure has been dropped then.
    ///
    /// ```
    /// let builder = baton::Builder::new().max_stack(1 << 30);
    /// match builder.try_spawn(|| 1 + 2) {
    ///     Ok(handle) => assert_eq!(handle.join().unwrap(), 3),
    ///     Err(error) => eprintln!("{error}"), // a machine with little address space
    /// }
    /// ```
    #[track_caller]
    pub fn try_spawn<F, T>(self, f: F) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // SAFETY: it is pinned.
        unsafe { self.try_start(f, Kind::Pinned) }
    }

    /// [`spawn_migrating`](Self::spawn_migrating), with the stack now and not at the first run: see [`try_spawn`](Self::try_spawn).
    ///
    /// # Safety
    ///
    /// The contract of [`spawn_migrating`](super::spawn_migrating).
    ///
    /// # Errors
    ///
    /// As [`try_spawn`](Self::try_spawn).
    ///
    /// ```
    /// let builder = baton::Builder::new().max_stack(64 << 10);
    /// // SAFETY: the closure touches no thread-local and holds no guard.
    /// match unsafe { builder.try_spawn_migrating(|| 1 + 2) } {
    ///     Ok(handle) => assert_eq!(handle.join().unwrap(), 3),
    ///     Err(error) => eprintln!("one less: {error}"),
    /// }
    /// ```
    #[track_caller]
    pub unsafe fn try_spawn_migrating<F, T>(self, f: F) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // SAFETY: as the caller promised.
        unsafe { self.try_start(f, Kind::Migrating) }
    }

    /// # Safety
    ///
    /// As for [`start`](Self::start).
    #[track_caller]
    unsafe fn try_start<F, T>(self, f: F, kind: Kind) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.check()?;
        let usual = sched::sched().config.stack;
        let spec = self
            .options
            .max_stack
            .map_or(Ok(usual), |bytes| Spec::with_growth(bytes, usual.growth()));
        let stack = spec.and_then(|spec| sched::scavenge::acquire(spec, self.site.map_or(Class::MIN, Site::class)));
        let stack = stack.map_err(SpawnError::Stack)?;
        let baggage = self.options.packed_with(stack);
        // SAFETY: as the caller promised; the closure is 'static.
        Ok(JoinHandle(unsafe { sched::spawn_at(f, baggage, kind, self.site) }))
    }

    /// Starts a goroutine that stays on its thread: see [`spawn`](super::spawn).
    ///
    /// # Errors
    ///
    /// [`SpawnError::StackSize`] if `max_stack` is out of its bounds.
    ///
    /// ```
    /// let sum = baton::run(|| baton::Builder::new().name("adder").spawn(|| 1 + 2).unwrap().join().unwrap());
    /// assert_eq!(sum, 3);
    /// ```
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // SAFETY: it is pinned.
        unsafe { self.start(f, Kind::Pinned) }
    }

    /// Starts a goroutine that may go on on another thread after any parking call.
    ///
    /// # Safety
    ///
    /// The contract of [`spawn_migrating`](super::spawn_migrating).
    ///
    /// # Errors
    ///
    /// [`SpawnError::StackSize`] if `max_stack` is out of its bounds.
    #[track_caller]
    pub unsafe fn spawn_migrating<F, T>(self, f: F) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // SAFETY: as the caller promised.
        unsafe { self.start(f, Kind::Migrating) }
    }

    /// # Safety
    ///
    /// If it may migrate, the goroutine keeps the contract of [`spawn_migrating`](super::spawn_migrating).
    #[track_caller]
    unsafe fn start<F, T>(self, f: F, kind: Kind) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.check()?;
        // SAFETY: as the caller promised; the closure is 'static.
        Ok(JoinHandle(unsafe {
            sched::spawn_at(f, self.options.packed(), kind, self.site)
        }))
    }
}

/// Why a goroutine was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnError {
    /// `max_stack` was this many bytes.
    StackSize(usize),
    /// There is no such stack at present.
    Stack(StackError),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack(error) => error.fmt(f),
            Self::StackSize(bytes) => write!(
                f,
                "max_stack is {bytes} bytes, but must be from {} to {}",
                STACK_BOUNDS.start(),
                STACK_BOUNDS.end()
            ),
        }
    }
}

impl std::error::Error for SpawnError {}
