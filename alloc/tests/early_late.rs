//! Baton's heap before `main` and after it: constructors of the executable run before Rust's runtime is set up, and
//! functions registered with `atexit` when `main` has returned.

mod common;

use baton_alloc::Alloc;
use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

#[global_allocator]
static ALLOC: Alloc = Alloc;

/// What the constructor made, as the address of a leaked box.
static EARLY: AtomicUsize = AtomicUsize::new(0);

#[used]
// SAFETY: the C library calls what this section holds, before `main`, with arguments that `early` does not look at.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = early;

extern "C" fn early() {
    EARLY.store(Box::into_raw(Box::new(work())).expose_provenance(), SeqCst);
}

/// Small objects, large ones, growing and shrinking ones, zeroed ones; some of it is kept.
fn work() -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for i in 0..300_usize {
        let mut bytes = vec![0; i * i];
        assert!(bytes.iter().all(|&b| b == 0));
        bytes.resize(2 * i * i, 7);
        bytes.truncate(i * i + i);
        bytes.shrink_to_fit();
        all.insert(format!("number {i}"), bytes);
        if i % 3 == 0 {
            all.remove(&format!("number {}", i / 2));
        }
    }
    drop(black_box(vec![1_u8; 20 << 20]));
    all
}

#[test]
fn before_main() {
    let early = std::ptr::with_exposed_provenance_mut::<BTreeMap<String, Vec<u8>>>(EARLY.swap(0, SeqCst));
    assert!(!early.is_null(), "the constructor did not run");
    // SAFETY: the constructor leaked the box, and this is the only place that takes it.
    let early = unsafe { Box::from_raw(early) };
    assert_eq!(*early, work());
}

#[test]
fn after_main() {
    extern "C" fn late() {
        let kept = black_box(work());
        std::thread::spawn(work).join().expect("a thread after main");
        drop(kept);
        const DONE: &str = "after main: done\n";
        // SAFETY: the text is as long as it says.
        unsafe { libc::write(2, DONE.as_ptr().cast(), DONE.len()) };
    }
    if common::role().is_some() {
        // SAFETY: `late` lives as long as the program.
        assert_eq!(unsafe { libc::atexit(late) }, 0);
        return;
    }
    let output = common::rerun("after_main", "late");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("after main: done"), "{text}");
}
