//! Size classes: the 67 sizes that small objects come in.
//!
//! ```text
//!   up to 128   8 16 24 32 40 48 64 80 96 112 128        at most 15 bytes more than asked for
//!   above       each octave 2^k … 2^(k+1) in eighths:    at most 12.5 % of the class more than asked for
//!               9/8 10/8 11/8 12/8 13/8 14/8 ── 16/8     (15/8 is left out: from 14/8 to 16/8 is 12.5 % too)
//! ```
//!
//! Class 0 stands for large objects, which are spans of their own. A span of a class is as few pages as leave no more
//! than an eighth of it unused, be it for one object: a hole that small objects leave in the heap is a page or two long, and
//! it is of use to other classes only if their spans are as short.
//!
//! **Alignment.** Spans start at a page, so an object is aligned as its class's size is, up to a page. A request is
//! rounded up to a multiple of its alignment first, and then the class found is such a multiple too: above 128 the steps
//! of an octave are eighths, so either the step is a multiple of the alignment, and with it every class of the octave, or
//! the rounded request is a whole number of steps itself; and the eighth that is left out leads to a power of two.
//! The tests try every pair. Alignments beyond a page are left to large spans.
//!
//! Go's span class is a size class and a bit that says whether the garbage collector must look into the span. Rust has
//! no collector, so nobody ever looks: here a span class *is* a size class.

use core::{alloc::Layout, hint::cold_path};

/// A page of the heap: what spans are made of.
pub const PAGE: usize = 8 << 10;
/// The largest small object.
pub const MAX_SMALL: usize = 32 << 10;
/// How many classes there are, with class 0.
pub const CLASSES: usize = 68;
/// The most objects in a span.
pub(crate) const MAX_OBJECTS: usize = 1024;
/// The most objects that move between an mcache and an mcentral at once.
pub(crate) const MAX_BATCH: usize = 128;

/// A size class of small objects: 1 to 67.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u8);

/// What there is to know of a class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Info {
    /// Bytes in an object.
    pub(crate) size: u32,
    /// 2^32 / size, rounded up: the index of an object in its span is `offset * magic >> 32`.
    pub(crate) magic: u32,
    /// Objects in a span.
    pub(crate) objects: u16,
    /// Objects that move between an mcache and the mcentral at once: about 16 KiB of them.
    pub(crate) batch: u16,
    /// Pages in a span.
    pub(crate) pages: u8,
}

static INFO: [Info; CLASSES] = infos();
/// Bin by size, in steps of 8 bytes. Most of it is never looked at, and so in no cache.
static BIN_BY_8: [BinAt; MAX_SMALL / 8 + 1] = bins();

const fn sizes() -> [u32; CLASSES] {
    let mut sizes = [0; CLASSES];
    let mut class = 1;
    let mut size = 8;
    while size <= MAX_SMALL as u32 {
        sizes[class] = size;
        class += 1;
        size += step(size);
    }
    assert!(class == CLASSES);
    sizes
}

/// From this size to the next.
const fn step(size: u32) -> u32 {
    if size < 48 {
        return 8;
    }
    if size < 128 {
        return 16;
    }
    let eighth = (1 << size.ilog2()) / 8;
    if size / eighth == 14 { 2 * eighth } else { eighth }
}

const fn infos() -> [Info; CLASSES] {
    let sizes = sizes();
    let mut infos = [Info {
        size: 0,
        magic: 0,
        objects: 0,
        batch: 0,
        pages: 0,
    }; CLASSES];
    let mut class = 1;
    while class < CLASSES {
        let size = sizes[class];
        let mut span = PAGE as u32;
        while span < size || span % size > span / 8 {
            span += PAGE as u32;
        }
        assert!(span / size <= MAX_OBJECTS as u32);
        let batch = (16 << 10) / size;
        infos[class] = Info {
            size,
            magic: (1u64 << 32).div_ceil(size as u64) as u32,
            objects: (span / size) as u16,
            batch: if batch < 2 {
                2
            } else if batch > MAX_BATCH as u32 {
                MAX_BATCH as u16
            } else {
                batch as u16
            },
            pages: (span / PAGE as u32) as u8,
        };
        class += 1;
    }
    infos
}

/// The bin of each size `8 * i`.
const fn bins() -> [BinAt; MAX_SMALL / 8 + 1] {
    let sizes = sizes();
    let mut bins = [BinAt(0); MAX_SMALL / 8 + 1];
    let mut class = 1;
    let mut i = 0;
    while i < bins.len() {
        while (sizes[class] as usize) < 8 * i {
            class += 1;
        }
        bins[i] = BinAt::of(Class(class as u8));
        i += 1;
    }
    bins
}

/// Where the fast path finds what a class has: [`BIN`] bytes times the number of the class.
///
/// The table leads from a size to this number, and not to that of the class, which would have to be multiplied first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BinAt(u16);

/// Bytes in a bin of an mcache.
pub(crate) const BIN: usize = 16;

impl BinAt {
    /// The bin of a small layout that is aligned to 8 bytes at most, as most are; `None`: see [`Class::of`].
    #[inline(always)]
    pub(crate) const fn of_usual(size: usize, align: usize) -> Option<Self> {
        if align > 8 {
            cold_path(); // two branches that are never taken are fewer instructions than one that looks at both
            return None;
        }
        if size > MAX_SMALL {
            cold_path();
            return None;
        }
        // SAFETY: at most an eighth of MAX_SMALL.
        Some(unsafe { *BIN_BY_8.as_ptr().add(size.div_ceil(8)) })
    }

    /// The bin of a class.
    #[inline(always)]
    pub(crate) const fn of(class: Class) -> Self {
        Self(class.0 as u16 * BIN as u16)
    }

    /// The class whose bin this is.
    pub(crate) const fn class(self) -> Class {
        Class((self.0 / BIN as u16) as u8)
    }

    /// How many bytes after the first bin.
    #[inline(always)]
    pub(crate) const fn offset(self) -> usize {
        self.0 as usize
    }
}

impl Class {
    /// The class that serves `layout`, or `None` if it takes a large span. Folds to a constant if `layout` is one.
    #[inline(always)]
    pub(crate) const fn of(layout: Layout) -> Option<Self> {
        match Self::of_usual(layout) {
            None => Self::of_unusual(layout),
            class => class,
        }
    }

    /// The class of a small layout without an alignment of note; `None`: see [`of`](Self::of).
    #[inline(always)]
    pub(crate) const fn of_usual(layout: Layout) -> Option<Self> {
        match BinAt::of_usual(layout.size(), layout.align()) {
            Some(bin) => Some(bin.class()),
            None => None,
        }
    }

    /// The class of a layout with an alignment of note.
    const fn of_unusual(layout: Layout) -> Option<Self> {
        let mask = layout.align() - 1;
        // A layout's size does not overflow when rounded up to its alignment.
        let size = (layout.size() + mask) & !mask;
        if layout.align() > PAGE || size > MAX_SMALL {
            None
        } else {
            Some(BIN_BY_8[size.div_ceil(8)].class())
        }
    }

    /// The class with this number, if it is one of small objects.
    pub(crate) const fn new(index: usize) -> Option<Self> {
        if index > 0 && index < CLASSES {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// All of them, from the smallest up.
    pub(crate) fn all() -> impl DoubleEndedIterator<Item = Self> {
        (1..CLASSES as u8).map(Self)
    }

    /// The number of the class: at least 1 and below [`CLASSES`].
    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// What there is to know of the class.
    #[inline(always)]
    pub(crate) fn info(self) -> &'static Info {
        &INFO[self.index()]
    }

    /// Bytes in an object.
    #[inline(always)]
    pub(crate) fn size(self) -> usize {
        self.info().size as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waste_is_bounded() {
        let mut below = 0;
        for class in Class::all() {
            let info = class.info();
            let size = class.size();
            let span = usize::from(info.pages) * PAGE;
            let tail = span - usize::from(info.objects) * size;
            assert!(tail * 8 <= span, "class {size}: {tail} of {span} unused");
            assert!(info.objects >= 1 && usize::from(info.objects) <= MAX_OBJECTS);
            assert!(info.batch >= 2 && usize::from(info.batch) <= MAX_BATCH);
            let lost = size - (below + 1);
            assert!(
                if size <= 128 { lost <= 15 } else { lost * 8 < size },
                "class {size} after {below}"
            );
            below = size;
        }
        assert_eq!(below, MAX_SMALL);
    }

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        let mut expected = Class::all();
        let mut class = expected.next().unwrap();
        for size in 0..=MAX_SMALL {
            if size > class.size() {
                class = expected.next().unwrap();
            }
            assert_eq!(
                Class::of(Layout::from_size_align(size, 1).unwrap()),
                Some(class),
                "size {size}"
            );
        }
        assert_eq!(Class::of(Layout::from_size_align(MAX_SMALL + 1, 1).unwrap()), None);
        assert_eq!(
            Class::of(Layout::from_size_align(isize::MAX as usize, 1).unwrap()),
            None
        );
    }

    #[test]
    fn classes_are_aligned_as_asked() {
        for shift in 0..=13 {
            let align = 1 << shift;
            for size in 1..=MAX_SMALL {
                let class = Class::of(Layout::from_size_align(size, align).unwrap()).unwrap();
                assert!(
                    class.size() >= size && class.size().is_multiple_of(align),
                    "{size} at {align}: {class:?}"
                );
            }
        }
        assert_eq!(Class::of(Layout::from_size_align(8, 2 * PAGE).unwrap()), None);
    }

    #[test]
    fn the_magic_number_divides() {
        for class in Class::all() {
            let info = class.info();
            for offset in 0..usize::from(info.pages) * PAGE {
                let index = (offset as u64 * u64::from(info.magic)) >> 32;
                assert_eq!(
                    index as usize,
                    offset / class.size(),
                    "{offset} in class {}",
                    class.size()
                );
            }
        }
    }

    #[test]
    fn a_constant_layout_folds() {
        const CLASS: Option<Class> = Class::of(Layout::new::<[u64; 8]>());
        assert_eq!(CLASS.map(Class::size), Some(64));
    }
}
