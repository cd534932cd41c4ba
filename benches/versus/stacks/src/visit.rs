//! Visiting parked coroutines: one again and again, and 1,000 in turn; and goroutines that yield, two and 1,000. What is more is
//! what the caches make of stacks that lie a megabyte apart. Prints both in nanoseconds a visit, for coroutines on Baton's stacks, on
//! corosensei's, and for goroutines.

use baton::go;
use baton_stack::{Spec, StackGrowth};
use corosensei::{
    Coroutine,
    stack::{DefaultStack, Stack},
};
use std::{
    hint::black_box,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

const MANY: usize = 1_000;
const RESERVATION: usize = 1 << 20;
/// Visits of a round.
const VISITS: usize = 20 * MANY;

pub fn child() {
    let spec = Spec::with_growth(RESERVATION, StackGrowth::DemandPaged).expect("a size in bounds");
    let baton = visits(|| baton_stack::acquire(spec).expect("there is address space"));
    let default = visits(|| DefaultStack::new(RESERVATION).expect("there is address space"));
    let goroutines = baton::run(|| (yields(2), yields(MANY)));
    let all = [baton, default, goroutines].map(|(few, many)| format!("{few} {many}"));
    println!("{}", all.join(" "));
}

/// Nanoseconds of a visit of the same coroutine each time, and of each of many.
fn visits<S: Stack + 'static>(stack: impl Fn() -> S) -> (f64, f64) {
    let all = (0..MANY).map(|_| {
        Coroutine::<(), u64, (), S>::with_stack(stack(), |yielder, ()| {
            let mut visits = 0;
            loop {
                visits += 1;
                yielder.suspend(visits);
            }
        })
    });
    let mut all: Vec<_> = all.collect();
    let times = (least(&mut all[..1]), least(&mut all));
    mem::forget(all); // nothing is to be unwound there
    times
}

/// The least time of a visit of these in turn, over some rounds of as many visits.
fn least<S: Stack + 'static>(coroutines: &mut [Coroutine<(), u64, (), S>]) -> f64 {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..VISITS / coroutines.len() {
            for coroutine in &mut *coroutines {
                black_box(coroutine.resume(()));
            }
        }
        start.elapsed().as_nanos() as f64 / VISITS as f64
    };
    (0..30).map(round).fold(f64::INFINITY, f64::min)
}

/// The least time of a visit of so many goroutines that do nothing but yield, on one processor: one of them has the clock.
fn yields(goroutines: usize) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (1..goroutines)
        .map(|_| {
            let stop = Arc::clone(&stop);
            go!(move || {
                while !stop.load(Relaxed) {
                    baton::yield_now();
                }
            })
        })
        .collect();
    let turns = VISITS / goroutines;
    let round = move |_| {
        let start = Instant::now();
        (0..turns).for_each(|_| baton::yield_now());
        start.elapsed().as_nanos() as f64 / VISITS as f64
    };
    let least = go!((0..30).map(round).fold(f64::INFINITY, f64::min)).join();
    stop.store(true, Relaxed);
    others.into_iter().for_each(|other| other.join().expect("no panic"));
    least.expect("no panic")
}
