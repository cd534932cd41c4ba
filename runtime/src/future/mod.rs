//! Futures and goroutines, in both directions.
//!
//! ```text
//!   a future in a goroutine      block_on ── poll ── Ready → done
//!                                                 └─ Pending → parked until a waker wakes: the goroutine, or the plain thread
//!   Baton in an executor         JoinHandle, Timer: Future   Receiver, Ticker: Stream
//!                                poll ── Pending → a `Task` where a parked party's waiter would be ── wake ─▶ driver ─▶ waker
//! ```
//!
//! | file | |
//! |---|---|
//! | here | running futures |
//! | `task` | a future's task as a party that waits |
//! | `driver` | the goroutine that calls wakers, when they are woken or their time has come |
//! | `g/join`, `chan/stream`, `time/timer` | what can be awaited |

pub(crate) mod driver;
pub(crate) mod task;

use crate::{
    g::{Handle, Payload},
    lock::Mutex,
    park::{Event, WaitReason, Waiter},
    pinned::lock_os_thread,
    sched::checkpoint,
    sync::{Until, park},
    waitlist::{Node, WaitList},
};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    ptr,
    sync::Arc,
    task::{Context, Poll, Wake},
};

/// Runs a future to its end and gives what it yields. Only the calling goroutine (or, in a plain thread, the thread) waits.
///
/// The future's waker may be used on any thread, at any time.
///
/// Futures of tokio's timers and sockets ask the thread for its tokio runtime: see [`block_on_within`].
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
    run(future, Until::FOREVER, WaitReason::Future).expect("without an end it does not give up")
}

/// As [`block_on`], with what `enter` gives held during each poll and while the future is dropped: for futures that ask their thread
/// for a runtime, as those of tokio and of crates that are built on it do.
///
/// The goroutine stays on its thread during a poll, so what is entered is left on the same thread; between polls it may go on
/// on another one.
///
/// ```
/// use std::time::Duration;
///
/// let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
/// let handle = tokio.handle();
/// let slept = async {
///     tokio::time::sleep(Duration::from_millis(1)).await;
///     tokio::spawn(async { 7 }).await.unwrap()
/// };
/// assert_eq!(baton::run(|| baton::block_on_within(|| handle.enter(), slept)), 7);
/// ```
pub fn block_on_within<F: Future, E>(mut enter: impl FnMut() -> E, future: F) -> F::Output {
    let future = Some(future);
    let mut future = pin!(future);
    let polled = poll_fn(|cx| {
        let _stays = lock_os_thread();
        let _entered = enter();
        let running = future
            .as_mut()
            .as_pin_mut()
            .expect("a future that is done is not polled");
        let polled = running.poll(cx);
        if polled.is_ready() {
            future.set(None);
        }
        polled
    });
    block_on(polled)
}

/// The end of a goroutine, as a future.
pub(crate) struct Joining<T>(pub(crate) Handle<T>);

impl<T> Unpin for Joining<T> {}

impl<T> Future for Joining<T> {
    type Output = Result<T, Payload>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// Runs a future until then; `None` if it is not done by then.
pub(crate) fn run<F: Future>(future: F, until: Until<'_>, reason: WaitReason) -> Option<F::Output> {
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
        if until.has_passed() || !signal.wait(until, reason) {
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
    fn wait(&self, until: Until<'_>, reason: WaitReason) -> bool {
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::null_mut());
        let mut state = self.0.lock();
        if !state.woken {
            state.waiting.push(&node);
            let commit = move || {
                drop(state);
                true
            };
            if !park(&waiter, reason, until, commit) {
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
