//! A goroutine that ends because its stack is full.
//!
//! ```text
//!   fault handler ── on_overflow: may it end alone? ── no ──▶ report, abort
//!                                                   └─ yes ─▶ leave, on the thread's alternate stack
//!                                                               └─ leaves for good ─▶ g0 ends the goroutine
//! ```
//!
//! The goroutine's stack is left as it was, with all that is on it; nobody resumes it, and nobody takes its stack back. To
//! everybody else the goroutine has ended like any other: its `DONE` is set and its joiner is woken, by g0. Before that its stacks
//! forget whose they were, so that nothing leads to it once its block is gone.

use crate::{
    g::{Body, G, Kind, OnStackOverflow},
    m,
};
use baton_stack::Leave;
use std::{
    process,
    ptr::{self, NonNull},
    thread,
};

/// Says whether the overflow of the stack that `owner` runs on ends that goroutine alone. Called by the fault handler, on the
/// goroutine's thread.
pub(super) fn on_overflow(owner: *const ()) -> Option<Leave> {
    // SAFETY: the owner of a stack is null or the goroutine that runs on it, which is alive while it does.
    let g = unsafe { owner.cast::<G>().as_ref() }?;
    let alone =
        g.on_stack_overflow() == OnStackOverflow::End && g.kind.get() != Kind::Simulated && !thread::panicking();
    alone.then_some(leave)
}

/// Leaves the overflowed stack for ever.
extern "C" fn leave() -> ! {
    if let Some((m, g)) = m::current_goroutine()
        && let Some(body) = NonNull::new(m.body.get())
    {
        // Not what the last switch left there: its stack is left alone for ever, and 0 says so.
        // SAFETY: the body of the goroutine that ran until now.
        unsafe { body.as_ref() }.forget_place();
        m.commit.set(Some((end, g.as_ptr().cast())));
        // SAFETY: the body of the goroutine that ran until now. That this is another stack does not matter to the switch,
        // which keeps where it left from in a word that nobody will read.
        unsafe { Body::suspend(body) };
    }
    process::abort()
}

/// Ends the goroutine, on g0.
///
/// # Safety
///
/// The argument is a goroutine that has suspended in [`leave`].
unsafe fn end(g: *mut ()) -> bool {
    if let Some(m) = m::current() {
        m.counters.ended.add(1);
        m.counters.overflowed.add(1);
    }
    // Its own stack, and those that it had from `stack::grow`.
    baton_stack::each(&mut |stack| {
        if ptr::eq(stack.owner(), g) {
            stack.set_owner(ptr::null());
        }
    });
    if let Some(g) = NonNull::new(g.cast::<G>()) {
        // SAFETY: as the caller promised.
        unsafe { G::overflowed(g) };
    }
    true
}
