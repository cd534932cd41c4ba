//! `stackLarge`: free stacks that grew, 32 KiB and more, and the limit on what they keep warm.
//!
//! A stack goes back in the class that it grew to, so that the next deep goroutine finds its pages there. That memory is
//! charged to nobody, hence a limit for the whole process. Above it those that have been free longest, of 256 KiB and more,
//! give their deep pages back: a program that changes its ways keeps what it uses now, not what it used once.

use crate::{
    Class,
    reservation::Stack,
    stackpool::{List, SMALL, pop_surplus},
};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How much memory free large stacks may keep in the whole process.
pub(crate) const WARM_LIMIT: usize = 64 << 20;

/// Stacks below this class stay warm all the same: it would cost more to bring their pages back than they are worth.
pub(crate) const TRIMMED_FROM: usize = 256 << 10;

/// What free large stacks keep at present.
static WARM: AtomicUsize = AtomicUsize::new(0);

/// What free large stacks keep at present, in the whole process.
pub(crate) fn warm_bytes() -> usize {
    WARM.load(Relaxed)
}

/// Whether others must give their deep pages back before `stack` goes to a pool.
pub(crate) fn is_too_much(stack: &Stack) -> bool {
    let charge = stack.desc().charge();
    charge >= TRIMMED_FROM && warm_bytes().saturating_add(charge) > WARM_LIMIT
}

const LARGE: usize = crate::CLASSES - SMALL;

/// Free stacks of the large classes. Lies under the lock of a [`Pool`](crate::pool::Pool).
#[derive(Debug)]
pub(crate) struct StackLarge([List; LARGE]);

impl StackLarge {
    pub(crate) const fn new() -> Self {
        Self([const { List::new() }; LARGE])
    }

    /// Puts a large stack here.
    pub(crate) fn push(&mut self, stack: Stack) {
        let desc = stack.desc();
        WARM.fetch_add(desc.charge(), Relaxed);
        self.0[desc.class().index() - SMALL].push(stack);
    }

    /// Takes a stack of the smallest class there is from `class` on.
    pub(crate) fn pop_from(&mut self, class: Class) -> Option<Stack> {
        let skipped = class.index().saturating_sub(SMALL);
        Self::uncharge(self.0.iter_mut().skip(skipped).find_map(List::pop))
    }

    /// Takes a stack of the largest class there is.
    pub(crate) fn pop_largest(&mut self) -> Option<Stack> {
        Self::uncharge(self.0.iter_mut().rev().find_map(List::pop))
    }

    /// Takes the coldest stack of the largest class there is, but none below [`TRIMMED_FROM`].
    pub(crate) fn pop_victim(&mut self) -> Option<Stack> {
        let from = Class::holding(TRIMMED_FROM).index() - SMALL;
        Self::uncharge(self.0[from..].iter_mut().rev().find_map(List::pop_coldest))
    }

    /// Takes the coldest of a class that there is too much of; counts down.
    pub(crate) fn pop_surplus(&mut self, surplus: &mut [usize]) -> Option<Stack> {
        Self::uncharge(pop_surplus(&mut self.0, surplus))
    }

    /// The lists.
    pub(crate) fn lists(&mut self) -> impl Iterator<Item = &mut List> {
        self.0.iter_mut()
    }

    fn uncharge(stack: Option<Stack>) -> Option<Stack> {
        if let Some(stack) = &stack {
            WARM.fetch_sub(stack.desc().charge(), Relaxed);
        }
        stack
    }

    /// Adds the number of free stacks of each class to `free`, which starts at the smallest class.
    pub(crate) fn count(&self, free: &mut [usize]) {
        for (list, n) in self.0.iter().zip(&mut free[SMALL..]) {
            *n += list.len();
        }
    }
}
