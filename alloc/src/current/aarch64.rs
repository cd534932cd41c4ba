//! The current-M word on aarch64: initial-exec thread-local storage through the GOT.

use core::arch::{asm, global_asm};

global_asm!(
    ".pushsection .tdata.baton_current_m,\"awT\",@progbits",
    ".globl baton_current_m",
    ".hidden baton_current_m",
    ".type baton_current_m,@object",
    ".size baton_current_m,8",
    ".balign 8",
    "baton_current_m:",
    ".quad {nobody}",
    ".popsection",
    nobody = sym crate::latch::NOBODY,
);

/// Reads the word.
#[inline(always)]
pub(super) fn get() -> *const () {
    let word: *const ();
    // SAFETY: reads this thread's own word, which exists as long as the thread does. Not `pure`: the compiler may
    // neither merge two reads nor move one over a switch.
    unsafe {
        asm!(
            "adrp {at}, :gottprel:baton_current_m",           // page of the GOT slot
            "ldr {at}, [{at}, #:gottprel_lo12:baton_current_m]", // offset from the thread pointer
            "mrs {word}, tpidr_el0",                          // the thread pointer
            "ldr {word}, [{word}, {at}]",                     // the word
            at = out(reg) _,
            word = out(reg) word,
            options(nostack, preserves_flags, readonly),
        );
    }
    word
}

/// Writes the word.
///
/// # Safety
///
/// `word` points to an M that lives for ever.
pub(super) unsafe fn set(word: *const ()) {
    // SAFETY: writes this thread's own word; the value is as the caller promised.
    unsafe {
        asm!(
            "adrp {at}, :gottprel:baton_current_m",           // page of the GOT slot
            "ldr {at}, [{at}, #:gottprel_lo12:baton_current_m]", // offset from the thread pointer
            "mrs {tp}, tpidr_el0",                            // the thread pointer
            "str {word}, [{tp}, {at}]",                       // the word
            at = out(reg) _,
            tp = out(reg) _,
            word = in(reg) word,
            options(nostack, preserves_flags),
        );
    }
}
