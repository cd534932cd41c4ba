//! Memory that nobody needs goes back to the kernel: by and by, at once, and above a limit. Each test looks at what its whole
//! process takes, so each has a process of its own.

mod common;

use baton_alloc::{
    Alloc, ArenaKind, PAGE, free, malloc, malloc_zeroed,
    mheap::{alloc_manual, free_manual},
    scavenge::{self, Release},
    stats,
};
use common::Rng;
use std::{
    alloc::Layout,
    fs,
    process::Command,
    ptr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;

/// Runs `body` in a child process that has only this test, with these variables set.
fn alone(name: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if common::role().is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("BATON_TEST_CHILD", "alone")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A figure of /proc/self/status in bytes.
fn status(key: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes << 10
}

fn resident() -> usize {
    status("VmRSS:")
}

/// Whether the process has a thread of this name.
fn has_thread(name: &str) -> bool {
    fs::read_dir("/proc/self/task").unwrap().any(|task| {
        let comm = task.unwrap().path().join("comm");
        fs::read_to_string(comm).is_ok_and(|comm| comm.trim_end() == name)
    })
}

/// Waits for what must come true some time. (How long it takes is not what is tested: a busy machine may take its time.)
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "still not: {what}; {:?}",
            stats()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Objects of this heap, linked to one another so that the list needs no other memory, and written to all over.
struct Objects {
    first: *mut Header,
    bytes: usize,
}

struct Header {
    next: *mut Header,
    layout: Layout,
}

impl Objects {
    fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            bytes: 0,
        }
    }

    fn add(&mut self, size: usize) {
        let layout = Layout::from_size_align(size.max(size_of::<Header>()), 8).unwrap();
        let object = malloc(layout);
        assert!(!object.is_null());
        // SAFETY: the object is ours and as long as that.
        unsafe {
            object.write_bytes(0x5a, layout.size());
            object.cast::<Header>().write(Header {
                next: self.first,
                layout,
            });
        }
        self.first = object.cast();
        self.bytes += layout.size();
    }

    /// Sizes from 16 to 2,048 bytes, as many of each octave.
    fn of_all_sizes(bytes: usize) -> Self {
        let mut rng = Rng::new(1);
        let mut all = Self::new();
        while all.bytes < bytes {
            let octave = 16 << rng.below(7);
            all.add(octave + rng.below(octave));
        }
        all
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        while !self.first.is_null() {
            // SAFETY: the object is ours, with the layout that its header says.
            unsafe {
                let Header { next, layout } = self.first.read();
                free(self.first.cast(), layout);
                self.first = next;
            }
        }
    }
}

#[test]
fn what_is_freed_goes_back_by_and_by() {
    alone("what_is_freed_goes_back_by_and_by", &[], || {
        let total = if cfg!(debug_assertions) { 200 * MIB } else { 1024 * MIB };
        let objects = Objects::of_all_sizes(total);
        assert!(resident() > total);
        assert!(!has_thread("baton-scav"), "there is nothing to do for it");
        let leases = stats().leases;
        drop(objects);
        // This thread sleeps, and its caches go back as well.
        wait_for("most memory is back", || resident() < 40 * MIB);
        wait_for("the thread has ended", || !has_thread("baton-scav"));
        assert!(stats().released_bytes > total * 9 / 10);
        assert_eq!(stats().leases, leases, "it has no memory but its stack");
        // And again: all works as before, and another thread sees to it.
        drop(Objects::of_all_sizes(100 * MIB));
        wait_for("most memory is back", || resident() < 40 * MIB);
    });
}

#[test]
fn switched_off_it_waits_to_be_asked() {
    let off = [("BATON_SCAVENGE", "off")];
    alone("switched_off_it_waits_to_be_asked", &off, || {
        drop(Objects::of_all_sizes(100 * MIB));
        assert!(!Alloc::scavenger() && !has_thread("baton-scav"));
        assert!(resident() > 80 * MIB);
        assert!(Alloc::release_free() > 60 * MIB);
        assert!(resident() < 40 * MIB, "{} MiB", resident() / MIB);
        // Long runs do not wait.
        let mut large = Objects::new();
        (0..4).for_each(|_| large.add(20 * MIB));
        assert!(resident() > 80 * MIB);
        drop(large);
        assert!(resident() < 40 * MIB, "{} MiB", resident() / MIB);
        // Allowed again, it comes.
        Alloc::set_scavenger(true);
        drop(Objects::of_all_sizes(100 * MIB));
        wait_for("most memory is back", || resident() < 40 * MIB);
    });
}

/// Holes that are too short for what comes next are given back before the heap grows beyond the limit.
#[test]
fn a_heap_at_its_limit_gives_back_before_it_grows() {
    let limit = [("BATON_MEMORY_LIMIT", "200MiB"), ("BATON_SCAVENGE", "off")];
    alone("a_heap_at_its_limit_gives_back_before_it_grows", &limit, || {
        assert_eq!(Alloc::memory_limit(), Some(200 * MIB));
        let before = resident();
        let (mut holes, mut kept) = (Objects::new(), Objects::new());
        while kept.bytes < 80 * MIB {
            holes.add(100_000);
            kept.add(100_000);
        }
        drop(holes);
        let mut large = Objects::new();
        while large.bytes < 80 * MIB {
            large.add(4 * MIB);
        }
        let most = status("VmHWM:") - before;
        assert!(most < 215 * MIB, "{} MiB", most / MIB);
        assert!(most > 150 * MIB, "it is not even near the limit");
        // Above the limit the program gets what it asks for all the same.
        while large.bytes < 160 * MIB {
            large.add(4 * MIB);
        }
        drop((large, kept));
        assert_eq!(Alloc::set_memory_limit(Some(50 * MIB)), Some(200 * MIB));
        assert!(resident() - before < 60 * MIB, "lowered, it counts at once");
    });
}

#[test]
fn a_limit_that_is_no_size_is_refused() {
    const NAME: &str = "a_limit_that_is_no_size_is_refused";
    if common::role().is_some() {
        let layout = Layout::new::<u64>();
        // SAFETY: freed once, with this layout.
        unsafe { free(malloc(layout), layout) };
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env("BATON_TEST_CHILD", "alone")
        .env("BATON_MEMORY_LIMIT", "much")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("which is no size"), "{text}");
}

/// A program that passes its limit on the way up makes the scavenger call the hooks, and the hooks are called about once a
/// second while there is anything to do.
#[test]
fn hooks_are_called() {
    static UNUSED: AtomicUsize = AtomicUsize::new(0);
    static ALL: AtomicUsize = AtomicUsize::new(0);
    alone("hooks_are_called", &[], || {
        assert!(scavenge::on_release(|how| {
            let count = if how == Release::All { &ALL } else { &UNUSED };
            count.fetch_add(1, SeqCst);
        }));
        Alloc::release_free();
        assert_eq!((UNUSED.load(SeqCst), ALL.load(SeqCst)), (0, 1));
        scavenge::want();
        wait_for("a hook is called", || UNUSED.load(SeqCst) > 0);
        Alloc::set_memory_limit(Some(MIB));
        let _large = {
            let mut large = Objects::new();
            large.add(64 * MIB);
            large
        };
        wait_for("a hook hears that memory is short", || ALL.load(SeqCst) > 2);
        // Each does something else, or they might be one function.
        fn other<const N: usize>(_: Release) {
            ALL.fetch_add(N, SeqCst);
        }
        for _ in 0..2 {
            let others = [
                other::<1>, other::<2>, other::<3>, other::<4>, other::<5>, other::<6>, other::<7>,
            ];
            assert!(others.into_iter().all(scavenge::on_release), "twice is once");
        }
        assert!(!scavenge::on_release(other::<8>), "there are eight");
    });
}

/// The kernel keeps what is locked. All else goes back, below it and of the other kind; and what stays is not counted as gone.
#[test]
fn what_is_locked_keeps_nothing_else() {
    const LOCKED: usize = 64 << 10;
    const PAGES: usize = 100;
    let off = [("BATON_SCAVENGE", "off")];
    alone("what_is_locked_keeps_nothing_else", &off, || {
        let lock = || {
            let layout = Layout::from_size_align(LOCKED, 4096).unwrap();
            let object = malloc(layout);
            assert!(!object.is_null());
            // SAFETY: the object is ours, and as long as that.
            let locked = unsafe { libc::mlock(object.cast(), LOCKED) } == 0;
            (locked, object, layout)
        };
        let mut large = Objects::new();
        let mut add = || (0..40).for_each(|_| large.add(MIB / 2));
        add();
        let middle = lock();
        add();
        let highest = lock();
        let stack = alloc_manual(PAGES, 1, ArenaKind::Stack).unwrap();
        // SAFETY: the span is ours, and as long as that; so are the objects, which the program forgets to unlock.
        unsafe {
            stack.write_bytes(1, PAGES * PAGE);
            free_manual(stack, PAGES, ArenaKind::Stack);
            for (locked, object, layout) in [middle, highest] {
                if !locked {
                    return; // the limit is lower than that
                }
                free(object, layout);
            }
        }
        drop(large);
        let before = stats().released_bytes;
        let gone = Alloc::release_free();
        assert!(gone > 32 * MIB + PAGES * PAGE, "{gone}");
        assert_eq!(stats().released_bytes, before + gone);
        assert!(resident() < 20 * MIB, "{} MiB", resident() / MIB);
        // SAFETY: asks about pages of the span, and writes a byte for each.
        let backed = unsafe {
            let mut pages = [0_u8; PAGES * PAGE / 4096];
            let _unmapped = libc::mincore(stack.as_ptr().cast(), PAGES * PAGE, pages.as_mut_ptr());
            pages.iter().filter(|&page| page & 1 == 1).count()
        };
        assert_eq!(backed, 0, "pages of a stack");
        assert_eq!(Alloc::release_free(), 0);
        assert_eq!(stats().released_bytes, before + gone);
    });
}

/// Who asks for the scavenger may be a thread that never allocated.
#[test]
fn a_thread_that_never_allocated_starts_it() {
    static UNUSED: AtomicUsize = AtomicUsize::new(0);
    alone("a_thread_that_never_allocated_starts_it", &[], || {
        assert!(scavenge::on_release(|_| {
            UNUSED.fetch_add(1, SeqCst);
        }));
        thread::spawn(scavenge::want).join().unwrap();
        wait_for("the hook is called", || UNUSED.load(SeqCst) > 0);
    });
}

/// Where frees start no thread, the next allocation that is not served from a list does.
#[test]
fn allocations_start_it_where_frees_do_not() {
    static UNUSED: AtomicUsize = AtomicUsize::new(0);
    alone("allocations_start_it_where_frees_do_not", &[], || {
        scavenge::frees_start_no_thread();
        assert!(scavenge::on_release(|_| {
            UNUSED.fetch_add(1, SeqCst);
        }));
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let objects = Objects::of_all_sizes(100 * MIB);
        let before = threads();
        drop(objects);
        assert_eq!(threads(), before);
        let _kept = Objects::of_all_sizes(100 * MIB);
        wait_for("the hook is called", || UNUSED.load(SeqCst) > 0);
    });
}

/// The child of a process whose scavenger runs gets its own; and when the last thread of the program ends, the scavenger
/// does not keep the process alive.
#[test]
fn a_forked_child_gets_its_own_and_ends_without_it() {
    alone("a_forked_child_gets_its_own_and_ends_without_it", &[], || {
        let load = || {
            let mut large = Objects::new();
            (0..4).for_each(|_| large.add(20 * MIB));
        };
        load();
        wait_for("the scavenger runs", || has_thread("baton-scav"));
        // SAFETY: the child runs on this thread, uses Baton's heap, /proc, and files, and ends as a thread; the alarm ends
        // it if it waits for ever.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(60);
                if has_thread("baton-scav") {
                    libc::_exit(2);
                }
                load();
                while !has_thread("baton-scav") {
                    thread::yield_now();
                }
                // The end of this thread alone, and without the unwinding of `pthread_exit`, which Rust does not allow.
                libc::syscall(libc::SYS_exit, 0);
            }
            let mut code = 0;
            assert_eq!(libc::waitpid(child, &raw mut code, 0), child);
            assert_eq!(code, 0, "the child did not end well");
        }
    });
}

/// To hand out zeros, pages that are zero already are not written to.
#[test]
fn fresh_pages_are_not_touched_to_zero_them() {
    alone("fresh_pages_are_not_touched_to_zero_them", &[], || {
        let mut large = Objects::new();
        large.add(17 * MIB);
        // Its pages are free now, and the next object begins with them.
        drop(large);
        for size in [30 * MIB, 300 * MIB] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            let before = resident();
            let object = malloc_zeroed(layout);
            let grown = resident().saturating_sub(before);
            assert!(grown < 4 * MIB, "{} MiB", grown / MIB);
            // SAFETY: the object is ours, and as long as that.
            unsafe {
                assert!((0..size).step_by(1024).all(|i| object.add(i).read() == 0));
                object.write_bytes(1, 20 * MIB);
                free(object, layout);
            }
        }
    });
}

/// Other threads' caches come back without their doing anything, whoever they are.
#[test]
fn caches_of_sleeping_threads_are_emptied() {
    alone(
        "caches_of_sleeping_threads_are_emptied",
        &[("BATON_SCAVENGE", "off")],
        || {
            thread::scope(|scope| {
                let threads: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| {
                            drop(Objects::of_all_sizes(10 * MIB));
                            let mut large = Objects::new();
                            (0..8).for_each(|_| large.add(100_000));
                            drop(large);
                            thread::park();
                            // What was taken is not missed.
                            drop(Objects::of_all_sizes(MIB));
                        })
                    })
                    .collect();
                wait_for("caches are full", || {
                    let now = stats();
                    now.attached_leases >= 3 && now.large_cached_bytes >= 3 * 8 * 100_000
                });
                wait_for("all threads sleep, and their caches are empty", || {
                    Alloc::release_free();
                    let now = stats();
                    now.cached_bytes + now.large_cached_bytes == 0
                });
                threads.iter().for_each(|thread| thread.thread().unpark());
            });
        },
    );
}

/// What is on its way from a cache to its spans is in nobody's figures: who asks for them waits until it has arrived.
#[test]
fn figures_are_exact_while_caches_are_emptied() {
    alone("figures_are_exact_while_caches_are_emptied", &[], || {
        let layouts = [200, 200_000].map(|size| Layout::from_size_align(size, 8).unwrap());
        let stop = AtomicUsize::new(0);
        let wrong = thread::scope(|scope| {
            scope.spawn(|| {
                while stop.load(SeqCst) == 0 {
                    Alloc::release_free();
                }
            });
            let wrong = (0..300).find_map(|_| {
                for layout in layouts {
                    for object in [(); 100].map(|()| malloc(layout)) {
                        // SAFETY: ours, of this layout.
                        unsafe { free(object, layout) };
                    }
                }
                let stats = stats();
                let objects: usize = stats
                    .classes
                    .iter()
                    .map(|c| (c.live + c.cached + c.central) * c.size)
                    .sum();
                let tails: usize = stats.classes.iter().map(|c| c.tail_bytes()).sum();
                (stats.large_bytes != 0 || objects + tails != stats.small_span_bytes).then_some(stats)
            });
            stop.store(1, SeqCst);
            wrong
        });
        assert!(wrong.is_none(), "{wrong:?}");
    });
}
