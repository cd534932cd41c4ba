//! Baton's heap as the program's global allocator.

use crate::front;
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
        front::alloc(layout)
    }

    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        // SAFETY: the trait's contract is that of `free`, and no object of its is at null.
        unsafe { front::dealloc(NonNull::new_unchecked(object), layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        front::malloc_zeroed(layout)
    }

    #[inline]
    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the trait's contract is that of `realloc`.
        unsafe { front::realloc(object, layout, new_size) }
    }
}
