//! What the runtime says on standard error: nobody has to be able to read it.

use std::{
    io::{self, Write},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

mod child;

/// The lines of `BATON_SCHEDTRACE`, which the monitor writes, into a pipe that nobody reads any more.
#[test]
fn nobody_need_read() {
    let ran = child::run("nobody_need_read", &[("BATON_SCHEDTRACE", "1")], &[], || {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        // SAFETY: two open descriptors, of which the second becomes another name of the first.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 2) }, 2);
        baton::run(|| thread::sleep(Duration::from_millis(50)));
        assert!(io::stderr().write_all(b"lost").is_err());
    });
    ran.succeeded();
}

/// Whoever has locked standard error may keep it.
#[test]
fn nobody_need_let_go_of_the_lock() {
    let ran = child::run(
        "nobody_need_let_go_of_the_lock",
        &[("BATON_SCHEDTRACE", "1")],
        &[],
        || {
            let _lock = io::stderr().lock();
            baton::run(|| thread::sleep(Duration::from_millis(50)));
        },
    );
    ran.succeeded();
    ran.said(&["SCHED "]);
}
