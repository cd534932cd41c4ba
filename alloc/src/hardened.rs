//! Hardening, with the feature `hardened`: what finds more mistakes of a program than is free.
//!
//! ```text
//!   malloc  ◀── live bit set ◀── poison intact? ──────── list ◀── shuffled, poisoned ◀── span, from a random word on
//!   free    ──▶ an object of its class? ─ live bit cleared? ─ poisoned ─▶ list            ▒▒▒▒ guard page behind each span
//! ```
//!
//! | mistake | found |
//! |---|---|
//! | a second free, of any class, however long ago the first one was | at once, by the live bit, unless the object was handed out again |
//! | a pointer that is none of the heap's, or into the middle of an object, or with another layout | at once, by the arena map and the span |
//! | a write to a freed object, beyond its first word and within its first 4 KiB | when the object is handed out again |
//! | a write or read beyond the last object of a span | at once, by the guard page (Linux 6.13 and later) |
//!
//! Each ends the process with a message; the last one as SIGSEGV. Objects of a class come in an order that cannot be
//! foretold. Large objects (above 32 KiB) are checked against a second free and a wrong pointer without the feature as well;
//! poisoned and guarded they are not.
//!
//! Without the feature everything here is nothing: [`ON`] is a constant, and what depends on it is compiled away.

use crate::{
    mcentral,
    mspan::Span,
    sizeclass::{BinAt, Class},
    sys::{die::die, mem},
};
use core::{
    ptr::NonNull,
    slice,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
};

/// Whether the heap is hardened.
pub(crate) const ON: bool = cfg!(feature = "hardened");

/// What a freed object is filled with.
const POISON: u8 = 0xdf;
/// How much of it, at most.
const POISONED: usize = 4096;
/// The link to the next object of a list, which is not poison.
const LINK: usize = size_of::<usize>();

/// Looks at an object that goes to the program.
#[inline(always)]
pub(crate) fn handed_out(at: BinAt, object: NonNull<u8>) {
    if ON {
        check_handed_out(at.class(), object);
    }
}

#[inline(never)]
fn check_handed_out(class: Class, object: NonNull<u8>) {
    let (span, index) = mcentral::locate(class, object);
    if !span.set_live(index, true) {
        die(format_args!(
            "the object of {} bytes at {object:p} was to be handed out twice: a list of free objects is corrupt, by a write to \
             freed memory",
            class.size()
        ));
    }
    // SAFETY: the object is as long, and nobody's but ours.
    let body = unsafe { slice::from_raw_parts(object.as_ptr(), class.size().min(POISONED)) };
    if let Some(offset) = body.iter().skip(LINK).position(|&byte| byte != POISON) {
        die(format_args!(
            "the object of {} bytes at {object:p} was written to after it was freed, {} bytes from its start",
            class.size(),
            offset + LINK
        ));
    }
}

/// Looks at an object that comes from the program.
#[inline(always)]
pub(crate) fn taken_back(at: BinAt, object: NonNull<u8>) {
    if ON {
        check_taken_back(at.class(), object);
    }
}

#[inline(never)]
fn check_taken_back(class: Class, object: NonNull<u8>) {
    let (span, index) = mcentral::locate(class, object);
    if !span.set_live(index, false) {
        die(format_args!(
            "the object of {} bytes at {object:p} was freed twice",
            class.size()
        ));
    }
    poison(class, object);
}

fn poison(class: Class, object: NonNull<u8>) {
    let len = class.size().min(POISONED);
    // SAFETY: the object is as long, and free.
    unsafe { object.add(LINK).write_bytes(POISON, len - LINK) };
}

/// Prepares objects that come from their spans for a list.
#[inline(always)]
pub(crate) fn prepare(class: Class, objects: &mut [NonNull<u8>]) {
    if ON {
        for last in (1..objects.len()).rev() {
            objects.swap(last, random(last + 1));
        }
        objects.iter().for_each(|&object| poison(class, object));
    }
}

/// A number below `bound` that cannot be foretold easily: splitmix64 from a seed of the kernel's.
pub(crate) fn random(bound: usize) -> usize {
    static STATE: AtomicU64 = AtomicU64::new(0);
    if STATE.load(Relaxed) == 0 {
        // Whoever comes second does no harm.
        STATE.store(mem::seed() | 1, Relaxed);
    }
    let mut x = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) as usize % bound
}

/// Pages behind the objects of a span that nobody may touch.
pub(crate) const GUARD_PAGES: usize = if ON { 1 } else { 0 };

/// One bit for each object of a span: it is with the program.
#[derive(Debug)]
pub(crate) struct Live([AtomicU64; if ON { crate::sizeclass::MAX_OBJECTS / 64 } else { 0 }]);

impl Live {
    pub(crate) const fn none() -> Self {
        Self([const { AtomicU64::new(0) }; if ON { crate::sizeclass::MAX_OBJECTS / 64 } else { 0 }])
    }
}

impl Span {
    /// Notes that an object is with the program, or is so no more. `false` if that is what was noted already.
    fn set_live(&self, index: usize, live: bool) -> bool {
        let (word, bit) = (&self.live.0[index / 64], 1_u64 << (index % 64));
        // AcqRel: of two that free the same object at the same time one sees the other.
        let before = if live {
            word.fetch_or(bit, AcqRel)
        } else {
            word.fetch_and(!bit, AcqRel)
        };
        (before & bit != 0) != live
    }
}
