//! The rows on the C library's heap.

#[global_allocator]
static ALLOC: std::alloc::System = std::alloc::System;

fn main() {
    baton_versus_alloc::main();
}
