//! Programs that AddressSanitizer must stop, and one that it must not. See `alloc/fuzz/asan`.

use std::{
    alloc::{Layout, alloc, dealloc, realloc},
    env,
    hint::black_box,
};

#[global_allocator]
static ALLOC: baton_alloc::Alloc = baton_alloc::Alloc;

/// Reads a byte of an object of `size` bytes, after it was freed.
fn after_free(size: usize) -> u8 {
    let layout = Layout::from_size_align(size, 8).unwrap();
    // SAFETY: none: this is what is to be found.
    unsafe {
        let object = black_box(alloc(layout));
        object.write_bytes(1, size);
        dealloc(object, layout);
        black_box(object).add(size / 2).read_volatile()
    }
}

/// Reads behind the end of an object of `size` bytes.
fn behind(size: usize) -> u8 {
    // SAFETY: none: this is what is to be found.
    unsafe {
        black_box(alloc(Layout::from_size_align(size, 8).unwrap()))
            .add(size)
            .read_volatile()
    }
}

/// Reads a byte of an object where it was before it was resized.
fn after_realloc() -> u8 {
    let layout = Layout::from_size_align(100, 8).unwrap();
    // SAFETY: none: this is what is to be found.
    unsafe {
        let object = alloc(layout);
        black_box(realloc(object, layout, 200));
        black_box(object).add(50).read_volatile()
    }
}

/// Ordinary work, on several threads.
fn fine() -> u8 {
    let threads = (0..4).map(|n| {
        std::thread::spawn(move || {
            let mut map = std::collections::BTreeMap::new();
            for i in 0..20_000_usize {
                map.insert(i % 777, vec![n; i % 5000]);
            }
            map.values().map(Vec::len).sum::<usize>()
        })
    });
    threads.map(|thread| thread.join().unwrap()).sum::<usize>() as u8
}

fn main() {
    let seen = match env::args().nth(1).as_deref() {
        Some("after-free") => after_free(100),
        Some("after-free-large") => after_free(100_000),
        Some("behind") => behind(100),
        Some("after-realloc") => after_realloc(),
        _ => fine(),
    };
    println!("not stopped ({seen})");
}
