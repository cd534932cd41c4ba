//! Tickets in a loom model: timers that are cancelled by whoever is faster, and those that were not needed and stay.
//!
//! ```text
//! RUSTFLAGS="--cfg baton_loom" CARGO_TARGET_DIR=target/loom cargo test -p baton-alloc --release --test ticket_loom
//! ```
//!
//! A party waits several times, with the same word. A timer of an earlier wait is in some heap still, and fires late: it must not
//! end a later wait. Of the peer and the timer of one wait one wakes, and the party sees what that one left.
#![cfg(baton_loom)]
#![allow(missing_docs, unreachable_pub)]

#[allow(dead_code, reason = "the runtime uses more of it than the models")]
#[path = "../../runtime/src/ticket.rs"]
mod ticket;

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};
use ticket::Ticket;

/// How somebody claims.
#[derive(Clone, Copy)]
enum Claims {
    Right,
    /// Whatever wait it is.
    AnyWait,
    /// By a look and then a store.
    InTwoSteps,
}

impl Claims {
    fn claim(self, word: &AtomicU64, number: u64) -> bool {
        match self {
            Self::Right => ticket::claim(word, number),
            Self::AnyWait => {
                let now = word.load(Relaxed);
                now % 2 == 1 && ticket::claim(word, now)
            }
            Self::InTwoSteps => {
                let good = word.load(Relaxed) == number;
                if good {
                    word.store(number + 1, Relaxed);
                }
                good
            }
        }
    }
}

/// A party, as those see it who wake it.
struct Party {
    word: AtomicU64,
    /// Of which wait the wake was; the claimer's until he wakes.
    left: UnsafeCell<u64>,
    wakes: Mutex<Vec<u64>>,
    woken: Condvar,
}

// SAFETY: loom checks it.
unsafe impl Sync for Party {}

impl Party {
    fn end(&self, number: u64, claims: Claims) {
        if claims.claim(&self.word, number) {
            // SAFETY: claimed; loom checks it.
            self.left.with_mut(|left| unsafe { *left = number });
            self.wakes.lock().unwrap().push(number);
            self.woken.notify_one();
        }
    }
}

/// Two waits in a row: a peer and a timer for each. The first timer may fire during the second wait.
fn waits(claims: Claims) {
    let party = Arc::new(Party {
        word: AtomicU64::new(0),
        left: UnsafeCell::new(0),
        wakes: Mutex::new(Vec::new()),
        woken: Condvar::new(),
    });
    let mut others = Vec::new();
    for wait in 0..2 {
        let ticket = Ticket::open(&party.word);
        let number = ticket.number();
        let timer = Arc::clone(&party);
        others.push(thread::spawn(move || timer.end(number, claims)));
        if wait == 0 {
            // The peer, which is this very thread: the timer of the first wait is stale unless it was faster.
            party.end(number, Claims::Right);
        }
        let mut wakes = party.wakes.lock().unwrap();
        while wakes.len() <= wait {
            wakes = party.woken.wait(wakes).unwrap();
        }
        drop(wakes);
        // SAFETY: woken; loom checks it.
        let left = party.left.with(|left| unsafe { *left });
        assert_eq!(left, number, "ended by somebody of an earlier wait");
    }
    others.into_iter().for_each(|other| other.join().unwrap());
    assert_eq!(*party.wakes.lock().unwrap(), [1, 3], "one wake for each wait");
}

fn explore(claims: Claims) {
    loom::model(move || waits(claims));
}

#[test]
fn a_wait_is_ended_once_and_by_its_own() {
    explore(Claims::Right);
}

#[test]
#[should_panic]
fn timers_without_numbers_are_wrong() {
    explore(Claims::AnyWait);
}

#[test]
#[should_panic]
fn claims_in_two_steps_are_wrong() {
    explore(Claims::InTwoSteps);
}
