//! The lock under `Mutex` and `RwLock` in a loom model: the file itself, with loom's atomics and parties that loom's threads are.
//! It stands in this crate because loom builds this one alone; the file is the runtime's.
//!
//! ```text
//! RUSTFLAGS="--cfg baton_loom" CARGO_TARGET_DIR=target/loom cargo test -p baton-alloc --release --test lock_loom
//! ```
//!
//! A wait with a deadline may time out at any moment: its timer is a thread of the model that claims the party, as a peer does.
#![cfg(baton_loom)]
#![allow(missing_docs)]

/// What the lock finds under `super` and `crate` in the runtime, in terms of loom.
#[path = "../../runtime/src/sync"]
mod sync {
    #[allow(dead_code, reason = "debuggers and reports use the rest")]
    #[path = "rawlock.rs"]
    pub(crate) mod rawlock;
    pub(crate) mod shim {
        pub(crate) use loom::sync::{
            MutexGuard as QueueGuard,
            atomic::{AtomicU64, AtomicUsize, Ordering},
        };
        pub(crate) use std::sync::atomic::AtomicU8;
        /// loom's mutex with the face of parking_lot's.
        pub(crate) struct QueueLock<T>(loom::sync::Mutex<T>);
        impl<T> QueueLock<T> {
            pub(crate) fn new(value: T) -> Self {
                Self(loom::sync::Mutex::new(value))
            }
            pub(crate) fn lock(&self) -> QueueGuard<'_, T> {
                self.0.lock().unwrap()
            }
        }
        pub(crate) fn look(_: &AtomicUsize, usual: usize) -> usize {
            usual
        }
        pub(crate) fn pause() {}
        pub(crate) fn worth_spinning() -> bool {
            false
        }
    }
    use crate::park::{Event, WaitReason, Waiter};
    use rawlock::RawLock;
    use std::cell::Cell;

    /// What reports say; nobody asks here.
    #[allow(dead_code, reason = "the lock names it")]
    pub(crate) enum HeldBy {
        Party(u64),
        Readers(usize),
        Nobody,
    }
    pub(crate) fn note_wait(_: &RawLock) {}

    #[derive(Clone, Copy)]
    pub(crate) struct Until<'a> {
        pub(crate) timer: bool,
        /// Whether somebody has looked at it already, if it has passed at the second look.
        pub(crate) looked: Option<&'a Cell<bool>>,
    }
    impl Until<'_> {
        pub(crate) fn new(timer: bool) -> Self {
            Self { timer, looked: None }
        }
        pub(crate) fn has_passed(self) -> bool {
            self.looked.is_some_and(|looked| looked.replace(true))
        }
    }
    pub(crate) fn park(waiter: &Waiter, _: WaitReason, until: Until<'_>, commit: impl FnOnce() -> bool) -> bool {
        assert!(commit());
        waiter.sleep(until.timer);
        waiter.outcome() == Event::Done
    }

    mod models {
        use super::{
            Until,
            rawlock::{Mode, RawLock},
        };
        use crate::park::WaitReason;
        use loom::{
            cell::UnsafeCell,
            sync::{
                Arc, Notify,
                atomic::{AtomicUsize, Ordering::Relaxed},
            },
            thread,
        };
        use std::cell::Cell;

        /// A value that loom watches, behind the lock.
        struct Guarded {
            lock: RawLock,
            value: UnsafeCell<usize>,
            added: AtomicUsize,
            told: Notify,
        }

        // SAFETY: loom checks it.
        unsafe impl Sync for Guarded {}

        /// What a thread of a model does, once each.
        #[derive(Clone, Copy)]
        enum Does {
            Add {
                timed: bool,
                fair: bool,
            },
            Read {
                timed: bool,
                fair: bool,
            },
            /// Reads, and then tells.
            ReadAndTell,
            AddThenRead,
            /// Becomes a reader and stays one until another reader has told.
            AddThenReadTogether,
        }

        impl Guarded {
            fn act(&self, does: Does) {
                let lock = |mode, timed| self.lock.lock(mode, 0, WaitReason::Mutex, Until::new(timed));
                // SAFETY: loom checks that the lock keeps readers and writers apart.
                let add = || self.value.with_mut(|value| unsafe { *value += 1 });
                // SAFETY: as above.
                let read = || self.value.with(|value| unsafe { *value });
                match does {
                    Does::Add { timed, fair } => {
                        if lock(Mode::Exclusive, timed) {
                            add();
                            self.added.fetch_add(1, Relaxed);
                            if fair {
                                self.lock.unlock_fair(Mode::Exclusive);
                            } else {
                                self.lock.unlock(Mode::Exclusive);
                            }
                        }
                    }
                    Does::Read { timed, fair } => {
                        if lock(Mode::Shared, timed) {
                            read();
                            if fair {
                                self.lock.unlock_fair(Mode::Shared);
                            } else {
                                self.lock.unlock(Mode::Shared);
                            }
                        }
                    }
                    Does::ReadAndTell => {
                        assert!(lock(Mode::Shared, false));
                        read();
                        self.told.notify();
                        self.lock.unlock(Mode::Shared);
                    }
                    Does::AddThenReadTogether => {
                        assert!(lock(Mode::Exclusive, false));
                        add();
                        self.added.fetch_add(1, Relaxed);
                        self.lock.downgrade();
                        self.told.wait();
                        self.lock.unlock(Mode::Shared);
                    }
                    Does::AddThenRead => {
                        assert!(lock(Mode::Exclusive, false));
                        add();
                        self.added.fetch_add(1, Relaxed);
                        self.lock.downgrade();
                        read();
                        self.lock.unlock(Mode::Shared);
                    }
                }
            }
        }

        /// All interleavings (with so many preemptions at most) of threads that do these things: nobody is left waiting (loom
        /// reports a deadlock), nobody meets in the value, and the lock is free at the end.
        fn model(preemptions: usize, all: &'static [Does]) {
            for starving in [false, true] {
                crate::time::RUNS.set(starving);
                check(preemptions, all);
            }
        }

        fn check(preemptions: usize, all: &'static [Does]) {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(preemptions);
            builder.check(move || {
                let guarded = Arc::new(Guarded {
                    lock: RawLock::new(),
                    value: UnsafeCell::new(0),
                    added: AtomicUsize::new(0),
                    told: Notify::new(),
                });
                let (first, rest) = all.split_first().unwrap();
                let threads: Vec<_> = rest
                    .iter()
                    .map(|&does| {
                        let guarded = Arc::clone(&guarded);
                        thread::spawn(move || guarded.act(does))
                    })
                    .collect();
                guarded.act(*first);
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                assert!(guarded.lock.try_lock(Mode::Exclusive), "nothing is left of anybody");
                // SAFETY: locked.
                let value = guarded.value.with(|value| unsafe { *value });
                assert_eq!(value, guarded.added.load(Relaxed));
            });
        }

        const ADD: Does = Does::Add {
            timed: false,
            fair: false,
        };
        const ADD_FAIR: Does = Does::Add {
            timed: false,
            fair: true,
        };
        const ADD_TIMED: Does = Does::Add {
            timed: true,
            fair: false,
        };
        const READ: Does = Does::Read {
            timed: false,
            fair: false,
        };
        const READ_FAIR: Does = Does::Read {
            timed: false,
            fair: true,
        };
        const READ_TIMED: Does = Does::Read {
            timed: true,
            fair: false,
        };

        /// A reader holds the lock and a writer waits: who comes to read now does not join the first, as readers that overlap
        /// would keep the writer out for ever.
        #[test]
        fn readers_do_not_join_others_past_a_writer_that_waits() {
            static TRIED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            for starving in [false, true] {
                crate::time::RUNS.set(starving);
                let mut builder = loom::model::Builder::new();
                builder.preemption_bound = Some(3);
                builder.check(|| {
                    let lock = Arc::new(RawLock::new());
                    let first_reads = Arc::new(AtomicUsize::new(1));
                    assert!(lock.try_lock(Mode::Shared));
                    let writer = {
                        let lock = Arc::clone(&lock);
                        thread::spawn(move || {
                            assert!(lock.lock(Mode::Exclusive, 0, WaitReason::Mutex, Until::new(false)));
                            lock.unlock(Mode::Exclusive);
                        })
                    };
                    let joined = lock.try_lock(Mode::Shared);
                    let second = (!joined).then(|| {
                        TRIED.fetch_add(1, Relaxed); // the writer waits
                        let (lock, first_reads) = (Arc::clone(&lock), Arc::clone(&first_reads));
                        thread::spawn(move || {
                            assert!(lock.lock(Mode::Shared, 0, WaitReason::Mutex, Until::new(false)));
                            // An addition sees the last value, and not some earlier one.
                            assert_eq!(first_reads.fetch_add(0, Relaxed), 0, "it has joined the first");
                            lock.unlock(Mode::Shared);
                        })
                    });
                    if joined {
                        lock.unlock(Mode::Shared);
                    }
                    first_reads.store(0, Relaxed); // it begins to leave, and may wake the writer before it has left
                    lock.unlock(Mode::Shared);
                    writer.join().unwrap();
                    second.into_iter().for_each(|second| second.join().unwrap());
                });
            }
            assert_ne!(TRIED.load(Relaxed), 0, "no reader was kept back");
        }

        /// A reader stays until another one has read, and a writer comes in between its wake and its lock.
        #[test]
        fn readers_read_together_although_a_writer_came_in_between() {
            for starving in [false, true] {
                crate::time::RUNS.set(starving);
                let mut builder = loom::model::Builder::new();
                builder.preemption_bound = Some(3);
                builder.check(|| {
                    let shared = Arc::new((RawLock::new(), Notify::new()));
                    let lock = &shared.0;
                    assert!(lock.try_lock(Mode::Exclusive));
                    let readers = [false, true].map(|stays| {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || {
                            let (lock, told) = &*shared;
                            assert!(lock.lock(Mode::Shared, 0, WaitReason::Mutex, Until::new(false)));
                            if stays {
                                told.wait();
                            } else {
                                told.notify();
                            }
                            lock.unlock(Mode::Shared);
                        })
                    });
                    lock.unlock(Mode::Exclusive);
                    if lock.try_lock(Mode::Exclusive) {
                        lock.unlock(Mode::Exclusive);
                    }
                    readers.into_iter().for_each(|reader| reader.join().unwrap());
                });
            }
        }

        /// A reader stays until another one has read, which was queued up behind a writer that was woken too late.
        #[test]
        fn readers_read_together_although_a_writer_was_woken_too_late() {
            for starving in [false, true] {
                crate::time::RUNS.set(starving);
                let mut builder = loom::model::Builder::new();
                builder.preemption_bound = Some(2);
                builder.check(|| {
                    let shared = Arc::new((RawLock::new(), Notify::new()));
                    let (lock, told) = &*shared;
                    assert!(lock.try_lock(Mode::Exclusive));
                    let writer = {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || {
                            let looked = Cell::new(false);
                            let until = Until {
                                timer: true,
                                looked: Some(&looked),
                            };
                            if shared.0.lock(Mode::Exclusive, 0, WaitReason::Mutex, until) {
                                shared.0.unlock(Mode::Exclusive);
                            }
                        })
                    };
                    let reader = {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || {
                            let (lock, told) = &*shared;
                            assert!(lock.lock(Mode::Shared, 0, WaitReason::Mutex, Until::new(false)));
                            told.notify();
                            lock.unlock(Mode::Shared);
                        })
                    };
                    lock.unlock(Mode::Exclusive);
                    if lock.try_lock(Mode::Shared) {
                        told.wait();
                        lock.unlock(Mode::Shared);
                    }
                    writer.join().unwrap();
                    reader.join().unwrap();
                });
            }
        }

        #[test]
        fn three_writers() {
            model(3, &[ADD, ADD, ADD]);
        }

        #[test]
        fn fair_writers() {
            model(3, &[ADD_FAIR, ADD_FAIR, ADD]);
        }

        #[test]
        fn a_writer_that_gives_up() {
            model(2, &[ADD, ADD_TIMED, ADD]);
        }

        #[test]
        fn readers_and_a_writer() {
            model(3, &[READ, ADD, READ]);
        }

        #[test]
        fn a_reader_behind_a_writer_that_gives_up() {
            model(2, &[Does::AddThenReadTogether, ADD_TIMED, Does::ReadAndTell]);
        }

        #[test]
        fn fair_readers_and_a_writer() {
            model(3, &[READ, READ_FAIR, ADD]);
        }

        #[test]
        fn a_fair_reader_and_a_writer_that_gives_up() {
            model(3, &[READ_FAIR, ADD_TIMED, READ]);
        }

        #[test]
        fn fair_parties_and_those_who_give_up() {
            model(2, &[ADD_FAIR, READ_TIMED, READ_FAIR]);
            model(2, &[Does::AddThenRead, READ_TIMED, ADD_TIMED]);
        }

        #[test]
        fn a_reader_that_gives_up() {
            model(2, &[ADD, READ_TIMED, ADD]);
        }

        #[test]
        fn a_downgrade() {
            model(3, &[Does::AddThenRead, READ, ADD]);
        }
    }
}

mod time {
    use std::cell::Cell;

    thread_local! {
        /// Whether each look at the clock is a millisecond after the one before. All threads of a model are on one of std's.
        pub(crate) static RUNS: Cell<bool> = const { Cell::new(false) };
        static NOW: Cell<u64> = const { Cell::new(1) };
    }

    /// If the clock runs, whoever was woken in vain starves at once; if not, nobody does.
    pub(crate) fn now() -> u64 {
        if RUNS.get() {
            NOW.set(NOW.get() + 1_000_000);
        }
        NOW.get()
    }
}

mod park {
    use loom::sync::{Arc, Condvar, Mutex};

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) enum Event {
        TimedOut,
        Done,
    }
    #[derive(Clone, Copy)]
    pub(crate) enum WaitReason {
        Mutex,
    }
    #[derive(Default)]
    struct State {
        claimed: Option<Event>,
        woken: bool,
    }
    pub(crate) struct Waiter(Arc<(Mutex<State>, Condvar)>);

    // Parties are reached as in the runtime: by a pointer to a frame that waits.
    impl Waiter {
        pub(crate) fn new() -> Self {
            Self(Arc::new((Mutex::new(State::default()), Condvar::new())))
        }
        pub(crate) fn claim(&self, event: Event) -> bool {
            let mut state = self.0.0.lock().unwrap();
            let first = state.claimed.is_none();
            if first {
                state.claimed = Some(event);
            }
            first
        }
        pub(crate) fn wake(&self) {
            let shared = Arc::clone(&self.0);
            shared.0.lock().unwrap().woken = true;
            shared.1.notify_one();
        }
        pub(crate) fn sleep(&self, timer: bool) {
            let timer = timer.then(|| {
                let other = Self(Arc::clone(&self.0));
                loom::thread::spawn(move || {
                    if other.claim(Event::TimedOut) {
                        other.wake();
                    }
                })
            });
            let mut state = self.0.0.lock().unwrap();
            while !state.woken {
                state = self.0.1.wait(state).unwrap();
            }
            drop(state);
            if let Some(timer) = timer {
                timer.join().unwrap();
            }
        }
        pub(crate) fn outcome(&self) -> Event {
            self.0.0.lock().unwrap().claimed.unwrap()
        }
    }
}

mod waitlist {
    use crate::park::{Event, Waiter};
    use std::{cell::Cell, collections::VecDeque, ptr};

    pub(crate) struct Node {
        waiter: *const Waiter,
        pub(crate) data: *mut (),
        linked: Cell<bool>,
    }
    #[derive(Default)]
    pub(crate) struct WaitList(VecDeque<*const Node>);

    // SAFETY: as in the runtime: nodes are reached under the list's lock, or by their claimer.
    unsafe impl Send for WaitList {}

    impl Node {
        pub(crate) fn new(waiter: *const Waiter, data: *mut ()) -> Self {
            Self {
                waiter,
                data,
                linked: Cell::new(false),
            }
        }
        /// # Safety
        ///
        /// Found on a list whose lock is held.
        pub(crate) unsafe fn claim(&self, event: Event) -> bool {
            // SAFETY: the waiter is there as long as the node.
            unsafe { (*self.waiter).claim(event) }
        }
    }
    impl WaitList {
        pub(crate) fn new() -> Self {
            Self::default()
        }
        pub(crate) fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
        pub(crate) fn push(&mut self, node: &Node) {
            assert!(!node.linked.replace(true));
            self.0.push_back(node);
        }
        pub(crate) fn push_front(&mut self, node: &Node) {
            assert!(!node.linked.replace(true));
            self.0.push_front(node);
        }
        pub(crate) fn front(&self) -> Option<&Node> {
            // SAFETY: nodes on the list are alive.
            self.0.front().map(|&node| unsafe { &*node })
        }
        pub(crate) fn pop<'a>(&mut self) -> Option<&'a Node> {
            // SAFETY: as above.
            let node = unsafe { &*self.0.pop_front()? };
            node.linked.set(false);
            Some(node)
        }
        pub(crate) fn remove(&mut self, node: &Node) {
            if node.linked.replace(false) {
                self.0.retain(|&other| !ptr::eq(other, node));
            }
        }
        pub(crate) fn wake_all(mut self) {
            while let Some(node) = self.pop() {
                // SAFETY: claimed and not woken yet.
                unsafe { (*node.waiter).wake() };
            }
        }
    }
}
