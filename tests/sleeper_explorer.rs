//! x
#[path = "sleeper_explorer/doze.rs"]
mod doze;
#[path = "../alloc/tests/latch_explorer/machine.rs"]
mod machine;
#[path = "sleeper_explorer/protocol.rs"]
mod protocol;
#[path = "../alloc/tests/latch_explorer/search.rs"]
mod search;
#[path = "sleeper_explorer/timers.rs"]
mod timers;
#[path = "sleeper_explorer/words.rs"]
mod words;
#[path = "sleeper_explorer/work.rs"]
mod work;

use doze::Doze;
use protocol::Protocol;
use search::explore;
use timers::Timers;
use work::Work;

#[test]
fn all() {
    use work::Fault::*;
    for fence_mode in [false, true] {
        explore(Protocol::Work(Work {
            fence_mode,
            pushes: [2, 1],
            fault: None,
        }));
    }
    for f in [
        NoBarrier,
        LookFirst,
        LateDecrement,
        LastWakesNobody,
        LastHasNoBarrier,
        LateGiveUp,
        BatchWakesNobody,
    ] {
        explore(Protocol::Work(Work {
            fence_mode: false,
            pushes: [2, 1],
            fault: Some(f),
        }));
    }
    explore(Protocol::Work(Work {
        fence_mode: true,
        pushes: [2, 1],
        fault: Some(NoPusherFence),
    }));
}
#[test]
fn timers() {
    use timers::Fault::*;
    let right = Timers {
        fence_mode: false,
        inserts: 1,
        rounds: 2,
        time_out: false,
        fault: None,
    };
    for fence_mode in [false, true] {
        for time_out in [false, true] {
            explore(Protocol::Timers(Timers {
                fence_mode,
                time_out,
                ..right
            }));
        }
    }
    for f in [NoBarrier, SaysWithoutLock, NoLeave] {
        explore(Protocol::Timers(Timers {
            fault: Some(f),
            ..right
        }));
        explore(Protocol::Timers(Timers {
            fault: Some(f),
            time_out: true,
            ..right
        }));
    }
    explore(Protocol::Timers(Timers {
        fence_mode: true,
        fault: Some(NoPusherFence),
        ..right
    }));
}
#[test]
fn dozes() {
    use doze::Fault::*;
    for fence_mode in [false, true] {
        explore(Protocol::Doze(Doze {
            fence_mode,
            fault: None,
        }));
    }
    for f in [NoBarrier, LookFirst, LateAlarm] {
        explore(Protocol::Doze(Doze {
            fence_mode: false,
            fault: Some(f),
        }));
    }
    explore(Protocol::Doze(Doze {
        fence_mode: true,
        fault: Some(NoPusherFence),
    }));
}
