//! The heap profile: what it counts, and that pprof reads it.

mod common;

use baton_alloc::{free, malloc, profile, realloc};
use common::exclusive;
use std::{
    alloc::Layout,
    collections::HashMap,
    fs,
    hint::black_box,
    process::Command,
    sync::{Barrier, mpsc},
    thread,
};

/// As much of a profile as the tests look at.
#[derive(Debug, Default)]
struct Profile {
    /// Kind and unit of each value.
    types: Vec<(String, String)>,
    /// Addresses and values.
    samples: Vec<(Vec<u64>, Vec<u64>)>,
    default: String,
    period: u64,
    /// File names of mappings.
    files: Vec<String>,
}

/// A field of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("a message where a number should be"),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Number(_) => panic!("a number where a message should be"),
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let len = 1 + bytes
        .iter()
        .position(|byte| byte & 0x80 == 0)
        .expect("the end of a number");
    let (number, rest) = bytes.split_at(len);
    *bytes = rest;
    number
        .iter()
        .rev()
        .fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

fn numbers(mut bytes: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        numbers.push(varint(&mut bytes));
    }
    numbers
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let len = varint(&mut bytes) as usize;
                let (inner, rest) = bytes.split_at(len);
                bytes = rest;
                Field::Bytes(inner)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

/// The profile as it is now, and its bytes.
fn taken() -> (Profile, Vec<u8>) {
    let mut file = Vec::new();
    profile::write(&mut file).unwrap();
    let all = fields(&file);
    let of = |number| all.iter().filter(move |(n, _)| *n == number).map(|(_, field)| field);
    let strings: Vec<_> = of(6)
        .map(|text| String::from_utf8(text.bytes().to_vec()).unwrap())
        .collect();
    assert_eq!(strings[0], "");
    let text = |index: u64| strings[index as usize].clone();
    let get = |message: &[u8], number| {
        fields(message)
            .iter()
            .find(|(n, _)| *n == number)
            .map_or(0, |(_, f)| f.number())
    };
    let addresses: HashMap<u64, u64> = of(4)
        .map(|location| (get(location.bytes(), 1), get(location.bytes(), 3)))
        .collect();
    let profile = Profile {
        types: of(1)
            .map(|kind| (text(get(kind.bytes(), 1)), text(get(kind.bytes(), 2))))
            .collect(),
        samples: of(2)
            .map(|sample| {
                let inner = fields(sample.bytes());
                let packed = |number| numbers(inner.iter().find(|(n, _)| *n == number).expect("a field").1.bytes());
                (packed(1).iter().map(|id| addresses[id]).collect(), packed(2))
            })
            .collect(),
        default: text(of(14).next().unwrap().number()),
        period: of(12).next().unwrap().number(),
        files: of(3).map(|mapping| text(get(mapping.bytes(), 5))).collect(),
    };
    (profile, file)
}

/// The sums over all samples: objects and bytes allocated, objects and bytes live.
fn sums(profile: &Profile) -> [u64; 4] {
    let mut sums = [0; 4];
    for (_, values) in &profile.samples {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    sums
}

/// Turns a rate on for as long as it lives.
struct On;

impl On {
    fn new(rate: usize) -> Self {
        assert!(profile::start(rate));
        assert!(!profile::start(rate), "it was on already");
        Self
    }
}

impl Drop for On {
    fn drop(&mut self) {
        assert!(profile::stop());
        assert!(!profile::stop());
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

#[inline(never)]
fn kept_objects(n: usize, size: usize) -> Vec<*mut u8> {
    (0..n).map(|_| black_box(malloc(layout(size)))).collect()
}

#[inline(never)]
fn lost_objects(n: usize, size: usize) {
    for object in kept_objects(n, size) {
        // SAFETY: allocated above, with this size.
        unsafe { free(object, layout(size)) };
    }
}

fn free_all(objects: Vec<*mut u8>, size: usize) {
    for object in objects {
        // SAFETY: the callers allocated them with this size.
        unsafe { free(object, layout(size)) };
    }
}

#[test]
fn every_object_is_counted_where_it_was_allocated() {
    exclusive(|| {
        let before = kept_objects(10, 64);
        let on = On::new(1);
        lost_objects(100, 64);
        let kept = kept_objects(50, 1024);
        let large = kept_objects(3, 100_000);
        free_all(before, 64);
        let (profile, _) = taken();
        let large_bytes = 3 * 100_000_usize.next_multiple_of(8192) as u64;
        let kept_bytes = 50 * 1024 + large_bytes;
        assert_eq!(sums(&profile), [153, 100 * 64 + kept_bytes, 53, kept_bytes]);
        let kinds: Vec<_> = profile.types.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"]);
        assert_eq!((profile.default.as_str(), profile.period), ("inuse_space", 1));
        let me = std::env::current_exe().unwrap();
        assert!(
            profile.files.iter().any(|file| *file == me.to_string_lossy()),
            "{:?}",
            profile.files
        );
        // One stack for each call, although the innermost frames are the same.
        assert_eq!(profile.samples.len(), 3);
        assert!(profile.samples.iter().all(|(stack, _)| stack.len() > 3));
        free_all(kept, 1024);
        free_all(large, 100_000);
        assert_eq!(sums(&taken().0)[2..], [0, 0]);
        drop(on);
        assert_eq!(taken().0.samples.len(), 0);
    });
}

#[test]
fn samples_stand_for_the_rest() {
    exclusive(|| {
        let _on = On::new(profile::RATE);
        let small = kept_objects(1 << 17, 1024);
        lost_objects(1 << 10, 300_000);
        let [allocs, alloc_bytes, live, live_bytes] = sums(&taken().0).map(|sum| sum as f64);
        // 128 MiB are 256 samples, each of which may be off: five times the standard deviation.
        let about = |estimate: f64, truth: f64, off: f64| {
            assert!((estimate / truth - 1.0).abs() < off, "{estimate} for {truth}")
        };
        about(live, f64::from(1 << 17), 5.0 / 16.0);
        about(live_bytes, f64::from(1 << 27), 5.0 / 16.0);
        about(allocs, f64::from((1 << 17) + (1 << 10)), 5.0 / 16.0);
        about(alloc_bytes, f64::from(1 << 27) + 1024.0 * 303_104.0, 0.2);
        free_all(small, 1024);
        assert_eq!(sums(&taken().0)[2..], [0, 0]);
    });
}

/// Threads that were at work before, with lists full of objects, notice; what one allocates another may free.
#[test]
fn threads_at_work_notice() {
    exclusive(|| {
        let (send, receive) = mpsc::channel();
        let (warm, on) = (Barrier::new(5), Barrier::new(5));
        let mut all = Vec::new();
        thread::scope(|scope| {
            for _ in 0..4 {
                let (send, warm, on) = (send.clone(), &warm, &on);
                scope.spawn(move || {
                    lost_objects(1000, 48);
                    warm.wait();
                    on.wait();
                    lost_objects(100, 48);
                    let objects = kept_objects(100, 48);
                    send.send(
                        objects
                            .into_iter()
                            .map(|object| object.expose_provenance())
                            .collect::<Vec<_>>(),
                    )
                    .unwrap();
                });
            }
            warm.wait();
            assert!(profile::start(1));
            on.wait();
            drop(send);
            all.extend(receive.into_iter().flatten());
        });
        assert_eq!(sums(&taken().0), [800, 800 * 48, 400, 400 * 48]);
        free_all(all.into_iter().map(std::ptr::with_exposed_provenance_mut).collect(), 48);
        assert_eq!(sums(&taken().0), [800, 800 * 48, 0, 0]);
        assert!(profile::stop());
    });
}

/// An object that is resized is one of its new size, moved or not.
#[test]
fn resized_objects_have_their_new_size() {
    exclusive(|| {
        let _on = On::new(1);
        let mut object = malloc(layout(100_000));
        let mut size = 100_000;
        for now in [100_001, 400_000, 4_000_000, 60_000, 100, 101] {
            // SAFETY: the object is ours, with this size; what comes back takes its place.
            object = unsafe { realloc(object, layout(size), now) };
            size = now;
            let [_, _, live, live_bytes] = sums(&taken().0);
            assert_eq!(live, 1);
            assert!(
                (now..now + now / 8 + 8192).contains(&(live_bytes as usize)),
                "{now}: {live_bytes}"
            );
        }
        // SAFETY: as above.
        unsafe { free(object, layout(size)) };
        assert_eq!(sums(&taken().0)[2..], [0, 0]);
    });
}

/// `go tool pprof` finds the function that allocated, and none of the allocator's own.
#[test]
#[ignore = "Go builds its pprof the first time, which takes a minute"]
fn pprof_reads_it() {
    if !Command::new("go")
        .args(["tool", "pprof", "-h"])
        .output()
        .is_ok_and(|output| !output.stderr.is_empty())
    {
        eprintln!("left out: no `go tool pprof` here");
        return;
    }
    exclusive(|| {
        let on = On::new(1);
        let kept = kept_objects(1000, 4096);
        lost_objects(1000, 64);
        let (_, bytes) = taken();
        drop(on);
        let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("heap.pb");
        fs::write(&file, bytes).unwrap();
        let top = |index: &str| {
            let mut command = Command::new("go");
            command
                .args(["tool", "pprof", "-top", "-nodecount=30", index])
                .arg(std::env::current_exe().unwrap())
                .arg(&file);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            text
        };
        let text = top("-sample_index=inuse_space");
        let line = text
            .lines()
            .find(|line| line.contains("kept_objects"))
            .unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains("3.91MB   100%"), "{text}");
        assert!(!text.contains("alloc_slow") && !text.contains("note_alloc"), "{text}");
        let text = top("-sample_index=alloc_objects");
        assert!(text.contains("lost_objects") && text.contains("2000 total"), "{text}");
        free_all(kept, 4096);
    });
}
