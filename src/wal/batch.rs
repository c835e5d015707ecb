//! Batches: one group commit is one write. Building them, and reading their headers.
//!
//! A batch is built once, in the buffer that is written. `read` takes its contents out again;
//! `verdict` judges bytes that should be one.

use std::collections::HashMap;

use crate::io::buf::AlignedBuf;
use crate::limits::{BATCH_ENTRIES_MAX, BATCH_STREAMS_MAX, PAGE_BYTES, SECTOR_BYTES, SECTOR_STREAM_BYTES};
use crate::types::{BatchNo, Chain, Epoch, FileId, Generation, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream, mix64};
use crate::wal::codec::{FORMAT_VERSION, crc_before, layout};
use crate::wal::entry::{
    Adopted, Control, ENTRY_BYTES, Entry, EntryKind, control_header, decode_entry, decode_identity, entry_lengths,
};
use crate::wal::segment::{SegmentHeader, stamp};

const MAGIC: [u8; 4] = *b"FBB1";
const FLAG_SEAL: u16 = 1;

layout!(BATCH {
    magic: 4,
    version: 2,
    flags: 2,
    store: 16,
    segment: 8,
    file_id: 8,
    epoch: 8,
    number: 8,
    first_seq: 8,
    prev_chain: 8,
    durable_upto: 8,
    generation: 4,
    offset: 4,
    prev_end: 4,
    length: 4,
    count: 4,
    entries_bytes: 4,
    streams: 4,
    body_crc: 4,
    shard: 2,
    zero: 10,
    crc: 4,
});
layout!(STREAM {
    origin: 16,
    epoch: 8,
    nonce: 8,
    prev_seq: 8,
    prev_chain: 8,
    last_seq: 8,
    last_chain: 8,
    shard: 2,
    zero: 6,
});

/// Where a batch stands: everything that its identity is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The segment.
    pub segment: SegmentNo,
    /// Its file.
    pub file_id: FileId,
    /// The file's generation.
    pub generation: Generation,
    /// The opening that the segment was made in.
    pub epoch: Epoch,
    /// The offset in the segment, in bytes.
    pub offset: u32,
}

impl Place {
    /// A place in the segment with this header.
    #[must_use]
    pub fn new(header: &SegmentHeader, offset: u32) -> Self {
        Self {
            store: header.store,
            shard: header.shard,
            segment: header.segment,
            file_id: header.file_id,
            generation: header.generation,
            epoch: header.epoch,
            offset,
        }
    }
}

/// What a batch says of itself, beside its [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Its number.
    pub number: BatchNo,
    /// The seq of its first block or void; what the next would be where it has none.
    pub first_seq: Seq,
    /// Blocks and voids in it.
    pub numbered: u32,
    /// The chain before it.
    pub prev_chain: Chain,
    /// The last batch known to be synced when it was built.
    pub durable_upto: BatchNo,
    /// Where the batch before it ended, if that was in the segment before.
    pub prev_end: u32,
    /// Its length in bytes.
    pub length: u32,
    /// Bytes of entries in its stream.
    pub entries_bytes: u32,
    /// Rows of its stream table.
    pub streams: u32,
    /// CRC-32 of its entry headers and stream table.
    pub body_crc: u32,
    /// A clean stop.
    pub seal: bool,
    /// The chain after it.
    pub chain: Chain,
}

impl BatchHeader {
    /// The last seq in it, or the one before it where it has none.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        Seq(self.first_seq.0 + u64::from(self.numbered) - 1)
    }
}

/// How far a stream has come: its last number and the chain up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// The last number.
    pub seq: Seq,
    /// The chain up to it.
    pub chain: Chain,
}

impl StreamEnd {
    /// The end behind one more block.
    #[must_use]
    #[inline]
    pub const fn then(self, seq: Seq, length: u32, payload_crc: u32) -> Self {
        Self { seq, chain: self.chain.then(seq, length, payload_crc) }
    }

    /// The end behind this entry of the stream, which has the number `seq` in it.
    #[must_use]
    #[inline]
    pub fn behind(self, entry: &Entry<'_>, seq: Seq) -> Self {
        match entry.adopted() {
            Some(adopted) => Self::adopted(&adopted),
            None => self.then(seq, entry.length, entry.payload_crc),
        }
    }

    /// The end that is taken over.
    #[must_use]
    pub const fn adopted(adopted: &Adopted) -> Self {
        Self { seq: adopted.last.seq, chain: adopted.chain }
    }
}

/// A stream's part of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// The stream.
    pub stream: Stream,
    /// Where it stood before the batch.
    pub prev: StreamEnd,
    /// Where it stands after it.
    pub last: StreamEnd,
}

/// Where every stream of a shard stands at the end of its log.
pub type StreamEnds = HashMap<Stream, StreamEnd>;

/// The bytes that a stream of `bytes` needs in a segment.
#[must_use]
pub const fn padded(bytes: usize) -> usize {
    (bytes.div_ceil(SECTOR_STREAM_BYTES) * SECTOR_BYTES).next_multiple_of(PAGE_BYTES)
}

/// A batch that is being filled.
#[derive(Debug)]
pub struct BatchBuilder {
    buf: AlignedBuf,
    place: Place,
    stamp: u32,
    own: Stream,
    at: usize,
    numbered: u32,
    entries: usize,
    /// Entries that are in it before any is offered.
    preamble: usize,
    first_seq: Seq,
    soft_bytes: usize,
    hard_bytes: usize,
    body_crc: crc32fast::Hasher,
    ends: StreamEnds,
    gaps: Vec<Control>,
    rows: Vec<StreamRow>,
    last_row: usize,
}

/// What became of an entry that was offered to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It is in.
    Taken,
    /// This batch is full; it fits another.
    BatchFull,
    /// The batch is empty and the entry does not fit: the buffer needs this many bytes, if the
    /// segment has them.
    NeedsBytes(usize),
}

/// What a batch is begun with.
#[derive(Debug)]
pub struct Begin {
    /// Where it will stand.
    pub place: Place,
    /// The stream of its `own` entries.
    pub own: Stream,
    /// The seq of its first block.
    pub first_seq: Seq,
    /// No entry joins a batch of one or more beyond this many bytes in the segment.
    pub soft_bytes: usize,
    /// No batch, even of one entry, is longer than this or than the buffer.
    pub hard_bytes: usize,
    /// The streams' ends before it.
    pub ends: StreamEnds,
    /// What it says of them, as its first entry: the payload of a control, empty where it says nothing.
    pub vector: Vec<u8>,
}

impl Begin {
    /// The bytes that its buffer needs before anything is offered.
    #[must_use]
    pub fn bytes_least(&self) -> usize {
        let vector = if self.vector.is_empty() { 0 } else { ENTRY_BYTES + self.vector.len() };
        padded(BATCH::BYTES + vector)
    }
}

/// What is known of the streams behind a batch.
#[derive(Debug)]
pub struct After {
    /// Their ends.
    pub ends: StreamEnds,
    /// The gaps that are new in it.
    pub gaps: Vec<Control>,
}

impl BatchBuilder {
    /// Begins a batch in this buffer.
    ///
    /// # Panics
    /// Where the buffer is shorter than [`Begin::bytes_least`].
    #[must_use]
    pub fn new(begin: Begin, buf: AlignedBuf) -> Self {
        assert!(begin.bytes_least() <= buf.capacity(), "a buffer for what the batch begins with");
        let stamp = stamp(begin.place.store, begin.place.file_id, begin.place.generation);
        let mut this = Self {
            place: begin.place,
            stamp,
            own: begin.own,
            at: BATCH::BYTES,
            numbered: 0,
            entries: 0,
            preamble: 0,
            first_seq: begin.first_seq,
            soft_bytes: begin.soft_bytes.min(begin.hard_bytes).min(buf.capacity()),
            hard_bytes: begin.hard_bytes.min(buf.capacity()),
            body_crc: crc32fast::Hasher::new(),
            ends: begin.ends,
            gaps: Vec::new(),
            rows: Vec::new(),
            last_row: 0,
            buf: {
                let mut buf = buf;
                buf.set_len(buf.capacity());
                buf
            },
        };
        if !begin.vector.is_empty() {
            this.entry(control_header(EntryKind::Control, &begin.vector).bytes(), &begin.vector);
            this.preamble = this.entries;
        }
        this
    }

    /// The seq that the next block or void takes.
    #[must_use]
    #[inline]
    pub fn next_seq(&self) -> Seq {
        Seq(self.first_seq.0 + u64::from(self.numbered))
    }

    /// Entries that were offered and are in it.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries - self.preamble
    }

    /// Blocks and voids in it.
    #[must_use]
    pub const fn numbered(&self) -> u32 {
        self.numbered
    }

    /// Offers an entry: its encoded header and its payload.
    ///
    /// # Panics
    /// Where `header` is not an encoded entry header for this payload: it comes from this process.
    #[inline]
    pub fn push(&mut self, header: &[u8], payload: &[u8]) -> Push {
        let lengths = entry_lengths(header).expect("an entry header made by this process");
        assert!(lengths.header == header.len() && lengths.payload as usize == payload.len(), "entry lengths");
        let rows_after = self.rows.len() + 1;
        let stream_bytes = self.at + header.len() + payload.len() + rows_after * STREAM::BYTES;
        let bytes = padded(stream_bytes);
        if bytes > self.soft_bytes || self.entries == BATCH_ENTRIES_MAX || rows_after > BATCH_STREAMS_MAX {
            if self.entries() > 0 {
                return Push::BatchFull;
            }
            if bytes > self.hard_bytes {
                return Push::NeedsBytes(bytes);
            }
        }
        let seq = self.next_seq();
        match lengths.kind {
            EntryKind::Own => self.follow(self.own, seq, lengths.payload, lengths.payload_crc),
            EntryKind::Carried => {
                let identity = decode_identity(header).expect("a carried entry has an identity");
                self.follow(identity.stream, identity.seq, lengths.payload, lengths.payload_crc);
            }
            EntryKind::Adopted => self.adopt(header),
            EntryKind::Void | EntryKind::Control => {}
        }
        if lengths.kind != EntryKind::Control {
            self.numbered += 1;
        }
        self.entry(header, payload);
        Push::Taken
    }

    #[inline]
    fn entry(&mut self, header: &[u8], payload: &[u8]) {
        self.entries += 1;
        self.body_crc.update(header);
        self.put(header);
        self.put(payload);
    }

    #[inline]
    fn follow(&mut self, stream: Stream, seq: Seq, length: u32, payload_crc: u32) {
        let last = self.last_of(stream);
        *last = last.then(seq, length, payload_crc);
    }

    fn adopt(&mut self, header: &[u8]) {
        let adopted = decode_entry(header).and_then(|entry| entry.adopted()).expect("an adopted entry says an end");
        let last = self.last_of(adopted.last.stream);
        let from = last.seq;
        *last = StreamEnd::adopted(&adopted);
        #[cfg(feature = "sim")]
        if crate::planted::is_planted(crate::planted::Mutant::AdoptedHashedOn) {
            last.chain = adopted.chain.then(adopted.last.seq, 0, 0);
        }
        self.gaps.extend(adopted.gap(from));
    }

    /// Where a stream stands behind what is in it so far.
    #[inline]
    fn last_of(&mut self, stream: Stream) -> &mut StreamEnd {
        if self.rows.get(self.last_row).is_none_or(|row| row.stream != stream) {
            self.last_row = self.rows.iter().position(|row| row.stream == stream).unwrap_or_else(|| {
                let end = self.ends.get(&stream).copied().unwrap_or_default();
                self.rows.push(StreamRow { stream, prev: end, last: end });
                self.rows.len() - 1
            });
        }
        &mut self.rows[self.last_row].last
    }

    #[inline]
    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = self.at % SECTOR_STREAM_BYTES;
            let start = self.at / SECTOR_STREAM_BYTES * SECTOR_BYTES + 4 + within;
            let (now, later) = bytes.split_at(bytes.len().min(SECTOR_STREAM_BYTES - within));
            self.buf[start..start + now.len()].copy_from_slice(now);
            self.at += now.len();
            bytes = later;
        }
    }

    /// Ends the batch: the bytes to write, what its header says, and what is known of the streams after it.
    ///
    /// # Panics
    /// Where the batch outgrew its buffer, which [`push`](Self::push) rules out.
    #[must_use]
    pub fn finish(mut self, link: Link) -> (AlignedBuf, BatchHeader, After) {
        let entries_bytes = self.at - BATCH::BYTES;
        for row in std::mem::take(&mut self.rows) {
            let bytes = encode_row(&row);
            self.body_crc.update(&bytes);
            self.put(&bytes);
            self.ends.insert(row.stream, row.last);
            self.rows.push(row);
        }
        let length = padded(self.at);
        while self.at < length / SECTOR_BYTES * SECTOR_STREAM_BYTES {
            let rest = SECTOR_STREAM_BYTES - self.at % SECTOR_STREAM_BYTES;
            self.put(&[0; SECTOR_STREAM_BYTES][..rest]);
        }
        self.buf.set_len(length);
        for sector in self.buf.chunks_exact_mut(SECTOR_BYTES) {
            sector[..4].copy_from_slice(&self.stamp.to_le_bytes());
        }
        let mut header = BatchHeader {
            number: link.number,
            first_seq: self.first_seq,
            numbered: self.numbered,
            prev_chain: link.prev_chain,
            durable_upto: link.durable_upto,
            prev_end: link.prev_end,
            length: length as u32,
            entries_bytes: entries_bytes as u32,
            streams: self.rows.len() as u32,
            body_crc: self.body_crc.clone().finalize(),
            seal: link.seal,
            chain: Chain(0),
        };
        header.chain = encode_header(&header, &self.place, &mut self.buf[4..4 + BATCH::BYTES]);
        (self.buf, header, After { ends: self.ends, gaps: self.gaps })
    }

    /// Gives up a batch that stayed empty.
    #[must_use]
    pub fn abandon(self) -> (AlignedBuf, StreamEnds) {
        (self.buf, self.ends)
    }
}

/// How a batch hangs on the one before it.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Its number.
    pub number: BatchNo,
    /// The chain before it.
    pub prev_chain: Chain,
    /// Where the batch before it ended, if this is the first of its segment; else 0.
    pub prev_end: u32,
    /// The last batch known to be synced.
    pub durable_upto: BatchNo,
    /// A clean stop.
    pub seal: bool,
}

fn encode_row(row: &StreamRow) -> [u8; STREAM::BYTES] {
    use STREAM::*;
    let mut record = [0; STREAM::BYTES];
    origin.put(&mut record, &row.stream.origin.0);
    epoch.put(&mut record, &row.stream.epoch.0.to_le_bytes());
    nonce.put(&mut record, &row.stream.nonce.0.to_le_bytes());
    shard.put(&mut record, &row.stream.shard.0.to_le_bytes());
    prev_seq.put(&mut record, &row.prev.seq.0.to_le_bytes());
    prev_chain.put(&mut record, &row.prev.chain.0.to_le_bytes());
    last_seq.put(&mut record, &row.last.seq.0.to_le_bytes());
    last_chain.put(&mut record, &row.last.chain.0.to_le_bytes());
    record
}

pub(crate) fn decode_row(record: &[u8]) -> StreamRow {
    use STREAM::*;
    StreamRow {
        stream: Stream {
            origin: StoreId(origin.array(record)),
            shard: ShardId(shard.u16(record)),
            epoch: Epoch(epoch.u64(record)),
            nonce: Nonce(nonce.u64(record)),
        },
        prev: StreamEnd { seq: Seq(prev_seq.u64(record)), chain: Chain(prev_chain.u64(record)) },
        last: StreamEnd { seq: Seq(last_seq.u64(record)), chain: Chain(last_chain.u64(record)) },
    }
}

/// Writes the header and its crc; the chain after the batch.
fn encode_header(header: &BatchHeader, place: &Place, record: &mut [u8]) -> Chain {
    use BATCH::*;
    record.fill(0);
    magic.put(record, &MAGIC);
    version.put(record, &FORMAT_VERSION.to_le_bytes());
    flags.put(record, &(if header.seal { FLAG_SEAL } else { 0 }).to_le_bytes());
    store.put(record, &place.store.0);
    segment.put(record, &place.segment.0.to_le_bytes());
    file_id.put(record, &place.file_id.0.to_le_bytes());
    epoch.put(record, &place.epoch.0.to_le_bytes());
    number.put(record, &header.number.0.to_le_bytes());
    first_seq.put(record, &header.first_seq.0.to_le_bytes());
    prev_chain.put(record, &header.prev_chain.0.to_le_bytes());
    durable_upto.put(record, &header.durable_upto.0.to_le_bytes());
    generation.put(record, &place.generation.0.to_le_bytes());
    offset.put(record, &place.offset.to_le_bytes());
    prev_end.put(record, &header.prev_end.to_le_bytes());
    length.put(record, &header.length.to_le_bytes());
    count.put(record, &header.numbered.to_le_bytes());
    entries_bytes.put(record, &header.entries_bytes.to_le_bytes());
    streams.put(record, &header.streams.to_le_bytes());
    body_crc.put(record, &header.body_crc.to_le_bytes());
    shard.put(record, &place.shard.0.to_le_bytes());
    let sum = crc_before(crc, record);
    crc.put(record, &sum.to_le_bytes());
    chain_after(header, sum)
}

fn chain_after(header: &BatchHeader, header_crc: u32) -> Chain {
    Chain(mix64(mix64(header.prev_chain.0, header.number.0), u64::from(header_crc) << 32 | u64::from(header.body_crc)))
}

/// Reads the batch header at the start of `bytes`, if it is whole and of this place.
#[must_use]
pub fn decode_header(bytes: &[u8], place: &Place) -> Option<BatchHeader> {
    use BATCH::*;
    let record = bytes.get(4..4 + BATCH::BYTES)?;
    let sum = crc.u32(record);
    let whole = magic.of(record) == MAGIC && sum == crc_before(crc, record) && version.u16(record) == FORMAT_VERSION;
    #[cfg(feature = "sim")]
    let anywhere = crate::planted::is_planted(crate::planted::Mutant::PlaceUnchecked);
    #[cfg(not(feature = "sim"))]
    let anywhere = false;
    let ours = whole
        && store.of(record) == place.store.0
        && shard.u16(record) == place.shard.0
        && segment.u64(record) == place.segment.0
        && file_id.u64(record) == place.file_id.0
        && generation.u32(record) == place.generation.0
        && epoch.u64(record) == place.epoch.0
        && (anywhere || offset.u32(record) == place.offset);
    if !ours {
        return None;
    }
    let mut header = BatchHeader {
        number: BatchNo(number.u64(record)),
        first_seq: Seq(first_seq.u64(record)),
        numbered: count.u32(record),
        prev_chain: Chain(prev_chain.u64(record)),
        durable_upto: BatchNo(durable_upto.u64(record)),
        prev_end: prev_end.u32(record),
        length: length.u32(record),
        entries_bytes: entries_bytes.u32(record),
        streams: streams.u32(record),
        body_crc: body_crc.u32(record),
        seal: flags.u16(record) & FLAG_SEAL != 0,
        chain: Chain(0),
    };
    header.chain = chain_after(&header, sum);
    Some(header)
}
