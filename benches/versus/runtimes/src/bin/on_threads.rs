//! The rows on plain threads with crossbeam-channel and parking_lot, where that makes sense: what the machine itself can do.

use crossbeam_channel as chan;
use parking_lot::{Mutex, RwLock};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use versus_runtimes::*;

fn main() {
    let row = row();
    let (row, flume) = match row.strip_suffix("_flume") {
        Some(row @ ("spsc" | "unbounded" | "mpmc")) => (row, true),
        Some(_) => none(),
        None => (row.as_str(), false),
    };
    match row {
        "spawn_join" => per_turn(SPAWN_JOIN / 20, || {
            (0..SPAWN_JOIN / 20).for_each(|i| keep(thread::spawn(move || i).join().unwrap()))
        }),
        "yield_alone" => per_turn(YIELD_ALONE, || (0..YIELD_ALONE).for_each(|_| thread::yield_now())),
        "ping_pong" => per_turn(PING_PONG / 10, || {
            let (ping, pinged) = chan::bounded(0);
            let (pong, ponged) = chan::bounded(0);
            thread::scope(|s| {
                s.spawn(move || pinged.iter().for_each(|i: usize| pong.send(i).unwrap()));
                for i in 0..PING_PONG / 10 {
                    ping.send(i).unwrap();
                    ponged.recv().unwrap();
                }
                drop(ping);
            });
        }),
        "spsc" if flume => per_turn(SPSC, || {
            let (tx, rx) = flume::bounded(128);
            thread::spawn(move || (0..SPSC).for_each(|i| tx.send(i).unwrap()));
            assert_eq!(rx.iter().count(), SPSC);
        }),
        "unbounded" if flume => per_turn(SPSC, || {
            let (tx, rx) = flume::unbounded();
            thread::spawn(move || (0..SPSC).for_each(|i| tx.send(i).unwrap()));
            assert_eq!(rx.iter().count(), SPSC);
        }),
        "mpmc" if flume => per_turn(MPMC.0 * MPMC.1, || {
            let (tx, rx) = flume::bounded(128);
            thread::scope(|s| {
                for _ in 0..MPMC.0 {
                    let (tx, rx) = (tx.clone(), rx.clone());
                    s.spawn(move || rx.iter().count());
                    s.spawn(move || (0..MPMC.1).for_each(|i| tx.send(i).unwrap()));
                }
                drop((tx, rx));
            });
        }),
        "spsc" => per_turn(SPSC, || spsc(chan::bounded(128))),
        "unbounded" => per_turn(SPSC, || spsc(chan::unbounded())),
        "mpmc" => per_turn(MPMC.0 * MPMC.1, || {
            let (tx, rx) = chan::bounded(128);
            thread::scope(|s| {
                for _ in 0..MPMC.0 {
                    let (tx, rx) = (tx.clone(), rx.clone());
                    s.spawn(move || rx.iter().count());
                    s.spawn(move || (0..MPMC.1).for_each(|i| tx.send(i).unwrap()));
                }
                drop((tx, rx));
            });
        }),
        "select_4" => per_turn(SELECT / 10, || {
            let (senders, rx): (Vec<_>, Vec<_>) = (0..4).map(|_| chan::bounded::<usize>(0)).unzip();
            for tx in senders {
                thread::spawn(move || while tx.send(1).is_ok() {});
            }
            for _ in 0..SELECT / 10 {
                chan::select! { recv(rx[0]) -> n => n, recv(rx[1]) -> n => n, recv(rx[2]) -> n => n, recv(rx[3]) -> n => n }.unwrap();
            }
        }),
        "mutex" => per_turn(MUTEX.0 * MUTEX.1, || {
            let count = Arc::new(Mutex::new(0));
            together(MUTEX.0, move || (0..MUTEX.1).for_each(|_| *count.lock() += 1));
        }),
        "rwlock_95" => per_turn(MUTEX.0 * MUTEX.1, || {
            let count = Arc::new(RwLock::new(0_u64));
            together(MUTEX.0, move || {
                (0..MUTEX.1).for_each(|i| {
                    if i % 20 == 0 {
                        *count.write() += 1
                    } else {
                        black_box(*count.read());
                    }
                })
            });
        }),
        "hog" => hog(0),
        "hog_blockers" => hog(64),
        "blocking" | "blocking_undeclared" => blocking(),
        "syscall" => per_turn(SYSCALLS, || (0..SYSCALLS).for_each(|_| getppid())),
        _ => none(),
    }
}

fn together(n: usize, f: impl Fn() + Clone + Send + 'static) {
    let all: Vec<_> = (0..n).map(|_| thread::spawn(f.clone())).collect();
    all.into_iter().for_each(|t| t.join().unwrap());
}

fn spsc((tx, rx): (chan::Sender<usize>, chan::Receiver<usize>)) {
    thread::spawn(move || (0..SPSC).for_each(|i| tx.send(i).unwrap()));
    assert_eq!(rx.iter().count(), SPSC);
}

fn hog(blockers: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    for i in 0..WORKERS + blockers {
        let stop = stop.clone();
        thread::spawn(move || {
            let go_on = || !stop.load(Relaxed);
            if i < WORKERS {
                compute_while(go_on);
            }
            while go_on() {
                raw_sleep()
            }
        });
    }
    let mut ticks = Ticks::new();
    thread::sleep(ticks.wait());
    while ticks.tick() {
        thread::sleep(ticks.wait());
    }
    stop.store(true, Relaxed);
    ticks.print();
}

fn blocking() {
    let (work, stop) = (Arc::new(Cooperation::default()), Arc::new(AtomicBool::new(false)));
    for _ in 0..COOPERATIVE {
        let (work, stop) = (work.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Relaxed) {
                work.work();
                thread::yield_now();
            }
        });
    }
    let alone = Duration::from_millis(200);
    thread::sleep(alone);
    let (before, start) = (work.units(), Instant::now());
    together(BLOCKING.0, || (0..BLOCKING.1).for_each(|_| raw_sleep()));
    work.print(start.elapsed(), before, alone);
    stop.store(true, Relaxed);
}
