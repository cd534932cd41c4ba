//! `select!` and `select_biased!`.
//!
//! ```text
//!   parse    one arm after the other ─▶ (recv (receiver) (pattern) body) …, and what to do by default
//!   bind     one channel after the other is evaluated and borrowed, each under a name of its own
//!   choose   the cases in an array ─▶ the operation that was chosen
//!   run      is it the first? ─▶ complete it, bind the pattern, run the body; else the same with the rest
//! ```
#![forbid(unsafe_code)]

/// Waits for the first of several operations on channels, and does it.
///
/// ```
/// use baton::{chan, go, select};
///
/// baton::run(|| {
///     let (numbers, rx) = chan::unbounded();
///     let (stop, stopped) = chan::bounded::<()>(0);
///     go!(move || {
///         (1..=3).for_each(|i| numbers.send(i).unwrap());
///         stop.send(()).unwrap();
///         numbers
///     });
///     let mut sum = 0;
///     loop {
///         select! {
///             recv(rx) -> number => sum += number.unwrap(),
///             recv(stopped) -> _ => break,
///         }
///     }
///     assert_eq!(sum + rx.try_iter().sum::<i32>(), 6);
/// });
/// ```
///
/// # Arms
///
/// | arm | is done when |
/// |---|---|
/// | `recv(receiver) -> result => body` | there is a message, or all senders are gone; `result` is as [`recv`](crate::chan::Receiver::recv)'s |
/// | `send(sender, message) -> result => body` | there is room or a receiver, or all receivers are gone; `result` is as [`send`](crate::chan::Sender::send)'s |
/// | `default => body` | no other arm can be done at once |
/// | `default(timeout) => body` | no other arm can be done until the `Duration` has passed |
///
/// If several can be done, each has the same chance; with [`select_biased!`](crate::select_biased), the first is taken. A
/// receiver or sender may be given by reference or by any expression; it is evaluated once. The message is evaluated when its
/// arm has been chosen, and not otherwise. A body may `break`, `continue`, `return` and use `?`. Without any arm `select! {}`
/// waits for ever.
///
/// # Panics
///
/// A message whose evaluation panics ends the process, as the other side has been promised it already.
#[macro_export]
macro_rules! select {
    ($($arms:tt)*) => {
        $crate::__select!(@parse false () () $($arms)*)
    };
}

/// As [`select!`](crate::select), but if several operations can be done, the first of them is.
///
/// ```
/// use baton::{chan, select_biased};
///
/// let (tx, rx) = chan::unbounded();
/// tx.send(1).unwrap();
/// for _ in 0..10 {
///     select_biased! {
///         send(tx, 2) -> sent => sent.unwrap(),
///         recv(rx) -> _ => unreachable!("the first arm is always ready"),
///     }
/// }
/// ```
#[macro_export]
macro_rules! select_biased {
    ($($arms:tt)*) => {
        $crate::__select!(@parse true () () $($arms)*)
    };
}

/// The four steps; see the module's header.
#[doc(hidden)]
#[macro_export]
macro_rules! __select {
    // parse: biased, arms that are parsed, the default arm, the rest
    (@parse $biased:tt $arms:tt $default:tt) => {
        $crate::__select!(@bind $biased $default () $arms)
    };
    (@parse $biased:tt ($($arms:tt)*) $default:tt
        recv($receiver:expr $(,)?) -> $result:pat => $body:block, $($rest:tt)*) => {
        $crate::__select!(@parse $biased ($($arms)* (recv ($receiver) ($result) ($body))) $default $($rest)*)
    };
    (@parse $biased:tt ($($arms:tt)*) $default:tt
        recv($receiver:expr $(,)?) -> $result:pat => $body:block $($rest:tt)*) => {
        $crate::__select!(@parse $biased ($($arms)* (recv ($receiver) ($result) ($body))) $default $($rest)*)
    };
    (@parse $biased:tt ($($arms:tt)*) $default:tt
        recv($receiver:expr $(,)?) -> $result:pat => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@parse $biased ($($arms)* (recv ($receiver) ($result) ($body))) $default $($($rest)*)?)
    };
    (@parse $biased:tt ($($arms:tt)*) $default:tt
        send($sender:expr, $message:expr $(,)?) -> $result:pat => $body:block, $($rest:tt)*) => {
        $crate::__select!(@parse $biased ($($arms)* (send ($sender) ($message) ($result) ($body))) $default $($rest)*)
    };
    (@parse $biased:tt ($($arms:tt)*) $default:tt
        send($sender:expr, $message:expr $(,)?) -> $result:pat => $body:block $($rest:tt)*) => {
        $crate::__select!(@parse $biased ($($arms)* (send ($sender) ($message) ($result) ($body))) $default $($rest)*)
    };
    (@parse $biased:tt ($($arms:tt)*) $default:tt
        send($sender:expr, $message:expr $(,)?) -> $result:pat => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(
            @parse $biased ($($arms)* (send ($sender) ($message) ($result) ($body))) $default $($($rest)*)?
        )
    };
    (@parse $biased:tt $arms:tt () default $(($($timeout:expr $(,)?)?))? => $body:block, $($rest:tt)*) => {
        $crate::__select!(@parse $biased $arms (($($($timeout)?)?) ($body)) $($rest)*)
    };
    (@parse $biased:tt $arms:tt () default $(($($timeout:expr $(,)?)?))? => $body:block $($rest:tt)*) => {
        $crate::__select!(@parse $biased $arms (($($($timeout)?)?) ($body)) $($rest)*)
    };
    (@parse $biased:tt $arms:tt () default $(($($timeout:expr $(,)?)?))? => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@parse $biased $arms (($($($timeout)?)?) ($body)) $($($rest)*)?)
    };
    (@parse $biased:tt $arms:tt ($($default:tt)+) default $($rest:tt)*) => {
        ::core::compile_error!("select! has two `default` arms, but can have one")
    };
    (@parse $biased:tt $arms:tt $default:tt $($wrong:tt)+) => {
        ::core::compile_error!(::core::concat!(
            "select! expected `recv(receiver) -> result => body`, `send(sender, message) -> result => body`, ",
            "`default => body` or `default(timeout) => body`, with a comma after a body that is no block, but found `",
            ::core::stringify!($($wrong)+),
            "`"
        ))
    };

    // bind: biased, the default arm, arms that are bound, the rest
    (@bind $biased:tt $default:tt ($($bound:tt)*) ((recv ($receiver:expr) $result:tt $body:tt) $($arms:tt)*)) => {
        match $receiver {
            ref end => {
                let end: &$crate::chan::Receiver<_> = end;
                $crate::__select!(@bind $biased $default ($($bound)* (receiving end () $result $body)) ($($arms)*))
            }
        }
    };
    (@bind $biased:tt $default:tt ($($bound:tt)*)
        ((send ($sender:expr) $message:tt $result:tt $body:tt) $($arms:tt)*)) => {
        match $sender {
            ref end => {
                let end: &$crate::chan::Sender<_> = end;
                $crate::__select!(
                    @bind $biased $default ($($bound)* (sending end $message $result $body)) ($($arms)*)
                )
            }
        }
    };

    // choose
    (@bind $biased:tt () ($(($how:ident $end:ident $($arm:tt)*))*) ()) => {{
        let operation = $crate::chan::internal::select(&mut [$($crate::chan::internal::$how($end)),*], $biased);
        $crate::__select!(@run operation (operation.index()) $(($how $end $($arm)*))*)
    }};
    (@bind $biased:tt (() ($default:expr)) ($(($how:ident $end:ident $($arm:tt)*))*) ()) => {
        match $crate::chan::internal::try_select(&mut [$($crate::chan::internal::$how($end)),*], $biased) {
            ::core::result::Result::Ok(operation) => {
                $crate::__select!(@run operation (operation.index()) $(($how $end $($arm)*))*)
            }
            ::core::result::Result::Err(_) => $default,
        }
    };
    (@bind $biased:tt (($timeout:expr) ($default:expr)) ($(($how:ident $end:ident $($arm:tt)*))*) ()) => {
        match $crate::chan::internal::select_until(
            &mut [$($crate::chan::internal::$how($end)),*],
            $biased,
            $timeout,
        ) {
            ::core::result::Result::Ok(operation) => {
                $crate::__select!(@run operation (operation.index()) $(($how $end $($arm)*))*)
            }
            ::core::result::Result::Err(_) => $default,
        }
    };

    // run: the operation, its index among the rest, the rest
    (@run $operation:ident ($index:expr)) => {
        ::core::unreachable!("select! chose the arm number {} of those that are left, none", $operation.index())
    };
    (@run $operation:ident ($index:expr)
        ($how:ident $end:ident ($($message:expr)?) ($result:pat) ($body:expr)) $($arms:tt)*) => {{
        let index = $index;
        if index == 0 {
            let $result = $crate::__select!(@complete $operation $how $end $($message)?);
            $body
        } else {
            $crate::__select!(@run $operation (index - 1) $($arms)*)
        }
    }};
    (@complete $operation:ident receiving $end:ident) => {
        $operation.recv($end)
    };
    (@complete $operation:ident sending $end:ident $message:expr) => {
        $operation.send($end, $message)
    };
}
