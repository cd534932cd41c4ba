//! Baton's memory.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("baton-alloc supports Linux on x86-64 and aarch64 only");

#[cfg(not(baton_loom))]
pub mod current;
pub mod latch;
mod lock;
#[cfg(not(baton_loom))]
pub mod mcache;
mod sync;
mod sys;

pub use lock::Lock;
#[cfg(not(baton_loom))]
pub use sys::futex;
