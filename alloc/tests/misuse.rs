//! Misuse is found where it can be, and dies with a message that says what and where. Each case runs in a child process.

mod common;

use baton_alloc::{ArenaKind, free, lease, malloc, mheap};
use std::{alloc::Layout, os::unix::process::ExitStatusExt};

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// Runs the test `name` again as a child, which must die by SIGABRT and say `message`.
fn dies(name: &str, message: &str) {
    let output = common::rerun(name, "victim");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.signal(),
        Some(libc::SIGABRT),
        "{:?}: {stderr}",
        output.status
    );
    assert!(stderr.contains("baton-alloc: ") && stderr.contains(message), "{stderr}");
}

#[test]
fn a_double_free_of_a_small_object() {
    if common::role().is_none() {
        return dies("a_double_free_of_a_small_object", "was freed twice");
    }
    let (object, _neighbour) = (malloc(layout(5000)), malloc(layout(5000)));
    let m = lease::attach();
    for _ in 0..2 {
        // SAFETY: none; the second free is the error that is to be found.
        unsafe { free(object, layout(5000)) };
        // The lists go to the mcentral, which knows of each object whether it is in.
        lease::give_back(m);
    }
}

#[test]
fn a_double_free_while_the_object_is_on_a_list() {
    if common::role().is_none() {
        return dies("a_double_free_while_the_object_is_on_a_list", "was freed twice");
    }
    let (object, other, _neighbour) = (malloc(layout(5000)), malloc(layout(5000)), malloc(layout(5000)));
    // SAFETY: none, as above.
    unsafe {
        free(object, layout(5000));
        free(other, layout(5000));
        free(object, layout(5000));
    }
    lease::give_back(lease::attach());
}

#[test]
fn a_double_free_of_a_large_object() {
    if common::role().is_none() {
        return dies("a_double_free_of_a_large_object", "it was freed before");
    }
    let object = malloc(layout(100_000));
    // SAFETY: none, as above.
    unsafe {
        free(object, layout(100_000));
        free(object, layout(100_000));
    }
}

#[test]
fn a_pointer_into_a_large_object() {
    if common::role().is_none() {
        return dies("a_pointer_into_a_large_object", "as a large object, which it is not");
    }
    let object = malloc(layout(100_000));
    // SAFETY: none, as above.
    unsafe { free(object.add(8192), layout(100_000)) };
}

#[test]
fn a_free_with_a_layout_of_another_size() {
    if common::role().is_none() {
        return dies("a_free_with_a_layout_of_another_size", "its Layout is not the one");
    }
    // SAFETY: none, as above.
    unsafe { free(malloc(layout(64)), layout(128)) };
    lease::give_back(lease::attach());
}

#[test]
fn memory_of_another_allocator() {
    if common::role().is_none() {
        return dies("memory_of_another_allocator", "another allocator made it");
    }
    let foreign = Box::leak(Box::new([0_u64; 8]));
    // SAFETY: none, as above.
    unsafe { free(std::ptr::from_mut(foreign).cast(), layout(64)) };
    lease::give_back(lease::attach());
}

#[test]
fn a_manual_span_freed_twice() {
    if common::role().is_none() {
        return dies("a_manual_span_freed_twice", "the manual span at 0x");
    }
    let span = mheap::alloc_manual(5, 1, ArenaKind::Stack).unwrap();
    // SAFETY: none, as above.
    unsafe {
        mheap::free_manual(span, 5, ArenaKind::Stack);
        mheap::free_manual(span, 5, ArenaKind::Stack);
    }
}
