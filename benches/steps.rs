//! One operation many times over, on one processor: what `benches/instructions.sh` counts the instructions of.
//!
//! ```text
//! cargo bench --bench steps -- yield 1000
//! ```

use baton::{
    chan::{self, select},
    go,
    sync::{Mutex, RwLock, WaitGroup},
};
use std::{env, hint::black_box};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// A name, and how to do it so many times.
type Row = (&'static str, fn(u64));

/// What is counted.
const ROWS: &[Row] = &[
    ("nothing", |_| ()),
    ("yield", yields),
    ("spawn_end", spawns),
    ("spawn_join", joins),
    ("ping_pong", ping_pong),
    ("select_4", select_4),
    ("select_ready", select_ready),
    ("mutex", mutex),
    ("rwlock_read", rwlock_read),
    ("blocking", blocking),
    ("allocate_free", objects),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let (row, n) = match &arguments[..] {
        [row, n] => (Some(row), n.parse().expect("a number")),
        _ => (None, 10),
    };
    baton::Runtime::builder().procs(1).init().unwrap();
    for (_, f) in ROWS.iter().filter(|(name, _)| row.is_none_or(|row| row == name)) {
        baton::run(|| {
            f(100); // so that everything has been there once
            f(n);
        });
    }
}

/// Two goroutines that yield to each other, `n` times together.
fn yields(n: u64) {
    let other = go!(move || (0..n / 2).for_each(|_| baton::yield_now()));
    (0..n / 2).for_each(|_| baton::yield_now());
    other.join().unwrap();
}

/// Goroutines that nobody joins: a few at a time, each with its start, its run and its end.
fn spawns(n: u64) {
    for i in 0..n {
        go!(move || _ = black_box(i));
        if i % 8 == 7 {
            baton::yield_now();
        }
    }
    baton::yield_now();
}

fn joins(n: u64) {
    for i in 0..n {
        black_box(go!(move || i).join().unwrap());
    }
}

fn ping_pong(n: u64) {
    let (ping, pinged) = chan::bounded(0);
    let (pong, ponged) = chan::bounded(0);
    let all = WaitGroup::new();
    let member = all.clone();
    go!(move || {
        pinged.iter().for_each(|i: u64| pong.send(i).unwrap());
        drop(member);
    });
    for i in 0..n {
        ping.send(i).unwrap();
        assert_eq!(ponged.recv(), Ok(i));
    }
    drop(ping);
    all.wait();
}

/// Messages of four senders, by a select over their four channels.
fn select_4(n: u64) {
    let (senders, rx): (Vec<_>, Vec<_>) = (0..4).map(|_| chan::bounded(0)).unzip();
    for tx in senders {
        go!(move || while tx.send(1).is_ok() {});
    }
    let mut sum = 0;
    while sum < n {
        sum += select! {
            recv(rx[0]) -> one => one,
            recv(rx[1]) -> one => one,
            recv(rx[2]) -> one => one,
            recv(rx[3]) -> one => one,
        }
        .unwrap();
    }
}

/// A message into a channel, and out of it by a select that finds it there.
fn select_ready(n: u64) {
    let (tx, rx) = chan::bounded(1);
    let (_other_tx, other) = chan::bounded::<u64>(1);
    for i in 0..n {
        tx.send(i).unwrap();
        select! {
            recv(rx) -> got => assert_eq!(got, Ok(i)),
            recv(other) -> _ => unreachable!("nobody sends there"),
        }
    }
}

/// A mutex that is free, taken and let go.
fn mutex(n: u64) {
    let count = Mutex::new(0);
    (0..n).for_each(|_| *count.lock() += 1);
    assert_eq!(*count.lock(), n);
}

/// A lock that is free, taken for reading and let go.
fn rwlock_read(n: u64) {
    let lock = RwLock::new(());
    (0..n).for_each(|_| *black_box(lock.read()));
}

fn blocking(n: u64) {
    (0..n).for_each(|i| _ = black_box(baton::blocking(|| black_box(i))));
}

fn objects(n: u64) {
    (0..n).for_each(|i| drop(black_box(Box::new([i; 8]))));
}
