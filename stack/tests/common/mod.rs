//! Running coroutines on this crate's stacks, as a scheduler would.

use baton_stack::{AltStack, Desc, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::{hint::black_box, sync::atomic::Ordering};

/// What a thread needs before it runs a coroutine.
pub(crate) fn prepare() -> AltStack {
    baton_stack::install().unwrap();
    AltStack::install().unwrap()
}

/// A goroutine: yields its answers.
pub(crate) struct G {
    coroutine: Coroutine<(), usize, (), Stack>,
    pub(crate) desc: &'static Desc,
}

impl G {
    pub(crate) fn new(stack: Stack, f: impl FnOnce(&Yielder<(), usize>, &'static Desc) + 'static) -> Self {
        let desc = stack.desc();
        desc.set_owner(std::ptr::null());
        Self {
            coroutine: Coroutine::with_stack(stack, move |yielder, ()| f(yielder, desc)),
            desc,
        }
    }

    /// Runs it until it yields or ends.
    pub(crate) fn resume(&mut self) -> Option<usize> {
        let m = baton_alloc::lease::attach();
        m.stack.store(self.desc.as_word(), Ordering::Relaxed);
        let result = self.coroutine.resume(());
        m.stack.store(std::ptr::null_mut(), Ordering::Relaxed);
        match result {
            CoroutineResult::Yield(answer) => Some(answer),
            CoroutineResult::Return(()) => None,
        }
    }

    pub(crate) fn into_stack(self) -> Stack {
        self.coroutine.into_stack()
    }
}

/// Runs `f` on `stack` to its end.
pub(crate) fn run(stack: Stack, f: impl FnOnce(&'static Desc) + 'static) -> Stack {
    let mut g = G::new(stack, |_, desc| f(desc));
    assert_eq!(g.resume(), None);
    g.into_stack()
}

/// The address of something on the stack of the caller.
#[inline(never)]
pub(crate) fn sp() -> usize {
    let here = 0_u8;
    black_box(&raw const here) as usize
}

/// Recurses in frames of about a KiB until `bytes` below `top` are in use, then calls `f`; checks on the way back that
/// each frame holds what was written into it, at the address where it was.
#[inline(never)]
pub(crate) fn descend(top: usize, bytes: usize, f: &mut dyn FnMut()) {
    let mut frame = [0_usize; 120];
    let seed = top - sp();
    for (i, word) in frame.iter_mut().enumerate() {
        *word = seed ^ i;
    }
    let address = black_box(frame.as_ptr()) as usize;
    if seed < bytes {
        descend(top, bytes, f);
    } else {
        f();
    }
    assert_eq!(black_box(frame.as_ptr()) as usize, address);
    for (i, word) in frame.iter().enumerate() {
        assert_eq!(*word, seed ^ i, "the contents of a frame at depth {seed}");
    }
}
