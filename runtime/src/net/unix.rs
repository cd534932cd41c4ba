//! Sockets within the machine, by the names that [`std::os::unix::net`] has for them.

use super::socket::{Socket, as_std, listener, socket, stream, timed};
use crate::blocking;
use std::{
    io::{self, Result},
    net::Shutdown,
    os::unix::net as std_unix,
    path::Path,
    time::Duration,
};

pub use std::os::unix::net::SocketAddr;

/// A stream within the machine: [`std::os::unix::net::UnixStream`], on which goroutines wait without a thread each.
///
/// ```
/// use baton::{go, net::UnixStream};
/// use std::io::{Read, Write};
///
/// baton::run(|| {
///     let (mut one, mut other) = UnixStream::pair()?;
///     go!(move || one.write_all(b"hello"));
///     let mut said = String::new();
///     other.read_to_string(&mut said)?;
///     assert_eq!(said, "hello");
///     std::io::Result::Ok(())
/// })
/// .unwrap();
/// ```
pub struct UnixStream(Socket<std_unix::UnixStream>);

socket!(UnixStream, std_unix::UnixStream);
stream!(UnixStream, std_unix::UnixStream);

impl UnixStream {
    /// Connects to the listener at `path`. That keeps the thread while the listener has more connections to accept than it may.
    ///
    /// # Errors
    ///
    /// What the system says, and the limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn connect<P: AsRef<Path>>(path: P) -> Result<Self> {
        Self::watched(blocking(|| std_unix::UnixStream::connect(path))?)
    }

    /// As [`connect`](Self::connect), to an address that may be no path.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn connect_addr(address: &SocketAddr) -> Result<Self> {
        Self::watched(blocking(|| std_unix::UnixStream::connect_addr(address))?)
    }

    /// Two that are connected.
    ///
    /// # Errors
    ///
    /// The limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = std_unix::UnixStream::pair()?;
        Ok((Self::watched(one)?, Self::watched(other)?))
    }

    as_std!(std::os::unix::net::UnixStream {
        local_addr() -> SocketAddr;
        peer_addr() -> SocketAddr;
        set_read_timeout(timeout: Option<Duration>) -> ();
        set_write_timeout(timeout: Option<Duration>) -> ();
        read_timeout() -> Option<Duration>;
        write_timeout() -> Option<Duration>;
        take_error() -> Option<io::Error>;
        shutdown(how: Shutdown) -> ();
    });
}

/// A socket to which others within the machine connect: [`std::os::unix::net::UnixListener`], on which goroutines wait without a thread
/// each.
pub struct UnixListener(Socket<std_unix::UnixListener>);

socket!(UnixListener, std_unix::UnixListener);
listener!(UnixListener, std_unix::UnixListener, UnixStream, SocketAddr, Incoming);

impl UnixListener {
    /// Listens at `path`, where nothing is yet.
    ///
    /// # Errors
    ///
    /// What the system says, and the limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn bind<P: AsRef<Path>>(path: P) -> Result<Self> {
        Self::watched(std_unix::UnixListener::bind(path)?)
    }

    /// As [`bind`](Self::bind), at an address that may be no path.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn bind_addr(address: &SocketAddr) -> Result<Self> {
        Self::watched(std_unix::UnixListener::bind_addr(address)?)
    }

    as_std!(std::os::unix::net::UnixListener {
        local_addr() -> SocketAddr;
        take_error() -> Option<io::Error>;
    });
}

impl<'a> IntoIterator for &'a UnixListener {
    type Item = Result<UnixStream>;
    type IntoIter = Incoming<'a>;

    fn into_iter(self) -> Incoming<'a> {
        self.incoming()
    }
}

/// A socket for datagrams within the machine: [`std::os::unix::net::UnixDatagram`], on which goroutines wait without a thread each.
pub struct UnixDatagram(Socket<std_unix::UnixDatagram>);

socket!(UnixDatagram, std_unix::UnixDatagram);
timed!(UnixDatagram, std_unix::UnixDatagram);

impl UnixDatagram {
    /// A socket at `path`, where nothing is yet.
    ///
    /// # Errors
    ///
    /// What the system says, and the limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn bind<P: AsRef<Path>>(path: P) -> Result<Self> {
        Self::watched(std_unix::UnixDatagram::bind(path)?)
    }

    /// As [`bind`](Self::bind), at an address that may be no path.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn bind_addr(address: &SocketAddr) -> Result<Self> {
        Self::watched(std_unix::UnixDatagram::bind_addr(address)?)
    }

    /// A socket without an address.
    ///
    /// # Errors
    ///
    /// The limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn unbound() -> Result<Self> {
        Self::watched(std_unix::UnixDatagram::unbound()?)
    }

    /// Two that are connected.
    ///
    /// # Errors
    ///
    /// The limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = std_unix::UnixDatagram::pair()?;
        Ok((Self::watched(one)?, Self::watched(other)?))
    }

    /// Sends to the socket at `path`, and receives from it alone, from now on.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn connect<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.0.std().connect(path)
    }

    /// As [`connect`](Self::connect), with an address that may be no path.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn connect_addr(&self, address: &SocketAddr) -> Result<()> {
        self.0.std().connect_addr(address)
    }

    /// Waits for a datagram; gives its length, of which what `buf` does not hold is lost, and where it comes from.
    ///
    /// # Errors
    ///
    /// What the system says; `WouldBlock` when the read timeout is over.
    pub fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        self.when_readable(|socket| socket.recv_from(buf))
    }

    /// As [`recv_from`](Self::recv_from), without saying where it comes from.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn recv(&self, buf: &mut [u8]) -> Result<usize> {
        self.when_readable(|socket| socket.recv(buf))
    }

    /// Sends a datagram to the socket at `path`; waits until there is room for it. No event tells when that is: it tries again, after
    /// a millisecond, later after fifty.
    ///
    /// # Errors
    ///
    /// What the system says; `WouldBlock` when the write timeout is over.
    pub fn send_to<P: AsRef<Path>>(&self, buf: &[u8], path: P) -> Result<usize> {
        let timeout = std_unix::UnixDatagram::write_timeout;
        self.0.again_and_again(timeout, |socket| socket.send_to(buf, &path))
    }

    /// As [`send_to`](Self::send_to), to an address that may be no path.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn send_to_addr(&self, buf: &[u8], address: &SocketAddr) -> Result<usize> {
        let timeout = std_unix::UnixDatagram::write_timeout;
        self.0
            .again_and_again(timeout, |socket| socket.send_to_addr(buf, address))
    }

    /// Sends a datagram to whom the socket is [connected](Self::connect) to.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send(&self, buf: &[u8]) -> Result<usize> {
        self.when_writable(|socket| socket.send(buf))
    }

    as_std!(std::os::unix::net::UnixDatagram {
        local_addr() -> SocketAddr;
        peer_addr() -> SocketAddr;
        set_read_timeout(timeout: Option<Duration>) -> ();
        set_write_timeout(timeout: Option<Duration>) -> ();
        read_timeout() -> Option<Duration>;
        write_timeout() -> Option<Duration>;
        take_error() -> Option<io::Error>;
        shutdown(how: Shutdown) -> ();
    });
}
