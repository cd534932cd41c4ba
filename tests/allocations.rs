//! Nothing that waits allocates per operation, on channels, locks, timers or contexts: counted, with an allocator that counts.

use baton::{
    chan::{self, Select, never},
    context::Context,
    go, select,
    sync::{Barrier, Condvar, Mutex, Pool, ReentrantMutex, RwLock, Semaphore, WaitGroup},
    time::{self, Ticker, Timer},
    yield_now,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !on_the_monitor() {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether this thread is the monitor, which looks about as often as time passes, whatever the goroutines do.
fn on_the_monitor() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes 16 bytes at most, a zero at their end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"baton-sysmon\0")
}

const FIRST: usize = 500;
/// Fewer where each costs two switches of threads.
static ROUNDS: LazyLock<usize> = LazyLock::new(|| match std::env::var("BATON_FORCE_MIGRATION").as_deref() {
    Ok("1") => 2_000,
    _ => 20_000,
});
/// What threads that come and go may allocate meanwhile, which has nothing to do with the number of rounds.
const ELSEWHERE: usize = 1_000;
const HOUR: Duration = Duration::from_secs(3600);
const NOTHING: Duration = Duration::from_nanos(1);

/// Runs `round` often, after a first few; it must not allocate.
fn counts_none(what: &str, mut round: impl FnMut()) {
    (0..FIRST).for_each(|_| round());
    let before = ALLOCATIONS.load(Relaxed);
    (0..*ROUNDS).for_each(|_| round());
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    assert!(
        allocations < ELSEWHERE,
        "{what}: {allocations} allocations in {} rounds",
        *ROUNDS
    );
}

/// As `counts_none`, while another goroutine does the same thing equally often: each waits for the other.
fn counts_none_among_two(what: &str, round: impl Fn() + Clone + Send + 'static) {
    let other = {
        let round = round.clone();
        go!(move || (0..FIRST + *ROUNDS).for_each(|_| round()))
    };
    counts_none(what, round);
    other.join().unwrap();
}

#[test]
fn locks_do_not_allocate() {
    baton::run(|| {
        let mutex = Arc::new(Mutex::new(0));
        counts_none_among_two("Mutex", {
            let mutex = Arc::clone(&mutex);
            move || {
                let guard = mutex.lock();
                yield_now(); // the other one finds it held
                drop(guard);
                drop(mutex.try_lock_for(HOUR));
            }
        });
        let lock = Arc::new(RwLock::new(()));
        let reentrant = Arc::new(ReentrantMutex::new(()));
        counts_none_among_two("ReentrantMutex", {
            let reentrant = Arc::clone(&reentrant);
            move || {
                let guards = (reentrant.lock(), reentrant.lock());
                yield_now();
                drop(guards);
            }
        });
        counts_none_among_two("RwLock", {
            let lock = Arc::clone(&lock);
            move || {
                let guard = lock.write();
                yield_now();
                drop(guard);
                let guard = lock.read();
                yield_now();
                drop(guard);
            }
        });
        counts_none_among_two("Condvar", {
            let turn = Arc::new((Mutex::new(0), Condvar::new()));
            move || {
                let mut count = turn.0.lock();
                *count += 1;
                let mine = *count;
                if mine % 2 == 0 {
                    turn.1.notify_one();
                } else {
                    turn.1.wait_while_for(&mut count, |count| *count == mine, HOUR);
                }
            }
        });
        counts_none_among_two("Semaphore", {
            let semaphore = Arc::new(Semaphore::new(1));
            move || {
                let permit = semaphore.acquire(1);
                yield_now();
                drop(permit);
            }
        });
        counts_none_among_two("Barrier", {
            let barrier = Arc::new(Barrier::new(2));
            move || _ = barrier.wait()
        });
        let pool = Pool::new(|| Box::new(0));
        counts_none("Pool", || drop((pool.get(), pool.get())));
    });
}

#[test]
fn time_and_contexts_do_not_allocate() {
    baton::run(|| {
        counts_none("sleep", || time::sleep(NOTHING));
        let mut timer = Timer::after(HOUR);
        counts_none("Timer", || {
            timer.reset(NOTHING);
            timer.wait();
        });
        let mut ticker = Ticker::new(NOTHING);
        counts_none("Ticker", || _ = ticker.wait());
        let ticks = chan::tick(NOTHING);
        counts_none("tick", || _ = ticks.recv().unwrap());
        counts_none(
            "select! with a tick",
            || select! { recv(ticks) -> tick => _ = tick.unwrap() },
        );
        let mut group = Some(WaitGroup::new());
        let member = group.clone();
        counts_none("WaitGroup", || {
            group = group.take().map(|group| group.wait_for(NOTHING).unwrap_err());
            drop(group.clone());
        });
        drop(member);
        let (context, _cancel) = Context::background().with_timeout(HOUR).with_cancel();
        counts_none_among_two("what waits with a context", {
            let (mutex, semaphore) = (Arc::new(Mutex::new(())), Arc::new(Semaphore::new(1)));
            let context = context.clone();
            move || {
                let guard = context.lock(&mutex).unwrap();
                yield_now();
                drop(guard);
                let permit = context.acquire(&semaphore, 1).unwrap();
                yield_now();
                drop(permit);
                context.sleep(NOTHING).unwrap();
            }
        });
        counts_none_among_two("a Condvar and a Barrier with a context", {
            let (turn, barrier) = (Arc::new((Mutex::new(0), Condvar::new())), Arc::new(Barrier::new(2)));
            let context = context.clone();
            move || {
                let mut count = turn.0.lock();
                *count += 1;
                let mine = *count;
                if mine % 2 == 0 {
                    turn.1.notify_one();
                }
                while mine % 2 == 1 && *count == mine {
                    context.wait(&turn.1, &mut count).unwrap();
                }
                drop(count);
                context.arrive(&barrier).unwrap();
            }
        });
        let (tx, rx) = chan::bounded(0);
        let echo = go!(move || (0..FIRST + *ROUNDS).for_each(|n| tx.send(n).unwrap()));
        counts_none("a channel with a context", || _ = context.recv(&rx).unwrap());
        echo.join().unwrap();
    });
}

#[test]
fn channels_do_not_allocate() {
    baton::run(|| {
        for capacity in [Some(0), Some(1), Some(128), None] {
            let make = || capacity.map_or_else(chan::unbounded, chan::bounded::<u64>);
            let ((there, heard), (back, answers)) = (make(), make());
            let echo = go!(move || heard.iter().try_for_each(|n| back.send(n)));
            counts_none("there and back", || {
                there.send(1).unwrap();
                answers.recv().unwrap();
            });
            let nothing = never::<u64>();
            counts_none("select!", || {
                select! {
                    send(there, 2) -> sent => sent.unwrap(),
                    recv(nothing) -> _ => unreachable!(),
                }
                select! {
                    recv(nothing) -> _ => unreachable!(),
                    recv(answers) -> answer => assert!(answer.is_ok()),
                    default(HOUR) => unreachable!(),
                }
            });
            let mut select = Select::new();
            select.recv(&nothing);
            select.recv(&answers);
            counts_none("Select", || {
                there.send_timeout(3, HOUR).unwrap();
                assert_eq!(select.ready(), 1);
                select.select().recv(&answers).unwrap();
            });
            counts_none("a timeout that is not needed", || {
                there.send(4).unwrap();
                answers.recv_timeout(HOUR).unwrap();
            });
            counts_none("a timeout that passes", || {
                answers.recv_timeout(NOTHING).unwrap_err();
            });
            drop(there);
            assert!(echo.join().unwrap().is_ok());
        }
    });
}
