//! How a thread that runs only now and then is asked for, and how it ends without a request being lost.
//!
//! | running | wanted | |
//! |---|---|---|
//! | 0 | 0 | there is no thread, and nothing to do |
//! | 0 | 1 | somebody asked where no thread can be made; the next who can, makes it |
//! | 1 | 0 | the thread is at work, or asleep |
//! | 1 | 1 | the thread will look again before it ends |
//!
//! ```text
//! ask      what is to be done; wanted = 1; swap running to 1: it was 0 → make the thread; it was 1 → wake it
//! thread   look; …; swap running to 0; wanted → swap running to 1: it was 0 → go on; it was 1 → somebody makes another
//! ```
//!
//! Both sides swap `running`, so one of the two comes later and sees what the other wrote before: a thread that ends
//! sees `wanted`, or who asks sees that there is no thread. The model below checks that.

use crate::sync::{AtomicU32, Ordering};

/// The state of the thread, and of what it is asked for.
#[derive(Debug)]
pub(crate) struct Requests {
    running: AtomicU32,
    wanted: AtomicU32,
}

impl Requests {
    #[cfg(not(baton_loom))]
    pub(crate) const fn new() -> Self {
        Self {
            running: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
        }
    }

    #[cfg(baton_loom)]
    pub(crate) fn new() -> Self {
        Self {
            running: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
        }
    }

    /// Notes that there is something to do. A swap, so that who takes a later note has seen what came before this one too:
    /// a store would end the release sequence of the notes before it.
    pub(crate) fn note(&self) {
        self.wanted.swap(1, Ordering::AcqRel);
    }

    /// Whether something was noted that the thread has not seen.
    #[cfg(not(baton_loom))]
    #[inline]
    pub(crate) fn is_noted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// Takes the part of the thread: `true` if there is none, and the caller is to make it, or be it.
    pub(crate) fn claim(&self) -> bool {
        self.running.swap(1, Ordering::AcqRel) == 0
    }

    /// Whether something was noted since the last call. For the thread, before it looks.
    pub(crate) fn take(&self) -> bool {
        self.wanted.swap(0, Ordering::AcqRel) != 0
    }

    /// Ends the part of the thread. `false`: something was noted meanwhile, and the caller goes on.
    pub(crate) fn end(&self) -> bool {
        self.running.swap(0, Ordering::AcqRel);
        !(self.wanted.load(Ordering::Acquire) != 0 && self.claim())
    }

    /// Gives the part of the thread up, which could not be made. What was noted since stays noted.
    #[cfg(not(baton_loom))]
    pub(crate) fn resign(&self) {
        self.running.swap(0, Ordering::AcqRel);
    }

    /// Whether there is a thread. If it ends just now, it sees what was noted before this call.
    #[cfg(not(baton_loom))]
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire) != 0
    }

    /// Sleeps until somebody wakes it or so much time has passed, unless something is noted.
    #[cfg(not(baton_loom))]
    pub(crate) fn sleep(&self, time: core::time::Duration) {
        crate::sys::futex::wait(&self.wanted, 0, Some(time));
    }

    /// Wakes the thread, after a `note`.
    #[cfg(not(baton_loom))]
    pub(crate) fn wake(&self) {
        crate::sys::futex::wake(&self.wanted, 1);
    }

    /// In the child of a fork, which has no such thread.
    #[cfg(not(baton_loom))]
    pub(crate) fn after_fork(&self) {
        self.running.store(0, Ordering::Relaxed);
        self.wanted.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, baton_loom))]
mod tests {
    use super::*;
    use loom::{sync::Arc, thread};

    /// What is shared: the requests, and what there is to do.
    struct World {
        requests: Requests,
        work: AtomicU32,
        done: AtomicU32,
    }

    /// The thread: it looks until it may end.
    fn run(world: &World) {
        loop {
            world.requests.take();
            let work = world.work.swap(0, Ordering::Relaxed);
            world.done.fetch_add(work, Ordering::Relaxed);
            if world.requests.end() {
                return;
            }
        }
    }

    #[test]
    fn no_request_is_lost() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let world = Arc::new(World {
                requests: Requests::new(),
                work: AtomicU32::new(0),
                done: AtomicU32::new(0),
            });
            let askers: Vec<_> = [1, 2]
                .into_iter()
                .map(|requests| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || {
                        for _ in 0..requests {
                            world.work.fetch_add(1, Ordering::Relaxed);
                            world.requests.note();
                            if world.requests.claim() {
                                run(&world);
                            }
                        }
                    })
                })
                .collect();
            for asker in askers {
                asker.join().expect("an asker");
            }
            assert_eq!(world.done.load(Ordering::Relaxed), 3, "a request was lost");
            assert_eq!(world.requests.running.load(Ordering::Relaxed), 0);
        });
    }
}

#[cfg(all(test, not(baton_loom)))]
mod tests {
    use super::*;

    /// A thread that cannot be made leaves what was noted meanwhile to the next who tries.
    #[test]
    fn who_resigns_leaves_the_part_to_others() {
        let requests = Requests::new();
        requests.note();
        assert!(requests.claim() && requests.take());
        requests.note();
        requests.resign();
        assert!(!requests.is_running() && requests.is_noted() && requests.claim());
    }
}
