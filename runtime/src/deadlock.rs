//! Deadlock: when no goroutine can ever run again, the program is told so and ends, as in Go.
//!
//! The monitor looks when it is about to sleep for ever: all Ps and all Ms are idle, no queue holds anything, no timer is
//! set, no file is waited for.
//! Then only a thread that is not Baton's could make a goroutine ready. Threads that wait in [`run`](crate::run) cannot; if
//! there are no others, nobody will. Threads are counted in /proc, by name: those of Baton begin with `baton-`. Where /proc is
//! denied there is no alarm.

use crate::{
    debug,
    sched::{Sched, netpoll},
};
use std::{
    fs, process,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

/// The exit code of a program whose goroutines are all asleep: Go's.
const EXIT_CODE: i32 = 2;

/// Main goroutines that have not ended: each has a thread that waits for it.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// A main goroutine that has not ended.
pub(crate) struct Run(());

impl Run {
    pub(crate) fn begin() -> Self {
        RUNS.fetch_add(1, SeqCst);
        Self(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        RUNS.fetch_sub(1, SeqCst);
    }
}

/// Ends the program with a report if no goroutine can ever run again. All Ms were found idle by the caller, the monitor.
pub(crate) fn look(sched: &Sched) {
    let runs = RUNS.load(SeqCst);
    if runs == 0 || netpoll::is_awaited() || !sched.config.deadlock_report || threads_of_others() != Some(runs) {
        return;
    }
    eprintln!(
        "baton: all goroutines are asleep: deadlock! Nobody is left who could wake them; this ends the program. (If something \
         outside of it will, turn the report off: Runtime::builder().deadlock_report(false) or BATON_DEADLOCK=off.)\n\n{}",
        debug::dump()
    );
    process::exit(EXIT_CODE);
}

/// How many threads of this process are not Baton's.
fn threads_of_others() -> Option<usize> {
    let mut others = 0;
    for task in fs::read_dir("/proc/self/task").ok()? {
        let name = fs::read(task.ok()?.path().join("comm")).ok()?;
        others += usize::from(!name.starts_with(b"baton-"));
    }
    Some(others)
}
