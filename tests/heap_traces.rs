//! Random traces of the heap from goroutines: alloc, realloc and free against a model of what lies where, with yields,
//! declared and undeclared blocking calls in between, and objects that end in other goroutines. `alloc/tests/traces.rs` is the
//! same for threads.

use baton::{
    chan::{self, Receiver, Sender},
    go,
};
use std::{alloc::Layout, ptr::NonNull, time::Duration};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// An object and what must be in it: byte `i` is `mark + i`, as far as it is looked at.
struct Object {
    at: NonNull<u8>,
    layout: Layout,
    mark: u8,
}

// SAFETY: the object is owned, and memory of the heap belongs to no thread.
unsafe impl Send for Object {}

impl Object {
    fn new(size: usize, align: usize, mark: u8) -> Self {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: the layout is not empty.
        let at = NonNull::new(unsafe { std::alloc::alloc(layout) }).expect("out of memory");
        assert!(at.addr().get().is_multiple_of(align));
        let object = Self { at, layout, mark };
        object.each(size, |byte, mark| *byte = mark);
        object
    }

    /// Calls `f` on the first bytes, the last ones, and some in between of the first `len`, and on what must be there.
    fn each(&self, len: usize, f: impl Fn(&mut u8, u8)) {
        let bytes = (0..len.min(40))
            .chain((40..len).step_by(509))
            .chain(len.saturating_sub(9)..len);
        for i in bytes {
            // SAFETY: `i` is below the size, and the object is ours.
            f(unsafe { self.at.add(i).as_mut() }, self.mark.wrapping_add(i as u8));
        }
    }

    fn check(&self, len: usize) {
        self.each(len, |byte, mark| {
            assert_eq!(*byte, mark, "an object of {:?} was overwritten", self.layout)
        });
    }

    fn resize(&mut self, size: usize) {
        let before = self.layout.size();
        self.check(before);
        // SAFETY: the object is ours, with this layout, and the new size is not 0.
        let at = unsafe { std::alloc::realloc(self.at.as_ptr(), self.layout, size) };
        self.at = NonNull::new(at).expect("out of memory");
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        // What was marked with the old length in mind, as far as it is still there: the first bytes.
        self.check(before.min(size).min(40));
        self.each(size, |byte, mark| *byte = mark);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.check(self.layout.size());
        // SAFETY: the object is ours, with this layout.
        unsafe { std::alloc::dealloc(self.at.as_ptr(), self.layout) };
    }
}

/// xorshift64* with a seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn size(&mut self) -> usize {
        match self.below(100) {
            0..75 => 1 + self.below(300),
            75..92 => 1 + self.below(5000),
            92..99 => 1 + self.below(40_000),
            _ => 1 + self.below(200_000),
        }
    }
}

fn trace(seed: u64, steps: usize, to: &Sender<Object>, from: &Receiver<Object>) {
    let mut rng = Rng(seed << 1 | 1);
    let mut live: Vec<Object> = Vec::new();
    for _ in 0..steps {
        match rng.below(1000) {
            0..300 if live.len() < 150 => {
                let align = if rng.below(8) == 0 { 1 << rng.below(13) } else { 8 };
                live.push(Object::new(rng.size(), align, seed as u8));
            }
            0..600 if !live.is_empty() => drop(live.swap_remove(rng.below(live.len()))),
            600..700 if !live.is_empty() => {
                let pick = rng.below(live.len());
                let size = rng.size();
                live[pick].resize(size);
            }
            700..800 if !live.is_empty() => {
                // If the neighbour's channel is full, the object ends here.
                drop(to.try_send(live.swap_remove(rng.below(live.len()))));
            }
            800..900 => live.extend(from.try_recv()),
            900..950 => baton::yield_now(),
            // The P goes to others, at once or after a while, and this goroutine allocates on without it.
            950..953 => std::thread::sleep(Duration::from_micros(300)),
            953..956 => baton::blocking(|| std::thread::sleep(Duration::from_micros(100))),
            956..958 => baton::time::sleep(Duration::from_micros(50)),
            _ => live.push(Object::new(rng.size(), 8, seed as u8)),
        }
    }
}

#[test]
fn goroutines_trace_the_heap() {
    const GOROUTINES: usize = 24;
    let steps = if cfg!(debug_assertions) { 1_500 } else { 6_000 };
    baton::run(|| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..GOROUTINES).map(|_| chan::bounded::<Object>(32)).unzip();
        let goroutines: Vec<_> = (0..GOROUTINES)
            .map(|i| {
                let (to, from) = (senders[(i + 1) % GOROUTINES].clone(), receivers[i].clone());
                go!(move || trace(i as u64 + 1, steps, &to, &from))
            })
            .collect();
        for goroutine in goroutines {
            goroutine.join().unwrap();
        }
        drop(senders);
        // What nobody took out ends here, checked like the rest.
        for receiver in receivers {
            receiver.try_iter().for_each(drop);
        }
        let stats = baton_alloc::stats();
        assert!(stats.refills > 0 && stats.allocs > stats.refills, "{stats:?}");
    });
}
