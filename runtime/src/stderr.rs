//! What the runtime says on standard error, from any of its threads: past std's lock, which somebody may hold for ever, and without a
//! panic where nobody reads any more.

use std::{
    fmt::{self, Write},
    io,
};

/// So many bytes are written at a time.
const ROOM: usize = 1024;

struct Stderr {
    buffer: [u8; ROOM],
    len: usize,
}

/// Writes a line, or as much of it as the system takes. Allocates nothing.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let mut stderr = Stderr {
        buffer: [0; ROOM],
        len: 0,
    };
    let _ = stderr.write_fmt(line); // only what is shown can fail
    let _ = stderr.write_str("\n");
    stderr.flush();
}

impl Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(ROOM) {
            if self.len + piece.len() > ROOM {
                self.flush();
            }
            self.buffer[self.len..][..piece.len()].copy_from_slice(piece);
            self.len += piece.len();
        }
        Ok(())
    }
}

impl Stderr {
    fn flush(&mut self) {
        let mut left = &self.buffer[..self.len];
        while !left.is_empty() {
            // SAFETY: the bytes are there.
            let n = unsafe { libc::write(libc::STDERR_FILENO, left.as_ptr().cast(), left.len()) };
            match usize::try_from(n) {
                Ok(n) => left = &left[n..],
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.len = 0;
    }
}
