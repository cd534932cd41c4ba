//! Making a thread may allocate from this heap, where that serves the C library too: the scavenger is started where that does no
//! harm. This program's own `pthread_create` allocates, and then calls the C library's.

use baton_alloc::{free, malloc, scavenge::on_release};
use std::{
    alloc::Layout,
    ffi::c_void,
    mem::{MaybeUninit, transmute},
    ptr,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

type Main = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(*mut libc::pthread_t, *const libc::pthread_attr_t, Main, *mut c_void) -> libc::c_int;

/// # Safety
///
/// As the C library says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    main: Main,
    argument: *mut c_void,
) -> libc::c_int {
    let layout = Layout::new::<[u64; 40]>();
    // SAFETY: freed once, with this layout; the name is that of a function of this type.
    unsafe {
        free(malloc(layout), layout);
        let create = transmute::<*mut c_void, Create>(libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()));
        create(thread, attributes, main, argument)
    }
}

/// Leaves much in its cache, and dies without giving it back.
extern "C" fn dies(_: *mut c_void) -> *mut c_void {
    let layout = Layout::new::<[u8; 100_000]>();
    let objects = [(); 8].map(|()| malloc(layout));
    // SAFETY: freed once each, with this layout; nobody needs the destructors of this thread.
    unsafe {
        objects.iter().for_each(|&object| free(object, layout));
        libc::syscall(libc::SYS_exit, 0);
    }
    ptr::null_mut()
}

/// The lease of a thread that is new is looked for with a lock held, and then much becomes free that dead threads had.
#[test]
fn a_thread_that_sweeps_leaves_it_to_others() {
    static CALLED: AtomicBool = AtomicBool::new(false);
    assert!(on_release(|_| CALLED.store(true, SeqCst)));
    // SAFETY: the alarm ends the process if a thread waits for itself.
    unsafe { libc::alarm(60) };
    let mut most = 0;
    let mut swept = || {
        let mut id = MaybeUninit::uninit();
        // SAFETY: the thread uses nothing of this one, and is joined once.
        unsafe {
            assert_eq!(pthread_create(id.as_mut_ptr(), ptr::null(), dies, ptr::null_mut()), 0);
            assert_eq!(libc::pthread_join(id.assume_init(), ptr::null_mut()), 0);
        }
        let attached = baton_alloc::stats().attached_leases;
        most = most.max(attached);
        attached < most
    };
    assert!((0..100).any(|_| swept()), "nobody swept");
    let now = baton_alloc::stats();
    assert!(now.free_bytes > 16 << 20, "there is nothing to do: {now}");
    // Whoever comes next starts it.
    let layout = Layout::new::<[u8; 40 << 20]>();
    // SAFETY: freed once, with this layout.
    unsafe { free(malloc(layout), layout) };
    while !CALLED.load(SeqCst) {
        thread::yield_now();
    }
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
}
