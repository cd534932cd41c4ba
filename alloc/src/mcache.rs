//! mcache
/// An mcache.
#[derive(Debug)]
pub struct Mcache {}
