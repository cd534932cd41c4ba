//! Tables that live in mappings of their own: samples by address, stacks by their frames.
//!
//! ```text
//!   samples   address ─▶ size, weight, stack        open addressing, at most half full
//!   index     hash of frames ─▶ stack               the same
//!   stacks    where its frames are; its counts      only ever grows
//!   frames    one after the other                   only ever grows
//! ```

use super::Counts;
use crate::sys::mem;
use core::{marker::PhantomData, ptr::NonNull, slice};

/// A type of which zeros are a value.
///
/// # Safety
///
/// They are.
unsafe trait Zero: Copy {}

/// A slice that grows, in a mapping of its own. What was not written is zeros.
struct Mapped<T> {
    base: Option<NonNull<u8>>,
    len: usize,
    capacity: usize,
    of: PhantomData<T>,
}

impl<T: Zero> Mapped<T> {
    const fn new() -> Self {
        Self {
            base: None,
            len: 0,
            capacity: 0,
            of: PhantomData,
        }
    }

    fn bytes(capacity: usize) -> usize {
        (capacity * size_of::<T>()).next_multiple_of(4096)
    }

    /// A slice of `len` zeros. `None`: out of memory.
    fn zeros(len: usize) -> Option<Self> {
        let base = mem::map(Self::bytes(len), 4096, 0)?;
        Some(Self {
            base: Some(base),
            len,
            capacity: len,
            of: PhantomData,
        })
    }

    fn as_slice(&mut self) -> &mut [T] {
        match self.base {
            // SAFETY: the mapping is that long, this value's own, and holds values or zeros.
            Some(base) => unsafe { slice::from_raw_parts_mut(base.as_ptr().cast(), self.len) },
            None => &mut [],
        }
    }

    /// Appends a value. `false`: out of memory.
    fn push(&mut self, value: T) -> bool {
        if self.len == self.capacity {
            let Some(mut larger) = Self::zeros((2 * self.capacity).max(1024)) else {
                return false;
            };
            larger.as_slice()[..self.len].copy_from_slice(self.as_slice());
            larger.len = self.len;
            self.clear();
            *self = larger;
        }
        self.len += 1;
        let last = self.len - 1;
        self.as_slice()[last] = value;
        true
    }

    fn clear(&mut self) {
        if let Some(base) = self.base {
            // SAFETY: the mapping is this value's own, and this was the last use.
            unsafe { mem::unmap(base, Self::bytes(self.capacity)) };
        }
        *self = Self::new();
    }
}

#[derive(Clone, Copy)]
struct Sample {
    /// 0: the place is free.
    object: usize,
    size: usize,
    weight: f64,
    stack: usize,
}

#[derive(Clone, Copy)]
struct Stack {
    hash: u64,
    first: usize,
    len: usize,
    counts: Counts,
}

// SAFETY: numbers.
unsafe impl Zero for Sample {}
// SAFETY: numbers.
unsafe impl Zero for Stack {}
// SAFETY: a number.
unsafe impl Zero for usize {}

pub(super) struct Tables {
    samples: Mapped<Sample>,
    live: usize,
    /// Numbers of stacks, and one more; 0: the place is free.
    index: Mapped<usize>,
    stacks: Mapped<Stack>,
    frames: Mapped<usize>,
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^ (value >> 29)
}

impl Tables {
    pub(super) const fn new() -> Self {
        Self {
            samples: Mapped::new(),
            live: 0,
            index: Mapped::new(),
            stacks: Mapped::new(),
            frames: Mapped::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.samples.clear();
        self.index.clear();
        self.stacks.clear();
        self.frames.clear();
        self.live = 0;
    }

    /// Notes a sample. `false`, and nothing is noted, if there is no memory for it.
    pub(super) fn add(&mut self, object: usize, size: usize, weight: f64, frames: &[usize]) -> bool {
        if !self.room() {
            return false;
        }
        // An object that went away unseen (freed by a signal handler) left its sample behind.
        self.remove(object);
        let Some(stack) = self.stack_of(frames) else {
            return false;
        };
        let counts = &mut self.stacks.as_slice()[stack].counts;
        counts.allocs += weight;
        counts.alloc_bytes += weight * size as f64;
        counts.live += weight;
        counts.live_bytes += weight * size as f64;
        self.live += 1;
        self.insert(Sample {
            object,
            size,
            weight,
            stack,
        });
        true
    }

    /// Takes a sample off. `false` if the object is none.
    pub(super) fn remove(&mut self, object: usize) -> bool {
        let samples = self.samples.as_slice();
        if samples.is_empty() {
            return false;
        }
        let mask = samples.len() - 1;
        let mut at = mix(object as u64) as usize & mask;
        while samples[at].object != object {
            if samples[at].object == 0 {
                return false;
            }
            at = (at + 1) & mask;
        }
        let Sample {
            size, weight, stack, ..
        } = samples[at];
        // Those behind it that would not be found over the gap move up.
        let mut gap = at;
        loop {
            at = (at + 1) & mask;
            if samples[at].object == 0 {
                break;
            }
            let home = mix(samples[at].object as u64) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                samples[gap] = samples[at];
                gap = at;
            }
        }
        samples[gap].object = 0;
        self.live -= 1;
        let counts = &mut self.stacks.as_slice()[stack].counts;
        counts.live -= weight;
        counts.live_bytes -= weight * size as f64;
        true
    }

    /// The frames and counts of a stack, by its number.
    pub(super) fn stack(&mut self, number: usize, frames: &mut [usize]) -> Option<(usize, Counts)> {
        let stack = *self.stacks.as_slice().get(number)?;
        frames[..stack.len].copy_from_slice(&self.frames.as_slice()[stack.first..][..stack.len]);
        Some((stack.len, stack.counts))
    }

    fn insert(&mut self, sample: Sample) {
        let samples = self.samples.as_slice();
        let mask = samples.len() - 1;
        let mut at = mix(sample.object as u64) as usize & mask;
        while samples[at].object != 0 {
            at = (at + 1) & mask;
        }
        samples[at] = sample;
    }

    /// Makes sure that one more sample fits.
    fn room(&mut self) -> bool {
        if 2 * (self.live + 1) <= self.samples.len {
            return true;
        }
        let Some(larger) = Mapped::zeros((2 * self.samples.len).max(1024)) else {
            return false;
        };
        let mut old = core::mem::replace(&mut self.samples, larger);
        for &sample in old.as_slice().iter().filter(|sample| sample.object != 0) {
            self.insert(sample);
        }
        old.clear();
        true
    }

    /// The number of the stack with these frames, a new one if need be. `None`: out of memory.
    fn stack_of(&mut self, frames: &[usize]) -> Option<usize> {
        let hash = frames
            .iter()
            .fold(frames.len() as u64, |hash, &frame| mix(hash ^ frame as u64));
        if 2 * (self.stacks.len + 1) > self.index.len {
            self.grow_index()?;
        }
        let mask = self.index.len - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.index.as_slice()[at].checked_sub(1) {
                None => break,
                Some(number) => {
                    let stack = self.stacks.as_slice()[number];
                    if stack.hash == hash && self.frames.as_slice()[stack.first..][..stack.len] == *frames {
                        return Some(number);
                    }
                }
            }
            at = (at + 1) & mask;
        }
        let first = self.frames.len;
        if !frames.iter().all(|&frame| self.frames.push(frame)) {
            self.frames.len = first;
            return None;
        }
        let number = self.stacks.len;
        let stack = Stack {
            hash,
            first,
            len: frames.len(),
            counts: Counts::default(),
        };
        if !self.stacks.push(stack) {
            self.frames.len = first;
            return None;
        }
        self.index.as_slice()[at] = number + 1;
        Some(number)
    }

    fn grow_index(&mut self) -> Option<()> {
        let mut larger: Mapped<usize> = Mapped::zeros((2 * self.index.len).max(1024))?;
        let mask = larger.len - 1;
        for (number, stack) in self.stacks.as_slice().iter().enumerate() {
            let mut at = stack.hash as usize & mask;
            while larger.as_slice()[at] != 0 {
                at = (at + 1) & mask;
            }
            larger.as_slice()[at] = number + 1;
        }
        self.index.clear();
        self.index = larger;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Random samples come and go as in a map of std.
    #[test]
    fn random_samples_agree_with_a_model() {
        let mut rng = crate::rng::Rng::new(5);
        let mut tables = Tables::new();
        let mut model = BTreeMap::new();
        let mut allocs = [0.0; 2000];
        for _ in 0..100_000 {
            let object = 16 * (1 + rng.below(3000));
            let stack = rng.below(2000);
            if rng.below(2) == 0 {
                assert_eq!(tables.remove(object), model.remove(&object).is_some());
            } else {
                assert!(tables.add(object, 8, 2.0, &[stack, 7, stack / 2]));
                model.insert(object, stack);
                allocs[stack] += 2.0;
            }
        }
        let mut live = [0.0; 2000];
        model.values().for_each(|&stack| live[stack] += 2.0);
        let mut frames = [0; 8];
        let mut number = 0;
        while let Some((len, counts)) = tables.stack(number, &mut frames) {
            let stack = frames[0];
            assert_eq!(frames[..len], [stack, 7, stack / 2]);
            assert_eq!(
                (counts.live, counts.live_bytes),
                (live[stack], 8.0 * live[stack]),
                "{stack}"
            );
            assert_eq!(
                (counts.allocs, counts.alloc_bytes),
                (allocs[stack], 8.0 * allocs[stack])
            );
            live[stack] = 0.0;
            allocs[stack] = 0.0;
            number += 1;
        }
        assert_eq!(live, [0.0; 2000]);
        assert_eq!(allocs, [0.0; 2000]);
        tables.clear();
    }
}
