//! Free objects, linked through their first word: what the lists of an mcache are made of, and what travels between an
//! mcache and an mcentral.

#[cfg(not(baton_loom))]
use crate::{
    mcentral::{self, Batch},
    sizeclass::Class,
};
use core::ptr::{self, NonNull};

/// A free object: its first word leads to the next.
#[derive(Debug)]
pub struct Free {
    /// The next object of the list, or null.
    pub next: *mut Free,
}

/// A list of free objects on its way into a cache or out of it.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// The first object.
    pub head: *mut Free,
    /// How many objects there are.
    pub len: u32,
}

impl Chain {
    /// No objects.
    pub(crate) const EMPTY: Self = Self {
        head: ptr::null_mut(),
        len: 0,
    };

    /// `len` objects from `head` on; `None` if there are none.
    #[cfg(not(baton_loom))]
    pub(crate) fn new(head: *mut Free, len: u32) -> Option<Self> {
        (len > 0).then_some(Self { head, len })
    }

    /// Links objects to a list. This is the first touch of fresh objects, so it is not done inside a section.
    ///
    /// # Safety
    ///
    /// The objects are the caller's, free, and hold at least a word.
    #[must_use]
    pub unsafe fn link(objects: &[NonNull<u8>]) -> Self {
        let mut next: *mut Free = ptr::null_mut();
        for object in objects.iter().rev() {
            let object = object.cast::<Free>();
            // SAFETY: as the caller promised.
            unsafe { object.write(Free { next }) };
            next = object.as_ptr();
        }
        Self {
            head: next,
            len: objects.len() as u32,
        }
    }

    /// The first object and the chain of the others; `None` if there is none.
    ///
    /// # Safety
    ///
    /// The objects are the caller's.
    #[must_use]
    pub unsafe fn split_first(self) -> Option<(NonNull<u8>, Self)> {
        let first = NonNull::new(self.head)?;
        // SAFETY: what is on the chain is a free object that holds a link.
        let head = unsafe { first.read() }.next;
        Some((
            first.cast(),
            Self {
                head,
                len: self.len - 1,
            },
        ))
    }

    /// The last object. There must be one.
    ///
    /// # Safety
    ///
    /// The objects are the caller's.
    pub(crate) unsafe fn last(self) -> *mut Free {
        let mut last = self.head;
        for _ in 1..self.len {
            // SAFETY: what is on the chain is a free object that holds a link.
            last = unsafe { (*last).next };
        }
        last
    }

    /// Gives the objects to their spans, a batch at a time.
    ///
    /// # Safety
    ///
    /// They are the caller's, and of this class; the caller is in no section.
    #[cfg(not(baton_loom))]
    pub(crate) unsafe fn give(self, class: Class) {
        let mut batch = Batch::new();
        let mut next = self.head;
        while let Some(object) = NonNull::new(next) {
            // SAFETY: what is on the chain is a free object that holds a link.
            next = unsafe { object.read() }.next;
            batch.push(object.cast());
            if batch.is_full() || next.is_null() {
                // SAFETY: as the caller promised.
                unsafe { mcentral::give(class, batch.objects()) };
                batch.clear();
            }
        }
    }
}
