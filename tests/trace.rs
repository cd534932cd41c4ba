//! Traces of the scheduler: the file holds each time that a goroutine ran, and nothing overlaps.

mod child;

use baton::{Runtime, chan, debug, go, time};
use std::{
    collections::{HashMap, HashSet},
    env, fs,
    hint::black_box,
    io::ErrorKind,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// There is one trace at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A file that goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("baton-{name}-{}.perfetto", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A field of a message: its number and value.
enum Field<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
}

/// The fields of a protobuf message.
fn fields(mut rest: &[u8]) -> Vec<Field<'_>> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, tail) = rest.split_first().unwrap();
            *rest = tail;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let value = varint(&mut rest);
        fields.push(match key & 7 {
            0 => Field::Number(key >> 3, value),
            2 => {
                let (bytes, tail) = rest.split_at(usize::try_from(value).unwrap());
                rest = tail;
                Field::Bytes(key >> 3, bytes)
            }
            other => panic!("wire type {other}"),
        });
    }
    fields
}

fn numbers(message: &[u8]) -> HashMap<u64, u64> {
    let number = |field| match field {
        Field::Number(field, value) => Some((field, value)),
        Field::Bytes(..) => None,
    };
    fields(message).into_iter().filter_map(number).collect()
}

fn bytes(message: &[u8], wanted: u64) -> Vec<&[u8]> {
    let of = |field| match field {
        Field::Bytes(field, bytes) if field == wanted => Some(bytes),
        _ => None,
    };
    fields(message).into_iter().filter_map(of).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[derive(Clone, Debug, Default)]
struct Event {
    when: u64,
    kind: u64,
    track: u64,
    name: String,
    notes: HashMap<String, String>,
}

#[derive(Debug, Default)]
struct Slice {
    begin: u64,
    end: u64,
    track: u64,
    goroutine: u64,
    name: String,
    then: String,
}

#[derive(Debug, Default)]
struct Trace {
    /// Names of tracks.
    tracks: HashMap<u64, String>,
    slices: Vec<Slice>,
    instants: Vec<Event>,
}

const BEGIN: u64 = 1;
const END: u64 = 2;

/// Reads a trace as Perfetto would: events in the order of their times, and a slice for each beginning and the end that is
/// next on its track.
fn read(file: &Scratch) -> Trace {
    let all = fs::read(&file.0).unwrap();
    let (mut trace, mut events) = (Trace::default(), Vec::new());
    let (mut names, mut note_names) = (HashMap::new(), HashMap::new());
    for packet in bytes(&all, 1) {
        for interned in bytes(packet, 12) {
            for (field, names) in [(2, &mut names), (3, &mut note_names)] {
                for entry in bytes(interned, field) {
                    assert_eq!(names.insert(numbers(entry)[&1], text(bytes(entry, 2)[0])), None);
                }
            }
        }
        for track in bytes(packet, 60) {
            let name = bytes(track, 2)
                .first()
                .map_or_else(|| "process".into(), |name| text(name));
            assert_eq!(trace.tracks.insert(numbers(track)[&1], name), None);
        }
        for event in bytes(packet, 11) {
            let head = numbers(event);
            let note = |note: &&[u8]| {
                let head = numbers(note);
                let value = bytes(note, 6)
                    .first()
                    .map_or_else(|| head[&3].to_string(), |value| text(value));
                (note_names[&head[&1]].clone(), value)
            };
            events.push(Event {
                when: numbers(packet)[&8],
                kind: head[&9],
                track: head[&11],
                name: head.get(&10).map_or_else(String::new, |iid| names[iid].clone()),
                notes: bytes(event, 4).iter().map(note).collect(),
            });
        }
    }
    events.sort_by_key(|event| event.when);
    let mut open: HashMap<u64, Event> = HashMap::new();
    for event in events {
        assert!(trace.tracks.contains_key(&event.track), "{event:?}");
        match event.kind {
            BEGIN => {
                let before = open.insert(event.track, event.clone());
                assert!(before.is_none(), "two at a time on one track: {before:#?} {event:#?}");
            }
            END => {
                let begin = open.remove(&event.track).expect("an end has a beginning");
                trace.slices.push(Slice {
                    begin: begin.when,
                    end: event.when,
                    track: event.track,
                    goroutine: begin.notes["goroutine"].parse().unwrap(),
                    name: begin.name,
                    then: begin.notes["then"].clone(),
                });
            }
            _ => trace.instants.push(event),
        }
    }
    assert!(open.is_empty(), "no end: {open:?}");
    trace
}

impl Trace {
    fn of(&self, goroutine: u64) -> Vec<&Slice> {
        let mut slices: Vec<_> = self
            .slices
            .iter()
            .filter(|slice| slice.goroutine == goroutine)
            .collect();
        slices.sort_by_key(|slice| (slice.begin, slice.end));
        slices
    }

    fn instants(&self, name: &str) -> usize {
        self.instants.iter().filter(|event| event.name == name).count()
    }
}

/// Whether the goroutine ends with this slice. One that was just joined may be on the last steps of its way.
fn has_ended(slice: &Slice) -> bool {
    slice.then == "ends" || slice.then == "runs on"
}

#[inline(never)]
fn descend(depth: usize) -> usize {
    let frame = black_box([depth; 128]);
    if depth == 0 {
        0
    } else {
        1 + descend(depth - 1) + frame[7] - depth
    }
}

/// Goroutines that yield, wait, sleep in the kernel, compute and recurse; gives their numbers.
fn work() -> Vec<u64> {
    let (tx, rx) = chan::bounded(1);
    let mut handles = Vec::new();
    for i in 0..20 {
        let tx = tx.clone();
        handles.push(go!(move || (0..50).for_each(|j| tx.send(i * j).unwrap())));
        handles.push(go!(|| (0..50).for_each(|_| baton::yield_now())));
        handles.push(go!(|| thread::sleep(Duration::from_millis(3))));
        handles.push(go!(|| baton::blocking_now(|| thread::sleep(Duration::from_micros(
            200
        )))));
    }
    handles.push(go!(|| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {}
    }));
    drop(tx);
    handles.push(go!(name = "the one that gathers everything"; move || assert_eq!(rx.iter().count(), 1000)));
    let ids = handles.iter().map(baton::JoinHandle::id).collect();
    handles.into_iter().for_each(|handle| handle.join().unwrap());
    ids
}

#[test]
fn slices_pair_up_and_do_not_overlap() {
    let _one = ONE.lock().unwrap();
    let file = Scratch::new("trace-overlap");
    baton::run(|| {
        let doublings = baton::metrics().stack_doublings;
        debug::trace_start(&file.0).unwrap();
        assert_eq!(
            debug::trace_start(&file.0).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        let mut ids = work();
        let last = *ids.last().unwrap();
        // A stack of a size that nobody had before, at a place that has not learned anything: it cannot be deep already.
        let deep = baton::Builder::new().max_stack(8 << 20);
        let descends = || {
            assert_eq!(descend(2_000), 2_000);
            time::sleep(Duration::from_millis(1)); // its last slice may be open still when it has been joined, and says nothing of growth then
        };
        let deep = deep.spawn(descends).unwrap();
        ids.push(deep.id());
        deep.join().unwrap();
        let summary = debug::trace_stop().unwrap();
        assert_eq!(debug::trace_stop().unwrap_err().kind(), ErrorKind::NotFound);
        let trace = read(&file);
        assert_eq!(summary.slices, trace.slices.len() as u64);
        assert_eq!((summary.lost, trace.instants("records lost")), (0, 0));
        for &id in &ids {
            let slices = trace.of(id);
            let overlap = slices.windows(2).find(|two| two[0].end > two[1].begin);
            assert!(overlap.is_none(), "one goroutine in two places: {overlap:?}");
            let (last, others) = slices.split_last().unwrap_or_else(|| panic!("{id} has run"));
            assert!(has_ended(last), "{last:?}");
            assert!(others.iter().all(|slice| slice.then != "ends"), "{slices:#?}");
        }
        assert!(
            trace
                .of(last)
                .iter()
                .all(|slice| slice.name == "the one that gathers everything")
        );
        assert!(
            trace
                .of(ids[0])
                .iter()
                .all(|slice| slice.name.starts_with("tests/trace.rs:"))
        );
        let ran_on: HashSet<_> = trace
            .slices
            .iter()
            .map(|slice| trace.tracks[&slice.track].as_str())
            .collect();
        assert!(ran_on.iter().any(|track| track.starts_with("processor ")), "{ran_on:?}");
        assert!(
            ran_on.iter().any(|track| track.ends_with("without a processor")),
            "{ran_on:?}"
        );
        assert!(trace.instants("handoff") > 0);
        // Not where stacks are demand-paged.
        if baton::metrics().stack_doublings > doublings {
            assert!(trace.instants("stack grew") > 0);
        }
        let reasons: HashSet<_> = trace.slices.iter().map(|slice| slice.then.as_str()).collect();
        for reason in ["channel send", "yields", "join", "ends"] {
            assert!(reasons.contains(reason), "{reason} in {reasons:?}");
        }
    });
}

/// Tells the goroutine of the next test to end, also if that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A second trace knows nothing of the first, also of goroutines that ran through both.
#[test]
fn one_trace_after_the_other() {
    let _one = ONE.lock().unwrap();
    let stop = AtomicBool::new(false);
    baton::scope(|s| {
        let _stop = Stop(&stop);
        s.spawn(|| {
            while !stop.load(Relaxed) {
                // With yields alone the writer, if it does not get the CPU, would lose some of a million records a second.
                baton::time::sleep(Duration::from_micros(50));
            }
        });
        for _ in 0..3 {
            let file = Scratch::new("trace-again");
            debug::trace_start(&file.0).unwrap();
            let ids = work();
            let summary = debug::trace_stop().unwrap();
            let trace = read(&file);
            assert_eq!(summary.slices, trace.slices.len() as u64);
            let goes_on = |id: &&u64| !trace.of(**id).last().is_some_and(|slice| has_ended(slice));
            let first = ids.iter().find(goes_on);
            assert!(
                first.is_none(),
                "{first:?}: {:?}; {summary:?}",
                first.map(|&id| trace.of(id))
            );
        }
    });
}

/// By the environment, with the number of the process in its name; whoever runs when the process exits has a slice.
#[test]
fn a_trace_ends_with_the_process() {
    let file = env::temp_dir().join(format!("baton-exit-{}-%p.perfetto", std::process::id()));
    let name = "a_trace_ends_with_the_process";
    let ran = child::run(name, &[("BATON_TRACE", file.to_str().unwrap())], &[], || {
        baton::run(|| {
            work();
            println!("number={}", std::process::id());
            std::process::exit(0);
        });
    });
    ran.succeeded();
    let pid = ran
        .stdout
        .lines()
        .find_map(|line| line.split("number=").nth(1))
        .unwrap();
    let trace = read(&Scratch(file.to_str().unwrap().replace("%p", pid).into()));
    let main: Vec<_> = trace.slices.iter().filter(|slice| slice.name == "main").collect();
    assert_eq!(
        main.iter().filter(|slice| slice.then == "runs on").count(),
        1,
        "{main:?}"
    );
    assert!(trace.slices.len() > 100);
}

#[test]
fn a_file_that_cannot_be_made_is_an_error() {
    let _one = ONE.lock().unwrap();
    assert_eq!(
        debug::trace_start("/no/such/directory").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let ran = child::run(
        "a_file_that_cannot_be_made_is_an_error",
        &[("BATON_TRACE", "/no/such/directory")],
        &[child::NO_CORE],
        || Runtime::builder().init().unwrap(),
    );
    ran.died(
        libc::SIGABRT,
        &["BATON_TRACE is /no/such/directory, but must be a file that can be written"],
    );
}
