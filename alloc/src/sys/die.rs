//! The last words of the process.
//!
//! The allocator dies where going on would corrupt memory, often with its own locks held. So the message is put together
//! on the stack and goes out by one `write`; nothing here allocates, locks or unwinds.

use core::fmt::{self, Write};

/// A message of at most 512 bytes; what does not fit is cut off.
struct Message {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Message {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let n = room.len().min(s.len());
        room[..n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Writes `baton-alloc: <what>` to standard error and aborts.
///
/// The text says what happened, to which address, and what to change.
#[cold]
#[inline(never)]
pub(crate) fn die(what: fmt::Arguments<'_>) -> ! {
    let mut message = Message {
        bytes: [0; 512],
        len: 0,
    };
    // `write_str` above never fails; a `Display` that does leaves a shorter message.
    let _ = writeln!(message, "baton-alloc: {what}");
    // SAFETY: the bytes up to `len` are initialised, and `write` only reads them.
    unsafe {
        libc::write(2, message.bytes.as_ptr().cast(), message.len);
        libc::abort()
    }
}
