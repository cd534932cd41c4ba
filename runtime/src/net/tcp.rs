//! TCP.

use super::{
    connect,
    socket::{Socket, as_std, listen_for_many, listener, socket, stream},
};
use std::{
    io::{self, ErrorKind, Result},
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    os::linux::net::TcpStreamExt,
    time::Duration,
};

/// A TCP connection: [`std::net::TcpStream`], on which goroutines wait without a thread each.
///
/// Two may read and write at a time, through references or clones. Closed when it is dropped.
///
/// ```
/// use baton::{go, net::{TcpListener, TcpStream}};
/// use std::{io::{ErrorKind, Read}, time::Duration};
///
/// baton::run(|| {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let mut stream = TcpStream::connect(listener.local_addr()?)?;
///     stream.set_read_timeout(Some(Duration::from_millis(5)))?;
///     let error = stream.read(&mut [0]).unwrap_err(); // nobody writes
///     assert_eq!(error.kind(), ErrorKind::WouldBlock);
///     std::io::Result::Ok(())
/// })
/// .unwrap();
/// ```
pub struct TcpStream(Socket<std::net::TcpStream>);

socket!(TcpStream, std::net::TcpStream);
stream!(TcpStream, std::net::TcpStream);

impl TcpStream {
    /// Connects to the first of these addresses that answers. A name is looked up by the C library, which keeps the thread meanwhile.
    ///
    /// # Errors
    ///
    /// What the system says of the last address, and the limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn connect<A: ToSocketAddrs>(addresses: A) -> Result<Self> {
        let file = connect::each(addresses, |address| connect::tcp(&address, None))?;
        Ok(Self(file.into()))
    }

    /// Connects, if that takes no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`ErrorKind::TimedOut`] if it takes longer, [`ErrorKind::InvalidInput`] for a timeout of nothing.
    pub fn connect_timeout(address: &SocketAddr, timeout: Duration) -> Result<Self> {
        if timeout.is_zero() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "nothing connects in no time: give a longer timeout",
            ));
        }
        Ok(Self(connect::tcp(address, Some(timeout))?.into()))
    }

    /// Reads what [`read`](io::Read::read) would, and leaves it there.
    ///
    /// # Errors
    ///
    /// Those of a read.
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.when_readable(|stream| stream.peek(buf))
    }

    as_std!(std::net::TcpStream {
        peer_addr() -> SocketAddr;
        local_addr() -> SocketAddr;
        shutdown(how: Shutdown) -> ();
        set_read_timeout(timeout: Option<Duration>) -> ();
        set_write_timeout(timeout: Option<Duration>) -> ();
        read_timeout() -> Option<Duration>;
        write_timeout() -> Option<Duration>;
        set_nodelay(nodelay: bool) -> ();
        nodelay() -> bool;
        set_quickack(quickack: bool) -> ();
        quickack() -> bool;
        set_ttl(ttl: u32) -> ();
        ttl() -> u32;
        take_error() -> Option<io::Error>;
    });
}

/// A TCP socket to which others connect: [`std::net::TcpListener`], on which goroutines wait without a thread each.
///
/// Several may accept at a time.
pub struct TcpListener(Socket<std::net::TcpListener>);

socket!(TcpListener, std::net::TcpListener);
listener!(TcpListener, std::net::TcpListener, TcpStream, SocketAddr, Incoming);

impl TcpListener {
    /// Listens at the first of these addresses at which that is possible.
    ///
    /// # Errors
    ///
    /// What the system says of the last address, and the limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn bind<A: ToSocketAddrs>(addresses: A) -> Result<Self> {
        let listener = connect::each(addresses, std::net::TcpListener::bind)?;
        listen_for_many(&listener)?;
        Self::watched(listener)
    }

    as_std!(std::net::TcpListener {
        local_addr() -> SocketAddr;
        set_ttl(ttl: u32) -> ();
        ttl() -> u32;
        take_error() -> Option<io::Error>;
    });
}
