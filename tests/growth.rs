//! Stacks grow in place: what points into them stays valid.

use baton::{chan, go};
use std::{
    hint::black_box,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
    },
};

/// Bytes that the recursion below uses at least.
const DEPTH: usize = 3 << 20;

/// A frame of about half a kilobyte that knows its caller's.
struct Frame {
    caller: *const Frame,
    own: *const Frame,
    depth: usize,
    filler: [usize; 60],
}

/// Recurses until `DEPTH` bytes lie between here and `top`, parking now and then, and checks on the way back that every
/// frame is where it was, with what it held, and that the address that `on_heap` holds still leads to the first.
fn recurse(caller: &Frame, top: usize, on_heap: &AtomicPtr<Frame>, park: &dyn Fn(usize)) -> usize {
    let mut here = Frame {
        caller,
        own: ptr::null(),
        depth: caller.depth + 1,
        filler: [caller.depth + 1; 60],
    };
    here.own = &raw const here;
    black_box(&mut here);
    let (address, depth) = (here.own.addr(), here.depth);
    if depth % 64 == 0 {
        park(depth);
    }
    let deepest = if top - address < DEPTH {
        recurse(&here, top, on_heap, park)
    } else {
        check_chain(&here, on_heap)
    };
    if depth % 64 == 1 {
        park(depth);
    }
    assert_eq!(ptr::from_ref(&here).addr(), address, "the frame did not move");
    assert_eq!(here.own.addr(), address);
    assert!(here.filler.iter().all(|&word| word == depth), "and holds what it held");
    // SAFETY: the caller's frame is alive, below this one on the same stack.
    assert_eq!(unsafe { (*here.caller).depth } + 1, depth);
    deepest
}

/// Follows the frames from the bottom to the first.
fn check_chain(last: &Frame, on_heap: &AtomicPtr<Frame>) -> usize {
    let mut at = last;
    // SAFETY: all callers' frames are alive.
    while let Some(caller) = unsafe { at.caller.as_ref() } {
        assert_eq!(caller.depth + 1, at.depth);
        assert!(caller.filler.iter().all(|&word| word == caller.depth));
        at = caller;
    }
    assert!(
        ptr::eq(at, on_heap.load(SeqCst)),
        "the heap's pointer leads to the first frame"
    );
    last.depth
}

fn dive(park: &dyn Fn(usize)) -> usize {
    let mut first = Frame {
        caller: ptr::null(),
        own: ptr::null(),
        depth: 0,
        filler: [0; 60],
    };
    let on_heap = Box::new(AtomicPtr::new(ptr::null_mut()));
    first.own = &raw const first;
    on_heap.store((&raw mut first).cast(), SeqCst);
    recurse(&first, ptr::from_ref(&first).addr(), &on_heap, park)
}

#[test]
fn pointers_into_a_stack_stay_valid_through_three_megabytes() {
    baton::run(|| {
        let depth = go!(name = "diver", max_stack = 8 << 20; || dive(&|_| ()))
            .join()
            .unwrap();
        assert!(depth > 100);
    });
}

#[test]
fn they_stay_valid_while_others_grow_too_and_at_every_park() {
    baton::run(|| {
        let all: Vec<_> = (0..4 * baton::procs().min(4))
            .map(|i| go!(name = "diver", max_stack = 7 << 20; move || dive(&|depth| if depth % (64 + i) < 2 { baton::yield_now() })))
            .collect();
        all.into_iter().for_each(|diver| assert!(diver.join().unwrap() > 100));
    });
}

/// Another goroutine reads and writes a local of this one, before, while and after its stack grows.
#[test]
fn a_local_lent_to_another_goroutine_stays_where_it_is() {
    baton::run(|| {
        let (ask, asked) = chan::bounded::<usize>(0);
        let (answer, answered) = chan::bounded::<usize>(0);
        let owner = go!(name = "owner", max_stack = 8 << 20; move || {
            let local = AtomicUsize::new(1);
            let lent = ptr::from_ref(&local).addr();
            ask.send(lent).unwrap();
            let add_one = |_: usize| {
                let before = local.load(SeqCst);
                ask.send(lent).unwrap();
                assert_eq!(answered.recv(), Ok(before + 1));
                assert_eq!(local.load(SeqCst), before + 1, "the other one wrote here");
            };
            assert_eq!(answered.recv(), Ok(2));
            dive(&add_one);
            drop(ask);
            local.load(SeqCst)
        });
        let other = go!(move || {
            for address in &asked {
                // SAFETY: the owner's local lives until this goroutine has answered for the last time.
                let local = unsafe { &*ptr::with_exposed_provenance::<AtomicUsize>(address) };
                answer.send(local.fetch_add(1, SeqCst) + 1).unwrap();
            }
        });
        assert!(owner.join().unwrap() > 5);
        other.join().unwrap();
    });
}

/// What a register holds over a call that grows the stack: callee-saved ones are pushed and popped by frames that lie
/// above and below the guard.
#[test]
fn registers_hold_what_they_held() {
    fn down(depth: usize, held: [&AtomicUsize; 6]) -> usize {
        let frame = black_box([depth; 100]);
        let below = if depth == 0 { 0 } else { down(depth - 1, held) };
        held.iter().for_each(|a| {
            a.fetch_add(1, SeqCst);
        });
        below + frame[99] - depth + 1
    }
    baton::run(|| {
        let sums: Vec<_> = (0..8)
            .map(|_| {
                go!(max_stack = 8 << 20; || {
                    let cells: [AtomicUsize; 6] = Default::default();
                    let held = [&cells[0], &cells[1], &cells[2], &cells[3], &cells[4], &cells[5]];
                    let depth = down(4_000, held);
                    assert!(cells.iter().all(|c| c.load(SeqCst) == depth));
                    depth
                })
            })
            .collect();
        assert!(sums.into_iter().all(|s| s.join().unwrap() == 4_001));
    });
}

#[test]
fn a_large_local_array_fits() {
    baton::run(|| {
        let shared = Arc::new(AtomicUsize::new(0));
        let all: Vec<_> = (0..10)
            .map(|i| {
                let shared = Arc::clone(&shared);
                go!(move || {
                    let array = black_box([i as u8; 300 << 10]);
                    baton::yield_now();
                    assert!(array.iter().all(|&b| b == i as u8));
                    shared.fetch_add(1, SeqCst);
                })
            })
            .collect();
        all.into_iter().for_each(|h| h.join().unwrap());
        assert_eq!(shared.load(SeqCst), 10);
    });
}
