//! Futures in goroutines: own ones, those of other threads, tokio's.

use baton::{block_on, block_on_within, go};
use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{Mutex, mpsc, oneshot},
};

const ROUNDS: usize = if cfg!(debug_assertions) { 200 } else { 2_000 };

fn tokio_runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
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
        let slept = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            7
        };
        assert_eq!(block_on_within(|| handle.enter(), slept), 7);
        let spawned = handle.spawn(async { tokio::time::timeout(Duration::from_secs(1000), async { 8 }).await });
        assert_eq!(block_on(spawned).unwrap(), Ok(8));
    });
}

/// Sockets of tokio in goroutines, which go on on any thread, with tokio's runtime entered for each poll.
#[test]
fn sockets_of_tokio_work_in_goroutines() {
    const CLIENTS: usize = 20;
    let tokio = tokio_runtime();
    let handle = tokio.handle().clone();
    baton::run(move || {
        let enter = || handle.enter();
        let listener = block_on_within(enter, TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let theirs = handle.clone();
        let server = go!(move || {
            for _ in 0..CLIENTS {
                let (mut stream, _) = block_on_within(|| theirs.enter(), listener.accept()).unwrap();
                let theirs = theirs.clone();
                go!(move || block_on_within(|| theirs.enter(), async move {
                    let mut buffer = [0; 64];
                    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                        tokio::time::sleep(Duration::from_micros(100)).await;
                        stream.write_all(&buffer[..n]).await.unwrap();
                    }
                }));
            }
        });
        let clients: Vec<_> = (0..CLIENTS as u8)
            .map(|i| {
                let handle = handle.clone();
                go!(move || block_on_within(|| handle.enter(), async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    for round in 0..5 {
                        stream.write_all(&[i, round]).await.unwrap();
                        let mut back = [0; 2];
                        stream.read_exact(&mut back).await.unwrap();
                        assert_eq!(back, [i, round]);
                    }
                }))
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        server.join().unwrap();
    });
}

/// What needs a runtime finds it wherever the goroutine goes on; and it is dropped there too.
#[test]
fn what_is_entered_is_there_for_polls_and_drops() {
    struct Needs;
    impl Drop for Needs {
        fn drop(&mut self) {
            tokio::runtime::Handle::current();
        }
    }
    let tokio = tokio_runtime();
    let handle = tokio.handle().clone();
    baton::run(move || {
        let entered = AtomicUsize::new(0);
        let future = async {
            let _needs = Needs;
            for _ in 0..ROUNDS {
                tokio::runtime::Handle::current();
                tokio::task::yield_now().await;
            }
        };
        let enter = || {
            entered.fetch_add(1, SeqCst);
            handle.enter()
        };
        block_on_within(enter, future);
        assert!(entered.load(SeqCst) >= ROUNDS);
        assert!(tokio::runtime::Handle::try_current().is_err(), "it is left again");
    });
}
