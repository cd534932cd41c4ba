//! The records of one M on their way to the file: a ring that the M fills and the writer empties, without locks.
//!
//! ```text
//!        head ── written, not yet read ──▶ tail
//!   ┌──────┬───────────────────────────────┬──────┐
//!   │      │ the writer's                  │      │   the rest is the M's
//!   └──────┴───────────────────────────────┴──────┘
//! ```
//!
//! # Invariants
//!
//! 1. `tail` is stored by the M's thread alone, `head` by whoever holds the writer's lock.
//! 2. `tail - head` is at most [`SIZE`]; the slots between the two are records, which nobody writes.
//! 3. What finds no room is counted, never waited for.

use std::{
    cell::{Cell, UnsafeCell},
    mem::MaybeUninit,
    panic::Location,
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Records of a ring: 640 KiB. At a million a second the writer may be 16 ms late.
const SIZE: usize = 1 << 14;

/// After so many the writer is asked to come.
const PART: usize = SIZE / 4;

/// One thing that happened. All kinds have the same size.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Record {
    /// When, in nanoseconds of the monotonic clock.
    pub(super) begin: u64,
    pub(super) end: u64,
    /// The goroutine's number; of a steal, the processor that it was from.
    pub(super) goroutine: u64,
    /// Where the goroutine was started.
    pub(super) place: Option<&'static Location<'static>>,
    pub(super) kind: Kind,
    /// How a slice ended: see [`How`](super::lane::How).
    pub(super) how: u8,
    /// The processor, or [`NO_P`].
    pub(super) p: u16,
    /// How many goroutines, how many KiB; of a slice, 1 if the goroutine has a name.
    pub(super) n: u32,
}

/// No processor.
pub(super) const NO_P: u16 = u16::MAX;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A goroutine ran.
    Slice,
    /// A goroutine's stack has grown.
    Growth,
    /// Goroutines were taken from another processor.
    Steal,
    /// Goroutines were left to whoever has nothing to do.
    Shed,
}

/// The ring.
pub(super) struct Ring {
    slots: Box<[UnsafeCell<MaybeUninit<Record>>]>,
    head: AtomicUsize,
    tail: AtomicUsize,
    /// Up to here there is room for sure; the M's.
    limit: Cell<usize>,
    /// Records that found no room, of all traces so far; the M's.
    lost: AtomicU64,
}

// SAFETY: invariants 1 and 2 say who touches what; the cell is the M's alone.
unsafe impl Sync for Ring {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn new() -> Self {
        let slot = || UnsafeCell::new(MaybeUninit::uninit());
        Self {
            slots: (0..SIZE).map(|_| slot()).collect(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            limit: Cell::new(SIZE),
            lost: AtomicU64::new(0),
        }
    }

    /// Adds a record, or counts it as lost. `true`: a part of the ring is full, so the writer should come.
    ///
    /// # Safety
    ///
    /// By the thread of the M whose ring it is.
    #[inline]
    pub(super) unsafe fn push(&self, record: Record) -> bool {
        let tail = self.tail.load(Relaxed);
        if tail == self.limit.get() {
            self.limit.set(self.head.load(Acquire).wrapping_add(SIZE));
            if tail == self.limit.get() {
                self.lost.store(self.lost.load(Relaxed) + 1, Relaxed);
                return true;
            }
        }
        // SAFETY: not between head and tail, so the slot is this thread's (invariant 2).
        unsafe { (*self.slots[tail % SIZE].get()).write(record) };
        let tail = tail.wrapping_add(1);
        self.tail.store(tail, Release);
        tail.is_multiple_of(PART)
    }

    /// Takes out what is there, in the order in which it came.
    ///
    /// # Safety
    ///
    /// The caller holds the writer's lock.
    pub(super) unsafe fn drain(&self, mut each: impl FnMut(&Record)) {
        let (mut head, tail) = (self.head.load(Relaxed), self.tail.load(Acquire));
        while head != tail {
            // SAFETY: between head and tail there are records, which nobody writes (invariant 2).
            each(unsafe { (*self.slots[head % SIZE].get()).assume_init_ref() });
            head = head.wrapping_add(1);
        }
        self.head.store(head, Release);
    }

    /// Records lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn record(n: u64) -> Record {
        Record {
            begin: n,
            end: !n,
            goroutine: n,
            place: None,
            kind: Kind::Slice,
            how: 0,
            p: 0,
            n: 0,
        }
    }

    /// A producer that waits for nobody and a consumer that comes when it likes: each record arrives whole and in order,
    /// or is counted.
    #[test]
    fn each_record_arrives_or_is_counted() {
        const TOTAL: u64 = 300_000;
        let ring = Ring::new();
        let (mut arrived, mut last) = (0, None);
        let mut see = |record: &Record| {
            assert_eq!(record.end, !record.begin);
            assert!(last.is_none_or(|last| last < record.begin));
            last = Some(record.begin);
            arrived += 1;
        };
        thread::scope(|s| {
            let producer = s.spawn(|| {
                for n in 0..TOTAL {
                    // SAFETY: this thread alone pushes.
                    unsafe { ring.push(record(n)) };
                }
            });
            while !producer.is_finished() {
                // SAFETY: this thread alone drains.
                unsafe { ring.drain(&mut see) };
            }
        });
        // SAFETY: as above.
        unsafe { ring.drain(&mut see) };
        assert_eq!(arrived + ring.lost(), TOTAL);
    }

    #[test]
    fn a_full_ring_counts_what_it_loses() {
        let ring = Ring::new();
        for n in 0..SIZE as u64 + 5 {
            // SAFETY: the one thread there is.
            let part = unsafe { ring.push(record(n)) };
            assert_eq!(part, (n + 1).is_multiple_of(PART as u64) || n >= SIZE as u64);
        }
        assert_eq!(ring.lost(), 5);
    }
}
