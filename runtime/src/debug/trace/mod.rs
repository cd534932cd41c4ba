//! A trace of the scheduler: which goroutine ran when, on which processor, and why it stopped. [Perfetto] opens it.
//!
//! ```text
//!   M ── began, stopped, stole … ──▶ its ring ──▶ baton-trace ──▶ file
//!        (lane: no lock, no locked instruction)    (writer)       (perfetto: the format)
//! ```
//!
//! | in the trace | |
//! |---|---|
//! | a track for each processor | the goroutines that it ran, one after the other, each with its number and what it did `then` |
//! | a track for each thread that ran without a processor | goroutines that were handed off, until they stopped |
//! | `handoff` | the processor went to another thread: why |
//! | `steal`, `shed` | goroutines that came from another processor; that were left to others |
//! | `stack grew` | at the end of the slice in which it did |
//! | `records lost` | how many, since the last time: the writer did not get the CPU in time |
//!
//! While no trace is on, this costs one test of a byte each time a goroutine begins and stops ([`turns`]).
//!
//! [Perfetto]: https://ui.perfetto.dev

mod lane;
mod perfetto;
mod ring;
mod writer;

pub(crate) use lane::{Lane, began, bound, shed, stole, stopped, taken, unbound};
pub use writer::TraceSummary;

use super::turns;
use crate::stderr;
use std::{
    env, fs, io,
    path::Path,
    process,
    sync::{
        Once,
        atomic::{AtomicU16, AtomicU64},
    },
};
use writer::{WRITER, Writer};

/// When the present trace began, or the last one: what began before has no part in it.
static START: AtomicU64 = AtomicU64::new(0);

/// Traces so far, modulo 65,536.
static NUMBER: AtomicU16 = AtomicU16::new(0);

/// Whether a trace is on.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    turns::are_watched_by(turns::BY_TRACE)
}

/// Begins a trace of the scheduler, in a new file: which goroutine ran when, on which processor, and why it stopped. Open it
/// with <https://ui.perfetto.dev>. `BATON_TRACE=file` does this from the start of the runtime; `%p` in the name stands for the
/// number of the process.
///
/// The trace ends with [`trace_stop`], or when the process exits. A process that is killed leaves what was written up to then,
/// which can be opened. The file grows by about 80 bytes each time that a goroutine runs.
///
/// # Errors
///
/// The file cannot be made; there is a trace already ([`io::ErrorKind::AlreadyExists`]); the system refuses a thread.
///
/// ```
/// use baton::debug;
///
/// let file = std::env::temp_dir().join(format!("baton-doc-{}.perfetto", std::process::id()));
/// debug::trace_start(&file).unwrap();
/// baton::run(|| baton::go!(|| baton::yield_now()).join().unwrap());
/// let summary = debug::trace_stop().unwrap();
/// assert!(summary.slices > 0);
/// assert_eq!(std::fs::metadata(&file).unwrap().len(), summary.bytes);
/// # std::fs::remove_file(file).unwrap();
/// ```
pub fn trace_start(path: impl AsRef<Path>) -> io::Result<()> {
    static AT_EXIT: Once = Once::new();
    let mut writer = WRITER.lock();
    if writer.is_some() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a trace is being written already; end it with baton::debug::trace_stop()",
        ));
    }
    let file = fs::File::create(path)?;
    let start = writer::begin();
    writer::spawn(start)?;
    *writer = Some(Writer::new(file, start));
    AT_EXIT.call_once(|| {
        // SAFETY: the handler may run whenever `exit` is called. Should there be no room for it, the trace lacks its end.
        unsafe { libc::atexit(at_exit) };
    });
    turns::watch(turns::BY_TRACE);
    Ok(())
}

/// Ends the trace and says what is in it. Goroutines that run at this moment have a slice up to now.
///
/// # Errors
///
/// There is no trace ([`io::ErrorKind::NotFound`]), or the file cannot be written.
pub fn trace_stop() -> io::Result<TraceSummary> {
    turns::unwatch(turns::BY_TRACE);
    let writer = WRITER.lock().take();
    let none = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "there is no trace; begin one with baton::debug::trace_start(file) or BATON_TRACE=file",
        )
    };
    writer.ok_or_else(none)?.finish()
}

/// Begins the trace that the environment asks for.
pub(crate) fn start_from_env() -> Result<(), String> {
    let Some(path) = env::var_os("BATON_TRACE") else {
        return Ok(());
    };
    let path = path.to_string_lossy().replace("%p", &process::id().to_string());
    trace_start(&path)
        .map_err(|error| format!("BATON_TRACE is {path}, but must be a file that can be written: {error}"))
}

extern "C" fn at_exit() {
    let ours = WRITER.lock().as_ref().is_some_and(Writer::is_ours);
    if ours && let Err(error) = trace_stop() {
        stderr::say(format_args!("baton: the end of the trace is missing: {error}"));
    }
}
