//! What the kernel and the environment say about this process.

use core::{
    ffi::{CStr, c_int},
    mem::MaybeUninit,
    ops::Range,
    ptr,
};

/// The page size that the layout of reservations is made for.
pub(crate) const PAGE: usize = 4096;

/// `AT_MINSIGSTKSZ` of the auxiliary vector (libc names it on some targets only).
const AT_MINSIGSTKSZ: libc::c_ulong = 51;

/// What the kernel needs at most for one signal frame: depends on the vector registers of this processor.
pub(crate) fn signal_frame_bytes() -> usize {
    // SAFETY: getauxval has no preconditions; it gives 0 for what it does not know.
    let bytes = unsafe { libc::getauxval(AT_MINSIGSTKSZ) };
    // Kernels before 5.14 do not say; theirs is the constant of the C library.
    usize::try_from(bytes).unwrap_or(0).max(libc::MINSIGSTKSZ)
}

/// The size of this machine's pages.
pub(crate) fn page_size() -> usize {
    // SAFETY: getauxval has no preconditions.
    usize::try_from(unsafe { libc::getauxval(libc::AT_PAGESZ) }).unwrap_or(PAGE)
}

/// Whether environment variable `name` is set to `value`.
pub(crate) fn env_is(name: &CStr, value: &CStr) -> bool {
    // SAFETY: getenv reads the environment; this runs once, while the first stack of the process is made, and gives a
    // NUL-terminated string that lives until somebody changes the variable.
    unsafe {
        let found = libc::getenv(name.as_ptr());
        !found.is_null() && CStr::from_ptr(found) == value
    }
}

/// A limit on what this process may map, touched or not, in bytes, and how a shell names it: on its address space, else on
/// its private writable memory, which stacks are.
pub(crate) fn mapping_limit() -> Option<(u64, &'static str)> {
    let of = |resource| {
        let mut limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: getrlimit writes the struct.
        let ok = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
        (ok && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
    };
    let space = of(libc::RLIMIT_AS).map(|limit| (limit, "ulimit -v"));
    space.or_else(|| of(libc::RLIMIT_DATA).map(|limit| (limit, "ulimit -d")))
}

/// A thread's own stack, as its C library names it; all 0 if the system does not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnStack {
    /// The lowest address.
    lowest: usize,
    /// The first address above it.
    end: usize,
    /// Bytes of guard: below `lowest` or from there on, C libraries differ in that.
    guard: usize,
}

impl OwnStack {
    /// Nothing is known.
    pub(crate) const NONE: Self = Self {
        lowest: 0,
        end: 0,
        guard: 0,
    };

    /// The calling thread's.
    pub(crate) fn of_this_thread() -> Self {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        let (mut lowest, mut size, mut guard) = (ptr::null_mut(), 0, 0);
        // SAFETY: the calls ask about the calling thread; the attributes are filled before they are read, and given back.
        unsafe {
            if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
                return Self::NONE;
            }
            libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut size);
            libc::pthread_attr_getguardsize(attributes.as_ptr(), &raw mut guard);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        let lowest = lowest.addr();
        Self {
            lowest,
            end: lowest + size,
            guard,
        }
    }

    /// The bytes that may be used, whatever the C library counts.
    pub(crate) fn usable(self) -> Range<usize> {
        self.lowest + self.guard..self.end
    }

    /// Where the guard can be: what is mapped there and no guard does not fault.
    pub(crate) fn guard(self) -> Range<usize> {
        self.lowest.saturating_sub(self.guard)..self.lowest + self.guard
    }
}

/// The lowest address of the calling thread's own stack that may be used, 0 if the system does not say.
#[must_use]
pub fn own_stack_floor() -> usize {
    OwnStack::of_this_thread().usable().start
}

/// This thread's errno.
pub(crate) fn errno() -> c_int {
    // SAFETY: the location is this thread's own and lives as long as the thread.
    unsafe { *libc::__errno_location() }
}

/// Sets this thread's errno.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: the location is this thread's own and lives as long as the thread.
    unsafe { *libc::__errno_location() = value }
}

/// Lets another thread run.
pub(crate) fn yield_thread() {
    // SAFETY: sched_yield has no preconditions.
    unsafe { libc::sched_yield() };
}

/// Ends the process with SIGABRT.
pub(crate) fn abort() -> ! {
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}
