//! The heap as AddressSanitizer sees it (feature `asan`).
//!
//! ```text
//!   free object    ░░ first word: a link ░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓     ▓ poisoned: touching it ends the program
//!   object         ░░░░░░░░░░░░ as many bytes as asked for ░░░░░░▓▓▓▓▓▓▓
//! ```
//!
//! The sanitizer replaces the C library's malloc and knows nothing of another heap. So the heap
//! tells the sanitizer's run-time library, if there is one in the program, what may be touched. The first
//! word of a free object stays open, since lists of free objects run through it; pages that go from one use to another are
//! opened as a whole. Objects are opened and closed where the heap gives and takes them; here, what is behind the size that
//! was asked for is closed again.
//!
//! The two functions of the run-time library are weak symbols: their addresses are null in a program without it.

use crate::{
    malloc::{self as heap},
    sizeclass::{Class, PAGE},
};
use core::{
    alloc::Layout,
    arch::{asm, global_asm},
    ptr::NonNull,
};

global_asm!(
    ".weak __asan_poison_memory_region",
    ".weak __asan_unpoison_memory_region"
);

/// A function that takes an address and a length.
type Region = unsafe extern "C" fn(*const u8, usize);

/// The address of a weak symbol, or null.
macro_rules! weak {
    ($symbol:literal) => {{
        let address: *const ();
        // SAFETY: reads an entry of the table of global addresses, which the linker made for this.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!(concat!("mov {}, qword ptr [rip + ", $symbol, "@GOTPCREL]"), out(reg) address, options(nostack, pure, readonly));
            #[cfg(target_arch = "aarch64")]
            asm!(
                concat!("adrp {0}, :got:", $symbol),
                concat!("ldr {0}, [{0}, :got_lo12:", $symbol, "]"),
                out(reg) address,
                options(nostack, pure, readonly)
            );
        }
        // SAFETY: null, or the address of a function of this type.
        unsafe { core::mem::transmute::<*const (), Option<Region>>(address) }
    }};
}

fn poison(start: *const u8, len: usize) {
    if let Some(poison) = weak!("__asan_poison_memory_region") {
        // SAFETY: it takes any range of the address space.
        unsafe { poison(start, len) };
    }
}

fn unpoison(start: *const u8, len: usize) {
    if let Some(unpoison) = weak!("__asan_unpoison_memory_region") {
        // SAFETY: as above.
        unsafe { unpoison(start, len) };
    }
}

/// Notes that an object, or a run of pages, of `taken` bytes is in use.
pub(crate) fn opened(start: NonNull<u8>, taken: usize) {
    unpoison(start.as_ptr(), taken);
}

/// Notes that an object of `taken` bytes is free.
pub(crate) fn closed(object: NonNull<u8>, taken: usize) {
    const LINK: usize = size_of::<usize>();
    unpoison(object.as_ptr(), LINK);
    poison(object.as_ptr().wrapping_add(LINK), taken.saturating_sub(LINK));
}

/// Closes what an object has beyond its layout.
fn cut(object: *mut u8, layout: Layout) -> *mut u8 {
    if !object.is_null() {
        poison(object, taken(layout));
        unpoison(object, layout.size());
    }
    object
}

/// How many bytes an object of this layout takes.
fn taken(layout: Layout) -> usize {
    let size = layout.size().max(1);
    match Class::of(Layout::from_size_align(size, layout.align()).unwrap_or(layout)) {
        Some(class) => class.size(),
        None => size.next_multiple_of(PAGE),
    }
}

/// As [`heap::malloc`].
#[must_use]
pub fn malloc(layout: Layout) -> *mut u8 {
    cut(heap::malloc(layout), layout)
}

pub(crate) fn alloc(layout: Layout) -> *mut u8 {
    cut(heap::alloc(layout), layout)
}

/// As [`heap::malloc_zeroed`].
#[must_use]
pub fn malloc_zeroed(layout: Layout) -> *mut u8 {
    cut(heap::malloc_zeroed(layout), layout)
}

pub(crate) use heap::dealloc;
pub use heap::free;

/// As [`heap::realloc`].
///
/// # Safety
///
/// As there.
#[must_use]
pub unsafe fn realloc(object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    if !object.is_null() {
        unpoison(object, taken(layout));
    }
    // SAFETY: as the caller promised.
    let new = unsafe { heap::realloc(object, layout, new_size) };
    match Layout::from_size_align(new_size, layout.align()) {
        Ok(new_layout) if !new.is_null() => cut(new, new_layout),
        _ => {
            cut(object, layout);
            new
        }
    }
}
