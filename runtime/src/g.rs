//! G, the goroutine.
//!
//! ```text
//!    G ─ one block from the P's mcache ───────────────┐         body ─ bound when the goroutine first runs ─┐
//!    │ vtable   how to run it, how to drop its result │    ┌───▶│ at the top of the goroutine's own stack:  │
//!    │ body     ──────────────────────────────────────┼────┘    │ stack pointers, the M that it ran on last │
//!    │ waiter   who joins                             │         └───────────────────────────────────────────┘
//!    │ join     DONE | DETACHED | JOINING | AWAITED   │
//!    │ payload  the closure, later its result         │
//!    └────────────────────────────────────────────────┘
//! ```
//!
//! A goroutine that has not run yet is one small block: no stack, no body. That is what makes a burst of a million
//! spawns cheap, since fresh memory costs more than anything else in a spawn.
//!
//! # Invariants
//!
//! 1. A runnable G is in exactly one place: a queue, a timer, a waiter, or the hands of one M. Whoever holds it there may
//!    run it.
//! 2. The running G alone touches its payload until it sets `DONE` (Release); after that the joiner does, or, when the
//!    handle was dropped first, the goroutine's own last act.
//! 3. The block is freed by whoever sees both `DONE` and `DETACHED`, and by a join that has taken the result. So a G must
//!    not be touched by its scheduler after it has left its stack for good.

pub(crate) mod join;

pub(crate) use join::Handle;

use crate::{
    debug::unwind::Registers,
    local::{self, Locals, Place},
    m::M,
    park::{WaitReason, Waiter},
    sched,
    site::Site,
    switch::{self, Links},
    sync::RawLock,
    time,
};
use baton_stack::{Desc, Spec, Stack, StackError};
use std::{
    alloc::Layout,
    any::Any,
    cell::{Cell, UnsafeCell},
    mem::{self, ManuallyDrop},
    panic::{AssertUnwindSafe, Location, catch_unwind},
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicU32,
        Ordering::{AcqRel, Acquire},
    },
};

/// What a panicking goroutine leaves behind.
pub(crate) type Payload = Box<dyn Any + Send>;

/// `join`: the goroutine has ended and its result is in place.
const DONE: u32 = 1;
/// `join`: nobody will ask for the result.
const DETACHED: u32 = 2;
/// `join`: somebody waits, see `waiter`.
const JOINING: u32 = 4;

/// The goroutine's head. Its block goes on with the closure's payload: see [`Task`].
#[repr(C)]
pub(crate) struct G {
    // What a switch looks at comes first, on one cache line most often.
    /// Bound at the first run, null again at the end; its M's.
    pub(crate) body: Cell<*mut Body>,
    /// Who may run it; set before anybody knows the G, from then on by the goroutine itself.
    pub(crate) kind: Cell<Kind>,
    join: AtomicU32,
    /// Set before anybody knows the G, constant from then on.
    id: Cell<u64>,
    /// Where in the program's text it was started, if that was a `go!`; constant.
    pub(crate) site: Option<&'static Site>,
    vtable: &'static Vtable,
    /// Written by the joiner before it sets `JOINING`, read by the goroutine that sees `JOINING`.
    waiter: Cell<*const Waiter>,
    /// Constant; most goroutines have none.
    baggage: Option<Box<Baggage>>,
    /// Where it was spawned.
    place: &'static Location<'static>,
}

/// Who may run a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any M, each time.
    Migrating,
    /// The M that runs it now, or ran it last; any M before its first run.
    Pinned,
    /// The [world](crate::testing) that it was spawned in.
    Simulated,
}

/// What a [`Builder`](crate::Builder) was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) name: Option<Box<str>>,
    pub(crate) max_stack: Option<usize>,
    pub(crate) on_stack_overflow: OnStackOverflow,
}

/// What the overflow of a goroutine's stack does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnStackOverflow {
    /// Reports it, with the innermost frames and what to change, and ends the process.
    #[default]
    Abort,
    /// Ends the goroutine, and [`join`](crate::JoinHandle::join) gives
    /// [`JoinError::StackOverflow`](crate::JoinError::StackOverflow). See
    /// [`Builder::on_stack_overflow`](crate::Builder::on_stack_overflow) for what that leaves behind.
    End,
}

/// The payload of a goroutine that has overflowed its stack.
pub(crate) struct Overflowed;

/// What a goroutine comes with, if anything.
#[derive(Debug, Default)]
pub(crate) struct Baggage {
    pub(crate) options: Options,
    /// Goroutine-local variables that its spawner passes on; taken by the goroutine when it begins.
    pub(crate) inherited: Option<Locals>,
    /// The stack that `try_spawn` made sure of.
    reserved: Reserved,
}

/// A stack that waits for its goroutine's first run, or goes back.
#[derive(Default)]
struct Reserved(Cell<Option<Stack>>);

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(stack) = self.0.take() {
            baton_stack::release(stack);
        }
    }
}

impl std::fmt::Debug for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserved").finish_non_exhaustive()
    }
}

impl Options {
    pub(crate) fn packed(self) -> Option<Box<Baggage>> {
        Some(Box::new(Baggage {
            options: self,
            ..Baggage::default()
        }))
    }

    /// With a stack for its first run.
    pub(crate) fn packed_with(self, stack: Stack) -> Option<Box<Baggage>> {
        let mut packed = self.packed();
        if let Some(baggage) = &mut packed {
            baggage.reserved.0.set(Some(stack));
        }
        packed
    }
}

struct Vtable {
    /// Runs the closure on the goroutine's stack and leaves its result in the payload.
    run: unsafe fn(NonNull<G>),
    /// Leaves this in place of a result, for a goroutine that will never have one. What the payload was before is left as it is.
    fail: unsafe fn(NonNull<G>, Payload),
    /// Drops the result, which nobody will ask for.
    drop_result: unsafe fn(NonNull<G>),
    /// Frees the block, whose payload is gone.
    free: unsafe fn(NonNull<G>),
}

/// G and payload, as they lie in memory.
#[repr(C)]
struct Task<F, T> {
    g: G,
    payload: UnsafeCell<Stage<F, T>>,
}

union Stage<F, T> {
    start: ManuallyDrop<F>,
    result: ManuallyDrop<Result<T, Payload>>,
}

/// What a goroutine needs once it has run: it lies at the top of its stack, so it costs no memory of its own.
///
/// It is two cache lines, the first of which is all that a switch reads.
#[repr(C)]
pub(crate) struct Body {
    links: Links,
    g: NonNull<G>,
    /// The stack that it runs on now: its own, or one of `stack::grow`. The goroutine's.
    pub(crate) running: Cell<&'static Desc>,
    /// The M that ran this goroutine last: where it belongs if it is pinned, and what forced migration avoids.
    pub(crate) last_m: Cell<*const M>,
    /// Reasons to stay on `last_m`; the goroutine's own.
    pub(crate) locks: Cell<u32>,
    /// It sleeps in the kernel, as a rule: see `sched::habit`.
    pub(crate) blocks: Cell<bool>,
    /// The number of the [trace](crate::debug::trace_start) that knows its name; g0's.
    pub(crate) named_in: Cell<u16>,
    /// What a dump shows.
    seen: UnsafeCell<Seen>,
    /// Its goroutine-local variables, or null; the goroutine's own.
    pub(crate) locals: Place,
}

/// What a dump shows of a goroutine. It lies in the body, which can be read whatever the goroutine does; so it is made of plain
/// words for which zero means nothing.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Seen {
    /// Where it left its stack.
    pub(crate) at: Registers,
    /// 0 for a goroutine of a simulation, which no scheduler holds still.
    pub(crate) id: u64,
    pub(crate) place: Option<&'static Location<'static>>,
    /// The wait that it is in.
    wait: Wait,
    /// The lock that it waits for, if that is what it waits for: alive as long as it does.
    pub(crate) lock: *const RawLock,
}

/// The [`WaitReason`] of a wait in the lowest byte, and in the others when it began, in nanoseconds by the monitor's clock.
#[derive(Clone, Copy, Debug)]
struct Wait(u64);

impl Wait {
    #[inline(always)]
    fn new(reason: WaitReason) -> Self {
        Self(time::coarse() << 8 | reason as u64)
    }
}

impl Body {
    /// Where a debugger finds what a dump shows: how far below the base of its stack a body begins, and the offset of `seen` in it.
    pub(crate) const MAP: [usize; 2] = [BODY_ROOM, mem::offset_of!(Self, seen)];
}

impl G {
    /// Where a debugger finds its body and its baggage (null if it has none).
    pub(crate) const MAP: [usize; 2] = [mem::offset_of!(Self, body), mem::offset_of!(Self, baggage)];
}

impl Baggage {
    /// Where a debugger finds the name (null if there is none).
    pub(crate) const NAME: usize = mem::offset_of!(Self, options) + mem::offset_of!(Options, name);
}

impl Seen {
    /// Where a debugger finds where the goroutine left its stack (instruction pointer, stack pointer, frame pointer), its number, its
    /// place, its wait and the lock of that.
    pub(crate) const MAP: [usize; 7] = [
        mem::offset_of!(Self, at) + mem::offset_of!(Registers, ip),
        mem::offset_of!(Self, at) + mem::offset_of!(Registers, sp),
        mem::offset_of!(Self, at) + mem::offset_of!(Registers, fp),
        mem::offset_of!(Self, id),
        mem::offset_of!(Self, place),
        mem::offset_of!(Self, wait),
        mem::offset_of!(Self, lock),
    ];

    /// For what it waits: the number of a [`WaitReason`].
    #[inline]
    pub(crate) fn reason(&self) -> u8 {
        self.wait.0 as u8
    }

    /// For how long it has waited at `now`, in nanoseconds.
    pub(crate) fn age(&self, now: u64) -> u64 {
        let age = (now << 8).wrapping_sub(self.wait.0 & !0xff) >> 8;
        // The monitor's clock may be ahead of whoever read `now`.
        if age >> 55 == 0 { age } else { 0 }
    }
}

/// A stack that is used from below the place of a [`Body`] on, for [`corosensei::on_stack`].
#[derive(Clone, Copy)]
pub(crate) struct Lowered(pub(crate) &'static Desc);

/// What is free of g0's stack while a goroutine runs, in which an `asm!` block has left it: below this address.
struct BelowG0(usize);

// SAFETY: the stack of a thread that waits for the goroutine, whose own guard is where it was; the limit is asked for by nobody.
unsafe impl corosensei::stack::Stack for BelowG0 {
    #[inline]
    fn base(&self) -> corosensei::stack::StackPointer {
        corosensei::stack::StackPointer::new(self.0 & !15).expect("a stack does not lie at the bottom of memory")
    }

    #[inline]
    fn limit(&self) -> corosensei::stack::StackPointer {
        self.base()
    }
}

/// Room for a [`Body`] at the top of a stack, in whole cache lines.
const BODY_ROOM: usize = size_of::<Body>().next_multiple_of(64);

// SAFETY: the limit and the guard are those of the stack below, and taking a few hundred bytes from the top of at least
// 64 KiB leaves more than the 4 KiB that are asked for.
unsafe impl corosensei::stack::Stack for Lowered {
    #[inline]
    fn base(&self) -> corosensei::stack::StackPointer {
        let base = self.0.base() - BODY_ROOM;
        corosensei::stack::StackPointer::new(base).expect("a stack does not lie at the bottom of memory")
    }

    #[inline]
    fn limit(&self) -> corosensei::stack::StackPointer {
        let lowest = self.0.range().start;
        corosensei::stack::StackPointer::new(lowest).expect("a stack does not lie at the bottom of memory")
    }
}

impl<F, T> Task<F, T>
where
    F: FnOnce() -> T,
{
    const VTABLE: Vtable = Vtable {
        run: Self::run,
        fail: Self::fail,
        drop_result: Self::drop_result,
        free: Self::free,
    };

    /// # Safety
    ///
    /// Called once, on the goroutine's own stack.
    unsafe fn run(g: NonNull<G>) {
        // SAFETY: the vtable belongs to this kind of task, and until DONE is set the payload is ours (invariant 2).
        let payload = unsafe { &mut *g.cast::<Self>().as_ref().payload.get() };
        // SAFETY: the closure is in place until it is taken here, once.
        let start = unsafe { ManuallyDrop::take(&mut payload.start) };
        let result = catch_unwind(AssertUnwindSafe(start));
        payload.result = ManuallyDrop::new(result);
    }

    /// # Safety
    ///
    /// The goroutine has started, and it will never run again.
    unsafe fn fail(g: NonNull<G>, why: Payload) {
        // SAFETY: as the caller promised, so the payload is ours (invariant 2), and the closure was moved out of it.
        let payload = unsafe { &mut *g.cast::<Self>().as_ref().payload.get() };
        payload.result = ManuallyDrop::new(Err(why));
    }

    /// # Safety
    ///
    /// The result is in place, and nobody else touches the payload any more.
    unsafe fn drop_result(g: NonNull<G>) {
        // SAFETY: as the caller promised.
        let payload = unsafe { &mut *g.cast::<Self>().as_ref().payload.get() };
        // A result that panics while it is dropped ends nobody: there is no one left to tell.
        // SAFETY: the result is in place and is dropped once.
        let _ = catch_unwind(AssertUnwindSafe(|| unsafe { ManuallyDrop::drop(&mut payload.result) }));
    }

    /// # Safety
    ///
    /// The payload is gone, and nobody else touches the block any more.
    unsafe fn free(g: NonNull<G>) {
        // SAFETY: as the caller promised; the block came from `G::create` with this layout.
        unsafe {
            ptr::drop_in_place(&raw mut (*g.as_ptr()).baggage);
            baton_alloc::free(g.as_ptr().cast(), Layout::new::<Self>());
        }
    }
}

impl G {
    /// Makes a goroutine that will run `start`. It is in nobody's hands but the caller's, and one [`Handle`] is out.
    pub(crate) fn create<F, T>(
        start: F,
        baggage: Option<Box<Baggage>>,
        kind: Kind,
        site: Option<&'static Site>,
        place: &'static Location<'static>,
    ) -> NonNull<G>
    where
        F: FnOnce() -> T,
    {
        let layout = Layout::new::<Task<F, T>>();
        let Some(block) = NonNull::new(baton_alloc::malloc(layout)) else {
            crate::fatal::out_of_memory("a goroutine", layout.size());
        };
        let task = Task::<F, T> {
            g: G {
                vtable: &Task::<F, T>::VTABLE,
                body: Cell::new(ptr::null_mut()),
                waiter: Cell::new(ptr::null()),
                id: Cell::new(0),
                site,
                baggage,
                join: AtomicU32::new(0),
                kind: Cell::new(kind),
                place,
            },
            payload: UnsafeCell::new(Stage {
                start: ManuallyDrop::new(start),
            }),
        };
        // SAFETY: the block is ours, large enough and aligned.
        unsafe { block.cast::<Task<F, T>>().write(task) };
        block.cast()
    }

    /// The number of this goroutine, counted from 1; never used twice.
    pub(crate) fn id(&self) -> u64 {
        self.id.get()
    }

    /// Gives the goroutine its number.
    #[inline]
    pub(crate) fn set_id(&self, id: u64) {
        self.id.set(id);
    }

    /// Where in the program's text it was spawned.
    pub(crate) fn place(&self) -> &'static Location<'static> {
        self.place
    }

    /// The name that its builder gave it.
    pub(crate) fn name(&self) -> Option<&str> {
        self.baggage.as_ref()?.options.name.as_deref()
    }

    /// The stack that `try_spawn` made sure of, if that was how it was started.
    #[inline]
    pub(crate) fn take_reserved(&self) -> Option<Stack> {
        self.baggage.as_ref()?.reserved.0.take()
    }

    /// What its builder said about an overflow of its stack.
    pub(crate) fn on_stack_overflow(&self) -> OnStackOverflow {
        self.baggage
            .as_ref()
            .map_or_else(OnStackOverflow::default, |baggage| baggage.options.on_stack_overflow)
    }

    /// The stack that its builder asked for, in bytes.
    pub(crate) fn max_stack(&self) -> Option<usize> {
        self.baggage.as_ref()?.options.max_stack
    }

    /// The kind of stack that it is to have; `usual` if its builder asked for none.
    pub(crate) fn stack_spec(&self, usual: Spec) -> Result<Spec, StackError> {
        match self.max_stack() {
            Some(bytes) => Spec::with_growth(bytes, usual.growth()),
            None => Ok(usual),
        }
    }

    /// What the goroutine does on its own stack, from its first instruction to its last but one.
    ///
    /// # Safety
    ///
    /// `g` runs on this stack and has not run before.
    unsafe fn main(g: NonNull<G>) {
        // SAFETY: G is alive until DONE is set below.
        let this = unsafe { g.as_ref() };
        // SAFETY: the body of this very goroutine, at the top of this stack.
        let body = unsafe { &*this.body.get() };
        if this.baggage.is_some() {
            // SAFETY: nobody else looks at what is inherited.
            let inherited = unsafe { (*g.as_ptr()).baggage.as_mut() }.and_then(|baggage| baggage.inherited.take());
            if let Some(inherited) = inherited {
                local::begin(body, inherited);
            }
        }
        // SAFETY: this is the one call, on the goroutine's own stack.
        unsafe { (this.vtable.run)(g) };
        local::end(&body.locals);
        if this.join.load(Acquire) & DETACHED == 0 {
            sched::forget_current();
            // SAFETY: the result is in place.
            if !unsafe { Self::finish(g) } {
                return;
            }
            sched::recall_current(g); // the handle was dropped just now
        }
        // SAFETY: the handle is gone, so the result and the block are ours. It is dropped while this is still a
        // goroutine, since it may park.
        unsafe { (this.vtable.drop_result)(g) };
        local::end(&body.locals); // those that the result's destructor made
        sched::forget_current();
        // SAFETY: as above.
        unsafe { (this.vtable.free)(g) };
    }

    /// Ends a goroutine that has overflowed its stack, from g0.
    ///
    /// # Safety
    ///
    /// It has started, has suspended, and nobody will resume it.
    pub(crate) unsafe fn overflowed(g: NonNull<G>) {
        // SAFETY: as the caller promised.
        let vtable = unsafe { g.as_ref() }.vtable;
        // SAFETY: as the caller promised.
        unsafe { (vtable.fail)(g, Box::new(Overflowed)) };
        // SAFETY: the result is in place, and the block ours if `finish` says so.
        unsafe {
            if Self::finish(g) {
                vtable.discard(g);
            }
        }
    }

    /// Says that the goroutine is done. `true` if its handle is gone: the result and the block are the caller's then (invariant 3).
    ///
    /// # Safety
    ///
    /// The result is in place, and after `false` the caller does not touch the goroutine.
    unsafe fn finish(g: NonNull<G>) -> bool {
        // SAFETY: G is alive until DONE is set below.
        let this = unsafe { g.as_ref() };
        let waiter = &this.waiter;
        // From here on the block may be freed by its joiner, unless one of the two bits says otherwise.
        let before = this.join.fetch_or(DONE, AcqRel);
        if before & DETACHED != 0 {
            return true;
        }
        // SAFETY: whoever set JOINING waits for this.
        before & JOINING != 0 && unsafe { join::wake_joiner(waiter, before) }
    }
}

impl Vtable {
    /// Drops the result and frees the block.
    ///
    /// # Safety
    ///
    /// `g` is of this table's type, it is done, and nobody else touches it any more.
    unsafe fn discard(&self, g: NonNull<G>) {
        // SAFETY: as the caller promised.
        unsafe { (self.drop_result)(g) };
        // SAFETY: as the caller promised.
        unsafe { (self.free)(g) };
    }
}

impl Body {
    /// Puts `g` on `stack`, ready for its first [`resume`](Self::resume). The right to the stack is the body's until
    /// [`into_stack`](Self::into_stack).
    ///
    /// # Safety
    ///
    /// `g` is the caller's and has no body.
    pub(crate) unsafe fn bind(stack: Stack, g: NonNull<G>) -> NonNull<Body> {
        let at = corosensei::stack::Stack::base(&Lowered(stack.desc()));
        let body = NonNull::<Body>::with_exposed_provenance(at);
        // SAFETY: the room above the lowered base is set aside for the body, and the stack was the caller's.
        unsafe {
            body.write(Body {
                links: Links::prepare(body.addr().get(), Self::begin),
                g,
                running: Cell::new(stack.desc()),
                last_m: Cell::new(ptr::null()),
                locals: Cell::new(ptr::null_mut()),
                named_in: Cell::new(0),
                seen: UnsafeCell::new(Seen {
                    id: if g.as_ref().kind.get() == Kind::Simulated {
                        0
                    } else {
                        g.as_ref().id()
                    },
                    place: Some(g.as_ref().place),
                    wait: Wait(WaitReason::None as u64),
                    lock: ptr::null(),
                    at: Registers::default(),
                }),
                locks: Cell::new((g.as_ref().kind.get() == Kind::Pinned).into()),
                blocks: Cell::new(false),
            });
            g.as_ref().body.set(body.as_ptr());
        }
        body
    }

    /// Where the body of the goroutine lies that was bound to this stack.
    pub(crate) fn place_on(desc: &'static Desc) -> *const Self {
        ptr::with_exposed_provenance(corosensei::stack::Stack::base(&Lowered(desc)).get())
    }

    /// What a dump shows of the goroutine on this stack.
    ///
    /// # Safety
    ///
    /// A goroutine has been bound to the stack.
    pub(crate) unsafe fn look(desc: &'static Desc) -> Seen {
        let body = Self::place_on(desc);
        // SAFETY: the room above the lowered base is a body's or zero, for as long as the descriptor exists; another thread
        // may be writing words of it, each of which is good with its old value or its new one.
        unsafe { (&raw const (*body).seen).cast::<Seen>().read_volatile() }
    }

    /// The same, for the M that holds the goroutine.
    #[inline]
    pub(crate) fn seen(&self) -> Seen {
        // SAFETY: written by the goroutine, which does not run meanwhile.
        unsafe { *self.seen.get() }
    }

    /// Notes what the goroutine is about to wait for.
    #[inline]
    pub(crate) fn waits_for(&self, reason: WaitReason) {
        // SAFETY: the running goroutine's own; who reads meanwhile reads words.
        unsafe { &mut *self.seen.get() }.wait = Wait::new(reason);
    }

    /// Notes which lock it is about to wait for.
    pub(crate) fn waits_for_lock(&self, lock: *const RawLock) {
        // SAFETY: as in `waits_for`.
        unsafe { &mut *self.seen.get() }.lock = lock;
    }

    /// Notes that it waits no more.
    #[inline]
    pub(crate) fn waits_no_more(&self) {
        // SAFETY: as in `waits_for`.
        unsafe { &mut *self.seen.get() }.wait = Wait(WaitReason::None as u64);
    }

    /// Where it left its stack: its stack pointer at the last switch.
    #[inline(always)]
    pub(crate) fn left_at(&self) -> usize {
        // SAFETY: as in `waits_for`; asked by the goroutine, or by who holds it while it is suspended.
        unsafe { &*self.seen.get() }.at.sp
    }

    /// The goroutine is never to be resumed, nor is anything on its stack to be touched.
    pub(crate) fn forget_place(&self) {
        // SAFETY: as in `waits_for`.
        unsafe { &mut *self.seen.get() }.at = Registers::default();
    }

    /// Notes where the goroutine is, for its backtrace. On its own stack, in the frame that leaves it.
    #[inline(always)]
    pub(crate) fn note_registers(&self) {
        // SAFETY: as in `waits_for`.
        unsafe { &mut *self.seen.get() }.at = Registers::here();
    }

    /// The stack that the goroutine runs on.
    #[inline]
    pub(crate) fn desc(&self) -> &'static Desc {
        self.running.get()
    }

    /// Takes the stack back from a goroutine that has ended.
    ///
    /// # Safety
    ///
    /// [`resume`](Self::resume) said that it has ended; the body is not used any more.
    #[inline]
    pub(crate) unsafe fn into_stack(body: NonNull<Body>) -> Stack {
        // SAFETY: the body is still in place, since nothing has used the stack. What has ended runs on its own stack again, the
        // right to which was given to `bind`.
        unsafe { Stack::from_desc(body.as_ref().desc()) }
    }

    /// Runs the goroutine until it suspends (`false`) or ends (`true`).
    ///
    /// # Safety
    ///
    /// On g0, by the M that holds the goroutine. After `true` the G may be gone; the body is good until its stack is
    /// used again.
    #[inline]
    pub(crate) unsafe fn resume(body: NonNull<Body>) -> bool {
        // SAFETY: bound, and held by the caller, who alone resumes it; a body stays where it is.
        unsafe { Links::enter(body.cast(), body.expose_provenance().get()) == switch::ENDED }
    }

    /// Runs `f` on the stack of g0, on top of what g0 has there; a panic of `f` comes through.
    ///
    /// # Safety
    ///
    /// On the stack of the goroutine that this body belongs to, which does not suspend until this returns.
    pub(crate) unsafe fn on_g0<R>(body: NonNull<Body>, f: impl FnOnce() -> R) -> R {
        // SAFETY: the body of the running goroutine.
        let g0 = unsafe { body.as_ref() }.links.g0();
        corosensei::on_stack(BelowG0(g0), f)
    }

    /// Leaves the goroutine's stack for g0; returns when the goroutine is resumed, perhaps on another thread.
    ///
    /// # Safety
    ///
    /// On the stack of the goroutine that this body belongs to.
    #[inline]
    pub(crate) unsafe fn suspend(body: NonNull<Body>) {
        // SAFETY: as the caller promised.
        unsafe { Links::leave(body.cast(), switch::SUSPENDED) };
    }

    /// The first function on a goroutine's stack; its body lies there.
    extern "C" fn begin(body: usize) -> ! {
        let body = ptr::with_exposed_provenance_mut::<Body>(body);
        // SAFETY: what `resume` passed: a body that is bound to a goroutine, which runs from now on.
        unsafe {
            G::main((*body).g);
            Links::leave(NonNull::new_unchecked(body).cast(), switch::ENDED);
        }
        unreachable!("nobody resumes what has ended")
    }
}
