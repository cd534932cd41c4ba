//! Baton's heap as the program's global allocator.

use crate::malloc;
use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};

/// Baton's heap. Useful without the runtime too:
///
/// ```
/// #[global_allocator]
/// static ALLOC: baton_alloc::Alloc = baton_alloc::Alloc;
///
/// let text: String = "on Baton's heap".into();
/// assert_eq!(text.len(), 15);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Alloc;

// SAFETY: `malloc` gives memory that is as large and as aligned as the layout asks, that nobody else has until it is
// freed, or null; nothing unwinds.
unsafe impl GlobalAlloc for Alloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        malloc::alloc(layout)
    }

    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        // SAFETY: the trait's contract is that of `free`, and no object of its is at null.
        unsafe { malloc::dealloc(NonNull::new_unchecked(object), layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        malloc::malloc_zeroed(layout)
    }

    #[inline]
    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the trait's contract is that of `realloc`.
        unsafe { malloc::realloc(object, layout, new_size) }
    }
}
