//! Panics are as with std threads: parking while unwinding, hooks, resume_unwind, catch_unwind, double panics.

mod child;

use baton::{chan, go, time};
use std::{
    env,
    panic::{self, AssertUnwindSafe},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// Does something that waits when it is dropped, and notes the threads on which that began and ended.
struct Waits<F: FnMut()>(F, Arc<Mutex<Vec<[Option<u32>; 2]>>>);

impl<F: FnMut()> Drop for Waits<F> {
    fn drop(&mut self) {
        assert!(thread::panicking());
        let before = baton::debug::thread();
        (self.0)();
        let after = baton::debug::thread();
        assert!(thread::panicking(), "the panic count is the thread's");
        self.1
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push([before, after]);
    }
}

/// Waits in every way while it unwinds. Others go on meanwhile, also with one processor, and see no panic.
#[test]
fn a_goroutine_that_unwinds_keeps_its_thread() {
    baton::run(|| {
        let threads = Arc::new(Mutex::new(Vec::new()));
        let unwind_in = |wait: Box<dyn FnMut() + Send>| {
            let threads = Arc::clone(&threads);
            go!(move || {
                let _waits = Waits(wait, threads);
                panic!("on purpose");
            })
        };
        let (tx, rx) = chan::bounded(0);
        let (back, answer) = chan::bounded(0);
        let partner = go!(move || {
            for n in rx {
                assert!(!thread::panicking());
                back.send(n).unwrap();
            }
        });
        let unwinding = [
            unwind_in(Box::new(move || {
                for n in 0..20 {
                    tx.send(n).unwrap();
                    assert_eq!(answer.recv(), Ok(n));
                }
            })),
            unwind_in(Box::new(|| time::sleep(Duration::from_millis(2)))),
            unwind_in(Box::new(baton::yield_now)),
            unwind_in(Box::new(|| go!(|| baton::yield_now()).join().unwrap())),
            unwind_in(Box::new(|| {
                baton::scope(|s| drop(s.spawn(|| assert!(!thread::panicking()))));
            })),
        ];
        let others: Vec<_> = (0..50)
            .map(|_| {
                go!(|| {
                    for _ in 0..20 {
                        baton::yield_now();
                        assert!(!thread::panicking(), "another goroutine's panic");
                    }
                })
            })
            .collect();
        for goroutine in unwinding {
            assert_eq!(goroutine.join().unwrap_err().message(), Some("on purpose"));
        }
        partner.join().unwrap();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(!thread::panicking());
        let threads = threads.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(threads.len(), 5);
        assert!(threads.iter().all(|[before, after]| before == after), "{threads:?}");
    });
}

#[test]
fn a_panic_may_be_caught_and_the_goroutine_goes_on() {
    baton::run(|| {
        let goroutine = go!(|| {
            let mut caught = 0;
            for _ in 0..100 {
                caught += u32::from(panic::catch_unwind(|| panic!("caught")).is_err());
                baton::yield_now();
                assert!(!thread::panicking());
            }
            caught
        });
        assert_eq!(goroutine.join().unwrap(), 100);
    });
}

#[test]
fn resume_unwind_carries_any_payload_and_calls_no_hook() {
    let ran = child::run("resume_unwind_carries_any_payload_and_calls_no_hook", &[], &[], || {
        static HOOKS: AtomicUsize = AtomicUsize::new(0);
        panic::set_hook(Box::new(|_| {
            HOOKS.fetch_add(1, SeqCst);
        }));
        baton::run(|| {
            let error = go!(|| panic::resume_unwind(Box::new(42_u8))).join().unwrap_err();
            assert_eq!(error.message(), None);
            assert_eq!(error.into_panic().downcast_ref::<u8>(), Some(&42));
            let error = go!(|| panic::panic_any(7_i64)).join().unwrap_err();
            assert_eq!(error.into_panic().downcast_ref::<i64>(), Some(&7));
        });
        let from_main = panic::catch_unwind(|| baton::run(|| panic::resume_unwind(Box::new("main's"))));
        assert_eq!(from_main.unwrap_err().downcast_ref::<&str>(), Some(&"main's"));
        assert_eq!(
            HOOKS.load(SeqCst),
            1,
            "panic_any calls the hook, resume_unwind does not"
        );
    });
    ran.succeeded();
}

/// The hook runs in the goroutine that panics, and may park: it is not unwinding yet, but std counts the panic already.
#[test]
fn a_panic_hook_may_use_the_runtime() {
    let ran = child::run("a_panic_hook_may_use_the_runtime", &[], &[], || {
        static WHO: AtomicU32 = AtomicU32::new(0);
        panic::set_hook(Box::new(|_| {
            let who = baton::current().unwrap();
            assert_eq!(who.name(), Some("panics"));
            let (tx, rx) = chan::bounded(0);
            go!(move || tx.send(u32::try_from(who.id()).unwrap()).unwrap());
            WHO.store(rx.recv().unwrap(), SeqCst);
        }));
        baton::run(|| {
            let goroutine = go!(name = "panics"; || panic!("hooked"));
            let id = goroutine.id();
            assert!(goroutine.join().is_err());
            assert_eq!(u64::from(WHO.load(SeqCst)), id);
        });
    });
    ran.succeeded();
}

#[test]
fn a_second_panic_while_unwinding_aborts() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("second");
        }
    }
    let ran = child::run("a_second_panic_while_unwinding_aborts", &[], &[child::NO_CORE], || {
        baton::run(|| {
            let _ = go!(|| {
                let _bomb = Bomb;
                panic!("first");
            })
            .join();
        });
    });
    ran.died(libc::SIGABRT, &["first", "second"]);
}

/// What a test prints is captured for that test, by a thing of threads that threads inherit. Goroutines have no part in it: the threads
/// that run them would keep the capture of the first test for ever.
#[test]
fn messages_are_nobodys_capture() {
    const MARK: &str = "BATON_TEST_CAPTURED";
    if env::var_os(MARK).is_some() {
        return baton::run(|| assert!(go!(|| panic!("heard by all")).join().is_err()));
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["messages_are_nobodys_capture", "--exact"]).env(MARK, "1"); // without --nocapture
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("heard by all"),
        "{output:?}"
    );
}

#[test]
fn a_panic_inside_a_destructor_that_catches_it_is_fine() {
    struct Careful;
    impl Drop for Careful {
        fn drop(&mut self) {
            assert!(panic::catch_unwind(AssertUnwindSafe(|| panic!("inner"))).is_err());
            assert!(thread::panicking());
        }
    }
    baton::run(|| {
        let goroutine = go!(|| {
            let _careful = Careful;
            panic!("outer");
        });
        assert_eq!(goroutine.join().unwrap_err().message(), Some("outer"));
        go!(|| assert!(!thread::panicking())).join().unwrap();
    });
}
