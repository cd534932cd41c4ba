//! Tests of concurrent programs: one thread, an interleaving that a seed decides, and a clock that does not wait.
//!
//! ```
//! use baton::{chan, go, testing::Simulation};
//!
//! // One seed is one interleaving, always the same one.
//! let order = |seed| {
//!     Simulation::seed(seed).run(|| {
//!         let (tx, rx) = chan::unbounded();
//!         for i in 0..4 {
//!             let tx = tx.clone();
//!             go!(move || tx.send(i).unwrap());
//!         }
//!         drop(tx);
//!         rx.iter().collect::<Vec<_>>()
//!     })
//! };
//! assert_eq!(order(7), order(7));
//! assert!((0..100).any(|seed| order(seed) != order(7)));
//! ```
//!
//! # What a seed decides
//!
//! Goroutines of a simulation take turns on one thread. At each parking call (a channel, a join, a lock, a sleep,
//! [`yield_now`](crate::yield_now), also when the call would not wait) the seed chooses who goes on among all that can.
//! Between two parking calls nothing interleaves. So a simulation finds wrong *orders*: lost wake-ups, deadlocks, results
//! that depend on who was first. Races of memory accesses are for loom and for sanitizers.
//!
//! # Time
//!
//! [`time::sleep`](crate::time::sleep) and all timers go by the simulation's clock ([`Simulation::elapsed`]). Each turn
//! takes a microsecond, and when nobody can run the clock jumps to the next timer. An hour's sleep takes no time.
//! `std::time::Instant` still tells the real time.
//!
//! # What stays outside
//!
//! The same seed gives the same interleaving if nothing else decides: no real clock, no random hasher's order, no other
//! threads, no addresses. Threads and goroutines outside the simulation may wake those in it, but the simulation does not wait
//! for them: if all its goroutines wait and no timer is set, that is a deadlock.

pub(crate) mod world;

use std::{env, ops::Range, panic::resume_unwind, thread, time::Duration};
use world::World;

/// A run of goroutines on one thread whose interleaving a seed decides.
///
/// ```
/// use baton::{go, testing::Simulation, time};
/// use std::time::Duration;
///
/// Simulation::seed(1).run(|| {
///     let sleeper = go!(|| time::sleep(Duration::from_secs(3600)));
///     sleeper.join().unwrap();
///     assert!(Simulation::elapsed() >= Duration::from_secs(3600)); // and yet it took no time
/// });
/// ```
#[derive(Clone, Debug)]
#[must_use = "a simulation does nothing until it runs"]
pub struct Simulation {
    seed: u64,
}

impl Simulation {
    /// The simulation that this seed decides.
    pub fn seed(seed: u64) -> Self {
        Self { seed }
    }

    /// The simulations of all these seeds; or, if the environment has `BATON_SEED=n`, of that one alone.
    ///
    /// ```
    /// use baton::{sync::WaitGroup, go, testing::Simulation};
    ///
    /// Simulation::seeds(0..20).run(|| {
    ///     let group = WaitGroup::new();
    ///     let member = group.clone();
    ///     go!(move || drop(member));
    ///     group.wait();
    /// });
    /// ```
    pub fn seeds(seeds: Range<u64>) -> Simulations {
        Simulations { seeds }
    }

    /// Runs `f` as the main goroutine of the simulation and gives what it returns. It runs on a thread of its own.
    ///
    /// When `f` returns the simulation is over. Goroutines that have not ended by then are abandoned, and their stacks are
    /// not used again; so wait for what you start.
    ///
    /// # Panics
    ///
    /// With what `f` panicked with, or, if all goroutines wait and no timer is set, with a report of who waits. Either way
    /// the seed is printed.
    pub fn run<F, T>(self, f: F) -> T
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        let seed = self.seed;
        let ran = thread::scope(|scope| scope.spawn(|| World::run(seed, f)).join());
        match ran {
            Ok(value) => value,
            Err(payload) => {
                eprintln!("baton: the simulation failed with seed {seed}; Simulation::seed({seed}) runs it again");
                resume_unwind(payload)
            }
        }
    }

    /// How long the simulation has run by its own clock.
    ///
    /// # Panics
    ///
    /// If the caller is no goroutine of a simulation.
    #[must_use]
    pub fn elapsed() -> Duration {
        let Some(world) = World::current() else {
            panic!(
                "Simulation::elapsed() outside of a simulation: call it in a goroutine that Simulation::run started"
            );
        };
        Duration::from_nanos(world.now() - world::START)
    }
}

/// Several simulations, one after the other: see [`Simulation::seeds`].
#[derive(Clone, Debug)]
#[must_use = "simulations do nothing until they run"]
pub struct Simulations {
    seeds: Range<u64>,
}

impl Simulations {
    /// Runs `f` under each seed.
    ///
    /// # Panics
    ///
    /// As [`Simulation::run`], with the first seed that fails; or if `BATON_SEED` is no number.
    pub fn run<F: Fn() + Send + Sync>(self, f: F) {
        let seeds = match env::var("BATON_SEED") {
            Ok(text) => match text.parse() {
                Ok(seed) => seed..seed + 1,
                Err(_) => {
                    panic!("BATON_SEED is {text}, but must be a number: the seed that a failed simulation printed")
                }
            },
            Err(_) => self.seeds,
        };
        for seed in seeds {
            Simulation::seed(seed).run(&f);
        }
    }
}
