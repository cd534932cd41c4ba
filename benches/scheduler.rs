//! What goroutines cost: starting, switching, channels, declared blocking calls. These guard against regressions; runs on
//! one machine compare, machines do not.
//!
//! ```text
//! cargo bench --bench scheduler
//! ```

use baton::{chan, go, sync::WaitGroup};
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Goroutines of a burst.
const BURST: u64 = 10_000;
/// Goroutines of the large burst, and leaves of the skynet.
const MILLION: u64 = 1_000_000;
/// Goroutines that yield to each other.
const MANY: u64 = 1_000;

/// Measures in the main goroutine: `f` does its work so many times.
fn in_goroutine(b: &mut Bencher<'_>, f: impl Fn(u64) + Sync) {
    b.iter_custom(|n| {
        baton::run(|| {
            let start = Instant::now();
            f(n);
            start.elapsed()
        })
    });
}

fn spawn(c: &mut Criterion) {
    c.bench_function("spawn/join", |b| {
        in_goroutine(b, |n| {
            for i in 0..n {
                black_box(go!(move || i).join().unwrap());
            }
        });
    });
    let mut group = c.benchmark_group("spawn");
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("burst", |b| in_goroutine(b, |n| (0..n).for_each(|_| burst(BURST))));
    group.sample_size(10).throughput(Throughput::Elements(MILLION));
    group.bench_function("burst/million", |b| {
        in_goroutine(b, |n| (0..n).for_each(|_| burst(MILLION)))
    });
    group.bench_function("skynet/million", |b| {
        in_goroutine(b, |n| {
            for _ in 0..n {
                let (tx, rx) = chan::bounded(0);
                skynet(0, MILLION, &tx);
                assert_eq!(rx.recv(), Ok(MILLION * (MILLION - 1) / 2));
            }
        });
    });
}

/// Starts so many goroutines that do next to nothing, and waits for all.
fn burst(goroutines: u64) {
    let all = WaitGroup::new();
    for _ in 0..goroutines {
        let member = all.clone();
        go!(move || drop(member));
    }
    all.wait();
}

/// A tree of goroutines with ten children each, whose leaves send their numbers upwards, where they are added up.
fn skynet(number: u64, leaves: u64, up: &chan::Sender<u64>) {
    let up = up.clone();
    go!(move || {
        if leaves == 1 {
            up.send(number).unwrap();
            return;
        }
        let (tx, rx) = chan::bounded(0);
        for child in 0..10 {
            skynet(number + child * leaves / 10, leaves / 10, &tx);
        }
        up.send(rx.iter().take(10).sum()).unwrap();
    });
}

fn yielding(c: &mut Criterion) {
    let mut group = c.benchmark_group("yield");
    group.bench_function("1", |b| in_goroutine(b, |n| (0..n).for_each(|_| baton::yield_now())));
    group.bench_function("1000", |b| b.iter_custom(|n| baton::run(|| yield_among_many(n))));
}

/// The time of `n` yields, spread over many goroutines that all do it at once.
fn yield_among_many(n: u64) -> Duration {
    let each = n.div_ceil(MANY);
    let (here, done) = (WaitGroup::new(), WaitGroup::new());
    let (start, started) = chan::bounded::<()>(0);
    for _ in 0..MANY {
        let (here, done, started) = (here.clone(), done.clone(), started.clone());
        go!(move || {
            drop(here);
            let _ = started.recv(); // an error: the sender is dropped, which starts all
            (0..each).for_each(|_| baton::yield_now());
            drop(done);
        });
    }
    here.wait();
    let clock = Instant::now();
    drop(start);
    done.wait();
    clock.elapsed().mul_f64(n as f64 / (each * MANY) as f64)
}

fn channels(c: &mut Criterion) {
    let mut group = c.benchmark_group("chan");
    group.bench_function("ping_pong/bounded_0", |b| {
        in_goroutine(b, |n| {
            let (ping, pinged) = chan::bounded(0);
            let (pong, ponged) = chan::bounded(0);
            let other = go!(move || pinged.iter().for_each(|i: u64| pong.send(i).unwrap()));
            for i in 0..n {
                ping.send(i).unwrap();
                assert_eq!(ponged.recv(), Ok(i));
            }
            drop(ping);
            other.join().unwrap();
        });
    });
    group.bench_function("spsc/bounded_128", |b| {
        in_goroutine(b, |n| {
            let (tx, rx) = chan::bounded(128);
            let sender = go!(move || (0..n).for_each(|i| tx.send(i).unwrap()));
            assert_eq!(rx.iter().map(black_box).count() as u64, n);
            sender.join().unwrap();
        });
    });
}

fn getppid() -> libc::pid_t {
    // SAFETY: touches no memory.
    unsafe { libc::getppid() }
}

fn blocking(c: &mut Criterion) {
    let mut group = c.benchmark_group("blocking");
    group.bench_function("empty", |b| {
        in_goroutine(b, |n| {
            (0..n).for_each(|i| _ = black_box(baton::blocking(|| black_box(i))))
        });
    });
    group.bench_function("getppid", |b| {
        in_goroutine(b, |n| (0..n).for_each(|_| _ = black_box(baton::blocking(getppid))));
    });
    group.bench_function("getppid/bare", |b| {
        in_goroutine(b, |n| (0..n).for_each(|_| _ = black_box(getppid())));
    });
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! {
    name = benches;
    config = short();
    targets = spawn, yielding, channels, blocking
}
criterion_main!(benches);
