//! `go!`.

/// Starts a goroutine and gives its [`JoinHandle`](crate::JoinHandle).
///
/// | form | meaning |
/// |---|---|
/// | `go!(closure)` | runs the closure: a closure expression, or a variable that holds something callable |
/// | `go! { statements }` | runs the block, as a `move` closure |
/// | `go!(f(a, b))`, `go!(path::f::<T>(a))`, `go!(x.f(a))` | evaluates the arguments (and `x`) now, and runs the call in the goroutine |
/// | `go!(name = "n", max_stack = bytes; any of the above)` | with the options of a [`Builder`](crate::Builder), either or both |
///
/// ```
/// use baton::go;
///
/// fn add(a: u32, b: u32) -> u32 { a + b }
///
/// baton::run(|| {
///     let text = String::from("moved in");
///     assert_eq!(go!(move || text.len()).join().unwrap(), 8);
///     assert_eq!(go! { let x = 1; x + 1 }.join().unwrap(), 2);
///     assert_eq!(go!(add(1, 2)).join().unwrap(), 3);
///     let named = go!(name = "adder", max_stack = 128 << 10; add(3, 4));
///     assert_eq!(named.join().unwrap(), 7);
/// });
/// ```
///
/// # The contract
///
/// A goroutine may go on on another thread after every call of Baton that may park (a channel, a join, a lock, a sleep,
/// [`yield_now`](crate::yield_now) …), and no Rust compiler knows that. By writing `go!` you say that, *across such a call*,
/// the goroutine
///
/// - holds no borrow of a thread-local (`KEY.with(|x| …)` with a parking call inside), and does not rely on the address or
///   the value of a thread-local staying the same,
/// - holds no value that must stay on its thread (one that is not `Send`, as `Rc`) and shares it with one that does,
/// - holds no guard that belongs to its thread: a `std::sync::MutexGuard`, `std::io::stdout().lock()`.
///
/// Between two such calls all of this is fine; so is everything that a library does within one call that does not call
/// Baton. Allocation, `go!` itself and the end of a time slice are no parking calls: a goroutine never leaves its thread
/// there. Run your tests with `BATON_FORCE_MIGRATION=1`: then a goroutine leaves its thread at every park, and what breaks
/// the contract shows.
///
/// # Panics
///
/// If `max_stack` is out of its bounds.
#[macro_export]
macro_rules! go {
    // Options in front: `name = …, max_stack = …;`.
    ($option:ident = $value:expr $(, $options:ident = $values:expr)* ; $($what:tt)+) => {
        $crate::__go_what!([$crate::Builder::new().$option($value)$(.$options($values))*] $($what)+)
    };
    ($($what:tt)+) => {
        $crate::__go_what!([] $($what)+)
    };
}

/// The forms of what `go!` runs.
#[doc(hidden)]
#[macro_export]
macro_rules! __go_what {
    // A closure.
    ([$($builder:tt)*] move | $($rest:tt)+) => { $crate::__go_spawn!([$($builder)*] move | $($rest)+) };
    ([$($builder:tt)*] move || $($rest:tt)+) => { $crate::__go_spawn!([$($builder)*] move || $($rest)+) };
    ([$($builder:tt)*] | $($rest:tt)+) => { $crate::__go_spawn!([$($builder)*] | $($rest)+) };
    ([$($builder:tt)*] || $($rest:tt)+) => { $crate::__go_spawn!([$($builder)*] || $($rest)+) };
    // A variable that holds something callable.
    ([$($builder:tt)*] $f:ident) => { $crate::__go_spawn!([$($builder)*] $f) };
    // A call of a function, by path, with or without type arguments.
    ([$($builder:tt)*] $($f:ident)::+ ( $($arg:expr),* $(,)? )) => {
        $crate::__go_call!([$($builder)*] [$($f)::+] [] $($arg,)*)
    };
    ([$($builder:tt)*] $($f:ident)::+ :: < $($t:ty),+ $(,)? > ( $($arg:expr),* $(,)? )) => {
        $crate::__go_call!([$($builder)*] [$($f)::+::<$($t),+>] [] $($arg,)*)
    };
    // A call of a method of a variable.
    ([$($builder:tt)*] $x:ident . $f:ident ( $($arg:expr),* $(,)? )) => {
        $crate::__go_call!([$($builder)*] [$x.$f] [] $($arg,)*)
    };
    // Statements.
    ([$($builder:tt)*] $($body:tt)+) => { $crate::__go_spawn!([$($builder)*] move || { $($body)+ }) };
}

/// Evaluates the arguments of a call one by one, then spawns the call.
#[doc(hidden)]
#[macro_export]
macro_rules! __go_call {
    ([$($builder:tt)*] [$($f:tt)+] [$($done:ident)*] $arg:expr, $($args:expr,)*) => {
        match $arg { arg => $crate::__go_call!([$($builder)*] [$($f)+] [$($done)* arg] $($args,)*) }
    };
    ([$($builder:tt)*] [$($f:tt)+] [$($done:ident)*]) => {
        $crate::__go_spawn!([$($builder)*] move || $($f)+($($done),*))
    };
}

/// Spawns a closure, with or without a builder.
#[doc(hidden)]
#[macro_export]
macro_rules! __go_spawn {
    ([] $($closure:tt)+) => {{
        let closure = $($closure)+;
        static SITE: $crate::__Site = $crate::__Site::new(file!(), line!());
        // SAFETY: who writes `go!` signs its contract, which is that of `spawn_migrating`.
        #[allow(unsafe_code)]
        unsafe { $crate::__spawn_at(&SITE, closure) }
    }};
    ([$($builder:tt)+] $($closure:tt)+) => {{
        let closure = $($closure)+;
        static SITE: $crate::__Site = $crate::__Site::new(file!(), line!());
        // SAFETY: who writes `go!` signs its contract, which is that of `spawn_migrating`.
        #[allow(unsafe_code)]
        let spawned = unsafe { $($builder)+.__at(&SITE).spawn_migrating(closure) };
        match spawned {
            Ok(handle) => handle,
            Err(error) => panic!("go!: {error}"),
        }
    }};
}
