//! Synchronization that parks goroutines, and threads alike.

mod wait_group;

pub use wait_group::WaitGroup;
