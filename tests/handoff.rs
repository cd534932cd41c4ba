//! Handoff: a processor leaves a thread that does not get on, with everything that it owns.

use baton::{
    debug::{self, Snapshot},
    go,
};
use std::{
    hint::{black_box, spin_loop},
    sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

mod child;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Sleeps in the kernel by a raw system call of which nobody is told.
fn nanosleep(duration: Duration) {
    let spec = libc::timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap(),
        tv_nsec: duration.subsec_nanos().into(),
    };
    // SAFETY: reads one timespec.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const spec, 0) };
}

/// 64 goroutines in undeclared blocking calls and a CPU loop per processor do not keep a third kind from its ticks. Were
/// they starved, this would not end.
#[test]
fn blockers_and_hogs_stop_nobody() {
    const TICKS: usize = 200;
    static STOP: AtomicBool = AtomicBool::new(false);
    baton::run(|| {
        let mut pipe = [0; 2];
        // SAFETY: pipe writes two descriptors.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        let blockers: Vec<_> = (0..64)
            .map(|i| {
                go!(move || {
                    if i % 2 == 0 {
                        while !STOP.load(Relaxed) {
                            nanosleep(Duration::from_millis(10));
                        }
                    } else {
                        let mut byte = 0_u8;
                        // SAFETY: reads one byte into `byte`.
                        assert_eq!(unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) }, 0);
                    }
                })
            })
            .collect();
        let hogs: Vec<_> = (0..baton::procs())
            .map(|_| {
                go!(|| {
                    while !STOP.load(Relaxed) {
                        spin_loop();
                    }
                })
            })
            .collect();
        let ticker = go!(|| {
            for _ in 0..TICKS {
                baton::time::sleep(Duration::from_millis(1));
            }
        });
        ticker.join().unwrap();
        STOP.store(true, Relaxed);
        // SAFETY: closing what was opened above; the readers see the end of the file.
        unsafe { libc::close(pipe[1]) };
        hogs.into_iter().chain(blockers).for_each(|h| h.join().unwrap());
        // SAFETY: as above.
        unsafe { libc::close(pipe[0]) };
    });
    let metrics = baton::metrics();
    assert!(metrics.handoffs_undeclared + metrics.handoffs_hog > 0, "{metrics:?}");
}

/// How the first goroutine loses its processor.
#[derive(Clone, Copy)]
enum Cause {
    Declared,
    Undeclared,
    Hog,
}

/// On the only processor, a goroutine fills the mcache, looks at it and stops getting on. The one that waits runs next, on
/// another thread, and finds the same mcache with the same contents. It alone can let the first one go on.
///
/// On a busy machine the first one may lose its processor before it has looked, or for another reason than the one that is
/// wanted: then the scene is set once more.
fn the_cache_goes_along(cause: Cause) {
    let count = || {
        let metrics = baton::metrics();
        match cause {
            Cause::Declared => metrics.handoffs_declared,
            Cause::Undeclared => metrics.handoffs_undeclared,
            Cause::Hog => metrics.handoffs_hog,
        }
    };
    baton::run(|| {
        for _ in 0..100 {
            baton::yield_now(); // with a processor, and a fresh time slice
            let before = count();
            if scene(cause) && count() > before {
                return;
            }
        }
        panic!(
            "in a hundred scenes, none with the handoff that was wanted: {:?}",
            baton::metrics()
        );
    });
}

/// `false`: the processor was gone too early.
fn scene(cause: Cause) -> bool {
    static READY: AtomicBool = AtomicBool::new(false);
    static SEEN: AtomicBool = AtomicBool::new(false);
    READY.store(false, SeqCst);
    SEEN.store(false, SeqCst);
    let mut pipe = [0; 2];
    // SAFETY: pipe writes two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let [reader, writer] = pipe;
    let thread = debug::thread();
    let other = go!(move || {
        let mut after = Snapshot::default();
        let in_time = READY.load(SeqCst);
        assert!(debug::snapshot(&mut after), "the goroutine has a processor");
        let here = (debug::thread(), debug::processor());
        SEEN.store(true, SeqCst);
        // SAFETY: writes one byte, which wakes the reader.
        assert_eq!(unsafe { libc::write(writer, c"!".as_ptr().cast(), 1) }, 1);
        in_time.then_some((after, here))
    });
    // Lists of many sizes, of different lengths.
    for size in 1..200 {
        let live: Vec<Vec<u8>> = (0..size % 13 + 1).map(|_| black_box(vec![1; size * 16])).collect();
        drop(live);
    }
    let mut before = Snapshot::default();
    let kept = debug::processor() == Some(0) && debug::snapshot(&mut before) && debug::processor() == Some(0);
    READY.store(kept, SeqCst);
    let mut byte = 0_u8;
    // SAFETY: reads one byte into `byte`; a raw system call of which nobody is told.
    let mut read = || unsafe { libc::syscall(libc::SYS_read, reader, &raw mut byte, 1) };
    match cause {
        Cause::Declared => assert_eq!(baton::blocking(read), 1),
        Cause::Undeclared => assert_eq!(read(), 1),
        Cause::Hog => {
            while !SEEN.load(SeqCst) {
                spin_loop();
            }
        }
    }
    let seen = other.join().unwrap();
    // SAFETY: opened above, used by nobody any more.
    unsafe {
        libc::close(reader);
        libc::close(writer);
    }
    let Some((after, here)) = seen else { return false };
    assert_ne!(here.0, thread, "another thread");
    assert_eq!(here.1, Some(0), "the same processor");
    assert_eq!(before.cache, after.cache, "the same mcache");
    assert_eq!(before, after, "with the same contents");
    assert!(
        before.counts.iter().filter(|&&n| n > 0).count() > 10,
        "and it is not empty"
    );
    true
}

const ONE: &[(&str, &str)] = &[("BATON_PROCS", "1"), ("BATON_FORCE_MIGRATION", "0")];

#[test]
fn the_mcache_survives_a_declared_handoff() {
    child::run("the_mcache_survives_a_declared_handoff", ONE, &[], || {
        the_cache_goes_along(Cause::Declared)
    })
    .succeeded();
}

#[test]
fn the_mcache_survives_an_undeclared_handoff() {
    child::run("the_mcache_survives_an_undeclared_handoff", ONE, &[], || {
        the_cache_goes_along(Cause::Undeclared)
    })
    .succeeded();
}

#[test]
fn the_mcache_survives_the_handoff_of_a_hog() {
    child::run("the_mcache_survives_the_handoff_of_a_hog", ONE, &[], || {
        the_cache_goes_along(Cause::Hog)
    })
    .succeeded();
}

/// A goroutine whose processor was taken goes on: it allocates, spawns, sends, wakes, waits, ends.
#[test]
fn a_goroutine_without_a_processor_may_do_everything() {
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    baton::run(|| {
        for _ in 0..10 {
            let all: Vec<_> = (0..8 * baton::procs())
                .map(|i| {
                    go!(move || {
                        nanosleep(Duration::from_millis(3));
                        let text = black_box(format!("allocated without a processor: {i}"));
                        let (tx, rx) = baton::chan::unbounded();
                        let child = go!(move || rx.recv().unwrap());
                        nanosleep(Duration::from_millis(1));
                        tx.send(text.len()).unwrap();
                        assert_eq!(child.join().unwrap(), text.len());
                        nanosleep(Duration::from_millis(1));
                        ROUNDS.fetch_add(1, SeqCst);
                    })
                })
                .collect();
            all.into_iter().for_each(|h| h.join().unwrap());
        }
        assert_eq!(ROUNDS.load(SeqCst), 80 * baton::procs());
    });
}

/// Sleeps that were begun on a processor which then was taken from a hog end all the same.
#[test]
fn sleepers_of_a_blocked_processor_wake() {
    static STOP: AtomicBool = AtomicBool::new(false);
    baton::run(|| {
        let sleepers: Vec<_> = (0..50)
            .map(|i| go!(move || baton::time::sleep(Duration::from_millis(i % 10))))
            .collect();
        baton::yield_now();
        let blocked: Vec<_> = (0..baton::procs())
            .map(|_| {
                go!(|| {
                    while !STOP.load(Relaxed) {
                        nanosleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        sleepers.into_iter().for_each(|h| h.join().unwrap());
        STOP.store(true, Relaxed);
        blocked.into_iter().for_each(|h| h.join().unwrap());
    });
}
