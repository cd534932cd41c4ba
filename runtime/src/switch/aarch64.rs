//! The switch on aarch64.
//!
//! ```text
//!   a stack that was left   – │ where to go on │ x29 │ x19 │ ◀─ its stack pointer
//!   a new one       base ─▶ – │ baton_goroutine_begins │ – │ first │ ◀─ its stack pointer
//! ```

use super::First;
use std::{
    arch::{asm, global_asm},
    cell::Cell,
    ptr,
};

// The outermost frame of each goroutine, in which unwinders stop: no frame pointer leads on, and the return address is nowhere. The
// first function is called by hand, since the processor is not to wait for a return that never comes.
global_asm!(
    ".pushsection .text.baton_goroutine_begins,\"ax\",@progbits",
    ".balign 16",
    ".globl baton_goroutine_begins",
    ".hidden baton_goroutine_begins",
    ".type baton_goroutine_begins,@function",
    "baton_goroutine_begins:",
    ".cfi_startproc",
    ".cfi_undefined x30",
    "ldr x9, [sp], #32",
    "mov x29, xzr",
    "mov x0, x2",
    "adr x30, 2f",
    "br x9",
    "udf #0", // what looks for the caller looks just before the place of return
    "2:",
    "udf #0",
    ".cfi_endproc",
    ".size baton_goroutine_begins, . - baton_goroutine_begins",
    ".popsection",
);

unsafe extern "C" {
    fn baton_goroutine_begins();
}

/// The stack pointer of a stack that begins at `base` with `first`.
///
/// # Safety
///
/// See `Links::prepare`.
#[inline(always)]
pub(super) unsafe fn prepare(base: usize, first: First) -> usize {
    let top = ptr::with_exposed_provenance_mut::<[usize; 4]>(base - 32);
    let begins: unsafe extern "C" fn() = baton_goroutine_begins;
    // SAFETY: the memory below `base` is the caller's.
    unsafe { top.write([first as usize, 0, begins as usize, 0]) };
    base - 32
}

/// Leaves this stack, which `from` will tell where it was left, for the one that was left at `to`; comes back when that is done the
/// other way round. Gives the `word` of whoever does that.
///
/// # Safety
///
/// `to` tells where a stack was left that is the caller's to go on with.
#[inline(always)]
pub(super) unsafe fn switch(from: *const Cell<usize>, to: *const Cell<usize>, word: usize) -> usize {
    let back;
    // SAFETY: as the caller promised. x19 and x29, which the compiler keeps for itself, are saved here, and the stack pointer is the same
    // again at the end; all other registers are said to be overwritten.
    unsafe {
        asm!(
            "adr x9, 2f",
            "stp x19, x29, [sp, #-32]!",
            "str x9, [sp, #16]",
            "mov x9, sp",
            "str x9, [x0]",
            "ldr x9, [x1]",
            "mov sp, x9",
            "ldr x9, [sp, #16]",
            "br x9",
            "2:",
            "ldp x19, x29, [sp], #32",
            inlateout("x0") from => _,
            inlateout("x1") to => _,
            inlateout("x2") word => back,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            lateout("v8") _, lateout("v9") _, lateout("v10") _, lateout("v11") _,
            lateout("v12") _, lateout("v13") _, lateout("v14") _, lateout("v15") _,
            clobber_abi("C"),
        );
    }
    back
}
