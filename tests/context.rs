//! Contexts: everything that waits gives up when its context ends, and error groups.

use baton::{
    chan::{self, TryRecvError},
    context::{Context, ContextError, RecvError, SendError},
    errgroup::Group,
    go, select,
    sync::{Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, ReentrantMutex, RwLock, Semaphore, WaitGroup},
    testing::Simulation,
    time, yield_now,
};
use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

const LONG: Duration = Duration::from_secs(1_000_000);

/// A way of waiting, and its name.
type Way = (&'static str, fn(&Context) -> ContextError);

/// Each way of waiting, in vain: gives what `ctx` says when it ends.
fn ways_to_wait() -> Vec<Way> {
    vec![
        ("recv", |ctx| {
            let (_tx, rx) = chan::unbounded::<()>();
            match ctx.recv(&rx) {
                Err(RecvError::Context(error)) => error,
                other => panic!("{other:?}"),
            }
        }),
        ("recv of a clock", |ctx| match ctx.recv(&chan::after(LONG)) {
            Err(RecvError::Context(error)) => error,
            other => panic!("{other:?}"),
        }),
        ("send", |ctx| {
            let (tx, _rx) = chan::bounded(0);
            match ctx.send(&tx, 5) {
                Err(SendError::Context(error, 5)) => error,
                other => panic!("{other:?}"),
            }
        }),
        ("select", |ctx| {
            select! { recv(ctx.done()) -> nothing => assert!(nothing.is_err()) }
            ctx.err().unwrap()
        }),
        ("lock", |ctx| {
            let mutex = Mutex::new(());
            let _held = mutex.lock();
            ctx.lock(&mutex).unwrap_err()
        }),
        ("read", |ctx| {
            let lock = RwLock::new(());
            let _held = lock.write();
            ctx.read(&lock).unwrap_err()
        }),
        ("reentrant lock", |ctx| {
            let mutex = Arc::new(ReentrantMutex::new(()));
            let (keep, end) = chan::bounded::<()>(0);
            let (begun, begins) = chan::bounded(0);
            let other = Arc::clone(&mutex);
            let holder = go!(move || {
                let _held = other.lock();
                begun.send(()).unwrap();
                end.recv().unwrap_err();
            });
            begins.recv().unwrap();
            let error = ctx.lock_reentrant(&mutex).map(drop).unwrap_err();
            drop(keep);
            holder.join().unwrap();
            let _outer = mutex.try_lock().unwrap();
            let _inner = mutex.try_lock().expect("who gave up has left nothing locked");
            error
        }),
        ("write", |ctx| {
            let lock = RwLock::new(());
            let _held = lock.read();
            ctx.write(&lock).unwrap_err()
        }),
        ("condvar", |ctx| {
            let (mutex, condvar) = (Mutex::new(()), Condvar::new());
            let mut guard = mutex.lock();
            let error = ctx.wait(&condvar, &mut guard).unwrap_err();
            assert!(mutex.is_locked());
            drop(guard);
            assert!(!mutex.is_locked());
            error
        }),
        ("semaphore", |ctx| ctx.acquire(&Semaphore::new(1), 2).unwrap_err()),
        ("barrier", |ctx| ctx.arrive(&Barrier::new(2)).unwrap_err()),
        ("wait group", |ctx| {
            let group = WaitGroup::new();
            let _member = group.clone();
            ctx.wait_group(group).unwrap_err().0
        }),
        ("once", |ctx| ctx.wait_once(&Once::new()).unwrap_err()),
        ("value", |ctx| {
            ctx.wait_value(&OnceLock::<u32>::new()).copied().unwrap_err()
        }),
        ("a once that another runs", |ctx| {
            let (once, (keep, end)) = (Arc::new(Once::new()), chan::bounded::<()>(0));
            let (begun, begins) = chan::bounded(0);
            let other = Arc::clone(&once);
            let runner = go!(move || other.call_once(|| {
                begun.send(()).unwrap();
                end.recv().unwrap_err();
            }));
            begins.recv().unwrap();
            let error = ctx.call_once(&once, || unreachable!("another runs")).unwrap_err();
            drop(keep);
            runner.join().unwrap();
            assert!(once.is_completed());
            error
        }),
        ("a value that another makes", |ctx| {
            let (value, (keep, end)) = (Arc::new(OnceLock::new()), chan::bounded::<()>(0));
            let (begun, begins) = chan::bounded(0);
            let other = Arc::clone(&value);
            let maker = go!(move || *other.get_or_init(|| {
                begun.send(()).unwrap();
                end.recv().unwrap_err();
                5
            }));
            begins.recv().unwrap();
            let error = ctx.get_or_init(&value, || unreachable!("another makes it")).copied();
            drop(keep);
            assert_eq!(maker.join().unwrap(), 5);
            error.unwrap_err()
        }),
        ("a lazy value that another makes", |ctx| {
            let (keep, end) = chan::bounded::<()>(0);
            let (begun, begins) = chan::bounded(0);
            let lazy = Arc::new(LazyLock::new(move || {
                begun.send(()).unwrap();
                end.recv().unwrap_err();
                5
            }));
            let other = Arc::clone(&lazy);
            let maker = go!(move || **other);
            begins.recv().unwrap();
            let error = ctx.force(&lazy).copied();
            drop(keep);
            assert_eq!(maker.join().unwrap(), 5);
            assert_eq!(ctx.force(&lazy), Ok(&5), "what is there needs no wait");
            error.unwrap_err()
        }),
        ("join", |ctx| {
            let (keep, end) = chan::bounded::<()>(0);
            let handle = go!(move || end.recv().is_err());
            let (error, handle) = ctx.join(handle).unwrap_err();
            assert!(!handle.is_finished());
            drop(keep);
            assert!(handle.join().unwrap());
            error
        }),
        ("stream", |ctx| {
            let (_tx, mut rx) = chan::unbounded::<()>();
            ctx.block_on(futures_util::StreamExt::next(&mut rx)).unwrap_err()
        }),
        ("sleep", |ctx| ctx.sleep(LONG).unwrap_err()),
        ("block_on", |ctx| ctx.block_on(pending::<()>()).unwrap_err()),
    ]
}

#[test]
fn whatever_waits_gives_up_when_its_context_is_cancelled() {
    let body = |name: &str, wait: fn(&Context) -> ContextError| {
        let (ctx, cancel) = Context::background().with_cancel();
        let begun = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&begun);
        let waiter = go!(move || {
            seen.store(1, SeqCst);
            (wait(&ctx), wait(&ctx)) // the second time at once
        });
        while begun.load(SeqCst) == 0 {
            yield_now();
        }
        yield_now();
        cancel.cancel();
        let canceled = ContextError::Canceled;
        assert_eq!(waiter.join().unwrap(), (canceled, canceled), "{name}");
    };
    for (name, wait) in ways_to_wait() {
        for _ in 0..20 {
            baton::run(|| body(name, wait));
        }
        Simulation::seeds(0..50).run(|| body(name, wait));
    }
}

#[test]
fn whatever_waits_gives_up_at_the_deadline_in_goroutines_and_threads() {
    for (name, wait) in ways_to_wait() {
        let body = || {
            let ctx = Context::background().with_timeout(Duration::from_millis(1));
            assert_eq!(wait(&ctx), ContextError::DeadlineExceeded, "{name}");
        };
        baton::run(body);
        body();
        Simulation::seed(1).run(body);
    }
}

#[test]
fn what_is_there_is_taken_before_the_context_ends() {
    baton::run(|| {
        let ctx = Context::background().with_timeout(LONG);
        let (tx, rx) = chan::bounded(1);
        assert_eq!(ctx.send(&tx, 1), Ok(()));
        assert_eq!(ctx.recv(&rx), Ok(1));
        drop(tx);
        assert_eq!(ctx.recv(&rx), Err(RecvError::Disconnected));
        let mutex = Mutex::new(3);
        assert_eq!(*ctx.lock(&mutex).unwrap(), 3);
        let lock = RwLock::new(4);
        assert_eq!(*ctx.read(&lock).unwrap(), 4);
        *ctx.write(&lock).unwrap() += 1;
        let reentrant = ReentrantMutex::new(6);
        let outer = ctx.lock_reentrant(&reentrant).unwrap();
        assert_eq!(*ctx.lock_reentrant(&reentrant).unwrap(), *outer);
        let semaphore = Semaphore::new(1);
        assert_eq!(ctx.acquire(&semaphore, 1).unwrap().count(), 1);
        assert_eq!(semaphore.available_permits(), 1);
        assert!(ctx.arrive(&Barrier::new(1)).unwrap().is_leader());
        assert!(ctx.wait_group(WaitGroup::new()).is_ok());
        let (once, value) = (Once::new(), OnceLock::new());
        assert_eq!((ctx.call_once(&once, || {}), ctx.wait_once(&once)), (Ok(()), Ok(())));
        assert_eq!(
            (ctx.get_or_init(&value, || 6), ctx.wait_value(&value)),
            (Ok(&6), Ok(&6))
        );
        assert_eq!(ctx.force(&LazyLock::new(|| 9)), Ok(&9));
        assert_eq!(ctx.block_on(async { 7 }), Ok(7));
        assert_eq!(ctx.join(go!(|| 8)).unwrap().unwrap(), 8);
        assert_eq!(ctx.sleep(Duration::from_micros(10)), Ok(()));
        assert_eq!(ctx.err(), None);
    });
}

#[test]
fn the_end_of_a_context_is_that_of_its_children_and_not_of_its_parent() {
    let root = Context::background();
    let (parent, cancel) = root.with_cancel();
    let child = parent.with_value(5u8).with_timeout(LONG);
    let (grandchild, _cancel) = child.with_cancel();
    assert!(child.time_left().unwrap() <= LONG);
    assert!(parent.with_timeout(Duration::MAX).time_left().is_none());
    cancel.cancel_because(std::io::Error::other("enough"));
    cancel.cancel();
    for ctx in [&parent, &child, &grandchild, &grandchild.with_value('x')] {
        assert_eq!(ctx.err(), Some(ContextError::Canceled));
        assert_eq!(ctx.cause().unwrap().to_string(), "enough");
        assert!(ctx.done().recv().is_err());
    }
    assert_eq!(grandchild.value(), Some(&5u8));
    assert_eq!(root.err(), None);
    let early = root.with_timeout(Duration::ZERO);
    assert_eq!(early.with_timeout(LONG).err(), Some(ContextError::DeadlineExceeded));
}

#[test]
fn children_that_are_gone_are_forgotten() {
    let (parent, cancel) = Context::background().with_cancel();
    for _ in 0..100_000 {
        drop(parent.with_cancel());
    }
    let last = parent.with_cancel().0;
    cancel.cancel();
    assert!(last.err().is_some());
}

#[test]
fn a_cancel_and_a_peer_race_and_nothing_is_lost() {
    Simulation::seeds(0..300).run(|| {
        let (ctx, cancel) = Context::background().with_cancel();
        let semaphore = Arc::new(Semaphore::new(0));
        let theirs = Arc::clone(&semaphore);
        let waiter = go!(move || match ctx.acquire(&theirs, 1) {
            Ok(permit) => {
                permit.forget();
                1
            }
            Err(_) => 0,
        });
        let canceler = go!(move || cancel.cancel());
        let theirs = Arc::clone(&semaphore);
        let giver = go!(move || theirs.add_permits(1));
        canceler.join().unwrap();
        giver.join().unwrap();
        let taken = waiter.join().unwrap();
        assert_eq!(taken + semaphore.available_permits(), 1);
    });
}

#[test]
fn the_first_failure_is_the_groups() {
    baton::run(|| {
        let (mut group, ctx) = Group::with_context(&Context::background());
        group.set_limit(2);
        let running = Arc::new(AtomicUsize::new(0));
        for i in 0..20 {
            let (running, ctx) = (Arc::clone(&running), ctx.clone());
            group.go(move || {
                assert!(running.fetch_add(1, SeqCst) < 2);
                let slept = ctx.sleep(Duration::from_micros(50));
                running.fetch_sub(1, SeqCst);
                if i == 5 {
                    return Err("five");
                }
                slept.map_err(|_| "cancelled")
            });
        }
        assert!(matches!(group.wait(), Err("five" | "cancelled")));
        assert_eq!(ctx.err(), Some(ContextError::Canceled));
        let group = Group::<()>::new();
        assert!(group.try_go(|| Ok(())));
        assert_eq!(group.wait(), Ok(()));
        let group = Group::<()>::new();
        group.go(|| panic!("in a member"));
        assert!(catch_unwind(AssertUnwindSafe(|| group.wait())).is_err());
        let mut group = Group::<()>::new();
        group.set_limit(0);
        assert!(!group.try_go(|| Ok(())));
    });
}

#[test]
fn the_watcher_of_a_done_channel_ends_with_its_context() {
    Simulation::seed(3).run(|| {
        let (ctx, cancel) = Context::background().with_cancel();
        let timed = ctx.with_timeout(LONG);
        let done = timed.done();
        assert!(done.try_recv().unwrap_err().is_empty());
        cancel.cancel();
        assert!(done.recv().is_err());
        let timed = Context::background().with_timeout(LONG);
        assert!(timed.done().recv().is_err());
        assert!(Simulation::elapsed() >= LONG);
        time::sleep(Duration::from_millis(1));
    });
}

#[test]
fn a_chain_of_contexts_may_be_long() {
    const LEVELS: u32 = 200_000;
    let chain = |root: &Context| (0..LEVELS).fold(root.clone(), |ctx, level| ctx.with_value(level));
    baton::run(move || {
        let (root, cancel) = Context::background().with_cancel();
        let last = chain(&root);
        let middle = chain(&last);
        cancel.cancel();
        assert_eq!(last.err(), Some(ContextError::Canceled));
        assert_eq!(middle.err(), Some(ContextError::Canceled));
        drop(last);
        drop(middle);
        assert_eq!(root.value::<u32>(), None);
        drop(chain(&Context::background()));
    });
}

/// Most wait for a condition, the others for the mutex only, and all have one context as their end.
#[test]
fn waits_and_locks_that_end_with_one_context() {
    const ROUNDS: usize = 100_000;
    const PARTS: usize = 64;
    let take_turns = |ctx: &Context, (round, next): &(Mutex<usize>, Condvar), waits: bool| {
        loop {
            let mut round = ctx.lock(round).unwrap();
            *round += 1;
            if *round >= ROUNDS {
                break;
            }
            next.notify_one();
            yield_now(); // the others queue up
            if waits {
                ctx.wait(next, &mut round).unwrap();
            }
        }
        next.notify_all();
    };
    baton::run(move || {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let ctx = Context::background().with_timeout(LONG);
        let parts: Vec<_> = (0..PARTS)
            .map(|i| {
                let (shared, ctx) = (Arc::clone(&shared), ctx.clone());
                go!(move || take_turns(&ctx, &shared, i % 4 != 0))
            })
            .collect();
        parts.into_iter().for_each(|part| part.join().unwrap());
    });
}

/// What is done when this is dropped.
struct OnDrop(Box<dyn FnMut() + Send>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The destructors of two failures that come too late wait for each other.
#[test]
fn failures_that_come_too_late_are_dropped_under_no_lock() {
    baton::run(|| {
        let (group, ctx) = Group::with_context(&Context::background());
        group.go(|| Err(OnDrop(Box::new(|| ()))));
        while ctx.err().is_none() {
            yield_now();
        }
        let (tx, rx) = chan::bounded(0);
        group.go(move || Err(OnDrop(Box::new(move || rx.recv().unwrap()))));
        group.go(move || resume_unwind(Box::new(OnDrop(Box::new(move || tx.send(()).unwrap())))));
        assert!(group.wait().is_err());
    });
}

/// A context that cannot end by itself asks the one that can, so nobody needs to keep it.
#[test]
fn the_end_of_what_only_carries_values_is_its_ancestors() {
    baton::run(|| {
        let never = Context::background().with_value(1_u8).done();
        assert_eq!(never.try_recv(), Err(TryRecvError::Empty));
        let (parent, cancel) = Context::background().with_cancel();
        let done = parent.with_value(1_u8).with_value(2_u16).done();
        drop(parent);
        assert_eq!(done.try_recv(), Err(TryRecvError::Empty));
        cancel.cancel();
        assert_eq!(done.try_recv(), Err(TryRecvError::Disconnected));
    });
}
