//! Looks at what goes on: all goroutines ([`dump`]), and what the running goroutine's processor carries.

mod backtrace;
mod dump;
pub(crate) mod gdb;
pub(crate) mod probe;
pub(crate) mod quit;
pub(crate) mod trace;
pub(crate) mod turns;
pub(crate) mod unwind;

pub use backtrace::Backtrace;
pub use dump::{dump, dump_to};
pub use trace::{TraceSummary, trace_start, trace_stop};
pub use turns::Turn;

pub use baton_alloc::{CacheCounts, Snapshot, snapshot};

use crate::{m, metrics, p::P};
use std::sync::atomic::Ordering::Relaxed;

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

/// What the mcache of the calling goroutine's processor has counted. `None` in a plain thread, and in a goroutine that has
/// lost its processor.
///
/// ```
/// baton::run(|| assert!(baton::debug::cache().is_some()));
/// ```
#[must_use]
pub fn cache() -> Option<CacheCounts> {
    let p = m::current()?.latch().p().and_then(P::of)?;
    // SAFETY: mcaches are never freed, and their counters may be read by anybody.
    Some(unsafe { &*p.latch.cache() }.counts())
}

/// Bytes of free objects in mcaches that threads have kept although they have no processor now: 0 as long as processors
/// own their caches; what the control experiment strands
/// ([`cache_stays_with_thread`](crate::RuntimeBuilder::cache_stays_with_thread)).
#[must_use]
pub fn stranded_bytes() -> usize {
    let stranded = |m: &&'static m::M| m.latch().p().and_then(P::of).is_none();
    let bytes = |m: &'static m::M| {
        // SAFETY: null or an mcache; those are never freed, and their counters may be read by anybody.
        unsafe { m.cache.load(Relaxed).as_ref() }.map_or(0, |cache| cache.counts().cached_bytes)
    };
    metrics::ms().into_iter().filter(stranded).map(bytes).sum()
}
