//! Timers of processors that are idle: nobody can steal from these, so somebody has to come for them.

use baton::{go, time::sleep};
use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

mod child;

/// Two goroutines go to sleep on a processor each, that of `last` idle after that of `first`.
fn on_two_processors(first: impl FnOnce() + Send + 'static, last: impl FnOnce() + Send + 'static) {
    static FIRST: AtomicBool = AtomicBool::new(false);
    static LAST: AtomicBool = AtomicBool::new(false);
    let met = go!(move || {
        FIRST.store(true, SeqCst);
        while !LAST.load(SeqCst) {
            spin_loop();
        }
        first();
    });
    go!(move || {
        LAST.store(true, SeqCst);
        while !FIRST.load(SeqCst) {
            spin_loop();
        }
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(5) {
            spin_loop(); // so that the other processor is idle by now
        }
        last();
    });
    met.join().unwrap();
}

/// The one that went idle last has a timer too, but a far one. Were it preferred, this would not end.
#[test]
fn an_early_timer_comes_before_a_far_one() {
    let test = "an_early_timer_comes_before_a_far_one";
    let ran = child::run(test, &[("BATON_PROCS", "2")], &[], || {
        on_two_processors(|| sleep(Duration::from_millis(50)), || sleep(Duration::from_secs(3600)));
    });
    ran.succeeded();
}

/// Who looked after the timers runs a goroutine that waits for the other timer. Did nobody take its place, this would not
/// end.
#[test]
fn a_timer_fires_although_its_keeper_is_busy() {
    static FIRED: AtomicBool = AtomicBool::new(false);
    let test = "a_timer_fires_although_its_keeper_is_busy";
    for order in ["first", "last"] {
        let vars = [("BATON_PROCS", "2"), ("BATON_TEST_ORDER", order)];
        let ran = child::run(test, &vars, &[], || {
            let waits = || {
                sleep(Duration::from_millis(50));
                while !FIRED.load(SeqCst) {
                    spin_loop();
                }
            };
            let fires = || {
                sleep(Duration::from_millis(80));
                FIRED.store(true, SeqCst);
            };
            if std::env::var("BATON_TEST_ORDER").as_deref() == Ok("first") {
                on_two_processors(waits, fires);
            } else {
                on_two_processors(fires, waits);
            }
        });
        ran.succeeded();
    }
}
