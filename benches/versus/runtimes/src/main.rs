//! Runs the same programs on Baton, Go, tokio, may and plain threads in alternating rounds, and prints one table of medians.
//!
//! ```text
//! cargo run --release --manifest-path benches/versus/runtimes/Cargo.toml -- [--rounds N] [row …]
//! ```
//!
//! Every cell is the median of its rounds; a round runs every program of a row once, one process each, so that whatever the machine does
//! meanwhile happens to all. Before the rows with a million tasks at once memory is warmed for each program ([`warm`]). A round in which a
//! hypervisor kept the CPUs from some program is repeated for all ([`Stolen`]). Go's programs are built and run where `go` is installed. A
//! program that has no such row exits with 3; one that fails shows as `fails`.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use versus_runtimes::DEPTHS;

/// Rows in the order of the table. In a row with several figures the first is the one compared.
const ROWS: [&str; 21] = [
    "spawn_join",
    "spawn_burst",
    "yield_alone",
    "yield_1000",
    "ping_pong",
    "ping_pong_1",
    "spsc",
    "unbounded",
    "mpmc",
    "select_4",
    "skynet",
    "sieve",
    "mutex",
    "rwlock_95",
    "hog",
    "hog_blockers",
    "latency",
    "blocking",
    "blocking_undeclared",
    "blocking_parking",
    "syscall",
];

/// The programs, and what each adds to a row's name.
const PROGRAMS: [(&str, &str); 6] = [
    ("baton", ""),
    ("go", ""),
    ("tokio", ""),
    ("may", ""),
    ("threads", ""),
    ("threads", "_flume"),
];

/// Rows whose programs take gigabytes. They come last, since a hypervisor that finds and takes back that memory may keep the CPUs from its
/// guest for a while.
const LARGE: [&str; 2] = ["parked_1m", "timers_1m"];

/// How long one program may take for one row.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to leave the machine alone after a round that does not count.
const REST: Duration = Duration::from_secs(15);

/// What a program printed, figure by figure, in its order.
enum Outcome {
    Figures(Vec<(String, f64)>),
    NoRow,
    Failed,
}

fn main() {
    let mut rounds = 5;
    let mut wanted = Vec::new();
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => {
                rounds = args
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("--rounds takes a number")
            }
            row => wanted.push(row.to_owned()),
        }
    }
    if wanted.is_empty() {
        wanted = ROWS.iter().map(|row| (*row).to_owned()).collect();
        wanted.extend(DEPTHS.map(|depth| format!("stack_{depth}")));
        wanted.extend(LARGE.map(str::to_owned));
    }

    let programs = programs();
    println!(
        "| row | figure | {} |",
        programs.iter().map(|p| p.0.as_str()).collect::<Vec<_>>().join(" | ")
    );
    println!("|---|---|{}", "---|".repeat(programs.len()));
    let notes: Vec<_> = wanted
        .iter()
        .filter_map(|row| table_rows(row, &programs, rounds))
        .collect();
    if !notes.is_empty() {
        println!(
            "\nRounds during which the host kept CPUs from a program: {}",
            notes.join("; ")
        );
    }
}

/// Processor time that a hypervisor took from all CPUs for itself or other guests (the steal time of `/proc/stat`), and all that there was.
#[derive(Clone, Copy)]
struct Stolen {
    stolen: u64,
    all: u64,
}

impl Stolen {
    /// Until now. Zero where the system does not say.
    fn so_far() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .take(8) // what follows is contained in these
            .collect();
        Self {
            stolen: ticks.get(7).copied().unwrap_or(0),
            all: ticks.iter().sum(),
        }
    }

    /// Whether more than one part in fifty was taken since, and more than the one tick that any run may see.
    fn too_much_since(before: Self) -> bool {
        let now = Self::so_far();
        now.stolen - before.stolen > 1.max((now.all - before.all) / 50)
    }
}

/// Where each program is, with the suffix it adds to a row; Go's is built first, and left out without `go`.
fn programs() -> Vec<(String, PathBuf, &'static str)> {
    let here = env::current_exe().expect("this program has a path");
    let folder = here.parent().expect("it lies in a folder");
    let mut found = Vec::new();
    for (name, suffix) in PROGRAMS {
        let path = folder.join(format!("on_{name}"));
        if name == "go" {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
            let built = Command::new("go")
                .arg("build")
                .arg("-o")
                .arg(&path)
                .arg(".")
                .current_dir(source)
                .status();
            if !built.is_ok_and(|status| status.success()) {
                eprintln!("go is not installed or cannot build: its column is left out");
                continue;
            }
        }
        let name = if suffix.is_empty() { name } else { "flume" };
        found.push((name.to_owned(), path, suffix));
    }
    found
}

/// Measures one row and prints a line for each of its figures. Rounds in which the host took too much do not count, unless there are more
/// of them than `rounds`. Returns what to say of those.
fn table_rows(row: &str, programs: &[(String, PathBuf, &str)], rounds: usize) -> Option<String> {
    let mut order: Vec<String> = Vec::new();
    let mut seen: Vec<BTreeMap<String, Vec<f64>>> = vec![BTreeMap::new(); programs.len()];
    let mut left: Vec<Option<&str>> = vec![None; programs.len()];
    let (mut counted, mut repeated, mut disturbed) = (0, 0, 0);
    while counted < rounds {
        let mut round = Vec::new();
        let mut stolen = false;
        for (i, (_, path, suffix)) in programs.iter().enumerate() {
            if left[i].is_some() {
                continue;
            }
            if LARGE.contains(&row) {
                warm(8 << 30);
            }
            let before = Stolen::so_far();
            match run(path, &format!("{row}{suffix}")) {
                Outcome::Figures(figures) => round.extend(figures.into_iter().map(|figure| (i, figure))),
                Outcome::NoRow => left[i] = Some("–"),
                Outcome::Failed => left[i] = Some("fails"),
            }
            stolen |= Stolen::too_much_since(before);
        }
        if stolen && repeated < rounds {
            repeated += 1;
            std::thread::sleep(REST);
            continue;
        }
        counted += 1;
        disturbed += usize::from(stolen);
        for (i, (name, value)) in round {
            if !order.contains(&name) {
                order.push(name.clone());
            }
            seen[i].entry(name).or_default().push(value);
        }
    }
    for figure in order {
        let cells: Vec<String> = seen
            .iter_mut()
            .zip(&left)
            .map(|(seen, left)| match (left, seen.get_mut(&figure)) {
                (Some(left), _) => (*left).to_owned(),
                (None, Some(values)) => show(median(values)),
                (None, None) => "–".to_owned(),
            })
            .collect();
        println!("| {row} | {figure} | {} |", cells.join(" | "));
    }
    (repeated > 0).then(|| format!("{row} {repeated} repeated, {disturbed} of those in the table"))
}

/// Touches so many bytes, or half of those that are free, and gives them back. A hypervisor takes away what its guest has not used for some
/// seconds; who touches it then pays twice. Without this the first program of a round would, and those after it would not.
fn warm(bytes: usize) {
    // SAFETY: a question.
    let (free, page) = unsafe { (libc::sysconf(libc::_SC_AVPHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let bytes = bytes.min(free as usize * page as usize / 2);
    let (read_write, private) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, whose pages nobody else has, and which is unmapped at the end.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            read_write,
            private | libc::MAP_NORESERVE,
            -1,
            0,
        );
        assert_ne!(memory, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        libc::madvise(memory, bytes, libc::MADV_HUGEPAGE);
        for at in (0..bytes).step_by(page as usize) {
            memory.cast::<u8>().add(at).write_volatile(1);
        }
        libc::munmap(memory, bytes);
    }
}

fn run(program: &Path, row: &str) -> Outcome {
    let mut child = Command::new(program)
        .arg(row)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the programs are built beside this one: cargo build --release builds them all");
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                child.kill().expect("it is our child");
                child.wait().expect("it is our child");
                return Outcome::Failed;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.code() == Some(3) {
        return Outcome::NoRow;
    }
    let text = std::io::read_to_string(child.stdout.take().expect("it is piped")).unwrap_or_default();
    let figures = text
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect::<Vec<_>>();
    if status.success() && !figures.is_empty() {
        Outcome::Figures(figures)
    } else {
        Outcome::Failed
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Three digits that count.
fn show(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
