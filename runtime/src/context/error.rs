//! Why a call that waits with a context came back without what it waited for.
#![forbid(unsafe_code)]

use std::{error::Error, fmt};

/// Why a [`Context`](super::Context) has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextError {
    /// It, or one that it comes from, was cancelled.
    Canceled,
    /// Its deadline has passed.
    DeadlineExceeded,
}

/// Why [`Context::recv`](super::Context::recv) gives no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// The context has ended.
    Context(ContextError),
    /// The channel is empty and all senders are gone.
    Disconnected,
}

/// Why [`Context::send`](super::Context::send) did not send; holds the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendError<T> {
    /// The context has ended.
    Context(ContextError, T),
    /// All receivers are gone.
    Disconnected(T),
}

impl<T> SendError<T> {
    /// The message.
    pub fn into_inner(self) -> T {
        match self {
            Self::Context(_, message) | Self::Disconnected(message) => message,
        }
    }
}

impl From<ContextError> for RecvError {
    fn from(error: ContextError) -> Self {
        Self::Context(error)
    }
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canceled => "the context was cancelled",
            Self::DeadlineExceeded => "the context's deadline has passed",
        })
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context(error) => error.fmt(f),
            Self::Disconnected => f.write_str("receiving on an empty channel whose senders are all gone"),
        }
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context(error, _) => error.fmt(f),
            Self::Disconnected(_) => f.write_str("sending on a channel whose receivers are all gone"),
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context(error, _) => write!(f, "Context({error:?}, ..)"),
            Self::Disconnected(_) => f.write_str("Disconnected(..)"),
        }
    }
}

impl Error for ContextError {}
impl Error for RecvError {}
impl<T> Error for SendError<T> {}
