//! Waiting for the first of several operations.
//!
//! ```text
//!   one after the other, in random order: lock, ready? ── yes ─▶ decide for it, unlock ─▶ the caller completes it
//!      └─ no ─▶ sort by address
//!                  └─▶ lock all ─▶ is one ready? ── yes ─▶ decide for it, unlock all ─▶ the caller completes it
//!                         ▲              └─ no ─▶ a node on each channel's list, park; g0 unlocks all
//!                         │                         │ a peer, a closing channel or the deadline claims the waiter
//!                         └── it was the deadline ◀─┴─▶ one after the other: lock, take the node off, unlock ─▶ …
//! ```
//!
//! # Invariants
//!
//! 1. Locks are taken in the order of addresses, each once, so two that select never wait for each other in a circle.
//! 2. From the look to the park all locks are held: nothing becomes ready unnoticed.
//! 3. g0 unlocks from the list in the waiting party's frame. A peer may wake the party after the first unlock; but the party
//!    takes each lock again before it leaves, so the frame stays until the last unlock, after which g0 reads nothing there.
//! 4. A party that was claimed on a channel completes that operation, so nothing that was handed out gets lost.
//!
//! `tests/explore/select.rs` explores this together with `promise`, `park` and `ticket`, and finds what goes wrong if a piece is
//! left out.
//!
//! Which of several ready operations is chosen is left to dice (in a simulation: the seed's), each with the same chance.

use super::{
    error::{ReadyTimeoutError, RecvError, SelectTimeoutError, SendError, TryReadyError, TrySelectError},
    hchan::{SELECT, WATCH},
    port::Port,
    promise::Promise,
    receiver::{Flavor, Receiver},
    sender::Sender,
};
use crate::{
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    testing::world::World,
    time::{self, heap::NEVER},
    waitlist::Node,
};
use std::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    mem, ptr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// One operation to wait for.
pub struct Case<'a> {
    port: &'a dyn Port,
    /// `port`'s place in the order of locks.
    order: usize,
    /// What the caller calls it.
    index: u32,
    /// Where it stands in the channel's list, once it waits.
    node: Option<Node>,
}

// SAFETY: between calls the node is on no list and points nowhere; a channel's ends that may not be shared cannot be
// used through a case, which gives and takes nothing but promises.
unsafe impl Send for Case<'_> {}
// SAFETY: as above.
unsafe impl Sync for Case<'_> {}

impl<'a> Case<'a> {
    fn new(port: &'a dyn Port, index: usize) -> Self {
        Self {
            port,
            order: port.order(),
            index: u32::try_from(index).expect("as many operations as there are memory addresses for"),
            node: None,
        }
    }

    /// What the completion of this operation will be called with.
    fn key(&self) -> *const () {
        ptr::from_ref(self.port).cast()
    }
}

/// A receive, for `select!`.
#[must_use]
pub fn receiving<T>(receiver: &Receiver<T>) -> Case<'_> {
    Case::new(receiver, 0)
}

/// A send, for `select!`.
#[must_use]
pub fn sending<T>(sender: &Sender<T>) -> Case<'_> {
    Case::new(sender, 0)
}

/// Chooses one of the operations of `select!`, which are numbered in their order here. The operation borrows nothing, so that
/// the bodies of the arms may use the channels' ends as they like.
pub fn select(cases: &mut [Case<'_>], biased: bool) -> SelectedOperation<'static> {
    number(cases);
    let chosen = attempt(cases, biased).or_else(|| sort_and_wait(cases, biased, NEVER));
    let chosen = chosen.expect("without a deadline, it waits until there is one");
    SelectedOperation::new(chosen)
}

/// As `select`, if one can be done until the deadline.
pub fn select_until(
    cases: &mut [Case<'_>],
    biased: bool,
    timeout: Duration,
) -> Result<SelectedOperation<'static>, SelectTimeoutError> {
    number(cases);
    let chosen = attempt(cases, biased).or_else(|| sort_and_wait(cases, biased, time::deadline_in(timeout)));
    let chosen = chosen.ok_or(SelectTimeoutError)?;
    Ok(SelectedOperation::new(chosen))
}

/// As `select`, if one can be done at once.
pub fn try_select(cases: &mut [Case<'_>], biased: bool) -> Result<SelectedOperation<'static>, TrySelectError> {
    number(cases);
    let chosen = attempt(cases, biased).or_else(|| sort_and_wait(cases, biased, NOW));
    let chosen = chosen.ok_or(TrySelectError)?;
    Ok(SelectedOperation::new(chosen))
}

fn number(cases: &mut [Case<'_>]) {
    (0..).zip(cases.iter_mut()).for_each(|(n, case)| case.index = n);
}

fn sort_and_wait(cases: &mut [Case<'_>], biased: bool, deadline: u64) -> Option<Chosen> {
    cases.sort_unstable_by_key(|case| case.order);
    wait(cases, SELECT, biased, deadline)
}

/// Looks at one channel after the other, which spares the locks of the others, and decides for the first that is ready. The
/// order is one of all, each with the same chance. Does not look if the order matters, or at very many.
fn attempt(cases: &[Case<'_>], biased: bool) -> Option<Chosen> {
    const MOST: usize = 16;
    checkpoint();
    if biased || cases.len() > MOST {
        return None;
    }
    let mut order: [u8; MOST] = std::array::from_fn(|n| n as u8);
    let mut dice = Dice::new();
    for n in 0..cases.len() {
        order.swap(n, n + dice.below(cases.len() - n));
        let case = &cases[usize::from(order[n])];
        if let Some(promise) = case.port.attempt() {
            return Some((case.index as usize, case.key(), promise));
        }
    }
    None
}

/// A deadline that has passed.
const NOW: u64 = 0;

/// An operation that was chosen: its number, its channel's end, what was promised.
type Chosen = (usize, *const (), Promise);

/// Waits until one of `cases`, which are sorted, can be done, and decides for it if `kind` is `SELECT`. `None`: none
/// could until `deadline`.
fn wait(cases: &mut [Case<'_>], kind: u32, biased: bool, deadline: u64) -> Option<Chosen> {
    loop {
        lock_all(cases);
        // SAFETY: all are locked.
        if let Some(chosen) = unsafe { decide(cases, kind, biased) } {
            // SAFETY: all are locked.
            unsafe { unlock_all(cases) };
            return Some(chosen);
        }
        if deadline != NEVER && (deadline == NOW || deadline <= time::now()) {
            // SAFETY: all are locked.
            unsafe { unlock_all(cases) };
            return None;
        }
        let (number, event, promised) = park(cases, kind, biased, deadline);
        let promise = match event {
            Event::Done => promised,
            Event::Closed => Promise::Closed,
            Event::TimedOut => continue, // the deadline, or a channel of time
        };
        let case = &cases[number];
        return Some((case.index as usize, case.key(), promise));
    }
}

/// Waits on all channels, whose locks g0 gives back. Which case it was, what happened, and what was promised if it was `Done`.
fn park(cases: &mut [Case<'_>], kind: u32, biased: bool, deadline: u64) -> (usize, Event, Promise) {
    let waiter = Waiter::new();
    let promised = Cell::new(Promise::Kept);
    let mut until = deadline;
    if kind == SELECT {
        for case in &*cases {
            // SAFETY: all are locked.
            unsafe { case.port.announce() };
        }
    }
    for (case, n) in cases.iter_mut().zip(0..) {
        case.node = Some(Node::for_case(&raw const waiter, kind, n, promised.as_ptr().cast()));
        until = until.min(case.port.due());
    }
    let cases = &*cases;
    // Of several on one channel the first is woken, so any of them may be the first.
    let first = if biased {
        0
    } else {
        Dice::new().below(cases.len().max(1))
    };
    let (before, after) = cases.split_at(first);
    for case in after.iter().chain(before) {
        if let Some(node) = &case.node {
            // SAFETY: all are locked.
            unsafe { case.port.enqueue(node) };
        }
    }
    waiter.park_until(WaitReason::Select, until, || {
        // SAFETY: all are locked, by this thread.
        unsafe { unlock_all(cases) };
        true
    });
    // All of them, although the one that was done has no node any more: invariant 3.
    for case in cases {
        if let Some(node) = &case.node {
            case.port.withdraw(node);
        }
    }
    (waiter.case() as usize, waiter.outcome(), promised.get())
}

/// Chooses one of the ready operations, and, if `kind` is `SELECT`, decides for it.
///
/// # Safety
///
/// All cases are locked.
unsafe fn decide(cases: &[Case<'_>], kind: u32, biased: bool) -> Option<Chosen> {
    let mut dice = Dice::new();
    loop {
        let mut ready = 0;
        let mut chosen: Option<&Case<'_>> = None;
        for case in cases {
            // SAFETY: locked.
            if !unsafe { case.port.is_ready() } {
                continue;
            }
            ready += 1;
            if match chosen {
                None => true,
                Some(other) if biased => case.index < other.index,
                Some(_) => dice.below(ready) == 0,
            } {
                chosen = Some(case);
            }
        }
        let case = chosen?;
        let promise = match kind {
            WATCH => Some(Promise::Kept),
            // SAFETY: locked.
            _ => unsafe { case.port.promise() },
        };
        if let Some(promise) = promise {
            return Some((case.index as usize, case.key(), promise));
        }
    }
}

fn lock_all(cases: &[Case<'_>]) {
    let mut last = 0;
    for case in cases {
        if case.order != last {
            case.port.lock();
            last = case.order;
        }
    }
}

/// Gives all locks back, and reads nothing of the cases after the last.
///
/// # Safety
///
/// This thread has taken them with `lock_all`.
unsafe fn unlock_all(cases: &[Case<'_>]) {
    for (n, case) in cases.iter().enumerate() {
        let last = cases.get(n + 1).is_none_or(|next| next.order != case.order);
        if last {
            // SAFETY: as the caller promised; the last of the cases that share this lock.
            unsafe { case.port.unlock() };
        }
    }
}

/// Dice to throw any number of times: SplitMix64.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        /// A Weyl sequence. Two threads may draw the same number, which is as good as another.
        static SEED: AtomicU64 = AtomicU64::new(0);
        let x = SEED.load(Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        SEED.store(x, Relaxed);
        let x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Self(x ^ (x >> 29))
    }

    /// A number below `n`, in a simulation the seed's.
    fn below(&mut self, n: usize) -> usize {
        if let Some(world) = World::current() {
            return world.dice(n);
        }
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let wide = u128::from(x ^ (x >> 31)) * n as u128;
        (wide >> 64) as usize
    }
}

/// A set of operations, of which one is to be done: for sets that are not known when the program is written; see
/// [`select!`](crate::select) for the others.
///
/// ```
/// use baton::chan::{Select, unbounded};
///
/// let channels: Vec<_> = (0..3).map(|_| unbounded()).collect();
/// channels[1].0.send("hello").unwrap();
///
/// let mut select = Select::new();
/// for (_, rx) in &channels {
///     select.recv(rx);
/// }
/// let operation = select.select();
/// let (_, rx) = &channels[operation.index()];
/// assert_eq!(operation.recv(rx), Ok("hello"));
/// ```
#[derive(Clone)]
pub struct Select<'a> {
    /// Sorted by the order of locks.
    cases: Vec<Case<'a>>,
    next: usize,
    biased: bool,
}

impl Clone for Case<'_> {
    fn clone(&self) -> Self {
        Case::new(self.port, self.index as usize)
    }
}

impl<'a> Select<'a> {
    /// No operations yet. If several are ready, each has the same chance.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cases: Vec::new(),
            next: 0,
            biased: false,
        }
    }

    /// No operations yet. If several are ready, the one that was added first is chosen.
    #[must_use]
    pub fn new_biased() -> Self {
        Self {
            biased: true,
            ..Self::new()
        }
    }

    /// Adds a send, and gives its index: 0 for the first operation, and so on.
    pub fn send<T>(&mut self, sender: &'a Sender<T>) -> usize {
        self.add(sender)
    }

    /// Adds a receive, and gives its index.
    pub fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
        self.add(receiver)
    }

    fn add(&mut self, port: &'a dyn Port) -> usize {
        let index = self.next;
        self.next += 1;
        let case = Case::new(port, index);
        let at = self.cases.partition_point(|other| other.order <= case.order);
        self.cases.insert(at, case);
        index
    }

    /// Takes the operation with this index out; the others keep theirs.
    ///
    /// # Panics
    ///
    /// There is none.
    pub fn remove(&mut self, index: usize) {
        assert!(index < self.next, "index out of bounds; {index} >= {}", self.next);
        let at = self.cases.iter().position(|case| case.index as usize == index);
        self.cases.remove(at.expect("no operation with this index"));
    }

    /// Chooses an operation that can be done at once. Complete it with [`SelectedOperation::send`] or
    /// [`SelectedOperation::recv`].
    ///
    /// # Errors
    ///
    /// None can.
    pub fn try_select(&mut self) -> Result<SelectedOperation<'a>, TrySelectError> {
        self.wait(SELECT, NOW).map(SelectedOperation::new).ok_or(TrySelectError)
    }

    /// Waits until one of the operations can be done, and chooses it. Complete it as above.
    ///
    /// # Panics
    ///
    /// There are none.
    pub fn select(&mut self) -> SelectedOperation<'a> {
        self.assert_some();
        SelectedOperation::new(self.wait(SELECT, NEVER).expect("without a deadline, there is one"))
    }

    /// Waits for at most `timeout` until one of the operations can be done, and chooses it. Complete it as above.
    ///
    /// # Errors
    ///
    /// None could in time.
    pub fn select_timeout(&mut self, timeout: Duration) -> Result<SelectedOperation<'a>, SelectTimeoutError> {
        self.select_until(time::deadline_in(timeout))
    }

    /// Waits until `deadline` at most until one of the operations can be done, and chooses it. Complete it as above.
    ///
    /// # Errors
    ///
    /// None could in time.
    pub fn select_deadline(&mut self, deadline: Instant) -> Result<SelectedOperation<'a>, SelectTimeoutError> {
        self.select_until(time::deadline_at(deadline))
    }

    fn select_until(&mut self, deadline: u64) -> Result<SelectedOperation<'a>, SelectTimeoutError> {
        let chosen = self.wait(SELECT, deadline);
        chosen.map(SelectedOperation::new).ok_or(SelectTimeoutError)
    }

    /// The index of an operation that is ready now: that would not wait, or fail because the other end is gone. Somebody
    /// else may be faster, so do it with a `try_` form.
    ///
    /// # Errors
    ///
    /// None is.
    pub fn try_ready(&mut self) -> Result<usize, TryReadyError> {
        self.wait(WATCH, NOW).map(|chosen| chosen.0).ok_or(TryReadyError)
    }

    /// Waits until one of the operations is ready, and gives its index; see [`try_ready`](Self::try_ready).
    ///
    /// # Panics
    ///
    /// There are none.
    pub fn ready(&mut self) -> usize {
        self.assert_some();
        self.wait(WATCH, NEVER).expect("without a deadline, there is one").0
    }

    /// Waits for at most `timeout` until one of the operations is ready; see [`try_ready`](Self::try_ready).
    ///
    /// # Errors
    ///
    /// None was in time.
    pub fn ready_timeout(&mut self, timeout: Duration) -> Result<usize, ReadyTimeoutError> {
        self.ready_until(time::deadline_in(timeout))
    }

    /// Waits until `deadline` at most until one of the operations is ready; see [`try_ready`](Self::try_ready).
    ///
    /// # Errors
    ///
    /// None was in time.
    pub fn ready_deadline(&mut self, deadline: Instant) -> Result<usize, ReadyTimeoutError> {
        self.ready_until(time::deadline_at(deadline))
    }

    fn ready_until(&mut self, deadline: u64) -> Result<usize, ReadyTimeoutError> {
        let chosen = self.wait(WATCH, deadline);
        chosen.map(|chosen| chosen.0).ok_or(ReadyTimeoutError)
    }

    fn wait(&mut self, kind: u32, deadline: u64) -> Option<Chosen> {
        let at_once = match kind {
            SELECT => attempt(&self.cases, self.biased),
            _ => {
                checkpoint();
                None
            }
        };
        at_once.or_else(|| wait(&mut self.cases, kind, self.biased, deadline))
    }

    fn assert_some(&self) {
        assert!(!self.cases.is_empty(), "no operations have been added to `Select`");
    }
}

impl Default for Select<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Select<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Select { .. }")
    }
}

/// An operation that was chosen, and that is to be completed, on the end of the channel that was given to [`Select`].
///
/// # Panics
///
/// When it is dropped without that: the other side may be waiting for it.
#[must_use]
pub struct SelectedOperation<'a> {
    index: usize,
    key: *const (),
    promise: Promise,
    ends: PhantomData<&'a ()>,
}

impl SelectedOperation<'_> {
    fn new((index, key, promise): Chosen) -> Self {
        Self {
            index,
            key,
            promise,
            ends: PhantomData,
        }
    }

    /// The operation's index.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Completes a send.
    ///
    /// # Errors
    ///
    /// All receivers are gone; the error holds the message.
    ///
    /// # Panics
    ///
    /// `sender` is not what was given to [`Select::send`].
    pub fn send<T>(self, sender: &Sender<T>, message: T) -> Result<(), SendError<T>> {
        assert!(
            self.key == ptr::from_ref(sender).cast(),
            "passed a sender that wasn't selected"
        );
        let promise = self.promise;
        mem::forget(self);
        match promise {
            Promise::Kept | Promise::Paired(_) => sender.chan.complete_send(promise, message),
            Promise::Closed | Promise::Moment(_) => Err(SendError(message)),
        }
    }

    /// Completes a receive.
    ///
    /// # Errors
    ///
    /// The channel is empty and all senders are gone.
    ///
    /// # Panics
    ///
    /// `receiver` is not what was given to [`Select::recv`].
    pub fn recv<T>(self, receiver: &Receiver<T>) -> Result<T, RecvError> {
        assert!(
            self.key == ptr::from_ref(receiver).cast(),
            "passed a receiver that wasn't selected"
        );
        let promise = self.promise;
        mem::forget(self);
        match (promise, &receiver.flavor) {
            (Promise::Kept | Promise::Paired(_), Flavor::Chan(chan)) => Ok(chan.complete_recv(promise)),
            (Promise::Moment(due), Flavor::Clock(clock)) => Ok(clock.message(due)),
            _ => Err(RecvError),
        }
    }
}

impl Drop for SelectedOperation<'_> {
    fn drop(&mut self) {
        panic!("dropped `SelectedOperation` without completing the operation");
    }
}

impl fmt::Debug for SelectedOperation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("SelectedOperation { .. }")
    }
}
