//! The one place that atomics come from, so that the model checker can put its own in their place.
//!
//! Built with `--cfg baton_loom` every atomic and fence below is loom's, and the latch runs in fence mode: loom knows no
//! membarrier. (The membarrier form has its own exhaustive explorer, `tests/explore/latch.rs`.) The cfg is not called
//! `loom`, because a cfg reaches every dependency and some react to that name.

#[cfg(not(baton_loom))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, compiler_fence, fence},
};

#[cfg(baton_loom)]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};

/// loom checks every interleaving as it is written, so there is no compiler to hold back.
#[cfg(baton_loom)]
pub(crate) fn compiler_fence(_: Ordering) {}

/// loom tries every moment for the next look anyway. Not a yield: one that holds a lock and yields would starve.
#[cfg(baton_loom)]
pub(crate) fn spin_loop() {}

/// What the kernel does for a lock: to look at the word and to fall asleep is one step. Not a loop of yields, since loom
/// lets two threads that yield to each other starve the one that they wait for.
#[cfg(baton_loom)]
#[derive(Debug, Default)]
pub(crate) struct Futex {
    kernel: loom::sync::Mutex<()>,
    sleepers: loom::sync::Condvar,
}

#[cfg(baton_loom)]
impl Futex {
    /// Sleeps while `*word == expected`, until woken.
    pub(crate) fn wait(&self, word: &AtomicU32, expected: u32) {
        let kernel = self.kernel.lock().expect("no thread panics in here");
        if word.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(kernel));
        }
    }

    /// Wakes one sleeper.
    pub(crate) fn wake(&self) {
        let _kernel = self.kernel.lock().expect("no thread panics in here");
        self.sleepers.notify_one();
    }
}
