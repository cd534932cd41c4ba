//! The rows on tokio, the way its users write them: multi-threaded, two workers.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, Notify, RwLock, mpsc},
    task,
    time::{sleep, sleep_until},
};
use versus_runtimes::*;

fn main() {
    let row = row();
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers(&row))
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(async { tokio::spawn(run(row)).await.unwrap() });
    rt.shutdown_background();
    std::process::exit(0);
}

/// Prints the nanoseconds of each of `n` turns of `f`.
async fn per_turn(n: usize, f: impl Future<Output = ()>) {
    let start = Instant::now();
    f.await;
    figure("ns", start.elapsed().as_nanos() as f64 / n as f64);
}

/// Prints the milliseconds that `f` takes.
async fn in_all(f: impl Future<Output = ()>) {
    let start = Instant::now();
    f.await;
    figure("ms", start.elapsed().as_secs_f64() * 1e3);
}

async fn run(row: String) {
    match row.as_str() {
        "spawn_join" => {
            per_turn(SPAWN_JOIN, async {
                for i in 0..SPAWN_JOIN {
                    black_box(tokio::spawn(async move { i }).await.unwrap());
                }
            })
            .await;
        }
        "spawn_burst" => {
            per_turn(BURST, async {
                let (done, left) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(BURST as u64)));
                for _ in 0..BURST {
                    let (done, left) = (done.clone(), left.clone());
                    tokio::spawn(async move {
                        if left.fetch_sub(1, Relaxed) == 1 {
                            done.notify_one();
                        }
                    });
                }
                done.notified().await;
            })
            .await;
        }
        "yield_alone" => {
            per_turn(YIELD_ALONE, async {
                for _ in 0..YIELD_ALONE {
                    task::yield_now().await;
                }
            })
            .await;
        }
        "yield_1000" => {
            per_turn(YIELD_AMONG.0 * YIELD_AMONG.1, async {
                let all: Vec<_> = (0..YIELD_AMONG.0)
                    .map(|_| {
                        tokio::spawn(async {
                            for _ in 0..YIELD_AMONG.1 {
                                task::yield_now().await;
                            }
                        })
                    })
                    .collect();
                for t in all {
                    t.await.unwrap();
                }
            })
            .await;
        }
        "ping_pong" | "ping_pong_1" => {
            per_turn(PING_PONG, async {
                let (ping, mut pinged) = mpsc::channel(1);
                let (pong, mut ponged) = mpsc::channel(1);
                tokio::spawn(async move {
                    while let Some(i) = pinged.recv().await {
                        pong.send(i).await.unwrap();
                    }
                });
                for i in 0..PING_PONG {
                    ping.send(i).await.unwrap();
                    ponged.recv().await.unwrap();
                }
            })
            .await;
        }
        "spsc" => {
            per_turn(SPSC, async {
                let (tx, mut rx) = mpsc::channel(128);
                tokio::spawn(async move {
                    for i in 0..SPSC {
                        tx.send(i).await.unwrap();
                    }
                });
                while rx.recv().await.is_some() {}
            })
            .await;
        }
        "unbounded" => {
            per_turn(SPSC, async {
                let (tx, mut rx) = mpsc::unbounded_channel();
                tokio::spawn(async move { (0..SPSC).for_each(|i| tx.send(i).unwrap()) });
                while rx.recv().await.is_some() {}
            })
            .await;
        }
        "mpmc" => {
            // A channel with one receiver, shared: tokio has no other.
            per_turn(MPMC.0 * MPMC.1, async {
                let (tx, rx) = mpsc::channel::<usize>(128);
                let rx = Arc::new(Mutex::new(rx));
                let receivers: Vec<_> = (0..MPMC.0)
                    .map(|_| {
                        let rx = rx.clone();
                        tokio::spawn(async move { while rx.lock().await.recv().await.is_some() {} })
                    })
                    .collect();
                for _ in 0..MPMC.0 {
                    let tx = tx.clone();
                    tokio::spawn(async move {
                        for i in 0..MPMC.1 {
                            tx.send(i).await.unwrap();
                        }
                    });
                }
                drop(tx);
                for r in receivers {
                    r.await.unwrap();
                }
            })
            .await;
        }
        "select_4" => {
            per_turn(SELECT, async {
                let mut rx: Vec<_> = (0..4)
                    .map(|_| {
                        let (tx, rx) = mpsc::channel::<usize>(1);
                        tokio::spawn(async move { while tx.send(1).await.is_ok() {} });
                        rx
                    })
                    .collect();
                let [a, b, c, d] = &mut rx[..] else { unreachable!() };
                for _ in 0..SELECT {
                    let n =
                        tokio::select! { n = a.recv() => n, n = b.recv() => n, n = c.recv() => n, n = d.recv() => n };
                    n.unwrap();
                }
            })
            .await;
        }
        "skynet" => in_all(async { assert_eq!(skynet(0, SKYNET).await, SKYNET * (SKYNET - 1) / 2) }).await,
        "sieve" => in_all(sieve()).await,
        "mutex" => {
            per_turn(MUTEX.0 * MUTEX.1, async {
                let count = Arc::new(Mutex::new(0));
                let all: Vec<_> = (0..MUTEX.0)
                    .map(|_| {
                        let count = count.clone();
                        tokio::spawn(async move {
                            for _ in 0..MUTEX.1 {
                                *count.lock().await += 1;
                            }
                        })
                    })
                    .collect();
                for t in all {
                    t.await.unwrap();
                }
            })
            .await;
        }
        "rwlock_95" => {
            per_turn(MUTEX.0 * MUTEX.1, async {
                let count = Arc::new(RwLock::new(0_u64));
                let all: Vec<_> = (0..MUTEX.0)
                    .map(|_| {
                        let count = count.clone();
                        tokio::spawn(async move {
                            for i in 0..MUTEX.1 {
                                if i % 20 == 0 {
                                    *count.write().await += 1;
                                } else {
                                    black_box(*count.read().await);
                                }
                            }
                        })
                    })
                    .collect();
                for t in all {
                    t.await.unwrap();
                }
            })
            .await;
        }
        "parked_1m" => {
            let (parked, left, end) = (
                Arc::new(Notify::new()),
                Arc::new(AtomicU64::new(PARKED as u64)),
                Arc::new(Notify::new()),
            );
            let start = Instant::now();
            for _ in 0..PARKED {
                let (parked, left, end) = (parked.clone(), left.clone(), end.clone());
                tokio::spawn(async move {
                    if left.fetch_sub(1, Relaxed) == 1 {
                        parked.notify_one();
                    }
                    end.notified().await;
                });
            }
            parked.notified().await;
            figure("ns", start.elapsed().as_nanos() as f64 / PARKED as f64);
        }
        "timers_1m" => timers().await,
        "hog" => hog(0).await,
        "hog_blockers" => hog(64).await,
        "latency" => latency().await,
        "blocking" => blocking(|| task::block_in_place(raw_sleep), false).await,
        "blocking_undeclared" => blocking(raw_sleep, false).await,
        "blocking_parking" => blocking(raw_sleep, true).await,
        "syscall" => {
            per_turn(SYSCALLS / 20, async {
                for _ in 0..SYSCALLS / 20 {
                    task::block_in_place(getppid);
                }
            })
            .await;
        }
        _ => none(),
    }
}

fn skynet(first: usize, size: usize) -> std::pin::Pin<Box<dyn Future<Output = usize> + Send>> {
    Box::pin(async move {
        if size == 1 {
            return first;
        }
        let (tx, mut rx) = mpsc::channel(1);
        for i in 0..10 {
            let tx = tx.clone();
            tokio::spawn(async move { tx.send(skynet(first + i * size / 10, size / 10).await).await.unwrap() });
        }
        let mut sum = 0;
        for _ in 0..10 {
            sum += rx.recv().await.unwrap();
        }
        sum
    })
}

async fn sieve() {
    let (tx, mut rx) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut i = 2_usize;
        while tx.send(i).await.is_ok() {
            i += 1;
        }
    });
    for _ in 0..SIEVE {
        let prime = rx.recv().await.unwrap();
        let (next, filtered) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(i) = rx.recv().await {
                if i % prime != 0 && next.send(i).await.is_err() {
                    break;
                }
            }
        });
        rx = filtered;
    }
}

async fn timers() {
    let (done, left, worst) = (
        Arc::new(Notify::new()),
        Arc::new(AtomicU64::new(TIMERS as u64)),
        Arc::new(AtomicU64::new(0)),
    );
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for i in 0..TIMERS {
        let (done, left, worst) = (done.clone(), left.clone(), worst.clone());
        tokio::spawn(async move {
            let until = Instant::now() + Duration::from_millis(1_000 + (i & 255) as u64);
            sleep_until(until.into()).await;
            worst.fetch_max((Instant::now() - until).as_micros() as u64, Relaxed);
            if left.fetch_sub(1, Relaxed) == 1 {
                done.notify_one();
            }
        });
    }
    done.notified().await;
    figure("ms over 1000", start.elapsed().as_secs_f64() * 1e3 - 1e3);
    figure("cpu s", cpu_seconds() - cpu);
    figure("late ms", worst.load(Relaxed) as f64 / 1e3);
}

async fn ticks() -> Ticks {
    let mut ticks = Ticks::new();
    sleep(ticks.wait()).await;
    while ticks.tick() {
        sleep(ticks.wait()).await;
    }
    ticks
}

/// The loops end by themselves: nothing here could stop them otherwise.
async fn hog(blockers: usize) {
    let until = Instant::now() + Duration::from_millis(2_100);
    let ticker = tokio::spawn(ticks());
    for i in 0..WORKERS + blockers {
        tokio::spawn(async move {
            let go_on = || Instant::now() < until;
            if i < WORKERS {
                compute_while(go_on);
            }
            while go_on() {
                raw_sleep();
            }
        });
    }
    ticker.await.unwrap().print();
}

async fn latency() {
    let until = Instant::now() + Duration::from_millis(2_100);
    let ticker = tokio::spawn(ticks());
    for _ in 0..4 {
        tokio::spawn(async move { compute_while(|| Instant::now() < until) });
    }
    tokio::spawn(async {
        for i in 0..SHORT {
            tokio::spawn(async { unit() });
            if i % 16 == 0 {
                task::yield_now().await;
            }
        }
    });
    ticker.await.unwrap().print();
}

async fn blocking(call: fn(), park: bool) {
    let (work, stop) = (Arc::new(Cooperation::default()), Arc::new(AtomicBool::new(false)));
    for _ in 0..COOPERATIVE {
        let (work, stop) = (work.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Relaxed) {
                work.work();
                task::yield_now().await;
            }
        });
    }
    let alone = Duration::from_millis(200);
    sleep(alone).await;
    let (before, start) = (work.units(), Instant::now());
    let all: Vec<_> = (0..BLOCKING.0)
        .map(|_| {
            tokio::spawn(async move {
                for _ in 0..BLOCKING.1 {
                    call();
                    if park {
                        task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for t in all {
        t.await.unwrap();
    }
    work.print(start.elapsed(), before, alone);
    stop.store(true, Relaxed);
}
