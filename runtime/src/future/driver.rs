//! The driver of futures: a goroutine that calls wakers.
//!
//! ```text
//!   wake of a task (under a lock, on g0, …) ─▶ woken ─┐
//!   Timer, Ticker, `after` … polled ─▶ alarms ── due ─┴─▶ the driver's goroutine: waker.wake()
//! ```
//!
//! A waker is code of somebody else, which may take locks, or drop a task and with it the ends of channels. So it is called
//! in a goroutine that holds nothing. That runs while a waker is to be called or an alarm is set, and ends then: a program that
//! awaits nothing has none, and neither has one that waits for its goroutines to end.
//!
//! # Invariants
//!
//! 1. `runs` says that the goroutine is there and will look at the rest before it ends; it changes under the lock.
//! 2. The goroutine sleeps until the earliest alarm. Whoever sets an earlier one, or leaves a waker, wakes it.
//! 3. No waker is called, cloned or dropped under the lock.

use crate::{
    lock::Mutex,
    park::{Event, WaitReason, Waiter},
    sched,
    testing::world::World,
    time::{self, heap::NEVER},
    waitlist::{Node, WaitList},
};
use std::{
    collections::BTreeMap,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, LazyLock},
    task::Waker,
};

/// When, and the number of the alarm.
type Key = (u64, u64);

pub(crate) struct Driver {
    state: Mutex<State>,
}

struct State {
    runs: bool,
    /// To be called now.
    woken: Vec<Waker>,
    /// To be called then.
    alarms: BTreeMap<Key, Waker>,
    /// Alarms that were set so far.
    numbers: u64,
    /// The goroutine, while it sleeps.
    sleeping: WaitList,
}

/// A waker that is to be called at some time; dropping this drops it.
pub(crate) struct Alarm {
    driver: Arc<Driver>,
    key: Key,
    /// The waker, as long as the time is [`NEVER`]: the driver knows nothing of it.
    kept: Option<Waker>,
}

impl Driver {
    pub(crate) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                runs: false,
                woken: Vec::new(),
                alarms: BTreeMap::new(),
                numbers: 0,
                sleeping: WaitList::new(),
            }),
        }
    }

    /// The driver of the caller's simulation, else that of the process.
    pub(crate) fn here() -> Arc<Self> {
        static DRIVER: LazyLock<Arc<Driver>> = LazyLock::new(|| Arc::new(Driver::new()));
        World::current().map_or_else(|| Arc::clone(&DRIVER), |world| Arc::clone(&world.driver))
    }

    /// Has the waker called soon.
    pub(crate) fn wake_later(self: Arc<Self>, waker: Waker) {
        self.run_on(|state| state.woken.push(waker));
    }

    /// Calls those that are to be called now, here: for the end of a simulation, in which the goroutine will not run any more.
    pub(crate) fn finish(&self) {
        let woken = mem::take(&mut self.state.lock().woken);
        woken.into_iter().for_each(call);
    }

    /// Changes the state so that there is something to do for the goroutine.
    fn run_on(self: Arc<Self>, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let asleep = state.sleeping.pop_claimed(Event::Done);
        let runs = mem::replace(&mut state.runs, true);
        drop(state);
        if let Some(asleep) = asleep {
            asleep.wake();
        } else if !runs {
            sched::spawn_own(move || self.run());
        }
    }

    /// What the goroutine does.
    fn run(&self) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.state.lock();
            mem::swap(&mut batch, &mut state.woken);
            let now = time::now();
            while let Some(first) = state.alarms.first_entry().filter(|first| first.key().0 <= now) {
                batch.push(first.remove());
            }
            if !batch.is_empty() {
                drop(state);
                batch.drain(..).for_each(call);
                continue;
            }
            let Some((&(next, _), _)) = state.alarms.first_key_value() else {
                state.runs = false;
                state.woken = batch; // its room
                return;
            };
            let waiter = Waiter::new();
            let node = Node::new(&raw const waiter, ptr::null_mut());
            state.sleeping.push(&node);
            waiter.park_until(WaitReason::Future, next, move || {
                drop(state);
                true
            });
            self.state.lock().sleeping.remove(&node);
        }
    }
}

/// Calls a waker. One that panics has been reported by std's hook, and must not keep the others from being called.
fn call(waker: Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}

impl Alarm {
    /// Has the waker called at `when`, by the clock of [`time::now`].
    fn set(when: u64, waker: Waker) -> Self {
        let mut alarm = Self {
            driver: Driver::here(),
            key: (NEVER, 0),
            kept: None,
        };
        alarm.start(when, waker);
        alarm
    }

    /// Sees to it that `slot` has an alarm that is set for `when` and calls this waker, unless that is [`NEVER`].
    pub(crate) fn arm(slot: &mut Option<Self>, when: u64, waker: &Waker) {
        if when == NEVER {
            *slot = None;
        } else {
            Self::hold(slot, when, waker);
        }
    }

    /// As [`arm`](Self::arm), but holds the waker in any case, for an alarm that may be [put off](Self::put_off).
    pub(crate) fn hold(slot: &mut Option<Self>, when: u64, waker: &Waker) {
        let set = slot
            .as_mut()
            .is_some_and(|alarm| alarm.key.0 == when && alarm.renew(waker));
        if !set {
            *slot = Some(Self::set(when, waker.clone()));
        }
    }

    /// Has its waker called at `when` instead, unless it has gone off.
    pub(crate) fn put_off(&mut self, when: u64) {
        if let Some(waker) = self.stop() {
            self.start(when, waker);
        }
    }

    /// Sets what is not set.
    fn start(&mut self, when: u64, waker: Waker) {
        if when == NEVER {
            self.key = (NEVER, 0);
            self.kept = Some(waker);
            return;
        }
        let key = &mut self.key;
        Arc::clone(&self.driver).run_on(|state| {
            state.numbers += 1;
            *key = (when, state.numbers);
            state.alarms.insert(*key, waker);
        });
    }

    /// Takes the waker back. `None`: it has gone off.
    fn stop(&mut self) -> Option<Waker> {
        match self.kept.take() {
            None => self.driver.state.lock().alarms.remove(&self.key),
            kept => kept,
        }
    }

    /// Makes this its waker. `false`: it has gone off.
    fn renew(&mut self, waker: &Waker) -> bool {
        let mut other = waker.clone(); // after the exchange: the one before
        if let Some(kept) = &mut self.kept {
            mem::swap(kept, &mut other);
            return true;
        }
        let mut state = self.driver.state.lock();
        let before = state.alarms.get_mut(&self.key);
        let is_set = before.map(|before| mem::swap(before, &mut other)).is_some();
        drop(state);
        drop(other); // not under the lock
        is_set
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm")
            .field("when", &self.key.0)
            .finish_non_exhaustive()
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let waker = self.stop();
        drop(waker); // not under the lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::{RawWaker, RawWakerVTable},
    };

    static DROPS: AtomicUsize = AtomicUsize::new(0);

    /// Its wakers look, as they are dropped, whether the driver that they lead to is locked.
    static VTABLE: RawWakerVTable = RawWakerVTable::new(
        |driver| RawWaker::new(driver, &VTABLE),
        |_| unreachable!("nobody wakes"),
        |_| unreachable!("nobody wakes"),
        |driver| {
            // SAFETY: the driver of the test below, which outlives its wakers.
            let driver = unsafe { &*driver.cast::<Driver>() };
            assert!(!driver.state.is_locked());
            DROPS.fetch_add(1, SeqCst);
        },
    );

    #[test]
    fn a_waker_that_comes_too_late_is_dropped_under_no_lock() {
        let driver = Arc::new(Driver::new());
        // SAFETY: the table is for pointers to a driver, and this one stays until the end of the test.
        let waker = unsafe { Waker::new(Arc::as_ptr(&driver).cast(), &VTABLE) };
        let mut gone_off = Alarm {
            driver: Arc::clone(&driver),
            key: (1, 1),
            kept: None,
        };
        assert!(!gone_off.renew(&waker));
        assert_eq!(DROPS.load(SeqCst), 1);
        drop(waker);
    }
}
