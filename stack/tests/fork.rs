//! The child of a fork gives the memory of its stacks back, as its parent does.

use baton_stack::{Spec, StackGrowth, acquire, release};

/// Whether what a stack has used goes back to the kernel once it is free.
fn goes_back(spec: Spec) -> bool {
    let stack = acquire(spec).unwrap();
    let desc = stack.desc();
    // SAFETY: the first word of a stack that is held.
    unsafe { std::ptr::with_exposed_provenance_mut::<usize>(desc.base() - size_of::<usize>()).write(1) };
    release(stack);
    baton_alloc::Alloc::release_free();
    // SAFETY: nobody uses the stack.
    unsafe { desc.measure() == 0 }
}

#[test]
fn what_is_free_goes_back_in_the_child() {
    let spec = Spec::with_growth(3 << 20, StackGrowth::Trap).unwrap();
    assert!(goes_back(spec), "in the parent");
    // SAFETY: the child runs on this thread alone, uses Baton's stacks only, and ends by `_exit` or by the alarm.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(20);
            libc::_exit(i32::from(!goes_back(spec)));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0, "in the child");
    }
}
