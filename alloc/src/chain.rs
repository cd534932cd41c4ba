//! Free objects, linked through their first word: what the lists of an mcache are made of, and what travels between an
//! mcache and an mcentral.

use crate::{
    mcentral::{self, Batch},
    sizeclass::Class,
};
use core::ptr::{self, NonNull};

/// A free object: its first word leads to the next.
pub(crate) struct Free {
    pub(crate) next: *mut Free,
}

/// A list of free objects on its way into a cache or out of it.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) head: *mut Free,
    /// The last object, if the chain is on its way in.
    pub(crate) tail: *mut Free,
    /// How many objects there are.
    pub(crate) len: u32,
}

impl Chain {
    /// Links objects to a list. This is the first touch of fresh objects, so it is not done inside a section.
    ///
    /// # Safety
    ///
    /// The objects are the caller's, free, and hold at least a word.
    pub(crate) unsafe fn link(objects: &[NonNull<u8>]) -> Self {
        let mut next: *mut Free = ptr::null_mut();
        for object in objects.iter().rev() {
            let object = object.cast::<Free>();
            // SAFETY: as the caller promised.
            unsafe { object.write(Free { next }) };
            next = object.as_ptr();
        }
        Self {
            head: next,
            tail: objects.last().map_or(ptr::null_mut(), |last| last.as_ptr().cast()),
            len: objects.len() as u32,
        }
    }

    /// A list whose end and length do not matter.
    pub(crate) fn of(head: *mut Free) -> Self {
        Self {
            head,
            tail: ptr::null_mut(),
            len: 0,
        }
    }

    /// Gives the objects to the mcentral, a batch at a time.
    ///
    /// # Safety
    ///
    /// They are the caller's, and of this class; the caller is in no section.
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
