//! The runtime as a whole: its settings, its main goroutine, its end.

use crate::{
    config::{Config, ConfigError, Wishes},
    deadlock,
    debug::Turn,
    g::{Kind, Options},
    m, metrics,
    sched::{self, StallReport, stall::Hook},
    time,
};
use baton_stack::StackGrowth;
use std::{fmt, panic::resume_unwind, sync::Arc, time::Duration};

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
        let caller = u64::from(m::current().is_some_and(|m| !m.body.get().is_null())); // on its own stack or on the thread's
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
