//! Nobody starves beside goroutines that keep a processor busy: else these would not end. (Those that wake each other:
//! `two_that_wake_each_other_starve_nobody` in `goroutines.rs`.)

use baton::{JoinHandle, chan, go, sync::WaitGroup};
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

/// `n` goroutines, of this group, that sleep until `due`, and then say how many of the others had run; all are asleep.
fn sleepers(n: usize, due: Instant, all: &WaitGroup) -> Vec<JoinHandle<usize>> {
    let asleep = Arc::new(AtomicUsize::new(0));
    let sleepers = (0..n)
        .map(|_| {
            let (asleep, member) = (asleep.clone(), all.clone());
            go!(move || {
                asleep.fetch_add(1, SeqCst);
                baton::time::sleep_until(due);
                drop(member);
                RAN.load(SeqCst)
            })
        })
        .collect();
    while asleep.load(SeqCst) < n {
        baton::yield_now();
    }
    sleepers
}

/// The turns of the others.
static RAN: AtomicUsize = AtomicUsize::new(0);

/// Tries with sleepers that are due in a while, on a machine that is busy with other things in a longer while, until they were not due
/// before all was set up.
fn before_they_are_due(mut attempt: impl FnMut(Instant) -> Result<(), TooLate>) {
    let mut ahead = Duration::from_millis(200);
    while attempt(Instant::now() + ahead).is_err() {
        ahead *= 2;
    }
}

/// Sleepers were due before their test was set up.
struct TooLate;

/// Sleepers that are due at one time wake beside more others than a ring holds, each of which has one turn after the other: in between
/// those have some turns, and few.
fn wake_before_the_others(sleepers: Vec<JoinHandle<usize>>, all: WaitGroup, due: Instant) -> Result<(), TooLate> {
    static OVER: AtomicBool = AtomicBool::new(false);
    OVER.store(false, SeqCst);
    let other = || {
        while !OVER.load(SeqCst) {
            RAN.fetch_add(1, SeqCst);
            baton::yield_now();
        }
    };
    let others: Vec<_> = (0..1_500).map(|_| go!(other)).collect();
    let in_time = Instant::now() < due;
    all.wait(); // in one turn: to join them takes up to one for each
    let mut before: Vec<_> = sleepers.into_iter().map(|g| g.join().unwrap()).collect();
    OVER.store(true, SeqCst);
    others.into_iter().for_each(|other| other.join().unwrap());
    if !in_time {
        return Err(TooLate);
    }
    before.sort_unstable();
    // Three quarters: where the system takes the CPU from those who are about to look, they look later.
    let turns = before[before.len() * 3 / 4] - before[0];
    assert!((50..400).contains(&turns), "{turns} turns of others in between");
    Ok(())
}

/// Sleepers that are due at one time are woken one after the other, with a few of the many others in between, not behind all of
/// these: a third of the turns is theirs.
#[test]
fn sleepers_go_before_a_long_queue() {
    let ran = child::run("sleepers_go_before_a_long_queue", ONE, &[], || {
        baton::run(|| {
            before_they_are_due(|due| {
                let all = WaitGroup::new();
                wake_before_the_others(sleepers(200, due, &all), all, due)
            });
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
                before_they_are_due(|due| {
                    BEGUN.store(0, SeqCst);
                    baton::set_procs(2).unwrap();
                    let all = WaitGroup::new();
                    let halves: Vec<_> = (0..2)
                        .map(|_| {
                            let all = all.clone();
                            go!(move || {
                                // Each on a processor of its own.
                                BEGUN.fetch_add(1, SeqCst);
                                while BEGUN.load(SeqCst) < 2 {}
                                sleepers(100, due, &all)
                            })
                        })
                        .collect();
                    let sleepers = halves.into_iter().flat_map(|half| half.join().unwrap()).collect();
                    baton::set_procs(1).unwrap();
                    wake_before_the_others(sleepers, all, due)
                });
            });
        },
    );
    ran.succeeded();
}

/// Those for whom the ring has no room, too, have their turn beside those on it, who yield again and again.
#[test]
fn more_yield_than_a_ring_holds() {
    const ALL: usize = 3_000;
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    let ran = child::run("more_yield_than_a_ring_holds", ONE, &[], || {
        baton::run(|| {
            let one = || {
                BEGUN.fetch_add(1, SeqCst);
                while BEGUN.load(SeqCst) < ALL {
                    baton::yield_now();
                }
            };
            let all: Vec<_> = (0..ALL).map(|_| go!(one)).collect();
            all.into_iter().for_each(|one| one.join().unwrap());
        });
    });
    ran.succeeded();
}

/// Who starts many goroutines in one go pushes none of those that are due behind them: it is the newest that leave a full ring.
#[test]
fn who_starts_many_delays_nobody_at_the_front() {
    static FIRST: AtomicUsize = AtomicUsize::new(0);
    let ran = child::run("who_starts_many_delays_nobody_at_the_front", ONE, &[], || {
        baton::run(|| {
            let count = || {
                RAN.fetch_add(1, SeqCst);
            };
            go!(|| FIRST.store(RAN.load(SeqCst) + 1, SeqCst));
            go!(count); // takes the place of the one that runs next, so that the first lies at the front of the ring
            let all: Vec<_> = (0..5_000).map(|_| go!(count)).collect();
            all.into_iter().for_each(|g| g.join().unwrap());
            let before = FIRST.load(SeqCst);
            assert!((1..10).contains(&before), "{before} others ran before it");
        });
    });
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
