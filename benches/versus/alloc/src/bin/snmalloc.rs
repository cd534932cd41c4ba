//! The rows on snmalloc's heap.

#[global_allocator]
static ALLOC: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;

fn main() {
    baton_versus_alloc::main();
}
