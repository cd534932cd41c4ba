//! The stack cache of a P: a few free stacks without a lock.
//!
//! A plain structure that the scheduler embeds in its P and touches only inside its sections, so nothing here allocates,
//! locks or calls the system. It has four shelves, one for each kind of stack that this P met lately; on a shelf the
//! stack that came last, the hottest, goes first.
//!
//! Stacks go back warm, so the cache is limited in bytes as well: 4 MiB of charge in all. What does not fit is handed to
//! the caller in a [`Batch`], for [`release_batch`](crate::release_batch) once the section is left.

use crate::{Class, Spec, reservation::Stack};

/// Kinds of stack in one cache.
const SHELVES: usize = 4;
/// Stacks of one kind in one cache.
const SLOTS: usize = 32;
/// What the stacks of one cache may be charged with in all.
pub(crate) const CHARGE_LIMIT: usize = 4 << 20;

/// The free stacks of a P.
#[derive(Debug)]
pub struct StackCache {
    shelves: [Shelf; SHELVES],
    /// The sum of the stacks' charges.
    charge: usize,
    /// The shelf that is cleared next if a fifth kind comes.
    victim: usize,
}

#[derive(Debug)]
struct Shelf {
    /// The kind of the stacks here, if there are any.
    spec: Option<Spec>,
    len: usize,
    stacks: [Option<Stack>; SLOTS],
}

impl Shelf {
    const fn new() -> Self {
        Self {
            spec: None,
            len: 0,
            stacks: [const { None }; SLOTS],
        }
    }
}

impl Shelf {
    /// Where the hottest stack of the smallest class is that holds `class`.
    #[cold]
    fn best(&self, class: Class) -> Option<usize> {
        let own = |at: &usize| self.stacks[*at].as_ref().map(|stack| stack.desc().class());
        let holding = (0..self.len)
            .rev()
            .filter(|at| own(at).is_some_and(|own| own >= class || class.is_small()));
        holding.min_by_key(own)
    }
}

impl StackCache {
    /// An empty cache.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            shelves: [const { Shelf::new() }; SHELVES],
            charge: 0,
            victim: 0,
        }
    }

    /// Takes a stack of this kind: the hottest, if that is of this class; else the smallest that holds it. A deep stack is
    /// not replaced by a shallow one: then `None`, because the shared pool may have a warm one.
    #[inline]
    pub fn pop(&mut self, spec: Spec, class: Class) -> Option<Stack> {
        let shelf = self.shelves.iter_mut().find(|shelf| shelf.spec == Some(spec))?;
        let top = shelf.len.checked_sub(1)?;
        if !shelf.stacks[top]
            .as_ref()
            .is_some_and(|stack| stack.desc().class().is_like(class))
        {
            let best = shelf.best(class)?;
            shelf.stacks.swap(best, top);
        }
        shelf.len = top;
        let stack = shelf.stacks[top].take();
        if let Some(stack) = &stack {
            self.charge -= stack.desc().charge();
        }
        stack
    }

    /// Puts a stack here.
    ///
    /// # Errors
    ///
    /// The stack, if there is no room: then [`overflow`](Self::overflow) makes some.
    #[inline]
    pub fn push(&mut self, stack: Stack) -> Result<(), Stack> {
        let (spec, charge) = (stack.desc().spec(), stack.desc().charge());
        let Some(shelf) = self.shelf_of(spec) else {
            return Err(stack);
        };
        let shelf = &mut self.shelves[shelf];
        if shelf.len == SLOTS || self.charge + charge > CHARGE_LIMIT {
            return Err(stack);
        }
        shelf.spec = Some(spec);
        shelf.stacks[shelf.len] = Some(stack);
        shelf.len += 1;
        self.charge += charge;
        Ok(())
    }

    /// The shelf of this kind, or an empty one.
    #[inline]
    fn shelf_of(&self, spec: Spec) -> Option<usize> {
        let own = self.shelves.iter().position(|shelf| shelf.spec == Some(spec));
        own.or_else(|| self.shelves.iter().position(|shelf| shelf.len == 0))
    }

    /// Makes room after [`push`](Self::push) refused `stack`: moves the colder half of its kind into `batch` and keeps
    /// it, or moves it too if it is more than the whole cache may be charged with at present. The caller gives the batch
    /// to [`release_batch`](crate::release_batch) once the section is left.
    pub fn overflow(&mut self, stack: Stack, batch: &mut Batch) {
        debug_assert!(batch.is_empty(), "a batch that was not released");
        match self.shelf_of(stack.desc().spec()) {
            _ if stack.desc().charge() > CHARGE_LIMIT => return batch.push(stack),
            Some(shelf) => {
                let half = self.shelves[shelf].len.div_ceil(2);
                self.drain(shelf, half, batch);
            }
            None => {
                self.drain(self.victim, SLOTS, batch);
                self.victim = (self.victim + 1) % SHELVES;
            }
        }
        if let Err(stack) = self.push(stack) {
            batch.push(stack);
        }
    }

    /// Moves everything on some shelf into `batch`; `false` if the cache is empty. For a P that retires.
    pub fn drain_shelf(&mut self, batch: &mut Batch) -> bool {
        debug_assert!(batch.is_empty(), "a batch that was not released");
        let Some(shelf) = self.shelves.iter().position(|shelf| shelf.len > 0) else {
            return false;
        };
        self.drain(shelf, SLOTS, batch);
        true
    }

    /// Moves the `count` coldest stacks of a shelf into `batch`.
    fn drain(&mut self, shelf: usize, count: usize, batch: &mut Batch) {
        let shelf = &mut self.shelves[shelf];
        let count = count.min(shelf.len);
        for slot in &mut shelf.stacks[..count] {
            if let Some(stack) = slot.take() {
                self.charge -= stack.desc().charge();
                batch.push(stack);
            }
        }
        shelf.stacks[..shelf.len].rotate_left(count);
        shelf.len -= count;
        if shelf.len == 0 {
            shelf.spec = None;
        }
    }

    /// The number of stacks here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.len).sum()
    }

    /// Whether there is no stack here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the stacks here are charged with.
    #[must_use]
    pub fn charge(&self) -> usize {
        self.charge
    }
}

impl Default for StackCache {
    fn default() -> Self {
        Self::new()
    }
}

/// Stacks on their way from a cache to the shared pools.
#[derive(Debug)]
pub struct Batch {
    stacks: [Option<Stack>; SLOTS + 1],
    len: usize,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stacks: [const { None }; SLOTS + 1],
            len: 0,
        }
    }

    /// The number of stacks in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, stack: Stack) {
        self.stacks[self.len] = Some(stack);
        self.len += 1;
    }

    /// The stacks in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stack> {
        self.stacks.iter().flatten()
    }

    /// Takes a stack out.
    pub(crate) fn take(&mut self) -> Option<Stack> {
        self.take_if(|_| true)
    }

    /// Takes the next stack out if it is as `wanted`.
    pub(crate) fn take_if(&mut self, wanted: impl FnOnce(&Stack) -> bool) -> Option<Stack> {
        let last = self.len.checked_sub(1)?;
        if !self.stacks[last].as_ref().is_some_and(wanted) {
            return None;
        }
        self.len = last;
        self.stacks[last].take()
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}
