//! A first-in-first-out list of those who wait for something (Go's waitq of sudogs).
//!
//! The nodes lie on the waiting parties' stacks, which never move; the list lies in what is waited for, under its lock.
//!
//! # Invariants
//!
//! 1. A node is in one list at most, and is linked, unlinked and filled under the lock of that list.
//! 2. Whoever takes a node off must wake its waiter, after unlocking or before; the waiting party leaves its frame only
//!    then. So a node that was taken off is good until it is woken.

use crate::park::Waiter;
use parking_lot::MutexGuard;
use std::{
    cell::{Cell, UnsafeCell},
    mem, ptr,
};

/// One party that waits to give or to get a `T`.
#[derive(Debug)]
pub(crate) struct Node<T> {
    waiter: Waiter,
    /// What it gives, or gets.
    slot: UnsafeCell<Option<T>>,
    next: Cell<*const Node<T>>,
}

/// Those who wait, the first at the front.
///
/// Dropping it wakes nobody: what is waited for must outlive the waiting parties.
#[derive(Debug)]
pub(crate) struct WaitList<T> {
    head: *const Node<T>,
    tail: *const Node<T>,
}

// SAFETY: the nodes' slots move from thread to thread with the right to them (invariants 1 and 2); the rest of a node is
// atomic or guarded by the list's lock.
unsafe impl<T: Send> Send for WaitList<T> {}

impl<T> Node<T> {
    pub(crate) const fn new(value: Option<T>) -> Self {
        Self {
            waiter: Waiter::new(),
            slot: UnsafeCell::new(value),
            next: Cell::new(ptr::null()),
        }
    }

    /// What is in the slot now.
    ///
    /// # Safety
    ///
    /// The caller has taken the node off its list and not woken it yet, or is the node's own party and was woken.
    pub(crate) unsafe fn take(&self) -> Option<T> {
        // SAFETY: as the caller promised, nobody else looks at the slot now.
        unsafe { (*self.slot.get()).take() }
    }

    /// Fills the slot.
    ///
    /// # Safety
    ///
    /// As for `take`.
    pub(crate) unsafe fn put(&self, value: T) {
        // SAFETY: as the caller promised, nobody else looks at the slot now.
        unsafe { *self.slot.get() = Some(value) };
    }

    /// Wakes the party; the node may be gone when this returns.
    pub(crate) fn wake(&self) {
        self.waiter.wake();
    }
}

impl<T> WaitList<T> {
    pub(crate) const fn new() -> Self {
        Self {
            head: ptr::null(),
            tail: ptr::null(),
        }
    }

    /// Puts the caller's `node` at the end of a list in what `guard` guards, unlocks, and waits until somebody has taken the
    /// node off and woken it.
    pub(crate) fn wait<S>(mut guard: MutexGuard<'_, S>, list: impl FnOnce(&mut S) -> &mut Self, node: &Node<T>) {
        let this = list(&mut guard);
        // SAFETY: nodes in the list are alive (invariant 2).
        match unsafe { this.tail.as_ref() } {
            Some(tail) => tail.next.set(node),
            None => this.head = node,
        }
        this.tail = node;
        // g0 of this very thread runs this, so the guard stays where it belongs.
        node.waiter.park(move || {
            drop(guard);
            true
        });
    }

    /// Takes the first off, or null. The lock is held; the node is good until it is woken (invariant 2).
    pub(crate) fn pop(&mut self) -> *const Node<T> {
        let first = self.head;
        // SAFETY: nodes in the list are alive (invariant 2).
        if let Some(node) = unsafe { first.as_ref() } {
            self.head = node.next.get();
            if self.head.is_null() {
                self.tail = ptr::null();
            }
        }
        first
    }

    /// Takes all off, to wake them once the lock is given back.
    pub(crate) fn take_all(&mut self) -> Self {
        mem::replace(self, Self::new())
    }

    /// Wakes all that are in a list that nobody else knows.
    pub(crate) fn wake_all(mut self) {
        loop {
            // SAFETY: the node is good until it is woken, and `pop` has read its link by then.
            match unsafe { self.pop().as_ref() } {
                Some(node) => node.wake(),
                None => return,
            }
        }
    }
}
