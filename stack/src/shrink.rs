//! Giving memory back: what pools keep and nobody uses, and what lies below goroutines that are parked.
//!
//! ```text
//!   scavenger, release_free ─▶ pools:  stacks that nobody needed since the last call ─▶ all pages but the first 16 KiB
//!                           └▶ parked: claim ─▶ barrier ─▶ still parked? ─▶ all pages below the stack pointer ─▶ unclaim
//! ```
//!
//! Nobody asks the kernel first whether there are such pages: to take none away costs as much as the question. But who has been
//! parked for a second or more keeps its first 16 KiB, so that one who was never deep loses nothing, and of those of whom nobody
//! knows how deep they were some thousands have their turn at a time. Of a million stacks only some are looked at in a call, so that the
//! calls of a program that runs cost next to nothing whatever is parked: then it takes one to two walks, of as many calls as there are times
//! 65,536 stacks, until a goroutine counts as parked for long. A program that stops to run is not called any more, and keeps what it
//! has by then.
//!
//! A goroutine that was deep and waits near the top of its stack has memory below that nobody needs. Its stack is the
//! goroutine's, and may go on at any moment; so whoever takes pages away must keep it from doing so, and that must
//! cost the goroutine nothing.
//!
//! # The protocol
//!
//! ```text
//!   who resumes   parked = 0;  (fence mode: fence);  while claimed != 0: wait;  run
//!   who suspends  parked = sp  (Release, on g0, after the switch and before anybody can find the goroutine)
//!   who shrinks   claimed = 1;  barrier;  parked != 0 → take pages below it away, and note that in parked unless it has
//!                 changed meanwhile (compare and exchange);  claimed = 0 (Release)
//! ```
//!
//! # Invariants
//!
//! 1. One of the two sees the other: the barrier comes between the store to `claimed` and the load of `parked`, and orders
//!    the same on every thread that resumes, whose store and load come in the other order.
//! 2. So pages go only while the goroutine is parked and cannot be resumed; and only below its stack pointer, less what the
//!    switch itself has pushed ([`BELOW`]).
//! 3. One at a time shrinks, under `SHRINK`. It holds no other lock and allocates nothing.
//! 4. `parked` is 0 while the goroutine runs: who shrinks notes what it did by an exchange, which fails once the goroutine has
//!    stored its 0; a 0 that comes after the exchange overwrites the note.
//!
//! `tests/explore/shrink.rs` explores the protocol, and finds it wrong without the barrier, and with a plain store for the note.

use crate::{
    Class,
    copystack::{self, HEADROOM},
    pool,
    reservation::{Desc, FIRST_EXTENT},
    sys::{
        pages,
        process::{self, PAGE},
    },
};
use baton_alloc::{
    Lock, latch,
    scavenge::{self, Release},
};
use core::{
    cell::Cell,
    hint, iter, mem, ptr,
    sync::atomic::{
        AtomicPtr, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release as Publish, SeqCst},
        compiler_fence, fence,
    },
};

/// How far below the stack pointer that a goroutine parked with the switch may have gone: a few frames, less than that.
const BELOW: usize = 1 << 10;
/// Goroutines that lose pages in one call because they have been parked for long: about 10 ms of work.
const PER_CALL: usize = 8192;
/// Stacks that are looked at in one such call, parked or not: about 5 ms, since hardly any is in a cache.
const LOOKS: usize = if cfg!(test) { 16 } else { 1 << 16 };
/// Stacks that are claimed for one barrier.
const BATCH: usize = 64;

/// Held by who shrinks.
static SHRINK: Lock = Lock::new();
/// Walks along all stacks so far, by calls for what is unused: each goes on where the one before stopped, and one is enough for as many
/// stacks as most programs have.
static ROUND: AtomicUsize = AtomicUsize::new(0);
/// Where the walk goes on; null: at the newest, and it is another one. Under [`SHRINK`].
static NEXT: AtomicPtr<Desc> = AtomicPtr::new(ptr::null_mut());
/// Every stack that was ever made, the last one first.
static ALL: AtomicPtr<Desc> = AtomicPtr::new(ptr::null_mut());

/// `parked`: the rounds, modulo 4, are in the bits that a stack pointer aligned to 16 has free.
const ROUNDS: usize = 3;
/// `parked`: the pages below are gone already, but for the first 16 KiB.
const LEAN: usize = 4;
/// `parked`: the pages below are gone already.
const DONE: usize = 8;

/// Where a debugger finds all stacks: the address of the word that leads to the newest; the offsets in a [`Desc`] of what leads to
/// the one before, of `base`, `floor` and `owner`.
#[must_use]
pub fn map() -> [usize; 5] {
    [
        ptr::from_ref(&ALL).addr(),
        mem::offset_of!(Desc, older),
        Desc::BASE,
        Desc::FLOOR,
        Desc::OWNER,
    ]
}

/// Shows all stacks that were ever made to `see`, the newest first: in use, free, or on their way between the two.
pub fn each(see: &mut dyn FnMut(&'static Desc)) {
    all().for_each(see);
}

/// All stacks, the newest first.
fn all() -> impl Iterator<Item = &'static Desc> {
    from(ALL.load(Acquire))
}

/// The stack at `desc` and all that are older.
fn from(desc: *mut Desc) -> impl Iterator<Item = &'static Desc> {
    // SAFETY: null or a descriptor; those are never freed.
    let at = |desc: *mut Desc| unsafe { desc.as_ref() };
    iter::successors(at(desc), move |desc: &&'static Desc| at(desc.older.load(Acquire)))
}

/// Enters a new stack into the list of all.
pub(crate) fn register(desc: &'static Desc) {
    let this = ptr::from_ref(desc).cast_mut();
    let mut first = ALL.load(Relaxed);
    loop {
        desc.older.store(first, Relaxed);
        match ALL.compare_exchange_weak(first, this, Publish, Relaxed) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

impl Desc {
    /// Says that what runs on this stack has suspended with the stack pointer at `sp` or a little below, and has left it.
    #[inline(always)]
    pub fn set_parked(&self, sp: usize) {
        self.parked.store(sp & !15 | ROUND.load(Relaxed) & ROUNDS, Publish);
    }

    /// Says that it is about to go on, and waits for who takes pages away just now.
    #[inline(always)]
    pub fn set_running(&self) {
        self.parked.store(0, Relaxed);
        compiler_fence(SeqCst);
        if latch::mode() == latch::Mode::Fence {
            fence(SeqCst);
        }
        if self.claimed.load(Acquire) != 0 {
            self.wait_for_shrink();
        }
    }

    #[cold]
    fn wait_for_shrink(&self) {
        while self.claimed.load(Acquire) != 0 {
            process::yield_thread();
            hint::spin_loop();
        }
    }

    /// Notes in `parked`, which was `seen`, what of the pages below is gone: unless the goroutine is about to go on.
    fn note_gone(&self, seen: usize, gone: usize) {
        let _ = self.parked.compare_exchange(seen, seen | gone, Relaxed, Relaxed);
    }

    /// Takes the pages below `sp` away; if that is because nobody used them for long, all but the first of the stack.
    ///
    /// # Safety
    ///
    /// What runs on this stack has suspended at `sp` and cannot be resumed meanwhile.
    unsafe fn shrink(&self, sp: usize, how: Release) {
        let below = (sp - BELOW) & !(PAGE - 1);
        let kept = match how {
            Release::All => below,
            Release::Unused => below.min(self.below_first(Class::LARGEST_SMALL.bytes())),
        };
        let limit = self.limit();
        if kept <= limit {
            return;
        }
        // SAFETY: open, and below what is in use.
        unsafe { pages::give_back(limit..kept) };
        let depth = self.base() - kept;
        let mut extent = FIRST_EXTENT;
        while extent < depth + HEADROOM {
            extent *= 2;
        }
        // SAFETY: the extent holds what is in use, and some room below it.
        unsafe { self.close_to(extent) };
        self.mark.store(sp, Relaxed);
        self.gauge.store(0, Relaxed); // its marks are gone, and where they were there may be guards
        self.lower_class(Class::holding(depth));
        copystack::counters().shrunk.fetch_add(1, Relaxed);
    }
}

/// Gives memory back that stacks keep and nobody uses: with [`Release::Unused`] what has not been used for about a second (what lies
/// below parked goroutines: since the walk before the last), with [`Release::All`] everything. The scavenger calls it; so does
/// [`Alloc::release_free`](baton_alloc::Alloc::release_free).
fn release_memory(how: Release) {
    SHRINK.with_long(|| {
        pool::release_free(how);
        match how {
            Release::Unused => {
                let next = NEXT.load(Relaxed);
                if next.is_null() {
                    ROUND.fetch_add(1, Relaxed);
                }
                let first = if next.is_null() { ALL.load(Acquire) } else { next };
                let next = Cell::new(ptr::null_mut());
                let stacks = from(first).inspect(|desc| next.set(desc.older.load(Acquire)));
                shrink_parked(how, stacks.take(LOOKS), PER_CALL);
                NEXT.store(next.get(), Relaxed);
            }
            Release::All => shrink_parked(how, all(), usize::MAX),
        }
    });
}

/// Has [`release_memory`] called when memory is to be given back. Whenever somebody wants a stack of the pools: in the child of a fork
/// no hook is left.
pub(crate) fn hook() {
    // Without a free place nobody calls, and stacks keep what they have.
    let _ = scavenge::on_release(release_memory);
}

/// Whether the goroutine on `desc` may lose pages, by what `parked` says. Before the claim this is a guess.
fn is_wanted(desc: &Desc, parked: usize, how: Release, round: usize) -> bool {
    let rounds = round.wrapping_sub(parked) & ROUNDS;
    let is_parked = parked > DONE + LEAN + ROUNDS && parked & DONE == 0;
    is_parked
        && match how {
            Release::All => true,
            Release::Unused => {
                parked & LEAN == 0 && rounds >= 2 && (!desc.class().is_small() || desc.depth_is_unknown())
            }
        }
}

/// Takes from the goroutines that are parked on `stacks`, but for `most` at most, what lies below them. Under `SHRINK`.
fn shrink_parked(how: Release, stacks: impl Iterator<Item = &'static Desc>, most: usize) {
    let round = ROUND.load(Relaxed);
    let wanted = stacks.filter(|desc| is_wanted(desc, desc.parked.load(Relaxed), how, round));
    let mut stacks = wanted.take(most);
    loop {
        let mut batch = [None; BATCH];
        for (slot, desc) in batch.iter_mut().zip(&mut stacks) {
            desc.claimed.store(1, Relaxed);
            *slot = Some(desc);
        }
        if batch[0].is_none() {
            return;
        }
        let seen_by_all = latch::barrier().orders_owners();
        for desc in batch.iter().flatten() {
            let parked = desc.parked.load(Acquire);
            if seen_by_all && is_wanted(desc, parked, how, round) {
                // SAFETY: parked, and claimed: invariants 1 and 2.
                unsafe { desc.shrink(parked & !15, how) };
                let gone = if how == Release::All { DONE } else { LEAN };
                desc.note_gone(parked, gone);
            }
            desc.claimed.store(0, Publish);
        }
        if !seen_by_all {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Spec, StackGrowth, acquire, acquire_class, release};

    /// Whoever goes on while its pages are taken runs with `parked` at 0, and nothing is taken from it then.
    #[test]
    fn who_goes_on_is_not_noted_as_parked() {
        let stack = acquire(Spec::with_growth(5 << 20, StackGrowth::Trap).unwrap()).unwrap();
        let desc = stack.desc();
        desc.set_parked(desc.base() - BELOW);
        let seen = desc.parked.load(Relaxed);
        desc.note_gone(seen, LEAN);
        assert_eq!(desc.parked.load(Relaxed), seen | LEAN);
        desc.set_running();
        desc.note_gone(seen | LEAN, DONE);
        assert_eq!(desc.parked.load(Relaxed), 0);
        release(stack);
    }

    #[test]
    fn many_have_their_turn_a_few_at_a_time() {
        const STACKS: usize = 7 * LOOKS / 2; // a walk of four calls, as many as `parked` tells apart
        let spec = Spec::with_growth(3 << 20, StackGrowth::Trap).unwrap();
        if spec.growth() != StackGrowth::Trap {
            return; // these stacks would not know that they were deep
        }
        let class = Class::holding(256 << 10);
        let stacks: Vec<_> = (0..STACKS).map(|_| acquire_class(spec, class).unwrap()).collect();
        for stack in &stacks {
            stack.desc().set_parked(stack.desc().base() - BELOW);
        }
        let lean = || {
            let gone = |desc: &Desc| desc.parked.load(Relaxed) & LEAN != 0;
            stacks.iter().filter(|stack| gone(stack.desc())).count()
        };
        let mut before = 0;
        for _ in 0..100 {
            release_memory(Release::Unused);
            let now = lean();
            assert!(now - before <= 2 * LOOKS, "{now} after {before}"); // the scavenger may have been here as well
            before = now;
        }
        assert_eq!(before, STACKS);
        for stack in stacks {
            stack.desc().set_running();
            release(stack);
        }
    }
}
