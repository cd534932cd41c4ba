//! Growth under attack: whatever a program may do where a stack's extent ends. Every test runs with guards that trap; the last
//! ones run all of them again with stacks that are demand-paged, with the guards of kernels without markers, and on one
//! processor.
//!
//! What ends a process, and pointers into a neighbour's stack, are in `stack/tests/crash.rs`; a populate that fails is in
//! `stack/tests/growth.rs`.

use baton::go;
use baton_attack as c;
use baton_stack::{FIRST_EXTENT, GuardKind};
use std::{
    env,
    hint::black_box,
    mem::MaybeUninit,
    process::{Command, Output},
    ptr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

const KIB: usize = 1 << 10;

/// The stacks that grow here: the extent is a quarter of this after the first trap.
const MAX_STACK: usize = 16 * FIRST_EXTENT;

/// Where [`at_depth`] goes so that what comes next is about to trap.
const CLOSE: usize = FIRST_EXTENT - 6 * KIB;

/// Goes `depth` bytes down in frames of about half a kilobyte and runs `f` there.
#[inline(never)]
fn at_depth<R>(depth: usize, f: &mut dyn FnMut() -> R) -> R {
    #[inline(never)]
    fn frame<R>(floor: usize, f: &mut dyn FnMut() -> R) -> R {
        let words = black_box([floor; 60]);
        let result = if ptr::from_ref(&words).addr() > floor {
            frame(floor, f)
        } else {
            f()
        };
        assert_eq!(black_box(words), [floor; 60]);
        result
    }
    let here = 0_u8;
    frame(ptr::from_ref(&here).addr() - depth, f)
}

/// Runs `f` in a goroutine of its own, on a stack that never ran: those before it hold theirs.
fn on_new_stacks(n: usize, f: impl Fn(usize) + Send + Sync + Copy + 'static) {
    baton::run(move || {
        let (tx, rx) = baton::chan::bounded::<()>(0);
        let done = baton::sync::WaitGroup::new();
        let all: Vec<_> = (0..n)
            .map(|i| {
                let (rx, done) = (rx.clone(), done.clone());
                go!(max_stack = MAX_STACK; move || {
                    f(i);
                    drop(done);
                    let _ = rx.recv();
                })
            })
            .collect();
        done.wait();
        drop(tx);
        all.into_iter().for_each(|h| h.join().unwrap());
    });
}

/// Depths around the ends of extents, close together: of the first one, of the one that a trap makes next (in one of eight, for the
/// sake of memory), and of the one that a parking call makes.
fn boundaries(i: usize) -> impl Iterator<Item = usize> {
    let near = move |extent: usize| extent - 6 * KIB + i % 64 * 160;
    let far = [2 * FIRST_EXTENT, 4 * FIRST_EXTENT]
        .into_iter()
        .filter(move |_| i.is_multiple_of(8));
    [FIRST_EXTENT].into_iter().chain(far).map(near)
}

fn is_demand_paged() -> bool {
    env::var("BATON_STACK_GROWTH").as_deref() == Ok("demand")
}

/// The tests look where extents end: stacks trap there, twice by a trap that comes after another.
#[test]
fn these_are_the_boundaries() {
    let traps = |depth: usize| {
        let before = baton::metrics().stack_traps;
        at_depth(depth, &mut || ());
        baton::metrics().stack_traps - before
    };
    let ran = child("these_are_the_boundaries", move || {
        baton::run(move || {
            let look = move || {
                let first = boundaries(0).next().unwrap();
                let last = boundaries(0).last().unwrap();
                [first, first + 10 * KIB, last, last + 10 * KIB].map(traps)
            };
            let trapped = go!(max_stack = MAX_STACK; look()).join().unwrap();
            let traps = u64::from(baton_stack::guard_kind() == GuardKind::Marker && !is_demand_paged());
            assert_eq!(trapped, [0, traps, 0, traps]);
        });
    });
    assert!(ran.status.success(), "{ran:?}");
}

#[test]
fn growth_inside_malloc_and_inside_sections() {
    on_new_stacks(64, |i| {
        for depth in boundaries(i) {
            at_depth(depth, &mut || {
                // Sizes of many classes: hits, refills, spans, large objects.
                let objects: Vec<Vec<u8>> = (0..40).map(|n| vec![n as u8; 1 << (n % 16)]).collect();
                assert!(
                    objects
                        .iter()
                        .enumerate()
                        .all(|(n, object)| object[object.len() - 1] == n as u8)
                );
                // And what the scheduler does in sections.
                drop(go!(|| ()));
                baton::yield_now();
            });
        }
    });
}

#[test]
fn growth_inside_a_signal_handler_on_the_stack() {
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn deep(_: libc::c_int) {
        HANDLED.fetch_add(at_depth(FIRST_EXTENT + 50 * KIB, &mut || 1), SeqCst);
    }
    // SAFETY: all-zero bytes are a valid sigaction; the handler does what a handler may. No SA_ONSTACK.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = deep as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &raw const action, ptr::null_mut()), 0);
    }
    on_new_stacks(8, |_| {
        // SAFETY: the handler is installed.
        assert_eq!(unsafe { libc::raise(libc::SIGTRAP) }, 0);
    });
    assert_eq!(HANDLED.load(SeqCst), 8);
}

#[test]
fn growth_inside_a_destructor_while_unwinding() {
    struct Deep;
    impl Drop for Deep {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            assert_eq!(at_depth(FIRST_EXTENT + 150 * KIB, &mut || 7), 7);
        }
    }
    baton::run(|| {
        for _ in 0..8 {
            let handle = go!(max_stack = MAX_STACK; || {
                let _deep = Deep;
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            assert_eq!(handle.join().unwrap_err().message(), Some("on purpose"));
        }
    });
}

#[test]
fn two_goroutines_grow_in_turn() {
    baton::run(|| {
        let both: Vec<_> = (0..2)
            .map(|_| {
                go!(max_stack = MAX_STACK; || {
                    (1..60).for_each(|n| at_depth(n * 90 * KIB, &mut baton::yield_now));
                })
            })
            .collect();
        both.into_iter().for_each(|h| h.join().unwrap());
    });
}

#[test]
fn huge_frames() {
    #[inline(never)]
    fn huge(n: u8) -> u8 {
        let array = black_box([n; 300 * KIB]);
        array[0] + array[300 * KIB - 1]
    }
    on_new_stacks(16, |i| {
        assert_eq!(at_depth(CLOSE, &mut || huge(3)), 6);
        assert_eq!(at_depth(CLOSE + i * 4 * KIB, &mut || huge(4)), 8);
    });
}

#[test]
fn c_frames_without_probes() {
    on_new_stacks(16, |i| {
        for (kilobytes, depth) in [(20, 30), (100, 7), (300, 1)] {
            assert_eq!(
                at_depth(CLOSE + i * 900, &mut || c::large_frames(kilobytes, depth)),
                depth + 1
            );
        }
    });
}

#[test]
fn alloca_and_long_jumps() {
    on_new_stacks(16, |i| {
        assert_eq!(
            at_depth(CLOSE - 100 * KIB + i * 700, &mut || c::alloca(200, 1_000)),
            200
        );
        assert_eq!(at_depth(CLOSE + i * 700, &mut || c::alloca(10, 70_000)), 10);
        assert_eq!(at_depth(CLOSE + i * 700, &mut || c::longjmp(250)), 42);
        assert_eq!(
            at_depth(FIRST_EXTENT + 50 * KIB, &mut || i),
            i,
            "the stack is good after the jump"
        );
    });
}

#[test]
fn vector_registers_hold_over_a_trap() {
    on_new_stacks(16, |i| {
        let held = c::vectors(CLOSE + i * KIB);
        assert!(held != 0, "a register changed");
        if i == 0 {
            println!("registers of {held} bits held");
        }
    });
}

#[test]
fn the_kernel_writes_near_every_boundary() {
    static FAILED: AtomicUsize = AtomicUsize::new(0);
    on_new_stacks(64, |i| {
        let mut pipe = [0; 2];
        let mut sockets = [0; 2];
        // SAFETY: both calls fill an array of two.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            assert_eq!(
                libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, sockets.as_mut_ptr()),
                0
            );
        }
        for depth in boundaries(i) {
            at_depth(depth, &mut || {
                // Not written to before: the kernel is the first to touch it.
                let mut buffer = MaybeUninit::<[u8; 2048]>::uninit();
                let at = buffer.as_mut_ptr().cast::<libc::c_void>();
                let text = [7_u8; 2048];
                // SAFETY: the buffers hold 2 KiB, the descriptors are open.
                unsafe {
                    let ok = libc::getrandom(at, 2048, 0) == 2048
                        && libc::write(pipe[1], text.as_ptr().cast(), 2048) == 2048
                        && libc::read(pipe[0], at, 2048) == 2048
                        && libc::send(sockets[1], text.as_ptr().cast(), 2048, 0) == 2048;
                    let mut part = libc::iovec {
                        iov_base: at,
                        iov_len: 2048,
                    };
                    let mut message: libc::msghdr = std::mem::zeroed();
                    message.msg_iov = &raw mut part;
                    message.msg_iovlen = 1;
                    let received = libc::recvmsg(sockets[0], &raw mut message, 0) == 2048;
                    FAILED.fetch_add(usize::from(!(ok && received)), SeqCst);
                }
            });
        }
        // SAFETY: ours.
        pipe.iter().chain(&sockets).for_each(|&fd| unsafe {
            libc::close(fd);
        });
    });
    assert_eq!(FAILED.load(SeqCst), 0);
}

#[test]
fn the_resolver_runs_near_every_boundary() {
    on_new_stacks(16, |i| {
        for depth in boundaries(i * 4) {
            at_depth(depth, &mut || {
                let mut found = ptr::null_mut();
                let hints = libc::addrinfo {
                    ai_flags: libc::AI_NUMERICSERV,
                    // SAFETY: all-zero bytes are valid hints.
                    ..unsafe { std::mem::zeroed() }
                };
                // SAFETY: the strings end with a zero, the hints live here, and what is found is given back.
                unsafe {
                    let r = libc::getaddrinfo(c"localhost".as_ptr(), c"80".as_ptr(), &raw const hints, &raw mut found);
                    assert_ne!(r, libc::EAI_SYSTEM, "{}", std::io::Error::last_os_error());
                    if r == 0 {
                        libc::freeaddrinfo(found);
                    }
                }
            });
        }
    });
}

/// A system call without the C library, into a buffer that nobody touched, just above the stack pointer.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn inline_getrandom() -> isize {
    let mut buffer = MaybeUninit::<[u8; 3000]>::uninit();
    let result: isize;
    // SAFETY: the kernel writes 3,000 bytes into the buffer, and clobbers rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_getrandom as isize => result,
            in("rdi") buffer.as_mut_ptr(),
            in("rsi") 3_000_usize,
            in("rdx") 0_usize,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    black_box(&mut buffer);
    result
}

/// Demand-paged stacks have no guard in their middle. With guards that trap such a call may get EFAULT (the contract says so),
/// but nothing worse happens.
#[cfg(target_arch = "x86_64")]
#[test]
fn inline_system_calls() {
    static FAULTS: AtomicUsize = AtomicUsize::new(0);
    on_new_stacks(64, |i| {
        for depth in boundaries(i) {
            match at_depth(depth, &mut inline_getrandom) {
                3_000 => {}
                refused => {
                    assert_eq!(refused, -(libc::EFAULT as isize));
                    FAULTS.fetch_add(1, SeqCst);
                }
            }
        }
    });
    let faults = FAULTS.load(SeqCst);
    println!("{faults} inline system calls met a guard");
    if is_demand_paged() {
        assert_eq!(faults, 0);
    }
}

/// What the C library's own handler says about the stack that it runs on, once goroutines have run.
#[test]
fn the_librarys_signals_run_on_the_alternate_stack() {
    on_new_stacks(2, |_| ());
    let mut action = [0_u64; 4];
    let none = ptr::null_mut::<u64>();
    for signal in [32, 33] {
        // SAFETY: the kernel writes four words: handler, flags, restorer, mask.
        let r = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, none, action.as_mut_ptr(), 8_usize) };
        assert_eq!(r, 0);
        assert!(
            action[0] <= 1 || action[1] & libc::SA_ONSTACK as u64 != 0,
            "signal {signal}: {action:x?}"
        );
    }
}

static TICKS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn tick(_: libc::c_int) {
    TICKS.fetch_add(1, SeqCst);
}

/// A profiler's timer at 1 kHz, and the C library's own signals to all threads, while stacks grow.
#[test]
fn signals_to_the_process_while_stacks_grow() {
    // SAFETY: all-zero bytes are valid structs; the handler counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = tick as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGPROF, &raw const action, ptr::null_mut()), 0);
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 1_000,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        assert_eq!(libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()), 0);
    }
    static STOP: AtomicBool = AtomicBool::new(false);
    let changes = std::thread::spawn(|| {
        let mut n = 0;
        while !STOP.load(SeqCst) {
            // The C library signals every thread for this, and waits for all of them.
            // SAFETY: to the group that it is already.
            assert_eq!(unsafe { libc::setgid(libc::getgid()) }, 0);
            n += 1;
        }
        n
    });
    for _ in 0..4 {
        on_new_stacks(64, |i| {
            for depth in boundaries(i) {
                (0..20).for_each(|_| at_depth(depth, &mut || black_box(())));
            }
        });
    }
    while TICKS.load(SeqCst) == 0 {
        at_depth(10 * KIB, &mut || black_box(())); // the timer counts processor time
    }
    STOP.store(true, SeqCst);
    assert!(changes.join().unwrap() > 0);
    // SAFETY: all zero: the timer stops.
    unsafe {
        let none: libc::itimerval = std::mem::zeroed();
        libc::setitimer(libc::ITIMER_PROF, &raw const none, ptr::null_mut());
    }
}

/// Set in a process that runs all tests again, or one.
const MARK: &str = "BATON_ATTACK_AGAIN";

/// One test in a process of its own, which runs `body` instead.
fn child(test: &str, body: impl FnOnce()) -> Output {
    if env::var(MARK).as_deref() == Ok(test) {
        body();
        std::process::exit(0);
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture"])
        .env(MARK, test)
        .output()
        .unwrap()
}

/// All of the above again, in a process with this setting.
fn again(variable: &str, value: &str) {
    if env::var_os(MARK).is_some() {
        return;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    let out = command.env(MARK, "1").env(variable, value).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(out.status.success(), "{:?}\n{stdout}\n{stderr}", out.status);
}

#[test]
fn all_of_it_demand_paged() {
    again("BATON_STACK_GROWTH", "demand");
}

#[test]
fn all_of_it_without_guard_markers() {
    again("BATON_GUARD", "mprotect");
}

/// So that all goroutines of a test take turns on one processor.
#[test]
fn all_of_it_on_one_processor() {
    again("BATON_PROCS", "1");
}
