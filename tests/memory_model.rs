//! What the page on the memory model promises (`docs/memory-model.md`): a plain value, written before A in one party, is there after B
//! in another. Goroutines on two processors and more, and threads. Where loom has a model of the primitive, that is the sharper test.

use baton::{
    chan,
    context::Context,
    go,
    sync::{Barrier, Condvar, Mutex, Once, OnceLock, Pool, RwLock, Semaphore, WaitGroup},
};
use std::{cell::UnsafeCell, sync::Arc, thread, time::Duration};

const ROUNDS: u64 = if cfg!(debug_assertions) { 200 } else { 2_000 };
const HOUR: Duration = Duration::from_secs(3600);

/// A value that nothing but what is tested orders.
#[derive(Default)]
struct Plain(UnsafeCell<u64>);

// SAFETY: that is the question.
unsafe impl Sync for Plain {}
// SAFETY: a number.
unsafe impl Send for Plain {}

impl Plain {
    fn write(&self, value: u64) {
        // SAFETY: nobody reads before B.
        unsafe { *self.0.get() = value };
    }

    fn read(&self) -> u64 {
        // SAFETY: the writer has done A.
        unsafe { *self.0.get() }
    }
}

/// Another party writes and does A, this one does B and reads; each is a goroutine or a thread.
fn orders<A, B>(make: impl Fn() -> (A, B) + Copy + Send + Sync + 'static)
where
    A: FnOnce() + Send + 'static,
    B: FnOnce(),
{
    type Start = fn(Box<dyn FnOnce() + Send>);
    let starts: [Start; 2] = [|f| drop(go!(f)), |f| drop(thread::spawn(f))];
    let rounds = move |start: Start, rounds| {
        for n in 1..=rounds {
            let plain = Arc::new(Plain::default());
            let (a, b) = make();
            let other = Arc::clone(&plain);
            start(Box::new(move || {
                other.write(n);
                a();
            }));
            b();
            assert_eq!(plain.read(), n);
        }
    };
    baton::run(|| {
        starts
            .into_iter()
            .zip([ROUNDS, ROUNDS / 20])
            .for_each(|(start, n)| rounds(start, n))
    });
    rounds(starts[0], ROUNDS / 20);
}

#[test]
fn go_is_before_its_goroutine_and_that_before_join() {
    baton::run(|| {
        for n in 1..=ROUNDS {
            let plain = Arc::new(Plain::default());
            plain.write(n);
            let other = Arc::clone(&plain);
            let pinned = n % 2 == 0;
            let f = move || {
                assert_eq!(other.read(), n);
                other.write(n + 1);
            };
            let handle = if pinned { baton::spawn(f) } else { go!(f) };
            handle.join().unwrap();
            assert_eq!(plain.read(), n + 1);
        }
    });
}

#[test]
fn a_send_is_before_its_receive() {
    orders(|| pair(Some(0)));
    orders(|| pair(Some(1)));
    orders(|| pair(None));

    fn pair(capacity: Option<usize>) -> (impl FnOnce() + Send, impl FnOnce()) {
        let (tx, rx) = capacity.map_or_else(chan::unbounded, chan::bounded);
        (move || tx.send(()).unwrap(), move || rx.recv().unwrap())
    }
}

#[test]
fn a_receive_is_before_the_return_of_the_send_that_waited_for_it() {
    orders(|| {
        let (tx, rx) = chan::bounded(0);
        (move || rx.recv().unwrap(), move || tx.send(()).unwrap())
    });
    orders(|| {
        let (tx, rx) = chan::bounded(1);
        tx.send(()).unwrap();
        (
            move || rx.iter().for_each(drop),
            move || tx.send(()).unwrap(), // there is room once the first was received
        )
    });
}

#[test]
fn a_choice_orders_as_its_operation() {
    orders(|| {
        let ((tx, rx), (_keep, other)) = (chan::bounded(0), chan::bounded::<()>(0));
        (
            move || chan::select! { send(tx, ()) -> sent => sent.unwrap() },
            move || {
                let _keep = _keep;
                chan::select! { recv(rx) -> message => message.unwrap(), recv(other) -> _ => unreachable!() }
            },
        )
    });
}

#[test]
fn the_last_end_is_before_a_call_that_finds_it_gone() {
    orders(|| {
        let (tx, rx) = chan::bounded::<()>(0);
        (move || drop(tx), move || assert!(rx.recv().is_err()))
    });
    orders(|| {
        let (tx, rx) = chan::bounded(0);
        (move || drop(rx), move || assert!(tx.send(()).is_err()))
    });
}

#[test]
fn an_unlock_is_before_a_lock() {
    orders(|| {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let other = Arc::clone(&gate);
        (
            move || {
                *other.0.lock() = true;
                other.1.notify_one();
            },
            move || gate.1.wait_while(&mut gate.0.lock(), |open| !*open),
        )
    });
    orders(|| {
        let lock = Arc::new(RwLock::new(false));
        let other = Arc::clone(&lock);
        (
            move || *other.write() = true,
            move || {
                while !*lock.read() {
                    baton::yield_now();
                }
            },
        )
    });
}

#[test]
fn permits_that_come_back_are_before_the_acquire_that_gets_them() {
    orders(|| {
        let semaphore = Arc::new(Semaphore::new(1));
        let other = Arc::clone(&semaphore);
        (move || other.add_permits(1), move || semaphore.acquire(2).forget())
    });
}

#[test]
fn arrivals_are_before_departures() {
    orders(|| {
        let barrier = Arc::new(Barrier::new(2));
        let other = Arc::clone(&barrier);
        (move || _ = other.wait(), move || _ = barrier.wait())
    });
}

#[test]
fn what_is_done_once_is_before_those_who_find_it_done() {
    orders(|| {
        let once = Arc::new(Once::new());
        let other = Arc::clone(&once);
        (move || other.call_once(|| {}), move || once.wait())
    });
    orders(|| {
        let lock = Arc::new(OnceLock::new());
        let other = Arc::clone(&lock);
        (move || other.set(1).unwrap(), move || assert_eq!(*lock.wait(), 1))
    });
}

#[test]
fn members_that_leave_are_before_the_end_of_the_wait() {
    orders(|| {
        let group = WaitGroup::new();
        let member = group.clone();
        (move || drop(member), move || group.wait())
    });
}

#[test]
fn a_put_is_before_the_get_that_gets_the_object() {
    orders(|| {
        let pool = Arc::new(Pool::new(|| 0));
        let other = Arc::clone(&pool);
        (
            move || (0..100).for_each(|_| other.put(1)), // enough for some to be shared
            move || {
                while pool.take() == 0 {
                    baton::yield_now();
                }
            },
        )
    });
}

#[test]
fn a_cancel_is_before_a_call_that_gives_up_for_it() {
    orders(|| {
        let (ctx, cancel) = Context::background().with_cancel();
        (move || cancel.cancel(), move || assert!(ctx.sleep(HOUR).is_err()))
    });
}
