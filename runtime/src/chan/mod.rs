//! Channels, in the shape of crossbeam-channel's: many senders, many receivers, goroutines and plain threads on both ends.
//!
//! ```
//! use baton::{chan, go};
//!
//! baton::run(|| {
//!     let (tx, rx) = chan::bounded(0); // a rendezvous: a send waits for its receiver
//!     go!(move || {
//!         for word in ["one", "two"] {
//!             tx.send(word).unwrap();
//!         }
//!     });
//!     assert_eq!(rx.iter().collect::<Vec<_>>(), ["one", "two"]);
//! });
//! ```
//!
//! A program written for crossbeam-channel compiles after `use baton::chan as crossbeam_channel;`, and means the same.
//!
//! | constructor | receivers get |
//! |---|---|
//! | [`bounded`], [`unbounded`] | what senders send |
//! | [`after`], [`at`] | one moment, when it has come |
//! | [`tick`] | a moment at regular intervals |
//! | [`never()`] | nothing, ever |
//!
//! [`select!`](crate::select), [`select_biased!`](crate::select_biased) and [`Select`] wait for several operations at once.
//!
//! # Waiting
//!
//! Whatever waits here parks the goroutine, or, in a plain thread, the thread. A message goes straight to a receiver that
//! waits; a woken receiver runs next on the processor of the one who woke it. No operation allocates, but for the growth
//! of an unbounded channel's queue, whose room stays.

mod clock;
mod error;
mod hchan;
mod pairs;
mod port;
mod promise;
mod receiver;
mod select;
mod select_macro;
mod sender;
mod stream;

pub use crate::{select, select_biased};
pub use error::{
    ReadyTimeoutError, RecvError, RecvTimeoutError, SelectTimeoutError, SendError, SendTimeoutError, TryReadyError,
    TryRecvError, TrySelectError, TrySendError,
};
pub use receiver::{IntoIter, Iter, Receiver, TryIter};
pub use select::{Select, SelectedOperation};
pub use sender::Sender;

use crate::time;
use clock::Clock;
use hchan::Hchan;
use receiver::Flavor;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What `select!` expands to.
#[doc(hidden)]
pub mod internal {
    pub use super::select::{Case, receiving, select, select_until, sending, try_select};
}

/// A channel that holds at most `capacity` messages; with 0, a send waits until a receiver takes its message.
///
/// ```
/// let (tx, rx) = baton::chan::bounded(1);
/// tx.send(5).unwrap();
/// assert!(tx.is_full());
/// assert_eq!(rx.recv(), Ok(5));
/// ```
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    ends(Hchan::new(Some(capacity)))
}

/// A channel that holds as many messages as there is memory for: a send never waits.
///
/// ```
/// let (tx, rx) = baton::chan::unbounded();
/// for i in 0..1000 {
///     tx.send(i).unwrap();
/// }
/// drop(tx);
/// assert_eq!(rx.iter().sum::<i32>(), 499_500);
/// ```
#[must_use]
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    ends(Hchan::new(None))
}

fn ends<T>(chan: Hchan<T>) -> (Sender<T>, Receiver<T>) {
    let chan = Arc::new(chan);
    let receiver = Receiver::new(Flavor::Chan(Arc::clone(&chan)));
    (Sender { chan }, receiver)
}

/// A channel that gives one message, the moment at which it does, when `duration` has passed.
///
/// ```
/// use baton::chan::{after, select, unbounded};
/// use std::time::Duration;
///
/// let (_tx, rx) = unbounded::<i32>();
/// select! {
///     recv(rx) -> _ => unreachable!("nobody sends"),
///     recv(after(Duration::from_millis(1))) -> _ => println!("timed out"),
/// }
/// ```
#[must_use]
pub fn after(duration: Duration) -> Receiver<Instant> {
    match Instant::now().checked_add(duration) {
        Some(when) => clock(Clock::new(when, time::deadline_in(duration), None)),
        None => never(),
    }
}

/// A channel that gives one message, `when`, as soon as that has come.
///
/// ```
/// use std::time::Instant;
///
/// let now = Instant::now();
/// assert_eq!(baton::chan::at(now).recv(), Ok(now));
/// ```
#[must_use]
pub fn at(when: Instant) -> Receiver<Instant> {
    clock(Clock::new(when, time::deadline_at(when), None))
}

/// A channel that gives a message, the moment at which it does, each `duration`. It holds one at a time: ticks that nobody
/// took in time are left out.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let start = Instant::now();
/// let ticker = baton::chan::tick(Duration::from_millis(1));
/// for n in 1..=3 {
///     assert!(ticker.recv().unwrap() >= start + n * Duration::from_millis(1));
/// }
/// ```
#[must_use]
pub fn tick(duration: Duration) -> Receiver<Instant> {
    match Instant::now().checked_add(duration) {
        Some(when) => clock(Clock::new(when, time::deadline_in(duration), Some(duration))),
        None => never(),
    }
}

fn clock(clock: Clock<Instant>) -> Receiver<Instant> {
    Receiver::new(Flavor::Clock(Arc::new(clock)))
}

/// A channel that never gives anything: Go's nil channel. It stands for an operation of a `select!` that is left out.
///
/// ```
/// use baton::chan::{never, select, unbounded};
///
/// let (tx, rx) = unbounded();
/// tx.send(1).unwrap();
/// let (paused, closed) = (true, never());
/// select! {
///     recv(if paused { &closed } else { &rx }) -> _ => unreachable!("not now"),
///     default => {}
/// }
/// ```
#[must_use]
pub fn never<T>() -> Receiver<T> {
    Receiver::new(Flavor::Never)
}
