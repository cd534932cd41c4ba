//! The shared pools: free stacks of one kind, and where new ones come from.
//!
//! ```text
//!   per-P StackCache ──Err(full)──▶ release_batch ─▶ Pool (one per Spec) ─┬─ stackpool   2 … 16 KiB
//!                    ◀──────────────── acquire ─────                     ├─ stackLarge  32 KiB … 1 GiB
//!                                                                        ├─ cold        without memory: given back, or new
//!                                                                        ├─ unguarded   carved, guards refused
//!                                                                        └─ slab        not carved yet ◀─ mheap
//! ```
//!
//! A stack that is free in a pool is warm: its guards stay up, its extent stays open, its pages stay. Who wants a class gets
//! the smallest that holds it, so that the deep ones are left for who needs them; else the largest there is.
//!
//! New stacks are carved when nothing is free: one at first, later up to 16 at a time, whose guards are put up by one system
//! call. (All of a slab at once would be a stall of milliseconds, and its page tables memory for nothing.)
//!
//! Lock order: the lock of a pool comes before the page heap's, and after the one under which the scavenger calls hooks. System
//! calls on a stack (guards, giving pages back) are made without it.

use crate::{
    CLASSES, Class, Spec, StackError, StackStats, backing,
    reservation::{self, Desc, LITTER, Stack, UNASKED, stride},
    shrink,
    stackcache::Batch,
    stacklarge::{self, StackLarge},
    stackpool::{self, List, StackPool},
    sys::pages::{GuardKind, guard_kind},
};
use baton_alloc::{
    Lock,
    scavenge::{self, Release},
};
use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU8,
        Ordering::{self, Relaxed},
    },
};

/// How much address space a slab takes if stacks are small enough for several: what one arena of the page heap holds.
const SLAB: usize = 64 << 20;

/// The shared pool of one kind of stack. Made at the first use of the kind, never freed.
#[derive(Debug)]
pub(crate) struct Pool {
    spec: Spec,
    lock: Lock,
    inner: UnsafeCell<Inner>,
    /// So many more stacks of unknown depth are measured one by one, since one was found deep. Two may count at a time: it is a guess.
    suspected: AtomicU8,
    /// The next pool of the process. Written before the pool is published.
    next: Option<&'static Pool>,
}

// SAFETY: `inner` is touched only with `lock` held; the rest does not change.
unsafe impl Sync for Pool {}

#[derive(Debug)]
struct Inner {
    stackpool: StackPool,
    large: StackLarge,
    /// Without memory: what was given back.
    cold: List,
    unguarded: List,
    slab: Slab,
    /// Stacks carved so far.
    carved: usize,
    /// Bytes of address space taken so far.
    reserved: usize,
}

/// Reservations that were not carved yet: `left` of them from `start` on.
#[derive(Debug)]
struct Slab {
    start: usize,
    left: usize,
}

/// All pools.
static POOLS: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());
/// Held by who adds a pool.
static ADD: Lock = Lock::new();

fn first() -> Option<&'static Pool> {
    // SAFETY: null or a pool, and pools are never freed.
    unsafe { POOLS.load(Ordering::Acquire).as_ref() }
}

/// All pools, the newest first.
fn pools() -> impl Iterator<Item = &'static Pool> {
    core::iter::successors(first(), |pool| pool.next)
}

impl Pool {
    /// The pool of stacks of this kind.
    fn of(spec: Spec) -> Result<&'static Self, StackError> {
        shrink::hook();
        let find = || pools().find(|pool| pool.spec == spec);
        if let Some(pool) = find() {
            return Ok(pool);
        }
        ADD.with(|| {
            if let Some(pool) = find() {
                return Ok(pool); // somebody else was faster
            }
            let pool = backing::pool(Self {
                spec,
                lock: Lock::new(),
                inner: UnsafeCell::new(Inner {
                    stackpool: StackPool::new(),
                    large: StackLarge::new(),
                    cold: List::new(),
                    unguarded: List::new(),
                    slab: Slab { start: 0, left: 0 },
                    carved: 0,
                    reserved: 0,
                }),
                suspected: AtomicU8::new(0),
                next: first(),
            })?;
            POOLS.store(ptr::from_ref(pool).cast_mut(), Ordering::Release);
            Ok(pool)
        })
    }

    /// The kind of stack that is here.
    pub(crate) fn spec(&self) -> Spec {
        self.spec
    }

    /// Runs `f` on what the lock guards.
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        self.lock.with(|| {
            // SAFETY: the lock is held, and no `f` of this file comes back here.
            f(unsafe { &mut *self.inner.get() })
        })
    }

    fn acquire(&'static self, class: Class) -> Result<Stack, StackError> {
        match self.with(|inner| inner.pop(class)) {
            Some(stack) => Ok(stack),
            None => self.litter(),
        }
    }

    /// A new stack, and some more for those who come next: their guards are put up by one system call, and once there are many they get
    /// their first pages by another.
    #[cold]
    fn litter(&'static self) -> Result<Stack, StackError> {
        let mut new = [const { None }; LITTER];
        let (many, made) = self.with(|inner| (inner.carved >= LITTER, inner.make(self, &mut new)));
        let mut refusal = made.err();
        // SAFETY: they were carved just now, or all guards were refused before.
        let guarded = unsafe { reservation::put_up_all_guards(new.iter().flatten()) };
        let mut refused = [const { None }; LITTER];
        if guarded && many {
            reservation::populate_first_pages(new.iter().flatten());
        }
        if !guarded {
            for (stack, refused) in new.iter_mut().zip(&mut refused) {
                // SAFETY: as above.
                if let Some(Err(error)) = stack.as_ref().map(|stack| unsafe { stack.desc().put_up_guards() }) {
                    refusal = Some(error);
                    *refused = stack.take();
                }
            }
        }
        let mut new = new.into_iter().flatten();
        let first = new.next();
        self.with(|inner| {
            // The lowest will go first: neighbours share page tables.
            new.rev().for_each(|stack| inner.cold.push(stack));
            refused
                .into_iter()
                .flatten()
                .for_each(|stack| inner.unguarded.push(stack));
        });
        first.ok_or_else(|| refusal.expect("there is no stack for a reason"))
    }

    fn release(&self, stack: Stack) {
        self.with(|inner| inner.put(stack));
        scavenge::want();
    }
}

impl Inner {
    /// A free stack: the smallest of at least this class, else the largest.
    fn pop(&mut self, class: Class) -> Option<Stack> {
        let small = self.stackpool.pop_from(class);
        let holding = small.or_else(|| self.large.pop_from(class));
        let smaller = holding.or_else(|| self.large.pop_largest());
        let small = smaller.or_else(|| self.stackpool.pop_largest());
        small.or_else(|| self.cold.pop())
    }

    /// Takes a cold stack of a class that there is too much of.
    fn pop_surplus(&mut self, surplus: &mut [usize; CLASSES]) -> Option<Stack> {
        let (small, large) = surplus.split_at_mut(stackpool::SMALL);
        self.stackpool
            .pop_surplus(small)
            .or_else(|| self.large.pop_surplus(large))
    }

    fn put(&mut self, stack: Stack) {
        if stack.desc().class().is_small() {
            self.stackpool.push(stack);
        } else {
            self.large.push(stack);
        }
    }

    /// Fills `new` with stacks that have no guards yet. At first it is one; the more there are the more are made at a time, for a
    /// program that has many will have more. Where each guard costs mappings, it is one always.
    fn make(&mut self, pool: &'static Pool, new: &mut [Option<Stack>; LITTER]) -> Result<(), StackError> {
        let most = match guard_kind() {
            GuardKind::Marker => self.carved.clamp(1, LITTER),
            GuardKind::Mprotect => 1,
        };
        for (n, slot) in new[..most].iter_mut().enumerate() {
            *slot = match self.unguarded.pop() {
                Some(stack) => Some(stack),
                None if n > 0 && self.slab.left == 0 => break,
                None => Some(self.carve(pool)?),
            };
        }
        Ok(())
    }

    /// The next reservation of the slab, or of a new one.
    fn carve(&mut self, pool: &'static Pool) -> Result<Stack, StackError> {
        let stride = stride(pool.spec);
        if self.slab.left == 0 {
            self.slab = new_slab(pool.spec, stride)?;
            self.reserved += self.slab.left * stride;
        }
        let desc = backing::desc(Desc::new(pool, self.slab.start, self.carved))?;
        shrink::register(desc);
        self.slab.start += stride;
        self.slab.left -= 1;
        self.carved += 1;
        // SAFETY: the descriptor is new, so there is no other `Stack` of it.
        Ok(unsafe { Stack::from_desc(desc) })
    }
}

/// A slab of as many reservations as fit; of fewer if the address space for them cannot be had.
fn new_slab(spec: Spec, stride: usize) -> Result<Slab, StackError> {
    let mut left = (SLAB / stride).max(1);
    loop {
        if let Some(start) = backing::span(left * stride) {
            return Ok(Slab { start, left });
        }
        if left == 1 {
            let reservation = spec.reservation();
            return Err(StackError::AddressSpace { reservation });
        }
        left /= 2;
    }
}

/// A stack of this kind: a warm one if there is any, else a new one. Not for use inside a section of a P.
///
/// # Errors
///
/// If the address space, the mappings or the memory for it cannot be had; the error says what to change.
pub fn acquire(spec: Spec) -> Result<Stack, StackError> {
    acquire_class(spec, Class::MIN)
}

/// A stack of this kind, of this class if there is a warm one. Not for use inside a section of a P.
///
/// # Errors
///
/// As [`acquire`].
pub fn acquire_class(spec: Spec, class: Class) -> Result<Stack, StackError> {
    Pool::of(spec)?.acquire(class)
}

/// Gives a stack back, warm, in the class that it grew to; or without its deep pages, if much is warm already. Nothing
/// may run on it any more. Not for use inside a section of a P.
pub fn release(stack: Stack) {
    settle(&stack);
    stack.desc().pool.release(stack);
}

/// Gives a batch of stacks back, as [`release`] does: one lock for all of a kind that come together.
pub fn release_batch(batch: &mut Batch) {
    batch.iter().for_each(settle);
    scavenge::want();
    while let Some(stack) = batch.take() {
        let pool = stack.desc().pool;
        pool.with(|inner| {
            inner.put(stack);
            while let Some(stack) = batch.take_if(|s| ptr::eq(s.desc().pool, pool)) {
                inner.put(stack);
            }
        });
    }
}

/// How many times a stack of unknown depth is released for each time that the kernel is asked: that costs a microsecond. And how
/// many are measured one after the other when one was deep: deep goroutines come in crowds, and a microsecond is nothing to them.
const MEASURED_ONE_IN: u8 = 16;

/// What a stack needs before it goes to a pool, without the lock: its class, and to be small if too much is warm.
fn settle(stack: &Stack) {
    let desc = stack.desc();
    if desc.depth_is_unknown() {
        let suspected = desc.pool.suspected.load(Relaxed);
        let due = desc.releases.fetch_add(1, Relaxed).is_multiple_of(MEASURED_ONE_IN);
        if suspected > 0 || due {
            // SAFETY: the caller holds the stack.
            let deep = unsafe { desc.measure() } > UNASKED;
            let left = if deep {
                MEASURED_ONE_IN
            } else {
                suspected.saturating_sub(1)
            };
            desc.pool.suspected.store(left, Relaxed);
        }
    }
    while stacklarge::is_too_much(stack) {
        let Some(victim) = pools().find_map(|pool| pool.with(|inner| inner.large.pop_victim())) else {
            return reservation::trim(stack);
        };
        reservation::trim(&victim);
        victim.desc().pool.release(victim);
    }
}

/// Takes the memory of free stacks away: of those that nobody has needed since the last call, or of all.
pub(crate) fn release_free(how: Release) {
    for pool in pools() {
        let mut surplus = [0; CLASSES];
        pool.with(|inner| {
            let lists = inner.stackpool.lists().chain(inner.large.lists());
            for (surplus, list) in surplus.iter_mut().zip(lists) {
                let unused = list.unused();
                *surplus = if how == Release::All { list.len() } else { unused };
            }
        });
        // Some at a time, so that nobody waits for the lock while the kernel works.
        loop {
            let mut some = [const { None }; LITTER];
            pool.with(|inner| some.fill_with(|| inner.pop_surplus(&mut surplus)));
            if some[0].is_none() {
                break;
            }
            reservation::empty_all(some.iter().flatten());
            pool.with(|inner| some.into_iter().flatten().for_each(|stack| inner.cold.push(stack)));
        }
    }
}

/// What the shared pools hold and have done.
#[must_use]
pub fn stats() -> StackStats {
    let mut stats = StackStats::of_process();
    for pool in pools() {
        pool.with(|inner| {
            inner.stackpool.count(&mut stats.free);
            inner.large.count(&mut stats.free);
            stats.free[0] += inner.cold.len();
            stats.carved += inner.carved;
            stats.reserved_bytes += inner.reserved;
        });
    }
    stats
}
