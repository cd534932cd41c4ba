//! Traces of the heap out of bytes: what to allocate, resize, free and check, on which thread, and whose P is taken meanwhile.
//!
//! ```text
//!   byte 0      0‥3   one thread
//!               4‥9   up to three threads that take turns: which one goes on is part of the trace, so it can be repeated
//!               else  two or three threads at once, each with its part of the bytes, that hand objects to each other
//!   the rest    one operation after the other, see `Trace::step`
//! ```
//!
//! All that is known of an object is kept beside the heap: where it lies, how long it is, what is written in it. Each
//! operation is checked against that: alignment, overlaps, contents, zeros. At the end everything is freed, and the heap's
//! own books must say so.

use baton_alloc::{
    Mcache,
    latch::{M, P},
    lease,
};
use std::{
    alloc::Layout,
    collections::BTreeMap,
    ptr::NonNull,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Live objects of a trace; more are freed first.
const MOST: usize = 512;
/// Bytes in live objects of a trace.
const MOST_BYTES: usize = 16 << 20;

/// Runs the trace that the bytes say. Panics, or the process dies, if the heap does anything wrong.
pub fn run(bytes: &[u8]) {
    let Some((&mode, bytes)) = bytes.split_first() else {
        return;
    };
    match mode {
        0..4 => take_turns(1, bytes),
        4..10 => take_turns(2 + usize::from(mode & 1), bytes),
        _ => at_once(2 + usize::from(mode & 1), bytes),
    }
    let stats = baton_alloc::stats();
    assert_eq!(
        (stats.small_live_bytes, stats.large_bytes),
        (0, 0),
        "objects lost: {stats:?}"
    );
    assert_eq!(stats.allocs, stats.frees);
}

/// What is known of an object.
struct Object {
    at: NonNull<u8>,
    layout: Layout,
    mark: u8,
}

// SAFETY: the object is owned, and memory of the heap belongs to no thread.
unsafe impl Send for Object {}

impl Object {
    /// Takes what the heap gave for `layout`, and marks it.
    fn new(at: *mut u8, layout: Layout, mark: u8) -> Self {
        let at = NonNull::new(at).expect("out of memory");
        let object = Self { at, layout, mark };
        object.fill();
        object
    }

    /// Which bytes are marked: all of a small object, of a large one the ends and some in each page.
    fn marked(size: usize) -> impl Iterator<Item = usize> {
        let all = size.min(2048);
        (0..all)
            .chain((all..size).step_by(509))
            .chain(size.saturating_sub(64).max(all)..size)
    }

    fn fill(&self) {
        assert!(
            self.at.addr().get().is_multiple_of(self.layout.align()),
            "{:p} for {:?}",
            self.at,
            self.layout
        );
        for i in Self::marked(self.layout.size()) {
            // SAFETY: below the size.
            unsafe { self.at.add(i).write(self.mark ^ i as u8) };
        }
    }

    /// Whether the first `len` bytes, marked when there were `size` of them, are as they were.
    fn check(&self, len: usize, size: usize) {
        for i in Self::marked(size).filter(|&i| i < len) {
            // SAFETY: below the size now, too.
            let byte = unsafe { self.at.add(i).read() };
            assert_eq!(
                byte,
                self.mark ^ i as u8,
                "byte {i} of {:?} at {:p}",
                self.layout,
                self.at
            );
        }
    }

    fn size(&self) -> usize {
        self.layout.size()
    }

    fn resize(mut self, size: usize) -> Self {
        let before = self.size();
        self.check(before, before);
        // SAFETY: the object is ours, with this layout; what comes back takes its place.
        let at = unsafe { baton_alloc::realloc(self.at.as_ptr(), self.layout, size) };
        self.at = NonNull::new(at).expect("out of memory");
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        self.check(before.min(size), before);
        self.fill();
        self
    }

    /// Frees the object, with its layout or by its address alone.
    fn free(self, untyped: bool) {
        self.check(self.size(), self.size());
        // SAFETY: the object is ours, with this layout, and is used no more.
        unsafe {
            if untyped {
                assert!(baton_alloc::usable_size(self.at) >= self.size());
                baton_alloc::free_untyped(self.at.as_ptr());
            } else {
                baton_alloc::free(self.at.as_ptr(), self.layout);
            }
        }
    }
}

/// What the threads of one run share.
#[derive(Default)]
struct Shared {
    /// Objects on their way from one thread to another.
    exchange: Mutex<Vec<Object>>,
    /// The Ps that the threads had when they joined, for others to take.
    homes: Mutex<Vec<&'static P>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an operation wants beside its effect on the heap.
enum Then {
    GoOn,
    /// Another thread's turn.
    Switch(usize),
    End,
}

/// The objects and the rest of the bytes of one trace.
struct Trace<'a> {
    bytes: &'a [u8],
    live: Vec<Object>,
    /// From the address of each live object to its end.
    ranges: BTreeMap<usize, usize>,
    held: usize,
    shared: &'a Shared,
}

impl<'a> Trace<'a> {
    fn new(bytes: &'a [u8], shared: &'a Shared) -> Self {
        Self {
            bytes,
            live: Vec::new(),
            ranges: BTreeMap::new(),
            held: 0,
            shared,
        }
    }

    /// The next byte; zeros when there are none left, which the end of the trace follows.
    fn byte(&mut self) -> usize {
        match self.bytes.split_first() {
            Some((&byte, rest)) => {
                self.bytes = rest;
                byte.into()
            }
            None => 0,
        }
    }

    /// A size: mostly of small objects, sometimes up to 1 MiB, rarely up to 4 MiB, and any value between.
    fn size(&mut self) -> usize {
        let (high, low) = (self.byte(), self.byte());
        let value = (high & 63) << 8 | low;
        match high >> 6 {
            0 => low,
            1 => value,
            2 => 8 * value,
            _ if low < 250 => 64 * value,
            _ => 256 * value,
        }
    }

    fn add(&mut self, object: Object) {
        let (start, end) = (object.at.addr().get(), object.at.addr().get() + object.size());
        if let Some((&other, &other_end)) = self.ranges.range(..end).next_back() {
            assert!(
                other_end <= start,
                "{start:#x}..{end:#x} overlaps {other:#x}..{other_end:#x}"
            );
        }
        self.ranges.insert(start, end);
        self.held += object.size();
        self.live.push(object);
    }

    fn remove(&mut self, pick: usize) -> Option<Object> {
        if self.live.is_empty() {
            return None;
        }
        let object = self.live.swap_remove(pick % self.live.len());
        self.ranges.remove(&object.at.addr().get());
        self.held -= object.size();
        Some(object)
    }

    /// One operation.
    fn step(&mut self) -> Then {
        if self.bytes.is_empty() {
            return Then::End;
        }
        let code = self.byte();
        while self.live.len() >= MOST || self.held >= MOST_BYTES {
            self.remove(code).into_iter().for_each(|object| object.free(false));
        }
        match code % 16 {
            0..5 => {
                let size = self.size();
                let align = if code & 0x80 == 0 {
                    1 << (code >> 4 & 3)
                } else {
                    1 << (self.byte() % 18)
                };
                let layout = Layout::from_size_align(size, align).unwrap();
                self.add(Object::new(baton_alloc::malloc(layout), layout, self.bytes.len() as u8));
            }
            5 => {
                let layout = Layout::from_size_align(self.size(), 16).unwrap();
                let at = baton_alloc::malloc_zeroed(layout);
                assert!(!at.is_null(), "out of memory");
                // SAFETY: the object is ours, that long, and zeros are bytes.
                let bytes = unsafe { std::slice::from_raw_parts(at, layout.size()) };
                assert_eq!(
                    bytes.iter().fold(0, |any, byte| any | byte),
                    0,
                    "{layout:?} at {at:p} is not zero"
                );
                self.add(Object::new(at, layout, self.bytes.len() as u8));
            }
            6 => {
                // A run of equal objects, as when a batch comes from the mcentral.
                let (size, n) = (self.size() % 1024, self.byte() % 64);
                let layout = Layout::from_size_align(size, 8).unwrap();
                (0..n).for_each(|i| self.add(Object::new(baton_alloc::malloc(layout), layout, i as u8)));
            }
            7..10 => {
                let pick = self.byte();
                self.remove(pick)
                    .into_iter()
                    .for_each(|object| object.free(code & 0x80 != 0));
            }
            10 => {
                let n = self.byte();
                (0..n).for_each(|i| self.remove(i * code).into_iter().for_each(|object| object.free(false)));
            }
            11 => {
                let (pick, size) = (self.byte(), self.size());
                if let Some(object) = self.remove(pick) {
                    self.add(object.resize(size));
                }
            }
            12 => {
                // A little longer or shorter: in place, or nearly.
                let (pick, by) = (self.byte(), self.byte() * (1 << (code >> 4)));
                if let Some(object) = self.remove(pick) {
                    let size = if by & 1 == 0 {
                        object.size() + by
                    } else {
                        object.size().saturating_sub(by)
                    };
                    self.add(object.resize(size));
                }
            }
            13 => {
                let pick = self.byte();
                let mine = self.remove(pick);
                let theirs = {
                    let mut exchange = lock(&self.shared.exchange);
                    exchange.extend(mine);
                    let at = pick % (exchange.len() + 1);
                    (at < exchange.len()).then(|| exchange.swap_remove(at))
                };
                theirs.into_iter().for_each(|object| {
                    if code & 0x80 == 0 {
                        self.add(object)
                    } else {
                        object.free(false)
                    }
                });
            }
            14 => {
                let pick = self.byte();
                take_a_p(self.shared, pick, code >> 4);
            }
            _ => return Then::Switch(code >> 4),
        }
        Then::GoOn
    }

    /// Frees what is left.
    fn end(&mut self) {
        while let Some(object) = self.remove(0) {
            object.free(true);
        }
        lock(&self.shared.exchange)
            .drain(..)
            .for_each(|object| object.free(false));
    }
}

/// Takes the P of one of the threads, as a thief or the monitor would, and does with it what they do.
fn take_a_p(shared: &Shared, pick: usize, how: usize) {
    let me: &M = lease::attach();
    let p = {
        let homes = lock(&shared.homes);
        homes[pick % homes.len()]
    };
    if me.home().is_some_and(|home| std::ptr::eq(home, p)) {
        return; // its own: a thread must not allocate while it holds that
    }
    let Some(taken) = p.take() else { return };
    match how & 3 {
        // An undo.
        0 => drop(taken),
        // An undo of a P whose lists went to the mcentral.
        1 => {
            // SAFETY: the P, and with it the cache, is the taker's.
            unsafe { Mcache::flush(p.cache()) };
            drop(taken);
        }
        // For good, with or without what its lists hold.
        how => {
            let detached = taken.detach();
            if how == 2 {
                // SAFETY: as above.
                unsafe { Mcache::flush(p.cache()) };
            }
            detached.release();
        }
    }
}

/// Notes the calling thread's P, for others to take.
fn join(shared: &Shared) {
    let home = lease::attach().home().expect("a thread that has attached has a home");
    lock(&shared.homes).push(home);
}

/// One trace on several threads, one after the other.
fn take_turns(threads: usize, bytes: &[u8]) {
    let shared = Shared::default();
    join(&shared);
    // The trace, and whose turn it is; nobody's at the end.
    let turn = Mutex::new((Trace::new(bytes, &shared), Some(0)));
    let passed = Condvar::new();
    let go = |me: usize| {
        let mut guard = lock(&turn);
        loop {
            guard = passed
                .wait_while(guard, |(_, turn)| turn.is_some_and(|turn| turn != me))
                .unwrap();
            let (trace, turn) = &mut *guard;
            if turn.is_none() {
                return;
            }
            let next = loop {
                match trace.step() {
                    Then::GoOn => {}
                    Then::Switch(to) => break Some(to % threads),
                    Then::End => {
                        trace.end();
                        break None;
                    }
                }
            };
            *turn = next;
            passed.notify_all();
        }
    };
    joined(
        threads - 1,
        |i| {
            join(&shared);
            go(i + 1);
        },
        || go(0),
    );
}

/// A trace a thread, all at once.
fn at_once(threads: usize, bytes: &[u8]) {
    let shared = Shared::default();
    join(&shared);
    let parts: Vec<_> = bytes.chunks(bytes.len().div_ceil(threads).max(1)).collect();
    let go = |part: Option<&&[u8]>| {
        let Some(part) = part else { return };
        let mut trace = Trace::new(part, &shared);
        while !matches!(trace.step(), Then::End) {}
        trace.end();
    };
    joined(
        threads - 1,
        |i| {
            join(&shared);
            go(parts.get(i + 1));
        },
        || go(parts.first()),
    );
    lock(&shared.exchange).drain(..).for_each(|object| object.free(false));
}

/// Runs `body` on the calling thread and `others` on `n` more, and waits until those have really ended, lease and all. (A scope
/// ends when the closures of its threads end.)
fn joined(n: usize, others: impl Fn(usize) + Sync, body: impl FnOnce()) {
    thread::scope(|scope| {
        let others = &others;
        let threads: Vec<_> = (0..n).map(|i| scope.spawn(move || others(i))).collect();
        body();
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("a thread of the trace failed"));
    });
}
