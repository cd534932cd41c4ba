//! The operating system, as far as stacks need it: the only files of this crate that call libc.
//!
//! | file | contract |
//! |---|---|
//! | `pages` | what may be done to the pages of a reservation: guard, open, populate, give back, look |
//! | `signal` | actions of signals, alternate stacks |
//! | `context` | the stack pointer of an interrupted thread, and where it goes on; one file per architecture |
//! | `stderr` | a report in a fixed buffer, for places that may neither allocate nor lock |
//! | `backtrace` | the innermost frames of the interrupted code, by name |
//! | `process` | limits, the auxiliary vector, the environment, errno |
//!
//! # States of a page
//!
//! All memory of a reservation is one private anonymous mapping, readable and writable, that the page heap made. What
//! varies is the page-table entry:
//!
//! ```text
//!                    first touch, populate
//!        ┌───────┐ ──────────────────────▶ ┌──────────┐
//!        │ empty │                         │ resident │
//!        └───────┘ ◀────────────────────── └──────────┘
//!          │   ▲          give_back             │
//!    guard │   │ open                           │ guard (the contents are lost)
//!          ▼   │                                ▼
//!        ┌───────┐ ◀────────────────────────────┘
//!        │ guard │     touch → SIGSEGV;  kernel access → EFAULT;  give_back leaves it a guard
//!        └───────┘
//! ```

pub(crate) mod backtrace;
pub(crate) mod context;
pub(crate) mod pages;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod stderr;
