//! The operating system, as far as the allocator needs it: the only files of this crate that call libc.
//!
//! | file | contract |
//! |---|---|
//! | `clock`, `env` | the time; settings |
//! | `backtrace` | the return addresses on this thread's stack |
//! | `die` | the last words of the process: formatted on the stack, written, abort; never allocates |
//! | `errno` | a system call of the allocator leaves the thread's `errno` as it was |
//! | `futex` | wait for a word to change, wake its waiters; never allocates |
//! | `mem` | address space and physical pages: map, unmap, discard, with a table of states |
//! | `membarrier` | a full fence on every running thread of this process, or the news that the kernel refuses it |
//! | `stderr` | text to standard error, in few writes; never allocates |
//! | `thread` | who this thread is, whether another is dead, what runs when it ends, signals held off, fork |

#[cfg(not(baton_loom))]
pub(crate) mod backtrace;
#[cfg(not(baton_loom))]
pub(crate) mod clock;
#[cfg(not(baton_loom))]
pub(crate) mod die;
#[cfg(not(baton_loom))]
pub(crate) mod env;
#[cfg(not(baton_loom))]
pub(crate) mod errno;
#[cfg(not(baton_loom))]
pub mod futex;
#[cfg(not(baton_loom))]
pub(crate) mod mem;
pub(crate) mod membarrier;
#[cfg(not(baton_loom))]
pub(crate) mod stderr;
#[cfg(not(baton_loom))]
pub(crate) mod thread;
