//! Stacks that were deep and are not any more give their memory back. A binary of its own, since it looks at the memory of
//! the process.

use baton::{Alloc, chan, go, sync::WaitGroup};
use std::{
    fs,
    hint::black_box,
    sync::{Mutex, MutexGuard, PoisonError},
};

mod descend;
use descend::descend;

#[global_allocator]
static ALLOC: Alloc = Alloc;

/// The memory of the process is that of all its tests: they take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const GOROUTINES: usize = if cfg!(debug_assertions) { 2_000 } else { 10_000 };

/// Bytes resident, page tables included.
fn memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    };
    field("VmRSS:") + field("VmPTE:")
}

/// Parks goroutines that were `depth` deep before, has memory released, and gives the bytes that each then has. Then
/// each goes as deep again, and finds what it left on its stack.
fn parked(depth: usize) -> usize {
    let before = memory();
    let (tx, rx) = chan::bounded::<()>(0);
    let here = WaitGroup::new();
    let handles: Vec<_> = (0..GOROUTINES)
        .map(|i| {
            let (rx, here) = (rx.clone(), here.clone());
            go!(move || {
                let kept = black_box([i; 16]);
                let frames = descend(depth);
                drop(here);
                rx.recv().unwrap_err();
                assert_eq!(descend(depth), frames);
                assert!(black_box(kept).iter().all(|&word| word == i));
            })
        })
        .collect();
    here.wait();
    while baton::metrics().goroutines > GOROUTINES as u64 + 1 {
        baton::yield_now();
    }
    Alloc::release_free();
    let each = (memory() - before) / GOROUTINES;
    let metrics = baton::metrics();
    println!(
        "{depth} deep: {each} bytes for each; so far {} stacks, {} shrunk, {} threads",
        metrics.stacks, metrics.stack_shrinks, metrics.threads
    );
    drop(tx);
    handles.into_iter().for_each(|handle| handle.join().unwrap());
    Alloc::release_free();
    each
}

#[test]
fn who_was_deep_costs_no_more_than_who_never_was() {
    let _alone = alone();
    baton::run(|| {
        parked(512); // what only the first round pays
        let shallow = parked(512);
        let deep = parked(60 << 10);
        let deeper = parked(300 << 10);
        println!("bytes for each of {GOROUTINES}: never deep {shallow}, 60 KiB {deep}, 300 KiB {deeper}");
        // Half a page each for what the process does besides: a thread that it starts meanwhile has a stack and a cache.
        for (each, depth) in [(deep, 60), (deeper, 300)] {
            assert!(each <= shallow + 2048, "{each} after {depth} KiB, {shallow} never deep");
        }
        assert!(baton::metrics().stack_shrinks > 0);
    });
}

/// Memory is taken again and again while the goroutines wake, go deep and park: nobody loses what it uses.
#[test]
fn who_goes_on_meanwhile_loses_nothing() {
    let _alone = alone();
    baton::run(|| {
        let rounds = 150;
        let pairs: Vec<_> = (0..8_usize)
            .map(|i| {
                let (to, from) = chan::bounded::<usize>(0);
                let echo = go!(move || {
                    for depth in &from {
                        let kept = black_box([depth; 40]);
                        descend(depth);
                        baton::yield_now();
                        assert!(black_box(kept).iter().all(|&word| word == depth));
                    }
                });
                let ask = go!(
                    move || (0..rounds).for_each(|n| to.send(1_000 + (n * 7_919 * (i + 1)) % (200 << 10)).unwrap())
                );
                (ask, echo)
            })
            .collect();
        let release = std::thread::spawn(|| (0..40).for_each(|_| assert!(Alloc::release_free() < usize::MAX)));
        for (ask, echo) in pairs {
            ask.join().unwrap();
            echo.join().unwrap();
        }
        release.join().unwrap();
    });
}

/// Nobody asks for memory: goroutines that were deep, and stacks that a resting processor carries, give theirs back all the same,
/// after a while.
#[test]
fn it_happens_by_itself() {
    let _alone = alone();
    baton::run(|| {
        Alloc::release_free(); // what other tests left would go meanwhile, and be missed below
        let before = memory();
        let (tx, rx) = chan::bounded::<()>(0);
        let here = WaitGroup::new();
        let deep: Vec<_> = (0..200)
            .map(|_| {
                let (rx, here) = (rx.clone(), here.clone());
                go!(move || {
                    let frames = descend(200 << 10); // less than the first extent: nobody has seen it
                    drop(here);
                    (frames, rx.recv().unwrap_err()).0
                })
            })
            .collect();
        here.wait();
        // These stay in the processors' caches.
        (0..8).for_each(|_| assert!(go!(|| descend(400 << 10)).join().unwrap() > 0));
        let at_work = memory() - before;
        assert!(at_work > 190 * (200 << 10), "{at_work}"); // a scavenger that is at it still may take something of others
        // 16 KiB may stay of each, and the processors' caches are empty.
        while memory().saturating_sub(before) > 200 * (32 << 10) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        drop(tx);
        deep.into_iter().for_each(|h| assert!(h.join().unwrap() > 0));
    });
}
