//! A heap of sleepers: which goroutine is to be woken when.
//!
//! A heap with four children per node, as Go's: half the depth of a binary heap, and the four children share a cache
//! line and a half. It lives inside a P, so growing it must not happen inside a section: [`Heap::push`] says that it is
//! full, and the caller brings a larger array from outside.
//!
//! A sleeper that somebody else woke before its time stays in the heap, which nobody but the owner of its P may touch. It is
//! *stale*: its ticket is claimed, and firing it does nothing. A full heap is swept before it grows, and grows only if
//! more than half of it is alive; so stale sleepers never hold more than a constant factor of room, and cost a constant
//! each.

use crate::{
    g::G,
    prefetch::{prefetch, prefetch_all},
    ticket::{self, Ticket},
};
use baton_stack::Desc;
use std::{
    alloc::Layout,
    mem,
    ptr::{self, NonNull},
    sync::atomic::Ordering::Relaxed,
};

/// The time at which nothing is due.
pub(crate) const NEVER: u64 = u64::MAX;

/// One sleeper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleeper {
    /// Nanoseconds of the monotonic clock.
    pub(crate) when: u64,
    /// The number of its ticket; 0 if nobody else can wake it.
    ticket: u64,
    /// Its stack, which knows the goroutine and the ticket's word.
    desc: &'static Desc,
}

impl Sleeper {
    /// The goroutine on this stack, which nothing but this can wake.
    pub(crate) fn new(when: u64, desc: &'static Desc) -> Self {
        Self { when, ticket: 0, desc }
    }

    /// The goroutine on this stack, whom others may wake too: who claims `ticket` does.
    pub(crate) fn claiming(when: u64, desc: &'static Desc, ticket: Ticket) -> Self {
        Self {
            when,
            ticket: ticket.number(),
            desc,
        }
    }

    /// The goroutine, if it is this sleeper's to wake.
    #[inline]
    pub(crate) fn claim(self) -> Option<NonNull<G>> {
        let good = self.ticket == 0 || ticket::claim(&self.desc.ticket, self.ticket);
        // Ours to wake, so it is parked, and owns its stack.
        good.then(|| NonNull::new(self.desc.owner().cast_mut().cast()).expect("a sleeper is a goroutine"))
    }

    /// Whether somebody else has woken it.
    pub(crate) fn is_stale(&self) -> bool {
        self.ticket != 0 && self.desc.ticket.load(Relaxed) != self.ticket
    }
}

/// An array for [`Heap::replace`], from the same heap as all of Baton's memory.
#[derive(Debug)]
pub(crate) struct Room {
    slots: *mut Sleeper,
    capacity: usize,
}

#[derive(Debug)]
pub(crate) struct Heap {
    room: Room,
    len: usize,
}

// SAFETY: the heap is the right to wake the goroutines in it, which may move to another thread with its P.
unsafe impl Send for Heap {}

/// Children of a node.
const ARITY: usize = 4;

impl Room {
    /// Room for twice as many sleepers as `capacity`.
    pub(crate) fn twice(capacity: usize) -> Self {
        let capacity = (capacity * 2).max(64);
        let slots = baton_alloc::malloc(Self::layout(capacity)).cast::<Sleeper>();
        if slots.is_null() {
            crate::fatal::out_of_memory("a timer heap", Self::layout(capacity).size());
        }
        Self { slots, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::array::<Sleeper>(capacity).expect("as many timers as fit the address space")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.capacity != 0 {
            // SAFETY: `twice` made it with this layout.
            unsafe { baton_alloc::free(self.slots.cast(), Self::layout(self.capacity)) };
        }
    }
}

impl Heap {
    pub(crate) const fn new() -> Self {
        Self {
            room: Room {
                slots: ptr::null_mut(),
                capacity: 0,
            },
            len: 0,
        }
    }

    /// When the earliest sleeper is due, or [`NEVER`].
    #[inline]
    pub(crate) fn earliest(&self) -> u64 {
        self.slots().first().map_or(NEVER, |s| s.when)
    }

    /// How many sleepers there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.room.capacity
    }

    /// Puts larger room in and gives the old one, to be dropped outside any section. Room that is not larger comes back.
    pub(crate) fn replace(&mut self, room: Room) -> Room {
        if room.capacity <= self.room.capacity {
            return room;
        }
        // SAFETY: both arrays are this heap's alone, and the new one is the larger.
        unsafe { ptr::copy_nonoverlapping(self.room.slots, room.slots, self.len) };
        mem::replace(&mut self.room, room)
    }

    /// Adds a sleeper; gives it back if there is no room, although stale ones made theirs.
    pub(crate) fn push(&mut self, sleeper: Sleeper) -> Result<(), Sleeper> {
        if self.len == self.room.capacity {
            self.sweep();
            if self.len >= self.room.capacity / 2 {
                return Err(sleeper);
            }
        }
        // SAFETY: there is room for one more.
        unsafe { self.room.slots.add(self.len).write(sleeper) };
        self.len += 1;
        self.sift_up(self.len - 1);
        Ok(())
    }

    /// Drops the stale ones.
    fn sweep(&mut self) {
        let slots = self.slots_mut();
        let mut kept = 0;
        for i in 0..slots.len() {
            if !slots[i].is_stale() {
                slots[kept] = slots[i];
                kept += 1;
            }
        }
        self.len = kept;
        for at in (0..kept.div_ceil(ARITY)).rev() {
            self.sift_down(at);
        }
    }

    /// Takes the earliest goroutine that is due at `now` and this heap's to wake.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<NonNull<G>> {
        loop {
            if let Some(g) = self.pop(now)?.claim() {
                return Some(g);
            }
        }
    }

    /// Takes the earliest sleeper that is due at `now`, which may be stale.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Sleeper> {
        if self.earliest() > now {
            return None;
        }
        let first = self.slots()[0];
        prefetch(ptr::from_ref(first.desc)); // whoever claims it looks there, and the way down takes as long
        self.len -= 1;
        if self.len > 0 {
            // SAFETY: the last slot is in the array and was written.
            let last = unsafe { *self.room.slots.add(self.len) };
            self.slots_mut()[0] = last;
            self.sift_down(0);
        }
        Some(first)
    }

    fn slots(&self) -> &[Sleeper] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the first `len` slots were written and are this heap's alone.
        unsafe { std::slice::from_raw_parts(self.room.slots, self.len) }
    }

    fn slots_mut(&mut self) -> &mut [Sleeper] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: as in `slots`.
        unsafe { std::slice::from_raw_parts_mut(self.room.slots, self.len) }
    }

    fn sift_up(&mut self, mut at: usize) {
        let slots = self.slots_mut();
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if slots[parent].when <= slots[at].when {
                break;
            }
            slots.swap(parent, at);
            at = parent;
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        let slots = self.slots_mut();
        loop {
            let first = at * ARITY + 1;
            let next = first * ARITY + 1;
            if let Some(grandchildren) = slots.get(next..next + ARITY * ARITY) {
                prefetch_all(grandchildren); // some of them are next, and of a million hardly any is in a cache
            }
            let children = first..(first + ARITY).min(slots.len());
            let Some(least) = children.min_by_key(|&c| slots[c].when) else {
                break;
            };
            if slots[at].when <= slots[least].when {
                break;
            }
            slots.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_stack::{Spec, Stack, StackGrowth};

    fn stack() -> Stack {
        let stack =
            baton_stack::acquire(Spec::with_growth(baton_stack::DEFAULT_RESERVATION, StackGrowth::Trap).unwrap())
                .unwrap();
        stack.desc().set_owner(ptr::dangling::<G>().cast());
        stack
    }

    fn push(heap: &mut Heap, mut sleeper: Sleeper) {
        while let Err(back) = heap.push(sleeper) {
            sleeper = back;
            drop(heap.replace(Room::twice(heap.capacity())));
        }
    }

    #[test]
    fn gives_sleepers_back_in_order() {
        let mut heap = Heap::new();
        let stack = stack();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut times = Vec::new();
        for _ in 0..1000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            times.push(state % 500);
            push(&mut heap, Sleeper::new(state % 500, stack.desc()));
        }
        times.sort_unstable();
        assert_eq!(heap.earliest(), times[0]);
        for &when in &times {
            assert_eq!(heap.pop(NEVER - 1).unwrap().when, when);
        }
        assert!(heap.pop_due(NEVER - 1).is_none());
        assert_eq!(heap.earliest(), NEVER);
        baton_stack::release(stack);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut heap = Heap::new();
        let stack = stack();
        push(&mut heap, Sleeper::new(10, stack.desc()));
        assert!(heap.pop_due(9).is_none());
        assert_eq!(heap.pop_due(10), Some(NonNull::dangling()));
        baton_stack::release(stack);
    }

    #[test]
    fn stale_sleepers_wake_nobody_and_take_no_lasting_room() {
        let mut heap = Heap::new();
        let stack = stack();
        let word = &stack.desc().ticket;
        for i in 0..100_000 {
            let ticket = Ticket::open(word);
            push(&mut heap, Sleeper::claiming(1_000_000 - i, stack.desc(), ticket));
            assert!(ticket::claim(word, ticket.number()), "somebody else was faster");
        }
        assert_eq!(heap.capacity(), 64, "the smallest array served");
        let last = Ticket::open(word);
        push(&mut heap, Sleeper::claiming(5, stack.desc(), last));
        assert!(heap.pop_due(NEVER - 1).is_some(), "the one that is alive");
        assert!(heap.pop_due(NEVER - 1).is_none());
        baton_stack::release(stack);
    }
}
