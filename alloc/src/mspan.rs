//! mspan: a run of pages that holds objects of one class, or one large object.
//!
//! ```text
//!   Span ── base ──▶ │ obj 0 │ obj 1 │ obj 2 │ … │ tail │        free: 1 bit an object, set = in the mcentral's hands
//! ```
//!
//! An object's bit is clear while it is out: with the program, or on the list of some mcache. The bits are kept in the
//! record and not in the objects, so that taking objects in goes by address (lowest first, whole words at a time), giving
//! objects back touches none of their memory, and a second free of the same object shows.
//!
//! | state | `class` | who has it |
//! |---|---|---|
//! | small, some objects in | its class | on one of its mcentral's lists, under that lock |
//! | small, all objects out | its class | on no list; the arena map leads to it |
//! | large | `None` | the owner of the one object; `pages` under the mheap lock |
//! | large, cached | `None` | the owner of the cache that it is in (`large`), and nobody has the object |
//! | free | – | a record in the fixalloc |

use crate::{
    hardened::{self, Live},
    sizeclass::{Class, MAX_OBJECTS},
};
use core::{
    cell::UnsafeCell,
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What there is to know of a span. Type-stable: see `fixalloc`.
pub(crate) struct Span {
    base: NonNull<u8>,
    class: Option<Class>,
    /// How many pages it has. Changes only for a large object that grows or shrinks in place, and by [`CACHED`].
    pages: AtomicUsize,
    /// Which objects are with the program, if the heap is hardened.
    pub(crate) live: Live,
    objects: UnsafeCell<Objects>,
}

/// The bit of `pages` that a large span has while it is in a cache.
const CACHED: usize = 1 << (usize::BITS - 1);

/// The part that belongs to the mcentral of the span's class, under its lock.
pub(crate) struct Objects {
    /// Neighbours on the list of spans that are about as full.
    pub(crate) prev: *mut Span,
    pub(crate) next: *mut Span,
    /// How many bits of `free` are set.
    pub(crate) count: usize,
    free: [u64; MAX_OBJECTS / 64],
}

impl Span {
    /// A span of small objects, all of them in, or of one large object.
    pub(crate) fn new(base: NonNull<u8>, pages: usize, class: Option<Class>) -> Self {
        let count: usize = class.map_or(0, |class| class.info().objects.into());
        let mut free = [0; MAX_OBJECTS / 64];
        for (word, bits) in free[..count.div_ceil(64)].iter_mut().enumerate() {
            *bits = u64::MAX >> (64 - (count - word * 64).min(64));
        }
        Self {
            base,
            class,
            pages: AtomicUsize::new(pages),
            live: Live::none(),
            objects: UnsafeCell::new(Objects {
                prev: ptr::null_mut(),
                next: ptr::null_mut(),
                count,
                free,
            }),
        }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The class of its objects; `None` if it is one large object.
    pub(crate) fn class(&self) -> Option<Class> {
        self.class
    }

    #[inline]
    pub(crate) fn pages(&self) -> usize {
        self.pages.load(Relaxed) & !CACHED
    }

    /// Whether a large span is in a cache, so that nobody has its object.
    #[inline]
    pub(crate) fn is_cached(&self) -> bool {
        self.pages.load(Relaxed) & CACHED != 0
    }

    /// Notes that a large span comes to a cache or leaves it. Call it as the owner of the cache.
    #[inline]
    pub(crate) fn set_cached(&self, cached: bool) {
        self.pages
            .store(self.pages() | if cached { CACHED } else { 0 }, Relaxed);
    }

    /// The next large span of a list. Call it as the owner of the list.
    #[inline]
    pub(crate) fn next(&self) -> *mut Span {
        debug_assert!(self.class.is_none());
        // SAFETY: a large span is on no mcentral's list; the rest is the caller's to see to.
        unsafe { self.objects() }.next
    }

    /// Makes `next` the next large span. Call it as the owner of both.
    #[inline]
    pub(crate) fn set_next(&self, next: *mut Span) {
        debug_assert!(self.class.is_none());
        // SAFETY: as for `next`.
        unsafe { self.objects() }.next = next;
    }

    /// Notes a new length. Call it under the mheap lock.
    pub(crate) fn set_pages(&self, pages: usize) {
        self.pages.store(pages, Relaxed);
    }

    /// The number of the object at this address, if one starts there.
    pub(crate) fn index_of(&self, object: NonNull<u8>) -> Option<usize> {
        let info = self.class?.info();
        let offset = object.addr().get().checked_sub(self.base.addr().get())?;
        let index = ((offset as u64).checked_mul(info.magic.into())? >> 32) as usize;
        (index < usize::from(info.objects) && index * info.size as usize == offset).then_some(index)
    }

    /// The mcentral's part.
    ///
    /// # Safety
    ///
    /// The caller holds the lock of the mcentral of the span's class, or owns the span if it is a large one, and uses one
    /// such reference at a time.
    #[expect(
        clippy::mut_from_ref,
        reason = "the mcentral's lock, not the borrow checker, says who may write"
    )]
    pub(crate) unsafe fn objects(&self) -> &mut Objects {
        // SAFETY: as the caller promised.
        unsafe { &mut *self.objects.get() }
    }
}

impl Objects {
    /// Takes objects in the order of their addresses (of a hardened heap, from a random word on) until there are none left
    /// or `put` says that it is full.
    pub(crate) fn take(&mut self, mut put: impl FnMut(usize) -> bool) {
        let words = self.free.len();
        let first = if hardened::ON { hardened::random(words) } else { 0 };
        for word in (first..words).chain(0..first) {
            let bits = &mut self.free[word];
            while *bits != 0 {
                if !put(word * 64 + bits.trailing_zeros() as usize) {
                    return;
                }
                *bits &= *bits - 1;
                self.count -= 1;
            }
            if self.count == 0 {
                return;
            }
        }
    }

    /// Takes an object back. `false` if it was in already.
    #[must_use]
    pub(crate) fn put(&mut self, index: usize) -> bool {
        let (word, bit) = (&mut self.free[index / 64], 1 << (index % 64));
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.count += 1;
        true
    }

    /// Whether the object is in.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.free[index / 64] & (1 << (index % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizeclass::PAGE;
    use core::num::NonZero;

    #[test]
    fn objects_go_out_by_address_and_come_back_once() {
        for class in Class::all() {
            let info = class.info();
            let base = NonNull::without_provenance(NonZero::new(16 * PAGE).unwrap());
            let span = Span::new(base, info.pages.into(), Some(class));
            // SAFETY: the span is this test's own.
            let objects = unsafe { span.objects() };
            let all = usize::from(info.objects);
            assert_eq!(objects.count, all);
            let mut taken = Vec::new();
            let some = all.min(3);
            objects.take(|i| taken.len() < some && (taken.push(i), true).1);
            assert_eq!(taken, (0..some).collect::<Vec<_>>());
            objects.take(|i| (taken.push(i), true).1);
            assert_eq!(taken, (0..all).collect::<Vec<_>>());
            assert_eq!(objects.count, 0);
            assert!(objects.put(all - 1) && !objects.put(all - 1) && objects.has(all - 1));
            assert!(all == 1 || !objects.has(0));
            assert_eq!(objects.count, 1);
        }
    }

    #[test]
    fn only_starts_of_objects_have_an_index() {
        let class = Class::of(core::alloc::Layout::new::<[u8; 48]>()).unwrap();
        let base = NonNull::without_provenance(NonZero::new(16 * PAGE).unwrap());
        let span = Span::new(base, 1, Some(class));
        let at = |offset: usize| span.index_of(base.map_addr(|a| a.checked_add(offset).unwrap()));
        assert_eq!((at(0), at(48), at(47), at(49)), (Some(0), Some(1), None, None));
        let objects = usize::from(class.info().objects);
        assert_eq!((at((objects - 1) * 48), at(objects * 48)), (Some(objects - 1), None));
        assert_eq!(
            span.index_of(NonNull::without_provenance(NonZero::new(8 * PAGE).unwrap())),
            None
        );
    }
}
