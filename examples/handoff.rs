//! Syscall-handoff cache retention: what it is worth that a processor takes its mcache along.
//!
//! ```text
//! cargo run --release --example handoff
//! ```
//!
//! Workers allocate batches of [`ROUND`] objects and send them to writers. A writer frees what it gets, and after every
//! [`SEVERAL`]th batch it blocks in a real system call of which nobody is told, as if it had written them to a disk. (One that
//! blocked each time would be known for it: it would run without a processor, and free nothing there.) The same workload runs twice, each
//! time in a process of its own: with mcaches owned by processors, and, as the control, with an mcache that belongs to the
//! thread and stays behind with it when the processor leaves. A processor that takes its mcache along brings what the
//! writer has just freed to the next worker; an mcache that stays behind strands it in a blocked thread.
//!
//! Counted are the refills of first batches: those that a worker allocates on a processor where writers have freed some since
//! the last one there. If another thread runs the processor by then, there was a handoff in between; if the same thread does,
//! there was none, and this is what such a batch costs anyway. The difference is what the handoff costs.
//!
//! All other batches say nothing of handoffs. Workers allocate several in a row, and some of what they allocate was freed by
//! a writer that had no processor at the time (who has blocked once is foreseen, wrongly here, the next time): it comes back
//! by refills, whoever owns the mcaches.

use baton::{
    chan,
    debug::{self, Snapshot},
    go,
    sync::WaitGroup,
};
use std::{
    env,
    hint::black_box,
    process::Command,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Objects of a batch.
const ROUND: usize = 1_000;
/// Goroutines that free and block.
const WRITERS: usize = 24;
/// Batches from one time that a writer blocks to the next.
const SEVERAL: usize = 8;
/// Goroutines that allocate, per processor.
const WORKERS: usize = 4;
/// Batches on their way.
const BACKLOG: usize = 8;
/// How long the workload runs.
const TIME: Duration = Duration::from_millis(1_500);
/// Tells a child which half it is.
const HALF: &str = "BATON_HANDOFF_HALF";

static STOP: AtomicBool = AtomicBool::new(false);

/// What the batches came to.
struct Sums {
    /// Batches freed, those of them that a writer freed without a processor, and the time of all allocations and frees.
    batches: AtomicU64,
    freed_without: AtomicU64,
    nanos: AtomicU64,
    /// First batches after a handoff, first batches without one, and all others.
    windows: [Window; 3],
    stranded: AtomicUsize,
}

/// What mcaches counted while batches of one kind were allocated.
struct Window {
    batches: AtomicU64,
    hits: AtomicU64,
    refills: AtomicU64,
}

static SUMS: Sums = Sums {
    batches: AtomicU64::new(0),
    freed_without: AtomicU64::new(0),
    nanos: AtomicU64::new(0),
    windows: [const {
        Window {
            batches: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            refills: AtomicU64::new(0),
        }
    }; 3],
    stranded: AtomicUsize::new(0),
};

/// The thread that freed a batch on each processor last; nobody, once another batch was allocated there.
static FREED_ON: [AtomicU32; 1024] = [const { AtomicU32::new(NOBODY) }; 1024];
const NOBODY: u32 = u32::MAX;

fn main() {
    match env::var(HALF).as_deref() {
        Ok("identity") => identity(),
        Ok(_) => workload(),
        Err(_) => compare(),
    }
}

/// Runs this program again as one of its halves, and gives the numbers of its last line.
fn child(half: &str, vars: &[(&str, &str)]) -> Vec<f64> {
    let output = Command::new(env::current_exe().expect("this program has a path"))
        .env(HALF, half)
        .envs(vars.iter().copied())
        .output()
        .expect("this program can be run again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{half}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect()
}

fn compare() {
    println!("One processor, one goroutine that stops getting on, another that runs next on it:");
    for cause in ["declared", "undeclared", "hog"] {
        child("identity", &[("BATON_PROCS", "1"), ("BATON_CAUSE", cause)]);
        println!("  {cause:<10} the mcache before and after is the same object with the same contents");
    }
    println!("\n{WORKERS} goroutines per processor that allocate, {WRITERS} that free and block:");
    let p = child("workload", &[]);
    let m = child("workload", &[("BATON_CACHE_OWNER", "m")]);
    let line = |name: &str, i: usize| println!("  {name:<52} {:>12.3} {:>12.3}", p[i], m[i]);
    println!("  {:<52} {:>12} {:>12}", "", "P owns", "M keeps");
    line("handoffs", 0);
    line("mcentral refills in the first 1,000 allocations after", 1);
    line("mcentral refills in as many without a handoff", 5);
    line("hit rate in the first 1,000 allocations after", 2);
    line("bytes stranded in threads without a processor", 3);
    line("ns per allocation and free, over all batches", 4);
    line("mcentral refills in all other batches, each", 6);
    line("batches freed without a processor, of 1,000", 7);
    println!(
        "\nRESULT identity=ok contents=ok handoffs={:.0} p_refills_per_handoff={:.3} m_refills_per_handoff={:.3} \
         p_refills_without={:.3} m_refills_without={:.3} p_hit_rate={:.4} m_hit_rate={:.4} m_stranded_bytes={:.0} \
         p_ns_per_alloc={:.2} m_ns_per_alloc={:.2}",
        p[0], p[1], m[1], p[5], m[5], p[2], m[2], m[3], p[4], m[4]
    );
}

/// Sleeps in the kernel by a raw system call.
fn nanosleep(duration: Duration) {
    let spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: duration.subsec_nanos().into(),
    };
    // SAFETY: reads one timespec.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const spec, 0) };
}

type Batch = Vec<Box<[u8]>>;

/// `ROUND` objects of 16 sizes, all live at once.
fn allocate() -> Batch {
    (0..ROUND)
        .map(|i| black_box(vec![0_u8; 16 + i % 16 * 32].into_boxed_slice()))
        .collect()
}

/// The processor and the thread that the caller runs on.
fn here() -> Option<(usize, u32)> {
    debug::processor().zip(debug::thread())
}

/// A batch, and the books about it.
fn counted_batch() -> Batch {
    let (before, counts) = (here(), debug::cache());
    let start = Instant::now();
    let batch = allocate();
    SUMS.nanos.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
    if let (Some((p, thread)), Some(a), Some(b)) = (before, counts, debug::cache())
        && before == here()
    {
        let window = match FREED_ON[p].swap(NOBODY, Relaxed) {
            NOBODY => &SUMS.windows[2],
            freed_on => &SUMS.windows[usize::from(freed_on == thread)],
        };
        window.batches.fetch_add(1, Relaxed);
        window.hits.fetch_add(b.hits - a.hits, Relaxed);
        window.refills.fetch_add(b.refills - a.refills, Relaxed);
    }
    batch
}

/// Frees a batch, and then blocks, if that is the last one of several.
fn write(batch: Batch, pause: Option<Duration>) {
    let before = here();
    let start = Instant::now();
    drop(batch);
    SUMS.nanos.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
    match before.filter(|_| before == here()) {
        Some((p, thread)) => FREED_ON[p].store(thread, Relaxed),
        None => {
            SUMS.freed_without.fetch_add(1, Relaxed);
        }
    }
    SUMS.batches.fetch_add(1, Relaxed);
    pause.into_iter().for_each(nanosleep);
}

fn workload() {
    let handoffs = || {
        let m = baton::metrics();
        m.handoffs_declared + m.handoffs_undeclared + m.handoffs_hog
    };
    baton::run(|| {
        let group = WaitGroup::new();
        let (tx, rx) = chan::bounded(BACKLOG);
        for i in 0..WRITERS {
            let (member, rx) = (group.clone(), rx.clone());
            go!(name = "writer"; move || {
                let pause = Duration::from_micros(1_000 + 97 * i as u64);
                let blocks = |n: usize| (n % SEVERAL == i % SEVERAL).then_some(pause);
                rx.iter().enumerate().for_each(|(n, batch)| write(batch, blocks(n)));
                drop(member);
            });
        }
        for _ in 0..WORKERS * baton::procs() {
            let (member, tx) = (group.clone(), tx.clone());
            go!(name = "worker"; move || {
                while !STOP.load(Relaxed) {
                    tx.send(counted_batch()).expect("the writers outlive the workers");
                }
                drop(member);
            });
        }
        drop((tx, rx));
        baton::blocking(|| {
            let start = Instant::now();
            while start.elapsed() < TIME {
                thread::sleep(Duration::from_millis(10));
                SUMS.stranded.fetch_max(debug::stranded_bytes(), Relaxed);
            }
        });
        STOP.store(true, Relaxed);
        group.wait();
    });
    let sum = |n: &AtomicU64| n.load(Relaxed) as f64;
    let each = |window: &Window, n: &AtomicU64| sum(n) / sum(&window.batches).max(1.0);
    let [after, without, others] = &SUMS.windows;
    let batches = sum(&SUMS.batches).max(1.0);
    println!(
        "{} {} {} {} {} {} {} {}",
        handoffs(),
        each(after, &after.refills),
        // A batch is one object more: the vector that holds it.
        each(after, &after.hits) / (ROUND + 1) as f64,
        SUMS.stranded.load(Relaxed),
        sum(&SUMS.nanos) / (batches * ROUND as f64),
        each(without, &without.refills),
        each(others, &others.refills),
        sum(&SUMS.freed_without) / batches * 1000.0
    );
}

/// On one processor: a goroutine fills the mcache, takes its picture and stops getting on; the one that waits runs next, on
/// another thread, and takes a picture too. On a busy machine the first may lose its processor too early; then once more.
fn identity() {
    let cause = env::var("BATON_CAUSE").expect("the parent says how");
    baton::run(|| {
        let compared = (0..100).any(|_| {
            baton::yield_now();
            pictures(&cause)
        });
        assert!(compared, "the processor was gone too early a hundred times");
    });
}

/// `false`: the processor was gone before the first picture.
fn pictures(cause: &str) -> bool {
    static READY: AtomicBool = AtomicBool::new(false);
    static SEEN: AtomicBool = AtomicBool::new(false);
    READY.store(false, SeqCst);
    SEEN.store(false, SeqCst);
    let thread = debug::thread();
    let other = go!(move || {
        let in_time = READY.load(SeqCst);
        let mut after = Snapshot::default();
        let taken = debug::snapshot(&mut after);
        let moved = debug::thread() != thread;
        SEEN.store(true, SeqCst);
        in_time.then_some((taken && moved, after))
    });
    drop(allocate());
    let mut before = Snapshot::default();
    let kept = debug::processor().is_some() && debug::snapshot(&mut before) && debug::processor().is_some();
    READY.store(kept, SeqCst);
    let wait = |pause: fn()| {
        while !SEEN.load(SeqCst) {
            pause();
        }
    };
    let sleep = || nanosleep(Duration::from_millis(2));
    match cause {
        "declared" => baton::blocking(|| wait(sleep)),
        "undeclared" => wait(sleep),
        _ => wait(std::hint::spin_loop),
    }
    let Some((good, after)) = other.join().expect("no panic") else {
        return false;
    };
    assert!(good, "it ran on another thread, with a processor");
    assert_eq!(before.cache, after.cache, "the same mcache");
    assert_eq!(before, after, "with the same contents");
    true
}
