//! The tour: what Baton does, in a few seconds, each step with a sentence and a figure.
//!
//! ```text
//! cargo run --release --example tour
//! ```

use baton::{chan, go, sync::WaitGroup};
use std::{
    hint::{self, black_box},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

#[path = "shared/memory.rs"]
mod memory;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Goroutines of the big step.
const MILLION: usize = 1_000_000;

fn main() {
    // Stacks of 256 KiB will do here; the deep one below asks for more.
    baton::Runtime::builder()
        .max_stack(256 << 10)
        .init()
        .expect("the settings are good");
    baton::run(tour);
}

fn tour() {
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
    let lines = baton::dump().lines().count();
    let dumped = start.elapsed();
    assert!(lines < 1_000, "those that are alike are said together: {lines} lines");
    let start = Instant::now();
    drop(tx);
    let total: usize = sum.iter().sum();
    let woken = start.elapsed();
    assert_eq!(total, MILLION * (MILLION - 1) / 2);
    println!(
        "a million goroutines: parked on one channel after {parked:.2?}, {bytes} bytes each with stacks and page tables; dumped in \
         {dumped:.2?}, in {lines} lines; all woken, run and counted in {woken:.2?}."
    );
    bytes
}

/// Sleeps in the kernel by a raw system call of which nobody is told.
fn nanosleep(duration: Duration) {
    let spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: duration.subsec_nanos().into(),
    };
    // SAFETY: reads one timespec.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const spec, 0) };
}

/// Ticks every millisecond for a second; a tick that comes too late for the next one is lost. Gives the share that was not.
fn tick() -> f64 {
    const TICKS: u32 = 1_000;
    let period = Duration::from_millis(1);
    let start = Instant::now();
    let mut ticks = 0;
    let mut due = 1;
    while due <= TICKS {
        if let Some(early) = (period * due).checked_sub(start.elapsed()) {
            baton::time::sleep(early);
        }
        ticks += 1;
        due = (start.elapsed().as_micros() / period.as_micros()) as u32 + 1;
    }
    f64::from(ticks) / f64::from(TICKS)
}

fn handing_off() -> u64 {
    const BLOCKERS: usize = 64;
    static STOP: AtomicBool = AtomicBool::new(false);
    let before = baton::metrics();
    let blockers = (0..BLOCKERS).map(|i| {
        go!(move || {
            while !STOP.load(Relaxed) {
                nanosleep(Duration::from_millis(50 + i as u64 % 8));
            }
        })
    });
    let blockers: Vec<_> = blockers.collect();
    let hogs = (0..baton::procs()).map(|_| {
        go!(|| {
            while !STOP.load(Relaxed) {
                hint::spin_loop();
            }
        })
    });
    let hogs: Vec<_> = hogs.collect();
    let share = go!(tick).join().unwrap();
    STOP.store(true, Relaxed);
    let hog_count = hogs.len();
    blockers.into_iter().chain(hogs).for_each(|h| h.join().unwrap());
    let after = baton::metrics();
    let undeclared = after.handoffs_undeclared - before.handoffs_undeclared;
    let hogged = after.handoffs_hog - before.handoffs_hog;
    println!(
        "handoff: {BLOCKERS} goroutines slept in the kernel, {hog_count} computed without end; their processors went to other \
         threads ({undeclared} and {hogged} times), and a goroutine that ticks every millisecond had {:.1} % of its ticks.",
        share * 100.0
    );
    undeclared + hogged
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
    // 24,000 frames of a little more than half a kilobyte: most of 16 MiB.
    const FRAMES: usize = 24_000;
    let counted = go!(name = "diver", max_stack = 16 << 20; down(FRAMES)).join().unwrap();
    assert_eq!(counted, FRAMES);
    let doublings = baton::metrics().stack_doublings - before;
    println!(
        "stack: a goroutine started with one page and went {FRAMES} frames deep; its stack doubled {doublings} times in place."
    );
    doublings
}
