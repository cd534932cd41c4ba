//! What deep stacks cost, and what many of them cost: tables, and plots for the documentation.
//!
//! ```text
//! cargo run --release --manifest-path benches/versus/stacks/Cargo.toml -- [growth] [first] [fresh] [many] [visit] [--rounds N] [--plots DIR]
//! ```
//!
//! Each figure comes from a process of its own, on one processor, so that none finds what another has left in a pool; figures
//! are the least of all samples, since what else a machine does makes them only larger. The README says what each is.

mod first;
mod many;
mod peers;
mod plot;
#[path = "../../../../examples/shared/recursion.rs"]
mod recursion;
mod visit;

use plot::{Chart, Series};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const DEPTHS: [usize; 9] = [
    2 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
];
const PEERS: [&str; 5] = ["baton", "DefaultStack", "stacker", "may", "go"];
const COUNTS: [usize; 3] = [10_000, 100_000, 1_000_000];
const CROWDS: [&str; 3] = ["baton 256 KiB", "baton 1 MiB", "go"];

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["child", "many", crowd, n] => return many::child(crowd, number(n)),
        ["child", "visit"] => return visit::child(),
        ["child", "first", depth] => return first::child(number(depth)),
        ["child", "fresh", whose, depth] => return first::fresh(whose, number(depth)),
        ["child", peer, depth] => return peers::child(peer, number(depth)),
        _ => {}
    }
    let option = |name| {
        words
            .iter()
            .position(|&word| word == name)
            .and_then(|at| words.get(at + 1))
    };
    let rounds = option("--rounds").map_or(3, |n| number(n));
    let plots = option("--plots").map(PathBuf::from);
    let all = !["growth", "first", "fresh", "many", "visit"]
        .iter()
        .any(|part| words.contains(part));
    let wanted = |part| all || words.contains(&part);
    let go = build_go();
    if wanted("growth") {
        growth(rounds, go.as_deref(), plots.as_deref());
    }
    if wanted("first") {
        println!("\nthe first use of a stack, turn and turn about in one process, µs: least / median\n");
        println!("| depth | Baton | DefaultStack | Baton's part of it |\n|---|---|---|---|");
        for depth in first::DEPTHS {
            let us: Vec<f64> = least(rounds, || run(None, &["first", &depth.to_string()]))
                .iter()
                .map(|ns| ns / 1e3)
                .collect();
            let (least, median) = (us[0] / us[2], us[1] / us[3]);
            let depth = size(depth);
            println!(
                "| {depth} | {:.1} / {:.1} | {:.1} / {:.1} | {least:.2} / {median:.2} |",
                us[0], us[1], us[2], us[3]
            );
        }
    }
    if wanted("fresh") {
        fresh();
    }
    if wanted("many") {
        crowds(rounds, go.as_deref(), plots.as_deref());
    }
    if wanted("visit") {
        let least = least(rounds, || run(None, &["visit"]));
        println!("\nvisiting what is parked in turn, ns a visit\n");
        println!("| | one, or two | of 1,000 | more |\n|---|---|---|---|");
        for (name, pair) in ["coroutines on Baton's stacks", "on DefaultStack", "goroutines"]
            .iter()
            .zip(least.chunks(2))
        {
            println!(
                "| {name} | {:.1} | {:.1} | {:.1} |",
                pair[0],
                pair[1],
                pair[1] - pair[0]
            );
        }
    }
}

/// The first recursion of a process, in some processes of each kind, turn and turn about.
fn fresh() {
    const PROCESSES: usize = 100;
    const KINDS: [&str; 3] = ["baton", "main", "thread"];
    println!("\nthe first recursion of a process, {PROCESSES} processes each, µs: first quartile / median / third\n");
    println!("| depth | Baton | DefaultStack, main thread | DefaultStack, new thread |\n|---|---|---|---|");
    for depth in [64 << 10, 1 << 20] {
        let mut times = KINDS.map(|_| Vec::new());
        for _ in 0..PROCESSES {
            for (kind, times) in KINDS.iter().zip(&mut times) {
                times.extend(run(None, &["fresh", kind, &depth.to_string()]));
            }
        }
        let cells = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            let [q1, q2, q3] = [1, 2, 3].map(|n| times[times.len() * n / 4] / 1e3);
            format!("{q1:.0} / {q2:.0} / {q3:.0}")
        });
        println!("| {} | {} |", size(depth), cells.join(" | "));
    }
}

fn number(word: &str) -> usize {
    word.parse().expect("a number")
}

/// The program in Go, if there is a compiler.
fn build_go() -> Option<PathBuf> {
    let program = env::temp_dir().join(format!("versus-stacks-go-{}", std::process::id()));
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go"))
        .stderr(Stdio::inherit())
        .status();
    built.is_ok_and(|status| status.success()).then_some(program)
}

/// Runs this program, or the one in Go, as a child; gives the numbers that it printed, none if it failed.
fn run(go: Option<&Path>, args: &[&str]) -> Vec<f64> {
    let mut command = match go {
        Some(program) => Command::new(program),
        None => {
            let mut command = Command::new(env::current_exe().expect("this program has a path"));
            command.arg("child");
            command
        }
    };
    let command = command.args(args).env("BATON_PROCS", "1").env("GOMAXPROCS", "1");
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .expect("a child can be started");
    if !output.status.success() {
        eprintln!("{args:?}: {}", output.status);
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect()
}

/// The least of each figure over some rounds.
fn least(rounds: usize, mut run: impl FnMut() -> Vec<f64>) -> Vec<f64> {
    let mut least = run();
    for _ in 1..rounds {
        for (least, figure) in least.iter_mut().zip(run()) {
            *least = least.min(figure);
        }
    }
    least
}

fn size(bytes: usize) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

fn growth(rounds: usize, go: Option<&Path>, plots: Option<&Path>) {
    let figures = ["cold", "warm", "churn"];
    // By peer, depth, figure; the peers take turns.
    let mut all = vec![vec![Vec::new(); DEPTHS.len()]; PEERS.len()];
    for (d, &depth) in DEPTHS.iter().enumerate() {
        for _ in 0..rounds {
            for (p, &peer) in PEERS.iter().enumerate() {
                let program = (peer == "go").then_some(go);
                if program == Some(None) {
                    continue;
                }
                let found = run(program.flatten(), &[peer, &depth.to_string()]);
                let best: &mut Vec<f64> = &mut all[p][d];
                if best.is_empty() {
                    *best = found;
                } else {
                    best.iter_mut()
                        .zip(found)
                        .for_each(|(best, found)| *best = best.min(found));
                }
            }
        }
    }
    println!("\ndepth, µs: {}\n", figures.join(" / "));
    println!("| depth | {} |\n|---|{}", PEERS.join(" | "), "---|".repeat(PEERS.len()));
    for (d, &depth) in DEPTHS.iter().enumerate() {
        let cells = all.iter().map(|peer| match &peer[d][..] {
            [] => "–".to_owned(),
            found => found
                .iter()
                .map(|ns| format!("{:.1}", ns / 1e3))
                .collect::<Vec<_>>()
                .join(" / "),
        });
        println!("| {} | {} |", size(depth), cells.collect::<Vec<_>>().join(" | "));
    }
    let beyond = |peer: usize, d: usize| match all[peer][d][..] {
        [_, warm, churn] => Some(churn - warm),
        _ => None,
    };
    println!("\nwhat a fresh goroutine pays for its depth each time: churn less warm, µs\n");
    println!("| depth | baton | go | Baton's part of it |\n|---|---|---|---|");
    for (d, &depth) in DEPTHS.iter().enumerate() {
        if let (Some(baton), Some(go)) = (beyond(0, d), beyond(PEERS.len() - 1, d)) {
            // Not above 0: the start is lost in what the recursion takes now and then.
            let part = match go / baton {
                ratio if (0.0..1e3).contains(&ratio) => format!("1/{ratio:.0}"),
                _ => "less than 1/1000".to_owned(),
            };
            println!("| {} | {:.2} | {:.2} | {part} |", size(depth), baton / 1e3, go / 1e3);
        }
    }
    let Some(dir) = plots else { return };
    for (f, &figure) in figures.iter().enumerate() {
        let series = PEERS.iter().zip(&all).map(|(&name, peer)| Series {
            name,
            points: DEPTHS
                .iter()
                .zip(peer)
                .filter_map(|(&depth, found)| Some((depth as f64, *found.get(f)?)))
                .collect(),
        });
        let title = match figure {
            "cold" => "A stack that never ran: to the end of the recursion",
            "warm" => "The same stack again: the recursion alone",
            _ => "A fresh goroutine each time: start, recursion, join",
        };
        let chart = Chart {
            title,
            x: "depth of the recursion",
            x_label: &|bytes| size(bytes as usize),
            y: "time",
            y_label: &time,
            series: series.collect(),
        };
        write(dir, &format!("stack-{figure}.svg"), &chart);
    }
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns} ns"),
        ns if ns < 1e6 => format!("{} µs", ns / 1e3),
        ns => format!("{} ms", ns / 1e6),
    }
}

fn crowds(rounds: usize, go: Option<&Path>, plots: Option<&Path>) {
    let mut all = vec![Vec::new(); CROWDS.len()];
    println!(
        "\nparked goroutines: ns of processor time to start and park each / bytes of each, page tables included\n"
    );
    println!("| | {} |\n|---|{}", CROWDS.join(" | "), "---|".repeat(CROWDS.len()));
    for n in COUNTS {
        let mut cells = Vec::new();
        for (crowd, all) in CROWDS.iter().zip(&mut all) {
            let program = (*crowd == "go").then_some(go);
            let found = match program {
                Some(None) => Vec::new(),
                _ => least(rounds, || run(program.flatten(), &["many", crowd, &n.to_string()])),
            };
            cells.push(match found[..] {
                [ns, bytes] => format!("{ns:.0} / {bytes:.0}"),
                _ => "–".to_owned(),
            });
            all.push(found);
        }
        println!("| {n} | {} |", cells.join(" | "));
    }
    let Some(dir) = plots else { return };
    for (f, (figure, title, y)) in [
        ("spawn", "Starting a goroutine that parks, processor time", "ns each"),
        ("memory", "A parked goroutine, page tables included", "bytes each"),
    ]
    .into_iter()
    .enumerate()
    {
        let series = CROWDS.iter().zip(&all).map(|(&name, found)| Series {
            name,
            points: COUNTS
                .iter()
                .zip(found)
                .filter_map(|(&n, found)| Some((n as f64, *found.get(f)?)))
                .collect(),
        });
        let chart = Chart {
            title,
            x: "goroutines",
            x_label: &|n| n.to_string(),
            y,
            y_label: &|value| value.to_string(),
            series: series.collect(),
        };
        write(dir, &format!("goroutine-{figure}.svg"), &chart);
    }
}

fn write(dir: &Path, name: &str, chart: &Chart<'_>) {
    fs::write(dir.join(name), chart.svg()).expect("the plots can be written");
}
