//! Random traces of alloc, realloc and free, with what is in the objects checked all the way, and the books balanced at
//! the end.

mod common;

use baton_alloc::stats;
use common::{Object, Rng, exclusive};
use std::{sync::mpsc, thread};

/// Runs `trace`, and checks that afterwards as much was freed as was allocated, to the byte.
fn balanced(trace: impl FnOnce() + Send + 'static) {
    exclusive(|| {
        let before = stats();
        trace();
        let after = stats();
        assert!(after.allocs > before.allocs);
        assert_eq!(
            after.allocs - before.allocs,
            after.frees - before.frees,
            "objects lost or freed twice"
        );
        assert_eq!(after.small_live_bytes, before.small_live_bytes);
        assert_eq!(after.large_bytes, before.large_bytes);
        // What is in spans is with the program, in a cache, or in an mcentral; tails of spans take up to an eighth.
        let known = after.small_live_bytes + after.cached_bytes + after.central_bytes;
        assert!(known <= after.small_span_bytes, "{after:?}");
        assert!(
            known >= after.small_span_bytes - after.small_span_bytes / 8,
            "{after:?}"
        );
    });
}

fn trace(seed: u64, steps: usize, mut hand_over: impl FnMut(Object) -> Option<Object>) {
    let mut rng = Rng::new(seed);
    let mut live: Vec<Object> = Vec::new();
    for step in 0..steps {
        let target = [50, 2000, 300][step * 3 / steps];
        match rng.below(100) {
            0..8 if !live.is_empty() => {
                let pick = rng.below(live.len());
                let size = match rng.below(3) {
                    0 => rng.size(),
                    1 => live[pick].size() + 1 + rng.below(64),
                    _ => 1 + live[pick].size() / 2,
                };
                live[pick].resize(size);
            }
            _ if live.len() < target => {
                let align = if rng.below(8) == 0 { 1 << rng.below(15) } else { 8 };
                live.push(Object::new(rng.size(), align, rng.next() as u8));
            }
            _ => {
                let object = live.swap_remove(rng.below(live.len()));
                live.extend(hand_over(object));
            }
        }
    }
}

#[test]
fn one_thread() {
    balanced(|| {
        for seed in 1..4 {
            trace(seed, 12_000, |object| {
                drop(object);
                None
            });
        }
    });
}

#[test]
fn four_threads_that_free_each_others_objects() {
    balanced(|| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel::<Object>()).unzip();
        thread::scope(|scope| {
            let start = |(i, receiver): (usize, mpsc::Receiver<Object>)| {
                let next = senders[(i + 1) % 4].clone();
                scope.spawn(move || {
                    let mut n = 0;
                    trace(100 + i as u64, 8_000, |object| {
                        n += 1;
                        if n % 2 == 0 {
                            // If the neighbour is done already, it is freed here.
                            drop(next.send(object));
                        } else {
                            drop(object);
                        }
                        // Whatever the other neighbour sent is checked and freed here.
                        receiver.try_iter().take(2).for_each(drop);
                        None
                    });
                    drop(next);
                    receiver.try_iter().for_each(drop);
                })
            };
            let threads: Vec<_> = receivers.into_iter().enumerate().map(start).collect();
            drop(senders);
            for thread in threads {
                thread.join().unwrap();
            }
        });
    });
}

#[test]
fn one_thread_allocates_and_another_frees() {
    balanced(|| {
        let (sender, receiver) = mpsc::sync_channel::<Vec<Object>>(4);
        thread::scope(|scope| {
            let allocates = scope.spawn(move || {
                for round in 0..60 {
                    let objects = (0..500).map(|i| Object::new(1 + i % 300, 8, round)).collect();
                    sender.send(objects).unwrap();
                }
            });
            let frees = scope.spawn(move || receiver.into_iter().for_each(drop));
            allocates.join().unwrap();
            frees.join().unwrap();
        });
        let after = stats();
        assert!(after.flushes > 0 && after.refills > 0, "{after:?}");
    });
}

#[test]
fn most_requests_are_served_by_the_cache() {
    exclusive(|| {
        let mut all = Vec::new();
        for round in 0..200 {
            let before = stats();
            let objects: Vec<Object> = (0..300).map(|i| Object::new(8 + 8 * (i % 16), 8, round)).collect();
            drop(objects);
            let after = stats();
            let (hits, refills) = (after.hits - before.hits, after.refills - before.refills);
            // Those that came while the scavenger had the cache were served without one.
            let direct = after.direct_allocs - before.direct_allocs;
            assert_eq!(hits + refills + direct, after.allocs - before.allocs);
            all.push((hits, refills, direct));
        }
        // It may have had it in some rounds, and for all of them, if the system stopped it just then.
        let (good, refills) = (
            all.iter().filter(|(hits, ..)| *hits > 290).count(),
            all.iter().map(|(_, refills, _)| refills).sum::<u64>(),
        );
        assert!(good > 100 && refills < 200, "{all:?}");
    });
}
