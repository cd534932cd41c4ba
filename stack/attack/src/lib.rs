//! The C half of the attacks on Baton's stacks, for the tests beside it: not for use.

unsafe extern "C" {
    fn attack_large_frames(kilobytes: usize, depth: usize) -> usize;
    fn attack_alloca(blocks: usize, bytes: usize) -> usize;
    fn attack_longjmp(depth: usize) -> i32;
    fn attack_vectors(below: usize) -> i32;
}

/// Recurses `depth` times in frames of about 20, 100 or 300 kilobytes, without probes; gives the number of frames that held
/// what was written into them.
#[must_use]
pub fn large_frames(kilobytes: usize, depth: usize) -> usize {
    // SAFETY: it uses stack and nothing else.
    unsafe { attack_large_frames(kilobytes, depth) }
}

/// Takes `blocks` times `bytes` of stack in one frame; gives the number of blocks that held what was written.
#[must_use]
pub fn alloca(blocks: usize, bytes: usize) -> usize {
    // SAFETY: it uses stack and nothing else.
    unsafe { attack_alloca(blocks, bytes) }
}

/// Jumps out of `depth` frames of three kilobytes; gives 42.
#[must_use]
pub fn longjmp(depth: usize) -> i32 {
    // SAFETY: the jump crosses C frames only.
    unsafe { attack_longjmp(depth) }
}

/// Fills vector registers and touches the stack `below` bytes further down; gives the bits of a register that held, 0 if they
/// did not, -1 if there are none to test.
#[must_use]
pub fn vectors(below: usize) -> i32 {
    // SAFETY: it uses stack and nothing else.
    unsafe { attack_vectors(below) }
}
