//! Goroutine-local storage: what `thread_local!` is to threads.
//!
//! ```text
//!   goroutine ─ Body.locals ─▶ Locals: (key, value), (key, value) …      made at first use, dropped at the goroutine's end
//!   thread    ─ a thread-local ─▶ Locals                                 likewise
//!                                   └ at `go!`: copies of what is marked `inherit` go along
//! ```
//!
//! # Invariants
//!
//! 1. A `Locals` is touched by its goroutine or thread alone (or, while its goroutine does not run, by the hooks that are told of
//!    its turns, on the thread that holds it), and no borrow of its list is held while foreign code runs
//!    (`init`, `clone`, `drop`, the closure of `with`).
//! 2. A value is boxed and stays until its goroutine or thread ends; so a borrow of it lasts as long as a `with`.

use crate::{
    g::{Baggage, Body},
    m, stderr,
};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Declares variables of which every goroutine, and every plain thread, has its own, as `std::thread_local!` does for
/// threads. A value is made when it is first used and dropped when its goroutine ends. It goes with its goroutine from
/// thread to thread.
///
/// A variable marked `inherit` is `Clone`, and a goroutine starts with a copy of what its spawner has in it, if that has
/// used it.
///
/// ```
/// use baton::{go, goroutine_local};
/// use std::cell::{Cell, RefCell};
///
/// goroutine_local! {
///     static COUNT: Cell<u32> = Cell::new(0);
///     /// Goes along with everything that a request starts.
///     pub inherit static REQUEST: RefCell<String> = RefCell::default();
/// }
///
/// baton::run(|| {
///     COUNT.set(7);
///     REQUEST.with_borrow_mut(|request| request.push_str("GET /"));
///     let seen = go!(|| (COUNT.get(), REQUEST.with_borrow(String::clone))).join().unwrap();
///     assert_eq!(seen, (0, String::from("GET /")));
/// });
/// ```
#[macro_export]
macro_rules! goroutine_local {
    () => {};
    ($(#[$attr:meta])* $vis:vis static $name:ident: $t:ty = $init:expr $(; $($rest:tt)*)?) => {
        $(#[$attr])*
        $vis static $name: $crate::LocalKey<$t> = {
            fn init() -> $t { $init }
            $crate::LocalKey::new(init)
        };
        $($crate::goroutine_local! { $($rest)* })?
    };
    ($(#[$attr:meta])* $vis:vis inherit static $name:ident: $t:ty = $init:expr $(; $($rest:tt)*)?) => {
        $(#[$attr])*
        $vis static $name: $crate::LocalKey<$t> = {
            fn init() -> $t { $init }
            $crate::LocalKey::inherited(init)
        };
        $($crate::goroutine_local! { $($rest)* })?
    };
}

/// A variable of which every goroutine has its own: see [`goroutine_local!`](crate::goroutine_local).
pub struct LocalKey<T: 'static> {
    init: fn() -> T,
    copy: Option<fn(&T) -> T>,
}

impl<T: Send + 'static> LocalKey<T> {
    /// What `goroutine_local!` expands to.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(init: fn() -> T) -> Self {
        Self { init, copy: None }
    }

    /// What `goroutine_local!` expands to for `inherit`.
    #[doc(hidden)]
    #[must_use]
    pub const fn inherited(init: fn() -> T) -> Self
    where
        T: Clone,
    {
        Self {
            init,
            copy: Some(T::clone),
        }
    }

    /// Runs `f` with the calling goroutine's, or plain thread's, value.
    ///
    /// # Panics
    ///
    /// In a plain thread that is ending, as std's thread-locals do. A goroutine that ends may use all of its variables: those that were dropped already are made anew, and
    /// dropped again. A destructor that uses its own variable is ended after 16 rounds, with a message.
    ///
    /// ```
    /// baton::goroutine_local!(static NAME: String = String::from("nobody"));
    /// assert_eq!(NAME.with(String::len), 6);
    /// ```
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the value stays until the goroutine or thread that runs this ends (invariant 2).
        f(unsafe { &*self.value(None) })
    }

    /// Runs `f` with the value of the goroutine whose variables are at `place`.
    ///
    /// # Safety
    ///
    /// The goroutine does not run, and the caller holds it.
    pub(crate) unsafe fn with_of<R>(&'static self, place: &Place, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: as in `with`.
        f(unsafe { &*self.value(Some(place)) })
    }

    /// Where the value is, at that place or among the caller's; it is made if this is its first use.
    fn value(&'static self, place: Option<&Place>) -> *const T {
        let key = ptr::from_ref(self).addr();
        if let Some(value) = Locals::with(place, |locals| locals.find::<T>(key)) {
            return value;
        }
        let value = (self.init)();
        if self.copy.is_some() {
            INHERITED.store(true, Relaxed);
        }
        let (kept, second) = Locals::with(place, |locals| {
            // `init` may have used the variable itself; then the first value stays.
            if let Some(first) = locals.find::<T>(key) {
                return (first, Some(value));
            }
            let copy = self.copy;
            locals.slots.push((key, Box::new(Value { value, copy })));
            (locals.find::<T>(key).expect("it was put there"), None)
        });
        drop(second); // foreign code: invariant 1
        kept
    }
}

impl<T: Send + 'static> LocalKey<Cell<T>> {
    /// A copy of the value.
    #[must_use]
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    /// Replaces the value.
    pub fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }
}

impl<T: Send + 'static> LocalKey<RefCell<T>> {
    /// Runs `f` with the value borrowed.
    ///
    /// # Panics
    ///
    /// If it is borrowed mutably.
    pub fn with_borrow<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| f(&cell.borrow()))
    }

    /// Runs `f` with the value borrowed mutably.
    ///
    /// # Panics
    ///
    /// If it is borrowed.
    pub fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        self.with(|cell| f(&mut cell.borrow_mut()))
    }
}

impl<T: 'static> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}

/// One variable's value.
struct Value<T> {
    value: T,
    copy: Option<fn(&T) -> T>,
}

trait Slot: Any + Send {
    /// A child's value, if it inherits.
    fn copy(&self) -> Option<Box<dyn Slot>>;
}

impl<T: Send + 'static> Slot for Value<T> {
    fn copy(&self) -> Option<Box<dyn Slot>> {
        let copy = self.copy?;
        Some(Box::new(Self {
            value: copy(&self.value),
            copy: self.copy,
        }))
    }
}

/// The variables of one goroutine or thread.
#[derive(Default)]
pub(crate) struct Locals {
    slots: Vec<(usize, Box<dyn Slot>)>,
}

/// Whether an inheritable variable was ever used: as long as not, `go!` need not look.
static INHERITED: AtomicBool = AtomicBool::new(false);

/// Where the pointer to the `Locals` of the one who runs is: in a goroutine's body, or in a thread-local.
pub(crate) type Place = Cell<*mut Locals>;

/// A plain thread's.
struct OfThread(Place);

impl Drop for OfThread {
    fn drop(&mut self) {
        end(&self.0);
    }
}

impl Locals {
    /// Runs `f`, which runs no foreign code (invariant 1), with the variables at this place, or else the caller's.
    fn with<R>(place: Option<&Place>, f: impl FnOnce(&mut Self) -> R) -> R {
        let with = |place: &Place| {
            if place.get().is_null() {
                place.set(Box::into_raw(Box::default()));
            }
            // SAFETY: this goroutine's or thread's own, boxed, and nobody else borrows it (invariant 1).
            f(unsafe { &mut *place.get() })
        };
        match (place, m::current_goroutine()) {
            (Some(place), _) => with(place),
            // SAFETY: the running goroutine's body.
            (None, Some((m, _))) => with(&unsafe { &*m.body.get() }.locals),
            (None, None) => of_thread(with),
        }
    }

    fn find<T: Send + 'static>(&self, key: usize) -> Option<*const T> {
        let (_, slot) = self.slots.iter().find(|(other, _)| *other == key)?;
        let slot: &dyn Any = &**slot;
        let value = slot.downcast_ref::<Value<T>>().expect("a key has one type");
        Some(&raw const value.value)
    }
}

impl fmt::Debug for Locals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locals").field("len", &self.slots.len()).finish()
    }
}

/// In a function of its own: a plain thread does not change, but code beside it may be compiled as if no thread ever did.
#[inline(never)]
fn of_thread<R>(f: impl FnOnce(&Place) -> R) -> R {
    std::thread_local!(static LOCALS: OfThread = const { OfThread(Cell::new(ptr::null_mut())) });
    LOCALS.with(|locals| f(&locals.0))
}

/// What a goroutine that is spawned here inherits, added to its baggage.
#[inline]
pub(crate) fn inherit(baggage: Option<Box<Baggage>>) -> Option<Box<Baggage>> {
    if INHERITED.load(Relaxed) {
        inherit_some(baggage)
    } else {
        baggage
    }
}

#[cold]
fn inherit_some(baggage: Option<Box<Baggage>>) -> Option<Box<Baggage>> {
    // Boxed slots stay (invariant 2), and the list is not borrowed while they are copied.
    let slots: Vec<(usize, *const dyn Slot)> = Locals::with(None, |locals| {
        locals
            .slots
            .iter()
            .map(|(key, slot)| (*key, &raw const **slot))
            .collect()
    });
    let copy = |(key, slot): (usize, *const dyn Slot)| {
        // SAFETY: as above.
        let copy = unsafe { &*slot }.copy()?;
        Some((key, copy))
    };
    let slots: Vec<_> = slots.into_iter().filter_map(copy).collect();
    if slots.is_empty() {
        return baggage;
    }
    let mut baggage = baggage.unwrap_or_default();
    baggage.inherited = Some(Locals { slots });
    Some(baggage)
}

/// The goroutine of `body` begins with what it inherited.
pub(crate) fn begin(body: &Body, inherited: Locals) {
    body.locals.set(Box::into_raw(Box::new(inherited)));
}

/// So often destructors may make variables, whose destructors make others.
const MOST_ROUNDS: usize = 16;

/// Drops all variables, also those that destructors make.
#[inline]
pub(crate) fn end(place: &Place) {
    if !place.get().is_null() {
        drop_all(place);
    }
}

#[cold]
fn drop_all(place: &Place) {
    for _ in 0..MOST_ROUNDS {
        if place.get().is_null() {
            return;
        }
        // SAFETY: boxed by `with` or `begin`, and taken out of its place here, once.
        let locals = unsafe { Box::from_raw(place.replace(ptr::null_mut())) };
        // A value that panics while it is dropped ends nobody: there is no one left to tell, and std's hook has.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(locals)));
    }
    if !place.replace(ptr::null_mut()).is_null() {
        stderr::say(format_args!(
            "baton: destructors of goroutine-local variables have made such variables again {MOST_ROUNDS} times in a row. What is left is not \
             dropped. (A destructor must not use the variable that it is the destructor of.)"
        ));
    }
}
