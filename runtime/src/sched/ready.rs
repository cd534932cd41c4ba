//! Making goroutines runnable: `go!` and wake-ups.
//!
//! On an M with a P both are a few plain stores in one section. The new or woken goroutine runs next on this P, and
//! whoever would have run next goes to the end of the ring: what one goroutine makes ready it usually soon waits for.
//! Without a P (in a plain thread, or after the P was taken) the goroutine goes to the global queue.

use super::{
    ID_BATCH, Sched,
    globrunq::Batch,
    idle, pusher_fence,
    runq::{Full, HALF},
};
use crate::{
    g::{G, Handle, Kind, Options},
    m::{self, M},
    p::{Own, P},
    sched,
    testing::world::World,
};
use std::{
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
/// `start`, and what it leaves on its stack across parking calls, may go on on another thread: the contract of
/// [`spawn_migrating`](crate::spawn_migrating). The closure lives as long as the goroutine does.
pub(crate) unsafe fn spawn<F, T>(start: F, options: Option<Box<Options>>) -> Handle<T>
where
    F: FnOnce() -> T,
{
    let m = m::current();
    let g = G::create(start, options);
    // SAFETY: made just now with these types, and this is the one handle.
    let handle = unsafe { Handle::new::<F>(g) };
    match m {
        Some(m) if idle::rejoin(m) => {
            m.counters.spawned.add(1);
            put(m, g, Some(m.sched));
        }
        _ => {
            if let Some(world) = m.and_then(M::world) {
                world.spawned(g);
                return handle;
            }
            let sched = m.map_or_else(sched::sched, |m| m.sched);
            // SAFETY: nobody knows the goroutine yet.
            unsafe { g.as_ref() }.set_id(sched.fresh_id());
            sched.spawned_outside.fetch_add(1, Relaxed);
            put_global(sched, g);
        }
    }
    handle
}

/// Makes a parked goroutine runnable again (Go's goready). It must be the caller's (invariant 1 of `g`).
pub(crate) fn ready(g: NonNull<G>) {
    match m::current() {
        Some(m) if idle::rejoin(m) => put(m, g, None),
        _ => put_elsewhere(g),
    }
}

/// Makes `g` runnable although this thread has no P to leave it with.
#[cold]
fn put_elsewhere(g: NonNull<G>) {
    // SAFETY: the caller's.
    match unsafe { g.as_ref() }.kind.get() {
        Kind::Migrating => put_global(sched::sched(), g),
        Kind::Simulated => World::ready(g),
    }
}

/// Lets `g` run next on this M's P, or, if the P is lost, on any. `fresh`: it still needs a number.
fn put(m: &'static M, g: NonNull<G>, fresh: Option<&'static Sched>) {
    // SAFETY: this thread's M, and sections are leaves: queues and counters only (a number costs an atomic add each
    // `ID_BATCH` goroutines).
    let pushed = unsafe {
        m.with_p(|p, own| {
            if let Some(sched) = fresh {
                g.as_ref().set_id(next_id(own, sched));
            }
            let old = p.runq.swap_next(g.as_ptr());
            if old.is_null() {
                Ok(())
            } else {
                p.runq.push(old).map_err(|Full| old)
            }
        })
    };
    match pushed {
        Some(Ok(())) => {}
        Some(Err(old)) => overflow(m, old),
        None => {
            if let Some(sched) = fresh {
                // SAFETY: nobody knows the goroutine yet.
                unsafe { g.as_ref() }.set_id(sched.fresh_id());
            }
            return put_global(m.sched, g);
        }
    }
    pusher_fence();
    idle::pushed(m.sched, m.latch().p().and_then(P::of));
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

/// Puts `g` at the end of this M's ring. `false`: no P, `g` is still the caller's.
pub(super) fn put_last(m: &'static M, g: NonNull<G>) -> bool {
    // SAFETY: this thread's M; a section with a queue operation.
    match unsafe { m.with_p(|p, _| p.runq.push(g.as_ptr())) } {
        Some(Ok(())) => true,
        Some(Err(Full)) => {
            overflow(m, g.as_ptr());
            true
        }
        None => false,
    }
}

/// Moves half the ring, and `extra` behind it, to the global queue.
#[cold]
fn overflow(m: &'static M, extra: *mut G) {
    let mut half = [ptr::null_mut(); HALF];
    // SAFETY: this thread's M; a section with a queue operation.
    let n = unsafe { m.with_p(|p, _| p.runq.pop_some(&mut half)) }.unwrap_or(0);
    let mut batch = Batch::new();
    for &g in half[..n].iter().chain([&extra]) {
        // SAFETY: popped from our own ring, or the caller's.
        unsafe { batch.push(g) };
    }
    m.sched.global.push(batch);
}

/// Puts one goroutine on the global queue and sees to it that somebody looks there.
pub(super) fn put_global(sched: &'static Sched, g: NonNull<G>) {
    let mut batch = Batch::new();
    // SAFETY: the caller's, and alive.
    unsafe { batch.push(g.as_ptr()) };
    put_global_batch(sched, batch);
}

/// Puts goroutines on the global queue and sees to it that somebody looks there.
pub(super) fn put_global_batch(sched: &'static Sched, batch: Batch) {
    sched.global.push(batch);
    fence(SeqCst);
    idle::pushed(sched, None);
}
