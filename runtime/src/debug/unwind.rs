//! Backtraces: from the registers that each park saves, or a [copy](super::probe) of a running stack, by the unwind tables of
//! the program.
//!
//! Nothing runs on the goroutine's stack for this and nothing is written there, so a goroutine that has touched one page has
//! touched no more afterwards.

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module, UnwindRegsNative,
    Unwinder as _, UnwinderNative,
};
use std::{
    arch::asm,
    collections::HashMap,
    ffi::{c_int, c_void},
    fmt::{self, Write},
    ops::Range,
    ptr, slice,
};

/// Where a goroutine was when it left its stack.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Registers {
    pub(crate) ip: usize,
    pub(crate) sp: usize,
    pub(crate) fp: usize,
}

impl Registers {
    /// Where the caller is.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (ip, sp, fp);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: reads three registers.
        unsafe {
            asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) fp,
                options(nomem, nostack, preserves_flags));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: reads three registers.
        unsafe {
            asm!("adr {}, .", "mov {}, sp", "mov {}, x29", out(reg) ip, out(reg) sp, out(reg) fp,
                options(nomem, nostack, preserves_flags));
        }
        Self { ip, sp, fp }
    }

    /// Where a signal interrupted a thread.
    pub(super) fn of(context: &libc::ucontext_t) -> Self {
        let machine = &context.uc_mcontext;
        #[cfg(target_arch = "x86_64")]
        let [ip, sp, fp] =
            [libc::REG_RIP, libc::REG_RSP, libc::REG_RBP].map(|register| machine.gregs[register as usize]);
        #[cfg(target_arch = "aarch64")]
        let [ip, sp, fp] = [machine.pc, machine.sp, machine.regs[29]];
        Self {
            ip: ip as usize,
            sp: sp as usize,
            fp: fp as usize,
        }
    }
}

/// The most frames of one backtrace.
pub(super) const FRAMES: usize = 64;

/// Walks stacks by the tables of all that is loaded now.
pub(super) struct Unwinder {
    unwinder: UnwinderNative<&'static [u8], MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    /// Where code is.
    code: Vec<Range<usize>>,
}

impl Unwinder {
    pub(super) fn new() -> Self {
        let mut modules: Vec<Module<&'static [u8]>> = Vec::new();
        // SAFETY: the callback gets the vector that it is told, and calls nothing that loads or unloads.
        unsafe { libc::dl_iterate_phdr(Some(add_module), (&raw mut modules).cast()) };
        let code = modules.iter().map(Module::avma_range);
        let code = code.map(|range| range.start as usize..range.end as usize).collect();
        let mut unwinder = UnwinderNative::new();
        modules.into_iter().for_each(|module| unwinder.add_module(module));
        Self {
            unwinder,
            cache: CacheNative::new(),
            code,
        }
    }

    /// Whether there may be code at this address.
    pub(super) fn is_code(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }

    /// The addresses of the calls that led to `at`, the innermost first, and the stack pointer of the outermost; `read` gives the
    /// words of the stack.
    pub(super) fn walk(&mut self, at: Registers, read: impl Fn(usize) -> Option<usize>) -> (Vec<usize>, usize) {
        let mut read = |address: u64| read(address as usize).map(|word| word as u64).ok_or(());
        #[cfg(target_arch = "x86_64")]
        let mut registers = UnwindRegsNative::new(at.ip as u64, at.sp as u64, at.fp as u64);
        #[cfg(target_arch = "aarch64")]
        let mut registers = UnwindRegsNative::new(at.ip as u64, at.sp as u64, at.fp as u64);
        let mut calls = Vec::new();
        let mut next = Some(FrameAddress::from_instruction_pointer(at.ip as u64));
        while calls.len() < FRAMES
            && let Some(frame) = next
        {
            calls.push(frame.address_for_lookup() as usize);
            let caller = self
                .unwinder
                .unwind_frame(frame, &mut registers, &mut self.cache, &mut read);
            next = caller.ok().flatten().and_then(FrameAddress::from_return_address);
        }
        (calls, registers.sp() as usize)
    }
}

/// Adds one loaded object to the vector behind `modules`.
///
/// # Safety
///
/// Called by `dl_iterate_phdr` with a `Vec<Module>`.
unsafe extern "C" fn add_module(info: *mut libc::dl_phdr_info, _: libc::size_t, modules: *mut c_void) -> c_int {
    // SAFETY: as the caller promised.
    let (info, modules) = unsafe { (&*info, &mut *modules.cast::<Vec<Module<&'static [u8]>>>()) };
    // SAFETY: the loader says so.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let range = |header: &libc::Elf64_Phdr| header.p_vaddr..header.p_vaddr + header.p_memsz;
    // SAFETY: a segment that is loaded and readable; objects that are unloaded meanwhile are the program's risk.
    let bytes = |range: &Range<u64>| unsafe {
        let at = (info.dlpi_addr + range.start) as usize;
        slice::from_raw_parts(
            ptr::with_exposed_provenance::<u8>(at),
            (range.end - range.start) as usize,
        )
    };
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let tables = headers
        .iter()
        .find(|header| header.p_type == libc::PT_GNU_EH_FRAME)
        .map(range);
    let code = loaded().find(|header| header.p_flags & libc::PF_X != 0).map(range);
    let (Some(index), Some(code)) = (tables, code) else {
        return 0;
    };
    let Some(segment) = loaded().map(range).find(|segment| segment.contains(&index.start)) else {
        return 0;
    };
    // The index begins with a version, the encoding of a pointer, two more bytes, and that pointer: to the table itself.
    // Linkers write it as 32 bits relative to itself.
    const RELATIVE_32: u8 = 0x1b;
    let head = bytes(&index);
    let (Some(&[1, RELATIVE_32, _, _]), Some(offset)) = (head.first_chunk::<4>(), head.get(4..8)) else {
        return 0;
    };
    let offset = i32::from_ne_bytes([offset[0], offset[1], offset[2], offset[3]]);
    let table = (index.start + 4).wrapping_add_signed(offset.into())..segment.end;
    if !segment.contains(&table.start) {
        return 0;
    }
    let all = loaded()
        .map(range)
        .fold(code.clone(), |all, one| all.start.min(one.start)..all.end.max(one.end));
    let sections = ExplicitModuleSectionInfo {
        base_svma: 0,
        text: Some(bytes(&code)),
        text_svma: Some(code),
        eh_frame: Some(bytes(&table)),
        eh_frame_svma: Some(table),
        eh_frame_hdr: Some(head),
        eh_frame_hdr_svma: Some(index),
        ..Default::default()
    };
    let addresses = info.dlpi_addr + all.start..info.dlpi_addr + all.end;
    modules.push(Module::new(String::new(), addresses, info.dlpi_addr, sections));
    0
}

/// Names of functions, each looked up once.
#[derive(Default)]
pub(super) struct Symbols(HashMap<usize, Option<String>>);

/// Parts of names that say only how a goroutine is run or parked, not what it does.
const PLUMBING: [&str; 13] = [
    "baton::debug::",
    "baton::g::",
    "baton::lock::",
    "baton::park::",
    "baton::sched::",
    "baton::waitlist::",
    "core::ops::function::",
    "core::panic::unwind_safe::",
    "corosensei::",
    "baton_goroutine_begins",
    "std::panic::catch_unwind",
    "std::panicking::",
    "__rust_try",
];

/// The same for functions that were inlined, whose names come without a path: where their source lies.
const PLUMBING_FILES: [&str; 10] = [
    "runtime/src/debug/",
    "runtime/src/g.rs",
    "runtime/src/lock.rs",
    "runtime/src/park.rs",
    "runtime/src/sched/",
    "runtime/src/waitlist.rs",
    "/corosensei-",
    "library/core/src/",
    "library/std/src/panic",
    "library/alloc/src/",
];

impl Symbols {
    /// What a backtrace prints for this address: a line or two for each function, inlined ones too; nothing for those that
    /// are the runtime's inside.
    fn lines(&mut self, ip: usize) -> &str {
        self.look_up(ip).as_deref().unwrap_or("    ?\n")
    }

    /// Prints these calls, without the words at the end that are no code of anybody's: where a walk went wrong.
    pub(super) fn print(&mut self, calls: &[usize], out: &mut impl Write) -> fmt::Result {
        let last = calls.iter().rposition(|&ip| self.is_known(ip));
        let known = &calls[..last.map_or(0, |last| last + 1)];
        known.iter().try_for_each(|&ip| out.write_str(self.lines(ip)))
    }

    /// Whether it is in a function that has a name.
    fn is_known(&mut self, ip: usize) -> bool {
        self.look_up(ip).is_some()
    }

    fn look_up(&mut self, ip: usize) -> &Option<String> {
        self.0.entry(ip).or_insert_with(|| {
            let mut text = None;
            backtrace::resolve(ptr::without_provenance_mut(ip), |symbol| {
                let Some(name) = symbol.name() else { return };
                let name = format!("{name:#}");
                let text = text.get_or_insert_with(String::new);
                let file = symbol.filename().map(|file| file.display().to_string());
                let lies_in = |plumbing| file.as_ref().is_some_and(|file| file.contains(plumbing));
                if PLUMBING.iter().any(|plumbing| name.contains(plumbing)) || PLUMBING_FILES.into_iter().any(lies_in) {
                    return;
                }
                let _ = writeln!(text, "    {name}");
                if let (Some(file), Some(line)) = (&file, symbol.lineno()) {
                    let _ = writeln!(text, "        at {file}:{line}");
                }
            });
            text
        })
    }
}

impl fmt::Debug for Unwinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwinder").finish_non_exhaustive()
    }
}
