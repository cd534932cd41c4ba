//! What the runtime's primitives stand on, in terms of loom: parties that loom's threads are, locks that are loom's. A model
//! includes the primitive's own file, and finds these under the names that it has in the runtime.
//!
//! ```text
//!   hchan.rs, promise.rs, condvar.rs,
//!   semaphore.rs, wait_group.rs          the runtime's files, as they are
//!   waitlist.rs, ticket.rs               likewise
//!   park, lock, sched, time              here
//! ```
//!
//! A wait with a deadline may time out at any moment: its timer is a thread of the model that claims the party, as a peer does.
//! What a claimer leaves for the party is watched by loom.
#![allow(dead_code, unused_imports, missing_docs, unreachable_pub)]

/// What the models may leave out, to see that they notice.
pub(crate) mod fault {
    use std::cell::Cell;

    thread_local! {
        /// Whoever finds a party takes it for his, although somebody else was faster. All threads of a model are on one of std's.
        pub(crate) static CLAIM: Cell<bool> = const { Cell::new(false) };
    }
}

pub(crate) mod park {
    use crate::{fault, ticket::Ticket, time::heap::NEVER};
    use loom::{
        cell::UnsafeCell,
        sync::{Arc, Condvar, Mutex, atomic::AtomicU64},
        thread,
    };
    use std::cell::Cell;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) enum Event {
        TimedOut,
        Done,
        Closed,
    }

    #[derive(Clone, Copy)]
    pub(crate) enum WaitReason {
        ChanSend,
        ChanRecv,
        Condvar,
        Semaphore,
        WaitGroup,
    }

    pub(crate) struct Waiter {
        ticket: Cell<Option<Ticket>>,
        word: Arc<AtomicU64>,
        left: UnsafeCell<(u32, Event)>,
        woken: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Waiter {
        pub(crate) fn new() -> Self {
            Self {
                ticket: Cell::new(None),
                word: Arc::new(AtomicU64::new(0)),
                left: UnsafeCell::new((0, Event::TimedOut)),
                woken: Arc::new((Mutex::new(false), Condvar::new())),
            }
        }

        pub(crate) fn park(&self, _: WaitReason, commit: impl FnOnce() -> bool) {
            assert!(commit());
            self.sleep();
        }

        pub(crate) fn park_until(&self, _: WaitReason, deadline: u64, commit: impl FnOnce() -> bool) {
            let ticket = Ticket::open(&self.word);
            self.ticket.set(Some(ticket));
            assert!(commit());
            let timer = (deadline != NEVER).then(|| {
                let (word, woken) = (Arc::clone(&self.word), Arc::clone(&self.woken));
                thread::spawn(move || {
                    if crate::ticket::claim(&word, ticket.number()) || fault::CLAIM.get() {
                        wake(&woken);
                    }
                })
            });
            self.sleep();
            timer.into_iter().for_each(|timer| timer.join().unwrap());
        }

        fn sleep(&self) {
            let mut woken = self.woken.0.lock().unwrap();
            while !*woken {
                woken = self.woken.1.wait(woken).unwrap();
            }
        }

        pub(crate) fn outcome(&self) -> Event {
            // SAFETY: loom checks it.
            self.left.with(|left| unsafe { (*left).1 })
        }

        /// # Safety
        ///
        /// As in the runtime.
        pub(crate) unsafe fn claim(&self, case: u32, outcome: Event) -> bool {
            // SAFETY: as the caller promised.
            let ours = self.ticket.get().is_none_or(|ticket| unsafe { ticket.claim() });
            if ours || fault::CLAIM.get() {
                // SAFETY: loom checks it.
                self.left.with_mut(|left| unsafe { *left = (case, outcome) });
            }
            ours || fault::CLAIM.get()
        }

        pub(crate) fn wake(&self) {
            wake(&Arc::clone(&self.woken));
        }
    }

    /// The party may be gone as soon as it can see this.
    fn wake(woken: &(Mutex<bool>, Condvar)) {
        let before = std::mem::replace(&mut *woken.0.lock().unwrap(), true);
        assert!(!before, "a party is woken once");
        woken.1.notify_one();
    }
}

pub(crate) mod lock {
    pub(crate) use loom::sync::MutexGuard;

    /// loom's mutex with the face of the runtime's.
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        /// # Safety
        ///
        /// Selecting has a model of its own: `tests/explore/select.rs`.
        pub(crate) unsafe fn force_unlock<G>(&self, _: G) {
            unreachable!("nobody selects here")
        }

        pub(crate) fn data_ptr(&self) -> *mut T {
            unreachable!("nobody selects here")
        }
    }
}

pub(crate) mod sched {
    pub(crate) fn checkpoint() {}
}

pub(crate) mod time {
    pub(crate) mod heap {
        pub(crate) const NEVER: u64 = u64::MAX;
    }

    /// Deadlines lie in the future when a wait begins.
    pub(crate) fn now() -> u64 {
        0
    }
}

#[path = "../../../runtime/src/ticket.rs"]
pub(crate) mod ticket;
#[path = "../../../runtime/src/waitlist.rs"]
pub(crate) mod waitlist;

/// A message that loom watches: what the sender has written is there for the receiver.
pub(crate) struct Message(Box<loom::cell::UnsafeCell<usize>>);

// SAFETY: loom checks it.
unsafe impl Send for Message {}

impl Message {
    pub(crate) fn new(n: usize) -> Self {
        let cell = Box::new(loom::cell::UnsafeCell::new(0));
        // SAFETY: loom checks it.
        cell.with_mut(|value| unsafe { *value = n });
        Self(cell)
    }

    pub(crate) fn read(self) -> usize {
        // SAFETY: loom checks it.
        self.0.with(|value| unsafe { *value })
    }
}

/// Explores with at most so many preemptions.
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// With the fault a model must fail, in whatever way.
pub(crate) fn notices_lost_claims(model: impl FnOnce() + std::panic::UnwindSafe) {
    fault::CLAIM.set(true);
    let found = std::panic::catch_unwind(model);
    fault::CLAIM.set(false);
    assert!(found.is_err(), "the model does not notice");
}
