//! Mutexes and reader-writer locks, in goroutines and in threads.

use baton::{
    chan, go,
    sync::{Holder, Mutex, Once, ReentrantMutex, RwLock, WaitGroup},
    testing::Simulation,
    yield_now,
};
use std::{
    cell::Cell,
    panic,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicI32, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

/// Enough rounds to meet each other, few enough for a debug build.
const ROUNDS: usize = if cfg!(debug_assertions) { 500 } else { 5_000 };

const CENTURY: Duration = Duration::from_secs(3_000_000_000);

/// Runs `f(i)` in `goroutines` goroutines and `threads` threads at once, and waits for all.
fn crowd(goroutines: usize, threads: usize, f: impl Fn(usize) + Send + Sync + 'static) {
    let f = Arc::new(f);
    baton::run(move || {
        let parts: Vec<_> = (0..goroutines)
            .map(|i| {
                let f = Arc::clone(&f);
                go!(move || f(i))
            })
            .collect();
        let others: Vec<_> = (goroutines..goroutines + threads)
            .map(|i| {
                let f = Arc::clone(&f);
                thread::spawn(move || f(i))
            })
            .collect();
        parts.into_iter().for_each(|part| part.join().unwrap());
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn a_mutex_lets_one_in_at_a_time() {
    let inside = AtomicUsize::new(0);
    let count = Arc::new(Mutex::new(0));
    let total = Arc::clone(&count);
    crowd(6, 2, move |i| {
        for round in 0..ROUNDS {
            let mut guard = if (round + i) % 7 == 0 {
                match count.try_lock_for(Duration::from_micros(50)) {
                    Some(guard) => guard,
                    None => count.lock(),
                }
            } else {
                count.lock()
            };
            assert_eq!(inside.fetch_add(1, SeqCst), 0);
            *guard += 1;
            if (round + i) % 11 == 0 {
                yield_now(); // the guard goes along, perhaps to another thread
            }
            inside.fetch_sub(1, SeqCst);
            if (round + i) % 13 == 0 {
                lock_api::MutexGuard::unlock_fair(guard);
            }
        }
    });
    assert_eq!(*total.lock(), 8 * ROUNDS);
    assert!(!total.is_locked());
}

#[test]
fn a_rwlock_keeps_writers_apart_from_all() {
    // Readers inside, or -1 for a writer.
    let inside = AtomicI32::new(0);
    let value = Arc::new(RwLock::new((0usize, 0usize)));
    let written = Arc::new(AtomicUsize::new(0));
    let (last, writes) = (Arc::clone(&value), Arc::clone(&written));
    crowd(6, 2, move |i| {
        for round in 0..ROUNDS {
            if (round + i) % 5 == 0 {
                let mut guard = value.write();
                assert_eq!(inside.swap(-1, SeqCst), 0);
                guard.0 += 1;
                if (round + i) % 10 == 0 {
                    yield_now();
                }
                guard.1 += 1;
                written.fetch_add(1, Relaxed);
                inside.store(0, SeqCst);
                if (round + i) % 15 == 0 {
                    inside.store(1, SeqCst);
                    let guard = lock_api::RwLockWriteGuard::downgrade(guard);
                    assert_eq!(guard.0, guard.1);
                    inside.fetch_sub(1, SeqCst);
                }
            } else {
                let guard = match value.try_read_for(Duration::from_micros(50)) {
                    Some(guard) => guard,
                    None => value.read(),
                };
                assert!(inside.fetch_add(1, SeqCst) >= 0);
                if (round + i) % 8 == 0 {
                    yield_now();
                }
                assert_eq!(guard.0, guard.1);
                inside.fetch_sub(1, SeqCst);
                if (round + i) % 9 == 0 {
                    lock_api::RwLockReadGuard::unlock_fair(guard);
                }
            }
        }
    });
    assert_eq!(last.read().0, writes.load(Relaxed));
    assert!(!last.is_locked());
}

#[test]
fn readers_read_together() {
    baton::run(|| {
        let lock = Arc::new(RwLock::new(()));
        let group = WaitGroup::new();
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (lock, group) = (Arc::clone(&lock), group.clone());
                go!(move || {
                    let _guard = lock.read();
                    group.wait(); // until all are in
                })
            })
            .collect();
        drop(group);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_downgrade_lets_waiting_readers_in() {
    baton::run(|| {
        let lock = Arc::new(RwLock::new(()));
        let writer = lock.write();
        let (tx, rx) = chan::bounded(0);
        let reader = {
            let lock = Arc::clone(&lock);
            move || {
                let _guard = lock.read();
                tx.send(()).unwrap();
            }
        };
        let reader = go!(reader);
        until_somebody_waits(|| lock.try_read_for(Duration::from_millis(2)).is_none());
        let still = lock_api::RwLockWriteGuard::downgrade(writer);
        rx.recv().unwrap();
        drop(still);
        reader.join().unwrap();
    });
}

/// Gives others the time to queue up; what is tested does not depend on it.
fn until_somebody_waits(check: impl Fn() -> bool) {
    for _ in 0..3 {
        yield_now();
        assert!(check());
    }
}

#[test]
fn a_reader_behind_a_writer_who_gave_up_gets_in() {
    baton::run(|| {
        let lock = Arc::new(RwLock::new(()));
        let first = lock.read();
        let gave_up = Arc::new(AtomicBool::new(false));
        let writer = {
            let (lock, gave_up) = (Arc::clone(&lock), Arc::clone(&gave_up));
            move || {
                assert!(lock.try_write_for(Duration::from_millis(5)).is_none());
                gave_up.store(true, SeqCst);
            }
        };
        let writer = go!(writer);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let lock = Arc::clone(&lock);
                go!(move || drop(lock.read()))
            })
            .collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        writer.join().unwrap();
        assert!(gave_up.load(SeqCst));
        drop(first);
        assert!(lock.try_write().is_some());
    });
}

#[test]
fn a_lock_that_is_held_times_out() {
    let body = || {
        let mutex = Mutex::new(());
        let guard = mutex.lock();
        assert!(mutex.try_lock().is_none());
        assert!(mutex.try_lock_for(Duration::from_millis(2)).is_none());
        assert!(mutex.try_lock_until(Instant::now()).is_none());
        drop(guard);
        assert!(mutex.try_lock_for(CENTURY).is_some());
        let lock = RwLock::new(());
        let reader = lock.read();
        assert!(lock.try_write_for(Duration::from_millis(2)).is_none());
        assert!(
            lock.try_read().is_some(),
            "the writer has gone and leaves nothing behind"
        );
        drop(reader);
        let writer = lock.write();
        assert!(lock.try_read_for(Duration::from_millis(2)).is_none());
        drop(writer);
        assert!(lock.try_write_for(CENTURY).is_some());
    };
    baton::run(body);
    body();
}

#[test]
fn a_guard_may_be_sent_away_and_mapped() {
    baton::run(|| {
        let mutex = Arc::new(Mutex::new((1, "two")));
        let guard = mutex.lock_arc();
        let other = go!(move || drop(guard));
        other.join().unwrap();
        assert!(!mutex.is_locked());
        let text = lock_api::MutexGuard::map(mutex.lock(), |pair| &mut pair.1);
        assert_eq!(*text, "two");
    });
}

#[test]
fn a_reentrant_mutex_belongs_to_its_goroutine_wherever_it_goes_on() {
    baton::run(|| {
        let mutex = Arc::new(ReentrantMutex::new(Cell::new(0)));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let mutex = Arc::clone(&mutex);
                go!(move || {
                    for _ in 0..ROUNDS / 10 {
                        let outer = mutex.lock();
                        let seen = outer.get();
                        yield_now();
                        let inner = mutex.lock();
                        inner.set(seen + 1);
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(mutex.lock().get(), 4 * (ROUNDS / 10));
        let guard = mutex.lock();
        let other = Arc::clone(&mutex);
        assert!(go!(move || other.try_lock().is_none()).join().unwrap());
        drop(guard);
    });
}

#[test]
fn the_holder_is_known_by_number() {
    baton::run(|| {
        let mutex = Mutex::new(());
        // SAFETY: the raw mutex is only looked at.
        let holder = || unsafe { mutex.raw() }.holder();
        assert_eq!(holder(), None);
        let guard = mutex.lock();
        let me = baton::current().unwrap().id();
        assert_eq!(holder(), Some(Holder::Goroutine(me)));
        drop(guard);
        assert_eq!(holder(), None);
    });
}

/// One goroutine that takes the mutex again at once, always, must let another one in.
#[test]
fn a_greedy_goroutine_starves_nobody() {
    baton::run(|| {
        let mutex = Arc::new(Mutex::new(()));
        let enough = Arc::new(AtomicBool::new(false));
        let greedy = {
            let (mutex, enough) = (Arc::clone(&mutex), Arc::clone(&enough));
            move || {
                while !enough.load(Relaxed) {
                    let _guard = mutex.lock();
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_micros(20) {}
                }
            }
        };
        let greedy = go!(greedy);
        for _ in 0..20 {
            drop(mutex.lock());
        }
        enough.store(true, Relaxed);
        greedy.join().unwrap();
    });
}

#[test]
fn a_writer_is_not_starved_by_readers_that_overlap() {
    baton::run(|| {
        let lock = Arc::new(RwLock::new(()));
        let enough = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (lock, enough) = (Arc::clone(&lock), Arc::clone(&enough));
                go!(move || while !enough.load(Relaxed) {
                    let _guard = lock.read();
                    yield_now(); // so at each moment somebody reads
                })
            })
            .collect();
        for _ in 0..20 {
            drop(lock.write());
        }
        enough.store(true, Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// Readers that come and go at full speed, and a writer among twenty: whoever begins to starve as a holder lets go is not
/// forgotten.
#[test]
fn many_readers_and_a_few_writers_come_to_an_end() {
    let value = Arc::new(RwLock::new(0usize));
    let last = Arc::clone(&value);
    let rounds = 20 * ROUNDS;
    crowd(8, 0, move |i| {
        for round in 0..rounds {
            if (round + i).is_multiple_of(20) {
                *value.write() += 1;
            } else {
                std::hint::black_box(*value.read());
            }
        }
    });
    assert_eq!(*last.read(), 8 * rounds / 20);
}

/// A writer comes in between a reader's wake and its lock, and another reader queues up meanwhile: the two read together all the same.
#[test]
fn readers_read_together_although_a_writer_came_in_between() {
    Simulation::seeds(0..200).run(|| {
        let (lock, group) = (Arc::new(RwLock::new(())), WaitGroup::new());
        let first = lock.write();
        let readers = [(); 2].map(|()| {
            let (lock, group) = (Arc::clone(&lock), group.clone());
            go!(move || {
                let _guard = lock.read();
                group.wait(); // until both are in
            })
        });
        drop(group);
        yield_now();
        drop(first);
        if let Some(again) = lock.try_write() {
            yield_now();
            drop(again);
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// A writer is woken, but looks at the lock too late: the reader behind it does not wait for the one that has the lock by then.
#[test]
fn readers_read_together_although_a_writer_was_woken_too_late() {
    Simulation::seeds(0..500).run(|| {
        let (lock, group) = (Arc::new(RwLock::new(())), WaitGroup::new());
        let first = lock.write();
        let theirs = Arc::clone(&lock);
        let writer = go!(move || drop(theirs.try_write_for(Duration::from_micros(5))));
        let (theirs, member) = (Arc::clone(&lock), group.clone());
        let reader = go!(move || {
            let _guard = theirs.read();
            member.wait();
        });
        (0..3).for_each(|_| yield_now());
        drop(first);
        if let Some(_guard) = lock.try_read() {
            group.wait(); // until both are in
        }
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// Under many seeds: one in at a time although holders yield, readers see no half of a write, nobody is left waiting.
#[test]
fn locks_hold_in_every_drawn_order() {
    for seed in 0..300 {
        let total = Simulation::seed(seed).run(|| {
            let (mutex, pair) = (Arc::new(Mutex::new(0_u32)), Arc::new(RwLock::new((0_u32, 0_u32))));
            let parts: Vec<_> = (0..6)
                .map(|i| {
                    let (mutex, pair) = (Arc::clone(&mutex), Arc::clone(&pair));
                    go!(move || {
                        for _ in 0..4 {
                            let mut total = mutex.lock();
                            let before = *total;
                            yield_now();
                            *total = before + 1;
                            drop(total);
                            if i % 3 == 0 {
                                let mut both = pair.write();
                                both.0 += 1;
                                yield_now();
                                both.1 += 1;
                            } else {
                                let both = pair.read();
                                yield_now();
                                assert_eq!(both.0, both.1);
                            }
                        }
                    })
                })
                .collect();
            parts.into_iter().for_each(|part| part.join().unwrap());
            assert_eq!(*pair.read(), (8, 8));
            *mutex.lock()
        });
        assert_eq!(total, 24, "seed {seed}");
    }
}

/// Where it may not park, a goroutine is the same party.
#[test]
fn what_a_goroutine_holds_it_holds_on_a_big_stack_too() {
    baton::run(|| {
        let lock = ReentrantMutex::new(7);
        let _outer = lock.lock();
        baton::on_big_stack(|| assert_eq!(lock.try_lock().as_deref(), Some(&7)));
        let once = Once::new();
        let again = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            once.call_once(|| baton::on_big_stack(|| once.call_once(|| ())));
        }));
        assert!(again.is_err());
    });
}
