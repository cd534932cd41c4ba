//! Dispatch: where a request goes.
//!
//! ```text
//!   malloc(layout) ─ class? ─ none ──────────────────────────────────────▶ large: a span of its own
//!                      │ one of 67
//!                      ▼
//!                this thread's M ─ none: attach (lease)
//!                      │ inside a section already: a signal handler ─────▶ mcentral, one object
//!                      ▼ enter
//!                    its P ─ none: look home ─ back: enter again
//!                      │                     ─ gone: bind the lease, enter again
//!                      │                     ─ busy (a thief has it) ────▶ mcentral, one object
//!                      ▼
//!                   its mcache: pop ─ empty: leave, take a batch from the mcentral, enter again, install it in
//!                                            whatever cache is bound by then
//! ```
//!
//! Free goes the same way. Nothing here waits for a P: who has none is served all the same.
//!
//! # Signal handlers
//!
//! A handler may allocate. If it interrupted a section, the lists are in the middle of a change, and the mcentral serves
//! it. If it interrupted code that holds a lock of the allocator, and its own request needs a lock, then it can never be
//! served: it dies with a message instead of waiting for itself. (What the lists can serve is served even then.)

use crate::{
    bins,
    chain::Chain,
    current, hardened, large,
    latch::{Home, M, P},
    lease,
    mcache::{Mcache, Popped},
    mcentral::{self, Batch},
    mheap, profile, scavenge,
    sizeclass::{BinAt, Class, PAGE},
    sys::die::die,
};
use core::{
    alloc::Layout,
    ptr::{self, NonNull},
};

/// How often a request looks again for its P, before the mcentral serves it directly.
const TRIES: u32 = 4;

/// Memory for `layout`, or null. Independent of the program's global allocator.
///
/// A layout of size 0 gets memory as well, that wants to be freed. May be called from anywhere, but inside a section it
/// is slow, since it takes a lock there (and a section should not do that).
#[inline]
#[must_use]
pub fn malloc(layout: Layout) -> *mut u8 {
    alloc(not_empty(layout))
}

/// Frees what [`malloc`] or [`realloc`] gave; null is allowed.
///
/// # Safety
///
/// `object` came from one of them, with this layout (as changed by `realloc`), and nobody uses it any more.
#[inline]
pub unsafe fn free(object: *mut u8, layout: Layout) {
    if let Some(object) = NonNull::new(object) {
        // SAFETY: as the caller promised.
        unsafe { dealloc(object, not_empty(layout)) }
    }
}

/// `malloc` of a layout that is not empty.
#[inline(always)]
pub(crate) fn alloc(layout: Layout) -> *mut u8 {
    match BinAt::of_usual(layout.size(), layout.align()) {
        Some(at) => alloc_at(at),
        None => alloc_unusual(layout.size(), layout.align()),
    }
}

/// `free` of a layout that is not empty.
///
/// # Safety
///
/// As for [`free`].
#[inline(always)]
pub(crate) unsafe fn dealloc(object: NonNull<u8>, layout: Layout) {
    match BinAt::of_usual(layout.size(), layout.align()) {
        // SAFETY: as the caller promised.
        Some(at) => unsafe { free_at(object, at) },
        // SAFETY: as the caller promised.
        None => unsafe { dealloc_unusual(object, layout.size(), layout.align()) },
    }
}

#[inline(never)]
fn alloc_unusual(size: usize, align: usize) -> *mut u8 {
    // SAFETY: the parts of a layout, taken apart so that they are passed on in the registers that they came in.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    match Class::of(layout) {
        Some(class) => alloc_small(class),
        None => large::alloc(layout).map_or(ptr::null_mut(), |large| large.base.as_ptr()),
    }
}

/// # Safety
///
/// As for [`free`].
#[inline(never)]
unsafe fn dealloc_unusual(object: NonNull<u8>, size: usize, align: usize) {
    // SAFETY: as in `alloc_unusual`.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    match Class::of(layout) {
        // SAFETY: as the caller promised.
        Some(class) => unsafe { free_small(class, object) },
        // SAFETY: as the caller promised.
        None => unsafe { large::free(object) },
    }
}

/// As [`malloc`], but the memory is zero. Large objects from pages that nobody has written to are not zeroed again.
#[inline]
#[must_use]
pub fn malloc_zeroed(layout: Layout) -> *mut u8 {
    match Class::of(not_empty(layout)) {
        Some(class) => {
            let object = alloc_small(class);
            if !object.is_null() {
                // SAFETY: the object is new and has at least this size.
                unsafe { object.write_bytes(0, layout.size()) };
            }
            object
        }
        None => large::alloc_zeroed(layout).map_or(ptr::null_mut(), NonNull::as_ptr),
    }
}

/// Makes an object `new_size` bytes long, moving it if need be. Null: out of memory, and the object is as it was.
///
/// An object stays where it is if its size class serves the new size too; a large one also if it becomes shorter, or if
/// the pages behind it are free.
///
/// # Safety
///
/// `object` is as for [`free`]; what comes back takes its place, with the new size and the same alignment.
#[inline]
#[must_use]
pub unsafe fn realloc(object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    if let Ok(new_layout) = Layout::from_size_align(new_size, layout.align())
        && let (Some(before), Some(now)) = (
            Class::of_usual(not_empty(layout)),
            Class::of_usual(not_empty(new_layout)),
        )
        && before == now
        && !object.is_null()
    {
        return object;
    }
    // SAFETY: as the caller promised.
    unsafe { realloc_other(object, layout, new_size) }
}

/// # Safety
///
/// As for [`realloc`].
#[inline(never)]
unsafe fn realloc_other(object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
        return ptr::null_mut();
    };
    let Some(old) = NonNull::new(object) else {
        return malloc(new_layout);
    };
    match (Class::of(not_empty(layout)), Class::of(not_empty(new_layout))) {
        (Some(before), Some(now)) if before == now => return object,
        (None, None) => {
            if large::pages(layout.size()) == large::pages(new_size) {
                return object;
            }
            check_unlocked();
            // SAFETY: as the caller promised.
            if unsafe { mheap::resize_large(old, large::pages(new_size)) } {
                if profile::is_on() {
                    profile::note_free(object);
                    profile::note_alloc(object, large::pages(new_size) * PAGE);
                }
                return object;
            }
        }
        _ => {}
    }
    let new = malloc(new_layout);
    if !new.is_null() {
        // SAFETY: both objects are at least this long; the new one is not the old one, which is freed only then.
        unsafe {
            new.copy_from_nonoverlapping(object, layout.size().min(new_size));
            free(object, layout);
        }
    }
    new
}

/// A layout of no bytes takes one, so that its alignment counts.
#[inline(always)]
const fn not_empty(layout: Layout) -> Layout {
    match Layout::from_size_align(1, layout.align()) {
        Ok(one) if layout.size() == 0 => one,
        _ => layout,
    }
}

/// Dies if this thread holds a lock of the allocator: then this is a signal handler that interrupted the allocator.
pub(crate) fn check_unlocked() {
    if current::m().is_some_and(M::holds_lock) {
        die(format_args!(
            "a signal handler allocated or freed memory while the code that it interrupted held a lock of the allocator; \
             it would wait for itself for ever. Signal handlers must not allocate (man 7 signal-safety)"
        ));
    }
}

/// One section on the mcache that is bound to the M now. `None`, with `f` not called, if there is none.
///
/// # Safety
///
/// `m` is the calling thread's, and no section of it is open. `f` does what a section may do.
#[inline(always)]
pub(crate) unsafe fn section<R>(m: &M, f: impl FnOnce(&Mcache) -> R) -> Option<R> {
    // SAFETY: as the caller promised; `leave` follows below.
    let p: Option<&P> = unsafe { m.enter() };
    // SAFETY: a P that an M runs carries an mcache, and caches are never freed.
    let result = p.map(|p| f(unsafe { &*p.cache() }));
    // SAFETY: entered above.
    unsafe { m.leave() };
    result
}

pub(crate) fn alloc_small(class: Class) -> *mut u8 {
    alloc_at(BinAt::of(class))
}

/// # Safety
///
/// The object is the caller's, and of this class.
pub(crate) unsafe fn free_small(class: Class, object: NonNull<u8>) {
    // SAFETY: as the caller promised.
    unsafe { free_at(object, BinAt::of(class)) };
}

#[inline(always)]
fn alloc_at(at: BinAt) -> *mut u8 {
    let object = take_at(at);
    #[cfg(feature = "asan")]
    NonNull::new(object)
        .into_iter()
        .for_each(|object| crate::asan::opened(object, at.class().size()));
    object
}

/// The fast path: see `latch` on sections of the allocator.
#[inline(always)]
fn take_at(at: BinAt) -> *mut u8 {
    let m = current::m_or_nobody();
    // SAFETY: this thread's M; popping is a few loads and stores, and `leave_bins` follows.
    let (bins, state) = unsafe { m.enter_bins() };
    // SAFETY: inside the section.
    if let Some(object) = unsafe { bins.pop(at) } {
        // SAFETY: entered above; the bins had something, so `state` was 0.
        unsafe { m.leave_bins(0) };
        hardened::handed_out(at, object);
        return object.as_ptr();
    }
    // SAFETY: entered above.
    unsafe { m.leave_bins(state) };
    alloc_slow(at)
}

/// # Safety
///
/// The object is the caller's, and of this class.
#[inline(always)]
unsafe fn free_at(object: NonNull<u8>, at: BinAt) {
    hardened::taken_back(at, object);
    #[cfg(feature = "asan")]
    crate::asan::closed(object, at.class().size());
    let m = current::m_or_nobody();
    // SAFETY: this thread's M; pushing is a few loads and stores, and `leave_bins` follows.
    let (bins, state) = unsafe { m.enter_bins() };
    // SAFETY: inside the section; the object is as promised.
    if unsafe { bins.push(object, at) } {
        // SAFETY: entered above; the bins had room, so `state` was 0.
        return unsafe { m.leave_bins(0) };
    }
    // SAFETY: entered above.
    unsafe { m.leave_bins(state) };
    // SAFETY: as the caller promised.
    unsafe { free_slow(object, at) };
}

/// Calls `f` on the mcache of this thread in a section, attaching the thread and looking for its P as need be. `None`,
/// with `f` not called, if it cannot have one now.
///
/// # Safety
///
/// `f` does what a section may do.
pub(crate) unsafe fn with_cache<R>(mut f: impl FnMut(&Mcache) -> R) -> Option<R> {
    for _ in 0..TRIES {
        let m = lease::try_attach()?;
        if m.is_inside() {
            return None;
        }
        // SAFETY: this thread's M, no section open; `f` is as promised.
        let result = unsafe { section(m, &mut f) };
        if result.is_some() {
            return result;
        }
        // SAFETY: this thread's M, no section open.
        let found = match unsafe { m.look_home(false) } {
            Home::Back => true,
            // SAFETY: as above, and bound to nothing.
            Home::Gone => unsafe { lease::rebind(m) },
            Home::Busy => false,
        };
        if !found {
            return None;
        }
    }
    None
}

#[cold]
#[inline(never)]
fn alloc_slow(at: BinAt) -> *mut u8 {
    let class = at.class();
    bins::no_bins_stay_empty(at);
    // Under a lock, which means in a signal handler, what is left must do.
    let top_up = !current::m_or_nobody().holds_lock();
    // SAFETY: moving a list and planning are a few loads and stores.
    let object = match unsafe { with_cache(|cache| cache.pop_or_plan(class, top_up)) } {
        Some(Popped::Object(object)) => Some(object),
        Some(Popped::Want(want)) => refill(class, want).or_else(|| pop_last(class)),
        None => {
            check_unlocked();
            mcentral::alloc_direct(class)
        }
    };
    if let Some(object) = object {
        hardened::handed_out(at, object);
    }
    let object = object.map_or(ptr::null_mut(), NonNull::as_ptr);
    if profile::is_on() {
        profile::note_alloc(object, class.size());
    }
    object
}

/// An object of those that are left when the system has no memory to top a list up.
fn pop_last(class: Class) -> Option<NonNull<u8>> {
    // SAFETY: as in `alloc_slow`.
    match unsafe { with_cache(|cache| cache.pop_or_plan(class, false)) } {
        Some(Popped::Object(object)) => Some(object),
        _ => None,
    }
}

/// Gets objects from the mcentral: one for the program, the rest for the mcache that is bound by then.
fn refill(class: Class, want: usize) -> Option<NonNull<u8>> {
    check_unlocked();
    let chain = mcentral::take_chain(class).or_else(|| {
        let mut batch = Batch::new();
        mcentral::take(class, want, &mut batch);
        // SAFETY: the objects are ours and free.
        Chain::new(
            unsafe { Chain::link(batch.objects()) }.head,
            batch.objects().len() as u32,
        )
    })?;
    // SAFETY: the objects are ours.
    let (first, rest) = unsafe { chain.split_first() }?;
    // SAFETY: installing is a few loads and stores, and the chain's memory has been touched; the objects are ours.
    if unsafe { with_cache(|cache| cache.install(class, rest)) }.is_none() {
        mcentral::count_direct_alloc(class);
        // SAFETY: the objects are ours.
        unsafe { rest.give(class) };
    }
    scavenge::nudge();
    Some(first)
}

/// # Safety
///
/// The object is the caller's, and of this class.
#[cold]
#[inline(never)]
unsafe fn free_slow(object: NonNull<u8>, at: BinAt) {
    let class = at.class();
    bins::no_bins_stay_empty(at);
    if profile::is_on() {
        profile::note_free(object.as_ptr());
    }
    // SAFETY: pushing and moving lists are a few loads and stores; `f` is called once, and the object is as promised.
    match unsafe { with_cache(|cache| cache.push_or_rotate(class, object)) } {
        Some(None) => {}
        Some(Some(excess)) => {
            check_unlocked();
            // SAFETY: the objects were the cache's, and are ours now.
            unsafe { mcentral::give_chain(class, excess) };
        }
        None => {
            check_unlocked();
            // SAFETY: as the caller promised.
            unsafe { mcentral::free_direct(class, object) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guarded::{Guarded, Rank};
    use std::os::unix::process::ExitStatusExt;

    /// The P is gone when the batch arrives: one object goes to the program, the others back.
    #[test]
    fn a_refill_without_a_cache_keeps_nothing() {
        std::thread::spawn(|| {
            let class = Class::of(Layout::new::<[u8; 9000]>()).unwrap();
            let p = lease::attach().home().unwrap();
            // In fence mode nobody is taken from an M that never was in a section.
            // SAFETY: allocated just before, with this layout.
            unsafe { free(malloc(Layout::new::<u64>()), Layout::new::<u64>()) };
            let before = mcentral::counts(class);
            let taken = p.take().unwrap();
            let object = refill(class, 4).unwrap();
            let now = mcentral::counts(class);
            assert_eq!(now.direct_allocs, before.direct_allocs + 1);
            assert_eq!(now.objects + 1, now.spans * usize::from(class.info().objects));
            drop(taken);
            // SAFETY: the object is ours, freed once.
            unsafe { mcentral::free_direct(class, object) };
            assert_eq!(mcentral::counts(class).spans, 0);
        })
        .join()
        .unwrap();
    }

    /// What a signal handler does that interrupts code with a lock held: what the lists can serve is served, the rest
    /// cannot be.
    #[test]
    fn a_request_under_a_lock_is_served_by_the_lists_or_dies() {
        const CHILD: &str = "BATON_TEST_UNDER_A_LOCK";
        if std::env::var_os(CHILD).is_none() {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "malloc::tests::a_request_under_a_lock_is_served_by_the_lists_or_dies",
                    "--exact",
                    "--nocapture",
                ])
                .env(CHILD, "1")
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{stderr}");
            assert!(
                stderr.contains("served\n") && stderr.contains("interrupted held a lock"),
                "{stderr}"
            );
            return;
        }
        static LAST: Guarded<()> = Guarded::new(Rank::Persist, ());
        let layout = Layout::new::<[u64; 5]>();
        let keep = malloc(layout);
        LAST.with(|()| {
            for _ in 0..100 {
                // SAFETY: allocated just before, with this layout.
                unsafe { free(malloc(layout), layout) };
            }
            eprintln!("served");
            (0..100_000).for_each(|_| assert!(!malloc(layout).is_null()));
        });
        unreachable!("{keep:p} and 100,000 more without a lock");
    }
}
