//! What the threads share, and where each of them may be.

use crate::machine::{THREADS, Word};

pub(crate) const MS: usize = 2;
pub(crate) const PS: usize = 2;

/// What the threads are called.
pub(crate) const NAMES: [&str; THREADS] = ["M0", "M1", "taker 0", "taker 1"];

/// `state` of M number `m` (of P number `m`, where a faulty protocol keeps it there).
pub(crate) fn state(m: usize) -> Word {
    1 + m
}
/// `M.p`.
pub(crate) fn mp(m: usize) -> Word {
    3 + m
}
/// `P.m`.
pub(crate) fn pm(p: usize) -> Word {
    5 + p
}
/// `P.lock`: 0 or 1.
pub(crate) fn lock(p: usize) -> Word {
    7 + p
}
/// Whether owners fence.
pub(crate) const FENCE_MODE: Word = 9;

/// `M.state`: in a section.
pub(crate) const INSIDE: u8 = 1;
/// `M.state`: its sections fence.
pub(crate) const FENCED: u8 = 2;

/// `M.p` and registers: no P.
pub(crate) const NULL: u8 = 0;
/// `P.m`: no M runs this P.
pub(crate) const NONE: u8 = 0;
/// `P.m`: a taker has this P.
pub(crate) const TAKEN: u8 = 1;

/// The value of `M.p` that means P number `p`.
pub(crate) fn a_p(p: usize) -> u8 {
    1 + p as u8
}
/// The value of `P.m` that means M number `m`.
pub(crate) fn an_m(m: usize) -> u8 {
    2 + m as u8
}

/// Where a thread is. The name is what it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Pc {
    // An M.
    Top,
    SetInside,
    ReadMode,
    Fence,
    Vain,
    LoadP,
    Leave,
    HomeLock,
    HomeRead,
    BindLock,
    BindRead,
    UnbindLock,
    UnbindRead,
    // A taker.
    TryLock,
    ReadM,
    Barrier,
    Confirm,
    Poll,
    Owned,
    Borrowed,
    Detached,
    ReleaseWrite,
    // Either.
    Done,
}
