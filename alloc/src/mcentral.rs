//! mcentral: for each size class, the spans that have objects in.
//!
//! ```text
//!   mcache of any P                      lists by the number of objects in: 2^i … 2^(i+1)-1
//!     refill ◀── take ───┐               ┌────┐
//!     excess ──▶ give ──▶│ lock ─────────│ 0  │ Span ⇄ Span         nearly all out: taken from first
//!                        └ one a class   │ 1  │
//!                                        │ …  │ Span                mostly in
//!                                        │ 10 │                     all out: on no list; all in: back to the mheap
//!                                        └────┘
//! ```
//!
//! **Steering.** Refills take from the fullest spans, those that have the fewest objects in (to a factor of two, the lists'
//! granularity), and lowest addresses first. So spans of which most objects are in get none taken from, drain as the
//! program frees, and go back to the mheap, whence any class can have their pages. What it comes to is the row "resident /
//! live, other sizes" of `benches/versus/alloc`.
//!
//! Whole lists that overflow wait in the transfer list for whoever wants them next, untouched. That is quick, but every object in
//! it keeps a span from becoming free pages: so it may hold [`OWN_BYTES`] in each class, and [`SHARED_BYTES`] more in all.
//!
//! Objects go back in batches of at most 128, whose spans are looked up before the lock is taken. Neighbours in a batch
//! that belong to the same span are put in together; the batch is not sorted for that, since a span changes lists only
//! when its number of objects crosses a power of two, and sorting would cost more than it saves.

use crate::{
    arena,
    chain::Chain,
    guarded::{Guarded, Rank},
    hardened, limits, mheap,
    mspan::Span,
    sizeclass::{CLASSES, Class, MAX_BATCH, MAX_OBJECTS},
    sys::die::die,
    transfer::{Incoming, Room, Transfer},
};
use core::{
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Lists of spans: one for each power of two up to the most objects in a span.
const LISTS: usize = MAX_OBJECTS.ilog2() as usize + 1;

/// The centre of one class.
struct Central {
    transfer: Transfer,
    lists: [*mut Span; LISTS],
    /// Bit i is set if `lists[i]` is not empty.
    nonempty: u32,
    counts: Counts,
}

/// What a centre counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Spans of the class.
    pub(crate) spans: usize,
    /// Objects that are in.
    pub(crate) objects: usize,
    /// Objects served without an mcache.
    pub(crate) direct_allocs: u64,
    /// Objects taken back without an mcache.
    pub(crate) direct_frees: u64,
}

/// A lock and its centre, on cache lines of their own.
#[repr(align(128))]
struct Padded(Guarded<Central>);

static CENTRALS: [Padded; CLASSES] = [const {
    Padded(Guarded::new(
        Rank::Mcentral,
        Central {
            transfer: Transfer::new(),
            lists: [ptr::null_mut(); LISTS],
            nonempty: 0,
            counts: Counts {
                spans: 0,
                objects: 0,
                direct_allocs: 0,
                direct_frees: 0,
            },
        },
    ))
}; CLASSES];

fn central(class: Class) -> &'static Guarded<Central> {
    &CENTRALS[class.index()].0
}

/// At most a batch of objects.
pub(crate) struct Batch {
    objects: [MaybeUninit<NonNull<u8>>; MAX_BATCH],
    len: usize,
}

impl Batch {
    pub(crate) const fn new() -> Self {
        Self {
            objects: [const { MaybeUninit::uninit() }; MAX_BATCH],
            len: 0,
        }
    }

    /// Adds an object. There must be room.
    #[inline]
    pub(crate) fn push(&mut self, object: NonNull<u8>) {
        self.objects[self.len].write(object);
        self.len += 1;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == MAX_BATCH
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    fn objects_mut(&mut self) -> &mut [NonNull<u8>] {
        // SAFETY: `push` initialised the first `len`.
        unsafe { self.objects[..self.len].assume_init_mut() }
    }

    pub(crate) fn objects(&self) -> &[NonNull<u8>] {
        // SAFETY: `push` initialised the first `len`.
        unsafe { self.objects[..self.len].assume_init_ref() }
    }
}

impl Central {
    /// Puts a span that has `count > 0` objects in on the list where it belongs.
    fn link(&mut self, span: &'static Span, count: usize) {
        let list = count.ilog2() as usize;
        let at = ptr::from_ref(span).cast_mut();
        let next = self.lists[list];
        // SAFETY: under the lock of the class, and spans on its lists are spans of the class.
        unsafe {
            let objects = span.objects();
            objects.prev = ptr::null_mut();
            objects.next = next;
            if let Some(next) = next.as_ref() {
                next.objects().prev = at;
            }
        }
        self.lists[list] = at;
        self.nonempty |= 1 << list;
    }

    /// Takes a span off the list that it is on since it had `count` objects in.
    fn unlink(&mut self, span: &'static Span, count: usize) {
        let list = count.ilog2() as usize;
        // SAFETY: under the lock of the class, and spans on its lists are spans of the class.
        unsafe {
            let (prev, next) = {
                let objects = span.objects();
                (objects.prev, objects.next)
            };
            match prev.as_ref() {
                Some(prev) => prev.objects().next = next,
                None => self.lists[list] = next,
            }
            if let Some(next) = next.as_ref() {
                next.objects().prev = prev;
            }
        }
        if self.lists[list].is_null() {
            self.nonempty &= !(1 << list);
        }
    }

    /// Moves a span to the list for the objects that it has in now.
    fn relink(&mut self, span: &'static Span, before: usize, now: usize) {
        if before > 0 && now > 0 && before.ilog2() == now.ilog2() {
            return;
        }
        if before > 0 {
            self.unlink(span, before);
        }
        if now > 0 {
            self.link(span, now);
        }
    }

    /// The span to take from next: one of those that have the fewest objects in.
    fn first(&self) -> Option<&'static Span> {
        let list = self.lists.get(self.nonempty.trailing_zeros() as usize)?;
        // SAFETY: the lists hold spans, whose records are never unmapped.
        unsafe { list.as_ref() }
    }
}

/// What the transfer list of a class may hold in bytes, whatever the others do, and before anything was missed.
const OWN_BYTES: usize = 64 << 10;
/// What all of them may hold beyond that.
const SHARED_BYTES: usize = 8 << 20;
/// What all of them hold beyond [`OWN_BYTES`].
static SHARED: AtomicUsize = AtomicUsize::new(0);

/// Calls `f` with the transfer list of this class, and the room that it has.
fn with_transfer<R>(class: Class, f: impl FnOnce(&mut Transfer, Room) -> R) -> R {
    let size = class.size();
    let shared = |transfer: &Transfer| (transfer.objects() * size).saturating_sub(OWN_BYTES);
    central(class).with(|central| {
        let before = shared(&central.transfer);
        // (Others may do the same at this moment, so that together they have a chain each too many.)
        let left = SHARED_BYTES.saturating_sub(SHARED.load(Relaxed));
        let room = Room {
            least: OWN_BYTES / size,
            most: (OWN_BYTES + before + left) / size,
        };
        let result = f(&mut central.transfer, room);
        let after = shared(&central.transfer);
        if after != before {
            SHARED.fetch_add(after.wrapping_sub(before), Relaxed);
        }
        result
    })
}

/// Takes the chain that came last, if there is one: none of its objects is touched.
pub(crate) fn take_chain(class: Class) -> Option<Chain> {
    with_transfer(class, |transfer, _| transfer.take())
}

/// Takes a chain back: as it is if there is room, else object by object into their spans.
///
/// # Safety
///
/// The objects are the caller's, and of this class; the caller is in no section.
pub(crate) unsafe fn give_chain(class: Class, chain: Chain) {
    let short = u32::from(class.info().batch);
    // SAFETY: the chain is the caller's.
    let incoming = unsafe { Incoming::new(chain, short) };
    let longest = 3 * limits::max_half(class);
    if !with_transfer(class, |transfer, room| transfer.give(incoming, room, short, longest)) {
        // SAFETY: as the caller promised.
        unsafe { chain.give(class) };
    }
}

/// Gives the objects of chains to their spans: of those that nobody wanted since the last call, or with `all`, of all.
/// Says whether there were any.
pub(crate) fn trim(class: Class, all: bool) -> bool {
    let mut any = false;
    while let Some(chain) = with_transfer(class, |transfer, _| transfer.trim(all)) {
        any = true;
        // SAFETY: the objects were the centre's, and are ours now.
        unsafe { chain.give(class) };
    }
    any
}

/// Takes up to `want` objects into an empty batch, at least one unless the system is out of memory.
pub(crate) fn take(class: Class, want: usize, batch: &mut Batch) {
    let want = want.clamp(1, MAX_BATCH);
    let size = class.size();
    central(class).with(|central| {
        while batch.len < want {
            let span = match central.first() {
                Some(span) => span,
                // A batch that is a little short is better than a new span.
                None if 2 * batch.len > want => break,
                None => {
                    let Some(span) = mheap::alloc_span(class) else { break };
                    central.counts.spans += 1;
                    // SAFETY: under the lock of the class.
                    let count = unsafe { span.objects() }.count;
                    central.counts.objects += count;
                    central.link(span, count);
                    span
                }
            };
            // SAFETY: under the lock of the class.
            let objects = unsafe { span.objects() };
            let before = objects.count;
            objects.take(|index| {
                if batch.len == want {
                    return false;
                }
                // SAFETY: the span has more than `index` objects of `size` bytes.
                batch.push(unsafe { span.base().add(index * size) });
                true
            });
            let now = objects.count;
            central.counts.objects -= before - now;
            central.relink(span, before, now);
        }
    });
    hardened::prepare(class, batch.objects_mut());
}

/// The span of a small object and the object's number in it. Dies with a message if there is no such object.
pub(crate) fn locate(class: Class, object: NonNull<u8>) -> (&'static Span, usize) {
    let found = arena::span_of(object)
        // SAFETY: records of spans are never unmapped.
        .map(|span| unsafe { span.as_ref() })
        .filter(|span| span.class() == Some(class))
        .and_then(|span| Some((span, span.index_of(object)?)));
    let Some(found) = found else {
        die(format_args!(
            "free of {object:p} as an object of {} bytes, which it is not: its Layout is not the one that it was allocated \
             with, or it was freed before, or another allocator made it",
            class.size()
        ));
    };
    found
}

/// Takes objects back.
///
/// # Safety
///
/// They are the caller's, and of this class.
pub(crate) unsafe fn give(class: Class, objects: &[NonNull<u8>]) {
    // SAFETY: as the caller promised.
    unsafe { give_counted(class, objects, |_| {}) };
}

/// # Safety
///
/// As for `give`.
unsafe fn give_counted(class: Class, objects: &[NonNull<u8>], count: impl FnOnce(&mut Counts)) {
    debug_assert!(objects.len() <= MAX_BATCH);
    let mut at = [const { MaybeUninit::<(&'static Span, usize)>::uninit() }; MAX_BATCH];
    for (at, &object) in at.iter_mut().zip(objects) {
        at.write(locate(class, object));
    }
    // SAFETY: one is initialised for each object.
    let at = unsafe { at[..objects.len()].assume_init_ref() };
    let in_span = usize::from(class.info().objects);
    // Spans that are all in, linked by `next`.
    let mut empty: *mut Span = ptr::null_mut();
    central(class).with(|central| {
        count(&mut central.counts);
        let mut rest = at.iter();
        while let Some(&(span, index)) = rest.next() {
            // SAFETY: under the lock of the class.
            let objects = unsafe { span.objects() };
            let before = objects.count;
            put(class, span, objects, index);
            while let Some(&(_, index)) = rest.as_slice().first().filter(|&&(s, _)| ptr::eq(s, span)) {
                put(class, span, objects, index);
                rest.next();
            }
            let now = objects.count;
            central.counts.objects += now - before;
            if now == in_span {
                if before > 0 {
                    central.unlink(span, before);
                }
                central.counts.objects -= in_span;
                central.counts.spans -= 1;
                // SAFETY: as above; on no list, the span's links are free.
                unsafe { span.objects() }.next = empty;
                empty = ptr::from_ref(span).cast_mut();
            } else {
                central.relink(span, before, now);
            }
        }
    });
    // SAFETY: the list holds spans, whose records are never unmapped.
    while let Some(span) = unsafe { empty.as_ref() } {
        // SAFETY: nobody else has the span now: it is on no list and none of its objects is out.
        empty = unsafe { span.objects() }.next;
        // SAFETY: as above.
        unsafe { mheap::free_span(span) };
    }
}

fn put(class: Class, span: &Span, objects: &mut crate::mspan::Objects, index: usize) {
    if !objects.put(index) {
        let object = span.base().as_ptr().wrapping_add(index * class.size());
        die(format_args!(
            "the object of {} bytes at {object:p} was freed twice",
            class.size()
        ));
    }
}

/// Serves one request without an mcache. `None`: out of memory.
pub(crate) fn alloc_direct(class: Class) -> Option<NonNull<u8>> {
    let mut batch = Batch::new();
    take(class, 1, &mut batch);
    let object = batch.objects().first().copied()?;
    count_direct_alloc(class);
    Some(object)
}

/// Notes that an object that was taken went to the program, past every mcache.
pub(crate) fn count_direct_alloc(class: Class) {
    central(class).with(|central| central.counts.direct_allocs += 1);
}

/// Takes one object back without an mcache.
///
/// # Safety
///
/// It is the caller's, and of this class.
pub(crate) unsafe fn free_direct(class: Class, object: NonNull<u8>) {
    // SAFETY: as the caller promised.
    unsafe { give_counted(class, &[object], |counts| counts.direct_frees += 1) };
}

/// Whether `object` is an object of `class` that is out: for checks of an mcache's lists.
pub(crate) fn is_out(class: Class, object: NonNull<u8>) -> bool {
    let Some(span) = arena::span_of(object) else {
        return false;
    };
    // SAFETY: records of spans are never unmapped.
    let span = unsafe { span.as_ref() };
    let Some(index) = span.index_of(object).filter(|_| span.class() == Some(class)) else {
        return false;
    };
    // SAFETY: under the lock of the class.
    central(class).with(|_| !unsafe { span.objects() }.has(index))
}

/// What the centre of this class counted.
pub(crate) fn counts(class: Class) -> Counts {
    central(class).with(|central| Counts {
        objects: central.counts.objects + central.transfer.objects(),
        ..central.counts
    })
}

/// The lock of this class, for fork.
pub(crate) fn guard(class: Class) -> &'static Guarded<impl Sized> {
    central(class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::alloc::Layout;

    /// A class that no other test of this binary uses.
    fn class(size: usize) -> Class {
        Class::of(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    #[test]
    fn objects_are_distinct_and_spans_go_back_when_all_are_in() {
        let class = class(6144);
        let mut all = Vec::new();
        while all.len() < 500 {
            let mut batch = Batch::new();
            take(class, 30, &mut batch);
            assert!((1..=30).contains(&batch.objects().len()));
            all.extend_from_slice(batch.objects());
        }
        let distinct: std::collections::BTreeSet<_> = all.iter().map(|o| o.addr()).collect();
        assert_eq!(distinct.len(), all.len());
        let before = counts(class);
        assert_eq!(
            before.spans * usize::from(class.info().objects),
            all.len() + before.objects
        );
        // In an order that mixes the spans.
        let (even, odd): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(i, _)| i % 2 == 0);
        for (_, object) in even.into_iter().chain(odd) {
            assert!(is_out(class, *object));
            // SAFETY: taken above, given once.
            unsafe { give(class, &[*object]) };
            assert!(!is_out(class, *object));
        }
        let after = counts(class);
        assert_eq!((after.spans, after.objects), (0, 0));
    }

    #[test]
    fn the_fullest_span_is_taken_from_first() {
        let class = class(5632);
        let per_span = usize::from(class.info().objects);
        let mut batch = Batch::new();
        take(class, per_span, &mut batch);
        let first = batch.objects().to_vec();
        batch.clear();
        take(class, per_span, &mut batch);
        let second = batch.objects().to_vec();
        // One object of the first span comes back, and all but one of the second.
        // SAFETY: taken above, given once.
        unsafe {
            give(class, &second[1..]);
            give(class, &first[..1]);
        }
        batch.clear();
        take(class, 1, &mut batch);
        assert_eq!(batch.objects(), &first[..1]);
        // SAFETY: as above.
        unsafe {
            give(class, &first);
            give(class, &second[..1]);
        }
        assert_eq!(counts(class).spans, 0);
    }

    #[test]
    fn direct_requests_are_counted() {
        let class = class(7168);
        let object = alloc_direct(class).unwrap();
        // SAFETY: just allocated, freed once.
        unsafe { free_direct(class, object) };
        let counts = counts(class);
        assert_eq!((counts.direct_allocs, counts.direct_frees, counts.spans), (1, 1, 0));
    }
}
