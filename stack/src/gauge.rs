//! The depth gauge: how deep a goroutine went on a stack that was deep before, without asking the kernel.
//!
//! ```text
//!   base ──┬───────┬───────────┬───────────────────┬────────── as deep as the class says
//!          │2 KiB  │4 KiB      │8 KiB   ·   ·   ·  │ …          marks: four in each octave
//! ```
//!
//! What is resident on a warm stack says how deep *somebody* went. So before one goroutine in many the scheduler has marks
//! written into the part that is known to be memory ([`Desc::set_gauge`]), and looks afterwards which of them are still
//! there ([`Desc::read_gauge`]). A mark that lies in a hole of a frame survives; the four of an octave make that unlikely to
//! matter, and since the same goroutines on the same stack have the same holes, the marks lie elsewhere each time. What is deeper than the marks is new memory, and that the kernel can tell.

use crate::{Class, reservation::Desc};
use core::{ptr, sync::atomic::Ordering::Relaxed};

/// Words of a mark.
const WORDS: usize = 4;
/// Where marks begin.
const FIRST: usize = 2 << 10;
/// All marks of one measurement are shifted by so many cache lines, less one, at most.
const SHIFTS: usize = 8;

/// The distances of the marks from the base, up to `depth`.
fn distances(depth: usize) -> impl DoubleEndedIterator<Item = usize> {
    let octaves = depth.checked_div(FIRST).map_or(0, |n| n.checked_ilog2().unwrap_or(0));
    (0..octaves).flat_map(|octave| (4..8).map(move |quarter| (FIRST << octave) / 4 * quarter))
}

impl Desc {
    /// The words of the mark at this distance, shifted.
    fn mark_at(&self, distance: usize, shift: usize) -> *mut [usize; WORDS] {
        ptr::with_exposed_provenance_mut((self.base() - distance - 64 * shift) & !63)
    }

    /// How deep the marks may reach: as deep as is open and known to be memory.
    fn gauge_depth(&self) -> usize {
        self.class().bytes().min(self.base() - self.limit())
    }

    /// Writes the marks, where `turn` has them: any number that differs from one measurement to the next.
    ///
    /// # Safety
    ///
    /// The caller holds the stack, and nothing runs on it yet.
    pub unsafe fn set_gauge(&self, turn: u64) {
        let (depth, shift) = (self.gauge_depth() & !(SHIFTS - 1), turn as usize % SHIFTS);
        for distance in distances(depth) {
            let mark = self.mark_at(distance, shift);
            // SAFETY: inside the open part of a stack that nobody uses.
            unsafe { mark.write([mark.addr(); WORDS]) };
        }
        self.gauge.store(u32::try_from(depth | shift).unwrap_or(0), Relaxed);
    }

    /// If [`set_gauge`](Self::set_gauge) came before the goroutine that has ended: about how deep it went, in bytes, to a
    /// quarter of an octave.
    ///
    /// # Safety
    ///
    /// The caller holds the stack, and what ran on it has ended.
    pub unsafe fn read_gauge(&self) -> Option<usize> {
        let word = self.gauge.load(Relaxed) as usize;
        if word == 0 {
            return None;
        }
        self.gauge.store(0, Relaxed); // no exchange: whoever holds the stack is alone with its gauge
        let (set, shift) = (word & !(SHIFTS - 1), word % SHIFTS);
        // The stack may have been shrunk meanwhile: what was open then may be guarded now.
        let set = set.min(self.base() - self.limit());
        let gone = distances(set).rev().find(|&distance| {
            let mark = self.mark_at(distance, shift);
            // SAFETY: inside the open part of the stack.
            let found = unsafe { mark.read() };
            found != [mark.addr(); WORDS]
        });
        let deepest = distances(set).next_back();
        let depth = match gone {
            // All of them: then it may have been deeper, into memory that nobody had before.
            // SAFETY: the caller holds the stack.
            _ if gone == deepest => unsafe { self.measure() },
            Some(distance) => distance + distance / 4,
            None => FIRST,
        };
        let depth = depth.max(self.high_water());
        // What was measured on a stack that nobody had before is all this goroutine's.
        Some(depth.max(Class::MIN.bytes()))
    }
}
