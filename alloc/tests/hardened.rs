//! What a hardened heap finds: `cargo test -p baton-alloc --features hardened --test hardened`. Each mistake is made in a
//! child process.

#![cfg(feature = "hardened")]

mod common;

use baton_alloc::{free, malloc};
use common::{Object, Rng};
use std::{alloc::Layout, os::unix::process::ExitStatusExt, ptr::NonNull};

/// Sizes of classes all over the range.
const SIZES: [usize; 14] = [8, 16, 24, 48, 64, 100, 256, 700, 1024, 3000, 4096, 8192, 20_000, 32_768];

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// Runs the test `name` again as a child of each role, which must die by `signal` and say `message`.
fn dies(name: &str, roles: &[usize], signal: i32, message: &str) {
    for role in roles {
        let output = common::rerun(name, &role.to_string());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.signal(),
            Some(signal),
            "{role}: {:?}: {stderr}",
            output.status
        );
        assert!(stderr.contains(message), "{role}: {stderr}");
    }
}

/// The size that this child is about; `None` in the parent.
fn role() -> Option<usize> {
    common::role().map(|role| role.parse().unwrap())
}

#[test]
fn a_second_free_of_any_class_is_found_at_once() {
    let Some(size) = role() else {
        return dies(
            "a_second_free_of_any_class_is_found_at_once",
            &SIZES,
            libc::SIGABRT,
            "was freed twice",
        );
    };
    let (object, others) = (malloc(layout(size)), [(); 8].map(|()| malloc(layout(size))));
    // SAFETY: none; the second free is the error that is to be found. Others come between.
    unsafe {
        free(object, layout(size));
        others.into_iter().for_each(|other| free(other, layout(size)));
        free(object, layout(size));
    }
}

#[test]
fn a_write_to_freed_memory_is_found() {
    let Some(size) = role() else {
        return dies(
            "a_write_to_freed_memory_is_found",
            &SIZES[1..],
            libc::SIGABRT,
            "was written to after it was freed",
        );
    };
    let object = malloc(layout(size));
    // SAFETY: none; the write is the error that is to be found.
    unsafe {
        free(object, layout(size));
        object.add(size.min(4096) - 1).write(1);
    }
    (0..100_000).for_each(|_| assert!(!malloc(layout(size)).is_null()));
}

#[test]
fn a_pointer_into_the_middle_of_an_object_is_found() {
    let Some(size) = role() else {
        return dies(
            "a_pointer_into_the_middle_of_an_object_is_found",
            &SIZES[1..],
            libc::SIGABRT,
            "which it is not",
        );
    };
    // SAFETY: none; the free is the error that is to be found.
    unsafe { free(malloc(layout(size)).add(8), layout(size)) };
}

#[test]
fn memory_of_others_is_found() {
    if role().is_none() {
        return dies(
            "memory_of_others_is_found",
            &[64],
            libc::SIGABRT,
            "another allocator made it",
        );
    }
    let mut own = [0_u64; 8];
    // SAFETY: none; the free is the error that is to be found.
    unsafe { free((&raw mut own).cast(), layout(64)) };
}

#[test]
fn the_end_of_a_span_is_guarded() {
    if role().is_none() {
        let child = common::rerun("the_end_of_a_span_is_guarded", "32768");
        let stdout = String::from_utf8_lossy(&child.stdout);
        if stdout.contains("no guards") {
            eprintln!("skipped: the kernel has no guard markers (Linux 6.13)");
            return;
        }
        assert_eq!(child.status.signal(), Some(libc::SIGSEGV), "{:?}", child.status);
        return;
    }
    let page = std::ptr::null_mut();
    // SAFETY: a page of our own; guarded, if the kernel can do that, and never touched.
    let guards = unsafe {
        let page = libc::mmap(
            page,
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        libc::madvise(page, 4096, 102) == 0
    };
    if !guards {
        println!("no guards");
        return;
    }
    // Four objects to a span: one of these is the last of one.
    let last = (0..64).map(|_| malloc(layout(32_768))).max().unwrap();
    // SAFETY: none; the write beyond the last object is the error that is to be found.
    unsafe { last.add(32_768).write(1) };
}

#[test]
fn objects_come_in_an_order_of_their_own() {
    let objects: Vec<_> = (0..100).map(|_| malloc(layout(80)).addr()).collect();
    let rising = objects.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!((20..80).contains(&rising), "{rising} of 99 are above the one before");
}

/// Nothing is found where nothing is wrong: random requests, from several threads.
#[test]
fn right_programs_are_left_alone() {
    std::thread::scope(|scope| {
        for seed in 1..4 {
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                let mut live: Vec<Object> = Vec::new();
                for _ in 0..20_000 {
                    if live.len() < 300 {
                        live.push(Object::new(rng.size(), 8, seed as u8));
                    } else {
                        let pick = rng.below(live.len());
                        match rng.below(4) {
                            0 => live[pick].resize(1 + rng.below(5000)),
                            _ => drop(live.swap_remove(pick)),
                        }
                    }
                }
            });
        }
    });
    let object = NonNull::new(malloc(layout(24))).unwrap();
    // SAFETY: allocated just before, with this layout.
    unsafe { free(object.as_ptr(), layout(24)) };
}
