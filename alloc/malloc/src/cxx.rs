//! The C++ operators `new` and `delete`, by their mangled names (Itanium ABI, `size_t` is `m`).
//!
//! | suffix | operator |
//! |---|---|
//! | `nw`, `na` / `dl`, `da` | `new`, `new[]` / `delete`, `delete[]` |
//! | `m`, `Pv` | the size; the object |
//! | `St11align_val_t` | with an alignment |
//! | `RKSt9nothrow_t` | gives null instead of throwing |
//!
//! All forms are here: a program may need a library with an allocator of its own (tcmalloc, jemalloc), of which one form left in
//! place would get, or make, objects that the other side does not know. But a program may also replace some forms alone, and
//! the standard says which form calls which:
//!
//! ```text
//!   new[] nothrow ─▶ new[] ─▶ new ◀─ new nothrow
//!   delete[] sized, delete[] nothrow ─▶ delete[] ─▶ delete ◀─ delete sized, delete nothrow
//! ```
//!
//! and the same among those with an alignment. Each form here does so where the form that it calls has been replaced, and goes
//! to the heap at once where it has not (`Form`).
//!
//! Where there is no memory, `new` calls the new handler as long as there is one, and then throws `std::bad_alloc`. Both are
//! the C++ library's, which this library is not linked to: they are looked up when they are needed. A program without them
//! has no C++ library, and ends with a message. What does not throw must catch what a handler or a replaced form throws, which
//! the C++ library's own form does (`QuietForm`).

use crate::c;
use core::{
    ffi::{CStr, c_void},
    mem::{MaybeUninit, transmute},
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

/// An alignment that the C++ compiler passes on: a power of two.
type Align = usize;
/// `const std::nothrow_t &`: a tag.
type Nothrow = *const c_void;

/// What the dynamic linker calls before `main`. It looks up what the operators call: to do so later would take the dynamic
/// linker's lock wherever the program calls an operator first. Constructors that run even earlier look for themselves.
#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    for form in [&DELETE, &DELETE_ARRAY, &DELETE_ALIGNED, &DELETE_ARRAY_ALIGNED] {
        form.replaced();
    }
    for quiet in [&QUIET, &QUIET_ARRAY, &QUIET_ALIGNED, &QUIET_ARRAY_ALIGNED] {
        if quiet.loud.replaced().is_some() {
            quiet.in_cxx_library();
        }
    }
}

/// A form that other forms call, and that a program may have replaced.
struct Form {
    name: &'static CStr,
    /// What this form calls; without it, the heap.
    calls: Option<&'static Form>,
    /// Where calls of this form lead: null before it is looked for, [`OURS`], or a function that is not in this library.
    found: AtomicPtr<c_void>,
}

/// No address of a function: a form leads to the heap.
const OURS: *mut c_void = ptr::without_provenance_mut(1);

impl Form {
    const fn new(name: &'static CStr, calls: Option<&'static Form>) -> Form {
        Form {
            name,
            calls,
            found: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// What to call instead of the heap, if this form or one that it calls is replaced. It takes the arguments of this form.
    #[inline(always)]
    fn replaced(&self) -> Option<NonNull<c_void>> {
        let found = self.found.load(Relaxed);
        if found == OURS {
            return None;
        }
        NonNull::new(found).or_else(|| self.find())
    }

    /// Only what is loaded before this library may replace a form, and that is there from the start: the answer stays true.
    #[cold]
    #[inline(never)]
    fn find(&self) -> Option<NonNull<c_void>> {
        let first = NonNull::new(global(self.name)).filter(|function| !is_ours(function.as_ptr()));
        let found = first.or_else(|| self.calls?.replaced());
        self.found.store(found.map_or(OURS, NonNull::as_ptr), Relaxed);
        found
    }
}

static NEW: Form = Form::new(c"_Znwm", None);
static NEW_ARRAY: Form = Form::new(c"_Znam", Some(&NEW));
static NEW_ALIGNED: Form = Form::new(c"_ZnwmSt11align_val_t", None);
static NEW_ARRAY_ALIGNED: Form = Form::new(c"_ZnamSt11align_val_t", Some(&NEW_ALIGNED));
static DELETE: Form = Form::new(c"_ZdlPv", None);
static DELETE_ARRAY: Form = Form::new(c"_ZdaPv", Some(&DELETE));
static DELETE_ALIGNED: Form = Form::new(c"_ZdlPvSt11align_val_t", None);
static DELETE_ARRAY_ALIGNED: Form = Form::new(c"_ZdaPvSt11align_val_t", Some(&DELETE_ALIGNED));

/// A form of `new` that gives null where another one throws.
struct QuietForm {
    name: &'static CStr,
    /// The one that throws.
    loud: &'static Form,
    /// The C++ library's function of this name; null until it is found.
    found: AtomicPtr<c_void>,
}

impl QuietForm {
    const fn new(name: &'static CStr, loud: &'static Form) -> QuietForm {
        QuietForm {
            name,
            loud,
            found: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The C++ library's own function, which calls the one that throws, ours or not, and catches. The next function of this
    /// name may be another allocator's, with another heap: this one is taken from where the new handler is kept.
    fn in_cxx_library(&self) -> Option<NonNull<c_void>> {
        NonNull::new(self.found.load(Relaxed)).or_else(|| {
            let library = loaded_from(global(GET_NEW_HANDLER))?;
            // SAFETY: the name is a C string of the dynamic linker's. Nothing is loaded: the library is there, and stays.
            let library =
                NonNull::new(unsafe { libc::dlopen(library.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) })?;
            // SAFETY: the library is loaded, and the name is a C string.
            let found = NonNull::new(unsafe { libc::dlsym(library.as_ptr(), self.name.as_ptr()) })?;
            self.found.store(found.as_ptr(), Relaxed);
            Some(found)
        })
    }
}

static QUIET: QuietForm = QuietForm::new(c"_ZnwmRKSt9nothrow_t", &NEW);
static QUIET_ARRAY: QuietForm = QuietForm::new(c"_ZnamRKSt9nothrow_t", &NEW_ARRAY);
static QUIET_ALIGNED: QuietForm = QuietForm::new(c"_ZnwmSt11align_val_tRKSt9nothrow_t", &NEW_ALIGNED);
static QUIET_ARRAY_ALIGNED: QuietForm = QuietForm::new(c"_ZnamSt11align_val_tRKSt9nothrow_t", &NEW_ARRAY_ALIGNED);

/// The function that the program's calls of this name lead to.
fn global(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// The library, or the program, that an address is in.
fn loaded_from(address: *const c_void) -> Option<libc::Dl_info> {
    let mut info = MaybeUninit::uninit();
    // SAFETY: dladdr takes any address, and fills the record in if it does not give 0.
    unsafe { (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init()) }
}

/// Whether an address is in this library. (The address of an operator says nothing: here, too, it would be the replaced one's.)
fn is_ours(address: *const c_void) -> bool {
    static HERE: u8 = 0;
    let base = |address| loaded_from(address).map(|library| library.dli_fbase);
    base(address) == base((&raw const HERE).cast())
}

/// `std::new_handler std::get_new_handler()`.
const GET_NEW_HANDLER: &CStr = c"_ZSt15get_new_handlerv";

/// The program's new handler, if it has set one.
fn new_handler() -> Option<unsafe extern "C-unwind" fn()> {
    let get = global(GET_NEW_HANDLER);
    if get.is_null() {
        return None;
    }
    // SAFETY: this is `std::new_handler std::get_new_handler()`, of which null means none.
    unsafe {
        let get: extern "C" fn() -> Option<unsafe extern "C-unwind" fn()> = transmute(get);
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
    let throw = global(c"_ZSt17__throw_bad_allocv");
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
        let throw: extern "C-unwind" fn() -> ! = transmute(throw);
        throw()
    }
}

#[inline(always)]
fn new(allocate: impl Fn() -> *mut c_void) -> *mut c_void {
    let object = allocate();
    if object.is_null() { try_hard(allocate) } else { object }
}

/// Operators that throw. The first argument list is C++'s, then comes the form that is called if it is replaced, with what it is
/// told, and what serves the operator otherwise.
macro_rules! news {
    ($($name:ident($($arg:ident: $type:ty),*) $(-> $form:ident($($told:ident: $told_type:ty),*))? = $serve:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: see the table of the module.")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name($($arg: $type),*) -> *mut c_void {
            $(if let Some(replaced) = $form.replaced() {
                // SAFETY: it is called with the arguments of its form.
                unsafe {
                    let replaced: extern "C-unwind" fn($($told_type),*) -> *mut c_void = transmute(replaced);
                    return replaced($($told),*);
                }
            })?
            new(|| $serve)
        }
    )*};
}

/// Operators that give null.
macro_rules! quiet_news {
    ($($name:ident($($arg:ident: $type:ty),*) -> $quiet:ident = $serve:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: see the table of the module.")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name($($arg: $type),*, tag: Nothrow) -> *mut c_void {
            let replaced = $quiet.loud.replaced();
            if replaced.is_none() {
                let object = $serve;
                if !object.is_null() || new_handler().is_none() {
                    return object;
                }
            }
            if let Some(catching) = $quiet.in_cxx_library() {
                // SAFETY: it is the function of this name, with its arguments.
                unsafe {
                    let catching: extern "C-unwind" fn($($type),*, Nothrow) -> *mut c_void = transmute(catching);
                    catching($($arg),*, tag)
                }
            } else if let Some(replaced) = replaced {
                // SAFETY: it is called with the arguments of its form.
                unsafe {
                    let replaced: extern "C-unwind" fn($($type),*) -> *mut c_void = transmute(replaced);
                    replaced($($arg),*)
                }
            } else {
                ptr::null_mut()
            }
        }
    )*};
}

/// Operators that free. The first argument list is C++'s, of which the heap needs the object alone; then comes the form that is
/// called if it is replaced, with what it is told beyond the object.
macro_rules! deletes {
    ($($name:ident($($arg:ident: $type:ty),*) $(-> $form:ident($($told:ident: $told_type:ty)?))?;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: see the table of the module.")]
        ///
        /// # Safety
        ///
        /// As for `free`.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(object: *mut c_void $(, $arg: $type)*) {
            $(if let Some(replaced) = $form.replaced() {
                // SAFETY: it is called with the arguments of its form, of which the caller promised the rest.
                unsafe {
                    let replaced: unsafe extern "C" fn(*mut c_void $(, $told_type)?) = transmute(replaced);
                    return replaced(object $(, $told)?);
                }
            })?
            // SAFETY: as the caller promised.
            unsafe { c::free(object) }
        }
    )*};
}

news! {
    _Znwm(size: usize) = c::malloc(size);
    _Znam(size: usize) -> NEW(size: usize) = c::malloc(size);
    _ZnwmSt11align_val_t(size: usize, align: Align) = c::aligned_alloc(align, size);
    _ZnamSt11align_val_t(size: usize, align: Align) -> NEW_ALIGNED(size: usize, align: Align) = c::aligned_alloc(align, size);
}

quiet_news! {
    _ZnwmRKSt9nothrow_t(size: usize) -> QUIET = c::malloc(size);
    _ZnamRKSt9nothrow_t(size: usize) -> QUIET_ARRAY = c::malloc(size);
    _ZnwmSt11align_val_tRKSt9nothrow_t(size: usize, align: Align) -> QUIET_ALIGNED = c::aligned_alloc(align, size);
    _ZnamSt11align_val_tRKSt9nothrow_t(size: usize, align: Align) -> QUIET_ARRAY_ALIGNED = c::aligned_alloc(align, size);
}

deletes! {
    _ZdlPv();
    _ZdlPvm(_size: usize) -> DELETE();
    _ZdlPvRKSt9nothrow_t(_tag: Nothrow) -> DELETE();
    _ZdaPv() -> DELETE();
    _ZdaPvm(_size: usize) -> DELETE_ARRAY();
    _ZdaPvRKSt9nothrow_t(_tag: Nothrow) -> DELETE_ARRAY();
    _ZdlPvSt11align_val_t(_align: Align);
    _ZdlPvmSt11align_val_t(_size: usize, align: Align) -> DELETE_ALIGNED(align: Align);
    _ZdlPvSt11align_val_tRKSt9nothrow_t(align: Align, _tag: Nothrow) -> DELETE_ALIGNED(align: Align);
    _ZdaPvSt11align_val_t(align: Align) -> DELETE_ALIGNED(align: Align);
    _ZdaPvmSt11align_val_t(_size: usize, align: Align) -> DELETE_ARRAY_ALIGNED(align: Align);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(align: Align, _tag: Nothrow) -> DELETE_ARRAY_ALIGNED(align: Align);
}
