//! The channel itself: a queue, those who wait to put something in, those who wait to get something out (Go's hchan).
//!
//! ```text
//!   senders (waiting) ──▶ queue of up to `capacity` ──▶ receivers (waiting)
//! ```
//!
//! # Invariants (under the lock)
//!
//! 1. Receivers wait only while each message in the queue is promised, senders only while each place holds a message or is
//!    promised (at capacity 0 there are none).
//! 2. At capacity 0, nobody waits on one side while somebody waits on the other.
//! 3. Nobody waits in a direction whose other end is gone.
//!
//! A message goes to a waiting receiver directly, onto its stack, or, if the queue is not empty, to its end, and the receiver gets
//! the first; a waiting sender's message moves into the queue when a receiver makes room. So messages are received in the order of
//! sends. Wakes happen after the lock is given back. A goroutine that waits leaves the lock to g0 to give back.
//!
//! Those who select wait here too, and are given no message but the promise of one: see `promise`. Without them nothing is promised, and
//! the second invariant holds at each capacity.
//!
//! One lock and not a lock-free ring: two goroutines on one P, which is how they end up, since what one makes ready runs
//! next there, pay 10 ns for a send and its receive together, and the lock is what makes handing over, selecting and closing
//! simple.

use super::{
    error::{RecvTimeoutError, SendTimeoutError, TryRecvError, TrySendError},
    pairs::Pairs,
};
use crate::lock::{Mutex, MutexGuard};
use crate::{
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    time::{self, heap::NEVER},
    waitlist::{Node, WaitList},
};
use std::{
    collections::VecDeque,
    mem::{self, ManuallyDrop, MaybeUninit},
    ptr,
    sync::atomic::{
        AtomicUsize,
        Ordering::{AcqRel, Relaxed},
    },
};

/// Slots that a bounded channel has from the start; a larger one grows to its capacity as it fills.
const FIRST_SLOTS: usize = 1024;

/// `Node::kind`: sends or receives; a receiver's slot is to be filled, a sender's to be emptied.
pub(super) const PLAIN: u32 = 0;
/// `Node::kind`: selects; has no slot for a message, but a `Cell<Promise>` for the promise that it is given.
pub(super) const SELECT: u32 = 1;
/// `Node::kind`: wants to know when a look is worth while, and takes nothing.
pub(super) const WATCH: u32 = 2;

pub(super) struct Hchan<T> {
    state: Mutex<State<T>>,
    capacity: Option<usize>,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

pub(super) struct State<T> {
    pub(super) queue: VecDeque<T>,
    pub(super) receivers: WaitList,
    pub(super) senders: WaitList,
    /// What was promised at a rendezvous; the next two are for the other channels. See `promise`.
    pub(super) pairs: Pairs<T>,
    /// Messages of the queue that were promised to receivers.
    pub(super) promised_out: usize,
    /// Places that were promised to senders.
    pub(super) promised_in: usize,
    /// `usize::MAX` if the channel is unbounded.
    capacity: usize,
    /// All senders or all receivers are gone.
    pub(super) disconnected: bool,
}

/// Where a message lies that is handed over: on the stack of the party that waits. A waiting sender's is full until
/// somebody claims the sender for `Event::Done`, a waiting receiver's is full from then on.
pub(super) type Slot<T> = MaybeUninit<T>;

/// What a send or a receive came to without waiting.
enum Attempt<'a, S, T, E> {
    Done(T),
    Disconnected(E),
    /// It would have to wait; the lock is still held.
    Wait(E, MutexGuard<'a, S>),
}

type Sending<'a, T> = Attempt<'a, State<T>, (), T>;
type Receiving<'a, T> = Attempt<'a, State<T>, T, ()>;

impl<T> State<T> {
    /// Whether there is a message that was promised to nobody.
    #[inline]
    pub(super) fn has_message(&self) -> bool {
        self.queue.len() > self.promised_out
    }

    /// Whether there is a place that was promised to nobody.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() + self.promised_in < self.capacity
    }

    /// The first receiver that waits, claimed. Those who merely watch are woken on the way.
    #[inline]
    pub(super) fn next_receiver<'a>(&mut self) -> Option<&'a Node> {
        next(&mut self.receivers)
    }

    /// The first sender that waits, claimed, likewise.
    #[inline]
    fn next_sender<'a>(&mut self) -> Option<&'a Node> {
        next(&mut self.senders)
    }

    /// At a rendezvous, the first sender that waits, likewise.
    #[inline]
    pub(super) fn next_partner<'a>(&mut self) -> Option<&'a Node> {
        if self.is_rendezvous() { self.next_sender() } else { None }
    }

    /// Gives `message` to a receiver that was claimed, if no other is before it in the queue; else the first.
    #[inline]
    fn hand_to(&mut self, receiver: &Node, mut message: T) {
        if receiver.kind == PLAIN {
            if !self.queue.is_empty() {
                self.queue.push_back(message);
                message = self.queue.pop_front().expect("there is a message");
            }
            fill(receiver, message);
        } else {
            self.promise_message(receiver, message);
        }
    }

    /// At a rendezvous, a receiver that selects is about to wait, which those who watch the senders' side want to know. Nobody
    /// else waits there.
    pub(super) fn announce_receiver(&mut self) {
        let partner = self.next_partner();
        debug_assert!(partner.is_none(), "who finds a partner does not wait");
    }

    /// A sender that selects is about to wait, likewise.
    pub(super) fn announce_sender(&mut self) {
        if self.is_rendezvous() {
            let partner = self.next_receiver();
            debug_assert!(partner.is_none(), "who finds a partner does not wait");
        }
    }

    /// Whether the channel has no place for a message, so that each is handed over.
    #[inline]
    pub(super) fn is_rendezvous(&self) -> bool {
        self.capacity == 0
    }

    /// There is room: if a sender waits, it is let in. The caller wakes it once the lock is given back.
    #[inline]
    pub(super) fn let_in<'a>(&mut self) -> Option<&'a Node> {
        if self.senders.is_empty() || !self.has_room() {
            return None;
        }
        let sender = self.next_sender()?;
        if sender.kind == PLAIN {
            self.queue.push_back(take(sender));
        } else {
            self.promised_in += 1;
        }
        Some(sender)
    }
}

#[inline]
fn next<'a>(list: &mut WaitList) -> Option<&'a Node> {
    loop {
        let node = list.pop_claimed(Event::Done)?;
        if node.kind != WATCH {
            return Some(node);
        }
        node.wake();
    }
}

/// Fills the slot of a plain receiver that the caller has claimed and not yet woken; called once.
#[inline]
pub(super) fn fill<T>(receiver: &Node, message: T) {
    debug_assert!(receiver.kind == PLAIN);
    // SAFETY: the slot of such a receiver is there, empty, and the claimer's.
    unsafe { (*receiver.data.cast::<Slot<T>>()).write(message) };
}

/// The message of a plain sender that the caller has claimed and not yet woken; called once.
#[inline]
pub(super) fn take<T>(sender: &Node) -> T {
    debug_assert!(sender.kind == PLAIN);
    // SAFETY: the slot of such a sender is there, full, and the claimer's.
    unsafe { (*sender.data.cast::<Slot<T>>()).assume_init_read() }
}

impl<T> Hchan<T> {
    /// A channel with one sender and one receiver.
    pub(super) fn new(capacity: Option<usize>) -> Self {
        Self {
            state: Mutex::new(State {
                queue: VecDeque::with_capacity(capacity.unwrap_or(0).min(FIRST_SLOTS)),
                receivers: WaitList::new(),
                senders: WaitList::new(),
                pairs: Pairs::new(),
                promised_out: 0,
                promised_in: 0,
                capacity: capacity.unwrap_or(usize::MAX),
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

    /// Messages in the queue and on their way to it, without those that are promised.
    pub(super) fn len(&self) -> usize {
        let state = self.state.lock();
        (state.queue.len() + state.promised_in).saturating_sub(state.promised_out)
    }

    #[inline]
    pub(super) fn state(&self) -> &Mutex<State<T>> {
        &self.state
    }

    fn attempt_send(&self, message: T) -> Sending<'_, T> {
        checkpoint();
        let mut state = self.state.lock();
        if state.disconnected {
            return Attempt::Disconnected(message);
        }
        let room = state.has_room();
        if (room || state.is_rendezvous())
            && let Some(receiver) = state.next_receiver()
        {
            state.hand_to(receiver, message);
            drop(state);
            receiver.wake();
            return Attempt::Done(());
        }
        if !room {
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

    /// Sends `message`, waiting until `deadline` at most.
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
        let (message, sender) = if state.has_message() {
            (state.queue.pop_front(), state.let_in())
        } else {
            match state.next_partner() {
                Some(sender) if sender.kind == PLAIN => (Some(take(sender)), Some(sender)),
                Some(sender) => {
                    let pair = state.engage(sender);
                    return Attempt::Done(self.receive_paired(state, pair));
                }
                None if !state.disconnected => return Attempt::Wait((), state),
                None => (None, None),
            }
        };
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

    /// Receives a message, waiting until `deadline` at most.
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
    #[inline(never)] // who need not wait does not make room for it
    pub(super) fn wait(
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
            self.disconnect(|state| {
                let mut discarded = mem::take(&mut state.queue);
                discarded.extend(state.pairs.discard());
                discarded
            });
        }
    }

    fn disconnect(&self, discard: impl FnOnce(&mut State<T>) -> VecDeque<T>) {
        let mut state = self.state.lock();
        state.disconnected = true;
        let discarded = discard(&mut state);
        let receivers = state.receivers.claim_all(Event::Closed);
        let senders = state.senders.claim_all(Event::Closed);
        drop(state);
        receivers.wake_all();
        senders.wake_all();
        // A message whose destructor panics leaves the rest alone: a second panic would be the end.
        let mut discarded = ManuallyDrop::new(discarded);
        while let Some(message) = discarded.pop_front() {
            drop(message);
        }
        drop(ManuallyDrop::into_inner(discarded));
    }
}
