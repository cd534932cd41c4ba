//! Switching between g0 and a goroutine: two stacks that take turns.
//!
//! ```text
//!   g0 ── enter ──▶ the goroutine's stack ── leave(SUSPENDED) ──▶ g0 ── enter ──▶ … ── leave(ENDED) ──▶ g0
//!                   Links: `own`, where the goroutine's stack was left, and `g0`, where that of the thread was
//! ```
//!
//! Either way is a *jump* to where the other side left off: no call goes with it and no return. The processor foretells the returns of
//! functions from the calls that it has seen, last in, first out. A switch that calls, or returns, shifts that by one; then
//! each return between two switches is foretold wrongly, and costs more than the switch. With jumps the foretold returns of the
//! goroutine that comes are those of the one that went, which are the same where they wait in the same place. That is why this is
//! not corosensei's switch, whose coroutines are generators and suspend where they began: measured in `docs/findings.md`.
//!
//! # Invariants
//!
//! 1. `own` is good while the goroutine does not run, `g0` while it does; each is written by the side that leaves.
//! 2. What lies on a stack that was left is not touched until somebody comes back there. The frame that was left keeps what the
//!    compiler does not let an `asm!` block overwrite; all else it has saved itself.
//! 3. Nothing unwinds out of a goroutine's first function, and unwinding stops there: there is nobody to return to.
//!
//! `x86_64` and `aarch64` have the instructions, each with the same two functions: `switch`, and `prepare`, which makes a new stack
//! look as if it had been left just before its first function.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;

use std::{cell::Cell, ptr::NonNull};

/// The two stack pointers of a goroutine.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Links {
    own: Cell<usize>,
    g0: Cell<usize>,
}

/// `leave`: the goroutine will go on.
pub(crate) const SUSPENDED: usize = 0;
/// `leave`: it will not.
pub(crate) const ENDED: usize = 1;

/// A goroutine's first function, which gets what `enter` was first given.
pub(crate) type First = extern "C" fn(usize) -> !;

impl Links {
    /// A stack that grows down from `base`, on which `first` is to run.
    ///
    /// # Safety
    ///
    /// `base` is a multiple of 16, the memory below it is the new goroutine's, and the caller keeps it until the goroutine has ended.
    #[inline(always)]
    pub(crate) unsafe fn prepare(base: usize, first: First) -> Self {
        Self {
            // SAFETY: as the caller promised.
            own: Cell::new(unsafe { arch::prepare(base, first) }),
            g0: Cell::new(0),
        }
    }

    /// From g0 to the goroutine; gives what it said when it left.
    ///
    /// # Safety
    ///
    /// The caller holds the goroutine, which has not ended, and nobody moves or frees its links meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn enter(this: NonNull<Self>, argument: usize) -> usize {
        // SAFETY: as the caller promised; invariant 1.
        unsafe {
            arch::switch(
                &raw const (*this.as_ptr()).g0,
                &raw const (*this.as_ptr()).own,
                argument,
            )
        }
    }

    /// From the goroutine to g0. Comes back when somebody enters it again.
    ///
    /// # Safety
    ///
    /// The goroutine runs on this thread. If it says that it has `ENDED`, nobody enters it again.
    #[inline(always)]
    pub(crate) unsafe fn leave(this: NonNull<Self>, how: usize) {
        // SAFETY: as the caller promised; invariant 1.
        unsafe { arch::switch(&raw const (*this.as_ptr()).own, &raw const (*this.as_ptr()).g0, how) };
    }

    /// Where g0 was left: below that its stack is free as long as the goroutine runs.
    #[inline]
    pub(crate) fn g0(&self) -> usize {
        self.g0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{hint::black_box, mem::ManuallyDrop, ptr};

    /// What the first function is given.
    struct Other {
        links: ManuallyDrop<Links>,
        seen: Cell<u64>,
    }

    /// Adds what is left of it up over some frames, and leaves in the innermost, with more in registers than may be forgotten.
    #[inline(never)]
    fn deep(other: &Other, depth: u64) -> f64 {
        if depth == 0 {
            // SAFETY: on the other stack, as the test sees to.
            unsafe { Links::leave(NonNull::from(&*other.links), SUSPENDED) };
            return 0.5;
        }
        let mine: [u64; 8] = std::array::from_fn(|i| black_box(depth + i as u64));
        deep(other, depth - 1) + mine.iter().sum::<u64>() as f64
    }

    extern "C" fn first(argument: usize) -> ! {
        // SAFETY: the test passed a reference to it, and stays.
        let other = unsafe { &*ptr::with_exposed_provenance::<Other>(argument) };
        let here = black_box([0_u128; 2]);
        assert_eq!(here.as_ptr().addr() % 16, 0, "vectors are where the machine wants them");
        loop {
            other.seen.set(other.seen.get() + deep(other, 10) as u64);
            if other.seen.get() > 10_000 {
                // SAFETY: on the other stack.
                unsafe { Links::leave(NonNull::from(&*other.links), ENDED) };
            }
        }
    }

    #[test]
    fn two_stacks_take_turns_and_forget_nothing() {
        let stack = vec![0_u128; 4096];
        let base = stack.as_ptr_range().end.expose_provenance();
        let other = Other {
            // SAFETY: the end of an array of 16 bytes each, which lives as long as the test.
            links: ManuallyDrop::new(unsafe { Links::prepare(base, first) }),
            seen: Cell::new(0),
        };
        let argument = ptr::from_ref(&other).expose_provenance();
        let (mut turns, mut sum) = (0_u64, 0.25);
        let mine: [u64; 8] = std::array::from_fn(|i| black_box(i as u64));
        // SAFETY: this test has both.
        while unsafe { Links::enter(NonNull::from(&*other.links), argument) } == SUSPENDED {
            turns += 1;
            sum += black_box(0.5);
        }
        // Ten frames of 8 numbers each, from 1 to 10 and 0 to 7 more.
        let each = (1..=10).map(|depth| 8 * depth + 28).sum::<u64>();
        assert_eq!(other.seen.get(), turns * each);
        assert_eq!(turns, 10_000 / each + 1);
        assert_eq!(sum, 0.25 + turns as f64 * 0.5);
        assert_eq!(mine.iter().sum::<u64>(), 28);
        drop(stack);
    }
}
