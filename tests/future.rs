//! Futures in goroutines: own ones, those of other threads, tokio's.

use baton::{block_on, go};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Mutex, mpsc, oneshot},
};

const ROUNDS: usize = if cfg!(debug_assertions) { 200 } else { 2_000 };

fn tokio_runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap()
}

/// Polls with the handle entered, on whatever thread that is.
async fn entered<F: Future>(handle: Handle, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _entered = handle.enter();
        future.as_mut().poll(cx)
    })
    .await
}

#[test]
fn a_waker_wakes_from_any_thread_and_at_any_time() {
    let body = || {
        for round in 0..ROUNDS / 10 {
            let mut waker: Option<thread::JoinHandle<Waker>> = None;
            let done = Arc::new(AtomicUsize::new(0));
            let value = block_on(poll_fn(|cx| {
                if done.load(SeqCst) == 1 {
                    return Poll::Ready(round);
                }
                if waker.is_none() {
                    let (done, mine) = (Arc::clone(&done), cx.waker().clone());
                    waker = Some(thread::spawn(move || {
                        mine.wake_by_ref(); // too early, which must not matter
                        done.store(1, SeqCst);
                        mine.wake_by_ref();
                        mine
                    }));
                }
                Poll::Pending
            }));
            assert_eq!(value, round);
            waker.unwrap().join().unwrap().wake(); // too late, which must not matter either
        }
    };
    baton::run(body);
    body();
}

#[test]
fn only_the_goroutine_waits() {
    baton::run(|| {
        let (tx, rx) = oneshot::channel();
        let waiting: Vec<_> = (0..50).map(|i| go!(move || block_on(async move { i }))).collect();
        let last = go!(move || block_on(rx).unwrap());
        let sum: usize = waiting.into_iter().map(|one| one.join().unwrap()).sum();
        tx.send(sum).unwrap();
        assert_eq!(last.join().unwrap(), 49 * 50 / 2);
    });
}

#[test]
fn futures_of_tokio_run_in_goroutines() {
    let tokio = tokio_runtime();
    let handle = tokio.handle().clone();
    baton::run(move || {
        let (tx, mut rx) = mpsc::channel(4);
        let total = Arc::new(Mutex::new(0));
        // Tasks of tokio send, goroutines send, one goroutine receives.
        for _ in 0..2 {
            let tx = tx.clone();
            handle.spawn(async move {
                for i in 0..ROUNDS {
                    tx.send(i).await.unwrap();
                }
            });
        }
        for _ in 0..2 {
            let (tx, total) = (tx.clone(), Arc::clone(&total));
            go!(move || {
                for i in 0..ROUNDS {
                    block_on(tx.send(i)).unwrap();
                    *block_on(total.lock()) += i;
                }
            });
        }
        drop(tx);
        let receiver = go!(move || {
            let mut sum = 0;
            while let Some(i) = block_on(rx.recv()) {
                sum += i;
            }
            sum
        });
        let each = ROUNDS * (ROUNDS - 1) / 2;
        assert_eq!(receiver.join().unwrap(), 4 * each);
        assert!(*block_on(total.lock()) <= 2 * each);
        let slept = entered(handle.clone(), async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            7
        });
        assert_eq!(block_on(slept), 7);
        let spawned = handle.spawn(async { tokio::time::timeout(Duration::from_secs(1000), async { 8 }).await });
        assert_eq!(block_on(spawned).unwrap(), Ok(8));
    });
}
