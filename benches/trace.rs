//! What a trace costs a program that switches a million times a second on two processors.
//!
//! ```text
//! cargo bench --bench trace
//! ```
//!
//! Each turn of a goroutine computes for about two microseconds and yields. Rounds without and with a trace take turns; what counts is the
//! CPU time of the whole process, the writer's thread included, so that other programs on the machine matter little. The
//! least of all rounds of a kind is compared.

use baton::{debug, go};
use std::{
    env, fs,
    hint::black_box,
    time::{Duration, Instant},
};

/// Goroutines, and turns of each in a round.
const GOROUTINES: u64 = 64;
const TURNS: u64 = 8_000;
const ROUNDS: usize = 7;
/// What a turn computes for.
const TURN: Duration = Duration::from_nanos(2_000);

/// CPU time of this process so far.
fn cpu() -> Duration {
    // SAFETY: zeros are a time; the call fills it.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn compute(steps: u64) {
    (0..steps).for_each(|i| _ = black_box(i));
}

/// Steps of [`compute`] that take as long as a turn.
fn calibrate() -> u64 {
    const STEPS: u64 = 1_000_000;
    let once = || {
        let start = Instant::now();
        compute(STEPS);
        start.elapsed()
    };
    let least = (0..20).map(|_| once()).min().expect("some");
    (STEPS as f64 * TURN.as_secs_f64() / least.as_secs_f64()) as u64
}

/// One round: CPU time of each turn, in nanoseconds.
fn round(steps: u64) -> f64 {
    let before = cpu();
    let work = move || {
        for _ in 0..TURNS {
            compute(steps);
            baton::yield_now();
        }
    };
    let workers: Vec<_> = (0..GOROUTINES).map(|_| go!(move || work())).collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    (cpu() - before).as_secs_f64() * 1e9 / (GOROUTINES * TURNS) as f64
}

fn main() {
    let test = env::args().any(|argument| argument == "--test");
    let rounds = if test { 1 } else { ROUNDS };
    let file = env::temp_dir().join(format!("baton-bench-{}.perfetto", std::process::id()));
    baton::Runtime::builder().procs(2).init().unwrap();
    let steps = calibrate();
    let (mut without, mut with, mut lost, mut bytes) = (f64::MAX, f64::MAX, 0, 0);
    baton::run(|| {
        round(steps);
        for _ in 0..rounds {
            without = without.min(round(steps));
            debug::trace_start(&file).unwrap();
            let before = cpu();
            let turns = round(steps);
            let working = cpu() - before;
            let summary = debug::trace_stop().unwrap();
            let closing = cpu() - before - working; // what the writer had left for later
            with = with.min(turns + closing.as_secs_f64() * 1e9 / (GOROUTINES * TURNS) as f64);
            lost += summary.lost;
            bytes = summary.bytes / summary.slices.max(1);
            fs::remove_file(&file).unwrap();
        }
    });
    let cost = with - without;
    println!(
        "a turn takes {without:.0} ns without a trace and {with:.0} ns with one: {cost:.0} ns more, {:.1} % of two processors at a million \
         turns a second; {bytes} bytes in the file for each, {lost} lost",
        cost / 20.0
    );
}
