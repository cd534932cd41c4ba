//! Pools: what is warm is used again, what is too much is given back, and where stacks lie.

mod common;

use baton_stack::{
    Batch, Class, Desc, GuardKind, Spec, Stack, StackCache, StackGrowth, acquire, acquire_class, guard_kind, release,
    release_batch, stats,
};
use common::{descend, prepare, run};
use std::{
    collections::HashSet,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The counts are of the process, so one test at a time. (Each uses a reservation of its own, too.)
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    baton_alloc::Alloc::set_scavenger(false); // it would give back what is counted
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spec(reservation: usize) -> Spec {
    Spec::with_growth(reservation, StackGrowth::Trap).unwrap()
}

fn traps_work() -> bool {
    guard_kind() == GuardKind::Marker
}

fn use_depth(stack: Stack, depth: usize) -> Stack {
    run(stack, move |desc| {
        // SAFETY: this is the stack, and that is in it.
        descend(desc.base(), depth, &mut || unsafe { desc.note_depth(common::sp()) });
    })
}

#[test]
fn a_warm_stack_comes_before_a_new_one_and_traps_no_more() {
    let _alone = alone();
    let _alt = prepare();
    let spec = spec(3 * MIB);
    let stack = use_depth(acquire(spec).unwrap(), 500 * KIB);
    let desc = stack.desc();
    let before = stats();
    release(stack);
    assert_eq!(stats().free[Class::holding(512 * KIB).index()], before.free[8] + 1);
    assert_eq!(stats().warm_large_bytes, before.warm_large_bytes + 512 * KIB);
    assert!(stats().warm_bytes() >= 512 * KIB);
    let stack = acquire(spec).unwrap();
    assert!(std::ptr::eq(stack.desc(), desc), "the same stack");
    assert_eq!(desc.class().bytes(), 512 * KIB);
    assert_eq!(stats().carved, before.carved);
    let traps = stats().traps;
    let stack = use_depth(stack, 500 * KIB);
    assert_eq!(stats().traps, traps);
    release(stack);
}

#[test]
fn the_smallest_class_goes_first() {
    let _alone = alone();
    let _alt = prepare();
    let spec = spec(3 * MIB + 4 * KIB);
    let (deep, shallow) = (acquire(spec).unwrap(), acquire(spec).unwrap());
    let deep = use_depth(deep, 100 * KIB);
    let expected = shallow.desc();
    release(shallow);
    release(deep);
    let first = acquire(spec).unwrap();
    assert!(std::ptr::eq(first.desc(), expected));
    let second = acquire(spec).unwrap();
    assert_eq!(second.desc().class().bytes(), 128 * KIB);
    release(first);
    release(second);
}

#[test]
fn too_much_warm_memory_is_given_back() {
    let _alone = alone();
    let _alt = prepare();
    let spec = spec(40 * MIB);
    let stacks = [acquire(spec).unwrap(), acquire(spec).unwrap()].map(|stack| use_depth(stack, 33 * MIB));
    let [first, second] = stacks.each_ref().map(Stack::desc);
    assert_eq!(first.charge(), 40 * MIB, "64 MiB, but not more than there is");
    let [a, b] = stacks;
    let before = stats();
    release(a);
    assert_eq!(first.charge(), 40 * MIB, "one may stay warm");
    release(b);
    assert_eq!(stats().trimmed, before.trimmed + 1, "the one that was free longer");
    assert_eq!((first.class(), second.charge()), (Class::LARGEST_SMALL, 40 * MIB));
    let b = acquire_class(spec, Class::holding(33 * MIB)).unwrap();
    assert!(std::ptr::eq(b.desc(), second), "who needs a deep one gets it");
    release(b);
    let a = acquire(spec).unwrap();
    assert!(std::ptr::eq(a.desc(), first), "it is small now");
    // SAFETY: the stack is held.
    assert!(unsafe { first.measure() } <= 16 * KIB, "its pages are gone");
    let traps = first.traps();
    let a = use_depth(a, 33 * MIB);
    assert_eq!(
        first.traps(),
        if traps_work() { 2 * traps } else { 0 },
        "it grows again as it did"
    );
    release(a);
    assert_eq!(stats().trimmed, before.trimmed + 2);
    assert_eq!(second.class(), Class::LARGEST_SMALL);
}

#[test]
fn depth_that_nobody_saw_is_charged_in_the_pools() {
    let _alone = alone();
    let _alt = prepare();
    let spec = Spec::with_growth(3 * MIB + 8 * KIB, StackGrowth::DemandPaged).unwrap();
    let stack = run(acquire(spec).unwrap(), |desc| {
        descend(desc.base(), 700 * KIB, &mut || {})
    });
    let desc = stack.desc();
    assert_eq!(desc.class(), Class::MIN, "it did not park");
    release(stack);
    assert_eq!(desc.class().bytes(), MIB);
    let stack = acquire(spec).unwrap();
    let mut cache = StackCache::new();
    let mut batch = Batch::new();
    let mut stack = run(stack, |desc| descend(desc.base(), 1200 * KIB, &mut || {}));
    for _ in 0..16 {
        cache.push(stack).unwrap();
        assert!(cache.drain_shelf(&mut batch));
        release_batch(&mut batch);
        stack = acquire(spec).unwrap();
    }
    assert_eq!(desc.class().bytes(), 2 * MIB, "in batches too, now and then");
    release(stack);
}

/// When one is found deep, those that come with it are measured too: a crowd of deep ones is not taken for small.
#[test]
fn deep_ones_come_in_crowds() {
    let _alone = alone();
    let _alt = prepare();
    let spec = spec(MIB + 40 * KIB);
    let stacks: Vec<_> = (0..64).map(|_| acquire(spec).unwrap()).collect();
    let stacks = stacks
        .into_iter()
        .map(|stack| run(stack, |desc| descend(desc.base(), 300 * KIB, &mut || {})));
    let stacks: Vec<_> = stacks.collect();
    let descs: Vec<_> = stacks.iter().map(Stack::desc).collect();
    stacks.into_iter().for_each(release);
    let unseen = descs.iter().filter(|desc| desc.class() == Class::MIN).count();
    assert!(unseen <= 16, "{unseen} of 64 count as small");
    // They give it back when much is warm, and shallow ones are left alone after a while.
    let stacks: Vec<_> = (0..64).map(|_| acquire(spec).unwrap()).collect();
    stacks.into_iter().for_each(release);
    assert!(stats().warm_bytes() >= 48 * 300 * KIB);
    baton_alloc::Alloc::release_free();
}

/// The stacks that grew far are backed by huge pages, where the system has any; the others never are.
#[test]
fn what_a_trap_opens_may_be_huge() {
    const PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let _alone = alone();
    let _alt = prepare();
    let huge = |desc: &'static Desc| {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut ours, mut kib) = (false, 0);
        for line in smaps.lines() {
            let word = line.split_whitespace().next().unwrap();
            if let Some((start, end)) = word.split_once('-') {
                let address = |hex| usize::from_str_radix(hex, 16).unwrap();
                ours = address(start) < desc.base() && address(end) > desc.floor();
            } else if ours && word == "AnonHugePages:" {
                kib += line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap();
            }
        }
        kib
    };
    let shallow = use_depth(acquire(spec(24 * MIB)).unwrap(), MIB);
    assert_eq!(huge(shallow.desc()), 0);
    let deep = use_depth(acquire(spec(24 * MIB + 4 * KIB)).unwrap(), 20 * MIB);
    let (range, found) = (deep.desc().range(), huge(deep.desc()));
    println!("{found} KiB of {range:x?} are in huge pages");
    let allowed = fs::read_to_string(PAGES).is_ok_and(|text| !text.contains("[never]"));
    if traps_work() && allowed {
        // Where memory is in pieces there may be few.
        assert_eq!(found % 2048, 0);
    } else {
        assert_eq!(found, 0);
    }
    // What is given back is given back, huge or not, and the stack is good afterwards.
    let desc = deep.desc();
    release(deep);
    baton_alloc::Alloc::release_free();
    assert_eq!(huge(desc), 0);
    let deep = use_depth(acquire(spec(24 * MIB + 4 * KIB)).unwrap(), 20 * MIB);
    release(deep);
    release(shallow);
    baton_alloc::Alloc::release_free(); // so that the next test finds nothing warm
}

#[test]
fn stacks_lie_apart_and_start_in_many_colours() {
    let _alone = alone();
    let bottom = if cfg!(target_arch = "aarch64") { 64 } else { 16 } * KIB;
    for reservation in [64 * KIB, 256 * KIB, MIB, MIB - 20 * KIB] {
        let stacks: Vec<_> = (0..32).map(|_| acquire(spec(reservation)).unwrap()).collect();
        let descs: Vec<&Desc> = stacks.iter().map(Stack::desc).collect();
        let colours: HashSet<_> = descs.iter().map(|d| d.range().end - d.base()).collect();
        assert_eq!(colours.len(), 32);
        for d in &descs {
            assert_eq!(d.base() % 64, 0);
            assert!(d.base() - d.floor() >= reservation);
            assert!(d.floor() - d.range().start >= bottom, "the bottom guard");
        }
        let mut starts: Vec<_> = descs.iter().map(|d| d.range().start).collect();
        starts.sort_unstable();
        for pair in starts.windows(2) {
            let distance = pair[1] - pair[0];
            assert!(distance >= reservation + bottom + 4 * KIB);
            assert_eq!(distance / 4096 % 2, 1, "an odd number of pages: {distance:#x}");
        }
        stacks.into_iter().for_each(release);
    }
}

#[test]
fn ten_thousand_stacks_cost_few_mappings() {
    let _alone = alone();
    if !traps_work() {
        return; // two mappings each, as `mprotect` has it
    }
    let mappings = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = mappings();
    let mut stacks = Vec::with_capacity(10_000);
    for _ in 0..10_000 {
        stacks.push(acquire(spec(128 * KIB)).unwrap());
    }
    // The threads of tests that end meanwhile take their own mappings along.
    let more = mappings().saturating_sub(before);
    assert!(more < 100, "{more} more mappings");
    let distinct: HashSet<_> = stacks.iter().map(|s| s.desc().base()).collect();
    assert_eq!(distinct.len(), 10_000);
    stacks.into_iter().for_each(release);
}

#[test]
fn a_cache_gives_the_hottest_first_and_hands_over_the_coldest() {
    let _alone = alone();
    let spec = spec(192 * KIB);
    let mut cache = StackCache::new();
    let mut batch = Batch::new();
    assert!(cache.pop(spec, Class::MIN).is_none());
    let stacks: Vec<_> = (0..33).map(|_| acquire(spec).unwrap()).collect();
    let descs: Vec<&'static Desc> = stacks.iter().map(Stack::desc).collect();
    let mut refused = None;
    for stack in stacks {
        assert!(refused.is_none());
        refused = cache.push(stack).err();
    }
    let refused = refused.expect("33 stacks do not fit");
    assert!(std::ptr::eq(refused.desc(), descs[32]));
    assert_eq!((cache.len(), cache.charge()), (32, 32 * 2 * KIB));
    cache.overflow(refused, &mut batch);
    assert_eq!((cache.len(), batch.len()), (17, 16));
    let free = stats().free[0];
    release_batch(&mut batch);
    assert!(batch.is_empty());
    assert_eq!(stats().free[0], free + 16);
    for desc in descs[16..].iter().rev() {
        let stack = cache.pop(spec, Class::MIN).unwrap();
        assert!(std::ptr::eq(stack.desc(), *desc));
        release(stack);
    }
    assert!(cache.pop(spec, Class::MIN).is_none());
    assert_eq!((cache.len(), cache.charge()), (0, 0));
}

#[test]
fn a_cache_keeps_kinds_apart_and_clears_a_shelf_for_a_fifth() {
    let _alone = alone();
    let specs: Vec<_> = (0..5).map(|i| spec(200 * KIB + i * 4 * KIB)).collect();
    let mut cache = StackCache::new();
    for &spec in &specs[..4] {
        cache.push(acquire(spec).unwrap()).unwrap();
        cache.push(acquire(spec).unwrap()).unwrap();
    }
    assert!(cache.pop(specs[4], Class::MIN).is_none());
    let mut batch = Batch::new();
    let fifth = cache.push(acquire(specs[4]).unwrap()).unwrap_err();
    cache.overflow(fifth, &mut batch);
    assert_eq!((cache.len(), batch.len()), (7, 2));
    release_batch(&mut batch);
    for &spec in &specs[1..] {
        let stack = cache.pop(spec, Class::MIN).unwrap();
        assert_eq!(stack.desc().spec(), spec);
        release(stack);
    }
    while cache.drain_shelf(&mut batch) {
        release_batch(&mut batch);
    }
    assert!(cache.is_empty());
    assert_eq!(cache.charge(), 0);
}

#[test]
fn a_cache_is_limited_in_bytes() {
    let _alone = alone();
    let _alt = prepare();
    let spec = spec(5 * MIB);
    let mut cache = StackCache::new();
    let mut batch = Batch::new();
    let deep = |depth| use_depth(acquire(spec).unwrap(), depth);
    let (a, b, c) = (deep(1500 * KIB), deep(1500 * KIB), deep(1500 * KIB));
    assert_eq!(a.desc().class().bytes(), 2 * MIB);
    cache.push(a).unwrap();
    cache.push(b).unwrap();
    let c = cache.push(c).unwrap_err();
    cache.overflow(c, &mut batch);
    assert_eq!((cache.len(), batch.len()), (2, 1), "the coldest goes");
    release_batch(&mut batch);
    let mut too_deep = deep(4500 * KIB);
    too_deep = cache.push(too_deep).unwrap_err();
    let expected = too_deep.desc();
    cache.overflow(too_deep, &mut batch);
    let free = stats().warm_large_bytes;
    assert_eq!(
        (cache.len(), batch.len()),
        (2, 1),
        "what is more than the whole cache goes by"
    );
    release_batch(&mut batch);
    assert_eq!(stats().warm_large_bytes, free + expected.charge());
    while cache.drain_shelf(&mut batch) {
        release_batch(&mut batch);
    }
    assert_eq!(cache.charge(), 0);
}

#[test]
fn threads_share_the_pools() {
    let _alone = alone();
    let spec = spec(320 * KIB);
    let before = stats();
    let rounds = 2_000;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut held = Vec::new();
                for i in 0..rounds {
                    held.push(acquire(spec).unwrap());
                    if i % 3 == 2 {
                        held.drain(..).for_each(release);
                    }
                }
                held.into_iter().for_each(release);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let after = stats();
    assert!(
        after.carved - before.carved <= 12 + 4 * 16,
        "at most three stacks a thread, and what was made along with them"
    );
    assert_eq!(
        after.free.iter().sum::<usize>() - before.free.iter().sum::<usize>(),
        after.carved - before.carved,
        "all of them came back"
    );
}

#[test]
fn what_is_free_gives_its_memory_back_on_demand() {
    let _alone = alone();
    let _alt = prepare();
    let spec = spec(6 * MIB);
    let stack = use_depth(acquire(spec).unwrap(), 3 * MIB);
    let desc = stack.desc();
    release(stack);
    assert!(
        desc.class().bytes() >= 4 * MIB,
        "more, if the last of it is a huge page"
    );
    baton_alloc::Alloc::release_free();
    assert_eq!(desc.class(), Class::MIN);
    // SAFETY: nobody uses the stack.
    assert_eq!(unsafe { desc.measure() }, 0, "nothing of it is in memory");
    let stack = acquire(spec).unwrap();
    assert!(std::ptr::eq(stack.desc(), desc));
    release(use_depth(stack, 3 * MIB));
}

#[test]
fn the_gauge_tells_how_deep_the_last_one_went() {
    let _alone = alone();
    let _alt = prepare();
    let spec = spec(6 * MIB + 4 * KIB);
    let mut stack = use_depth(acquire(spec).unwrap(), 2000 * KIB);
    // SAFETY: the stack is held.
    assert_eq!(unsafe { stack.desc().read_gauge() }, None, "nobody set it");
    for depth in [3 * KIB, 20 * KIB, 100 * KIB, 700 * KIB, 1500 * KIB, 10 * KIB] {
        // SAFETY: the stack is held, and nothing runs on it.
        unsafe { stack.desc().set_gauge(0) };
        stack = run(stack, move |desc| descend(desc.base(), depth, &mut || {}));
        // SAFETY: the stack is held, and what ran on it has ended.
        let read = unsafe { stack.desc().read_gauge() }.expect("it was set");
        assert!((depth..=2 * depth + 4 * KIB).contains(&read), "{read} for {depth}");
    }
    release(stack);
}

/// Where guards go up for many stacks at once, their first pages come at once as well; one stack that is made alone has none before it is used.
#[test]
fn of_many_stacks_the_first_pages_are_there() {
    const MANY: usize = 200;
    let _alone = alone();
    let is_resident = |stack: &Stack| {
        let page = (stack.desc().base() - 1) & !4095;
        let mut resident = 0_u8;
        // SAFETY: asks about one page, and writes one byte.
        assert_eq!(unsafe { libc::mincore(page as *mut _, 4096, &raw mut resident) }, 0);
        resident & 1 == 1
    };
    let first = acquire(spec(11 * MIB)).unwrap();
    assert!(!is_resident(&first));
    let stacks: Vec<_> = (0..MANY).map(|_| acquire(spec(11 * MIB)).unwrap()).collect();
    let resident = stacks.iter().filter(|stack| is_resident(stack)).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut version = kernel
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let many_by_one_call = version.next().zip(version.next()) >= Some((6, 15));
    assert!(
        resident >= MANY / 2 || !many_by_one_call || !traps_work(),
        "{resident} on {kernel}"
    );
    stacks.into_iter().chain([first]).for_each(release);
}
