//! SIGQUIT: a dump of all goroutines, and then the end that the signal stands for.
//!
//! The handler only leaves a word and wakes the monitor, which writes the dump and raises the signal again. It is installed if
//! nobody else handles the signal when the runtime starts; a program that wants another handler installs it later.

use crate::{sched::Sched, stderr};
use std::{
    mem, ptr,
    sync::atomic::{
        AtomicBool, AtomicPtr,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// The signal came.
static ASKED: AtomicBool = AtomicBool::new(false);

/// The scheduler whose monitor is to be woken.
static SCHED: AtomicPtr<Sched> = AtomicPtr::new(ptr::null_mut());

/// Has SIGQUIT handled, unless somebody does already.
pub(crate) fn install(sched: &'static Sched) {
    SCHED.store(ptr::from_ref(sched).cast_mut(), Release);
    // SAFETY: the handler does what a handler may; both structures are filled before they are used.
    unsafe {
        let mut old: libc::sigaction = mem::zeroed();
        let free = libc::sigaction(libc::SIGQUIT, ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_DFL;
        if free {
            let mut new: libc::sigaction = mem::zeroed();
            new.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
            new.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGQUIT, &raw const new, ptr::null_mut());
        }
    }
}

extern "C" fn handle(_: libc::c_int) {
    ASKED.store(true, Relaxed);
    // SAFETY: null, or the scheduler, which is never freed. errno is this thread's and is put back.
    unsafe {
        let errno = *libc::__errno_location();
        if let Some(sched) = SCHED.load(Acquire).as_ref() {
            sched.sysmon.poke();
        }
        *libc::__errno_location() = errno;
    }
}

/// If the signal came, writes the dump and ends the process by the signal. For the monitor.
pub(crate) fn look() {
    if ASKED.load(Relaxed) {
        stderr::say(format_args!("baton: SIGQUIT\n{}", super::dump()));
        // SAFETY: the default action ends the process; the monitor's thread may have the signal blocked, others have not.
        unsafe {
            libc::signal(libc::SIGQUIT, libc::SIG_DFL);
            libc::kill(libc::getpid(), libc::SIGQUIT);
        }
        ASKED.store(false, Relaxed);
    }
}
