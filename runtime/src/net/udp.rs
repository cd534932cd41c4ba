//! UDP.

use super::{
    connect,
    socket::{Socket, as_std, socket, timed},
};
use std::{
    io::{self, Result},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

/// A UDP socket: [`std::net::UdpSocket`], on which goroutines wait without a thread each.
///
/// ```
/// use baton::net::UdpSocket;
///
/// baton::run(|| {
///     let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
///     one.send_to(b"hello", other.local_addr()?)?;
///     let mut datagram = [0; 16];
///     let (n, from) = other.recv_from(&mut datagram)?;
///     assert_eq!((&datagram[..n], from), (&b"hello"[..], one.local_addr()?));
///     std::io::Result::Ok(())
/// })
/// .unwrap();
/// ```
pub struct UdpSocket(Socket<std::net::UdpSocket>);

socket!(UdpSocket, std::net::UdpSocket);
timed!(UdpSocket, std::net::UdpSocket);

impl UdpSocket {
    /// A socket with the first of these addresses that can be had.
    ///
    /// # Errors
    ///
    /// What the system says of the last address, and the limits of [`Pollable::new`](crate::io::Pollable::new).
    pub fn bind<A: ToSocketAddrs>(addresses: A) -> Result<Self> {
        Self::watched(connect::each(addresses, std::net::UdpSocket::bind)?)
    }

    /// Sends to the first of these addresses, and receives from it alone, from now on.
    ///
    /// # Errors
    ///
    /// What the system says of the last address.
    pub fn connect<A: ToSocketAddrs>(&self, addresses: A) -> Result<()> {
        connect::each(addresses, |address| self.0.std().connect(address))
    }

    /// Waits for a datagram; gives its length, of which what `buf` does not hold is lost, and where it comes from.
    ///
    /// # Errors
    ///
    /// What the system says; `WouldBlock` when the read timeout is over.
    pub fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        self.when_readable(|socket| socket.recv_from(buf))
    }

    /// As [`recv_from`](Self::recv_from), but leaves the datagram there.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peek_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        self.when_readable(|socket| socket.peek_from(buf))
    }

    /// As [`recv_from`](Self::recv_from), from whom the socket is [connected](Self::connect) to.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn recv(&self, buf: &mut [u8]) -> Result<usize> {
        self.when_readable(|socket| socket.recv(buf))
    }

    /// As [`recv`](Self::recv), but leaves the datagram there.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.when_readable(|socket| socket.peek(buf))
    }

    /// Sends a datagram to the first of these addresses; waits until the system has room for it.
    ///
    /// # Errors
    ///
    /// What the system says; `WouldBlock` when the write timeout is over, [`InvalidInput`](io::ErrorKind::InvalidInput) if there is no address.
    pub fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addresses: A) -> Result<usize> {
        let first = connect::first(addresses)?;
        self.when_writable(|socket| socket.send_to(buf, first))
    }

    /// Sends a datagram to whom the socket is [connected](Self::connect) to.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send(&self, buf: &[u8]) -> Result<usize> {
        self.when_writable(|socket| socket.send(buf))
    }

    as_std!(std::net::UdpSocket {
        peer_addr() -> SocketAddr;
        local_addr() -> SocketAddr;
        set_read_timeout(timeout: Option<Duration>) -> ();
        set_write_timeout(timeout: Option<Duration>) -> ();
        read_timeout() -> Option<Duration>;
        write_timeout() -> Option<Duration>;
        set_broadcast(broadcast: bool) -> ();
        broadcast() -> bool;
        set_multicast_loop_v4(looped: bool) -> ();
        multicast_loop_v4() -> bool;
        set_multicast_ttl_v4(ttl: u32) -> ();
        multicast_ttl_v4() -> u32;
        set_multicast_loop_v6(looped: bool) -> ();
        multicast_loop_v6() -> bool;
        set_ttl(ttl: u32) -> ();
        ttl() -> u32;
        join_multicast_v4(group: &Ipv4Addr, interface: &Ipv4Addr) -> ();
        join_multicast_v6(group: &Ipv6Addr, interface: u32) -> ();
        leave_multicast_v4(group: &Ipv4Addr, interface: &Ipv4Addr) -> ();
        leave_multicast_v6(group: &Ipv6Addr, interface: u32) -> ();
        take_error() -> Option<io::Error>;
    });
}
