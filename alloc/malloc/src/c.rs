//! The C interface: ISO C, POSIX, and what glibc has beyond them.
//!
//! | asked for | given |
//! |---|---|
//! | 0 bytes | an object of its own, as with 1 byte |
//! | more than `PTRDIFF_MAX`, or more than there is | null, `ENOMEM` |
//! | an alignment that is none | `EINVAL`; `memalign` takes the next power of two, as glibc's does |
//!
//! Objects are aligned to 16 bytes at least.

use baton_alloc::{C_ALIGN, c_layout, scavenge};
use core::{
    alloc::Layout,
    ffi::{c_int, c_void},
    ptr::{self, NonNull},
};

/// A page of the system: what `valloc` aligns to.
fn os_page() -> usize {
    // SAFETY: getauxval reads a table.
    let page = unsafe { libc::getauxval(libc::AT_PAGESZ) };
    usize::try_from(page).unwrap_or(0).max(4096)
}

/// What the dynamic linker calls before `main`: see [`scavenge::frees_start_no_thread`].
#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    scavenge::frees_start_no_thread();
}

fn set_errno(value: c_int) {
    // SAFETY: this thread's own word.
    unsafe { *libc::__errno_location() = value };
}

/// Memory for this layout; without, null and `ENOMEM`.
#[inline(always)]
fn allocate(layout: Option<Layout>) -> *mut c_void {
    let object = layout.map_or(ptr::null_mut(), baton_alloc::malloc);
    if object.is_null() {
        out_of_memory();
    }
    object.cast()
}

#[cold]
#[inline(never)]
fn out_of_memory() {
    set_errno(libc::ENOMEM);
}

/// The layout of an object that is aligned more than others.
fn aligned(align: usize, size: usize) -> Option<Layout> {
    Layout::from_size_align(size.max(1), align.max(C_ALIGN)).ok()
}

/// `size` bytes of memory.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    allocate(c_layout(size))
}

/// `count` objects of `size` bytes each, all zero.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let layout = count.checked_mul(size).and_then(c_layout);
    let object = layout.map_or(ptr::null_mut(), baton_alloc::malloc_zeroed);
    if object.is_null() {
        out_of_memory();
    }
    object.cast()
}

/// Frees an object; null is allowed.
///
/// # Safety
///
/// The object came from a function of this library, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(object: *mut c_void) {
    // SAFETY: as the caller promised.
    unsafe { baton_alloc::free_untyped(object.cast()) }
}

/// [`free`] by its name of old.
///
/// # Safety
///
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(object: *mut c_void) {
    // SAFETY: as the caller promised.
    unsafe { free(object) }
}

/// [`free`] of an object whose size the caller knows (C23).
///
/// # Safety
///
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(object: *mut c_void, _size: usize) {
    // SAFETY: as the caller promised.
    unsafe { free(object) }
}

/// [`free`] of an object whose alignment and size the caller knows (C23).
///
/// # Safety
///
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(object: *mut c_void, _align: usize, _size: usize) {
    // SAFETY: as the caller promised.
    unsafe { free(object) }
}

/// Makes an object `size` bytes long, moving it if need be. A size of 0 frees the object and gives null, as glibc does.
///
/// # Safety
///
/// The object is null or came from a function of this library; what comes back, if it is not null, takes its place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(object: *mut c_void, size: usize) -> *mut c_void {
    if size == 0 && !object.is_null() {
        // SAFETY: as the caller promised.
        unsafe { free(object) };
        return ptr::null_mut();
    }
    // SAFETY: as the caller promised.
    let new = unsafe { baton_alloc::realloc_untyped(object.cast(), size) };
    if new.is_null() {
        out_of_memory();
    }
    new.cast()
}

/// [`realloc`] to `count` objects of `size` bytes each.
///
/// # Safety
///
/// As for [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(object: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: as the caller promised.
        Some(bytes) => unsafe { realloc(object, bytes) },
        None => {
            out_of_memory();
            ptr::null_mut()
        }
    }
}

/// Puts memory at a multiple of `align` into `*object`; gives 0, `EINVAL` or `ENOMEM`, and leaves `errno` alone.
///
/// # Safety
///
/// `object` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(object: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let new = aligned(align, size).map_or(ptr::null_mut(), baton_alloc::malloc);
    if new.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: as the caller promised.
    unsafe { object.write(new.cast()) };
    0
}

/// Memory at a multiple of `align`, a power of two.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        set_errno(libc::EINVAL);
        return ptr::null_mut();
    }
    allocate(aligned(align, size))
}

/// Memory at a multiple of `align`, which is rounded up to a power of two.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => allocate(aligned(align, size)),
        None => {
            set_errno(libc::EINVAL);
            ptr::null_mut()
        }
    }
}

/// Memory at the start of a page of the system.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    allocate(aligned(os_page(), size))
}

/// Whole pages of the system.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let whole = size.max(1).checked_next_multiple_of(os_page());
    allocate(whole.and_then(|size| aligned(os_page(), size)))
}

/// How many bytes of the object may be used; 0 for null.
///
/// # Safety
///
/// The object is null, or came from a function of this library and is the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(object: *mut c_void) -> usize {
    // SAFETY: as the caller promised.
    NonNull::new(object.cast()).map_or(0, |object| unsafe { baton_alloc::usable_size(object) })
}

/// Gives all free memory back to the kernel, whatever `keep` says. Gives 1 if there was any, else 0.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_keep: usize) -> c_int {
    c_int::from(baton_alloc::Alloc::release_free() > 0)
}

/// What the heap holds, in the terms of glibc: `arena` is what spans of small objects take, `hblkhd` large objects, `uordblks`
/// what the program has of both, `fordblks` what is free in the former.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let stats = baton_alloc::stats();
    libc::mallinfo2 {
        arena: stats.small_span_bytes,
        ordblks: 0,
        smblks: 0,
        hblks: stats.large_objects(),
        hblkhd: stats.large_bytes,
        usmblks: 0,
        fsmblks: 0,
        uordblks: stats.small_live_bytes + stats.large_bytes,
        fordblks: stats.cached_bytes + stats.central_bytes,
        keepcost: 0,
    }
}

/// Writes the heap's report to standard error; what its numbers mean stands at [`baton_alloc::Stats`].
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    baton_alloc::Alloc::report();
}

/// [`mallinfo2`] for those who cannot count beyond 2 GiB; larger figures are cut off there.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    let info = mallinfo2();
    let int = |bytes: usize| c_int::try_from(bytes).unwrap_or(c_int::MAX);
    libc::mallinfo {
        arena: int(info.arena),
        ordblks: 0,
        smblks: 0,
        hblks: int(info.hblks),
        hblkhd: int(info.hblkhd),
        usmblks: 0,
        fsmblks: 0,
        uordblks: int(info.uordblks),
        fordblks: int(info.fordblks),
        keepcost: 0,
    }
}
