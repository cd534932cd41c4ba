//! The channel itself: a queue, those who wait to put something in, those who wait to get something out (Go's hchan).
//!
//! ```text
//!   senders (waiting) ──▶ queue of up to `capacity` ──▶ receivers (waiting)
//! ```
//!
//! # Invariants (under the lock)
//!
//! 1. Receivers wait only while the queue is empty and no sender waits.
//! 2. Senders wait only while the queue is full (at capacity 0 it always is).
//! 3. Nobody waits in a direction whose other end is gone.
//!
//! A message goes to a waiting receiver directly, onto its stack; a waiting sender's message moves into the queue when a
//! receiver makes room. So the queue's order is the order of sends. Wakes happen after the lock is given back. A goroutine
//! that waits leaves the lock to g0 to give back.

use super::error::{RecvError, SendError, TryRecvError, TrySendError};
use crate::{
    sched::checkpoint,
    waitlist::{Node, WaitList},
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::VecDeque,
    sync::atomic::{
        AtomicUsize,
        Ordering::{AcqRel, Relaxed},
    },
};

/// Slots that a bounded channel has from the start; a larger one grows to its capacity as it fills.
const FIRST_SLOTS: usize = 1024;

pub(super) struct Hchan<T> {
    state: Mutex<State<T>>,
    capacity: Option<usize>,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

struct State<T> {
    queue: VecDeque<T>,
    receivers: WaitList<T>,
    senders: WaitList<T>,
    /// All senders or all receivers are gone.
    disconnected: bool,
}

/// What a send or a receive came to without waiting.
enum Attempt<'a, S, T, E> {
    Done(T),
    Disconnected(E),
    /// It would have to wait; the lock is still held.
    Wait(E, MutexGuard<'a, S>),
}

type Sending<'a, T> = Attempt<'a, State<T>, (), T>;
type Receiving<'a, T> = Attempt<'a, State<T>, T, ()>;

impl<T> Hchan<T> {
    /// A channel with one sender and one receiver.
    pub(super) fn new(capacity: Option<usize>) -> Self {
        Self {
            state: Mutex::new(State {
                queue: VecDeque::with_capacity(capacity.unwrap_or(0).min(FIRST_SLOTS)),
                receivers: WaitList::new(),
                senders: WaitList::new(),
                disconnected: false,
            }),
            capacity,
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
        }
    }

    pub(super) fn capacity(&self) -> Option<usize> {
        self.capacity
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    fn attempt_send(&self, message: T) -> Sending<'_, T> {
        checkpoint();
        let mut state = self.state.lock();
        if state.disconnected {
            return Attempt::Disconnected(message);
        }
        // SAFETY: a node that was in the list is good until it is woken.
        if let Some(receiver) = unsafe { state.receivers.pop().as_ref() } {
            // SAFETY: taken off the list and not woken yet.
            unsafe { receiver.put(message) };
            drop(state);
            receiver.wake();
            return Attempt::Done(());
        }
        if self.capacity.is_some_and(|capacity| state.queue.len() >= capacity) {
            return Attempt::Wait(message, state);
        }
        state.queue.push_back(message);
        Attempt::Done(())
    }

    pub(super) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        match self.attempt_send(message) {
            Attempt::Done(()) => Ok(()),
            Attempt::Disconnected(message) => Err(TrySendError::Disconnected(message)),
            Attempt::Wait(message, _) => Err(TrySendError::Full(message)),
        }
    }

    pub(super) fn send(&self, message: T) -> Result<(), SendError<T>> {
        match self.attempt_send(message) {
            Attempt::Done(()) => Ok(()),
            Attempt::Disconnected(message) => Err(SendError(message)),
            Attempt::Wait(message, state) => {
                let node = Node::new(Some(message));
                WaitList::wait(state, |state| &mut state.senders, &node);
                // SAFETY: woken. Whoever received the message has taken it; one that is still there was not sent.
                match unsafe { node.take() } {
                    None => Ok(()),
                    Some(message) => Err(SendError(message)),
                }
            }
        }
    }

    fn attempt_recv(&self) -> Receiving<'_, T> {
        checkpoint();
        let mut state = self.state.lock();
        let first = state.queue.pop_front();
        // SAFETY: a node that was in the list is good until it is woken.
        let sender = unsafe { state.senders.pop().as_ref() };
        // SAFETY: taken off the list and not woken yet.
        let waiting = sender.and_then(|sender| unsafe { sender.take() });
        let message = match (first, waiting) {
            (Some(first), Some(next)) => {
                state.queue.push_back(next);
                Some(first)
            }
            (first, waiting) => first.or(waiting),
        };
        let disconnected = state.disconnected;
        if message.is_none() && !disconnected {
            return Attempt::Wait((), state);
        }
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
        message.map_or(Attempt::Disconnected(()), Attempt::Done)
    }

    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        match self.attempt_recv() {
            Attempt::Done(message) => Ok(message),
            Attempt::Disconnected(()) => Err(TryRecvError::Disconnected),
            Attempt::Wait((), _) => Err(TryRecvError::Empty),
        }
    }

    pub(super) fn recv(&self) -> Result<T, RecvError> {
        match self.attempt_recv() {
            Attempt::Done(message) => Ok(message),
            Attempt::Disconnected(()) => Err(RecvError),
            Attempt::Wait((), state) => {
                let node = Node::new(None);
                WaitList::wait(state, |state| &mut state.receivers, &node);
                // SAFETY: woken. Empty: not by a sender, but because the last of them went.
                unsafe { node.take() }.ok_or(RecvError)
            }
        }
    }

    pub(super) fn add_sender(&self) {
        self.senders.fetch_add(1, Relaxed);
    }

    pub(super) fn add_receiver(&self) {
        self.receivers.fetch_add(1, Relaxed);
    }

    pub(super) fn remove_sender(&self) {
        if self.senders.fetch_sub(1, AcqRel) == 1 {
            self.disconnect(|_| VecDeque::new());
        }
    }

    /// Messages that nobody can receive any more are dropped at once, as crossbeam-channel does: they may hold the other
    /// end of something.
    pub(super) fn remove_receiver(&self) {
        if self.receivers.fetch_sub(1, AcqRel) == 1 {
            self.disconnect(std::mem::take);
        }
    }

    fn disconnect(&self, discard: impl FnOnce(&mut VecDeque<T>) -> VecDeque<T>) {
        let mut state = self.state.lock();
        state.disconnected = true;
        let discarded = discard(&mut state.queue);
        let (receivers, senders) = (state.receivers.take_all(), state.senders.take_all());
        drop(state);
        receivers.wake_all();
        senders.wake_all();
        drop(discarded);
    }
}
