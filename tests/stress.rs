//! Everything at once, in a random but repeatable mix, with exact counts at the end.

use baton::{chan, go, sync::WaitGroup};
use std::{
    hint::black_box,
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// Goroutines that act; each of them spawns a few more.
const ACTORS: u64 = if cfg!(debug_assertions) { 400 } else { 2_000 };
/// What each does, one after the other.
const ACTS: u64 = 20;

/// xorshift: each actor has its own, from its number.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[derive(Default)]
struct Counts {
    spawned: AtomicU64,
    ended: AtomicU64,
    panicked: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

fn deep(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 {
        0
    } else {
        deep(depth - 1) + frame[1] - frame[2] + 1
    }
}

fn act(random: &mut Random, counts: &Arc<Counts>, bell: &chan::Sender<u64>, live: &mut Vec<Vec<u8>>) {
    match random.below(12) {
        0 | 1 => baton::yield_now(),
        2 => {
            let (n, counts2) = (random.below(100), Arc::clone(counts));
            counts.spawned.fetch_add(1, Relaxed);
            let child = go!(move || {
                counts2.ended.fetch_add(1, Relaxed);
                n * 2
            });
            assert_eq!(child.join().unwrap(), n * 2);
        }
        3 => {
            let counts2 = Arc::clone(counts);
            counts.spawned.fetch_add(1, Relaxed);
            go!(move || counts2.ended.fetch_add(1, Relaxed)); // nobody waits for it
        }
        4 => {
            counts.spawned.fetch_add(1, Relaxed);
            let child = go!(|| {
                if black_box(true) {
                    panic::panic_any(17_u32);
                }
            });
            assert_eq!(child.join().unwrap_err().into_panic().downcast_ref(), Some(&17_u32));
            counts.panicked.fetch_add(1, Relaxed);
        }
        5 => {
            counts.sent.fetch_add(1, Relaxed);
            bell.send(1).unwrap();
        }
        6 => baton::time::sleep(Duration::from_micros(random.below(300))),
        7 => thread::sleep(Duration::from_micros(random.below(300))), // undeclared
        8 => baton::blocking(|| thread::sleep(Duration::from_micros(random.below(300)))),
        9 => {
            // Past the first extent, now and then.
            let most = if random.below(64) == 0 { 3_000 } else { 600 };
            let depth = random.below(most);
            assert_eq!(deep(depth), depth);
        }
        10 => {
            let size = random.below(3_000);
            live.push(vec![size as u8; usize::try_from(size).unwrap()]);
        }
        _ => {
            if let Some(block) = live.pop() {
                let expected = block.len() as u8;
                assert!(block.iter().all(|&b| b == expected), "somebody wrote here");
            }
        }
    }
}

#[test]
fn a_random_mix_ends_with_exact_counts() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // The panics of this test are expected; others are not.
        if info.payload().downcast_ref::<u32>() != Some(&17) {
            hook(info);
        }
    }));
    let counts = Arc::new(Counts::default());
    let all = Arc::clone(&counts);
    baton::run(move || {
        let (bell, rung) = chan::bounded(3);
        let group = WaitGroup::new();
        for seed in 1..=ACTORS {
            let (counts, bell, member) = (Arc::clone(&all), bell.clone(), group.clone());
            counts.spawned.fetch_add(1, Relaxed);
            go!(name = "actor", max_stack = 8 << 20; move || {
                let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let mut live = Vec::new();
                for _ in 0..ACTS {
                    act(&mut random, &counts, &bell, &mut live);
                }
                counts.ended.fetch_add(1, Relaxed);
                drop(member);
            });
        }
        drop(bell);
        for n in &rung {
            all.received.fetch_add(n, Relaxed);
        }
        group.wait();
        while all.ended.load(Relaxed) + all.panicked.load(Relaxed) < all.spawned.load(Relaxed) {
            baton::yield_now();
        }
    });
    let get = |counter: &AtomicU64| counter.load(Relaxed);
    assert_eq!(get(&counts.sent), get(&counts.received));
    assert_eq!(get(&counts.spawned), get(&counts.ended) + get(&counts.panicked));
    assert!(get(&counts.spawned) > ACTORS && get(&counts.panicked) > 0);
}

/// Goroutines and threads pass tokens around in rings; none is lost or doubled.
#[test]
fn tokens_go_round() {
    const RINGS: usize = 8;
    const SEATS: usize = 16;
    const TURNS: u32 = if cfg!(debug_assertions) { 50 } else { 500 };
    let rings: Vec<_> = (0..RINGS)
        .map(|ring| {
            let (first, mut rx) = chan::bounded::<u32>(ring % 3);
            for seat in 1..SEATS {
                let (tx, next) = chan::bounded::<u32>(ring % 3);
                let pass = move || rx.iter().try_for_each(|n| tx.send(n + 1)).unwrap();
                if (ring + seat) % 8 == 0 {
                    thread::spawn(pass);
                } else {
                    go!(pass);
                }
                rx = next;
            }
            go!(move || {
                let mut n = 0;
                for _ in 0..TURNS {
                    first.send(n).unwrap();
                    n = rx.recv().unwrap();
                }
                n
            })
        })
        .collect();
    for ring in rings {
        assert_eq!(ring.join().unwrap(), TURNS * (SEATS as u32 - 1));
    }
}
