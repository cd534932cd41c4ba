//! The user's view of goroutines: starting, naming, joining them.

use crate::{
    config::{Config, ConfigError, STACK_BOUNDS, Wishes},
    deadlock,
    debug::Turn,
    g::{Handle, Kind, OnStackOverflow, Options, Overflowed, Payload},
    m, metrics,
    sched::{self, StallReport, stall::Hook},
    site::Site,
    time,
};
use baton_stack::{Class, Spec, StackError, StackGrowth};
use std::{
    fmt,
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

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
    /// The process ends all the same if the overflow would leave something half done: in the middle of an allocation,
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
    /// The contract of [`spawn_migrating`].
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

    /// Starts a goroutine that stays on its thread: see [`spawn`].
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
    /// The contract of [`spawn_migrating`].
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
    /// If it may migrate, the goroutine keeps the contract of [`spawn_migrating`].
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

/// The right to wait for a goroutine and to have its result. Dropped, the goroutine goes on by itself.
///
/// ```
/// baton::run(|| {
///     let handle = baton::go!(|| 2 + 2);
///     assert!(handle.id() > 0);
///     assert_eq!(handle.join().unwrap(), 4);
/// });
/// ```
pub struct JoinHandle<T>(Handle<T>);

impl<T> JoinHandle<T> {
    /// Waits for the goroutine to end and gives what it returned.
    ///
    /// # Errors
    ///
    /// The goroutine panicked: the error holds what it panicked with. Or it overflowed its stack, and
    /// [`on_stack_overflow`](Builder::on_stack_overflow) said that this ends nothing else.
    pub fn join(self) -> Result<T, JoinError> {
        sched::checkpoint();
        self.0.join().map_err(JoinError::new)
    }

    /// Whether the goroutine has ended, so that [`join`](Self::join) would not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_done()
    }

    /// The goroutine's number: counted up from 1, never used twice.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id()
    }
}

/// Waits for the end as [`join`](JoinHandle::join) does: in [`block_on`](crate::block_on), or in any executor, on any thread.
///
/// Dropped before it is ready, it leaves nothing behind, and the goroutine goes on by itself. Once it has given the result, `id` is 0.
///
/// # Panics
///
/// Polled again after it has given the result.
///
/// ```
/// let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let sum = tokio.block_on(async {
///     let (a, b) = (baton::go!(|| 1), baton::go!(|| 2));
///     a.await.unwrap() + b.await.unwrap()
/// });
/// assert_eq!(sum, 3);
/// ```
impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_err(JoinError::new)
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id())
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Why a goroutine has no result.
#[non_exhaustive]
pub enum JoinError {
    /// It panicked, with this.
    Panic(Box<dyn std::any::Any + Send + 'static>),
    /// It overflowed its stack, and [`Builder::on_stack_overflow`] said that this ends nothing else.
    StackOverflow,
}

impl JoinError {
    pub(crate) fn new(payload: Payload) -> Self {
        if payload.is::<Overflowed>() {
            Self::StackOverflow
        } else {
            Self::Panic(payload)
        }
    }

    /// What the goroutine panicked with.
    ///
    /// # Panics
    ///
    /// If it did not panic: then with what did happen.
    #[must_use]
    pub fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        match self {
            Self::Panic(payload) => payload,
            Self::StackOverflow => panic!("{self}"),
        }
    }

    /// The panic's message, if it was a string, as that of `panic!` is.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        let Self::Panic(payload) = self else { return None };
        payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(_) => f
                .debug_struct("Panic")
                .field("message", &self.message())
                .finish_non_exhaustive(),
            Self::StackOverflow => f.write_str("StackOverflow"),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message() {
            _ if matches!(self, Self::StackOverflow) => f.write_str(
                "the goroutine overflowed its stack; raise its limit (Builder::max_stack, BATON_MAX_STACK), or look for a \
                 recursion without end",
            ),
            Some(message) => write!(f, "the goroutine panicked: {message}"),
            None => f.write_str("the goroutine panicked with something that is no text"),
        }
    }
}

impl std::error::Error for JoinError {}

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

/// The number of processors: so many goroutines run at the same time. [`set_procs`](crate::set_procs) changes it.
#[must_use]
pub fn procs() -> usize {
    sched::sched().ps.active()
}

/// Runs `f` as the main goroutine and gives what it returns. The runtime starts if it does not run yet.
///
/// When `f` returns, `run` does: other goroutines are left as they are, as in Go, and go on until the process ends. So
/// wait for those whose work matters, one by one or with [`Runtime::shutdown`]. If no goroutine can ever run again while `f` has
/// not returned, and no thread is left that could change that, the process ends with a report and exit code 2
/// ([`RuntimeBuilder::deadlock_report`]). From within a goroutine, `run(f)` is just `f()`.
///
/// # Panics
///
/// With what `f` panicked with.
///
/// ```
/// use baton::go;
///
/// let sum: u64 = baton::run(|| {
///     let parts: Vec<_> = (0..10).map(|i| go!(move || i * i)).collect();
///     parts.into_iter().map(|part| part.join().unwrap()).sum()
/// });
/// assert_eq!(sum, 285);
/// ```
#[track_caller]
pub fn run<F, T>(f: F) -> T
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    if m::current_goroutine().is_some() {
        return f();
    }
    let main = Options {
        name: Some("main".into()),
        ..Options::default()
    };
    let body = || {
        let _run = deadlock::Run::begin();
        f()
    };
    // SAFETY: what the closure borrows outlives it, since this waits for its end. Its contract is that of `go!`.
    match unsafe { sched::spawn(body, main.packed(), Kind::Migrating) }.join() {
        Ok(value) => value,
        Err(payload) => resume_unwind(payload),
    }
}

/// The runtime as such: [`Runtime::builder`] sets it up.
#[derive(Debug)]
pub struct Runtime(());

impl Runtime {
    /// Waits until all goroutines but the calling one have ended, looking once a millisecond, for `timeout` at most.
    ///
    /// Nobody is told to end: close channels and set flags before. What has not ended goes on as after [`run`] has returned. The
    /// runtime itself stays, and goroutines may be started again.
    ///
    /// # Errors
    ///
    /// [`StillAlive`] after `timeout`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// baton::run(|| {
    ///     (0..10).for_each(|_| drop(baton::go!(|| baton::time::sleep(Duration::from_millis(1)))));
    ///     baton::Runtime::shutdown(Duration::from_secs(5)).unwrap();
    /// });
    /// ```
    pub fn shutdown(timeout: Duration) -> Result<(), StillAlive> {
        let deadline = time::now().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let caller = u64::from(m::current_goroutine().is_some());
        loop {
            let goroutines = metrics::goroutines().saturating_sub(caller);
            if goroutines == 0 {
                return Ok(());
            }
            if time::now() >= deadline {
                return Err(StillAlive { goroutines });
            }
            time::sleep(Duration::from_millis(1));
        }
    }

    /// Settings to start the runtime with. Without [`init`](RuntimeBuilder::init) it starts by itself at first use, with the
    /// environment's settings and defaults.
    ///
    /// ```
    /// baton::Runtime::builder().procs(2).max_stack(256 << 10).init().unwrap();
    /// assert_eq!(baton::procs(), 2);
    /// ```
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder {
            wishes: Wishes::default(),
        }
    }
}

/// Goroutines were still alive when [`Runtime::shutdown`] gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillAlive {
    /// How many.
    pub goroutines: u64,
}

impl fmt::Display for StillAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.goroutines;
        write!(
            f,
            "{n} goroutines have not ended in time; baton::dump() says where they are"
        )
    }
}

impl std::error::Error for StillAlive {}

/// Settings of the runtime. What is not set comes from the environment variable that each method names, else from the
/// default.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until init"]
pub struct RuntimeBuilder {
    wishes: Wishes,
}

impl RuntimeBuilder {
    /// How many goroutines run at the same time, 1 to 1,024 (`BATON_PROCS`). Default: the CPUs that affinity and cgroup
    /// limits leave to the process.
    pub fn procs(mut self, n: usize) -> Self {
        self.wishes.procs = Some(n);
        self
    }

    /// How many threads at most run goroutines or are blocked in them, 1 to 10,000 (`BATON_MAX_THREADS`, default 10,000). At
    /// the limit a warning is printed, and a processor whose thread is blocked waits for that thread.
    pub fn max_threads(mut self, n: usize) -> Self {
        self.wishes.max_threads = Some(n);
        self
    }

    /// After how long, in milliseconds, the thread of an idle M ends, if there are as many idle ones as processors without
    /// it (`BATON_RETIRE_MS`, default 60,000).
    pub fn retire_after_ms(mut self, ms: usize) -> Self {
        self.wishes.retire_ms = Some(ms);
        self
    }

    /// Calls `hook` when a goroutine has blocked its thread, or has computed, for more than 10 ms while others waited; once
    /// for each such stall, while it lasts. Each call is a goroutine of its own, under the contract of [`go!`](crate::go).
    ///
    /// ```
    /// baton::Runtime::builder().on_stall(|report| eprintln!("{report}")).init().unwrap();
    /// ```
    pub fn on_stall(mut self, hook: impl Fn(&StallReport) + Send + Sync + 'static) -> Self {
        self.wishes.on_stall = Some(Hook(Arc::new(hook)));
        self
    }

    /// Calls `hook` each time that a goroutine is about to run on a thread: when it begins, and when it goes on after it has waited
    /// or yielded, often on another thread than before. With [`on_park`](Self::on_park) a thread-local variable can follow the
    /// goroutine: a tracing span, a logger's context.
    ///
    /// The hook runs on that thread, on the thread's own stack, and to Baton it is a plain thread: [`current`](crate::current) is `None`.
    /// What the hook wants to keep with the goroutine it keeps in a [`goroutine_local!`](crate::goroutine_local) variable, by
    /// [`Turn::local`]. It runs at each switch: it must be short, and not wait for anything, since all goroutines of the
    /// processor wait for it. If it panics the process ends with a message. Goroutines of a [simulation](crate::testing) are
    /// told of as well. A goroutine that merely loses its processor goes on on its thread, and nobody is called.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// thread_local!(static SPAN: Cell<u64> = const { Cell::new(0) }); // of some library that knows threads only
    /// baton::goroutine_local!(static KEPT: Cell<u64> = Cell::new(0));
    ///
    /// baton::Runtime::builder()
    ///     .on_resume(|turn| _ = turn.local(&KEPT, |kept| SPAN.set(kept.get())))
    ///     .on_park(|turn| {
    ///         let span = SPAN.take();
    ///         turn.local(&KEPT, |kept| kept.set(span));
    ///     })
    ///     .init()
    ///     .unwrap();
    /// # #[inline(never)] fn span() -> u64 { SPAN.get() }
    /// # #[inline(never)] fn enter(id: u64) { SPAN.set(id) }
    /// baton::run(|| {
    ///     let spans = [1, 2, 3].map(|id| {
    ///         baton::go!(move || {
    ///             enter(id);
    ///             baton::time::sleep(std::time::Duration::from_millis(1));
    ///             assert_eq!(span(), id);
    ///         })
    ///     });
    ///     spans.into_iter().for_each(|span| span.join().unwrap());
    /// });
    /// ```
    pub fn on_resume(mut self, hook: impl Fn(&Turn<'_>) + Send + Sync + 'static) -> Self {
        self.wishes.hooks.on_resume = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` each time that a goroutine has stopped to run on a thread: it waits, it has yielded, or it has
    /// [ended](Turn::has_ended). The hook runs before anybody else can run the goroutine; for the rest see
    /// [`on_resume`](Self::on_resume).
    pub fn on_park(mut self, hook: impl Fn(&Turn<'_>) + Send + Sync + 'static) -> Self {
        self.wishes.hooks.on_park = Some(Arc::new(hook));
        self
    }

    /// The largest stack of a goroutine that asks for none, in bytes, 64 KiB to 1 GiB (`BATON_MAX_STACK`, default 1 MiB). It
    /// is address space; memory is used as the stack is.
    pub fn max_stack(mut self, bytes: usize) -> Self {
        self.wishes.max_stack = Some(bytes);
        self
    }

    /// How stacks grow (`BATON_STACK_GROWTH=trap` or `demand`, default trap).
    pub fn stack_growth(mut self, growth: StackGrowth) -> Self {
        self.wishes.stack_growth = Some(growth);
        self
    }

    /// Whether a deadlock of all goroutines ends the program with a report of where each of them waits, and exit code 2
    /// (`BATON_DEADLOCK=report` or `off`, default report). It is one if every goroutine waits, no timer is set, and the
    /// process has no threads but Baton's and those that wait in [`run`].
    pub fn deadlock_report(mut self, on: bool) -> Self {
        self.wishes.deadlock_report = Some(on);
        self
    }

    /// For tests: a goroutine that parks goes on on another thread, so that a broken contract of `go!` shows
    /// (`BATON_FORCE_MIGRATION=1`). Slow.
    pub fn force_migration(mut self, on: bool) -> Self {
        self.wishes.force_migration = Some(on);
        self
    }

    /// An experiment, the control of `examples/handoff.rs`: the mcache belongs to the thread and stays behind when the
    /// processor leaves (`BATON_CACHE_OWNER=m`).
    pub fn cache_stays_with_thread(mut self, on: bool) -> Self {
        self.wishes.cache_with_m = Some(on);
        self
    }

    /// Starts the runtime.
    ///
    /// # Errors
    ///
    /// A value is out of its range, or the runtime runs already.
    pub fn init(self) -> Result<(), ConfigError> {
        sched::init(Config::resolve(&self.wishes)?)
    }
}
