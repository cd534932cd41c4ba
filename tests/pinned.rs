//! Goroutines that stay on their thread: `baton::spawn`, `lock_os_thread`.

use baton::{Builder, chan, go, time};
use std::{
    cell::{Cell, RefCell},
    fs,
    rc::Rc,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

mod child;

thread_local! {
    static OWN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static SHARED: Rc<Cell<usize>> = Rc::new(Cell::new(0));
}

/// Parks in every way, with thread-owned things in hand, and sees that it is still at home.
fn stays(id: usize, rounds: usize, rx: &chan::Receiver<usize>, tx: &chan::Sender<usize>) {
    let home = thread::current().id();
    let shared = SHARED.with(Rc::clone); // an Rc that others on this thread share
    for round in 0..rounds {
        let before = shared.get();
        shared.set(before + 1);
        match round % 5 {
            0 => baton::yield_now(),
            1 => tx.send(id).unwrap(),
            2 => drop(rx.recv()),
            3 => time::sleep(Duration::from_micros(50)),
            _ => go!(|| baton::yield_now()).join().unwrap(),
        }
        assert_eq!(thread::current().id(), home, "goroutine {id} moved in round {round}");
        assert!(SHARED.with(|here| Rc::ptr_eq(here, &shared)));
        OWN.with_borrow_mut(|own| own.push(id));
    }
}

#[test]
fn pinned_goroutines_stay_and_migrating_ones_mix_with_them() {
    const N: usize = 40;
    const ROUNDS: usize = 50;
    baton::run(|| {
        let (tx, rx) = chan::unbounded();
        let pinned: Vec<_> = (0..N)
            .map(|id| {
                let (tx, rx) = (tx.clone(), rx.clone());
                baton::spawn(move || stays(id, ROUNDS, &rx, &tx))
            })
            .collect();
        let migrating: Vec<_> = (0..N)
            .map(|_| go!(|| (0..ROUNDS).for_each(|_| baton::yield_now())))
            .collect();
        pinned.into_iter().for_each(|handle| handle.join().unwrap());
        migrating.into_iter().for_each(|handle| handle.join().unwrap());
    });
}

/// Pinned to different threads they still wake each other, whoever has the processors; also with one processor.
#[test]
fn pinned_goroutines_on_different_threads_wake_each_other() {
    baton::run(|| {
        let (to_a, from_b) = chan::bounded(0);
        let (to_b, from_a) = chan::bounded(0);
        // Both block their threads until the other has begun too: so they have threads of their own.
        let begun = Arc::new(Barrier::new(2));
        let other = Arc::clone(&begun);
        let a = baton::spawn(move || {
            let home = thread::current().id();
            begun.wait();
            for n in 0..500 {
                to_b.send(n).unwrap();
                assert_eq!(from_b.recv(), Ok(n));
                assert_eq!(thread::current().id(), home);
            }
            home
        });
        let b = baton::spawn(move || {
            let home = thread::current().id();
            other.wait();
            for n in from_a {
                to_a.send(n).unwrap();
                assert_eq!(thread::current().id(), home);
            }
            home
        });
        assert_ne!(a.join().unwrap(), b.join().unwrap());
    });
}

/// Woken by a plain thread, by a timer, and by a goroutine elsewhere, with everybody asleep in between.
#[test]
fn a_pinned_goroutine_is_woken_from_anywhere() {
    let (tx, rx) = chan::unbounded();
    let reader = baton::spawn(move || {
        let home = thread::current().id();
        let mut sum = 0;
        for n in rx {
            time::sleep(Duration::from_millis(1));
            assert_eq!(thread::current().id(), home);
            sum += n;
        }
        sum
    });
    for n in 0..10 {
        tx.send(n).unwrap(); // a plain thread
        let tx = tx.clone();
        go!(move || tx.send(100).unwrap()).join().unwrap();
    }
    drop(tx);
    assert_eq!(reader.join().unwrap(), 45 + 1000);
}

#[test]
fn builders_pin_too() {
    let name = Builder::new()
        .name("pinned")
        .max_stack(128 << 10)
        .spawn(|| baton::current().unwrap().name().map(String::from));
    assert_eq!(name.unwrap().join().unwrap().as_deref(), Some("pinned"));
    assert!(Builder::new().max_stack(1).spawn(|| ()).is_err());
}

#[test]
fn a_lock_keeps_the_thread_and_nests() {
    baton::run(|| {
        let others: Vec<_> = (0..8)
            .map(|_| go!(|| (0..200).for_each(|_| baton::yield_now())))
            .collect();
        let locked: Vec<_> = (0..8)
            .map(|_| {
                go!(|| {
                    let outer = baton::lock_os_thread();
                    let home = thread::current().id();
                    let stay = |rounds: usize| {
                        for _ in 0..rounds {
                            baton::yield_now();
                            time::sleep(Duration::from_micros(20));
                            assert_eq!(thread::current().id(), home);
                        }
                    };
                    stay(20);
                    let inner = baton::lock_os_thread();
                    stay(20);
                    drop(outer); // the inner one counts
                    stay(20);
                    drop(inner);
                    (0..20).for_each(|_| baton::yield_now());
                })
            })
            .collect();
        locked.into_iter().for_each(|handle| handle.join().unwrap());
        others.into_iter().for_each(|handle| handle.join().unwrap());
    });
    let _nothing_to_do_in_a_thread = baton::lock_os_thread();
}

/// With forced migration every park of a goroutine that is not locked changes its thread; the lock must end that, and its
/// end must allow it again.
#[test]
fn unlocked_it_may_move_again() {
    let migrates = std::env::var("BATON_FORCE_MIGRATION").as_deref() == Ok("1");
    baton::run(|| {
        go!(move || {
            drop(baton::lock_os_thread());
            let home = baton::debug::thread();
            baton::yield_now();
            assert!(!migrates || baton::debug::thread() != home);
        })
        .join()
        .unwrap();
    });
}

/// Its thread blocks in the kernel with goroutines pinned to it: they wait, all others go on, and then they run.
#[test]
fn a_blocked_thread_delays_only_its_own() {
    baton::run(|| {
        let done = AtomicUsize::new(0);
        baton::scope(|s| {
            for _ in 0..20 {
                s.spawn(|| {
                    baton::yield_now();
                    thread::sleep(Duration::from_millis(1));
                    baton::yield_now();
                    done.fetch_add(1, SeqCst);
                });
            }
            go!(|| (0..1000).for_each(|_| baton::yield_now())).join().unwrap();
        });
        assert_eq!(done.load(SeqCst), 20);
    });
}

/// One that blocks by habit goes on without a processor, again and again; whoever is at home on its thread gets a turn nevertheless.
#[test]
fn who_blocks_by_habit_lets_others_of_its_thread_run() {
    let same_thread = || {
        let stop = Arc::new(AtomicBool::new(false));
        let (home, homes) = mpsc::channel();
        let (tx, rx) = chan::bounded(1);
        let at_home = home.clone();
        let neighbour = baton::spawn(move || {
            at_home.send(thread::current().id()).unwrap();
            rx.recv().unwrap();
        });
        let turns = Arc::new(AtomicUsize::new(0));
        let (stopped, counts) = (Arc::clone(&stop), Arc::clone(&turns));
        let blocker = baton::spawn(move || {
            home.send(thread::current().id()).unwrap();
            while !stopped.load(SeqCst) {
                thread::sleep(Duration::from_micros(200));
                baton::yield_now();
                counts.fetch_add(1, SeqCst);
            }
        });
        let stopped = Arc::clone(&stop);
        let waits = go!(move || {
            while !stopped.load(SeqCst) {
                baton::yield_now();
            }
        });
        time::sleep(Duration::from_millis(50));
        let same = homes.recv() == homes.recv();
        tx.send(()).unwrap();
        let before = turns.load(SeqCst);
        while !neighbour.is_finished() {
            let turns = turns.load(SeqCst) - before;
            assert!(turns < 1_000, "the other had {turns} turns meanwhile");
            time::sleep(Duration::from_millis(1));
        }
        stop.store(true, SeqCst);
        blocker.join().unwrap();
        waits.join().unwrap();
        same
    };
    let ran = child::run(
        "who_blocks_by_habit_lets_others_of_its_thread_run",
        &[("BATON_PROCS", "1")],
        &[],
        || assert_eq!((0..40).filter(|_| baton::run(same_thread)).take(8).count(), 8),
    );
    ran.succeeded();
}

/// Threads that have nothing to do for long end, but not if a goroutine can go on nowhere else.
#[test]
fn a_thread_with_pinned_goroutines_does_not_end() {
    fn threads() -> usize {
        let names = fs::read_dir("/proc/self/task").unwrap();
        names
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .filter(|name| name.starts_with("baton-m"))
            .count()
    }
    let vars = [("BATON_PROCS", "1"), ("BATON_RETIRE_MS", "10")];
    let ran = child::run("a_thread_with_pinned_goroutines_does_not_end", &vars, &[], || {
        baton::run(|| {
            let (tx, rx) = chan::bounded::<()>(0);
            let start = |_| {
                let rx = rx.clone();
                baton::spawn(move || {
                    let home = thread::current().id();
                    thread::sleep(Duration::from_millis(20)); // the processor goes to another thread
                    assert!(rx.recv().is_err());
                    thread::current().id() == home
                })
            };
            let pinned: Vec<_> = (0..4).map(start).collect();
            let others: Vec<_> = (0..8)
                .map(|_| go!(|| thread::sleep(Duration::from_millis(20))))
                .collect();
            others.into_iter().for_each(|other| other.join().unwrap());
            let most = threads();
            let ended = || {
                time::sleep(Duration::from_millis(50));
                threads() < most
            };
            assert!((0..100).any(|_| ended()), "nobody ends");
            time::sleep(Duration::from_millis(50)); // nor does anybody who must not
            drop(tx);
            assert!(pinned.into_iter().all(|pinned| pinned.join().unwrap()));
        });
    });
    ran.succeeded();
}
