//! The rows on mimalloc's heap.

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    baton_versus_alloc::main();
}
