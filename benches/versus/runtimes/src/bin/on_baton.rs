//! The rows on Baton.

use baton::{
    chan, go,
    sync::{Mutex, RwLock, WaitGroup},
    time,
};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use versus_runtimes::*;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

fn main() {
    let row = row();
    baton::Runtime::builder()
        .procs(workers(&row))
        .max_stack(if row.starts_with("stack") { 4 << 20 } else { 256 << 10 })
        .init()
        .unwrap();
    baton::run(move || match row.as_str() {
        "spawn_join" => per_turn(SPAWN_JOIN, || {
            (0..SPAWN_JOIN).for_each(|i| keep(go!(move || i).join().unwrap()))
        }),
        "spawn_burst" => per_turn(BURST, burst),
        "yield_alone" => per_turn(YIELD_ALONE, || (0..YIELD_ALONE).for_each(|_| baton::yield_now())),
        "yield_1000" => per_turn(YIELD_AMONG.0 * YIELD_AMONG.1, || {
            together(YIELD_AMONG.0, |_| (0..YIELD_AMONG.1).for_each(|_| baton::yield_now()));
        }),
        "ping_pong" | "ping_pong_1" => per_turn(PING_PONG, ping_pong),
        "spsc" => per_turn(SPSC, || spsc(chan::bounded(128))),
        "unbounded" => per_turn(SPSC, || spsc(chan::unbounded())),
        "mpmc" => per_turn(MPMC.0 * MPMC.1, mpmc),
        "select_4" => per_turn(SELECT, select_4),
        "skynet" => in_all(|| assert_eq!(skynet(0, SKYNET), SKYNET * (SKYNET - 1) / 2)),
        "sieve" => in_all(sieve),
        "mutex" => per_turn(MUTEX.0 * MUTEX.1, || {
            let count = Arc::new(Mutex::new(0));
            together(MUTEX.0, {
                let count = count.clone();
                move |_| (0..MUTEX.1).for_each(|_| *count.lock() += 1)
            });
            assert_eq!(*count.lock(), MUTEX.0 * MUTEX.1);
        }),
        "rwlock_95" => per_turn(MUTEX.0 * MUTEX.1, || {
            let count = Arc::new(RwLock::new(0_u64));
            together(MUTEX.0, move |_| {
                (0..MUTEX.1).for_each(|i| {
                    if i % 20 == 0 {
                        *count.write() += 1
                    } else {
                        black_box(*count.read());
                    }
                })
            });
        }),
        "parked_1m" => parked(),
        "timers_1m" => timers(),
        "hog" => hog(0),
        "hog_blockers" => hog(64),
        "latency" => latency(),
        "blocking" => blocking(|| baton::blocking(raw_sleep), || {}),
        "blocking_undeclared" => blocking(raw_sleep, || {}),
        "blocking_parking" => blocking(raw_sleep, baton::yield_now),
        "syscall" => beside_bare(
            SYSCALLS,
            || {
                baton::blocking(getppid);
            },
            || {
                getppid();
            },
        ),
        row if row.starts_with("stack_") => stack(row[6..].parse().unwrap()),
        _ => none(),
    });
}

/// Runs `n` goroutines to their end.
fn together(n: usize, f: impl Fn(usize) + Clone + Send + 'static) {
    let all: Vec<_> = (0..n)
        .map(|i| {
            let f = f.clone();
            go!(move || f(i))
        })
        .collect();
    all.into_iter().for_each(|g| g.join().unwrap());
}

fn burst() {
    let group = WaitGroup::new();
    for _ in 0..BURST {
        let member = group.clone();
        go!(move || drop(member));
    }
    group.wait();
}

fn ping_pong() {
    let (ping, pinged) = chan::bounded(0);
    let (pong, ponged) = chan::bounded(0);
    let other = go!(move || pinged.iter().for_each(|i: usize| pong.send(i).unwrap()));
    for i in 0..PING_PONG {
        ping.send(i).unwrap();
        ponged.recv().unwrap();
    }
    drop(ping);
    other.join().unwrap();
}

fn spsc((tx, rx): (chan::Sender<usize>, chan::Receiver<usize>)) {
    let sender = go!(move || (0..SPSC).for_each(|i| tx.send(i).unwrap()));
    assert_eq!(rx.iter().count(), SPSC);
    sender.join().unwrap();
}

fn mpmc() {
    let (tx, rx) = chan::bounded(128);
    let receivers: Vec<_> = (0..MPMC.0)
        .map(|_| {
            let rx: chan::Receiver<usize> = rx.clone();
            go!(move || rx.iter().count())
        })
        .collect();
    together(MPMC.0, move |_| (0..MPMC.1).for_each(|i| tx.send(i).unwrap()));
    assert_eq!(
        receivers.into_iter().map(|r| r.join().unwrap()).sum::<usize>(),
        MPMC.0 * MPMC.1
    );
}

fn select_4() {
    let (senders, rx): (Vec<_>, Vec<_>) = (0..4).map(|_| chan::bounded::<usize>(0)).unzip();
    for tx in senders {
        go!(move || while tx.send(1).is_ok() {});
    }
    let mut sum = 0;
    while sum < SELECT {
        sum += chan::select! {
            recv(rx[0]) -> n => n,
            recv(rx[1]) -> n => n,
            recv(rx[2]) -> n => n,
            recv(rx[3]) -> n => n,
        }
        .unwrap();
    }
}

fn skynet(first: usize, size: usize) -> usize {
    if size == 1 {
        return first;
    }
    let (tx, rx) = chan::bounded(0);
    for i in 0..10 {
        let tx = tx.clone();
        go!(move || tx.send(skynet(first + i * size / 10, size / 10)).unwrap());
    }
    (0..10).map(|_| rx.recv().unwrap()).sum()
}

fn sieve() {
    let (tx, mut rx) = chan::bounded(0);
    go!(move || (2..).take_while(|&i: &usize| tx.send(i).is_ok()).for_each(drop));
    for _ in 0..SIEVE {
        let prime = rx.recv().unwrap();
        let (next, filtered) = chan::bounded(0);
        go!(move || {
            for i in rx.iter() {
                if i % prime != 0 && next.send(i).is_err() {
                    break;
                }
            }
        });
        rx = filtered;
    }
}

fn parked() {
    let (group, (tx, rx)) = (WaitGroup::new(), chan::bounded::<()>(0));
    let start = Instant::now();
    for _ in 0..PARKED {
        let (member, rx) = (group.clone(), rx.clone());
        go!(move || {
            drop(member);
            let _ = rx.recv();
        });
    }
    group.wait();
    figure("ns", start.elapsed().as_nanos() as f64 / PARKED as f64);
    drop(tx);
}

fn timers() {
    let group = WaitGroup::new();
    let worst = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for i in 0..TIMERS {
        let (member, worst) = (group.clone(), worst.clone());
        go!(move || {
            let until = Instant::now() + Duration::from_millis(1_000 + (i & 255) as u64);
            time::sleep(until - Instant::now());
            worst.fetch_max((Instant::now() - until).as_micros() as u64, Relaxed);
            drop(member);
        });
    }
    group.wait();
    figure("ms over 1000", start.elapsed().as_secs_f64() * 1e3 - 1e3);
    figure("cpu s", cpu_seconds() - cpu);
    figure("late ms", worst.load(Relaxed) as f64 / 1e3);
}

/// Two loops that never call the runtime, and a ticker; perhaps `blockers` in raw system calls beside them.
fn hog(blockers: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    for i in 0..WORKERS + blockers {
        let stop = stop.clone();
        go!(move || {
            let go_on = || !stop.load(Relaxed);
            if i < WORKERS {
                compute_while(go_on);
            }
            while go_on() {
                raw_sleep()
            }
        });
    }
    let ticker = go!(move || {
        let mut ticks = Ticks::new();
        time::sleep(ticks.wait());
        while ticks.tick() {
            time::sleep(ticks.wait());
        }
        ticks
    });
    let ticks = ticker.join().unwrap();
    stop.store(true, Relaxed);
    ticks.print();
}

/// Four hogs, short goroutines all the time, and a ticker.
fn latency() {
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..4 {
        let stop = stop.clone();
        go!(move || compute_while(|| !stop.load(Relaxed)));
    }
    go!(|| for i in 0..SHORT {
        go!(|| {
            unit();
        });
        if i % 16 == 0 {
            baton::yield_now()
        }
    });
    let mut ticks = Ticks::new();
    time::sleep(ticks.wait());
    while ticks.tick() {
        time::sleep(ticks.wait());
    }
    stop.store(true, Relaxed);
    ticks.print();
}

fn blocking(call: fn(), after: fn()) {
    let work = Arc::new(Cooperation::default());
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..COOPERATIVE {
        let (work, stop) = (work.clone(), stop.clone());
        go!(move || while !stop.load(Relaxed) {
            work.work();
            baton::yield_now();
        });
    }
    let alone = Duration::from_millis(200);
    time::sleep(alone);
    let (before, start) = (work.units(), Instant::now());
    together(BLOCKING.0, move |_| {
        (0..BLOCKING.1).for_each(|_| {
            call();
            after()
        })
    });
    work.print(start.elapsed(), before, alone);
    stop.store(true, Relaxed);
}

fn stack(depth: usize) {
    let n = DEPTH_BUDGET / depth;
    let bare = go!(move || {
        black_box(recurse(depth));
        let start = Instant::now();
        (0..n / 8).for_each(|_| keep(recurse(depth)));
        start.elapsed().as_nanos() as f64 / (n / 8) as f64
    })
    .join()
    .unwrap();
    let run = |n: usize| (0..n).for_each(|_| keep(go!(move || recurse(depth)).join().unwrap()));
    run(n / 8);
    let start = Instant::now();
    run(n);
    let ns = start.elapsed().as_nanos() as f64 / n as f64;
    figure("ns", ns);
    figure("beyond bare ns", ns - bare);
}
