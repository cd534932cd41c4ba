//! Dumps: every goroutine with its state, its wait, where it was started and where it is.

mod child;

use baton::{chan, go, sync::WaitGroup, time};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

#[inline(never)]
fn waits_in_a_named_function(rx: &chan::Receiver<u32>) -> u32 {
    black_box(rx.recv().unwrap()) + 1
}

/// What a dump says about goroutines that were started in this file in the 15 lines from `from` on.
fn entries(text: &str, from: u32) -> Vec<&str> {
    let ours = |entry: &&str| {
        let line = entry
            .split("started at tests/dump.rs:")
            .nth(1)
            .and_then(|rest| rest.split(':').next());
        line.and_then(|line| line.parse().ok())
            .is_some_and(|line: u32| (from..from + 15).contains(&line))
    };
    text.split("\n\n").filter(ours).collect()
}

/// Waits until all of these wait.
fn until_parked(n: usize, from: u32, reason: &str) -> String {
    loop {
        let text = baton::dump();
        let is_there = |entry: &&str| entry.contains(reason);
        let count: usize = entries(&text, from)
            .into_iter()
            .filter(is_there)
            .map(|entry| {
                if entry.starts_with("goroutine ") {
                    1
                } else {
                    entry.split(' ').next().unwrap().parse().unwrap()
                }
            })
            .sum();
        if count == n {
            return text;
        }
        time::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_dump_says_who_waits_where_and_for_what() {
    baton::run(|| {
        let from = line!();
        let (tx, rx) = chan::bounded(0);
        let reader = go!(name = "reader"; move || waits_in_a_named_function(&rx));
        let id = reader.id();
        let text = until_parked(1, from, "[channel receive");
        let entry = entries(&text, from)
            .into_iter()
            .find(|entry| entry.contains("[channel receive"))
            .unwrap()
            .to_string();
        assert!(entry.contains(&format!("goroutine {id} \"reader\"")), "{text}");
        assert!(
            entry.contains(&format!("started at tests/dump.rs:{}", from + 2)),
            "{entry}"
        );
        assert!(entry.contains("waits_in_a_named_function"), "{text}");
        assert!(
            !entry.contains("note_registers") && !entry.contains("/sched/"),
            "{text}"
        );
        tx.send(1).unwrap();
        assert_eq!(reader.join().unwrap(), 2);
        assert!(!baton::dump().contains("\"reader\""), "it has ended");
    });
}

#[test]
fn those_that_are_alike_are_one_entry() {
    baton::run(|| {
        let from = line!();
        let group = WaitGroup::new();
        let (tx, rx) = chan::bounded::<()>(0);
        for _ in 0..1000 {
            let (rx, member) = (rx.clone(), group.clone());
            go!(move || {
                assert!(rx.recv().is_err());
                drop(member);
            });
        }
        let text = until_parked(1000, from, "[channel receive");
        assert_eq!(entries(&text, from).len(), 1, "{text}");
        assert!(text.contains("\n1000 goroutines "), "{text}");
        drop(tx);
        group.wait();
    });
}

#[test]
fn each_kind_of_wait_has_its_name() {
    baton::run(|| {
        let from = line!();
        let (tx, rx) = chan::bounded(0);
        let (stop, stopped) = (Arc::new(AtomicBool::new(false)), chan::bounded::<()>(0));
        let sends = go!(move || assert!(tx.send(1).is_err()));
        let sleeps = go!(|| time::sleep(Duration::from_millis(300)));
        let last = stopped.1.clone();
        let joins = go!(move || go!(move || assert!(last.recv().is_err())).join());
        let stop_soon = Arc::clone(&stop);
        let computes = go!(move || {
            while !stop_soon.load(Acquire) {
                std::hint::spin_loop();
            }
        });
        for reason in ["[channel send", "[join", "[channel receive", "[sleep"] {
            until_parked(1, from, reason);
        }
        assert!(baton::dump().contains("[running on baton-m"));
        stop.store(true, Release);
        drop((rx, stopped));
        sends.join().unwrap();
        sleeps.join().unwrap();
        joins.join().unwrap().unwrap();
        computes.join().unwrap();
    });
}

/// Dumps while everything runs, parks and ends: each is whole, and nobody is lost.
#[test]
fn dumps_may_be_taken_at_any_time() {
    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut dumps = 0;
            while !done.load(Acquire) || dumps < 3 {
                assert!(baton::dump().starts_with("baton: "));
                dumps += 1;
            }
        }
    });
    let sum: u64 = baton::run(|| {
        (0..20)
            .map(|_| {
                let (tx, rx) = chan::bounded(2);
                for i in 0..50_u64 {
                    let tx = tx.clone();
                    baton::Builder::new()
                        .name(format!("sender {i}"))
                        .spawn(move || tx.send(i).unwrap())
                        .unwrap();
                }
                drop(tx);
                let baton_sum = go!(move || rx.iter().inspect(|_| baton::yield_now()).sum::<u64>());
                baton_sum.join().unwrap()
            })
            .sum()
    });
    done.store(true, Release);
    watcher.join().unwrap();
    assert_eq!(sum, 20 * 49 * 25);
}

#[test]
fn sigquit_dumps_and_ends() {
    let ran = child::run("sigquit_dumps_and_ends", &[], &[child::NO_CORE], || {
        baton::run(|| {
            let from = line!();
            let (_tx, rx) = chan::bounded(0);
            let _reader = go!(name = "reader"; move || waits_in_a_named_function(&rx));
            until_parked(1, from, "[channel receive");
            // SAFETY: sends this process a signal.
            unsafe { libc::kill(libc::getpid(), libc::SIGQUIT) };
            chan::never::<()>().recv().unwrap();
        });
    });
    ran.died(
        libc::SIGQUIT,
        &[
            "baton: SIGQUIT",
            "\"reader\" [channel receive",
            "waits_in_a_named_function",
        ],
    );
}

#[test]
fn a_line_each_period() {
    let ran = child::run(
        "a_line_each_period",
        &[("BATON_SCHEDTRACE", "2"), ("BATON_PROCS", "2")],
        &[],
        || {
            // Also while nobody runs.
            baton::run(|| time::sleep(Duration::from_millis(100)));
        },
    );
    ran.succeeded();
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("SCHED ")).collect();
    assert!(lines.len() >= 2, "{ran:#?}");
    let all = [
        "ms: procs=2 idleprocs=",
        " threads=",
        " idlethreads=",
        " spinningthreads=",
        " goroutines=1 ",
        " runqueue=",
        " [0 0] ",
    ];
    assert!(
        lines.iter().any(|line| all.iter().all(|part| line.contains(part))),
        "{ran:#?}"
    );
}
