//! What ends a process, and what must not: each case runs in a child, which is this test binary with a variable set.

mod common;

use baton_stack::{
    GuardKind, HEADROOM, Spec, Stack, StackError, StackGrowth, acquire, guard_kind, release, set_describe,
};
use common::{descend, prepare, run, sp};
use std::{
    env,
    ffi::c_int,
    hint::black_box,
    mem,
    os::unix::process::ExitStatusExt,
    process::{Command, Output},
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const CASE: &str = "BATON_STACK_TEST_CASE";

/// The cases; each runs in a child of its own.
const CASES: &[(&str, fn())] = &[
    ("overflow", overflow),
    ("overflow_in_one_frame", overflow_in_one_frame),
    ("neighbour", neighbour),
    ("elsewhere", elsewhere),
    ("not_a_goroutine", not_a_goroutine),
    ("repaired", repaired),
    ("repaired_once", repaired_once),
    ("ignored", ignored),
    ("sent", sent),
    ("sent_past_std", sent_past_std),
    ("lost_frame", lost_frame),
    ("address_space", address_space),
    ("mprotect", mprotect),
    ("map_count", map_count),
    ("forked", forked),
];

/// The way into a child; in the parent it does nothing.
#[test]
fn child() {
    let Ok(wanted) = env::var(CASE) else { return };
    let (_, case) = CASES
        .iter()
        .find(|(name, _)| *name == wanted)
        .expect("a case of this name");
    case();
    println!("survived");
}

/// Runs a case in a child.
fn child_of(case: &str, guard: Option<&str>) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CASE, case);
    if let Some(guard) = guard {
        command.env("BATON_GUARD", guard);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn dies_of(case: &str, signal: c_int) -> String {
    let out = child_of(case, None);
    let stderr = text(&out.stderr);
    assert_eq!(out.status.signal(), Some(signal), "{}\n{stderr}", text(&out.stdout));
    stderr
}

#[track_caller]
fn survives(case: &str, guard: Option<&str>) {
    let out = child_of(case, guard);
    let stdout = text(&out.stdout);
    assert!(
        out.status.success() && stdout.contains("survived"),
        "{:?}\n{stdout}\n{}",
        out.status,
        text(&out.stderr)
    );
}

fn stack(reservation: usize) -> Stack {
    acquire(Spec::with_growth(reservation, StackGrowth::Trap).unwrap()).unwrap()
}

// ---- overflow -------------------------------------------------------------------------------------------------------

fn overflow() {
    let _alt = prepare();
    set_describe(|owner, out| {
        let _ = write!(out, "goroutine {} \"tester\"", owner.addr());
    });
    run(stack(256 * KIB), |desc| {
        desc.set_owner(ptr::without_provenance(17));
        descend(desc.base(), usize::MAX, &mut || {});
    });
}

#[test]
fn an_overflow_is_reported() {
    let report = dies_of("overflow", libc::SIGABRT);
    assert!(
        report.contains(r#"baton: goroutine 17 "tester" has overflowed its stack: "#),
        "{report}"
    );
    assert!(report.contains(" of 262144 bytes are used"), "{report}");
    for cure in [
        "Builder::max_stack(bytes)",
        "Runtime::builder().max_stack(bytes)",
        "BATON_MAX_STACK=bytes",
    ] {
        assert!(report.contains(cure), "{report}");
    }
}

fn overflow_in_one_frame() {
    #[inline(never)]
    fn large() {
        let mut array = [1_u8; MIB];
        black_box(&mut array);
    }
    let _alt = prepare();
    // The neighbour below must not be reached: the frame is larger than the guard.
    let _below = [stack(128 * KIB), stack(128 * KIB), stack(128 * KIB)];
    run(stack(128 * KIB), |_| large());
}

#[test]
fn a_frame_larger_than_the_guard_is_reported_too() {
    let report = dies_of("overflow_in_one_frame", libc::SIGABRT);
    assert!(
        report.contains("baton: a goroutine has overflowed its stack: "),
        "{report}"
    );
}

// ---- bad pointers ---------------------------------------------------------------------------------------------------

extern "C" fn exit_42(_: c_int) {
    // SAFETY: ends the process.
    unsafe { libc::_exit(42) }
}

/// Installs a handler as a program would that knows nothing of Baton.
fn handle(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the action is complete, and its handler is one of this file.
    let r = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(r, 0);
}

fn write_to(address: usize) {
    // SAFETY: it is not: that is the test, and the process ends here or a handler makes it right.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(1) };
}

fn neighbour() {
    handle(libc::SIGSEGV, exit_42 as *const () as usize, libc::SA_ONSTACK);
    let _alt = prepare();
    let neighbour = stack(4 * MIB);
    let desc = neighbour.desc();
    // A guard that the neighbour's own stack pointer would have opened, or that is its bottom.
    let bad = if desc.limit() > desc.floor() {
        desc.limit() - 64
    } else {
        desc.floor() - 64
    };
    run(stack(4 * MIB), move |_| write_to(bad));
}

#[test]
fn a_pointer_into_a_neighbour_goes_to_the_handler_before() {
    let out = child_of("neighbour", None);
    assert_eq!(out.status.code(), Some(42), "{}", text(&out.stderr));
}

fn elsewhere() {
    let _alt = prepare();
    run(stack(MIB), |_| write_to(64));
}

#[test]
fn a_pointer_elsewhere_ends_the_process_and_does_not_loop() {
    // The handler before is std's own: it puts the default back and returns.
    let report = dies_of("elsewhere", libc::SIGSEGV);
    assert!(!report.contains("baton"), "{report}");
}

fn not_a_goroutine() {
    handle(libc::SIGSEGV, libc::SIG_DFL, 0);
    let _alt = prepare();
    let held = stack(MIB);
    write_to(held.desc().floor() - 64);
}

#[test]
fn a_thread_of_its_own_dies_by_default() {
    let report = dies_of("not_a_goroutine", libc::SIGSEGV);
    assert!(!report.contains("baton"), "{report}");
}

/// A page that a handler opens.
static PAGE: AtomicUsize = AtomicUsize::new(0);
static REPAIRS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn repair(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    REPAIRS.fetch_add(1, Ordering::Relaxed);
    let page = ptr::with_exposed_provenance_mut(PAGE.load(Ordering::Relaxed));
    // SAFETY: the page is the test's.
    unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE) };
}

/// Makes `repair` what handles SIGSEGV, and gives a function that writes to the page after closing it.
fn with_repair(flags: c_int) -> impl Fn() + Copy {
    let handler = repair as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);
    handle(
        libc::SIGSEGV,
        handler as *const () as usize,
        libc::SA_SIGINFO | libc::SA_ONSTACK | flags,
    );
    // SAFETY: a fresh private mapping.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    PAGE.store(page as usize, Ordering::Relaxed);
    move || {
        // SAFETY: the page is the test's.
        unsafe { libc::mprotect(page, 4096, libc::PROT_NONE) };
        write_to(page as usize);
    }
}

fn repaired() {
    let write = with_repair(0);
    let _alt = prepare();
    let stack = run(stack(4 * MIB), move |desc| {
        for i in 1..=5 {
            write();
            assert_eq!(REPAIRS.load(Ordering::Relaxed), i);
        }
        descend(desc.base(), 1500 * KIB, &mut || {});
        assert_eq!(REPAIRS.load(Ordering::Relaxed), 5, "growth is not passed on");
        write();
        assert_eq!(REPAIRS.load(Ordering::Relaxed), 6);
    });
    release(stack);
}

#[test]
fn a_handler_that_repairs_is_left_to_do_so() {
    survives("repaired", None);
}

fn repaired_once() {
    let write = with_repair(libc::SA_RESETHAND);
    let _alt = prepare();
    run(stack(4 * MIB), move |desc| {
        descend(desc.base(), 1500 * KIB, &mut || {});
        write();
        println!("repaired {}", REPAIRS.load(Ordering::Relaxed));
        write();
    });
}

#[test]
fn a_handler_for_one_fault_handles_one() {
    let out = child_of("repaired_once", None);
    assert!(text(&out.stdout).contains("repaired 1"), "{}", text(&out.stderr));
    assert_eq!(out.status.signal(), Some(libc::SIGSEGV));
}

fn ignored() {
    handle(libc::SIGSEGV, libc::SIG_IGN, 0);
    let _alt = prepare();
    // SAFETY: an ignored signal has no effect.
    unsafe { libc::raise(libc::SIGSEGV) };
    println!("still here");
    run(stack(MIB), |_| write_to(64));
}

#[test]
fn what_was_ignored_is_ignored_but_a_fault_is_not() {
    let out = child_of("ignored", None);
    assert!(text(&out.stdout).contains("still here"));
    assert_eq!(out.status.signal(), Some(libc::SIGSEGV));
}

fn sent() {
    handle(libc::SIGSEGV, libc::SIG_DFL, 0);
    let _alt = prepare();
    // SAFETY: ends the process.
    unsafe { libc::raise(libc::SIGSEGV) };
}

/// std's handler takes itself away and waits for the fault to come again.
fn sent_past_std() {
    let _alt = prepare();
    // SAFETY: ends the process.
    unsafe { libc::raise(libc::SIGSEGV) };
}

#[test]
fn a_signal_that_was_sent_ends_the_process() {
    dies_of("sent", libc::SIGSEGV);
    dies_of("sent_past_std", libc::SIGSEGV);
}

// ---- signals on the stack -------------------------------------------------------------------------------------------

static USR1: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_usr1(_: c_int) {
    USR1.fetch_add(1, Ordering::Relaxed);
}

/// Recurses until less than 2 KiB are left above the guard, then sends this thread a signal.
#[inline(never)]
fn signal_close_to(limit: usize) {
    let frame = black_box([0_u8; 256]);
    if sp() - limit > 2 * KIB {
        signal_close_to(limit);
    } else {
        // SAFETY: these calls take no pointers. A plain system call, which needs hardly any stack.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGUSR1) };
    }
    black_box(frame);
}

fn lost_frame() {
    if guard_kind() != GuardKind::Marker {
        return;
    }
    handle(libc::SIGUSR1, on_usr1 as *const () as usize, 0);
    let _alt = prepare();
    let stack = run(stack(4 * MIB), |desc| {
        let limit = desc.limit();
        signal_close_to(limit);
        assert_eq!(USR1.load(Ordering::Relaxed), 0, "the kernel had no room for the frame");
        assert_eq!((desc.traps(), desc.doublings()), (1, 2), "and the handler made room");
        assert!(limit - desc.limit() >= HEADROOM);
        signal_close_to(limit);
        assert_eq!(USR1.load(Ordering::Relaxed), 1, "the next one arrives");
    });
    release(stack);
}

#[test]
fn a_lost_signal_frame_grows_the_stack() {
    survives("lost_frame", None);
}

// ---- limits ---------------------------------------------------------------------------------------------------------

fn address_space() {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let bytes = pages * 4096 + (300 << 20);
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: reads the struct.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
    let error = acquire(Spec::with_growth(512 * MIB, StackGrowth::Trap).unwrap()).unwrap_err();
    assert_eq!(error, StackError::AddressSpace { reservation: 512 * MIB });
    let message = error.to_string();
    assert!(message.contains(&bytes.to_string()), "{message}");
    assert!(
        message.contains("ulimit -v") && message.contains("max_stack"),
        "{message}"
    );
    // Smaller ones can still be had, until they too are too many.
    let spec = Spec::with_growth(10 * MIB, StackGrowth::Trap).unwrap();
    let mut stacks = Vec::with_capacity(100);
    let error = loop {
        match acquire(spec) {
            Ok(stack) => stacks.push(stack),
            Err(error) => break error,
        }
        assert!(stacks.len() < 100);
    };
    assert_eq!(error, StackError::AddressSpace { reservation: 10 * MIB });
    assert!(!stacks.is_empty());
    stacks.into_iter().for_each(release);
    release(acquire(spec).unwrap());
}

#[test]
fn no_address_space_is_an_error_with_a_cure() {
    survives("address_space", None);
}

fn mprotect() {
    assert_eq!(guard_kind(), GuardKind::Mprotect);
    let _alt = prepare();
    let spec = Spec::with_growth(MIB, StackGrowth::Trap).unwrap();
    assert_eq!(spec.growth(), StackGrowth::DemandPaged);
    let stack = run(acquire(spec).unwrap(), |desc| {
        descend(desc.base(), 1000 * KIB, &mut || {})
    });
    assert_eq!(stack.desc().traps(), 0);
    release(stack);
}

#[test]
fn guards_without_markers_work() {
    survives("mprotect", Some("mprotect"));
    let out = child_of("overflow", Some("mprotect"));
    assert_eq!(out.status.signal(), Some(libc::SIGABRT));
    assert!(text(&out.stderr).contains("has overflowed its stack"));
}

fn map_count() {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let spec = Spec::with_growth(64 * KIB, StackGrowth::Trap).unwrap();
    let mut stacks = Vec::with_capacity(limit);
    let error = loop {
        match acquire(spec) {
            Ok(stack) => stacks.push(stack),
            Err(error) => break error,
        }
        assert!(stacks.len() < limit, "more stacks than mappings");
    };
    // The pool's slabs need mappings too, so either may be what fails.
    let message = error.to_string();
    assert_eq!(error, StackError::MapCount, "{message}");
    assert!(
        message.contains("vm.max_map_count") && message.contains("sysctl -w"),
        "{message}"
    );
    // What there is goes on to work.
    release(stacks.pop().unwrap());
    release(acquire(spec).unwrap());
    println!("survived");
    // SAFETY: ends the process. Ending it in order would need mappings, for the vector's memory and the thread's.
    unsafe { libc::_exit(0) };
}

#[test]
fn no_mappings_are_an_error_with_a_cure() {
    survives("map_count", Some("mprotect"));
}

// ---- fork -----------------------------------------------------------------------------------------------------------

fn forked() {
    let _alt = prepare();
    let stack = run(stack(4 * MIB), |desc| {
        // SAFETY: the child only runs on this stack and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            descend(desc.base(), 1500 * KIB, &mut || {});
            // SAFETY: ends the child.
            unsafe {
                libc::_exit(if desc.floor() == desc.limit() || desc.traps() == 1 {
                    7
                } else {
                    1
                })
            };
        }
        let mut status = 0;
        // SAFETY: writes the status.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(libc::WEXITSTATUS(status), 7);
        assert_eq!(desc.traps(), 0, "the parent's stack is its own");
    });
    release(stack);
}

#[test]
fn guards_and_growth_survive_a_fork() {
    survives("forked", None);
}
