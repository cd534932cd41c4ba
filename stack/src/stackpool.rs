//! `stackpool`: free stacks of the small classes, 2 to 16 KiB.
//!
//! Also the list that both shared pools are made of. All of it lies under the lock of a [`Pool`](crate::pool::Pool).

use crate::{
    Class,
    reservation::{Desc, Stack},
};
use core::{ptr, sync::atomic::Ordering::Relaxed};

/// Free stacks of one class, linked through their descriptors; the one that came last goes first.
#[derive(Debug, Default)]
pub(crate) struct List {
    first: Option<&'static Desc>,
    len: usize,
}

impl List {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self { first: None, len: 0 }
    }

    /// The number of stacks.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a stack on the list.
    pub(crate) fn push(&mut self, stack: Stack) {
        let desc = stack.desc();
        let next = self.first.map_or(ptr::null_mut(), |d| ptr::from_ref(d).cast_mut());
        desc.next.store(next, Relaxed);
        self.first = Some(desc);
        self.len += 1;
    }

    /// Takes the stack that came last.
    pub(crate) fn pop(&mut self) -> Option<Stack> {
        let desc = self.first?;
        // SAFETY: `push` stored null or a descriptor, and these are never freed.
        self.first = unsafe { desc.next.load(Relaxed).as_ref() };
        self.len -= 1;
        // SAFETY: `push` consumed the `Stack`, and the descriptor is on no list any more.
        Some(unsafe { Stack::from_desc(desc) })
    }
}

/// The number of small classes.
pub(crate) const SMALL: usize = Class::LARGEST_SMALL.index() + 1;

/// Free stacks of the small classes.
#[derive(Debug)]
pub(crate) struct StackPool([List; SMALL]);

impl StackPool {
    pub(crate) const fn new() -> Self {
        Self([const { List::new() }; SMALL])
    }

    /// Puts a small stack here.
    pub(crate) fn push(&mut self, stack: Stack) {
        self.0[stack.desc().class().index()].push(stack);
    }

    /// Takes a stack of the smallest class there is.
    pub(crate) fn pop(&mut self) -> Option<Stack> {
        self.0.iter_mut().find_map(List::pop)
    }

    /// Adds the number of free stacks of each class to `free`.
    pub(crate) fn count(&self, free: &mut [usize]) {
        for (list, n) in self.0.iter().zip(free) {
            *n += list.len();
        }
    }
}
