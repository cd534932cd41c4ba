//! The same behaviour with Baton's allocator as the program's: the other test binaries run on the system's.

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

#[path = "channels.rs"]
mod channels;
#[path = "goroutines.rs"]
mod goroutines;
#[path = "stress.rs"]
mod stress;
