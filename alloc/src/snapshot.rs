//! A picture of the mcache that the current thread uses: the same before and after means that it was handed on untouched.

use crate::{
    current,
    latch::Kind,
    mcache::Mcache,
    sizeclass::{CLASSES, Class},
};

/// Which mcache a thread uses and what is on its lists. Plain old data: taking one allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The address of the mcache.
    pub cache: usize,
    /// Whether a processor carries it, or the thread's lease.
    pub kind: Kind,
    /// Free objects by size class.
    pub counts: [u32; CLASSES],
    /// A sum over the addresses of all free objects in the order of the lists.
    pub checksum: u64,
}

impl Snapshot {
    /// A picture of nothing, to take one into.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cache: 0,
            kind: Kind::Lease,
            counts: [0; CLASSES],
            checksum: 0,
        }
    }

    fn take(&mut self, kind: Kind, cache: &Mcache) {
        self.cache = core::ptr::from_ref(cache).addr();
        self.kind = kind;
        self.checksum = 0xcbf2_9ce4_8422_2325;
        for class in Class::all() {
            let mut count = 0;
            // SAFETY: the caller of `snapshot` owns the cache, being in a section of the P that carries it.
            for object in unsafe { cache.objects(class) } {
                count += 1;
                let mixed = self.checksum.rotate_left(5) ^ object.addr().get() as u64;
                self.checksum = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            self.counts[class.index()] = count;
        }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes a picture of the mcache that this thread's M is bound to. `false`, and `into` is as it was, if there is none at
/// the moment: the thread never allocated, or its P was taken.
///
/// For diagnosis and tests: it walks all lists inside one section, which takes microseconds for each thousand objects and
/// keeps takers of the P waiting as long.
#[must_use]
pub fn snapshot(into: &mut Snapshot) -> bool {
    let Some(m) = current::m().filter(|m| !m.is_inside()) else {
        return false;
    };
    // SAFETY: this thread's M, no section open; the walk reads memory that was touched when it was freed, writes to
    // `into`, and `leave` follows.
    let p = unsafe { m.enter() };
    if let Some(p) = p {
        // SAFETY: a P that an M runs carries an mcache, and caches are never freed.
        into.take(p.kind(), unsafe { &*p.cache() });
    }
    // SAFETY: entered above.
    unsafe { m.leave() };
    p.is_some()
}
