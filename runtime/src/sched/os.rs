//! Threads and the system: how one starts, does one that does not get on sleep, and how soon does it run when it wakes up?

use crate::fatal;
use baton_alloc::lease;
use baton_stack::AltStack;
use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    fs::{self, File},
    io,
    mem::MaybeUninit,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    ptr,
    sync::atomic::{AtomicI32, Ordering::Relaxed},
};

/// Probes that are kept at a time: each holds a file descriptor, of which the program has a limited number.
const KEPT: usize = 64;

/// The slice that a prompt thread asks for, in nanoseconds: the shortest that Linux grants.
const SHORT_NS: u64 = 100_000;

/// Files for which there is room in the kernel's table from the beginning; a pointer each.
const ROOM: u64 = 16 << 10;

/// By how much the system may be late with a timer of an ordinary thread, in nanoseconds: what the first prompt one had before.
static SLACK: AtomicI32 = AtomicI32::new(0);

/// Asks the system to run this thread soon after it wakes up, whoever has the CPU: short sleeps that are short, and a slice that
/// is shorter than everybody else's, for which Linux (6.12 and later; before that nothing comes of it) interrupts the one that runs.
pub(super) fn be_prompt() {
    // SAFETY: reads the timer slack of this thread.
    SLACK.store(unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) }, Relaxed);
    set_slack(1);
    ask_for_slice(SHORT_NS);
}

/// Asks for the ordinary slack and slice again, which a thread made by a prompt one has not: each timer that is served at its own
/// time interrupts whoever has the CPU, and ordinary ones are served together.
pub(super) fn be_ordinary() {
    let slack = SLACK.load(Relaxed);
    if slack > 0 {
        set_slack(slack);
    }
    ask_for_slice(0);
}

fn set_slack(ns: i32) {
    // SAFETY: changes the timer slack of this thread only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, ns) };
}

/// Sets this thread's slice under the fair policy; 0 is the system's default. All else stays as it is, and so does everything
/// under another policy.
fn ask_for_slice(ns: u64) {
    let mut attr = MaybeUninit::<libc::sched_attr>::zeroed();
    let size = size_of::<libc::sched_attr>();
    // SAFETY: reads and sets what concerns this thread only; the struct lives here, and is as long as `size` says.
    unsafe {
        if libc::syscall(libc::SYS_sched_getattr, 0, attr.as_mut_ptr(), size, 0) == 0 {
            let attr = attr.assume_init_mut();
            if attr.sched_policy == libc::SCHED_OTHER as u32 {
                attr.sched_runtime = ns;
                libc::syscall(libc::SYS_sched_setattr, 0, attr, 0);
            }
        }
    }
}

/// While this is the only thread: has the kernel make room in its table of the process's files for as many as the process may open, or
/// [`ROOM`]. Once there are others it lets whoever opens a file sleep for 10 to 30 ms each time that it doubles the table.
pub(super) fn make_room_for_files() {
    let Ok(task) = File::open("/proc/self/task") else {
        return;
    };
    // Itself, its parent, and a folder for each thread.
    if !task.metadata().is_ok_and(|about| about.nlink() == 3) {
        return;
    }
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: the call writes the limit if it succeeds, and only then is it read; the descriptor that is made is nobody's but ours.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) != 0 {
            return;
        }
        let last = limit.assume_init().rlim_cur.min(ROOM).saturating_sub(1);
        let fd = libc::fcntl(task.as_raw_fd(), libc::F_DUPFD_CLOEXEC, last);
        if fd >= 0 {
            libc::close(fd);
        }
    }
}

/// The CPU time that thread `tid` of this process has used, in nanoseconds: `None` if the system does not say, or there is no such thread.
pub(super) fn cpu_time(tid: libc::pid_t) -> Option<u64> {
    /// In the number of a clock: of a thread, and as the scheduler counts.
    const OF_THREAD: libc::clockid_t = 4 | 2;
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes the time if it succeeds, and only then is it read.
    let time = unsafe {
        if libc::clock_gettime(!tid << 3 | OF_THREAD, time.as_mut_ptr()) != 0 {
            return None;
        }
        time.assume_init()
    };
    Some(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

/// Probes by thread.
#[derive(Debug, Default)]
pub(super) struct Probes(HashMap<libc::pid_t, Probe>);

impl Probes {
    /// Whether thread `tid` sleeps in the kernel: `None` if the kernel does not say.
    pub(super) fn sleeps(&mut self, tid: libc::pid_t) -> Option<bool> {
        if self.0.len() == KEPT && !self.0.contains_key(&tid) {
            self.0.clear();
        }
        if let Some(probe) = self.0.get(&tid) {
            return probe.sleeps();
        }
        let probe = Probe::open(tid)?; // perhaps there is no descriptor at the moment
        let sleeps = probe.sleeps();
        self.0.insert(tid, probe);
        sleeps
    }

    /// Thread `tid` has ended; another one may get its number.
    pub(super) fn forget(&mut self, tid: libc::pid_t) {
        self.0.remove(&tid);
    }
}

/// A thread's `syscall` file in /proc, kept open: a look costs about 1.5 µs.
#[derive(Debug)]
struct Probe(File);

impl Probe {
    /// Opens the file of thread `tid` of this process: `None` where /proc is denied.
    fn open(tid: libc::pid_t) -> Option<Self> {
        Some(Self(File::open(format!("/proc/self/task/{tid}/syscall")).ok()?))
    }

    /// Whether the thread sleeps in the kernel: `None` if the kernel does not say.
    ///
    /// The file says `running` for a thread that runs or could run, and otherwise the number of its system call (-1 if it
    /// sleeps outside of one, in a page fault say).
    fn sleeps(&self) -> Option<bool> {
        let mut line = [0; 16];
        let n = self.0.read_at(&mut line, 0).ok()?;
        Some(!line[..n].starts_with(b"running"))
    }
}

/// A thread that is yet to start. It inherits nothing of the caller but its signal mask: std's would take the caller's output capture
/// along (what a test prints is kept for that test), and so would all threads that it starts. Nor can it fail once it is there, as
/// std's does if there is no address space left for its signal stack: all that it needs is mapped before.
pub(super) struct Thread {
    /// Its name for the system; at most 15 bytes.
    pub(super) name: CString,
    /// The bytes of its stack; `None` is what the system gives.
    pub(super) stack: Option<usize>,
    /// What it does, with an alternate signal stack that is large enough for the fault handler.
    pub(super) run: Box<dyn FnOnce() + Send>,
}

impl Thread {
    /// Starts it. Nobody can wait for its end.
    ///
    /// # Errors
    ///
    /// If the system refuses a thread or the memory for its stacks. Then nothing has started.
    pub(super) fn start(self) -> io::Result<()> {
        struct Task(Thread, AltStack);
        extern "C" fn main(task: *mut c_void) -> *mut c_void {
            // SAFETY: made below, and given to this thread.
            let Task(thread, altstack) = *unsafe { Box::from_raw(task.cast::<Task>()) };
            if let Err(error) = altstack.hold() {
                fatal::no_handler(&error);
            }
            // SAFETY: the call copies the name.
            unsafe { libc::prctl(libc::PR_SET_NAME, thread.name.as_ptr()) };
            (thread.run)();
            drop(altstack);
            ptr::null_mut()
        }
        if !lease::provide() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let altstack = AltStack::map().map_err(io::Error::other)?;
        let size = self.stack;
        let task = Box::into_raw(Box::new(Task(self, altstack)));
        let mut attributes = MaybeUninit::uninit();
        let mut thread = MaybeUninit::uninit();
        // SAFETY: the attributes are made before they are used, and go again; `main` is right for this argument, which is the
        // thread's from here on if there is one.
        let error = unsafe {
            libc::pthread_attr_init(attributes.as_mut_ptr());
            libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
            if let Some(size) = size {
                libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), size);
            }
            let error = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), main, task.cast());
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            error
        };
        if error != 0 {
            // SAFETY: there is no thread, so it is still ours.
            drop(unsafe { Box::from_raw(task) });
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(())
    }
}

/// What a thread of this process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It runs, or could.
    Runs,
    /// It sleeps in the kernel, which it entered here.
    Sleeps { sp: usize, ip: usize },
    /// The kernel does not say, or there is no such thread.
    Unknown,
}

/// What thread `tid` does, and where.
pub(crate) fn doing(tid: libc::pid_t) -> Doing {
    let Ok(line) = fs::read_to_string(format!("/proc/self/task/{tid}/syscall")) else {
        return Doing::Unknown;
    };
    // The number of the call, its arguments, stack pointer, instruction pointer; without the first two outside of a call.
    let mut words = line.split_whitespace().rev();
    let mut address = || usize::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    match (address(), address()) {
        (Some(ip), Some(sp)) => Doing::Sleeps { sp, ip },
        _ if line.starts_with("running") => Doing::Runs,
        _ => Doing::Unknown,
    }
}

/// Whether there is address space for a mapping of `bytes`, and memory where that is charged in advance.
///
/// # Errors
///
/// What the system says when there is not.
pub(super) fn room_for(bytes: usize) -> io::Result<()> {
    // SAFETY: a fresh private mapping at an address of the kernel's choice, which nobody else knows, goes again.
    unsafe {
        let mapping = libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        libc::munmap(mapping, bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
        mpsc,
    };

    #[test]
    fn cpu_time_passes_for_who_computes_and_for_nobody_else() {
        // SAFETY: gettid has no preconditions.
        let me = unsafe { libc::gettid() };
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            // SAFETY: as above.
            tell.send(unsafe { libc::gettid() }).unwrap();
            wait.recv().unwrap_err();
        });
        let other = told.recv().unwrap();
        while doing(other) == Doing::Runs {
            std::thread::yield_now();
        }
        let (mine, its) = (cpu_time(me).unwrap(), cpu_time(other).unwrap());
        while cpu_time(me).unwrap() < mine + 5_000_000 {
            std::hint::spin_loop();
        }
        assert!(cpu_time(other).unwrap() < its + 2_500_000); // it may not be quite there yet
        drop(go);
        sleeper.join().unwrap();
        assert_eq!(cpu_time(1 << 24), None);
    }

    #[test]
    fn a_sleeper_is_told_from_a_thread_that_computes() {
        static TID: AtomicI32 = AtomicI32::new(0);
        static STOP: AtomicBool = AtomicBool::new(false);
        let (go, wait) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: gettid has no preconditions.
            TID.store(unsafe { libc::gettid() }, SeqCst);
            while !STOP.load(SeqCst) {
                std::hint::spin_loop();
            }
            let _ = wait.recv();
        });
        while TID.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        let probe = Probe::open(TID.load(SeqCst));
        if let Some(probe) = probe.filter(|probe| probe.sleeps().is_some()) {
            assert_eq!(probe.sleeps(), Some(false));
            assert_eq!(doing(TID.load(SeqCst)), Doing::Runs);
            STOP.store(true, SeqCst);
            while probe.sleeps() == Some(false) {
                std::thread::yield_now();
            }
            assert_eq!(probe.sleeps(), Some(true));
            let Doing::Sleeps { sp, ip } = doing(TID.load(SeqCst)) else {
                panic!("{:?}", doing(TID.load(SeqCst)));
            };
            assert!(sp != 0 && ip != 0);
        }
        STOP.store(true, SeqCst);
        drop(go);
        thread.join().unwrap();
    }
}
