//! One direction of a channel as those see it who select: whatever its messages are, and whatever the channel is.
//!
//! A channel of time has no lock and no list: it is ready when its moment has come, which those who wait learn from the
//! deadline that [`Port::due`] tells them.

use super::{
    promise::Promise,
    receiver::{Flavor, Receiver},
    sender::Sender,
};
use crate::{time::heap::NEVER, waitlist::Node};
use std::sync::Arc;

/// One direction of a channel, for those who select.
///
/// # Safety of the calls
///
/// Those that are `unsafe` are for who has called `lock` and not yet `unlock`, on this thread; the others but `order` and `due`
/// for who has not.
pub(super) trait Port {
    /// The place in the order of locks; two ports of one channel have the same. 0: there is no lock.
    fn order(&self) -> usize;
    fn lock(&self);
    unsafe fn unlock(&self);
    /// Whether the operation would not wait, as far as one can see.
    unsafe fn is_ready(&self) -> bool;
    /// Decides for the operation; `None` if it was not ready after all.
    unsafe fn promise(&self) -> Option<Promise>;
    /// At a rendezvous, says to those who watch the other direction that somebody is about to wait in this one. It is not ready,
    /// and the caller waits nowhere yet.
    unsafe fn announce(&self);
    /// Puts the node on the list of those who wait for this operation.
    unsafe fn enqueue(&self, node: &Node);
    /// Takes it off if it is still there.
    unsafe fn dequeue(&self, node: &Node);
    /// When it becomes ready by itself.
    fn due(&self) -> u64 {
        NEVER
    }

    /// Decides for the operation if it is ready.
    fn attempt(&self) -> Option<Promise> {
        self.lock();
        // SAFETY: locked.
        let ready = unsafe { self.is_ready() };
        // SAFETY: locked.
        let promise = if ready { unsafe { self.promise() } } else { None };
        // SAFETY: locked.
        unsafe { self.unlock() };
        promise
    }

    /// Takes the node off the list if it is still there.
    fn withdraw(&self, node: &Node) {
        self.lock();
        // SAFETY: locked.
        unsafe { self.dequeue(node) };
        // SAFETY: locked.
        unsafe { self.unlock() };
    }
}

impl<T> Port for Sender<T> {
    fn order(&self) -> usize {
        Arc::as_ptr(&self.chan).addr()
    }

    fn lock(&self) {
        self.chan.lock();
    }

    unsafe fn unlock(&self) {
        // SAFETY: as the caller promised.
        unsafe { self.chan.unlock() };
    }

    unsafe fn is_ready(&self) -> bool {
        // SAFETY: as the caller promised.
        unsafe { self.chan.locked() }.send_ready()
    }

    unsafe fn promise(&self) -> Option<Promise> {
        // SAFETY: as the caller promised.
        unsafe { self.chan.locked() }.promise_send()
    }

    unsafe fn announce(&self) {
        // SAFETY: as the caller promised.
        unsafe { self.chan.locked() }.announce_sender();
    }

    unsafe fn enqueue(&self, node: &Node) {
        // SAFETY: as the caller promised.
        unsafe { self.chan.locked() }.senders.push(node);
    }

    unsafe fn dequeue(&self, node: &Node) {
        // SAFETY: as the caller promised.
        unsafe { self.chan.locked() }.senders.remove(node);
    }
}

impl<T> Port for Receiver<T> {
    fn order(&self) -> usize {
        match &self.flavor {
            Flavor::Chan(chan) => Arc::as_ptr(chan).addr(),
            Flavor::Clock(_) | Flavor::Never => 0,
        }
    }

    fn lock(&self) {
        if let Flavor::Chan(chan) = &self.flavor {
            chan.lock();
        }
    }

    unsafe fn unlock(&self) {
        if let Flavor::Chan(chan) = &self.flavor {
            // SAFETY: as the caller promised.
            unsafe { chan.unlock() };
        }
    }

    unsafe fn is_ready(&self) -> bool {
        match &self.flavor {
            // SAFETY: as the caller promised.
            Flavor::Chan(chan) => unsafe { chan.locked() }.recv_ready(),
            Flavor::Clock(clock) => clock.is_due(),
            Flavor::Never => false,
        }
    }

    unsafe fn promise(&self) -> Option<Promise> {
        match &self.flavor {
            // SAFETY: as the caller promised.
            Flavor::Chan(chan) => unsafe { chan.locked() }.promise_recv(),
            Flavor::Clock(clock) => clock.try_take().map(Promise::Moment),
            Flavor::Never => None,
        }
    }

    unsafe fn announce(&self) {
        if let Flavor::Chan(chan) = &self.flavor {
            // SAFETY: as the caller promised.
            unsafe { chan.locked() }.announce_receiver();
        }
    }

    unsafe fn enqueue(&self, node: &Node) {
        if let Flavor::Chan(chan) = &self.flavor {
            // SAFETY: as the caller promised.
            unsafe { chan.locked() }.receivers.push(node);
        }
    }

    unsafe fn dequeue(&self, node: &Node) {
        if let Flavor::Chan(chan) = &self.flavor {
            // SAFETY: as the caller promised.
            unsafe { chan.locked() }.receivers.remove(node);
        }
    }

    fn due(&self) -> u64 {
        match &self.flavor {
            Flavor::Clock(clock) => clock.due(),
            Flavor::Chan(_) | Flavor::Never => NEVER,
        }
    }
}
