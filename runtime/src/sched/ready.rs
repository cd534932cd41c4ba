//! Making goroutines runnable: `go!` and wake-ups.
//!
//! On an M with a P both are a few plain stores in one section. The new or woken goroutine runs next on this P, and
//! whoever would have run next goes to the end of the ring: what one goroutine makes ready it usually soon waits for.
//! Without a P (in a plain thread, or after the P was taken) the goroutine goes to the global queue.

use super::{
    ID_BATCH, Sched, idle, pusher_fence,
    runq::{Full, HALF},
    steal,
};
use crate::{
    g::{Baggage, G, Handle, Kind},
    local, lock,
    m::{self, M},
    p::Own,
    sched,
    site::Site,
    testing::world::World,
};
use std::{
    panic::Location,
    ptr::{self, NonNull},
    sync::atomic::{
        Ordering::{Relaxed, SeqCst},
        fence,
    },
};

/// Starts a goroutine.
///
/// # Safety
///
/// If it is of a kind that migrates, `start`, and what it leaves on its stack across parking calls, may go on on another
/// thread: the contract of [`spawn_migrating`](crate::spawn_migrating). The closure lives as long as the goroutine does.
#[inline]
#[track_caller]
pub(crate) unsafe fn spawn<F, T>(start: F, baggage: Option<Box<Baggage>>, kind: Kind) -> Handle<T>
where
    F: FnOnce() -> T,
{
    // SAFETY: as the caller promised.
    unsafe { spawn_at(start, baggage, kind, None) }
}

/// [`spawn`] from a known place in the program's text.
///
/// # Safety
///
/// As for `spawn`.
#[track_caller]
pub(crate) unsafe fn spawn_at<F, T>(
    start: F,
    baggage: Option<Box<Baggage>>,
    kind: Kind,
    site: Option<&'static Site>,
) -> Handle<T>
where
    F: FnOnce() -> T,
{
    lock::room();
    let place = Location::caller();
    let site = site.or_else(|| Site::of(place));
    let g = G::create(start, local::inherit(baggage), kind, site, place);
    // SAFETY: made just now with these types, and this is the one handle.
    let handle = unsafe { Handle::new::<F>(g) };
    spawned(g);
    handle
}

/// Starts a goroutine of the runtime's own, which keeps the contract of those that migrate. It inherits nothing, so no code of
/// the program runs here.
#[track_caller]
pub(crate) fn spawn_own<F: FnOnce() + Send + 'static>(start: F) {
    lock::room();
    let g = G::create(start, None, Kind::Migrating, None, Location::caller());
    // SAFETY: made just now with these types, and this is the one handle.
    drop(unsafe { Handle::<()>::new::<F>(g) });
    spawned(g);
}

/// Puts a goroutine that nobody knows yet where it will be run.
fn spawned(g: NonNull<G>) {
    let m = m::current();
    if let Some(m) = m {
        m.counters.spawned.add(1);
        let sched = m.sched;
        // SAFETY: nobody knows the goroutine yet, and it is numbered inside the section, before the push.
        if put(m, g, |own| unsafe { g.as_ref() }.set_id(next_id(own, sched))) {
            return;
        }
        if let Some(world) = m.world() {
            return world.spawned(g);
        }
    }
    let sched = m.map_or_else(sched::sched, |m| m.sched);
    // SAFETY: nobody knows the goroutine yet.
    unsafe { g.as_ref() }.set_id(sched.fresh_id());
    if m.is_none() {
        sched.spawned_outside.fetch_add(1, Relaxed);
    }
    put_global(sched, g);
}

/// Makes a parked goroutine runnable again (Go's goready). It must be the caller's (invariant 1 of `g`).
pub(crate) fn ready(g: NonNull<G>) {
    match m::current() {
        Some(m) if !is_simulated(g) && put(m, g, |_| {}) => {}
        _ => put_elsewhere(g),
    }
}

/// Whether `g` belongs to a simulation, and so on no queue of the scheduler.
#[inline]
fn is_simulated(g: NonNull<G>) -> bool {
    // SAFETY: the caller's.
    unsafe { g.as_ref() }.kind.get() == Kind::Simulated
}

/// Makes `g` runnable although there is no P here to leave it with.
#[cold]
fn put_elsewhere(g: NonNull<G>) {
    if is_simulated(g) {
        World::ready(g);
    } else {
        put_global(sched::sched(), g);
    }
}

/// Lets `g` run next on this M's P, once `first` was done there. `false`: there is no P to be had, and nothing was done.
#[inline(always)]
fn put(m: &'static M, g: NonNull<G>, mut first: impl FnMut(&mut Own)) -> bool {
    loop {
        // SAFETY: this thread's M, and sections are leaves: queues and counters only.
        let pushed = unsafe {
            m.section(|p, own| {
                first(own);
                let old = p.runq.swap_next(g.as_ptr());
                let pushed = if old.is_null() { Ok(()) } else { p.runq.push(old) };
                (pushed.map_err(|Full| old), p)
            })
        };
        match pushed {
            Some((Ok(()), p)) => {
                pusher_fence();
                idle::pushed(m.sched, Some(p));
                if p.asked.load(Relaxed) {
                    steal::shed(m); // who starts many comes to no scheduling point meanwhile
                }
                return true;
            }
            Some((Err(old), p)) => {
                overflow(m, old);
                pusher_fence();
                idle::pushed(m.sched, Some(p));
                return true;
            }
            None if idle::rejoin(m) => {} // a thief borrowed the P, or there is an idle one
            None => return false,
        }
    }
}

/// The next number from the P's reserve.
#[inline]
fn next_id(own: &mut Own, sched: &Sched) -> u64 {
    if own.ids.is_empty() {
        let start = sched.next_id.fetch_add(ID_BATCH, Relaxed);
        own.ids = start..start + ID_BATCH;
    }
    let id = own.ids.start;
    own.ids.start += 1;
    id
}

/// Moves half the ring, and `extra` behind it, to the global queue: the newest (Go moves the oldest), so that those at the front
/// have their turn, among them sleepers that were put there because they are due.
#[cold]
pub(super) fn overflow(m: &'static M, extra: *mut G) {
    let mut half = [ptr::null_mut(); HALF + 1];
    // SAFETY: this thread's M; a section with a queue operation.
    let n = unsafe { m.with_p(|p, _| p.runq.pop_newest(&mut half[..HALF])) }.unwrap_or(0);
    half[n] = extra;
    m.sched.global.push(&half[..=n]);
}

/// Puts one goroutine on the global queue and sees to it that somebody looks there.
pub(super) fn put_global(sched: &'static Sched, g: NonNull<G>) {
    put_all_global(sched, &[g.as_ptr()]);
}

/// Puts goroutines on the global queue and sees to it that somebody looks there.
pub(super) fn put_all_global(sched: &'static Sched, goroutines: &[*mut G]) {
    sched.global.push(goroutines);
    fence(SeqCst);
    idle::pushed(sched, None);
}
