//! Everything at once, by seed: goroutines that start others, wait for each other and for files, wake, block, compute for too
//! long, panic, go deep, stay on their thread, and change the number of processors under each other. What each does is drawn
//! beforehand, so the sums at the end are known exactly.
//!
//! ```text
//! cargo test --release --test chaos                                          a few seeds
//! BATON_CHAOS_SECONDS=1800 cargo test --release --test chaos -- --nocapture  half an hour, with a line every minute
//! BATON_CHAOS_SEED=17 cargo test --release --test chaos                      beginning with this seed
//! ```

use baton::{chan, go, io::Pollable, sync::WaitGroup};
use std::{
    env, fs,
    hint::{black_box, spin_loop},
    io::{Read, Write},
    os::unix::net::UnixStream,
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Seeds of an ordinary run.
const SEEDS: u64 = if cfg!(debug_assertions) { 4 } else { 10 };
/// Goroutines that act, at each seed.
const ACTORS: u64 = if cfg!(debug_assertions) { 60 } else { 150 };
/// Recursion that a goroutine's stack of 1 MiB bears.
const DEPTH: u64 = if cfg!(debug_assertions) { 500 } else { 1_000 };
/// What each of them does.
const ACTS: usize = 24;

/// One thing that a goroutine does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Yield,
    /// Starts so many goroutines and waits for each; every third panics.
    Join(u64),
    /// Starts goroutines that nobody joins.
    Detach(u64),
    /// Sends so many messages to the collector.
    Send(u64),
    /// Sleeps for so many microseconds.
    Sleep(u64),
    /// Blocks its thread for so many microseconds, and tells nobody.
    Block(u64),
    Declare(u64),
    DeclareNow(u64),
    /// Computes for so many microseconds.
    Hog(u64),
    /// Recurses so deep, in units of 600 bytes or, in a debug build, 1,100.
    Deep(u64),
    /// The same on the thread's own stack, where it is more than a goroutine's would bear.
    Big(u64),
    /// Stays on its thread over so many yields.
    Lock(u64),
    /// Changes the number of processors.
    Procs(u64),
    /// Waits for a file that another goroutine writes to after so many microseconds.
    File(u64),
    /// Keeps an object of so many bytes, and gives up another one, if there are more than three.
    Keep(u64),
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn act(&mut self) -> Act {
        match self.below(100) {
            0..10 => Act::Yield,
            10..20 => Act::Join(1 + self.below(5)),
            20..30 => Act::Detach(1 + self.below(8)),
            30..44 => Act::Send(1 + self.below(6)),
            44..54 => Act::Sleep(self.below(400)),
            54..60 => Act::Block(self.below(300)),
            60..66 => Act::Declare(self.below(200)),
            66..70 => Act::DeclareNow(self.below(200)),
            70..72 => Act::Hog(self.below(300)),
            72..80 => Act::Deep(self.below(DEPTH)),
            80..83 => Act::Big(self.below(4000)),
            83..88 => Act::Lock(1 + self.below(4)),
            88..90 => Act::Procs(1 + self.below(6)),
            90..94 => Act::File(self.below(200)),
            _ => Act::Keep(1 + self.below(5000)),
        }
    }
}

/// What was done, and what is to be done.
#[derive(Default)]
struct Sums {
    ended: AtomicU64,
    panicked: AtomicU64,
    received: AtomicU64,
    depth: AtomicU64,
    acts: AtomicU64,
}

impl Sums {
    fn add(&self, other: [u64; 5]) {
        let fields = [&self.ended, &self.panicked, &self.received, &self.depth, &self.acts];
        fields
            .iter()
            .zip(other)
            .for_each(|(sum, n)| _ = sum.fetch_add(n, Relaxed));
    }

    fn get(&self) -> [u64; 5] {
        [&self.ended, &self.panicked, &self.received, &self.depth, &self.acts].map(|sum| sum.load(Relaxed))
    }

    /// What an act adds, in the order of the fields.
    fn of(act: Act) -> [u64; 5] {
        match act {
            Act::Join(n) => [n - n / 3, n / 3, 0, 0, 1],
            Act::Detach(n) => [n, 0, 0, 0, 1],
            Act::File(_) => [1, 0, 0, 0, 1],
            Act::Send(n) => [0, 0, n, 0, 1],
            Act::Deep(n) | Act::Big(n) => [0, 0, 0, n, 1],
            _ => [0, 0, 0, 0, 1],
        }
    }
}

fn deep(n: u64) -> u64 {
    let frame = black_box([n; 64]);
    if n == 0 {
        0
    } else {
        deep(n - 1) + frame[9] - frame[10] + 1
    }
}

/// Two ends of a stream, the first of which is waited for without a thread.
fn pair() -> (Pollable<UnixStream>, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    (Pollable::new(here).unwrap(), there)
}

fn block(us: u64) {
    thread::sleep(Duration::from_micros(us));
}

/// What one goroutine has with it.
struct Actor {
    sums: Arc<Sums>,
    /// Held by each goroutine, until it has counted.
    group: WaitGroup,
    bell: chan::Sender<u64>,
    kept: Vec<Vec<u8>>,
}

impl Actor {
    /// Starts a goroutine that counts.
    fn start(&self) -> baton::JoinHandle<()> {
        let (sums, member) = (Arc::clone(&self.sums), self.group.clone());
        go!(move || {
            sums.add([1, 0, 0, 0, 0]);
            drop(member);
        })
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Yield => baton::yield_now(),
            Act::Join(n) => {
                let (whole, broken) = (n - n / 3, n / 3);
                let whole: Vec<_> = (0..whole).map(|_| self.start()).collect();
                let broken: Vec<_> = (0..broken).map(|i| go!(move || panic::panic_any(Wanted(i)))).collect();
                whole.into_iter().for_each(|g| g.join().unwrap());
                for (i, g) in broken.into_iter().enumerate() {
                    let error: Result<(), _> = g.join();
                    let payload = error.unwrap_err().into_panic();
                    assert_eq!(payload.downcast_ref(), Some(&Wanted(i as u64)));
                    self.sums.add([0, 1, 0, 0, 0]);
                }
            }
            Act::Detach(n) => (0..n).for_each(|_| drop(self.start())),
            Act::Send(n) => (0..n).for_each(|_| self.bell.send(1).unwrap()),
            Act::Sleep(us) => baton::time::sleep(Duration::from_micros(us)),
            Act::Block(us) => block(us),
            Act::Declare(us) => baton::blocking(|| block(us)),
            Act::DeclareNow(us) => baton::blocking_now(|| block(us)),
            Act::Hog(us) => {
                let since = Instant::now();
                while since.elapsed() < Duration::from_micros(if us < 10 { us + 15_000 } else { us }) {
                    spin_loop();
                }
            }
            Act::Deep(n) => self.sums.add([0, 0, 0, deep(n), 0]),
            Act::Big(n) => self.sums.add([0, 0, 0, baton::on_big_stack(|| deep(n)), 0]),
            Act::Lock(n) => {
                let guard = baton::lock_os_thread();
                let here = thread::current().id();
                for _ in 0..n {
                    baton::yield_now();
                    assert_eq!(thread::current().id(), here, "locked to its thread");
                }
                drop(guard);
            }
            Act::Procs(n) => _ = baton::set_procs(usize::try_from(n).unwrap()).unwrap(),
            Act::File(us) => {
                let (mut here, there) = pair();
                let (sums, member) = (Arc::clone(&self.sums), self.group.clone());
                go!(move || {
                    baton::time::sleep(Duration::from_micros(us));
                    (&there).write_all(&[us as u8]).unwrap();
                    sums.add([1, 0, 0, 0, 0]);
                    drop(member);
                });
                let mut byte = [0];
                here.read_exact(&mut byte).unwrap();
                assert_eq!(byte, [us as u8]);
            }
            Act::Keep(n) => {
                let n = usize::try_from(n).unwrap();
                self.kept.push(vec![n as u8; n]);
                if self.kept.len() > 3 {
                    let other = self.kept.swap_remove(n % 4);
                    assert!(
                        other.iter().all(|&byte| byte == other.len() as u8),
                        "somebody wrote here"
                    );
                }
            }
        }
        self.sums.add([0, 0, 0, 0, 1]);
    }
}

/// What goroutines panic with here.
#[derive(Debug, PartialEq)]
struct Wanted(u64);

fn run(seed: u64) {
    let (sums, expected) = (Arc::new(Sums::default()), Sums::default());
    let (bell, rung) = chan::bounded((seed % 4) as usize);
    let group = WaitGroup::new();
    let collector = {
        let sums = Arc::clone(&sums);
        go!(move || rung.iter().for_each(|n| sums.add([0, 0, n, 0, 0])))
    };
    for i in 0..ACTORS {
        let mut dice = Dice(seed << 32 | i);
        let acts: Vec<Act> = (0..ACTS).map(|_| dice.act()).collect();
        acts.iter().for_each(|&act| expected.add(Sums::of(act)));
        let mut actor = Actor {
            sums: Arc::clone(&sums),
            group: group.clone(),
            bell: bell.clone(),
            kept: Vec::new(),
        };
        go!(move || acts.into_iter().for_each(|act| actor.act(act)));
    }
    drop(bell);
    group.wait();
    collector.join().unwrap();
    assert_eq!(sums.get(), expected.get(), "seed {seed}");
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn rss_mib() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() / 256
}

#[test]
fn chaos_ends_with_exact_sums() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Wanted>() {
            hook(info);
        }
    }));
    let (first, seconds) = (number("BATON_CHAOS_SEED").unwrap_or(1), number("BATON_CHAOS_SECONDS"));
    let start = Instant::now();
    let mut minutes = 0;
    for seed in first.. {
        let over = match seconds {
            Some(seconds) => start.elapsed() >= Duration::from_secs(seconds),
            None => seed == first + SEEDS,
        };
        if over {
            println!("seeds {first} to {} are as expected", seed - 1);
            break;
        }
        baton::run(|| run(seed));
        if start.elapsed().as_secs() / 60 > minutes {
            minutes = start.elapsed().as_secs() / 60;
            let metrics = baton::metrics();
            println!(
                "minute {minutes}: seed {seed}, {} spawned, {} alive, {} threads, {} MiB resident",
                metrics.spawned,
                metrics.goroutines,
                metrics.threads,
                rss_mib()
            );
        }
    }
}
