//! A first-in-first-out list of those who wait for something (Go's waitq of sudogs).
//!
//! ```text
//!   WaitList ─ head ─▶ Node ◀──▶ Node ◀──▶ Node ◀─ tail        the nodes lie on the waiting parties' stacks,
//!                       │         │         │                  which never move
//!                       ▼         ▼         ▼
//!                     Waiter    Waiter ◀────┴── … other nodes of the same party, on other lists
//! ```
//!
//! The list lies in what is waited for, under its lock. A party that waits for several things at once has a node on each
//! list, and all of them lead to its one waiter.
//!
//! # Invariants
//!
//! 1. A node is on one list at most, and is linked, unlinked and looked at under the lock of that list.
//! 2. Whoever takes a node off and claims its waiter must wake the waiter, after unlocking or before; the waiting party
//!    leaves its frame only then. So a claimed node is good until it is woken.
//! 3. A party that may be woken by others than this list takes its node off again, under the lock, before it leaves its frame.
//!    So a node whose claim failed is good for as long as the lock is held.

use crate::park::{Event, Waiter};
use std::{cell::Cell, ptr};

/// One party on one list.
#[derive(Debug)]
pub(crate) struct Node {
    waiter: *const Waiter,
    /// Where the party gives from, or gets to: what it means is a matter of those who use the list.
    pub(crate) data: *mut (),
    /// Likewise: how the party waits.
    pub(crate) kind: u32,
    /// Which of the things that the party waits for this is.
    case: u32,
    next: Cell<*const Node>,
    prev: Cell<*const Node>,
    linked: Cell<bool>,
}

/// Those who wait, the first at the front.
///
/// Dropping it wakes nobody: what is waited for must outlive the waiting parties.
#[derive(Debug)]
pub(crate) struct WaitList {
    head: *const Node,
    tail: *const Node,
}

// SAFETY: the nodes are guarded by the list's lock, or by the right to wake them (invariants 1 to 3).
unsafe impl Send for WaitList {}

impl Node {
    /// A node for `waiter`, which stays where it is for as long as the node is in use.
    pub(crate) const fn new(waiter: *const Waiter, data: *mut ()) -> Self {
        Self {
            waiter,
            data,
            kind: 0,
            case: 0,
            next: Cell::new(ptr::null()),
            prev: Cell::new(ptr::null()),
            linked: Cell::new(false),
        }
    }

    /// A node of a party that waits for several things, of which this is number `case`.
    pub(crate) const fn for_case(waiter: *const Waiter, kind: u32, case: u32, data: *mut ()) -> Self {
        Self {
            kind,
            case,
            ..Self::new(waiter, data)
        }
    }

    /// Whether it is on a list. The lock of that list is held.
    pub(crate) fn is_linked(&self) -> bool {
        self.linked.get()
    }

    /// Takes the right to wake the party, and leaves for it what happened to which case: see [`Waiter::claim`].
    ///
    /// # Safety
    ///
    /// The node was found on a list whose lock is held.
    #[inline]
    pub(crate) unsafe fn claim(&self, event: Event) -> bool {
        // SAFETY: as the caller promised, and a node leads to its waiter, which is there as long as the node (invariant 3).
        unsafe { (*self.waiter).claim(self.case, event) }
    }

    /// Wakes the party, which the caller has claimed; the node may be gone when this returns.
    #[inline]
    pub(crate) fn wake(&self) {
        // SAFETY: the waiter is there until it is woken (invariant 2).
        unsafe { (*self.waiter).wake() };
    }
}

impl WaitList {
    pub(crate) const fn new() -> Self {
        Self {
            head: ptr::null(),
            tail: ptr::null(),
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Whether the list has such a node. The lock is held.
    pub(crate) fn any(&self, mut is: impl FnMut(&Node) -> bool) -> bool {
        let mut at = self.head;
        // SAFETY: nodes on the list are alive (invariants 2 and 3).
        while let Some(node) = unsafe { at.as_ref() } {
            if is(node) {
                return true;
            }
            at = node.next.get();
        }
        false
    }

    /// How many there are, by counting them. The lock is held.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: nodes on the list are alive (invariants 2 and 3).
        std::iter::successors(self.front(), |node| unsafe { node.next.get().as_ref() }).count()
    }

    /// Puts `node`, which is on no list, at the end. The lock is held.
    pub(crate) fn push(&mut self, node: &Node) {
        debug_assert!(!node.linked.get(), "a node is on one list");
        node.prev.set(self.tail);
        node.next.set(ptr::null());
        node.linked.set(true);
        // SAFETY: nodes on the list are alive (invariants 2 and 3).
        match unsafe { self.tail.as_ref() } {
            Some(tail) => tail.next.set(node),
            None => self.head = node,
        }
        self.tail = node;
    }

    /// Puts `node`, which is on no list, at the front. The lock is held.
    pub(crate) fn push_front(&mut self, node: &Node) {
        debug_assert!(!node.linked.get(), "a node is on one list");
        node.prev.set(ptr::null());
        node.next.set(self.head);
        node.linked.set(true);
        // SAFETY: nodes on the list are alive (invariants 2 and 3).
        match unsafe { self.head.as_ref() } {
            Some(head) => head.prev.set(node),
            None => self.tail = node,
        }
        self.head = node;
    }

    /// The first, which stays. The lock is held.
    #[inline]
    pub(crate) fn front(&self) -> Option<&Node> {
        // SAFETY: nodes on the list are alive (invariants 2 and 3).
        unsafe { self.head.as_ref() }
    }

    /// Takes `node` off this list if it is on it. The lock is held, and the node is on no other list.
    pub(crate) fn remove(&mut self, node: &Node) {
        if !node.linked.replace(false) {
            return;
        }
        let (prev, next) = (node.prev.get(), node.next.get());
        // SAFETY: neighbours on the list are alive (invariants 2 and 3).
        match unsafe { prev.as_ref() } {
            Some(prev) => prev.next.set(next),
            None => self.head = next,
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            Some(next) => next.prev.set(prev),
            None => self.tail = prev,
        }
    }

    /// Takes the first off. The lock is held; the node is good as long as it is, and, if it is claimed, until it is woken.
    #[inline]
    pub(crate) fn pop<'a>(&mut self) -> Option<&'a Node> {
        // SAFETY: nodes on the list are alive (invariants 2 and 3).
        let node = unsafe { self.head.as_ref() }?;
        self.remove(node);
        Some(node)
    }

    /// Takes the first off that can be claimed, and those before it. The lock is held; the node is good
    /// until it is woken.
    #[inline]
    pub(crate) fn pop_claimed<'a>(&mut self, event: Event) -> Option<&'a Node> {
        loop {
            let node = self.pop()?;
            // SAFETY: found on this list, whose lock is held.
            if unsafe { node.claim(event) } {
                return Some(node);
            }
        }
    }

    /// Takes all off, and gives those that could be claimed. The lock is held; call
    /// [`wake_all`](Self::wake_all) once it is given back.
    #[must_use]
    pub(crate) fn claim_all(&mut self, event: Event) -> Self {
        let mut claimed = Self::new();
        while let Some(node) = self.pop_claimed(event) {
            claimed.push(node);
        }
        claimed
    }

    /// Wakes all that are on a list that nobody else knows, and who are claimed.
    pub(crate) fn wake_all(mut self) {
        while let Some(node) = self.pop() {
            node.wake();
        }
    }
}

#[cfg(all(test, not(baton_loom)))]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_out_in_order_and_leave_from_anywhere() {
        let waiters: Vec<_> = (0..5).map(|_| Waiter::new()).collect();
        let nodes: Vec<_> = waiters
            .iter()
            .map(|waiter| Node::new(waiter, ptr::null_mut()))
            .collect();
        let number = |node: &Node| nodes.iter().position(|other| ptr::eq(node, other));
        for gone in 0..5 {
            let mut list = WaitList::new();
            nodes.iter().for_each(|node| list.push(node));
            list.remove(&nodes[gone]);
            list.remove(&nodes[gone]);
            let rest: Vec<_> = std::iter::from_fn(|| list.pop()).filter_map(number).collect();
            assert_eq!(rest, (0..5).filter(|&i| i != gone).collect::<Vec<_>>());
            assert!(list.is_empty());
            list.push(&nodes[gone]);
            assert_eq!(list.pop().and_then(number), Some(gone));
        }
    }
}
