//! A receiver as a stream, for executors.
//!
//! A poll that finds no message leaves a node on the channel's list which only *watches*, as that of `Select::ready` does: it
//! takes nothing and promises nothing, so a stream that is dropped, or polled no more, keeps no message from anybody. What it
//! costs: each message wakes all streams that wait on its channel, and the first to look gets it.

use super::{
    error::TryRecvError,
    hchan::WATCH,
    port::Port,
    receiver::{Flavor, Receiver},
};
use crate::future::{driver::Alarm, task::Task};
use futures_core::Stream;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// What a stream that was polled in vain waits for.
pub(super) enum Listener {
    /// A node on the channel's list, or one that was there.
    Channel(Arc<Task>),
    Clock(Option<Alarm>),
}

/// The messages, one after the other, until all senders are gone.
///
/// Any number of streams, goroutines and threads may receive from one channel. Dropped while it waits, a stream leaves nothing
/// behind. The channels of [`after`](super::after), [`at`](super::at), [`tick`](super::tick) and [`never`](super::never()) are streams
/// that never end.
///
/// ```
/// use futures_util::StreamExt;
///
/// let (tx, mut rx) = baton::chan::bounded(1);
/// baton::go!(move || (1..=3).for_each(|n| tx.send(n).unwrap()));
/// let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let sum = tokio.block_on(async {
///     let mut sum = 0;
///     while let Some(n) = rx.next().await {
///         sum += n;
///     }
///     sum
/// });
/// assert_eq!(sum, 6);
/// ```
impl<T> Stream for Receiver<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.get_mut();
        loop {
            match this.try_recv() {
                Ok(message) => return Poll::Ready(Some(message)),
                Err(TryRecvError::Disconnected) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => {}
            }
            if this.listen(cx.waker()) {
                return Poll::Pending;
            }
        }
    }
}

impl<T> Receiver<T> {
    /// Sees to it that the waker is called when a look is worth while. `false`: it is now.
    fn listen(&mut self, waker: &Waker) -> bool {
        match &self.flavor {
            Flavor::Chan(_) => return self.listen_to_channel(waker),
            Flavor::Clock(clock) => {
                let due = clock.due();
                let listener = self.listener.get_or_insert_with(|| Box::new(Listener::Clock(None)));
                if let Listener::Clock(alarm) = &mut **listener {
                    Alarm::arm(alarm, due, waker);
                }
            }
            Flavor::Never => {}
        }
        true
    }

    fn listen_to_channel(&mut self, waker: &Waker) -> bool {
        let listener = self
            .listener
            .get_or_insert_with(|| Box::new(Listener::Channel(Task::idle(WATCH))));
        let Listener::Channel(task) = &mut **listener else {
            return true;
        };
        if task.renew(waker) {
            return true; // its node is on the list, or the wake is on its way
        }
        match Arc::get_mut(task) {
            Some(task) => task.reset(waker),
            None => *task = Task::new(waker, WATCH), // whoever woke the old one has not let go of it yet
        }
        let task = Arc::clone(task);
        self.lock();
        // SAFETY: locked.
        let ready = unsafe { self.is_ready() };
        if !ready {
            // SAFETY: locked.
            unsafe { self.enqueue(Task::enlist(&task)) };
        }
        // SAFETY: locked.
        unsafe { self.unlock() };
        if ready {
            task.forget();
        }
        !ready
    }

    /// Takes back what was left on the channel's list.
    pub(super) fn stop_listening(&mut self) {
        let Some(Listener::Channel(task)) = self.listener.take().map(|listener| *listener) else {
            return;
        };
        self.lock();
        let delisted = Task::delist(&task);
        if let Some((node, _)) = &delisted {
            // SAFETY: locked.
            unsafe { self.dequeue(node) };
        }
        // SAFETY: locked.
        unsafe { self.unlock() };
        drop(delisted);
        task.forget();
    }
}
