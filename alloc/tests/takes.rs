//! A processor is taken from a thread that allocates all the time. The thread goes on with its lease, binds the processor
//! again when it can, and in the end no object is lost, doubled or overwritten.

mod common;

use baton_alloc::{
    Mcache, Snapshot,
    latch::{Home, Kind, M, P},
    lease, new_cache, snapshot, stats,
};
use common::{Object, Rng};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn processor() -> &'static P {
    Box::leak(Box::new(P::new(Kind::Processor, new_cache().unwrap())))
}

/// What a thread of the scheduler does to get a P: its lease goes first.
fn bind(m: &'static M, p: &'static P) -> bool {
    // SAFETY: this thread's M, no section open.
    if m.p().is_some_and(|p| p.kind() == Kind::Processor) || unsafe { m.look_home(true) } == Home::Back && is_at(m, p) {
        return true;
    }
    lease::give_back(m);
    // SAFETY: as above, and bound to nothing.
    unsafe { m.bind(p) }
}

fn is_at(m: &M, p: &P) -> bool {
    m.home().is_some_and(|home| std::ptr::eq(home, p))
}

/// Allocates and frees at random, and tries to bind `p` again every few steps. Says how often it did.
fn work(p: &'static P, seed: u64, steps: usize) -> u64 {
    let m = lease::attach();
    let mut rng = Rng::new(seed);
    let mut live: Vec<Object> = Vec::new();
    let mut rebound = 0;
    for step in 0..steps {
        if step % 64 == 0 && m.p().is_none_or(|p| p.kind() == Kind::Lease) && bind(m, p) {
            rebound += 1;
        }
        if live.len() < 200 || rng.below(2) == 0 && live.len() < 800 {
            live.push(Object::new(rng.size().min(9000), 8, seed as u8));
        } else {
            live.swap_remove(rng.below(live.len()));
        }
    }
    drop(live);
    lease::give_back(m);
    // SAFETY: this thread's M, no section open.
    unsafe { m.unbind() };
    rebound
}

#[test]
fn under_constant_taking() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let before = stats();
    let ps = [processor(), processor()];
    let (done, detached, borrowed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let rebound: u64 = thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|i| scope.spawn(move || work(ps[i], 10 + i as u64, 60_000)))
            .collect();
        scope.spawn(|| {
            let mut turn = 0_u32;
            while !done.load(SeqCst) {
                turn += 1;
                let p = ps[turn as usize % 2];
                let Some(taken) = p.take() else {
                    thread::yield_now();
                    continue;
                };
                // SAFETY: the P is taken, so its cache is this thread's.
                let valid = unsafe { Mcache::is_valid(p.cache()) };
                assert!(valid, "a taken cache is broken");
                if turn % 8 < 6 {
                    // As a thief: looks, puts it back.
                    borrowed.fetch_add(1, SeqCst);
                    drop(taken);
                } else {
                    let detached_p = taken.detach();
                    // SAFETY: as above.
                    let valid = unsafe { Mcache::is_valid(p.cache()) };
                    assert!(valid, "a detached cache is broken");
                    detached.fetch_add(1, SeqCst);
                    detached_p.release();
                }
            }
        });
        let rebound = workers.into_iter().map(|w| w.join().unwrap()).sum();
        done.store(true, SeqCst);
        rebound
    });
    assert!(
        detached.load(SeqCst) > 0 && borrowed.load(SeqCst) > 0,
        "nothing was ever taken"
    );
    assert!(rebound > 2, "a taken processor was bound again");
    for p in ps {
        assert!(!p.is_bound());
        // SAFETY: nobody runs the P, so its cache is this thread's.
        unsafe {
            assert!(Mcache::is_valid(p.cache()));
            Mcache::flush(p.cache());
        }
    }
    let after = stats();
    assert_eq!(
        after.allocs - before.allocs,
        after.frees - before.frees,
        "objects lost or doubled"
    );
    assert_eq!(after.small_live_bytes, before.small_live_bytes);
}

#[test]
fn a_cache_survives_a_handoff_untouched() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let p = processor();
    let fill = || {
        let objects: Vec<_> = (1..300).map(|i| Object::new(i * 5, 8, 1)).collect();
        drop(objects);
    };
    let (mut first, mut second, mut on_lease) = (Snapshot::new(), Snapshot::new(), Snapshot::new());
    thread::spawn(move || {
        let m = lease::attach();
        assert!(bind(m, p));
        fill();
        assert!(snapshot(&mut first));
        assert_eq!((first.cache, first.kind), (p.cache().addr(), Kind::Processor));
        assert!(first.counts.iter().sum::<u32>() > 300);
        // The sysmon takes the P from this thread, which sits in the kernel, say.
        let taken = thread::spawn(move || p.take().map(|t| t.detach().release()).is_some())
            .join()
            .unwrap();
        assert!(taken);
        // This thread goes on with its lease.
        fill();
        assert!(snapshot(&mut on_lease));
        assert_eq!(on_lease.kind, Kind::Lease);
        assert_ne!(on_lease.cache, first.cache);
        // Another thread picks the P up, and finds everything as it was.
        let same = thread::spawn(move || {
            assert!(bind(lease::attach(), p));
            let taken = snapshot(&mut second);
            (taken, second)
        });
        let (taken, mut second) = same.join().unwrap();
        assert!(taken);
        assert_eq!(first, second);
        // The checksum tells other lists of the same lengths apart.
        assert!(bind(m, p));
        drop((Object::new(64, 8, 1), Object::new(64, 8, 1)));
        assert!(snapshot(&mut second));
        assert_eq!(first.counts, second.counts);
        assert_ne!(first.checksum, second.checksum);
    })
    .join()
    .unwrap();
}

#[test]
fn a_request_while_a_taker_has_the_lock_does_not_wait() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let p = processor();
    let m = lease::attach();
    assert!(bind(m, p));
    drop(Object::new(64, 8, 1));
    let before = stats();
    // The taker is this very thread, so if the request waited it would wait for ever.
    let taken = p.take().unwrap();
    drop(Object::new(64, 8, 1));
    let after = stats();
    assert_eq!(after.direct_allocs - before.direct_allocs, 1);
    assert_eq!(after.direct_frees - before.direct_frees, 1);
    drop(taken);
    assert!(m.p().is_some(), "put back");
    drop(Object::new(64, 8, 1));
    assert_eq!(stats().direct_allocs, after.direct_allocs);
    // SAFETY: this thread's M, no section open.
    unsafe { m.unbind() };
}
