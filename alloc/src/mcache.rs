//! mcache: what a P carries so that most requests need no lock.
//!
//! ```text
//!   Mcache    bins[class]   head ─▶ ○ ─▶ ○ ─▶ ○          alloc pops, free pushes: a few plain loads and stores
//!                           avail, room                  how many pops and pushes until somebody counts
//!             more[class]   spare ─▶ ○ ─▶ ○ ─▶ ○ ─▶ ○    a list kept aside
//!
//!   avail used up on alloc:  settle; the head list has some → go on; the spare has → it becomes the head
//!                            else refill from the mcentral
//!   room used up on free:    settle; there is room → go on
//!                            else the head becomes the spare, and the spare there was goes to the mcentral
//! ```
//!
//! The lists hold free objects of the class *from any span*: Rust frees explicitly, often on another thread than it
//! allocated on, and a `Layout` tells the class, so neither side looks up a span. Two lists instead of one mean that half
//! of what is cached can go in one step, without a walk, and that a thread that allocates and frees around the border
//! between two lists does not go to the mcentral each time.
//!
//! # Counting
//!
//! Nothing counts the objects on a list as they come and go. `avail` starts at the length of the head list and is counted
//! down by pops alone: as long as it lasts the list cannot be empty, whatever was pushed in between, so that a pop need not
//! look. `room` starts at what the list may still take, and is counted down by pushes alone. When one of the two is used
//! up, the slow path *settles*: what both have lost since the last time says how long the list is now, and they start
//! anew. So one instruction on each side counts all there is to count, and the figures are exact at any time:
//!
//! ```text
//!   allocs = more.allocs + (len - avail)     frees = more.frees + (granted - room)     length = len - (len - avail) + (granted - room)
//! ```
//!
//! A short list settles often. A list that is found short is therefore topped up from the mcentral.
//!
//! # Limits
//!
//! `half` is the length at which a list that is looked at counts as full, and what `room` starts at, so that a list has
//! three times as many objects at most. It starts at an eighth of a batch, doubles with each refill up to a batch and then
//! goes up by a batch at a time, to 512 objects or 64 KiB, while all lists of the cache together are not meant to hold more
//! than [`MAX_BYTES`]. Four overflows without a refill in between (a thread that only frees) bring it down again, and
//! being flushed takes it back to the start.
//!
//! # Who may touch what
//!
//! The owner of the P that carries the cache (see `latch`) touches all of it, inside a section or as a taker. Others read
//! the counters, which are atomics for that reason alone: the owner writes them with a load and a store.

use crate::{
    chain::{Chain, Free},
    countdown::Countdowns,
    fixalloc::Fixalloc,
    guarded::Guarded,
    large::LargeCache,
    latch::P,
    mcentral, mheap,
    pagecache::PageCache,
    sizeclass::{BIN, BinAt, CLASSES, Class, MAX_BATCH, PAGE},
};
use core::{
    cell::Cell,
    fmt,
    mem::offset_of,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// What the full lists of one cache are meant to hold together: beyond that no list is allowed to grow. (A chain that came
/// from another cache may be longer than the lists here, so it can be up to twice as much.)
pub const MAX_BYTES: usize = 8 << 20;

/// What the fast path touches of a class: a quarter of a cache line.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Bin {
    /// [`AVAIL`] and [`ROOM`]. First, since that is what the address of a bin is computed for.
    left: Countdowns,
    head: Cell<*mut Free>,
}

/// Pops until the next settlement; never more than there are objects on the list.
const AVAIL: usize = 0;
/// Pushes until the next settlement.
const ROOM: usize = 1;

/// The bins of a cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Bins([Bin; CLASSES]);

// SAFETY: `head` is touched by the owner of the cache alone, after a successful countdown (of `NO_BINS`, by
// nobody); the rest is atomic.
unsafe impl Sync for Bins {}

/// The bins of no cache: nothing can be had from them, and nothing put there.
pub(crate) static NO_BINS: Bins = Bins::new();

/// The rest of a class.
struct More {
    spare: Cell<*mut Free>,
    spare_len: AtomicU32,
    /// The length of the head list at the last settlement, and what `avail` was set to.
    len: AtomicU32,
    /// What `room` was set to.
    granted: AtomicU32,
    /// The length at which a list is full.
    half: AtomicU32,
    /// Objects allocated and freed up to the last settlement.
    allocs: AtomicU64,
    frees: AtomicU64,
    /// Overflows since the last refill.
    overflows: Cell<u32>,
}

/// The lists of free objects that a P carries. Never freed.
#[repr(C)]
pub struct Mcache {
    /// First, so that a pointer to them is one to the cache.
    bins: Bins,
    more: [More; CLASSES],
    /// Freed large objects.
    pub(crate) large: LargeCache,
    /// Free pages.
    pub(crate) pages: PageCache,
    refills: AtomicU64,
    flushes: AtomicU64,
    /// Bytes that the lists hold when all are full.
    promised: Cell<usize>,
    /// The P that bound this cache last. Written by whoever binds it, read by the scavenger, which makes sure.
    carrier: AtomicPtr<P>,
    /// What the scavenger saw when it looked last.
    seen: AtomicU64,
    /// The cache made before this one; constant.
    older: *mut Mcache,
}

/// What a cache counted. Read by another thread it may be off by what happens meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Objects allocated from the lists without asking the mcentral.
    pub hits: u64,
    /// Times that a list was filled from the mcentral.
    pub refills: u64,
    /// Batches that went back to the mcentral.
    pub flushes: u64,
    /// Bytes in the lists now.
    pub cached_bytes: usize,
    /// Bytes of freed large objects in the cache now.
    pub large_bytes: usize,
    /// Bytes of free pages in the cache now.
    pub page_bytes: usize,
}

/// What an allocation finds in the cache.
pub(crate) enum Popped {
    Object(NonNull<u8>),
    /// Nothing, or too little: get this many from the mcentral.
    Want(usize),
}

static CACHES: Fixalloc<Mcache> = Fixalloc::new();
/// The youngest cache.
static YOUNGEST: AtomicPtr<Mcache> = AtomicPtr::new(ptr::null_mut());

/// The length at which the lists of a class count as full at first.
fn first_half(class: Class) -> u32 {
    (class.info().batch / 8).max(1).into()
}

/// The largest `half` of a class.
pub(crate) fn max_half(class: Class) -> u32 {
    let info = class.info();
    ((64 << 10) / info.size).clamp(u32::from(info.batch).max(8), 512)
}

/// A list that is shorter than this is topped up when its countdown is used up, so that it lasts longer the next time.
fn short(class: Class) -> u32 {
    (max_half(class) / 2).min(128)
}

/// Makes an empty mcache, for a P to carry. `None`: out of memory.
///
/// It is never freed; the caller owns it until a P carries it.
#[must_use]
pub fn new_cache() -> Option<*mut Mcache> {
    let cache = CACHES.alloc()?;
    let mut older = YOUNGEST.load(Acquire);
    loop {
        // SAFETY: the record is large enough and not known to anybody yet.
        unsafe { cache.write(Mcache::new(older)) };
        match YOUNGEST.compare_exchange_weak(older, cache.as_ptr(), Release, Acquire) {
            Ok(_) => return Some(cache.as_ptr()),
            Err(now) => older = now,
        }
    }
}

/// All caches ever made, for their counters.
pub(crate) fn all() -> impl Iterator<Item = *const Mcache> {
    let mut next: *const Mcache = YOUNGEST.load(Acquire);
    core::iter::from_fn(move || {
        let this = next;
        // SAFETY: caches are never freed, and `older` never changes.
        next = unsafe { this.as_ref() }?.older;
        Some(this)
    })
}

/// Adds to a counter that only its owner writes.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Bin {
    const fn new() -> Self {
        Self {
            left: Countdowns::empty(),
            head: Cell::new(ptr::null_mut()),
        }
    }
}

impl Bins {
    const fn new() -> Self {
        Self([const { Bin::new() }; CLASSES])
    }

    #[inline(always)]
    fn at(&self, at: BinAt) -> &Bin {
        const { assert!(size_of::<Bin>() == BIN && offset_of!(Bin, left) == 0) };
        // SAFETY: the offset is the number of a class times the size of a bin.
        unsafe { &*ptr::from_ref(self).byte_add(at.offset()).cast() }
    }

    /// Takes an object off the list, if that is known to have one.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, or these are `NO_BINS`.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self, at: BinAt) -> Option<NonNull<u8>> {
        // SAFETY: a bin begins with its countdowns.
        if !unsafe { Countdowns::down::<AVAIL, _>(self, at.offset()) } {
            return None;
        }
        let head = &self.at(at).head;
        // SAFETY: no more objects are popped than the list had at the last settlement, so it is not empty.
        let object = unsafe { NonNull::new_unchecked(head.get()) };
        // SAFETY: what is on the list is a free object that holds a link.
        head.set(unsafe { object.read() }.next);
        Some(object.cast())
    }

    /// Puts an object on the list. `false`, and the object is not there, if the list is not known to have room.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, or these are `NO_BINS`; and the object, which is of this class.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, object: NonNull<u8>, at: BinAt) -> bool {
        // SAFETY: as in `pop`.
        if !unsafe { Countdowns::down::<ROOM, _>(self, at.offset()) } {
            return false;
        }
        let head = &self.at(at).head;
        let object = object.cast::<Free>();
        // SAFETY: the object is free and holds at least a word.
        unsafe { object.write(Free { next: head.get() }) };
        head.set(object.as_ptr());
        true
    }
}

/// Keeps the countdowns of `NO_BINS`, which everybody counts down in vain, from ever coming round to a positive number.
pub(crate) fn no_bins_stay_empty(at: BinAt) {
    NO_BINS.at(at).left.stay_empty();
}

impl Mcache {
    fn new(older: *mut Mcache) -> Self {
        let half = |index| Class::new(index).map_or(0, first_half);
        let this = Self {
            bins: Bins::new(),
            more: core::array::from_fn(|index| More {
                spare: Cell::new(ptr::null_mut()),
                spare_len: AtomicU32::new(0),
                len: AtomicU32::new(0),
                granted: AtomicU32::new(0),
                half: AtomicU32::new(half(index)),
                allocs: AtomicU64::new(0),
                frees: AtomicU64::new(0),
                overflows: Cell::new(0),
            }),
            large: LargeCache::new(),
            pages: PageCache::new(),
            refills: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            carrier: AtomicPtr::new(ptr::null_mut()),
            seen: AtomicU64::new(0),
            promised: Cell::new(Class::all().map(|c| 5 * first_half(c) as usize * c.size()).sum()),
            older,
        };
        Class::all().for_each(|class| this.grant(class, 0));
        this
    }

    fn bin(&self, class: Class) -> &Bin {
        self.bins.at(BinAt::of(class))
    }

    fn more(&self, class: Class) -> &More {
        &self.more[class.index()]
    }

    /// What was popped and pushed since the last settlement.
    fn unsettled(&self, class: Class) -> (u32, u32) {
        let (bin, more) = (self.bin(class), self.more(class));
        let pops = more.len.load(Relaxed).saturating_sub(bin.left.left::<AVAIL>());
        let pushes = more.granted.load(Relaxed).saturating_sub(bin.left.left::<ROOM>());
        (pops, pushes)
    }

    /// Counts what was popped and pushed, and gives the length of the head list. `grant` follows.
    fn settle(&self, class: Class) -> u32 {
        let more = self.more(class);
        let (pops, pushes) = self.unsettled(class);
        add(&more.allocs, pops.into());
        add(&more.frees, pushes.into());
        more.len.load(Relaxed) - pops + pushes
    }

    /// Starts the countdowns of a head list of this length.
    fn grant(&self, class: Class, len: u32) {
        let (bin, more) = (self.bin(class), self.more(class));
        let half = more.half.load(Relaxed);
        more.len.store(len, Relaxed);
        bin.left.set::<AVAIL>(len);
        more.granted.store(half, Relaxed);
        bin.left.set::<ROOM>(half);
    }

    /// Takes an object off either list, or says how many to get from the mcentral. `top_up` says whether that may be
    /// while there are some left.
    ///
    /// # Safety
    ///
    /// The caller owns the cache.
    pub(crate) unsafe fn pop_or_plan(&self, class: Class, top_up: bool) -> Popped {
        let (bin, more) = (self.bin(class), self.more(class));
        // SAFETY: as the caller promised.
        if let Some(object) = unsafe { self.bins.pop(BinAt::of(class)) } {
            return Popped::Object(object);
        }
        let mut len = self.settle(class);
        if len < more.spare_len.load(Relaxed) {
            // The longer one to the front.
            bin.head.set(more.spare.replace(bin.head.get()));
            let spare_len = more.spare_len.load(Relaxed);
            more.spare_len.store(len, Relaxed);
            len = spare_len;
        }
        if len == 0 || top_up && len < short(class) {
            more.overflows.set(0);
            let (half, batch) = (more.half.load(Relaxed), u32::from(class.info().batch));
            let larger = if half < batch {
                (2 * half).min(batch)
            } else {
                half + batch
            };
            self.set_half(class, larger.min(max_half(class)));
            self.grant(class, len);
            return Popped::Want(more.half.load(Relaxed).min(MAX_BATCH as u32) as usize);
        }
        self.grant(class, len);
        // SAFETY: as the caller promised.
        match unsafe { self.bins.pop(BinAt::of(class)) } {
            Some(object) => Popped::Object(object),
            None => Popped::Want(1),
        }
    }

    /// Makes lists of this class count as full at another length, if the whole cache may hold as much.
    fn set_half(&self, class: Class, half: u32) {
        let more = self.more(class);
        let before = more.half.load(Relaxed);
        let bytes = |half| 5 * half as usize * class.size();
        let promised = self.promised.get() - bytes(before) + bytes(half);
        if half > before && promised > MAX_BYTES {
            return;
        }
        self.promised.set(promised);
        more.half.store(half, Relaxed);
    }

    /// Takes objects from the mcentral; one more went straight to the program.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, and the objects, which are of this class.
    pub(crate) unsafe fn install(&self, class: Class, chain: Chain) {
        let (bin, more) = (self.bin(class), self.more(class));
        add(&self.refills, 1);
        let mut len = self.settle(class);
        add(&more.allocs, 1);
        if chain.len > 0 {
            let few = Chain {
                head: bin.head.get(),
                len,
            };
            // Whichever is shorter goes to the front, since its end has to be found.
            let (front, rest) = if len < chain.len { (few, chain) } else { (chain, few) };
            if front.len > 0 {
                // SAFETY: both lists are the cache's now, and as long as they say.
                unsafe { (*front.last()).next = rest.head };
            }
            bin.head.set(if front.len > 0 { front.head } else { rest.head });
            len += chain.len;
        }
        self.grant(class, len);
    }

    /// Puts an object on the head list. If that is full it becomes the spare, and the spare there was is the caller's to
    /// give to the mcentral; a spare of a few objects is not worth the way, and gets what the head has too much.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, and the object, which is of this class.
    pub(crate) unsafe fn push_or_rotate(&self, class: Class, object: NonNull<u8>) -> Option<Chain> {
        let (bin, more) = (self.bin(class), self.more(class));
        // SAFETY: as the caller promised.
        if unsafe { self.bins.push(object, BinAt::of(class)) } {
            return None;
        }
        let mut len = self.settle(class);
        let mut excess = None;
        let half = more.half.load(Relaxed);
        let spare = Chain::new(more.spare.get(), more.spare_len.load(Relaxed));
        if len >= half && spare.is_some_and(|spare| spare.len >= half / 2) {
            excess = spare;
            more.spare.set(bin.head.replace(ptr::null_mut()));
            more.spare_len.store(len, Relaxed);
            len = 0;
        } else if len >= 2 * half {
            // What is beyond the first `half` goes aside, behind the few that are there.
            let stays = Chain {
                head: bin.head.get(),
                len: half,
            };
            // SAFETY: the list is the cache's, and has more than `half` objects.
            let last = unsafe { &mut *stays.last() };
            let rest = core::mem::replace(&mut last.next, ptr::null_mut());
            let few = spare.map_or(0, |few| {
                // SAFETY: the list is the cache's, and as long as it says.
                unsafe { (*few.last()).next = rest };
                few.len
            });
            more.spare.set(spare.map_or(rest, |few| few.head));
            more.spare_len.store(few + len - half, Relaxed);
            len = half;
        }
        if excess.is_some() {
            add(&self.flushes, 1);
            more.overflows.set(more.overflows.get() + 1);
            if more.overflows.get() == 4 {
                more.overflows.set(0);
                let batch = u32::from(class.info().batch);
                let half = more.half.load(Relaxed);
                self.set_half(class, half.saturating_sub(batch).max(batch.min(half)));
            }
        }
        self.grant(class, len);
        // SAFETY: as the caller promised.
        let pushed = unsafe { self.bins.push(object, BinAt::of(class)) };
        debug_assert!(pushed, "a list that was found to have room has none");
        excess
    }

    /// Takes both lists of a class.
    fn take(&self, class: Class) -> [Option<Chain>; 2] {
        let (bin, more) = (self.bin(class), self.more(class));
        let len = self.settle(class);
        let head = Chain::new(bin.head.replace(ptr::null_mut()), len);
        self.grant(class, 0);
        let spare = Chain::new(more.spare.replace(ptr::null_mut()), more.spare_len.load(Relaxed));
        more.spare_len.store(0, Relaxed);
        if head.is_some() || spare.is_some() {
            add(&self.flushes, 1);
        }
        [head, spare]
    }

    /// Gives everything to the mcentral. Takes its locks.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, and is in no section: nobody runs the P that carries it, or it is carried by none.
    pub unsafe fn flush(cache: *mut Self) {
        // SAFETY: caches are never freed.
        let this = unsafe { &*cache };
        for class in Class::all() {
            // Whoever uses the cache next starts anew.
            this.set_half(class, first_half(class));
            for chain in this.take(class).into_iter().flatten() {
                // SAFETY: the objects were the cache's, and are on its lists no more.
                unsafe { chain.give(class) };
            }
        }
        let (block, pages) = this.pages.take_all();
        if pages != 0 {
            // SAFETY: the pages were the cache's, and are in it no more.
            unsafe { mheap::free_block(block, pages) };
        }
        let large = this.large.take_all();
        if !large.is_empty() {
            // SAFETY: the spans were the cache's, and are in it no more.
            unsafe { mheap::free_cached(large) };
        }
    }

    /// The P that bound this cache last.
    pub(crate) fn carrier(&self) -> Option<&'static P> {
        // SAFETY: it is null or a P, and Ps are never freed.
        unsafe { self.carrier.load(Acquire).as_ref() }
    }

    /// Notes who binds this cache.
    pub(crate) fn set_carrier(&self, p: &P) {
        self.carrier.store(ptr::from_ref(p).cast_mut(), Release);
    }

    /// Whether nothing was allocated from this cache or freed to it since the last call, the scavenger's.
    pub(crate) fn is_unused(&self) -> bool {
        let (allocs, frees) = self.totals();
        let large = self.large.counts();
        let now = [frees, large.allocs, large.frees]
            .into_iter()
            .fold(allocs, u64::wrapping_add);
        self.seen.swap(now, Relaxed) == now
    }

    /// Whether there is nothing in this cache, by the counters.
    pub(crate) fn is_empty(&self) -> bool {
        self.large.counts().pages + self.pages.pages() == 0 && Class::all().all(|class| self.len(class) == 0)
    }

    /// What this cache counted.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let refills = self.refills.load(Relaxed);
        let (allocs, _) = self.totals();
        CacheCounts {
            hits: allocs.saturating_sub(refills),
            refills,
            flushes: self.flushes.load(Relaxed),
            cached_bytes: Class::all().map(|class| self.len(class) as usize * class.size()).sum(),
            large_bytes: self.large.counts().pages * PAGE,
            page_bytes: self.pages.pages() * PAGE,
        }
    }

    /// All objects that were ever allocated from and freed to this cache.
    pub(crate) fn totals(&self) -> (u64, u64) {
        Class::all()
            .map(|class| self.totals_of(class))
            .fold((0, 0), |(a, f), (allocs, frees)| (a + allocs, f + frees))
    }

    /// Objects allocated and freed of one class.
    pub(crate) fn totals_of(&self, class: Class) -> (u64, u64) {
        let more = self.more(class);
        let (pops, pushes) = self.unsettled(class);
        (
            more.allocs.load(Relaxed) + u64::from(pops),
            more.frees.load(Relaxed) + u64::from(pushes),
        )
    }

    /// How many objects of a class are on the lists, by the counters.
    pub(crate) fn len(&self, class: Class) -> u32 {
        let more = self.more(class);
        let (pops, pushes) = self.unsettled(class);
        more.len.load(Relaxed).saturating_sub(pops) + pushes + more.spare_len.load(Relaxed)
    }

    /// The free objects of a class, in the order of the lists.
    ///
    /// # Safety
    ///
    /// The caller owns the cache for as long as it uses the iterator.
    pub(crate) unsafe fn objects(&self, class: Class) -> impl Iterator<Item = NonNull<u8>> {
        let walk = |first: *mut Free| {
            let mut next = first;
            core::iter::from_fn(move || {
                let object = NonNull::new(next)?;
                // SAFETY: what is on a list is a free object that holds a link.
                next = unsafe { object.read() }.next;
                Some(object.cast())
            })
        };
        walk(self.bin(class).head.get()).chain(walk(self.more(class).spare.get()))
    }

    /// Whether the cache is what it should be: the lists as long as the counters say, every object on them a real object
    /// of its class that is on loan from its mcentral. For tests and diagnosis: it walks all lists, and takes locks.
    ///
    /// # Safety
    ///
    /// The caller owns the cache and is in no section.
    #[must_use]
    pub unsafe fn is_valid(cache: *const Self) -> bool {
        // SAFETY: caches are never freed.
        let this = unsafe { &*cache };
        Class::all().all(|class| {
            let len = this.len(class) as usize;
            // One more than there should be, so that a list with a loop in it ends too.
            // SAFETY: as the caller promised.
            let mut objects = unsafe { this.objects(class) }.take(len + 1);
            let mut found = 0;
            objects.all(|object| {
                found += 1;
                mcentral::is_out(class, object)
            }) && found == len
        })
    }
}

impl fmt::Debug for Mcache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mcache")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// The lock of this module, for fork.
pub(crate) fn guard() -> &'static Guarded<impl Sized> {
    CACHES.guard()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcentral::Batch;
    use core::alloc::Layout;

    /// A refill as `malloc` does it.
    fn alloc(cache: &Mcache, class: Class) -> NonNull<u8> {
        // SAFETY: the cache is the test's own, and so are the objects.
        unsafe {
            let want = match cache.pop_or_plan(class, true) {
                Popped::Object(object) => return object,
                Popped::Want(want) => want,
            };
            let chain = mcentral::take_chain(class).unwrap_or_else(|| {
                let mut batch = Batch::new();
                mcentral::take(class, want, &mut batch);
                Chain::link(batch.objects())
            });
            let (first, rest) = chain.split_first().unwrap();
            cache.install(class, rest);
            first
        }
    }

    #[test]
    fn a_bin_is_a_quarter_of_a_cache_line() {
        assert_eq!(size_of::<Bin>(), 16);
        assert!(size_of::<Mcache>() <= 6144);
    }

    #[test]
    fn counters_lists_and_mcentral_agree() {
        let class = Class::of(Layout::new::<[u8; 3000]>()).unwrap();
        let raw = new_cache().unwrap();
        // SAFETY: caches are never freed, and this one is the test's own.
        let cache = unsafe { &*raw };
        let mut out = Vec::new();
        let mut rng = crate::rng::Rng::new(3);
        let (mut allocs, mut frees) = (0, 0);
        for step in 0..20_000 {
            if rng.below(100) < if step % 4000 < 2000 { 56 } else { 44 } || out.is_empty() {
                out.push(alloc(cache, class));
                allocs += 1;
            } else {
                let object = out.swap_remove(rng.below(out.len()));
                // SAFETY: the object is out, and given back once.
                if let Some(excess) = unsafe { cache.push_or_rotate(class, object) } {
                    // SAFETY: as above.
                    unsafe { mcentral::give_chain(class, excess) };
                }
                frees += 1;
            }
            if step % 500 == 0 {
                // SAFETY: the cache is the test's own.
                assert!(unsafe { Mcache::is_valid(raw) }, "after {step} steps");
                assert_eq!(cache.totals_of(class), (allocs, frees));
                let central = mcentral::counts(class);
                let all = central.spans * usize::from(class.info().objects);
                assert_eq!(all, central.objects + cache.len(class) as usize + out.len());
            }
        }
        let counts = cache.counts();
        assert!(counts.refills > 0 && counts.flushes > 0, "{counts:?}");
        assert!(counts.cached_bytes <= 8 * max_half(class) as usize * class.size());
        for object in out {
            // SAFETY: the object is out, and given back once.
            if let Some(excess) = unsafe { cache.push_or_rotate(class, object) } {
                // SAFETY: as above.
                unsafe { excess.give(class) };
            }
        }
        // SAFETY: the cache is the test's own.
        unsafe {
            Mcache::flush(raw);
            assert!(Mcache::is_valid(raw));
        }
        mcentral::trim(class, true);
        assert_eq!(cache.counts().cached_bytes, 0);
        assert_eq!(mcentral::counts(class).spans, 0);
    }

    #[test]
    fn a_batch_joins_what_came_in_the_meantime() {
        let class = Class::of(Layout::new::<[u8; 4000]>()).unwrap();
        let raw = new_cache().unwrap();
        // SAFETY: the cache is the test's own, and so are the objects.
        unsafe {
            let cache = &*raw;
            let mut batch = Batch::new();
            mcentral::take(class, 4, &mut batch);
            let [first, freed, rest @ ..] = batch.objects() else {
                panic!("a new span has more than one object");
            };
            // Between the look into the empty list and the refill a signal handler freed an object.
            assert!(cache.push_or_rotate(class, *freed).is_none());
            cache.install(class, Chain::link(rest));
            assert_eq!(cache.len(class) as usize, 1 + rest.len());
            assert!(Mcache::is_valid(raw));
            mcentral::give(class, &[*first]);
            Mcache::flush(raw);
        }
        assert_eq!(mcentral::counts(class).spans, 0);
    }

    #[test]
    fn a_cache_is_bounded_in_bytes() {
        let raw = new_cache().unwrap();
        // SAFETY: as above.
        let cache = unsafe { &*raw };
        for class in Class::all() {
            for _ in 0..100 {
                // Pretends that the list ran empty again and again.
                // SAFETY: the cache is the test's own; nothing is on its lists.
                let Popped::Want(want) = (unsafe { cache.pop_or_plan(class, true) }) else {
                    panic!("an object out of nothing");
                };
                assert!((1..=MAX_BATCH).contains(&want));
            }
        }
        let full = |class: Class| 5 * cache.more(class).half.load(Relaxed) as usize * class.size();
        let sum: usize = Class::all().map(full).sum();
        assert_eq!(sum, cache.promised.get());
        assert!(sum <= MAX_BYTES && sum > MAX_BYTES / 2, "{sum}");
    }

    #[test]
    fn a_broken_list_is_found() {
        let class = Class::of(Layout::new::<[u8; 5000]>()).unwrap();
        let raw = new_cache().unwrap();
        // SAFETY: the cache is the test's own; what it breaks it mends.
        unsafe {
            let cache = &*raw;
            let (a, b) = (alloc(cache, class), alloc(cache, class));
            assert!(cache.push_or_rotate(class, a).is_none() && Mcache::is_valid(raw));
            let link = a.cast::<Free>();
            let next = link.read().next;
            link.write(Free { next: link.as_ptr() });
            assert!(!Mcache::is_valid(raw), "a loop");
            link.write(Free { next });
            assert!(Mcache::is_valid(raw));
            mcentral::give(class, &[a]);
            assert!(!Mcache::is_valid(raw), "an object that the mcentral has too");
            let mut batch = Batch::new();
            mcentral::take(class, 1, &mut batch);
            assert_eq!(batch.objects(), [a]);
            mcentral::give(class, &[b]);
            Mcache::flush(raw);
        }
    }
}
