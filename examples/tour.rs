//! The tour: what Baton does, in a few seconds, each step with a sentence and a figure.
//!
//! ```text
//! cargo run --release --example tour
//! ```

use baton::{chan, go, sync::WaitGroup};
use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

#[path = "shared/memory.rs"]
mod memory;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Goroutines of the big step.
const MILLION: usize = 1_000_000;

#[baton::main]
fn main() {
    println!("Baton on {} processors.\n", baton::procs());

    let spawn_ns = spawning();
    let switch_ns = switching();
    let pingpong_ns = ping_pong();
    let bytes_per_goroutine = a_million();
    let handoffs = handing_off();
    let doublings = growing();

    println!(
        "RESULT goroutines={MILLION} bytes_per_goroutine={bytes_per_goroutine} spawn_ns={spawn_ns:.0} \
         switch_ns={switch_ns:.1} pingpong_ns={pingpong_ns:.0} handoffs={handoffs} doublings={doublings}"
    );
}

/// Nanoseconds for each of `n` turns of `f`.
fn time(n: usize, f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_nanos() as f64 / n as f64
}

fn spawning() -> f64 {
    const N: usize = 200_000;
    let ns = time(N, || {
        for i in 0..N {
            black_box(go!(move || i).join().unwrap());
        }
    });
    println!("go! and join: {ns:.0} ns for a goroutine that is spawned, runs, ends and is joined.");
    ns
}

fn switching() -> f64 {
    const N: usize = 2_000_000;
    let other = go!(|| {
        for _ in 0..N / 2 {
            baton::yield_now();
        }
    });
    let ns = time(N, || {
        for _ in 0..N / 2 {
            baton::yield_now();
        }
        other.join().unwrap();
    });
    println!("yield_now: {ns:.1} ns to go from one goroutine to another.");
    ns
}

fn ping_pong() -> f64 {
    const N: usize = 200_000;
    let (ping, pinged) = chan::bounded(0);
    let (pong, ponged) = chan::bounded(0);
    go!(move || {
        for i in &pinged {
            if pong.send(i).is_err() {
                break;
            }
        }
    });
    let ns = time(N, || {
        for i in 0..N {
            ping.send(i).unwrap();
            assert_eq!(ponged.recv(), Ok(i));
        }
    });
    println!("channels: {ns:.0} ns for a message there and back over two rendezvous channels.");
    ns
}

fn a_million() -> usize {
    let before = memory::resident();
    let group = WaitGroup::new();
    let (tx, rx) = chan::bounded::<()>(0);
    let (sum_tx, sum) = chan::unbounded::<usize>();
    let start = Instant::now();
    for i in 0..MILLION {
        let (member, rx, sum) = (group.clone(), rx.clone(), sum_tx.clone());
        go!(move || {
            drop(member);
            let _ = rx.recv(); // an error: the sender is dropped, which wakes all
            sum.send(i).unwrap();
        });
    }
    drop((rx, sum_tx));
    group.wait();
    let parked = start.elapsed();
    let bytes = memory::resident().saturating_sub(before) / MILLION;
    let start = Instant::now();
    drop(tx);
    let total: usize = sum.iter().sum();
    let woken = start.elapsed();
    assert_eq!(total, MILLION * (MILLION - 1) / 2);
    println!(
        "a million goroutines: parked on one channel after {parked:.2?}, {bytes} bytes each with stacks and page tables; all \
         woken, run and counted {woken:.2?} later."
    );
    bytes
}

fn handing_off() -> u64 {
    let before = baton::metrics();
    let sleepers: Vec<_> = (0..16)
        .map(|_| {
            // A plain call of std, with nothing said to Baton: the thread sleeps in the kernel.
            go!(|| thread::sleep(Duration::from_millis(100)))
        })
        .collect();
    let start = Instant::now();
    let mut turns = 0u64;
    while start.elapsed() < Duration::from_millis(100) {
        baton::yield_now();
        turns += 1;
    }
    for sleeper in sleepers {
        sleeper.join().unwrap();
    }
    let handoffs = baton::metrics().handoffs_undeclared - before.handoffs_undeclared;
    println!(
        "handoff: 16 goroutines slept in the kernel for 100 ms; their processors went to other threads {handoffs} times, and \
         this goroutine had {turns} turns meanwhile."
    );
    handoffs
}

fn growing() -> u64 {
    fn down(depth: usize) -> usize {
        let frame = black_box([depth; 64]);
        if depth == 0 {
            0
        } else {
            down(depth - 1) + usize::from(frame[63] == depth)
        }
    }
    let before = baton::metrics().stack_doublings;
    // 1,500 frames of a little more than half a kilobyte: most of the default megabyte.
    const FRAMES: usize = 1_500;
    let counted = go!(|| down(FRAMES)).join().unwrap();
    assert_eq!(counted, FRAMES);
    let doublings = baton::metrics().stack_doublings - before;
    println!(
        "stack: a goroutine started with one page and went {FRAMES} frames deep; its stack doubled {doublings} times in place."
    );
    doublings
}
