//! Fixed-size records that outlive everything: the allocator's own metadata, and whatever the layers above must be able
//! to look at without asking whether it still exists.
//!
//! ```text
//!   Fixalloc<T>   free list ─▶ T ─▶ T          next ─▶ │ T │ T │ T │  rest of a piece
//!                                                            ▲ pieces of 16 KiB and more
//!   persist                                    chunk of 256 KiB: bump pointer, never goes back
//! ```
//!
//! The memory comes from mappings of its own, outside the arenas. It is *type-stable*: a record that was freed is handed
//! out again as a record of the same type and is never unmapped, so a stale pointer to one still points to a `T`.

use crate::{
    guarded::{Guarded, Rank},
    sys::mem,
};
use core::{
    alloc::Layout,
    fmt,
    marker::PhantomData,
    mem::size_of,
    ptr::{self, NonNull},
};

/// What a chunk of persistent memory holds; requests of half of it and more get a mapping of their own.
const CHUNK: usize = 256 << 10;
/// What a `Fixalloc` takes from persistent memory at a time, unless one record is larger.
const PIECE: usize = 16 << 10;

/// The rest of the current chunk.
struct Persist {
    next: *mut u8,
    left: usize,
    handed_out: usize,
}

static PERSIST: Guarded<Persist> = Guarded::new(
    Rank::Persist,
    Persist {
        next: ptr::null_mut(),
        left: 0,
        handed_out: 0,
    },
);

/// Zeroed memory that is never given back. `None`: the system has no more.
pub(crate) fn persist(layout: Layout) -> Option<NonNull<u8>> {
    debug_assert!(layout.size() > 0 && layout.align() <= 4096);
    let len = layout.size().checked_next_multiple_of(4096)?;
    PERSIST.with(|state| {
        if len >= CHUNK / 2 {
            let own = mem::map(len, 4096, 0)?;
            state.handed_out += len;
            return Some(own);
        }
        let mut skip = state.next.align_offset(layout.align());
        if state.next.is_null() || skip + layout.size() > state.left {
            let chunk = mem::map(CHUNK, 4096, 0)?;
            (state.next, state.left, skip) = (chunk.as_ptr(), CHUNK, 0);
        }
        // SAFETY: `skip + size` bytes are left in the chunk from `next` on.
        let at = unsafe { state.next.add(skip) };
        // SAFETY: as above.
        state.next = unsafe { at.add(layout.size()) };
        state.left -= skip + layout.size();
        state.handed_out += layout.size();
        NonNull::new(at)
    })
}

/// Takes or gives back the lock of persistent memory, for fork.
pub(crate) fn persist_guard() -> &'static Guarded<impl Sized> {
    &PERSIST
}

/// Bytes of metadata handed out.
pub(crate) fn metadata_bytes() -> usize {
    PERSIST.with(|state| state.handed_out)
}

/// An allocator of `T`-sized records that are type-stable: reused, never unmapped.
pub struct Fixalloc<T> {
    state: Guarded<State>,
    of: PhantomData<fn() -> T>,
}

struct State {
    /// Freed records, linked through their first word.
    free: *mut Link,
    /// The rest of the current piece.
    next: *mut u8,
    left: usize,
    in_use: usize,
}

struct Link {
    next: *mut Link,
}

impl<T> Fixalloc<T> {
    /// The layout of a record: a `T`, and at least a link.
    const LAYOUT: Layout = match Layout::new::<T>().align_to(align_of::<Link>()) {
        Ok(layout) if layout.size() >= size_of::<Link>() => layout.pad_to_align(),
        Ok(layout) => match Layout::from_size_align(size_of::<Link>(), layout.align()) {
            Ok(layout) => layout.pad_to_align(),
            Err(_) => panic!("a record is larger than the address space"),
        },
        Err(_) => panic!("a record is larger than the address space"),
    };
    /// Records in a piece.
    const RECORDS: usize = if PIECE / Self::LAYOUT.size() == 0 {
        1
    } else {
        PIECE / Self::LAYOUT.size()
    };

    /// An allocator that has no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Guarded::new(
                Rank::Fixalloc,
                State {
                    free: ptr::null_mut(),
                    next: ptr::null_mut(),
                    left: 0,
                    in_use: 0,
                },
            ),
            of: PhantomData,
        }
    }

    /// Memory for one record, aligned for a `T`. `None`: the system has no more.
    ///
    /// It is zero when handed out for the first time; a record that was freed before holds what it held then, except for
    /// its first word. May be called from anywhere but a section of the latch.
    #[must_use]
    pub fn alloc(&self) -> Option<NonNull<T>> {
        self.state.with(|state| {
            let record = match NonNull::new(state.free) {
                Some(link) => {
                    // SAFETY: `free` put a link there, and nobody else has the record since.
                    state.free = unsafe { link.read().next };
                    link.cast::<u8>()
                }
                None => state.carve(Self::LAYOUT, Self::RECORDS)?,
            };
            state.in_use += 1;
            Some(record.cast())
        })
    }

    /// Takes a record back, to hand it out again.
    ///
    /// # Safety
    ///
    /// The record came from `alloc` of this value, and from here on the caller writes to it no more. (Reads are another
    /// matter: they find a record of the same type, or its next owner's.)
    pub unsafe fn free(&self, record: NonNull<T>) {
        self.state.with(|state| {
            let link = record.cast::<Link>();
            // SAFETY: the record is the caller's, at least as large as a link, and aligned for one.
            unsafe { link.write(Link { next: state.free }) };
            state.free = link.as_ptr();
            state.in_use -= 1;
        });
    }

    /// How many records are out.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.state.with(|state| state.in_use)
    }

    /// The lock, for fork.
    pub(crate) fn guard(&self) -> &Guarded<impl Sized> {
        &self.state
    }
}

impl State {
    /// A record that was never handed out.
    fn carve(&mut self, layout: Layout, records: usize) -> Option<NonNull<u8>> {
        if self.left == 0 {
            let piece = Layout::from_size_align(layout.size() * records, layout.align()).ok()?;
            self.next = persist(piece)?.as_ptr();
            self.left = records;
        }
        let record = self.next;
        // SAFETY: `left` records are left from `next` on.
        self.next = unsafe { record.add(layout.size()) };
        self.left -= 1;
        NonNull::new(record)
    }
}

impl<T> Default for Fixalloc<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Fixalloc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixalloc").field("in_use", &self.in_use()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Wide([u8; 100]);

    #[test]
    fn records_are_aligned_apart_and_reused() {
        let fix = Fixalloc::<Wide>::new();
        let mut all = [NonNull::<Wide>::dangling(); 500];
        for (i, slot) in all.iter_mut().enumerate() {
            *slot = fix.alloc().unwrap();
            assert!(slot.addr().get().is_multiple_of(64));
            // SAFETY: the record is ours; fresh ones are zero.
            unsafe {
                assert!(slot.as_ref().0.iter().all(|&b| b == 0));
                slot.as_mut().0.fill(i as u8);
            }
        }
        for (i, slot) in all.iter().enumerate() {
            // SAFETY: still ours.
            let bytes = unsafe { slot.as_ref().0 };
            assert!(bytes.iter().all(|&b| b == i as u8), "record {i} was overwritten");
        }
        assert_eq!(fix.in_use(), 500);
        // SAFETY: ours, and used no more.
        unsafe { fix.free(all[3]) };
        assert_eq!(fix.alloc(), Some(all[3]), "the record freed last comes first");
    }

    #[test]
    fn small_and_large_records() {
        let bytes = Fixalloc::<u8>::new();
        let (a, b) = (bytes.alloc().unwrap(), bytes.alloc().unwrap());
        assert!(a.addr().get().abs_diff(b.addr().get()) >= size_of::<Link>());
        let large = Fixalloc::<[u8; 300_000]>::new();
        let record = large.alloc().unwrap();
        // SAFETY: the record is ours.
        unsafe { record.cast::<u8>().add(299_999).write(1) };
    }
}
