//! Every layout that std can express is served, aligned and writable from end to end, or gets null.

mod common;

use baton_alloc::{CLASSES, MAX_SMALL, free, malloc, malloc_zeroed, realloc};
use std::{alloc::Layout, collections::BTreeSet};

/// Allocates, writes both ends, frees.
fn try_out(size: usize, align: usize) {
    let layout = Layout::from_size_align(size, align).unwrap();
    for zeroed in [false, true] {
        let object = if zeroed { malloc_zeroed(layout) } else { malloc(layout) };
        assert!(!object.is_null(), "{layout:?}");
        assert!(object.addr().is_multiple_of(align), "{object:p} for {layout:?}");
        if size > 0 {
            // SAFETY: the object has `size` bytes and is ours.
            unsafe {
                if zeroed {
                    assert_eq!(
                        (object.read(), object.add(size / 2).read(), object.add(size - 1).read()),
                        (0, 0, 0)
                    );
                }
                object.write(0xff);
                object.add(size / 2).write(0xff);
                object.add(size - 1).write(0xff);
            }
        }
        // SAFETY: allocated above with this layout.
        unsafe { free(object, layout) };
    }
}

#[test]
fn sizes_around_every_class_edge_at_every_alignment() {
    // The edges are where two neighbouring sizes do not share an object when one is resized to the other.
    let mut edges = BTreeSet::from([0, MAX_SMALL]);
    for size in 1..MAX_SMALL {
        let layout = Layout::from_size_align(size, 1).unwrap();
        let object = malloc(layout);
        // SAFETY: ours; the result takes its place.
        let moved = unsafe { realloc(object, layout, size + 1) };
        if moved != object {
            edges.insert(size);
        }
        // SAFETY: as above.
        unsafe { free(moved, Layout::from_size_align(size + 1, 1).unwrap()) };
    }
    assert_eq!(edges.len(), CLASSES, "one edge for each class, and 0");
    for &edge in &edges {
        for shift in 0..=14 {
            for size in [edge.saturating_sub(1), edge, edge + 1] {
                try_out(size, 1 << shift);
            }
        }
    }
}

#[test]
fn alignments_up_to_a_gibibyte() {
    for shift in 0..=30 {
        for size in [1, 100, 8192, 8193, 32 << 10, (32 << 10) + 1, 1 << 20, 70 << 20] {
            try_out(size, 1 << shift);
        }
    }
}

#[test]
fn what_cannot_be_had_is_null() {
    for size in [1 << 47, 1 << 55, isize::MAX as usize - (1 << 30)] {
        for align in [1, 8, 4096, 1 << 20, 1 << 30] {
            let layout = Layout::from_size_align(size, align).unwrap();
            assert!(malloc(layout).is_null(), "{layout:?}");
            assert!(malloc_zeroed(layout).is_null(), "{layout:?}");
        }
    }
    let largest = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
    assert!(malloc(largest).is_null());
    let aligned = Layout::from_size_align(1, 1 << 62).unwrap();
    assert!(malloc(aligned).is_null());
    // A realloc that fails leaves the object as it was.
    for size in [10, 100_000] {
        let mut object = common::Object::new(size, 1, 7);
        let layout = Layout::from_size_align(16, 8).unwrap();
        let other = malloc(layout);
        // SAFETY: ours.
        unsafe {
            assert!(realloc(other, layout, isize::MAX as usize - 7).is_null());
            free(other, layout);
        }
        object.resize(size + 1);
    }
}

#[test]
fn zeroed_objects_are_zero_where_others_wrote_before() {
    // Longer and shorter than what goes back to the kernel at once.
    for size in [24, 3000, 40_000, 500_000, 3 << 20] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        for _ in 0..20 {
            let object = malloc_zeroed(layout);
            // SAFETY: the object has `size` bytes and is ours until it is freed.
            unsafe {
                assert!(
                    std::slice::from_raw_parts(object, size).iter().all(|&b| b == 0),
                    "{size}"
                );
                object.write_bytes(0xa5, size);
                free(object, layout);
            }
        }
    }
}

#[test]
fn realloc_keeps_what_fits_for_all_kinds_of_sizes() {
    let sizes = [
        1,
        8,
        9,
        100,
        1024,
        1025,
        5000,
        32 << 10,
        (32 << 10) + 1,
        65_537,
        300_000,
        2 << 20,
    ];
    for from in sizes {
        for to in sizes {
            for align in [1, 64, 16 << 10] {
                let mut object = common::Object::new(from, align, 9);
                object.resize(to);
                object.resize(from);
            }
        }
    }
}
