//! A report on file descriptor 2, put together in a fixed buffer: no allocation, no lock, safe in a signal handler.

use core::fmt;

/// Longer reports are cut.
const CAPACITY: usize = 1024;

/// A line or a few, written in one piece when dropped.
pub(crate) struct Report {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Report {
    /// An empty report.
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; CAPACITY],
            len: 0,
        }
    }
}

impl fmt::Write for Report {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let n = s.len().min(CAPACITY - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let mut rest = &self.bytes[..self.len];
        while !rest.is_empty() {
            // SAFETY: the bytes are this buffer's.
            let n = unsafe { libc::write(2, rest.as_ptr().cast(), rest.len()) };
            let Ok(n @ 1..) = usize::try_from(n) else { return };
            rest = &rest[n..];
        }
    }
}
