//! Counters that say how often a fast path may still be taken.
//!
//! One thread at a time counts them down (its owner's latch sees to that), and any thread may read them. In Rust's terms
//! both are atomic accesses, a load and a store. The compiler does not make one instruction of an atomic load, a subtraction
//! and an atomic store whose result is looked at, and here it matters: so on x86-64 that one instruction is written out.

use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// Two counters; 0 and less mean that nothing is left.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Countdowns([AtomicI32; 2]);

impl Countdowns {
    /// Two that have nothing left.
    pub(crate) const fn empty() -> Self {
        Self([const { AtomicI32::new(0) }; 2])
    }

    /// How often number `N` may still be counted down.
    pub(crate) fn left<const N: usize>(&self) -> u32 {
        self.0[N].load(Relaxed).max(0) as u32
    }

    /// Starts number `N` anew. Call it as the owner.
    pub(crate) fn set<const N: usize>(&self, left: u32) {
        self.0[N].store(i32::try_from(left).unwrap_or(i32::MAX), Relaxed);
    }

    /// Keeps two that have nothing left, and that are counted down all the same, from coming round. Anybody may call it.
    pub(crate) fn stay_empty(&self) {
        for counter in &self.0 {
            if counter.load(Relaxed) < i32::MIN / 2 {
                counter.store(0, Relaxed);
            }
        }
    }

    /// Counts number `N` of the two down that lie `offset` bytes into `of`. `false`: nothing was left (and it may stand
    /// below 0 now, until it is set).
    ///
    /// # Safety
    ///
    /// There are two, and the caller is their owner.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) unsafe fn down<const N: usize, T>(of: &T, offset: usize) -> bool {
        const { assert!(N < 2) };
        // SAFETY: changes the counter and nothing else, as a load and a store of a relaxed atomic would.
        unsafe {
            core::arch::asm!(
                "sub dword ptr [{of} + {offset} + 4*{n}], 1", // the sign says whether there was something left
                "js {nothing}",
                of = in(reg) core::ptr::from_ref(of),
                offset = in(reg) offset,
                n = const N,
                nothing = label { return false },
                options(nostack),
            );
        }
        true
    }

    /// Counts number `N` of the two down that lie `offset` bytes into `of`. `false`: nothing was left (and it may stand
    /// below 0 now, until it is set).
    ///
    /// # Safety
    ///
    /// There are two, and the caller is their owner.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(crate) unsafe fn down<const N: usize, T>(of: &T, offset: usize) -> bool {
        // SAFETY: as the caller promised.
        let counter = unsafe { &(*core::ptr::from_ref(of).byte_add(offset).cast::<Self>()).0[N] };
        let left = counter.load(Relaxed) - 1;
        counter.store(left, Relaxed);
        left >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down<const N: usize>(both: &Countdowns) -> bool {
        // SAFETY: the test's own.
        unsafe { Countdowns::down::<N, _>(both, 0) }
    }

    #[test]
    fn each_counts_as_often_as_it_was_set_to() {
        let both = Countdowns::empty();
        assert!(!down::<0>(&both) && !down::<1>(&both));
        assert_eq!((both.left::<0>(), both.left::<1>()), (0, 0));
        both.set::<0>(3);
        both.set::<1>(u32::MAX);
        assert_eq!([(); 5].map(|()| down::<0>(&both)), [true, true, true, false, false]);
        assert!(down::<1>(&both));
        assert_eq!((both.left::<0>(), both.left::<1>()), (0, i32::MAX as u32 - 1));
    }

    #[test]
    fn what_is_empty_never_comes_round() {
        let both = Countdowns([const { AtomicI32::new(i32::MIN + 5) }; 2]);
        both.stay_empty();
        assert!(!down::<0>(&both) && !down::<1>(&both));
        assert_eq!(both.0[0].load(Relaxed), -1);
    }
}
