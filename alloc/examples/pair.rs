//! Allocates and frees one object at a time: `pair [how many] [what]`, where what is a size in bytes, `const` for 64 bytes
//! that the compiler knows of, or `empty` for the loop alone. For `alloc/benches/instructions.sh`, which counts.

use baton_alloc::Alloc;
use std::{alloc::Layout, hint::black_box, time::Instant};

#[global_allocator]
static ALLOC: Alloc = Alloc;

#[inline(always)]
fn pair(layout: Layout) {
    // SAFETY: the layout is not empty; what is allocated is freed with the same layout.
    unsafe {
        let object = black_box(std::alloc::alloc(layout));
        std::alloc::dealloc(object, layout);
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let pairs: u32 = args
        .next()
        .map_or(1_000_000, |n| n.parse().expect("the number of pairs"));
    let what = args.next().unwrap_or_else(|| "64".into());
    let start = Instant::now();
    match what.as_str() {
        "const" => (0..pairs).for_each(|_| pair(Layout::new::<[u64; 8]>())),
        "empty" => (0..pairs).for_each(|_| {
            black_box(());
        }),
        size => {
            let size = size.parse().expect("a size in bytes");
            let layout = Layout::from_size_align(size, 8).expect("a size that a layout can have");
            (0..pairs).for_each(|_| pair(black_box(layout)));
        }
    }
    println!("{:.2} ns/pair", start.elapsed().as_nanos() as f64 / f64::from(pairs));
}
