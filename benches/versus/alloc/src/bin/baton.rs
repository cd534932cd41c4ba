//! The rows on Baton's heap.

#[global_allocator]
static ALLOC: baton_alloc::Alloc = baton_alloc::Alloc;

fn main() {
    baton_versus_alloc::main();
}
