//! A channel of each flavor in a loom model: the runtime's own files, on parties and locks that are loom's. Selecting is explored by
//! `tests/explore/select.rs`.
//!
//! ```text
//! RUSTFLAGS="--cfg baton_loom" CARGO_TARGET_DIR=target/loom cargo test -p baton-alloc --release --test chan_loom
//! ```
//!
//! Made wrong by hand, each of these was found:
//!
//! | left out in `hchan.rs` | found by |
//! |---|---|
//! | who timed out takes its node off | `deadlines_on_both_sides` (it crashes) |
//! | a receive lets a waiting sender in | `two_senders_and_a_place` |
//! | a send looks for a waiting receiver first | `a_rendezvous`, `no_limit` |
//! | the last sender's drop wakes those who wait | `the_end_of_the_senders` |
#![cfg(baton_loom)]
#![allow(missing_docs, unreachable_pub)]

mod parties;

pub(crate) use parties::{Message, explore, fault, lock, notices_lost_claims, park, sched, ticket, time, waitlist};

#[allow(dead_code, reason = "the runtime uses more of it than the models")]
#[path = "../../runtime/src/chan"]
mod chan {
    #[path = "error.rs"]
    pub(crate) mod error;
    #[path = "hchan.rs"]
    mod hchan;
    #[path = "pairs.rs"]
    mod pairs;
    #[path = "promise.rs"]
    mod promise;

    mod models {
        use super::hchan::Hchan;
        use crate::{Message, explore, notices_lost_claims, time::heap::NEVER};
        use loom::{sync::Arc, thread};

        /// A deadline that may pass at any moment.
        const SOON: u64 = 1;

        /// `senders` send a message each, `receivers` receive as many as there are, or as come until the deadline. Nothing is lost
        /// and nothing comes twice.
        fn exchange(capacity: Option<usize>, senders: usize, receivers: &[usize], deadline: u64) {
            let chan = Arc::new(Hchan::<Message>::new(capacity));
            let receive = move |chan: &Hchan<Message>, most| {
                let received = (0..most).filter_map(move |_| chan.recv(deadline).ok());
                received.map(|message| 1 << message.read()).sum::<usize>()
            };
            let sending: Vec<_> = (0..senders)
                .map(|n| {
                    let chan = Arc::clone(&chan);
                    thread::spawn(move || match chan.send(Message::new(n), deadline) {
                        Ok(()) => 1 << n,
                        Err(error) => {
                            assert_eq!(error.into_inner().read(), n, "what was not sent comes back");
                            0
                        }
                    })
                })
                .collect();
            let (&here, elsewhere) = receivers.split_first().unwrap();
            let receiving: Vec<_> = elsewhere
                .iter()
                .map(|&most| {
                    let chan = Arc::clone(&chan);
                    thread::spawn(move || receive(&chan, most))
                })
                .collect();
            let mut received = receive(&chan, here);
            received += receiving.into_iter().map(|r| r.join().unwrap()).sum::<usize>();
            let sent: usize = sending.into_iter().map(|s| s.join().unwrap()).sum();
            while let Ok(message) = chan.try_recv() {
                received += 1 << message.read();
            }
            assert_eq!(sent, received);
        }

        #[test]
        fn a_rendezvous() {
            explore(3, || exchange(Some(0), 2, &[1, 1], NEVER));
        }

        #[test]
        fn two_senders_and_a_place() {
            explore(3, || exchange(Some(1), 2, &[1], NEVER));
        }

        #[test]
        fn no_limit() {
            explore(3, || exchange(None, 2, &[1, 1], NEVER));
        }

        #[test]
        fn deadlines_on_both_sides() {
            for capacity in [Some(0), Some(1), None] {
                explore(2, move || exchange(capacity, 1, &[2], SOON));
            }
        }

        #[test]
        fn a_claim_that_others_ignore_is_noticed() {
            notices_lost_claims(|| explore(2, || exchange(Some(0), 1, &[1], SOON)));
        }

        /// With each flavor: `sends` with its capacity in a thread of its own, `receives` here.
        fn ends(sends: fn(&Hchan<Message>, Option<usize>), receives: fn(&Hchan<Message>)) {
            for capacity in [Some(0), Some(1), None] {
                explore(3, move || {
                    let chan = Arc::new(Hchan::<Message>::new(capacity));
                    let senders = Arc::clone(&chan);
                    let sender = thread::spawn(move || sends(&senders, capacity));
                    receives(&chan);
                    sender.join().unwrap();
                });
            }
        }

        /// The last sender goes while a receiver waits, or is about to.
        #[test]
        fn the_end_of_the_senders() {
            let sends = |chan: &Hchan<Message>, _| {
                assert!(chan.send(Message::new(7), NEVER).is_ok());
                chan.remove_sender();
            };
            ends(sends, |chan| {
                assert_eq!(chan.recv(NEVER).map(Message::read), Ok(7));
                assert!(chan.recv(NEVER).is_err());
            });
        }

        /// The last receiver goes while a sender waits, or is about to: its message comes back, or is dropped with the queue.
        #[test]
        fn the_end_of_the_receivers() {
            let sends = |chan: &Hchan<Message>, capacity| {
                let sent = (0..2).map(|n| chan.send(Message::new(n), NEVER));
                let back: Vec<_> = sent.filter_map(Result::err).map(|e| e.into_inner().read()).collect();
                assert!(back == [] || back == [1] || back == [0, 1]);
                assert!(capacity != Some(0) || back == [0, 1], "nobody has taken any");
            };
            ends(sends, |chan| chan.remove_receiver());
        }
    }
}
