//! What a channel does for those who select on it.
//!
//! A party that selects decides for one channel first and gives or takes its message after that: `select!` evaluates the
//! message of the send that was chosen, and only that. So the decision makes a *promise*, under the lock, and the message
//! follows, when the party *completes* the operation.
//!
//! ```text
//!   capacity 0   decision: a party waits on the other side                     completion
//!     receive      a plain sender       a pair with its message                  takes it
//!     receive      a selecting sender   a pair                                   takes the sender's message, or waits for it
//!     send         a selecting receiver a pair                                   puts its message there, or into the slot of
//!     send         a plain receiver     a pair, and it waits there               the receiver that waits there
//!
//!   elsewhere    decision: the queue alone decides                             completion
//!     receive      a message is there   promised_out + 1                         takes the first message of the queue
//!     send         there is room        promised_in + 1                          puts its message at the end of the queue
//! ```
//!
//! At capacity 0 each decision makes a pair of two who have chosen each other. Its place in `pairs` is what both are told: the sender
//! puts its message there, and its receiver takes it from there, or waits there. Who was woken finds the number in the cell that
//! its node leads to.
//!
//! Elsewhere a promise is one message or one place of the queue that is no longer there for others, and the two sides never choose
//! each other: a receiver that finds all messages promised waits, although a sender waits for a place. Whoever holds such a promise
//! has decided, and lets both go on when it completes. A completion waits for nobody.
//!
//! # Invariants (under the lock)
//!
//! 1. Capacity 0: the queue is empty and the counts are 0, and nobody gets a message but from the one it was paired with: a
//!    rendezvous stays one.
//! 2. Elsewhere there are no pairs, as many messages as `promised_out` are in the queue, and its messages and `promised_in` together
//!    are no more than the capacity.
//! 3. Promises of a queue are not addressed: each completion gets the first message that is there. So messages leave in the order
//!    in which they came, whoever is first to ask for his.

use super::{
    error::SendError,
    hchan::{Hchan, PLAIN, SELECT, Slot, State, WATCH, fill, take},
};
use crate::{
    lock::MutexGuard,
    park::WaitReason,
    time::heap::NEVER,
    waitlist::{Node, WaitList},
};
use parking_lot::lock_api::GuardNoSend;
use std::{cell::Cell, mem};

/// What the decision for an operation came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Promise {
    /// The operation will succeed.
    Kept,
    /// It will, with the other of this pair.
    Paired(usize),
    /// It will fail: the other end is gone.
    Closed,
    /// A moment that a channel of time gave, in nanoseconds.
    Moment(u64),
}

impl<T> State<T> {
    /// At a rendezvous, a receiver and a sender have chosen each other, and the message is yet to come. `sender` selects and was
    /// claimed.
    pub(super) fn engage(&mut self, sender: &Node) -> usize {
        let pair = self.pairs.open();
        tell(sender, Promise::Paired(pair));
        sender.wake();
        pair
    }

    /// Keeps `message` for `receiver`, which selects and was claimed.
    pub(super) fn promise_message(&mut self, receiver: &Node, message: T) {
        let promise = if self.is_rendezvous() {
            Promise::Paired(self.pairs.open_with(message))
        } else {
            self.promised_out += 1;
            self.queue.push_back(message);
            Promise::Kept
        };
        tell(receiver, promise);
    }

    /// Whether a receive would not wait, as far as one can see without claiming anybody.
    pub(super) fn recv_ready(&self) -> bool {
        self.has_message() || self.disconnected || self.is_rendezvous() && has_partner(&self.senders)
    }

    /// Whether a send would not wait, likewise.
    pub(super) fn send_ready(&self) -> bool {
        self.has_room() || self.disconnected || self.is_rendezvous() && has_partner(&self.receivers)
    }

    /// Decides for a receive. `None`: those who seemed to wait are gone.
    pub(super) fn promise_recv(&mut self) -> Option<Promise> {
        if self.has_message() {
            self.promised_out += 1;
            return Some(Promise::Kept);
        }
        match self.next_partner() {
            Some(sender) if sender.kind == PLAIN => {
                let pair = self.pairs.open_with(take(sender));
                sender.wake();
                Some(Promise::Paired(pair))
            }
            Some(sender) => Some(Promise::Paired(self.engage(sender))),
            None => self.disconnected.then_some(Promise::Closed),
        }
    }

    /// Decides for a send, likewise.
    pub(super) fn promise_send(&mut self) -> Option<Promise> {
        if self.disconnected {
            return Some(Promise::Closed);
        }
        if self.has_room() {
            self.promised_in += 1;
            return Some(Promise::Kept);
        }
        if !self.is_rendezvous() {
            return None;
        }
        let receiver = self.next_receiver()?;
        let pair = self.pairs.open();
        if receiver.kind == PLAIN {
            self.pairs.waiting(pair).push(receiver);
        } else {
            tell(receiver, Promise::Paired(pair));
            receiver.wake();
        }
        Some(Promise::Paired(pair))
    }

    /// A completion has freed a place, or brought a message: whoever waits for one gets it.
    fn settle(&mut self) {
        loop {
            if self.has_message()
                && let Some(receiver) = self.next_receiver()
            {
                if receiver.kind == PLAIN {
                    let message = self.queue.pop_front().expect("there is a message");
                    fill(receiver, message);
                } else {
                    self.promised_out += 1;
                }
                receiver.wake();
            } else if let Some(sender) = self.let_in() {
                sender.wake();
            } else {
                return;
            }
        }
    }
}

/// Leaves a promise for a party that selects, that the caller has claimed and not yet woken.
fn tell(party: &Node, promise: Promise) {
    debug_assert!(party.kind == SELECT);
    // SAFETY: the cell of such a party is there, and the claimer's.
    unsafe { (*party.data.cast::<Cell<Promise>>()).set(promise) };
}

/// Whether somebody waits who would take part, and does not merely watch.
fn has_partner(list: &WaitList) -> bool {
    list.any(|node| node.kind != WATCH)
}

impl<T> Hchan<T> {
    /// Completes a receive that was promised a message.
    pub(super) fn complete_recv(&self, promise: Promise) -> T {
        let mut state = self.state().lock();
        if let Promise::Paired(pair) = promise {
            return self.receive_paired(state, pair);
        }
        let message = state.queue.pop_front().expect("a message that was promised is there");
        state.promised_out -= 1;
        state.settle();
        message
    }

    /// The message of a pair, or the wait for it.
    pub(super) fn receive_paired(&self, mut state: MutexGuard<'_, State<T>>, pair: usize) -> T {
        if let Some(message) = state.pairs.take(pair) {
            return message;
        }
        let mut slot = Slot::uninit();
        self.wait(
            state,
            |state| state.pairs.waiting(pair),
            &mut slot,
            WaitReason::ChanRecv,
            NEVER,
        );
        // SAFETY: who waits in a pair is woken by its sender, which has filled the slot.
        unsafe { slot.assume_init() }
    }

    /// Completes a send that was promised a place.
    pub(super) fn complete_send(&self, promise: Promise, message: T) -> Result<(), SendError<T>> {
        let mut state = self.state().lock();
        if let Promise::Paired(pair) = promise {
            if state.disconnected {
                state.pairs.close(pair);
                return Err(SendError(message));
            }
            if let Some(receiver) = state.pairs.waiting(pair).pop() {
                state.pairs.close(pair);
                fill(receiver, message);
                drop(state);
                receiver.wake();
            } else {
                state.pairs.put(pair, message);
            }
            return Ok(());
        }
        state.promised_in -= 1;
        if state.disconnected {
            return Err(SendError(message));
        }
        state.queue.push_back(message);
        state.settle();
        Ok(())
    }
}

/// The lock taken and given back by hand, since those who select hold several at once.
impl<T> Hchan<T> {
    /// Takes the lock.
    pub(super) fn lock(&self) {
        mem::forget(self.state().lock());
    }

    /// Gives the lock back.
    ///
    /// # Safety
    ///
    /// This thread has taken it with [`lock`](Self::lock), and has no reference into the state any more.
    pub(super) unsafe fn unlock(&self) {
        // SAFETY: as the caller promised.
        unsafe { self.state().force_unlock(GuardNoSend::new()) };
    }

    /// What the lock guards.
    ///
    /// # Safety
    ///
    /// This thread has taken the lock with [`lock`](Self::lock), and has one such reference at a time.
    #[expect(clippy::mut_from_ref, reason = "the lock says who may")]
    pub(super) unsafe fn locked(&self) -> &mut State<T> {
        // SAFETY: as the caller promised.
        unsafe { &mut *self.state().data_ptr() }
    }
}
