//! Blocking calls: declared, handed over at once, by habit; calls on the thread's stack; reports of stalls.

use baton::{StallCause, chan, go};
use std::{
    hint::{black_box, spin_loop},
    panic::catch_unwind,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

mod child;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

const ONE: &[(&str, &str)] = &[("BATON_PROCS", "1"), ("BATON_FORCE_MIGRATION", "0")];

/// On the only processor: the other goroutine can run, without the monitor's help, although this one does not return
/// before it has.
#[test]
fn blocking_now_hands_the_processor_over_at_once() {
    static RAN: AtomicBool = AtomicBool::new(false);
    let ran = child::run("blocking_now_hands_the_processor_over_at_once", ONE, &[], || {
        baton::run(|| {
            let thread = baton::debug::thread();
            go!(move || {
                assert_ne!(baton::debug::thread(), thread);
                RAN.store(true, SeqCst);
            });
            let without = baton::blocking_now(|| {
                while !RAN.load(SeqCst) {
                    spin_loop();
                }
                baton::debug::processor()
            });
            assert_eq!(without, None, "the processor is gone");
            baton::yield_now();
            assert_eq!(baton::debug::processor(), Some(0), "and comes back");
        });
        let metrics = baton::metrics();
        assert_eq!(
            metrics.handoffs_declared + metrics.handoffs_undeclared,
            0,
            "{metrics:?}"
        );
    });
    ran.succeeded();
    assert_eq!(baton::blocking_now(|| 3), 3, "in a plain thread");
}

/// A goroutine that sleeps in the kernel between its parking calls, beside one that always wants to run: after the first
/// time or two the processor leaves before it is missed.
#[test]
fn who_blocks_by_habit_is_foreseen() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let ran = child::run("who_blocks_by_habit_is_foreseen", ONE, &[], || {
        baton::run(|| {
            let busy = go!(|| {
                while !DONE.load(SeqCst) {
                    baton::yield_now();
                }
            });
            let blocker = go!(|| {
                for _ in 0..100 {
                    thread::sleep(Duration::from_millis(2));
                    baton::yield_now();
                }
                DONE.store(true, SeqCst);
            });
            blocker.join().unwrap();
            busy.join().unwrap();
        });
        let metrics = baton::metrics();
        // Nearly a hundred on a machine that is not busy; how many it takes to learn is the monitor's matter.
        assert!(metrics.handoffs_foreseen > 0, "{metrics:?}");
    });
    ran.succeeded();
}

/// As long as it sleeps between its parking calls it goes on without a processor, and takes its turn with the others when it
/// does not.
#[test]
fn who_blocks_by_habit_waits_for_no_processor() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let ran = child::run("who_blocks_by_habit_waits_for_no_processor", ONE, &[], || {
        baton::run(|| {
            let busy = go!(|| {
                while !DONE.load(SeqCst) {
                    baton::yield_now();
                }
            });
            let blocker = go!(|| {
                let sleep = || thread::sleep(Duration::from_millis(2));
                // Until it is foreseen.
                while baton::metrics().handoffs_foreseen == 0 {
                    sleep();
                    baton::yield_now();
                }
                let mut without = 0;
                for _ in 0..20 {
                    sleep();
                    baton::yield_now();
                    without += usize::from(baton::debug::processor().is_none());
                }
                baton::yield_now();
                assert_eq!(baton::debug::processor(), Some(0), "it has not slept");
                DONE.store(true, SeqCst);
                without
            });
            assert!(blocker.join().unwrap() > 0);
            busy.join().unwrap();
        });
    });
    ran.succeeded();
}

/// Goroutines that sleep in their only turn: after the first few of their site the processor leaves before they run. When
/// they sleep no more, that is learned as fast.
#[test]
fn what_blocks_at_one_site_is_foreseen_there() {
    static DONE: AtomicBool = AtomicBool::new(false);
    const TURNS: u64 = 200;
    let ran = child::run("what_blocks_at_one_site_is_foreseen_there", ONE, &[], || {
        let foreseen = || baton::metrics().handoffs_foreseen;
        baton::run(move || {
            let busy = go!(|| {
                while !DONE.load(SeqCst) {
                    baton::yield_now();
                }
            });
            let turn = |sleeps: bool| {
                let goroutine = go!(move || {
                    if sleeps {
                        thread::sleep(Duration::from_millis(2));
                    }
                });
                goroutine.join().unwrap();
            };
            while foreseen() < 8 {
                turn(true);
            }
            let before = foreseen();
            (0..TURNS).for_each(|_| turn(false));
            let after = foreseen();
            assert!(after - before < TURNS / 4, "{before} {after}");
            DONE.store(true, SeqCst);
            busy.join().unwrap();
        });
    });
    ran.succeeded();
}

/// The monitor's own timers are served at once. Threads that it makes do not have that from it: where many goroutines sleep in the
/// kernel, the system may wake them together.
#[test]
fn threads_of_goroutines_have_the_ordinary_timer_slack() {
    // SAFETY: reads a number of the calling thread.
    let slack = || unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
    let here = slack();
    assert!(here > 0);
    assert_eq!(go!(slack).join().unwrap(), here);
}

fn deep(n: usize) -> usize {
    let frame = black_box([n; 16]);
    if n == 0 {
        0
    } else {
        deep(n - 1) + frame[3] - frame[4] + 1
    }
}

/// Four megabytes of recursion in a goroutine with a stack of 64 KiB, nested calls, panics, waiting, and afterwards the
/// goroutine is as it was.
#[test]
fn a_big_stack_is_there_when_it_is_needed() {
    const DEPTH: usize = 20_000;
    let (tx, rx) = chan::bounded(0);
    let handle = go!(max_stack = 64 << 10; move || {
        let here = baton::debug::thread();
        assert_eq!(baton::on_big_stack(|| deep(DEPTH)), DEPTH);
        assert_eq!(baton::on_big_stack(|| baton::on_big_stack(|| deep(DEPTH)) + 1), DEPTH + 1);
        let panic = catch_unwind(|| baton::on_big_stack(|| { if black_box(true) { panic!("deep") } }));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"deep"));
        // What waits makes the thread wait, so the goroutine stays where it is.
        let (n, there) = baton::on_big_stack(|| {
            assert!(baton::current().is_none());
            baton::yield_now();
            baton::time::sleep(Duration::from_millis(1));
            (rx.recv().unwrap(), baton::debug::thread())
        });
        assert!(baton::current().is_some());
        baton::yield_now();
        assert!(here.is_some() && there.is_some());
        n
    });
    tx.send(17).unwrap();
    assert_eq!(handle.join().unwrap(), 17);
    assert_eq!(baton::on_big_stack(|| 4), 4, "in a plain thread");
    baton::run(|| {
        let left = baton::on_big_stack(baton::stack::remaining);
        assert!((6 << 20..=8 << 20).contains(&left), "{left} bytes of a stack of 8 MiB");
        let more =
            baton::on_big_stack(|| baton::stack::grow(32 << 20, || (deep(4 * DEPTH), baton::stack::remaining())));
        assert_eq!(more.0, 4 * DEPTH);
        assert!(more.1 > 24 << 20);
    });
}

/// The hook is told of a goroutine that computes, of one that sleeps, and of one that has said so; each goes on until it was.
#[test]
fn stalls_are_reported() {
    static SEEN: Mutex<Vec<baton::StallReport>> = Mutex::new(Vec::new());
    static DONE: AtomicBool = AtomicBool::new(false);
    fn report_of(id: u64) -> Option<baton::StallReport> {
        SEEN.lock()
            .unwrap()
            .iter()
            .rfind(|report| report.goroutine == id)
            .cloned()
    }
    #[inline(never)]
    fn computes_on_and_on() {
        (0..black_box(1000)).for_each(|_| spin_loop());
    }
    #[inline(never)]
    fn sleeps_again_and_again() {
        thread::sleep(black_box(Duration::from_millis(30)));
    }
    #[inline(never)]
    fn declares_and_sleeps() {
        baton::blocking(sleeps_again_and_again);
    }
    #[inline(never)]
    fn until_reported(what: fn()) -> u64 {
        let id = baton::current().unwrap().id();
        for _ in 0..10 {
            SEEN.lock().unwrap().clear();
            while report_of(id).is_none() {
                what();
            }
            // A thread that does not get the CPU for long has no backtrace; its next stall has.
            if !report_of(id).unwrap().backtrace.is_empty() {
                break;
            }
            baton::yield_now();
        }
        id
    }
    let ran = child::run("stalls_are_reported", ONE, &[], || {
        let builder = baton::Runtime::builder().on_stall(|report| SEEN.lock().unwrap().push(report.clone()));
        builder.init().unwrap();
        let waits = go!(|| {
            while !DONE.load(SeqCst) {
                baton::yield_now();
            }
        });
        let hog = go!(|| report_of(until_reported(computes_on_and_on))).join().unwrap();
        let sleeper = go!(|| report_of(until_reported(sleeps_again_and_again)))
            .join()
            .unwrap();
        let declarer = go!(|| report_of(until_reported(declares_and_sleeps))).join().unwrap();
        DONE.store(true, SeqCst);
        waits.join().unwrap();
        let causes = [
            (declarer, &[StallCause::Declared][..], "declares_and_sleeps"),
            (hog, &[StallCause::Computing, StallCause::Undeclared], ""), // the lock, if it was just that
            (sleeper, &[StallCause::Undeclared], "sleeps_again_and_again"),
        ];
        for (report, causes, inner) in causes {
            let report = report.unwrap();
            assert!(causes.contains(&report.cause), "{report}");
            assert!(report.duration >= Duration::from_millis(10));
            assert!(
                report
                    .to_string()
                    .starts_with(&format!("goroutine {} ", report.goroutine))
            );
            assert!(report.spawned_at.as_ref().unwrap().contains("blocking.rs:"));
            assert!(!report.backtrace.is_empty(), "{report}");
            let text = report.to_string();
            assert!(text.contains("until_reported") && text.contains(inner), "{report}");
        }
        let sites = baton::metrics().spawn_sites;
        let here = || sites.iter().filter(|site| site.file.ends_with("blocking.rs"));
        assert!(here().any(|site| site.handoffs_undeclared > 0), "{sites:?}");
        assert!(
            here().any(|site| site.handoffs_hog + site.handoffs_undeclared > 0),
            "{sites:?}"
        );
    });
    ran.succeeded();
}
