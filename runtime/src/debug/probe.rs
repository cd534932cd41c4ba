//! The stack of a goroutine that runs, for its backtrace: a copy, by which nobody is held up.
//!
//! ```text
//!   its thread sleeps in the kernel ── /proc says where ──────────▶ copy through /proc/self/mem    no signal: nothing is
//!                                                                                                  interrupted (EINTR)
//!   it computes ── SIGURG to this thread ─▶ the handler copies registers and stack into a slot of its M, and returns
//! ```
//!
//! Only a copy is walked, later and by who asked: walking takes memory and locks, and the thread may be inside malloc.
//!
//! SIGURG, because by default it is ignored: one that comes late, or to a thread that is not meant, does nothing. Ms have it
//! unblocked. If the program handles it, it is the program's: then those that compute have no backtrace. Where /proc is denied
//! nobody can say whether a thread sleeps, and no running goroutine has one.
//!
//! # Invariants
//!
//! 1. Slots are never freed, and each belongs to one M, whose handler alone writes what is in it, between `ASKED` and `DONE`.
//! 2. The handler runs on the alternate stack with all signals blocked, takes no lock and no memory, leaves errno as it was,
//!    and reads what lies between the interrupted stack pointer and the base of the stack, where all is open.
//!
//! | slot | whose it is | ends by |
//! |---|---|---|
//! | `REST` | nobody's | `ask` |
//! | `ASKED` | the one's who asked | the handler; or he gives up: `REST` |
//! | `COPIES` | the handler's | it is done; who asked gives up: `LEFT` |
//! | `DONE` | the one's who asked | he has it: `REST` |
//! | `LEFT` | the handler's | it is done: `REST` |

use super::unwind::{Registers, Unwinder};
use crate::{
    g::Body,
    m::{self, M},
    sched::os::{self, Doing},
};
use baton_alloc::futex;
use baton_stack::Desc;
use std::{
    cell::UnsafeCell,
    ffi::{c_int, c_void},
    fs::File,
    mem,
    os::unix::fs::FileExt,
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU32,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};

/// The signal by which a thread is asked.
pub(crate) const SIGNAL: c_int = libc::SIGURG;

/// So much of a stack is copied: more than [`FRAMES`](super::unwind::FRAMES) frames have, as a rule.
const ROOM: usize = 64 << 10;

/// How long a thread may take to answer, one that gets its turn of the CPU behind many others included.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

const REST: u32 = 0;
const ASKED: u32 = 1;
const COPIES: u32 = 2;
const DONE: u32 = 3;
const LEFT: u32 = 4;

/// An M's part in this.
pub(crate) struct Probe(AtomicPtr<Slot>);

struct Slot {
    state: AtomicU32,
    copy: UnsafeCell<Copied>,
}

#[repr(C, align(16))]
struct Copied {
    at: Registers,
    goroutine: u64,
    stack: *const Desc,
    len: usize,
    bytes: [u8; ROOM],
}

// SAFETY: the state says whose the copy is (invariant 1).
unsafe impl Sync for Slot {}

/// What was on a goroutine's stack at some moment.
pub(crate) struct Copy {
    at: Registers,
    /// The kernel says where a thread sleeps, but not where its frame pointer leads.
    has_fp: bool,
    /// The number of the goroutine.
    pub(super) goroutine: u64,
    stack: &'static Desc,
    /// From the stack pointer on.
    bytes: Vec<u8>,
}

/// A look at the goroutine that runs on some M.
pub(crate) enum Look {
    /// Its thread sleeps.
    Asleep(Copy),
    /// Its thread was asked.
    Asked(Asked),
}

/// A thread that was asked.
pub(crate) struct Asked(&'static Slot);

impl Probe {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn slot(&self) -> Option<&'static Slot> {
        // SAFETY: null or a slot (invariant 1).
        unsafe { self.0.load(Acquire).as_ref() }
    }

    /// The slot, made now if this M has none.
    fn make_slot(&self) -> &'static Slot {
        if let Some(slot) = self.slot() {
            return slot;
        }
        // SAFETY: zeros are a slot at rest, and a copy of nothing.
        let fresh = Box::into_raw(unsafe { Box::<Slot>::new_zeroed().assume_init() });
        match self.0.compare_exchange(ptr::null_mut(), fresh, AcqRel, Acquire) {
            // SAFETY: leaked just now.
            Ok(_) => unsafe { &*fresh },
            Err(first) => {
                // SAFETY: nobody has seen the one just made; the other one is a slot (invariant 1).
                unsafe {
                    drop(Box::from_raw(fresh));
                    &*first
                }
            }
        }
    }
}

/// Looks at the goroutine that runs on `m`, another thread's M. `None` if there is none, if it cannot be looked at, or if
/// somebody else is about to.
pub(crate) fn look(m: &'static M) -> Option<Look> {
    let tid = m.tid.load(Relaxed);
    let mut doing = os::doing(tid);
    loop {
        match doing {
            Doing::Sleeps { sp, ip } => {
                let copy = copy_sleeper(m, Registers { ip, sp, fp: 0 });
                let before = mem::replace(&mut doing, os::doing(tid));
                if before == doing {
                    return copy.map(Look::Asleep);
                }
                // It has got on meanwhile, and what was read may be a mixture.
            }
            Doing::Runs => return ask(m, tid).map(Look::Asked),
            Doing::Unknown => return None,
        }
    }
}

/// What is on the stack of the goroutine on `m`, whose thread sleeps there.
fn copy_sleeper(m: &'static M, at: Registers) -> Option<Copy> {
    let goroutine = m.goroutine.load(Relaxed);
    // SAFETY: null or a descriptor, and these are never freed.
    let stack = unsafe { m.latch().stack.load(Relaxed).cast::<Desc>().as_ref() }?;
    Some(Copy {
        at,
        has_fp: false,
        goroutine,
        stack,
        bytes: read_stack(stack, at.sp)?,
    })
}

/// What lies on `stack` from `sp` on. By the kernel, since the thread may get on and its stack be guarded meanwhile.
fn read_stack(stack: &Desc, sp: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; used(stack, sp)?];
    let read = File::open("/proc/self/mem").ok()?.read_at(&mut bytes, sp as u64).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// How much of `stack` is to be copied when the stack pointer is `sp`: `None` if that is not in its open part.
fn used(stack: &Desc, sp: usize) -> Option<usize> {
    (stack.limit()..stack.base())
        .contains(&sp)
        .then(|| (stack.base() - sp).min(ROOM))
}

/// Asks thread `tid`, which is that of `m`, for a copy.
fn ask(m: &'static M, tid: libc::pid_t) -> Option<Asked> {
    let slot = m.probe.make_slot();
    if !install() || slot.state.compare_exchange(REST, ASKED, AcqRel, Relaxed).is_err() {
        return None;
    }
    let asked = Asked(slot);
    // SAFETY: a signal that is ignored or handled, to a thread of this process or to none.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, SIGNAL) } == 0;
    sent.then_some(asked)
}

/// Installs the handler, unless the program has one for this signal. Whether it is in place.
fn install() -> bool {
    let ours = answer as unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    // SAFETY: the structures live here and are filled before they are used; the handler is right for every thread.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        if libc::sigaction(SIGNAL, ptr::null(), &raw mut action) != 0 {
            return false;
        }
        match action.sa_sigaction {
            there if there == ours => true,
            libc::SIG_DFL | libc::SIG_IGN => {
                action.sa_sigaction = ours;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
                libc::sigfillset(&raw mut action.sa_mask);
                libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) == 0
            }
            _ => false,
        }
    }
}

/// The handler.
///
/// # Safety
///
/// The kernel calls it, as `SA_SIGINFO` promises.
unsafe extern "C" fn answer(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(m) = m::current() else { return };
    let Some(slot) = m.probe.slot() else { return };
    if slot.state.compare_exchange(ASKED, COPIES, AcqRel, Relaxed).is_err() {
        return;
    }
    // SAFETY: the state gives the copy to this handler (invariant 1).
    let copy = unsafe { &mut *slot.copy.get() };
    // SAFETY: the kernel gave the context.
    copy.at = Registers::of(unsafe { &*context.cast::<libc::ucontext_t>() });
    copy.goroutine = m.goroutine.load(Relaxed);
    copy.stack = m.latch().stack.load(Relaxed).cast::<Desc>().cast_const();
    // SAFETY: null or a descriptor, and these are never freed.
    copy.len = unsafe { copy.stack.as_ref() }.map_or(0, |stack| used(stack, copy.at.sp).unwrap_or(0));
    // SAFETY: `used` bytes of the stack that this thread runs on, which are open (invariant 2).
    unsafe {
        ptr::copy_nonoverlapping(
            ptr::with_exposed_provenance::<u8>(copy.at.sp),
            copy.bytes.as_mut_ptr(),
            copy.len,
        );
    }
    if slot.state.compare_exchange(COPIES, DONE, AcqRel, Relaxed).is_err() {
        slot.state.store(REST, Release);
        return;
    }
    // SAFETY: errno is this thread's, and is put back.
    unsafe {
        let errno = *m.errno();
        futex::wake(&slot.state, 1);
        *m.errno() = errno;
    }
}

impl Asked {
    /// The copy, if it comes in time.
    fn wait(self, until: Instant) -> Option<Copy> {
        loop {
            let state = self.0.state.load(Acquire);
            if state == DONE {
                break;
            }
            let left = until.checked_duration_since(Instant::now())?;
            futex::wait(&self.0.state, state, Some(left));
        }
        // SAFETY: done, so the copy belongs to the one who asked (invariant 1).
        let copy = unsafe { &*self.0.copy.get() };
        Some(Copy {
            at: copy.at,
            has_fp: true,
            goroutine: copy.goroutine,
            // SAFETY: null or a descriptor, and these are never freed.
            stack: unsafe { copy.stack.as_ref() }?,
            bytes: copy.bytes[..copy.len].to_vec(),
        })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let state = &self.0.state;
        let rest = |from| state.compare_exchange(from, REST, AcqRel, Relaxed).is_ok();
        if !rest(ASKED) && state.compare_exchange(COPIES, LEFT, AcqRel, Relaxed).is_err() {
            let done = rest(DONE);
            debug_assert!(done, "who asked is the only one who gives up");
        }
    }
}

impl Look {
    /// Whether the thread slept.
    pub(super) fn is_asleep(&self) -> bool {
        matches!(self, Self::Asleep(_))
    }

    /// The copy, if it comes in time.
    pub(super) fn finish(self, until: Instant) -> Option<Copy> {
        match self {
            Self::Asleep(copy) => Some(copy),
            Self::Asked(asked) => asked.wait(until),
        }
    }
}

impl Copy {
    /// The calls that led there, the innermost first.
    ///
    /// Where the frame pointer is not known, and a function needs it that comes before those who saved it: the nearest place on
    /// the stack that makes a walk to the goroutine's first function.
    pub(super) fn walk(&self, unwinder: &mut Unwinder) -> Vec<usize> {
        let first = self.walk_with(self.at.fp, unwinder);
        if self.has_fp || first.1 {
            return first.0;
        }
        let frames = (0..self.bytes.len()).step_by(8).map(|offset| self.at.sp + offset);
        let frames = frames.filter(|fp| self.word(fp + 8).is_some_and(|caller| unwinder.is_code(caller)));
        let frames: Vec<_> = frames.collect();
        let whole = frames
            .into_iter()
            .map(|fp| self.walk_with(fp, unwinder))
            .find(|walk| walk.1);
        whole.unwrap_or(first).0
    }

    /// The calls, and whether they lead to the very end of the stack, where the goroutine's first function began.
    fn walk_with(&self, fp: usize, unwinder: &mut Unwinder) -> (Vec<usize>, bool) {
        let at = Registers { fp, ..self.at };
        let (calls, end) = unwinder.walk(at, |address| self.word(address));
        (calls, end == Body::place_on(self.stack).addr())
    }

    fn word(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.at.sp)?;
        let bytes = self.bytes.get(offset..)?.first_chunk()?;
        Some(usize::from_ne_bytes(*bytes))
    }
}
