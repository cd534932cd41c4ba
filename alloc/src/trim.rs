//! Emptying mcaches and transfer lists that hold more than is used.
//!
//! ```text
//!   a look, while the scavenger runs        mcache that was not used since the last look: everything goes
//!                                           mcache in use, each class    not used for 4 looks             ──▶ both lists go
//!                                                                        spare list not moved for 4 looks ──▶ it goes
//!                                                          large objects    none came or went ──▶ all go
//!                                           transfer lists: what nobody has wanted since the last look goes
//!   memory is short, `release_free`         everything goes
//! ```
//!
//! Objects go to their spans, which may so become whole free pages; and a cache that is busy with some classes does not
//! keep the spans of others. Nobody waits: the P that carries the cache is idle, or it is taken from its M for the
//! moment, or the cache is left for the next look.

use crate::{
    guarded::{Guarded, Rank},
    lease,
    mcache::{self, Mcache},
    mcentral, mheap,
    sizeclass::Class,
};
use core::ptr;

/// What to empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trim {
    /// What nobody has used since the last look.
    Unused,
    /// All that can be had.
    All,
}

/// One at a time.
static TRIM: Guarded<()> = Guarded::new(Rank::Trim, ());

/// Empties caches and transfer lists, without waiting for anybody. Says whether there was anything to empty. By a thread that has an
/// M, or by the scavenger.
pub(crate) fn trim(which: Trim) -> bool {
    TRIM.with(|()| {
        let mut any = false;
        for cache in mcache::all() {
            any |= trim_cache(cache.cast_mut(), which);
        }
        for class in Class::all() {
            any |= mcentral::trim(class, which == Trim::All);
        }
        any
    })
}

/// Runs `f` while nothing is on its way from a cache that is being emptied, so that no figure misses it.
pub(crate) fn between<R>(f: impl FnOnce() -> R) -> R {
    lease::try_attach(); // see `guarded`
    TRIM.with(|()| f())
}

/// The lock of this module, for fork: who trims holds locks of Ps, which a child could never get.
pub(crate) fn guard() -> &'static Guarded<impl Sized> {
    &TRIM
}

/// Trims a cache if the P that carries it is idle, or its M is in no section.
fn trim_cache(cache: *mut Mcache, which: Trim) -> bool {
    // SAFETY: caches are never freed.
    let this = unsafe { &*cache };
    if this.is_empty() {
        return false;
    }
    let Some(p) = this.carrier() else { return false };
    // Whether there was anything to empty.
    let any = p.borrow(|p| {
        if !ptr::eq(p.cache(), cache) {
            return false; // it carries another one by now
        }
        match which {
            // SAFETY: for as long as this runs nobody else has the P, which carries the cache.
            Trim::Unused => unsafe { Mcache::trim(cache) },
            Trim::All => {
                // SAFETY: as above.
                unsafe { Mcache::flush(cache) };
                true
            }
        }
    });
    any.unwrap_or(false)
}

impl Mcache {
    /// Gives everything to the mcentral. Takes its locks.
    ///
    /// # Safety
    ///
    /// The caller owns the cache, and is in no section: nobody runs the P that carries it, or it is carried by none.
    pub unsafe fn flush(cache: *mut Self) {
        // SAFETY: caches are never freed.
        let this = unsafe { &*cache };
        for class in Class::all() {
            for chain in this.take_lists(class).into_iter().flatten() {
                // SAFETY: the objects were the cache's, and are on its lists no more.
                unsafe { chain.give(class) };
            }
        }
        let (block, pages) = this.pages.take_all();
        if pages != 0 {
            // SAFETY: the pages were the cache's, and are in it no more.
            unsafe { mheap::free_block(block, pages) };
        }
        // SAFETY: as the caller promised.
        unsafe { this.give_large() };
    }

    /// Gives to the mcentral what nobody has used since the last call, and says whether there was anything. Takes locks.
    ///
    /// # Safety
    ///
    /// As for [`flush`](Self::flush).
    unsafe fn trim(cache: *mut Self) -> bool {
        // SAFETY: caches are never freed.
        let this = unsafe { &*cache };
        let [large_used, used] = this.look();
        if !used {
            // SAFETY: as the caller promised.
            unsafe { Self::flush(cache) };
            return true;
        }
        let mut any = false;
        for class in Class::all() {
            for chain in this.take_unused(class).into_iter().flatten() {
                any = true;
                // SAFETY: the objects were the cache's, and are on its lists no more.
                unsafe { chain.give(class) };
            }
        }
        // SAFETY: as the caller promised.
        any | (!large_used && unsafe { this.give_large() })
    }

    /// Gives the freed large objects to the mheap. Says whether there were any.
    ///
    /// # Safety
    ///
    /// As for [`flush`](Self::flush).
    unsafe fn give_large(&self) -> bool {
        let large = self.large.take_all();
        let any = !large.is_empty();
        if any {
            // SAFETY: the spans were the cache's, and are in it no more.
            unsafe { mheap::free_cached(large) };
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mcache::{LOOKS, Popped},
        mcentral::Batch,
    };
    use core::alloc::Layout;

    #[test]
    fn a_busy_cache_gives_up_what_it_does_not_use() {
        // Classes that no other test of this binary uses.
        let [busy, idle] = [6656, 3328].map(|size| Class::of(Layout::from_size_align(size, 8).unwrap()).unwrap());
        let raw = mcache::new_cache().unwrap();
        // SAFETY: caches are never freed; this one is the test's own, and so are the objects.
        unsafe {
            let cache = &*raw;
            for class in [busy, idle] {
                let mut batch = Batch::new();
                mcentral::take(class, 1, &mut batch);
                assert!(cache.push_or_rotate(class, batch.objects()[0]).is_none());
            }
            for look in 0..=LOOKS {
                assert_eq!((cache.len(busy), cache.len(idle)), (1, 1), "before look {look}");
                let Popped::Object(object) = cache.pop_or_plan(busy, false) else {
                    panic!("the cache lost its object");
                };
                assert!(cache.push_or_rotate(busy, object).is_none());
                assert_eq!(Mcache::trim(raw), look == LOOKS);
            }
            assert_eq!((cache.len(busy), cache.len(idle)), (1, 0));
            assert_eq!(mcentral::counts(idle).spans, 0);
            // Once nothing is used at all, nothing stays.
            assert!(Mcache::trim(raw) && cache.is_empty());
        }
        assert_eq!(mcentral::counts(busy).spans, 0);
    }
}
