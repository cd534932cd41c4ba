//! Objects on their way between caches and spans: the real transfer list and the real lock, in every interleaving that loom
//! can tell apart.
//!
//! ```text
//! RUSTFLAGS="--cfg baton_loom" cargo test -p baton-alloc --release --test mcentral_loom
//! ```
//!
//! ```text
//!   thread A   list ── give ──▶ ┌ lock ─────────────────┐ ◀── take ── list   thread B
//!                               │ transfer   [ ][ ]     │
//!   thread T            trim ◀──│ span: n objects in    │     all in: off the list, released outside the lock
//!                               └───────────────────────┘
//! ```
//!
//! Each object has a cell that its holder writes to, so that loom reports any two holders that are not ordered; the links
//! are the objects' own. A span's record is one such cell too: who finds all objects in releases it, once. What the spans
//! do is told again here in three lines (`put`), since the records of the heap know no loom.

#![cfg(baton_loom)]

use baton_alloc::{
    Lock,
    chain::Chain,
    transfer::{Incoming, Room, Transfer},
};
use loom::{cell::UnsafeCell, model::Builder, thread};
use std::{
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

const OBJECTS: usize = 4;

/// An object: its link, and what its holder writes.
#[repr(C)]
struct Object {
    link: *mut Object,
    /// Which one it is.
    number: usize,
}

/// A class with one span.
struct Class {
    lock: Lock,
    transfer: UnsafeCell<Transfer>,
    /// Objects in the span; `None` once it is released.
    span: UnsafeCell<Option<usize>>,
    /// The span's record, for who releases it.
    record: UnsafeCell<usize>,
    held: [UnsafeCell<usize>; OBJECTS],
    objects: [*mut Object; OBJECTS],
}

// SAFETY: the cells are loom's, which checks who touches them; the objects are their holders'.
unsafe impl Send for Class {}
// SAFETY: as above.
unsafe impl Sync for Class {}

impl Class {
    /// All objects are out. Leaked, like what it stands for.
    fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            lock: Lock::new(),
            transfer: UnsafeCell::new(Transfer::new()),
            span: UnsafeCell::new(Some(0)),
            record: UnsafeCell::new(0),
            held: std::array::from_fn(|_| UnsafeCell::new(0)),
            objects: std::array::from_fn(|number| {
                Box::into_raw(Box::new(Object {
                    link: std::ptr::null_mut(),
                    number,
                }))
            }),
        }))
    }

    fn chain(&self, numbers: std::ops::Range<usize>) -> Chain {
        let objects: Vec<_> = numbers.map(|n| NonNull::new(self.objects[n]).unwrap().cast()).collect();
        // SAFETY: the caller holds the objects.
        unsafe { Chain::link(&objects) }
    }

    /// Uses all objects of a chain, and gives them.
    fn hold(&self, mut chain: Chain) -> Vec<*mut Object> {
        let mut held = Vec::new();
        // SAFETY: the caller holds the objects.
        while let Some((object, rest)) = unsafe { chain.split_first() } {
            let object: *mut Object = object.as_ptr().cast();
            // SAFETY: an object; if somebody else holds it too, loom says so at the next line.
            self.held[unsafe { (*object).number }].with_mut(|uses| unsafe { *uses += 1 });
            held.push(object);
            chain = rest;
        }
        assert_eq!(chain.len, 0, "the chain is as long as it says");
        held
    }

    fn give(&self, chain: Chain) {
        // SAFETY: the caller holds the objects.
        let incoming = unsafe { Incoming::new(chain, SHORT) };
        let kept = self.lock.with(|| {
            // SAFETY: under the lock.
            self.transfer
                .with_mut(|transfer| unsafe { (*transfer).give(incoming, ROOM, SHORT, 8) })
        });
        if !kept {
            self.put(chain);
        }
    }

    fn take(&self) -> Option<Chain> {
        // SAFETY: under the lock.
        self.lock
            .with(|| self.transfer.with_mut(|transfer| unsafe { (*transfer).take() }))
    }

    /// Gives the objects to the span; who puts the last one in releases it.
    fn put(&self, chain: Chain) {
        let n = self.hold(chain).len();
        let all_in = self.lock.with(|| {
            // SAFETY: under the lock.
            self.span.with_mut(|span| unsafe {
                let objects = (*span).expect("a span with objects out was released") + n;
                *span = (objects < OBJECTS).then_some(objects);
                objects == OBJECTS
            })
        });
        if all_in {
            // Outside the lock, as `mcentral::give` does it.
            // SAFETY: nobody else has the span now; else loom says so.
            self.record.with_mut(|released| unsafe { *released += 1 });
        }
    }

    fn trim(&self, all: bool) {
        while let Some(chain) = self.lock.with(|| {
            // SAFETY: under the lock.
            self.transfer.with_mut(|transfer| unsafe { (*transfer).trim(all) })
        }) {
            self.put(chain);
        }
    }

    /// After the run: what is left goes back, and then everything is in and the span released once.
    fn ends_empty(&self) {
        self.trim(true);
        // SAFETY: all threads have ended.
        self.span
            .with(|span| assert_eq!(unsafe { *span }, None, "objects were lost"));
        // SAFETY: as above.
        self.record.with(|released| assert_eq!(unsafe { *released }, 1));
        for object in self.objects {
            // SAFETY: made by `Box`, and nobody has it.
            drop(unsafe { Box::from_raw(object) });
        }
    }
}

/// Chains of fewer objects are joined.
const SHORT: u32 = 2;
/// More than there are objects.
const ROOM: Room = Room { least: 64, most: 64 };

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// One frees, one allocates.
#[test]
fn chains_have_one_holder() {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    check(|| {
        let class = Class::new();
        let (first, second) = (class.chain(0..2), class.chain(2..4));
        let frees = {
            let (first, second) = (Sent(first), Sent(second));
            thread::spawn(move || {
                let (first, second) = (first, second);
                class.hold(first.0);
                class.give(first.0);
                class.hold(second.0);
                class.give(second.0);
            })
        };
        for _ in 0..2 {
            if let Some(chain) = class.take() {
                TAKEN.fetch_add(1, Relaxed);
                class.hold(chain);
                class.put(chain);
            }
        }
        frees.join().unwrap();
        class.ends_empty();
    });
    assert!(TAKEN.load(Relaxed) > 0, "the model is too small");
}

/// Chains of one object are joined to what lies there, while somebody takes it away.
#[test]
fn short_chains_are_joined() {
    static JOINED: AtomicUsize = AtomicUsize::new(0);
    check(|| {
        let class = Class::new();
        let chains = [0, 1, 2, 3].map(|n| Sent(class.chain(n..n + 1)));
        let [a, b, c, d] = chains;
        let frees = thread::spawn(move || {
            let (a, b) = (a, b);
            class.give(a.0);
            class.give(b.0);
        });
        class.give(c.0);
        if let Some(chain) = class.take() {
            JOINED.fetch_add(usize::from(chain.len > 1), Relaxed);
            class.hold(chain);
            class.give(chain);
        }
        class.put(d.0);
        frees.join().unwrap();
        class.ends_empty();
    });
    assert!(JOINED.load(Relaxed) > 0, "the model is too small");
}

/// The scavenger trims while objects come and go, and releases the span if it finds it all in.
#[test]
fn a_span_is_released_once() {
    static BY_TRIM: AtomicUsize = AtomicUsize::new(0);
    check(|| {
        let class = Class::new();
        let (first, second) = (Sent(class.chain(0..2)), Sent(class.chain(2..4)));
        let scavenger = thread::spawn(move || {
            class.trim(false);
            class.trim(true);
        });
        let frees = thread::spawn(move || {
            let second = second;
            class.give(second.0);
        });
        class.put(first.0);
        scavenger.join().unwrap();
        frees.join().unwrap();
        // SAFETY: the other threads have ended.
        class
            .span
            .with(|span| BY_TRIM.fetch_add(usize::from(unsafe { *span }.is_none()), Relaxed));
        class.ends_empty();
    });
    assert!(BY_TRIM.load(Relaxed) > 0, "the model is too small");
}

/// A chain on its way to another thread.
struct Sent(Chain);

// SAFETY: who has it holds the objects, which belong to no thread.
unsafe impl Send for Sent {}
