//! mcache: what a P carries so that most requests need no lock.
//!
//! ```text
//!   Mcache    bins[class]   head ─▶ ○ ─▶ ○ ─▶ ○          alloc pops, free pushes: a few plain loads and stores
//!             more[class]   spare ─▶ ○ ─▶ ○ ─▶ ○ ─▶ ○    a full list kept aside
//!
//!   head empty on alloc:  spare becomes head; no spare → refill from the mcentral
//!   head full on free:    head becomes spare; the spare there was goes to the mcentral in one batch
//! ```
//!
//! The lists hold free objects of the class *from any span*: Rust frees explicitly, often on another thread than it
//! allocated on, and a `Layout` tells the class, so neither side looks up a span. Two lists instead of one mean that half
//! of what is cached can go in one step, without a walk, and that a thread that allocates and frees around the border
//! between two lists does not go to the mcentral each time.
//!
//! # Counting
//!
//! `allocs` and `frees` only ever go up; nothing else is written on the fast path. The length of the head list is
//! `frees - allocs - base`, where `base` changes only when objects come or go otherwise (refill, spare). What is stored is
//! `limit = base + half`, since the one question on the fast path is whether `frees - allocs` has reached it.
//!
//! # Limits
//!
//! `half`, the length at which a list counts as full, starts at an eighth of a batch, doubles with each refill up to a
//! batch and then goes up by a batch at a time, to 1,024 objects or 128 KiB, while all lists of the cache together may not
//! be able to hold more than [`MAX_BYTES`]. Four overflows without a refill in between (a thread that only frees) bring it
//! down again.
//!
//! # Who may touch what
//!
//! The owner of the P that carries the cache (see `latch`) touches all of it, inside a section or as a taker. Others read
//! the counters, which are atomics for that reason alone: the owner writes them with a load and a store.

use crate::{
    chain::{Chain, Free},
    fixalloc::Fixalloc,
    guarded::Guarded,
    large::LargeCache,
    latch::P,
    mcentral, mheap,
    pagecache::PageCache,
    sizeclass::{CLASSES, Class, PAGE},
};
use core::{
    cell::Cell,
    fmt,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicI64, AtomicPtr, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// What the full lists of one cache may hold together; beyond that no list is allowed to grow.
pub const MAX_BYTES: usize = 4 << 20;

/// What the fast path touches of a class: half a cache line.
#[repr(C)]
struct Bin {
    head: Cell<*mut Free>,
    allocs: AtomicU64,
    frees: AtomicU64,
    /// `frees - allocs` at which the head list is full.
    limit: AtomicI64,
}

/// The rest of a class.
struct More {
    spare: Cell<*mut Free>,
    spare_len: AtomicU32,
    /// The length at which a list is full.
    half: AtomicU32,
    /// Overflows since the last refill.
    overflows: Cell<u32>,
}

/// The lists of free objects that a P carries. Never freed.
#[repr(C, align(64))]
pub struct Mcache {
    bins: [Bin; CLASSES],
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
    /// Nothing: get this many from the mcentral.
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
fn max_half(class: Class) -> u32 {
    let info = class.info();
    ((128 << 10) / info.size).clamp(info.batch.into(), 1024)
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

/// Adds one to a counter that only its owner writes.
#[inline(always)]
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Bin {
    /// `frees - allocs`.
    #[inline(always)]
    fn balance(&self) -> i64 {
        self.frees.load(Relaxed).wrapping_sub(self.allocs.load(Relaxed)) as i64
    }

    #[inline(always)]
    fn pop(&self) -> Option<NonNull<u8>> {
        let object = NonNull::new(self.head.get())?;
        // SAFETY: what is on the list is a free object that holds a link.
        self.head.set(unsafe { object.read() }.next);
        bump(&self.allocs);
        Some(object.cast())
    }

    #[inline(always)]
    fn push(&self, object: NonNull<u8>) {
        let object = object.cast::<Free>();
        // SAFETY: the object is free and holds at least a word.
        unsafe { object.write(Free { next: self.head.get() }) };
        self.head.set(object.as_ptr());
        bump(&self.frees);
    }

    /// Notes that `n` objects came to the head list other than by `push`, or with a negative `n`, left it.
    fn supplied(&self, n: i64) {
        self.limit.store(self.limit.load(Relaxed).wrapping_sub(n), Relaxed);
    }
}

impl Mcache {
    fn new(older: *mut Mcache) -> Self {
        let half = |index| Class::new(index).map_or(0, first_half);
        Self {
            bins: core::array::from_fn(|index| Bin {
                head: Cell::new(ptr::null_mut()),
                allocs: AtomicU64::new(0),
                frees: AtomicU64::new(0),
                limit: AtomicI64::new(half(index).into()),
            }),
            more: core::array::from_fn(|index| More {
                spare: Cell::new(ptr::null_mut()),
                spare_len: AtomicU32::new(0),
                half: AtomicU32::new(half(index)),
                overflows: Cell::new(0),
            }),
            large: LargeCache::new(),
            pages: PageCache::new(),
            refills: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            carrier: AtomicPtr::new(ptr::null_mut()),
            seen: AtomicU64::new(0),
            promised: Cell::new(Class::all().map(|c| 2 * first_half(c) as usize * c.size()).sum()),
            older,
        }
    }

    #[inline(always)]
    fn bin(&self, class: Class) -> &Bin {
        // SAFETY: the number of a class is below `CLASSES`.
        unsafe { self.bins.get_unchecked(class.index()) }
    }

    fn more(&self, class: Class) -> &More {
        &self.more[class.index()]
    }

    /// Takes an object off the head list.
    ///
    /// # Safety
    ///
    /// The caller owns the cache.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self, class: Class) -> Option<NonNull<u8>> {
        self.bin(class).pop()
    }

    /// Puts an object on the head list. `false`, and the object is not there, if the list is full.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, and the object, which is of this class.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, class: Class, object: NonNull<u8>) -> bool {
        let bin = self.bin(class);
        if bin.balance() >= bin.limit.load(Relaxed) {
            return false;
        }
        bin.push(object);
        true
    }

    /// Takes an object off either list, or says how many to get from the mcentral.
    ///
    /// # Safety
    ///
    /// The caller owns the cache.
    pub(crate) unsafe fn pop_or_plan(&self, class: Class) -> Popped {
        let (bin, more) = (self.bin(class), self.more(class));
        if bin.head.get().is_null() && !more.spare.get().is_null() {
            bin.head.set(more.spare.replace(ptr::null_mut()));
            bin.supplied(more.spare_len.load(Relaxed).into());
            more.spare_len.store(0, Relaxed);
        }
        if let Some(object) = bin.pop() {
            return Popped::Object(object);
        }
        more.overflows.set(0);
        let half = more.half.load(Relaxed);
        let batch = u32::from(class.info().batch);
        let larger = if half < batch {
            (2 * half).min(batch)
        } else {
            half + batch
        };
        self.set_half(class, larger.min(max_half(class)));
        Popped::Want(more.half.load(Relaxed).min(batch) as usize)
    }

    /// Makes lists of this class count as full at another length, if the whole cache may hold as much.
    fn set_half(&self, class: Class, half: u32) {
        let (bin, more) = (self.bin(class), self.more(class));
        let before = more.half.load(Relaxed);
        let bytes = |half| 2 * half as usize * class.size();
        let promised = self.promised.get() - bytes(before) + bytes(half);
        if half > before && promised > MAX_BYTES {
            return;
        }
        self.promised.set(promised);
        more.half.store(half, Relaxed);
        bin.supplied(i64::from(before) - i64::from(half));
    }

    /// Puts objects from the mcentral on the head list; one more went straight to the program.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, and the objects, which are of this class.
    pub(crate) unsafe fn install(&self, class: Class, chain: &Chain) {
        let bin = self.bin(class);
        if chain.len > 0 {
            // SAFETY: the tail is a free object, linked outside the section, so its memory has been touched.
            unsafe { (*chain.tail).next = bin.head.get() };
            bin.head.set(chain.head);
        }
        bin.supplied(i64::from(chain.len) + 1);
        bump(&bin.allocs);
        bump(&self.refills);
    }

    /// Puts an object on the head list. If that is full it becomes the spare, and the spare there was is the caller's to
    /// give to the mcentral.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, and the object, which is of this class.
    pub(crate) unsafe fn push_or_rotate(&self, class: Class, object: NonNull<u8>) -> Option<Chain> {
        // SAFETY: as the caller promised.
        if unsafe { self.push(class, object) } {
            return None;
        }
        let (bin, more) = (self.bin(class), self.more(class));
        let excess = Chain {
            head: more.spare.replace(bin.head.replace(ptr::null_mut())),
            tail: ptr::null_mut(),
            len: more.spare_len.load(Relaxed),
        };
        let len = bin.balance() - (bin.limit.load(Relaxed) - i64::from(more.half.load(Relaxed)));
        more.spare_len.store(len as u32, Relaxed);
        bin.supplied(-len);
        bin.push(object);
        if excess.head.is_null() {
            return None;
        }
        bump(&self.flushes);
        more.overflows.set(more.overflows.get() + 1);
        if more.overflows.get() == 4 {
            more.overflows.set(0);
            let batch = u32::from(class.info().batch);
            let half = more.half.load(Relaxed);
            self.set_half(class, half.saturating_sub(batch).max(batch.min(half)));
        }
        Some(excess)
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
            let (bin, more) = (this.bin(class), this.more(class));
            let spare = Chain::of(more.spare.replace(ptr::null_mut()));
            more.spare_len.store(0, Relaxed);
            let head = Chain::of(bin.head.replace(ptr::null_mut()));
            // The head list is empty now: its length `balance - (limit - half)` is 0.
            bin.limit
                .store(bin.balance() + i64::from(more.half.load(Relaxed)), Relaxed);
            if head.head.is_null() && spare.head.is_null() {
                continue;
            }
            bump(&this.flushes);
            // SAFETY: the objects were the cache's, and are on its lists no more.
            unsafe {
                spare.give(class);
                head.give(class);
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
        self.bins.iter().fold((0, 0), |(allocs, frees), bin| {
            (allocs + bin.allocs.load(Relaxed), frees + bin.frees.load(Relaxed))
        })
    }

    /// Objects allocated and freed of one class.
    pub(crate) fn totals_of(&self, class: Class) -> (u64, u64) {
        let bin = self.bin(class);
        (bin.allocs.load(Relaxed), bin.frees.load(Relaxed))
    }

    /// How many objects of a class are on the lists, by the counters.
    pub(crate) fn len(&self, class: Class) -> u32 {
        let (bin, more) = (self.bin(class), self.more(class));
        let head = bin.balance() - (bin.limit.load(Relaxed) - i64::from(more.half.load(Relaxed)));
        head.max(0) as u32 + more.spare_len.load(Relaxed)
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
            let want = match cache.pop_or_plan(class) {
                Popped::Object(object) => return object,
                Popped::Want(want) => want,
            };
            let mut batch = Batch::new();
            mcentral::take(class, want, &mut batch);
            let (first, rest) = batch.objects().split_first().unwrap();
            cache.install(class, &Chain::link(rest));
            *first
        }
    }

    #[test]
    fn a_bin_is_half_a_cache_line() {
        assert_eq!(size_of::<Bin>(), 32);
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
                    unsafe { excess.give(class) };
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
        assert!(counts.cached_bytes <= 2 * max_half(class) as usize * class.size());
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
            assert!(cache.push(class, *freed));
            cache.install(class, &Chain::link(rest));
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
                let Popped::Want(want) = (unsafe { cache.pop_or_plan(class) }) else {
                    panic!("an object out of nothing");
                };
                assert!(want >= 1 && want <= class.info().batch.into());
            }
        }
        let full = |class: Class| 2 * cache.more(class).half.load(Relaxed) as usize * class.size();
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
