//! Objects whose owner knows neither size nor alignment: what C's `free` is given.
//!
//! ```text
//!   object ─ arena map ─▶ Span ─ class ─▶ as with a Layout from here on: the lists of this thread's mcache
//!                              └ none ──▶ a large object: the mheap
//! ```
//!
//! The look-up is two loads from the arena map and one from the span, without a lock: the caller owns an object in the
//! span, so it cannot go away. It also shows what C programs do wrong: an address that no object begins at ends the
//! process with a message.

use crate::{
    arena, front, large, malloc,
    mspan::Span,
    sizeclass::{Class, PAGE},
    sys::die::die,
};
use core::{
    alloc::Layout,
    ptr::{self, NonNull},
};

/// The alignment that C promises for whatever fits (`max_align_t`).
pub const C_ALIGN: usize = 16;

/// What an address leads to.
enum Kind {
    Small(Class),
    /// A large object of this many bytes, in whole pages.
    Large(usize),
}

impl Kind {
    fn bytes(&self) -> usize {
        match *self {
            Self::Small(class) => class.size(),
            Self::Large(bytes) => bytes,
        }
    }
}

/// Dies with a message if no object begins at this address.
#[inline]
fn kind(object: NonNull<u8>) -> Kind {
    // SAFETY: records of spans are never unmapped.
    let span: Option<&Span> = arena::span_of(object).map(|span| unsafe { span.as_ref() });
    match span {
        Some(span) => match span.class() {
            Some(class) if span.index_of(object).is_some() => Kind::Small(class),
            None if span.base() == object => Kind::Large(span.pages() * PAGE),
            _ => not_an_object(object),
        },
        None => not_an_object(object),
    }
}

#[cold]
#[inline(never)]
fn not_an_object(object: NonNull<u8>) -> ! {
    die(format_args!(
        "free, realloc or malloc_usable_size of {object:p}, where no object begins: it was freed before, or it points into the \
         middle of an object, or another allocator made it"
    ))
}

/// A layout that stands for a large object of this many bytes: aligned beyond a page, so that no size class serves it.
fn large_layout(bytes: usize) -> Layout {
    // SAFETY: a power of two; and a span, whose size this is, is far shorter than `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(bytes, 2 * PAGE) }
}

/// The layout of a C object of this size: aligned to [`C_ALIGN`], and never empty, so that no two objects share an address.
/// `None` if no object can be so large.
#[inline]
#[must_use]
pub fn c_layout(size: usize) -> Option<Layout> {
    // Classes are aligned as their sizes are: the alignment need not be said, and what need not be looked at costs nothing.
    Layout::from_size_align(size.max(1).checked_next_multiple_of(C_ALIGN)?, 8).ok()
}

/// How many bytes of the object its owner may use: at least as many as were asked for.
///
/// ```
/// use std::ptr::NonNull;
///
/// let object = NonNull::new(baton_alloc::malloc(baton_alloc::c_layout(100).unwrap())).unwrap();
/// // SAFETY: allocated just before, and used no more.
/// unsafe {
///     assert_eq!(baton_alloc::usable_size(object), 112);
///     baton_alloc::free_untyped(object.as_ptr());
/// }
/// ```
///
/// # Safety
///
/// The object came from this heap and is the caller's.
#[must_use]
pub unsafe fn usable_size(object: NonNull<u8>) -> usize {
    let bytes = kind(object).bytes();
    // Who asks may use them.
    #[cfg(feature = "asan")]
    crate::asan::opened(object, bytes);
    bytes
}

/// Frees an object of whatever size; null is allowed.
///
/// # Safety
///
/// It came from this heap, whatever the layout was, and nobody uses it any more.
#[inline]
pub unsafe fn free_untyped(object: *mut u8) {
    let Some(object) = NonNull::new(object) else { return };
    match kind(object) {
        // SAFETY: as the caller promised; the class is that of the object's span.
        Kind::Small(class) => unsafe { malloc::free_small(class, object) },
        // SAFETY: as the caller promised.
        Kind::Large(_) => unsafe { large::free(object) },
    }
}

/// Makes an object `size` bytes long, moving it if need be; what comes back is aligned as [`c_layout`] says. Null: out of
/// memory, and the object is as it was. Of a null object it makes a new one.
///
/// An object that shrinks to no less than half stays where it is.
///
/// # Safety
///
/// The object came from this heap and is the caller's; what comes back takes its place.
#[must_use]
pub unsafe fn realloc_untyped(object: *mut u8, size: usize) -> *mut u8 {
    let Some(layout) = c_layout(size) else {
        return ptr::null_mut();
    };
    let Some(old) = NonNull::new(object) else {
        return front::malloc(layout);
    };
    let kind = kind(old);
    // What is behind the size that was asked for may be in use as well.
    #[cfg(feature = "asan")]
    crate::asan::opened(old, kind.bytes());
    let before = match kind {
        Kind::Small(class) => class.size(),
        // SAFETY: as the caller promised.
        Kind::Large(bytes) if Class::of(layout).is_none() => unsafe {
            return front::realloc(object, large_layout(bytes), layout.size());
        },
        Kind::Large(bytes) => bytes,
    };
    if (before / 2..=before).contains(&layout.size()) {
        return object;
    }
    let new = front::malloc(layout);
    if !new.is_null() {
        // SAFETY: both objects are at least this long; the new one is not the old one, which is freed only then.
        unsafe {
            new.copy_from_nonoverlapping(object, before.min(size));
            free_untyped(object);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every size around every class, and large ones: aligned, usable to the end, kept by realloc.
    #[test]
    fn objects_are_found_by_their_address() {
        let sizes = (0..=1100)
            .chain(Class::all().flat_map(|class| class.size() - 1..=class.size() + 1))
            .chain([100_000, 1 << 20]);
        for size in sizes {
            let object = front::malloc(c_layout(size).unwrap());
            let usable = {
                let object = NonNull::new(object).unwrap();
                // SAFETY: the object is ours.
                unsafe { usable_size(object) }
            };
            assert!(
                usable >= size.max(1) && object.addr().is_multiple_of(C_ALIGN),
                "{size}: {usable}"
            );
            // SAFETY: the object is ours and `usable` bytes long; what realloc gives takes its place.
            unsafe {
                object.write_bytes(7, usable);
                let object = realloc_untyped(object, 3 * size + 1);
                assert!(object.addr().is_multiple_of(C_ALIGN));
                assert!(
                    (0..usable.min(3 * size + 1)).all(|i| object.add(i).read() == 7),
                    "{size} grown"
                );
                let object = realloc_untyped(object, size / 3);
                assert!((0..size / 3).all(|i| object.add(i).read() == 7), "{size} shrunk");
                free_untyped(object);
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!(c_layout(usize::MAX), None);
        assert_eq!(c_layout(isize::MAX as usize), None);
        // SAFETY: null is allowed, and nothing else is freed.
        unsafe {
            free_untyped(ptr::null_mut());
            assert!(realloc_untyped(ptr::null_mut(), usize::MAX).is_null());
        }
    }

    /// Aligned beyond a page, an object is large however small it is.
    #[test]
    fn alignment_does_not_hide_an_object() {
        for align in [32, 4096, PAGE, 2 * PAGE, 1 << 20] {
            for size in [1, 100, 40_000] {
                let object = front::malloc(Layout::from_size_align(size, align).unwrap());
                // SAFETY: the object is ours; what realloc gives takes its place.
                unsafe {
                    assert!(usable_size(NonNull::new(object).unwrap()) >= size);
                    let object = realloc_untyped(object, 2 * size);
                    free_untyped(object);
                }
            }
        }
    }
}
