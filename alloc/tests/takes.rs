//! A processor is taken from a thread that allocates all the time. The thread goes on with its lease, binds the processor
//! again when it can, and in the end no object is lost, doubled or overwritten.

mod common;

use baton_alloc::{
    Mcache, Snapshot,
    latch::{Home, Kind, M, P},
    lease, new_cache, snapshot, stats,
};
use common::{Object, Rng, exclusive};
use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

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

/// Allocates and frees at random until `done`, and tries to bind `p` again every few steps. Says how often it did.
fn work(p: &'static P, seed: u64, done: &AtomicBool) -> u64 {
    let m = lease::attach();
    let mut rng = Rng::new(seed);
    let mut live: Vec<Object> = Vec::new();
    let mut bound = 0;
    let mut step = 0_u64;
    while step < 20_000 || !done.load(SeqCst) {
        step += 1;
        if step.is_multiple_of(64) && m.p().is_none_or(|p| p.kind() == Kind::Lease) && bind(m, p) {
            bound += 1;
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
    let _ = unsafe { m.unbind() };
    bound
}

/// Takes the two Ps in turns, `TAKES` times for a moment and as often for good. Gives up, and says so, if a cache is not
/// what it should be or if the Ps cannot be had.
fn take_turns(ps: [&'static P; 2]) -> Result<(), String> {
    let (mut borrowed, mut detached) = (0, 0);
    for turn in 0..50_000_000_usize {
        let p = ps[turn % 2];
        let Some(taken) = p.take() else {
            thread::yield_now();
            continue;
        };
        // SAFETY: the P is taken, so its cache is this thread's.
        if !unsafe { Mcache::is_valid(p.cache()) } {
            return Err(format!("a taken cache is broken after {borrowed} + {detached} takes"));
        }
        if borrowed < TAKES {
            borrowed += 1;
            drop(taken);
        } else {
            let detached_p = taken.detach();
            // SAFETY: as above.
            if !unsafe { Mcache::is_valid(p.cache()) } {
                return Err(format!("a detached cache is broken after {detached} takes"));
            }
            detached += 1;
            detached_p.release();
            if detached == TAKES {
                return Ok(());
            }
        }
    }
    Err(format!("only {borrowed} + {detached} takes came through"))
}

const TAKES: u64 = 300;

#[test]
fn under_constant_taking() {
    exclusive(|| {
        let before = stats();
        let ps = [processor(), processor()];
        let done = &AtomicBool::new(false);
        let (taken, bound) = thread::scope(|scope| {
            let workers = [0, 1].map(|i| scope.spawn(move || work(ps[i], 10 + i as u64, done)));
            let taker = scope.spawn(move || {
                let result = take_turns(ps);
                done.store(true, SeqCst);
                result
            });
            let bound: u64 = workers.into_iter().map(|w| w.join().unwrap()).sum();
            (taker.join().unwrap(), bound)
        });
        assert_eq!(taken, Ok(()));
        assert!(bound >= TAKES, "what was taken for good was bound again each time");
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
    });
}

#[test]
fn a_cache_survives_a_handoff_untouched() {
    exclusive(|| {
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
    });
}

#[test]
fn a_request_while_a_taker_has_the_lock_does_not_wait() {
    exclusive(|| {
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
        let _ = unsafe { m.unbind() };
    });
}
