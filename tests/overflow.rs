//! Goroutines that end because their stack is full, and nothing else does.

use baton::{Builder, JoinError, OnStackOverflow, chan, go, stack, sync::WaitGroup};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
    },
};

mod child;
use child::NO_CORE;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Starts a goroutine that alone ends when its stack is full.
#[track_caller]
fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> baton::JoinHandle<T> {
    let builder = Builder::new()
        .name("diver")
        .max_stack(128 << 10)
        .on_stack_overflow(OnStackOverflow::End);
    // SAFETY: the closures of this file touch no thread-local and hold no guard.
    unsafe { builder.spawn_migrating(f) }.unwrap()
}

#[inline(never)]
fn endless(depth: usize, at_each: &dyn Fn(usize)) -> usize {
    let frame = black_box([depth; 20]);
    at_each(depth);
    let below = if depth == usize::MAX {
        0
    } else {
        endless(depth + 1, at_each)
    };
    below + black_box(frame)[19]
}

fn overflow<T>(handle: baton::JoinHandle<T>) {
    match handle.join() {
        Err(JoinError::StackOverflow) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it has returned"),
    }
}

#[test]
fn only_the_goroutine_ends() {
    baton::run(|| {
        let before = baton::metrics().stack_overflows;
        let divers: Vec<_> = (0..20).map(|_| spawn(|| endless(0, &|_| ()))).collect();
        let others: Vec<_> = (0..20)
            .map(|i| {
                go!(move || {
                    baton::yield_now();
                    i
                })
            })
            .collect();
        divers.into_iter().for_each(overflow);
        assert_eq!(others.into_iter().map(|h| h.join().unwrap()).sum::<i32>(), 190);
        assert!(baton::metrics().stack_overflows >= before + 20);
    });
}

/// Nobody joins: the block is freed all the same, and no goroutine is left in the count.
#[test]
fn nobody_has_to_join() {
    baton::run(|| {
        let overflows = baton::metrics().stack_overflows;
        (0..10).for_each(|_| drop(spawn(|| endless(0, &|_| ()))));
        while baton::metrics().stack_overflows < overflows + 10 {
            baton::yield_now();
        }
    });
}

/// Neither its own stack nor one that it had from `grow` leads to it, before its join and after that.
#[test]
fn dumps_do_not_show_who_has_ended() {
    baton::run(|| {
        for _ in 0..20 {
            let from = line!();
            let divers = [
                spawn(|| endless(0, &|_| ())),
                spawn(|| stack::grow(1 << 20, || endless(0, &|_| ()))),
                spawn(|| stack::grow(1 << 20, || stack::grow(2 << 20, || endless(0, &|_| ())))),
            ];
            let are_not_shown = || {
                let text = baton::dump();
                for line in from..from + 5 {
                    assert!(
                        !text.contains(&format!("started at tests/overflow.rs:{line}:")),
                        "{text}"
                    );
                }
            };
            while !divers.iter().all(baton::JoinHandle::is_finished) {
                baton::yield_now();
            }
            are_not_shown();
            divers.into_iter().for_each(overflow);
            are_not_shown();
        }
    });
}

/// What another goroutine has a pointer to stays as it was, and nothing is dropped.
#[test]
fn its_stack_stays_as_it_was() {
    struct Tell(Arc<AtomicUsize>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    baton::run(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let lent = Arc::new(AtomicPtr::new(std::ptr::null_mut()));
        let (tell, lender) = (Tell(Arc::clone(&drops)), Arc::clone(&lent));
        overflow(spawn(move || {
            let _tell = tell;
            let local = AtomicUsize::new(4711);
            lender.store((&raw const local).cast_mut(), SeqCst);
            endless(0, &|_| ())
        }));
        // Others that end the same way, and others that run, do not get its stack.
        (0..20).for_each(|_| overflow(spawn(|| endless(0, &|_| ()))));
        let others: Vec<_> = (0..50)
            .map(|_| go!(max_stack = 128 << 10; || endless_until(300)))
            .collect();
        others.into_iter().for_each(|h| assert!(h.join().unwrap() > 0));
        // SAFETY: the stack of the goroutine stays mapped and is never used again.
        let local = unsafe { &*lent.load(SeqCst) };
        assert_eq!(local.load(SeqCst), 4711);
        assert_eq!(drops.load(SeqCst), 0);
    });
}

#[inline(never)]
fn endless_until(depth: usize) -> usize {
    let frame = black_box([depth; 8]);
    let below = if depth == 0 { 0 } else { endless_until(depth - 1) };
    below + black_box(frame)[7]
}

/// The deepest frames send, receive, lock, spawn: whatever they were in the middle of is whole afterwards.
#[test]
fn nothing_of_the_runtime_is_left_half_done() {
    baton::run(|| {
        for round in 0..40_usize {
            let (tx, rx) = chan::unbounded::<usize>();
            let (there, back) = (chan::bounded::<usize>(0), chan::bounded::<usize>(0));
            let (to, from) = (there.0.clone(), back.1.clone());
            let echo = go!(move || {
                for message in &there.1 {
                    back.0.send(message).unwrap();
                }
            });
            let sender = tx.clone();
            let group = WaitGroup::new();
            let shared = group.clone();
            overflow(spawn(move || {
                let _skew = black_box([0_u8; 64]);
                endless(round, &|depth| match depth % 4 {
                    0 => sender.send(depth).unwrap(),
                    1 => {
                        to.send(depth).unwrap();
                        assert_eq!(from.recv(), Ok(depth));
                    }
                    2 => drop(shared.clone()),
                    _ => drop(go!(|| ())),
                })
            }));
            // Its ends of the channels are never dropped, but the channels work.
            drop(tx);
            let mut last = 0;
            while let Ok(depth) = rx.try_recv() {
                assert!(depth >= last);
                last = depth;
            }
            drop(group);
            drop(echo);
        }
        // And so does the scheduler.
        let all: Vec<_> = (0..1_000).map(|i| go!(move || i)).collect();
        assert_eq!(all.into_iter().map(|h| h.join().unwrap()).sum::<i32>(), 499_500);
    });
}

#[test]
fn in_a_destructor_while_unwinding_the_process_ends() {
    struct Deep;
    impl Drop for Deep {
        fn drop(&mut self) {
            endless(0, &|_| ());
        }
    }
    let test = "in_a_destructor_while_unwinding_the_process_ends";
    let ran = child::run(test, &[], &[NO_CORE], || {
        baton::run(|| {
            let _ = spawn(|| {
                let _deep = Deep;
                panic!("on purpose");
            })
            .join();
        });
    });
    ran.died(libc::SIGABRT, &["\"diver\"", "overflowed its stack", "endless"]);
}

extern "C" fn deep_handler(_: libc::c_int) {
    endless(0, &|_| ());
}

#[test]
fn in_a_signal_handler_on_its_stack_the_process_ends() {
    let test = "in_a_signal_handler_on_its_stack_the_process_ends";
    let ran = child::run(test, &[], &[NO_CORE], || {
        // SAFETY: all-zero bytes are a valid sigaction, and the handler is one of this file. No SA_ONSTACK.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = deep_handler as *const () as usize;
            libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut());
        }
        baton::run(|| {
            // SAFETY: the handler is installed.
            let _ = spawn(|| unsafe { libc::raise(libc::SIGTRAP) }).join();
        });
    });
    ran.died(libc::SIGABRT, &["\"diver\"", "overflowed its stack"]);
}

/// Without `End`, the report says who, how large, how deep, where, and what to change.
#[test]
fn the_report_names_the_innermost_frames() {
    let ran = child::run("the_report_names_the_innermost_frames", &[], &[NO_CORE], || {
        baton::run(|| {
            let _ = go!(name = "diver", max_stack = 128 << 10; || endless(0, &|_| ())).join();
        });
    });
    ran.died(
        libc::SIGABRT,
        &[
            "\"diver\"",
            "of 131072 bytes",
            "innermost frames",
            "endless",
            "Builder::max_stack",
            "on_stack_overflow",
        ],
    );
}
