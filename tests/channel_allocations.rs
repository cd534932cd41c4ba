//! Nothing that waits on channels allocates per operation: counted, with an allocator that counts.

use baton::{
    chan::{self, Select, never},
    go, select,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
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

const ROUNDS: usize = 20_000;

/// What the monitor and idle threads may allocate meanwhile, which has nothing to do with the number of rounds.
const ELSEWHERE: usize = ROUNDS / 10;

/// Runs `round` often, after a first few; it must not allocate.
fn counts_none(what: &str, mut round: impl FnMut()) {
    (0..500).for_each(|_| round());
    let before = ALLOCATIONS.load(Relaxed);
    (0..ROUNDS).for_each(|_| round());
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    assert!(
        allocations < ELSEWHERE,
        "{what}: {allocations} allocations in {ROUNDS} rounds"
    );
}

#[test]
fn operations_do_not_allocate() {
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
                    default(Duration::from_secs(3600)) => unreachable!(),
                }
            });
            let mut select = Select::new();
            select.recv(&nothing);
            select.recv(&answers);
            counts_none("Select", || {
                there.send_timeout(3, Duration::from_secs(3600)).unwrap();
                assert_eq!(select.ready(), 1);
                select.select().recv(&answers).unwrap();
            });
            counts_none("a timeout that is not needed", || {
                there.send(4).unwrap();
                answers.recv_timeout(Duration::from_secs(3600)).unwrap();
            });
            counts_none("a timeout that passes", || {
                answers.recv_timeout(Duration::from_nanos(1)).unwrap_err();
            });
            drop(there);
            assert!(echo.join().unwrap().is_ok());
        }
    });
}
