//! Timers, tickers and timeouts, out of sleeping.

use super::{deadline_at, deadline_in, heap::NEVER, now, sleep_till};
use crate::{
    chan::{self, Receiver},
    context::{Cancel, Context},
    future::driver::Alarm,
    spawn_migrating,
};
use futures_core::Stream;
use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire},
    },
    task::{self, Poll},
    time::{Duration, Instant},
};

/// A moment to wait for, which can be put off.
///
/// It costs nothing while nobody waits.
///
/// ```
/// use baton::time::Timer;
/// use std::time::Duration;
///
/// baton::run(|| {
///     let mut timer = Timer::after(Duration::from_secs(3600));
///     timer.reset(Duration::from_millis(1));
///     timer.wait();
///     assert!(timer.is_due());
/// });
/// ```
#[derive(Debug)]
pub struct Timer {
    /// On the clock of this module.
    due: u64,
    /// Of a future that was polled in vain.
    alarm: Option<Alarm>,
}

impl Timer {
    /// Due when `duration` has passed.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self::due_at(deadline_in(duration))
    }

    /// Due at `when`.
    #[must_use]
    pub fn at(when: Instant) -> Self {
        Self::due_at(deadline_at(when))
    }

    fn due_at(due: u64) -> Self {
        Self { due, alarm: None }
    }

    /// Makes it due when `duration` has passed from now on.
    ///
    /// A task that has polled it in vain, and was not woken since, is woken then.
    pub fn reset(&mut self, duration: Duration) {
        self.due = deadline_in(duration);
        if let Some(alarm) = &mut self.alarm {
            alarm.put_off(self.due);
        }
    }

    /// Whether it is due.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due <= now()
    }

    /// How long until then.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        Duration::from_nanos(self.due.saturating_sub(now()))
    }

    /// Waits until it is due.
    pub fn wait(&self) {
        sleep_till(self.due);
    }

    /// A channel with a message as soon as it is due, for `select!`. Resetting the timer later does not change it.
    #[must_use]
    pub fn channel(&self) -> Receiver<Instant> {
        chan::after(self.time_left())
    }
}

/// Ready when it is due; in [`block_on`](crate::block_on) or in any executor. A timer that was reset is due anew.
///
/// ```
/// use baton::time::Timer;
/// use std::time::Duration;
///
/// let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap(); // no timers of its own
/// tokio.block_on(Timer::after(Duration::from_millis(1)));
/// ```
impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.is_due() {
            self.alarm = None;
            return Poll::Ready(());
        }
        let due = self.due;
        Alarm::hold(&mut self.alarm, due, cx.waker());
        Poll::Pending
    }
}

impl Clone for Timer {
    fn clone(&self) -> Self {
        Self::due_at(self.due)
    }
}

/// A moment that comes again and again.
///
/// One that was not waited for in time is waited for no more: after a delay the ticks go on in the rhythm in which they began.
///
/// ```
/// use baton::time::Ticker;
/// use std::time::{Duration, Instant};
///
/// baton::run(|| {
///     let start = Instant::now();
///     let mut ticker = Ticker::new(Duration::from_millis(1));
///     for _ in 0..3 {
///         ticker.wait();
///     }
///     assert!(start.elapsed() >= Duration::from_millis(3));
/// });
/// ```
#[derive(Debug)]
pub struct Ticker {
    next: u64,
    period: u64,
    /// Of a stream that was polled in vain.
    alarm: Option<Alarm>,
}

impl Ticker {
    /// Due each `period`, for the first time when one has passed.
    ///
    /// # Panics
    ///
    /// If the period is zero.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        assert!(
            !period.is_zero(),
            "the period of a ticker is zero: it would always be due"
        );
        let nanos = u64::try_from(period.as_nanos()).unwrap_or(NEVER);
        Self {
            next: now().saturating_add(nanos),
            period: nanos,
            alarm: None,
        }
    }

    /// Waits for the next tick; gives how many have passed since the last one that was waited for, 1 as a rule.
    pub fn wait(&mut self) -> u64 {
        sleep_till(self.next);
        self.advance()
    }

    /// A tick has come: how many have, with those that were missed before it.
    fn advance(&mut self) -> u64 {
        let missed = now().saturating_sub(self.next) / self.period;
        self.next = self.next.saturating_add(self.period.saturating_mul(missed + 1));
        missed + 1
    }

    /// Begins anew: the next tick is a period from now.
    pub fn reset(&mut self) {
        self.next = now().saturating_add(self.period);
    }
}

/// The ticks, without end; each item is what [`wait`](Ticker::wait) would give.
///
/// ```
/// use baton::time::Ticker;
/// use futures_util::StreamExt;
/// use std::time::Duration;
///
/// let three = Ticker::new(Duration::from_millis(1)).take(3).collect::<Vec<_>>();
/// assert_eq!(baton::run(|| baton::block_on(three)).len(), 3);
/// ```
impl Stream for Ticker {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<u64>> {
        let next = self.next;
        if next <= now() {
            self.alarm = None;
            return Poll::Ready(Some(self.advance()));
        }
        Alarm::arm(&mut self.alarm, next, cx.waker());
        Poll::Pending
    }
}

impl Clone for Ticker {
    fn clone(&self) -> Self {
        Self { alarm: None, ..*self }
    }
}

/// A function that is called later, unless it is stopped: what [`after_func`] gives. Dropping it stops nothing.
#[derive(Debug)]
pub struct AfterFunc {
    begun: Arc<AtomicBool>,
    cancel: Cancel,
}

impl AfterFunc {
    /// Sees to it that the function is not called. `false`: it was, or was stopped before.
    #[must_use = "it says whether the function was stopped"]
    pub fn stop(&self) -> bool {
        let stopped = !self.begun.swap(true, AcqRel);
        self.cancel.cancel();
        stopped
    }

    /// Whether the function was called or stopped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.begun.load(Acquire)
    }
}

/// Calls `f` in a goroutine of its own when `duration` has passed (Go's `time.AfterFunc`). Its contract is that of
/// [`go!`](crate::go).
///
/// ```
/// use baton::{chan, time};
/// use std::time::Duration;
///
/// baton::run(|| {
///     let (tx, rx) = chan::bounded(1);
///     time::after_func(Duration::from_millis(1), move || tx.send("now").unwrap());
///     assert_eq!(rx.recv(), Ok("now"));
///     let never = time::after_func(Duration::from_secs(3600), || unreachable!());
///     assert!(never.stop());
/// });
/// ```
pub fn after_func<F: FnOnce() + Send + 'static>(duration: Duration, f: F) -> AfterFunc {
    let (context, cancel) = Context::background().with_cancel();
    let begun = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&begun);
    let later = move || {
        if context.sleep(duration).is_ok() && !flag.swap(true, AcqRel) {
            f();
        }
    };
    // SAFETY: the caller signs the contract of `go!`; what is around `f` holds nothing that belongs to a thread.
    drop(unsafe { spawn_migrating(later) });
    AfterFunc { begun, cancel }
}

/// The time was up before the result was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time was up before the result was there")
    }
}

impl Error for Elapsed {}

/// Runs `f` in a goroutine of its own and waits for its result for at most `duration`. Its contract is that of
/// [`go!`](crate::go).
///
/// `f` is not stopped if the time is up: it goes on, and its result is dropped. So that it gives up too, hand it a
/// [`Context`].
///
/// # Errors
///
/// The time was up.
///
/// # Panics
///
/// With what `f` panicked with, if it did so in time.
///
/// ```
/// use baton::time;
/// use std::time::Duration;
///
/// baton::run(|| {
///     assert_eq!(time::timeout(Duration::from_secs(3600), || 6 * 7), Ok(42));
///     let slow = || time::sleep(Duration::from_secs(3600));
///     assert!(time::timeout(Duration::from_millis(1), slow).is_err());
/// });
/// ```
pub fn timeout<F, T>(duration: Duration, f: F) -> Result<T, Elapsed>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (tx, rx) = chan::bounded(1);
    let run = move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        tx.send(result).ok(); // nobody may wait any more
    };
    // SAFETY: the caller signs the contract of `go!`; what is around `f` holds nothing that belongs to a thread.
    drop(unsafe { spawn_migrating(run) });
    match rx.recv_timeout(duration) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(payload)) => std::panic::resume_unwind(payload),
        Err(_) => Err(Elapsed(())),
    }
}
