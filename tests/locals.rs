//! Goroutine-local variables: one's own, inherited, dropped at the end, also of threads.

use baton::{go, goroutine_local, testing::Simulation, time};
use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

goroutine_local! {
    static OWN: Cell<u32> = Cell::new(1);
    inherit static PASSED: RefCell<Vec<&'static str>> = RefCell::default();
}

fn everybody_has_their_own() {
    OWN.set(5);
    let handles: Vec<_> = (0..20_u32)
        .map(|i| {
            go!(move || {
                assert_eq!(OWN.get(), 1, "somebody else's");
                OWN.set(i);
                (0..5).for_each(|_| baton::yield_now()); // on to another thread, perhaps
                assert_eq!(OWN.get(), i);
            })
        })
        .collect();
    handles.into_iter().for_each(|handle| handle.join().unwrap());
    assert_eq!(OWN.get(), 5);
}

#[test]
fn values_go_with_their_goroutine() {
    baton::run(everybody_has_their_own);
    everybody_has_their_own(); // from a plain thread
    Simulation::seeds(0..20).run(everybody_has_their_own);
}

#[test]
fn what_is_marked_is_inherited_by_copy() {
    baton::run(|| {
        PASSED.with_borrow_mut(|path| path.push("main"));
        OWN.set(9);
        let grandchild = go!(|| {
            PASSED.with_borrow_mut(|path| path.push("child"));
            baton::spawn(|| (PASSED.with_borrow(Vec::clone), OWN.get()))
                .join()
                .unwrap()
        });
        assert_eq!(grandchild.join().unwrap(), (vec!["main", "child"], 1));
        assert_eq!(PASSED.with_borrow(Vec::clone), ["main"]);
        let named = go!(name = "with options"; || PASSED.with_borrow(Vec::clone));
        assert_eq!(named.join().unwrap(), ["main"]);
        let scoped = baton::scope(|s| s.spawn(|| PASSED.with_borrow(Vec::clone)).join().unwrap());
        assert_eq!(scoped, ["main"]);
    });
}

#[test]
fn a_thread_passes_on_what_it_has() {
    thread::spawn(|| {
        PASSED.with_borrow_mut(|path| path.push("thread"));
        assert_eq!(baton::run(|| PASSED.with_borrow(Vec::clone)), ["thread"]);
    })
    .join()
    .unwrap();
    assert!(baton::run(|| PASSED.with_borrow(Vec::is_empty)));
}

/// Counts its drops, in a goroutine uses another variable and waits while it is dropped, and panics if told to.
struct Counted(Arc<AtomicUsize>, bool);

impl Drop for Counted {
    fn drop(&mut self) {
        if baton::current().is_some() {
            OWN.set(OWN.get() + 1);
            baton::yield_now();
        }
        self.0.fetch_add(1, SeqCst);
        assert!(!self.1, "as ordered");
    }
}

goroutine_local!(static COUNTED: RefCell<Option<Counted>> = RefCell::new(None));

#[test]
fn values_are_dropped_when_their_owner_ends() {
    let drops = Arc::new(AtomicUsize::new(0));
    let fill = |panics: bool| {
        let drops = Arc::clone(&drops);
        move || COUNTED.with_borrow_mut(|slot| *slot = Some(Counted(drops, panics)))
    };
    let counted = || drops.load(SeqCst);
    // Joined, then gone.
    let filled = fill(false);
    go!(move || filled()).join().unwrap();
    assert_eq!(counted(), 1);
    // The goroutine panics, and its variables go all the same.
    let filled = fill(false);
    let panicked = go! {
        filled();
        panic!("as ordered")
    };
    assert!(panicked.join().is_err());
    assert_eq!(counted(), 2);
    // A destructor's panic ends nobody.
    let filled = fill(true);
    go!(move || filled()).join().unwrap();
    assert_eq!(counted(), 3);
    let filled = fill(false);
    thread::spawn(filled).join().unwrap();
    assert_eq!(counted(), 4);
}

#[test]
fn a_variable_may_be_used_while_it_is_made() {
    goroutine_local! {
        static FIRST: u32 = SECOND.with(|second| second + 1);
        static SECOND: u32 = 41;
    }
    assert_eq!(baton::run(|| FIRST.with(|first| *first)), 42);
}

/// It would be made again and again.
#[test]
fn a_destructor_that_uses_its_own_variable_comes_to_an_end() {
    struct Restless(Arc<AtomicUsize>);
    impl Drop for Restless {
        fn drop(&mut self) {
            RESTLESS.with_borrow_mut(|slot| *slot = Some(Self(Arc::clone(&self.0))));
            self.0.fetch_add(1, SeqCst);
        }
    }
    goroutine_local!(static RESTLESS: RefCell<Option<Restless>> = const { RefCell::new(None) });
    let drops = Arc::new(AtomicUsize::new(0));
    let restless = Restless(Arc::clone(&drops));
    go!(move || RESTLESS.with_borrow_mut(|slot| *slot = Some(restless)))
        .join()
        .unwrap();
    assert_eq!(drops.load(SeqCst), 16);
}

/// A variable that the result's destructor uses, in a goroutine for which nobody waits.
#[test]
fn what_the_result_of_a_goroutine_leaves_is_dropped_too() {
    struct Leaves(Arc<AtomicUsize>);
    impl Drop for Leaves {
        fn drop(&mut self) {
            let counted = Counted(Arc::clone(&self.0), false);
            COUNTED.with_borrow_mut(|slot| *slot = Some(counted));
        }
    }
    Simulation::seeds(0..20).run(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let result = Leaves(Arc::clone(&drops));
        drop(go!(move || result)); // it has not run yet
        time::sleep(Duration::from_secs(1)); // till nobody else can run
        assert_eq!(drops.load(SeqCst), 1);
    });
}

/// A variable whose first use is in its own initializer has two values, of which the first stays.
#[test]
fn a_variable_may_use_itself_while_it_is_made() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    struct Numbered(usize, Arc<AtomicUsize>);
    impl Drop for Numbered {
        fn drop(&mut self) {
            let counted = Counted(Arc::clone(&self.1), false);
            COUNTED.with_borrow_mut(|slot| *slot = Some(counted));
        }
    }
    goroutine_local! {
        static DROPS: Arc<AtomicUsize> = Arc::default();
        static SELF: Numbered = {
            let before = match MADE.fetch_add(1, SeqCst) {
                0 => SELF.with(|itself| itself.0),
                _ => 6,
            };
            Numbered(before + 1, DROPS.with(Arc::clone))
        };
    }
    let drops = go!(|| {
        assert_eq!(SELF.with(|itself| itself.0), 7);
        assert!(COUNTED.with_borrow(Option::is_some), "the second value was dropped");
        assert_eq!(SELF.with(|itself| itself.0), 7);
        DROPS.with(Arc::clone)
    });
    assert_eq!(drops.join().unwrap().load(SeqCst), 2);
}
