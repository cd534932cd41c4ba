//! What an M notes while a trace is on: which goroutine it runs, on which P, from when to when.
//!
//! ```text
//!   began ──────────────── P is taken ─────────────── stopped
//!     └ one slice on P's track ┘└ one beside the Ps ──────┘     both are written by the M itself, when it stops
//! ```
//!
//! A slice is noted when it is over, so beginnings and ends always pair up. Who takes a P away only leaves the time in the M's
//! lane; the M cuts its slice there later. So a lane has one writer, and no two slices of one P overlap: the P's next owner
//! begins after the taker has read the clock.

use super::{
    NUMBER, START, is_on,
    ring::{Kind, NO_P, Record, Ring},
    writer,
};
use crate::{
    g::{Body, G},
    m::M,
    p::P,
    sched::stall::Cause,
    time::monotonic,
};
use std::{
    cell::Cell,
    panic::Location,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// How a slice ended, where that was no wait: the numbers below are those of [`WaitReason`](crate::park::WaitReason).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum How {
    /// The goroutine yielded.
    Yielded = 128,
    /// It has no P and waits for its turn.
    Queued,
    /// It has ended.
    Ended,
    /// It goes on without its P, which was taken or given up.
    Declared,
    Undeclared,
    Hog,
    GaveUp,
    /// ... because all Ps stood still for a dump, or became fewer.
    Held,
    /// It goes on with a P.
    GotP,
    /// It was still running when the trace ended.
    Runs,
}

impl How {
    /// Of its number, if it is one.
    pub(super) fn of(how: u8) -> Option<Self> {
        const ALL: [How; 10] = [
            How::Yielded,
            How::Queued,
            How::Ended,
            How::Declared,
            How::Undeclared,
            How::Hog,
            How::GaveUp,
            How::Held,
            How::GotP,
            How::Runs,
        ];
        ALL.into_iter().find(|known| *known as u8 == how)
    }

    /// What the goroutine did then, in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Yielded => "yields",
            Self::Queued => "waits for a processor",
            Self::Ended => "ends",
            Self::Declared => "handed off: a declared blocking call",
            Self::Undeclared => "handed off: it sleeps in the kernel",
            Self::Hog => "handed off: its time slice is over",
            Self::GaveUp => "handed off: it gives its processor up",
            Self::Held => "handed off: all processors are held",
            Self::GotP => "has a processor again",
            Self::Runs => "runs on",
        }
    }

    /// Whether the P goes to another M.
    pub(super) fn is_handoff(self) -> bool {
        matches!(self, Self::Declared | Self::Undeclared | Self::Hog | Self::GaveUp)
    }

    fn taken(cause: Option<Cause>) -> Self {
        match cause {
            Some(Cause::Declared) => Self::Declared,
            Some(Cause::Undeclared) => Self::Undeclared,
            Some(Cause::Hog) => Self::Hog,
            None => Self::Held,
        }
    }
}

/// An M's part in the trace. Written by the M's thread, but for `lost_at` and `lost_how`.
pub(crate) struct Lane {
    /// Made when the M first notes something; never freed.
    ring: AtomicPtr<Ring>,
    /// When the present slice began, 0 if there is none: it was begun while a trace was on, and is closed in any case.
    begin: AtomicU64,
    goroutine: AtomicU64,
    place: AtomicPtr<Location<'static>>,
    /// The goroutine has a name.
    named: AtomicBool,
    p: Cell<u16>,
    /// How often the goroutine's stack had doubled when it began.
    doublings: Cell<u32>,
    /// When the P was taken away, 0 if it was not; written by who takes it, before anybody can bind it again.
    lost_at: AtomicU64,
    lost_how: AtomicU8,
}

impl Lane {
    pub(crate) fn new() -> Self {
        Self {
            ring: AtomicPtr::new(ptr::null_mut()),
            begin: AtomicU64::new(0),
            goroutine: AtomicU64::new(0),
            place: AtomicPtr::new(ptr::null_mut()),
            named: AtomicBool::new(false),
            p: Cell::new(NO_P),
            doublings: Cell::new(0),
            lost_at: AtomicU64::new(0),
            lost_how: AtomicU8::new(0),
        }
    }

    /// The ring, if there is one.
    pub(super) fn ring(&self) -> Option<&'static Ring> {
        // SAFETY: null or a ring, and rings are never freed.
        unsafe { self.ring.load(Acquire).as_ref() }
    }

    /// The slice that has not ended at `now`, as one or two records; for the writer, after the trace was turned off.
    pub(super) fn open(&self, now: u64) -> Option<[Option<Record>; 2]> {
        let begin = self.begin.load(Acquire);
        (begin != 0 && begin >= START.load(Relaxed)).then(|| self.cut(begin, now, How::Runs as u8))
    }

    /// The slice from `begin` to `end`, cut where the P was taken.
    fn cut(&self, begin: u64, end: u64, how: u8) -> [Option<Record>; 2] {
        let lost = self.lost_at.load(Acquire);
        let record = |begin, end, p, how| Record {
            begin,
            end,
            goroutine: self.goroutine.load(Relaxed),
            // SAFETY: null or a location, which are constants.
            place: unsafe { self.place.load(Relaxed).as_ref() },
            kind: Kind::Slice,
            how,
            p,
            n: self.named.load(Relaxed).into(),
        };
        let p = self.p.get();
        if p == NO_P || lost == 0 || lost >= end {
            return [Some(record(begin, end, p, how)), None];
        }
        let on_p = (lost > begin).then(|| record(begin, lost, p, self.lost_how.load(Relaxed)));
        [on_p, Some(record(lost.max(begin), end, NO_P, how))]
    }

    /// The P is taken away now. This is noted whether or not there is a slice: one may be about to begin, with this P and a time
    /// before now.
    fn lose(&self, cause: Option<Cause>) {
        self.lost_how.store(How::taken(cause) as u8, Relaxed);
        self.lost_at.store(monotonic(), Release);
    }

    /// Whether there is a slice that has not ended.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.begin.load(Relaxed) != 0
    }

    /// Notes that the present slice ends now, if there is one.
    fn close(&self, how: u8) -> Option<u64> {
        let begin = self.begin.load(Relaxed);
        if begin == 0 {
            return None;
        }
        let now = monotonic();
        self.cut(begin, now, how)
            .into_iter()
            .flatten()
            .for_each(|record| self.push(record));
        Some(now)
    }

    /// One more record. On the M's thread.
    fn push(&self, record: Record) {
        let ring = self.ring().unwrap_or_else(|| {
            let ring = Box::leak(Box::new(Ring::new()));
            self.ring.store(ring, Release);
            ring
        });
        // SAFETY: a lane is pushed to by its M's own thread.
        if unsafe { ring.push(record) } {
            writer::wake();
        }
    }

    /// Something happened at this moment.
    fn note(&self, kind: Kind, p: u16, goroutine: u64, n: u32) {
        let now = monotonic();
        self.push(Record {
            begin: now,
            end: now,
            goroutine,
            place: None,
            kind,
            how: 0,
            p,
            n,
        });
    }
}

/// The P that `m`, this thread's M, has.
fn processor(m: &'static M) -> u16 {
    while m.has_p() {
        if let Some(p) = m.latch().p().and_then(P::of) {
            return number(p);
        }
    }
    NO_P
}

fn number(p: &P) -> u16 {
    u16::try_from(p.id).unwrap_or(NO_P)
}

/// On g0, before `m` runs the goroutine of `body`.
///
/// # Safety
///
/// `g` is that goroutine, and alive.
#[inline(never)]
pub(crate) unsafe fn began(m: &'static M, body: &Body, g: NonNull<G>) {
    let (lane, seen) = (&m.lane, body.seen());
    // SAFETY: as the caller promised.
    let name = unsafe { g.as_ref() }.name();
    let trace = NUMBER.load(Relaxed);
    if let Some(name) = name
        && body.named_in.replace(trace) != trace
    {
        writer::names(seen.id, name);
    }
    lane.named.store(name.is_some(), Relaxed);
    lane.goroutine.store(seen.id, Relaxed);
    let place = seen
        .place
        .map_or(ptr::null_mut(), |place| ptr::from_ref(place).cast_mut());
    lane.place.store(place, Relaxed);
    lane.doublings.set(body.desc().doublings());
    let now = monotonic();
    lane.p.set(processor(m));
    lane.begin.store(now, Release);
}

/// On g0, after the goroutine of `body` has left its stack: it has `ended`, or merely `yielded`, or begins to wait.
#[inline(never)]
pub(crate) fn stopped(m: &'static M, body: &Body, ended: bool, yielded: bool) {
    let (lane, seen) = (&m.lane, body.seen());
    let how = match seen.reason() {
        _ if ended => How::Ended as u8,
        _ if yielded => How::Yielded as u8,
        0 => How::Queued as u8,
        reason => reason,
    };
    lane.close(how);
    lane.begin.store(0, Relaxed);
    let doublings = body.desc().doublings();
    if doublings > lane.doublings.get() {
        let kib = body.desc().charge() >> 10;
        lane.note(
            Kind::Growth,
            lane.p.get(),
            seen.id,
            u32::try_from(kib).unwrap_or(u32::MAX),
        );
    }
}

/// `m`, this thread's M, is about to have `p`.
pub(crate) fn bound(m: &M, p: &P) {
    let lane = &m.lane;
    let now = lane.close(How::GotP as u8);
    lane.lost_at.store(0, Relaxed);
    lane.p.set(number(p));
    if let Some(now) = now {
        lane.begin.store(now, Release);
    }
}

/// `m`, this thread's M, gives its P up.
pub(crate) fn unbound(m: &M) {
    if let Some(now) = m.lane.close(How::GaveUp as u8) {
        m.lane.p.set(NO_P);
        m.lane.begin.store(now, Release);
    }
}

/// A P is taken from `m`, another thread's M: because of `cause`, or with all others. Nobody can have it before this returns.
pub(crate) fn taken(m: &M, cause: Option<Cause>) {
    m.lane.lose(cause);
}

/// `m`, this thread's M, has taken `n` goroutines from `victim`.
pub(crate) fn stole(m: &'static M, victim: &P, n: usize) {
    if is_on() {
        m.lane.note(Kind::Steal, processor(m), victim.id as u64, n as u32);
    }
}

/// `m`, this thread's M, has left `n` of its P's goroutines to others.
pub(crate) fn shed(m: &'static M, n: usize) {
    if is_on() {
        m.lane.note(Kind::Shed, processor(m), 0, n as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in `began`, when the P is taken after the look at it.
    #[test]
    fn who_loses_its_p_while_it_begins_has_it_no_longer() {
        let lane = Lane::new();
        let begin = monotonic() - 1;
        lane.p.set(3);
        lane.lose(Some(Cause::Hog));
        lane.begin.store(begin, Release);
        let end = monotonic().max(lane.lost_at.load(Relaxed) + 1);
        let [on_p, beside] = lane.cut(begin, end, How::Yielded as u8).map(Option::unwrap);
        assert_eq!((on_p.p, on_p.how), (3, How::Hog as u8));
        assert_eq!((beside.p, beside.how), (NO_P, How::Yielded as u8));
        assert!(on_p.end == beside.begin && beside.begin < beside.end);
    }
}
