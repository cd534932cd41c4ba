//! What the tests of the allocator share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use baton_alloc as heap;
use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
    thread,
};

/// xorshift64* with a seed: the same numbers in every run.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// A size such as programs ask for: mostly small, sometimes large.
    pub(crate) fn size(&mut self) -> usize {
        match self.below(100) {
            0..70 => 1 + self.below(256),
            70..90 => 1 + self.below(4096),
            90..98 => 1 + self.below(40_000),
            _ => 1 + self.below(400_000),
        }
    }
}

/// An object of the heap that knows what is written in it.
pub(crate) struct Object {
    ptr: NonNull<u8>,
    layout: Layout,
    mark: u8,
}

// SAFETY: the object is owned, and memory of the heap belongs to no thread.
unsafe impl Send for Object {}

impl Object {
    pub(crate) fn new(size: usize, align: usize, mark: u8) -> Self {
        let layout = Layout::from_size_align(size, align).unwrap();
        let ptr = NonNull::new(heap::malloc(layout)).expect("out of memory");
        assert!(ptr.addr().get().is_multiple_of(align), "{ptr:p} at {align}");
        let object = Self { ptr, layout, mark };
        object.fill(0, size);
        object
    }

    /// Marks bytes: a few at both ends and every 512th, which shows overlaps and lost pages.
    fn fill(&self, from: usize, to: usize) {
        for i in Self::marked(self.layout.size()).filter(|&i| (from..to).contains(&i)) {
            // SAFETY: `i` is below the size.
            unsafe { self.ptr.add(i).write(self.mark ^ i as u8) };
        }
    }

    fn marked(size: usize) -> impl Iterator<Item = usize> {
        let ends = (0..size.min(32)).chain(size.saturating_sub(32)..size);
        ends.chain((512..size).step_by(512))
    }

    /// Whether the first `len` bytes are as they were written when the size was `size`.
    fn check(&self, len: usize, size: usize) {
        for i in Self::marked(size).filter(|&i| i < len) {
            // SAFETY: `i` is below the size.
            let byte = unsafe { self.ptr.add(i).read() };
            assert_eq!(
                byte,
                self.mark ^ i as u8,
                "byte {i} of {:?} at {:p}",
                self.layout,
                self.ptr
            );
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn resize(&mut self, size: usize) {
        let before = self.layout.size();
        self.check(before, before);
        // SAFETY: the object is ours, with this layout.
        let new = unsafe { heap::realloc(self.ptr.as_ptr(), self.layout, size) };
        self.ptr = NonNull::new(new).expect("out of memory");
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        assert!(self.ptr.addr().get().is_multiple_of(self.layout.align()));
        self.check(before.min(size), before);
        self.fill(0, size);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.check(self.layout.size(), self.layout.size());
        // SAFETY: the object is ours, with this layout.
        unsafe { heap::free(self.ptr.as_ptr(), self.layout) };
    }
}

/// Runs the body of a test that looks at the process's counters: one at a time, and on a thread that is over, with its
/// lease given back, before the next one starts. (For the same reason such a test joins each thread that it starts: a
/// scope ends when the closures of its threads end, which is before their destructors run.) Who asks for the counters has a
/// lease, so the thread has one from the start.
pub(crate) fn exclusive(body: impl FnOnce() + Send + 'static) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let attached = || {
        heap::lease::attach();
        body();
    };
    if let Err(panic) = thread::spawn(attached).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs this test binary again, with `BATON_TEST_CHILD=<role>`, for the one test `name`.
pub(crate) fn rerun(name: &str, role: &str) -> std::process::Output {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("BATON_TEST_CHILD", role)
        .output()
        .unwrap()
}

/// The role that `rerun` gave this process.
pub(crate) fn role() -> Option<String> {
    std::env::var("BATON_TEST_CHILD").ok()
}
