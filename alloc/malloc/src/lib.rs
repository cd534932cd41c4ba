//! Baton's heap as a program's `malloc`: `LD_PRELOAD=libbaton_malloc.so program`.
//!
//! ```text
//!   malloc calloc aligned_alloc … ──▶ c_layout ──▶ baton_alloc::malloc          (`c`)
//!   free realloc malloc_usable_size ─▶ arena map ─▶ baton_alloc::free_untyped   (`c`)
//!   new delete ─ throws or calls the new handler where C gives null ─▶ `c`      (`cxx`)
//!   BATON_HEAP_PROFILE=FILE ─ on before `main`, written at exit                 (`profile`)
//! ```
//!
//! The library needs nothing but the C library, and works from the first call on, which comes from the dynamic linker
//! before any constructor has run. It keeps `errno` as the standards say: `free` leaves it alone, and what gives null sets it.
//!
//! Memory that the C library made for itself before this library was there (the dynamic linker's own records) is never given
//! to `free`; anything else that `free` does not know ends the process with a message.

pub mod c;
pub mod cxx;
mod profile;
