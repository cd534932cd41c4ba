//! What the threads share, and where each of them may be.

use crate::machine::{THREADS, Word};

/// What the threads are called.
pub(crate) const NAMES: [&str; THREADS] = ["M0", "M1", "M2", "outside"];

/// The plain thread.
pub(crate) const OUTSIDE: usize = 3;

/// Goroutines in the ring of M0's P. Written by M0 with plain stores, and by thieves.
pub(crate) const RING: Word = 1;
/// Goroutines in the global queue.
pub(crate) const GLOBAL: Word = 2;
/// `idle_ps`.
pub(crate) const IDLE_PS: Word = 3;
/// `spinning`.
pub(crate) const SPINNING: Word = 4;
/// `keeper`: 0, or 1 + the number of the M.
pub(crate) const KEEPER: Word = 12;
/// `keeper_until`, as an urgency (see `timers.rs`).
pub(crate) const UNTIL: Word = 13;
/// The earliest timer of M0's P, as an urgency.
pub(crate) const DUE: Word = 14;
/// `sysmon.dozes`.
pub(crate) const DOZES: Word = 15;
/// `sysmon.alarm`, in the model that has no notes.
pub(crate) const ALARM: Word = 9;
/// A file has become ready, and nobody has fetched that.
pub(crate) const EVENT: Word = 1;
/// Somebody has interrupted the poller: the eventfd.
pub(crate) const INTERRUPT: Word = 4;
/// Somebody waits for the file.
pub(crate) const WAITING: Word = 6;
/// `poller`: 0, or 1 + the number of the M.
pub(crate) const POLLER: Word = 12;
/// The watch was told that the file has become ready.
pub(crate) const READY: Word = 13;
/// `polls` of M1 and M2, one bit each.
pub(crate) const POLLS: Word = 14;
/// `sysmon.wanted`, in the model that has no global queue.
pub(crate) const WANTED: Word = 2;

/// The lock of the idle lists: there is one.
pub(crate) fn lock(_: usize) -> Word {
    5
}
/// Whether M number `m` is on the idle list.
pub(crate) fn listed(m: usize) -> Word {
    6 + m
}
/// The note of M number `m`.
pub(crate) fn note(m: usize) -> Word {
    9 + m
}

/// Where a thread is. The name is what it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Pc {
    // Making work known.
    Run,
    Outside,
    PushBatch,
    Shed,
    PushFence,
    PushIdle,
    PushSpinning,
    WakeCas,
    WakeLock,
    WakePop,
    WakeGiveUp,
    WakeNote,
    // Looking for work.
    Search,
    StartSpinning,
    SearchRing,
    Steal,
    Found,
    StopIdle,
    StopBarrier,
    StopLookGlobal,
    StopLookRing,
    // Going to sleep and getting up.
    SleepLock,
    SleepPublish,
    SleepDecrement,
    SleepBarrier,
    SleepIdle,
    SleepLookGlobal,
    SleepLookRing,
    LeaveLock,
    Leave,
    LeaveSpin,
    Asleep,
    AcquireLock,
    Acquire,
    // Timers.
    Insert,
    InsertLook,
    KeeperLock,
    KeeperPop,
    Dismiss,
    SleepKeep,
    LookDue,
    LookWork,
    KeepLock,
    Keep,
    Fire,
    // The sysmon, and who wakes it.
    Alarm,
    Doze,
    LookIdle,
    LookWanted,
    Awake,
    AlertLook,
    AlertSwap,
    AlertBump,
    Request,
    // Files.
    Look,
    LookFetch,
    Dispatch,
    Interrupt,
    Fetched,
    LeaveOffice,
    LookWaiting,
    LookPoller,
    Recruit,
    // At rest.
    Done,
}
