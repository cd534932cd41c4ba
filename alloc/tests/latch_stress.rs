//! The P latch under real threads, in every mode.
//!
//! ```text
//!   3 owners ──▶ sections, look home, bind, unbind ──▶ ┌──────────────┐
//!   thief    ──▶ take, use, put back ────────────────▶ │ 2 Ps, each   │
//!   sysmon   ──▶ suspect all, one barrier, detach ───▶ │ with 2 plain │
//!                                                      │ counters     │
//!                                                      └──────────────┘
//! ```
//!
//! Whoever uses a P counts both its counters up with plain loads and stores. Two users at once lose a count or see the
//! two differ, and the total at the end is exact. How owners fence is a matter of the whole process, so each mode has a
//! process of its own: the test starts itself again. A run is over when the sysmon has detached so many Ps.

#![cfg(not(baton_loom))]

use baton_alloc::{
    latch::{self, Home, Kind, M, Mode, P, barrier},
    lease,
};
use std::{
    cell::UnsafeCell,
    env, hint, panic, process, ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

/// How many Ps the sysmon detaches in one run.
const DETACHES: u64 = if cfg!(debug_assertions) { 60 } else { 100 };
/// Rounds in a row without a P after which the sysmon calls the Ps lost: far more than fit into the time that an owner
/// may have to wait for a core.
const LOST: u64 = 20_000_000;
const OWNERS: usize = 3;
/// How long an owner stays outside between two sections.
const PAUSE: u64 = 8;
/// An owner gives its P up after so many sections.
const SECTIONS: u64 = 10_000;

/// A P with something in it.
struct Proc {
    p: P,
    counters: UnsafeCell<[u64; 2]>,
}

// SAFETY: the counters are touched by the P's user alone, which is what the test checks.
unsafe impl Sync for Proc {}

impl Proc {
    fn new() -> Self {
        Self {
            p: P::new(Kind::Processor, ptr::null_mut()),
            counters: UnsafeCell::new([0; 2]),
        }
    }

    /// Uses the P.
    fn count(&self) {
        let [a, b] = [0, 1].map(|n| self.counters.get().cast::<u64>().wrapping_add(n));
        // SAFETY: the pointers are the two counters, and the caller owns the P. Volatile, so that each count is a load
        // and a store of its own, as far apart as two fields of a queue would be.
        unsafe {
            let (old_a, old_b) = (a.read_volatile(), b.read_volatile());
            assert_eq!(old_a, old_b, "two users of one P");
            a.write_volatile(old_a + 1);
            b.write_volatile(old_b + 1);
        }
    }
}

/// What all threads of a run share.
struct Run {
    procs: [Proc; 2],
    uses: AtomicU64,
    stolen: AtomicU64,
    detached: AtomicU64,
    over: AtomicBool,
    midway: fn(),
}

impl Run {
    fn proc_of(&self, p: &P) -> &Proc {
        let found = self.procs.iter().find(|proc| ptr::eq(&proc.p, p));
        found.expect("a section uses a P of this run")
    }

    /// One section of this thread's M. Gives whether it had a P.
    fn section(&self, m: &M) -> bool {
        // SAFETY: each M here belongs to one thread, which opens no section inside another; what happens before `leave`
        // neither allocates nor parks, and an assertion that fails ends the test anyway.
        let p = unsafe { m.enter() };
        if let Some(p) = p {
            self.proc_of(p).count();
        }
        // SAFETY: entered above.
        unsafe { m.leave() };
        p.is_some()
    }

    fn bind_any(&'static self, m: &'static M, first: usize) -> bool {
        // SAFETY: the callers are the M's thread, outside sections, and the M has no P.
        (0..self.procs.len()).any(|n| unsafe { m.bind(&self.procs[(first + n) % self.procs.len()].p) })
    }

    fn owner(&'static self, m: &'static M, n: usize) {
        let mut uses = 0;
        let mut turn = n as u64;
        while !self.over.load(Ordering::Relaxed) {
            turn += 1;
            if self.section(m) {
                uses += 1;
                // Mostly outside, so that a thread that loses its core seldom loses it in a section.
                (0..PAUSE).for_each(|_| hint::spin_loop());
            } else {
                // Waits every other time, and otherwise goes on without, as malloc does.
                // SAFETY: this is the M's thread, outside sections.
                match unsafe { m.look_home(turn.is_multiple_of(2)) } {
                    Home::Gone if !self.bind_any(m, turn as usize) => thread::yield_now(),
                    Home::Gone | Home::Back | Home::Busy => {}
                }
            }
            if turn.is_multiple_of(SECTIONS) {
                // SAFETY: as above.
                let _ = unsafe { m.unbind() };
            }
        }
        // SAFETY: as above.
        let _ = unsafe { m.unbind() };
        self.uses.fetch_add(uses, Ordering::Relaxed);
    }

    /// Takes one P after the other and puts each back, as long as the sysmon is at work.
    fn thief(&'static self) {
        let mut takes = 0;
        for proc in self.procs.iter().cycle() {
            if let Some(taken) = proc.p.take() {
                self.proc_of(taken.p()).count();
                takes += 1;
            }
            if takes > 0 && self.detached.load(Ordering::Relaxed) >= DETACHES {
                break;
            }
        }
        self.uses.fetch_add(takes, Ordering::Relaxed);
        self.stolen.store(takes, Ordering::Relaxed);
    }

    /// Takes what can be taken with one barrier, keeps it for a while, and releases it.
    fn sysmon(&'static self) {
        let (mut takes, mut rounds) = (0, 0);
        let mut midway = Some(self.midway);
        while takes < DETACHES {
            let suspects = self.procs.each_ref().map(|proc| proc.p.suspect());
            let barrier = barrier();
            for suspect in suspects.into_iter().flatten() {
                // SAFETY: the barrier came after the suspects.
                if let Some(taken) = unsafe { suspect.confirm(&barrier) } {
                    self.proc_of(taken.p()).count();
                    let detached = taken.detach();
                    self.proc_of(detached.p()).count();
                    detached.release();
                    (takes, rounds) = (takes + 1, 0);
                }
            }
            self.detached.store(takes, Ordering::Relaxed);
            if takes >= DETACHES / 2
                && let Some(call) = midway.take()
            {
                call();
            }
            rounds += 1;
            assert!(rounds < LOST, "no P can be taken any more");
            thread::yield_now();
        }
        self.uses.fetch_add(2 * takes, Ordering::Relaxed);
    }
}

/// A run of all threads, in the middle of which the sysmon calls `midway`.
fn run(midway: fn()) {
    let run: &'static Run = Box::leak(Box::new(Run {
        procs: [Proc::new(), Proc::new()],
        uses: AtomicU64::new(0),
        stolen: AtomicU64::new(0),
        detached: AtomicU64::new(0),
        over: AtomicBool::new(false),
        midway,
    }));
    let mut uses = 0;
    let mut owners = Vec::new();
    for n in 0..OWNERS {
        let m: &'static M = Box::leak(Box::new(M::new()));
        // The takers find owners with Ps that they may trust in fence mode, whichever thread runs first.
        if run.bind_any(m, n) && run.section(m) {
            uses += 1;
        }
        owners.push(thread::spawn(move || run.owner(m, n)));
    }
    let takers = [thread::spawn(|| run.thief()), thread::spawn(|| run.sysmon())];
    let takers = takers.map(thread::JoinHandle::join);
    run.over.store(true, Ordering::Relaxed);
    for thread in takers
        .into_iter()
        .chain(owners.into_iter().map(thread::JoinHandle::join))
    {
        thread.expect("no thread of the run fails");
    }
    // Every P is free, and none was lost.
    let m: &'static M = Box::leak(Box::new(M::new()));
    uses += run.uses.load(Ordering::Relaxed);
    let mut total = 0;
    for proc in &run.procs {
        // SAFETY: the M is this thread's, outside sections, and has no P.
        assert!(unsafe { m.bind(&proc.p) }, "a P is lost");
        assert!(run.section(m));
        uses += 1;
        // SAFETY: as above.
        assert!(unsafe { m.unbind() }.is_some());
        // SAFETY: all other threads of the run have ended.
        total += unsafe { (*proc.counters.get())[0] };
    }
    assert_eq!(total, uses, "uses were lost");
    let (stolen, detached) = (run.stolen.load(Ordering::Relaxed), run.detached.load(Ordering::Relaxed));
    let (mode, membarriers) = (latch::mode(), latch::membarriers());
    println!("{mode:?}: {uses} uses, {stolen} stolen, {detached} detached, {membarriers} membarriers");
}

/// Runs `body` in a process of its own: this test, started again with one more variable.
fn in_own_process(test: &str, variable: (&str, &str), body: impl FnOnce()) {
    const CHILD: &str = "BATON_TEST_CHILD";
    if env::var_os(CHILD).is_some() {
        // A thread that fails holds a P or a lock that the others wait for.
        panic::set_hook(Box::new(|info| {
            eprintln!("{info}");
            process::exit(1);
        }));
        lease::attach(); // the first M of the process: here it chooses its mode
        return body();
    }
    // One run at a time: each wants all cores.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = process::Command::new(env::current_exe().expect("a test knows its file"))
        .args(["--exact", test, "--nocapture"])
        .env_remove("BATON_LATCH")
        .env(CHILD, "1")
        .env(variable.0, variable.1)
        .output()
        .expect("a test can be started again");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{out}");
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "the child ran no test: {out}");
}

/// Whether the kernel obeys membarriers. If it does not, there is only fence mode to test.
fn has_membarrier() -> bool {
    let has = latch::mode() == Mode::Membarrier;
    if !has {
        println!("the kernel refuses membarrier: nothing to test");
    }
    has
}

#[test]
fn membarrier_mode() {
    in_own_process("membarrier_mode", ("BATON_LATCH", ""), || {
        if has_membarrier() {
            run(|| ());
            assert_eq!(latch::mode(), Mode::Membarrier);
            assert!(latch::membarriers() > 0);
            assert!(latch::barrier().orders_owners());
        }
    });
}

#[test]
fn fence_mode() {
    in_own_process("fence_mode", ("BATON_LATCH", "fence"), || {
        run(|| ());
        assert_eq!(latch::mode(), Mode::Fence);
        assert!(latch::barrier().orders_owners());
        assert_eq!(latch::membarriers(), 0);
    });
}

/// The process sandboxes itself while its threads run: owners go over to fences in the middle of the run.
#[test]
fn sandboxed_midway() {
    in_own_process("sandboxed_midway", ("BATON_LATCH", ""), || {
        if has_membarrier() {
            run(refuse_membarrier);
            assert_eq!(latch::mode(), Mode::Fence);
            // An owner may still not have noticed.
            assert!(!latch::barrier().orders_owners());
        }
    });
}

/// Makes the kernel refuse membarrier to all threads of this process from now on.
fn refuse_membarrier() {
    const EPERM: u32 = libc::EPERM as u32;
    let statement = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut filter = [
        statement(load, 0, 0, 0), // the number of the system call
        statement(equal, libc::SYS_membarrier as u32, 0, 1),
        statement(give, libc::SECCOMP_RET_ERRNO | EPERM, 0, 0),
        statement(give, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the filter outlives the calls, which copy it; it takes no system call away but membarrier.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            ptr::from_ref(&program),
        )
    };
    assert_eq!(installed, 0, "seccomp: {}", std::io::Error::last_os_error());
}
