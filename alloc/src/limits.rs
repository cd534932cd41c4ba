//! How long the lists of an mcache may become, and who learns it from what.
//!
//! ```text
//!   refill                   the list was too short                        `half` doubles
//!   overflow                 the list is shorter than a batch              `half` doubles, to a batch
//!   16 overflows in a row    nobody takes what is freed here               `half` goes down by a batch
//!   trimmed, flushed         nobody has used the lists for some time       `half` is what it was at first
//! ```
//!
//! `half` is the length at which a list that is looked at counts as full, and what may be pushed until somebody looks again:
//! a list has three times as many objects at most. It starts at an eighth of a batch and ends at 1,024 objects or 256 KiB, and
//! grows only while all lists of the cache together are not meant to hold more than [`MAX_BYTES`].
//!
//! It doubles, instead of going up by a batch at a time, because a working set that swings by some hundred objects overflows
//! and refills in turn, and each of these turns is paid for by whoever gets the P next: after a handoff too. And it takes
//! many overflows to shrink, because a thread that frees a large batch overflows some times before it allocates again.
//! A thread that frees only soon gives whole batches, not an eighth of one at a time.
//!
//! All of this belongs to the owner of the cache.

use crate::sizeclass::{Class, MAX_BATCH};
use core::cell::Cell;

/// What the lists of one cache are meant to hold together, twice `half` objects each: beyond that no list may become longer.
/// (All at their longest, in both places, would be three times as much.)
pub const MAX_BYTES: usize = 8 << 20;

/// Overflows without a refill in between that make a list shorter.
const OVERFLOWS: u32 = 16;

/// The length at which the lists of a class count as full at first.
fn first_half(class: Class) -> u32 {
    (class.info().batch / 8).max(1).into()
}

/// The largest `half` of a class.
pub(crate) fn max_half(class: Class) -> u32 {
    let info = class.info();
    ((256 << 10) / info.size).clamp(u32::from(info.batch).max(8), 1024)
}

/// A list that is shorter than this is topped up when its countdown is used up, so that it lasts longer the next time.
pub(crate) fn short(class: Class) -> u32 {
    ((32 << 10) / class.info().size).clamp(4, 128)
}

/// What a full list of the class and the one beside it hold.
fn bytes(class: Class, half: u32) -> usize {
    2 * half as usize * class.size()
}

/// What all lists of a cache are meant to hold.
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// All limits as they are at first.
    pub(crate) fn new() -> Self {
        Self(Cell::new(
            Class::all().map(|class| bytes(class, first_half(class))).sum(),
        ))
    }

    /// How many bytes that are now.
    #[cfg(test)]
    pub(crate) fn promised(&self) -> usize {
        self.0.get()
    }
}

/// The limit of one class.
pub(crate) struct Limit {
    half: Cell<u32>,
    /// Overflows since the last refill.
    overflows: Cell<u32>,
}

impl Limit {
    /// As it is at first.
    pub(crate) fn new(class: Class) -> Self {
        Self {
            half: Cell::new(first_half(class)),
            overflows: Cell::new(0),
        }
    }

    /// The length at which a list counts as full.
    pub(crate) fn half(&self) -> u32 {
        self.half.get()
    }

    /// How many objects a refill takes out of spans: as many as a list may have, but not more than 64 KiB or 128 of them.
    pub(crate) fn want(&self, class: Class) -> usize {
        let info = class.info();
        let most = ((64 << 10) / info.size).clamp(info.batch.into(), MAX_BATCH as u32);
        self.half().min(most) as usize
    }

    /// Notes that the lists are too short.
    pub(crate) fn refilled(&self, class: Class, budget: &Budget) {
        self.overflows.set(0);
        self.set(class, budget, (2 * self.half()).min(max_half(class)));
    }

    /// Notes that the lists are full.
    pub(crate) fn overflowed(&self, class: Class, budget: &Budget) {
        let (half, batch) = (self.half(), u32::from(class.info().batch));
        if half < batch {
            return self.set(class, budget, (2 * half).min(batch));
        }
        self.overflows.set(self.overflows.get() + 1);
        if self.overflows.get() == OVERFLOWS {
            self.overflows.set(0);
            self.set(class, budget, half.saturating_sub(batch).max(batch));
        }
    }

    /// Starts anew.
    pub(crate) fn reset(&self, class: Class, budget: &Budget) {
        self.overflows.set(0);
        self.set(class, budget, first_half(class));
    }

    /// Changes `half`, if the whole cache may hold as much.
    fn set(&self, class: Class, budget: &Budget, half: u32) {
        let before = self.half.get();
        let promised = budget.0.get() - bytes(class, before) + bytes(class, half);
        if half <= before || promised <= MAX_BYTES {
            budget.0.set(promised);
            self.half.set(half);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::alloc::Layout;

    fn class(size: usize) -> Class {
        Class::of(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    #[test]
    fn who_only_frees_soon_gives_whole_batches() {
        for class in Class::all() {
            let (limit, budget) = (Limit::new(class), Budget::new());
            (0..3).for_each(|_| limit.overflowed(class, &budget));
            assert!(limit.half() + 7 >= class.info().batch.into());
            (0..1000).for_each(|_| limit.overflowed(class, &budget));
            assert_eq!(limit.half(), class.info().batch.into());
        }
    }

    #[test]
    fn a_swing_is_learnt_soon_and_forgotten_late() {
        let (class, budget) = (class(512), Budget::new());
        let limit = Limit::new(class);
        for _ in 0..5 {
            limit.refilled(class, &budget);
            (1..OVERFLOWS).for_each(|_| limit.overflowed(class, &budget));
        }
        assert!(limit.half() >= 32 * first_half(class));
        let before = limit.half();
        (0..OVERFLOWS).for_each(|_| limit.overflowed(class, &budget));
        assert_eq!(limit.half(), before - u32::from(class.info().batch));
        (0..1000).for_each(|_| limit.overflowed(class, &budget));
        assert_eq!(limit.half(), class.info().batch.into());
        limit.reset(class, &budget);
        assert_eq!(
            (limit.half(), budget.promised()),
            (first_half(class), Budget::new().promised())
        );
    }

    #[test]
    fn all_limits_together_are_bounded() {
        let budget = Budget::new();
        let limits: Vec<_> = Class::all().map(Limit::new).collect();
        for _ in 0..20 {
            for (limit, class) in limits.iter().zip(Class::all()) {
                limit.refilled(class, &budget);
                assert!(limit.half() <= max_half(class));
            }
        }
        let sum: usize = limits.iter().zip(Class::all()).map(|(l, c)| bytes(c, l.half())).sum();
        assert_eq!(sum, budget.promised());
        assert!(sum <= MAX_BYTES && sum > MAX_BYTES / 2, "{sum}");
    }
}
