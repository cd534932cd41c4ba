//! The queue that all Ps share, first in, first out: what overflowed a P's ring, what plain threads made ready, and what
//! lost its P.
//!
//! It holds addresses, not chains through the goroutines, so that many can be moved without a look at any of them: a
//! goroutine that has waited for long is in no cache. A short lock guards it, since goroutines come and go in batches.

use super::lock::Mutex;
use crate::g::G;
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Room that an empty queue keeps.
const KEPT: usize = 4096;

#[derive(Debug)]
pub(crate) struct GlobalQueue {
    queue: Mutex<VecDeque<Runnable>>,
    /// The queue's length; written under its lock.
    len: AtomicUsize,
}

/// The right to a runnable goroutine.
#[derive(Debug)]
struct Runnable(*mut G);

// SAFETY: a right to a goroutine that does not run may move to another thread.
unsafe impl Send for Runnable {}

impl GlobalQueue {
    pub(crate) const fn new() -> Self {
        Self {
            queue: Mutex::new(VecDeque::new()),
            len: AtomicUsize::new(0),
        }
    }

    /// How many goroutines wait here: a guess, which a sleeper's barrier makes exact.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Adds goroutines, which are the caller's, at the end.
    pub(crate) fn push(&self, goroutines: &[*mut G]) {
        let mut queue = self.queue.lock();
        queue.extend(goroutines.iter().map(|&g| Runnable(g)));
        self.len.store(queue.len(), Relaxed);
    }

    /// Shows all goroutines of the queue to `see`.
    pub(crate) fn each(&self, mut see: impl FnMut(*mut G)) {
        self.queue.lock().iter().for_each(|Runnable(g)| see(*g));
    }

    /// Takes up to `into.len()` of the oldest, which are the caller's from now on, and says how many.
    pub(crate) fn pop(&self, into: &mut [*mut G]) -> usize {
        let mut queue = self.queue.lock();
        let n = into.len().min(queue.len());
        for (slot, Runnable(g)) in into.iter_mut().zip(queue.drain(..n)) {
            *slot = g;
        }
        if queue.is_empty() && queue.capacity() > KEPT {
            *queue = VecDeque::new();
        }
        self.len.store(queue.len(), Relaxed);
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    #[test]
    fn first_in_first_out_and_the_room_goes() {
        let queue = GlobalQueue::new();
        let all: Vec<*mut G> = (1..=3 * KEPT).map(ptr::without_provenance_mut).collect();
        all.chunks(100).for_each(|some| queue.push(some));
        assert_eq!(queue.len(), all.len());
        let mut out = vec![ptr::null_mut(); all.len() + 1];
        let (first, rest) = out.split_at_mut(10);
        assert_eq!(queue.pop(first), 10);
        assert_eq!(queue.pop(rest), all.len() - 10);
        assert_eq!(out[..all.len()], all);
        assert_eq!((queue.len(), queue.pop(&mut out)), (0, 0));
        assert!(queue.queue.lock().capacity() <= KEPT);
    }
}
