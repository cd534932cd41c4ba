//! One bit for each page of an arena.
#![forbid(unsafe_code)]

use crate::{arena::ARENA, sizeclass::PAGE};
use core::ops::Range;

/// Pages in an arena.
pub(crate) const PAGES: usize = ARENA / PAGE;
const WORDS: usize = PAGES / 64;
/// Pages of which one sum is kept: see `summary`.
pub(crate) const CHUNK: usize = 512;
/// Chunks in an arena.
pub(crate) const CHUNKS: usize = PAGES / CHUNK;

/// A set of pages.
#[derive(Clone, Debug)]
pub(crate) struct PageBits {
    words: [u64; WORDS],
}

/// The words that a range of pages touches, each with the bits that belong to the range.
fn masks(start: usize, len: usize) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let end = start + len;
    (start / 64..end.div_ceil(64)).map(move |word| {
        let low = start.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

impl PageBits {
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self { words: [0; WORDS] }
    }

    /// Puts `len` pages from `start` on into the set. `false` if one was there before.
    #[must_use]
    pub(crate) fn insert(&mut self, start: usize, len: usize) -> bool {
        let mut before = 0;
        for (word, mask) in masks(start, len) {
            before |= self.words[word] & mask;
            self.words[word] |= mask;
        }
        before == 0
    }

    /// Takes `len` pages from `start` on out of the set. `false` if one was not there.
    #[must_use]
    pub(crate) fn remove(&mut self, start: usize, len: usize) -> bool {
        let mut missing = 0;
        for (word, mask) in masks(start, len) {
            missing |= !self.words[word] & mask;
            self.words[word] &= !mask;
        }
        missing == 0
    }

    /// How many of `len` pages from `start` on are in the set.
    pub(crate) fn count(&self, start: usize, len: usize) -> usize {
        masks(start, len)
            .map(|(word, mask)| (self.words[word] & mask).count_ones() as usize)
            .sum()
    }

    /// From the first to the last of `len` pages from `start` on that are in the set; nothing if none is.
    pub(crate) fn hull(&self, start: usize, len: usize) -> Range<usize> {
        let mut hull = 0..0;
        for (word, mask) in masks(start, len) {
            let bits = self.words[word] & mask;
            if bits != 0 {
                if hull.is_empty() {
                    hull.start = word * 64 + bits.trailing_zeros() as usize;
                }
                hull.end = word * 64 + bits.ilog2() as usize + 1;
            }
        }
        hull
    }

    /// The highest run of pages below `before` that are in `self` and not in `not`, or its upper `most` pages if it is longer: start
    /// and length.
    pub(crate) fn last_run(&self, not: &Self, before: usize, most: usize) -> Option<(usize, usize)> {
        let bits = |word: usize| self.words[word] & !not.words[word];
        let (word, bits_before) = masks(0, before)
            .map(|(word, mask)| (word, bits(word) & mask))
            .rev()
            .find(|&(_, bits)| bits != 0)?;
        let end = word * 64 + bits_before.ilog2() as usize + 1;
        let mut start = end;
        while start > 0 && end - start < most {
            // The bits below `start` in its word, moved to the top, so that the nearest page is the highest bit.
            let below = if start.is_multiple_of(64) { 64 } else { start % 64 };
            let run = (bits((start - 1) / 64) << (64 - below)).leading_ones() as usize;
            start -= run.min(below);
            if run < below {
                break;
            }
        }
        let start = start.max(end.saturating_sub(most));
        Some((start, end - start))
    }

    /// The highest aligned block of `len` pages (a multiple of 64) below `before` of which none is in `not`, and some are in `self`.
    pub(crate) fn last_block(&self, not: &Self, before: usize, len: usize) -> Option<usize> {
        (0..before / len)
            .rev()
            .map(|block| block * len)
            .find(|&start| not.is_clear(start, len) && !self.is_clear(start, len))
    }

    /// Whether none of `len` pages from `start` on is in the set.
    pub(crate) fn is_clear(&self, start: usize, len: usize) -> bool {
        masks(start, len).all(|(word, mask)| self.words[word] & mask == 0)
    }

    /// The first page from `from` on that is in the set (`set`) or not in it; `PAGES` if there is none.
    pub(crate) fn next(&self, from: usize, set: bool) -> usize {
        let flip = if set { 0 } else { u64::MAX };
        let mut word = from / 64;
        let mut keep = u64::MAX << (from % 64);
        while word < WORDS {
            let bits = (self.words[word] ^ flip) & keep;
            if bits != 0 {
                return word * 64 + bits.trailing_zeros() as usize;
            }
            keep = u64::MAX;
            word += 1;
        }
        PAGES
    }

    /// The words of a chunk.
    pub(crate) fn chunk(&self, chunk: usize) -> &[u64] {
        &self.words[chunk * (CHUNK / 64)..][..CHUNK / 64]
    }

    /// The 64 pages that this one is among, lowest first.
    pub(crate) fn word(&self, page: usize) -> u64 {
        self.words[page / 64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn agrees_with_a_model() {
        let mut rng = Rng::new(7);
        for round in 0..40 {
            let mut bits = PageBits::new();
            let mut used = [false; PAGES];
            let density = [1, 20, 300, 3000][round % 4];
            for _ in 0..density {
                let start = rng.below(PAGES);
                let len = 1 + rng.below((PAGES - start).min(if density < 50 { 900 } else { 3 }));
                let clear = used[start..start + len].iter().all(|&u| !u);
                assert_eq!(bits.is_clear(start, len), clear);
                if rng.below(4) == 0 {
                    let full = used[start..start + len].iter().all(|&u| u);
                    assert_eq!(bits.remove(start, len), full);
                    used[start..start + len].fill(false);
                } else {
                    assert_eq!(bits.insert(start, len), clear);
                    used[start..start + len].fill(true);
                }
            }
            for _ in 0..60 {
                let from = if rng.below(2) == 0 { 0 } else { rng.below(PAGES) };
                for set in [false, true] {
                    let expected = (from..PAGES).find(|&i| used[i] == set).unwrap_or(PAGES);
                    assert_eq!(bits.next(from, set), expected);
                }
                let word = (0..64).fold(0, |word, i| word | u64::from(used[from / 64 * 64 + i]) << i);
                assert_eq!(bits.word(from), word);
                assert_eq!(bits.chunk(from / CHUNK)[from % CHUNK / 64], word);
            }
        }
    }

    #[test]
    fn the_last_run_and_block_agree_with_a_model() {
        let mut rng = Rng::new(12);
        for round in 0..60 {
            let (mut dirty, mut used) = (PageBits::new(), PageBits::new());
            let mut model = [false; PAGES];
            let mut model_used = [false; PAGES];
            let longest = [3, 100, 2000][round % 3];
            for _ in 0..[200, 40, 6][round % 3] {
                let len = 1 + rng.below(longest);
                let start = rng.below(PAGES - len);
                let (bits, model) = match rng.below(2) {
                    0 => (&mut dirty, &mut model),
                    _ => (&mut used, &mut model_used),
                };
                let _overlaps = bits.insert(start, len);
                model[start..start + len].fill(true);
            }
            let wanted: Vec<bool> = (0..PAGES).map(|i| model[i] && !model_used[i]).collect();
            for (most, before) in [1, 5, 64, 500, PAGES]
                .map(|most| [(most, PAGES), (most, rng.below(PAGES))])
                .into_iter()
                .flatten()
            {
                let found = dirty.last_run(&used, before, most);
                let naive = wanted[..before].iter().rposition(|&w| w).map(|last| {
                    let len = wanted[..=last].iter().rev().take_while(|&&w| w).count().min(most);
                    (last + 1 - len, len)
                });
                assert_eq!(found, naive);
            }
            let before = [PAGES, rng.below(PAGES)][round % 2];
            let block = (0..before / 256).rev().map(|b| b * 256).find(|&b| {
                let pages = b..b + 256;
                pages.clone().all(|i| !model_used[i]) && pages.clone().any(|i| model[i])
            });
            assert_eq!(dirty.last_block(&used, before, 256), block);
            let (start, len) = (rng.below(PAGES / 2), 1 + rng.below(PAGES / 2));
            assert_eq!(
                dirty.count(start, len),
                (start..start + len).filter(|&i| model[i]).count()
            );
            let first = (start..start + len).find(|&i| model[i]).unwrap_or(0);
            let last = (start..start + len).rfind(|&i| model[i]).map_or(0, |last| last + 1);
            assert_eq!(dirty.hull(start, len), first..last);
        }
    }
}
