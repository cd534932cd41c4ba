//! What channels cost: handing over, queues, many on both ends, selecting. These guard against regressions; runs on one
//! machine compare, machines do not. The rows under `threads` are crossbeam-channel's and Baton's between plain threads.
//!
//! ```text
//! cargo bench --bench channels
//! ```

use baton::{
    chan::{self, Receiver, Sender},
    go, select,
};
use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use std::{thread, time::Instant};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Primes of the sieve.
const PRIMES: usize = 1_000;

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

fn make(capacity: Option<usize>) -> (Sender<u64>, Receiver<u64>) {
    capacity.map_or_else(chan::unbounded, chan::bounded)
}

fn one_to_one(c: &mut Criterion) {
    c.bench_function("channel/send and recv", |b| {
        let (tx, rx) = make(Some(128));
        in_goroutine(b, |n| {
            for i in 0..n {
                tx.send(i).unwrap();
                rx.recv().unwrap();
            }
        });
    });
    c.bench_function("channel/ping-pong", |b| {
        in_goroutine(b, |n| {
            let ((tx, there), (back, rx)) = (make(Some(0)), make(Some(0)));
            go!(move || there.iter().try_for_each(|i| back.send(i)));
            for i in 0..n {
                tx.send(i).unwrap();
                rx.recv().unwrap();
            }
        });
    });
    for capacity in [Some(0), Some(1), Some(128), None] {
        let name = capacity.map_or("unbounded".to_string(), |n| n.to_string());
        c.bench_function(&format!("channel/spsc/{name}"), |b| {
            in_goroutine(b, |n| {
                let (tx, rx) = make(capacity);
                let sum = go!(move || rx.iter().sum::<u64>());
                (0..n).for_each(|i| tx.send(i).unwrap());
                drop(tx);
                sum.join().unwrap();
            });
        });
    }
}

fn many_to_many(c: &mut Criterion) {
    c.bench_function("channel/mpmc/4x4/128", |b| {
        in_goroutine(b, |n| {
            let (tx, rx) = make(Some(128));
            let sums: Vec<_> = (0..4)
                .map(|_| rx.clone())
                .map(|rx| go!(move || rx.iter().sum::<u64>()))
                .collect();
            for part in 0..4 {
                let tx = tx.clone();
                go!(move || (part..n).step_by(4).for_each(|i| tx.send(i).unwrap()));
            }
            drop((tx, rx));
            assert_eq!(
                sums.into_iter().map(|sum| sum.join().unwrap()).sum::<u64>(),
                (0..n).sum::<u64>()
            );
        });
    });
    let mut group = c.benchmark_group("channel");
    group.sample_size(10).bench_function("sieve/1000", |b| {
        in_goroutine(b, |n| {
            for _ in 0..n {
                let (tx, mut rx) = make(Some(0));
                go!(move || (2..).try_for_each(|n| tx.send(n)));
                for _ in 0..PRIMES {
                    let prime = rx.recv().unwrap();
                    let (tx, next) = make(Some(0));
                    go!(move || rx.iter().filter(|n| n % prime != 0).try_for_each(|n| tx.send(n)));
                    rx = next;
                }
            }
        });
    });
}

fn selecting(c: &mut Criterion) {
    fn receive(channels: &[(Sender<u64>, Receiver<u64>)]) -> u64 {
        select! {
            recv(channels[0].1) -> message => message.unwrap(),
            recv(channels[1].1) -> message => message.unwrap(),
            recv(channels[2].1) -> message => message.unwrap(),
            recv(channels[3].1) -> message => message.unwrap(),
        }
    }
    c.bench_function("select/4 of which all are ready", |b| {
        in_goroutine(b, |n| {
            let channels: Vec<_> = (0..4).map(|_| make(None)).collect();
            (0..n + 4).for_each(|i| channels[i as usize % 4].0.send(i).unwrap());
            (0..n).for_each(|_| assert!(receive(&channels) < n + 4));
        });
    });
    c.bench_function("select/4 rendezvous", |b| {
        in_goroutine(b, |n| {
            let channels: Vec<_> = (0..4).map(|_| make(Some(0))).collect();
            for (i, (tx, _)) in (0..).zip(&channels) {
                let tx = tx.clone();
                go!(move || (i..n).step_by(4).for_each(|i| tx.send(i).unwrap()));
            }
            (0..n).for_each(|_| assert!(receive(&channels) < n + 4));
        });
    });
    c.bench_function("select/default", |b| {
        let (_tx, rx) = make(Some(1));
        in_goroutine(b, |n| {
            (0..n).for_each(|_| select! { recv(rx) -> _ => unreachable!(), default => {} });
        });
    });
}

fn threads(c: &mut Criterion) {
    macro_rules! spsc {
        ($name:literal, $crate_:path) => {
            c.bench_function(concat!("threads/spsc/128/", $name), |b| {
                use $crate_ as channels;
                b.iter_custom(|n| {
                    let (tx, rx) = channels::bounded(128);
                    let receiver = thread::spawn(move || rx.iter().sum::<u64>());
                    let start = Instant::now();
                    (0..n).for_each(|i| tx.send(i).unwrap());
                    drop(tx);
                    receiver.join().unwrap();
                    start.elapsed()
                });
            });
        };
    }
    spsc!("baton", baton::chan);
    spsc!("crossbeam", crossbeam_channel);
}

criterion_group!(benches, one_to_one, many_to_many, selecting, threads);
criterion_main!(benches);
