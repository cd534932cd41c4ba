//! Explores the protocol of the P latch (`src/latch.rs`) exhaustively, on a machine with store buffers.
//!
//! ```text
//!   thread 0   M0   ─ store ─▶ [ s s s ] ─ flush ─▶ ┌────────────────────────┐
//!   thread 1   M1   ─ store ─▶ [ s s s ] ─ flush ─▶ │ state×2   M.p×2        │
//!   thread 2   taker ─ store ▶ [ s s s ] ─ flush ─▶ │ P.m×2     P.lock×2     │
//!   thread 3   taker ─ store ▶ [ s s s ] ─ flush ─▶ │ FENCE_MODE             │
//!                 ▲                                 └────────────────────────┘
//!                 └──── load: own buffer first, then memory ───┘
//! ```
//!
//! Two Ms, two Ps and two takers run the protocol step by step, any number of rounds, in every interleaving. A store goes
//! to the thread's FIFO buffer and reaches memory at any later moment (total store order, the order of x86). This is
//! the half that loom cannot express: loom knows no membarrier. (`latch_loom.rs` has the other half: the real code, with
//! fences, in the memory order of Rust.)
//!
//! # What a step is
//!
//! 1. A step reads memory at most once and then puts any number of stores into its own buffer. Others see a buffered
//!    store only when it is flushed, and each flush is a step of its own, so nothing is lost by issuing two at once.
//! 2. A read-modify-write and a fence wait until the thread's own buffer is empty.
//! 3. A membarrier waits until the buffer of the suspect's M has been empty once. The real one does this to every
//!    thread, so the model asks less of it, and one barrier for a batch of suspects is covered too.
//! 4. `unlock` is a plain store: weaker than the swap in `src/lock.rs`. So is the taker's SeqCst store to `M.p`.
//! 5. Each thread may stop at the top of its loop and nowhere else, so a run ends only where the protocol may rest.
//!
//! # What is checked
//!
//! | violation | where |
//! |---|---|
//! | [`Violation::TwoUsers`] | in every state: two threads use one P's data |
//! | [`Violation::Astray`] | in every state: `P.m` names an M whose home is another P |
//! | [`Violation::Stuck`] | in states without a next step: a thread has not reached the top of its loop |
//! | [`Violation::Lost`] | in states without a next step: a P neither free nor bound to an M that can use it |
//!
//! The search is breadth first, so a counterexample is a shortest one. Each protocol that leaves one thing out
//! ([`Fault`]) must be found wrong, which shows that the checks bite.

mod machine;
#[path = "latch/protocol.rs"]
mod protocol;
mod search;
#[path = "latch/words.rs"]
mod words;

use baton_explore::thorough;
use protocol::{Fault, MEMBARRIER, Protocol, Violation};
use search::{is_right, is_wrong};
use words::Pc;

/// Takers where two of them take long.
fn takers() -> usize {
    if thorough() { 2 } else { 1 }
}

fn faulty(fault: Fault) -> Protocol {
    Protocol {
        fault: Some(fault),
        ..MEMBARRIER
    }
}

/// Where every form of the protocol comes by.
const COMMON: &[Pc] = &[
    Pc::LoadP,
    Pc::Leave,
    Pc::HomeRead,
    Pc::BindRead,
    Pc::UnbindRead,
    Pc::Poll,
    Pc::Owned,
    Pc::Borrowed,
    Pc::Detached,
    Pc::ReleaseWrite,
];

#[test]
fn membarrier_mode_has_one_user_per_p() {
    let protocol = Protocol {
        takers: takers(),
        ..MEMBARRIER
    };
    is_right(protocol, COMMON);
}

#[test]
fn fence_mode_has_one_user_per_p() {
    let protocol = Protocol {
        takers: 1,
        fence_mode: true,
        ..MEMBARRIER
    };
    is_right(protocol, &[COMMON, &[Pc::Fence, Pc::Vain, Pc::Confirm]].concat());
    if thorough() {
        is_right(Protocol { takers: 2, ..protocol }, COMMON);
    }
}

/// The process sandboxes itself while owners run without fences.
#[test]
fn a_refused_membarrier_keeps_one_user_per_p() {
    let protocol = Protocol {
        takers: 1,
        may_refuse: true,
        overtaking: thorough(),
        ..MEMBARRIER
    };
    is_right(
        protocol,
        &[COMMON, &[Pc::ReadMode, Pc::Fence, Pc::Vain, Pc::Confirm]].concat(),
    );
    if thorough() {
        let two = Protocol {
            takers: 2,
            overtaking: false,
            ..protocol
        };
        is_right(two, COMMON);
    }
}

/// A weaker machine than total store order: only Release stores wait for the ones before them.
#[test]
fn stores_may_overtake_each_other() {
    let protocol = Protocol {
        takers: takers(),
        overtaking: true,
        ..MEMBARRIER
    };
    is_right(protocol, COMMON);
}

#[test]
fn inside_per_p_is_wrong() {
    is_wrong(faulty(Fault::InsidePerP), Violation::TwoUsers);
}

/// A P that is retired, say, while a thief still looks at it.
#[test]
fn an_idle_p_that_is_not_marked_is_wrong() {
    is_wrong(faulty(Fault::UnmarkedIdle), Violation::TwoUsers);
}

#[test]
fn takers_without_the_lock_are_wrong() {
    is_wrong(faulty(Fault::NoTakerLock), Violation::TwoUsers);
}

#[test]
fn no_membarrier_is_wrong() {
    is_wrong(faulty(Fault::NoBarrier), Violation::TwoUsers);
}

#[test]
fn binding_without_looking_home_is_wrong() {
    is_wrong(faulty(Fault::NoLookHome), Violation::Astray);
}

#[test]
fn taking_an_unfenced_m_after_a_refusal_is_wrong() {
    let protocol = Protocol {
        may_refuse: true,
        ..faulty(Fault::NoFencedCheck)
    };
    is_wrong(protocol, Violation::TwoUsers);
}

#[test]
fn a_section_that_does_not_fence_after_one_that_did_is_wrong() {
    let protocol = Protocol {
        fence_mode: true,
        ..faulty(Fault::NotInVain)
    };
    is_wrong(protocol, Violation::TwoUsers);
}

#[test]
fn a_relaxed_unlock_is_wrong_where_stores_overtake() {
    let protocol = Protocol {
        overtaking: true,
        ..faulty(Fault::RelaxedUnlock)
    };
    is_wrong(protocol, Violation::TwoUsers);
}
