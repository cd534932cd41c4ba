//! Time: sleeping goroutines, and what is made of sleeping: timers, tickers, timeouts.
//!
//! ```text
//!   sleep ─▶ the P's heap (carried along when P moves) ─▶ due ─▶ fired by the owner, by a thief, or by the keeper
//!         └▶ the shared heap, for a goroutine without a P
//! ```
//!
//! Who sees to it that a timer is not missed: the owner, each time it is out of work and every 61st switch; one idle M,
//! the keeper, which sleeps until the earliest timer of all; and the sysmon, for Ps whose M does not get on.

pub(crate) mod heap;
mod timer;

pub use timer::{AfterFunc, Elapsed, Ticker, Timer, after_func, timeout};

use crate::{
    g::G,
    m::{self, M},
    p::{Own, P},
    park::{WaitReason, park_goroutine, yield_now},
    sched::{self, Sched, checkpoint},
    testing::world::World,
};
use heap::{NEVER, Room, Sleeper};
use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, Release},
    },
    time::{Duration, Instant},
};

/// The clock that the monitor reads for others.
static COARSE: AtomicU64 = AtomicU64::new(0);

/// The time as it was a moment ago: exact to 10 ms or so while goroutines run. One load.
#[inline]
pub(crate) fn coarse() -> u64 {
    COARSE.load(Relaxed)
}

/// Where it is, for a debugger.
pub(crate) fn coarse_clock() -> *const AtomicU64 {
    &raw const COARSE
}

/// Sets the coarse clock to `now`.
pub(crate) fn set_coarse(now: u64) {
    COARSE.store(now, Relaxed);
}

/// Nanoseconds of the monotonic clock; in a simulation, of its own. All of Baton reads the time here.
pub(crate) fn now() -> u64 {
    if let Some(world) = World::current() {
        return world.now();
    }
    monotonic()
}

/// Nanoseconds of the monotonic clock, also in a simulation.
pub(crate) fn monotonic() -> u64 {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut spec) };
    spec.tv_sec.unsigned_abs() * 1_000_000_000 + spec.tv_nsec.unsigned_abs()
}

/// When `timeout` from now has passed; [`NEVER`] if that is centuries away.
pub(crate) fn deadline_in(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_nanos()).map_or(NEVER, |nanos| now().saturating_add(nanos))
}

/// The same moment on this module's clock, or a little later, but not sooner.
pub(crate) fn deadline_at(instant: Instant) -> u64 {
    deadline_in(instant.saturating_duration_since(Instant::now()))
}

/// Lets at least `duration` pass. Only the calling goroutine (or, in a plain thread, the thread) waits.
///
/// Zero is a [`yield_now`]. A sleep of centuries ends never.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// baton::run(|| {
///     let start = Instant::now();
///     baton::time::sleep(Duration::from_millis(2));
///     assert!(start.elapsed() >= Duration::from_millis(2));
/// });
/// ```
pub fn sleep(duration: Duration) {
    if duration.is_zero() {
        checkpoint();
        return yield_now();
    }
    sleep_till(deadline_in(duration));
}

/// Waits until `when`, or a little longer. As [`sleep`].
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let when = Instant::now() + Duration::from_millis(2);
/// baton::run(|| baton::time::sleep_until(when));
/// assert!(Instant::now() >= when);
/// ```
pub fn sleep_until(when: Instant) {
    sleep_till(deadline_at(when));
}

/// Sleeps until `due` on this module's clock.
fn sleep_till(due: u64) {
    checkpoint();
    if due <= now() {
        return;
    }
    let Some((m, g)) = m::current_goroutine().filter(|_| !std::thread::panicking()) else {
        let left = Duration::from_nanos(due - now().min(due));
        return sched::blocking(|| std::thread::sleep(left));
    };
    let sleeper = Sleeper::new(due.min(NEVER - 1), m.desc());
    park_goroutine(m, g, WaitReason::Sleep, move || {
        insert(m, sleeper);
        true
    });
}

/// Leaves a sleeper with this M's P, or with nobody's if it has none. On g0.
pub(crate) fn insert(m: &'static M, mut sleeper: Sleeper) {
    if let Some(world) = m.world() {
        return world.wake_at(sleeper);
    }
    loop {
        let mut room_for = 0;
        // SAFETY: this thread's M; a push that does not grow the heap.
        let pushed = unsafe {
            m.with_p(|p, own| {
                let pushed = own.sleepers.push(sleeper);
                room_for = own.sleepers.capacity();
                p.due.store(own.sleepers.earliest(), Release);
                pushed
            })
        };
        match pushed {
            Some(Ok(())) => break,
            Some(Err(back)) => {
                sleeper = back;
                let mut room = Some(Room::twice(room_for));
                // SAFETY: this thread's M; moving the sleepers over is plain copying.
                let old = unsafe { m.with_p(|_, own| room.take().map(|room| own.sleepers.replace(room))) };
                drop(old); // outside the section
            }
            None => {
                insert_shared(m.sched, sleeper);
                break;
            }
        }
    }
    m.sched.timer_inserted(sleeper.when);
}

fn insert_shared(sched: &Sched, mut sleeper: Sleeper) {
    let mut heap = sched.lock_sleepers();
    while let Err(back) = heap.push(sleeper) {
        sleeper = back;
        let room = Room::twice(heap.capacity());
        drop(heap.replace(room));
    }
    sched.publish_sleepers(&heap);
}

/// Moves all sleepers of a P that retires, whose owner the caller is, to the shared heap.
pub(crate) fn move_to_shared(sched: &Sched, sleepers: &mut heap::Heap) {
    while let Some(sleeper) = sleepers.pop(NEVER - 1) {
        if !sleeper.is_stale() {
            insert_shared(sched, sleeper);
        }
    }
}

/// Takes the goroutines that are due at `now` off the P's heap, as many as fit `into`, and says how many.
///
/// The caller owns the P.
#[inline]
pub(crate) fn pop_due(p: &P, own: &mut Own, now: u64, into: &mut [*mut G]) -> usize {
    let n = pop_from(&mut own.sleepers, now, into);
    p.due.store(own.sleepers.earliest(), Release);
    n
}

/// As [`pop_due`], off the shared heap.
pub(crate) fn pop_due_shared(sched: &Sched, now: u64, into: &mut [*mut G]) -> usize {
    let mut heap = sched.lock_sleepers();
    let n = pop_from(&mut heap, now, into);
    sched.publish_sleepers(&heap);
    n
}

fn pop_from(heap: &mut heap::Heap, now: u64, into: &mut [*mut G]) -> usize {
    let mut n = 0;
    while n < into.len()
        && let Some(g) = heap.pop_due(now)
    {
        into[n] = g.as_ptr();
        n += 1;
    }
    n
}
