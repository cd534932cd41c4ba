//! The rows on jemalloc's heap.

#[global_allocator]
static ALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    baton_versus_alloc::main();
}
