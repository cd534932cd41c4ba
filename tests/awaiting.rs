//! Goroutines, receivers and timers as futures and streams: polled by hand, in goroutines, in simulations, in tokio.

use baton::{
    JoinHandle, Runtime, block_on,
    chan::{self, Receiver},
    go,
    testing::Simulation,
    time::{Ticker, Timer},
    yield_now,
};
use futures_util::{
    FutureExt, StreamExt,
    future::{join_all, select_all},
};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

const ROUNDS: usize = if cfg!(debug_assertions) { 300 } else { 5_000 };
const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(1_000_000);

/// Counts how often it is called, and by its strong count who still has it.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Count {
    fn calls(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// Waits until it was called so often, and nobody has it any more.
    fn settle(self: &Arc<Self>, calls: usize) {
        while self.calls() < calls || Arc::strong_count(self) > 1 {
            yield_now();
        }
        assert_eq!(self.calls(), calls);
    }
}

/// Polls once with this waker.
fn poll<F: Future + Unpin>(future: &mut F, count: &Arc<Count>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(count));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap()
}

/// Everything that can be awaited, in vain.
fn in_vain(wait: impl Fn(&str, &mut (dyn FnMut(&Arc<Count>) -> bool + Send))) {
    let (keep, end) = chan::bounded::<()>(0);
    let mut handle = go!(move || end.recv().is_err());
    wait("join", &mut |count| poll(&mut handle, count).is_ready());
    drop(handle);
    drop(keep);
    let (_tx, mut rx) = chan::bounded::<u8>(0);
    wait("recv", &mut |count| poll(&mut rx.next(), count).is_ready());
    drop(rx);
    let mut after = chan::after(LONG);
    wait("after", &mut |count| poll(&mut after.next(), count).is_ready());
    drop(after);
    let mut never = chan::never::<()>();
    wait("never", &mut |count| poll(&mut never.next(), count).is_ready());
    let mut timer = Timer::after(LONG);
    wait("timer", &mut |count| poll(&mut timer, count).is_ready());
    drop(timer);
    let mut ticker = Ticker::new(LONG);
    wait("ticker", &mut |count| poll(&mut ticker.next(), count).is_ready());
}

#[test]
fn a_future_that_is_dropped_before_it_is_ready_leaves_nothing_behind() {
    let left: Mutex<Vec<Arc<Count>>> = Mutex::default();
    let body = || {
        in_vain(|name, again| {
            let (first, second) = (Arc::default(), Arc::default());
            assert!(!again(&first) && !again(&first), "{name}");
            assert!(!again(&second), "{name}");
            assert_eq!(Arc::strong_count(&first), 1, "{name}: only the last waker is kept");
            left.lock().unwrap().push(second);
        });
        for count in left.lock().unwrap().drain(..) {
            count.settle(0);
        }
    };
    body();
    baton::run(body);
    Simulation::seeds(0..20).run(body);
    Runtime::shutdown(LONG).unwrap(); // the goroutine that calls wakers included
}

#[test]
fn what_happens_wakes_once() {
    let body = || {
        let count = Arc::<Count>::default();
        let (tx, rx) = chan::bounded::<u8>(0);
        let mut handle = go!(move || rx.recv());
        assert!(poll(&mut handle, &count).is_pending());
        tx.send(5).unwrap();
        count.settle(1);
        assert!(matches!(poll(&mut handle, &count), Poll::Ready(Ok(Ok(5)))));
        assert_eq!((handle.id(), handle.is_finished()), (0, true));

        let (tx, mut rx) = chan::bounded(2);
        let mut other = rx.clone();
        assert!(poll(&mut rx.next(), &count).is_pending());
        assert!(poll(&mut other.next(), &count).is_pending());
        tx.send(1).unwrap();
        tx.send(2).unwrap();
        count.settle(3); // both, since each may be the one that looks
        assert_eq!(poll(&mut rx.next(), &count), Poll::Ready(Some(1)));
        assert_eq!(poll(&mut rx.next(), &count), Poll::Ready(Some(2)));
        assert!(poll(&mut other.next(), &count).is_pending());
        drop(tx);
        count.settle(4);
        assert_eq!(poll(&mut other.next(), &count), Poll::Ready(None));
        assert_eq!(poll(&mut other.next(), &count), Poll::Ready(None));

        let mut timer = Timer::after(LONG);
        assert!(poll(&mut timer, &count).is_pending());
        timer.reset(MS);
        assert!(poll(&mut timer, &count).is_pending());
        count.settle(5);
        assert!(poll(&mut timer, &count).is_ready());
        count.settle(5);
    };
    body();
    baton::run(body);
    Simulation::seeds(0..20).run(body);
}

#[test]
fn a_handle_may_be_awaited_in_part_and_joined() {
    let body = || {
        let count = Arc::default();
        let mut handle = go!(|| {
            yield_now();
            "done"
        });
        let early = poll(&mut handle, &count).is_ready();
        if !early {
            assert_eq!(handle.join().unwrap(), "done");
        }
        let failed = block_on(go!(|| panic!("on purpose"))).unwrap_err();
        assert_eq!(failed.message(), Some("on purpose"));
        let text = String::from("borrowed");
        let len = baton::scope(|s| block_on(s.spawn(|| text.len())));
        assert_eq!(len.unwrap(), 8);
    };
    body();
    baton::run(body);
    Simulation::seeds(0..50).run(body);
}

/// Polls, drops and ends of goroutines race; each result is dropped once, and no waker is kept.
#[test]
fn ends_and_drops_race_and_nothing_is_lost() {
    let body = |rounds| {
        let (result, count) = (Arc::new(()), Arc::<Count>::default());
        for round in 0..rounds {
            let theirs = Arc::clone(&result);
            let mut handle: JoinHandle<Arc<()>> = go!(move || {
                (0..round % 3).for_each(|_| yield_now());
                theirs
            });
            for _ in 0..round % 4 {
                if poll(&mut handle, &count).is_ready() {
                    break;
                }
                (0..round % 5).for_each(|_| yield_now());
            }
        }
        while Arc::strong_count(&result) > 1 || Arc::strong_count(&count) > 1 {
            yield_now();
        }
    };
    baton::run(|| body(ROUNDS));
    body(ROUNDS / 10);
    Simulation::seeds(0..50).run(|| body(20));
}

/// Streams in tokio, goroutines and threads receive from one channel, from goroutines and threads; some give up midway.
#[test]
fn streams_and_receivers_get_every_message_once() {
    let tokio = tokio();
    for capacity in [Some(0), Some(3), None] {
        let (tx, rx) = capacity.map_or_else(chan::unbounded::<usize>, chan::bounded);
        let (done, sums) = chan::unbounded();
        for _ in 0..3 {
            let (mut rx, done) = (rx.clone(), done.clone());
            tokio.spawn(async move {
                let mut sum = 0;
                loop {
                    let mut given_up = rx.clone(); // waits, and is dropped
                    if let Some(Some(n)) = given_up.next().now_or_never() {
                        sum += n;
                    }
                    match rx.next().await {
                        Some(n) => sum += n,
                        None => break,
                    }
                }
                done.send(sum).unwrap();
            });
        }
        let theirs = (rx.clone(), done.clone());
        go!(move || theirs.1.send(theirs.0.iter().sum()).unwrap());
        let theirs = (rx.clone(), done.clone());
        go!(move || theirs
            .1
            .send(block_on(theirs.0.fold(0, async |sum, n| sum + n)))
            .unwrap());
        drop((rx, done));
        let senders: Vec<_> = (0..2).map(|_| tx.clone()).collect();
        for (i, tx) in senders.into_iter().enumerate() {
            let send = move || (0..ROUNDS).for_each(|n| tx.send(n).unwrap());
            if i == 0 {
                go!(send);
            } else {
                thread::spawn(send);
            }
        }
        drop(tx);
        assert_eq!(sums.iter().sum::<usize>(), ROUNDS * (ROUNDS - 1), "{capacity:?}");
    }
}

/// A rendezvous with one that selects, whose offer a stream must see.
#[test]
fn a_stream_meets_those_who_select() {
    Simulation::seeds(0..200).run(|| {
        let (tx, rx) = chan::bounded(0);
        let stream = go!(move || block_on(rx.collect::<Vec<u8>>()));
        let (_never, other) = chan::bounded::<()>(0);
        baton::select! {
            send(tx, 7) -> sent => sent.unwrap(),
            recv(other) -> _ => unreachable!(),
        }
        drop(tx);
        assert_eq!(stream.join().unwrap(), [7]);
    });
}

#[test]
fn goroutines_and_timers_are_awaited_in_tokio() {
    let tokio = tokio();
    let start = Instant::now();
    tokio.block_on(async {
        let handles = (0..50).map(|i| go!(move || i));
        let sum: i32 = join_all(handles).await.into_iter().map(Result::unwrap).sum();
        assert_eq!(sum, 49 * 50 / 2);
        Timer::after(MS).await;
        assert_eq!(Ticker::new(MS).take(2).collect::<Vec<_>>().await.len(), 2);
        assert_eq!(chan::tick(MS).take(2).collect::<Vec<_>>().await.len(), 2);
        let timers = (0..20u32).rev().map(|i| Timer::after(i * LONG / 19));
        assert_eq!(select_all(timers).await.1, 19, "the shortest was first");
        let slow: Receiver<()> = chan::never();
        let mut slow = slow.into_future();
        assert!((&mut slow).now_or_never().is_none());
    });
    assert!(start.elapsed() >= 5 * MS);
}

/// Wakers are code of the program's, which may use anything: here the channel whose message called it.
#[test]
fn a_waker_may_use_the_channel_that_woke_it() {
    struct Uses(Mutex<Option<(chan::Sender<u8>, Receiver<u8>)>>, AtomicBool);
    impl Wake for Uses {
        fn wake(self: Arc<Self>) {
            let ends = self.0.lock().unwrap().take();
            assert_eq!(ends.unwrap().1.recv(), Ok(5));
            self.1.store(true, SeqCst);
            panic!("which harms nobody, on purpose");
        }
    }
    baton::run(|| {
        let (tx, mut rx) = chan::bounded(1);
        let uses = Arc::new(Uses(Mutex::new(Some((tx.clone(), rx.clone()))), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&uses));
        assert!(rx.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
        tx.send(5).unwrap();
        while !uses.1.load(SeqCst) {
            yield_now();
        }
        block_on(Timer::after(MS)); // wakers are called as before
    });
}

#[test]
fn timers_of_futures_keep_simulated_time() {
    Simulation::seeds(0..50).run(|| {
        let sleepers = (0..20u32).map(|i| {
            let timer = Timer::after(i * 7 % 20 * MS);
            async move {
                timer.await;
                (i * 7 % 20 * MS, Simulation::elapsed())
            }
        });
        for (due, at) in block_on(join_all(sleepers)) {
            assert!((due..due + MS).contains(&at), "{at:?} instead of {due:?}");
        }
        block_on(Timer::after(LONG));
        assert!(Simulation::elapsed() >= LONG);
    });
}

/// Also with the last thing that it does.
#[test]
fn a_simulation_wakes_tasks_outside_of_it() {
    let (tx, mut rx) = chan::unbounded();
    let count = Arc::new(Count::default());
    assert!(poll(&mut rx.next(), &count).is_pending());
    Simulation::seed(1).run(move || tx.send(1).unwrap());
    count.settle(1);
    assert_eq!(poll(&mut rx.next(), &count), Poll::Ready(Some(1)));
}
