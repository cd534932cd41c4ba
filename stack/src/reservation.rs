//! Reservations: the address space of one stack, its descriptor, and its guards.
//!
//! ```text
//!  lo            floor                window      limit                       base      hi
//!  ┌──────────────┬─────────────────────┬───────────┬──────────────────────────┬────────┐
//!  │ bottom guard │ not used yet        │ guard     │ extent: the bytes that   │ colour │
//!  │ 16–20 KiB *  │ (long ones only)    │ window    │ may be used now          │        │
//!  └──────────────┴─────────────────────┴───────────┴──────────────────────────┴────────┘
//!                 │◀──────────── reservation, or a little more ───────────────▶│      * 64–68 KiB on aarch64
//! ```
//!
//! A stack that traps begins with an extent of 1.25 MiB, or of all that it has if that is less, and a guard window of 64 KiB
//! below it; `copystack` moves both down. A demand-paged stack has `limit == floor` from the start. The window is as short as
//! that because every page of it costs a page-table entry, at birth and at each growth, and a frame that jumps over it
//! unprobed lands in ordinary memory of the same reservation.
//!
//! # Where stacks lie
//!
//! Several reservations are carved from one slab, a manual span of the page heap. Their distance is an odd number of
//! pages, so that the same depth of different stacks falls on different cache and TLB sets; and `base` is lower than `hi`
//! by 0 to 31 cache lines, so that it is not the same lines of a page either. (1,000 stacks at a distance of 1 MiB: 79.8 ns
//! a visit; with a page more and coloured starts: 12.4 ns.)
//!
//! # Invariants
//!
//! 1. `lo < floor <= window <= limit < base <= hi`; all but `base` are page-aligned; `base` is aligned to a cache line.
//! 2. `base - floor >= reservation`, and `base - limit >= ` the extent's nominal size.
//! 3. `[lo, floor)` is guarded as long as the stack exists, `[window, limit)` too unless the kernel refused. So running
//!    below `limit` traps and running below `floor` is fatal; neighbours are safe from each other.
//! 4. Addresses never change: the stack of a goroutine stays where it is, however far it grows.
//! 5. Descriptors are never freed or reused for another place, so `&'static` is the truth.
//!
//! # Who may touch which field
//!
//! `limit`, `window`, `class`, the marks and the counters are written by whoever owns the stack: the thread that runs it
//! (its fault handler included) or the pool that has it; others only read them, for statistics. All are relaxed atomics:
//! a stack changes hands through locks and latches, which order them.

use crate::{
    Class, Spec, StackError, StackGrowth, copystack,
    pool::Pool,
    sys::{
        pages::{self, GuardKind, guard_kind},
        process::PAGE,
    },
};
use core::{
    fmt, mem,
    num::NonZeroUsize,
    ops::Range,
    ptr,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// The smallest reservation.
pub const MIN_RESERVATION: usize = 64 << 10;
/// The largest reservation.
pub const MAX_RESERVATION: usize = 1 << 30;
/// The reservation of a goroutine if nobody says otherwise.
pub const DEFAULT_RESERVATION: usize = 1 << 20;

/// The extent that a stack begins with. Hardly a goroutine goes deeper, and none of usual size can, so a trap is what few of
/// them meet. It and its doubles are a quarter more than a power of two, so that what is one itself, as buffers are, does
/// not end just past a guard.
pub const FIRST_EXTENT: usize = 5 << 18;
/// What nobody asks the kernel for: it is less than the question is worth.
pub(crate) const UNASKED: usize = 64 << 10;
/// The length of the guard window below the extent, where the reservation goes on as far as that.
pub(crate) const WINDOW: usize = 64 << 10;
/// New stacks that are guarded by one system call.
pub(crate) const LITTER: usize = pages::AT_ONCE / 2;
/// The least length of the guard at the bottom: more than a page, because C code need not probe its frames; and on aarch64 as much
/// as compilers take for granted there, which probe each 64 KiB of a frame only.
const BOTTOM_GUARD: usize = if cfg!(target_arch = "aarch64") {
    64 << 10
} else {
    16 << 10
};
/// Room above `base` for the colour.
const COLOUR_ROOM: usize = PAGE;
/// How many starts there are.
const COLOURS: usize = 32;
/// The distance of two starts.
const CACHE_LINE: usize = 64;

/// The distance between two reservations of this kind.
pub(crate) const fn stride(spec: Spec) -> usize {
    let pages = (BOTTOM_GUARD + spec.reservation() + COLOUR_ROOM) / PAGE;
    (pages | 1) * PAGE
}

/// The descriptor of a stack: two cache lines. Where the reservation lies follows from `floor` and `spec`.
#[repr(C, align(64))]
pub struct Desc {
    // The first cache line: what a switch needs, a start and an end.
    base: usize,
    limit: AtomicUsize,
    /// Parking at or above this address needs no bookkeeping: see `copystack`.
    pub(crate) mark: AtomicUsize,
    owner: AtomicPtr<()>,
    /// The deepest address that trapped since the present owner came.
    pub(crate) deepest: AtomicUsize,
    /// Where what runs here is parked, 0 while it runs: see `shrink`.
    pub(crate) parked: AtomicUsize,
    /// 1 while somebody takes pages from a parked goroutine.
    pub(crate) claimed: AtomicU32,
    spec: Spec,
    /// How deep the marks of `gauge` reach; 0 if there are none.
    pub(crate) gauge: AtomicU32,
    class: AtomicU8,
    /// How often the stack was released while its depth was unknown, modulo 256.
    pub(crate) releases: AtomicU8,
    /// The class of the extent that was offered for huge pages: see `copystack`.
    pub(crate) offered: AtomicU8,
    // What only growth and the pools need.
    floor: usize,
    /// The next one on a list of a pool. Written by the list.
    pub(crate) next: AtomicPtr<Desc>,
    window: AtomicUsize,
    pub(crate) pool: &'static Pool,
    pub(crate) doublings: AtomicU32,
    pub(crate) traps: AtomicU32,
    /// The stack made before this one. Written before this one is known.
    pub(crate) older: AtomicPtr<Desc>,
    /// The one before on a list of a pool. Written by the list.
    pub(crate) prev: AtomicPtr<Desc>,
    /// A counter for the layer above, which goes on from one owner to the next: whoever keeps a descriptor, which is
    /// never freed, together with a value of it can tell later whether that value still holds. Starts at 0.
    pub ticket: AtomicU64,
}

const _: () = assert!(size_of::<Desc>() == 2 * CACHE_LINE, "each stack has one");

impl Desc {
    pub(crate) const BASE: usize = mem::offset_of!(Self, base);
    pub(crate) const FLOOR: usize = mem::offset_of!(Self, floor);
    pub(crate) const OWNER: usize = mem::offset_of!(Self, owner);

    /// The reservation at `lo`, the `number`th of its kind. Nothing is guarded yet.
    pub(crate) fn new(pool: &'static Pool, lo: usize, number: usize) -> Self {
        let spec = pool.spec();
        let hi = lo + stride(spec);
        let floor = hi - COLOUR_ROOM - spec.reservation();
        let base = hi - number % COLOURS * CACHE_LINE;
        Self {
            base,
            limit: AtomicUsize::new(floor),
            mark: AtomicUsize::new(base),
            owner: AtomicPtr::new(ptr::null_mut()),
            floor,
            next: AtomicPtr::new(ptr::null_mut()),
            deepest: AtomicUsize::new(base),
            spec,
            class: AtomicU8::new(Class::MIN.index() as u8),
            releases: AtomicU8::new(number as u8),
            offered: AtomicU8::new(0),
            window: AtomicUsize::new(floor),
            pool,
            doublings: AtomicU32::new(0),
            traps: AtomicU32::new(0),
            older: AtomicPtr::new(ptr::null_mut()),
            parked: AtomicUsize::new(0),
            claimed: AtomicU32::new(0),
            gauge: AtomicU32::new(0),
            prev: AtomicPtr::new(ptr::null_mut()),
            ticket: AtomicU64::new(0),
        }
    }

    /// What kind of stack this is.
    #[inline]
    #[must_use]
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// The address that the stack starts below.
    #[inline]
    #[must_use]
    pub fn base(&self) -> usize {
        self.base
    }

    /// The lowest address that may be used now.
    #[inline]
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// The lowest address that may ever be used.
    #[inline]
    #[must_use]
    pub fn floor(&self) -> usize {
        self.floor
    }

    /// Where the reservation ends, colour included.
    #[inline]
    fn hi(&self) -> usize {
        self.floor + self.spec.reservation() + COLOUR_ROOM
    }

    /// Where the reservation begins, with the bottom guard.
    #[inline]
    fn lo(&self) -> usize {
        self.hi() - stride(self.spec)
    }

    /// The whole reservation, guards and colour included.
    #[inline]
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.lo()..self.hi()
    }

    /// What is resident and charged, as far as it is known.
    #[inline]
    #[must_use]
    pub fn class(&self) -> Class {
        Class::from_index(self.class.load(Relaxed))
    }

    /// What is charged for this stack: its class, but not more than it can hold.
    #[inline]
    #[must_use]
    pub fn charge(&self) -> usize {
        self.class().bytes().min(self.spec.reservation())
    }

    /// The goroutine that runs on this stack: what [`set_owner`](Self::set_owner) said last.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> *const () {
        self.owner.load(Relaxed)
    }

    /// Says who runs on this stack from now on, and starts its high-water mark afresh. The word is for the report of an
    /// overflow: see [`set_describe`](crate::set_describe).
    #[inline]
    pub fn set_owner(&self, owner: *const ()) {
        self.owner.store(owner.cast_mut(), Relaxed);
        self.mark.store(self.base, Relaxed);
        self.deepest.store(self.base, Relaxed);
    }

    /// The word that `M.stack` holds while this stack runs.
    #[inline]
    #[must_use]
    pub fn as_word(&'static self) -> *mut () {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// How often the extent was doubled since the stack was made.
    #[must_use]
    pub fn doublings(&self) -> u32 {
        self.doublings.load(Relaxed)
    }

    /// How many traps did it: one trap doubles as often as it must.
    #[must_use]
    pub fn traps(&self) -> u32 {
        self.traps.load(Relaxed)
    }

    pub(crate) fn window(&self) -> usize {
        self.window.load(Relaxed)
    }

    /// Notes that `[limit, base)` may be used and that `[window, limit)` is guarded.
    pub(crate) fn set_extent(&self, limit: usize, window: usize) {
        debug_assert!(self.floor <= window && window <= limit && limit < self.base);
        self.limit.store(limit, Relaxed);
        self.window.store(window, Relaxed);
    }

    /// The class is `class`, or at least that of a stack that holds `bytes`.
    pub(crate) fn set_class(&self, class: Class) {
        let largest = Class::holding(self.spec.reservation());
        self.class.store(class.min(largest).index() as u8, Relaxed);
    }

    /// The class is `class`, or what it was if that is less.
    pub(crate) fn lower_class(&self, class: Class) {
        self.class.store(class.min(self.class()).index() as u8, Relaxed);
    }

    /// The lowest address of an extent of `bytes`.
    pub(crate) fn limit_of(&self, bytes: usize) -> usize {
        self.hi() - COLOUR_ROOM - bytes.min(self.spec.reservation())
    }

    /// Where the guard window below an extent of `bytes` ends.
    pub(crate) fn window_of(&self, bytes: usize) -> usize {
        self.floor.max(self.limit_of(bytes).saturating_sub(WINDOW))
    }

    /// The present extent's nominal size.
    pub(crate) fn extent(&self) -> usize {
        self.hi() - COLOUR_ROOM - self.limit()
    }

    /// The address that the highest `bytes` of the reservation, colour included, end at.
    pub(crate) fn below_first(&self, bytes: usize) -> usize {
        self.hi() - bytes
    }

    /// Whether the stack may hold much more than its class says: more of it is open, and between two parking points nobody
    /// saw how deep it went. If the kernel were not asked now and then, the pools would keep any amount of memory and
    /// charge it as next to nothing.
    pub(crate) fn depth_is_unknown(&self) -> bool {
        self.charge() < self.extent() && self.extent() > UNASKED
    }

    /// Whether `address` lies in this reservation.
    #[inline]
    pub(crate) fn contains(&self, address: usize) -> bool {
        (self.lo()..self.hi()).contains(&address)
    }

    /// Guards a stack that traps, and whose extent is longer than so many bytes, below these. Where the kernel refuses, the extent
    /// stays as it is, and open.
    ///
    /// # Safety
    ///
    /// Nobody needs what is below an extent of so many bytes.
    pub(crate) unsafe fn close_to(&self, extent: usize) {
        let (limit, window) = (self.limit_of(extent), self.window_of(extent));
        if self.spec.growth() != StackGrowth::Trap || self.limit() >= limit {
            return;
        }
        // SAFETY: as the caller promised. Guards that are left deeper down do no harm: growth opens whatever it passes.
        if unsafe { pages::guard(window..limit) }.is_ok() {
            self.set_extent(limit, window);
        } else {
            // Some pages may have their guards, and inside the extent nobody expects any.
            // SAFETY: inside the reservation.
            let _ = unsafe { pages::open(self.limit().max(window)..limit) };
        }
    }

    /// Guards a free stack, whose memory was given back, below its first extent again.
    fn guard_again(&self) {
        // SAFETY: nobody needs what is there.
        unsafe { self.close_to(FIRST_EXTENT) };
    }

    /// Where the extent and the guard window of a new stack end.
    fn first_extent(&self) -> (usize, usize) {
        match self.spec.growth() {
            StackGrowth::Trap => (self.limit_of(FIRST_EXTENT), self.window_of(FIRST_EXTENT)),
            StackGrowth::DemandPaged => (self.floor, self.floor),
        }
    }

    /// What is guarded of a new stack: the bottom, and the window if there is one. One range if they meet.
    fn first_guards(&self) -> [Range<usize>; 2] {
        match self.first_extent() {
            (limit, window) if window == self.floor => [self.lo()..limit, limit..limit],
            (limit, window) => [self.lo()..self.floor, window..limit],
        }
    }

    /// Puts up the guards of a new stack.
    ///
    /// # Safety
    ///
    /// The stack is new: nothing runs on it, and it has no guards but such as `put_up_all_guards` left.
    pub(crate) unsafe fn put_up_guards(&self) -> Result<(), StackError> {
        if guard_kind() == GuardKind::Marker {
            let [bottom, window] = self.first_guards();
            // SAFETY: inside this reservation, which nobody uses yet.
            let mut done = unsafe { pages::guard(bottom) };
            if !window.is_empty() {
                // SAFETY: as above.
                done = done.and_then(|()| unsafe { pages::guard(window) });
            }
            match done {
                Ok(()) => {
                    let (limit, window) = self.first_extent();
                    self.set_extent(limit, window);
                    return Ok(());
                }
                Err(libc::ENOMEM) => return Err(StackError::Guard { errno: libc::ENOMEM }),
                // Memory that was locked since the probe (mlockall) takes no markers: go on as old kernels do. What has some all
                // the same is opened, because nobody expects them above the floor then.
                Err(_) => {
                    let (limit, window) = self.first_extent();
                    // SAFETY: inside this reservation.
                    let _ = unsafe { pages::open(window..limit) };
                }
            }
        }
        // SAFETY: inside this reservation, which nobody uses yet.
        match unsafe { pages::protect(self.lo()..self.floor) } {
            Ok(()) => {
                self.set_extent(self.floor, self.floor);
                Ok(())
            }
            Err(libc::ENOMEM) => Err(StackError::MapCount),
            Err(errno) => Err(StackError::Guard { errno }),
        }
    }
}

/// Puts up the guards of at most [`LITTER`] new stacks by one system call; `false` if that is not possible here: then each has
/// to put up its own.
///
/// # Safety
///
/// As for [`Desc::put_up_guards`], for each.
pub(crate) unsafe fn put_up_all_guards<'a>(stacks: impl Iterator<Item = &'a Stack> + Clone) -> bool {
    let ranges = stacks.clone().flat_map(|stack| stack.desc().first_guards());
    let ranges = ranges.filter(|range| !range.is_empty());
    // SAFETY: inside these reservations, which nobody uses yet.
    let done = guard_kind() == GuardKind::Marker && unsafe { pages::guard_all(ranges) };
    if done {
        for desc in stacks.map(Stack::desc) {
            let (limit, window) = desc.first_extent();
            desc.set_extent(limit, window);
        }
    }
    done
}

/// Gives at most [`LITTER`] new stacks the page that each begins with, by one system call: as many faults cost half as much again.
pub(crate) fn populate_first_pages<'a>(stacks: impl Iterator<Item = &'a Stack>) {
    let first = |stack: &Stack| stack.desc().hi() - PAGE..stack.desc().hi();
    // SAFETY: inside their reservations, of which whoever holds a stack may use this page.
    unsafe { pages::populate_all(stacks.map(first)) };
}

impl fmt::Debug for Desc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desc")
            .field("range", &(self.lo()..self.hi()))
            .field("base", &self.base)
            .field("limit", &self.limit())
            .field("class", &self.class())
            .finish_non_exhaustive()
    }
}

/// A stack that its holder may run something on, or give back: the one right to do so.
///
/// Who only needs to look, or to tell a stack from another, keeps the [`Desc`].
#[derive(Debug)]
#[repr(transparent)]
pub struct Stack(&'static Desc);

impl Stack {
    /// The stack of this descriptor.
    ///
    /// # Safety
    ///
    /// There is no other `Stack` of it, and it is in no pool.
    #[inline]
    #[must_use]
    pub unsafe fn from_desc(desc: &'static Desc) -> Self {
        Self(desc)
    }

    /// The descriptor, good for ever.
    #[inline]
    #[must_use]
    pub fn desc(&self) -> &'static Desc {
        self.0
    }
}

// SAFETY: invariants 1 and 3: the base is aligned to a cache line, at least 64 KiB are usable, what lies below is guarded
// as long as the stack exists, and nobody else runs on it, since this is the only `Stack` of it. Growth changes no address.
unsafe impl corosensei::stack::Stack for Stack {
    #[inline]
    fn base(&self) -> NonZeroUsize {
        // SAFETY: no reservation reaches down to address 0.
        unsafe { NonZeroUsize::new_unchecked(self.0.base) }
    }

    #[inline]
    fn limit(&self) -> NonZeroUsize {
        // SAFETY: no reservation lies at address 0.
        unsafe { NonZeroUsize::new_unchecked(self.0.lo()) }
    }
}

/// Takes all memory from at most [`LITTER`] free stacks.
pub(crate) fn empty_all<'a>(stacks: impl Iterator<Item = &'a Stack> + Clone) {
    let ranges = stacks.clone().map(|stack| stack.desc().limit()..stack.desc().hi());
    // SAFETY: nothing runs on the stacks, since the caller holds them; so nobody needs what is in them.
    if !unsafe { pages::give_all_back(ranges.clone()) } {
        // SAFETY: as above.
        ranges.for_each(|range| unsafe { pages::give_back(range) });
    }
    for desc in stacks.map(Stack::desc) {
        desc.guard_again();
        desc.set_class(Class::MIN);
        copystack::counters().trimmed.fetch_add(1, Relaxed);
    }
}

/// Makes a stack that grew as good as new: its deep pages go back to the system, all but the first 16 KiB, and a stack
/// that traps is guarded again below its first extent. The guards come back because they are what makes its depth known:
/// an open extent that fills again would be charged as a small stack.
pub(crate) fn trim(stack: &Stack) {
    let desc = stack.desc();
    let kept = Class::LARGEST_SMALL;
    let resident = desc.limit()..desc.below_first(kept.bytes());
    if !resident.is_empty() {
        // SAFETY: nothing runs on the stack, since the caller holds its `Stack`; so nobody needs what is in it.
        unsafe { pages::give_back(resident) };
    }
    desc.guard_again();
    desc.set_class(kept);
    copystack::counters().trimmed.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{acquire, release};

    /// Whether there is memory at this address: asked of the kernel, which gets an error where this thread would trap.
    fn is_open(address: usize) -> bool {
        let mut ends = [0; 2];
        // SAFETY: the pipe is the test's own; whether one byte can be read at the address is what is asked.
        unsafe {
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            let written = libc::write(ends[1], ptr::with_exposed_provenance(address), 1);
            for end in ends {
                libc::close(end);
            }
            written == 1
        }
    }

    /// A stack of this size, opened to 4 MiB, and the guard window below its first extent, of which the highest page is
    /// locked: it takes no guard, the others do. `None` where stacks do not trap or nothing can be locked.
    fn with_a_locked_page(reservation: usize) -> Option<(Stack, Range<usize>)> {
        let spec = Spec::with_growth(reservation, StackGrowth::Trap).unwrap();
        let stack = acquire(spec).unwrap();
        let desc = stack.desc();
        let window = desc.window_of(FIRST_EXTENT)..desc.limit_of(FIRST_EXTENT);
        // SAFETY: nothing runs on the stack.
        unsafe { desc.open_to(Class::holding(4 << 20)) };
        // SAFETY: the page is the stack's; locking it changes no contents.
        let locked = unsafe { libc::mlock(ptr::with_exposed_provenance(window.end - PAGE), PAGE) } == 0;
        (spec.growth() == StackGrowth::Trap && locked).then_some((stack, window))
    }

    fn unlock(window: &Range<usize>) {
        // SAFETY: as for the locking.
        unsafe { libc::munlock(ptr::with_exposed_provenance(window.end - PAGE), PAGE) };
    }

    #[test]
    fn no_guard_stays_inside_an_extent_when_the_kernel_refuses() {
        let Some((stack, window)) = with_a_locked_page(7 << 20) else {
            return;
        };
        let limit = stack.desc().limit();
        trim(&stack);
        assert_eq!(stack.desc().limit(), limit);
        assert!(window.clone().step_by(PAGE).all(is_open));
        unlock(&window);
        trim(&stack);
        assert_eq!(stack.desc().limit(), window.end);
        assert!(!window.clone().step_by(PAGE).any(is_open));
        release(stack);
    }

    #[test]
    fn a_new_stack_has_no_guard_inside_when_the_kernel_refuses() {
        let Some((stack, window)) = with_a_locked_page(9 << 20) else {
            return;
        };
        // SAFETY: nothing runs on the stack, and it is as good as new: this one is never used again.
        assert_eq!(unsafe { stack.desc().put_up_guards() }, Ok(()));
        assert_eq!(stack.desc().limit(), stack.desc().floor());
        assert!(window.clone().step_by(PAGE).all(is_open));
        assert!(!is_open(stack.desc().floor() - PAGE));
        unlock(&window);
    }
}
