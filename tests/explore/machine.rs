//! The machine: words of memory, threads with store buffers, and the parts that a step is made of. It knows no protocol.

use crate::words::{Pc, lock};

/// How many stores a buffer holds. A thread whose buffer is full waits for a flush.
pub(crate) const BUFFER: usize = if cfg!(debug_assertions) { 3 } else { 4 };

pub(crate) const THREADS: usize = 4;

/// A word of memory, two bits wide: 1 to 15. Word 0 does not exist: an empty place in a buffer is a 0.
pub(crate) type Word = usize;

/// One thread: where it is, its two registers (what they hold is up to the protocol), and its store buffer, the oldest store first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) pc: Pc,
    pub(crate) p: u8,
    pub(crate) other: u8,
    /// Word and value of each buffered store: `word << 2 | value`. The first [`BUFFER`] places are in use.
    pub(crate) stores: [u8; 4],
}

impl Thread {
    /// With nothing in its buffer.
    pub(crate) fn new(pc: Pc, p: u8, other: u8) -> Self {
        Self {
            pc,
            p,
            other,
            stores: [0; 4],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) memory: u32,
    pub(crate) threads: [Thread; THREADS],
}

impl State {
    pub(crate) fn read(&self, word: Word) -> u8 {
        (self.memory >> (2 * word) & 3) as u8
    }

    pub(crate) fn write(&mut self, word: Word, value: u8) {
        self.memory = self.memory & !(3 << (2 * word)) | u32::from(value) << (2 * word);
    }

    /// A load by thread `t`: its own youngest store to the word, else memory.
    pub(crate) fn load(&self, t: usize, word: Word) -> u8 {
        let own = self.threads[t]
            .stores
            .iter()
            .rev()
            .find(|&&s| usize::from(s >> 2) == word);
        own.map_or_else(|| self.read(word), |s| s & 3)
    }

    /// Whether all stores of thread `t` have reached memory.
    pub(crate) fn flushed(&self, t: usize) -> bool {
        self.threads[t].stores[0] == 0
    }

    pub(crate) fn flush(&mut self, t: usize, n: usize) {
        let stores = &mut self.threads[t].stores;
        let store = stores[n];
        stores[n] = 0;
        stores[n..].rotate_left(1);
        self.write(usize::from(store >> 2), store & 3);
    }

    /// Starts a step of thread `t`.
    pub(crate) fn at(&self, t: usize) -> Step {
        Step {
            state: *self,
            t,
            fits: true,
        }
    }

    pub(crate) fn hash(&self) -> u32 {
        let mut hash = u64::from(self.memory);
        for t in &self.threads {
            let registers = u32::from_le_bytes([t.pc as u8, t.p, t.other, 0]);
            let word = u64::from(registers) << 32 | u64::from(u32::from_le_bytes(t.stores));
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        (hash ^ hash >> 32) as u32
    }
}

/// A step being put together.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) state: State,
    pub(crate) t: usize,
    pub(crate) fits: bool,
}

impl Step {
    pub(crate) fn thread(&mut self) -> &mut Thread {
        &mut self.state.threads[self.t]
    }
    /// Puts a store into the buffer. If the buffer is full, the step is none, and the thread waits for a flush.
    pub(crate) fn store(mut self, word: Word, value: u8) -> Self {
        match self.thread().stores[..BUFFER].iter_mut().find(|s| **s == 0) {
            Some(place) => *place = (word << 2) as u8 | value,
            None => self.fits = false,
        }
        self
    }
    pub(crate) fn p(mut self, p: u8) -> Self {
        self.thread().p = p;
        self
    }
    pub(crate) fn other(mut self, other: u8) -> Self {
        self.thread().other = other;
        self
    }
    /// A read-modify-write of the lock word, all stores of the thread being in memory.
    pub(crate) fn lock(mut self, p: usize) -> Self {
        self.state.write(lock(p), 1);
        self
    }
    pub(crate) fn unlock(self, p: usize) -> Self {
        self.store(lock(p), 0)
    }
    pub(crate) fn goto(mut self, pc: Pc) -> Self {
        self.thread().pc = pc;
        self
    }
}
