//! What kind of stack to make: how large, and how it grows.

use crate::{
    StackError,
    reservation::{MAX_RESERVATION, MIN_RESERVATION},
    sys::{
        pages::{GuardKind, guard_kind},
        process::{self, PAGE},
    },
};
use core::num::NonZeroU32;

/// How a stack gets pages beyond its first extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackGrowth {
    /// A guard 1.25 MiB down traps, and the fault handler doubles the extent, twice as a rule; what it opens may be memory in huge
    /// pages. Stacks of 1.25 MiB and less have no guard but the one at the bottom.
    Trap,
    /// The kernel brings every page at its first touch; the only guard is at the bottom. For programs that hand fresh
    /// stack buffers to inline system calls, and for kernels without guard markers.
    DemandPaged,
}

/// A kind of stack: reservation and growth. Stacks of one kind are pooled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Pages of the reservation, times two, plus one for stacks that trap: one word to compare in the caches.
    key: NonZeroU32,
}

impl Spec {
    /// Stacks with at least `max_stack` usable bytes that grow as `growth` says, or are demand-paged where the kernel
    /// has no guard markers. Small sizes are raised to 64 KiB.
    ///
    /// # Errors
    ///
    /// If `max_stack` is more than 1 GiB, or the machine's pages have an unknown size.
    pub fn with_growth(max_stack: usize, growth: StackGrowth) -> Result<Self, StackError> {
        let size = process::page_size();
        if size != PAGE {
            return Err(StackError::PageSize { size });
        }
        if max_stack > MAX_RESERVATION {
            return Err(StackError::TooLarge { asked: max_stack });
        }
        // From 16 to 2^18.
        let pages = max_stack.max(MIN_RESERVATION).div_ceil(PAGE) as u32;
        let traps = growth == StackGrowth::Trap && guard_kind() == GuardKind::Marker;
        let key = NonZeroU32::new(pages << 1 | u32::from(traps)).expect("a reservation has pages");
        Ok(Self { key })
    }

    /// The bytes that a goroutine may use of such a stack.
    #[inline]
    #[must_use]
    pub const fn reservation(self) -> usize {
        (self.key.get() >> 1) as usize * PAGE
    }

    /// How such a stack grows.
    #[inline]
    #[must_use]
    pub const fn growth(self) -> StackGrowth {
        if self.key.get() & 1 == 1 {
            StackGrowth::Trap
        } else {
            StackGrowth::DemandPaged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_and_bounded() {
        let of = |bytes| Spec::with_growth(bytes, StackGrowth::DemandPaged).map(Spec::reservation);
        assert_eq!(of(0), Ok(64 << 10));
        assert_eq!(of(65536), Ok(65536));
        assert_eq!(of(65537), Ok(65536 + 4096));
        assert_eq!(of(1 << 30), Ok(1 << 30));
        assert_eq!(of((1 << 30) + 1), Err(StackError::TooLarge { asked: (1 << 30) + 1 }));
    }

    #[test]
    fn the_mode_is_part_of_the_kind() {
        let trap = Spec::with_growth(1 << 20, StackGrowth::Trap).unwrap();
        let paged = Spec::with_growth(1 << 20, StackGrowth::DemandPaged).unwrap();
        assert_eq!(paged.growth(), StackGrowth::DemandPaged);
        if guard_kind() == GuardKind::Marker {
            assert_eq!(trap.growth(), StackGrowth::Trap);
            assert_ne!(trap, paged);
        } else {
            assert_eq!(trap, paged);
        }
    }
}
