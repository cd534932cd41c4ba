//! Futures in goroutines: `block_on`.
//!
//! ```text
//!   block_on ── poll ── Ready → done
//!                    └─ Pending → parked until a waker wakes: the goroutine, or the plain thread
//! ```

use crate::{
    lock::Mutex,
    park::{Event, WaitReason, Waiter},
    sched::checkpoint,
    sync::{Until, park},
    waitlist::{Node, WaitList},
};
use std::{
    future::Future,
    pin::pin,
    ptr,
    sync::Arc,
    task::{Context, Poll, Wake},
};

/// Runs a future to its end and gives what it yields. Only the calling goroutine (or, in a plain thread, the thread) waits.
///
/// The future's waker may be used on any thread, at any time.
///
/// Futures of tokio's timers and sockets ask the thread for its tokio runtime, which is there while a handle is entered. The
/// goroutine may go on on another thread after each poll, so enter the handle around each poll, as below; or spawn the future
/// there, `handle.spawn(future)`, and wait here for tokio's join handle, which needs nothing.
///
/// ```
/// use std::{future::{Future, poll_fn}, pin::pin, time::Duration};
/// use tokio::runtime::Handle;
///
/// async fn on_tokio<F: Future>(handle: Handle, future: F) -> F::Output {
///     let mut future = pin!(future);
///     poll_fn(|cx| {
///         let _entered = handle.enter();
///         future.as_mut().poll(cx)
///     })
///     .await
/// }
///
/// let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
/// let handle = tokio.handle().clone();
/// let slept = async { tokio::time::sleep(Duration::from_millis(1)).await };
/// baton::run(|| baton::block_on(on_tokio(handle, slept)));
/// ```
///
/// ```
/// use std::{future::poll_fn, task::Poll};
///
/// let mut polls = 0;
/// let future = poll_fn(|cx| {
///     polls += 1;
///     cx.waker().wake_by_ref();
///     if polls < 3 { Poll::Pending } else { Poll::Ready(polls) }
/// });
/// assert_eq!(baton::run(|| baton::block_on(future)), 3);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    run(future, Until::FOREVER).expect("without an end it does not give up")
}

/// Runs a future until then; `None` if it is not done by then.
pub(crate) fn run<F: Future>(future: F, until: Until<'_>) -> Option<F::Output> {
    checkpoint();
    let mut future = pin!(future);
    let signal = Arc::new(Signal(Mutex::new(State {
        woken: false,
        waiting: WaitList::new(),
    })));
    let waker = Arc::clone(&signal).into();
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        if until.has_passed() || !signal.wait(until) {
            return None;
        }
    }
}

/// What a waker leaves for the party that runs the future.
struct Signal(Mutex<State>);

struct State {
    /// Somebody has woken since the last wait.
    woken: bool,
    waiting: WaitList,
}

impl Signal {
    /// Waits for a waker (`true`), or until then.
    fn wait(&self, until: Until<'_>) -> bool {
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::null_mut());
        let mut state = self.0.lock();
        if !state.woken {
            state.waiting.push(&node);
            let commit = move || {
                drop(state);
                true
            };
            if !park(&waiter, WaitReason::Future, until, commit) {
                self.0.lock().waiting.remove(&node);
                return false;
            }
            state = self.0.lock();
        }
        state.woken = false;
        true
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.0.lock();
        state.woken = true;
        let party = state.waiting.pop_claimed(Event::Done);
        drop(state);
        if let Some(party) = party {
            party.wake();
        }
    }
}
