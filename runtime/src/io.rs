//! Sockets and pipes that wait without a thread each.
//!
//! ```text
//!   goroutine ── read ── would block ── parks ◀── ready ── netpoll
//!                  ▲                      │
//!                  └────── again ─────────┘
//! ```
//!
//! Plain `std::net` works in goroutines as it is, but every call that blocks costs a thread while it lasts. A [`Pollable`] costs none:
//! the goroutine parks until the file is ready. So ten thousand connections are served by a few threads.
//!
//! The shape is that of `async-io`'s `Async`, without `await`.

use crate::{
    sched::{
        checkpoint,
        netpoll::{self, Interest, Watch},
    },
    sync::Until,
    testing::world::World,
};
use std::{
    fmt,
    io::{self, ErrorKind, Read, Result, Write},
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

/// A file that can become ready (a socket, a pipe, a terminal, an eventfd …), and on which goroutines wait without keeping their
/// thread. In a plain thread, the thread waits.
///
/// What can be read, accepted or written, [`Pollable::new`] does not care: [`read_with`](Self::read_with) and
/// [`write_with`](Self::write_with) take any operation that fails with [`ErrorKind::WouldBlock`] when it would block, and try it
/// again when the file is ready. For files whose reference is [`Read`] or [`Write`], as that of `TcpStream`, this is too, and so is a
/// reference to it: two goroutines may read and write at a time.
///
/// Whether a file blocks is known to all who have it: to those with a duplicate of the descriptor too. A
/// file still does not after its `Pollable` was dropped; [`into_inner`](Pollable::into_inner) makes it block again.
///
/// Regular files are always ready as far as the kernel is concerned, and so refused; use them as they are, perhaps inside
/// [`blocking`](crate::blocking).
///
/// ```
/// use baton::{go, io::Pollable};
/// use std::{
///     io::{Read, Write},
///     net::{TcpListener, TcpStream},
/// };
///
/// baton::run(|| {
///     let listener = Pollable::new(TcpListener::bind("127.0.0.1:0")?)?;
///     let address = listener.get_ref().local_addr()?;
///     let server = go!(move || -> std::io::Result<String> {
///         let (stream, _) = listener.read_with(TcpListener::accept)?;
///         let mut said = String::new();
///         Pollable::new(stream)?.read_to_string(&mut said)?;
///         Ok(said)
///     });
///     let mut stream = Pollable::new(TcpStream::connect(address)?)?;
///     stream.write_all(b"hello")?;
///     drop(stream);
///     assert_eq!(server.join().unwrap()?, "hello");
///     std::io::Result::Ok(())
/// })
/// .unwrap();
/// ```
pub struct Pollable<T: AsFd> {
    file: ManuallyDrop<T>,
    watch: &'static Watch,
    /// It blocked before.
    blocks: bool,
}

impl<T: AsFd> Pollable<T> {
    /// Has a file watched from now on, and makes it one that does not block.
    ///
    /// # Errors
    ///
    /// What the system says: a regular file or a directory cannot be watched (`PermissionDenied`), and there are limits on open
    /// files (`ulimit -n`) and on watched ones (`fs.epoll.max_user_watches`).
    pub fn new(file: T) -> Result<Self> {
        let blocks = set_blocking(file.as_fd(), false)?;
        match Watch::begin(file.as_fd()) {
            Ok(watch) => Ok(Self {
                file: ManuallyDrop::new(file),
                watch,
                blocks,
            }),
            Err(error) => {
                set_blocking(file.as_fd(), blocks)?;
                Err(match error.raw_os_error() {
                    Some(libc::EPERM) => io::Error::new(
                        ErrorKind::PermissionDenied,
                        "this kind of file is never waited for (a regular file, a directory): use it as it is, perhaps inside \
                         baton::blocking",
                    ),
                    _ => error,
                })
            }
        }
    }

    /// The file.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.file
    }

    /// Gives the file back, which blocks again if it did before.
    ///
    /// # Errors
    ///
    /// If the system refuses that; the file is closed then.
    pub fn into_inner(self) -> Result<T> {
        let mut this = ManuallyDrop::new(self);
        this.watch.end(this.file.as_fd());
        // SAFETY: `this` is not dropped, and not used any more.
        let file = unsafe { ManuallyDrop::take(&mut this.file) };
        set_blocking(file.as_fd(), this.blocks)?;
        Ok(file)
    }

    /// Waits until the file is readable: there is something to read or to accept, or nothing will ever come.
    ///
    /// Others may be faster: try, and if it would block, wait again. That is what [`read_with`](Self::read_with) does.
    pub fn readable(&self) {
        self.wait(Interest::Read, Until::FOREVER);
    }

    /// As [`readable`](Self::readable), but no longer than `timeout`. `false`: it was not.
    #[must_use]
    pub fn readable_timeout(&self, timeout: Duration) -> bool {
        self.wait(Interest::Read, Until::timeout(timeout))
    }

    /// Waits until the file is writable. As [`readable`](Self::readable).
    pub fn writable(&self) {
        self.wait(Interest::Write, Until::FOREVER);
    }

    /// As [`writable`](Self::writable), but no longer than `timeout`. `false`: it was not.
    #[must_use]
    pub fn writable_timeout(&self, timeout: Duration) -> bool {
        self.wait(Interest::Write, Until::timeout(timeout))
    }

    /// Tries `read`, waits as long as that would block until the file is readable, and tries again.
    ///
    /// # Errors
    ///
    /// Those of `read`, but for `WouldBlock`, and for `Interrupted`, after which it is tried again at once.
    pub fn read_with<R>(&self, read: impl FnMut(&T) -> Result<R>) -> Result<R> {
        self.with(Interest::Read, || Ok(Until::FOREVER), read)
    }

    /// Tries `write`, waits as long as that would block until the file is writable, and tries again. As
    /// [`read_with`](Self::read_with).
    ///
    /// # Errors
    ///
    /// Those of `write`, but for `WouldBlock` and `Interrupted`.
    pub fn write_with<R>(&self, write: impl FnMut(&T) -> Result<R>) -> Result<R> {
        self.with(Interest::Write, || Ok(Until::FOREVER), write)
    }

    /// Tries `operation` until it would not block, and waits in between, all in all until what the first wait is told.
    pub(crate) fn with<R>(
        &self,
        interest: Interest,
        until: impl FnOnce() -> Result<Until<'static>>,
        mut operation: impl FnMut(&T) -> Result<R>,
    ) -> Result<R> {
        checkpoint(); // also if there will be no need to wait
        let (mut ask, mut told) = (Some(until), Until::FOREVER);
        loop {
            let edges = self.watch.edges(interest);
            match operation(&self.file) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Some(until) = ask.take() {
                        told = until()?;
                    } else if told.has_passed() {
                        return Err(error); // woken again and again, always in vain
                    }
                    if !self.wait_for_change(interest, edges, told) {
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// Waits until the file is ready. `false`: `until` came first.
    pub(crate) fn wait(&self, interest: Interest, until: Until<'_>) -> bool {
        checkpoint();
        // The watch tells of changes, and perhaps of old ones.
        let is_ready = || netpoll::is_ready(self.file.as_fd(), interest, 0);
        loop {
            let edges = self.watch.edges(interest);
            if is_ready() {
                return true;
            }
            if !self.wait_for_change(interest, edges, until) {
                return is_ready();
            }
        }
    }

    /// Waits until the file has become ready since there were so many `edges`, or may have. `false`: `until` came first.
    fn wait_for_change(&self, interest: Interest, edges: u32, until: Until<'_>) -> bool {
        if World::current().is_some() {
            return netpoll::wait_in_simulation(self.file.as_fd(), interest, until);
        }
        if netpoll::is_forked() {
            return netpoll::wait_in_child(self.file.as_fd(), interest, until);
        }
        self.watch.wait(interest, edges, until)
    }

    /// Whether it blocked before.
    pub(crate) fn blocked(&self) -> bool {
        self.blocks
    }
}

/// Makes a file block or not; says whether it did.
fn set_blocking(file: BorrowedFd<'_>, blocks: bool) -> Result<bool> {
    let fd = file.as_raw_fd();
    // SAFETY: reads the flags of an open file.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    let did = flags & libc::O_NONBLOCK == 0;
    // SAFETY: changes one flag of an open file.
    if did != blocks && unsafe { libc::fcntl(fd, libc::F_SETFL, flags ^ libc::O_NONBLOCK) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(did)
}

impl<T: AsFd> Drop for Pollable<T> {
    fn drop(&mut self) {
        self.watch.end(self.file.as_fd());
        // SAFETY: not used any more.
        unsafe { ManuallyDrop::drop(&mut self.file) };
    }
}

impl<T: AsFd> AsFd for Pollable<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<T: AsFd + fmt::Debug> fmt::Debug for Pollable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pollable").field(&*self.file).finish()
    }
}

impl<T: AsFd> Read for &Pollable<T>
where
    for<'a> &'a T: Read,
{
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.read_with(|mut file| file.read(buf))
    }
}

impl<T: AsFd> Read for Pollable<T>
where
    for<'a> &'a T: Read,
{
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        (&*self).read(buf)
    }
}

impl<T: AsFd> Write for &Pollable<T>
where
    for<'a> &'a T: Write,
{
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.write_with(|mut file| file.write(buf))
    }

    fn flush(&mut self) -> Result<()> {
        self.write_with(|mut file| file.flush())
    }
}

impl<T: AsFd> Write for Pollable<T>
where
    for<'a> &'a T: Write,
{
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        (&*self).write(buf)
    }

    fn flush(&mut self) -> Result<()> {
        (&*self).flush()
    }
}
