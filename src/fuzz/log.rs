//! Segments and batches out of [`Choices`]: what the bodies for batches, segment headers and the scan
//! have in common. The log is written batch by batch into plain memory, as a shard writes it.

use std::collections::BTreeMap;

use crate::fuzz::choices::Choices;
use crate::io::buf::AlignedBuf;
use crate::limits::{
    HANDLED_RANGES_MAX, NAMES_BYTES_MAX, NUMBER_MAX, SECTOR_BYTES, SECTOR_STREAM_BYTES, SEGMENT_HEADER_BYTES,
};
use crate::types::{
    BatchNo, BlockKind, Chain, Epoch, FileId, Generation, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream,
};
use crate::wal::batch::{
    BATCH, BatchBuilder, BatchHeader, Begin, Place, Push, STREAM, StreamEnd, StreamEnds, decode_header,
};
use crate::wal::codec::crc_before;
use crate::wal::entry::{Absent, Adopted, Control, EncodedEntry, Entry, EntryKind, Identity, void_entry};
use crate::wal::log::{Log, UsedSegment};
use crate::wal::read::{for_each_entry, pieces};
use crate::wal::segment::{Handled, LogEnd, SegmentHeader};

/// Bytes of a segment: a header and six pages of batches.
pub const SEGMENT: usize = SEGMENT_HEADER_BYTES + (24 << 10);

/// The header of a segment of the log that the bodies build.
#[must_use]
pub fn plain_header(segment: u64, generation: u32, filled_upto: u32) -> SegmentHeader {
    SegmentHeader {
        store: StoreId([7; 16]),
        shard: ShardId(3),
        segment: SegmentNo(segment),
        epoch: Epoch(5),
        nonce: Nonce(6),
        file_id: FileId(segment.wrapping_add(1000)),
        generation: Generation(generation),
        filled_upto,
        segment_bytes: SEGMENT as u64,
        boot: [9; 16],
        pin: None,
        handled: Vec::new(),
    }
}

/// Any header that can be encoded, for a segment of this number.
pub fn any_header(from: &mut Choices<'_>, segment: u64) -> SegmentHeader {
    let plain = plain_header(segment, 1 + u32::from(from.byte() % 4), from.word());
    let pin = from.flag().then(|| LogEnd {
        segment: SegmentNo(from.number()),
        offset: from.word(),
        batch: BatchNo(from.number()),
        chain: Chain(from.number()),
        seq: Seq(from.number()),
    });
    let count = if from.flag() { from.below(4) } else { from.below(HANDLED_RANGES_MAX + 1) };
    let handled = (0..count).map(|_| any_range(from, segment)).collect();
    SegmentHeader { handled, pin, nonce: Nonce(from.number()), ..plain }
}

/// A salvaged range as the header of this segment may name it, or any other.
fn any_range(from: &mut Choices<'_>, segment: u64) -> Handled {
    let page = |from: &mut Choices<'_>| 4096 * u32::from(from.byte() % 9);
    let is_near = from.flag();
    let number = |from: &mut Choices<'_>| if is_near { from.modest() } else { from.number() };
    let place = |from: &mut Choices<'_>| match is_near {
        true => (SegmentNo(segment.saturating_sub(u64::from(from.byte() % 4))), page(from)),
        false => (SegmentNo(from.number()), from.word()),
    };
    let (one, other) = (place(from), place(from));
    let (first, last) = if is_near { (one.min(other), one.max(other)) } else { (one, other) };
    Handled {
        segment: first.0,
        offset: first.1,
        resume_segment: last.0,
        resume_offset: if is_near { last.1.max(SEGMENT_HEADER_BYTES as u32) } else { last.1 },
        resume_batch: BatchNo(number(from)),
        resume_chain: Chain(from.number()),
        resume_seq: Seq(number(from)),
    }
}

/// An entry, encoded, and its payload.
pub type Made = (EncodedEntry, Vec<u8>);

/// An entry of any kind with a payload of at most `len_max` bytes.
pub fn any_entry(from: &mut Choices<'_>, len_max: usize) -> Made {
    match from.byte() % 8 {
        0 => (void_entry(), Vec::new()),
        1 => {
            let stream = Stream { epoch: Epoch(from.number()), ..Stream::default() };
            let control = match from.byte() % 3 {
                0 => Control::IntakeDone(Epoch(from.number().min(NUMBER_MAX))),
                1 => Control::EpochClosed(Epoch(from.modest())),
                _ => Control::Gap { stream, from: Seq(from.number()), to: Seq(from.number()) },
            };
            let payload = control.encode();
            assert_eq!(Control::decode(&payload), Some(control), "a control reads back");
            (control.entry(&payload), payload)
        }
        7 => {
            let last = any_identity(from);
            let absent = if from.flag() { Absent::Lost } else { Absent::InDataFiles };
            (Adopted { last, chain: Chain(from.number()), absent }.entry(), Vec::new())
        }
        kind => {
            let len = if from.flag() { from.below(len_max + 1) } else { from.below(64.min(len_max) + 1) };
            let payload = from.bytes(len);
            let namespace = from.text(NAMES_BYTES_MAX);
            let table = from.text(NAMES_BYTES_MAX - namespace.len());
            let identity = any_identity(from);
            let entry = Entry {
                kind: if kind < 5 { EntryKind::Own } else { EntryKind::Carried },
                block_kind: if from.flag() { BlockKind::Raw } else { BlockKind::Lines },
                namespace: &namespace,
                table: &table,
                length: len as u32,
                received_at_ns: from.number() as i64,
                rows: from.word(),
                payload_crc: crc32fast::hash(&payload),
                identity: (kind >= 5).then_some(identity),
            };
            (entry.encode(), payload)
        }
    }
}

fn any_identity(from: &mut Choices<'_>) -> Identity {
    let stream = Stream {
        origin: StoreId([from.byte(); 16]),
        shard: ShardId(from.short()),
        epoch: Epoch(from.number()),
        nonce: Nonce(u64::from(from.byte() % 2)),
    };
    Identity { stream, seq: Seq((from.number() & NUMBER_MAX).max(1)) }
}

/// A log that is written batch by batch, and what was written.
#[derive(Debug)]
pub struct Written {
    /// The log.
    pub log: Log,
    /// Headers and bytes of its segments.
    pub files: BTreeMap<SegmentNo, (SegmentHeader, Vec<u8>)>,
    /// The same bytes before anything was written.
    pub before: BTreeMap<SegmentNo, Vec<u8>>,
    /// Its batches: where each stands, and what it says.
    pub batches: Vec<(Place, BatchHeader)>,
    durable_upto: BatchNo,
}

impl Written {
    /// A new log with so many segments, of which none holds anything; they were used before if
    /// `generation` is above 1.
    pub fn new(from: &mut Choices<'_>, segments: u64, generation: u32) -> Self {
        let filled = if generation > 1 { SEGMENT as u32 } else { 0 };
        let mut headers: Vec<SegmentHeader> =
            (1..=segments).map(|segment| plain_header(segment, generation, filled)).collect();
        headers[0].pin = Some(LogEnd::default());
        let start = from.modest();
        let current = UsedSegment {
            header: headers[0].clone(),
            first_batch: BatchNo(start),
            first_seq: Seq(start),
            last_seq: Seq(start - 1),
            end: SEGMENT_HEADER_BYTES as u32,
        };
        headers[0].pin = Some(LogEnd { batch: BatchNo(start - 1), seq: Seq(start - 1), ..LogEnd::default() });
        let mut files = BTreeMap::new();
        for header in &headers {
            let mut bytes = header.encode();
            bytes.resize(SEGMENT, 0);
            if generation > 1 {
                // What an older generation left behind is not looked into: only its stamps count.
                let older = SegmentHeader { generation: Generation(generation - 1), ..header.clone() }.stamp();
                for sector in bytes[SEGMENT_HEADER_BYTES..].chunks_exact_mut(SECTOR_BYTES) {
                    sector[..4].copy_from_slice(&older.to_le_bytes());
                }
            }
            files.insert(header.segment, (header.clone(), bytes));
        }
        let before = files.iter().map(|(segment, (_, bytes))| (*segment, bytes.clone())).collect();
        let log = Log {
            used: Default::default(),
            current,
            ready: headers.into_iter().skip(1).collect(),
            number: BatchNo(start - 1),
            chain: Chain(0),
            ends: StreamEnds::new(),
            gaps: Vec::new(),
            says_vector: true,
            prev_end: 0,
        };
        Self { log, files, before, batches: Vec::new(), durable_upto: BatchNo(start - 1) }
    }

    /// A log that goes on behind what is in these files.
    #[must_use]
    pub fn again(
        log: Log,
        files: BTreeMap<SegmentNo, (SegmentHeader, Vec<u8>)>,
        before: BTreeMap<SegmentNo, Vec<u8>>,
    ) -> Self {
        Self { durable_upto: log.number, log, files, before, batches: Vec::new() }
    }

    /// Writes a batch; false where there is no room left for one.
    pub fn append(&mut self, from: &mut Choices<'_>) -> bool {
        if (self.log.is_full() || from.byte().is_multiple_of(8)) && !self.log.rotate() && self.log.is_full() {
            return false;
        }
        let entries: Vec<Made> = (0..=from.byte() % 4).map(|_| any_entry(from, 5000)).collect();
        if from.byte().is_multiple_of(2) {
            let synced = self.log.number.0.saturating_sub(u64::from(from.byte() % 3));
            self.durable_upto = self.durable_upto.max(BatchNo(synced));
        }
        self.write(&entries, from.byte().is_multiple_of(16));
        true
    }

    /// Writes a batch of control entries.
    pub fn append_controls(&mut self, controls: &[Control]) {
        let entry = |control: &Control| {
            let payload = control.encode();
            (control.entry(&payload), payload)
        };
        self.write(&controls.iter().map(entry).collect::<Vec<_>>(), false);
    }

    fn write(&mut self, entries: &[Made], seal: bool) {
        let begin = Begin {
            vector: self.log.vector(),
            place: self.log.place(),
            own: self.log.current.header.stream(),
            first_seq: self.log.last_seq().next(),
            soft_bytes: SEGMENT,
            hard_bytes: self.log.room(),
            ends: std::mem::take(&mut self.log.ends),
        };
        let mut batch = BatchBuilder::new(begin, AlignedBuf::new(SEGMENT));
        for (head, payload) in entries {
            if batch.push(head.bytes(), payload) != Push::Taken {
                break;
            }
        }
        let place = self.log.place();
        let (image, header, after) = batch.finish(self.log.link(self.durable_upto, seal));
        self.log.appended(&header, after);
        let (_, bytes) = self.files.get_mut(&place.segment).expect("a file");
        bytes[place.offset as usize..][..image.len()].copy_from_slice(&image);
        self.batches.push((place, header));
    }
}

/// A few ends of streams.
pub fn any_ends(from: &mut Choices<'_>) -> StreamEnds {
    let count = from.byte() % 3;
    let end = |from: &mut Choices<'_>| {
        let stream = Stream { origin: StoreId([from.byte(); 16]), epoch: Epoch(from.number()), ..Stream::default() };
        (stream, StreamEnd { seq: Seq(from.number()), chain: Chain(from.number()) })
    };
    (0..count).map(|_| end(from)).collect()
}

/// Makes stamps and checksums of the batch at this place right again, as far as it still looks like one:
/// `bytes` is the batch alone.
pub fn make_right(bytes: &mut [u8], place: &Place, stamp: u32) {
    for sector in bytes.chunks_exact_mut(SECTOR_BYTES) {
        sector[..4].copy_from_slice(&stamp.to_le_bytes());
    }
    make_header_right(bytes);
    let Some(header) = decode_header(bytes, place) else { return };
    let room = bytes.len() / SECTOR_BYTES * SECTOR_STREAM_BYTES;
    let rows_at = BATCH::BYTES + header.entries_bytes as usize;
    let rows_bytes = header.streams as usize * STREAM::BYTES;
    if rows_at + rows_bytes > room {
        return;
    }
    let mut body = crc32fast::Hasher::new();
    for_each_entry(bytes, &header, |_, at, header_bytes, _| {
        pieces(bytes, at, header_bytes).for_each(|piece| body.update(piece));
    });
    pieces(bytes, rows_at, rows_bytes).for_each(|piece| body.update(piece));
    BATCH::body_crc.put(&mut bytes[4..4 + BATCH::BYTES], &body.finalize().to_le_bytes());
    make_header_right(bytes);
}

fn make_header_right(bytes: &mut [u8]) {
    let record = &mut bytes[4..4 + BATCH::BYTES];
    let sum = crc_before(BATCH::crc, record);
    BATCH::crc.put(record, &sum.to_le_bytes());
}
