//! What all sockets have in common: waiting as long as the program has said, and std's part.
//!
//! How long that is stands where std has it, in the kernel's part of the socket, which all clones share; so it is asked for only when there is
//! something to wait for.

use crate::{
    io::Pollable,
    sched::{checkpoint, netpoll::Interest},
    sync::Until,
    testing::world::World,
    time::{self, heap::NEVER},
};
use std::{
    io::{self, ErrorKind, Result},
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

/// Between two tries, where no event tells when to try again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A socket of std's that does not block, and how its owner waits for it.
pub(super) struct Socket<T: AsFd> {
    file: Pollable<T>,
    /// The program has asked for `WouldBlock` instead of waits.
    never_waits: AtomicBool,
}

impl<T: AsFd> Socket<T> {
    pub(super) fn new(socket: T) -> Result<Self> {
        Ok(Pollable::new(socket)?.into())
    }

    /// std's part.
    pub(super) fn std(&self) -> &T {
        self.file.get_ref()
    }

    /// What others may wait for.
    pub(super) fn file(&self) -> &Pollable<T> {
        &self.file
    }

    pub(super) fn into_file(self) -> Pollable<T> {
        self.file
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) {
        self.never_waits.store(nonblocking, Relaxed);
    }

    pub(super) fn never_waits(&self) -> bool {
        self.never_waits.load(Relaxed)
    }

    /// Tries `operation` until it would not block, with pauses in between, for `timeout` in all: where no event tells when.
    pub(super) fn again_and_again<R>(
        &self,
        timeout: impl FnOnce(&T) -> Result<Option<Duration>>,
        mut operation: impl FnMut(&T) -> Result<R>,
    ) -> Result<R> {
        if self.never_waits() {
            return self.at_once(operation);
        }
        checkpoint();
        let (mut timeout, mut end, mut pause) = (Some(timeout), NEVER, SHORTEST_PAUSE);
        loop {
            match operation(self.std()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Some(timeout) = timeout.take() {
                        end = timeout(self.std())?.map_or(NEVER, time::deadline_in);
                    }
                    let left = Duration::from_nanos(end.saturating_sub(time::now()));
                    if left.is_zero() {
                        return Err(error);
                    }
                    time::sleep(pause.min(left));
                    if World::current().is_some() {
                        thread::sleep(SHORTEST_PAUSE); // for those outside of the simulation
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Tries `operation`, which may fail because it would block.
    fn at_once<R>(&self, mut operation: impl FnMut(&T) -> Result<R>) -> Result<R> {
        loop {
            match operation(self.std()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// Tries `operation` until it would not block, and waits in between, for `timeout` in all.
    pub(super) fn when_ready<R>(
        &self,
        interest: Interest,
        timeout: impl FnOnce(&T) -> Result<Option<Duration>>,
        operation: impl FnMut(&T) -> Result<R>,
    ) -> Result<R> {
        if self.never_waits() {
            return self.at_once(operation);
        }
        let until = || Ok(timeout(self.std())?.map_or(Until::FOREVER, Until::timeout));
        self.file.with(interest, until, operation)
    }
}

impl<T: AsFd> From<Pollable<T>> for Socket<T> {
    fn from(file: Pollable<T>) -> Self {
        Self {
            file,
            never_waits: AtomicBool::new(false),
        }
    }
}

/// Has the system keep as many connections to a listener that are not accepted yet as it will.
pub(super) fn listen_for_many(listener: &impl AsFd) -> Result<()> {
    // SAFETY: a socket that listens already; the call changes how many may wait. More than the system allows is as much as it does.
    match unsafe { libc::listen(listener.as_fd().as_raw_fd(), libc::c_int::MAX) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The methods of a socket type that are std's; each is named with its arguments and what it gives.
macro_rules! as_std {
    ($std:ty { $($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)* }) => { $(
        #[doc = concat!("As [`", stringify!($name), "`](", stringify!($std), "::", stringify!($name), ") of std's.")]
        ///
        /// # Errors
        ///
        /// The same.
        pub fn $name(&self, $($arg: $type),*) -> std::io::Result<$result> {
            self.0.std().$name($($arg),*)
        }
    )* };
}

/// What is alike in all socket types: turning into std's and back, and what belongs to the descriptor.
macro_rules! socket {
    ($socket:ident, $std:ty) => {
        impl $socket {
            /// A socket of std's, which does not block from now on.
            fn watched(socket: $std) -> std::io::Result<Self> {
                Ok(Self($crate::net::socket::Socket::new(socket)?))
            }

            /// Another handle of the same socket.
            ///
            /// # Errors
            ///
            /// The limits on open files and on watched ones: see [`Pollable::new`](crate::io::Pollable::new).
            pub fn try_clone(&self) -> std::io::Result<Self> {
                Self::watched(self.0.std().try_clone()?)
            }

            /// Has what would wait on this handle fail with [`WouldBlock`](std::io::ErrorKind::WouldBlock) instead, or wait again.
            ///
            /// # Errors
            ///
            /// None; the result is std's.
            pub fn set_nonblocking(&self, nonblocking: bool) -> std::io::Result<()> {
                self.0.set_nonblocking(nonblocking);
                Ok(())
            }
        }

        impl std::fmt::Debug for $socket {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.std().fmt(f)
            }
        }

        /// As [`Pollable::new`](crate::io::Pollable::new). One that does not block will not wait; nor will the second of two handles of
        /// one socket of std's, since the first of them made it so: clone it here instead.
        impl TryFrom<$std> for $socket {
            type Error = std::io::Error;

            fn try_from(socket: $std) -> std::io::Result<Self> {
                let this = Self::watched(socket)?;
                this.set_nonblocking(!this.0.file().blocked())?;
                Ok(this)
            }
        }

        /// As [`Pollable::new`](crate::io::Pollable::new).
        impl TryFrom<std::os::fd::OwnedFd> for $socket {
            type Error = std::io::Error;

            fn try_from(fd: std::os::fd::OwnedFd) -> std::io::Result<Self> {
                Self::try_from(<$std>::from(fd))
            }
        }

        /// The socket blocks from then on, as std's do, unless `set_nonblocking(true)` was its handle's last word.
        impl TryFrom<$socket> for $std {
            type Error = std::io::Error;

            fn try_from(socket: $socket) -> std::io::Result<Self> {
                let nonblocking = socket.0.never_waits();
                let socket = socket.0.into_file().into_inner()?;
                socket.set_nonblocking(nonblocking)?;
                Ok(socket)
            }
        }

        /// As for std's socket.
        ///
        /// # Panics
        ///
        /// Only if the descriptor was closed behind the socket's back.
        impl From<$socket> for std::os::fd::OwnedFd {
            fn from(socket: $socket) -> Self {
                <$std>::try_from(socket).expect("an open file has flags").into()
            }
        }

        /// As for `OwnedFd`.
        impl std::os::fd::IntoRawFd for $socket {
            fn into_raw_fd(self) -> std::os::fd::RawFd {
                std::os::fd::OwnedFd::from(self).into_raw_fd()
            }
        }

        /// For waits of other kinds, with a [`Context`](crate::context::Context) say.
        impl AsRef<$crate::io::Pollable<$std>> for $socket {
            fn as_ref(&self) -> &$crate::io::Pollable<$std> {
                self.0.file()
            }
        }

        impl std::os::fd::AsFd for $socket {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.0.std().as_fd()
            }
        }

        impl std::os::fd::AsRawFd for $socket {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.0.std().as_raw_fd()
            }
        }
    };
}

/// Waiting for as long as the socket's own timeouts say.
macro_rules! timed {
    ($socket:ident, $std:ty) => {
        impl $socket {
            fn when_readable<R>(&self, read: impl FnMut(&$std) -> std::io::Result<R>) -> std::io::Result<R> {
                let interest = $crate::sched::netpoll::Interest::Read;
                self.0.when_ready(interest, <$std>::read_timeout, read)
            }

            fn when_writable<R>(&self, write: impl FnMut(&$std) -> std::io::Result<R>) -> std::io::Result<R> {
                let interest = $crate::sched::netpoll::Interest::Write;
                self.0.when_ready(interest, <$std>::write_timeout, write)
            }
        }
    };
}

/// Accepting, one after the other: `incoming` names the iterator.
macro_rules! listener {
    ($listener:ident, $std:ty, $stream:ident, $address:ty, $incoming:ident) => {
        impl $listener {
            /// Waits for the next connection, and says where it comes from.
            ///
            /// # Errors
            ///
            /// What the system says, and the limits of [`Pollable::new`](crate::io::Pollable::new).
            pub fn accept(&self) -> std::io::Result<($stream, $address)> {
                let (interest, for_ever) = ($crate::sched::netpoll::Interest::Read, |_: &$std| Ok(None));
                let (stream, address) = self.0.when_ready(interest, for_ever, <$std>::accept)?;
                Ok(($stream::watched(stream)?, address))
            }

            /// All connections, one after the other. Never ends.
            #[must_use]
            pub fn incoming(&self) -> $incoming<'_> {
                $incoming(self)
            }
        }

        #[doc = concat!("The connections to a [`", stringify!($listener), "`], as they come.")]
        #[derive(Debug)]
        pub struct $incoming<'a>(&'a $listener);

        impl Iterator for $incoming<'_> {
            type Item = std::io::Result<$stream>;

            fn next(&mut self) -> Option<Self::Item> {
                Some(self.0.accept().map(|(stream, _)| stream))
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                (usize::MAX, None)
            }
        }

        impl std::iter::FusedIterator for $incoming<'_> {}
    };
}

/// Reading from a stream and writing to it, by whoever has a reference.
macro_rules! stream {
    ($stream:ident, $std:ty) => {
        $crate::net::socket::timed!($stream, $std);

        impl std::io::Read for &$stream {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.when_readable(|mut stream| stream.read(buf))
            }

            fn read_vectored(&mut self, bufs: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
                self.when_readable(|mut stream| stream.read_vectored(bufs))
            }
        }

        impl std::io::Read for $stream {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                (&*self).read(buf)
            }

            fn read_vectored(&mut self, bufs: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
                (&*self).read_vectored(bufs)
            }
        }

        impl std::io::Write for &$stream {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.when_writable(|mut stream| stream.write(buf))
            }

            fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                self.when_writable(|mut stream| stream.write_vectored(bufs))
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        impl std::io::Write for $stream {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                (&*self).write(buf)
            }

            fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                (&*self).write_vectored(bufs)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(super) use {as_std, listener, socket, stream, timed};
