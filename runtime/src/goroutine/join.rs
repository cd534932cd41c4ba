//! Waiting for a goroutine's end, and what it leaves.

use crate::{
    g::{Handle, Overflowed, Payload},
    sched,
};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// The right to wait for a goroutine and to have its result. Dropped, the goroutine goes on by itself.
///
/// ```
/// baton::run(|| {
///     let handle = baton::go!(|| 2 + 2);
///     assert!(handle.id() > 0);
///     assert_eq!(handle.join().unwrap(), 4);
/// });
/// ```
pub struct JoinHandle<T>(pub(super) Handle<T>);

impl<T> JoinHandle<T> {
    /// Waits for the goroutine to end and gives what it returned.
    ///
    /// # Errors
    ///
    /// The goroutine panicked: the error holds what it panicked with. Or it overflowed its stack, and
    /// [`on_stack_overflow`](super::Builder::on_stack_overflow) said that this ends nothing else.
    pub fn join(self) -> Result<T, JoinError> {
        sched::checkpoint();
        self.0.join().map_err(JoinError::new)
    }

    /// Whether the goroutine has ended, so that [`join`](Self::join) would not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_done()
    }

    /// The goroutine's number: counted up from 1, never used twice.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id()
    }
}

/// Waits for the end as [`join`](JoinHandle::join) does: in [`block_on`](crate::block_on), or in any executor, on any thread.
///
/// Dropped before it is ready, it leaves nothing behind, and the goroutine goes on by itself. Once it has given the result, `id` is 0.
///
/// # Panics
///
/// Polled again after it has given the result.
///
/// ```
/// let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let sum = tokio.block_on(async {
///     let (a, b) = (baton::go!(|| 1), baton::go!(|| 2));
///     a.await.unwrap() + b.await.unwrap()
/// });
/// assert_eq!(sum, 3);
/// ```
impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_err(JoinError::new)
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id())
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Why a goroutine has no result.
#[non_exhaustive]
pub enum JoinError {
    /// It panicked, with this.
    Panic(Box<dyn std::any::Any + Send + 'static>),
    /// It overflowed its stack, and [`Builder::on_stack_overflow`](super::Builder::on_stack_overflow) said that this ends nothing else.
    StackOverflow,
}

impl JoinError {
    pub(crate) fn new(payload: Payload) -> Self {
        if payload.is::<Overflowed>() {
            Self::StackOverflow
        } else {
            Self::Panic(payload)
        }
    }

    /// What the goroutine panicked with.
    ///
    /// # Panics
    ///
    /// If it did not panic: then with what did happen.
    #[must_use]
    pub fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        match self {
            Self::Panic(payload) => payload,
            Self::StackOverflow => panic!("{self}"),
        }
    }

    /// The panic's message, if it was a string, as that of `panic!` is.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        let Self::Panic(payload) = self else { return None };
        payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(_) => f
                .debug_struct("Panic")
                .field("message", &self.message())
                .finish_non_exhaustive(),
            Self::StackOverflow => f.write_str("StackOverflow"),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message() {
            _ if matches!(self, Self::StackOverflow) => f.write_str(
                "the goroutine overflowed its stack; raise its limit (Builder::max_stack, BATON_MAX_STACK), or look for a \
                 recursion without end",
            ),
            Some(message) => write!(f, "the goroutine panicked: {message}"),
            None => f.write_str("the goroutine panicked with something that is no text"),
        }
    }
}

impl std::error::Error for JoinError {}
