//! Entries: one block, void or control record of the log, as bytes.
//!
//! An entry's header is made once, by whoever accepts the block, and stands unchanged in the
//! intake ring and in the log.

use crate::limits::{ENTRY_HEADER_BYTES_MAX, NAMES_BYTES_MAX, NUMBER_MAX};
use crate::types::{BlockKind, Chain, Epoch, Nonce, Receipt, Seq, ShardId, StoreId, Stream};
use crate::wal::codec::layout;

layout!(ENTRY {
    kind: 1,
    block_kind: 1,
    namespace_bytes: 1,
    table_bytes: 1,
    length: 4,
    received_at: 8,
    rows: 4,
    payload_crc: 4,
});
layout!(IDENTITY { origin: 16, epoch: 8, nonce: 8, seq: 8, shard: 2, zero: 6 });

/// Bytes of the fixed part of an entry header.
pub const ENTRY_BYTES: usize = ENTRY::BYTES;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A block of the stream that the segment's header names.
    Own = 1,
    /// A block with an identity of its own: replayed after a crash, or from another store.
    Carried = 2,
    /// A number that was taken and never acknowledged.
    Void = 3,
    /// Not a block and without a number: the payload is a [`Control`].
    Control = 4,
    /// Not a block: an end of a stream, taken over without the blocks up to it ([`Adopted`]).
    Adopted = 5,
}

/// Where a carried entry was accepted, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The stream.
    pub stream: Stream,
    /// The number in it.
    pub seq: Seq,
}

/// Why the blocks up to an adopted end are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Absent {
    /// They are lost to damage where they came from.
    Lost = 1,
    /// Their rows are in data files that were taken over.
    InDataFiles = 2,
}

/// What an adopted entry says: from here on its stream stands at this end, whatever it stood at before. It has the
/// identity of the last block that is not here; `received_at` is the chain, `rows` the reason, and all else is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Adopted {
    /// The stream, and the last number in it that is not here.
    pub last: Identity,
    /// The chain behind that.
    pub chain: Chain,
    /// Why.
    pub absent: Absent,
}

impl Adopted {
    /// The entry's header; it has no payload.
    #[must_use]
    pub fn entry(&self) -> EncodedEntry {
        Entry {
            kind: EntryKind::Adopted,
            block_kind: BlockKind::Raw,
            namespace: "",
            table: "",
            length: 0,
            received_at_ns: self.chain.0 as i64,
            rows: self.absent as u32,
            payload_crc: crc32fast::hash(&[]),
            identity: Some(self.last),
        }
        .encode()
    }

    /// What is lost, where the stream stood at `from` before.
    #[must_use]
    pub fn gap(&self, from: Seq) -> Option<Control> {
        let Identity { stream, seq } = self.last;
        (self.absent == Absent::Lost).then_some(Control::Gap { stream, from, to: seq.next() })
    }
}

/// An entry without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: EntryKind,
    /// What the payload is.
    pub block_kind: BlockKind,
    /// The writer's namespace.
    pub namespace: &'a str,
    /// The block's table.
    pub table: &'a str,
    /// The payload's length in bytes.
    pub length: u32,
    /// When it was accepted, in nanoseconds of the wall clock since 1970.
    pub received_at_ns: i64,
    /// Rows in the payload.
    pub rows: u32,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
    /// Carried and adopted entries: where it was accepted.
    pub identity: Option<Identity>,
}

/// An encoded entry header on the stack.
#[derive(Clone)]
pub struct EncodedEntry {
    bytes: [u8; ENTRY_HEADER_BYTES_MAX],
    len: usize,
}

impl EncodedEntry {
    /// The bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The payload's checksum.
    #[must_use]
    #[inline]
    pub fn payload_crc(&self) -> u32 {
        ENTRY::payload_crc.u32(&self.bytes)
    }

    /// Sets the payload's checksum, for one that is computed while the payload is copied.
    #[inline]
    pub fn set_payload_crc(&mut self, crc: u32) {
        ENTRY::payload_crc.put(&mut self.bytes, &crc.to_le_bytes());
    }
}

impl Entry<'_> {
    /// What it says of its stream, if it is of that kind.
    #[must_use]
    #[inline]
    pub fn adopted(&self) -> Option<Adopted> {
        let absent = match (self.kind, self.rows) {
            (EntryKind::Adopted, 1) => Absent::Lost,
            (EntryKind::Adopted, 2) => Absent::InDataFiles,
            _ => return None,
        };
        Some(Adopted { last: self.identity?, chain: Chain(self.received_at_ns as u64), absent })
    }

    /// The header as bytes.
    ///
    /// # Panics
    /// Where the names together are longer than [`NAMES_BYTES_MAX`]: callers check that.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> EncodedEntry {
        use ENTRY::*;
        assert!(self.namespace.len() + self.table.len() <= NAMES_BYTES_MAX, "names longer than {NAMES_BYTES_MAX}");
        // Filled where the caller wants it: copying it would cost as much as filling it.
        let mut encoded = EncodedEntry { bytes: [0; ENTRY_HEADER_BYTES_MAX], len: ENTRY_BYTES };
        let EncodedEntry { bytes, len } = &mut encoded;
        kind.put(bytes, &[self.kind as u8]);
        block_kind.put(bytes, &[self.block_kind as u8]);
        namespace_bytes.put(bytes, &[self.namespace.len() as u8]);
        table_bytes.put(bytes, &[self.table.len() as u8]);
        length.put(bytes, &self.length.to_le_bytes());
        received_at.put(bytes, &self.received_at_ns.to_le_bytes());
        rows.put(bytes, &self.rows.to_le_bytes());
        payload_crc.put(bytes, &self.payload_crc.to_le_bytes());
        if let Some(identity) = &self.identity {
            let record = &mut bytes[*len..*len + IDENTITY::BYTES];
            IDENTITY::origin.put(record, &identity.stream.origin.0);
            IDENTITY::epoch.put(record, &identity.stream.epoch.0.to_le_bytes());
            IDENTITY::nonce.put(record, &identity.stream.nonce.0.to_le_bytes());
            IDENTITY::seq.put(record, &identity.seq.0.to_le_bytes());
            IDENTITY::shard.put(record, &identity.stream.shard.0.to_le_bytes());
            *len += IDENTITY::BYTES;
        }
        for name in [self.namespace, self.table] {
            bytes[*len..*len + name.len()].copy_from_slice(name.as_bytes());
            *len += name.len();
        }
        encoded
    }
}

/// The lengths that the fixed part of an entry header states; `None` where it is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLengths {
    /// What it is.
    pub kind: EntryKind,
    /// The whole header: fixed part, identity, names.
    pub header: usize,
    /// The payload.
    pub payload: u32,
    /// The payload's checksum.
    pub payload_crc: u32,
}

/// Reads the fixed part (the first [`ENTRY_BYTES`] of `header`). Nothing is allocated for what it
/// says before the caller has checked the lengths against what is there.
#[must_use]
#[inline]
pub fn entry_lengths(fixed: &[u8]) -> Option<EntryLengths> {
    let kind = match ENTRY::kind.u8(fixed) {
        1 => EntryKind::Own,
        2 => EntryKind::Carried,
        3 => EntryKind::Void,
        4 => EntryKind::Control,
        5 => EntryKind::Adopted,
        _ => return None,
    };
    let names = usize::from(ENTRY::namespace_bytes.u8(fixed)) + usize::from(ENTRY::table_bytes.u8(fixed));
    if names > NAMES_BYTES_MAX {
        return None;
    }
    let is_adopted = kind == EntryKind::Adopted;
    if is_adopted && (names > 0 || ENTRY::length.u32(fixed) > 0 || !matches!(ENTRY::rows.u32(fixed), 1 | 2)) {
        return None;
    }
    let identity = if is_adopted || kind == EntryKind::Carried { IDENTITY::BYTES } else { 0 };
    Some(EntryLengths {
        kind,
        header: ENTRY_BYTES + identity + names,
        payload: ENTRY::length.u32(fixed),
        payload_crc: ENTRY::payload_crc.u32(fixed),
    })
}

/// Reads the identity of a carried or adopted entry from its header; `None` where it is none that a store gives.
#[must_use]
pub fn decode_identity(header: &[u8]) -> Option<Identity> {
    let record = header.get(ENTRY_BYTES..ENTRY_BYTES + IDENTITY::BYTES)?;
    (1..=NUMBER_MAX).contains(&IDENTITY::seq.u64(record)).then(|| Identity {
        stream: Stream {
            origin: StoreId(IDENTITY::origin.array(record)),
            shard: ShardId(IDENTITY::shard.u16(record)),
            epoch: Epoch(IDENTITY::epoch.u64(record)),
            nonce: Nonce(IDENTITY::nonce.u64(record)),
        },
        seq: Seq(IDENTITY::seq.u64(record)),
    })
}

/// Reads a whole entry header; `None` where it is not one.
#[must_use]
pub fn decode_entry(header: &[u8]) -> Option<Entry<'_>> {
    if header.len() < ENTRY_BYTES {
        return None;
    }
    let lengths = entry_lengths(header)?;
    let header = header.get(..lengths.header)?;
    let block_kind = match ENTRY::block_kind.u8(header) {
        1 => BlockKind::Raw,
        2 => BlockKind::Lines,
        _ => return None,
    };
    let identity = match lengths.kind {
        EntryKind::Carried | EntryKind::Adopted => Some(decode_identity(header)?),
        _ => None,
    };
    let names = &header[lengths.header
        - usize::from(ENTRY::namespace_bytes.u8(header))
        - usize::from(ENTRY::table_bytes.u8(header))..];
    let (namespace, table) = names.split_at(usize::from(ENTRY::namespace_bytes.u8(header)));
    Some(Entry {
        kind: lengths.kind,
        block_kind,
        namespace: std::str::from_utf8(namespace).ok()?,
        table: std::str::from_utf8(table).ok()?,
        length: lengths.payload,
        received_at_ns: i64::from_le_bytes(ENTRY::received_at.array(header)),
        rows: ENTRY::rows.u32(header),
        payload_crc: lengths.payload_crc,
        identity,
    })
}

/// Bytes of a stream in a control's payload, and in what is made after it.
pub const STREAM_BYTES: usize = 16 + 2 + 8 + 8;

/// A stream as it stands in a control's payload: origin, shard, epoch, nonce.
#[must_use]
pub fn encode_stream(stream: &Stream) -> [u8; STREAM_BYTES] {
    let mut out = [0; STREAM_BYTES];
    out[..16].copy_from_slice(&stream.origin.0);
    out[16..18].copy_from_slice(&stream.shard.0.to_le_bytes());
    out[18..26].copy_from_slice(&stream.epoch.0.to_le_bytes());
    out[26..].copy_from_slice(&stream.nonce.0.to_le_bytes());
    out
}

/// Reads it back.
#[must_use]
pub fn decode_stream(bytes: &[u8; STREAM_BYTES]) -> Stream {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    Stream {
        origin: StoreId(bytes[..16].try_into().expect("16 bytes")),
        shard: ShardId(u16::from_le_bytes([bytes[16], bytes[17]])),
        epoch: Epoch(word(18)),
        nonce: Nonce(word(26)),
    }
}

/// A record that the log keeps for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Everything that was accepted under epochs up to this one is in the log: older rings are ignored.
    IntakeDone(Epoch),
    /// Blocks of a stream between `from` and `to` are lost to damage that was salvaged.
    Gap {
        /// The stream.
        stream: Stream,
        /// The last number before the gap that is there.
        from: Seq,
        /// The first number after it that is there; `Seq(u64::MAX)` where none is.
        to: Seq,
    },
    /// No block of this epoch follows in the log.
    EpochClosed(Epoch),
}

impl Control {
    /// It is a gap that this block is lost in.
    #[must_use]
    pub fn is_of(&self, receipt: &Receipt) -> bool {
        match self {
            Self::Gap { stream, from, to } => *stream == receipt.stream && *from < receipt.seq && receipt.seq < *to,
            Self::IntakeDone(_) | Self::EpochClosed(_) => false,
        }
    }

    /// The payload of the control entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::IntakeDone(epoch) => {
                out.push(1);
                out.extend(epoch.0.to_le_bytes());
            }
            Self::Gap { stream, from, to } => {
                out.push(2);
                out.extend(encode_stream(stream));
                out.extend(from.0.to_le_bytes());
                out.extend(to.0.to_le_bytes());
            }
            Self::EpochClosed(epoch) => {
                out.push(3);
                out.extend(epoch.0.to_le_bytes());
            }
        }
        out
    }

    /// Reads the payload of a control entry; `None` where it is not one that this version knows.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(payload.get(at..at + 8)?.try_into().ok()?));
        let epoch = || word(1).filter(|epoch| *epoch <= NUMBER_MAX).map(Epoch);
        match (payload.first()?, payload.len()) {
            (1, 9) => Some(Self::IntakeDone(epoch()?)),
            (2, 51) => Some(Self::Gap {
                stream: decode_stream(payload[1..1 + STREAM_BYTES].try_into().ok()?),
                from: Seq(word(35)?),
                to: Seq(word(43)?),
            }),
            (3, 9) => Some(Self::EpochClosed(epoch()?)),
            _ => None,
        }
    }

    /// The control entry's header, for [`encode`](Self::encode)'s payload.
    #[must_use]
    pub fn entry(&self, payload: &[u8]) -> EncodedEntry {
        control_header(EntryKind::Control, payload)
    }
}

/// The header of a void.
#[must_use]
pub fn void_entry() -> EncodedEntry {
    control_header(EntryKind::Void, &[])
}

pub(crate) fn control_header(kind: EntryKind, payload: &[u8]) -> EncodedEntry {
    Entry {
        kind,
        block_kind: BlockKind::Raw,
        namespace: "",
        table: "",
        length: payload.len() as u32,
        received_at_ns: 0,
        rows: 0,
        payload_crc: crc32fast::hash(payload),
        identity: None,
    }
    .encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let identity = Identity {
            stream: Stream { origin: StoreId([3; 16]), shard: ShardId(2), epoch: Epoch(4), nonce: Nonce(5) },
            seq: Seq(6),
        };
        for (kind, identity) in [(EntryKind::Own, None), (EntryKind::Carried, Some(identity))] {
            let entry = Entry {
                kind,
                block_kind: BlockKind::Lines,
                namespace: "plant7",
                table: "meters",
                length: 9,
                received_at_ns: -5,
                rows: 2,
                payload_crc: 77,
                identity,
            };
            assert_eq!(decode_entry(entry.encode().bytes()), Some(entry));
        }
        assert_eq!(decode_entry(&[0; ENTRY_BYTES]), None);
        assert_eq!(decode_entry(&[1; 3]), None);
    }

    #[test]
    fn adopted_ends_round_trip_and_have_nothing_else() {
        let stream = Stream { origin: StoreId([3; 16]), shard: ShardId(2), epoch: Epoch(4), nonce: Nonce(5) };
        let last = Identity { stream, seq: Seq(6) };
        for absent in [Absent::Lost, Absent::InDataFiles] {
            let adopted = Adopted { last, chain: Chain(u64::MAX - 1), absent };
            let entry = adopted.entry();
            let read = decode_entry(entry.bytes()).expect("an entry");
            assert_eq!((read.adopted(), read.length, read.identity), (Some(adopted), 0, Some(last)));
            let gap = Control::Gap { stream, from: Seq(2), to: Seq(7) };
            assert_eq!(adopted.gap(Seq(2)), (absent == Absent::Lost).then_some(gap));
            for (field, value) in [(ENTRY::rows, 0u32), (ENTRY::rows, 3), (ENTRY::length, 1)] {
                let mut bytes = entry.bytes().to_vec();
                field.put(&mut bytes, &value.to_le_bytes());
                assert_eq!(entry_lengths(&bytes), None, "rows or length {value}");
            }
            for name in [ENTRY::namespace_bytes, ENTRY::table_bytes] {
                let mut bytes = [entry.bytes(), b"x"].concat();
                name.put(&mut bytes, &[1]);
                assert_eq!(decode_entry(&bytes), None, "it has no name");
            }
        }
        let unnumbered = Adopted { last: Identity { stream, seq: Seq(0) }, chain: Chain(1), absent: Absent::Lost };
        assert_eq!(decode_entry(unnumbered.entry().bytes()), None);
    }

    #[test]
    fn controls_round_trip() {
        let stream = Stream { origin: StoreId([3; 16]), shard: ShardId(2), epoch: Epoch(4), nonce: Nonce(5) };
        for control in [
            Control::IntakeDone(Epoch(9)),
            Control::EpochClosed(Epoch(8)),
            Control::Gap { stream, from: Seq(1), to: Seq(u64::MAX) },
        ] {
            let payload = control.encode();
            assert_eq!(Control::decode(&payload), Some(control));
            assert_eq!(Control::decode(&payload[..payload.len() - 1]), None);
        }
        assert_eq!(Control::decode(&Control::IntakeDone(Epoch(u64::MAX)).encode()), None, "it has no next one");
    }
}
