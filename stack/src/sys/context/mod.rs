//! What the fault handler reads and changes of the thread that it interrupted. One file per architecture, with the same functions.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{go_on_at, is_protection_fault, stack_pointer};
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{go_on_at, is_protection_fault, stack_pointer};
