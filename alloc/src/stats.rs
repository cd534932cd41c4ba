//! What the heap holds and what it did.
//!
//! The figures are read one after the other while other threads go on, each under its lock or as an atomic: each is true
//! for a moment, and together they are exact when nobody allocates or frees. (The scavenger may be at work: whoever reads
//! waits until no cache is being emptied, since what is on its way from a cache to its spans is in nobody's figures.)

use crate::{
    arena::ARENA,
    fixalloc, lease, mcache, mcentral, mheap, scavenge,
    sizeclass::{CLASSES, Class, PAGE},
    sys::mem,
    trim,
};
use core::ops::Deref;

/// A reading of the heap's counters; see the module's header on how exact it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of address space from the operating system. Only what was written to takes memory.
    pub mapped_bytes: usize,
    /// Bytes of metadata, outside the arenas.
    pub metadata_bytes: usize,
    /// Arenas of 64 MiB for objects.
    pub object_arenas: usize,
    /// Arenas of 64 MiB for stacks.
    pub stack_arenas: usize,
    /// Bytes in spans of small objects.
    pub small_span_bytes: usize,
    /// Bytes in large objects that are with the program.
    pub large_bytes: usize,
    /// Bytes of freed large objects in mcaches.
    pub large_cached_bytes: usize,
    /// Bytes in manual spans of object arenas.
    pub manual_bytes: usize,
    /// Bytes in manual spans of stack arenas.
    pub stack_bytes: usize,
    /// Bytes of free pages in mcaches.
    pub page_cache_bytes: usize,
    /// Bytes of free pages that may still have memory behind them: what the scavenger can give back.
    pub free_bytes: usize,
    /// Bytes of pages that the scavenger, the memory limit and `release_free` have given back since the start.
    pub released_bytes: usize,
    /// Bytes of small objects that are with the program.
    pub small_live_bytes: usize,
    /// Bytes of free small objects on the lists of mcaches.
    pub cached_bytes: usize,
    /// Bytes of free small objects in mcentrals.
    pub central_bytes: usize,
    /// Objects allocated, small and large.
    pub allocs: u64,
    /// Objects freed, small and large.
    pub frees: u64,
    /// Small objects allocated from an mcache's lists without asking an mcentral.
    pub hits: u64,
    /// Times that a list of an mcache was filled from an mcentral.
    pub refills: u64,
    /// Batches that went back from an mcache to an mcentral.
    pub flushes: u64,
    /// Small objects allocated without an mcache: the thread had no P at that moment.
    pub direct_allocs: u64,
    /// Small objects freed without an mcache.
    pub direct_frees: u64,
    /// Large objects allocated.
    pub large_allocs: u64,
    /// Large objects freed.
    pub large_frees: u64,
    /// Mcaches ever made, those of leases included.
    pub caches: usize,
    /// Leases ever made: as many as there were threads at a time, and a few more.
    pub leases: usize,
    /// Leases that belong to a thread now.
    pub attached_leases: usize,
    /// Each class of small objects, from the smallest up.
    pub classes: Classes,
}

/// The figures of all classes of small objects: a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes([ClassStats; CLASSES - 1]);

impl Default for Classes {
    fn default() -> Self {
        Self([ClassStats::default(); CLASSES - 1])
    }
}

impl Deref for Classes {
    type Target = [ClassStats];

    fn deref(&self) -> &[ClassStats] {
        &self.0
    }
}

/// A size class of small objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes in an object: what a request that is up to an eighth smaller takes.
    pub size: usize,
    /// Bytes in spans of the class.
    pub span_bytes: usize,
    /// Objects that are with the program.
    pub live: usize,
    /// Free objects on the lists of mcaches.
    pub cached: usize,
    /// Free objects in the mcentral.
    pub central: usize,
    /// Objects allocated.
    pub allocs: u64,
    /// Objects freed.
    pub frees: u64,
    /// Spans of the class.
    spans: usize,
    /// Objects in a span.
    per_span: usize,
}

impl ClassStats {
    /// Bytes at the ends of spans that are too short for an object: waste, at most an eighth of `span_bytes`.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.span_bytes - self.spans * self.per_span * self.size
    }
}

impl Stats {
    /// Large objects that are with the program.
    #[must_use]
    pub fn large_objects(&self) -> usize {
        // Read one after the other, so one may be counted as freed that is not counted as allocated.
        self.large_allocs.saturating_sub(self.large_frees) as usize
    }

    /// Bytes of object arenas that are in no span. Those that were in one before may have memory behind them.
    #[must_use]
    pub fn free_page_bytes(&self) -> usize {
        let spans = self.small_span_bytes + self.large_bytes + self.large_cached_bytes + self.manual_bytes;
        (self.object_arenas * ARENA).saturating_sub(spans)
    }
}

/// Reads the counters of the heap. Takes the allocator's locks one after the other; allocates nothing.
#[must_use]
pub fn stats() -> Stats {
    trim::between(read)
}

fn read() -> Stats {
    let (heap, object_arenas, stack_arenas) = mheap::counts();
    let (leases, attached_leases) = lease::counts();
    let mut s = Stats {
        mapped_bytes: mem::mapped(),
        metadata_bytes: fixalloc::metadata_bytes(),
        object_arenas,
        stack_arenas,
        large_bytes: heap.large_pages * PAGE,
        manual_bytes: heap.manual_pages * PAGE,
        stack_bytes: heap.stack_pages * PAGE,
        free_bytes: mheap::backed() * PAGE,
        released_bytes: scavenge::released(),
        large_allocs: heap.large_allocs,
        large_frees: heap.large_frees,
        leases,
        attached_leases,
        ..Stats::default()
    };
    for cache in mcache::all() {
        // SAFETY: caches are never freed, and their counters are atomics.
        let counts = unsafe { &*cache }.counts();
        s.caches += 1;
        s.hits += counts.hits;
        s.refills += counts.refills;
        s.flushes += counts.flushes;
        s.cached_bytes += counts.cached_bytes;
        // SAFETY: as above.
        let large = unsafe { &*cache }.large.counts();
        s.large_cached_bytes += counts.large_bytes;
        s.page_cache_bytes += counts.page_bytes;
        s.large_allocs += large.allocs;
        s.large_frees += large.frees;
    }
    s.large_bytes = s.large_bytes.saturating_sub(s.large_cached_bytes);
    (s.allocs, s.frees) = (s.large_allocs, s.large_frees);
    for class in Class::all() {
        let size = class.size();
        let central = mcentral::counts(class);
        let (mut allocs, mut frees) = (central.direct_allocs, central.direct_frees);
        let mut cached = 0;
        for cache in mcache::all() {
            // SAFETY: as above.
            let (a, f) = unsafe { &*cache }.totals_of(class);
            allocs += a;
            frees += f;
            // SAFETY: as above.
            cached += unsafe { &*cache }.len(class) as usize;
        }
        s.classes.0[class.index() - 1] = ClassStats {
            size,
            span_bytes: central.spans * usize::from(class.info().pages) * PAGE,
            live: allocs.saturating_sub(frees) as usize,
            cached,
            central: central.objects,
            allocs,
            frees,
            spans: central.spans,
            per_span: class.info().objects.into(),
        };
        s.direct_allocs += central.direct_allocs;
        s.direct_frees += central.direct_frees;
        s.central_bytes += central.objects * size;
        s.small_span_bytes += central.spans * usize::from(class.info().pages) * PAGE;
        s.small_live_bytes += allocs.saturating_sub(frees) as usize * size;
        s.allocs += allocs;
        s.frees += frees;
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_between_two_counts_is_no_huge_number() {
        let of = |large_allocs, large_frees| Stats {
            large_allocs,
            large_frees,
            ..Stats::default()
        };
        assert_eq!(of(7, 5).large_objects(), 2);
        assert_eq!(of(5, 7).large_objects(), 0);
    }
}
