//! The real code of `src/latch.rs`, in fence mode, in every interleaving and memory order that loom can tell apart.
//!
//! ```text
//! RUSTFLAGS="--cfg baton_loom" cargo test -p baton-alloc --release --test latch_loom
//! ```
//!
//! Each model has owners, takers and a plain counter per P. Whoever uses the P increments its counter, and loom reports
//! any two uses that are not ordered. At the end the counter must hold the sum, and the P must be where its last user
//! said. Every outcome that a model is about (a take, an undo, a look home of each kind …) is counted over all runs
//! and must have come up, so that no model can pass by doing nothing.
//!
//! Preemptions are bounded (3 or 4 by model); `LOOM_MAX_PREEMPTIONS` sets another bound for all models.

#![cfg(baton_loom)]

use baton_alloc::latch::{Home, Kind, M, P, Suspect, barrier};
use loom::{cell::UnsafeCell, model::Builder, thread};
use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A P with something in it.
struct Proc {
    p: P,
    counter: UnsafeCell<usize>,
}

// SAFETY: the counter is touched by the P's user alone, which is what the models check.
unsafe impl Sync for Proc {}

impl Proc {
    /// A P that nobody runs. It is leaked, as the latch wants; the process ends soon.
    fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            p: P::new(Kind::Processor, ptr::null_mut()),
            counter: UnsafeCell::new(0),
        }))
    }

    /// Uses the P.
    fn increment(&self) {
        // SAFETY: the caller owns the P; if it does not, loom sees two accesses at once and fails the model.
        self.counter.with_mut(|counter| unsafe { *counter += 1 });
    }

    fn is(&self, p: &P) -> bool {
        ptr::eq(&self.p, p)
    }
}

/// An M that runs `proc`. If `fenced`, it has been in a section already, so that takers trust it.
fn m_on(proc: &'static Proc, fenced: bool) -> &'static M {
    let m = a_m();
    // SAFETY: the M is new, so it has no section and no P, and no thread uses it yet.
    assert!(unsafe { m.bind(&proc.p) });
    if fenced {
        assert!(section(m, proc));
    }
    m
}

fn a_m() -> &'static M {
    Box::leak(Box::new(M::new()))
}

/// One section: uses the P if the M has it. The P can be no other than `proc`.
fn section(m: &M, proc: &Proc) -> bool {
    // SAFETY: each M belongs to one thread of the model, which closes the section below.
    let p = unsafe { m.enter() };
    if let Some(p) = p {
        assert!(proc.is(p), "an M in the wrong P");
        proc.increment();
    }
    // SAFETY: entered above.
    unsafe { m.leave() };
    p.is_some()
}

/// How often each outcome came up, over all runs of one model. These are not loom's atomics: they outlive the runs.
#[derive(Default)]
struct Outcomes {
    taken: AtomicUsize,
    not_taken: AtomicUsize,
    without_p: AtomicUsize,
    back: AtomicUsize,
    gone: AtomicUsize,
    busy: AtomicUsize,
    bound: AtomicUsize,
}

fn count(outcome: &AtomicUsize) {
    outcome.fetch_add(1, Relaxed);
}

#[track_caller]
fn all_came_up(outcomes: &[&AtomicUsize]) {
    for (n, outcome) in outcomes.iter().enumerate() {
        assert!(
            outcome.load(Relaxed) > 0,
            "outcome {n} never came up: the model is too small"
        );
    }
}

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

/// The owner's slow path: what became of the P.
fn look_home(m: &M, wait: bool, outcomes: &Outcomes) -> Home {
    count(&outcomes.without_p);
    // SAFETY: called by the M's thread with its section closed.
    let home = unsafe { m.look_home(wait) };
    count(match home {
        Home::Back => &outcomes.back,
        Home::Gone => &outcomes.gone,
        Home::Busy => &outcomes.busy,
    });
    home
}

/// Takes the P, uses it and puts it back. Gives the number of uses.
fn steal(proc: &'static Proc, outcomes: &Outcomes) -> usize {
    let Some(taken) = proc.p.take() else {
        count(&outcomes.not_taken);
        return 0;
    };
    count(&outcomes.taken);
    assert!(proc.is(taken.p()));
    proc.increment();
    1
}

/// Takes the P for good, uses it before and after it lets the lock go, and releases it. Gives the number of uses.
fn hand_off(proc: &'static Proc, outcomes: &Outcomes) -> usize {
    let Some(taken) = proc.p.take() else {
        count(&outcomes.not_taken);
        return 0;
    };
    count(&outcomes.taken);
    proc.increment();
    let detached = taken.detach();
    proc.increment();
    detached.release();
    2
}

fn uses(proc: &'static Proc) -> usize {
    // SAFETY: every thread of the model was joined.
    proc.counter.with(|counter| unsafe { *counter })
}

/// A thief gets the P or undoes; the owner always ends with the P.
#[test]
fn thief() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(4, move || {
        let proc = Proc::new();
        let m = m_on(proc, true);
        let thief = thread::spawn(move || steal(proc, outcomes));
        let mut used = 1;
        for _ in 0..2 {
            if section(m, proc) {
                used += 1;
            } else {
                assert_eq!(look_home(m, true, outcomes), Home::Back, "a thief keeps nothing");
                assert!(section(m, proc), "one thief, and it is gone");
                used += 1;
            }
        }
        used += thief.join().unwrap();
        assert!(section(m, proc));
        assert_eq!(uses(proc), used + 1);
    });
    all_came_up(&[
        &outcomes.taken,
        &outcomes.not_taken,
        &outcomes.without_p,
        &outcomes.back,
    ]);
}

/// An idle P that one borrows while another has it for longer.
#[test]
fn idle() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(4, move || {
        let proc = Proc::new();
        let thief = thread::spawn(move || {
            let borrowed = proc.p.borrow(|_| proc.increment()).is_some();
            count(if borrowed { &outcomes.taken } else { &outcomes.not_taken });
            usize::from(borrowed)
        });
        let detached = proc.p.detach_idle().expect("nobody binds it");
        proc.increment();
        assert!(detached.p().detach_idle().is_none(), "it is taken");
        proc.increment();
        detached.release();
        let used = 2 + thief.join().unwrap();
        assert_eq!(uses(proc), used);
    });
    all_came_up(&[&outcomes.taken, &outcomes.not_taken]);
}

/// The very first section of an M: until it is fenced, takers must not trust what they see.
#[test]
fn first_fenced_section() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(4, move || {
        let proc = Proc::new();
        let m = m_on(proc, false);
        let thief = thread::spawn(move || steal(proc, outcomes));
        let used = usize::from(section(m, proc)) + usize::from(section(m, proc));
        assert_eq!(uses_after(thief, proc), used);
    });
    all_came_up(&[&outcomes.taken, &outcomes.not_taken]);
}

/// What the owner has used, by way of the total and what the thief says of itself.
fn uses_after(thief: thread::JoinHandle<usize>, proc: &'static Proc) -> usize {
    let stolen = thief.join().unwrap();
    uses(proc) - stolen
}

/// An owner that must not wait, as in malloc: it looks home without blocking and goes on without a P.
#[test]
fn owner_that_does_not_wait() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(4, move || {
        let proc = Proc::new();
        let m = m_on(proc, true);
        let taker = thread::spawn(move || hand_off(proc, outcomes));
        let mut used = 1;
        for _ in 0..2 {
            if section(m, proc) {
                used += 1;
            } else {
                let _ = look_home(m, false, outcomes);
            }
        }
        assert_eq!(uses_after(taker, proc), used);
    });
    all_came_up(&[&outcomes.taken, &outcomes.not_taken, &outcomes.gone, &outcomes.busy]);
}

/// The sysmon takes the P for good; another M binds it, and so does the old one if it finds it free again.
#[test]
fn hand_off_to_another_m() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(3, move || {
        let proc = Proc::new();
        let m1 = m_on(proc, true);
        let m2 = a_m();
        let sysmon = thread::spawn(move || hand_off(proc, outcomes));
        let other = thread::spawn(move || {
            // SAFETY: m2 is this thread's, new, and in no section.
            let bound = unsafe { m2.bind(&proc.p) };
            if !bound {
                return 0;
            }
            count(&outcomes.bound);
            let used = usize::from(section(m2, proc));
            // SAFETY: as above; nobody but m2 has the P, for the sysmon takes it only once.
            assert!(unsafe { m2.unbind() }.is_some_and(|p| proc.is(p)));
            used
        });
        let mut used = 1;
        if section(m1, proc) {
            used += 1;
        } else if look_home(m1, true, outcomes) == Home::Gone {
            // SAFETY: m1 is this thread's, in no section, and its P is gone.
            if unsafe { m1.bind(&proc.p) } {
                assert!(section(m1, proc));
                used += 1;
            }
        }
        used += sysmon.join().unwrap() + other.join().unwrap();
        assert_eq!(uses(proc), used);
    });
    all_came_up(&[&outcomes.taken, &outcomes.not_taken, &outcomes.gone, &outcomes.bound]);
}

/// A thief and the sysmon want the same P.
#[test]
fn two_takers() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(3, move || {
        let proc = Proc::new();
        let m = m_on(proc, true);
        let thief = thread::spawn(move || steal(proc, outcomes));
        let sysmon = thread::spawn(move || hand_off(proc, outcomes));
        let mut used = 1;
        for _ in 0..2 {
            if section(m, proc) {
                used += 1;
            } else {
                let _ = look_home(m, true, outcomes);
            }
        }
        used += thief.join().unwrap();
        let handed_off = sysmon.join().unwrap();
        assert_eq!(uses(proc), used + handed_off);
        assert_eq!(proc.p.is_bound(), handed_off == 0);
        assert_eq!(m.p().is_some(), handed_off == 0, "a P that was put back is there");
    });
    all_came_up(&[&outcomes.taken, &outcomes.not_taken, &outcomes.back, &outcomes.gone]);
}

/// The owner gives its P up while a thief is at it.
#[test]
fn unbind_against_a_thief() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(4, move || {
        let proc = Proc::new();
        let m = m_on(proc, true);
        let thief = thread::spawn(move || steal(proc, outcomes));
        // SAFETY: m is this thread's and in no section.
        assert!(unsafe { m.unbind() }.is_some(), "a thief keeps nothing");
        assert!(!section(m, proc), "unbound");
        // SAFETY: as above, and m is bound to nothing.
        assert!(unsafe { m.bind(&proc.p) });
        let used = 1 + usize::from(section(m, proc)) + thief.join().unwrap();
        assert!(section(m, proc));
        assert_eq!(uses(proc), used + 1);
    });
    all_came_up(&[&outcomes.taken, &outcomes.not_taken]);
}

/// One barrier for the Ps of two Ms.
#[test]
fn batch() {
    let outcomes: &'static Outcomes = Box::leak(Box::default());
    check(3, move || {
        let procs = [Proc::new(), Proc::new()];
        let ms = procs.map(|proc| m_on(proc, true));
        let sysmon = thread::spawn(move || {
            let suspects: [Option<Suspect>; 2] = procs.map(|proc| proc.p.suspect());
            let barrier = barrier();
            let mut used = [0, 0];
            for (n, suspect) in suspects.into_iter().enumerate() {
                let suspect = suspect.expect("nobody else takes");
                // SAFETY: the barrier came after the suspects.
                let taken = unsafe { suspect.confirm(&barrier) };
                count(if taken.is_some() {
                    &outcomes.taken
                } else {
                    &outcomes.not_taken
                });
                if taken.is_some() {
                    procs[n].increment();
                    used[n] = 1;
                }
            }
            used
        });
        let other = thread::spawn(move || usize::from(section(ms[1], procs[1])));
        let used = usize::from(section(ms[0], procs[0]));
        let taken = sysmon.join().unwrap();
        let others = other.join().unwrap();
        assert_eq!(uses(procs[0]), 1 + used + taken[0]);
        assert_eq!(uses(procs[1]), 1 + others + taken[1]);
    });
    all_came_up(&[&outcomes.taken, &outcomes.not_taken]);
}
