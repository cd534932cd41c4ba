//! Explores "the sleeper pays" exhaustively: the protocol by which idle threads and busy ones keep from missing each
//! other although who pushes work has no fence (`runtime/src/sched/README.md`).
//!
//! ```text
//!   model     who makes something                who must not sleep over it      in the runtime
//!   work      M0's ring, the global queue        M1, M2: idle Ms                 idle, find, ready
//!   timers    M0's timers                        the keeper among M1 and M2      idle, time
//!   doze      M0's ring, a P, a wish for an M    the sysmon in its long sleep    sysmon
//!   files     the kernel; M1 and M2              the poller, a plain thread      netpoll, idle, sysmon
//! ```
//!
//! The machine is the one that explores the P latch (`latch.rs`): four threads with store buffers,
//! every interleaving, breadth first, so that a counterexample is a shortest one. A step reads one word that others may
//! write at that time; words under the lock are read and written together. A membarrier waits until the buffer of each
//! thread that pushes without a fence has been empty.
//!
//! # What is checked, in states in which nothing can happen any more
//!
//! | violation | meaning |
//! |---|---|
//! | [`Violation::LostWork`] | a goroutine is in a queue, a P is idle, and an M sleeps |
//! | [`Violation::LostNote`] | an M sleeps that is on no list, so that nobody will wake it |
//! | [`Violation::Leak`] | `spinning` counts an M that does not spin, so that no pusher will wake anybody |
//! | [`Violation::Overslept`] | the keeper sleeps past a timer |
//! | [`Violation::LostAlert`] | the sysmon sleeps without a time limit while there is something to look after |
//! | [`Violation::LostFile`] | who waits for a file sleeps, and the file is ready |
//! | [`Violation::Stuck`] | a thread is neither done nor asleep: a deadlock |
//!
//! An M may compute for ever, so "somebody will come by later" is no excuse: what waits in a ring is lost unless another
//! M takes it. Each protocol that leaves one thing out must be found wrong, which shows that the checks bite.

#[path = "sleeper/doze.rs"]
mod doze;
#[path = "sleeper/files.rs"]
mod files;
mod machine;
#[path = "sleeper/protocol.rs"]
mod protocol;
mod search;
#[path = "sleeper/timers.rs"]
mod timers;
#[path = "sleeper/words.rs"]
mod words;
#[path = "sleeper/work.rs"]
mod work;

use baton_explore::thorough;
use doze::Doze;
use files::Files;
use protocol::{Protocol, Violation};
use search::{is_right, is_wrong};
use timers::Timers;
use words::Pc;
use work::Work;

/// Pushes where the full number takes long.
fn pushes() -> [u8; 2] {
    if thorough() { [2, 1] } else { [1, 1] }
}

const WORK: Work = Work {
    fence_mode: false,
    pushes: [2, 1],
    sheds: false,
    fault: None,
};

/// Fewer pushes, since to shed is one thing more that can happen at any time.
const SHEDS: Work = Work {
    pushes: [2, 0],
    sheds: true,
    ..WORK
};

/// Where every form of the model of work comes by.
const WORK_PLACES: &[Pc] = &[
    Pc::PushBatch,
    Pc::WakeNote,
    Pc::Steal,
    Pc::StopLookRing,
    Pc::SleepLookRing,
    Pc::LeaveSpin,
    Pc::Asleep,
    Pc::Acquire,
];

fn faulty_work(fault: work::Fault) -> Protocol {
    Protocol::Work(Work {
        fault: Some(fault),
        ..WORK
    })
}

#[test]
fn no_work_is_lost() {
    let work = Work {
        pushes: pushes(),
        ..WORK
    };
    is_right(Protocol::Work(work), WORK_PLACES);
}

#[test]
fn no_work_is_lost_in_fence_mode() {
    let fence_mode = Work {
        fence_mode: true,
        pushes: pushes(),
        ..WORK
    };
    is_right(Protocol::Work(fence_mode), WORK_PLACES);
}

#[test]
fn no_work_is_lost_when_some_is_shed() {
    let places = [WORK_PLACES, &[Pc::Shed]].concat();
    is_right(Protocol::Work(SHEDS), &places);
    let fence_mode = Work {
        fence_mode: true,
        pushes: pushes(),
        ..SHEDS
    };
    is_right(Protocol::Work(fence_mode), &places);
}

#[test]
fn shedding_in_silence_is_wrong() {
    let faulty = Work {
        fault: Some(work::Fault::ShedWakesNobody),
        ..SHEDS
    };
    is_wrong(Protocol::Work(faulty), Violation::LostWork);
}

#[test]
fn sleepers_without_a_barrier_are_wrong() {
    is_wrong(faulty_work(work::Fault::NoBarrier), Violation::LostWork);
}

#[test]
fn looking_before_publishing_is_wrong() {
    is_wrong(faulty_work(work::Fault::LookFirst), Violation::LostWork);
}

#[test]
fn spinning_until_after_the_look_is_wrong() {
    is_wrong(faulty_work(work::Fault::LateDecrement), Violation::LostWork);
}

#[test]
fn a_last_spinner_that_wakes_nobody_is_wrong() {
    is_wrong(faulty_work(work::Fault::LastWakesNobody), Violation::LostWork);
}

#[test]
fn a_last_spinner_without_a_barrier_is_wrong() {
    is_wrong(faulty_work(work::Fault::LastHasNoBarrier), Violation::LostWork);
}

#[test]
fn giving_up_outside_the_lock_is_wrong() {
    is_wrong(faulty_work(work::Fault::LateGiveUp), Violation::LostWork);
}

#[test]
fn moving_a_batch_in_silence_is_wrong() {
    is_wrong(faulty_work(work::Fault::BatchWakesNobody), Violation::LostWork);
}

#[test]
fn fence_mode_without_the_pushers_fence_is_wrong() {
    let no_fence = Work {
        fence_mode: true,
        fault: Some(work::Fault::NoPusherFence),
        ..WORK
    };
    is_wrong(Protocol::Work(no_fence), Violation::LostWork);
}

const TIMERS: Timers = Timers {
    fence_mode: false,
    inserts: 1,
    rounds: 1,
    time_out: false,
    second_look: true,
    fault: None,
};

const TIMER_PLACES: &[Pc] = &[
    Pc::KeeperPop,
    Pc::Dismiss,
    Pc::WakeNote,
    Pc::Keep,
    Pc::Leave,
    Pc::Asleep,
];

/// What must be right.
fn timers() -> Timers {
    Timers {
        rounds: if thorough() { 2 } else { 1 },
        ..TIMERS
    }
}

fn faulty_timers(fault: timers::Fault) -> Timers {
    Timers {
        fault: Some(fault),
        ..TIMERS
    }
}

#[test]
fn the_keeper_does_not_oversleep() {
    is_right(Protocol::Timers(timers()), TIMER_PLACES);
}

#[test]
fn the_keeper_does_not_oversleep_in_fence_mode() {
    let fence_mode = Timers {
        fence_mode: true,
        ..timers()
    };
    is_right(Protocol::Timers(fence_mode), TIMER_PLACES);
}

/// A wake-up and the end of a sleep at the same time.
#[test]
fn no_wake_up_is_lost_to_a_time_out() {
    let time_out = Timers {
        time_out: true,
        rounds: 1,
        second_look: thorough(),
        ..TIMERS
    };
    is_right(Protocol::Timers(time_out), &[TIMER_PLACES, &[Pc::Fire]].concat());
}

/// While nothing else was said, `keeper_until` says "never", and whoever inserts a timer wakes the keeper. So the look that
/// follows the first barrier is exact enough.
#[test]
fn one_look_at_the_timers_is_enough() {
    let one_look = Timers {
        second_look: false,
        ..timers()
    };
    is_right(Protocol::Timers(one_look), TIMER_PLACES);
}

#[test]
fn a_keeper_without_a_barrier_is_wrong() {
    is_wrong(
        Protocol::Timers(faulty_timers(timers::Fault::NoBarrier)),
        Violation::Overslept,
    );
}

#[test]
fn a_dismissed_keeper_that_speaks_for_its_successor_is_wrong() {
    let faulty = Timers {
        rounds: 2,
        ..faulty_timers(timers::Fault::SaysWithoutLock)
    };
    is_wrong(Protocol::Timers(faulty), Violation::Overslept);
}

#[test]
fn a_time_out_that_leaves_no_list_is_wrong() {
    let faulty = Timers {
        time_out: true,
        ..faulty_timers(timers::Fault::NoLeave)
    };
    is_wrong(Protocol::Timers(faulty), Violation::Overslept);
}

#[test]
fn inserting_a_timer_without_a_fence_in_fence_mode_is_wrong() {
    let faulty = Timers {
        fence_mode: true,
        ..faulty_timers(timers::Fault::NoPusherFence)
    };
    is_wrong(Protocol::Timers(faulty), Violation::Overslept);
}

const DOZE: Doze = Doze {
    fence_mode: false,
    fault: None,
};

const DOZE_PLACES: &[Pc] = &[Pc::AlertBump, Pc::Asleep, Pc::Awake];

#[test]
fn no_alert_is_lost() {
    is_right(Protocol::Doze(DOZE), DOZE_PLACES);
}

#[test]
fn no_alert_is_lost_in_fence_mode() {
    let fence_mode = Doze {
        fence_mode: true,
        ..DOZE
    };
    is_right(Protocol::Doze(fence_mode), DOZE_PLACES);
}

#[test]
fn a_sysmon_that_leaves_something_out_is_wrong() {
    use doze::Fault::{LateAlarm, LookFirst, NoBarrier};
    for fault in [NoBarrier, LookFirst, LateAlarm] {
        let faulty = Doze {
            fault: Some(fault),
            ..DOZE
        };
        is_wrong(Protocol::Doze(faulty), Violation::LostAlert);
    }
}

#[test]
fn alerting_without_a_fence_in_fence_mode_is_wrong() {
    let faulty = Doze {
        fence_mode: true,
        fault: Some(doze::Fault::NoPusherFence),
    };
    is_wrong(Protocol::Doze(faulty), Violation::LostAlert);
}

const FILES: Files = Files { pushes: 1, fault: None };

const FILES_PLACES: &[Pc] = &[
    Pc::LookFetch,
    Pc::Dispatch,
    Pc::Interrupt,
    Pc::LeaveOffice,
    Pc::Recruit,
    Pc::Awake,
    Pc::Asleep,
];

#[test]
fn no_file_and_no_interrupt_is_lost() {
    let files = Files {
        pushes: if thorough() { 2 } else { 1 },
        ..FILES
    };
    is_right(Protocol::Files(files), FILES_PLACES);
}

#[test]
fn a_poller_that_does_not_hear_of_its_note_is_wrong() {
    use files::Fault::{InterruptsFirst, LookDrains, NoInterrupt, WakerFreesOffice};
    for fault in [NoInterrupt, InterruptsFirst, LookDrains, WakerFreesOffice] {
        let faulty = Files {
            fault: Some(fault),
            ..FILES
        };
        is_wrong(Protocol::Files(faulty), Violation::LostNote);
    }
}

#[test]
fn forgetting_files_is_wrong() {
    use files::Fault::{ForgetsEdges, NoAlert, NobodyLooks};
    for fault in [ForgetsEdges, NoAlert, NobodyLooks] {
        let faulty = Files {
            fault: Some(fault),
            ..FILES
        };
        is_wrong(Protocol::Files(faulty), Violation::LostFile);
    }
}
