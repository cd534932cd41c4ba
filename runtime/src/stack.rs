//! More stack for a while, and how much is left: for recursion whose depth nobody knows before, in goroutines and in plain
//! threads.
//!
//! ```
//! use baton::stack;
//!
//! /// Counts down, however far it is.
//! fn count(n: u64) -> u64 {
//!     if n == 0 {
//!         return 0;
//!     }
//!     // 64 KiB is more than this frame and what it calls need; a new stack holds many of them.
//!     let below = if stack::remaining() < 64 << 10 { stack::grow(4 << 20, || count(n - 1)) } else { count(n - 1) };
//!     below + 1
//! }
//!
//! baton::run(|| assert_eq!(baton::go!(|| count(100_000)).join().unwrap(), 100_000));
//! std::thread::spawn(|| assert_eq!(count(100_000), 100_000)).join().unwrap();
//! ```
//!
//! A goroutine's stack has its address space for good, so what it can grow to is fixed when it starts. [`grow`] runs a closure
//! on another stack if need be; frames below stay where they are. The other stack comes from the pools that goroutines
//! have theirs from, and goes back there: the second time it is warm.
//!
//! # How the two stacks change places
//!
//! The fault handler grows the stack that its thread's M names. That word, and the goroutine's own note of it, are set by the
//! closure that runs on the new stack, first thing, and set back by it last thing: the first 64 KiB of any stack are plain
//! memory, and cannot trap while the word names the other one. A goroutine may park on the new stack, and go on on another
//! thread: what suspends it keeps a stack pointer, and does not care which stack that is in.

use crate::{fatal, g::Lowered, m, sched::scavenge};
use baton_alloc::{current, latch, lease};
pub use baton_stack::StackError;
use baton_stack::{AltStack, Class, Desc, MAX_RESERVATION, Spec, Stack, StackGrowth};
use corosensei::on_stack;
use std::{
    cell::{Cell, OnceCell},
    ptr,
    sync::atomic::Ordering::Relaxed,
};

/// What the switch and the first frames on a new stack take of it, with room to spare.
const OVERHEAD: usize = 8 << 10;

/// The bytes that are left on the stack that the caller runs on: a goroutine's, one of [`grow`]'s, or a thread's own. What of
/// it is not memory yet becomes memory when it is used.
///
/// ```
/// baton::run(|| assert!(baton::stack::remaining() > 512 << 10));
/// assert!(baton::stack::remaining() > 16 << 10);
/// ```
#[must_use]
pub fn remaining() -> usize {
    let here = 0_u8;
    let sp = ptr::from_ref(&here).addr();
    match running() {
        Some((_, stack)) if stack.range().contains(&sp) => stack.remaining(sp),
        _ => sp.saturating_sub(thread_floor()), // its goroutine, if there is one, is in `on_big_stack`
    }
}

/// Runs `f` with at least `bytes` of stack: where the caller is, if so much is left, else on a stack of its own. May be
/// nested. Panics of `f` pass through.
///
/// Like a goroutine's, the stack is address space until it is used. A goroutine that was to end alone when its stack
/// overflows ([`on_stack_overflow`](crate::Builder::on_stack_overflow)) does so on such a stack as well.
///
/// # Panics
///
/// If `bytes` is more than 1 GiB, or if there is no address space for such a stack; [`try_grow`] says so instead.
///
/// ```
/// let sum = baton::stack::grow(8 << 20, || {
///     let numbers = [1_u8; 4 << 20];
///     std::hint::black_box(&numbers).iter().map(|&n| u64::from(n)).sum::<u64>()
/// });
/// assert_eq!(sum, 4 << 20);
/// ```
#[track_caller]
pub fn grow<R>(bytes: usize, f: impl FnOnce() -> R) -> R {
    match try_grow(bytes, f) {
        Ok(result) => result,
        Err(error) => panic!("stack::grow: {error}"),
    }
}

/// [`grow`], with an error instead of a panic if there is no such stack; then `f` was not called.
///
/// # Errors
///
/// `bytes` is more than 1 GiB, or the address space for it cannot be had. The error's text says what to change.
///
/// ```
/// assert!(baton::stack::try_grow(2 << 30, || ()).is_err());
/// assert_eq!(baton::stack::try_grow(2 << 20, || 5), Ok(5));
/// ```
pub fn try_grow<R>(bytes: usize, f: impl FnOnce() -> R) -> Result<R, StackError> {
    if remaining() >= bytes {
        return Ok(call(f));
    }
    let (growth, owner) = match m::current_goroutine() {
        Some((m, g)) => (m.sched.config.stack.growth(), g.as_ptr().cast_const().cast()),
        None => {
            // Without a scheduler there may be no handler to grow anything, so this one never traps.
            prepare_thread()?;
            (StackGrowth::DemandPaged, ptr::null())
        }
    };
    if bytes > MAX_RESERVATION {
        return Err(StackError::TooLarge { asked: bytes });
    }
    let spec = Spec::with_growth((bytes + OVERHEAD).min(MAX_RESERVATION), growth)?;
    let borrowed = Borrowed(Some(scavenge::acquire(spec, Class::MIN)?));
    let stack = borrowed.desc();
    stack.set_owner(owner);
    // The stack is nobody else's until `borrowed` is dropped, which is after the call.
    Ok(on_stack(Lowered(stack), move || {
        let _on = On::new(stack);
        call(f)
    }))
}

/// A call that is one: else the locals of `f` would be the caller's, and be on the stack before there is room, or before the
/// fault handler knows of the new one.
#[inline(never)]
fn call<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// A stack that goes back to its pool.
struct Borrowed(Option<Stack>);

impl Borrowed {
    fn desc(&self) -> &'static Desc {
        self.0.as_ref().expect("it is there until the drop").desc()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(stack) = self.0.take() {
            stack.desc().set_owner(ptr::null());
            baton_stack::release(stack);
        }
    }
}

/// Says that this stack runs, and at the end that the one before does again.
struct On(Option<&'static Desc>);

impl On {
    fn new(stack: &'static Desc) -> Self {
        let before = running().map(|(_, stack)| stack);
        run_on(Some(stack));
        Self(before)
    }
}

impl Drop for On {
    fn drop(&mut self) {
        run_on(self.0);
    }
}

/// This thread's M and the stack that it runs on; `None` if that is the thread's own.
fn running() -> Option<(&'static latch::M, &'static Desc)> {
    let m = current::m()?;
    // SAFETY: null or a stack's descriptor, and these are never freed.
    Some((m, unsafe { m.stack.load(Relaxed).cast::<Desc>().as_ref() }?))
}

/// Names the stack that runs on this thread, and in this goroutine.
#[inline(never)]
fn run_on(stack: Option<&'static Desc>) {
    let Some(m) = current::m() else { return };
    m.stack.store(stack.map_or(ptr::null_mut(), Desc::as_word), Relaxed);
    if let (Some(m), Some(stack)) = (m::current(), stack)
        // SAFETY: null, or the body of the goroutine that runs here.
        && let Some(body) = unsafe { m.body.get().as_ref() }
    {
        body.running.set(stack);
    }
}

thread_local! {
    // Of plain threads only: a goroutine's thread may change over a call, and these would not.
    /// The lowest address of this thread's own stack, 0 if it is not known yet.
    static FLOOR: Cell<usize> = const { Cell::new(0) };
    /// Where this thread's fault handler runs.
    static ALTERNATE: OnceCell<AltStack> = const { OnceCell::new() };
}

#[inline(never)]
fn thread_floor() -> usize {
    let known = FLOOR.with(Cell::get);
    if known != 0 {
        return known;
    }
    let floor = baton_stack::own_stack_floor();
    FLOOR.with(|f| f.set(floor));
    floor
}

/// Sees to it that an overflow of what this plain thread is about to run on is reported.
#[inline(never)]
fn prepare_thread() -> Result<(), StackError> {
    lease::attach();
    baton_stack::set_describe(fatal::describe);
    baton_stack::install()?;
    ALTERNATE.with(|alternate| {
        if alternate.get().is_none() {
            let _ = alternate.set(AltStack::install()?);
        }
        Ok(())
    })
}
