//! Signal handlers that allocate: inside a section, between sections, and under a lock.

mod common;

use baton_alloc::{Alloc, current, lease, profile, stats};
use common::{Object, Rng};
use std::{
    io,
    os::unix::process::ExitStatusExt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    thread,
};

static HANDLED: AtomicU64 = AtomicU64::new(0);

/// Allocates, fills, checks and frees a few objects of different sizes.
extern "C" fn handler(_: libc::c_int) {
    for size in [16, 64, 300, 5000] {
        drop(Object::new(size, 8, 0x5a));
    }
    HANDLED.fetch_add(1, SeqCst);
}

fn install() {
    // SAFETY: the handler has the signature of one, and does what the test wants it to do.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
}

#[test]
fn inside_a_section_the_mcentral_serves() {
    install();
    thread::spawn(|| {
        drop(Object::new(64, 8, 1));
        let m = lease::attach();
        let before = stats();
        // SAFETY: this thread's M, no section open. Raising a signal inside it is what the test is about: it stands for
        // one that comes from outside at this point.
        unsafe {
            assert!(m.enter().is_some());
            libc::raise(libc::SIGUSR1);
        }
        // SAFETY: entered above.
        unsafe { m.leave() };
        let after = stats();
        assert_eq!(after.direct_allocs - before.direct_allocs, 4);
        assert_eq!(after.direct_frees - before.direct_frees, 4);
        assert_eq!(after.hits, before.hits, "the lists were not touched");
    })
    .join()
    .unwrap();
}

/// Locks are noted in a thread's M, so whoever takes one has an M, though it never allocated: else a handler that allocates would wait
/// for ever for the thread that it interrupted.
#[test]
fn who_only_asks_has_an_m_too() {
    let entries: [fn(); 6] = [
        || assert!(stats().caches > 0),
        || assert!(Alloc::release_free() < usize::MAX),
        || assert_eq!(Alloc::set_memory_limit(None), None),
        || assert!(profile::start(1)),
        || profile::write(&mut io::sink()).unwrap(),
        || assert!(profile::stop()),
    ];
    for entry in entries {
        let thread = thread::spawn(move || {
            assert!(current::m().is_none(), "the program's heap is another one here");
            entry();
            assert!(current::m().is_some());
        });
        thread.join().unwrap();
    }
}

/// Steps of the victim, and signals that it was sent.
static STEPS: AtomicUsize = AtomicUsize::new(0);
static SENT: AtomicUsize = AtomicUsize::new(0);

/// A thread that allocates all the time gets signals whose handler allocates too. If one comes while the thread holds a
/// lock the process must say so and die; else all objects are intact and the books are balanced.
///
/// The next signal is sent when the victim has got on by some steps since the last one, and a little later at random: so
/// it comes at any point of a step, and there are never more signals than steps.
#[test]
fn at_any_moment() {
    const SIGNALS: usize = 300;
    const NAME: &str = "at_any_moment";
    if common::role().is_none() {
        for seed in 0..4 {
            let output = common::rerun(NAME, &seed.to_string());
            let stderr = String::from_utf8_lossy(&output.stderr);
            match output.status.signal() {
                None => assert!(output.status.success(), "{stderr}"),
                Some(signal) => {
                    assert_eq!(signal, libc::SIGABRT, "{stderr}");
                    assert!(
                        stderr.contains("a signal handler allocated or freed memory while"),
                        "{stderr}"
                    );
                }
            }
        }
        return;
    }
    install();
    let seed = common::role().unwrap().parse().unwrap();
    let victim = thread::spawn(move || {
        let before = stats();
        let mut rng = Rng::new(seed);
        let mut live = Vec::new();
        while SENT.load(SeqCst) < SIGNALS {
            STEPS.fetch_add(1, SeqCst);
            if live.len() < 100 || rng.below(2) == 0 && live.len() < 300 {
                live.push(Object::new(rng.size(), 8, 3));
            } else {
                live.swap_remove(rng.below(live.len()));
            }
        }
        drop(live);
        before
    });
    let target = std::os::unix::thread::JoinHandleExt::as_pthread_t(&victim);
    let mut rng = Rng::new(seed + 100);
    let mut next = 0;
    for _ in 0..SIGNALS {
        while STEPS.load(SeqCst) < next {
            thread::yield_now();
        }
        (0..rng.below(500)).for_each(|_| std::hint::spin_loop());
        next = STEPS.load(SeqCst) + 1 + rng.below(4);
        // SAFETY: the thread has not been joined, so its handle is good.
        unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
        SENT.fetch_add(1, SeqCst);
    }
    let before = victim.join().unwrap();
    let after = stats();
    assert_eq!(after.allocs - before.allocs, after.frees - before.frees);
    assert!(after.direct_allocs <= after.allocs);
    assert!(HANDLED.load(SeqCst) > 0);
}
