//! More stack on demand: `stack::grow`, `stack::remaining`.

use baton::{Builder, JoinError, OnStackOverflow, go, stack};
use std::{
    hint::black_box,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

mod child;
use child::NO_CORE;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Recurses `depth` times in frames of more than a kilobyte, on as many stacks as that takes.
fn count(depth: usize, at_each: &dyn Fn(usize)) -> usize {
    let frame = black_box([depth; 128]);
    at_each(depth);
    let below = match depth {
        0 => 0,
        _ if stack::remaining() < 64 << 10 => stack::grow(1 << 20, || count(depth - 1, at_each)),
        _ => count(depth - 1, at_each),
    };
    assert!(black_box(frame).iter().all(|&word| word == depth));
    below + 1
}

fn here() -> usize {
    let local = 0_u8;
    black_box(ptr::from_ref(&local)).addr()
}

#[test]
fn recursion_goes_on_on_further_stacks() {
    // 10 MiB at least, on ten stacks or more at once.
    assert_eq!(baton::run(|| go!(|| count(10_000, &|_| ())).join().unwrap()), 10_001);
    assert_eq!(std::thread::spawn(|| count(10_000, &|_| ())).join().unwrap(), 10_001);
    assert_eq!(count(10_000, &|_| ()), 10_001);
}

#[test]
fn it_may_park_there_and_go_on_on_another_thread() {
    baton::run(|| {
        let all: Vec<_> = (0..8)
            .map(|i| {
                go!(move || count(5_000, &|depth| {
                    if depth % 97 == i {
                        baton::yield_now();
                    }
                }))
            })
            .collect();
        all.into_iter().for_each(|h| assert_eq!(h.join().unwrap(), 5_001));
    });
}

#[test]
fn with_enough_left_it_is_a_call() {
    baton::run(|| {
        go!(max_stack = 1 << 20; || {
            let at = here();
            let left = stack::remaining();
            assert!((512 << 10..=1028 << 10).contains(&left), "{left}");
            stack::grow(64 << 10, || assert!(here().abs_diff(at) < 64 << 10, "the same stack"));
            stack::grow(2 << 20, || {
                assert!(here().abs_diff(at) > 64 << 10, "another stack");
                assert!(stack::remaining() >= 2 << 20);
                let inner = here();
                stack::grow(8 << 20, || assert!(stack::remaining() >= 8 << 20 && here().abs_diff(inner) > 64 << 10));
                stack::grow(1 << 20, || assert!(here().abs_diff(inner) < 64 << 10));
            });
            assert!(stack::remaining().abs_diff(left) < 4 << 10, "and back");
        })
        .join()
        .unwrap();
    });
}

#[test]
fn panics_pass_through_and_the_stack_is_the_old_one() {
    let check = || {
        let left = stack::remaining();
        let dropped = AtomicUsize::new(0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            stack::grow(16 << 20, || {
                struct Count<'a>(&'a AtomicUsize);
                impl Drop for Count<'_> {
                    fn drop(&mut self) {
                        self.0.fetch_add(1, SeqCst);
                    }
                }
                let _count = Count(&dropped);
                stack::grow(32 << 20, || std::panic::resume_unwind(Box::new("on purpose")))
            })
        }));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"on purpose"));
        assert_eq!(dropped.load(SeqCst), 1);
        assert!(stack::remaining().abs_diff(left) < 4 << 10);
        assert_eq!(count(3_000, &|_| ()), 3_001);
    };
    baton::run(|| go!(move || check()).join().unwrap());
    std::thread::spawn(check).join().unwrap();
}

/// In a process of its own, since it counts the stacks of all.
#[test]
fn the_second_time_it_is_warm() {
    let ran = child::run("the_second_time_it_is_warm", &[], &[], || {
        baton::run(|| {
            let deep = || stack::grow(24 << 20, || black_box([1_u8; 8 << 20])[0]);
            deep();
            let before = baton::metrics();
            for _ in 0..10 {
                deep();
            }
            assert_eq!(baton::metrics().stacks, before.stacks);
        });
    });
    ran.succeeded();
}

#[test]
fn what_cannot_be_had_is_an_error() {
    let error = stack::try_grow((1 << 30) + 1, || ()).unwrap_err().to_string();
    assert!(error.contains("1073741824"), "{error}");
    assert!(catch_unwind(|| stack::grow(2 << 30, || ())).is_err());
    baton::run(|| assert!(stack::try_grow(2 << 30, || ()).is_err()));
}

#[inline(never)]
fn endless(depth: usize) -> usize {
    let frame = black_box([depth; 64]);
    let below = if depth == usize::MAX { 0 } else { endless(depth + 1) };
    below + black_box(frame)[63]
}

#[test]
fn an_overflow_there_is_the_goroutines() {
    baton::run(|| {
        let builder = Builder::new().on_stack_overflow(OnStackOverflow::End);
        let handle = builder.spawn(|| stack::grow(2 << 20, || endless(0))).unwrap();
        assert!(matches!(handle.join(), Err(JoinError::StackOverflow)));
    });
    let ran = child::run("an_overflow_there_is_the_goroutines", &[], &[NO_CORE], || {
        baton::run(|| {
            let _ = go!(name = "diver"; || stack::grow(2 << 20, || endless(0))).join();
        });
    });
    ran.died(libc::SIGABRT, &["\"diver\"", "overflowed its stack"]);
}

#[test]
fn an_overflow_on_a_threads_other_stack_is_reported() {
    let ran = child::run(
        "an_overflow_on_a_threads_other_stack_is_reported",
        &[],
        &[NO_CORE],
        || {
            let _ = std::thread::spawn(|| stack::grow(16 << 20, || endless(0))).join();
        },
    );
    ran.died(
        libc::SIGABRT,
        &["a thread in stack::grow", "overflowed its stack", "endless"],
    );
}

#[test]
fn an_overflow_in_on_big_stack_is_reported() {
    let ran = child::run("an_overflow_in_on_big_stack_is_reported", &[], &[NO_CORE], || {
        baton::run(|| {
            let _ = go!(name = "diver"; || baton::on_big_stack(|| endless(0))).join();
        });
    });
    ran.died(
        libc::SIGABRT,
        &[
            "\"diver\"",
            "the stack of its thread in on_big_stack",
            "stack::grow",
            "endless",
        ],
    );
}
