//! What the runtime counts: plain words of each M, added up when somebody asks.

use crate::{
    m::M,
    sched::{sched, stall::Cause},
    site::{self, SpawnSite},
};
use baton_alloc::latch::{self, Mode};
use parking_lot::Mutex;
use std::{
    ptr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// A counter that one thread bumps and anybody reads: no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; the owner alone.
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Adds one to a counter of the monitor.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// What one M counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) spawned: Counter,
    pub(crate) ended: Counter,
    pub(crate) overflowed: Counter,
    pub(crate) switches: Counter,
    pub(crate) steals: Counter,
    pub(crate) steal_tries: Counter,
    pub(crate) sheds: Counter,
}

/// All Ms ever made, for the sums.
static MS: Mutex<Vec<&'static M>> = Mutex::new(Vec::new());

/// Enters an M into the sums, if it is not there from an earlier thread.
pub(crate) fn register(m: &'static M) {
    let mut ms = MS.lock();
    if !ms.iter().any(|&other| ptr::eq(other, m)) {
        ms.push(m);
    }
}

/// All Ms that have, or had, a thread.
pub(crate) fn ms() -> Vec<&'static M> {
    MS.lock().clone()
}

/// A look at the runtime's counters. All are sums since the start unless they say otherwise; they are read one after the
/// other while the program runs, so they need not fit together to the last unit.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Goroutines spawned and not ended yet, now.
    pub goroutines: u64,
    /// Goroutines spawned.
    pub spawned: u64,
    /// Times that a goroutine was switched to.
    pub switches: u64,
    /// Times that an M took goroutines from another's P.
    pub steals: u64,
    /// Times that it tried.
    pub steal_tries: u64,
    /// Times that a processor left half of its queue, or 128 goroutines, to others because one of them had asked.
    pub sheds: u64,
    /// Processors taken because of a declared blocking call ([`blocking`](crate::blocking), Baton's own waits).
    pub handoffs_declared: u64,
    /// Processors taken because a thread was found asleep in the kernel.
    pub handoffs_undeclared: u64,
    /// Processors taken because a goroutine computed for longer than a time slice, 4 ms.
    pub handoffs_hog: u64,
    /// Times that a thread gave its processor up beforehand, for a goroutine that was found asleep the last time.
    pub handoffs_foreseen: u64,
    /// Takes given up because the thread was just using its processor's data, or had got on.
    pub handoffs_missed: u64,
    /// Barriers issued on all cores, by takers and by threads that went idle.
    pub membarriers: u64,
    /// Whether the kernel allows membarrier(2). If not, owners of processors fence at each use: a little slower.
    pub membarrier_mode: bool,
    /// Threads of the scheduler, now.
    pub threads: u64,
    /// Looks of the monitor.
    pub sysmon_rounds: u64,
    /// Allocations served by an mcache.
    pub mcache_hits: u64,
    /// Times that an mcache was refilled from an mcentral.
    pub mcache_refills: u64,
    /// Bytes of free objects in mcaches, now.
    pub mcache_bytes: u64,
    /// Bytes of address space that come from the system, now.
    pub reserved_bytes: u64,
    /// Bytes of live objects, now.
    pub object_bytes: u64,
    /// Bytes of it in stacks, now: mostly address space that was never touched.
    pub stack_bytes: u64,
    /// Stacks made so far.
    pub stacks: u64,
    /// Stacks in the shared pools by class, now: 2 KiB, 4 KiB, 8 KiB and so on.
    pub free_stacks: Vec<u64>,
    /// Goroutines that ended because their stack was full: each leaves a stack that is never used again.
    pub stack_overflows: u64,
    /// Times that a parked goroutine gave back memory that lay below it.
    pub stack_shrinks: u64,
    /// What each `go!` has learned about the stacks of its goroutines.
    pub spawn_sites: Vec<SpawnSite>,
    /// Times that a stack was doubled in place.
    pub stack_doublings: u64,
    /// Times that a guard was hit, and the stack grew by it.
    pub stack_traps: u64,
}

/// Goroutines spawned and not ended yet.
pub(crate) fn goroutines() -> u64 {
    let ms = MS.lock();
    let ended: u64 = ms.iter().map(|m| m.counters.ended.get()).sum();
    let spawned: u64 = ms.iter().map(|m| m.counters.spawned.get()).sum();
    (spawned + sched().spawned_outside.load(Relaxed)).saturating_sub(ended)
}

/// A look at the runtime's counters; starts the runtime if it does not run yet.
///
/// ```
/// baton::run(|| {
///     baton::go!(|| ()).join().unwrap();
///     assert!(baton::metrics().spawned >= 2);
/// });
/// ```
#[must_use]
pub fn metrics() -> Metrics {
    let sched = sched();
    let memory = baton_alloc::stats();
    let stacks = baton_stack::stats();
    let ms = MS.lock();
    let sum = |field: fn(&Counters) -> &Counter| ms.iter().map(|m| field(&m.counters).get()).sum::<u64>();
    let ended = sum(|c| &c.ended);
    let spawned = sum(|c| &c.spawned) + sched.spawned_outside.load(Relaxed);
    let handoffs = |cause: Cause| sched.sysmon.handoffs[cause as usize].load(Relaxed);
    Metrics {
        goroutines: spawned.saturating_sub(ended),
        spawned,
        switches: sum(|c| &c.switches),
        steals: sum(|c| &c.steals),
        steal_tries: sum(|c| &c.steal_tries),
        sheds: sum(|c| &c.sheds),
        handoffs_declared: handoffs(Cause::Declared),
        handoffs_undeclared: handoffs(Cause::Undeclared),
        handoffs_hog: handoffs(Cause::Hog),
        handoffs_foreseen: sched.sysmon.foreseen.load(Relaxed),
        handoffs_missed: sched.sysmon.missed.load(Relaxed),
        membarriers: latch::membarriers(),
        membarrier_mode: latch::mode() == Mode::Membarrier,
        threads: sched.sysmon.ms().into(),
        sysmon_rounds: sched.sysmon.rounds.load(Relaxed),
        mcache_hits: memory.hits,
        mcache_refills: memory.refills,
        mcache_bytes: memory.cached_bytes as u64,
        reserved_bytes: memory.mapped_bytes as u64,
        object_bytes: (memory.small_live_bytes + memory.large_bytes) as u64,
        stack_bytes: memory.stack_bytes as u64,
        stacks: stacks.carved as u64,
        free_stacks: stacks.free.iter().map(|&n| n as u64).collect(),
        stack_overflows: sum(|c| &c.overflowed),
        stack_shrinks: stacks.shrunk,
        spawn_sites: site::all(),
        stack_doublings: stacks.doublings,
        stack_traps: stacks.traps,
    }
}
