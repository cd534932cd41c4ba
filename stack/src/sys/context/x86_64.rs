//! The interrupted thread on x86-64.

use libc::ucontext_t;

/// Number of the exception "general protection": among other things an address that no page table can map.
const GENERAL_PROTECTION: i64 = 13;

/// The stack pointer.
pub(crate) fn stack_pointer(context: &ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

/// Makes the thread call `function` on the stack that ends at `top` when the handler returns.
pub(crate) fn go_on_at(context: &mut ucontext_t, function: extern "C" fn() -> !, top: usize) {
    const DIRECTION: i64 = 1 << 10;
    let registers = &mut context.uc_mcontext.gregs;
    registers[libc::REG_RIP as usize] = function as usize as i64;
    // 8 bytes short of alignment, as after a call. Nothing is written there: the frame of the signal lies there still.
    registers[libc::REG_RSP as usize] = ((top & !63) - 64 - 8) as i64;
    registers[libc::REG_RBP as usize] = 0;
    registers[libc::REG_EFL as usize] &= !DIRECTION;
}

/// Whether the processor's last exception was a general protection fault: the other source of signals that carry no
/// address, beside a signal frame that found no room.
pub(crate) fn is_protection_fault(context: &ucontext_t) -> bool {
    context.uc_mcontext.gregs[libc::REG_TRAPNO as usize] == GENERAL_PROTECTION
}
