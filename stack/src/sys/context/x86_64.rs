//! The interrupted thread on x86-64.

use libc::ucontext_t;

/// Number of the exception "general protection": among other things an address that no page table can map.
const GENERAL_PROTECTION: i64 = 13;

/// The stack pointer.
pub(crate) fn stack_pointer(context: &ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

/// Whether the processor's last exception was a general protection fault: the other source of signals that carry no
/// address, beside a signal frame that found no room.
pub(crate) fn is_protection_fault(context: &ucontext_t) -> bool {
    context.uc_mcontext.gregs[libc::REG_TRAPNO as usize] == GENERAL_PROTECTION
}
