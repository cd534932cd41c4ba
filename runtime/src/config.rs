//! What can be set before the runtime starts: by [`Runtime::builder`](crate::Runtime::builder), else by environment
//! variables, else by what the machine offers.

use crate::{
    debug::turns::Hooks,
    sched::{quota, stall::Hook},
};
use baton_stack::{Spec, StackError, StackGrowth};
use std::{env, fmt, time::Duration};

/// Bounds of a goroutine's largest stack.
pub(crate) const STACK_BOUNDS: std::ops::RangeInclusive<usize> = 64 << 10..=1 << 30;

/// Bounds of the number of Ps.
pub(crate) const PROCS_BOUNDS: std::ops::RangeInclusive<usize> = 1..=1024;

/// Bounds of the number of Ms: one for each P at least, and as many as Go allows.
const THREADS_BOUNDS: std::ops::RangeInclusive<usize> = 1..=10_000;

/// Bounds of the time, in milliseconds, after which an idle M ends.
const RETIRE_BOUNDS: std::ops::RangeInclusive<usize> = 1..=86_400_000;

/// How the runtime runs; constant once it has started.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// How many Ps there are at first.
    pub(crate) procs: usize,
    /// Nobody has said how many: their number follows what the machine offers.
    pub(crate) follow_quota: bool,
    pub(crate) max_threads: usize,
    /// After so long an idle M that is one too many ends.
    pub(crate) retire_after: Duration,
    /// The kind of stack of a goroutine that asks for none.
    pub(crate) stack: Spec,
    /// Tests: every goroutine that parks goes on on another M.
    pub(crate) force_migration: bool,
    /// Nanoseconds between two lines about the scheduler.
    pub(crate) schedtrace: Option<u64>,
    /// A deadlock of all goroutines ends the program, with a report.
    pub(crate) deadlock_report: bool,
    /// Told of goroutines that keep their thread for long.
    pub(crate) on_stall: Option<Hook>,
    /// Told each time that a goroutine begins or stops to run.
    pub(crate) hooks: Hooks,
    /// The control experiment of `examples/handoff.rs`: the mcache stays with M when its P leaves.
    pub(crate) cache_with_m: bool,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The runtime runs already, with other settings.
    AlreadyStarted,
    /// This machine has no such stacks.
    Stack(StackError),
    /// A value is out of its range, or not a value at all.
    BadValue {
        /// The builder's method, or the environment variable.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        expected: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted => f.write_str(
                "the runtime has started already; call Runtime::builder()…init() before the first go!, run or channel",
            ),
            Self::Stack(error) => error.fmt(f),
            Self::BadValue {
                setting,
                value,
                expected,
            } => {
                write!(f, "{setting} is {value}, but must be {expected}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// What the builder was told; `None` leaves it to the environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) procs: Option<usize>,
    pub(crate) max_threads: Option<usize>,
    /// In milliseconds.
    pub(crate) retire_ms: Option<usize>,
    pub(crate) max_stack: Option<usize>,
    pub(crate) stack_growth: Option<StackGrowth>,
    pub(crate) force_migration: Option<bool>,
    pub(crate) deadlock_report: Option<bool>,
    pub(crate) cache_with_m: Option<bool>,
    pub(crate) on_stall: Option<Hook>,
    pub(crate) hooks: Hooks,
}

impl Config {
    /// Wishes, then environment, then defaults.
    pub(crate) fn resolve(wishes: &Wishes) -> Result<Self, ConfigError> {
        let procs = number(wishes.procs, "procs", "BATON_PROCS", PROCS_BOUNDS)?;
        let retire = number(wishes.retire_ms, "retire_after_ms", "BATON_RETIRE_MS", RETIRE_BOUNDS)?.unwrap_or(60_000);
        let max_threads = number(wishes.max_threads, "max_threads", "BATON_MAX_THREADS", THREADS_BOUNDS)?
            .unwrap_or(*THREADS_BOUNDS.end());
        let max_stack = number(wishes.max_stack, "max_stack", "BATON_MAX_STACK", STACK_BOUNDS)?.unwrap_or(1 << 20);
        let growth = word(
            "BATON_STACK_GROWTH",
            &[("trap", StackGrowth::Trap), ("demand", StackGrowth::DemandPaged)],
        )?;
        let schedtrace = number(None, "schedtrace", "BATON_SCHEDTRACE", 1..=3_600_000)?;
        let deadlock = word("BATON_DEADLOCK", &[("report", true), ("off", false)])?;
        let migrate = word("BATON_FORCE_MIGRATION", &[("1", true), ("0", false)])?;
        let cache = word("BATON_CACHE_OWNER", &[("m", true), ("p", false)])?;
        Ok(Self {
            procs: procs.unwrap_or_else(|| quota::cpus().min(*PROCS_BOUNDS.end())),
            follow_quota: procs.is_none(),
            retire_after: Duration::from_millis(retire as u64),
            max_threads,
            stack: Spec::with_growth(max_stack, wishes.stack_growth.or(growth).unwrap_or(StackGrowth::Trap))
                .map_err(ConfigError::Stack)?,
            force_migration: wishes.force_migration.or(migrate).unwrap_or(false),
            schedtrace: schedtrace.map(|ms| ms as u64 * 1_000_000),
            deadlock_report: wishes.deadlock_report.or(deadlock).unwrap_or(true),
            on_stall: wishes.on_stall.clone(),
            hooks: wishes.hooks.clone(),
            cache_with_m: wishes.cache_with_m.or(cache).unwrap_or(false),
        })
    }
}

/// A number from the builder, else from the environment, in bounds.
fn number(
    wish: Option<usize>,
    setting: &'static str,
    variable: &'static str,
    bounds: std::ops::RangeInclusive<usize>,
) -> Result<Option<usize>, ConfigError> {
    let (name, text) = match (wish, env::var_os(variable)) {
        (Some(n), _) => (setting, n.to_string()),
        (None, Some(text)) => (variable, text.to_string_lossy().into_owned()),
        (None, None) => return Ok(None),
    };
    match text.parse() {
        Ok(n) if bounds.contains(&n) => Ok(Some(n)),
        _ => Err(ConfigError::BadValue {
            setting: name,
            value: text,
            expected: format!("a number from {} to {}", bounds.start(), bounds.end()),
        }),
    }
}

/// One of a few words from the environment.
fn word<T: Copy>(variable: &'static str, words: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
    let Some(text) = env::var_os(variable) else {
        return Ok(None);
    };
    match words.iter().find(|(word, _)| text == *word) {
        Some(&(_, value)) => Ok(Some(value)),
        None => Err(ConfigError::BadValue {
            setting: variable,
            value: text.to_string_lossy().into_owned(),
            expected: words.iter().map(|w| w.0).collect::<Vec<_>>().join(" or "),
        }),
    }
}
