//! The rows on rpmalloc's heap.

#[global_allocator]
static ALLOC: rpmalloc::RpMalloc = rpmalloc::RpMalloc;

fn main() {
    baton_versus_alloc::main();
}
