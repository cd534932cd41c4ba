//! What `baton::sync` has beside locks, in goroutines and in threads.

use baton::{
    chan,
    context::Context,
    go,
    sync::{Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, Pool, Semaphore, WaitGroup},
    yield_now,
};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

const ROUNDS: usize = if cfg!(debug_assertions) { 300 } else { 3_000 };

/// Long enough that it is reached only if something is lost.
const LONG: Duration = Duration::from_secs(3_000_000_000);

/// A bounded queue out of a mutex and two condition variables.
#[derive(Default)]
struct Queue {
    items: Mutex<VecDeque<usize>>,
    has_items: Condvar,
    has_room: Condvar,
}

impl Queue {
    fn push(&self, item: usize, timed: bool) {
        let mut items = self.items.lock();
        while items.len() == 4 {
            if timed {
                self.has_room.wait_for(&mut items, Duration::from_micros(30));
            } else {
                self.has_room.wait(&mut items);
            }
        }
        items.push_back(item);
        self.has_items.notify_one();
    }

    fn pop(&self, timed: bool) -> usize {
        let mut items = self.items.lock();
        loop {
            if let Some(item) = items.pop_front() {
                self.has_room.notify_one();
                return item;
            }
            if timed {
                self.has_items.wait_for(&mut items, Duration::from_micros(30));
            } else {
                self.has_items.wait(&mut items);
            }
        }
    }
}

#[test]
fn a_queue_of_condvars_loses_nothing() {
    baton::run(|| {
        let queue = Arc::new(Queue::default());
        let producers: Vec<_> = (0..3)
            .map(|p| {
                let queue = Arc::clone(&queue);
                go!(move || (0..ROUNDS).for_each(|i| queue.push(i, p == 0)))
            })
            .collect();
        let threads: Vec<_> = (0..1)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || (0..ROUNDS).for_each(|i| queue.push(i, false)))
            })
            .collect();
        let consumers: Vec<_> = (0..4)
            .map(|c| {
                let queue = Arc::clone(&queue);
                go!(move || (0..ROUNDS).map(|_| queue.pop(c == 0)).sum::<usize>())
            })
            .collect();
        producers.into_iter().for_each(|p| p.join().unwrap());
        threads.into_iter().for_each(|t| t.join().unwrap());
        let total: usize = consumers.into_iter().map(|c| c.join().unwrap()).sum();
        assert_eq!(total, 4 * ROUNDS * (ROUNDS - 1) / 2);
        assert!(queue.items.lock().is_empty());
    });
}

#[test]
fn notify_counts_whom_it_wakes() {
    baton::run(|| {
        let pair = Arc::new((Mutex::new(0), Condvar::new()));
        assert!(!pair.1.notify_one());
        assert_eq!(pair.1.notify_all(), 0);
        let waiters: Vec<_> = (0..5)
            .map(|_| {
                let pair = Arc::clone(&pair);
                go!(move || {
                    let mut waiting = pair.0.lock();
                    *waiting += 1;
                    pair.1.wait(&mut waiting);
                    *waiting -= 1;
                })
            })
            .collect();
        while *pair.0.lock() < 5 {
            yield_now();
        }
        assert!(pair.1.notify_one());
        assert_eq!(pair.1.notify_all(), 4);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(*pair.0.lock(), 0);
    });
}

#[test]
fn a_condvar_times_out_with_the_mutex_held() {
    let body = || {
        let (mutex, condvar) = (Mutex::new(()), Condvar::new());
        let mut guard = mutex.lock();
        assert!(condvar.wait_for(&mut guard, Duration::from_millis(2)).timed_out());
        assert!(condvar.wait_until(&mut guard, Instant::now()).timed_out());
        let still = condvar.wait_while_for(&mut guard, |()| true, Duration::from_millis(2));
        assert!(still.timed_out());
        assert!(!condvar.wait_while_for(&mut guard, |()| false, LONG).timed_out());
        assert!(mutex.is_locked());
        assert!(!condvar.notify_one(), "nobody is left on the list");
    };
    baton::run(body);
    body();
}

#[test]
fn a_semaphore_lets_so_many_in() {
    let inside = Arc::new(AtomicUsize::new(0));
    let semaphore = Arc::new(Semaphore::new(5));
    let last = Arc::clone(&semaphore);
    baton::run(move || {
        let worker = |i: usize, semaphore: Arc<Semaphore>, inside: Arc<AtomicUsize>| {
            move || {
                for round in 0..ROUNDS {
                    let n = 1 + (i + round) % 4;
                    let permit = if (i + round).is_multiple_of(5) {
                        match semaphore.acquire_for(n, Duration::from_micros(20)) {
                            Some(permit) => permit,
                            None => continue,
                        }
                    } else {
                        semaphore.acquire(n)
                    };
                    assert!(inside.fetch_add(n, SeqCst) + n <= 5);
                    if round % 3 == 0 {
                        yield_now();
                    }
                    inside.fetch_sub(n, SeqCst);
                    drop(permit);
                }
            }
        };
        let parts: Vec<_> = (0..6)
            .map(|i| {
                let job = worker(i, Arc::clone(&semaphore), Arc::clone(&inside));
                go!(job)
            })
            .collect();
        let threads: Vec<_> = (6..8)
            .map(|i| thread::spawn(worker(i, Arc::clone(&semaphore), Arc::clone(&inside))))
            .collect();
        parts.into_iter().for_each(|part| part.join().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(last.available_permits(), 5);
}

#[test]
fn permits_go_to_whoever_asked_first() {
    baton::run(|| {
        let semaphore = Arc::new(Semaphore::new(0));
        let (tx, rx) = chan::unbounded();
        for i in 0..4 {
            let (theirs, tx) = (Arc::clone(&semaphore), tx.clone());
            let wants = if i == 0 { 3 } else { 1 };
            let waiting = Arc::new(AtomicUsize::new(0));
            let begins = Arc::clone(&waiting);
            go!(move || {
                begins.store(1, SeqCst);
                theirs.acquire(wants).forget();
                tx.send(i).unwrap();
            });
            while waiting.load(SeqCst) == 0 || semaphore.waiting() <= i {
                yield_now();
            }
        }
        semaphore.add_permits(2);
        assert!(semaphore.try_acquire(1).is_none(), "others were first");
        semaphore.add_permits(1);
        assert_eq!(rx.recv(), Ok(0));
        semaphore.add_permits(3);
        let mut rest: Vec<_> = (0..3).map(|_| rx.recv().unwrap()).collect();
        rest.sort_unstable();
        assert_eq!(rest, [1, 2, 3]);
    });
}

#[test]
fn one_that_gives_up_lets_those_behind_pass() {
    baton::run(|| {
        let semaphore = Arc::new(Semaphore::new(1));
        let (ctx, cancel) = Context::background().with_cancel();
        let (large, behind) = (Arc::clone(&semaphore), Arc::clone(&semaphore));
        let large = go!(move || ctx.acquire(&large, 2).is_err());
        while semaphore.waiting() == 0 {
            yield_now();
        }
        let behind = go!(move || drop(behind.acquire(1)));
        while semaphore.waiting() == 1 {
            yield_now();
        }
        cancel.cancel();
        assert!(large.join().unwrap());
        behind.join().unwrap();
        assert_eq!(semaphore.available_permits(), 1);
    });
}

#[test]
fn a_barrier_opens_for_all_at_once_again_and_again() {
    baton::run(|| {
        let barrier = Arc::new(Barrier::new(5));
        let arrived = Arc::new(AtomicUsize::new(0));
        let all: Vec<_> = (0..5)
            .map(|_| {
                let (barrier, arrived) = (Arc::clone(&barrier), Arc::clone(&arrived));
                go!(move || {
                    let mut led = 0;
                    for round in 1..=ROUNDS / 10 {
                        arrived.fetch_add(1, Relaxed);
                        led += usize::from(barrier.wait().is_leader());
                        assert!(arrived.load(Relaxed) >= 5 * round);
                        barrier.wait();
                    }
                    led
                })
            })
            .collect();
        let led: usize = all.into_iter().map(|one| one.join().unwrap()).sum();
        assert_eq!(led, ROUNDS / 10);
        assert!(barrier.wait_for(Duration::from_millis(2)).is_none());
        assert!(Barrier::new(1).wait().is_leader());
    });
}

#[test]
fn once_means_once() {
    static ONCE: Once = Once::new();
    static LAZY: LazyLock<usize> = LazyLock::new(|| {
        yield_now(); // the others wait meanwhile
        7
    });
    let ran = Arc::new(AtomicUsize::new(0));
    let value = Arc::new(OnceLock::new());
    baton::run(move || {
        let all: Vec<_> = (0..8)
            .map(|i| {
                let (ran, value) = (Arc::clone(&ran), Arc::clone(&value));
                go!(move || {
                    ONCE.call_once(|| {
                        yield_now();
                        ran.fetch_add(1, Relaxed);
                    });
                    assert_eq!(ran.load(Relaxed), 1);
                    let first = *value.get_or_init(|| i);
                    assert_eq!(*value.wait(), first);
                    assert_eq!(*LAZY, 7);
                    first
                })
            })
            .collect();
        let seen: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(seen.iter().all(|&value| value == seen[0]));
    });
}

#[test]
fn what_panics_has_not_been_done() {
    let value = OnceLock::new();
    let panics = AssertUnwindSafe(|| value.get_or_init(|| panic!("not now")));
    assert!(catch_unwind(|| *panics.0()).is_err());
    assert_eq!(value.get(), None);
    assert_eq!(*value.get_or_init(|| 3), 3);
    let itself = Once::new();
    let asks_itself = AssertUnwindSafe(|| itself.call_once(|| itself.call_once(|| ())));
    assert!(catch_unwind(|| asks_itself.0()).is_err());
    assert!(!itself.is_completed());
    assert_eq!(OnceLock::from(4).into_inner(), Some(4));
}

#[test]
fn a_wait_group_can_be_waited_for_in_vain() {
    baton::run(|| {
        let group = WaitGroup::new();
        let member = group.clone();
        let group = group.wait_for(Duration::from_millis(2)).unwrap_err();
        let done = go!(move || drop(member));
        assert!(group.wait_for(LONG).is_ok());
        done.join().unwrap();
    });
}

/// Counts those of its kind that are alive.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[test]
fn a_pool_gives_back_what_it_got_and_loses_nothing() {
    let alive = Arc::new(AtomicUsize::new(0));
    let made = Arc::new(AtomicUsize::new(0));
    let (counts, makes) = (Arc::clone(&alive), Arc::clone(&made));
    let pool = Arc::new(Pool::new(move || {
        counts.fetch_add(1, SeqCst);
        makes.fetch_add(1, SeqCst);
        Counted(Arc::clone(&counts))
    }));
    baton::run({
        let pool = Arc::clone(&pool);
        move || {
            let all: Vec<_> = (0..6)
                .map(|i| {
                    let pool = Arc::clone(&pool);
                    go!(move || {
                        for round in 0..ROUNDS {
                            let held: Vec<_> = (0..(i + round) % 40).map(|_| pool.get()).collect();
                            yield_now();
                            drop(held);
                        }
                    })
                })
                .collect();
            all.into_iter().for_each(|one| one.join().unwrap());
        }
    });
    let kept = alive.load(SeqCst);
    assert!(kept <= 80 * baton::procs(), "{kept} objects are kept");
    assert!(made.load(SeqCst) <= ROUNDS * 6 * 10, "objects are used again");
    drop(pool);
    assert_eq!(alive.load(SeqCst), 0, "what the pool kept goes with it");
}
