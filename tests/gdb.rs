//! The gdb script: goroutines of a live process, and of a core.

use baton::{chan, go, sync::Mutex};
use std::{
    env, fs,
    hint::{black_box, spin_loop},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const NAME: &str = "the_script_shows_goroutines";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/gdb/baton.py");
const MARK: &str = "BATON_TEST_GDB";

#[inline(never)]
fn waits_in_a_named_function(rx: &chan::Receiver<u32>) -> u32 {
    black_box(rx.recv().unwrap()) + 1
}

#[inline(never)]
fn computes_in_a_named_function() {
    loop {
        spin_loop();
    }
}

#[inline(never)]
fn waits_on_a_further_stack(rx: &chan::Receiver<u32>) -> u32 {
    baton::stack::grow(4 << 20, || black_box(waits_in_a_named_function(rx)) + 1)
}

/// The program that is looked at.
fn program() {
    static LOCK: Mutex<()> = Mutex::new(());
    baton::run(|| {
        let (tx, rx) = chan::bounded::<u32>(0);
        for _ in 0..100 {
            let rx = rx.clone();
            go!(move || waits_in_a_named_function(&rx));
        }
        go!(move || waits_on_a_further_stack(&rx));
        let _held = LOCK.lock();
        go!(name = "the waiter"; || drop(LOCK.lock()));
        go!(computes_in_a_named_function());
        while !baton::dump().contains("[mutex, ") {
            baton::time::sleep(Duration::from_millis(1));
        }
        baton::time::sleep(Duration::from_millis(20)); // so that all have an age
        eprintln!("ready");
        chan::never::<()>().recv().unwrap();
        drop(tx);
    });
}

/// Ends the program with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, as soon as it is there to be looked at.
fn start(vars: &[(&str, &str)]) -> Ends {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([NAME, "--exact", "--nocapture"]).env(MARK, "1");
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    let mut program = Ends(command.envs(vars.iter().copied()).spawn().unwrap());
    let lines = BufReader::new(program.0.stderr.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
    program
}

/// What gdb says about these.
fn gdb(of: &[&str]) -> String {
    let mut command = Command::new("gdb");
    command.args(["-batch", "-nx", "-x", SCRIPT]).args(of);
    command.args(["-ex", "goroutines", "-ex", "goroutine 1"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn entry<'a>(text: &'a str, head: &str) -> &'a str {
    let mut entries = text.split("\n\n");
    entries
        .find(|entry| entry.lines().next().is_some_and(|line| line.contains(head)))
        .unwrap_or_else(|| panic!("no {head:?} in {text}"))
}

#[track_caller]
fn check(text: &str) {
    assert!(text.contains("104 goroutines that have run"), "{text}");
    let readers = entry(text, "100 goroutines ");
    assert!(
        readers.contains(" ... [channel receive, 0.") || readers.contains(" ... [channel receive, "),
        "{text}"
    );
    assert!(readers.contains("], started at tests/gdb.rs:"), "{text}");
    assert!(readers.contains("waits_in_a_named_function"), "{text}");
    let further = entry(text, "goroutine 102 [channel receive");
    assert!(further.contains("waits_in_a_named_function"), "{text}");
    let waiter = entry(text, "103 \"the waiter\" [mutex, ");
    assert!(
        waiter.contains("], held by goroutine 1, started at tests/gdb.rs:"),
        "{text}"
    );
    assert!(
        entry(text, "[running on ").contains("computes_in_a_named_function"),
        "{text}"
    );
    assert!(
        text.matches("goroutine 1 \"main\" [channel receive").count() == 2,
        "{text}"
    );
}

#[test]
fn the_script_shows_goroutines() {
    if env::var_os(MARK).is_some() {
        return program();
    }
    if Command::new("gdb").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no gdb");
    }
    let program = start(&[]);
    let pid = program.0.id().to_string();
    let live = gdb(&["-p", &pid]);
    if live.contains("ptrace: Operation not permitted") {
        return eprintln!("skipped: gdb may not look at other processes here");
    }
    check(&live);
    drop(program);
    // gcore does not get past a guard marker.
    let program = start(&[("BATON_GUARD", "mprotect")]);
    let pid = program.0.id().to_string();
    let core = env::temp_dir().join(format!("baton-core-{}", std::process::id()));
    let core = core.to_str().unwrap();
    let made = Command::new("gcore").args(["-o", core, &pid]).output();
    let core = format!("{core}.{pid}");
    if made.is_err() || !Path::new(&core).exists() {
        return eprintln!("skipped: no gcore, or no core from it");
    }
    let exe = env::current_exe().unwrap();
    let text = gdb(&[exe.to_str().unwrap(), &core]);
    fs::remove_file(&core).unwrap();
    check(&text);
}
