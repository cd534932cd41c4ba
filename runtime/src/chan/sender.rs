//! The sending end.
#![forbid(unsafe_code)]

use super::{
    error::{SendError, SendTimeoutError, TrySendError},
    hchan::Hchan,
};
use crate::time::{self, heap::NEVER};
use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::{Duration, Instant},
};

/// The sending end. Clone it for more senders; when the last is dropped, receivers get what is left and then an error.
pub struct Sender<T> {
    pub(super) chan: Arc<Hchan<T>>,
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

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.chan.add_sender();
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

impl<T> UnwindSafe for Sender<T> {}
impl<T> RefUnwindSafe for Sender<T> {}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Sender { .. }")
    }
}
