//! The switch on x86-64.
//!
//! ```text
//!   a stack that was left   rbp │ rbx │ where to go on │ ◀─ its stack pointer
//!   a new one       base ─▶ first │ baton_goroutine_begins │ ◀─ its stack pointer
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
    ".cfi_undefined rip",
    "pop rcx",
    "xor ebp, ebp",
    "mov rdi, rdx",
    "lea rax, [rip + 2f]",
    "push rax",
    "jmp rcx",
    "ud2", // what looks for the caller looks just before the place of return
    "2:",
    "ud2",
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
    let top = ptr::with_exposed_provenance_mut::<[usize; 2]>(base - 16);
    let begins: unsafe extern "C" fn() = baton_goroutine_begins;
    // SAFETY: the memory below `base` is the caller's.
    unsafe { top.write([begins as usize, first as usize]) };
    base - 16
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
    // SAFETY: as the caller promised. rbx and rbp, which the compiler keeps for itself, are saved here, and the stack pointer is the same
    // again at the end; all other registers are said to be overwritten.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "lea rax, [rip + 2f]",
            "push rax",
            "mov [rdi], rsp",
            "mov rsp, [rsi]",
            "pop rax",
            "jmp rax",
            "2:",
            "pop rbx",
            "pop rbp",
            inlateout("rdi") from => _,
            inlateout("rsi") to => _,
            inlateout("rdx") word => back,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
    back
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// Where the thread's stack was left, and where the other one was.
    static LEFT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

    fn links() -> [*const Cell<usize>; 2] {
        [0, 1].map(|i| LEFT[i].as_ptr().cast_const().cast())
    }

    extern "C" fn first(_: usize) -> ! {
        let [here, there] = links();
        loop {
            // SAFETY: on the stack that the test has made.
            unsafe { switch(there, here, 0) };
        }
    }

    extern "C" fn there_and_back() {
        let [here, there] = links();
        // SAFETY: the test has made the stack.
        unsafe { switch(here, there, 0) };
    }

    /// They are not among those that an `asm!` block may overwrite, so nothing else keeps them.
    #[test]
    fn what_the_compiler_keeps_for_itself_is_kept() {
        let stack = vec![0_u128; 1024];
        // SAFETY: the end of an array of 16 bytes each, which lives as long as the test.
        let top = unsafe { prepare(stack.as_ptr_range().end.expose_provenance(), first) };
        LEFT[1].store(top, Relaxed);
        for _ in 0..3 {
            let (rbx, rbp): (u64, u64);
            // SAFETY: both registers are put back, and the stack pointer is a multiple of 16 at the call.
            unsafe {
                asm!(
                    "push rbx",
                    "push rbp",
                    "mov rbx, 11",
                    "mov rbp, 22",
                    "call {there_and_back}",
                    "mov rax, rbx",
                    "mov rcx, rbp",
                    "pop rbp",
                    "pop rbx",
                    there_and_back = sym there_and_back,
                    out("rax") rbx,
                    out("rcx") rbp,
                    clobber_abi("sysv64"),
                );
            }
            assert_eq!((rbx, rbp), (11, 22));
        }
        drop(stack);
    }
}
