//! The C++ operators `new` and `delete`, by their mangled names (Itanium ABI, `size_t` is `m`).
//!
//! | suffix | operator |
//! |---|---|
//! | `nw` / `dl` | `new` / `delete` |
//! | `m`, `Pv` | the size; the object |
//! | `St11align_val_t` | with an alignment |
//!
//! The C++ library's own forms for arrays, with a size to `delete`, and that give null instead of throwing stay in place: as the
//! standard says, they call these here, or what the program has put in their place, and catch what is thrown.
//!
//! Where there is no memory, `new` calls the new handler as long as there is one, and then throws `std::bad_alloc`. Both are
//! the C++ library's, which this library is not linked to: they are looked up when they are needed. A program without them
//! has no C++ library, and ends with a message.

use crate::c;
use core::ffi::{CStr, c_void};

/// An alignment that the C++ compiler passes on: a power of two.
type Align = usize;

/// A function of the C++ library.
fn cxx_library(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// The program's new handler, if it has set one.
fn new_handler() -> Option<unsafe extern "C-unwind" fn()> {
    let get = cxx_library(c"_ZSt15get_new_handlerv");
    if get.is_null() {
        return None;
    }
    // SAFETY: this is `std::new_handler std::get_new_handler()`, of which null means none.
    unsafe {
        let get: extern "C" fn() -> Option<unsafe extern "C-unwind" fn()> = core::mem::transmute(get);
        get()
    }
}

/// What `new` does where there is no memory: calls the new handler and tries again, until there is memory, or no handler, or
/// the handler throws.
#[cold]
#[inline(never)]
fn try_hard(allocate: impl Fn() -> *mut c_void) -> *mut c_void {
    while let Some(handler) = new_handler() {
        // SAFETY: a new handler takes nothing and may be called at any time.
        unsafe { handler() };
        let object = allocate();
        if !object.is_null() {
            return object;
        }
    }
    let throw = cxx_library(c"_ZSt17__throw_bad_allocv");
    if throw.is_null() {
        const LAST_WORDS: &str = "baton-malloc: operator new found no memory, and no std::bad_alloc to throw\n";
        // SAFETY: writes a constant, and ends the process.
        unsafe {
            libc::write(2, LAST_WORDS.as_ptr().cast(), LAST_WORDS.len());
            libc::abort();
        }
    }
    // SAFETY: this is `void std::__throw_bad_alloc()`, which does not return.
    unsafe {
        let throw: extern "C-unwind" fn() -> ! = core::mem::transmute(throw);
        throw()
    }
}

#[inline(always)]
fn new(allocate: impl Fn() -> *mut c_void) -> *mut c_void {
    let object = allocate();
    if object.is_null() { try_hard(allocate) } else { object }
}

/// Operators that throw. The first argument list is C++'s, the second what serves it.
macro_rules! news {
    ($($name:ident($($arg:ident: $type:ty),*) = $serve:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: see the table of the module.")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name($($arg: $type),*) -> *mut c_void {
            new(|| $serve)
        }
    )*};
}

/// Operators that free; what C++ says of the object beyond its address is not needed.
macro_rules! deletes {
    ($($name:ident($($type:ty),*);)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: see the table of the module.")]
        ///
        /// # Safety
        ///
        /// As for `free`.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(object: *mut c_void $(, _: $type)*) {
            // SAFETY: as the caller promised.
            unsafe { c::free(object) }
        }
    )*};
}

news! {
    _Znwm(size: usize) = c::malloc(size);
    _ZnwmSt11align_val_t(size: usize, align: Align) = c::aligned_alloc(align, size);
}

deletes! {
    _ZdlPv();
    _ZdlPvSt11align_val_t(Align);
}
