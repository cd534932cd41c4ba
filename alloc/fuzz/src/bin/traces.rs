//! The fuzz target: libFuzzer looks for bytes that lead to new code in the heap. See `alloc/fuzz/run`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| baton_alloc_fuzz::run(bytes));
