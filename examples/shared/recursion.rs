//! Recursion to a given depth: the same on Baton's stacks and on others.

use std::{hint::black_box, mem::MaybeUninit, ptr};

/// Words of a frame's local array: with what a call saves, a frame is half a kilobyte.
const WORDS: usize = 56;

/// Recurses until the stack is `depth` bytes deeper than here, and comes back. Every frame is touched, but not filled: the
/// time is that of the calls and of the stack. Gives the number of frames.
pub(crate) fn descend(depth: usize) -> usize {
    let here = black_box(0_u8);
    frame(ptr::from_ref(&here).addr() - depth)
}

#[inline(never)]
fn frame(floor: usize) -> usize {
    let mut words = [MaybeUninit::<usize>::uninit(); WORDS];
    words[0].write(floor);
    // The array has to exist on the stack from here on, and after the call too: so the call is no jump.
    let address = black_box(&raw mut words).addr();
    let below = if address > floor { frame(floor) } else { 0 };
    black_box(&raw mut words);
    below + 1
}
