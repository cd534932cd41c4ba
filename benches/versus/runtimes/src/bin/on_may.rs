//! The rows on may, where it has what they need: no rendezvous or bounded channels, fixed stacks, two mappings for each.

use may::{
    coroutine, go,
    sync::{Mutex, mpmc, mpsc},
};
use std::{hint::black_box, sync::Arc, time::Instant};
use versus_runtimes::*;

fn main() {
    let row = row();
    let stack = if row.starts_with("stack") { 32 << 20 } else { 32 << 10 };
    may::config()
        .set_workers(workers(&row))
        .set_stack_size(stack / size_of::<usize>());
    // SAFETY: the rows keep nothing that belongs to a thread across a call that parks.
    let main = unsafe { coroutine::spawn(move || run(&row)) };
    main.join().unwrap();
    std::process::exit(0);
}

fn run(row: &str) {
    match row {
        "spawn_join" => per_turn(SPAWN_JOIN / 10, || {
            (0..SPAWN_JOIN / 10).for_each(|i| keep(go!(move || i).join().unwrap()))
        }),
        "yield_alone" => per_turn(YIELD_ALONE, || (0..YIELD_ALONE).for_each(|_| coroutine::yield_now())),
        "yield_1000" => per_turn(YIELD_AMONG.0 * YIELD_AMONG.1, || {
            together(YIELD_AMONG.0, || {
                (0..YIELD_AMONG.1).for_each(|_| coroutine::yield_now())
            });
        }),
        "ping_pong" | "ping_pong_1" => per_turn(PING_PONG, || {
            let (ping, pinged) = mpsc::channel();
            let (pong, ponged) = mpsc::channel();
            let other = go!(move || pinged.iter().for_each(|i: usize| pong.send(i).unwrap()));
            for i in 0..PING_PONG {
                ping.send(i).unwrap();
                ponged.recv().unwrap();
            }
            drop(ping);
            other.join().unwrap();
        }),
        "unbounded" => per_turn(SPSC, || {
            let (tx, rx) = mpsc::channel();
            go!(move || (0..SPSC).for_each(|i| tx.send(i).unwrap()));
            assert_eq!(rx.iter().count(), SPSC);
        }),
        "mpmc" => per_turn(MPMC.0 * MPMC.1, || {
            let (tx, rx) = mpmc::channel::<usize>();
            let receivers: Vec<_> = (0..MPMC.0)
                .map(|_| {
                    let rx = rx.clone();
                    go!(move || while rx.recv().is_ok() {})
                })
                .collect();
            together(MPMC.0, move || (0..MPMC.1).for_each(|i| tx.send(i).unwrap()));
            receivers.into_iter().for_each(|r| r.join().unwrap());
        }),
        "mutex" => per_turn(MUTEX.0 * MUTEX.1, || {
            let count = Arc::new(Mutex::new(0));
            together(MUTEX.0, {
                let count = count.clone();
                move || (0..MUTEX.1).for_each(|_| *count.lock().unwrap() += 1)
            });
            assert_eq!(*count.lock().unwrap(), MUTEX.0 * MUTEX.1);
        }),
        row if row.starts_with("stack_") => stack(row[6..].parse().unwrap()),
        _ => none(),
    }
}

fn together(n: usize, f: impl Fn() + Clone + Send + 'static) {
    let all: Vec<_> = (0..n)
        .map(|_| {
            let f = f.clone();
            go!(f)
        })
        .collect();
    all.into_iter().for_each(|c| c.join().unwrap());
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
