//! The one place that atomics come from, so that the model checker can put its own in their place.
//!
//! Built with `--cfg baton_loom` every atomic and fence below is loom's, and the latch runs in fence mode: loom knows no
//! membarrier. (The membarrier form has its own exhaustive explorer, `tests/latch_explorer.rs`.) The cfg is not called
//! `loom`, because a cfg reaches every dependency and some react to that name.

#[cfg(not(baton_loom))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering, compiler_fence, fence},
};

#[cfg(baton_loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering, fence},
    thread::yield_now as spin_loop,
};

/// loom checks every interleaving as it is written, so there is no compiler to hold back.
#[cfg(baton_loom)]
pub(crate) fn compiler_fence(_: Ordering) {}
