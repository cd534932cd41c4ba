//! Text to standard error, in few writes, without allocating.

use core::fmt;

/// Collects text on the stack and writes it when there is much of it, and at the end.
pub(crate) struct Stderr {
    bytes: [u8; 2048],
    len: usize,
}

impl Stderr {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; 2048],
            len: 0,
        }
    }

    fn flush(&mut self) {
        let mut rest = &self.bytes[..self.len];
        while !rest.is_empty() {
            // SAFETY: writes bytes of this value's own.
            let written = unsafe { libc::write(2, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(n) if n > 0 => rest = &rest[n..],
                _ => break, // there is nobody to tell
            }
        }
        self.len = 0;
    }
}

impl fmt::Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(self.bytes.len()) {
            if self.bytes.len() - self.len < piece.len() {
                self.flush();
            }
            self.bytes[self.len..][..piece.len()].copy_from_slice(piece);
            self.len += piece.len();
        }
        Ok(())
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.flush();
    }
}
