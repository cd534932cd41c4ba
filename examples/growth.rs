//! Stacks that grow in place: what it costs, and that nothing moves.
//!
//! ```text
//! cargo run --release --example growth
//! ```
//!
//! Goroutines recurse to depths from 2 KiB to 16 MiB, in both ways in which a stack can grow: by a guard that traps where
//! they go deeper than most, and by the kernel's demand paging alone. Beside them, the same recursion in a bare coroutine on
//! corosensei's `DefaultStack` of the same size, a mapping with a guard page. Every depth and mode has a process of its own,
//! so that none finds what another has left in the pools.
//!
//! | figure | what is in it |
//! |---|---|
//! | cold | getting a stack that never ran before, starting on it, the recursion down and back |
//! | warm | the same on a stack that was as deep before; `DefaultStack`s are kept by hand, Baton keeps them itself |
//! | doublings, traps | what the metrics counted, for one cold goroutine |
//!
//! The end of the goroutine and the end of the mapping are in neither. All cold stacks are alive at the same time, so that
//! each is a new one. Figures are medians, on one processor unless `BATON_PROCS` says otherwise.
//!
//! Then the check: a chain of frames in which each holds a pointer to its caller's frame, and a heap cell that holds the
//! frame's own address. At the bottom, when the stack has grown below all of them, every frame must be found where it was
//! when it was entered, by the chain, by the heap cells and by a ledger, with what it held; and again on the way up.

use baton::{chan, go};
use corosensei::{Coroutine, CoroutineResult, stack::DefaultStack};
use recursion::descend;
use std::{
    env,
    hint::black_box,
    process::{Command, ExitCode, Stdio},
    ptr,
    time::Instant,
};

#[path = "shared/recursion.rs"]
mod recursion;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// How deep to go.
const DEPTHS: [usize; 7] = [2 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
/// Tells a child that it is one.
const CHILD: &str = "BATON_GROWTH_CHILD";
/// Tells it how stacks grow; without this its stacks are corosensei's.
const GROWTH: &str = "BATON_STACK_GROWTH";
/// Warm samples of a depth.
const WARM: usize = 101;

/// Cold samples of a depth: fewer of the deep ones, since all are alive at once.
fn cold_samples(depth: usize) -> usize {
    ((64 << 20) / depth).clamp(5, 41)
}

/// What a goroutine does, and so the kind of stack that it has to itself.
#[derive(Clone, Copy)]
enum Part {
    First,
    Warm,
    Cold,
    Check,
}

/// The reservation for a depth: the next megabyte and a sixteenth to spare. A page more for each part keeps their pools
/// apart.
fn reservation(depth: usize, part: Part) -> usize {
    depth.next_multiple_of(1 << 20) + (depth / 16).next_multiple_of(64 << 10) + ((part as usize) << 12)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn nanos(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

/// What one depth came to in one growth mode.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    cold: f64,
    warm: f64,
    /// For one cold goroutine.
    doublings: f64,
    traps: f64,
    /// What the check found.
    checked: Checked,
}

fn main() -> ExitCode {
    if let Ok(depth) = env::var(CHILD) {
        let depth = depth.parse().expect("the parent says how deep");
        if env::var_os(GROWTH).is_some() {
            baton::run(|| child(depth));
        } else {
            default_stack(depth);
        }
        return ExitCode::SUCCESS;
    }
    let trap = DEPTHS.map(|depth| in_child(depth, Some("trap")));
    let demand = DEPTHS.map(|depth| in_child(depth, Some("demand")));
    let default = DEPTHS.map(|depth| in_child(depth, None));
    report(&trap, &demand, &default)
}

// ---- One depth in one growth mode, in a process of its own.

/// Measures and checks, and prints a line of numbers.
fn child(depth: usize) {
    // What only the first goroutine of a process pays.
    baton_cold(1, 4 << 10, reservation(4 << 10, Part::First));
    let warm = median(baton_warm(depth, reservation(depth, Part::Warm)));
    let before = baton::metrics();
    let cold = baton_cold(cold_samples(depth), depth, reservation(depth, Part::Cold));
    let after = baton::metrics();
    let each = |before: u64, after: u64| (after - before) as f64 / cold.len() as f64;
    let doublings = each(before.stack_doublings, after.stack_doublings);
    let traps = each(before.stack_traps, after.stack_traps);
    let max_stack = reservation(depth, Part::Check);
    let checked = go!(name = "check", max_stack = max_stack; check(depth))
        .join()
        .expect("the check does not panic");
    println!(
        "{} {warm} {doublings} {traps} {} {} {}",
        median(cold),
        u8::from(checked.addresses),
        u8::from(checked.contents),
        checked.deepest
    );
}

/// Runs this program again as a child in which stacks grow in this way, or which has corosensei's, and reads what it printed.
fn in_child(depth: usize, growth: Option<&str>) -> Row {
    let mut command = Command::new(env::current_exe().expect("this program has a path"));
    command.env(CHILD, depth.to_string());
    match growth {
        Some(growth) => command.env(GROWTH, growth),
        None => command.env_remove(GROWTH),
    };
    if env::var_os("BATON_PROCS").is_none() {
        command.env("BATON_PROCS", "1");
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be run again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}, stacks that grow by {growth:?}: {}: {text}",
        size(depth),
        output.status
    );
    parse(text.trim_end())
}

fn parse(line: &str) -> Row {
    let numbers: Vec<f64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
    let &[cold, warm, doublings, traps, addresses, contents, deepest] = &*numbers else {
        panic!("seven numbers, not: {line}");
    };
    Row {
        cold,
        warm,
        doublings,
        traps,
        checked: Checked {
            addresses: addresses == 1.0,
            contents: contents == 1.0,
            deepest: deepest as usize,
        },
    }
}

/// The times of goroutines that run on new stacks: none ends before all have run.
fn baton_cold(samples: usize, depth: usize, max_stack: usize) -> Vec<f64> {
    let (release, released) = chan::bounded::<()>(0);
    let (tx, rx) = chan::bounded(1);
    let mut handles = Vec::new();
    let times = (0..samples)
        .map(|_| {
            let (tx, released) = (tx.clone(), released.clone());
            let start = Instant::now();
            handles.push(go!(name = "cold", max_stack = max_stack; move || {
                black_box(descend(depth));
                tx.send(nanos(start)).expect("somebody waits for it");
                let _ = released.recv(); // an error, when the sender is dropped
            }));
            rx.recv().expect("the goroutine has sent it")
        })
        .collect();
    drop(release);
    handles.into_iter().for_each(|handle| handle.join().expect("no panic"));
    times
}

/// The times of goroutines that run one after the other.
fn baton_warm(depth: usize, max_stack: usize) -> Vec<f64> {
    let once = || {
        let start = Instant::now();
        let goroutine = go!(name = "warm", max_stack = max_stack; move || {
            black_box(descend(depth));
            nanos(start)
        });
        goroutine.join().expect("no panic")
    };
    once();
    (0..WARM).map(|_| once()).collect()
}

// ---- corosensei's stack, in a process of its own too.

/// Measures, and prints a line of numbers as [`child`] does.
fn default_stack(depth: usize) {
    let new = || DefaultStack::new(reservation(depth, Part::Cold)).expect("there is address space");
    let run = |start: Instant, stack: DefaultStack| {
        let mut coroutine = Coroutine::<(), (), f64, DefaultStack>::with_stack(stack, move |_, ()| {
            black_box(descend(depth));
            nanos(start)
        });
        match coroutine.resume(()) {
            CoroutineResult::Return(ns) => (ns, coroutine.into_stack()),
            CoroutineResult::Yield(()) => unreachable!("it never suspends"),
        }
    };
    let (cold, mut stacks): (Vec<_>, Vec<_>) = (0..cold_samples(depth))
        .map(|_| {
            let start = Instant::now();
            run(start, new())
        })
        .unzip();
    let mut stack = stacks.pop();
    let warm = (0..WARM)
        .map(|_| {
            let (ns, used) = run(Instant::now(), stack.take().expect("it comes back each time"));
            stack = Some(used);
            ns
        })
        .collect();
    println!("{} {} 0 0 0 0 0", median(cold), median(warm));
}

// ---- The check.

/// What the check found.
#[derive(Clone, Copy, Debug, Default)]
struct Checked {
    /// Every frame is where it was.
    addresses: bool,
    /// And holds what it held.
    contents: bool,
    /// Bytes between the first frame and the last.
    deepest: usize,
}

/// A frame's own bytes: half a kilobyte.
struct Frame {
    caller: *const Frame,
    /// A cell on the heap that holds this frame's address.
    cell: Box<*const Frame>,
    number: usize,
    filler: [usize; 56],
}

/// Where all frames were when they were entered.
type Ledger = Vec<usize>;

impl Frame {
    fn new(caller: *const Frame, number: usize) -> Self {
        Self {
            caller,
            cell: Box::new(ptr::null()),
            number,
            filler: [number.wrapping_mul(0x9e37_79b9); 56],
        }
    }

    fn is_intact(&self, number: usize) -> bool {
        self.number == number && self.filler.iter().all(|&word| word == number.wrapping_mul(0x9e37_79b9))
    }

    /// Whether this frame, found at `self`, is the one that the ledger and the heap cell know.
    fn is_in_place(&self, ledger: &Ledger, number: usize) -> bool {
        let address = black_box(ptr::from_ref(self)).addr();
        ledger[number] == address && self.cell.addr() == address
    }
}

fn check(depth: usize) -> Checked {
    let mut ledger = Ledger::new();
    let mut found = Checked {
        addresses: true,
        contents: true,
        deepest: 0,
    };
    enter(ptr::null(), depth, &mut ledger, &mut found);
    found
}

#[inline(never)]
fn enter(caller: *const Frame, depth: usize, ledger: &mut Ledger, found: &mut Checked) {
    let number = ledger.len();
    let mut here = Frame::new(caller, number);
    let address = black_box(&raw const here);
    *here.cell = address;
    ledger.push(address.addr());
    if ledger[0] - address.addr() < depth {
        enter(address, depth, ledger, found);
    } else {
        found.deepest = ledger[0] - address.addr();
        walk(address, ledger, found);
    }
    // On the way up, from the stack pointer of now, not from what was kept.
    let here = black_box(&here);
    found.addresses &= here.is_in_place(ledger, number);
    found.contents &= here.is_intact(number);
}

/// Visits all frames from the last to the first, by the chain.
fn walk(last: *const Frame, ledger: &Ledger, found: &mut Checked) {
    let (mut at, mut left) = (last, ledger.len());
    // SAFETY: the frames of all callers are alive. If growth had moved any, this pointer would lead to where it was: to
    // memory that is still mapped, with other contents, or to a fault that ends this process, and that is a report too.
    while let Some(frame) = unsafe { at.as_ref() } {
        if left == 0 {
            break;
        }
        left -= 1;
        found.addresses &= frame.is_in_place(ledger, left);
        found.contents &= frame.is_intact(left);
        at = frame.caller;
    }
    found.addresses &= at.is_null() && left == 0;
}

// ---- The report.

fn size(bytes: usize) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

fn report(trap: &[Row], demand: &[Row], default: &[Row]) -> ExitCode {
    println!(
        "{:>8} | {:^42} | {:^42} | {:^21}",
        "", "goroutine, guard that traps", "goroutine, demand-paged", "DefaultStack"
    );
    let goroutine = format!("{:>10} {:>10} {:>9} {:>10}", "cold ns", "warm ns", "doublings", "traps");
    println!(
        "{:>8} | {goroutine} | {goroutine} | {:>10} {:>10}",
        "depth", "cold ns", "warm ns"
    );
    for (i, &depth) in DEPTHS.iter().enumerate() {
        let goroutine = |row: &Row| {
            format!(
                "{:>10.0} {:>10.0} {:>9.1} {:>10.1}",
                row.cold, row.warm, row.doublings, row.traps
            )
        };
        println!(
            "{:>8} | {} | {} | {:>10.0} {:>10.0}",
            size(depth),
            goroutine(&trap[i]),
            goroutine(&demand[i]),
            default[i].cold,
            default[i].warm
        );
    }
    let last = trap[DEPTHS.len() - 1];
    if last.traps == 0.0 {
        println!("\nNothing trapped: guards need Linux 6.13, and before it all stacks are demand-paged.");
    }
    let all = || trap.iter().chain(demand).map(|row| row.checked);
    let (addresses, contents) = (all().all(|c| c.addresses), all().all(|c| c.contents));
    let ok = |yes| if yes { "ok" } else { "bad" };
    let of = |rows: &[Row], depth| rows[DEPTHS.iter().position(|&d| d == depth).expect("one of the depths")];
    let (trap_64k, trap_1m, default_1m) = (of(trap, 64 << 10), of(trap, 1 << 20), of(default, 1 << 20));
    println!(
        "\nRESULT addresses={} contents={} max_depth_bytes={} doublings={:.0} traps={:.0} cold_64k_ns={:.0} warm_64k_ns={:.0} \
         cold_1m_ns={:.0} warm_1m_ns={:.0} default_cold_1m_ns={:.0} default_warm_1m_ns={:.0}",
        ok(addresses),
        ok(contents),
        last.checked.deepest,
        last.doublings,
        last.traps,
        trap_64k.cold,
        trap_64k.warm,
        trap_1m.cold,
        trap_1m.warm,
        default_1m.cold,
        default_1m.warm,
    );
    if addresses && contents {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
