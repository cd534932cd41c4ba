//! Explores waiting on channels exhaustively: rendezvous and queues, deadlines, selecting, promises (`runtime/src/chan`,
//! `park.rs`, `ticket.rs`).
//!
//! ```text
//!   a party      one channel: its section ─▶ done, or a node and a park      several: locks, one after the other ─▶ a promise, or
//!                                                                           nodes and a park ─▶ locks again ─▶ completion
//!   its g0       gives the locks back, one after the other; then sets the timer
//!   a timer      claims ─▶ wakes
//! ```
//!
//! A step is what happens under a lock, a claim, a wake, or one lock taken or given back: all that others can come between.
//! Sections under one lock are one step, since nobody else can look inside.
//!
//! | violation | meaning |
//! |---|---|
//! | [`Violation::Gone`] | somebody touched the frame of a party that had left it |
//! | [`Violation::WokenTwice`] | a party was woken that was not parked, or had been woken |
//! | [`Violation::Stuck`] | nothing can happen any more, and a party waits |
//! | [`Violation::Count`] | a message was lost or doubled, or lies in a rendezvous |
//! | [`Violation::Exchanged`] | a party at a rendezvous got the message of another pair |
//! | [`Violation::Promised`] | more messages or places of a queue were promised than there are, so that a completion may wait |
//! | [`Violation::Disorder`] | a party got the messages of another in another order than they were sent in |
//!
//! Each protocol that leaves one thing out must be found wrong, which shows that the checks bite.

#[path = "select/model.rs"]
mod model;

use model::{
    Dir::{Recv, Send},
    Fault, Model, Op, Violation, one, select, timed,
};

/// Places of the largest channel; fewer where the full number would take long.
const MOST: usize = if cfg!(debug_assertions) { 1 } else { 2 };

const A: usize = 0;
const B: usize = 1;

/// Two that offer to send and to receive, crosswise.
const CROSSWISE: &[&[Op]] = &[&[select(&[(A, Send), (B, Recv)])], &[select(&[(B, Send), (A, Recv)])]];
/// Deadlines on both sides, twice.
const DEADLINES: &[&[Op]] = &[
    &[timed(one(&[(A, Send)])), timed(one(&[(A, Send)]))],
    &[timed(one(&[(A, Recv)])), timed(one(&[(A, Recv)]))],
];
/// One that selects from two, with a deadline, and two that send with one.
const FAN_IN: &[&[Op]] = &[
    &[
        timed(select(&[(A, Recv), (B, Recv)])),
        timed(select(&[(B, Recv), (A, Recv)])),
    ],
    &[timed(one(&[(A, Send)]))],
    &[timed(one(&[(B, Send)]))],
];
/// Those who select and those who do not, on both ends of one channel.
const MIXED: &[&[Op]] = &[
    &[select(&[(A, Send)])],
    &[one(&[(A, Send)])],
    &[select(&[(A, Recv), (B, Recv)])],
    &[one(&[(A, Recv)])],
];
/// Several promises at once, where some wait for a place or a message.
const PROMISES: &[&[Op]] = &[
    &[select(&[(A, Send)]), select(&[(A, Send)])],
    &[one(&[(A, Send)])],
    &[select(&[(A, Recv)]), one(&[(A, Recv)])],
    &[one(&[(A, Recv)])],
];
/// One that waits with a deadline on two lists, and is found on both.
const TWICE: &[&[Op]] = &[
    &[timed(select(&[(A, Send), (B, Send)])), timed(one(&[(A, Send)]))],
    &[timed(select(&[(A, Recv), (B, Recv)]))],
    &[timed(one(&[(B, Recv)]))],
];

/// One that waits without a deadline after it has waited with one.
const LATER: &[&[Op]] = &[
    &[timed(one(&[(B, Recv)])), select(&[(A, Recv), (A, Recv)])],
    &[timed(one(&[(B, Send)])), one(&[(A, Send)])],
];

/// Four that offer and ask for the same thing.
const MEETING: &[&[Op]] = &[BOTH_WAYS; 4];
const BOTH_WAYS: &[Op] = &[select(&[(A, Send), (A, Recv)])];
/// Three, one of which comes back while its message still lies there.
const COMES_BACK: &[&[Op]] = &[
    &[timed(select(&[(A, Send)])), timed(select(&[(A, Recv)]))],
    &[timed(select(&[(A, Recv)]))],
    &[timed(select(&[(A, Send)]))],
];
/// One that waits and then selects, while another has been promised what lies in the queue.
const PASSING: &[&[Op]] = &[
    &[one(&[(A, Send)]), one(&[(A, Send)]), one(&[(A, Send)])],
    &[select(&[(A, Recv)])],
    &[one(&[(A, Recv)]), select(&[(A, Recv)])],
];

const ALL: &[&[&[Op]]] = &[
    CROSSWISE, DEADLINES, FAN_IN, MIXED, PROMISES, TWICE, LATER, MEETING, COMES_BACK,
];

/// All scripts at each capacity, and one that needs two places.
fn models(fault: Option<Fault>) -> impl Iterator<Item = Model> {
    let small = (0..=MOST).flat_map(|capacity| ALL.iter().map(move |&scripts| (capacity, scripts)));
    small.chain([(2, PASSING)]).map(move |(capacity, scripts)| Model {
        capacity,
        scripts,
        fault,
    })
}

#[test]
fn the_protocol_is_right() {
    for (n, model) in models(None).enumerate() {
        let (capacity, found) = (model.capacity, model.explore());
        assert!(found.is_ok(), "capacity {capacity}, model {n}: {found:?}");
        println!("capacity {capacity}, model {n}: {} states", found.unwrap());
    }
}

/// Some script must find it, in one of these ways.
fn is_wrong(fault: Fault, expected: &[Violation]) {
    let found = models(Some(fault)).find_map(|model| model.explore().err());
    let violation = found.expect("the checks do not bite");
    assert!(expected.contains(&violation), "{violation:?}");
}

#[test]
fn without_claims_it_is_wrong() {
    is_wrong(
        Fault::Claim,
        &[
            Violation::WokenTwice,
            Violation::Gone,
            Violation::Count,
            Violation::Stuck,
        ],
    );
}

#[test]
fn timers_without_numbers_are_wrong() {
    is_wrong(Fault::Number, &[Violation::Stuck]);
}

#[test]
fn leaving_a_node_behind_is_wrong() {
    is_wrong(Fault::Unlink, &[Violation::Gone]);
}

#[test]
fn leaving_before_the_last_unlock_is_wrong() {
    is_wrong(Fault::Relock, &[Violation::Gone]);
}

#[test]
fn completing_without_settling_is_wrong() {
    is_wrong(Fault::Settle, &[Violation::Stuck]);
}

#[test]
fn locks_without_an_order_are_wrong() {
    is_wrong(Fault::Order, &[Violation::Stuck]);
}

#[test]
fn counting_promises_at_a_rendezvous_is_wrong() {
    is_wrong(Fault::Counts, &[Violation::Exchanged]);
}

#[test]
fn pairing_two_beside_a_queue_is_wrong() {
    is_wrong(Fault::Partner, &[Violation::Promised]);
}

#[test]
fn passing_the_queue_is_wrong() {
    is_wrong(Fault::Past, &[Violation::Disorder]);
}
