//! The top frames of the interrupted code, by name: for last words, on the handler's own stack, without allocation.
//!
//! The unwinder walks from the handler through the signal frame into the code that was interrupted; frames that do not
//! lie on the stack in question are left out. Names come from the symbol table of the executable file, if it was not
//! stripped and the address is the executable's; else the address has to do. Names are printed as the linker knows them,
//! those of Rust's older mangling in readable form.
//!
//! Walking may take a lock of the C library, and so wait for ever if it was the dynamic loader that overflowed: print
//! what matters before.

use super::stderr::Report;
use core::{
    ffi::{CStr, c_int, c_void},
    fmt::Write as _,
    mem::size_of,
    ops::Range,
    ptr, slice,
};

/// How many lines are printed. A frame that calls itself is one line, however often it does.
const LINES: usize = 12;
/// How many frames are walked at most.
const FRAMES: usize = 10_000;

unsafe extern "C-unwind" {
    fn _Unwind_Backtrace(
        trace: unsafe extern "C-unwind" fn(*mut c_void, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
}

/// The unwinder's word for "go on".
const GO_ON: c_int = 0;
/// The unwinder's word for "that is enough".
const ENOUGH: c_int = 4;

/// What the walk collects.
struct Walk {
    stack: Range<usize>,
    /// Return addresses, and how often each came in a row.
    lines: [(usize, usize); LINES],
    len: usize,
    /// Frames so far.
    frames: usize,
}

unsafe extern "C-unwind" fn visit(context: *mut c_void, argument: *mut c_void) -> c_int {
    // SAFETY: the argument of the walk below, which nobody else touches meanwhile.
    let walk = unsafe { &mut *argument.cast::<Walk>() };
    // SAFETY: the unwinder's own context.
    let (ip, cfa) = unsafe { (_Unwind_GetIP(context), _Unwind_GetCFA(context)) };
    if !walk.stack.contains(&cfa) {
        return GO_ON;
    }
    walk.frames += 1;
    match walk.len.checked_sub(1) {
        Some(last) if walk.lines[last].0 == ip => walk.lines[last].1 += 1,
        _ if walk.len == LINES => return ENOUGH,
        _ => {
            walk.lines[walk.len] = (ip, 1);
            walk.len += 1;
        }
    }
    if walk.frames == FRAMES { ENOUGH } else { GO_ON }
}

/// Prints the innermost frames on `stack` of the code that called the handler that calls this.
pub(crate) fn print(stack: Range<usize>) {
    let mut walk = Walk {
        stack,
        lines: [(0, 0); LINES],
        len: 0,
        frames: 0,
    };
    // SAFETY: `visit` is given `walk`, which outlives the call.
    unsafe { _Unwind_Backtrace(visit, (&raw mut walk).cast()) };
    let image = Image::of_executable();
    for &(ip, times) in &walk.lines[..walk.len] {
        let mut line = Report::new();
        // What the unwinder gives is where the call returns to, which may belong to the next function already.
        let found = image.as_ref().and_then(|image| image.symbol(ip - 1));
        // Writing to the buffer cannot fail: what is too long is cut.
        let _ = write!(line, "    {ip:#x} ");
        match found {
            Some(name) => write_name(&mut line, name),
            None => write_name(&mut line, "(no symbol)"),
        }
        if times > 1 {
            let _ = write!(line, ", {times} times");
        }
        let _ = line.write_str("\n");
    }
}

/// Writes `_ZN4core3fmt5write17h…E` as `core::fmt::write`, and what is not of that form as it is.
fn write_name(out: &mut Report, name: &str) {
    let mut rest = match name.strip_prefix("_ZN") {
        Some(rest) => rest,
        None => {
            let _ = out.write_str(name);
            return;
        }
    };
    let mut first = true;
    while let Some(digits) = rest.find(|c: char| !c.is_ascii_digit()) {
        let Ok(len) = rest[..digits].parse::<usize>() else {
            break;
        };
        let Some(part) = rest.get(digits..digits + len) else {
            break;
        };
        rest = &rest[digits + len..];
        if rest.starts_with('E') && part.len() == 17 && part.starts_with('h') {
            break; // the hash
        }
        let _ = out.write_str(if first { "" } else { "::" });
        let _ = out.write_str(part);
        first = false;
    }
}

/// The executable file, mapped, and where it was loaded.
struct Image {
    file: &'static [u8],
    load_bias: usize,
}

impl Image {
    fn of_executable() -> Option<Self> {
        let file = map_executable()?;
        let header = read::<libc::Elf64_Ehdr>(file, 0)?;
        if file.get(..4)? != b"\x7fELF" {
            return None;
        }
        // The program headers as they were loaded, and as the file has them: the difference is the bias.
        // SAFETY: getauxval has no preconditions.
        let loaded = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
        let phoff = usize::try_from(header.e_phoff).ok()?;
        let first_page = (0..usize::from(header.e_phnum))
            .filter_map(|i| read::<libc::Elf64_Phdr>(file, phoff + i * size_of::<libc::Elf64_Phdr>()))
            .find(|segment| segment.p_type == libc::PT_LOAD && segment.p_offset == 0)?;
        let linked = usize::try_from(first_page.p_vaddr).ok()? + phoff;
        Some(Self {
            file,
            load_bias: loaded.checked_sub(linked)?,
        })
    }

    /// The name of the function that `address` lies in.
    fn symbol(&self, address: usize) -> Option<&'static str> {
        const SYMTAB: u32 = 2;
        const FUNCTION: u8 = 2;
        let address = u64::try_from(address.checked_sub(self.load_bias)?).ok()?;
        let header = read::<libc::Elf64_Ehdr>(self.file, 0)?;
        let sections = usize::try_from(header.e_shoff).ok()?;
        let section = |i: usize| read::<libc::Elf64_Shdr>(self.file, sections + i * size_of::<libc::Elf64_Shdr>());
        let table = (0..usize::from(header.e_shnum)).find_map(|i| section(i).filter(|s| s.sh_type == SYMTAB))?;
        let names = section(usize::try_from(table.sh_link).ok()?)?;
        let start = usize::try_from(table.sh_offset).ok()?;
        let count = usize::try_from(table.sh_size).ok()? / size_of::<libc::Elf64_Sym>();
        let symbol = (0..count)
            .filter_map(|i| read::<libc::Elf64_Sym>(self.file, start + i * size_of::<libc::Elf64_Sym>()))
            .find(|s| s.st_info & 15 == FUNCTION && (s.st_value..s.st_value + s.st_size).contains(&address))?;
        let name = usize::try_from(names.sh_offset).ok()? + symbol.st_name as usize;
        CStr::from_bytes_until_nul(self.file.get(name..)?).ok()?.to_str().ok()
    }
}

/// A record at this offset of the file, if the file reaches that far.
fn read<T: Copy>(file: &[u8], offset: usize) -> Option<T> {
    let bytes = file.get(offset..offset.checked_add(size_of::<T>())?)?;
    // SAFETY: the bytes are there; the records of this file are made of integers, for which all bytes are valid.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The executable file, mapped for good: the process is about to end.
fn map_executable() -> Option<&'static [u8]> {
    // SAFETY: the path is a string; the descriptor is ours.
    unsafe {
        let fd = libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return None;
        }
        let len = usize::try_from(libc::lseek(fd, 0, libc::SEEK_END)).ok()?;
        let mapping = libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0);
        libc::close(fd);
        (mapping != libc::MAP_FAILED).then(|| slice::from_raw_parts(mapping.cast(), len))
    }
}
