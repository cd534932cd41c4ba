//! The interrupted thread on aarch64.

use libc::ucontext_t;

/// The stack pointer.
pub(crate) fn stack_pointer(context: &ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

/// Always `false`: here every bad address is reported with the address.
pub(crate) fn is_protection_fault(_: &ucontext_t) -> bool {
    false
}
