//! The queue that all Ps share: batches of goroutines, first in, first out.
//!
//! What overflows a P's ring comes and goes as one batch, linked through `G.next`: one operation of a shared queue moves
//! 128 goroutines. Goroutines made ready by plain threads, and those that lost their P, come one by one.

use crate::g::G;
use crossbeam_queue::SegQueue;
use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A chain of goroutines, linked through `G.next`, that belongs to whoever holds the batch.
#[derive(Debug)]
pub(crate) struct Batch {
    head: *mut G,
    tail: *mut G,
    len: usize,
}

// SAFETY: a batch is the right to the goroutines in it, and that right may move to another thread.
unsafe impl Send for Batch {}

impl Batch {
    pub(crate) const fn new() -> Self {
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
            len: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `g` at the end.
    ///
    /// # Safety
    ///
    /// `g` is the caller's and alive.
    pub(crate) unsafe fn push(&mut self, g: *mut G) {
        // SAFETY: as the caller promised; the tail is in the batch and so ours.
        unsafe {
            (*g).next.set(ptr::null_mut());
            if self.tail.is_null() {
                self.head = g;
            } else {
                (*self.tail).next.set(g);
            }
        }
        self.tail = g;
        self.len += 1;
    }

    /// Takes the oldest, or null.
    pub(crate) fn pop(&mut self) -> *mut G {
        let g = self.head;
        if !g.is_null() {
            // SAFETY: what is in the batch is alive and the batch's.
            self.head = unsafe { (*g).next.get() };
            if self.head.is_null() {
                self.tail = ptr::null_mut();
            }
            self.len -= 1;
        }
        g
    }
}

#[derive(Debug)]
pub(crate) struct GlobalQueue {
    batches: SegQueue<Batch>,
    /// Goroutines in `batches`; counted up before a push and down after a pop, so it is never less than the truth.
    len: AtomicUsize,
}

impl GlobalQueue {
    pub(crate) const fn new() -> Self {
        Self {
            batches: SegQueue::new(),
            len: AtomicUsize::new(0),
        }
    }

    /// How many goroutines wait here: never less than the truth.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(crate) fn push(&self, batch: Batch) {
        if !batch.is_empty() {
            self.len.fetch_add(batch.len, Relaxed);
            self.batches.push(batch);
        }
    }

    pub(crate) fn pop(&self) -> Option<Batch> {
        let batch = self.batches.pop()?;
        self.len.fetch_sub(batch.len, Relaxed);
        Some(batch)
    }
}
