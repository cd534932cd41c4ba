//! Deadlock: when no goroutine can ever run again, the program is told so and ends, as in Go.
//!
//! The monitor looks when it is about to sleep for ever: all Ps and all Ms are idle, no queue holds anything, no timer is
//! set, no file is waited for.
//! Then only a thread that is not Baton's could make a goroutine ready. Threads that wait in [`run`](crate::run) cannot; if
//! there are no others, nobody will. Threads are counted in /proc: those of Baton are its Ms, by their numbers (a thread that a goroutine
//! starts without a name has the name of its M), and by name those that start no others. Where /proc is denied there is no alarm. While
//! there are others the monitor looks again now and then, for they may end.

use crate::{
    debug,
    sched::{Sched, netpoll},
    stderr,
};
use libc::pid_t;
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

/// Ends the program with a report if no goroutine can ever run again. All Ms were found idle by the caller, the monitor, and they are
/// `still`, if that says so after the threads were counted: one of others may have woken a goroutine before it ended. Returns whether it
/// is only for such threads that this is no deadlock.
pub(crate) fn look(sched: &Sched, still: impl FnOnce() -> bool) -> bool {
    let runs = RUNS.load(SeqCst);
    if runs == 0 || netpoll::is_awaited() || !sched.config.deadlock_report {
        return false;
    }
    let Some(others) = threads_of_others(sched) else {
        return false;
    };
    if others != runs || !still() {
        return true;
    }
    stderr::say(format_args!(
        "baton: all goroutines are asleep: deadlock! Nobody is left who could wake them; this ends the program. (If something \
         outside of it will, turn the report off: Runtime::builder().deadlock_report(false) or BATON_DEADLOCK=off.)\n\n{}",
        debug::dump()
    ));
    process::exit(EXIT_CODE);
}

/// How many threads of this process are not Baton's, or one more for each that ends just now.
fn threads_of_others(sched: &Sched) -> Option<usize> {
    let ms = sched.threads();
    let mut others = 0;
    for task in fs::read_dir("/proc/self/task").ok()? {
        let task = task.ok()?;
        let tid: pid_t = task.file_name().to_str()?.parse().ok()?;
        // Who cannot be read counts: the files may be used up, and the kernel ends its list early where a thread has ended meanwhile.
        let helps = fs::read(task.path().join("comm"))
            .is_ok_and(|name| matches!(&name[..], b"baton-sysmon\n" | b"baton-scav\n" | b"baton-trace\n"));
        others += usize::from(!helps && !ms.contains(&tid));
    }
    Some(others)
}
