//! Nobody starves beside goroutines that keep a processor busy: else these would not end. (Those that wake each other:
//! `two_that_wake_each_other_starve_nobody` in `goroutines.rs`.)

use baton::{JoinHandle, chan, go};
use std::{
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

const ONE: &[(&str, &str)] = &[("BATON_PROCS", "1"), ("BATON_FORCE_MIGRATION", "0")];

/// Goroutines that keep the only processor's queue from running empty, until `over`.
fn busy(over: &'static AtomicBool) -> impl FnOnce() {
    let yielders: Vec<_> = (0..3)
        .map(|_| {
            go!(|| {
                while !over.load(SeqCst) {
                    baton::yield_now();
                }
            })
        })
        .collect();
    || yielders.into_iter().for_each(|g| g.join().unwrap())
}

/// What a plain thread starts comes by the global queue: a processor with work of its own looks there every 61st time.
#[test]
fn the_global_queue_has_its_turn() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let ran = child::run("the_global_queue_has_its_turn", ONE, &[], || {
        let join = busy(&OVER);
        for i in 0..50 {
            let outside = thread::spawn(move || go!(move || i).join().unwrap());
            assert_eq!(outside.join().unwrap(), i);
        }
        OVER.store(true, SeqCst);
        join();
    });
    ran.succeeded();
}

/// A goroutine that has lost its processor waits in the global queue as well; many of them do not wait one after the other.
#[test]
fn many_without_a_processor_have_their_turn() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let ran = child::run("many_without_a_processor_have_their_turn", ONE, &[], || {
        baton::run(|| {
            let join = busy(&OVER);
            let blockers: Vec<_> = (0..40)
                .map(|_| {
                    go!(|| {
                        for _ in 0..5 {
                            baton::blocking_now(|| thread::sleep(Duration::from_millis(1)));
                            baton::yield_now();
                        }
                    })
                })
                .collect();
            blockers.into_iter().for_each(|g| g.join().unwrap());
            OVER.store(true, SeqCst);
            join();
        });
    });
    ran.succeeded();
}

/// A timer fires although its processor never runs out of work: every 61st time, and when the monitor says that it is due.
#[test]
fn timers_have_their_turn() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let ran = child::run("timers_have_their_turn", ONE, &[], || {
        baton::run(|| {
            let join = busy(&OVER);
            (0..20).for_each(|_| baton::time::sleep(Duration::from_millis(1)));
            OVER.store(true, SeqCst);
            join();
        });
    });
    ran.succeeded();
}

/// `n` goroutines that sleep until `due`, and then say how many of the others had run; all are asleep.
fn sleepers(n: usize, due: Instant) -> Vec<JoinHandle<usize>> {
    let asleep = Arc::new(AtomicUsize::new(0));
    let sleepers = (0..n)
        .map(|_| {
            let asleep = asleep.clone();
            go!(move || {
                asleep.fetch_add(1, SeqCst);
                baton::time::sleep_until(due);
                RAN.load(SeqCst)
            })
        })
        .collect();
    while asleep.load(SeqCst) < n {
        baton::yield_now();
    }
    sleepers
}

/// How many of the others in [`others_run_while_they_wake`] have run.
static RAN: AtomicUsize = AtomicUsize::new(0);

/// How many others ran between the first and the last of the sleepers, which are due about now on the only processor.
fn others_run_while_they_wake(sleepers: Vec<JoinHandle<usize>>) -> usize {
    for _ in 0..20_000 {
        go!(|| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(10) {}
            RAN.fetch_add(1, SeqCst);
        });
    }
    let mut before: Vec<_> = sleepers.into_iter().map(|g| g.join().unwrap()).collect();
    before.sort_unstable();
    // All but a few: where the system takes the CPU from a sleeper that is about to look, it looks much later.
    before[before.len() * 19 / 20] - before[0]
}

/// Sleepers that are due at one time are woken one after the other, with a few of the many others in between, not behind all of
/// these: a third of the turns is theirs.
#[test]
fn sleepers_go_before_a_long_queue() {
    let ran = child::run("sleepers_go_before_a_long_queue", ONE, &[], || {
        baton::run(|| {
            let between = others_run_while_they_wake(sleepers(200, Instant::now() + Duration::from_millis(100)));
            assert!((50..400).contains(&between), "{between} others ran in between");
        });
    });
    ran.succeeded();
}

/// So do those whose processor has retired meanwhile.
#[test]
fn sleepers_without_a_processor_go_before_a_long_queue() {
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    let vars = [("BATON_PROCS", "2"), ("BATON_FORCE_MIGRATION", "0")];
    let ran = child::run(
        "sleepers_without_a_processor_go_before_a_long_queue",
        &vars,
        &[],
        || {
            baton::run(|| {
                let due = Instant::now() + Duration::from_millis(100);
                let halves: Vec<_> = (0..2)
                    .map(|_| {
                        go!(move || {
                            // Each on a processor of its own.
                            BEGUN.fetch_add(1, SeqCst);
                            while BEGUN.load(SeqCst) < 2 {}
                            sleepers(100, due)
                        })
                    })
                    .collect();
                let all = halves.into_iter().flat_map(|half| half.join().unwrap()).collect();
                baton::set_procs(1).unwrap();
                let between = others_run_while_they_wake(all);
                assert!((50..400).contains(&between), "{between} others ran in between");
            });
        },
    );
    ran.succeeded();
}

/// Goroutines that pass a message round have short turns, so their processor keeps them to itself. One of them computes all of a
/// sudden: the others go on elsewhere, else it would wait for them for ever.
#[test]
fn those_who_wait_behind_one_that_computes_find_another_processor() {
    const TWO: &[(&str, &str)] = &[("BATON_PROCS", "2"), ("BATON_FORCE_MIGRATION", "0")];
    let name = "those_who_wait_behind_one_that_computes_find_another_processor";
    let ran = child::run(name, TWO, &[], || {
        baton::run(|| {
            for _ in 0..20 {
                let (tx, mut rx) = chan::bounded(0);
                let first = tx.clone();
                for _ in 0..3 {
                    let (tx, next) = chan::bounded(0);
                    let from = std::mem::replace(&mut rx, next);
                    go!(move || from.iter().try_for_each(|n: u32| tx.send(n)));
                }
                for n in 0..5_000 {
                    first.send(n).unwrap();
                    assert_eq!(rx.recv(), Ok(n));
                }
                let ran: Arc<AtomicUsize> = Arc::default();
                for _ in 0..3 {
                    let ran = Arc::clone(&ran);
                    go!(move || ran.fetch_add(1, SeqCst));
                }
                while ran.load(SeqCst) < 3 {
                    std::hint::spin_loop();
                }
            }
        });
    });
    ran.succeeded();
}
