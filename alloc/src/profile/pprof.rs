//! pprof's format: `profile.proto`, written by hand, since all of it that is needed are numbers, strings and messages.
//!
//! A field is a tag (its number, and 0 for a number or 2 for bytes with a length) and what the tag says. Numbers are base
//! 128, lowest digit first, the highest bit of a byte set if more follow. Strings are numbers of strings in the table.

use super::Site;
use std::{collections::BTreeMap, fs};

/// Functions that are the allocator's, or the way to it: tools leave them out, with all that they call. (Some tools know the
/// last part of a function's name only.)
const ALLOCATOR: &str = "(<?baton_alloc::.*|<?baton_malloc::.*|<?alloc::alloc::.*|__rust_alloc.*|__rust_realloc|capture|note_alloc\
    |alloc_slow|alloc_unusual|realloc_untyped|realloc_other|malloc_zeroed|malloc|calloc|realloc|reallocarray|aligned_alloc|posix_memalign|memalign\
    |valloc|pvalloc|operator new.*|_Zn[wa]m.*)";

/// A message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, build: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        build(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn packed(&mut self, field: u32, values: impl Iterator<Item = u64>) {
        self.message(field, |inner| values.for_each(|value| inner.varint(value)));
    }
}

/// The table of strings; the first one is empty.
struct Strings(Vec<String>);

impl Strings {
    fn number(&mut self, text: &str) -> u64 {
        let found = self.0.iter().position(|known| known == text);
        let number = found.unwrap_or_else(|| {
            self.0.push(text.to_string());
            self.0.len() - 1
        });
        number as u64
    }
}

/// A piece of code in the address space.
struct Mapping {
    start: u64,
    limit: u64,
    offset: u64,
    file: String,
}

/// The executable mappings of this process: none where /proc is denied.
fn mappings() -> Vec<Mapping> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, limit) = words.next()?.split_once('-')?;
        let executable = words.next()?.contains('x');
        let offset = words.next()?;
        let file = words.nth(2)?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let mapping = Mapping {
            start: hex(start)?,
            limit: hex(limit)?,
            offset: hex(offset)?,
            file: file.to_string(),
        };
        executable.then_some(mapping)
    };
    maps.lines().filter_map(parse).collect()
}

/// The profile; `rate` as it was started with.
pub(super) fn encode(sites: &[Site], rate: usize) -> Vec<u8> {
    let mut profile = Message::default();
    let mut strings = Strings(vec![String::new()]);
    let types = [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ];
    let mut value_type = |profile: &mut Message, field, (kind, unit)| {
        let (kind, unit) = (strings.number(kind), strings.number(unit));
        profile.message(field, |inner| {
            inner.number(1, kind);
            inner.number(2, unit);
        });
    };
    types.into_iter().for_each(|kind| value_type(&mut profile, 1, kind));
    value_type(&mut profile, 11, ("space", "bytes"));
    profile.number(12, rate as u64);
    // Locations are numbered from 1 in the order in which they turn up.
    let mut locations = BTreeMap::new();
    for Site { frames, counts } in sites {
        profile.message(2, |sample| {
            let ids = frames.iter().map(|&frame| {
                // Of a call, and not of what comes back from it.
                let address = frame as u64 - 1;
                let next = locations.len() as u64 + 1;
                *locations.entry(address).or_insert(next)
            });
            sample.packed(1, ids.collect::<Vec<_>>().into_iter());
            let values = [counts.allocs, counts.alloc_bytes, counts.live, counts.live_bytes];
            sample.packed(2, values.into_iter().map(|value| value.round().max(0.0) as u64));
        });
    }
    let mappings = mappings();
    for (i, mapping) in mappings.iter().enumerate() {
        let file = strings.number(&mapping.file);
        profile.message(3, |inner| {
            inner.number(1, i as u64 + 1);
            inner.number(2, mapping.start);
            inner.number(3, mapping.limit);
            inner.number(4, mapping.offset);
            inner.number(5, file);
        });
    }
    for (address, id) in locations {
        let mapping = mappings.iter().position(|m| (m.start..m.limit).contains(&address));
        profile.message(4, |inner| {
            inner.number(1, id);
            inner.number(2, mapping.map_or(0, |i| i as u64 + 1));
            inner.number(3, address);
        });
    }
    profile.number(7, strings.number(ALLOCATOR));
    profile.number(14, strings.number("inuse_space"));
    for text in strings.0 {
        profile.bytes(6, text.as_bytes());
    }
    profile.0
}
