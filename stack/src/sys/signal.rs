//! Actions of signals and alternate signal stacks.

use super::process::{self, PAGE};
use core::{
    ffi::{c_int, c_void},
    mem,
    mem::size_of,
    ptr,
};

/// What a signal handler with `SA_SIGINFO` looks like.
pub(crate) type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// What is to be done about a signal.
#[derive(Clone, Copy)]
pub(crate) struct Action {
    /// `SIG_DFL`, `SIG_IGN` or the address of a function.
    pub(crate) handler: usize,
    /// `SA_` flags.
    pub(crate) flags: c_int,
}

/// What is done about `signal` at present.
pub(crate) fn action(signal: c_int) -> Result<Action, c_int> {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only reads the action, into a struct of ours.
    if unsafe { libc::sigaction(signal, ptr::null(), &raw mut old) } != 0 {
        return Err(process::errno());
    }
    Ok(Action {
        handler: old.sa_sigaction,
        flags: old.sa_flags,
    })
}

/// Makes `handler` the action of `signal`: on the alternate stack, with every other signal blocked meanwhile.
///
/// # Safety
///
/// `handler` is async-signal-safe and right for every thread of the process.
pub(crate) unsafe fn set_handler(signal: c_int, handler: Handler) -> Result<(), c_int> {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut new: libc::sigaction = unsafe { mem::zeroed() };
    new.sa_sigaction = handler as usize;
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the set is ours.
    unsafe { libc::sigfillset(&raw mut new.sa_mask) };
    // SAFETY: the struct is complete, the handler is as the caller promised.
    let r = unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) };
    if r == 0 { Ok(()) } else { Err(process::errno()) }
}

/// What the kernel keeps of an action; the C library's own signals can be asked about in this form only.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Sees to it that a handler that others installed for `signal`, if there is one, runs on the alternate stack of threads that
/// have one. For signals that cannot be blocked on a thread that runs goroutines: the C library's own, by which it has all
/// threads change their user or group, or end.
pub(crate) fn use_alternate_stack(signal: c_int) {
    let mut action = KernelAction {
        handler: 0,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    let none = ptr::null_mut::<KernelAction>();
    // SAFETY: the struct is laid out as the kernel's on both architectures, and lives here.
    let known = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, none, &raw mut action, size_of::<u64>()) } == 0;
    let on_stack = libc::SA_ONSTACK as libc::c_ulong;
    if known && action.handler > libc::SIG_IGN && action.flags & on_stack == 0 {
        action.flags |= on_stack;
        // SAFETY: as above; it is the action that was there, but for the stack that it runs on.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                none,
                size_of::<u64>(),
            )
        };
    }
}

/// Makes `signal` do what it does by default. Async-signal-safe.
pub(crate) fn set_default(signal: c_int) {
    // SAFETY: all-zero bytes are a valid sigaction, and mean SIG_DFL.
    let new: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: the struct is complete; the default action needs no code of ours.
    unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) };
}

/// Sends `signal` to the calling thread. Async-signal-safe.
pub(crate) fn raise(signal: c_int) {
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(signal) };
}

/// The signals that report what an instruction did; no scheduler's thread blocks them.
const SYNCHRONOUS: [c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// Whether the interrupted code was the handler of such a signal: while one runs, its signal is blocked.
pub(crate) fn is_in_handler(context: &libc::ucontext_t) -> bool {
    let blocked = &raw const context.uc_sigmask;
    // SAFETY: the set lives in the context.
    SYNCHRONOUS
        .iter()
        .any(|&signal| unsafe { libc::sigismember(blocked, signal) } == 1)
}

/// A mapping that serves as alternate signal stack, with a guard page below it.
#[derive(Debug)]
pub(crate) struct Altstack {
    mapping: *mut c_void,
    len: usize,
}

impl Altstack {
    /// The calling thread's alternate stack: where it is and how long, `None` if it has none.
    pub(crate) fn current() -> Option<(*mut c_void, usize)> {
        let mut old = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: 0,
            ss_size: 0,
        };
        // SAFETY: only reads the setting, into a struct of ours.
        unsafe { libc::sigaltstack(ptr::null(), &raw mut old) };
        (old.ss_flags & libc::SS_DISABLE == 0 && !old.ss_sp.is_null()).then_some((old.ss_sp, old.ss_size))
    }

    /// Maps a stack of `usable` bytes, a multiple of the page size.
    pub(crate) fn map(usable: usize) -> Result<Self, c_int> {
        let len = usable + PAGE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing that exists.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(process::errno());
        }
        let this = Self { mapping, len };
        let bottom = mapping.wrapping_byte_add(PAGE);
        // SAFETY: inside the mapping just made; the first page stays inaccessible.
        if unsafe { libc::mprotect(bottom, usable, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(process::errno());
        }
        Ok(this)
    }

    /// Makes it the calling thread's.
    pub(crate) fn hold(&self) -> Result<(), c_int> {
        self.set(self.mapping.wrapping_byte_add(PAGE), 0, self.len - PAGE)
    }

    fn set(&self, bottom: *mut c_void, flags: c_int, size: usize) -> Result<(), c_int> {
        let new = libc::stack_t {
            ss_sp: bottom,
            ss_flags: flags,
            ss_size: size,
        };
        // SAFETY: the kernel only notes the range; it is this mapping's, which lives until `drop` takes it away again,
        // or nothing at all.
        let r = unsafe { libc::sigaltstack(&raw const new, ptr::null_mut()) };
        if r == 0 { Ok(()) } else { Err(process::errno()) }
    }
}

// SAFETY: a mapping belongs to no thread; dropped by one that does not hold it, it just goes.
unsafe impl Send for Altstack {}

impl Drop for Altstack {
    fn drop(&mut self) {
        let ours = self.mapping.wrapping_byte_add(PAGE);
        if Self::current().is_some_and(|(bottom, _)| bottom == ours)
            && self.set(ptr::null_mut(), libc::SS_DISABLE, 0).is_err()
        {
            return; // a handler runs on it just now: leave it to the process
        }
        // SAFETY: the mapping is ours, and the kernel puts no more signal frames on it.
        unsafe { libc::munmap(self.mapping, self.len) };
    }
}
