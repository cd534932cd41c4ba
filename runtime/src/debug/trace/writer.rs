//! From the rings of all Ms to a file: a thread that comes now and then, `baton-trace`.
//!
//! ```text
//!   M ─ ring ─┐
//!   M ─ ring ─┼─▶ drain: a slice is two packets, a handoff a third ─▶ file
//!   M ─ ring ─┘    every 20 ms, when a ring is a quarter full, and at the end
//! ```
//!
//! The file is written packet by packet, so that what a crash leaves can be opened, up to the last visit.

use super::{
    NUMBER, START,
    lane::How,
    perfetto::{Note, Packets, Type, Value},
    ring::{Kind, NO_P, Record},
};
use crate::{debug::turns, m::M, metrics, park::WaitReason, sched::sysmon::block_signals, stderr, time::monotonic};
use baton_alloc::futex;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Write},
    mem,
    panic::Location,
    process, ptr,
    sync::atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

/// Between two visits while there is something to write; up to ten times as long while there is nothing.
const PERIOD: Duration = Duration::from_millis(20);

/// The trace that is on.
pub(super) static WRITER: Mutex<Option<Writer>> = Mutex::new(None);

/// What the thread sleeps on.
static ALARM: AtomicU32 = AtomicU32::new(0);
static SLEEPS: AtomicBool = AtomicBool::new(false);

/// Names of goroutines that the writer has not seen yet. Each is here before its goroutine's first slice is anywhere.
static NAMES: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

/// A goroutine has this name.
#[cold]
pub(super) fn names(goroutine: u64, name: &str) {
    NAMES.lock().push((goroutine, name.into()));
}

/// A part of a ring is full.
#[cold]
pub(super) fn wake() {
    if SLEEPS.swap(false, SeqCst) {
        ALARM.fetch_add(1, SeqCst);
        futex::wake(&ALARM, 1);
    }
}

/// Of all processes in the file there is one.
const PROCESS: u64 = 1;
/// The tracks of the processors, and of what runs without one on each thread, are numbered from here.
const PROCESSORS: u64 = 0x1_0000;
const THREADS: u64 = 0x1_0000_0000;

/// What a trace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceSummary {
    /// Stretches of time that a goroutine ran.
    pub slices: u64,
    /// Records that were lost because the writer did not get the CPU in time. The trace says so, too.
    pub lost: u64,
    /// The length of the file.
    pub bytes: u64,
}

/// An open trace.
pub(super) struct Writer {
    /// Which trace this is.
    start: u64,
    /// The process that began it; a forked child has no part in it.
    pid: u32,
    file: File,
    packets: Packets,
    summary: TraceSummary,
    /// Records that the rings had lost before, with what was reported since.
    lost_before: u64,
    tracks: HashSet<u64>,
    /// What is interned, by text; and the same by place, and by goroutine that has a name.
    texts: HashMap<String, u64>,
    places: HashMap<*const Location<'static>, u64>,
    names: HashMap<u64, String>,
    /// Named goroutines that have ended; and before the last visit. In the rings of other Ms may be slices of theirs until the next one.
    gone: Vec<u64>,
    long_gone: Vec<u64>,
    /// When the last slice of each M began.
    begun: HashMap<u32, u64>,
    last: Last,
}

/// What the last record was about: most likely the next one is, too, and needs no look into a table.
#[derive(Default)]
struct Last {
    /// A thread and a processor, and their track.
    track: Option<(u32, u16, u64)>,
    /// A place, and what is interned for it.
    place: Option<(*const Location<'static>, u64)>,
}

// SAFETY: the places are constants, and only keys.
unsafe impl Send for Writer {}

impl Writer {
    pub(super) fn new(file: File, start: u64) -> Self {
        let mut packets = Packets::default();
        let name = std::env::current_exe().unwrap_or_default();
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        packets.begin(PROCESS, process::id(), &name);
        Self {
            start,
            pid: process::id(),
            file,
            packets,
            summary: TraceSummary::default(),
            lost_before: lost(),
            tracks: HashSet::new(),
            texts: HashMap::new(),
            places: HashMap::new(),
            names: HashMap::new(),
            gone: Vec::new(),
            long_gone: Vec::new(),
            begun: HashMap::new(),
            last: Last::default(),
        }
    }

    /// Whether this is the process that began the trace.
    pub(super) fn is_ours(&self) -> bool {
        self.pid == process::id()
    }

    /// Writes what the rings hold. Whether there was anything.
    fn visit(&mut self) -> io::Result<bool> {
        for m in metrics::ms() {
            self.drain(m);
        }
        self.write()
    }

    /// Writes what was drained.
    fn write(&mut self) -> io::Result<bool> {
        let gone = mem::take(&mut self.gone);
        for goroutine in mem::replace(&mut self.long_gone, gone) {
            self.names.remove(&goroutine);
        }
        let lost = lost() - self.lost_before;
        if lost > self.summary.lost {
            let iid = self.text("records lost");
            let count = Value::Number(lost - self.summary.lost);
            self.packets
                .event(Type::Instant, monotonic(), PROCESS, Some(iid), &[(Note::Count, count)]);
            self.summary.lost = lost;
        }
        let some = !self.packets.bytes().is_empty();
        self.file.write_all(self.packets.bytes())?;
        self.summary.bytes += self.packets.bytes().len() as u64;
        self.packets.clear();
        Ok(some)
    }

    /// Writes the rest, with the slices that have not ended. The trace is off already.
    pub(super) fn finish(mut self) -> io::Result<TraceSummary> {
        for m in metrics::ms() {
            let open = m.lane.open(monotonic());
            self.drain(m);
            // An M that was just ending it may have pushed it already.
            let ended = self.begun.get(&m.id).copied().unwrap_or(0);
            let fresh = |record: &&Record| record.begin > ended;
            open.iter()
                .flatten()
                .flatten()
                .filter(fresh)
                .for_each(|record| self.record(m, record));
        }
        self.write()?;
        Ok(self.summary)
    }

    fn drain(&mut self, m: &'static M) {
        let Some(ring) = m.lane.ring() else { return };
        let mut begun = None;
        let each = |record: &Record| {
            if record.kind == Kind::Slice {
                begun = Some(record.begin);
            }
            self.record(m, record);
        };
        // SAFETY: whoever has the writer has its lock, or took it out from under it.
        unsafe { ring.drain(each) };
        if let Some(begun) = begun {
            self.begun.insert(m.id, begun);
        }
    }

    fn record(&mut self, m: &'static M, record: &Record) {
        if record.begin < self.start {
            return; // of an earlier trace, pushed after its end
        }
        let track = self.track(m, record.p);
        match record.kind {
            Kind::Slice => self.slice(m, record, track),
            Kind::Growth => {
                let notes = [
                    (Note::Goroutine, Value::Number(record.goroutine)),
                    (Note::KiB, Value::Number(record.n.into())),
                ];
                self.instant("stack grew", record, track, &notes);
            }
            Kind::Steal => {
                let notes = [
                    (Note::Count, Value::Number(record.n.into())),
                    (Note::From, Value::Number(record.goroutine)),
                ];
                self.instant("steal", record, track, &notes);
            }
            Kind::Shed => self.instant("shed", record, track, &[(Note::Count, Value::Number(record.n.into()))]),
        }
    }

    fn slice(&mut self, m: &'static M, record: &Record, track: u64) {
        self.summary.slices += 1;
        let iid = self.title(record);
        let how = How::of(record.how);
        let then = how.map_or_else(|| WaitReason::name(record.how), How::words);
        // What is called by its name says where it was started, too.
        let started_at = record.place.filter(|_| record.n != 0).map(Location::to_string);
        let notes = [
            (Note::Goroutine, Value::Number(record.goroutine)),
            (Note::Then, Value::Text(then)),
            (Note::Thread, Value::Number(m.id.into())),
            (Note::StartedAt, Value::Text(started_at.as_deref().unwrap_or_default())),
        ];
        let some = if started_at.is_some() { 4 } else { 3 };
        self.packets
            .event(Type::Begin, record.begin, track, Some(iid), &notes[..some]);
        self.packets.event(Type::End, record.end, track, None, &[]);
        if how.is_some_and(How::is_handoff) {
            let iid = self.text("handoff");
            self.packets
                .event(Type::Instant, record.end, track, Some(iid), &notes[..3]);
        }
        if how == Some(How::Ended) && record.n != 0 {
            self.gone.push(record.goroutine);
        }
    }

    fn instant(&mut self, name: &str, record: &Record, track: u64, notes: &[(Note, Value<'_>)]) {
        let iid = self.text(name);
        self.packets.event(Type::Instant, record.begin, track, Some(iid), notes);
    }

    /// What a slice is called: by the goroutine's name, else by where it was started.
    fn title(&mut self, record: &Record) -> u64 {
        if record.n != 0 {
            if !self.names.contains_key(&record.goroutine) {
                self.names.extend(NAMES.lock().drain(..));
            }
            if let Some(name) = self.names.get(&record.goroutine) {
                let name = name.clone();
                return self.text(&name);
            }
        }
        let Some(place) = record.place else {
            return self.text("goroutine");
        };
        if let Some((_, iid)) = self.last.place.filter(|&(last, _)| ptr::eq(last, place)) {
            return iid;
        }
        let iid = match self.places.get(&ptr::from_ref(place)) {
            Some(&iid) => iid,
            None => {
                let iid = self.text(&format!("{}:{}", place.file(), place.line()));
                self.places.insert(place, iid);
                iid
            }
        };
        self.last.place = Some((place, iid));
        iid
    }

    /// The number that stands for a text.
    fn text(&mut self, text: &str) -> u64 {
        if let Some(&iid) = self.texts.get(text) {
            return iid;
        }
        let iid = self.texts.len() as u64 + 1;
        self.packets.intern(iid, text);
        self.texts.insert(text.into(), iid);
        iid
    }

    /// The track of a processor, or of a thread without one.
    fn track(&mut self, m: &'static M, p: u16) -> u64 {
        let last = self
            .last
            .track
            .filter(|&(thread, processor, _)| (thread, processor) == (m.id, p));
        if let Some((.., uuid)) = last {
            return uuid;
        }
        let (uuid, rank) = if p == NO_P {
            (THREADS + u64::from(m.id), 0x1_0000 + u64::from(m.id))
        } else {
            (PROCESSORS + u64::from(p), u64::from(p))
        };
        if self.tracks.insert(uuid) {
            let name = if p == NO_P {
                format!("baton-m{}, without a processor", m.id)
            } else {
                format!("processor {p}")
            };
            self.packets.track(uuid, PROCESS, rank, &name);
        }
        self.last.track = Some((m.id, p, uuid));
        uuid
    }
}

/// Records lost by all Ms so far.
fn lost() -> u64 {
    metrics::ms()
        .iter()
        .filter_map(|m| m.lane.ring())
        .map(|ring| ring.lost())
        .sum()
}

/// Starts the thread that writes the trace begun at `start`.
pub(super) fn spawn(start: u64) -> io::Result<()> {
    let visits = move || {
        block_signals();
        let mut period = PERIOD;
        loop {
            let alarm = ALARM.load(SeqCst);
            SLEEPS.store(true, SeqCst);
            futex::wait(&ALARM, alarm, Some(period));
            SLEEPS.store(false, Relaxed);
            let mut writer = WRITER.lock();
            let Some(open) = writer.as_mut().filter(|writer| writer.start == start) else {
                return;
            };
            match open.visit() {
                Ok(true) => period = PERIOD,
                Ok(false) => period = (period * 2).min(PERIOD * 10),
                Err(error) => {
                    turns::unwatch(turns::BY_TRACE);
                    stderr::say(format_args!(
                        "baton: the trace ends here, for its file cannot be written: {error}"
                    ));
                    *writer = None;
                    return;
                }
            }
        }
    };
    thread::Builder::new()
        .name("baton-trace".into())
        .spawn(visits)
        .map(drop)
}

/// The time that tells a new trace from all before it.
pub(super) fn begin() -> u64 {
    let start = monotonic().max(START.load(SeqCst) + 1);
    START.store(start, SeqCst);
    NUMBER.fetch_add(1, SeqCst);
    NAMES.lock().clear();
    start
}
