//! The channel itself: a queue, those who wait to put something in, those who wait to get something out (Go's hchan).
//!
//! ```text
//!   senders (waiting) ──▶ queue of up to `capacity` ──▶ receivers (waiting)
//! ```
//!
//! # Invariants (under the lock)
//!
//! 1. Receivers wait only while there is no message for them in the queue and no sender waits.
//! 2. Senders wait only while the queue is full (at capacity 0 it always is).
//! 3. Nobody waits in a direction whose other end is gone.
//!
//! A message goes to a waiting receiver directly, onto its stack; a waiting sender's message moves into the queue when a
//! receiver makes room. So the queue's order is the order of sends. Wakes happen after the lock is given back. A goroutine
//! that waits leaves the lock to g0 to give back.
//!
//! One lock and not a lock-free ring: two goroutines on one P, which is how they end up, since what one makes ready runs
//! next there, pay 10 ns for a send and its receive together, and the lock is what makes handing over, selecting and closing
//! simple.

use super::error::{RecvTimeoutError, SendTimeoutError, TryRecvError, TrySendError};
use crate::lock::{Mutex, MutexGuard};
use crate::{
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    time::{self, heap::NEVER},
    waitlist::{Node, WaitList},
};
use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    ptr,
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
    receivers: WaitList,
    senders: WaitList,
    /// All senders or all receivers are gone.
    disconnected: bool,
}

/// Where a message lies that is handed over: on the stack of the party that waits. A waiting sender's is full until
/// somebody claims the sender for `Event::Done`, a waiting receiver's is full from then on.
type Slot<T> = MaybeUninit<T>;

/// What a send or a receive came to without waiting.
enum Attempt<'a, S, T, E> {
    Done(T),
    Disconnected(E),
    /// It would have to wait; the lock is still held.
    Wait(E, MutexGuard<'a, S>),
}

type Sending<'a, T> = Attempt<'a, State<T>, (), T>;
type Receiving<'a, T> = Attempt<'a, State<T>, T, ()>;

/// Puts `message` into the slot of a receiver.
///
/// # Safety
///
/// `node` is on a list of receivers of `T`, and claimed by the caller, who has not woken it yet.
#[inline]
unsafe fn give<T>(node: &Node, message: T) {
    // SAFETY: as the caller promised, the slot is there, empty, and the caller's.
    unsafe { (*node.data.cast::<Slot<T>>()).write(message) };
}

/// Takes the message out of the slot of a sender.
///
/// # Safety
///
/// `node` is on a list of senders of `T`, and claimed by the caller, who has not woken it yet and calls this once.
#[inline]
unsafe fn take<T>(node: &Node) -> T {
    // SAFETY: as the caller promised, the slot is there, full, and the caller's.
    unsafe { (*node.data.cast::<Slot<T>>()).assume_init_read() }
}

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
        if !state.receivers.is_empty()
            && let Some(receiver) = state.receivers.pop_claimed(Event::Done)
        {
            // SAFETY: just claimed, from the list of receivers.
            unsafe { give(receiver, message) };
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

    pub(super) fn send(&self, message: T, deadline: u64) -> Result<(), SendTimeoutError<T>> {
        match self.attempt_send(message) {
            Attempt::Done(()) => Ok(()),
            Attempt::Disconnected(message) => Err(SendTimeoutError::Disconnected(message)),
            Attempt::Wait(message, state) => {
                let mut slot = Slot::new(message);
                let event = self.wait(
                    state,
                    |state| &mut state.senders,
                    &mut slot,
                    WaitReason::ChanSend,
                    deadline,
                );
                if event == Event::Done {
                    return Ok(()); // the receiver who claimed this party has taken the message
                }
                // SAFETY: nobody has, and nobody else knows the slot any more.
                let message = unsafe { slot.assume_init() };
                Err(match event {
                    Event::TimedOut => SendTimeoutError::Timeout(message),
                    Event::Done | Event::Closed => SendTimeoutError::Disconnected(message),
                })
            }
        }
    }

    fn attempt_recv(&self) -> Receiving<'_, T> {
        checkpoint();
        let mut state = self.state.lock();
        let first = state.queue.pop_front();
        let sender = state.senders.pop_claimed(Event::Done);
        // SAFETY: just claimed, from the list of senders.
        let waiting = sender.map(|sender| unsafe { take::<T>(sender) });
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

    pub(super) fn recv(&self, deadline: u64) -> Result<T, RecvTimeoutError> {
        match self.attempt_recv() {
            Attempt::Done(message) => Ok(message),
            Attempt::Disconnected(()) => Err(RecvTimeoutError::Disconnected),
            Attempt::Wait((), state) => {
                let mut slot = Slot::uninit();
                match self.wait(
                    state,
                    |state| &mut state.receivers,
                    &mut slot,
                    WaitReason::ChanRecv,
                    deadline,
                ) {
                    // SAFETY: the sender who claimed this party has filled the slot.
                    Event::Done => Ok(unsafe { slot.assume_init() }),
                    Event::Closed => Err(RecvTimeoutError::Disconnected),
                    Event::TimedOut => Err(RecvTimeoutError::Timeout),
                }
            }
        }
    }

    /// Waits on one of the channel's lists, with `slot` for the other side, and gives the lock back.
    fn wait(
        &self,
        mut state: MutexGuard<'_, State<T>>,
        list: impl Fn(&mut State<T>) -> &mut WaitList,
        slot: &mut Slot<T>,
        reason: WaitReason,
        deadline: u64,
    ) -> Event {
        if deadline != NEVER && deadline <= time::now() {
            return Event::TimedOut;
        }
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::from_mut(slot).cast());
        list(&mut state).push(&node);
        // g0 of this very thread gives the lock back, so the guard stays where it belongs.
        let commit = move || {
            drop(state);
            true
        };
        if deadline == NEVER {
            waiter.park(reason, commit);
        } else {
            waiter.park_until(reason, deadline, commit);
            if waiter.outcome() == Event::TimedOut {
                list(&mut self.state.lock()).remove(&node);
            }
        }
        waiter.outcome()
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
        let receivers = state.receivers.claim_all(Event::Closed);
        let senders = state.senders.claim_all(Event::Closed);
        drop(state);
        receivers.wake_all();
        senders.wake_all();
        drop(discarded);
    }
}
