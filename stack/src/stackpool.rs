//! `stackpool`: free stacks of the small classes, 2 to 16 KiB.
//!
//! Also the list that both shared pools are made of. All of it lies under the lock of a [`Pool`](crate::pool::Pool).

use crate::{
    Class,
    reservation::{Desc, Stack},
};
use core::{ptr, sync::atomic::Ordering::Relaxed};

/// Free stacks of one class, linked through their descriptors; the one that came last goes first, and is the hottest.
#[derive(Debug, Default)]
pub(crate) struct List {
    first: Option<&'static Desc>,
    last: Option<&'static Desc>,
    len: usize,
    /// The least `len` since [`unused`](Self::unused) was asked.
    least: usize,
}

/// A link to `desc`, or to nobody.
fn link(desc: Option<&'static Desc>) -> *mut Desc {
    desc.map_or(ptr::null_mut(), |d| ptr::from_ref(d).cast_mut())
}

impl List {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            last: None,
            len: 0,
            least: 0,
        }
    }

    /// The number of stacks.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a stack on the list.
    pub(crate) fn push(&mut self, stack: Stack) {
        let desc = stack.desc();
        desc.next.store(link(self.first), Relaxed);
        desc.prev.store(ptr::null_mut(), Relaxed);
        match self.first {
            Some(first) => first.prev.store(link(Some(desc)), Relaxed),
            None => self.last = Some(desc),
        }
        self.first = Some(desc);
        self.len += 1;
    }

    /// Takes the stack that came last.
    pub(crate) fn pop(&mut self) -> Option<Stack> {
        let desc = self.first?;
        // SAFETY: `push` stored null or a descriptor, and these are never freed.
        self.first = unsafe { desc.next.load(Relaxed).as_ref() };
        match self.first {
            Some(first) => first.prev.store(ptr::null_mut(), Relaxed),
            None => self.last = None,
        }
        self.shrunk();
        // SAFETY: `push` consumed the `Stack`, and the descriptor is on no list any more.
        Some(unsafe { Stack::from_desc(desc) })
    }

    /// Takes the stack that has been here longest.
    pub(crate) fn pop_coldest(&mut self) -> Option<Stack> {
        let desc = self.last?;
        // SAFETY: `push` stored null or a descriptor, and these are never freed.
        self.last = unsafe { desc.prev.load(Relaxed).as_ref() };
        match self.last {
            Some(last) => last.next.store(ptr::null_mut(), Relaxed),
            None => self.first = None,
        }
        self.shrunk();
        // SAFETY: `push` consumed the `Stack`, and the descriptor is on no list any more.
        Some(unsafe { Stack::from_desc(desc) })
    }

    fn shrunk(&mut self) {
        self.len -= 1;
        self.least = self.least.min(self.len);
    }

    /// How many stacks nobody has needed since the last call.
    pub(crate) fn unused(&mut self) -> usize {
        core::mem::replace(&mut self.least, self.len)
    }
}

/// Takes the coldest stack of the first list that has too many, by `surplus`, which counts down.
pub(crate) fn pop_surplus(lists: &mut [List], surplus: &mut [usize]) -> Option<Stack> {
    for (list, left) in lists.iter_mut().zip(surplus) {
        if *left == 0 {
            continue;
        }
        match list.pop_coldest() {
            None => *left = 0, // somebody took them meanwhile
            stack => {
                *left -= 1;
                return stack;
            }
        }
    }
    None
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

    /// Takes a stack of the smallest class there is from `class` on.
    pub(crate) fn pop_from(&mut self, class: Class) -> Option<Stack> {
        self.0.iter_mut().skip(class.index()).find_map(List::pop)
    }

    /// Takes a stack of the largest class there is.
    pub(crate) fn pop_largest(&mut self) -> Option<Stack> {
        self.0.iter_mut().rev().find_map(List::pop)
    }

    /// Takes the coldest of a class that there is too much of; counts down.
    pub(crate) fn pop_surplus(&mut self, surplus: &mut [usize]) -> Option<Stack> {
        pop_surplus(&mut self.0, surplus)
    }

    /// The lists.
    pub(crate) fn lists(&mut self) -> impl Iterator<Item = &mut List> {
        self.0.iter_mut()
    }

    /// Adds the number of free stacks of each class to `free`.
    pub(crate) fn count(&self, free: &mut [usize]) {
        for (list, n) in self.0.iter().zip(free) {
            *n += list.len();
        }
    }
}
