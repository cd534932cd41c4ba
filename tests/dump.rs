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
    thread,
    time::{Duration, Instant},
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

/// Waits until all of these wait, and a dump is whole: on a busy machine it leaves names out, and says so.
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
        if count == n && !text.contains("are left out") {
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
        go!(|| time::sleep(Duration::from_secs(36_000))); // longer than any dump takes
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
        joins.join().unwrap().unwrap();
        computes.join().unwrap();
    });
}

/// The entry of goroutine `id`, as soon as it says all of this.
fn until_it_says(id: u64, words: &[&str]) -> String {
    let mut text = String::new();
    for _ in 0..500 {
        text = baton::dump();
        let names_it = |entry: &&str| entry.starts_with(&format!("goroutine {id} "));
        if let Some(entry) = text.split("\n\n").find(names_it)
            && words.iter().all(|word| entry.contains(word))
        {
            return entry.to_string();
        }
        time::sleep(Duration::from_millis(1));
    }
    panic!("goroutine {id} does not say {words:?}: {text}");
}

#[inline(never)]
fn computes_in_a_named_function(stop: &AtomicBool) -> u64 {
    let mut turns = 0;
    while !stop.load(Acquire) {
        turns = black_box(turns + 1);
    }
    turns
}

#[inline(never)]
fn called_with_much_on_its_stack(stop: &AtomicBool) -> u64 {
    let much = black_box([7_u64; 1000]);
    black_box(computes_in_a_named_function(stop)) + much[3]
}

/// Also on a further stack, and inside malloc and its like.
#[test]
fn who_computes_has_a_backtrace() {
    static STOP: AtomicBool = AtomicBool::new(false);
    baton::run(|| {
        let hog = go!(|| called_with_much_on_its_stack(&STOP));
        let grown = go!(|| baton::stack::grow(2 << 20, || called_with_much_on_its_stack(&STOP)));
        let allocates = go!(|| {
            while !STOP.load(Acquire) {
                drop(black_box(vec![1_u8; 3000]));
            }
        });
        let calls = ["computes_in_a_named_function", "called_with_much_on_its_stack"];
        for id in [hog.id(), grown.id()] {
            let entry = until_it_says(id, &["[running on baton-m", calls[0]]);
            assert!(entry.find(calls[0]) < entry.find(calls[1]), "{entry}");
            assert!(entry.contains("started at tests/dump.rs"), "{entry}");
        }
        for _ in 0..50 {
            assert!(baton::dump().starts_with("baton: "));
        }
        until_it_says(allocates.id(), &["[running on baton-m", "dump.rs"]);
        STOP.store(true, Release);
        hog.join().unwrap();
        grown.join().unwrap();
        allocates.join().unwrap();
    });
}

#[inline(never)]
fn sleeps_in_a_raw_call(ms: i64) -> i32 {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: ms * 1_000_000,
    };
    // SAFETY: reads a struct that lives here.
    black_box(unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) })
}

#[inline(never)]
fn polls_for_ever(fd: i32) -> i32 {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one struct that lives here.
    black_box(unsafe { libc::poll(&raw mut poll, 1, -1) })
}

/// And no call of theirs is interrupted, although `SA_RESTART` would not help these.
#[test]
fn who_sleeps_in_the_kernel_has_a_backtrace() {
    static STOP: AtomicBool = AtomicBool::new(false);
    baton::run(|| {
        let sleeper = go!(|| {
            while !STOP.load(Acquire) {
                sleeps_in_a_raw_call(100);
            }
        });
        let of_std = go!(|| {
            while !STOP.load(Acquire) {
                std::thread::sleep(black_box(Duration::from_millis(100)));
            }
        });
        let mut pipe = [0; 2];
        // SAFETY: two descriptors into an array of two.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        let poller = go!(move || polls_for_ever(pipe[0]));
        let asleep = "asleep in the kernel], started at tests/dump.rs";
        until_it_says(sleeper.id(), &[asleep, "sleeps_in_a_raw_call", "{closure"]);
        until_it_says(of_std.id(), &[asleep, "::sleep", "{closure"]);
        for _ in 0..50 {
            until_it_says(poller.id(), &[asleep, "polls_for_ever", "{closure"]);
        }
        // SAFETY: writes one byte that lives here.
        assert_eq!(unsafe { libc::write(pipe[1], [1_u8].as_ptr().cast(), 1) }, 1);
        assert_eq!(poller.join().unwrap(), 1, "was not interrupted");
        STOP.store(true, Release);
        sleeper.join().unwrap();
        of_std.join().unwrap();
    });
}

/// Who asks is running too.
#[test]
fn a_dump_shows_its_caller() {
    #[inline(never)]
    fn asks_for_a_dump() -> String {
        black_box(baton::dump())
    }
    let text = baton::run(|| go!(name = "curious"; asks_for_a_dump).join().unwrap());
    let entry = text.split("\n\n").find(|entry| entry.contains("\"curious\"")).unwrap();
    assert!(
        entry.contains("[running on baton-m") && entry.contains("asks_for_a_dump"),
        "{entry}"
    );
}

/// A program that handles the signal itself keeps it to itself.
#[test]
fn a_handler_of_the_program_is_left_alone() {
    static STOP: AtomicBool = AtomicBool::new(false);
    static CALLED: AtomicBool = AtomicBool::new(false);
    extern "C" fn handler(_: libc::c_int) {
        CALLED.store(true, Release);
    }
    let ran = child::run("a_handler_of_the_program_is_left_alone", &[], &[], || {
        // SAFETY: the handler stores a flag.
        unsafe { libc::signal(libc::SIGURG, handler as extern "C" fn(libc::c_int) as usize) };
        baton::run(|| {
            let hog = go!(|| called_with_much_on_its_stack(&STOP));
            let entry = until_it_says(hog.id(), &["[running on baton-m"]);
            assert!(!entry.contains("computes_in"), "{entry}");
            STOP.store(true, Release);
            hog.join().unwrap();
        });
        assert!(!CALLED.load(Acquire));
    });
    ran.succeeded();
}

#[test]
fn who_waits_for_a_lock_is_shown_with_its_holder() {
    use baton::sync::{Mutex, RwLock};
    static MUTEX: Mutex<()> = Mutex::new(());
    static RWLOCK: RwLock<()> = RwLock::new(());
    baton::run(|| {
        let (tx, rx) = chan::bounded::<()>(0);
        let holder = go!(move || {
            let _guards = (MUTEX.lock(), RWLOCK.read());
            assert!(rx.recv().is_err());
        });
        while !(MUTEX.is_locked() && RWLOCK.is_locked()) {
            baton::yield_now();
        }
        let waits = go!(|| drop(MUTEX.lock()));
        let writes = go!(|| drop(RWLOCK.write()));
        let held = format!("], held by goroutine {}, started at", holder.id());
        until_it_says(waits.id(), &["[mutex, ", &held]);
        until_it_says(writes.id(), &["[rwlock write, ", "], held by a reader, started at"]);
        drop(tx);
        holder.join().unwrap();
        waits.join().unwrap();
        writes.join().unwrap();
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

/// Who ends a scope without children is on g0 for a moment and goes on, with or without a P. It may be gone before a dump that takes
/// it for one that waits has read its name.
#[test]
fn who_goes_on_at_once_does_not_wait() {
    fn ends_many_scopes(depth: usize) {
        if depth > 0 {
            return baton::scope(|_| ends_many_scopes(depth - 1));
        }
        // Here a pause finds it most often, so that it ends its scopes without a P.
        for turn in 0..20_000 {
            black_box(turn);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3) {
                let text = baton::dump();
                let ours = text
                    .split("\n\n")
                    .find(|entry| entry.contains("\"ends scopes\" [scope"));
                assert!(ours.is_none(), "{text}");
            }
            stop.store(true, Release);
        }
    });
    baton::run(|| {
        while !stop.load(Acquire) && !watcher.is_finished() {
            let group = WaitGroup::new();
            for _ in 0..4 {
                let member = group.clone();
                let builder = baton::Builder::new().name("ends scopes");
                let handle = builder.spawn(move || {
                    ends_many_scopes(200);
                    drop(member);
                });
                drop(handle.unwrap());
            }
            group.wait();
        }
    });
    watcher.join().unwrap();
}

#[test]
fn sigquit_dumps_and_ends() {
    let ran = child::run("sigquit_dumps_and_ends", &[], &[child::NO_CORE], || {
        // SAFETY: nobody handles it here. What runs in the background of a shell may have it ignored.
        unsafe { libc::signal(libc::SIGQUIT, libc::SIG_DFL) };
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
        &["baton: SIGQUIT", " [channel receive", "waits_in_a_named_function"],
    );
    let named = ran.stderr.contains("\"reader\" [channel receive");
    assert!(named || ran.stderr.contains("are left out"), "{}", ran.stderr);
}

#[test]
fn a_line_each_period() {
    let ran = child::run(
        "a_line_each_period",
        &[("BATON_SCHEDTRACE", "2"), ("BATON_PROCS", "2")],
        &[],
        || {
            let (tx, rx) = chan::bounded::<()>(0);
            // Also while nobody runs: then the monitor looks for that alone.
            let watch = move || {
                let rounds = || baton::metrics().sysmon_rounds;
                thread::sleep(Duration::from_millis(50));
                let (start, before) = (Instant::now(), rounds());
                while rounds() < before + 50 && start.elapsed() < Duration::from_secs(20) {
                    thread::sleep(Duration::from_millis(1));
                }
                drop(tx);
            };
            baton::run(move || {
                thread::spawn(watch);
                rx.recv().unwrap_err();
            });
        },
    );
    ran.succeeded();
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("SCHED ")).collect();
    assert!(lines.len() >= 10, "{ran:#?}");
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
