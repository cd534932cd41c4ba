//! mcache: what a P carries so that most requests need no lock.
//!
//! ```text
//!   Mcache    bins[class]   head ─▶ ○ ─▶ ○ ─▶ ○          what the fast path touches (`bins`)
//!             more[class]   spare ─▶ ○ ─▶ ○ ─▶ ○ ─▶ ○    a list kept aside; limits (`limits`), counters
//!             large, pages                               freed large objects (`large`), free pages (`pagecache`)
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
//! # Who may touch what
//!
//! The owner of the P that carries the cache (see `latch`) touches all of it, inside a section or as a taker. Others read
//! the counters, which are atomics for that reason alone: the owner writes them with a load and a store.

use crate::{
    bins::{Bin, Bins},
    chain::{Chain, Free},
    fixalloc::Fixalloc,
    guarded::Guarded,
    large::LargeCache,
    latch::P,
    limits::{self, Budget, Limit},
    mcentral,
    pagecache::PageCache,
    sizeclass::{BinAt, CLASSES, Class, PAGE},
};
use core::{
    cell::Cell,
    fmt,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

pub use crate::limits::MAX_BYTES;

/// The most objects that stay where they are when a list is divided: somebody has to walk there.
const KEPT: u32 = 256;
/// Looks of `trim` that a list may go unused in a cache that is in use.
pub(crate) const LOOKS: u8 = 4;

/// The rest of a class.
struct More {
    spare: Cell<*mut Free>,
    spare_len: AtomicU32,
    /// The length of the head list at the last settlement, and what `avail` was set to.
    len: AtomicU32,
    /// What `room` was set to.
    granted: AtomicU32,
    /// Objects allocated and freed up to the last settlement.
    allocs: AtomicU64,
    frees: AtomicU64,
    limit: Limit,
    /// Whether the spare list came or went since the last look of `trim`, and what was allocated and freed until then.
    spare_moved: Cell<bool>,
    seen: Cell<u64>,
    /// Looks since the spare list, and since any list, was used.
    spare_idle: Cell<u8>,
    idle: Cell<u8>,
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
    budget: Budget,
    /// The P that bound this cache last. Written by whoever binds it, read by the scavenger, which makes sure.
    carrier: AtomicPtr<P>,
    /// What was allocated and freed of large objects, and of all, until the last look of `trim`.
    seen: Cell<[u64; 2]>,
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

impl Mcache {
    fn new(older: *mut Mcache) -> Self {
        let this = Self {
            bins: Bins::new(),
            // Nobody uses what stands for large objects here, so it may be as any other.
            more: core::array::from_fn(|index| More {
                spare: Cell::new(ptr::null_mut()),
                spare_len: AtomicU32::new(0),
                len: AtomicU32::new(0),
                granted: AtomicU32::new(0),
                limit: Limit::new(Class::new(index.max(1)).expect("a class")),
                allocs: AtomicU64::new(0),
                frees: AtomicU64::new(0),
                spare_moved: Cell::new(false),
                seen: Cell::new(0),
                spare_idle: Cell::new(0),
                idle: Cell::new(0),
            }),
            large: LargeCache::new(),
            pages: PageCache::new(),
            refills: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            carrier: AtomicPtr::new(ptr::null_mut()),
            seen: Cell::new([0; 2]),
            budget: Budget::new(),
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
        let more = self.more(class);
        let (avail, room) = self.bin(class).left();
        let pops = more.len.load(Relaxed).saturating_sub(avail);
        let pushes = more.granted.load(Relaxed).saturating_sub(room);
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
        let more = self.more(class);
        let half = more.limit.half();
        more.len.store(len, Relaxed);
        more.granted.store(half, Relaxed);
        self.bin(class).grant(len, half);
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
            more.spare_moved.set(true);
            len = spare_len;
        }
        if len == 0 || top_up && len < limits::short(class) {
            more.limit.refilled(class, &self.budget);
            self.grant(class, len);
            return Popped::Want(more.limit.want(class));
        }
        self.grant(class, len);
        // SAFETY: as the caller promised.
        match unsafe { self.bins.pop(BinAt::of(class)) } {
            Some(object) => Popped::Object(object),
            None => Popped::Want(1),
        }
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
        let half = more.limit.half();
        let spare = Chain::new(more.spare.get(), more.spare_len.load(Relaxed));
        if len >= half && spare.is_some_and(|spare| spare.len >= half / 2) {
            excess = spare;
            more.spare.set(bin.head.replace(ptr::null_mut()));
            more.spare_len.store(len, Relaxed);
            more.spare_moved.set(true);
            len = 0;
        } else if len >= 2 * half {
            // What is beyond the first ones goes aside, behind the few that are there.
            let stays = Chain {
                head: bin.head.get(),
                len: half.min(KEPT),
            };
            // SAFETY: the list is the cache's, and has more objects than these.
            let last = unsafe { &mut *stays.last() };
            let rest = core::mem::replace(&mut last.next, ptr::null_mut());
            let few = spare.map_or(0, |few| {
                // SAFETY: the list is the cache's, and as long as it says.
                unsafe { (*few.last()).next = rest };
                few.len
            });
            more.spare.set(spare.map_or(rest, |few| few.head));
            more.spare_len.store(few + len - stays.len, Relaxed);
            more.spare_moved.set(true);
            len = stays.len;
        }
        if excess.is_some() {
            add(&self.flushes, 1);
            more.limit.overflowed(class, &self.budget);
        }
        self.grant(class, len);
        // SAFETY: as the caller promised.
        let pushed = unsafe { self.bins.push(object, BinAt::of(class)) };
        debug_assert!(pushed, "a list that was found to have room has none");
        excess
    }

    /// Takes the spare list of a class.
    pub(crate) fn take_spare(&self, class: Class) -> Option<Chain> {
        let more = self.more(class);
        let spare = Chain::new(more.spare.replace(ptr::null_mut()), more.spare_len.load(Relaxed))?;
        more.spare_len.store(0, Relaxed);
        add(&self.flushes, 1);
        Some(spare)
    }

    /// Takes both lists of a class, which starts anew.
    pub(crate) fn take_lists(&self, class: Class) -> [Option<Chain>; 2] {
        let (bin, more) = (self.bin(class), self.more(class));
        let len = self.settle(class);
        let head = Chain::new(bin.head.replace(ptr::null_mut()), len);
        more.limit.reset(class, &self.budget);
        self.grant(class, 0);
        if head.is_some() {
            add(&self.flushes, 1);
        }
        [head, self.take_spare(class)]
    }

    /// What of a class nobody has used for some looks, of which this is one.
    pub(crate) fn take_unused(&self, class: Class) -> [Option<Chain>; 2] {
        let more = self.more(class);
        let (allocs, frees) = self.totals_of(class);
        let now = allocs.wrapping_add(frees);
        let age = |looks: &Cell<u8>, used: bool| {
            looks.set(if used { 0 } else { looks.get().saturating_add(1) });
            looks.get() >= LOOKS
        };
        let spare_unused = age(&more.spare_idle, more.spare_moved.replace(false));
        if age(&more.idle, more.seen.replace(now) != now) && self.len(class) > 0 {
            self.take_lists(class)
        } else if spare_unused {
            [None, self.take_spare(class)]
        } else {
            [None, None]
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

    /// In the child of a fork: leaves a cache alone whose carrier's lock a thread had that is no more.
    pub(crate) fn after_fork(&self) {
        if self.carrier().is_some_and(P::is_locked) {
            self.carrier.store(ptr::null_mut(), Release);
        }
    }

    /// Whether large objects, and whether any, were allocated or freed since the last look.
    pub(crate) fn look(&self) -> [bool; 2] {
        let (allocs, frees) = self.totals();
        let large = self.large.counts();
        let large = large.allocs.wrapping_add(large.frees);
        let all = allocs.wrapping_add(frees).wrapping_add(large);
        let [large_before, all_before] = self.seen.replace([large, all]);
        [large != large_before, all != all_before]
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
    fn a_cache_is_small() {
        assert!(size_of::<Mcache>() <= 8192);
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
        assert!(counts.cached_bytes <= 8 * limits::max_half(class) as usize * class.size());
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
