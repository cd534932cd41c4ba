//! Who gets on while others hold the threads: CPU loops, blocking calls, a hundred thousand short goroutines.
//!
//! ```text
//! cargo bench --bench fairness                    every row, with medians of five rounds
//! cargo bench --bench fairness -- hog             the rows whose name contains "hog"
//! cargo bench --bench fairness -- --test          one short round of each, as a check that they run
//! ```
//!
//! | row | what runs | figures |
//! |---|---|---|
//! | `hog` | a CPU loop per processor and a goroutine that sleeps 1 ms again and again, for 2 s | sleeps that it got in 2 s, longest gap |
//! | `hog_blockers` | the same beside 64 goroutines in undeclared blocking calls of 10 ms | the same |
//! | `blocking_…` | 64 goroutines with 50 blocking sleeps of 1 ms each, beside 4 that compute and yield | wall time; what the 4 kept of what they do alone |
//! | `ticker` | 4 CPU loops, 100,000 short goroutines in waves, a 1 ms ticker | how late it ran: median, 99th and 99.9th percentile |
//! | `parked` | a million parked goroutines and nothing to do, for 10 s | seconds of CPU |
//!
//! `blocking_` comes as `declared` (with `baton::blocking`), `now` (`blocking_now`), `undeclared` (a raw system call), and
//! `parking` (the same with a parking call after each).

use baton::{go, sync::WaitGroup};
use std::{
    env,
    hint::{black_box, spin_loop},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

const MS: Duration = Duration::from_millis(1);

/// How much each row does.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    window: Duration,
    goroutines: u64,
    parked: usize,
    idle: Duration,
}

const FULL: Size = Size {
    rounds: 5,
    window: Duration::from_secs(2),
    goroutines: 100_000,
    parked: 1_000_000,
    idle: Duration::from_secs(10),
};

/// For `--test`.
const SMOKE: Size = Size {
    rounds: 1,
    window: Duration::from_millis(100),
    goroutines: 2_000,
    parked: 10_000,
    idle: Duration::from_millis(100),
};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let size = if arguments.iter().any(|a| a == "--test") {
        SMOKE
    } else {
        FULL
    };
    let row = |name: &str, figures: &[&str], f: &dyn Fn() -> Vec<f64>| {
        if wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())) {
            let rounds = if name == "parked" { 1 } else { size.rounds };
            print(name, figures, &(0..rounds).map(|_| f()).collect::<Vec<_>>());
        }
    };
    let gaps = ["sleeps of 1 ms, % of the most", "ms longest gap"];
    row("hog", &gaps, &|| baton::run(|| hog(size, 0)));
    row("hog_blockers", &gaps, &|| baton::run(|| hog(size, 64)));
    let kept = ["ms wall", "% kept"];
    row("blocking_declared", &kept, &|| {
        baton::run(|| blocking(|| baton::blocking(nanosleep)))
    });
    row("blocking_undeclared", &kept, &|| baton::run(|| blocking(nanosleep)));
    row("blocking_parking", &kept, &|| {
        baton::run(|| {
            blocking(|| {
                nanosleep();
                baton::yield_now();
            })
        })
    });
    let late = ["µs late, median", "µs 99 %", "µs 99.9 %", "ticks"];
    row("ticker", &late, &|| baton::run(|| ticker(size)));
    row("parked", &["s of CPU"], &|| baton::run(|| vec![parked(size)]));
}

/// One line: the median of each figure, and its extremes.
fn print(name: &str, figures: &[&str], rounds: &[Vec<f64>]) {
    print!("{name:22}");
    for (i, figure) in figures.iter().enumerate() {
        let mut values: Vec<f64> = rounds.iter().map(|r| r[i]).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        print!("  {:.2} ({least:.2}..{most:.2}) {figure}", values[values.len() / 2]);
    }
    println!();
}

/// Sleeps a millisecond in a raw system call, of which nobody is told.
fn nanosleep() {
    raw_sleep(MS);
}

fn raw_sleep(duration: Duration) {
    let spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: duration.subsec_nanos().into(),
    };
    // SAFETY: reads one timespec.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const spec, 0) };
}

/// About ten microseconds of arithmetic.
fn unit() {
    let mut x = 1_u64;
    for i in 0..6_000 {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
    }
}

fn hog(size: Size, blockers: usize) -> Vec<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let until = |stop: &Arc<AtomicBool>, f: fn()| {
        let stop = Arc::clone(stop);
        go!(move || {
            while !stop.load(Relaxed) {
                f();
            }
        })
    };
    let others: Vec<_> = (0..blockers)
        .map(|_| until(&stop, || raw_sleep(10 * MS)))
        .chain((0..baton::procs()).map(|_| until(&stop, spin_loop)))
        .collect();
    let window = size.window;
    let ticker = go!(move || {
        let start = Instant::now();
        let (mut last, mut ticks, mut gap) = (start, 0_u32, Duration::ZERO);
        while last - start < window {
            baton::time::sleep(MS);
            let now = Instant::now();
            gap = gap.max(now - last);
            last = now;
            ticks += 1;
        }
        vec![
            100.0 * f64::from(ticks) * MS.as_secs_f64() / window.as_secs_f64(),
            gap.as_secs_f64() * 1e3,
        ]
    });
    let figures = ticker.join().unwrap();
    stop.store(true, Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    figures
}

/// Units that 4 computing goroutines do until `stop`.
fn computing(stop: &Arc<AtomicBool>, units: &Arc<AtomicU64>, group: &WaitGroup) {
    for _ in 0..4 {
        let (stop, units, member) = (Arc::clone(stop), Arc::clone(units), group.clone());
        go!(move || {
            let mut done = 0;
            while !stop.load(Acquire) {
                unit();
                done += 1;
                baton::yield_now();
            }
            units.fetch_add(done, Relaxed);
            drop(member);
        });
    }
}

fn blocking(block: fn()) -> Vec<f64> {
    let window = |others: &dyn Fn()| {
        let (stop, units, group) = (Arc::default(), Arc::default(), WaitGroup::new());
        computing(&stop, &units, &group);
        let start = Instant::now();
        others();
        let wall = start.elapsed();
        stop.store(true, Release);
        group.wait();
        (wall, units.load(Relaxed) as f64 / wall.as_secs_f64())
    };
    let (_, alone) = window(&|| baton::time::sleep(100 * MS));
    let (wall, beside) = window(&|| {
        let blockers: Vec<_> = (0..64).map(|_| go!(move || (0..50).for_each(|_| block()))).collect();
        blockers.into_iter().for_each(|b| b.join().unwrap());
    });
    vec![wall.as_secs_f64() * 1e3, 100.0 * beside / alone]
}

fn ticker(size: Size) -> Vec<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            go!(move || {
                while !stop.load(Relaxed) {
                    spin_loop();
                }
            })
        })
        .collect();
    let flood = {
        let stop = Arc::clone(&stop);
        go!(move || {
            while !stop.load(Relaxed) {
                let group = WaitGroup::new();
                for i in 0..size.goroutines {
                    let member = group.clone();
                    go!(move || drop((black_box(i), member)));
                }
                group.wait();
            }
        })
    };
    let window = size.window;
    let ticker = go!(move || {
        let start = Instant::now();
        let mut late = Vec::new();
        while start.elapsed() < window {
            let due = Instant::now() + MS;
            baton::time::sleep(MS);
            late.push((Instant::now() - due).as_secs_f64() * 1e6);
        }
        late.sort_by(f64::total_cmp);
        let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize];
        vec![at(0.5), at(0.99), at(0.999), late.len() as f64]
    });
    let figures = ticker.join().unwrap();
    stop.store(true, Relaxed);
    flood.join().unwrap();
    hogs.into_iter().for_each(|hog| hog.join().unwrap());
    figures
}

/// Seconds of CPU that the process has used.
fn cpu() -> f64 {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut spec) };
    spec.tv_sec as f64 + spec.tv_nsec as f64 * 1e-9
}

fn parked(size: Size) -> f64 {
    let group = WaitGroup::new();
    let (keep, kept) = baton::chan::bounded::<()>(0);
    let here = WaitGroup::new();
    for _ in 0..size.parked {
        let (member, kept, here) = (group.clone(), kept.clone(), here.clone());
        go!(max_stack = 64 << 10; move || {
            drop(here);
            let _ = kept.recv(); // an error: the sender is dropped, which ends all
            drop(member);
        });
    }
    here.wait();
    baton::time::sleep(size.idle / 10); // what the start left behind
    let before = cpu();
    baton::time::sleep(size.idle);
    let used = cpu() - before;
    drop(keep);
    group.wait();
    used
}
