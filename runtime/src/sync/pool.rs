//! A pool of objects that lie with the processors (Go's `sync.Pool`).
//!
//! ```text
//!   get ◀─ shard of this P ◀─ half a shard ─ shared ─▶ half a shard ─▶ shard of another P ─▶ get
//!   put ─▶                 ─ half a shard ─▶        ◀─                                    ◀─ put
//!          (no lock: one section)        (a bounded queue)
//! ```
//!
//! # Invariants
//!
//! 1. A shard is touched inside a section of the P with its number only (so it goes along when that P moves), and by
//!    `drop`.
//! 2. The first `len` slots of a shard are objects.
//! 3. All of a shard's memory was touched before any section does.

use crate::{m, procs, sched::checkpoint};
use crossbeam_queue::ArrayQueue;
use std::{
    array,
    cell::UnsafeCell,
    fmt,
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
};

/// Objects that a P keeps.
const SHARD: usize = 16;

/// What goes to and fro between a shard and the shared objects.
const BATCH: usize = SHARD / 2;

/// Shared objects per P; what is more is dropped.
const SHARED_PER_P: usize = 64;

/// Objects that are dear to make and are used again and again.
///
/// Each processor keeps a few of them, and takes them along when it moves from one thread to another; `get` and `put` on
/// them cost some nanoseconds and no lock. What is too much for one processor is shared, and what is too much for all is
/// dropped: a pool keeps at most 80 objects per processor. Objects move in and out, so put large ones in a `Box`.
///
/// Goroutines that have lost their processor, and plain threads, use the shared ones.
///
/// ```
/// use baton::sync::Pool;
///
/// let buffers = Pool::new(|| Vec::<u8>::with_capacity(4096));
/// let mut buffer = buffers.get();
/// buffer.clear(); // it is as its last user left it
/// buffer.extend(b"hello");
/// drop(buffer); // back to the pool
/// ```
pub struct Pool<T> {
    make: Box<dyn Fn() -> T + Send + Sync>,
    shards: Box<[Shard<T>]>,
    shared: ArrayQueue<T>,
}

/// An object of a [`Pool`], which goes back there when this is dropped.
pub struct Pooled<'a, T> {
    pool: &'a Pool<T>,
    object: ManuallyDrop<T>,
}

/// Alone on its cache lines.
#[repr(align(128))]
struct Shard<T>(UnsafeCell<Slots<T>>);

struct Slots<T> {
    len: usize,
    slots: [MaybeUninit<T>; SHARD],
}

// SAFETY: shards are reached by one party at a time (invariant 1), which may be on any thread, so `T` is sent from thread
// to thread; it is never shared.
unsafe impl<T: Send> Sync for Pool<T> {}
// SAFETY: it owns its objects.
unsafe impl<T: Send> Send for Pool<T> {}

impl<T> Slots<T> {
    fn empty() -> Self {
        Self {
            len: 0,
            slots: array::from_fn(|_| MaybeUninit::zeroed()), // and so touched (invariant 3)
        }
    }

    fn pop(&mut self) -> Option<T> {
        let last = self.slots.get(self.len.checked_sub(1)?)?;
        self.len -= 1;
        // SAFETY: it was one of the first `len`, and is not from now on (invariant 2).
        Some(unsafe { last.assume_init_read() })
    }

    fn push(&mut self, object: T) -> Result<(), T> {
        let Some(slot) = self.slots.get_mut(self.len) else {
            return Err(object);
        };
        slot.write(object);
        self.len += 1;
        Ok(())
    }
}

impl<T> Pool<T> {
    /// An empty pool, whose objects `make` makes when there are none to be had.
    pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let shard = |_| Shard(UnsafeCell::new(Slots::empty()));
        Self {
            make: Box::new(make),
            shards: (0..procs()).map(shard).collect(),
            shared: ArrayQueue::new(SHARED_PER_P * procs()),
        }
    }

    /// An object, as its last user left it, or a new one.
    pub fn get(&self) -> Pooled<'_, T> {
        Pooled {
            pool: self,
            object: ManuallyDrop::new(self.take()),
        }
    }

    /// An object that leaves the pool; [`put`](Self::put) brings it back.
    pub fn take(&self) -> T {
        checkpoint();
        self.with_shard(Slots::pop)
            .flatten()
            .or_else(|| self.take_shared())
            .unwrap_or_else(|| (self.make)())
    }

    /// Brings an object back, or a new one in.
    pub fn put(&self, object: T) {
        let mut object = Some(object);
        self.with_shard(|slots| object = object.take().and_then(|object| slots.push(object).err()));
        if let Some(object) = object {
            self.put_shared(object);
        }
    }

    /// One section on this P's shard; `None` if there is no P or no shard for it.
    fn with_shard<R>(&self, mut f: impl FnMut(&mut Slots<T>) -> R) -> Option<R> {
        // SAFETY: this thread's M. What `f` does is move an object and count: a leaf. Inside a section of the P with the
        // shard's number the shard is ours (invariant 1).
        unsafe { m::current()?.with_p(|p, _| self.shards.get(p.id).map(|shard| f(&mut *shard.0.get()))) }.flatten()
    }

    /// Half a shard from the shared objects: one for the caller, the others for its shard.
    #[cold]
    fn take_shared(&self) -> Option<T> {
        let mut batch = Slots::empty();
        while batch.len < BATCH
            && let Some(object) = self.shared.pop()
        {
            batch.push(object).ok();
        }
        let first = batch.pop();
        self.with_shard(|slots| {
            while slots.len < SHARD
                && let Some(object) = batch.pop()
            {
                slots.push(object).ok();
            }
        });
        self.share(batch);
        first
    }

    /// Moves half of this P's shard, which is full, to the shared objects, and `object` with it.
    #[cold]
    fn put_shared(&self, object: T) {
        let mut batch = Slots::empty();
        batch.push(object).ok();
        self.with_shard(|slots| {
            while batch.len < BATCH
                && slots.len > BATCH
                && let Some(object) = slots.pop()
            {
                batch.push(object).ok();
            }
        });
        self.share(batch);
    }

    /// Shares the objects of a batch; those that find no room are dropped.
    fn share(&self, mut batch: Slots<T>) {
        while let Some(object) = batch.pop() {
            if self.shared.push(object).is_err() {
                break;
            }
        }
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T> Deref for Pooled<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T> DerefMut for Pooled<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.object
    }
}

impl<T> Drop for Pooled<'_, T> {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        let object = unsafe { ManuallyDrop::take(&mut self.object) };
        self.pool.put(object);
    }
}

impl<T: fmt::Debug> fmt::Debug for Pooled<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("shared", &self.shared.len())
            .finish_non_exhaustive()
    }
}
