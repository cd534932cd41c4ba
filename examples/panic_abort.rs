//! Goroutines in a program that is built with `panic = "abort"`.
//!
//! `cargo run --profile abort --example panic_abort`: everything works, and a panic in a goroutine ends the process, as it
//! does in a thread. Built without, it says so and leaves the second half out.

use baton::{chan, go};
use std::{env, os::unix::process::ExitStatusExt, process::Command};

const CHILD: &str = "BATON_EXAMPLE_PANICS";

fn main() {
    if env::var_os(CHILD).is_some() {
        let joined = baton::run(|| go!(name = "unlucky"; || panic!("in a goroutine")).join().is_err());
        println!("went on after a panic: {joined}");
        return;
    }
    let sum: u64 = baton::run(|| {
        let (tx, rx) = chan::bounded(4);
        let senders: Vec<_> = (0..10_u64)
            .map(|n| {
                let tx = tx.clone();
                baton::spawn(move || tx.send(n).unwrap())
            })
            .collect();
        drop(tx);
        let sum = baton::scope(|s| s.spawn(|| rx.iter().sum()).join().unwrap());
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        sum
    });
    assert_eq!(sum, 45);
    let child = Command::new(env::current_exe().unwrap())
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(said.contains("in a goroutine"), "{child:?}");
    if cfg!(panic = "abort") {
        assert_eq!(child.status.signal(), Some(6), "{child:?}");
    } else {
        assert!(child.status.success(), "{child:?}");
    }
    println!("RESULT panic_abort aborts={} sum={sum}", cfg!(panic = "abort"));
}
