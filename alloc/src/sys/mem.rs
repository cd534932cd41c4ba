//! Address space and physical pages.
//!
//! | state | meaning | leaves by |
//! |---|---|---|
//! | none | not ours | [`map`] → fresh |
//! | fresh | mapped, readable and writable, no physical page behind it; reads as zero | a write → used; [`unmap`] → none |
//! | used | a physical page holds what was written | [`discard`] → fresh; [`unmap`] → none |
//!
//! A state is that of each page of the system by itself. Where those are longer than a page of the heap, which has 8 KiB, the
//! kernel would take what lies beside a range as well: what is not whole pages of the system is never discarded nor guarded.
//!
//! Mappings are private, anonymous and `MAP_NORESERVE`: address space
//! costs nothing until it is written to, so there is no separate step that commits it. Where the kernel is told never to
//! overcommit (`vm.overcommit_memory = 2`) it counts mapped address space all the same, and `map` fails earlier.

use super::errno;
use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The smallest page of the machines that Baton knows; mappings start and end on its multiples.
const OS_PAGE: usize = 4096;

/// Bytes of address space mapped at present.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of address space that the allocator holds.
pub(crate) fn mapped() -> usize {
    MAPPED.load(Relaxed)
}

/// Maps `len` bytes at a multiple of `align`, near `hint` if there is room. They are fresh.
///
/// `len` is a multiple of the page size and `align` a power of two. `None`: the address space, a limit on it or the
/// number of mappings is exhausted.
pub(crate) fn map(len: usize, align: usize, hint: usize) -> Option<NonNull<u8>> {
    debug_assert!(len > 0 && len.is_multiple_of(OS_PAGE) && align.is_power_of_two());
    if isize::try_from(len.checked_add(align)?).is_err() {
        return None;
    }
    errno::kept(|| {
        let base = map_aligned(len, align, hint)?;
        MAPPED.fetch_add(len, Relaxed);
        Some(base)
    })
}

fn map_aligned(len: usize, align: usize, hint: usize) -> Option<NonNull<u8>> {
    let first = map_raw(len, hint)?;
    if first.addr().get().is_multiple_of(align) {
        return Some(first);
    }
    // SAFETY: just mapped, and nobody knows it.
    unsafe { unmap_raw(first, len) };
    // More than is needed, of which one aligned piece is kept.
    let whole = map_raw(len + align - OS_PAGE, 0)?;
    let start = whole.addr().get();
    let front = start.next_multiple_of(align) - start;
    let back = align - OS_PAGE - front;
    // SAFETY: `front + len + back` bytes were just mapped at `whole`, and nobody knows them.
    unsafe {
        let base = whole.add(front);
        unmap_raw(whole, front);
        unmap_raw(base.add(len), back);
        Some(base)
    }
}

fn map_raw(len: usize, hint: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new private mapping wherever the kernel likes (without MAP_FIXED a hint replaces nothing).
    let base = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(hint),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        None
    } else {
        NonNull::new(base.cast())
    }
}

/// # Safety
///
/// As for `unmap`; `len` may be 0.
unsafe fn unmap_raw(base: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: as the caller promised.
        unsafe { libc::munmap(base.as_ptr().cast(), len) };
    }
}

/// The length of the system's pages.
pub(crate) fn os_page() -> usize {
    // SAFETY: getauxval reads a table.
    usize::try_from(unsafe { libc::getauxval(libc::AT_PAGESZ) })
        .unwrap_or(0)
        .max(OS_PAGE)
}

/// Whether the range is whole pages of this length.
fn is_whole(base: NonNull<u8>, len: usize, page: usize) -> bool {
    base.addr().get().is_multiple_of(page) && len.is_multiple_of(page)
}

/// Gives address space back to the kernel.
///
/// # Safety
///
/// The range was mapped by [`map`] and nobody uses it.
pub(crate) unsafe fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: as the caller promised.
    errno::kept(|| unsafe { unmap_raw(base, len) });
    MAPPED.fetch_sub(len, Relaxed);
}

/// Makes used pages fresh: their physical pages go back to the kernel. `false`, and all is as it was, if it refuses (locked
/// memory), or if the range is not whole pages of the system.
///
/// # Safety
///
/// The range was mapped by [`map`] and nobody needs what is in it.
#[must_use]
pub(crate) unsafe fn discard(base: NonNull<u8>, len: usize) -> bool {
    is_whole(base, len, os_page())
        // SAFETY: as the caller promised; nothing beside the range goes, since it is whole pages.
        && errno::kept(|| unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_DONTNEED) == 0 })
}

/// Bytes of physical memory that the process takes, if /proc tells.
pub(crate) fn resident() -> Option<usize> {
    let mut text = [0_u8; 128];
    // SAFETY: the path is a C string, and the buffer is as long as it is said to be.
    let len = errno::kept(|| unsafe {
        let file = libc::open(c"/proc/self/statm".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return -1;
        }
        let len = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        len
    });
    let text = core::str::from_utf8(text.get(..usize::try_from(len).ok()?)?).ok()?;
    let pages: usize = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(os_page())
}

/// Asks the kernel never to back the range with huge pages. It may refuse, where it knows none; then there are none.
///
/// # Safety
///
/// The range was mapped by [`map`].
pub(crate) unsafe fn no_huge_pages(base: NonNull<u8>, len: usize) {
    // SAFETY: as the caller promised; the advice changes no contents.
    errno::kept(|| unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) });
}

/// Makes pages fault when touched, without a mapping of their own, or makes them plain memory again (which reads as zero).
/// A kernel before 6.13 knows no such thing; then they stay as they are, and so does what is not whole pages of the system.
///
/// # Safety
///
/// The pages are the caller's, who has nothing in them.
pub(crate) unsafe fn guard(at: NonNull<u8>, len: usize, on: bool) {
    const MADV_GUARD_INSTALL: libc::c_int = 102;
    const MADV_GUARD_REMOVE: libc::c_int = 103;
    let advice = if on { MADV_GUARD_INSTALL } else { MADV_GUARD_REMOVE };
    if is_whole(at, len, os_page()) {
        // SAFETY: as the caller promised; nothing beside the pages changes, since they are whole ones.
        errno::kept(|| unsafe { libc::madvise(at.as_ptr().cast(), len, advice) });
    }
}

/// A random number that the kernel gave this process at its start.
pub(crate) fn seed() -> u64 {
    // SAFETY: getauxval reads a table.
    let at = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const u64;
    if at.is_null() {
        return 0;
    }
    // SAFETY: 16 random bytes, which stay where they are.
    unsafe { at.read_unaligned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_at_every_alignment_and_reads_zero() {
        for shift in [12, 13, 16, 21, 26, 30] {
            let align = 1 << shift;
            let base = map(3 * OS_PAGE, align, 0).unwrap();
            assert!(base.addr().get().is_multiple_of(align), "{base:?} at 2^{shift}");
            // SAFETY: three pages, mapped just now.
            unsafe {
                for i in 0..3 {
                    assert_eq!(base.add(i * OS_PAGE).read(), 0);
                }
                unmap(base, 3 * OS_PAGE);
            }
        }
    }

    #[test]
    fn discarded_pages_read_zero_again() {
        let base = map(2 * OS_PAGE, OS_PAGE, 0).unwrap();
        // SAFETY: two pages, mapped just now.
        unsafe {
            base.add(OS_PAGE).write(7);
            assert!(discard(base, 2 * OS_PAGE));
            assert_eq!(base.add(OS_PAGE).read(), 0);
            unmap(base, 2 * OS_PAGE);
        }
    }

    /// The kernel rounds lengths up: what is behind a range that ends inside a page would go with it.
    #[test]
    fn what_is_not_whole_pages_of_the_system_stays() {
        let base = map(2 * OS_PAGE, OS_PAGE, 0).unwrap();
        // SAFETY: two pages, mapped just now.
        unsafe {
            base.write(1);
            base.add(OS_PAGE + 8).write(7);
            assert!(!discard(base, OS_PAGE + 8));
            guard(base, OS_PAGE + 8, true);
            assert_eq!((base.read(), base.add(OS_PAGE + 8).read()), (1, 7));
            unmap(base, 2 * OS_PAGE);
        }
        let at = |address| NonNull::new(ptr::without_provenance_mut(address)).unwrap();
        // A page of the heap under kernels with pages of 4, 16 and 64 KiB.
        let (page, heap) = (at(3 << 16), 8 << 10);
        assert!(is_whole(page, heap, 4 << 10) && !is_whole(page, heap, 16 << 10) && !is_whole(page, heap, 64 << 10));
        assert!(is_whole(page, 8 * heap, 64 << 10) && !is_whole(at((3 << 16) + heap), 8 * heap, 64 << 10));
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_and_errno_kept() {
        // SAFETY: errno is this thread's own word.
        unsafe { *libc::__errno_location() = 42 };
        assert_eq!(map(isize::MAX as usize & !(OS_PAGE - 1), OS_PAGE, 0), None);
        assert_eq!(map(1 << 60, 1 << 30, 0), None);
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, 42);
    }
}
