//! The world of a simulation: its goroutines, its clock, its dice.
//!
//! ```text
//!   runnable ── one is drawn ──▶ runs until its next parking call ──┬─ yields ─▶ runnable
//!      ▲                                                            ├─ parks ──▶ somewhere else's list, or `timers`
//!      └── timers that are due; ready, spawn                        └─ ends
//! ```
//!
//! The world has an M and no P. So everything in it takes the roads of a goroutine that has lost its P: the scheduler asks
//! there whether the M is a world's, and costs the others nothing.
//!
//! # Invariants
//!
//! 1. All of a world but `inbox` and `driver` is touched by its own thread alone; no borrow of `state` is held while a goroutine runs.
//! 2. A goroutine of a world is resumed by that world only. Whoever else makes it ready leaves it in the inbox.
//! 3. A world with goroutines left is never freed, since those may still be woken.

use crate::{
    debug::turns,
    fatal,
    future::driver::Driver,
    g::{Body, G, Kind},
    m::{self, M},
    sched::{self, sched},
    time::heap::Sleeper,
};
use baton_stack::{AltStack, Stack};
use parking_lot::Mutex;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write,
    mem,
    panic::resume_unwind,
    ptr::{self, NonNull},
    sync::Arc,
};

/// What the clock of a world shows at first, in nanoseconds.
pub(super) const START: u64 = 1_000_000_000;

/// What a turn takes by that clock.
const TURN: u64 = 1_000;

pub(crate) struct World {
    m: M,
    state: RefCell<State>,
    /// Goroutines of this world that others made ready.
    inbox: Mutex<Vec<Woken>>,
    /// Calls the wakers of what is awaited here.
    pub(crate) driver: Arc<Driver>,
}

struct State {
    dice: Dice,
    now: u64,
    runnable: Vec<NonNull<G>>,
    /// By when they are due, and then in the order in which they were set.
    timers: BTreeMap<(u64, u64), Sleeper>,
    timers_set: u64,
    /// All that have not ended, by number.
    alive: BTreeMap<u64, NonNull<G>>,
    last_id: u64,
    /// Stacks of those that have ended.
    stacks: Vec<Stack>,
}

/// A goroutine that is on its way to its world.
struct Woken(NonNull<G>);

// SAFETY: the right to run the goroutine, which moves to the thread of its world.
unsafe impl Send for Woken {}

/// SplitMix64: every seed, also 0 and its neighbours, gives a good sequence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    }
}

impl World {
    /// Runs `f` as the main goroutine of a new world, on this thread, which is no M yet.
    pub(super) fn run<F, T>(seed: u64, f: F) -> T
    where
        F: FnOnce() -> T,
    {
        let altstack = AltStack::install();
        if let Err(error) = &altstack {
            fatal::no_handler(error);
        }
        let world = Lives::on_this_thread(seed);
        // SAFETY: `f` runs on this thread only; it lives until its end, and if that does not come it is never resumed.
        let main = unsafe { sched::spawn(f, None, Kind::Simulated) };
        while !main.is_done() {
            match world.draw() {
                Some(g) => world.execute(g),
                None => panic!(
                    "deadlock: all goroutines of the simulation wait, and no timer is set{}",
                    world.who_waits()
                ),
            }
        }
        world.driver.finish(); // somebody outside may wait for what the main goroutine did last
        let result = main.join();
        drop(world);
        match result {
            Ok(value) => value,
            Err(payload) => resume_unwind(payload),
        }
    }

    /// The world of the running goroutine.
    pub(crate) fn current() -> Option<&'static Self> {
        m::current()?.world()
    }

    /// Its clock.
    pub(crate) fn now(&self) -> u64 {
        self.state.borrow().now
    }

    /// A number below `n` that the seed decides.
    pub(crate) fn dice(&self, n: usize) -> usize {
        self.state.borrow_mut().dice.below(n)
    }

    /// Takes a new goroutine in.
    pub(crate) fn spawned(&self, g: NonNull<G>) {
        let mut state = self.state.borrow_mut();
        state.last_id += 1;
        // SAFETY: nobody else knows the goroutine yet.
        let this = unsafe { g.as_ref() };
        this.set_id(state.last_id);
        this.kind.set(Kind::Simulated); // whatever its spawner asked for: there is one thread
        state.alive.insert(this.id(), g);
        state.runnable.push(g);
    }

    /// Makes a goroutine runnable that is in some world and has parked: the caller's to make ready.
    pub(crate) fn ready(g: NonNull<G>) {
        // SAFETY: the caller's. It has run, so it has a body and its M's world, which lives as long as it does.
        let home = unsafe {
            g.as_ref()
                .body
                .get()
                .as_ref()
                .and_then(|body| body.last_m.get().as_ref())
        };
        let Some(home) = home.and_then(M::world) else { return };
        if Self::current().is_some_and(|here| ptr::eq(here, home)) {
            home.state.borrow_mut().runnable.push(g);
        } else {
            home.inbox.lock().push(Woken(g));
        }
    }

    /// Wakes the sleeper when it is due.
    pub(crate) fn wake_at(&self, sleeper: Sleeper) {
        let mut state = self.state.borrow_mut();
        state.timers_set += 1;
        let order = state.timers_set;
        state.timers.insert((sleeper.when, order), sleeper);
    }

    /// Draws the goroutine that goes on, moving the clock if need be. `None`: nobody ever will.
    fn draw(&self) -> Option<NonNull<G>> {
        let state = &mut *self.state.borrow_mut();
        state
            .runnable
            .extend(mem::take(&mut *self.inbox.lock()).into_iter().map(|woken| woken.0));
        state.now += TURN;
        while let Some(first) = state.timers.first_entry() {
            if first.get().is_stale() {
                first.remove();
            } else if first.get().when <= state.now {
                state.runnable.extend(first.remove().claim());
            } else if state.runnable.is_empty() {
                state.now = first.get().when;
            } else {
                break;
            }
        }
        if state.runnable.is_empty() {
            return None;
        }
        let drawn = state.dice.below(state.runnable.len());
        Some(state.runnable.swap_remove(drawn))
    }

    /// Runs `g` until it parks, yields or ends.
    fn execute(&'static self, g: NonNull<G>) {
        // SAFETY: out of `runnable` it is ours (invariant 2).
        let (id, body) = unsafe { (g.as_ref().id(), g.as_ref().body.get()) };
        let body = NonNull::new(body).unwrap_or_else(|| self.bind(g));
        // SAFETY: bound, and ours.
        let this = unsafe { body.as_ref() };
        this.last_m.set(&raw const self.m);
        self.m.show(id, None);
        loop {
            self.m.set_current(g.as_ptr(), body.as_ptr());
            if self.m.sched.config.hooks.any() {
                // SAFETY: ours.
                unsafe { turns::begins(&self.m, this, g) };
            }
            // SAFETY: on g0, and the goroutine is ours.
            let ended = unsafe { Body::resume(body) };
            if self.m.is_watched.get() {
                turns::stops(&self.m, this, ended, self.m.commit.get().is_none());
            }
            self.m.set_current(ptr::null_mut(), ptr::null_mut());
            if ended {
                // SAFETY: it has ended.
                let stack = unsafe { Body::into_stack(body) };
                let mut state = self.state.borrow_mut();
                state.alive.remove(&id);
                state.stacks.push(stack);
                return;
            }
            match self.m.commit.take() {
                // SAFETY: the goroutine has suspended, with what `arg` points to on its stack, and waits for this.
                Some((commit, arg)) if unsafe { commit(arg) } => return,
                Some(_) => {}
                None => return self.state.borrow_mut().runnable.push(g),
            }
        }
    }

    /// A stack for a goroutine that has not run yet.
    fn bind(&self, g: NonNull<G>) -> NonNull<Body> {
        // SAFETY: out of `runnable` it is ours.
        let this = unsafe { g.as_ref() };
        let spec = match this.stack_spec(sched().config.stack) {
            Ok(spec) => spec,
            Err(error) => fatal::no_stack(this, &error),
        };
        let used = {
            let stacks = &mut self.state.borrow_mut().stacks;
            let fits = stacks.iter().rposition(|stack| stack.desc().spec() == spec);
            fits.map(|at| stacks.swap_remove(at))
        };
        let stack = match used.map_or_else(|| baton_stack::acquire(spec), Ok) {
            Ok(stack) => stack,
            Err(error) => fatal::no_stack(this, &error),
        };
        stack.desc().set_owner(g.as_ptr().cast_const().cast());
        // SAFETY: ours, and it has not run.
        unsafe { Body::bind(stack, g) }
    }

    /// The goroutines that have not ended, a line each.
    fn who_waits(&self) -> String {
        let state = self.state.borrow();
        let mut text = String::new();
        for &g in state.alive.values() {
            // SAFETY: it has not ended, and this thread alone runs it.
            let g = unsafe { g.as_ref() };
            let _ = write!(text, "\n  {} waits", fatal::Who(g));
        }
        text
    }
}

/// A world that lives on this thread; while it does, the thread is its M.
struct Lives(&'static World);

impl Lives {
    fn on_this_thread(seed: u64) -> Self {
        let world = Box::leak(Box::new(World {
            m: M::new(u32::MAX, sched()),
            state: RefCell::new(State {
                dice: Dice(seed),
                now: START,
                runnable: Vec::new(),
                timers: BTreeMap::new(),
                timers_set: 0,
                alive: BTreeMap::new(),
                last_id: 0,
                stacks: Vec::new(),
            }),
            inbox: Mutex::new(Vec::new()),
            driver: Arc::new(Driver::new()),
        }));
        world.m.world.set(world);
        world.m.adopt_thread();
        Self(world)
    }
}

impl std::ops::Deref for Lives {
    type Target = &'static World;

    fn deref(&self) -> &&'static World {
        &self.0
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        self.0.m.leave_thread();
        let (stacks, abandoned) = {
            let mut state = self.0.state.borrow_mut();
            (mem::take(&mut state.stacks), !state.alive.is_empty())
        };
        stacks.into_iter().for_each(baton_stack::release);
        if !abandoned {
            // SAFETY: it was leaked by `on_this_thread`. No goroutine is left that could be woken, this thread is done with it,
            // and nobody else reaches a world but through one of its goroutines.
            drop(unsafe { Box::from_raw(ptr::from_ref(self.0).cast_mut()) });
        }
    }
}
