//! The loop of g0: find a goroutine, run it until it suspends, do what it asked for.
//!
//! ```text
//!   every 61st turn: global queue, clock, now and then netpoll      so that none is starved by a busy P
//!   runnext ─▶ own ring ─▶ timers ─▶ global queue (a share) ─▶ netpoll ─▶ other Ps (ask; rings and due timers; their runnext last) ─▶ idle
//! ```
//!
//! runnext inherits the time slice: after [`NEXT_STREAK`](super::runq::NEXT_STREAK) goroutines in a row from there, the oldest of the ring has its
//! turn, so that two goroutines that wake each other cannot starve a third.

use super::{
    Sched, habit,
    idle::{self, Sleep},
    netpoll, pusher_fence,
    ready::{overflow, put_all_global, put_global},
    runq::RING,
    scavenge,
    steal::{shed, steal},
};
use crate::{
    debug::turns,
    g::{Body, G, Kind},
    m::{self, M},
    p::{Own, P},
    park::Commit,
    pinned,
    prefetch::{LINE, prefetch},
    site::Site,
    time::{self, heap::NEVER},
};
use baton_stack::{Class, Spec, Stack};
use std::{
    hint, mem,
    ptr::{self, NonNull},
    sync::atomic::Ordering::Relaxed,
};

/// How often a P looks at the global queue and the clock although it has work: Go's number, a prime so that it does not
/// fall into step with the program.
const GLOBAL_EVERY: u32 = 61;

/// Sleepers that are woken at once: two thirds of the turns between two looks at the clock.
const SLEEPERS: usize = GLOBAL_EVERY as usize * 2 / 3;

/// A sleeper that is due in so many nanoseconds is worth waiting for.
const MOMENT_NS: u64 = 10_000;

/// How many goroutines move at once from the global queue, or from another P.
pub(super) const LOOT: usize = 128;

/// A goroutine to run.
struct Job {
    g: *mut G,
    /// Null if it has not run yet.
    body: *mut Body,
    /// For one that has not run, if the P's cache has one.
    stack: Option<Stack>,
}

/// What one look at the own P gives, beside a job. Apart from it, so that both are words in registers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The job.
    Run,
    /// It is time for the global queue and the clock.
    Round,
    /// The P's own queue is empty.
    Nothing,
    /// There is no room for what was left: the ring is full, or the stack cache.
    Full,
    /// There is no P just now, or mail comes first.
    Away,
}

/// What the goroutine that ran last left behind for the next section: so that a yield, or an end, and the look for the
/// next goroutine are one.
enum Left {
    Nothing,
    /// It goes to the end of the P's queue.
    Yielded(NonNull<G>),
    /// It has ended; its stack goes to the P's cache and, most often, straight to the next goroutine.
    Ended(Stack),
}

impl Left {
    /// Takes it.
    #[inline(always)]
    fn take(&mut self) -> Self {
        mem::replace(self, Self::Nothing)
    }

    /// Does without a P what the section would have done: there is none, or its cache has no room.
    #[cold]
    fn settle(&mut self, m: &'static M) {
        match self.take() {
            Self::Nothing => {}
            Self::Yielded(g) => put_global(m.sched, g),
            Self::Ended(stack) => {
                habit::after_end(m);
                baton_stack::release(stack);
            }
        }
    }
}

/// Runs goroutines, on this thread's own stack, until this M is one too many.
///
/// An M that runs a goroutine does not spin, and neither does it after that: so only who has looked elsewhere asks.
pub(super) fn run(m: &'static M) {
    let mut ticks = Vec::new();
    let mut left = Left::Nothing;
    let (mut next, mut job) = (Next::Away, Job::NONE);
    loop {
        if next != Next::Run {
            // What has its address taken lives in memory; this is a copy, so that `left` does not.
            let mut rest = left.take();
            let Some(found) = find_elsewhere(m, &mut rest, &mut ticks, next, job) else {
                return;
            };
            (left, job) = (rest, found);
        }
        debug_assert!(!m.spinning.load(Relaxed), "who has found something looks no more");
        if job.is_odd(m) && runs_elsewhere(m, &job) {
            (next, job) = (Next::Away, Job::NONE);
            continue;
        }
        left = execute(m, job);
        (next, job) = look_here(m, &mut left);
    }
}

/// One look at the own P.
#[inline(always)]
fn look_here(m: &'static M, left: &mut Left) -> (Next, Job) {
    if m.inbox.has_mail() {
        return (Next::Away, Job::NONE);
    }
    // SAFETY: this thread's M; `look` is made of queue operations.
    unsafe { m.section(|p, own| look(p, own, left, m.sched.config.stack)) }.unwrap_or((Next::Away, Job::NONE))
}

/// The own P has nothing to run just now, or there is none, or there is mail: looks everywhere until there is something,
/// and sleeps if there is not. `None`: this M may end.
///
/// With [`Next::Full`] there may be a job already.
#[cold]
#[inline(never)]
fn find_elsewhere(m: &'static M, left: &mut Left, ticks: &mut Vec<u32>, mut next: Next, mut job: Job) -> Option<Job> {
    while next != Next::Run {
        if job.g.is_null()
            && m.inbox.has_mail()
            && let Some(g) = take_mail(m, left)
        {
            return Some(Job::of(g));
        }
        if settle_look(m, left, ticks, next) == Sleep::Retired {
            return None;
        }
        if !job.g.is_null() {
            break;
        }
        // SAFETY: as in `look_here`.
        let seen = unsafe { m.section(|p, own| look(p, own, left, m.sched.config.stack)) };
        (next, job) = seen.unwrap_or((Next::Away, Job::NONE));
    }
    m.in_vain.set(0);
    if m.spinning.load(Relaxed) {
        stop_spinning(m);
    }
    Some(job)
}

/// Does what a look that found nothing calls for: looks elsewhere, and sleeps if there is nothing either.
fn settle_look(m: &'static M, left: &mut Left, ticks: &mut Vec<u32>, next: Next) -> Sleep {
    match next {
        Next::Run => unreachable!("what was found is run"),
        Next::Full => match left.take() {
            Left::Nothing => {}
            Left::Yielded(g) => overflow(m, g.as_ptr()),
            Left::Ended(stack) => make_room(m, stack),
        },
        Next::Round => {
            fire_timers(m);
            if m.sched.poller.load(Relaxed).is_null() {
                netpoll::look_now_and_then();
            }
            if !shed(m) {
                take_global(m);
            }
        }
        Next::Nothing => {
            left.settle(m);
            if !(m.inbox.has_mail()
                || fire_timers(m)
                || take_global(m)
                || look_at_files(m)
                || steal(m, ticks)
                || waits_for_timer(m))
            {
                return idle::sleep(m);
            }
        }
        Next::Away if m.has_p() => {} // a thief only borrowed it, or there was mail
        Next::Away => {
            left.settle(m);
            if !idle::acquire_p(m) {
                return idle::sleep(m);
            }
        }
    }
    Sleep::Over
}

/// Looks whether files are ready that somebody waits for, unless the poller does.
fn look_at_files(m: &'static M) -> bool {
    m.sched.poller.load(Relaxed).is_null() && netpoll::look()
}

/// If a sleeper of the own P is due in a moment, waits until it is, or until there is something else to do: to go to sleep and to
/// wake up takes longer, and others a barrier each time.
fn waits_for_timer(m: &'static M) -> bool {
    let Some(p) = m.latch().p().and_then(P::of) else {
        return false;
    };
    let due = p.due.load(Relaxed);
    if due == NEVER || due.saturating_sub(time::now()) > MOMENT_NS {
        return false;
    }
    while time::now() < due && m.sched.global.len() == 0 && !m.inbox.has_mail() {
        hint::spin_loop();
    }
    true
}

/// Takes a goroutine that only this M may run, if it has a P to run it with and it is its turn.
#[cold]
fn take_mail(m: &'static M, left: &mut Left) -> Option<NonNull<G>> {
    let g = m.inbox.take_in_turn(|| m.has_p())?;
    left.settle(m);
    // SAFETY: this thread's M; a section with one store, by which the monitor sees that the M gets on.
    unsafe { m.with_p(|p, _| p.tick.store(p.tick.load(Relaxed).wrapping_add(1), Relaxed)) };
    if m.spinning.load(Relaxed) {
        stop_spinning(m);
    }
    Some(g)
}

/// One look at the own P, inside a section.
#[inline(always)]
fn look(p: &'static P, own: &mut Own, left: &mut Left, spec: Spec) -> (Next, Job) {
    let mut ended = None;
    match left.take() {
        Left::Nothing => {}
        Left::Yielded(g) => {
            // SAFETY: inside a section, which owns P; the goroutine has suspended, and is this M's.
            if unsafe { p.runq.push(g.as_ptr()) }.is_err() {
                *left = Left::Yielded(g);
                return (Next::Full, Job::NONE);
            }
        }
        Left::Ended(stack) => ended = Some(stack),
    }
    let tick = p.tick.load(Relaxed).wrapping_add(1);
    p.tick.store(tick, Relaxed);
    let mut next = Next::Run;
    let mut job = Job::NONE;
    if tick.is_multiple_of(GLOBAL_EVERY) || p.attention.load(Relaxed) {
        p.attention.store(false, Relaxed);
        own.sleepers_from = own.sleepers_from.wrapping_add(1); // nobody has this turn
        next = Next::Round;
    } else {
        // SAFETY: inside a section, which owns P and the goroutines on its ring.
        let g = unsafe { p.runq.pop_next(&mut own.next_streak, |ahead| fetch_ahead(ahead)) };
        match NonNull::new(g) {
            None => next = Next::Nothing,
            Some(g) => {
                job = Job::of(g);
                if job.body.is_null() {
                    // SAFETY: out of the queue it is ours.
                    job.stack = find_stack(own, &mut ended, unsafe { g.as_ref() }, spec);
                }
            }
        }
    }
    if let Some(stack) = ended
        && let Err(stack) = own.stacks.push(stack)
    {
        *left = Left::Ended(stack);
        if next == Next::Round {
            p.attention.store(true, Relaxed); // not now, but at the next turn
        }
        next = Next::Full;
    }
    (next, job)
}

/// A stack for `g`'s first run: the one of the goroutine that has just ended if it is as good as any, else one of the P's
/// cache.
#[inline(always)]
fn find_stack(own: &mut Own, ended: &mut Option<Stack>, g: &G, spec: Spec) -> Option<Stack> {
    let class = g.site.map_or(Class::MIN, Site::class);
    if g.max_stack().is_some() {
        return g.stack_spec(spec).ok().and_then(|wanted| own.stacks.pop(wanted, class));
    }
    let suits = |stack: &Stack| stack.desc().spec() == spec && stack.desc().class().is_like(class);
    match ended.take() {
        Some(stack) if suits(&stack) => Some(stack),
        other => {
            *ended = other;
            own.stacks.pop(spec, class)
        }
    }
}

impl Job {
    const NONE: Self = Self {
        g: ptr::null_mut(),
        body: ptr::null_mut(),
        stack: None,
    };

    /// To run `g`, which is the caller's.
    #[inline(always)]
    fn of(g: NonNull<G>) -> Self {
        Self {
            g: g.as_ptr(),
            // SAFETY: the caller's.
            body: unsafe { g.as_ref() }.body.get(),
            stack: None,
        }
    }

    /// Whether there may be a reason to run it on another M.
    #[inline(always)]
    fn is_odd(&self, m: &'static M) -> bool {
        // SAFETY: out of the queue it is ours.
        !self.body.is_null() && (unsafe { &*self.g }.kind.get() != Kind::Migrating || m.sched.config.force_migration)
    }
}

/// Has the processor fetch what the goroutines that come next will need, each line in time for the look at it that fetches the
/// next: the heads of the third, the body of the second, of the first what its body leads to. A goroutine that has waited for
/// its turn among many others is in no near cache.
///
/// # Safety
///
/// The caller owns these goroutines, or the P whose ring they are on.
#[inline(always)]
unsafe fn fetch_ahead([first, second, third]: [*mut G; 3]) {
    prefetch(third);
    prefetch(third.wrapping_byte_add(LINE));
    // SAFETY: as the caller promised; a goroutine on the ring is alive, and what has a body is suspended.
    let bodies = unsafe { ((*first).body.get(), (*second).body.get()) };
    prefetch(bodies.1);
    prefetch(bodies.1.wrapping_byte_add(LINE));
    // SAFETY: as above.
    if let Some(body) = unsafe { bodies.0.as_ref() } {
        let sp = ptr::without_provenance::<u8>(body.left_at());
        prefetch(sp);
        prefetch(sp.wrapping_byte_add(LINE));
        prefetch(ptr::from_ref(body.desc()));
    }
}

/// The P's stack cache refused this stack: the colder half of its kind goes to the shared pools, and it takes their place.
fn make_room(m: &'static M, stack: Stack) {
    let mut batch = baton_stack::Batch::new();
    let mut stack = Some(stack);
    // SAFETY: this thread's M; a section that moves descriptors.
    unsafe {
        m.with_p(|_, own| {
            if let Some(stack) = stack.take() {
                own.stacks.overflow(stack, &mut batch);
            }
        });
    }
    baton_stack::release_batch(&mut batch);
    if let Some(stack) = stack {
        Left::Ended(stack).settle(m); // the P was taken
    }
}

/// An M that has found something looks no more, and if it was the last that looked, another one should.
#[cold]
#[inline(never)]
fn stop_spinning(m: &'static M) {
    m.spinning.store(false, Relaxed);
    idle::stop_spinning(m.sched);
}

/// Takes some goroutines from the global queue to the own one: half of its share if the own one is empty, and else as many
/// as would have had their turn since the last time if both were one queue. Where the ring has no room for them, the newest
/// on it, which have had their turn only just now, change places with them: else those who yield would keep a full ring to themselves
/// for ever.
///
/// While they are on their way nobody sees them; so what comes with the one that this M will run is announced, unless this
/// M spins: then somebody is, when it stops.
fn take_global(m: &'static M) -> bool {
    let waiting = m.sched.global.len();
    let Some(p) = m.latch().p().and_then(P::of).filter(|_| waiting > 0) else {
        return false;
    };
    let (share, own) = (waiting.div_ceil(m.sched.ps.active()), p.runq.len());
    let n = if own == 0 {
        share
    } else {
        (share * GLOBAL_EVERY as usize).div_ceil(share + own)
    };
    let n = n.min(LOOT);
    if n > RING - own {
        let mut newest = [ptr::null_mut(); LOOT];
        // SAFETY: this thread's M; a section with a queue operation.
        let moved = unsafe { m.with_p(|p, _| p.runq.pop_newest(&mut newest[..n - (RING - own)])) };
        m.sched.global.push(&newest[..moved.unwrap_or(0)]);
    }
    let mut taken = [ptr::null_mut(); LOOT];
    let n = m.sched.global.pop(&mut taken[..n]);
    keep(m, &taken[..n]);
    if !m.spinning.load(Relaxed) && p.runq.len() > 1 {
        pusher_fence();
        idle::pushed(m.sched, Some(p));
    }
    n > 0
}

/// Puts goroutines that are this M's on its ring, and what finds no room, or no P, on the global queue.
pub(super) fn keep(m: &'static M, goroutines: &[*mut G]) {
    // SAFETY: this thread's M; a section with queue operations.
    let kept = unsafe { m.with_p(|p, _| goroutines.iter().take_while(|&&g| p.runq.push(g).is_ok()).count()) };
    let rest = &goroutines[kept.unwrap_or(0)..];
    if !rest.is_empty() {
        put_all_global(m.sched, rest);
    }
    pusher_fence();
    m.sched.sysmon.alert(); // it may have looked while they were on their way
}

/// Wakes the own P's sleepers that are due, and those that had no P.
///
/// Sleepers go before what waits on the ring: they have said when they want to run, and behind a long queue they would all
/// be late. But two turns in three are all that they get. Those without a P come first, with half of the places: no other M need
/// ever look for them.
fn fire_timers(m: &'static M) -> bool {
    let own_due = m.latch().p().and_then(P::of).map_or(NEVER, |p| p.due.load(Relaxed));
    let shared_due = m.sched.sleepers_due.load(Relaxed);
    if own_due == NEVER && shared_due == NEVER {
        return false;
    }
    let now = time::now();
    let mut due = [ptr::null_mut(); SLEEPERS];
    let mut shared = 0;
    // SAFETY: this thread's M; a section that looks.
    if shared_due <= now && unsafe { m.with_p(|p, own| may_wake(p, own)) } != Some(false) {
        shared = time::pop_due_shared(m.sched, now, &mut due[..SLEEPERS / 2]);
    }
    // SAFETY: this thread's M; a section with heap operations, which never grow the heap here, and queue operations.
    let woken = unsafe {
        m.with_p(|p, own| {
            let own_n = if shared > 0 || may_wake(p, own) {
                time::pop_due(p, own, now, &mut due[shared..])
            } else {
                0
            };
            let n = shared + own_n;
            (n, put_in_front(p, own, &due[..n]))
        })
    };
    if let Some((n, displaced)) = woken {
        settle_woken(m, n > 0, &displaced);
        return n > 0;
    }
    put_all_global(m.sched, &due[..shared]);
    shared > 0
}

/// Whether sleepers may be put at the front of the ring: not if the last ones were put there only just now. Inside a section.
fn may_wake(p: &P, own: &Own) -> bool {
    p.runq.len() == 0 || !is_ahead(own.sleepers_from, p.tick.load(Relaxed))
}

/// Whether `tick` will soon be `sleepers_from`: at most [`put_in_front`] sets it so far ahead. Both wrap around, and long after the
/// last sleepers the one may be any distance from the other.
fn is_ahead(sleepers_from: u32, tick: u32) -> bool {
    (1..=SLEEPERS as u32 * 3 / 2).contains(&sleepers_from.wrapping_sub(tick))
}

/// Puts sleepers that are due, and this M's, at the front of the ring, the first of them first. Gives those at its end who had to
/// make room for them. Inside a section.
fn put_in_front(p: &P, own: &mut Own, due: &[*mut G]) -> [*mut G; SLEEPERS] {
    let mut displaced = [ptr::null_mut(); SLEEPERS];
    if !due.is_empty() {
        own.sleepers_from = p.tick.load(Relaxed).wrapping_add(due.len() as u32 * 3 / 2);
    }
    let mut last = 0;
    for &g in due.iter().rev() {
        // SAFETY: inside a section, which owns P; the sleepers were claimed, so they are ours.
        displaced[last] = unsafe { p.runq.push_front_displacing(g) };
        last += usize::from(!displaced[last].is_null());
    }
    displaced[..last].reverse(); // the newest was the first to go
    displaced
}

/// What [`put_in_front`] leaves to be done outside the section: for who was displaced, and, if `some` were put there, for who could
/// help.
fn settle_woken(m: &'static M, some: bool, displaced: &[*mut G]) {
    let displaced = &displaced[..displaced.iter().take_while(|g| !g.is_null()).count()];
    if !displaced.is_empty() {
        put_all_global(m.sched, displaced);
    }
    if some {
        pusher_fence();
        idle::pushed(m.sched, m.latch().p().and_then(P::of));
    }
}

/// Makes a stack ready for goroutine `id` of this site: open as deep as those go, and, for one in some, with the gauge set.
#[inline]
fn prepare(id: u64, site: &'static Site, stack: &Stack) {
    let desc = stack.desc();
    let class = site.class();
    if class > desc.class() {
        // SAFETY: held, and nothing runs on it.
        unsafe { desc.open_to(class) };
    }
    if site.is_measured(id) {
        // SAFETY: as above.
        unsafe { desc.set_gauge(id) };
    }
}

/// Puts a goroutine that has not run yet on a stack.
#[inline(always)]
fn start(m: &'static M, g: NonNull<G>, stack: Option<Stack>) -> NonNull<Body> {
    // SAFETY: out of the queue it is ours.
    let this = unsafe { g.as_ref() };
    if this.kind.get() == Kind::Pinned {
        m.pins.set(true);
    }
    let stack = match this.take_reserved() {
        Some(reserved) => {
            free_stack(stack);
            reserved
        }
        None => stack.unwrap_or_else(|| fresh_stack(m.sched, g)),
    };
    stack.desc().set_owner(g.as_ptr().cast_const().cast());
    if let Some(site) = this.site {
        prepare(this.id(), site, &stack);
    }
    // SAFETY: ours, and it has not run.
    let body = unsafe { Body::bind(stack, g) };
    // SAFETY: bound just now, and ours.
    unsafe { body.as_ref() }.blocks.set(this.site.is_some_and(Site::blocks));
    body
}

/// Runs a goroutine until it parks, yields or ends.
#[inline(always)]
fn execute(m: &'static M, job: Job) -> Left {
    let g = NonNull::new(job.g).expect("a job is a goroutine");
    let body = NonNull::new(job.body).unwrap_or_else(|| start(m, g, job.stack));
    // SAFETY: bound, and ours.
    let this = unsafe { body.as_ref() };
    this.last_m.set(m);
    // SAFETY: ours; when it has ended it may be gone.
    unsafe { m.show(g.as_ref().id(), g.as_ref().site) };
    m.counters.switches.add(1);
    if this.blocks.get() {
        habit::before_turn(m);
    }
    loop {
        this.desc().set_running();
        m.set_current(g.as_ptr(), body.as_ptr());
        if turns::are_watched() {
            // SAFETY: ours.
            unsafe { turns::begins(m, this, g) };
        }
        // SAFETY: on g0, and the goroutine is ours.
        let ended = unsafe { Body::resume(body) };
        if m.is_watched.get() {
            turns::stops(m, this, ended, m.commit.get().is_none());
        }
        m.set_current(ptr::null_mut(), ptr::null_mut());
        m.latch().declared.store(0, Relaxed); // a blocking call ends where its goroutine stops
        if ended {
            m.counters.ended.add(1);
            // SAFETY: it has ended.
            let stack = unsafe { Body::into_stack(body) };
            // SAFETY: held, and nothing runs on it.
            if let Some(depth) = unsafe { stack.desc().read_gauge() }
                && let Some(site) = m.site()
            {
                site.learn(depth);
            }
            return Left::Ended(stack);
        }
        this.desc().set_parked(this.left_at());
        let Some((commit, arg)) = m.commit.get() else {
            return Left::Yielded(g);
        };
        m.commit.set(None);
        // SAFETY: the goroutine has suspended, with what `arg` points to on its stack, and waits for this.
        if unsafe { commit(arg) } {
            return Left::Nothing;
        }
    }
}

/// A stack from the shared pools. Without one the program cannot go on: the goroutine is runnable and nobody else could
/// run it.
#[cold]
fn fresh_stack(sched: &Sched, g: NonNull<G>) -> Stack {
    // SAFETY: the caller's.
    let this = unsafe { g.as_ref() };
    match this
        .stack_spec(sched.config.stack)
        .and_then(|spec| scavenge::acquire(spec, this.site.map_or(Class::MIN, Site::class)))
    {
        Ok(stack) => stack,
        Err(error) => crate::fatal::no_stack(this, &error),
    }
}

/// Gives a stack back that found no place in a P's cache.
#[inline]
fn free_stack(stack: Option<Stack>) {
    if let Some(stack) = stack {
        baton_stack::release(stack);
    }
}

/// Leaves this goroutine to another M, if it must not run here: it is pinned to that one, or this M ran it last and forced
/// migration, a test mode, wants another.
#[cold]
#[inline(never)]
fn runs_elsewhere(m: &'static M, job: &Job) -> bool {
    let g = NonNull::new(job.g).expect("a job is a goroutine");
    if let Some(home) = pinned::elsewhere(m, g) {
        idle::deliver(m, home, g);
        return true;
    }
    // SAFETY: out of the queue it is ours, and so is its body.
    let (this, body) = unsafe { (g.as_ref(), &*job.body) };
    m.sched.config.force_migration
        && this.kind.get() == Kind::Migrating
        && ptr::eq(body.last_m.get(), m)
        && idle::hand_over(m, g)
}

/// Leaves the goroutine's stack for g0, which runs `commit`; comes back when somebody has made the goroutine ready.
///
/// # Safety
///
/// On a goroutine's stack, `m` is this thread's, and what `commit` points to stays in place until it has run.
#[inline(always)] // the fewer functions there are between two switches, the fewer returns: see `switch`
pub(crate) unsafe fn suspend(m: &'static M, commit: Commit) {
    m.commit.set(Some(commit));
    // SAFETY: as the caller promised.
    unsafe { switch(m) };
}

/// Leaves the goroutine's stack for g0, which puts the goroutine at the end of its P's queue; unless it is the only one
/// there and would run next anyway.
///
/// # Safety
///
/// On a goroutine's stack, and `m` is this thread's.
pub(crate) unsafe fn suspend_yield(m: &'static M) {
    // A look without a section first: most often there are others.
    let alone = m.latch().p().and_then(P::of).is_some_and(|p| p.runq.len() == 0)
        && !m.sched.config.force_migration
        // SAFETY: this thread's M; a section that looks and counts.
        && unsafe { m.section(|p, _| is_alone(p)) } == Some(true);
    let has_none = || !m.has_p() && m.world().is_none() && habit::goes_on(m);
    if !alone && !has_none() {
        // SAFETY: as the caller promised.
        unsafe { switch(m) };
    }
}

/// Whether a goroutine that yields would run next, its turn counted if so. Inside a section.
#[inline(always)]
fn is_alone(p: &P) -> bool {
    let tick = p.tick.load(Relaxed).wrapping_add(1);
    let alone =
        p.runq.len() == 0 && !p.runq.has_next() && !tick.is_multiple_of(GLOBAL_EVERY) && !p.attention.load(Relaxed);
    if alone {
        p.tick.store(tick, Relaxed);
    }
    alone
}

/// The switch itself. errno is the thread's, so it is carried over by hand; the stack learns how deep it is.
///
/// # Safety
///
/// As for `suspend`.
#[inline(always)]
unsafe fn switch(m: &'static M) {
    let body = NonNull::new(m.body.get()).expect("a goroutine has a body");
    // SAFETY: this thread's own word.
    let errno = unsafe { *m.errno() };
    // SAFETY: the body of the running goroutine, on whose stack this is.
    unsafe {
        body.as_ref().note_registers();
        body.as_ref().desc().note_depth(body.as_ref().left_at());
        Body::suspend(body);
        body.as_ref().waits_no_more();
        // SAFETY: the M that has resumed it is the one of the thread that this is now.
        *(*body.as_ref().last_m.get()).errno() = errno;
    }
}

/// The running goroutine is about to end: from here on nobody is told its name.
pub(crate) fn forget_current() {
    if let Some(m) = m::current() {
        // SAFETY: the body of the running goroutine.
        if let Some(body) = unsafe { m.body.get().as_ref() } {
            body.desc().set_owner(ptr::null());
        }
        m.forget_goroutine();
    }
}

/// It has something left to do after all, so it is a goroutine as before.
#[cold]
pub(crate) fn recall_current(g: NonNull<G>) {
    if let Some(m) = m::current() {
        m.desc().set_owner(g.as_ptr().cast_const().cast());
        m.may_suspend(g, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_are_put_off_for_a_batch_and_not_for_half_of_all_ticks() {
        let put = u32::MAX - 20;
        let from = put.wrapping_add(SLEEPERS as u32 * 3 / 2);
        assert!(is_ahead(from, put) && is_ahead(from, from.wrapping_sub(1)));
        for since in [0, 1, 1 << 31, (1 << 31) + 1, u32::MAX - 100] {
            assert!(!is_ahead(from, from.wrapping_add(since)), "{since}");
        }
    }
}
