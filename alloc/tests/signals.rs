//! Signal handlers that allocate: inside a section, between sections, and under a lock.

mod common;

use baton_alloc::{lease, stats};
use common::{Object, Rng};
use std::{
    os::unix::process::ExitStatusExt,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
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

/// A thread that allocates all the time is showered with signals whose handler allocates too. If one comes while the
/// thread holds a lock the process must say so and die; else all objects are intact and the books are balanced.
#[test]
fn at_any_moment() {
    const NAME: &str = "at_any_moment";
    if common::role().is_none() {
        let (mut survived, mut died) = (0, 0);
        for seed in 0..4 {
            let output = common::rerun(NAME, &seed.to_string());
            let stderr = String::from_utf8_lossy(&output.stderr);
            match output.status.signal() {
                None => {
                    assert!(output.status.success(), "{stderr}");
                    survived += 1;
                }
                Some(signal) => {
                    assert_eq!(signal, libc::SIGABRT, "{stderr}");
                    assert!(
                        stderr.contains("a signal handler allocated or freed memory while"),
                        "{stderr}"
                    );
                    died += 1;
                }
            }
        }
        assert_eq!(survived + died, 4);
        return;
    }
    install();
    let seed = common::role().unwrap().parse().unwrap();
    let victim = thread::spawn(move || {
        let before = stats();
        let mut rng = Rng::new(seed);
        let mut live = Vec::new();
        for _ in 0..20_000 {
            if live.len() < 100 || rng.below(2) == 0 && live.len() < 300 {
                live.push(Object::new(1 + rng.below(600), 8, 3));
            } else {
                live.swap_remove(rng.below(live.len()));
            }
        }
        drop(live);
        before
    });
    let target = std::os::unix::thread::JoinHandleExt::as_pthread_t(&victim);
    while !victim.is_finished() {
        // SAFETY: the thread has not been joined, so its handle is good.
        unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
        thread::yield_now();
    }
    let before = victim.join().unwrap();
    let after = stats();
    assert_eq!(after.allocs - before.allocs, after.frees - before.frees);
    assert!(after.direct_allocs <= after.allocs);
}
