//! Threads come and go; their leases and caches are reused and nothing stays behind.

mod common;

use baton_alloc::{current, free, lease, malloc, stats};
use common::{Object, exclusive};
use std::{
    alloc::Layout,
    cell::RefCell,
    ffi::c_void,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// A thread from start to end: `join` waits for the thread itself, so after it all destructors have run.
fn run(body: impl FnOnce() + Send + 'static) {
    thread::spawn(body).join().unwrap();
}

#[test]
fn short_threads_reuse_leases() {
    exclusive(|| {
        run(|| drop(Object::new(100, 8, 1)));
        let before = stats();
        for i in 0..1000 {
            run(move || {
                let objects: Vec<_> = (0..20).map(|n| Object::new(1 + (i * n) % 2000, 8, 3)).collect();
                drop(objects);
            });
        }
        let after = stats();
        assert_eq!(after.leases, before.leases, "one thread at a time needs one lease");
        assert_eq!(after.attached_leases, before.attached_leases);
        assert_eq!(after.caches, before.caches);
        assert_eq!(
            after.cached_bytes, before.cached_bytes,
            "an ended thread's cache was flushed"
        );
        assert_eq!(after.allocs - before.allocs, after.frees - before.frees);
    });
}

#[test]
fn threads_at_the_same_time_have_leases_of_their_own() {
    exclusive(|| {
        let ms = Mutex::new(std::collections::BTreeSet::new());
        let (all_in, all_out) = (Barrier::new(17), Barrier::new(17));
        thread::scope(|scope| {
            let start = |_| {
                scope.spawn(|| {
                    assert!(current::m().is_none(), "a new thread has no M");
                    let m = lease::attach();
                    assert!(std::ptr::eq(lease::attach(), m) && std::ptr::eq(current::m().unwrap(), m));
                    ms.lock().unwrap().insert(std::ptr::from_ref(m).addr());
                    all_in.wait();
                    drop(Object::new(10, 8, 1));
                    all_out.wait();
                })
            };
            let threads: Vec<_> = (0..16).map(start).collect();
            all_in.wait();
            let attached = stats().attached_leases;
            all_out.wait();
            // And this thread's. What threads of another test have left is swept now and then.
            assert!(attached > 16, "{attached}");
            for thread in threads {
                thread.join().unwrap();
            }
        });
        assert_eq!(ms.lock().unwrap().len(), 16);
    });
}

#[test]
fn a_lease_given_back_is_empty_and_bound_again_on_demand() {
    exclusive(|| {
        run(|| {
            let m = lease::attach();
            drop(Object::new(64, 8, 1));
            let cache = m.home().unwrap().cache();
            // SAFETY: caches are never freed.
            let cached = || unsafe { &*cache }.counts().cached_bytes;
            assert!(cached() > 0 && m.p().is_some());
            lease::give_back(m);
            assert!(cached() == 0 && m.p().is_none());
            lease::give_back(m);
            drop(Object::new(64, 8, 1));
            assert!(
                cached() > 0 && m.p().is_some(),
                "the next allocation took the lease again"
            );
        });
    });
}

/// Allocates in its destructor, when std's thread-locals are being torn down.
struct InDestructor(RefCell<Vec<Object>>);

impl Drop for InDestructor {
    fn drop(&mut self) {
        self.0.borrow_mut().clear();
        for i in 1..200 {
            drop(Object::new(i * 17, 8, 5));
        }
        DESTROYED.fetch_add(1, SeqCst);
    }
}

static DESTROYED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LOCAL: InDestructor = const { InDestructor(RefCell::new(Vec::new())) };
}

#[test]
fn thread_local_destructors_may_allocate() {
    exclusive(|| {
        let before = stats();
        for _ in 0..50 {
            run(|| LOCAL.with(|local| local.0.borrow_mut().push(Object::new(77, 8, 1))));
        }
        let after = stats();
        assert_eq!(DESTROYED.load(SeqCst), 50);
        assert!(after.leases <= before.leases + 1);
        assert_eq!(after.attached_leases, before.attached_leases);
        assert_eq!(after.allocs - before.allocs, after.frees - before.frees);
    });
}

/// Allocates and re-arms itself in every round of destructors that there is, so that the last allocation comes after the
/// last look at the allocator's own key.
unsafe extern "C" fn in_every_round(word: *mut c_void) {
    drop(Object::new(1000, 8, 1));
    ROUNDS.fetch_add(1, SeqCst);
    // SAFETY: the key was made by the test and is never deleted.
    unsafe { libc::pthread_setspecific(KEY.load(SeqCst) as libc::pthread_key_t, word) };
}

static KEY: AtomicUsize = AtomicUsize::new(0);
static ROUNDS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn threads_that_die_attached_are_swept() {
    exclusive(|| {
        let mut key = 0;
        // SAFETY: the destructor lives as long as the program.
        let made = unsafe { libc::pthread_key_create(&raw mut key, Some(in_every_round)) };
        assert_eq!(made, 0);
        KEY.store(key as usize, SeqCst);
        let before = stats();
        for i in 0..400 {
            run(|| {
                // SAFETY: the key was made above.
                unsafe {
                    libc::pthread_setspecific(
                        KEY.load(SeqCst) as libc::pthread_key_t,
                        std::ptr::dangling::<u8>().cast(),
                    )
                };
            });
            let now = stats();
            assert!(now.attached_leases <= before.attached_leases + i + 1);
        }
        assert!(ROUNDS.load(SeqCst) >= 800, "several rounds each");
        let after = stats();
        assert!(
            after.attached_leases > before.attached_leases,
            "the test misses its point: all gave their lease back"
        );
        // 32 attached leases are not worth a sweep; after that they may double.
        assert!(
            after.leases <= before.leases + 2 * 32 + 2 * before.attached_leases,
            "{} leases",
            after.leases
        );
        assert_eq!(after.allocs - before.allocs, after.frees - before.frees);
    });
}

#[test]
fn an_object_outlives_its_thread() {
    exclusive(|| {
        let layout = Layout::new::<[u64; 40]>();
        let before = stats();
        let objects: Vec<usize> =
            thread::spawn(move || (0..1000).map(|_| malloc(layout).expose_provenance()).collect())
                .join()
                .unwrap();
        for object in objects {
            // SAFETY: allocated above with this layout, and freed once.
            unsafe { free(std::ptr::with_exposed_provenance_mut(object), layout) };
        }
        let after = stats();
        assert_eq!(after.small_live_bytes, before.small_live_bytes);
    });
}
