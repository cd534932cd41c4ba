//! Threads, as far as the allocator needs them: none of this allocates from Baton's heap.

use super::errno;
use core::{
    ffi::{CStr, c_void},
    mem::MaybeUninit,
    ptr,
    time::Duration,
};

/// The kernel's number of the calling thread.
pub(crate) fn id() -> i32 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Whether no thread of this process has this number. `false` in doubt (a sandbox may refuse the question).
pub(crate) fn is_dead(id: i32) -> bool {
    // SAFETY: signal 0 is only a question, and errno is this thread's own word.
    errno::kept(|| unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), id, 0) == -1 && *libc::__errno_location() == libc::ESRCH
    })
}

/// Runs `f` with all signals held off, so that no handler allocates in the midst of it.
pub(crate) fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are large enough; sigfillset initialises the first, and pthread_sigmask the second.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let result = f();
    // SAFETY: `before` was initialised above; the call cannot fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    result
}

/// A function that runs when a thread ends that has set a word for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExitKey(libc::pthread_key_t);

impl ExitKey {
    /// A key whose `at_exit` gets the word of each thread that ends. `None`: the process has used up all keys.
    pub(crate) fn new(at_exit: unsafe extern "C" fn(*mut c_void)) -> Option<Self> {
        let mut key = 0;
        // SAFETY: the key is written by the call; `at_exit` lives as long as the program.
        (unsafe { libc::pthread_key_create(&raw mut key, Some(at_exit)) } == 0).then_some(Self(key))
    }

    /// Sets the calling thread's word; a null word means that nothing runs. Also works while the thread ends: its C
    /// library then goes round again, a few times at most.
    pub(crate) fn set(self, word: *mut c_void) {
        // SAFETY: the key was made by `new` and never deleted.
        unsafe { libc::pthread_setspecific(self.0, word) };
    }
}

/// A thread of the allocator's own: a name of at most 15 bytes, and what it runs.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: &'static CStr,
    pub(crate) run: fn(),
}

/// Starts a thread that nobody joins, with all signals blocked. `false`: the system has none to give.
pub(crate) fn spawn(task: &'static Task) -> bool {
    /// Enough for the C library's part, a signal frame and a few calls.
    const STACK: usize = 256 << 10;

    extern "C" fn main(task: *mut c_void) -> *mut c_void {
        // SAFETY: `spawn` passed a `Task` that lives for ever.
        let task: &'static Task = unsafe { &*task.cast::<Task>().cast_const() };
        // SAFETY: the name is a C string; the call copies it.
        unsafe { libc::prctl(libc::PR_SET_NAME, task.name.as_ptr()) };
        (task.run)();
        ptr::null_mut()
    }

    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // The thread inherits the signals that are held off while it is made.
    errno::kept(|| {
        without_signals(|| {
            // SAFETY: the attributes are initialised first and destroyed last; `main` and the task live for ever.
            unsafe {
                if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
                    return false;
                }
                let attributes = attributes.assume_init_mut();
                libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED);
                // Refused where the program's thread-local storage alone is larger; then it is the default size.
                libc::pthread_attr_setstacksize(attributes, STACK);
                let task = ptr::from_ref(task).cast_mut().cast();
                let made = libc::pthread_create(thread.as_mut_ptr(), attributes, main, task) == 0;
                libc::pthread_attr_destroy(attributes);
                made
            }
        })
    })
}

/// Sleeps for a while; less if a signal comes.
pub(crate) fn sleep(time: Duration) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    };
    // SAFETY: the call reads `time`, and is not asked for the rest.
    errno::kept(|| unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) });
}

/// Has `prepare` run before each fork, and then `parent` and `child` on the two sides of it.
pub(crate) fn at_fork(
    prepare: unsafe extern "C" fn(),
    parent: unsafe extern "C" fn(),
    child: unsafe extern "C" fn(),
) -> bool {
    // SAFETY: the three functions live as long as the program.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) == 0 }
}
