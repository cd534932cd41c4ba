//! What a channel does for those who select on it.
//!
//! A party that selects decides for one channel first and gives or takes its message after that: `select!` evaluates the
//! message of the send that was chosen, and only that. So the decision makes a *promise*, under the lock, and the message
//! follows, when the party *completes* the operation.
//!
//! ```text
//!   decision                                     state                           completion
//!   receive, a message is there                  promised_out + 1                takes a message from the queue
//!   receive, a plain sender waits                its message → queue, "          "
//!   receive, a selecting sender waits            promised_out + 1, _in + 1       … or waits for it as a creditor
//!   send, there is room                          promised_in + 1                 a receiver's slot, or the queue
//!   send, a selecting receiver waits             promised_out + 1, _in + 1       a creditor's slot, or the queue
//!   send, a plain receiver waits                 ", and it becomes a creditor    "
//! ```
//!
//! At capacity 0 there is no room, and each decision makes a pair of two who have chosen each other. Its place in `pairs` is what
//! both are told, and what takes the place of the queue, the creditors and the counts: the sender puts its message there, and
//! its receiver takes it from there, or waits there. Who was woken finds the number in the cell that its node leads to.
//!
//! # Invariants (under the lock)
//!
//! 1. `promised_out` messages are in the queue or will be put there by those who hold `promised_in`, so whoever was promised
//!    a message need not wait for anybody who has not decided yet.
//! 2. Capacity 0: the queue is empty and the counts are 0, and nobody gets a message but from the one it was paired with: a
//!    rendezvous stays one.
//! 3. Elsewhere promises are not addressed: a receiver gets the next message that is promised, whoever it is from.

use super::{
    error::SendError,
    hchan::{Hchan, PLAIN, SELECT, Slot, State, WATCH, take},
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
    /// A receiver and a sender have chosen each other, and the message is yet to come. `sender` selects and was claimed.
    pub(super) fn engage(&mut self, sender: &Node) -> Promise {
        let promise = if self.is_rendezvous() {
            let promise = Promise::Paired(self.pairs.open());
            tell(sender, promise);
            promise
        } else {
            self.promised_out += 1;
            self.promised_in += 1;
            Promise::Kept
        };
        sender.wake();
        promise
    }

    /// Keeps a message for a receiver that selects.
    fn keep(&mut self, message: T) -> Promise {
        if self.is_rendezvous() {
            return Promise::Paired(self.pairs.open_with(message));
        }
        self.promised_out += 1;
        self.queue.push_back(message);
        Promise::Kept
    }

    /// Keeps `message` for `receiver`, which selects and was claimed.
    pub(super) fn promise_message(&mut self, receiver: &Node, message: T) {
        tell(receiver, self.keep(message));
    }

    /// Whether a receive would not wait, as far as one can see without claiming anybody.
    pub(super) fn recv_ready(&self) -> bool {
        self.has_message() || self.disconnected || has_partner(&self.senders)
    }

    /// Whether a send would not wait, likewise.
    pub(super) fn send_ready(&self) -> bool {
        self.has_room() || self.disconnected || has_partner(&self.receivers)
    }

    /// Decides for a receive. `None`: those who seemed to wait are gone.
    pub(super) fn promise_recv(&mut self) -> Option<Promise> {
        if self.has_message() {
            self.promised_out += 1;
            return Some(Promise::Kept);
        }
        match self.next_sender() {
            Some(sender) if sender.kind == PLAIN => {
                let promise = self.keep(take(sender));
                sender.wake();
                Some(promise)
            }
            Some(sender) => Some(self.engage(sender)),
            None => self.disconnected.then_some(Promise::Closed),
        }
    }

    /// Decides for a send, likewise.
    pub(super) fn promise_send(&mut self) -> Option<Promise> {
        if self.disconnected {
            return Some(Promise::Closed);
        }
        if self.is_rendezvous() {
            let receiver = self.next_receiver()?;
            let pair = self.pairs.open();
            if receiver.kind == PLAIN {
                self.pairs.waiting(pair).push(receiver);
            } else {
                tell(receiver, Promise::Paired(pair));
                receiver.wake();
            }
            return Some(Promise::Paired(pair));
        }
        if !self.has_room() {
            let receiver = self.next_receiver()?;
            self.promised_out += 1;
            if receiver.kind == PLAIN {
                self.creditors.push(receiver);
            } else {
                receiver.wake();
            }
        }
        self.promised_in += 1;
        Some(Promise::Kept)
    }

    /// Takes a message that was promised, if it is there.
    #[inline]
    fn take_promised(&mut self, promise: Promise) -> Option<T> {
        if let Promise::Paired(pair) = promise {
            return self.pairs.take(pair);
        }
        let message = self.queue.pop_front()?;
        self.promised_out -= 1;
        self.settle();
        Some(message)
    }

    /// Where one waits for it.
    fn creditors(&mut self, promise: Promise) -> &mut WaitList {
        match promise {
            Promise::Paired(pair) => self.pairs.waiting(pair),
            _ => &mut self.creditors,
        }
    }

    /// A completion may have freed a place, or a message of a promise: whoever waits for one gets it.
    fn settle(&mut self) {
        loop {
            if self.has_message()
                && let Some(receiver) = self.next_receiver()
            {
                if receiver.kind == PLAIN {
                    let message = self.queue.pop_front().expect("there is a message");
                    self.hand_to(receiver, message);
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
        self.receive_promised(self.state().lock(), promise)
    }

    /// The message that was promised, or the wait for it.
    pub(super) fn receive_promised(&self, mut state: MutexGuard<'_, State<T>>, promise: Promise) -> T {
        if let Some(message) = state.take_promised(promise) {
            return message;
        }
        let mut slot = Slot::uninit();
        self.wait(
            state,
            |state| state.creditors(promise),
            &mut slot,
            WaitReason::ChanRecv,
            NEVER,
        );
        // SAFETY: a creditor is woken by a sender that has filled its slot.
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
                state.hand_to(receiver, message);
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
        if let Some(creditor) = state.creditors.pop() {
            state.promised_out -= 1;
            state.hand_to(creditor, message);
            state.settle();
            drop(state);
            creditor.wake();
        } else {
            state.queue.push_back(message);
            state.settle();
        }
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
