//! Runs all rows with all allocators, a process each, in turn, and prints one table.
//!
//! `versus [--quick] [--rounds N] [--only TEXT]`: see `benches/versus/alloc/run`.

use baton_versus_alloc::{ROWS, Row};
use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio, exit},
};

/// The programs beside this one, Baton first.
const ALLOCATORS: &[&str] = &["baton", "glibc", "mimalloc", "jemalloc", "snmalloc", "rpmalloc"];

struct Options {
    quick: bool,
    rounds: usize,
    only: String,
}

fn options() -> Options {
    let mut options = Options {
        quick: false,
        rounds: 0,
        only: String::new(),
    };
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = match arg.as_str() {
            "--quick" => {
                options.quick = true;
                continue;
            }
            "--rounds" | "--only" => args.next(),
            _ => None,
        };
        match (arg.as_str(), value) {
            ("--rounds", Some(n)) if n.parse().is_ok_and(|n: usize| n > 0) => options.rounds = n.parse().unwrap_or(1),
            ("--only", Some(text)) => options.only = text,
            _ => {
                eprintln!("usage: versus [--quick] [--rounds N] [--only TEXT]    (rows whose name contains TEXT)");
                exit(2);
            }
        }
    }
    if options.rounds == 0 {
        options.rounds = if options.quick { 1 } else { 4 };
    }
    options
}

fn program(allocator: &str) -> PathBuf {
    env::current_exe()
        .expect("the path of this program")
        .with_file_name(allocator)
}

/// What one process measured. Says what went wrong if it failed.
fn measure(allocator: &str, row: usize, quick: bool) -> Option<Vec<f64>> {
    let mut command = Command::new(program(allocator));
    command
        .arg(row.to_string())
        .args(quick.then_some("quick"))
        .stderr(Stdio::inherit());
    let output = command.output().ok()?;
    if !output.status.success() {
        eprintln!("{allocator}, {}: {}", ROWS[row].names[0], output.status);
        return None;
    }
    String::from_utf8(output.stdout)
        .ok()?
        .lines()
        .map(|line| line.parse().ok())
        .collect()
}

/// A figure with three digits that count.
fn digits(figure: f64) -> String {
    match figure.abs() {
        0.0..10.0 => format!("{figure:.2}"),
        10.0..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// Least and median.
fn summary(mut figures: Vec<f64>) -> Option<(f64, f64)> {
    figures.sort_by(f64::total_cmp);
    Some((*figures.first()?, figures[figures.len() / 2]))
}

fn main() {
    let options = options();
    let allocators: Vec<&str> = ALLOCATORS
        .iter()
        .copied()
        .filter(|allocator| program(allocator).is_file())
        .collect();
    println!(
        "| less is better | {} | best peer | Baton / best peer |",
        allocators.join(" | ")
    );
    println!("|---|{}---|---|", "---|".repeat(allocators.len()));
    for (number, row) in ROWS.iter().enumerate() {
        if !row.names.iter().any(|name| name.contains(&options.only)) {
            continue;
        }
        // [allocator][round], each of as many figures as the row has names.
        let mut runs = vec![Vec::new(); allocators.len()];
        for round in 0..if row.once { 1 } else { options.rounds } {
            for turn in 0..allocators.len() {
                // Who goes first changes from round to round.
                let at = (round + turn) % allocators.len();
                runs[at].extend(measure(allocators[at], number, options.quick));
            }
        }
        for (figure, name) in row.names.iter().enumerate() {
            let of = |runs: &Vec<Vec<f64>>| summary(runs.iter().filter_map(|run| run.get(figure).copied()).collect());
            let cells: Vec<Option<(f64, f64)>> = runs.iter().map(of).collect();
            let text = |cell: &Option<(f64, f64)>| match *cell {
                None => "–".to_string(),
                Some((least, median)) if row.once || options.rounds == 1 || least == median => digits(least),
                Some((least, median)) => format!("{} ({})", digits(least), digits(median)),
            };
            let peers = allocators
                .iter()
                .zip(&cells)
                .skip(1)
                .filter_map(|(name, cell)| Some((name, (*cell)?.0)));
            let best = peers.min_by(|a, b| a.1.total_cmp(&b.1));
            let verdict = match (cells[0], best) {
                (Some((baton, _)), Some((name, best))) => format!("{name} | {:.2}", baton / best),
                _ => "– | –".to_string(),
            };
            println!(
                "| {name} | {} | {verdict} |",
                cells.iter().map(text).collect::<Vec<_>>().join(" | ")
            );
        }
    }
    println!();
    println!(
        "Least of {} rounds (median in brackets), a fresh process each, in turn. What the rows do:",
        options.rounds
    );
    let shown: Vec<&Row> = ROWS
        .iter()
        .filter(|row| row.names.iter().any(|name| name.contains(&options.only)))
        .collect();
    for alike in shown.chunk_by(|a, b| a.what == b.what) {
        let names: Vec<_> = alike.iter().flat_map(|row| row.names).copied().collect();
        println!("- {}: {}.", names.join("; "), alike[0].what);
    }
}
