//! The lock under `Mutex` and `RwLock`: one word, and a queue for those who wait.
//!
//! ```text
//!   state   readers ──── │ STARVING │ WOKEN │ WAITERS │ WRITER
//!   holder  who locked it for writing, for reports
//!   queue   first ─▶ … ─▶ last, under a lock of its own
//! ```
//!
//! | bit | means | set | cleared |
//! |---|---|---|---|
//! | `WRITER` | held for writing | by who gets the lock, or for him by who hands it over | by the holder |
//! | readers | how many hold it for reading | likewise | likewise |
//! | `WAITERS` | the queue is not empty | by who queues up | by who empties the queue |
//! | `WOKEN` | somebody was woken and will look at the lock: no need to wake another | by who wakes | by the woken, when he gets the lock, queues up again or gives up |
//! | `STARVING` | the first in the queue has waited for too long: the lock goes to him, and nobody else gets it | by him, as he queues up | by who hands the lock over |
//!
//! Who comes while the lock is free gets it, even if others wait (but readers do not join readers past those who wait): a running goroutine that takes a lock costs nothing, and one
//! that must be woken first costs a switch. So that nobody starves, a waiter who was woken in vain after
//! [`STARVES_AFTER`] makes the next holder hand the lock over (Go's rule).
//!
//! Who finds the lock held, and nobody in the queue, stands back and looks again some times, as long as that pays: while it is held
//! for short the holder has it many times in a row then, with its line in his cache, and nobody parks. If the looks
//! were in vain the next party takes half as many.
//!
//! # Invariants
//!
//! 1. `WAITERS` and `STARVING` change, and nodes come and go, under the queue's lock. With an empty queue both are 0 when that is given
//!    back: a lock that is free and starving would be nobody's for ever.
//! 2. Somebody queues up only while the lock is not his to take, with one compare-and-swap that says so. So a holder is left who
//!    sees `WAITERS` when he lets go; `STARVING` likewise.
//! 3. Whenever the lock becomes free with somebody in the queue, somebody is awake who will look at it later: what sets
//!    `WOKEN` wakes after the lock was let go, and who clears it has the lock, or sees it held.
//! 4. The holder's last touch of the lock is the store that lets it go, since the next holder may free its memory. Nodes that
//!    he wakes afterwards lie on stacks that wait for it.
//! 5. Behind a waiting writer readers queue up in order; readers at the front wait for a holder of the other kind only, or
//!    are woken.

use super::{
    HeldBy, Until, note_wait, park,
    shim::{
        AtomicU8, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
        QueueGuard, QueueLock, look, pause, worth_spinning,
    },
};
use crate::{
    park::{Event, WaitReason, Waiter},
    time,
    waitlist::{Node, WaitList},
};
use std::{cell::Cell, mem::offset_of};

const WRITER: usize = 1;
const WAITERS: usize = 2;
const WOKEN: usize = 4;
const STARVING: usize = 8;
const READER: usize = 16;
/// So many readers fit.
const MOST_READERS: usize = (usize::MAX / READER) >> 1;

/// How long somebody waits before the lock must be handed to him, in nanoseconds.
const STARVES_AFTER: u64 = 1_000_000;

/// Looks at a held lock before queueing up, with [`pause`]s between, if those before were not in vain.
const MOST_LOOKS: u8 = 12;

/// How somebody wants the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Exclusive,
    Shared,
}

pub(crate) struct RawLock {
    state: AtomicUsize,
    /// The holder for writing, as [`super::party`] numbers it; stale while nobody is.
    holder: AtomicU64,
    /// How often the next party looks again before it queues up: a guess how soon the lock will be free, from how it went before.
    looks: AtomicU8,
    queue: QueueLock<WaitList>,
}

/// What a party in the queue has beside its node.
struct Place {
    mode: Mode,
    /// Whether the lock was handed over to it; the claimer's until the wake.
    has_lock: Cell<bool>,
}

impl Mode {
    /// What the holder adds to the state.
    #[inline]
    fn unit(self) -> usize {
        match self {
            Self::Exclusive => WRITER,
            Self::Shared => READER,
        }
    }

    /// Whether a holder in this mode is the only one.
    #[inline]
    fn is_last(self, state: usize) -> bool {
        self == Self::Exclusive || state / READER == 1
    }

    /// Whether a lock in this state can be had. Readers do not join others past those who wait (else readers that overlap
    /// would keep a writer out for ever), unless they have waited themselves and were woken.
    #[inline]
    fn may_take(self, state: usize, woken: usize) -> bool {
        match self {
            Self::Exclusive => state & !(WAITERS | WOKEN) == 0,
            Self::Shared => state & (WRITER | STARVING) == 0 && (woken != 0 || state & WAITERS == 0 || state < READER),
        }
    }
}

impl Place {
    fn of(node: &Node) -> &Self {
        // SAFETY: nodes of a lock's queue have their party's place, which stays as long as they do.
        unsafe { &*node.data.cast::<Self>() }
    }
}

impl RawLock {
    #[cfg(not(baton_loom))]
    pub(super) const fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            holder: AtomicU64::new(0),
            looks: AtomicU8::new(MOST_LOOKS),
            queue: QueueLock::new(WaitList::new()),
        }
    }

    #[cfg(baton_loom)]
    pub(super) fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            holder: AtomicU64::new(0),
            looks: AtomicU8::new(MOST_LOOKS),
            queue: QueueLock::new(WaitList::new()),
        }
    }

    /// Takes the lock if that needs no waiting.
    #[inline]
    pub(super) fn try_lock(&self, mode: Mode) -> bool {
        self.take_at_once(mode, self.state.load(Relaxed))
    }

    /// Takes the lock, waiting `until` then for it at most. `party` is the caller, for the records; those who read leave none.
    #[inline]
    pub(super) fn lock(&self, mode: Mode, party: u64, reason: WaitReason, until: Until<'_>) -> bool {
        // With a look first: while somebody waits the state is hardly ever what a guess would say.
        let seen = look(&self.state, 0);
        let taken = mode.may_take(seen, 0)
            && match self.take(mode, seen, 0) {
                Ok(()) => true,
                Err(state) => self.take_at_once(mode, state),
            };
        if !taken && !self.lock_slow(mode, reason, until) {
            return false;
        }
        if mode == Mode::Exclusive {
            self.holder.store(party, Relaxed);
        }
        true
    }

    /// Takes the lock if that needs no waiting in `state`, or in what the state turns out to be.
    #[inline]
    fn take_at_once(&self, mode: Mode, mut state: usize) -> bool {
        while mode.may_take(state, 0) {
            match self.take(mode, state, 0) {
                Ok(()) => return true,
                Err(_) => {
                    pause(); // somebody else wants it too
                    state = self.state.load(Relaxed);
                }
            }
        }
        false
    }

    /// Notes who holds the lock that `try_lock` got.
    #[inline]
    pub(super) fn set_holder(&self, party: u64) {
        self.holder.store(party, Relaxed);
    }

    /// Who holds the lock for writing, now or a moment ago.
    pub(super) fn holder(&self) -> Option<u64> {
        (self.state.load(Relaxed) & WRITER != 0).then(|| self.holder.load(Relaxed))
    }

    /// In whose hands the lock is, for one who waits.
    /// Where a debugger finds the state, the unit of writers and that of readers in it, and who holds it for writing.
    pub(crate) const MAP: [usize; 4] = [offset_of!(Self, state), WRITER, READER, offset_of!(Self, holder)];

    pub(crate) fn held_by(&self) -> HeldBy {
        match (self.holder(), self.state.load(Relaxed) / READER) {
            (Some(party), _) => HeldBy::Party(party),
            (None, 0) => HeldBy::Nobody,
            (None, readers) => HeldBy::Readers(readers),
        }
    }

    /// Lets the lock go. The caller holds it in this mode.
    #[inline]
    pub(super) fn unlock(&self, mode: Mode) {
        if !self.leave_at_once(mode, look(&self.state, mode.unit())) {
            self.unlock_slow(mode, false);
        }
    }

    /// Lets the lock go if that wakes nobody in `state`, or in what the state turns out to be: nobody waits, others hold it too, or
    /// somebody is awake already.
    #[inline]
    fn leave_at_once(&self, mode: Mode, mut state: usize) -> bool {
        while state & WAITERS == 0 || !mode.is_last(state) || state & (WOKEN | STARVING) == WOKEN {
            let left = state - mode.unit();
            match self.state.compare_exchange_weak(state, left, Release, Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Lets the lock go to whoever has waited longest, if anybody waits.
    pub(super) fn unlock_fair(&self, mode: Mode) {
        self.unlock_slow(mode, true);
    }

    /// Makes the writer, who calls this, a reader, and lets others read too.
    pub(super) fn downgrade(&self) {
        let state = self.state.fetch_add(READER - WRITER, Release);
        if state & WAITERS != 0 {
            self.wake_readers(self.queue.lock());
        }
    }

    pub(super) fn is_locked(&self) -> bool {
        self.state.load(Relaxed) & !(WAITERS | WOKEN | STARVING) != 0
    }

    pub(super) fn is_locked_exclusive(&self) -> bool {
        self.state.load(Relaxed) & WRITER != 0
    }

    /// One try to take a lock that was free in `state`, clearing `also`.
    #[inline]
    fn take(&self, mode: Mode, state: usize, also: usize) -> Result<(), usize> {
        assert!(state / READER < MOST_READERS, "too many readers of one RwLock");
        self.state
            .compare_exchange_weak(state, (state + mode.unit()) & !also, Acquire, Relaxed)
            .map(drop)
    }

    #[cold]
    #[inline(never)]
    fn lock_slow(&self, mode: Mode, reason: WaitReason, until: Until<'_>) -> bool {
        let mut woken = 0; // WOKEN if this party has been, and has to clear it
        let mut since = 0; // when the waiting began
        let mut starving = 0;
        let most = self.looks.load(Relaxed);
        let mut looks = 0;
        loop {
            let state = self.state.load(Relaxed);
            if mode.may_take(state, woken) {
                if self.take(mode, state, woken).is_ok() {
                    if mode == Mode::Shared && woken != 0 && state & WAITERS != 0 {
                        self.wake_readers(self.queue.lock());
                    }
                    if looks > 0 && since == 0 {
                        self.looks.store(MOST_LOOKS, Relaxed);
                    }
                    return true;
                }
                continue;
            }
            if looks < most && state & (WAITERS | STARVING) == 0 && worth_spinning() {
                looks += 1;
                if looks == most {
                    self.looks.store(most.div_ceil(2), Relaxed);
                }
                pause();
                continue;
            }
            if until.has_passed() {
                if woken != 0 {
                    // Invariant 3: the lock is held as this clears the bit, or it is tried once more.
                    if !self.cas(state, state & !WOKEN) {
                        continue;
                    }
                    if state & WAITERS != 0 {
                        self.wake_readers(self.queue.lock());
                    }
                }
                return false;
            }
            let mut queue = self.queue.lock(); // held until g0 has parked this party
            if !self.queue_up(mode, woken, starving) {
                drop(queue);
                continue;
            }
            let waiter = Waiter::new();
            let place = Place {
                mode,
                has_lock: Cell::new(false),
            };
            let node = Node::new(&raw const waiter, (&raw const place).cast_mut().cast());
            if woken == 0 {
                queue.push(&node);
            } else {
                queue.push_front(&node);
            }
            if since == 0 {
                since = time::now();
            }
            if !self.wait(&waiter, &node, queue, reason, until) {
                return false;
            }
            if place.has_lock.get() {
                // Handed over before the wake. All changes of the state are read-modify-writes, so this load
                // synchronizes with every earlier holder's Release.
                self.state.load(Acquire);
                return true;
            }
            woken = WOKEN;
            if time::now() - since >= STARVES_AFTER {
                starving = STARVING;
            }
        }
    }

    /// Says that this party waits, unless the lock has become free. The queue's lock is held.
    fn queue_up(&self, mode: Mode, woken: usize, starving: usize) -> bool {
        loop {
            let state = self.state.load(Relaxed);
            if mode.may_take(state, woken) {
                return false;
            }
            if self.cas(state, (state & !woken) | WAITERS | starving) {
                return true;
            }
        }
    }

    /// Waits in the queue until woken (`true`) or `until` then.
    fn wait(
        &self,
        waiter: &Waiter,
        node: &Node,
        queue: QueueGuard<'_, WaitList>,
        reason: WaitReason,
        until: Until<'_>,
    ) -> bool {
        let commit = move || {
            drop(queue);
            true
        };
        note_wait(self);
        if park(waiter, reason, until, commit) {
            return true;
        }
        let mut queue = self.queue.lock();
        queue.remove(node);
        if queue.is_empty() {
            self.state.fetch_and(!(WAITERS | STARVING), Relaxed);
        } else {
            self.wake_readers(queue);
        }
        false
    }

    /// Wakes the readers at the front if readers hold the lock: the writer whom they waited for has gone, or has become a
    /// reader (invariant 5). Whoever was woken calls this too, when he reads or gives up: a writer that came in between has woken
    /// nobody as it left.
    fn wake_readers(&self, mut queue: QueueGuard<'_, WaitList>) {
        let state = self.state.load(Relaxed);
        let read = state & WRITER == 0 && state >= READER;
        if !read || queue.front().is_none_or(|first| Place::of(first).mode != Mode::Shared) {
            return;
        }
        let (run, n) = claim_run(&mut queue, false);
        self.state.fetch_and(!STARVING, Relaxed); // it would keep them out
        self.note_popped(&queue, n);
        drop(queue);
        run.wake_all();
    }

    #[cold]
    #[inline(never)]
    fn unlock_slow(&self, mode: Mode, fair: bool) {
        loop {
            let state = self.state.load(Relaxed);
            let last = mode.is_last(state);
            let hand_over = fair || state & STARVING != 0;
            let enough_awake = state & WOKEN != 0 && !hand_over;
            if !last || state & WAITERS == 0 || enough_awake {
                let free = state - mode.unit();
                if self.state.compare_exchange_weak(state, free, Release, Relaxed).is_ok() {
                    return;
                }
                continue;
            }
            let mut queue = self.queue.lock();
            if queue.is_empty() {
                continue; // all who waited have given up
            }
            if hand_over {
                let state = self.state.fetch_or(STARVING, Relaxed); // no reader joins from here on
                if mode == Mode::Shared && state / READER > 1 {
                    continue; // but one has before: the last of them hands over
                }
                let (run, n) = claim_run(&mut queue, true);
                if let Some(first) = run.front() {
                    // One holder goes, others come, and at no moment is the lock free.
                    let theirs = Place::of(first).mode.unit() * n;
                    self.state.fetch_add(theirs.wrapping_sub(mode.unit()), Release);
                }
                self.state.fetch_and(!STARVING, Relaxed);
                self.note_popped(&queue, 0);
                drop(queue);
                if n > 0 {
                    return run.wake_all();
                }
            } else {
                let (run, n) = claim_run(&mut queue, false);
                self.note_popped(&queue, n);
                drop(queue);
                if n > 0 {
                    let free = self.release_unless_starving(mode); // before the wake: invariants 3 and 4
                    run.wake_all();
                    if free {
                        return;
                    }
                }
            }
            // All who waited have just timed out, or one of them starves: look again.
        }
    }

    /// Lets the lock go, unless somebody has come to starve since this holder looked: it must be handed over then.
    fn release_unless_starving(&self, mode: Mode) -> bool {
        loop {
            let state = self.state.load(Relaxed);
            if state & STARVING != 0 {
                return false;
            }
            let free = state - mode.unit();
            if self.state.compare_exchange_weak(state, free, Release, Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// Nodes were taken off the queue, whose lock is held, and `woken` of their parties will look at the lock.
    fn note_popped(&self, queue: &QueueGuard<'_, WaitList>, woken: usize) {
        if woken != 0 {
            self.state.fetch_or(WOKEN, Relaxed);
        }
        if queue.is_empty() {
            self.state.fetch_and(!(WAITERS | STARVING), Relaxed);
        }
    }

    #[inline]
    fn cas(&self, old: usize, new: usize) -> bool {
        self.state.compare_exchange_weak(old, new, Relaxed, Relaxed).is_ok()
    }
}

/// Takes off the front, and claims, a writer or as many readers as there are in a row; says how many. With the lock, or
/// to look at it again.
fn claim_run(queue: &mut QueueGuard<'_, WaitList>, with_lock: bool) -> (WaitList, usize) {
    let mut run = WaitList::new();
    let mut n = 0;
    while n == 0 || queue.front().is_some_and(|next| Place::of(next).mode == Mode::Shared) {
        let Some(node) = queue.pop() else { break };
        // SAFETY: found on this list, whose lock is held.
        if !unsafe { node.claim(Event::Done) } {
            continue; // it has timed out just now
        }
        let place = Place::of(node);
        place.has_lock.set(with_lock);
        run.push(node);
        n += 1;
        if place.mode == Mode::Exclusive {
            break;
        }
    }
    (run, n)
}
