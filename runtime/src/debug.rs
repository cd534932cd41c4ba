//! Looks at what the running goroutine's processor carries: for tests and for the curious.

pub use baton_alloc::{Snapshot, snapshot};

use crate::{m, p::P};

/// The number of the processor that runs the calling goroutine, from 0 to [`procs`](crate::procs) - 1: a guess by the time
/// it is read. `None` in a plain thread, and in a goroutine that has lost its processor.
///
/// ```
/// baton::run(|| assert!(baton::debug::processor().is_none_or(|p| p < baton::procs())));
/// ```
#[must_use]
pub fn processor() -> Option<usize> {
    m::current()?.latch().p().and_then(P::of).map(|p| p.id)
}

/// The number of the scheduler's thread that runs the calling goroutine. `None` in a plain thread.
///
/// ```
/// baton::run(|| assert!(baton::debug::thread().is_some()));
/// ```
#[must_use]
pub fn thread() -> Option<u32> {
    m::current().map(|m| m.id)
}
