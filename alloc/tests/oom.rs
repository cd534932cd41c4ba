//! Out of memory is null, and passes when memory is freed. In a child process, with a limit on its address space.

mod common;

use baton_alloc::{ArenaKind, free, malloc, mheap, realloc};
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
