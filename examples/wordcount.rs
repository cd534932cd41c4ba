//! Counts the words of a directory tree, with a goroutine for each directory, each file and every few lines, and plain
//! `std::fs`.
//!
//! ```text
//! cargo run --release --example wordcount [DIR]
//! ```
//!
//! ```text
//!   goroutine of a directory ──go!──▶ goroutine of a directory ──▶ …
//!              └──────────────go!──▶ goroutine of a file ──go!──▶ goroutine of a piece
//!                                         └──────▶ channel ◀──────────┘
//!                                                     └──▶ gatherers, one per processor ──▶ the sum
//! ```
//!
//! Nothing here says that reading may block: when it does, the processor goes on with other goroutines on another thread.
//! The channel is bounded, so what was counted waits until a gatherer has added what came before. It ends by itself,
//! when the last goroutine has dropped its sender.
//!
//! The same tree is counted by one thread before and after, and all of it must be equal: files, bytes, every word's count,
//! and what could not be read. The first of the two brings the files into the page cache, so it is not timed.
//!
//! Words are what lies between characters that are neither letters nor digits, in lower case; bytes that are no UTF-8 are
//! replaced first. Directories named `target` or `.git` and symbolic links are left out. Without an argument, the tree is
//! this repository.

use baton::{
    chan::{self, Sender},
    go,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Counts that wait to be added up.
const BACKLOG: usize = 64;
/// Lines that a goroutine counts.
const PIECE: usize = 8;
/// Words to print.
const TOP: usize = 20;

type Words = HashMap<String, u64>;

/// What was found at a path.
enum Found {
    /// A file; its words may come in pieces.
    File {
        bytes: u64,
        words: Words,
    },
    Piece(Words),
    Unreadable {
        path: PathBuf,
        why: io::Error,
    },
}

/// What a tree came to.
#[derive(Default, PartialEq)]
struct Count {
    files: u64,
    bytes: u64,
    words: Words,
    unreadable: BTreeMap<PathBuf, String>,
}

impl Count {
    fn add(&mut self, found: Found) {
        match found {
            Found::File { bytes, words } => {
                self.files += 1;
                self.bytes += bytes;
                self.add_words(words);
            }
            Found::Piece(words) => self.add_words(words),
            Found::Unreadable { path, why } => {
                self.unreadable.insert(path, why.to_string());
            }
        }
    }

    fn add_words(&mut self, words: Words) {
        for (word, n) in words {
            *self.words.entry(word).or_default() += n;
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.files += other.files;
        self.bytes += other.bytes;
        self.add_words(other.words);
        self.unreadable.extend(other.unreadable);
        self
    }

    fn total(&self) -> u64 {
        self.words.values().sum()
    }
}

// ---- What both ways of counting share.

/// What a directory's entry is to be counted as.
enum Kind {
    Directory,
    File,
}

/// The entries of a directory that count. Those that cannot be looked at are handed to `unreadable`.
fn entries(dir: &Path, mut unreadable: impl FnMut(Found)) -> Vec<(Kind, PathBuf)> {
    let mut report = |path: &Path, why| unreadable(Found::Unreadable { path: path.into(), why });
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(why) => {
            report(dir, why);
            return Vec::new();
        }
    };
    let mut entries = Vec::new();
    for entry in listing {
        let entry = match entry {
            Ok(entry) => entry,
            Err(why) => {
                report(dir, why);
                continue;
            }
        };
        match entry.file_type() {
            Ok(kind) if kind.is_file() => entries.push((Kind::File, entry.path())),
            Ok(kind) if kind.is_dir() && !is_left_out(&entry.file_name()) => {
                entries.push((Kind::Directory, entry.path()));
            }
            Ok(_) => {}
            Err(why) => report(&entry.path(), why),
        }
    }
    entries
}

fn is_left_out(name: &OsStr) -> bool {
    name == "target" || name == ".git"
}

fn count_file(path: PathBuf) -> Found {
    match fs::read(&path) {
        Ok(contents) => Found::File {
            bytes: contents.len() as u64,
            words: count_words(&String::from_utf8_lossy(&contents)),
        },
        Err(why) => Found::Unreadable { path, why },
    }
}

fn count_words(text: &str) -> Words {
    let mut words = Words::new();
    for word in text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
    {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    words
}

// ---- One thread.

fn one_by_one(root: &Path) -> Count {
    let mut count = Count::default();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for (kind, path) in entries(&dir, |found| count.add(found)) {
            match kind {
                Kind::Directory => dirs.push(path),
                Kind::File => count.add(count_file(path)),
            }
        }
    }
    count
}

// ---- Goroutines.

fn with_goroutines(root: &Path) -> Count {
    let (tx, rx) = chan::bounded(BACKLOG);
    go!(visit(root.to_path_buf(), tx));
    let gatherers: Vec<_> = (0..baton::procs())
        .map(|_| {
            let rx = rx.clone();
            go!(move || {
                let mut count = Count::default();
                rx.iter().for_each(|found| count.add(found));
                count
            })
        })
        .collect();
    drop(rx);
    let counts = gatherers.into_iter().map(|gatherer| gatherer.join().expect("no panic"));
    counts.reduce(Count::merge).unwrap_or_default()
}

/// Starts a goroutine for each entry of a directory.
fn visit(dir: PathBuf, tx: Sender<Found>) {
    let send = |found| {
        tx.send(found)
            .expect("the gatherers receive until all senders are gone")
    };
    for (kind, path) in entries(&dir, send) {
        let tx = tx.clone();
        match kind {
            Kind::Directory => drop(go!(visit(path, tx))),
            Kind::File => drop(go!(visit_file(path, tx))),
        }
    }
}

/// Starts a goroutine for every few lines of a file.
fn visit_file(path: PathBuf, tx: Sender<Found>) {
    let send = |tx: &Sender<Found>, found| {
        tx.send(found)
            .expect("the gatherers receive until all senders are gone")
    };
    let contents = match fs::read(&path) {
        Ok(contents) => contents,
        Err(why) => return send(&tx, Found::Unreadable { path, why }),
    };
    let bytes = contents.len() as u64;
    let text: Arc<str> = String::from_utf8_lossy(&contents).into();
    let ends = text
        .match_indices('\n')
        .map(|(at, _)| at + 1)
        .skip(PIECE - 1)
        .step_by(PIECE);
    let mut start = 0;
    for end in ends.chain([text.len()]) {
        let (text, tx) = (Arc::clone(&text), tx.clone());
        go!(move || send(&tx, Found::Piece(count_words(&text[start..end]))));
        start = end;
    }
    send(
        &tx,
        Found::File {
            bytes,
            words: Words::new(),
        },
    );
}

// ---- The report.

fn main() -> ExitCode {
    let root = env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    if let Err(why) = fs::read_dir(&root) {
        eprintln!(
            "wordcount: {}: {why}; the argument must be a directory that can be read",
            root.display()
        );
        return ExitCode::FAILURE;
    }

    let before = one_by_one(&root);

    let (count, took, handoffs, goroutines) = baton::run(|| {
        let before = baton::metrics();
        let start = Instant::now();
        let count = with_goroutines(&root);
        let took = start.elapsed();
        let after = baton::metrics();
        let handoffs = [
            ("undeclared", after.handoffs_undeclared - before.handoffs_undeclared),
            ("declared", after.handoffs_declared - before.handoffs_declared),
            ("hog", after.handoffs_hog - before.handoffs_hog),
        ];
        (count, took, handoffs, after.spawned - before.spawned)
    });

    let start = Instant::now();
    let after = one_by_one(&root);
    let took_one_by_one = start.elapsed();

    let mut top: Vec<_> = count.words.iter().collect();
    top.sort_by_key(|&(word, &n)| (Reverse(n), word));
    for (word, n) in top.iter().take(TOP) {
        println!("{n:>10}  {word}");
    }
    for (path, why) in &count.unreadable {
        println!("not read: {}: {why}", path.display());
    }
    println!(
        "\n{}: {} different words, {} paths that could not be read",
        root.display(),
        count.words.len(),
        count.unreadable.len()
    );
    println!("one thread, one file after the other: {took_one_by_one:.1?}");
    println!(
        "{goroutines} goroutines on {} processors: {took:.1?}; handoffs: {}",
        baton::procs(),
        handoffs.map(|(name, n)| format!("{name} {n}")).join(", ")
    );
    let equal = count == after;
    if before != after {
        println!("the tree has changed while it was counted: take one that nobody writes to");
    } else if !equal {
        explain(&count, &after);
    }
    println!(
        "RESULT files={} bytes={} words={} goroutines={goroutines} equal={equal}",
        count.files,
        count.bytes,
        count.total()
    );
    if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says what differs.
fn explain(ours: &Count, theirs: &Count) {
    println!(
        "goroutines and one thread differ: files {} and {}, bytes {} and {}, paths not read {} and {}",
        ours.files,
        theirs.files,
        ours.bytes,
        theirs.bytes,
        ours.unreadable.len(),
        theirs.unreadable.len()
    );
    let of = |count: &Count, word: &str| count.words.get(word).copied().unwrap_or(0);
    let mut words: Vec<_> = ours.words.keys().chain(theirs.words.keys()).collect();
    words.sort();
    words.dedup();
    for word in words
        .into_iter()
        .filter(|word| of(ours, word) != of(theirs, word))
        .take(TOP)
    {
        println!("  {word}: {} and {}", of(ours, word), of(theirs, word));
    }
}
