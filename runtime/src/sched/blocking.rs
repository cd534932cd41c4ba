//! Declared blocking calls: a flag before, a flag and a counter after, or a handoff at once. And calls on the thread's own stack.

use super::idle;
use crate::{g::Body, m};
use baton_alloc::{current, latch};
use std::{
    ptr::{self, NonNull},
    sync::atomic::Ordering::Relaxed,
};

/// Runs `f`, which may block in the kernel, and says so to the scheduler.
///
/// Nothing is wrong with blocking in a goroutine *without* this: the scheduler finds out, and the goroutine's processor
/// goes to another thread, with everything that it owns. Said beforehand, it finds out sooner: after about 20 µs instead
/// of up to half a millisecond, and it costs a few nanoseconds if the call turns out to be short.
///
/// `f` runs on the goroutine's own stack and thread. After a long call the goroutine goes on without a processor until it
/// next calls Baton. In a plain thread this is just `f()`.
///
/// ```
/// let text = baton::run(|| baton::blocking(|| std::fs::read_to_string("Cargo.toml")));
/// assert!(text.is_ok());
/// ```
#[inline]
pub fn blocking<T>(f: impl FnOnce() -> T) -> T {
    struct Leave(&'static latch::M);
    impl Drop for Leave {
        #[inline]
        fn drop(&mut self) {
            // If `f` has parked, that has ended the call, and this thread may be another one. As a rule it is not, and then its words need
            // not be waited for until it is found.
            if current::m().is_some_and(|m| ptr::eq(m, self.0)) {
                self.0.declared.store(0, Relaxed);
                let calls = self.0.declared_calls.load(Relaxed);
                self.0.declared_calls.store(calls.wrapping_add(1), Relaxed);
            }
        }
    }
    // Two loads and two stores, and the same in a plain thread, whose M nobody watches: to look for the goroutine takes two loads more, each
    // of which waits for the one before, and the system call waits for all of them.
    let Some(m) = current::m() else {
        return f();
    };
    m.declared.store(1, Relaxed); // if goroutines wait for a P the monitor looks: who let them wait has woken it
    let _leave = Leave(m);
    f()
}

/// Runs `f`, which will block for long, and hands the goroutine's processor on first.
///
/// The right form for what surely takes more than some 20 µs: no other goroutine waits for the scheduler to find out. For
/// what may be short, [`blocking`] is cheaper: it hands nothing over until the call lasts. Afterwards the goroutine goes on
/// without a processor until it next calls Baton. In a plain thread this is just `f()`.
///
/// ```
/// use std::{thread::sleep, time::Duration};
///
/// baton::run(|| baton::blocking_now(|| sleep(Duration::from_millis(1))));
/// ```
pub fn blocking_now<T>(f: impl FnOnce() -> T) -> T {
    if let Some((m, _)) = m::current_goroutine() {
        idle::give_up_p(m);
    }
    blocking(f)
}

/// Runs `f` on the stack of the thread instead of the goroutine's: for C code that recurses deeply or has huge frames. A
/// thread of Baton has 8 MiB, however small the goroutine's own stack is.
///
/// Until `f` returns, the goroutine stays on its thread, and to Baton it is a plain thread: [`current`](crate::current) is
/// `None`, and what waits (a channel, a sleep) makes the thread wait, while its processor goes to another one. Calls may be
/// nested. In a plain thread this is just `f()`.
///
/// # Panics
///
/// With what `f` panics with.
///
/// ```
/// fn depth(n: u32) -> u32 { if n == 0 { 0 } else { 1 + std::hint::black_box(depth(n - 1)) } }
///
/// let handle = baton::run(|| baton::go!(max_stack = 64 << 10; || baton::on_big_stack(|| depth(10_000))));
/// assert_eq!(handle.join().unwrap(), 10_000);
/// ```
pub fn on_big_stack<T>(f: impl FnOnce() -> T) -> T {
    struct Back(&'static m::M, NonNull<crate::g::G>);
    impl Drop for Back {
        fn drop(&mut self) {
            self.0.may_suspend(self.1, true);
        }
    }
    let Some((m, g)) = m::current_goroutine() else {
        return f();
    };
    let body = NonNull::new(m.body.get()).expect("a goroutine has a body");
    m.may_suspend(g, false);
    let _back = Back(m, g);
    // SAFETY: the body of the running goroutine, which is not current and so does not suspend until `_back` is dropped.
    unsafe { Body::on_g0(body, f) }
}

impl m::M {
    /// Changes with each declared call, and whether this M is in one.
    pub(super) fn declares(&self) -> (u32, bool) {
        let latch = self.latch();
        (latch.declared_calls.load(Relaxed), latch.declared.load(Relaxed) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{go, time};
    use std::time::Duration;

    #[test]
    fn a_declared_call_ends_where_it_parks() {
        let declares = || m::current().is_some_and(|m| m.declares().1);
        let turn = || m::current().map(|m| (m.id, m.counters.switches.get()));
        let seen = go!(move || {
            let before = declares();
            let (within, parked) = blocking(|| {
                let (within, before_it) = (declares(), turn());
                while turn() == before_it {
                    time::sleep(Duration::from_millis(1)); // it may be over before it parks
                }
                (within, declares())
            });
            let again = blocking(declares);
            [before, within, parked, again, declares()]
        });
        assert_eq!(seen.join().unwrap(), [false, true, false, true, false]);
    }
}
