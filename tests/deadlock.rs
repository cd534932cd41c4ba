//! Deadlocks and the end of the program. Without the test harness, whose threads would be about: each case is this program
//! again, with the name of the case as its argument.

use baton::{
    Runtime, chan, go,
    io::Pollable,
    sync::{Barrier, Mutex},
    time,
};
use std::{
    env,
    io::Read,
    process,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

type Case = (&'static str, fn(), i32, &'static [&'static str]);

/// Name, what the child does, its exit code, what it says on standard error.
const CASES: [Case; 14] = [
    (
        "channel",
        channel,
        2,
        &[
            "all goroutines are asleep: deadlock",
            "\"main\" [channel receive, ",
            "\"other\" [channel send, ",
            "tests/deadlock.rs",
        ],
    ),
    ("join_cycle", join_cycle, 2, &["deadlock", "[join, "]),
    (
        "mutexes",
        mutexes,
        2,
        &[
            "deadlock",
            "[mutex, ",
            "], held by goroutine 2, started at tests/deadlock.rs",
            "], held by goroutine 3, started at tests/deadlock.rs",
        ],
    ),
    ("after_work", after_work, 2, &["deadlock"]),
    (
        "after_retirement",
        after_retirement,
        2,
        &["deadlock", "\"main\" [channel receive, "],
    ),
    ("foreign_thread_ends", foreign_thread_ends, 2, &["deadlock"]),
    ("timer_pending", timer_pending, 0, &[]),
    ("file_pending", file_pending, 0, &[]),
    ("foreign_thread", foreign_thread, 0, &[]),
    ("thread_of_a_goroutine", thread_of_a_goroutine, 0, &[]),
    ("blocked_in_the_kernel", blocked_in_the_kernel, 0, &[]),
    ("exit_from_a_goroutine", exit_from_a_goroutine, 7, &[]),
    ("run_returns", run_returns, 0, &[]),
    ("shutdown", shutdown, 0, &[]),
];

/// The child that says itself that it wants no report.
const TURNED_OFF: &str = "turned_off";

fn channel() {
    baton::run(|| {
        let (tx, rx) = chan::bounded::<u32>(0);
        let (_tx, never) = chan::bounded::<u32>(0);
        let _other = go!(name = "other"; move || tx.send(1));
        let _keep = rx;
        never.recv()
    })
    .unwrap();
}

fn join_cycle() {
    baton::run(|| {
        let (tx, rx) = chan::bounded::<baton::JoinHandle<()>>(1);
        let waits = go!(move || rx.recv().unwrap().join().unwrap());
        tx.send(waits).unwrap();
        chan::never::<()>().recv().unwrap();
    });
}

/// Two that each wait for what the other holds.
fn mutexes() {
    static TWO: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
    baton::run(|| {
        let both = Arc::new(Barrier::new(2));
        let twin = Arc::clone(&both);
        let locks = |first: usize, both: &Barrier| {
            let _first = TWO[first].lock();
            both.wait();
            drop(TWO[1 - first].lock());
        };
        let one = go!(move || locks(0, &both));
        let other = go!(move || locks(1, &twin));
        assert_eq!((one.id(), other.id()), (2, 3));
        one.join().unwrap();
        other.join().unwrap();
    });
}

/// Much happened before, on many threads.
fn after_work() {
    baton::run(|| {
        let handles: Vec<_> = (0..50)
            .map(|_| go!(|| thread::sleep(Duration::from_millis(2))))
            .collect();
        handles.into_iter().for_each(|handle| handle.join().unwrap());
        chan::never::<()>().recv().unwrap();
    });
}

/// Threads that had nothing to do for long have ended.
fn after_retirement() {
    Runtime::builder().procs(1).retire_after_ms(10).init().unwrap();
    baton::run(|| {
        let sleepers: Vec<_> = (0..8)
            .map(|_| go!(|| thread::sleep(Duration::from_millis(20))))
            .collect();
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
        let most = baton::metrics().threads;
        while baton::metrics().threads >= most.min(3) {
            time::sleep(Duration::from_millis(5));
        }
        chan::never::<()>().recv().unwrap();
    });
}

/// Somebody might wake who waits; but it ends without.
fn foreign_thread_ends() {
    let _ends = thread::spawn(|| thread::sleep(Duration::from_millis(1_500)));
    baton::run(|| chan::never::<()>().recv().unwrap());
}

fn timer_pending() {
    baton::run(|| {
        let (tx, rx) = chan::bounded(0);
        go!(move || {
            time::sleep(Duration::from_millis(100));
            tx.send(()).unwrap();
        });
        rx.recv().unwrap();
    });
}

/// Nobody in this process can wake who waits for a file, but somebody outside will.
fn file_pending() {
    baton::run(|| {
        let mut program = Command::new("sh")
            .args(["-c", "sleep 0.3; echo there"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = Pollable::new(program.stdout.take().unwrap()).unwrap();
        stdout.readable();
        let mut text = String::new();
        stdout.into_inner().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "there\n");
        program.wait().unwrap();
    });
}

fn foreign_thread() {
    let (tx, rx) = chan::bounded(0);
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        tx.send(5).unwrap();
    });
    assert_eq!(baton::run(|| rx.recv().unwrap()), 5);
    sender.join().unwrap();
}

/// A thread without a name of its own has that of the thread that started it: a thread of the runtime here.
fn thread_of_a_goroutine() {
    baton::run(|| {
        let (tx, rx) = chan::bounded(0);
        let sender = thread::spawn(move || {
            thread::sleep(Duration::from_millis(1_000));
            tx.send(5).unwrap();
        });
        assert_eq!(rx.recv(), Ok(5));
        baton::blocking(|| sender.join()).unwrap();
    });
}

fn blocked_in_the_kernel() {
    baton::run(|| {
        let (tx, rx) = chan::bounded(0);
        go!(move || {
            thread::sleep(Duration::from_millis(100));
            tx.send(()).unwrap();
        });
        rx.recv().unwrap();
    });
}

fn exit_from_a_goroutine() {
    baton::run(|| {
        go!(|| process::exit(7));
        chan::never::<()>().recv().unwrap();
    });
}

/// What is parked when `run` returns stays parked, its destructors do not run, and the process ends.
fn run_returns() {
    struct Never;
    impl Drop for Never {
        fn drop(&mut self) {
            process::abort();
        }
    }
    baton::run(|| {
        go!(|| {
            let _never = Never;
            chan::never::<()>().recv().unwrap();
        });
        baton::yield_now();
    });
    let (done, wait) = mpsc::channel();
    go!(move || done.send(1).unwrap()); // the runtime goes on
    assert_eq!(wait.recv(), Ok(1));
}

fn shutdown() {
    let (tx, rx) = chan::bounded::<()>(0);
    baton::run(|| {
        (0..20).for_each(|_| drop(go!(|| time::sleep(Duration::from_millis(20)))));
        Runtime::shutdown(Duration::from_secs(60)).unwrap();
        go!(move || assert!(rx.recv().is_err()));
        let late = Runtime::shutdown(Duration::from_millis(20)).unwrap_err();
        assert_eq!(late.goroutines, 1);
    });
    drop(tx);
    Runtime::shutdown(Duration::from_secs(60)).unwrap();
}

/// How it ended, and what it said; one that waits for ever is ended after a minute.
fn end_of(mut child: Child) -> (ExitStatus, String) {
    let start = Instant::now();
    let mut said = Vec::new();
    let mut stderr = child.stderr.take().expect("it is piped");
    let reader = thread::spawn(move || stderr.read_to_end(&mut said).map(|_| said));
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    let said = reader.join().unwrap().unwrap();
    (child.wait().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

fn main() {
    if let Some(name) = env::args().nth(1).filter(|name| !name.starts_with('-')) {
        if name == TURNED_OFF {
            Runtime::builder().deadlock_report(false).init().unwrap();
            channel();
        }
        if let Some((_, case, ..)) = CASES.iter().find(|case| case.0 == name) {
            case();
        }
        return; // a filter of `cargo test` that is none of ours
    }
    for (name, _, code, words) in CASES {
        let child = Command::new(env::current_exe().unwrap())
            .arg(name)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (status, said) = end_of(child);
        assert_eq!(status.code(), Some(code), "{name}: {said}");
        for word in words {
            assert!(said.contains(word), "{name}: no {word:?} in {said}");
        }
        println!("test {name} ... ok");
    }
    // Turned off, it waits, until it is ended.
    for (name, var) in [("channel", Some(("BATON_DEADLOCK", "off"))), (TURNED_OFF, None)] {
        let mut child = Command::new(env::current_exe().unwrap())
            .arg(name)
            .envs(var)
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(200));
        assert_eq!(child.try_wait().unwrap(), None, "{name}: it was turned off");
        child.kill().unwrap();
        child.wait().unwrap();
        println!("test {name} without a report ... ok");
    }
}
