//! Netpoll: goroutines that wait until a file is ready, without a thread each.
//!
//! ```text
//!   goroutine ── parks on a Watch ◀── ready ── dispatch ◀── epoll ◀─┬─ an M that finds no work on its P   looks
//!                (read or write)                                    ├─ an M every so many turns           looks
//!                                                                   ├─ the monitor, if nobody else does   looks
//!                                                                   └─ the *poller*, one of the idle Ms   sleeps there
//! ```
//!
//! One epoll instance for the process, made when the first file is watched. Files are watched edge by edge, and the edges counted: who wants
//! to wait has read the count, tried, and was told that it would block; if there was an edge since it read the count, it does not wait. (A mark
//! that the first takes who waits is not enough. Of two who accept connections, or read, the one may take the mark and something of what there is
//! and go away with that; then the other waits although there is more.) An edge may be old: who waits tries again and again, so one
//! wake-up too many costs a try.
//!
//! # The poller
//!
//! The first M to go idle while files are watched sleeps in the epoll instance instead of on its note. Who wakes it writes to
//! an eventfd there as well. An event gets it up: it leaves the idle list, counts as spinning, makes the goroutines ready, and
//! takes a P to run them. Then the office is free, until an M goes idle; meanwhile those that run look, and so does the monitor. It is
//! the poller who leaves the office, not who wakes it: else the next one could take an interrupt that was meant for it.
//! When a file is waited for while all other Ms sleep on their notes, the monitor has one take the office
//! ([`recruit`](super::idle::recruit)).
//!
//! # In a forked child
//!
//! The instance is the parent's there as well, and the kernel would take what the child says about its copy of a file for the parent's word. So the
//! child says nothing: it watches no new file, leaves the parent's watches alone, and who waits in it sleeps in poll.
//!
//! # Invariants
//!
//! 1. Watches are never freed, so what the kernel tells of one that is free or another's by now is an edge too many, no more.
//! 2. One M at a time sleeps in the epoll instance: who finds `Sched.poller` null under the idle lock, and until it stores null there.
//! 3. `M.polls` changes under the idle lock to `true`, by the M itself; whoever takes the M off the idle list sees it.
//! 4. Lock order: a watch's lock comes before all locks of the scheduler; nothing here takes two.

use super::note::Note;
use crate::{
    lock::Mutex,
    m::M,
    park::{Event, WaitReason, Waiter},
    sched::{checkpoint, sched},
    sync::{Until, park},
    time,
    waitlist::{Node, WaitList},
};
use std::{
    array, io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    panic::RefUnwindSafe,
    ptr,
    sync::{
        OnceLock,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    time::Duration,
};

/// The epoll instance, and the eventfd in it by which the poller is woken.
struct Netpoll {
    epoll: OwnedFd,
    interrupt: OwnedFd,
}

static NETPOLL: OnceLock<Netpoll> = OnceLock::new();

/// This process is the child of a fork, and the epoll instance its parent's.
static FORKED: AtomicBool = AtomicBool::new(false);

extern "C" fn in_forked_child() {
    FORKED.store(true, Relaxed);
}

/// Files that are watched.
static FILES: AtomicUsize = AtomicUsize::new(0);

/// Parties that wait for one.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// When somebody looked last, on the clock of [`time::now`].
static LOOKED: AtomicU64 = AtomicU64::new(0);

/// Watches that nobody uses.
static FREE: Mutex<Vec<&'static Watch>> = Mutex::new(Vec::new());

/// Between two looks of Ms that have other work, in nanoseconds.
const LOOK_EVERY_NS: u64 = 500_000;

/// Events that are fetched at once.
const EVENTS: usize = 64;

/// What a file can become ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

/// A file that is watched. Never freed.
#[derive(Debug)]
pub(crate) struct Watch {
    /// By [`Interest`].
    sides: [Side; 2],
}

/// Nobody who unwinds leaves a watch half changed.
impl RefUnwindSafe for Watch {}

#[derive(Debug)]
struct Side {
    /// How many edges there were; changes under the lock.
    edges: AtomicU32,
    waiting: Mutex<WaitList>,
}

/// What the kernel told.
pub(super) struct Events {
    list: [libc::epoll_event; EVENTS],
    len: usize,
}

impl Netpoll {
    fn new() -> io::Result<Self> {
        // SAFETY: makes a descriptor of ours.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: as above.
        let interrupt = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let this = Self { epoll, interrupt };
        // Level by level: a note that is there before the poller sleeps gets it up.
        this.control(
            libc::EPOLL_CTL_ADD,
            this.interrupt.as_raw_fd(),
            libc::EPOLLIN as u32,
            ptr::null(),
        )?;
        Ok(this)
    }

    /// That of the process, made now if there is none.
    fn get() -> io::Result<&'static Self> {
        if let Some(netpoll) = NETPOLL.get() {
            return Ok(netpoll);
        }
        let fresh = Self::new()?;
        // SAFETY: the handler only stores a flag.
        unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
        Ok(NETPOLL.get_or_init(|| fresh)) // somebody else's, if that was faster
    }

    fn control(&self, what: i32, fd: i32, events: u32, watch: *const Watch) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events,
            u64: watch.expose_provenance() as u64,
        };
        // SAFETY: the event lives here; the descriptor is whatever the caller has.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), what, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Fetches events: those there are, or, with a time to wait (`None` is for ever), the first that come. Interrupts are left out;
    /// the poller takes them away, and nobody else may: they are meant for it.
    fn fetch(&self, events: &mut Events, timeout: Option<Duration>, is_poller: bool) {
        let n = self.wait(&mut events.list, timeout);
        events.len = 0;
        for i in 0..n {
            if events.list[i].u64 == 0 {
                if !is_poller {
                    continue;
                }
                let mut count = 0_u64;
                // SAFETY: reads eight bytes into the word above; it does not block, and a count of none is as good.
                unsafe { libc::read(self.interrupt.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
            } else {
                events.list[events.len] = events.list[i];
                events.len += 1;
            }
        }
    }

    /// The system call. An error is an interruption by a signal: as if the time were over.
    fn wait(&self, list: &mut [libc::epoll_event; EVENTS], timeout: Option<Duration>) -> usize {
        let (epoll, first, len) = (self.epoll.as_raw_fd(), list.as_mut_ptr(), EVENTS as i32);
        let coarse = |ms: u128| {
            // SAFETY: the list has that many places.
            unsafe { libc::epoll_wait(epoll, first, len, i32::try_from(ms).unwrap_or(i32::MAX)) }
        };
        let n = match timeout {
            // SAFETY: as above.
            None => unsafe { libc::epoll_wait(epoll, first, len, -1) },
            Some(Duration::ZERO) => coarse(0),
            Some(left) => {
                let spec = libc::timespec {
                    tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                };
                // SAFETY: as above, and the time lives here.
                let n = unsafe {
                    libc::syscall(
                        libc::SYS_epoll_pwait2,
                        epoll,
                        first,
                        len,
                        &raw const spec,
                        ptr::null::<u8>(),
                        0,
                    )
                };
                match n {
                    // Before Linux 5.11, and in sandboxes that do not know this call, there are milliseconds: rather a little too
                    // long than again and again.
                    -1 if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted => {
                        coarse(left.as_nanos().div_ceil(1_000_000))
                    }
                    n => n as i32,
                }
            }
        };
        usize::try_from(n).unwrap_or(0)
    }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: made just now, and nobody else's.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

impl Events {
    pub(super) fn new() -> Self {
        Self {
            list: [libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            len: 0,
        }
    }

    /// Makes those ready who wait for these events.
    pub(super) fn dispatch(&self) {
        const READ: i32 = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
        const WRITE: i32 = libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR;
        for event in &self.list[..self.len] {
            let (events, watch) = (event.events, event.u64);
            // SAFETY: what the kernel was given with a file: a watch, and those are never freed (invariant 1).
            let watch = unsafe { &*ptr::with_exposed_provenance::<Watch>(watch as usize) };
            for (interest, mask) in [(Interest::Read, READ), (Interest::Write, WRITE)] {
                if events & mask as u32 != 0 {
                    watch.edge(interest);
                }
            }
        }
    }
}

impl Watch {
    /// Has a file watched, which does not block when it is read or written.
    pub(crate) fn begin(file: BorrowedFd<'_>) -> io::Result<&'static Self> {
        if is_forked() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a forked child has no runtime that could watch a file: call exec there, or use std's sockets",
            ));
        }
        let netpoll = Netpoll::get()?;
        let watch = FREE.lock().pop().unwrap_or_else(|| {
            Box::leak(Box::new(Self {
                sides: array::from_fn(|_| Side {
                    edges: AtomicU32::new(0),
                    waiting: Mutex::new(WaitList::new()),
                }),
            }))
        });
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        if let Err(error) = netpoll.control(libc::EPOLL_CTL_ADD, file.as_raw_fd(), events as u32, watch) {
            FREE.lock().push(watch);
            return Err(error);
        }
        FILES.fetch_add(1, SeqCst);
        Ok(watch)
    }

    /// Ends that. Nobody waits.
    pub(crate) fn end(&'static self, file: BorrowedFd<'_>) {
        if is_forked() {
            return; // the parent's
        }
        // A descriptor that was closed behind our back is not watched any more.
        let _ = Netpoll::get().and_then(|netpoll| netpoll.control(libc::EPOLL_CTL_DEL, file.as_raw_fd(), 0, self));
        FILES.fetch_sub(1, SeqCst);
        FREE.lock().push(self);
    }

    /// The file has become ready.
    fn edge(&self, interest: Interest) {
        let side = &self.sides[interest as usize];
        let mut waiting = side.waiting.lock();
        side.edges.fetch_add(1, Release);
        let woken = waiting.claim_all(Event::Done);
        drop(waiting);
        woken.wake_all();
    }

    /// How often the file has become ready: to be read before it is tried.
    pub(crate) fn edges(&self, interest: Interest) -> u32 {
        self.sides[interest as usize].edges.load(Acquire)
    }

    /// Waits until the file has become ready since there were so many `edges`, or may have. `false`: that was not so `until` then.
    pub(crate) fn wait(&self, interest: Interest, edges: u32, until: Until<'_>) -> bool {
        checkpoint();
        let waiter = Waiter::new();
        let node = Node::new(&raw const waiter, ptr::null_mut());
        let side = &self.sides[interest as usize];
        let mut waiting = side.waiting.lock(); // held until g0 has parked this party
        if side.edges.load(Relaxed) != edges {
            return true;
        }
        waiting.push(&node);
        WAITING.fetch_add(1, SeqCst);
        sched().sysmon.alert(); // all Ps may be idle with no poller about: it looks after that
        let got = park(&waiter, WaitReason::Io, until, move || {
            drop(waiting);
            true
        });
        WAITING.fetch_sub(1, SeqCst);
        if !got {
            side.waiting.lock().remove(&node);
        }
        got
    }
}

/// Whether any file is watched.
pub(super) fn is_used() -> bool {
    FILES.load(SeqCst) != 0
}

/// Whether anybody waits for a file.
pub(crate) fn is_awaited() -> bool {
    WAITING.load(SeqCst) != 0
}

/// Makes those ready whose files are, if any are waited for. Whether there may be some.
pub(super) fn look() -> bool {
    let Some(netpoll) = NETPOLL.get().filter(|_| is_awaited()) else {
        return false;
    };
    LOOKED.store(time::now(), Relaxed);
    let mut events = Events::new();
    netpoll.fetch(&mut events, Some(Duration::ZERO), false);
    events.dispatch();
    events.len > 0
}

/// [`look`], unless somebody has only just done so.
pub(super) fn look_now_and_then() {
    if WAITING.load(Relaxed) != 0 && time::now().saturating_sub(LOOKED.load(Relaxed)) >= LOOK_EVERY_NS {
        look();
    }
}

/// The poller's sleep: until its note comes (`true`), or events do or the time is over (`false`). The events are to be dispatched in
/// either case.
pub(super) fn sleep(note: &Note, timeout: Option<Duration>, events: &mut Events) -> bool {
    let Some(netpoll) = NETPOLL.get() else {
        return note.sleep(timeout);
    };
    let end = timeout.map(time::deadline_in);
    loop {
        let left = end.map(|end| Duration::from_nanos(end.saturating_sub(time::now())));
        netpoll.fetch(events, left, true);
        if note.take() {
            return true;
        }
        if events.len > 0 || end.is_some_and(|end| end <= time::now()) {
            return false;
        }
    }
}

/// Gets `m`, which has its note, up from its sleep in the epoll instance, if it sleeps there.
pub(super) fn interrupt(m: &M) {
    if !m.polls.load(Relaxed) {
        return;
    }
    if let Some(netpoll) = NETPOLL.get() {
        let one = 1_u64;
        // SAFETY: writes eight bytes from the word above. A counter that is full has got it up already.
        unsafe { libc::write(netpoll.interrupt.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

/// Whether the file is ready now, or within `ms` milliseconds, during which the thread waits.
pub(crate) fn is_ready(file: BorrowedFd<'_>, interest: Interest, ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: match interest {
            Interest::Read => libc::POLLIN,
            Interest::Write => libc::POLLOUT,
        },
        revents: 0,
    };
    loop {
        // SAFETY: one entry, which lives here.
        let n = unsafe { libc::poll(&raw mut poll, 1, ms) };
        // A signal says nothing of the file. Whatever else is wrong with it, a try will tell.
        if n >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return n != 0;
        }
    }
}

/// Whether this process is a forked child, to which the watches of its files do not belong.
pub(crate) fn is_forked() -> bool {
    FORKED.load(Relaxed)
}

/// [`Watch::wait`] in a forked child: the thread waits.
pub(crate) fn wait_in_child(file: BorrowedFd<'_>, interest: Interest, until: Until<'_>) -> bool {
    while !is_ready(file, interest, 10) {
        if until.has_passed() {
            return false;
        }
    }
    true
}

/// [`Watch::wait`] in a simulation, which has one thread and its own time: looks again and again, while the others go on.
pub(crate) fn wait_in_simulation(file: BorrowedFd<'_>, interest: Interest, until: Until<'_>) -> bool {
    let mut pause = Duration::from_millis(1);
    while !is_ready(file, interest, 0) {
        if until.has_passed() {
            return false;
        }
        time::sleep(pause);
        // So much of the simulation's time; of the real one, for those outside, there is a millisecond each.
        pause = (pause * 2).min(Duration::from_secs(3600));
        is_ready(file, interest, 1);
    }
    true
}
