//! Condition variables, semaphores and wait groups in loom models: the runtime's own files, on parties and locks that are loom's. (The lock under
//! `Mutex` and `RwLock` has `lock_loom.rs`.)
//!
//! ```text
//! RUSTFLAGS="--cfg baton_loom" CARGO_TARGET_DIR=target/loom cargo test -p baton-alloc --release --test sync_loom
//! ```
//!
//! Made wrong by hand, each of these was found:
//!
//! | left out | found by |
//! |---|---|
//! | `Condvar`: the count of those who wait is raised before the mutex is given back | `a_notification_is_not_lost` |
//! | `Condvar`: the mutex is given back before the party parks, under its context's lock | `a_wait_and_a_lock_that_end_with_one_context` |
//! | `Condvar`: who has timed out takes no notification | `a_notification_goes_past_those_who_time_out` |
//! | `Semaphore`: `WAITERS` and the look at the permits are one step | `permits_go_round` |
//! | `Semaphore`: who gives up lets those behind have what it left | `who_gives_up_holds_nobody_back` |
//! | `Semaphore`: what comes back is handed out with what happened before (Acquire) | `permits_go_round` |
//! | `WaitGroup`: the orderings of who leaves, of who looks at the shares, and of who joins again | `who_waits_sees_what_members_did`, `who_gives_up_waiting_is_in_again` |
//! | `WaitGroup`: a clone takes its share in one step | `clones_of_one_member_at_once_are_all_counted` |
//! | `WaitGroup`: the look at the shares and the queueing up are one step | `clones_of_one_member_at_once_are_all_counted` |
//! | `WaitGroup`: nobody joins a group that has no member; who waits holds the memory; the last gives it up | each of its models |
#![cfg(baton_loom)]
#![allow(missing_docs, unreachable_pub)]

mod parties;

pub(crate) use parties::{explore, fault, lock, notices_lost_claims, park, sched, ticket, time, waitlist};

#[allow(dead_code, unused_imports)]
#[path = "../../runtime/src/sync"]
mod sync {
    #[path = "condvar.rs"]
    mod condvar;
    #[path = "semaphore.rs"]
    mod semaphore;
    #[path = "wait_group.rs"]
    mod wait_group;

    mod shim {
        pub(super) use loom::sync::{
            Arc,
            atomic::{AtomicU32, AtomicUsize, Ordering},
        };
    }

    use crate::{
        park::{Event, WaitReason, Waiter},
        time::heap::NEVER,
    };
    use std::time::{Duration, Instant};

    /// The lock of a context, which never ends.
    pub(crate) type Context = loom::sync::Mutex<()>;

    #[derive(Clone, Copy)]
    pub(crate) struct Until<'a>(u64, Option<&'a Context>);

    impl<'a> Until<'a> {
        pub(crate) const FOREVER: Self = Self(NEVER, None);
        /// May pass at any moment.
        pub(crate) const SOON: Self = Self(1, None);

        pub(crate) fn end_of(context: &'a Context) -> Self {
            Self(NEVER, Some(context))
        }

        pub(crate) fn timeout(_: Duration) -> Self {
            Self::SOON
        }

        pub(crate) fn instant(_: Instant) -> Self {
            Self::SOON
        }
    }

    pub(crate) fn park(waiter: &Waiter, reason: WaitReason, until: Until<'_>, commit: impl FnOnce() -> bool) -> bool {
        if let Some(context) = until.1 {
            waiter.park_until(reason, until.0, || {
                let _state = context.lock().unwrap();
                commit()
            });
            return true;
        }
        if until.0 == NEVER {
            waiter.park(reason, commit);
            return true;
        }
        waiter.park_until(reason, until.0, commit);
        waiter.outcome() != Event::TimedOut
    }

    /// A mutex that a condition variable can give back and take again, and a value that loom watches.
    mod mutex {
        use super::Context;
        use loom::sync::{Condvar, Mutex as Lock};

        pub(crate) struct Raw(Lock<bool>, Condvar);

        impl Raw {
            pub(crate) fn lock(&self) {
                let mut held = self.0.lock().unwrap();
                while *held {
                    held = self.1.wait(held).unwrap();
                }
                *held = true;
            }

            /// As `RawLock` does it: who waits takes the context's lock with the queue's lock held.
            fn lock_until(&self, context: &Context) {
                let mut held = self.0.lock().unwrap();
                while *held {
                    drop(context.lock().unwrap());
                    held = self.1.wait(held).unwrap();
                }
                *held = true;
            }

            /// # Safety
            ///
            /// The caller holds it.
            pub(crate) unsafe fn unlock(&self, _: lock_api::GuardSend) {
                *self.0.lock().unwrap() = false;
                self.1.notify_one();
            }
        }

        pub(crate) struct Mutex<T: ?Sized>(Raw, loom::cell::UnsafeCell<T>);
        pub(crate) struct MutexGuard<'a, T: ?Sized>(&'a Mutex<T>);

        // SAFETY: loom checks it.
        unsafe impl<T> Sync for Mutex<T> {}

        impl<T> Mutex<T> {
            pub(crate) fn new(value: T) -> Self {
                Self(
                    Raw(Lock::new(false), Condvar::new()),
                    loom::cell::UnsafeCell::new(value),
                )
            }

            pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
                self.0.lock();
                MutexGuard(self)
            }

            pub(crate) fn lock_until(&self, context: &Context) -> MutexGuard<'_, T> {
                self.0.lock_until(context);
                MutexGuard(self)
            }
        }

        impl<T: ?Sized> Mutex<T> {
            /// # Safety
            ///
            /// None is needed here.
            pub(crate) unsafe fn raw(&self) -> &Raw {
                &self.0
            }
        }

        impl<'a, T: ?Sized> MutexGuard<'a, T> {
            pub(crate) fn mutex(this: &Self) -> &'a Mutex<T> {
                this.0
            }
        }

        impl<T: ?Sized> std::ops::Deref for MutexGuard<'_, T> {
            type Target = T;
            fn deref(&self) -> &T {
                // SAFETY: locked; loom checks it.
                self.0.1.with(|value| unsafe { &*value })
            }
        }

        impl<T: ?Sized> std::ops::DerefMut for MutexGuard<'_, T> {
            fn deref_mut(&mut self) -> &mut T {
                // SAFETY: as above.
                self.0.1.with_mut(|value| unsafe { &mut *value })
            }
        }

        impl<T: ?Sized> Drop for MutexGuard<'_, T> {
            fn drop(&mut self) {
                // SAFETY: locked.
                unsafe { self.0.0.unlock(lock_api::GuardSend::new()) };
            }
        }
    }

    mod models {
        use super::{Context, Until, condvar::Condvar, mutex::Mutex, semaphore::Semaphore, wait_group::WaitGroup};
        use crate::{explore, notices_lost_claims};
        use loom::{cell::UnsafeCell, sync::Arc, thread};

        struct Gate {
            open: Mutex<usize>,
            condvar: Condvar,
        }

        fn gate() -> Arc<Gate> {
            Arc::new(Gate {
                open: Mutex::new(0),
                condvar: Condvar::new(),
            })
        }

        /// Waits for something in the gate, and takes it.
        fn take_one(gate: &Gate) {
            let mut open = gate.open.lock();
            gate.condvar.wait_while(&mut open, |open| *open == 0);
            *open -= 1;
        }

        /// Whoever notifies does so after the mutex was given back, as it may.
        #[test]
        fn a_notification_is_not_lost() {
            explore(3, || {
                let gate = gate();
                let other = Arc::clone(&gate);
                let waits = thread::spawn(move || take_one(&other));
                *gate.open.lock() += 1;
                gate.condvar.notify_one();
                waits.join().unwrap();
            });
        }

        #[test]
        fn all_are_notified() {
            explore(2, || {
                let gate = gate();
                let waiting = [0, 1].map(|_| {
                    let gate = Arc::clone(&gate);
                    thread::spawn(move || take_one(&gate))
                });
                *gate.open.lock() += 2;
                gate.condvar.notify_all();
                waiting.into_iter().for_each(|waits| waits.join().unwrap());
            });
        }

        /// One waits for the other, who waits for the mutex, and a context would end either wait.
        #[test]
        fn a_wait_and_a_lock_that_end_with_one_context() {
            explore(3, || {
                let (gate, context) = (gate(), Arc::new(Context::new(())));
                let waits = {
                    let (gate, context) = (Arc::clone(&gate), Arc::clone(&context));
                    thread::spawn(move || {
                        let mut open = gate.open.lock();
                        while *open == 0 {
                            gate.condvar.wait_limited(&mut open, Until::end_of(&context));
                        }
                    })
                };
                *gate.open.lock_until(&context) += 1;
                gate.condvar.notify_one();
                waits.join().unwrap();
            });
        }

        /// Two wait, one of them with a deadline, and one is notified. If it was the one who timed out just then, the other one
        /// is; if it was notified in time, it passes that on.
        fn one_that_times_out() {
            let gate = gate();
            let timed = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    let mut open = gate.open.lock();
                    if *open == 0 && !gate.condvar.wait_limited(&mut open, Until::SOON).timed_out() {
                        drop(open);
                        gate.condvar.notify_one();
                    }
                })
            };
            let other = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || take_one(&gate))
            };
            *gate.open.lock() += 1;
            gate.condvar.notify_one();
            timed.join().unwrap();
            other.join().unwrap();
        }

        #[test]
        fn a_notification_goes_past_those_who_time_out() {
            explore(2, one_that_times_out);
        }

        #[test]
        fn a_claim_that_others_ignore_is_noticed() {
            notices_lost_claims(|| explore(2, one_that_times_out));
            notices_lost_claims(|| explore(2, || share(&[(1, false), (1, true)], 1)));
        }

        struct Shared {
            semaphore: Semaphore,
            value: UnsafeCell<usize>,
        }

        // SAFETY: loom checks it.
        unsafe impl Sync for Shared {}

        /// Each takes so many permits, perhaps with a deadline, and gives them back. Who has all is alone.
        fn share(parties: &[(usize, bool)], permits: usize) {
            let shared = Arc::new(Shared {
                semaphore: Semaphore::new(permits),
                value: UnsafeCell::new(0),
            });
            let act = move |shared: &Shared, (n, timed): (usize, bool)| {
                if !shared
                    .semaphore
                    .take(n, if timed { Until::SOON } else { Until::FOREVER })
                {
                    return;
                }
                if n == permits {
                    // SAFETY: loom checks that nobody else is there.
                    shared.value.with_mut(|value| unsafe { *value += 1 });
                } else {
                    // SAFETY: loom checks that nobody writes.
                    shared.value.with(|value| assert!(unsafe { *value } <= 3));
                }
                shared.semaphore.add_permits(n);
            };
            let threads: Vec<_> = parties[1..]
                .iter()
                .map(|&party| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || act(&shared, party))
                })
                .collect();
            act(&shared, parties[0]);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(shared.semaphore.try_acquire(permits).is_some(), "all are there again");
        }

        #[test]
        fn permits_go_round() {
            explore(3, || share(&[(1, false), (1, false), (1, false)], 1));
            explore(3, || share(&[(1, false), (2, false), (1, false)], 2));
        }

        #[test]
        fn who_gives_up_holds_nobody_back() {
            explore(2, || {
                let semaphore = Arc::new(Semaphore::new(2));
                semaphore.take(1, Until::FOREVER);
                let party = |n, until| {
                    let semaphore = Arc::clone(&semaphore);
                    thread::spawn(move || {
                        if semaphore.take(n, until) {
                            semaphore.add_permits(n);
                        }
                    })
                };
                let (timed, other) = (party(2, Until::SOON), party(1, Until::FOREVER));
                other.join().unwrap();
                timed.join().unwrap();
                assert_eq!(semaphore.available_permits(), 1);
            });
        }

        #[test]
        fn a_deadline_and_permits_that_come_back() {
            explore(3, || share(&[(1, false), (1, true)], 1));
        }

        /// What a member does before it leaves; who has waited for all of them sees it.
        struct Work(UnsafeCell<bool>);

        // SAFETY: loom checks it.
        unsafe impl Sync for Work {}

        impl Work {
            fn new() -> Arc<Self> {
                Arc::new(Self(UnsafeCell::new(false)))
            }

            /// A thread that does the work as a member.
            fn begin(work: &Arc<Self>, member: WaitGroup) -> thread::JoinHandle<()> {
                let work = Arc::clone(work);
                thread::spawn(move || {
                    // SAFETY: loom checks that nobody else is there.
                    work.0.with_mut(|done| unsafe { *done = true });
                    drop(member);
                })
            }

            fn is_done(&self) -> bool {
                // SAFETY: loom checks that nobody writes.
                self.0.with(|done| unsafe { *done })
            }
        }

        /// Loom checks that the group's memory is given back, once, and by nobody who is not the last.
        #[test]
        fn who_waits_sees_what_members_did() {
            explore(3, || {
                let group = WaitGroup::new();
                let work = [Work::new(), Work::new()];
                let threads = work.each_ref().map(|work| Work::begin(work, group.clone()));
                group.wait();
                assert!(work.iter().all(|work| work.is_done()));
                threads.into_iter().for_each(|thread| thread.join().unwrap());
            });
        }

        #[test]
        fn several_wait_for_one_group() {
            explore(2, || {
                let group = WaitGroup::new();
                let work = Work::new();
                let other = {
                    let (group, work) = (group.clone(), Arc::clone(&work));
                    thread::spawn(move || {
                        group.wait();
                        assert!(work.is_done());
                    })
                };
                let thread = Work::begin(&work, group.clone());
                group.wait();
                assert!(work.is_done());
                thread.join().unwrap();
                other.join().unwrap();
            });
        }

        /// Two threads clone one member, which has a share to spare or none.
        #[test]
        fn clones_of_one_member_at_once_are_all_counted() {
            for spare in [false, true] {
                explore(3, move || {
                    let first = WaitGroup::new();
                    let member = first.clone();
                    if spare {
                        drop(member.clone()); // takes two shares from the group
                    }
                    let work = Work::new();
                    let member = Arc::new(member);
                    let clones = [false, true].map(|works| {
                        let (member, work) = (Arc::clone(&member), works.then(|| Arc::clone(&work)));
                        thread::spawn(move || {
                            let clone = WaitGroup::clone(&member);
                            drop(member);
                            if let Some(work) = work {
                                Work::begin(&work, clone).join().unwrap();
                            }
                        })
                    });
                    drop(member);
                    first.wait();
                    assert!(work.is_done());
                    clones.into_iter().for_each(|thread| thread.join().unwrap());
                });
            }
        }

        /// Who gives up is a member again, unless the last has left just then.
        #[test]
        fn who_gives_up_waiting_is_in_again() {
            explore(3, || {
                let group = WaitGroup::new();
                let work = Work::new();
                let thread = Work::begin(&work, group.clone());
                if let Err(member) = group.wait_limited(Until::SOON) {
                    member.wait();
                }
                assert!(work.is_done());
                thread.join().unwrap();
            });
        }
    }
}
