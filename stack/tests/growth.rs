//! Growth keeps addresses and contents, in both modes, and costs the traps that it should.

mod common;

use baton_stack::{Class, FIRST_EXTENT, GuardKind, Spec, Stack, StackGrowth, acquire, guard_kind, release};
use common::{G, descend, prepare, run, sp};
use std::{
    hint::black_box,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn stack(reservation: usize, growth: StackGrowth) -> Stack {
    acquire(Spec::with_growth(reservation, growth).unwrap()).unwrap()
}

fn traps_work() -> bool {
    guard_kind() == GuardKind::Marker
}

/// Uses `depth` bytes of a stack, twice: the first time it grows, the second time it has grown.
fn grow(reservation: usize, depth: usize, growth: StackGrowth, traps: u32, doublings: u32) {
    let _alt = prepare();
    let stack = stack(reservation, growth);
    let desc = stack.desc();
    let range = desc.range();
    let stack = run(stack, move |desc| descend(desc.base(), depth, &mut || {}));
    let (traps, doublings) = match growth {
        StackGrowth::Trap if traps_work() => (traps, doublings),
        _ => (0, 0),
    };
    assert_eq!((desc.traps(), desc.doublings()), (traps, doublings));
    assert_eq!(desc.range(), range);
    if traps > 0 {
        let known = desc.high_water();
        assert!(
            known >= depth / 4,
            "the last trap was at a quarter of the depth at least"
        );
        assert!(desc.class().bytes() >= known);
    }
    let stack = run(stack, move |desc| descend(desc.base(), depth, &mut || {}));
    assert_eq!(desc.traps(), traps, "a stack that has grown traps no more");
    release(stack);
}

#[test]
fn to_one_mebibyte_without_a_trap() {
    grow(MIB, 1000 * KIB, StackGrowth::Trap, 0, 0);
    grow(16 * MIB, 1000 * KIB, StackGrowth::Trap, 0, 0);
    grow(MIB, 1000 * KIB, StackGrowth::DemandPaged, 0, 0);
}

#[test]
fn to_four_mebibytes() {
    // 1.25 → 2.5 → 5 MiB
    grow(5 * MIB + 4 * KIB, 4 * MIB, StackGrowth::Trap, 1, 2);
    grow(5 * MIB, 4 * MIB, StackGrowth::Trap, 1, 2);
    grow(5 * MIB, 4 * MIB, StackGrowth::DemandPaged, 0, 0);
}

#[test]
fn to_sixty_four_mebibytes() {
    grow(64 * MIB, 63 * MIB, StackGrowth::Trap, 3, 6);
    grow(64 * MIB, 63 * MIB, StackGrowth::DemandPaged, 0, 0);
}

#[test]
fn the_whole_reservation_can_be_used() {
    // 4 KiB are left for what runs below the last frame.
    grow(64 * KIB, 60 * KIB, StackGrowth::Trap, 0, 0);
    grow(256 * KIB, 252 * KIB, StackGrowth::Trap, 0, 0);
    grow(2 * MIB + 36 * KIB, 2 * MIB + 32 * KIB, StackGrowth::Trap, 1, 1);
    grow(5 * MIB + 36 * KIB, 5 * MIB + 32 * KIB, StackGrowth::Trap, 2, 3);
}

#[test]
fn a_large_array_in_one_frame() {
    #[inline(never)]
    fn large(desc: &baton_stack::Desc) {
        let mut array = [0_u8; 1500 * KIB];
        let array = black_box(&mut array);
        array[0] = 1;
        array[1500 * KIB - 1] = 2;
        assert!((array.as_ptr() as usize) < desc.base() - 1500 * KIB);
        assert_eq!(array.iter().map(|b| usize::from(*b)).sum::<usize>(), 3);
    }
    let _alt = prepare();
    let stack = stack(6 * MIB + 8 * KIB, StackGrowth::Trap);
    let desc = stack.desc();
    let stack = run(stack, large);
    if traps_work() {
        assert!(
            desc.doublings() == 2,
            "1.25 MiB → 5 MiB, however many traps that took: {}",
            desc.doublings()
        );
    }
    release(stack);
}

#[test]
fn growth_inside_a_drop_while_unwinding() {
    struct Deep(usize);
    impl Drop for Deep {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            descend(self.0, 1500 * KIB, &mut || {});
        }
    }
    let _alt = prepare();
    let stack = stack(6 * MIB + 12 * KIB, StackGrowth::Trap);
    let desc = stack.desc();
    let stack = run(stack, |desc| {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _deep = Deep(desc.base());
            resume_unwind(Box::new("on purpose"));
        }));
        assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "on purpose");
    });
    if traps_work() {
        assert_eq!(desc.doublings(), 2);
    }
    release(stack);
}

#[test]
fn errno_survives_a_trap_whose_populate_fails() {
    let _alt = prepare();
    let stack = stack(6 * MIB + 16 * KIB, StackGrowth::Trap);
    let desc = stack.desc();
    // A page that cannot be written makes the populate of the trap (64 KiB) fail. Nobody goes there.
    let page = std::ptr::with_exposed_provenance_mut((desc.base() - FIRST_EXTENT - 14 * KIB) & !4095);
    let protect = |prot| {
        // SAFETY: a page of this stack that nobody uses.
        assert_eq!(unsafe { libc::mprotect(page, 4 * KIB, prot) }, 0);
    };
    protect(libc::PROT_READ);
    let stack = run(stack, |desc| {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = 4711 };
        descend(desc.base(), FIRST_EXTENT + 6 * KIB, &mut || {});
        // SAFETY: errno is this thread's own.
        assert_eq!(unsafe { *libc::__errno_location() }, 4711);
    });
    if traps_work() {
        assert_eq!(desc.traps(), 1);
    }
    protect(libc::PROT_READ | libc::PROT_WRITE);
    release(stack);
}

#[test]
fn two_stacks_that_grow_in_turn() {
    let _alt = prepare();
    let new = || {
        G::new(stack(4 * MIB, StackGrowth::Trap), |yielder, desc| {
            let mut mine = [sp(); 16];
            for depth in (1..=30).map(|i| i * 100 * KIB) {
                let mut park = || yielder.suspend(depth);
                descend(desc.base(), depth, &mut park);
                mine[depth / KIB % 16] ^= 0;
            }
            assert!(black_box(mine).iter().all(|word| *word == mine[0]));
        })
    };
    let (mut a, mut b) = (new(), new());
    for i in 1..=30 {
        assert_eq!(a.resume(), Some(i * 100 * KIB));
        assert_eq!(b.resume(), Some(i * 100 * KIB));
    }
    assert_eq!((a.resume(), b.resume()), (None, None));
    if traps_work() {
        assert_eq!((a.desc.doublings(), b.desc.doublings()), (2, 2));
    }
    release(a.into_stack());
    release(b.into_stack());
}

#[test]
fn a_stack_grows_on_whatever_thread_it_runs() {
    struct Moved(G);
    // SAFETY: what the coroutine holds on its stack is bound to no thread.
    unsafe impl Send for Moved {}
    let stack = stack(4 * MIB + 8 * KIB, StackGrowth::Trap);
    let mut moved = Moved(G::new(stack, |yielder, desc| {
        let here = sp();
        for depth in (1..=9).map(|i| i * 400 * KIB) {
            descend(desc.base(), depth, &mut || yielder.suspend(depth));
            assert_eq!(sp(), here);
        }
    }));
    for i in 1..=10 {
        let thread = std::thread::spawn(move || {
            let _alt = prepare();
            let whole = moved; // the wrapper, not only what is in it
            let mut g = whole.0;
            assert_eq!(g.resume(), (i < 10).then_some(i * 400 * KIB));
            Moved(g)
        });
        moved = thread.join().unwrap();
    }
    if traps_work() {
        assert_eq!(moved.0.desc.doublings(), 2);
    }
    release(moved.0.into_stack());
}

/// Recurses in small frames to `depth`; each allocates on the way down and frees on the way up.
#[inline(never)]
fn allocate_at_every_depth(top: usize, depth: usize) {
    let size = 16 + (top - sp()) % 1000;
    let layout = std::alloc::Layout::from_size_align(size, 16).unwrap();
    let object = baton_alloc::malloc(layout);
    assert!(!object.is_null());
    // SAFETY: the object is ours and holds `size` bytes.
    unsafe { object.write_bytes(size as u8, size) };
    if top - sp() < depth {
        allocate_at_every_depth(top, depth);
    }
    // SAFETY: as above.
    assert_eq!(unsafe { black_box(object).add(size - 1).read() }, size as u8);
    // SAFETY: allocated above with this layout.
    unsafe { baton_alloc::free(object, layout) };
}

#[test]
fn the_allocator_may_be_what_traps() {
    let _alt = prepare();
    // Many stacks that start at other lines, so that the guard is met at many places of the allocator.
    let mut stacks: Vec<_> = (0..64).map(|_| stack(6 * MIB + 28 * KIB, StackGrowth::Trap)).collect();
    for _ in 0..stacks.len() {
        let stack = stacks.pop().unwrap();
        let desc = stack.desc();
        release(run(stack, |desc| {
            allocate_at_every_depth(desc.base(), FIRST_EXTENT + 24 * KIB)
        }));
        if traps_work() {
            assert_eq!(desc.traps(), 1);
        }
    }
}

/// Takes a frame of `bytes` without touching what is between its ends, as C code without stack-clash protection may:
/// writes its lowest word, then a word `near` bytes below its start, and gives the lowest word again.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn unprobed(bytes: usize, near: usize, word: usize) -> usize {
    let found;
    // SAFETY: rsp is put back; what lies between belongs to this stack, and nobody else uses it.
    unsafe {
        std::arch::asm!(
            "mov {start}, rsp",                 // to be put back
            "sub rsp, {bytes}",                 // jumps over the guard window
            "mov qword ptr [rsp], {word}",      // ordinary memory below the window
            "neg {near}",
            "mov qword ptr [{start} + {near}], {word}", // in the window: traps
            "mov {found}, qword ptr [rsp]",
            "mov rsp, {start}",
            start = out(reg) _,
            bytes = in(reg) bytes,
            near = inout(reg) near => _,
            word = in(reg) word,
            found = out(reg) found,
        );
    }
    found
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_lies_below_the_window_already_is_kept() {
    let _alt = prepare();
    let stack = stack(16 * MIB + 4 * KIB, StackGrowth::Trap);
    let desc = stack.desc();
    let stack = run(stack, |_| {
        assert_eq!(unprobed(6 * MIB, FIRST_EXTENT + 24 * KIB, 0x5eed), 0x5eed);
        assert_eq!(unprobed(6 * MIB, FIRST_EXTENT + 24 * KIB, 0xcafe), 0xcafe);
    });
    if traps_work() {
        assert_eq!(
            (desc.traps(), desc.doublings()),
            (1, 3),
            "1.25 MiB to 10 MiB: past the whole frame"
        );
    }
    release(stack);
}

#[test]
fn parking_keeps_plain_memory_below() {
    let _alt = prepare();
    let stack = stack(6 * MIB + 20 * KIB, StackGrowth::Trap);
    let desc = stack.desc();
    let stack = run(stack, |desc| {
        // SAFETY: this is the stack, and that is in it.
        let note = || unsafe { desc.note_depth(sp()) };
        note();
        assert_eq!(desc.class(), Class::holding(desc.base() - sp() + 64));
        let limit = desc.limit();
        descend(desc.base(), 40 * KIB, &mut || note());
        assert_eq!(desc.limit(), limit, "there is room");
        assert_eq!(desc.class().bytes(), 64 * KIB);
        assert!((40 * KIB..44 * KIB).contains(&desc.high_water()));
        descend(desc.base(), FIRST_EXTENT - 6 * KIB, &mut || note());
        if traps_work() {
            assert!(desc.limit() < limit, "there was too little room");
            assert_eq!((desc.doublings(), desc.traps()), (1, 0));
        }
        assert_eq!(desc.remaining(desc.floor() + 100), 100);
    });
    desc.set_owner(std::ptr::null());
    assert_eq!(desc.high_water(), 0);
    release(stack);
}

#[test]
fn measuring_finds_what_nobody_noted() {
    let _alt = prepare();
    let stack = stack(MIB + 24 * KIB, StackGrowth::DemandPaged);
    let desc = stack.desc();
    let stack = run(stack, |desc| descend(desc.base(), 100 * KIB, &mut || {}));
    assert_eq!(desc.class(), Class::MIN);
    // SAFETY: the stack is held.
    let bytes = unsafe { desc.measure() };
    assert!((100 * KIB..110 * KIB).contains(&bytes), "{bytes}");
    assert_eq!(desc.class().bytes(), 128 * KIB);
    release(stack);
}
