//! A forked child can allocate, and take what hooks lock, whatever the other threads were doing.

mod common;

use baton_alloc::{
    Alloc, Lock,
    scavenge::{Release, on_release, want},
    stats,
};
use common::{Object, Rng};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

/// Forks while other threads allocate; the child does `work` and its exit code says whether that went well.
fn fork_and(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs on this thread alone, uses Baton's heap and plain memory only, and ends by `_exit`.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            // A child that waits for a lock for ever is killed, and so fails.
            libc::alarm(20);
            libc::_exit(if work() { 0 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }
}

fn churn(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    // No `Vec`: in a forked child the C library's heap is another matter, and not what is tested.
    let mut live: [Option<Object>; 64] = [const { None }; 64];
    for _ in 0..steps {
        let size = if rng.below(50) == 0 {
            40_000 + rng.below(100_000)
        } else {
            1 + rng.below(20_000)
        };
        live[rng.below(64)] = Some(Object::new(size, 8, seed as u8));
    }
}

#[test]
fn while_other_threads_allocate() {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 1..3 {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    churn(seed, 200);
                }
            });
        }
        let mut failed = 0;
        for seed in 0..25 {
            churn(seed, 50);
            let good = fork_and(|| {
                churn(seed, 300);
                // This thread still has its lease, and the others' are nobody's.
                stats().attached_leases == 1
            });
            failed += usize::from(!good);
        }
        stop.store(true, SeqCst);
        assert_eq!(failed, 0, "children failed");
    });
    churn(9, 200);
}

/// The program knows nothing of the scavenger's thread: what a hook has locked there must be free in the child.
#[test]
fn while_the_scavenger_is_in_a_hook() {
    static LOCK: Lock = Lock::new();
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    fn hook(_: Release) {
        LOCK.with(|| {
            if CALLS.fetch_add(1, SeqCst) == 0 {
                thread::sleep(Duration::from_millis(300));
            }
        });
    }
    let is_called = || {
        let before = CALLS.load(SeqCst);
        assert!(on_release(hook));
        Alloc::release_free();
        CALLS.load(SeqCst) > before
    };
    assert!(on_release(hook));
    want();
    while CALLS.load(SeqCst) == 0 {
        thread::yield_now();
    }
    assert!(fork_and(|| LOCK.try_lock()), "the hook's lock is held in the child");
    assert!(fork_and(is_called) && is_called(), "hooks are not called after a fork");
}
