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

mod error;
mod hchan;

pub use error::{RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError};

use crate::time::{self, heap::NEVER};
use hchan::Hchan;
use std::{
    fmt,
    iter::FusedIterator,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::{Duration, Instant},
};

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
    (
        Sender {
            chan: Arc::clone(&chan),
        },
        Receiver { chan },
    )
}

/// The sending end. Clone it for more senders; when the last is dropped, receivers get what is left and then an error.
pub struct Sender<T> {
    chan: Arc<Hchan<T>>,
}

/// The receiving end. Clone it for more receivers: each message goes to one of them. When the last is dropped, sends fail.
pub struct Receiver<T> {
    chan: Arc<Hchan<T>>,
}

impl<T> Sender<T> {
    /// Sends a message, waiting for room (or, in a rendezvous, for a receiver).
    ///
    /// # Errors
    ///
    /// All receivers are gone; the error holds the message.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let sent = self.chan.send(message, NEVER);
        sent.map_err(|error| SendError(error.into_inner()))
    }

    /// Sends a message if that needs no waiting.
    ///
    /// # Errors
    ///
    /// There is no room, or all receivers are gone; the error holds the message.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.chan.try_send(message)
    }

    /// Sends a message, waiting for room (or, in a rendezvous, for a receiver) for at most `timeout`.
    ///
    /// # Errors
    ///
    /// There was no room in time, or all receivers are gone; the error holds the message.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (tx, rx) = baton::chan::bounded(1);
    /// tx.send(1).unwrap();
    /// let error = tx.send_timeout(2, Duration::from_millis(1)).unwrap_err();
    /// assert!(error.is_timeout());
    /// # drop(rx);
    /// ```
    pub fn send_timeout(&self, message: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        self.chan.send(message, time::deadline_in(timeout))
    }

    /// Sends a message, waiting for room (or, in a rendezvous, for a receiver) until `deadline`.
    ///
    /// # Errors
    ///
    /// As for [`send_timeout`](Self::send_timeout).
    pub fn send_deadline(&self, message: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        self.chan.send(message, time::deadline_at(deadline))
    }

    /// Whether no message is in the channel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the channel holds all that it can; a rendezvous is always full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.capacity() == Some(self.len())
    }

    /// How many messages are in the channel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chan.len()
    }

    /// How many messages the channel holds at most; `None` if it is unbounded.
    #[must_use]
    pub fn capacity(&self) -> Option<usize> {
        self.chan.capacity()
    }

    /// Whether both are ends of one channel.
    #[must_use]
    pub fn same_channel(&self, other: &Sender<T>) -> bool {
        Arc::ptr_eq(&self.chan, &other.chan)
    }
}

impl<T> Receiver<T> {
    /// Receives a message, waiting for one.
    ///
    /// # Errors
    ///
    /// The channel is empty and all senders are gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.chan.recv(NEVER).map_err(|_| RecvError)
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// There is none now, or there will be none any more.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.chan.try_recv()
    }

    /// Receives a message, waiting for one for at most `timeout`.
    ///
    /// # Errors
    ///
    /// There was none in time, or there will be none any more.
    ///
    /// ```
    /// use baton::chan::{self, RecvTimeoutError};
    /// use std::time::Duration;
    ///
    /// let (tx, rx) = chan::unbounded::<()>();
    /// assert_eq!(rx.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
    /// # drop(tx);
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.chan.recv(time::deadline_in(timeout))
    }

    /// Receives a message, waiting for one until `deadline`.
    ///
    /// # Errors
    ///
    /// As for [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.chan.recv(time::deadline_at(deadline))
    }

    /// Whether no message is in the channel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the channel holds all that it can; a rendezvous is always full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.capacity() == Some(self.len())
    }

    /// How many messages are in the channel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chan.len()
    }

    /// How many messages the channel holds at most; `None` if it is unbounded.
    #[must_use]
    pub fn capacity(&self) -> Option<usize> {
        self.chan.capacity()
    }

    /// Whether both are ends of one channel.
    #[must_use]
    pub fn same_channel(&self, other: &Receiver<T>) -> bool {
        Arc::ptr_eq(&self.chan, &other.chan)
    }

    /// The messages, one after the other, waiting for each, until all senders are gone.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self }
    }

    /// The messages that are there, without waiting for more.
    #[must_use]
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter { receiver: self }
    }
}

impl<T> UnwindSafe for Sender<T> {}
impl<T> RefUnwindSafe for Sender<T> {}
impl<T> UnwindSafe for Receiver<T> {}
impl<T> RefUnwindSafe for Receiver<T> {}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.chan.add_sender();
        Self {
            chan: Arc::clone(&self.chan),
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.chan.add_receiver();
        Self {
            chan: Arc::clone(&self.chan),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.chan.remove_sender();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.chan.remove_receiver();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Sender { .. }")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Receiver { .. }")
    }
}

/// See [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// See [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// The messages of a receiver that the iterator owns.
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
}

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.recv().ok()
    }
}

impl<T> FusedIterator for Iter<'_, T> {}

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.recv().ok()
    }
}

impl<T> FusedIterator for IntoIter<T> {}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { receiver: self }
    }
}
