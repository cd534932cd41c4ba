//! The pairs at a rendezvous: who was promised whose message (see `promise`).
//!
//! ```text
//!   places:  open │ message │ open, its receiver waits │ free ─▶ the next that is free
//!
//!   open ── the sender completes ───▶ message ────────────── the receiver completes ─▶ free
//!     └──── the receiver completes ─▶ open, and it waits ─── the sender completes ───▶ free
//! ```
//!
//! # Invariants (under the channel's lock)
//!
//! 1. A place is known to the two of its pair and to nobody else, and is free when the second of them completes: its number means
//!    no other pair as long as one of them has it.
//! 2. There are as many places as there ever were pairs at once, so it is no matter of each operation to allocate one.

use crate::waitlist::WaitList;
use std::mem;

pub(super) struct Pairs<T> {
    places: Vec<Place<T>>,
    /// The first free place; none if it is the number of places.
    free: usize,
}

enum Place<T> {
    Free {
        next: usize,
    },
    /// The message is yet to come. On the list is its receiver, if it waits already.
    Open(WaitList),
    Message(T),
}

impl<T> Pairs<T> {
    pub(super) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: 0,
        }
    }

    /// A new pair, whose message is yet to come.
    pub(super) fn open(&mut self) -> usize {
        self.add(Place::Open(WaitList::new()))
    }

    /// A new pair, whose message is there.
    pub(super) fn open_with(&mut self, message: T) -> usize {
        self.add(Place::Message(message))
    }

    fn add(&mut self, place: Place<T>) -> usize {
        let pair = self.free;
        match self.places.get_mut(pair) {
            Some(free) => {
                let Place::Free { next } = mem::replace(free, place) else {
                    unreachable!("the list of free places leads to free ones")
                };
                self.free = next;
            }
            None => {
                self.places.push(place);
                self.free = self.places.len();
            }
        }
        pair
    }

    /// Frees the place of a pair, and gives its message.
    pub(super) fn close(&mut self, pair: usize) -> Option<T> {
        let next = mem::replace(&mut self.free, pair);
        match mem::replace(&mut self.places[pair], Place::Free { next }) {
            Place::Message(message) => Some(message),
            Place::Open(_) => None,
            Place::Free { .. } => unreachable!("a pair is closed once"),
        }
    }

    /// Takes the message of a pair, if it is there, which closes the pair.
    pub(super) fn take(&mut self, pair: usize) -> Option<T> {
        match self.places[pair] {
            Place::Message(_) => self.close(pair),
            _ => None,
        }
    }

    /// Lays the message of a pair by for its receiver.
    pub(super) fn put(&mut self, pair: usize, message: T) {
        self.places[pair] = Place::Message(message);
    }

    /// Where the receiver of a pair waits for the message.
    pub(super) fn waiting(&mut self, pair: usize) -> &mut WaitList {
        match &mut self.places[pair] {
            Place::Open(receiver) => receiver,
            _ => unreachable!("a message is put once, and nobody waits for one that is there"),
        }
    }

    /// Takes all messages, since no receiver is left.
    pub(super) fn discard(&mut self) -> impl Iterator<Item = T> {
        self.places.iter_mut().filter_map(|place| match place {
            Place::Message(_) => match mem::replace(place, Place::Open(WaitList::new())) {
                Place::Message(message) => Some(message),
                _ => None,
            },
            _ => None,
        })
    }
}
