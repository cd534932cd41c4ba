//! What an M sleeps on: a wake-up that is not lost if it comes first.

use crate::time;
use baton_alloc::futex;
use std::{
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Release},
    },
    time::Duration,
};

/// A one-shot wake-up, cleared by the sleeper that got it.
#[derive(Debug)]
pub(crate) struct Note(AtomicU32);

impl Note {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Sleeps until [`wake`](Self::wake) (`true`) or, if a timeout is given, until that has passed (`false`).
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> bool {
        let start = timeout.map(|_| time::now());
        let mut left = timeout;
        while self.0.load(Acquire) == 0 {
            if !futex::wait(&self.0, 0, left) {
                return self.0.swap(0, Acquire) != 0;
            }
            // A wake-up that was meant for an earlier sleep does not make this one longer.
            let slept = start.map(|start| Duration::from_nanos(time::now() - start));
            left = timeout.zip(slept).map(|(timeout, slept)| timeout.saturating_sub(slept));
        }
        self.0.store(0, Release);
        true
    }

    /// Whether there was a wake-up, which it takes.
    pub(super) fn take(&self) -> bool {
        self.0.swap(0, Acquire) != 0
    }

    /// Wakes the sleeper, or whoever sleeps next.
    pub(crate) fn wake(&self) {
        self.0.store(1, Release);
        futex::wake(&self.0, 1);
    }
}
