//! Running one test of the present binary as a child process: for tests that crash, or need settings of their own.

#![allow(dead_code, reason = "each test binary uses some of this")]

use std::{
    env,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Output, Stdio},
};

/// Set in the child.
const MARK: &str = "BATON_TEST_CHILD";

/// After so many seconds a child has got stuck, and SIGALRM ends it: many times what the slowest takes on a busy machine.
const PATIENCE: u32 = 300;

/// What a child did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What ended it: an exit code, or the signal as a negative number.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `body` in a child process that has these environment variables and these resource limits; gives what it did. In
/// the child itself this runs `body` and exits.
pub(crate) fn run(test: &str, vars: &[(&str, &str)], limits: &[(Limit, u64)], body: impl FnOnce()) -> Ran {
    if env::var(MARK).as_deref() == Ok(test) {
        // SAFETY: alarm has no preconditions. The harness's thread takes the signal, as nobody catches it.
        unsafe { libc::alarm(PATIENCE) };
        body();
        std::process::exit(0);
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .stdin(Stdio::null());
    command.envs(vars.iter().copied());
    let limits = limits.to_vec();
    // SAFETY: setrlimit is async-signal-safe and nothing else is called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for &(Limit(which), value) in &limits {
                let limit = libc::rlimit {
                    rlim_cur: value,
                    rlim_max: value,
                };
                if libc::setrlimit(which, &raw const limit) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ran {
        status: status.code().unwrap_or_else(|| -status.signal().unwrap()),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

impl Ran {
    /// The child did all that it should.
    #[track_caller]
    pub(crate) fn succeeded(&self) {
        assert_eq!(self.status, 0, "{self:#?}");
    }

    /// The child was ended by this signal and said all of this.
    #[track_caller]
    pub(crate) fn died(&self, signal: i32, words: &[&str]) {
        assert_eq!(self.status, -signal, "{self:#?}");
        self.said(words);
    }

    /// The child said all of this on standard error.
    #[track_caller]
    pub(crate) fn said(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
    }
}

/// A resource limit of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(libc::__rlimit_resource_t);

/// No core files from children that are meant to crash.
pub(crate) const NO_CORE: (Limit, u64) = (Limit(libc::RLIMIT_CORE), 0);

/// Bytes of address space.
pub(crate) const ADDRESS_SPACE: Limit = Limit(libc::RLIMIT_AS);

/// Bytes of private writable memory, touched or not.
pub(crate) const MAPPED_MEMORY: Limit = Limit(libc::RLIMIT_DATA);

/// Has the system refuse this process all mappings from now on, or none.
pub(crate) fn refuse_mappings(refuse: bool) {
    let limit = libc::rlimit {
        rlim_cur: if refuse { 0 } else { libc::RLIM_INFINITY },
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: changes a limit of this process, a child.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}
