//! The ends of the line: what the program cannot go on from. Each says what happened, to whom, and what to change.

use crate::{config::ConfigError, g::G, stderr};
use baton_stack::StackError;
use std::{fmt, io, process};

/// The program's settings make no sense.
pub(crate) fn config(error: &ConfigError) -> ! {
    setting(&error.to_string())
}

/// The same, in other words.
pub(crate) fn setting(error: &str) -> ! {
    stderr::say(format_args!("baton: {error}"));
    process::abort()
}

/// The system refuses the thread that everything else depends on.
pub(crate) fn no_thread(what: &str, error: &io::Error) -> ! {
    stderr::say(format_args!(
        "baton: no thread for {what}: {error}; raise the limit of threads (ulimit -u, pids.max)"
    ));
    process::abort()
}

/// A goroutine was started in a forked child.
pub(crate) fn forked() -> ! {
    stderr::say(format_args!(
        "baton: go! in a forked child: the threads that run goroutines stayed with the parent; exec a program after fork, or \
         fork before the first goroutine"
    ));
    process::abort()
}

/// A hook on turns has panicked, on the scheduler's own stack.
pub(crate) fn hook(goroutine: u64) -> ! {
    stderr::say(format_args!(
        "baton: the hook on_resume or on_park has panicked, at a turn of goroutine {goroutine}; the scheduler cannot go on; let the hook \
         not panic, or catch it there"
    ));
    process::abort()
}

/// The system refuses the fault handler, without which a stack that overflows would not be noticed.
pub(crate) fn no_handler(error: &StackError) -> ! {
    stderr::say(format_args!("baton: no fault handler: {error}"));
    process::abort()
}

/// There is no memory for a part of the runtime. Allocates nothing.
pub(crate) fn out_of_memory(what: &str, bytes: usize) -> ! {
    stderr::say(format_args!(
        "baton: out of memory: no {bytes} bytes for {what}; raise the limit (ulimit -v, memory.max) or spawn less"
    ));
    process::abort()
}

/// A goroutine that should run has no stack.
pub(crate) fn no_stack(g: &G, error: &StackError) -> ! {
    stderr::say(format_args!(
        "baton: no stack for {}, spawned at {}: {error}",
        Who(g),
        g.place()
    ));
    process::abort()
}

/// Writes which goroutine owns a stack. Called by the fault handler: it allocates and locks nothing.
pub(crate) fn describe(owner: *const (), out: &mut dyn fmt::Write) {
    // SAFETY: the owner of a stack is null or the goroutine that runs on it, which is alive while it does.
    if let Some(g) = unsafe { owner.cast::<G>().as_ref() } {
        let _ = write!(out, "{}, spawned at {},", Who(g), g.place());
    } else {
        let _ = out.write_str("a goroutine that was ending, or a thread in stack::grow,");
    }
}

/// A goroutine of a simulation waits while it unwinds, on the one thread that there is.
pub(crate) fn simulation_stands_still() -> ! {
    let who = crate::current().map_or(0, |g| g.id());
    stderr::say(format_args!(
        "baton: goroutine {who} of a simulation waits in a destructor while it unwinds from a panic; that keeps its thread, and a \
         simulation has no other; let the destructor not wait, or test this with the real scheduler"
    ));
    process::abort()
}

/// `goroutine 17 "name"`.
pub(crate) struct Who<'a>(pub(crate) &'a G);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goroutine {}", self.0.id())?;
        match self.0.name() {
            Some(name) => write!(f, " \"{name}\""),
            None => Ok(()),
        }
    }
}
