//! The fault handler: where a trap on a goroutine's stack becomes a larger stack.
//!
//! ```text
//!   SIGSEGV ─▶ this thread runs a goroutine?  ──no──▶ pass on
//!              fault and stack pointer in its reservation, not far apart?  ──no──▶ the end of the thread's own stack?
//!                                                                                   ──yes──▶ report that, abort
//!                                                                                   ──no───▶ pass on
//!              above the bottom guard?  ──no──▶ may only the goroutine end?  ──yes──▶ leave its stack for good
//!                                                                           ──no───▶ report the overflow, abort
//!              copystack::grow, return to the faulting instruction
//! ```
//!
//! # Invariants
//!
//! 1. The handler takes no lock and no latch and allocates nothing, so a trap inside malloc or inside a section is
//!    harmless. It leaves errno as it was.
//! 2. It runs on the thread's alternate stack ([`AltStack`]) with all signals blocked, since the stack that it grows has
//!    no room for it, and since nothing else may run between the fault and the growth.
//! 3. It grows only the stack that its own thread runs on, by that stack's own pointer (`copystack::judge`).
//!
//! # Ending the goroutine alone
//!
//! The scheduler may say that an overflow ends nothing but the goroutine ([`set_on_overflow`]). Then the handler returns not
//! to the faulting instruction but to a function of the scheduler's, on the thread's alternate stack, which is free as
//! soon as the handler has returned, and that function switches away for ever. Nothing on the overflowed stack is dropped or
//! used again. Not if it would leave something half done: a section of the latch, a lock of the allocator or one of the scheduler's that is open,
//! or a handler of another signal that the goroutine was in (which shows in the signals that are blocked).
//!
//! # Passing on
//!
//! What is not ours goes to the action that was there before. std's own handler, if it does not know the address either,
//! puts the default action back *for the signal*, ours included, and returns; the instruction faults again and the
//! process dies as it would have without us. So it is called for faults that are fatal anyway, and only for these. A
//! handler that repairs what it finds (a collector's write barrier) returns, and the program goes on; the next trap is
//! ours again.
//!
//! SIGBUS is left alone: private anonymous memory, which stacks are, never raises it.

use crate::{
    StackError,
    copystack::{self, Verdict},
    reservation::Desc,
    sys::{
        backtrace, context,
        process::{self, OwnStack, PAGE},
        signal::{self, Altstack},
        stderr::Report,
    },
};
use baton_alloc::{Lock, current, latch};
use core::{
    cell::Cell,
    ffi::{c_int, c_void},
    fmt::{self, Write as _},
    mem, ptr,
    sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicUsize, Ordering},
};

/// The action that was there before: function and flags. Written before the handler is installed.
static OLD_HANDLER: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static OLD_FLAGS: AtomicI32 = AtomicI32::new(0);
/// 1 once the handler is installed. Written under `INSTALL`.
static INSTALLED: AtomicU8 = AtomicU8::new(0);
static INSTALL: Lock = Lock::new();
/// A [`Describe`], or null.
static DESCRIBE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Writes who a stack's owner is, for instance `goroutine 17 "reader"`; `owner` is what [`Desc::set_owner`] said, null
/// included. Runs in a signal handler: it may not allocate, lock or panic.
pub type Describe = fn(owner: *const (), out: &mut dyn fmt::Write);

/// Says how reports name the owner of a stack ([`Desc::set_owner`]).
pub fn set_describe(describe: Describe) {
    DESCRIBE.store(describe as *mut (), Ordering::Release);
}

/// Where a goroutine goes on whose stack has overflowed: on another stack, which is small and the thread's own. It switches
/// away from there and never comes back.
pub type Leave = extern "C" fn() -> !;

/// Says whether the overflow of a stack with this owner ends its goroutine alone, and how it leaves. Runs in a signal
/// handler: it may not allocate, lock or panic.
pub type OnOverflow = fn(owner: *const ()) -> Option<Leave>;

/// An [`OnOverflow`], or null.
static ON_OVERFLOW: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Says what an overflow does. Without this it ends the process.
pub fn set_on_overflow(on_overflow: OnOverflow) {
    ON_OVERFLOW.store(on_overflow as *mut (), Ordering::Release);
}

/// Installs the fault handler, once for the process; later calls do nothing. Threads that run goroutines need an
/// [`AltStack`] as well.
///
/// # Errors
///
/// If the kernel refuses.
pub fn install() -> Result<(), StackError> {
    if INSTALLED.load(Ordering::Acquire) != 0 {
        return Ok(());
    }
    INSTALL.with(|| {
        if INSTALLED.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        let failed = |errno| StackError::Signal { errno };
        let old = signal::action(libc::SIGSEGV).map_err(failed)?;
        OLD_HANDLER.store(old.handler, Ordering::Relaxed);
        OLD_FLAGS.store(old.flags, Ordering::Relaxed);
        // SAFETY: invariant 1; what is not a goroutine's goes to the action just read.
        unsafe { signal::set_handler(libc::SIGSEGV, on_fault) }.map_err(failed)?;
        INSTALLED.store(1, Ordering::Release);
        Ok(())
    })
}

/// Signals by which the C library reaches all threads (cancellation, changes of user and group); no mask keeps them off.
const LIBRARY_SIGNALS: [c_int; 2] = [32, 33];

/// Room that the handler has on the alternate stack beside the signal frame: for reports, and for the handlers that
/// others chained behind it.
const ALTSTACK: usize = 64 << 10;

/// The calling thread's alternate signal stack. A thread that ends drops it last; one that lives as long as the process
/// may [`forget`](mem::forget) it.
#[derive(Debug)]
pub struct AltStack {
    /// `None` if the thread had one that is large enough.
    own: Option<Altstack>,
}

impl AltStack {
    /// Gives the calling thread an alternate signal stack that is large enough for the fault handler, if it has none.
    ///
    /// # Errors
    ///
    /// If the memory cannot be had, or if the thread runs on its alternate stack just now.
    pub fn install() -> Result<Self, StackError> {
        let this = match Altstack::current() {
            Some((_, size)) if size >= Self::wanted() => Self { own: None },
            _ => Self::map()?,
        };
        this.hold()?;
        Ok(this)
    }

    /// Maps one for a thread that has yet to start, so that this thread cannot fail for want of it: its first steps are
    /// [`hold`](Self::hold) and nothing before that.
    ///
    /// # Errors
    ///
    /// If the memory cannot be had.
    pub fn map() -> Result<Self, StackError> {
        let own = Altstack::map(Self::wanted()).map_err(|errno| StackError::Signal { errno })?;
        Ok(Self { own: Some(own) })
    }

    /// Makes it the calling thread's, which keeps it until it drops it.
    ///
    /// # Errors
    ///
    /// If the thread runs on its alternate stack just now.
    pub fn hold(&self) -> Result<(), StackError> {
        // The C library installs its handlers when the first thread is made, or later: so at each thread.
        LIBRARY_SIGNALS.into_iter().for_each(signal::use_alternate_stack);
        match &self.own {
            Some(own) => own.hold().map_err(|errno| StackError::Signal { errno }),
            None => Ok(()),
        }
    }

    /// Bytes of a stack that is large enough.
    fn wanted() -> usize {
        (process::signal_frame_bytes() + ALTSTACK).next_multiple_of(PAGE)
    }
}

thread_local! {
    /// This thread's own stack, if it is one of the scheduler's. Without destructor, and written before the handler reads it.
    static OWN: Cell<OwnStack> = const { Cell::new(OwnStack::NONE) };
}

/// Has an overflow of the calling thread's own stack, by a goroutine that went there, reported like that of its own (std's handler
/// knows the threads that std started, and no others). For threads of the scheduler, before they set `M.sched`; they need an
/// [`AltStack`].
pub fn watch_own_stack() {
    OWN.with(|own| own.set(OwnStack::of_this_thread()));
}

/// The handler.
///
/// # Safety
///
/// The kernel calls it, as `SA_SIGINFO` promises.
unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = process::errno();
    // SAFETY: the kernel gives both, valid until the handler returns.
    let (fault, machine) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    if !on_goroutine(fault, machine) {
        // SAFETY: the arguments are what the kernel gave.
        unsafe { pass_on(signal, info, context) };
    }
    process::set_errno(errno);
}

/// Deals with a fault of a goroutine's stack; `false` if it is something else.
fn on_goroutine(info: &libc::siginfo_t, machine: &mut libc::ucontext_t) -> bool {
    if info.si_code <= 0 {
        return false; // sent by somebody, not a fault
    }
    let Some(m) = current::m() else { return false };
    // SAFETY: this thread's word is null or a descriptor, as its scheduler keeps it, and these are never freed.
    let Some(desc) = (unsafe { m.stack.load(Ordering::Relaxed).cast::<Desc>().as_ref() }) else {
        return false;
    };
    let sp = context::stack_pointer(machine);
    let address = (info.si_code != libc::SI_KERNEL).then(|| {
        // SAFETY: a SIGSEGV that the kernel raised for an access carries the address.
        unsafe { info.si_addr() as usize }
    });
    match copystack::judge(desc, address, sp) {
        Verdict::Grow(target) => {
            // SAFETY: `judge` said so, and this is the thread that runs on the stack.
            if let Err(errno) = unsafe { copystack::grow(desc, target, address) } {
                report_refusal(desc, errno);
            }
            true
        }
        // A bad pointer that no address goes with, close to the end of the stack by chance.
        Verdict::Overflow if address.is_none() && context::is_protection_fault(machine) => false,
        Verdict::Overflow => {
            match way_out(m, desc, machine) {
                Some((leave, stack)) => context::go_on_at(machine, leave, stack),
                None => report_overflow(desc, sp),
            }
            true
        }
        Verdict::NotOurs => {
            if !m.sched.load(Ordering::Relaxed).is_null() {
                let own = OWN.with(Cell::get);
                if address.is_some_and(|address| own.guard().contains(&address)) {
                    report_own_overflow(desc, own, sp);
                }
            }
            false
        }
    }
}

/// How the goroutine on `desc` alone may end, and the stack for it; `None` if the process must.
fn way_out(m: &latch::M, desc: &Desc, machine: &libc::ucontext_t) -> Option<(Leave, usize)> {
    let on_overflow = ON_OVERFLOW.load(Ordering::Acquire);
    if on_overflow.is_null()
        || m.is_inside()
        || m.holds_lock()
        || m.locks.load(Ordering::Relaxed) != 0
        || signal::is_in_handler(machine)
    {
        return None;
    }
    // SAFETY: not null, so it is what `set_on_overflow` stored.
    let on_overflow = unsafe { mem::transmute::<*mut (), OnOverflow>(on_overflow) };
    let leave = on_overflow(desc.owner())?;
    let (bottom, size) = Altstack::current()?;
    Some((leave, bottom as usize + size))
}

/// Does what would have been done without this handler.
///
/// # Safety
///
/// The arguments are what the kernel gave to a handler of `signal`.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let flags = OLD_FLAGS.load(Ordering::Relaxed);
    let old = if flags & libc::SA_RESETHAND != 0 {
        OLD_HANDLER.swap(libc::SIG_DFL, Ordering::Relaxed)
    } else {
        OLD_HANDLER.load(Ordering::Relaxed)
    };
    // SAFETY: as the caller promised.
    let sent = unsafe { (*info).si_code } <= 0;
    match old {
        // A fault cannot be ignored: the kernel would end the process.
        libc::SIG_IGN if sent => {}
        libc::SIG_IGN | libc::SIG_DFL => {
            signal::set_default(signal);
            if sent {
                signal::raise(signal); // pending until this handler returns
            } // else the instruction faults again
        }
        function if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO what the kernel kept is such a function.
            let function = unsafe { mem::transmute::<usize, signal::Handler>(function) };
            // SAFETY: called as the kernel would have.
            unsafe { function(signal, info, context) }
            again_if_given_up(signal, sent);
        }
        function => {
            // SAFETY: without SA_SIGINFO what the kernel kept is such a function.
            let function = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(function) };
            function(signal);
            again_if_given_up(signal, sent);
        }
    }
}

/// The handler before this one may not know what to do, and put the default action in its own place, as std's does: for a fault, which comes
/// again, that is right. A signal that was sent does not come again, and the process would go on without a handler; so it is sent again.
fn again_if_given_up(signal: c_int, sent: bool) {
    if sent && signal::action(signal).is_ok_and(|action| action.handler == libc::SIG_DFL) {
        signal::raise(signal);
    }
}

/// Starts a report: "baton: ", and who runs on `desc`.
fn report_on(desc: &Desc) -> Report {
    let mut report = Report::new();
    // Writing to the buffer cannot fail: what is too long is cut.
    let _ = report.write_str("baton: ");
    let describe = DESCRIBE.load(Ordering::Acquire);
    if describe.is_null() {
        let _ = report.write_str("a goroutine");
    } else {
        // SAFETY: not null, so it is what `set_describe` stored.
        let describe = unsafe { mem::transmute::<*mut (), Describe>(describe) };
        describe(desc.owner(), &mut report);
    }
    report
}

#[cold]
fn report_overflow(desc: &Desc, sp: usize) -> ! {
    let mut report = report_on(desc);
    let _ = writeln!(
        report,
        " has overflowed its stack: {} of {} bytes are used, and it needs more (stack [{:#x}, {:#x}), stack pointer \
         {sp:#x})\n  cure: if that depth is meant, raise the limit with Builder::max_stack(bytes), \
         Runtime::builder().max_stack(bytes) or BATON_MAX_STACK=bytes; else look for a recursion without end; \
         Builder::on_stack_overflow(End) lets such a goroutine end alone\n  the innermost frames:",
        desc.base() - sp.max(desc.floor()),
        desc.spec().reservation(),
        desc.floor(),
        desc.base(),
    );
    drop(report);
    backtrace::print(desc.range());
    process::abort()
}

/// The goroutine on `desc` is in `on_big_stack`, and has used up what its thread has.
#[cold]
fn report_own_overflow(desc: &Desc, own: OwnStack, sp: usize) -> ! {
    let usable = own.usable();
    let mut report = report_on(desc);
    let _ = writeln!(
        report,
        " has overflowed the stack of its thread in on_big_stack: all {} bytes are used (stack pointer {sp:#x})\n  cure: if \
         that depth is meant, stack::grow(bytes, ..) gives as much as is asked for; else look for a recursion without \
         end\n  the innermost frames:",
        usable.len(),
    );
    drop(report);
    backtrace::print(usable);
    process::abort()
}

#[cold]
fn report_refusal(desc: &Desc, errno: c_int) -> ! {
    let mut report = report_on(desc);
    let _ = writeln!(
        report,
        ": its stack cannot grow beyond {} bytes: the kernel refuses madvise(MADV_GUARD_REMOVE) (errno {errno})\n  \
         cure: allow madvise in this process's seccomp filter, or let stacks grow without it: StackGrowth::DemandPaged, \
         BATON_GUARD=mprotect",
        desc.extent(),
    );
    drop(report);
    process::abort()
}
