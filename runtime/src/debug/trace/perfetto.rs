//! Perfetto's trace format, as far as it is needed here: protobuf packets, appended to a vector.
//!
//! ```text
//!   trace ─▶ packet*: timestamp │ sequence │ one of: description of a track, event on a track (names are interned)
//! ```
//!
//! A file that ends in the middle of a packet is good up to there. The numbers are those of `perfetto_trace.proto`.

/// Numbers of fields, by message.
mod field {
    pub(super) const TRACE_PACKET: u32 = 1;
    pub(super) mod packet {
        pub(in super::super) const TIMESTAMP: u32 = 8;
        pub(in super::super) const SEQUENCE: u32 = 10;
        pub(in super::super) const EVENT: u32 = 11;
        pub(in super::super) const INTERNED: u32 = 12;
        pub(in super::super) const SEQUENCE_FLAGS: u32 = 13;
        pub(in super::super) const TRACK: u32 = 60;
    }
    pub(super) mod event {
        pub(in super::super) const ANNOTATION: u32 = 4;
        pub(in super::super) const TYPE: u32 = 9;
        pub(in super::super) const NAME_IID: u32 = 10;
        pub(in super::super) const TRACK: u32 = 11;
    }
    pub(super) mod annotation {
        pub(in super::super) const NAME_IID: u32 = 1;
        pub(in super::super) const UINT: u32 = 3;
        pub(in super::super) const STRING: u32 = 6;
    }
    pub(super) mod interned {
        pub(in super::super) const EVENT_NAME: u32 = 2;
        pub(in super::super) const ANNOTATION_NAME: u32 = 3;
        pub(in super::super) const IID: u32 = 1;
        pub(in super::super) const NAME: u32 = 2;
    }
    pub(super) mod track {
        pub(in super::super) const UUID: u32 = 1;
        pub(in super::super) const NAME: u32 = 2;
        pub(in super::super) const PROCESS: u32 = 3;
        pub(in super::super) const PARENT: u32 = 5;
        pub(in super::super) const CHILD_ORDER: u32 = 11;
        pub(in super::super) const RANK: u32 = 12;
        pub(in super::super) const PID: u32 = 1;
        pub(in super::super) const PROCESS_NAME: u32 = 6;
    }
}

/// The one sequence of packets that this process writes.
const SEQUENCE: u64 = 1;
/// `sequence_flags` of the first packet: nothing was interned before. And of those that use what was.
const FIRST: u64 = 1;
const NEEDS_STATE: u64 = 2;
/// `child_ordering`: by `sibling_order_rank`.
const BY_RANK: u64 = 3;

/// `TrackEvent.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Type {
    Begin = 1,
    End = 2,
    Instant = 3,
}

/// Interned names of annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Note {
    Goroutine = 1,
    StartedAt,
    Then,
    Thread,
    From,
    Count,
    KiB,
}

impl Note {
    const ALL: [(Self, &str); 7] = [
        (Self::Goroutine, "goroutine"),
        (Self::StartedAt, "started at"),
        (Self::Then, "then"),
        (Self::Thread, "thread"),
        (Self::From, "from"),
        (Self::Count, "count"),
        (Self::KiB, "KiB"),
    ];
}

/// The value of an annotation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(u64),
    Text(&'a str),
}

/// Packets, one after the other.
#[derive(Debug, Default)]
pub(super) struct Packets {
    bytes: Vec<u8>,
}

impl Packets {
    /// What was written since the last time.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The first packets: the process, as the parent of all tracks, and the names of annotations.
    pub(super) fn begin(&mut self, process: u64, pid: u32, name: &str) {
        self.packet(|p| {
            p.number(field::packet::SEQUENCE, SEQUENCE);
            p.number(field::packet::SEQUENCE_FLAGS, FIRST);
            p.message(field::packet::INTERNED, |p| {
                for (note, name) in Note::ALL {
                    p.message(field::interned::ANNOTATION_NAME, |p| p.name(note as u64, name));
                }
            });
        });
        self.packet(|p| {
            p.number(field::packet::SEQUENCE, SEQUENCE);
            p.message(field::packet::TRACK, |p| {
                p.number(field::track::UUID, process);
                p.number(field::track::CHILD_ORDER, BY_RANK);
                p.message(field::track::PROCESS, |p| {
                    p.number(field::track::PID, pid.into());
                    p.text(field::track::PROCESS_NAME, name);
                });
            });
        });
    }

    /// A track of the process, at this place among its siblings.
    pub(super) fn track(&mut self, uuid: u64, parent: u64, rank: u64, name: &str) {
        self.packet(|p| {
            p.number(field::packet::SEQUENCE, SEQUENCE);
            p.message(field::packet::TRACK, |p| {
                p.number(field::track::UUID, uuid);
                p.text(field::track::NAME, name);
                p.number(field::track::PARENT, parent);
                p.number(field::track::RANK, rank);
            });
        });
    }

    /// From here on `iid` stands for `name`.
    pub(super) fn intern(&mut self, iid: u64, name: &str) {
        self.packet(|p| {
            p.number(field::packet::SEQUENCE, SEQUENCE);
            p.number(field::packet::SEQUENCE_FLAGS, NEEDS_STATE);
            p.message(field::packet::INTERNED, |p| {
                p.message(field::interned::EVENT_NAME, |p| p.name(iid, name));
            });
        });
    }

    /// An event. An end has no name.
    pub(super) fn event(&mut self, kind: Type, when: u64, track: u64, iid: Option<u64>, notes: &[(Note, Value<'_>)]) {
        self.packet(|p| {
            p.number(field::packet::TIMESTAMP, when);
            p.number(field::packet::SEQUENCE, SEQUENCE);
            p.number(field::packet::SEQUENCE_FLAGS, NEEDS_STATE);
            p.message(field::packet::EVENT, |p| {
                p.number(field::event::TYPE, kind as u64);
                p.number(field::event::TRACK, track);
                if let Some(iid) = iid {
                    p.number(field::event::NAME_IID, iid);
                }
                for &(note, value) in notes {
                    p.message(field::event::ANNOTATION, |p| {
                        p.number(field::annotation::NAME_IID, note as u64);
                        match value {
                            Value::Number(n) => p.number(field::annotation::UINT, n),
                            Value::Text(text) => p.text(field::annotation::STRING, text),
                        }
                    });
                }
            });
        });
    }

    #[inline]
    fn packet(&mut self, fill: impl FnOnce(&mut Self)) {
        self.message(field::TRACE_PACKET, fill);
    }

    fn name(&mut self, iid: u64, name: &str) {
        self.number(field::interned::IID, iid);
        self.text(field::interned::NAME, name);
    }

    /// A field that is a number.
    #[inline]
    fn number(&mut self, field: u32, value: u64) {
        let tag = u64::from(field) << 3;
        if tag < 0x80 && value < 0x80 {
            return self.bytes.extend_from_slice(&[tag as u8, value as u8]);
        }
        self.varint(tag);
        self.varint(value);
    }

    /// A field that is text.
    fn text(&mut self, field: u32, text: &str) {
        self.message(field, |p| p.bytes.extend_from_slice(text.as_bytes()));
    }

    /// A field with a length, which is known when it is filled. One byte is set aside for it, which most need.
    #[inline]
    fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        let tag = u64::from(field) << 3 | 2;
        if tag < 0x80 {
            self.bytes.extend_from_slice(&[tag as u8, 0]);
        } else {
            self.varint(tag);
            self.bytes.push(0);
        }
        let at = self.bytes.len() - 1;
        fill(self);
        let len = self.bytes.len() - at - 1;
        if len < 0x80 {
            self.bytes[at] = len as u8;
            return;
        }
        let end = self.bytes.len();
        self.varint(len as u64);
        let more = self.bytes.len() - end;
        // The length is behind what it is the length of; it goes before it.
        self.bytes[at + 1..].rotate_right(more);
        self.bytes.remove(at);
    }

    /// Seven bits a byte, the lowest first. Most are one byte, some are times: eight or nine, which are appended at once.
    #[inline]
    fn varint(&mut self, mut value: u64) {
        if value < 0x80 {
            return self.bytes.push(value as u8);
        }
        let mut bytes = [0; 10];
        let mut len = 0;
        while value >= 0x80 {
            bytes[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        self.bytes.extend_from_slice(&bytes[..=len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lengths_of_all_sizes() {
        let mut packets = Packets::default();
        packets.number(1, 150);
        assert_eq!(packets.bytes(), [0x08, 0x96, 0x01]);
        packets.clear();
        packets.message(2, |p| p.text(3, "ab"));
        assert_eq!(packets.bytes(), [0x12, 4, 0x1a, 2, b'a', b'b']);
        for len in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000] {
            packets.clear();
            packets.text(2, &"x".repeat(len));
            packets.number(1, 5);
            let mut head = Packets::default();
            head.varint(len as u64);
            let head = [&[0x12], head.bytes()].concat();
            assert_eq!(packets.bytes()[..head.len()], head[..]);
            assert_eq!(packets.bytes().len(), head.len() + len + 2);
            assert!(packets.bytes().ends_with(&[0x08, 5]));
        }
    }
}
