//! copystack: doubling a stack without copying it.
//!
//! Go copies a goroutine to a stack twice as large and rewrites every pointer into it. A Rust stack cannot move: there
//! are no stack maps, and other goroutines, wakers and pinned futures may point into it. So the address stays and what
//! stands behind it doubles:
//!
//! ```text
//!   before   │ bottom │                        │ guard window │ 1.25 MiB extent │ base
//!   touch                                                  ✗ trap
//!   after    │ bottom │ guard window │ 5 MiB extent                           │ base      1. open the guards that the extent takes
//!                                                                                         2. offer it for huge pages
//!                                                                                         3. guard the window below, where it is new
//!                                                                                         4. populate a little, from the fault down
//! ```
//!
//! There are two ways in. The *trap* (`fault`) doubles until the faulting address is covered, and at least twice. A *parking
//! point* calls [`Desc::note_depth`], which is a load and a compare unless the stack is deeper than it has been: then it
//! keeps the class, and sees to it that 16 KiB below the stack pointer are plain memory, because what comes next may be a
//! kernel write or a signal frame, and neither can trap.
//!
//! Below 1.25 MiB all of that is bookkeeping: the kernel pages the first extent in.
//!
//! # What it costs, and what it is for
//!
//! Measured on a virtual machine with two busy cores, processor time: a page fault 0.7 to 1.3 µs, and 0.3 µs less for a page that is
//! populated, 16 at a time or more; a trap 5 to 7 µs: a signal, the fault before it, a system call to open the guards, another
//! for the next window unless the reservation ends there. So a trap that populates 64 KiB costs about what it saves, if these
//! are used, and the first extent is as large as that so that few goroutines trap, and none of usual size.
//!
//! What a trap buys is knowledge: who is here is deeper than nearly all others. So what it opens may be memory in huge pages, which
//! would be a waste anywhere else: 2 MiB of it then cost one fault, and a recursion 4 MiB deep a third less, 16 MiB half.
//! A block is taken when its first byte is touched, so a stack that trapped takes 2 MiB more than it needs at most. Each such offer
//! divides a mapping, of which a process has 65,530 as a rule; hence [`OFFERS`].
//!
//! Everything here may run in the fault handler: no lock, no latch, no allocation, and nothing that unwinds.

use crate::{
    Class,
    reservation::Desc,
    sys::{
        pages,
        process::{self, PAGE},
    },
};
use core::{
    ffi::c_int,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// How much plain memory a parking call finds below its stack pointer, and a lost signal frame the second time.
pub const HEADROOM: usize = 16 << 10;

/// How far below the stack pointer a program may write: the red zone, and a push or two. On aarch64 a store that moves the stack
/// pointer as well, of two vector registers by as much as an instruction can say: a fault finds it unmoved.
const RED_ZONE: usize = if cfg!(target_arch = "aarch64") { 1024 } else { 256 };

/// How much one trap populates. More may never be used.
const POPULATE: usize = 64 << 10;

/// The size of a huge page, on both machines that Baton knows.
const HUGE: usize = 2 << 20;

/// How many ranges of the process are offered for huge pages.
const OFFERS: u32 = 4096;

/// How much longer a trap makes the extent at least.
const LONGER: usize = 4;

/// Counts of the whole process.
pub(crate) struct Counters {
    pub(crate) traps: AtomicU64,
    pub(crate) doublings: AtomicU64,
    pub(crate) trimmed: AtomicU64,
    pub(crate) shrunk: AtomicU64,
}

static COUNTERS: Counters = Counters {
    traps: AtomicU64::new(0),
    doublings: AtomicU64::new(0),
    trimmed: AtomicU64::new(0),
    shrunk: AtomicU64::new(0),
};

/// Counts of the whole process.
pub(crate) fn counters() -> &'static Counters {
    &COUNTERS
}

/// What a fault on a goroutine's stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The stack needs to reach down to this address.
    Grow(usize),
    /// The goroutine has used up its reservation.
    Overflow,
    /// Not the stack: a bad pointer.
    NotOurs,
}

/// What a fault at `address` is, on `desc`, with the stack pointer at `sp`. `None`: a fault without an address, such as a
/// signal frame that the kernel could not write below `sp`.
///
/// Only a stack's own pointer grows it: otherwise a wild pointer would open the guards of a neighbour.
pub(crate) fn judge(desc: &Desc, address: Option<usize>, sp: usize) -> Verdict {
    if !desc.contains(sp) {
        return Verdict::NotOurs;
    }
    let limit = desc.limit();
    let Some(address) = address else {
        // With the headroom there already, a frame would have found room: then it was something else.
        return match sp - HEADROOM.min(sp) {
            wanted if wanted >= limit => Verdict::NotOurs,
            _ if limit == desc.floor() => Verdict::Overflow,
            wanted => Verdict::Grow(wanted),
        };
    };
    let lowest = sp - RED_ZONE.min(sp);
    if !desc.contains(address) || address >= limit || address < lowest {
        Verdict::NotOurs
    } else if address < desc.floor() {
        Verdict::Overflow
    } else {
        // As far as the stack pointer, not only the address: what is above it may be in use already, if an unprobed
        // frame jumped over the window, and the new window must not be put there.
        Verdict::Grow(lowest)
    }
}

/// Doubles the extent until `target` is covered, or as far as the reservation goes. Gives the number of doublings.
///
/// # Safety
///
/// The caller runs on the stack or holds it, and nothing below `target` is in use.
unsafe fn double(desc: &Desc, target: usize) -> Result<u32, c_int> {
    let old = desc.limit();
    let mut extent = desc.extent();
    let mut doublings = 0;
    while desc.limit_of(extent) > target.max(desc.floor()) {
        extent *= 2;
        doublings += 1;
    }
    let new = desc.limit_of(extent);
    // SAFETY: inside the reservation.
    unsafe { pages::open(new..old) }?;
    offer_huge(desc, new, old);
    let mut window = new.min(desc.window());
    let lowest = desc.window_of(extent);
    // SAFETY: inside the reservation and below `target`, so not in use.
    if lowest < window && unsafe { pages::guard(lowest..window) }.is_ok() {
        window = lowest;
    }
    // When a parking point calls this, the calls above may have trapped and grown the stack further than was planned.
    if new < desc.limit() {
        desc.set_extent(new, window);
    }
    desc.doublings.store(desc.doublings().wrapping_add(doublings), Relaxed);
    COUNTERS.doublings.fetch_add(doublings.into(), Relaxed);
    Ok(doublings)
}

/// Lets the kernel back what the extent gains with huge pages; once for each extent, since that lasts.
fn offer_huge(desc: &Desc, new: usize, old: usize) {
    static OFFERED: AtomicU32 = AtomicU32::new(0);
    let class = Class::holding(desc.base() - new).index() as u8;
    let whole = new.next_multiple_of(HUGE)..old & !(HUGE - 1);
    if whole.is_empty() || class <= desc.offered.load(Relaxed) || OFFERED.fetch_add(1, Relaxed) >= OFFERS {
        return;
    }
    desc.offered.store(class, Relaxed);
    // SAFETY: inside the reservation.
    unsafe { pages::allow_huge(whole) };
}

/// The trap: doubles the stack for the fault handler, twice at least, and brings the pages around the fault.
///
/// # Safety
///
/// [`judge`] said so, in the handler of the thread that runs on the stack.
pub(crate) unsafe fn grow(desc: &Desc, target: usize, address: Option<usize>) -> Result<(), c_int> {
    let old = desc.limit();
    let longer = desc.limit_of(desc.extent() * LONGER);
    // SAFETY: `target` is below the red zone of the interrupted code, and that is the deepest in use.
    unsafe { double(desc, target.min(longer)) }?;
    let fault = address.unwrap_or(target).max(desc.floor());
    let depth = desc.base() - fault;
    let end = old.min((fault / PAGE + 1) * PAGE);
    let start = desc.limit().max(end - POPULATE);
    if start < end {
        // SAFETY: inside the extent.
        unsafe { pages::populate(start..end) };
    }
    desc.deepest.store(desc.deepest.load(Relaxed).min(fault), Relaxed);
    desc.set_class(desc.class().max(Class::holding(depth)));
    desc.traps.store(desc.traps().wrapping_add(1), Relaxed);
    COUNTERS.traps.fetch_add(1, Relaxed);
    Ok(())
}

impl Desc {
    /// Called at every parking point with the stack pointer there. Keeps the high-water mark and the class, and makes
    /// sure of [`HEADROOM`] bytes of plain memory below.
    ///
    /// # Safety
    ///
    /// The caller runs on this stack, `sp` is its stack pointer or a little above.
    #[inline]
    pub unsafe fn note_depth(&self, sp: usize) {
        if sp < self.mark.load(Relaxed) {
            // SAFETY: as the caller promised.
            unsafe { self.note_deeper(sp) }
        }
    }

    #[cold]
    #[inline(never)]
    unsafe fn note_deeper(&self, sp: usize) {
        debug_assert!(self.contains(sp), "parking on another stack than this");
        let target = sp.saturating_sub(HEADROOM);
        if target < self.limit() && self.limit() > self.floor() {
            let errno = process::errno();
            // SAFETY: what this thread uses below `sp` are the frames from here to the system call, far less than the
            // headroom. A refusal is no harm: then the stack traps when it comes to that, and the handler reports it.
            let _ = unsafe { double(self, target) };
            process::set_errno(errno);
        }
        // After the doubling: `sp >= mark` means that the headroom is there.
        self.mark.store(sp, Relaxed);
        self.set_class(self.class().max(Class::holding(self.base() - sp)));
    }

    /// Opens a new stack as far as a class: its goroutine is expected to go that deep, and need not trap on the way.
    ///
    /// # Safety
    ///
    /// The caller holds the stack, and nothing runs on it.
    pub unsafe fn open_to(&self, class: Class) {
        let target = self.limit_of(class.bytes());
        if target < self.limit() {
            // SAFETY: nothing is in use. A refusal is no harm: then the stack traps when it comes to that.
            let _ = unsafe { double(self, target) };
        }
    }

    /// How many bytes are left below `sp`, on this stack.
    #[inline]
    #[must_use]
    pub fn remaining(&self, sp: usize) -> usize {
        sp.saturating_sub(self.floor())
    }

    /// The most that the present owner is known to have used: at parking points and traps, so anything between two of
    /// them that stayed inside the extent is not seen; [`measure`](Self::measure) sees it.
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.base() - self.mark.load(Relaxed).min(self.deepest.load(Relaxed))
    }
}

impl Desc {
    /// Asks the kernel how deep the stack has ever been since its pages were last given back, keeps the class, and gives
    /// the bytes from the base down to the lowest resident page. A few system calls: for one exit in many.
    ///
    /// # Safety
    ///
    /// The caller runs on this stack or holds it.
    pub unsafe fn measure(&self) -> usize {
        let errno = process::errno();
        let mut lowest = self.below_first(0);
        let mut depth = Class::LARGEST_SMALL.bytes();
        // Downwards in steps that double, until a step finds nothing.
        while lowest > self.limit() {
            let from = self.limit().max(self.below_first(depth));
            match pages::lowest_resident(from..lowest) {
                Some(page) => lowest = page,
                None => break,
            }
            if lowest > from {
                break;
            }
            depth *= 2;
        }
        process::set_errno(errno);
        let bytes = self.base().saturating_sub(lowest);
        self.set_class(self.class().max(Class::holding(bytes)));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Spec, StackGrowth, acquire, release};

    /// A stack that is not grown, of a kind that no other test uses.
    fn with_stack(reservation: usize, f: impl FnOnce(&'static Desc)) {
        let spec = Spec::with_growth(reservation, StackGrowth::Trap).unwrap();
        if spec.growth() != StackGrowth::Trap {
            return; // no guard markers here: nothing traps
        }
        let stack = acquire(spec).unwrap();
        f(stack.desc());
        release(stack);
    }

    #[test]
    fn only_the_stack_pointer_of_the_stack_grows_it() {
        with_stack(2 << 20, |d| {
            let limit = d.limit();
            let at = |address, sp| judge(d, Some(address), sp);
            assert_eq!(at(limit - 8, limit), Verdict::Grow(limit - RED_ZONE));
            assert_eq!(at(limit - 8, limit - 9000), Verdict::Grow(limit - 9000 - RED_ZONE));
            assert_eq!(at(limit - RED_ZONE, limit), Verdict::Grow(limit - RED_ZONE));
            assert_eq!(
                at(limit - RED_ZONE - 1, limit),
                Verdict::NotOurs,
                "far below the stack pointer"
            );
            assert_eq!(at(limit, limit), Verdict::NotOurs, "memory that is open already");
            assert_eq!(at(limit - 8, d.range().end), Verdict::NotOurs, "running elsewhere");
            assert_eq!(at(limit - 8, d.range().start - 64), Verdict::NotOurs, "further down");
            assert_eq!(judge(d, None, d.range().start - 64), Verdict::NotOurs);
            assert_eq!(
                at(d.range().start - 8, d.range().start),
                Verdict::NotOurs,
                "the neighbour"
            );
            assert_eq!(at(d.floor() - 8, d.floor()), Verdict::Overflow);
            assert_eq!(at(d.floor(), d.floor()), Verdict::Grow(d.floor() - RED_ZONE));
        });
    }

    #[test]
    fn a_lost_signal_frame_gets_its_headroom_once() {
        with_stack(3 << 20, |d| {
            let sp = d.limit() + 64;
            assert_eq!(judge(d, None, sp), Verdict::Grow(sp - HEADROOM));
            assert_eq!(judge(d, None, d.limit() + HEADROOM), Verdict::NotOurs);
            assert_eq!(judge(d, None, d.range().end), Verdict::NotOurs);
        });
    }

    #[test]
    fn the_extent_doubles_until_the_target_is_covered() {
        with_stack(40 << 20, |d| {
            assert_eq!(d.extent(), 1280 << 10);
            // SAFETY: nothing runs on the stack.
            let double = |target| unsafe { double(d, target) }.unwrap();
            assert_eq!(double(d.limit()), 0);
            assert_eq!(double(d.limit() - 1), 1);
            assert_eq!((d.extent(), d.limit() - d.window()), (2560 << 10, 64 << 10));
            assert_eq!(double(d.limit_of(10 << 20) + 1), 2);
            assert_eq!(d.extent(), 10 << 20);
            assert_eq!(d.window(), d.limit() - (64 << 10));
            assert_eq!(double(d.floor()), 2, "the last one ends at the reservation");
            assert_eq!(d.limit(), d.floor());
            assert_eq!(double(0), 0);
            assert_eq!(d.doublings(), 5);
        });
    }
}
