//! Connecting without keeping a thread: begin, wait until the socket is writable, ask what came of it.

use crate::{blocking, io::Pollable, on_big_stack, sched::netpoll::Interest, sync::Until};
use std::{
    io::{self, ErrorKind, Result},
    mem,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    time::Duration,
};

/// The addresses. Names are looked up by the C library, which reads files, waits for servers and needs much stack.
fn look_up<A: ToSocketAddrs>(addresses: A) -> Result<A::Iter> {
    blocking(|| on_big_stack(|| addresses.to_socket_addrs()))
}

fn none() -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        "the name has no address: check its spelling, or give an IP address",
    )
}

/// The first of these addresses.
pub(super) fn first<A: ToSocketAddrs>(addresses: A) -> Result<SocketAddr> {
    look_up(addresses)?.next().ok_or_else(none)
}

/// What `f` makes of the first of these addresses with which it succeeds; else what it said of the last.
pub(super) fn each<A: ToSocketAddrs, R>(addresses: A, mut f: impl FnMut(SocketAddr) -> Result<R>) -> Result<R> {
    let mut result = Err(none());
    for address in look_up(addresses)? {
        result = f(address);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// A stream to `address`, if it is there within `timeout`.
pub(super) fn tcp(address: &SocketAddr, timeout: Option<Duration>) -> Result<Pollable<TcpStream>> {
    let until = timeout.map_or(Until::FOREVER, Until::timeout);
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: makes a descriptor and touches nothing.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made above, and nobody else's.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let (raw, length) = raw(address);
    // SAFETY: the address lives here, and is as long as `length` says.
    if unsafe { libc::connect(stream.as_raw_fd(), ptr::from_ref(&raw).cast(), length) } == -1 {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINPROGRESS | libc::EINTR) => {}
            _ => return Err(error),
        }
    }
    // Not before: a socket that is not even on its way counts as ready.
    let stream = Pollable::new(stream)?;
    if !stream.wait(Interest::Write, until) {
        return Err(io::Error::new(ErrorKind::TimedOut, "connection timed out"));
    }
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// An address as the kernel has it, and its length.
fn raw(address: &SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: integers and arrays of them, for which zeros are right.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is large enough, and aligned, for every kind of address.
            unsafe { ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}
