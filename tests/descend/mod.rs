//! Recursion to a given depth, for tests of what deep goroutines leave behind.

use std::{hint::black_box, ptr};

/// Uses `depth` bytes of stack; gives the number of frames.
pub(crate) fn descend(depth: usize) -> usize {
    let here = 0_u8;
    frame(ptr::from_ref(&here).addr() - depth)
}

#[inline(never)]
fn frame(floor: usize) -> usize {
    let words = black_box([floor; 60]);
    let below = if ptr::from_ref(&words).addr() > floor {
        frame(floor)
    } else {
        0
    };
    below + black_box(words)[59] / floor
}
