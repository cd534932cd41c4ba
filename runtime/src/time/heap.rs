//! A heap of sleepers: which goroutine is to be woken when.
//!
//! A heap with four children per node, as Go's: half the depth of a binary heap, and the four children share a cache
//! line and a half. It lives inside a P, so growing it must not happen inside a section: [`Heap::push`] says that it is
//! full, and the caller brings a larger array from outside.

use crate::g::G;
use std::{alloc::Layout, mem, ptr};

/// The time at which nothing is due.
pub(crate) const NEVER: u64 = u64::MAX;

/// One sleeper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleeper {
    /// Nanoseconds of the monotonic clock.
    pub(crate) when: u64,
    pub(crate) g: *mut G,
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

    /// Adds a sleeper; gives it back if there is no room.
    pub(crate) fn push(&mut self, sleeper: Sleeper) -> Result<(), Sleeper> {
        if self.len == self.room.capacity {
            return Err(sleeper);
        }
        // SAFETY: there is room for one more.
        unsafe { self.room.slots.add(self.len).write(sleeper) };
        self.len += 1;
        self.sift_up(self.len - 1);
        Ok(())
    }

    /// Takes the earliest sleeper if it is due at `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<Sleeper> {
        if self.earliest() > now {
            return None;
        }
        let first = self.slots()[0];
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

    #[test]
    fn gives_sleepers_back_in_order() {
        let mut heap = Heap::new();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut times = Vec::new();
        for _ in 0..1000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let mut sleeper = Sleeper {
                when: state % 500,
                g: ptr::null_mut(),
            };
            times.push(sleeper.when);
            while let Err(back) = heap.push(sleeper) {
                sleeper = back;
                drop(heap.replace(Room::twice(heap.capacity())));
            }
        }
        times.sort_unstable();
        assert_eq!(heap.earliest(), times[0]);
        for &when in &times {
            assert_eq!(heap.pop_due(NEVER - 1).unwrap().when, when);
        }
        assert!(heap.pop_due(NEVER - 1).is_none());
        assert_eq!(heap.earliest(), NEVER);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut heap = Heap::new();
        drop(heap.replace(Room::twice(0)));
        heap.push(Sleeper {
            when: 10,
            g: ptr::null_mut(),
        })
        .unwrap();
        assert!(heap.pop_due(9).is_none());
        assert_eq!(heap.pop_due(10).unwrap().when, 10);
    }
}
