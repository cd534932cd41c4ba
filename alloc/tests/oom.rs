//! Out of memory is null, and passes when memory is freed. In a child process, with a limit on its address space.

mod common;

use baton_alloc::{ArenaKind, free, malloc, mheap, realloc, stats};
use std::{alloc::Layout, ptr};

fn limit_address_space(bytes: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit lives through the call, which reads it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}

#[test]
fn exhausted_address_space_is_null_and_passes() {
    const NAME: &str = "exhausted_address_space_is_null_and_passes";
    if common::role().is_none() {
        let output = common::rerun(NAME, "poor");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    limit_address_space(700 << 20);
    for size in [1000, 30_000, 100_000, 5 << 20] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        // The objects are linked, so that the list needs no memory of its own.
        let mut list: *mut *mut u8 = ptr::null_mut();
        let mut count = 0;
        loop {
            let object = malloc(layout).cast::<*mut u8>();
            if object.is_null() {
                break;
            }
            // SAFETY: the object is ours and holds more than a word.
            unsafe { object.write(list.cast()) };
            list = object;
            count += 1;
        }
        assert!(count * size > 256 << 20, "{count} objects of {size}");
        assert!(mheap::alloc_manual(10_000, 1, ArenaKind::Stack).is_none());
        // SAFETY: the object is ours; it is too large to grow in place, and stays as it is.
        assert!(unsafe { realloc(list.cast(), layout, 1 << 30) }.is_null());
        while !list.is_null() {
            let object = list;
            // SAFETY: the link was written above; the object is freed once.
            unsafe {
                list = object.read().cast();
                free(object.cast(), layout);
            }
            count -= 1;
        }
        assert_eq!(count, 0);
    }
}

/// What lies freed in a cache serves a request that cannot be served otherwise.
#[test]
fn caches_are_emptied_before_a_request_fails() {
    const NAME: &str = "caches_are_emptied_before_a_request_fails";
    if common::role().is_none() {
        let output = common::rerun(NAME, "poor");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    limit_address_space(400 << 20);
    let layout = Layout::from_size_align(4 << 20, 8).unwrap();
    let mut objects = [ptr::null_mut(); 200];
    let mut count = 0;
    while count < objects.len() {
        objects[count] = malloc(layout);
        if objects[count].is_null() {
            break;
        }
        count += 1;
    }
    assert!(count > 20 && count < 200, "{count}");
    let longer = Layout::from_size_align(9 << 20, 8).unwrap();
    assert!(malloc(longer).is_null());
    // Three neighbours: in the cache of this thread they are no run of 9 MiB.
    let cached = stats().large_cached_bytes;
    for &object in &objects[4..7] {
        // SAFETY: ours, freed once.
        unsafe { free(object, layout) };
    }
    assert_eq!(stats().large_cached_bytes, cached + 3 * layout.size());
    assert!(!malloc(longer).is_null());
}
