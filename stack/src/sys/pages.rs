//! What may be done to the pages of a reservation.
//!
//! All addresses and lengths are multiples of the page size. None of these functions allocates or locks, so all of them
//! may be called from the fault handler. Errors are errno values.

use super::process::{self, PAGE};
use core::{
    ffi::{c_int, c_void},
    mem,
    ops::Range,
    ptr,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

/// Linux 6.13: makes pages trap by a marker in the page table, without a mapping of their own.
const MADV_GUARD_INSTALL: c_int = 102;
/// Linux 6.13: removes such markers.
const MADV_GUARD_REMOVE: c_int = 103;
/// Linux 6.15: a file descriptor that stands for this process.
const PIDFD_SELF: c_int = -10_000;
/// How many ranges one system call takes at most.
pub(crate) const AT_ONCE: usize = 32;

/// How this process makes a page trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardKind {
    /// Guard markers (`MADV_GUARD_INSTALL`): a page-table entry each, no mapping.
    Marker,
    /// `mprotect(PROT_NONE)`: two mappings per stack. The kernel is older than 6.13, or `BATON_GUARD=mprotect` is set.
    Mprotect,
}

/// 0 until probed, then 1 for markers, 2 for mprotect. Racing probes find the same.
static KIND: AtomicU8 = AtomicU8::new(0);

/// How this process makes a page trap; probed at the first call.
#[must_use]
pub fn guard_kind() -> GuardKind {
    match KIND.load(Ordering::Relaxed) {
        1 => GuardKind::Marker,
        2 => GuardKind::Mprotect,
        _ => {
            let kind = if !process::env_is(c"BATON_GUARD", c"mprotect") && markers_work() {
                GuardKind::Marker
            } else {
                GuardKind::Mprotect
            };
            KIND.store(if kind == GuardKind::Marker { 1 } else { 2 }, Ordering::Relaxed);
            kind
        }
    }
}

/// Tries a marker on a page of its own.
fn markers_work() -> bool {
    // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing that exists.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return false;
    }
    let start = page as usize;
    // SAFETY: the page is ours and empty.
    let works = unsafe { guard(start..start + PAGE) }.is_ok();
    // SAFETY: ours, and nobody else knows it.
    unsafe { libc::munmap(page, PAGE) };
    works
}

/// Puts guard markers on `range`; what it held is lost. The guards stay until [`open`].
///
/// # Safety
///
/// The range lies in a reservation of the caller's, and nobody needs what is in it.
pub(crate) unsafe fn guard(range: Range<usize>) -> Result<(), c_int> {
    // SAFETY: as the caller promised.
    unsafe { advise(range, MADV_GUARD_INSTALL) }
}

/// Puts guard markers on all of these ranges by one system call; `false` if not all of them have theirs: then each needs a
/// [`guard`] of its own, which does no harm to those that have. At most [`AT_ONCE`] ranges.
///
/// # Safety
///
/// As for [`guard`], for each range.
pub(crate) unsafe fn guard_all(ranges: impl Iterator<Item = Range<usize>>) -> bool {
    // SAFETY: as the caller promised.
    unsafe { advise_all(ranges, MADV_GUARD_INSTALL) }
}

/// Gives all of these ranges physical pages by one system call, if that is possible here; as [`populate`]. At most [`AT_ONCE`] ranges.
///
/// # Safety
///
/// As for [`populate`], for each range.
pub(crate) unsafe fn populate_all(ranges: impl Iterator<Item = Range<usize>>) {
    // SAFETY: as the caller promised.
    unsafe { advise_all(ranges, libc::MADV_POPULATE_WRITE) };
}

/// Gives the physical pages of all of these ranges back by one system call, and so by one request to the other processors to forget
/// them; `false` if not all are gone: then each needs a [`give_back`] of its own. At most [`AT_ONCE`] ranges.
///
/// # Safety
///
/// As for [`give_back`], for each range.
pub(crate) unsafe fn give_all_back(ranges: impl Iterator<Item = Range<usize>>) -> bool {
    // SAFETY: as the caller promised.
    unsafe { advise_all(ranges, libc::MADV_DONTNEED) }
}

/// One piece of advice about many ranges by one system call; `false` if it was not done for all of them.
///
/// # Safety
///
/// As for the advice, for each range.
unsafe fn advise_all(ranges: impl Iterator<Item = Range<usize>>, advice: c_int) -> bool {
    /// Set once the kernel has refused: it is older than Linux 6.15, or a filter of system calls does not know this one.
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if REFUSED.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: all-zero bytes are valid iovecs.
    let mut vector: [libc::iovec; AT_ONCE] = unsafe { mem::zeroed() };
    let (mut len, mut bytes) = (0, 0);
    for (slot, range) in vector.iter_mut().zip(ranges) {
        slot.iov_base = address(&range);
        slot.iov_len = range.len();
        len += 1;
        bytes += range.len();
    }
    // SAFETY: as the caller promised; the vector outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_process_madvise, PIDFD_SELF, vector.as_ptr(), len, advice, 0) };
    if done < 0
        && !matches!(
            process::errno(),
            libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::EFAULT
        )
    {
        REFUSED.store(true, Ordering::Relaxed);
    }
    usize::try_from(done) == Ok(bytes)
}

/// Removes guard markers from `range`. Pages without a marker are left as they are.
///
/// # Safety
///
/// The range lies in a reservation of the caller's.
pub(crate) unsafe fn open(range: Range<usize>) -> Result<(), c_int> {
    // SAFETY: as the caller promised.
    unsafe { advise(range, MADV_GUARD_REMOVE) }
}

/// Makes `range` inaccessible by a mapping of its own.
///
/// # Safety
///
/// The range lies in a reservation of the caller's, and nobody needs what is in it.
pub(crate) unsafe fn protect(range: Range<usize>) -> Result<(), c_int> {
    // SAFETY: as the caller promised.
    let r = unsafe { libc::mprotect(address(&range), range.len(), libc::PROT_NONE) };
    if r == 0 { Ok(()) } else { Err(process::errno()) }
}

/// Gives `range` physical pages before they are touched. That it fails (a memory limit, a guard in between) is no harm:
/// then each page comes when it is touched, or does not come.
///
/// # Safety
///
/// The range lies in a reservation of the caller's.
pub(crate) unsafe fn populate(range: Range<usize>) {
    // SAFETY: as the caller promised; it changes no contents.
    unsafe { libc::madvise(address(&range), range.len(), libc::MADV_POPULATE_WRITE) };
}

/// Lets the kernel back `range` with huge pages. It may refuse, where it knows none or has no more mappings; then there are none.
///
/// # Safety
///
/// The range lies in a reservation of the caller's.
pub(crate) unsafe fn allow_huge(range: Range<usize>) {
    // SAFETY: as the caller promised; the advice changes no contents.
    unsafe { libc::madvise(address(&range), range.len(), libc::MADV_HUGEPAGE) };
}

/// Gives the physical pages of `range` back; what they held is lost, guards stay.
///
/// # Safety
///
/// The range lies in a reservation of the caller's, and nobody needs what is in it.
pub(crate) unsafe fn give_back(range: Range<usize>) {
    // SAFETY: as the caller promised. It cannot fail for a private mapping that is not locked; where memory is locked
    // (mlockall) the pages stay, as that program asked for.
    unsafe { libc::madvise(address(&range), range.len(), libc::MADV_DONTNEED) };
}

/// The address of the lowest page of `range` that is in memory.
pub(crate) fn lowest_resident(range: Range<usize>) -> Option<usize> {
    const PAGES: usize = 128;
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start + PAGES * PAGE);
        let mut present = [0_u8; PAGES];
        // SAFETY: mincore reads page tables only and writes one byte a page, for at most `PAGES` pages.
        let r = unsafe { libc::mincore(address(&(start..end)), end - start, present.as_mut_ptr()) };
        if r == 0
            && let Some(i) = present.iter().position(|p| p & 1 == 1)
        {
            return Some(start + i * PAGE);
        }
        start = end;
    }
    None
}

/// One madvise, repeated while the kernel asks for it.
unsafe fn advise(range: Range<usize>, advice: c_int) -> Result<(), c_int> {
    loop {
        // SAFETY: as the callers' callers promised.
        if unsafe { libc::madvise(address(&range), range.len(), advice) } == 0 {
            return Ok(());
        }
        match process::errno() {
            libc::EAGAIN | libc::EINTR => {}
            errno => return Err(errno),
        }
    }
}

fn address(range: &Range<usize>) -> *mut c_void {
    ptr::with_exposed_provenance_mut(range.start)
}
