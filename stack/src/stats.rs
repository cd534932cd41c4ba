//! What stacks cost and do.

use crate::{CLASSES, Class, copystack, stacklarge};
use core::sync::atomic::Ordering::Relaxed;

/// Counts of the whole process. Each is exact, but they are not read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackStats {
    /// Free stacks in the shared pools, by [`Class::index`].
    pub free: [usize; CLASSES],
    /// Stacks made so far; those that are not free are in use or in a P's cache.
    pub carved: usize,
    /// Address space taken for reservations so far.
    pub reserved_bytes: usize,
    /// Memory that free stacks of `stackLarge` keep.
    pub warm_large_bytes: usize,
    /// Traps that grew a stack.
    pub traps: u64,
    /// Doublings, by traps and at parking points.
    pub doublings: u64,
    /// Free stacks that gave their deep pages back.
    pub trimmed: u64,
    /// Parked goroutines that gave back what lay below them.
    pub shrunk: u64,
}

impl StackStats {
    /// With the counts that no pool keeps.
    pub(crate) fn of_process() -> Self {
        let counters = copystack::counters();
        Self {
            warm_large_bytes: stacklarge::warm_bytes(),
            traps: counters.traps.load(Relaxed),
            doublings: counters.doublings.load(Relaxed),
            trimmed: counters.trimmed.load(Relaxed),
            shrunk: counters.shrunk.load(Relaxed),
            ..Self::default()
        }
    }

    /// Memory that all free stacks in the shared pools are charged with.
    #[must_use]
    pub fn warm_bytes(&self) -> usize {
        let small = self
            .free
            .iter()
            .zip(0_u8..)
            .take_while(|(_, i)| Class::from_index(*i).is_small());
        let small: usize = small.map(|(n, i)| n * Class::from_index(i).bytes()).sum();
        small + self.warm_large_bytes
    }
}
