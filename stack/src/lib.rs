//! Baton's stacks: where goroutines run.
//!
//! ```text
//!   StackCache (per P, no lock) ──▶ Pool (per kind: stackpool, stackLarge) ──▶ slab ──▶ the page heap of baton-alloc
//!        ▲ pop, push                 acquire, release_batch                    carved, a few at a time
//!        │
//!   goroutine ── runs ── touches the guard ──▶ fault ──▶ copystack: the extent doubles, the address stays
//! ```
//!
//! A stack is a reservation of address space (1 MiB if nobody says otherwise) of which only what was touched is memory.
//! Its *class* is the power of two, from 2 KiB, that is resident and charged. It never moves: growth opens what lies below.
//!
//! **Down**, when a goroutine first runs: the P's [`StackCache`], else [`acquire`], which takes a warm stack from the
//! shared pool of that [`Spec`] or carves a new one. **Up**, when it ends: the cache, else [`release_batch`]. Free stacks
//! keep pages, guards and class, so the second use of a deep stack costs no trap and no page fault.
//!
//! | file | concept |
//! |---|---|
//! | `reservation` | one stack: layout, guards, descriptor |
//! | `class` | what is charged, as a power of two |
//! | `config` | growth modes, kinds of stack |
//! | `gauge` | how deep a goroutine went on a stack that was deep before |
//! | `copystack` | the doubling, and what parking points do |
//! | `fault` | the signal handler, alternate stacks, the report of an overflow |
//! | `shrink` | giving back what pools keep and what lies below parked goroutines |
//! | `stackcache` | free stacks of a P |
//! | `pool`, `stackpool`, `stacklarge` | free stacks of the process |
//! | `backing`, `sys` | the page heap below, the operating system |
//!
//! # What a scheduler does
//!
//! 1. At the start: [`install`] once, [`set_describe`], and an [`AltStack`] for each thread; [`watch_own_stack`] in
//!    those that run goroutines.
//! 2. For each goroutine: a [`Stack`]; [`Desc::set_owner`].
//! 3. Before each switch to it: `M.stack` = [`Desc::as_word`]; after the switch back: null.
//! 4. At each parking point, on the goroutine's stack: [`Desc::note_depth`].
//!
//! 5. On g0, after each switch back from a goroutine that goes on later: [`Desc::set_parked`]; before each switch to it:
//!    [`Desc::set_running`].
//! 6. If an overflow may end a goroutine alone: [`set_on_overflow`]. The [`Stack`] is then forgotten.
//!
//! # What remains dangerous
//!
//! The kernel does not trap: a system call whose buffer is the first touch of a guarded page gets `EFAULT`. Calls through
//! a C library cannot meet it, since the call itself touches the stack below the buffer; inline system calls from frames
//! of less than a page can. [`StackGrowth::DemandPaged`] has none of it. C code compiled without stack-clash protection
//! can jump over the 16 KiB at the bottom (64 KiB on aarch64), as it can over the guard of any thread.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("baton-stack supports Linux on x86-64 and aarch64 only");

mod backing;
mod class;
mod config;
mod copystack;
mod error;
mod fault;
mod gauge;
mod pool;
mod reservation;
mod shrink;
mod stackcache;
mod stacklarge;
mod stackpool;
mod stats;
mod sys;

pub use class::{CLASSES, Class};
pub use config::{Spec, StackGrowth};
pub use copystack::HEADROOM;
pub use error::StackError;
pub use fault::{AltStack, Describe, Leave, OnOverflow, install, set_describe, set_on_overflow, watch_own_stack};
pub use pool::{acquire, acquire_class, release, release_batch, stats};
pub use reservation::{DEFAULT_RESERVATION, Desc, FIRST_EXTENT, MAX_RESERVATION, MIN_RESERVATION, Stack};
pub use shrink::{each, map};
pub use stackcache::{Batch, StackCache};
pub use stats::StackStats;
pub use sys::{
    pages::{GuardKind, guard_kind},
    process::own_stack_floor,
};
