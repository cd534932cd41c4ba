//! Counting semaphores.

use super::{
    Until, park,
    shim::{
        AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};
use crate::lock::{Mutex, MutexGuard};
use crate::{
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    waitlist::{Node, WaitList},
};
use std::{
    fmt, mem,
    panic::{RefUnwindSafe, UnwindSafe},
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

/// A number of permits, handed out in the order in which they were asked for.
///
/// ```text
///   state   permits ──── │ WAITERS        queue   first ─▶ … ─▶ last, each wants so many
/// ```
///
/// While anybody waits, whoever comes waits behind; permits that come back go to the first as soon as there are enough for
/// it. What happened before permits came back has happened for whoever gets them.
///
/// ```
/// use baton::{go, sync::Semaphore};
/// use std::sync::Arc;
///
/// baton::run(|| {
///     let at_a_time = Arc::new(Semaphore::new(3));
///     let workers: Vec<_> = (0..10)
///         .map(|_| {
///             let permit = at_a_time.acquire_arc(1); // waits until one of three is free
///             go!(move || drop(permit))
///         })
///         .collect();
///     workers.into_iter().for_each(|worker| worker.join().unwrap());
///     assert_eq!(at_a_time.available_permits(), 3);
/// });
/// ```
pub struct Semaphore {
    /// `WAITERS` changes under the queue's lock, and is set by whoever found too few permits, in one step.
    state: AtomicUsize,
    queue: Mutex<WaitList>,
}

/// The queue is not empty.
const WAITERS: usize = 1;
/// One permit.
const PERMIT: usize = 2;

/// Permits of a [`Semaphore`], given back when this is dropped.
#[must_use = "permits go back when this is dropped"]
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    n: usize,
}

impl<'a> Permit<'a> {
    /// The guard of `n` permits that were taken.
    pub(crate) fn of(semaphore: &'a Semaphore, n: usize) -> Self {
        Self { semaphore, n }
    }
}

/// Permits that keep their [`Semaphore`] alive.
#[must_use = "permits go back when this is dropped"]
#[derive(Debug)]
pub struct ArcPermit {
    semaphore: Arc<Semaphore>,
    n: usize,
}

impl Semaphore {
    /// The most permits that a semaphore can have.
    pub const MAX_PERMITS: usize = usize::MAX >> 3;

    /// A semaphore with `permits` to hand out.
    ///
    /// # Panics
    ///
    /// If they are more than [`MAX_PERMITS`](Self::MAX_PERMITS).
    #[must_use]
    #[cfg(not(baton_loom))]
    pub const fn new(permits: usize) -> Self {
        assert!(permits <= Self::MAX_PERMITS, "more permits than a semaphore can have");
        Self {
            state: AtomicUsize::new(permits * PERMIT),
            queue: Mutex::new(WaitList::new()),
        }
    }

    #[cfg(baton_loom)]
    pub(super) fn new(permits: usize) -> Self {
        Self {
            state: AtomicUsize::new(permits * PERMIT),
            queue: Mutex::new(WaitList::new()),
        }
    }

    /// Waits for `n` permits and takes them.
    ///
    /// More than there will ever be are waited for for ever.
    pub fn acquire(&self, n: usize) -> Permit<'_> {
        self.take(n, Until::FOREVER);
        Permit::of(self, n)
    }

    /// Takes `n` permits if that needs no waiting: there are as many, and nobody waits.
    pub fn try_acquire(&self, n: usize) -> Option<Permit<'_>> {
        self.try_take(n).then(|| Permit::of(self, n))
    }

    /// As [`acquire`](Self::acquire), but `None` after `timeout`.
    pub fn acquire_for(&self, n: usize, timeout: Duration) -> Option<Permit<'_>> {
        self.take(n, Until::timeout(timeout)).then(|| Permit::of(self, n))
    }

    /// As [`acquire`](Self::acquire), but `None` after `deadline`.
    pub fn acquire_until(&self, n: usize, deadline: Instant) -> Option<Permit<'_>> {
        self.take(n, Until::instant(deadline)).then(|| Permit::of(self, n))
    }

    /// As [`acquire`](Self::acquire), for permits that may go anywhere.
    pub fn acquire_arc(self: &Arc<Self>, n: usize) -> ArcPermit {
        self.take(n, Until::FOREVER);
        ArcPermit {
            semaphore: Arc::clone(self),
            n,
        }
    }

    /// As [`try_acquire`](Self::try_acquire), for permits that may go anywhere.
    pub fn try_acquire_arc(self: &Arc<Self>, n: usize) -> Option<ArcPermit> {
        let semaphore = self.try_take(n).then(|| Arc::clone(self))?;
        Some(ArcPermit { semaphore, n })
    }

    /// Adds `n` permits.
    ///
    /// # Panics
    ///
    /// If there were more than [`MAX_PERMITS`](Self::MAX_PERMITS) then.
    pub fn add_permits(&self, n: usize) {
        assert!(n <= Self::MAX_PERMITS, "more permits than a semaphore can have");
        let before = self.state.fetch_add(n * PERMIT, Release);
        assert!(
            before / PERMIT + n <= Self::MAX_PERMITS,
            "more permits than a semaphore can have"
        );
        if before & WAITERS != 0 {
            self.hand_out(self.queue.lock());
        }
    }

    /// Permits that could be taken now.
    #[must_use]
    pub fn available_permits(&self) -> usize {
        self.state.load(Acquire) / PERMIT
    }

    /// Those that wait for permits now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    #[inline]
    fn try_take(&self, n: usize) -> bool {
        let mut state = self.state.load(Relaxed);
        while state & WAITERS == 0 && state / PERMIT >= n {
            match self
                .state
                .compare_exchange_weak(state, state - n * PERMIT, Acquire, Relaxed)
            {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    #[inline]
    pub(crate) fn take(&self, n: usize, until: Until<'_>) -> bool {
        checkpoint();
        self.try_take(n) || self.take_slow(n, until)
    }

    #[cold]
    fn take_slow(&self, n: usize, until: Until<'_>) -> bool {
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::without_provenance_mut(n));
        let mut queue = self.queue.lock(); // held until g0 has parked this party
        let mut state = self.state.load(Relaxed);
        loop {
            // Under the lock, and with nobody in the queue, WAITERS is not set.
            let enough = state & WAITERS == 0 && state / PERMIT >= n;
            let next = if enough { state - n * PERMIT } else { state | WAITERS };
            match self.state.compare_exchange_weak(state, next, Acquire, Relaxed) {
                Ok(_) if enough => return true,
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        queue.push(&node);
        let commit = move || {
            drop(queue);
            true
        };
        let got = park(&waiter, WaitReason::Semaphore, until, commit);
        if !got {
            let mut queue = self.queue.lock();
            queue.remove(&node);
            self.hand_out(queue); // those behind may want less
        }
        got
    }

    /// Hands permits to those at the front, for as long as there are enough for the first.
    fn hand_out(&self, mut queue: MutexGuard<'_, WaitList>) {
        let mut served = WaitList::new();
        while let Some(first) = queue.front() {
            let n = first.data.addr();
            if self.state.load(Relaxed) / PERMIT < n {
                break;
            }
            // Nobody else takes permits while the queue is not empty, and its lock is ours. Acquire: with all that
            // happened before they came back.
            self.state.fetch_sub(n * PERMIT, AcqRel);
            match queue.pop() {
                // SAFETY: found on this list, whose lock is held.
                Some(node) if unsafe { node.claim(Event::Done) } => served.push(node),
                _ => {
                    self.state.fetch_add(n * PERMIT, Release); // it has just timed out
                }
            }
        }
        if queue.is_empty() {
            self.state.fetch_and(!WAITERS, Relaxed);
        }
        drop(queue);
        served.wake_all();
    }
}

impl Permit<'_> {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.n
    }

    /// Takes the permits out of circulation.
    pub fn forget(self) {
        mem::forget(self);
    }
}

impl ArcPermit {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.n
    }

    /// Takes the permits out of circulation.
    pub fn forget(mut self) {
        self.n = 0;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.add_permits(self.n);
    }
}

impl Drop for ArcPermit {
    fn drop(&mut self) {
        self.semaphore.add_permits(self.n);
    }
}

// Its lists are whole whenever nobody is inside: no call here unwinds midway.
impl RefUnwindSafe for Semaphore {}
impl UnwindSafe for Semaphore {}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.available_permits())
            .finish()
    }
}
