//! A backtrace that is named when it is printed.

use super::{
    probe::{Look, PATIENCE},
    unwind::{Symbols, Unwinder},
};
use std::{fmt, time::Instant};

/// Where a goroutine is: the calls that led there. Printing it looks up their names, which takes milliseconds the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Backtrace(Vec<usize>);

impl Backtrace {
    /// Whether nothing is known: the goroutine has got on meanwhile, or its thread could not be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses of the calls, the innermost first.
    #[must_use]
    pub fn addresses(&self) -> &[usize] {
        &self.0
    }

    /// Of `goroutine`, if it is the one that was looked at.
    pub(crate) fn of(look: Option<Look>, goroutine: u64) -> Self {
        let copy = look.and_then(|look| look.finish(Instant::now() + PATIENCE));
        let copy = copy.filter(|copy| copy.goroutine == goroutine);
        Self(copy.map_or_else(Vec::new, |copy| copy.walk(&mut Unwinder::new())))
    }
}

/// A line or two for each call, as in a [`dump`](super::dump).
impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Symbols::default().print(&self.0, f)
    }
}
