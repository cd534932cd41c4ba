//! Sockets with the interface of `std::net` and `std::os::unix::net`, on which goroutines wait without a thread each.
//!
//! ```text
//!   TcpListener · TcpStream · UdpSocket          ┐
//!   UnixListener · UnixStream · UnixDatagram     ┴─▶ Socket ─▶ Pollable ─▶ netpoll
//! ```
//!
//! Code that was written for std's sockets ports by changing a `use`: the other names of [`std::net`] are here too. What waits (accepting,
//! connecting, reading, writing) parks the goroutine, and in a plain thread the thread; all else is std's.
//!
//! What is not as std's:
//!
//! - [`TcpListener::bind`] and [`UnixListener::bind`] have the system keep as many connections that are not accepted yet as it allows
//!   (`net.core.somaxconn`), not 128.
//! - `set_nonblocking` concerns one handle, not those that were cloned from it.
//! - A read that a signal interrupts begins again.
//!
//! ```
//! use baton::{
//!     go,
//!     net::{TcpListener, TcpStream},
//! };
//! use std::io::{Read, Write};
//!
//! baton::run(|| {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let address = listener.local_addr()?;
//!     go!(move || -> std::io::Result<()> {
//!         for stream in listener.incoming() {
//!             let mut stream = stream?;
//!             go!(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
//!         }
//!         Ok(())
//!     });
//!     let mut stream = TcpStream::connect(address)?;
//!     stream.write_all(b"hello")?;
//!     let mut back = [0; 5];
//!     stream.read_exact(&mut back)?;
//!     assert_eq!(&back, b"hello");
//!     std::io::Result::Ok(())
//! })
//! .unwrap();
//! ```

mod connect;
mod socket;
mod tcp;
mod udp;
mod unix;

pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs,
};
pub use tcp::{Incoming, TcpListener, TcpStream};
pub use udp::UdpSocket;
pub use unix::{UnixDatagram, UnixIncoming, UnixListener, UnixStream};
