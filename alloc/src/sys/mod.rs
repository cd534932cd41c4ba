//! The operating system, as far as the allocator needs it: the only files of this crate that call libc.
//!
//! | file | contract |
//! |---|---|
//! | `futex` | wait for a word to change, wake its waiters; never allocates |
//! | `membarrier` | a full fence on every running thread of this process, or the news that the kernel refuses it |

#[cfg(not(baton_loom))]
pub mod futex;
pub(crate) mod membarrier;
