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
//! - A write takes what there is room for, and says how much; with std it waits until all is on its way.
//!   [`write_all`](std::io::Write::write_all) does what it says with both.
//! - The descriptor does not block, which others see that get it (a child process, C code, a socket of std's that was cloned before). A
//!   handle that becomes one of std's again, or an `OwnedFd`, makes it block, for all clones: then those keep a thread each while they wait.
//! - `set_nonblocking` concerns one handle, not those that were cloned from it.
//! - [`TcpListener::bind`] has the system keep as many connections that are not accepted yet as it allows (`net.core.somaxconn`), not
//!   128.
//! - What a signal interrupts begins again.
//! - A descriptor becomes a socket by `TryFrom`, since it may not be possible to watch it.
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
pub mod unix;

pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs,
};
pub use tcp::{Incoming, TcpListener, TcpStream};
pub use udp::UdpSocket;
pub use unix::{UnixDatagram, UnixListener, UnixStream};
