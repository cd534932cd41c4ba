//! Arenas: the 64 MiB pieces of address space that pages come from, and the map from any address to its arena and span.
//!
//! ```text
//!   address ── >> 26 ──▶ MAP ──▶ Arena (persist)                      64 MiB of address space
//!                                ├ in_use   1 bit a page ◀─ mheap     ┌────┬────┬────┬─
//!                                ├ dirty    1 bit a page              │page│page│page│ …  8,192 pages of 8 KiB
//!                                └ spans    page ──▶ Span             └────┴────┴────┴─
//! ```
//!
//! The map is flat: one word for each 64 MiB that a process can address, 16 MiB of zeros on x86-64, of which only the
//! pages that are looked at ever become memory. So a look-up is two loads without a lock or a search.
//!
//! # Who may touch what
//!
//! | field | written | read |
//! |---|---|---|
//! | `MAP[i]`, `base`, `owner`, `spans` itself | once, when the arena is made, under the mheap lock | by anybody |
//! | `pages` | under the mheap lock | under the mheap lock |
//! | `spans[i]` | by whoever has the page, which is out | by whoever holds an object in that span |

use crate::{
    fixalloc,
    mspan::Span,
    pagebits::{CHUNKS, PAGES, PageBits},
    sizeclass::PAGE,
    summary::{self, Sum},
};
use core::{
    alloc::Layout,
    cell::UnsafeCell,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicPtr,
        Ordering::{Acquire, Release},
    },
};

/// Bytes in an arena; arenas are aligned to it.
pub const ARENA: usize = 64 << 20;

/// Bits of a user address.
#[cfg(target_arch = "x86_64")]
const ADDRESS_BITS: u32 = 47;
#[cfg(target_arch = "aarch64")]
const ADDRESS_BITS: u32 = 48;

/// How many arenas fit into the address space.
pub(crate) const SLOTS: usize = 1 << (ADDRESS_BITS - ARENA.ilog2());

/// What the pages of an arena are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaKind {
    /// Objects, and manual spans that are like objects.
    Object,
    /// Stacks: never backed by huge pages, which would make a stack of one page cost 2 MiB.
    Stack,
}

/// What there is to know of 64 MiB of address space. Never freed.
pub(crate) struct Arena {
    base: NonNull<u8>,
    /// Which page allocator it belongs to; constant.
    owner: u8,
    pages: UnsafeCell<Pages>,
    /// The span of each page, null for a free page; `None` in stack arenas, whose spans are all manual.
    spans: Option<&'static [AtomicPtr<Span>; PAGES]>,
}

/// The state of an arena's pages; under the mheap lock.
pub(crate) struct Pages {
    /// Pages that belong to a span.
    pub(crate) in_use: PageBits,
    /// Pages that may have been written to since the kernel gave them; all others read as zero.
    pub(crate) dirty: PageBits,
    /// How many pages are free and dirty.
    pub(crate) backed: usize,
    /// Where the free runs are, chunk by chunk.
    pub(crate) sums: [Sum; CHUNKS],
}

static MAP: [AtomicPtr<Arena>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];

/// The slot of the map that this address falls into.
#[inline]
pub(crate) fn slot(address: usize) -> usize {
    address / ARENA
}

/// The arena in a slot of the map.
#[inline]
pub(crate) fn at(slot: usize) -> Option<&'static Arena> {
    // SAFETY: the map holds nulls and arenas, and arenas are never freed.
    unsafe { MAP.get(slot)?.load(Acquire).as_ref() }
}

/// The span that the page of `object` belongs to. `None` if the address is none of the heap's, or its page is free or
/// in a manual span.
#[inline]
pub(crate) fn span_of(object: NonNull<u8>) -> Option<NonNull<Span>> {
    let address = object.addr().get();
    let spans = at(slot(address))?.spans?;
    NonNull::new(spans[address % ARENA / PAGE].load(Acquire))
}

impl Arena {
    /// Makes the fresh 64 MiB at `base` known as an arena. `None`: no memory for its metadata.
    ///
    /// # Safety
    ///
    /// The caller holds the mheap lock; `base` is the start of 64 MiB, aligned to that, of a mapping that is never
    /// unmapped and that nobody else uses.
    pub(crate) unsafe fn register(base: NonNull<u8>, kind: ArenaKind, owner: u8) -> Option<&'static Self> {
        let at = MAP.get(slot(base.addr().get()))?;
        let spans = match kind {
            ArenaKind::Object => {
                let spans = fixalloc::persist(Layout::new::<[AtomicPtr<Span>; PAGES]>())?;
                // SAFETY: the memory is zeroed, which is nulls, and is never given back.
                Some(unsafe { spans.cast().as_ref() })
            }
            ArenaKind::Stack => None,
        };
        let arena = fixalloc::persist(Layout::new::<Self>())?.cast::<Self>();
        // SAFETY: `arena` is zeroed memory of the right size that is ours. The bit sets are valid as zeros; the other
        // fields are written here.
        unsafe {
            let this = arena.as_ptr();
            (&raw mut (*this).base).write(base);
            (&raw mut (*this).spans).write(spans);
            let pages = UnsafeCell::raw_get(&raw const (*this).pages);
            (&raw mut (*pages).sums).write(summary::ALL_FREE);
            (&raw mut (*this).owner).write(owner);
        }
        at.store(arena.as_ptr(), Release);
        // SAFETY: initialised above, never freed.
        Some(unsafe { arena.as_ref() })
    }

    /// The page allocator that it belongs to.
    pub(crate) fn owner(&self) -> u8 {
        self.owner
    }

    /// The address of a page.
    pub(crate) fn page(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < PAGES);
        // SAFETY: the arena has `PAGES` pages of `PAGE` bytes.
        unsafe { self.base.add(index * PAGE) }
    }

    /// The state of the pages.
    ///
    /// # Safety
    ///
    /// The caller holds the mheap lock (or is a test with an arena of its own), and uses one such reference at a time.
    #[expect(
        clippy::mut_from_ref,
        reason = "the mheap lock, not the borrow checker, says who may write"
    )]
    pub(crate) unsafe fn pages(&self) -> &mut Pages {
        // SAFETY: as the caller promised.
        unsafe { &mut *self.pages.get() }
    }

    /// Makes `span` the span of `len` pages from `start` on; null when they are free again. Call it as the one who has
    /// the pages.
    pub(crate) fn set_span(&self, start: usize, len: usize, span: *mut Span) {
        if let Some(spans) = self.spans {
            for entry in &spans[start..start + len] {
                entry.store(span, Release);
            }
        }
    }
}

/// The parts of `len` pages from `base` on that lie in one arena each: the slot of the arena, the first page, how many.
pub(crate) fn pieces(base: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, mut left) = (base, len);
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let start = at % ARENA / PAGE;
        let n = left.min(PAGES - start);
        let piece = (slot(at), start, n);
        at += n * PAGE;
        left -= n;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_falls_into_arenas() {
        let base = 5 * ARENA + 8190 * PAGE;
        let found: Vec<_> = pieces(base, 8195).collect();
        assert_eq!(found, [(5, 8190, 2), (6, 0, PAGES), (7, 0, 1)]);
        assert_eq!(pieces(base, 2).collect::<Vec<_>>(), [(5, 8190, 2)]);
    }

    #[test]
    fn foreign_addresses_have_no_span() {
        let local = 0_u8;
        assert_eq!(span_of(NonNull::from(&local)), None);
        assert_eq!(
            span_of(NonNull::without_provenance(core::num::NonZero::<usize>::MAX)),
            None
        );
        assert_eq!(span_of(NonNull::dangling()), None);
    }
}
