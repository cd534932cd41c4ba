//! What `runtime/gdb/baton.py` has to know of this build: where things lie. Without it the script would need full debug
//! information, which release builds lack.

use crate::{
    g::{Baggage, Body, G, Seen},
    park::WaitReason,
    sync::RawLock,
    time,
};
use std::{
    panic::Location,
    ptr, slice,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The first word of the table; changes with the meaning of the others.
const VERSION: usize = 2;

/// The table, in the order of `FIELDS` in the script. Zeros until the scheduler starts.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
static BATON_GDB: [AtomicUsize; 31] = [const { AtomicUsize::new(0) }; 31];

/// Fills the table.
#[track_caller]
pub(crate) fn fill() {
    let reasons = WaitReason::names().leak();
    let words = [VERSION]
        .into_iter()
        .chain(baton_stack::map())
        .chain(Body::MAP)
        .chain(G::MAP)
        .chain([Baggage::NAME])
        .chain(map_of_text())
        .chain(Seen::MAP)
        .chain(RawLock::MAP)
        .chain([WaitReason::LOCKS
            .iter()
            .fold(0, |mask, &reason| mask | 1 << reason as u8)])
        .chain(map_of_location())
        .chain([reasons.as_ptr().addr(), reasons.len()])
        .chain([time::coarse_clock().addr()]);
    for (place, word) in BATON_GDB.iter().zip(words) {
        place.store(word, Relaxed);
    }
}

/// The offsets in a boxed text of the pointer to it and of its length, which the language does not say either.
fn map_of_text() -> [usize; 2] {
    let text: Box<str> = "text".into();
    // SAFETY: a pointer and a length, with no room between them; its bytes can be read.
    let words = unsafe { &*(&raw const text).cast::<[usize; 2]>() };
    let offset = |wanted: usize| words.iter().position(|&word| word == wanted);
    [text.as_ptr().addr(), text.len()].map(|word| offset(word).map_or(usize::MAX, |at| at * size_of::<usize>()))
}

/// The offsets in a [`Location`] of the pointer to the file's name, of its length, and of the line: found by their values, since the
/// language does not say.
#[track_caller]
fn map_of_location() -> [usize; 3] {
    let here = Location::caller();
    let bytes: *const u8 = ptr::from_ref(here).cast();
    // SAFETY: a location is made of a pointer, a length and two numbers, with no room between them; its bytes can be read.
    let bytes = unsafe { slice::from_raw_parts(bytes, size_of_val(here)) };
    let word = |wanted: usize| bytes.chunks_exact(8).position(|word| word == wanted.to_ne_bytes());
    let half = |wanted: u32| bytes.chunks_exact(4).rposition(|half| half == wanted.to_ne_bytes());
    let found = [
        word(here.file().as_ptr().addr()).map(|at| at * 8),
        word(here.file().len()).map(|at| at * 8),
        half(here.line()).map(|at| at * 4),
    ];
    found.map(|offset| offset.unwrap_or(usize::MAX))
}
