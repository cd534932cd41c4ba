//! Heap profiles of programs that know nothing of Baton: `BATON_HEAP_PROFILE=FILE LD_PRELOAD=libbaton_malloc.so program`.
//!
//! The profile is on from before `main`, and is written to `FILE.<process>` when the program exits. (Not if it is killed, or
//! leaves by `_exit`.) `BATON_HEAP_PROFILE_RATE` says how many bytes there are from sample to sample, 524,288 by default.
//! Forked children go on with their parent's profile.

use baton_alloc::profile;
use std::{env, ffi::OsString, process, sync::OnceLock};

/// Where the profile goes.
static FILE: OnceLock<OsString> = OnceLock::new();

/// What the dynamic linker calls before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    let Some(file) = env::var_os("BATON_HEAP_PROFILE").filter(|file| !file.is_empty()) else {
        return;
    };
    let rate = match env::var("BATON_HEAP_PROFILE_RATE") {
        Err(_) => profile::RATE,
        Ok(rate) => match rate.parse() {
            Ok(rate) if rate > 0 => rate,
            _ => {
                return complain(format_args!(
                    "BATON_HEAP_PROFILE_RATE is {rate:?}, but wants a number of bytes, at least 1"
                ));
            }
        },
    };
    // SAFETY: `write` lives as long as the program, into which this library was preloaded.
    if FILE.set(file).is_ok() && unsafe { libc::atexit(write) } == 0 {
        profile::start(rate);
    }
}

extern "C" fn write() {
    let Some(file) = FILE.get() else { return };
    let mut path = file.clone();
    path.push(format!(".{}", process::id()));
    let mut bytes = Vec::new();
    if let Err(error) = profile::write(&mut bytes).and_then(|()| std::fs::write(&path, bytes)) {
        complain(format_args!(
            "the heap profile could not be written to {}: {error}",
            path.display()
        ));
    }
}

fn complain(what: core::fmt::Arguments<'_>) {
    eprintln!("baton-malloc: {what}");
}
