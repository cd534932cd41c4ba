//! What cannot go on must say so: children that run into limits, and what they leave as their last words.

use baton::{chan, go};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

mod child;
use child::{ADDRESS_SPACE, MAPPED_MEMORY, NO_CORE};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

fn endless(depth: usize) -> usize {
    let frame = black_box([depth; 64]);
    if frame[0] == usize::MAX {
        0
    } else {
        endless(depth + 1) + frame[63]
    }
}

#[test]
fn a_stack_that_overflows_is_reported() {
    let ran = child::run("a_stack_that_overflows_is_reported", &[], &[NO_CORE], || {
        baton::run(|| {
            go!(name = "diver", max_stack = 128 << 10; || endless(0))
                .join()
                .unwrap()
        });
    });
    ran.died(
        libc::SIGABRT,
        &[
            "goroutine ",
            "\"diver\"",
            "spawned at tests/kill.rs:33:",
            "overflowed its stack",
            "131072",
            "max_stack",
            "BATON_MAX_STACK",
        ],
    );
}

#[test]
fn so_it_is_when_stacks_are_demand_paged() {
    let vars = [("BATON_STACK_GROWTH", "demand")];
    let ran = child::run("so_it_is_when_stacks_are_demand_paged", &vars, &[NO_CORE], || {
        baton::run(|| endless(0));
    });
    ran.died(
        libc::SIGABRT,
        &["goroutine ", "\"main\"", "overflowed its stack", "1048576", "max_stack"],
    );
}

#[test]
fn an_exhausted_address_space_is_reported() {
    let limit = (ADDRESS_SPACE, 4 << 30);
    let ran = child::run("an_exhausted_address_space_is_reported", &[], &[NO_CORE, limit], || {
        baton::run(|| {
            let (_tx, rx) = chan::bounded::<()>(0);
            for _ in 0..1_000_000 {
                let rx = rx.clone();
                go!(move || rx.recv());
                baton::yield_now();
            }
        });
    });
    ran.died(
        libc::SIGABRT,
        &["no stack for goroutine ", "address space", "max_stack", "ulimit -v"],
    );
}

#[test]
fn try_spawn_says_that_there_is_no_stack() {
    let limit = (ADDRESS_SPACE, 4 << 30);
    let ran = child::run("try_spawn_says_that_there_is_no_stack", &[], &[NO_CORE, limit], || {
        baton::run(|| {
            let (tx, rx) = chan::bounded::<()>(0);
            let mut handles = Vec::new();
            let error = loop {
                let rx = rx.clone();
                let builder = baton::Builder::new().max_stack(64 << 20);
                let wait = move || rx.recv().unwrap_err();
                let tried = match handles.len() % 2 {
                    0 => builder.try_spawn(wait),
                    // SAFETY: the closure touches no thread-local and holds no guard.
                    _ => unsafe { builder.try_spawn_migrating(wait) },
                };
                match tried {
                    Ok(handle) => handles.push(handle),
                    Err(error) => break error,
                }
            };
            eprintln!("after {}: {error}", handles.len());
            assert!(matches!(error, baton::SpawnError::Stack(_)) && handles.len() > 10);
            // What there is goes on to work, and what is freed can be had again.
            assert_eq!(go!(|| 5).join().unwrap(), 5);
            drop(tx);
            assert!(handles.into_iter().all(|handle| handle.join().is_ok()));
            let again = baton::Builder::new().max_stack(64 << 20).try_spawn(|| 6).unwrap();
            assert_eq!(again.join().unwrap(), 6);
        });
    });
    ran.succeeded();
    ran.said(&["no address space", "max_stack", "ulimit -v"]);
}

/// The system may refuse a thread (that delays those who wait for one), but a thread that it grants must get by with what it has:
/// here mappings are refused half of the time, at moments of their own choice.
#[test]
fn a_thread_that_starts_asks_for_no_more_memory() {
    let vars = [("BATON_RETIRE_MS", "1"), ("BATON_PROCS", "2")];
    let ran = child::run(
        "a_thread_that_starts_asks_for_no_more_memory",
        &vars,
        &[NO_CORE],
        || {
            baton::run(|| {
                let blockers = |n| -> Vec<_> {
                    let block = || baton::blocking_now(|| thread::sleep(Duration::from_micros(100)));
                    (0..n).map(|_| go!(move || (0..50).for_each(|_| block()))).collect()
                };
                // What they need of the heap is there from here on.
                blockers(20).into_iter().for_each(|handle| handle.join().unwrap());
                let refusing = Arc::new(AtomicBool::new(true));
                let refuser = thread::spawn({
                    let refusing = refusing.clone();
                    move || {
                        while refusing.load(SeqCst) {
                            child::refuse_mappings(true);
                            thread::sleep(Duration::from_micros(50));
                            child::refuse_mappings(false);
                            thread::sleep(Duration::from_micros(50));
                        }
                    }
                });
                for _ in 0..40 {
                    blockers(20).into_iter().for_each(|handle| handle.join().unwrap());
                    baton::time::sleep(Duration::from_millis(3));
                }
                refusing.store(false, SeqCst);
                refuser.join().unwrap();
            });
        },
    );
    ran.succeeded();
}

/// Private writable memory is limited, as it is under vm.overcommit_memory=2: there too mmap refuses what would go beyond, whether
/// it is going to be touched or not.
#[test]
fn try_spawn_says_so_where_what_is_mapped_is_charged() {
    let limits = [NO_CORE, (MAPPED_MEMORY, 2 << 30)];
    let ran = child::run(
        "try_spawn_says_so_where_what_is_mapped_is_charged",
        &[],
        &limits,
        || {
            baton::run(|| {
                // All stay until the end: what had ended would lend its stack to the next.
                let (tx, rx) = baton::chan::bounded::<()>(0);
                let mut handles = Vec::new();
                let error = loop {
                    let rx = rx.clone();
                    let wait = move || rx.recv().unwrap_err();
                    match baton::Builder::new().max_stack(64 << 20).try_spawn(wait) {
                        Ok(handle) => handles.push(handle),
                        Err(error) => break error,
                    }
                };
                eprintln!("after {}: {error}", handles.len());
                assert!(matches!(error, baton::SpawnError::Stack(_)) && handles.len() > 10);
                // What there is goes on to work, and grows as far as it was promised.
                drop(tx);
                assert!(handles.into_iter().all(|handle| handle.join().is_ok()));
                let deep = baton::Builder::new().max_stack(64 << 20).try_spawn(|| {
                    let bytes = [1_u8; 60 << 20];
                    black_box(&bytes).iter().map(|&byte| usize::from(byte)).sum::<usize>()
                });
                assert_eq!(deep.unwrap().join().unwrap(), 60 << 20);
            });
        },
    );
    ran.succeeded();
    ran.said(&["no address space", "max_stack", "ulimit -d"]);
}

/// Without guard markers each stack costs mappings, of which there are 65,530.
#[test]
fn try_spawn_says_that_there_are_no_mappings() {
    let vars = [("BATON_GUARD", "mprotect")];
    let ran = child::run("try_spawn_says_that_there_are_no_mappings", &vars, &[NO_CORE], || {
        baton::run(|| {
            let spawn = |rx: &baton::chan::Receiver<()>| {
                let rx = rx.clone();
                baton::Builder::new()
                    .max_stack(64 << 10)
                    .try_spawn(move || rx.recv().unwrap_err())
            };
            // All stay until the end: what had ended would lend its stack to the next.
            let (tx, rx) = baton::chan::bounded::<()>(0);
            let mut handles = Vec::new();
            let error = loop {
                match spawn(&rx) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => break error,
                }
            };
            eprintln!("after {}: {error}", handles.len());
            assert!(handles.len() > 1_000);
            drop(tx);
            assert!(handles.into_iter().all(|handle| handle.join().is_ok()));
            spawn(&rx).unwrap().join().unwrap();
        });
    });
    ran.succeeded();
    ran.said(&["no more memory mappings", "vm.max_map_count", "6.13"]);
}

/// From the smallest stack to the largest, each used to nearly its end.
#[test]
fn stacks_of_all_sizes() {
    fn down(left: usize) -> usize {
        let frame = black_box([left; 64]);
        if left < 1024 {
            0
        } else {
            down(left - 1024) + frame[0] / left
        }
    }
    baton::run(|| {
        for max_stack in [64 << 10, 65 << 10, 1 << 20, 100 << 20, 1 << 30] {
            let depth = (max_stack / 4).min(8 << 20);
            let frames = go!(max_stack = max_stack; move || down(depth)).join().unwrap();
            assert_eq!(frames, depth / 1024);
        }
        for max_stack in [0, (64 << 10) - 1, (1 << 30) + 1] {
            let error = baton::Builder::new().max_stack(max_stack).try_spawn(|| ()).unwrap_err();
            assert_eq!(error, baton::SpawnError::StackSize(max_stack));
        }
    });
}

#[test]
fn at_the_limit_of_threads_the_runtime_degrades_and_warns() {
    let vars = [
        ("BATON_MAX_THREADS", "3"),
        ("BATON_PROCS", "2"),
        ("BATON_FORCE_MIGRATION", "0"),
    ];
    let ran = child::run(
        "at_the_limit_of_threads_the_runtime_degrades_and_warns",
        &vars,
        &[],
        || {
            baton::run(|| {
                let all: Vec<_> = (0..20)
                    .map(|_| go!(|| std::thread::sleep(std::time::Duration::from_millis(20))))
                    .collect();
                // More wait than there are threads to block: each has its turn all the same.
                all.into_iter().for_each(|h| h.join().unwrap());
            });
            assert!(baton::metrics().threads <= 3, "{:?}", baton::metrics());
        },
    );
    ran.succeeded();
    ran.said(&["3 threads run already", "max_threads", "BATON_MAX_THREADS"]);
}

#[test]
fn threads_that_the_system_refuses_are_no_disaster() {
    // The limit counts all threads of the user, so lower it from within, once the runtime has what it needs.
    let vars = [("BATON_PROCS", "2"), ("BATON_FORCE_MIGRATION", "0")];
    let ran = child::run("threads_that_the_system_refuses_are_no_disaster", &vars, &[], || {
        baton::run(|| go!(|| ()).join().unwrap());
        refuse_threads();
        baton::run(|| {
            let all: Vec<_> = (0..20)
                .map(|i| {
                    go!(move || {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        i
                    })
                })
                .collect();
            assert_eq!(all.into_iter().map(|h| h.join().unwrap()).sum::<i32>(), 190);
        });
    });
    ran.succeeded();
    ran.said(&["refuses another thread", "ulimit -u"]);
}

/// A system-call filter: what it refuses fails with EPERM, all else goes on.
fn filter(refuse: &[libc::c_long]) {
    let statement = |code: u32, k: u32, jt: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (i, call) in refuse.iter().enumerate() {
        // To the last statement if it is this call.
        let to_refusal = u8::try_from(refuse.len() - i).unwrap();
        program.push(statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            u32::try_from(*call).unwrap(),
            to_refusal,
        ));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    program.push(statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        0,
    ));
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which lives here.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let all_threads = 1; // SECCOMP_FILTER_FLAG_TSYNC
        let r = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            all_threads,
            &raw const program,
        );
        assert_eq!(r, 0, "{}", std::io::Error::last_os_error());
    }
}

fn refuse_threads() {
    filter(&[libc::SYS_clone, libc::SYS_clone3]);
}

fn work() {
    baton::run(|| {
        let blocked: Vec<_> = (0..8)
            .map(|_| go!(|| std::thread::sleep(std::time::Duration::from_millis(5))))
            .collect();
        let sum: u64 = (0..500_u64)
            .map(|i| go!(move || i))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|h| h.join().unwrap())
            .sum();
        assert_eq!(sum, 124_750);
        blocked.into_iter().for_each(|h| h.join().unwrap());
    });
}

#[test]
fn without_membarrier_owners_fence() {
    let ran = child::run("without_membarrier_owners_fence", &[], &[], || {
        // Too late for the allocator's probe if it has run already: that is the case of a process that sandboxes itself.
        filter(&[libc::SYS_membarrier]);
        work();
        work();
        assert!(!baton::metrics().membarrier_mode, "{:?}", baton::metrics());
    });
    ran.succeeded();
}

#[test]
fn fences_can_be_forced() {
    let ran = child::run("fences_can_be_forced", &[("BATON_LATCH", "fence")], &[], || {
        work();
        assert!(!baton::metrics().membarrier_mode);
        assert_eq!(baton::metrics().membarriers, 0);
    });
    ran.succeeded();
}

/// The handler that the program had before hears of faults that are none of Baton's business.
#[test]
fn a_wild_pointer_beside_a_stack_reaches_the_old_handler() {
    extern "C" fn old(_: libc::c_int) {
        const WORDS: &str = "the old handler was called\n";
        // SAFETY: write and _exit are async-signal-safe.
        unsafe {
            libc::write(2, WORDS.as_ptr().cast(), WORDS.len());
            libc::_exit(42);
        }
    }
    let ran = child::run(
        "a_wild_pointer_beside_a_stack_reaches_the_old_handler",
        &[],
        &[NO_CORE],
        || {
            // SAFETY: installs a handler before the runtime installs its own.
            unsafe { libc::signal(libc::SIGSEGV, old as extern "C" fn(libc::c_int) as libc::sighandler_t) };
            baton::run(|| {
                // Neighbours: other goroutines, parked, whose stacks lie above the first one's.
                let (_tx, rx) = chan::bounded::<()>(0);
                let here = baton::sync::WaitGroup::new();
                for _ in 0..8 {
                    let (rx, here) = (rx.clone(), here.clone());
                    go!(move || {
                        drop(here);
                        rx.recv()
                    });
                }
                here.wait();
                // From near the top of this stack, a pointer into the guard at the bottom of the next.
                let local = 0_u8;
                let neighbour = std::ptr::from_ref(&local).addr() + (14 << 10);
                // SAFETY: it is not: this is the bug that must not go unnoticed.
                black_box(unsafe { *std::ptr::with_exposed_provenance::<u8>(neighbour) });
            });
        },
    );
    assert_eq!(ran.status, 42, "{ran:?}");
    ran.said(&["the old handler was called"]);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (variable, value, words) in [
        ("BATON_PROCS", "none", "from 1 to 1024"),
        ("BATON_MAX_STACK", "100", "from 65536 to"),
        ("BATON_STACK_GROWTH", "sideways", "trap or demand"),
    ] {
        let ran = child::run(
            "settings_that_make_no_sense_are_refused",
            &[(variable, value)],
            &[NO_CORE],
            || {
                baton::run(|| ());
            },
        );
        ran.died(libc::SIGABRT, &[variable, value, words]);
    }
    let error = baton::Runtime::builder().procs(0).init().unwrap_err();
    assert!(error.to_string().contains("procs is 0"), "{error}");
    baton::run(|| ());
    let error = baton::Runtime::builder().init().unwrap_err();
    assert!(error.to_string().contains("has started already"), "{error}");
}

/// As with threads of std: a panic while a panic unwinds ends the process, and says so.
#[test]
fn a_panic_that_leaves_a_destructor_during_unwinding_aborts() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("second");
        }
    }
    let ran = child::run(
        "a_panic_that_leaves_a_destructor_during_unwinding_aborts",
        &[],
        &[NO_CORE],
        || {
            baton::run(|| {
                let _ = go!(|| {
                    let _bomb = Bomb;
                    panic!("first");
                })
                .join();
            });
        },
    );
    ran.died(libc::SIGABRT, &["first", "second"]);
}

#[test]
fn a_goroutine_in_a_forked_child_is_refused() {
    let ran = child::run("a_goroutine_in_a_forked_child_is_refused", &[], &[NO_CORE], || {
        baton::run(|| go!(|| ()).join().unwrap());
        // SAFETY: the child only starts a goroutine, which is what must fail; the parent waits for it.
        unsafe {
            let forked = libc::fork();
            if forked == 0 {
                go!(|| ());
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(forked, &raw mut status, 0), forked);
            assert!(
                libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT,
                "{status}"
            );
        }
    });
    ran.succeeded();
    ran.said(&["forked child", "exec"]);
}
