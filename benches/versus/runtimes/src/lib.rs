//! What the programs of all runtimes share: the sizes of the rows, the recursion, the loop that burns time, and how figures are printed.
//!
//! ```text
//! runtimes (driver) ── for each round, for each row ──▶ baton ROW · go ROW · tokio ROW · may ROW · threads ROW
//!                   ◀── lines "figure value", one process each ──┘
//! ```

use std::{
    hint::black_box,
    mem::MaybeUninit,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Goroutines, tasks or threads at work at once, where a row does not say otherwise.
pub const WORKERS: usize = 2;
/// Workers for a row: one if its name ends so.
#[must_use]
pub fn workers(row: &str) -> usize {
    if row.ends_with("_1") { 1 } else { WORKERS }
}

/// Spawn and join, one after the other.
pub const SPAWN_JOIN: usize = 300_000;
/// Spawned in one burst, then all awaited.
pub const BURST: usize = 1_000_000;
/// Yields of one goroutine that is alone.
pub const YIELD_ALONE: usize = 3_000_000;
/// Goroutines that yield in turn, and how often each does.
pub const YIELD_AMONG: (usize, usize) = (1_000, 2_000);
/// Messages there and back over two rendezvous channels.
pub const PING_PONG: usize = 500_000;
/// Messages over one channel of capacity 128.
pub const SPSC: usize = 4_000_000;
/// Messages over one channel of capacity 128 with four goroutines at each end.
pub const MPMC: (usize, usize) = (4, 500_000);
/// Messages received by a select over four channels.
pub const SELECT: usize = 1_000_000;
/// Leaves of the skynet tree, ten children a node.
pub const SKYNET: usize = 1_000_000;
/// Primes found by the concurrent sieve.
pub const SIEVE: usize = 2_000;
/// Goroutines at one lock and how often each takes it.
pub const MUTEX: (usize, usize) = (8, 250_000);
/// Parked at once.
pub const PARKED: usize = 1_000_000;
/// Sleepers at once; each sleeps between one second and one second and 255 ms.
pub const TIMERS: usize = 1_000_000;
/// Goroutines in blocking calls, and calls of a millisecond each.
pub const BLOCKING: (usize, usize) = (64, 50);
/// Cooperative goroutines beside the blocking ones.
pub const COOPERATIVE: usize = 4;
/// Short goroutines beside the hogs of the latency row.
pub const SHORT: usize = 100_000;
/// Bare and wrapped system calls.
pub const SYSCALLS: usize = 2_000_000;
/// Depths of the stack rows in bytes.
pub const DEPTHS: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Bytes of recursion measured for each depth, so that every row takes about as long.
pub const DEPTH_BUDGET: usize = 1 << 31;

/// Prints one figure.
pub fn figure(name: &str, value: f64) {
    println!("{name} {value}");
}

/// Prints the nanoseconds of each of `n` turns of `f`.
pub fn per_turn(n: usize, f: impl FnOnce()) {
    let start = Instant::now();
    f();
    figure("ns", start.elapsed().as_nanos() as f64 / n as f64);
}

/// Prints the nanoseconds of one call of `f` and of one of `bare`, and by how much more the first takes: the median of turns in which both
/// are called `n / 40` times each, since a machine is seldom as fast for a second as it was in the one before.
pub fn beside_bare(n: usize, f: impl Fn(), bare: impl Fn()) {
    const TURNS: usize = 40;
    let time = |f: &dyn Fn(usize)| {
        let start = Instant::now();
        f(n / TURNS);
        start.elapsed().as_nanos() as f64 / (n / TURNS) as f64
    };
    let turns: Vec<_> = (0..TURNS)
        .map(|_| {
            (
                time(&|n| (0..n).for_each(|_| f())),
                time(&|n| (0..n).for_each(|_| bare())),
            )
        })
        .collect();
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<_> = turns.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[TURNS / 2]
    };
    figure("ns", median(|turn| turn.0));
    figure("bare ns", median(|turn| turn.1));
    figure("adds ns", median(|turn| turn.0 - turn.1));
}

/// Prints the milliseconds that `f` takes.
pub fn in_all(f: impl FnOnce()) {
    let start = Instant::now();
    f();
    figure("ms", start.elapsed().as_secs_f64() * 1e3);
}

/// Recurses until `bytes` of stack are in use, with frames of about 160 bytes; returns something that depends on them all.
#[inline(never)]
pub fn recurse(bytes: usize) -> u64 {
    let mut frame = [bytes as u64; 12];
    black_box(&mut frame);
    if bytes > 160 {
        recurse(bytes - 160) + frame[bytes % 12]
    } else {
        frame[0]
    }
}

/// A unit of work of about 10 µs that no compiler removes.
pub fn unit() -> u64 {
    let mut x = black_box(88_172_645_463_325_252_u64);
    for _ in 0..2_600 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    black_box(x)
}

/// The longest time for which the machine stood still while it was meant to run a loop of [`compute_while`], in nanoseconds.
static STOOD_STILL: AtomicU64 = AtomicU64::new(0);

/// Computes as long as it is to `go_on`, and notes when the machine does not.
///
/// A few units take a fraction of a millisecond. If they took longer and no other thread ran in between, by this thread's count of
/// switches, then it was the host that did not run this CPU.
pub fn compute_while(go_on: impl Fn() -> bool) {
    let (mut before, mut switches_before) = (Instant::now(), switches());
    while go_on() {
        (0..16).for_each(|_| keep(unit()));
        let (now, switches) = (Instant::now(), switches());
        if switches == switches_before {
            STOOD_STILL.fetch_max((now - before).as_nanos() as u64, Relaxed);
        }
        (before, switches_before) = (now, switches);
    }
}

/// How often this thread has lost or given up its CPU to another one.
fn switches() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: fills a struct that lives here; all its values may be zero, should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nvcsw + usage.ru_nivcsw
}

/// Sleeps in the kernel for a millisecond, without asking any runtime.
pub fn raw_sleep() {
    let ms = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    // SAFETY: `ms` is a valid time; the remaining time is not asked for.
    unsafe { libc::nanosleep(&ms, std::ptr::null_mut()) };
}

/// A short system call, never answered from a cache.
pub fn getppid() {
    // SAFETY: it takes nothing and cannot fail.
    black_box(unsafe { libc::syscall(libc::SYS_getppid) });
}

/// Counts the ticks of a clock that should come every millisecond, the longest gap between two, and how late each one was.
#[derive(Debug)]
pub struct Ticks {
    start: Instant,
    last: Instant,
    next: Instant,
    gap: Duration,
    late: Vec<Duration>,
}

impl Default for Ticks {
    fn default() -> Self {
        Self::new()
    }
}

impl Ticks {
    /// Starts now.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            last: now,
            next: now + Duration::from_millis(1),
            gap: Duration::ZERO,
            late: Vec::with_capacity(8_192),
        }
    }

    /// How long to sleep until the next tick.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Counts a tick; ticks that were missed are not made up for. Returns whether two seconds have not passed yet.
    pub fn tick(&mut self) -> bool {
        let now = Instant::now();
        self.gap = self.gap.max(now - self.last);
        self.late.push(now.saturating_duration_since(self.next));
        self.last = now;
        while self.next <= now {
            self.next += Duration::from_millis(1);
        }
        now - self.start < Duration::from_secs(2)
    }

    /// Prints the share of ticks, the longest gap, the lateness that one tick in a thousand exceeds, and the longest time for which the
    /// machine stood still meanwhile, as far as a [`compute_while`] has seen.
    pub fn print(mut self) {
        self.late.sort();
        let at = (self.late.len() * 999 / 1_000).min(self.late.len() - 1);
        figure("ticks %", self.late.len() as f64 / 20.0);
        figure("gap ms", self.gap.as_secs_f64() * 1e3);
        figure("p99.9 late ms", self.late[at].as_secs_f64() * 1e3);
        figure("machine still ms", STOOD_STILL.load(Relaxed) as f64 / 1e6);
    }
}

/// Counts the work of the cooperative goroutines beside the blocking ones and puts it in relation to what they do alone.
#[derive(Debug, Default)]
pub struct Cooperation {
    units: AtomicU64,
}

impl Cooperation {
    /// Does one unit and counts it.
    pub fn work(&self) {
        unit();
        self.units.fetch_add(1, Relaxed);
    }

    /// Prints wall time and the share of work that was kept: `alone` are the units done in `alone_for` with nobody beside.
    pub fn print(&self, wall: Duration, before: u64, alone_for: Duration) {
        let alone = before as f64 / alone_for.as_secs_f64();
        let beside = (self.units() - before) as f64 / wall.as_secs_f64();
        figure("wall ms", wall.as_secs_f64() * 1e3);
        figure("kept %", 100.0 * beside / alone);
    }

    /// Units done so far.
    pub fn units(&self) -> u64 {
        self.units.load(Relaxed)
    }
}

/// CPU seconds that this process has used.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// The row that the command line asks for.
#[must_use]
pub fn row() -> String {
    std::env::args().nth(1).expect("the name of a row")
}

/// Says that this program has no such row.
pub fn none() -> ! {
    std::process::exit(3)
}

/// Drops a value that the compiler must believe to be used.
pub fn keep<T>(value: T) {
    black_box(value);
}
