//! Where the kernel never hands out more memory than there is (`vm.overcommit_memory = 2`), all of a stack is charged when it is
//! made. So it is an error then that there is no more, and what was had can be used to its end. The setting is the whole
//! system's: this test runs where it is set already, and says so where it is not.

use baton::{Builder, SpawnError, chan};
use std::fs;

mod descend;
use descend::descend;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

#[test]
fn stacks_that_cannot_be_charged_are_refused_in_time() {
    let mode = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
    if mode.trim() != "2" {
        println!("not tested: vm.overcommit_memory is {} here, not 2", mode.trim());
        return;
    }
    baton::run(|| {
        let spawn = |wait: &chan::Receiver<()>| {
            let wait = wait.clone();
            Builder::new().max_stack(1 << 20).try_spawn(move || {
                let _ = wait.recv(); // an error, when the sender is dropped
                descend(900 << 10)
            })
        };
        let (tx, rx) = chan::bounded::<()>(0);
        let mut handles = Vec::with_capacity(1 << 20);
        let error = loop {
            match spawn(&rx) {
                Ok(handle) => handles.push(handle),
                Err(error) => break error,
            }
        };
        println!("after {}: {error}", handles.len());
        assert!(matches!(error, SpawnError::Stack(_)) && handles.len() > 10);
        assert!(error.to_string().contains("vm.overcommit_memory"), "{error}");
        // Each has all that it was promised, and what is free can be had again.
        drop(tx);
        assert!(handles.into_iter().all(|handle| handle.join().unwrap() > 0));
        assert!(spawn(&rx).unwrap().join().unwrap() > 0);
    });
}
