//! The number of processors changes while everything runs, and threads come and go.

use baton::{chan, go, sync::WaitGroup};
use std::{
    fs,
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

mod child;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Goroutines that start others, sleep, send and end, while the number of processors goes up and down. Were anything of a
/// processor that goes lost, this would not end, or the sums would be wrong.
#[test]
fn everything_moves_when_processors_go() {
    const ROUNDS: usize = if cfg!(debug_assertions) { 40 } else { 150 };
    let ran = child::run(
        "everything_moves_when_processors_go",
        &[("BATON_PROCS", "2")],
        &[],
        || {
            baton::run(|| {
                let done = Arc::new(AtomicUsize::new(0));
                let (tx, rx) = chan::unbounded();
                for round in 0..ROUNDS {
                    let all = WaitGroup::new();
                    for i in 0..200 {
                        let (member, done, tx) = (all.clone(), Arc::clone(&done), tx.clone());
                        go!(move || {
                            if i % 3 == 0 {
                                baton::time::sleep(Duration::from_micros(i * 10));
                            }
                            let text = format!("{i}");
                            go!(move || tx.send(text.len()).unwrap());
                            done.fetch_add(1, SeqCst);
                            drop(member);
                        });
                    }
                    let n = [1, 4, 2, 16, 3][round % 5];
                    baton::set_procs(n).unwrap();
                    assert_eq!(baton::procs(), n);
                    all.wait();
                }
                drop(tx);
                let received: usize = rx.iter().sum();
                assert_eq!(done.load(SeqCst), 200 * ROUNDS);
                assert_eq!(received, (10 + 90 * 2 + 100 * 3) * ROUNDS);
            });
        },
    );
    ran.succeeded();
}

/// With one processor and a goroutine that computes until the other one has run, and forty that compute at the same time:
/// only as many at a time as there are processors, however many there were before.
#[test]
fn no_more_run_at_a_time_than_there_are_processors() {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    let test = "no_more_run_at_a_time_than_there_are_processors";
    let ran = child::run(
        test,
        &[("BATON_PROCS", "8"), ("BATON_FORCE_MIGRATION", "0")],
        &[],
        || {
            baton::run(|| {
                baton::set_procs(1).unwrap();
                baton::yield_now(); // without its processor, if that was one of those that went
                let all: Vec<_> = (0..40)
                    .map(|_| {
                        go!(|| {
                            for _ in 0..100 {
                                assert_eq!(RUNNING.fetch_add(1, SeqCst), 0, "two at a time");
                                RUNNING.fetch_sub(1, SeqCst);
                                baton::yield_now();
                            }
                        })
                    })
                    .collect();
                // A goroutine that the kernel stops in between may lose its processor to the next one, on a busy machine.
                let overtaken = all.into_iter().filter_map(|g| g.join().err()).count();
                let metrics = baton::metrics();
                assert!(
                    overtaken == 0 || metrics.handoffs_hog + metrics.handoffs_undeclared > 0,
                    "{overtaken}: {metrics:?}"
                );
            });
        },
    );
    ran.succeeded();
}

/// Many more processors than CPUs, and turns of some microseconds: a thread waits for its CPU longer than a slice lasts, and is no hog
/// for that. Were its processor taken, there would be one more thread to wait.
#[test]
fn threads_that_wait_for_a_cpu_are_left_alone() {
    const PROCS: u64 = 64;
    let vars = [("BATON_PROCS", "64"), ("BATON_FORCE_MIGRATION", "0")];
    let ran = child::run("threads_that_wait_for_a_cpu_are_left_alone", &vars, &[], || {
        baton::run(|| {
            let all: Vec<_> = (0..20 * PROCS)
                .map(|_| {
                    go!(|| {
                        for _ in 0..200 {
                            (0..200).for_each(|_| spin_loop());
                            baton::yield_now();
                        }
                    })
                })
                .collect();
            all.into_iter().for_each(|g| g.join().unwrap());
            let metrics = baton::metrics();
            println!("{metrics:?}");
            // The system may stop a thread for long while it has the CPU.
            assert!(metrics.handoffs_hog < PROCS / 4, "{metrics:?}");
        });
    });
    ran.succeeded();
}

/// A processor that goes while its goroutine computes: the goroutine goes on, and waits its turn when it next parks.
#[test]
fn a_goroutine_survives_its_processor() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let ran = child::run(
        "a_goroutine_survives_its_processor",
        &[("BATON_PROCS", "4")],
        &[],
        || {
            let hogs: Vec<_> = (0..3)
                .map(|_| {
                    go!(|| {
                        while !STOP.load(SeqCst) {
                            spin_loop();
                        }
                        baton::yield_now();
                        7
                    })
                })
                .collect();
            baton::set_procs(1).unwrap();
            go!(|| STOP.store(true, SeqCst)).join().unwrap();
            assert_eq!(hogs.into_iter().map(|hog| hog.join().unwrap()).sum::<i32>(), 21);
            assert_eq!(baton::set_procs(2).unwrap(), 1);
        },
    );
    ran.succeeded();
}

#[test]
fn a_number_out_of_bounds_is_refused() {
    for n in [0, 1025] {
        let error = baton::set_procs(n).unwrap_err().to_string();
        assert_eq!(error, format!("set_procs is {n}, but must be a number from 1 to 1024"));
    }
}

/// Threads of which there are too many end after a while, and come back when they are needed.
#[test]
fn idle_threads_end() {
    let vars = [
        ("BATON_PROCS", "2"),
        ("BATON_RETIRE_MS", "5"),
        ("BATON_FORCE_MIGRATION", "0"),
    ];
    let ran = child::run("idle_threads_end", &vars, &[], || {
        for _ in 0..3 {
            // As many threads as goroutines: each waits in the kernel until all are there.
            let barrier = Arc::new(std::sync::Barrier::new(20));
            let all: Vec<_> = (0..20)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    go!(move || _ = barrier.wait())
                })
                .collect();
            all.into_iter().for_each(|g| g.join().unwrap());
            while baton::metrics().threads > 6 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(go!(|| 5).join().unwrap(), 5);
    });
    ran.succeeded();
}

/// The threads have names, for ps, top and debuggers.
#[test]
fn threads_are_named() {
    let name = baton::run(|| {
        let number = baton::debug::thread().unwrap();
        let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
        (name, number)
    });
    assert_eq!(name.0.trim_end(), format!("baton-m{}", name.1));
}

/// Sleepers of a processor that goes, while a goroutine computes on the one that is left and nobody else waits for that.
#[test]
fn sleepers_without_a_processor_wake_beside_a_hog() {
    let ran = child::run(
        "sleepers_without_a_processor_wake_beside_a_hog",
        &[("BATON_PROCS", "2")],
        &[],
        || {
            for _ in 0..6 {
                baton::set_procs(2).unwrap();
                let computes = Arc::new(AtomicBool::new(false));
                let woken = Arc::new(AtomicUsize::new(0));
                let hog = {
                    let (computes, woken) = (Arc::clone(&computes), Arc::clone(&woken));
                    go!(move || {
                        computes.store(true, SeqCst);
                        let start = Instant::now();
                        while woken.load(SeqCst) < 8 {
                            assert!(start.elapsed() < Duration::from_secs(60), "nobody wakes the sleepers");
                            spin_loop();
                        }
                    })
                };
                while !computes.load(SeqCst) {
                    thread::yield_now();
                }
                // They can run on the other processor only. Half the time that is the one that goes.
                let sleepers: Vec<_> = (0..8)
                    .map(|_| {
                        let woken = Arc::clone(&woken);
                        go!(move || {
                            baton::time::sleep(Duration::from_millis(200));
                            woken.fetch_add(1, SeqCst);
                        })
                    })
                    .collect();
                thread::sleep(Duration::from_millis(50));
                baton::set_procs(1).unwrap();
                hog.join().unwrap();
                sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
            }
        },
    );
    ran.succeeded();
}
