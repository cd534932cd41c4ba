//! Having the processor fetch what will be needed soon: hints, and no more.

use std::ptr;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Has the processor fetch a cache line, some time soon. Any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect that a program could see, and does not fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The lines of some values that lie side by side.
#[inline(always)]
pub(crate) fn prefetch_all<T>(values: &[T]) {
    let first = ptr::from_ref(values).cast::<u8>();
    (0..size_of_val(values))
        .step_by(LINE)
        .for_each(|at| prefetch(first.wrapping_add(at)));
}
