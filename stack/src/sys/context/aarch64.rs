//! The interrupted thread on aarch64.

use libc::ucontext_t;

/// The stack pointer.
pub(crate) fn stack_pointer(context: &ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

/// Makes the thread call `function` on the stack that ends at `top` when the handler returns.
pub(crate) fn go_on_at(context: &mut ucontext_t, function: extern "C" fn() -> !, top: usize) {
    const FRAME: usize = 29;
    const LINK: usize = 30;
    let machine = &mut context.uc_mcontext;
    machine.pc = function as usize as u64;
    machine.sp = (top & !63) as u64;
    machine.regs[FRAME] = 0;
    machine.regs[LINK] = 0;
}

/// Always `false`: here every bad address is reported with the address.
pub(crate) fn is_protection_fault(_: &ucontext_t) -> bool {
    false
}
