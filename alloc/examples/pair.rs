//! Allocates and frees one object of 64 bytes a million times: run it under callgrind and divide.
//!
//! ```text
//! cargo build --release -p baton-alloc --example pair
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/pair
//! ```

use baton_alloc::Alloc;
use std::{alloc::Layout, hint::black_box, time::Instant};

#[global_allocator]
static ALLOC: Alloc = Alloc;

fn main() {
    let pairs: u32 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |n| n.parse().expect("the number of pairs"));
    let layout = black_box(Layout::new::<[u64; 8]>());
    let start = Instant::now();
    for _ in 0..pairs {
        // SAFETY: the layout is not empty; what is allocated is freed with the same layout.
        unsafe {
            let object = black_box(std::alloc::alloc(layout));
            std::alloc::dealloc(object, layout);
        }
    }
    println!("{:.2} ns/pair", start.elapsed().as_nanos() as f64 / f64::from(pairs));
}
