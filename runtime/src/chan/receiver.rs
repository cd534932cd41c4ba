//! The receiving end: of a channel, or of the clock.
#![forbid(unsafe_code)]

use super::{
    clock::{self, Clock},
    error::{RecvError, RecvTimeoutError, TryRecvError},
    hchan::Hchan,
    stream::Listener,
};
use crate::{
    sched::checkpoint,
    time::{self, heap::NEVER},
};
use std::{
    fmt,
    iter::FusedIterator,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::{Duration, Instant},
};

/// The receiving end. Clone it for more receivers: each message goes to one of them. When the last is dropped, sends fail.
pub struct Receiver<T> {
    pub(super) flavor: Flavor<T>,
    /// Of a stream that was polled in vain.
    pub(super) listener: Option<Box<Listener>>,
}

/// What a receiver receives from.
pub(super) enum Flavor<T> {
    Chan(Arc<Hchan<T>>),
    Clock(Arc<Clock<T>>),
    Never,
}

impl<T> Receiver<T> {
    pub(super) fn new(flavor: Flavor<T>) -> Self {
        Self { flavor, listener: None }
    }

    /// Receives a message, waiting for one.
    ///
    /// # Errors
    ///
    /// The channel is empty and all senders are gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.recv_until(NEVER).map_err(|_| RecvError)
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// There is none now, or there will be none any more.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        match &self.flavor {
            Flavor::Chan(chan) => chan.try_recv(),
            Flavor::Clock(clock) => clock.try_recv(),
            Flavor::Never => Err(TryRecvError::Empty),
        }
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
        self.recv_until(time::deadline_in(timeout))
    }

    /// Receives a message, waiting for one until `deadline`.
    ///
    /// # Errors
    ///
    /// As for [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.recv_until(time::deadline_at(deadline))
    }

    #[inline]
    fn recv_until(&self, deadline: u64) -> Result<T, RecvTimeoutError> {
        match &self.flavor {
            Flavor::Chan(chan) => chan.recv(deadline),
            _ => self.recv_by_clock(deadline),
        }
    }

    /// Receives from what is no channel.
    #[cold]
    fn recv_by_clock(&self, deadline: u64) -> Result<T, RecvTimeoutError> {
        match &self.flavor {
            Flavor::Chan(_) => unreachable!("a channel is no clock"),
            Flavor::Clock(clock) => clock.recv(deadline),
            Flavor::Never => {
                checkpoint();
                clock::wait_until(deadline);
                Err(RecvTimeoutError::Timeout)
            }
        }
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
        match &self.flavor {
            Flavor::Chan(chan) => chan.len(),
            Flavor::Clock(clock) => usize::from(clock.is_due()),
            Flavor::Never => 0,
        }
    }

    /// How many messages the channel holds at most; `None` if it is unbounded.
    #[must_use]
    pub fn capacity(&self) -> Option<usize> {
        match &self.flavor {
            Flavor::Chan(chan) => chan.capacity(),
            Flavor::Clock(_) => Some(1),
            Flavor::Never => Some(0),
        }
    }

    /// Whether both are ends of one channel.
    #[must_use]
    pub fn same_channel(&self, other: &Receiver<T>) -> bool {
        match (&self.flavor, &other.flavor) {
            (Flavor::Chan(a), Flavor::Chan(b)) => Arc::ptr_eq(a, b),
            (Flavor::Clock(a), Flavor::Clock(b)) => Arc::ptr_eq(a, b),
            (Flavor::Never, Flavor::Never) => true,
            _ => false,
        }
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

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        let flavor = match &self.flavor {
            Flavor::Chan(chan) => {
                chan.add_receiver();
                Flavor::Chan(Arc::clone(chan))
            }
            Flavor::Clock(clock) => Flavor::Clock(Arc::clone(clock)),
            Flavor::Never => Flavor::Never,
        };
        Self::new(flavor)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.stop_listening();
        if let Flavor::Chan(chan) = &self.flavor {
            chan.remove_receiver();
        }
    }
}

impl<T> UnwindSafe for Receiver<T> {}
impl<T> RefUnwindSafe for Receiver<T> {}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Receiver { .. }")
    }
}

/// See [`Receiver::iter`].
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// See [`Receiver::try_iter`].
pub struct TryIter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// The messages of a receiver that the iterator owns.
pub struct IntoIter<T> {
    receiver: Receiver<T>,
}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Iter { .. }")
    }
}

impl<T> fmt::Debug for TryIter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("TryIter { .. }")
    }
}

impl<T> fmt::Debug for IntoIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("IntoIter { .. }")
    }
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
