//! Baton: goroutines for Rust.
//!
//! `go!` starts a goroutine (G); OS threads (M) run goroutines under processors (P). A P owns what makes running them cheap:
//! an allocator cache, a stack cache, a run queue. When a thread blocks in the kernel, its P goes to another thread with
//! everything on it, like the baton in a relay race:
//!
//! ```text
//! M1 ── runs G1 ── blocks in the kernel ─────────────────────── returns, looks for a P
//!       └─ P leaves M1 with all that it owns ─ M2 picks P up ─ runs G2, G3 … on a warm mcache
//! ```
//!
//! Write plain blocking Rust and call any library; a call that blocks costs one thread while it lasts and stops nobody
//! else. A goroutine's stack starts with one page, grows in place and never moves.
//!
//! ```
//! use baton::{chan, go};
//!
//! let total: u64 = baton::run(|| {
//!     let (tx, rx) = chan::bounded(16);
//!     for i in 0..100 {
//!         let tx = tx.clone();
//!         go!(move || tx.send(i * i).unwrap());
//!     }
//!     drop(tx);
//!     rx.iter().sum()
//! });
//! assert_eq!(total, 328_350);
//! ```
//!
//! Use [`Alloc`] as the program's allocator to have its objects in the caches that the Ps carry:
//!
//! ```
//! #[global_allocator]
//! static ALLOC: baton::Alloc = baton::Alloc;
//! ```
//!
//! | module | for |
//! |---|---|
//! | [`go!`], [`spawn`], [`scope`](fn@scope), [`Builder`], [`JoinHandle`], [`run`], [`Runtime`] | starting and joining goroutines |
//! | [`lock_os_thread`], [`goroutine_local!`] | staying on a thread; variables of a goroutine |
//! | [`chan`] | channels |
//! | [`sync`] | locks, condition variables, semaphores, barriers, once, wait groups, pools |
//! | [`stack`] | more stack for deep recursion |
//! | [`time`] | sleeping, timers |
//! | [`net`], [`io`] | sockets as std's, and pipes, that wait without a thread each |
//! | [`context`], [`errgroup`] | when to give up; goroutines that fail together |
//! | [`block_on`](fn@block_on), [`block_on_within`] | futures in goroutines; `JoinHandle`, `Receiver`, `Timer` and `Ticker` are futures and streams |
//! | [`Alloc`], [`profile`] | the allocator; who allocated what |
//! | [`testing`] | simulations: one thread, interleavings by seed, time that does not wait |
//! | [`blocking`], [`blocking_now`], [`on_big_stack`], [`yield_now`], [`metrics`](fn@metrics), [`debug`] | the scheduler |

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("baton supports Linux on x86-64 and aarch64 only");

pub mod chan;
mod config;
pub mod context;
mod deadlock;
pub mod debug;
pub mod errgroup;
mod fatal;
mod future;
mod g;
mod goroutine;
pub mod io;
mod local;
mod lock;
mod m;
mod macros;
mod metrics;
pub mod net;
mod p;
mod park;
mod pinned;
mod prefetch;
mod runtime;
mod sched;
mod scope;
mod site;
pub mod stack;
mod stderr;
mod switch;
pub mod sync;
pub mod testing;
mod ticket;
pub mod time;
mod waitlist;

pub use baton_alloc::{Alloc, profile};
pub use baton_macros::{main, test};
pub use baton_stack::StackGrowth;
pub use config::ConfigError;
pub use debug::dump;
pub use future::{block_on, block_on_within};
pub use g::OnStackOverflow;
pub use goroutine::{Builder, Goroutine, JoinError, JoinHandle, SpawnError, current, spawn, spawn_migrating};
pub use local::LocalKey;
pub use metrics::{Metrics, metrics};
pub use park::yield_now;
pub use pinned::{OsThreadGuard, lock_os_thread};
pub use runtime::{Runtime, RuntimeBuilder, StillAlive, procs, run};
pub use sched::{StallCause, StallReport, blocking, blocking_now, on_big_stack, set_procs};
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use site::SpawnSite;
#[doc(hidden)]
pub use {goroutine::spawn_at as __spawn_at, site::Site as __Site};
