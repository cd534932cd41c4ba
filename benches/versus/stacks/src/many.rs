//! Many goroutines that park: prints the nanoseconds of processor time to start and park each, and the bytes that each takes.

use baton::{chan, go, sync::WaitGroup};
use std::{fs, mem};

/// Bytes resident, page tables included.
fn memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is there");
    let field = |name| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the kernel says it");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    };
    field("VmRSS:") + field("VmPTE:")
}

/// Processor time of this process, in nanoseconds: what else the machine does is not in it.
fn worked() -> f64 {
    // SAFETY: all-zero bytes are a valid struct, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let nanos = |time: libc::timeval| time.tv_sec as f64 * 1e9 + time.tv_usec as f64 * 1e3;
    nanos(usage.ru_utime) + nanos(usage.ru_stime)
}

pub fn child(crowd: &str, n: usize) {
    let max_stack = match crowd {
        "baton 256 KiB" => 256 << 10,
        "baton 1 MiB" => 1 << 20,
        other => panic!("nobody is called {other}"),
    };
    let (ns, bytes) = baton::run(|| {
        go!(|| ()).join().unwrap();
        let before = memory();
        let (release, released) = chan::bounded::<()>(0);
        let here = WaitGroup::new();
        let start = worked();
        for _ in 0..n {
            let (released, here) = (released.clone(), here.clone());
            drop(go!(max_stack = max_stack; move || {
                drop(here);
                let _ = released.recv(); // an error, when the sender is dropped
            }));
        }
        here.wait();
        let ns = (worked() - start) / n as f64;
        let bytes = (memory() - before) / n as f64;
        drop(release);
        (ns, bytes)
    });
    println!("{ns} {bytes}");
}
