//! Sleeping, timers, tickers, timeouts.

use baton::{
    go, select,
    testing::Simulation,
    time::{self, Ticker, Timer},
};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{self, Wake},
    time::{Duration, Instant},
};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(1_000_000);

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines_and_never_early() {
    Simulation::seeds(0..50).run(|| {
        let order = Arc::new(AtomicUsize::new(0));
        let sleepers: Vec<_> = (0..20u32)
            .map(|i| {
                let order = Arc::clone(&order);
                // 0, 7, 14, 1, 8 … milliseconds: all different
                let turn = i * 7 % 20;
                go!(move || {
                    let until = Simulation::elapsed() + turn * MS;
                    time::sleep(turn * MS);
                    assert!(Simulation::elapsed() >= until);
                    (turn as usize, order.fetch_add(1, SeqCst))
                })
            })
            .collect();
        for sleeper in sleepers {
            let (turn, place) = sleeper.join().unwrap();
            assert_eq!(turn, place);
        }
    });
}

#[test]
fn sleeping_takes_its_time_in_goroutines_and_threads() {
    let body = || {
        let start = Instant::now();
        time::sleep(MS);
        time::sleep_until(start + 2 * MS);
        time::sleep_until(start); // long ago
        assert!(start.elapsed() >= 2 * MS);
    };
    baton::run(body);
    body();
}

#[test]
fn timers_can_be_put_off() {
    Simulation::seed(1).run(|| {
        let mut timer = Timer::after(LONG);
        assert!(!timer.is_due());
        timer.reset(5 * MS);
        let channel = timer.channel();
        select! { recv(channel) -> when => assert!(when.is_ok()) }
        assert!(timer.is_due());
        assert_eq!(timer.time_left(), Duration::ZERO);
        timer.wait();
        assert!(Simulation::elapsed() >= 5 * MS);
        assert!(Simulation::elapsed() < LONG);
        assert!(Timer::at(Instant::now()).is_due());
    });
}

/// Counts its wakes.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A timer that was polled in vain, and once only, is then reset to a time that is sooner or later than the first.
#[test]
fn a_timer_that_is_put_off_wakes_who_polled_it() {
    Simulation::seed(1).run(|| {
        for first in [2 * MS, LONG, Duration::MAX] {
            let counted = Arc::new(Counted::default());
            let wakes = || counted.0.load(SeqCst);
            let waker = Arc::clone(&counted).into();
            let mut timer = Timer::after(first);
            assert!(
                Pin::new(&mut timer)
                    .poll(&mut task::Context::from_waker(&waker))
                    .is_pending()
            );
            timer.reset(5 * MS);
            time::sleep(4 * MS);
            assert_eq!(wakes(), 0, "{first:?}");
            timer.reset(Duration::MAX);
            timer.reset(5 * MS);
            time::sleep(6 * MS);
            assert_eq!(wakes(), 1, "{first:?}");
        }
    });
}

#[test]
fn tickers_keep_their_rhythm() {
    Simulation::seed(1).run(|| {
        let start = Simulation::elapsed();
        let mut ticker = Ticker::new(10 * MS);
        assert_eq!(ticker.wait(), 1);
        time::sleep(35 * MS); // at 45: the ticks at 20, 30 and 40 are missed
        assert_eq!(ticker.wait(), 3);
        assert_eq!(ticker.wait(), 1);
        let passed = Simulation::elapsed() - start;
        assert!((50 * MS..51 * MS).contains(&passed), "{passed:?}");
        time::sleep(5 * MS);
        ticker.reset();
        ticker.wait();
        assert!(Simulation::elapsed() - start >= 65 * MS);
    });
}

#[test]
fn a_function_is_called_later_or_stopped() {
    Simulation::seeds(0..100).run(|| {
        let called = Arc::new(AtomicUsize::new(0));
        let call = Arc::clone(&called);
        let later = time::after_func(5 * MS, move || {
            call.fetch_add(1, SeqCst);
        });
        let sleeper = go!(|| time::sleep(5 * MS));
        sleeper.join().unwrap();
        let stopped = later.stop();
        assert!(later.is_over());
        assert!(!later.stop(), "once is enough");
        time::sleep(10 * MS);
        assert_eq!(called.load(SeqCst), usize::from(!stopped));
    });
}

#[test]
fn timeouts_end_the_wait_and_not_the_work() {
    Simulation::seed(1).run(|| {
        assert_eq!(time::timeout(LONG, || 5), Ok(5));
        let done = Arc::new(AtomicUsize::new(0));
        let work = Arc::clone(&done);
        let late = time::timeout(MS, move || {
            time::sleep(10 * MS);
            work.store(1, SeqCst);
        });
        assert!(late.is_err());
        assert_eq!(done.load(SeqCst), 0);
        time::sleep(20 * MS);
        assert_eq!(done.load(SeqCst), 1);
    });
}
