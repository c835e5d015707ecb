//! Blocks of one stream on their way: an entry stands in a frame as its origin has it in its log.

use std::ops::Range;

use crate::types::{Seq, Stream};
use crate::wal::batch::StreamEnd;
use crate::wal::entry::{EntryKind, STREAM_BYTES, encode_stream, entry_lengths};
use crate::wal::read::Pieces;

/// Entries join a frame until it is so long; one that is longer has one of its own.
pub(super) const ENTRIES_BYTES: usize = 1 << 20;
/// Entries in one frame.
pub const ENTRIES_MAX: usize = 4096;
pub(super) const END_BYTES: usize = 16;

/// Blocks of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// The stream.
    pub stream: Stream,
    /// Where it stands before them.
    pub before: StreamEnd,
    /// Where it stands behind them.
    pub behind: StreamEnd,
    /// Each with its seq, its header and its payload, in [`bytes`](Self::bytes).
    pub entries: Vec<EntryAt>,
    /// The frame's payload.
    pub bytes: Vec<u8>,
}

/// Where an entry stands in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryAt {
    /// Its seq.
    pub seq: Seq,
    /// Its header, of the kind `own`.
    pub header: Range<usize>,
    /// Its payload.
    pub payload: Range<usize>,
}

impl Entries {
    /// A frame that takes blocks of this stream, which stands here.
    #[must_use]
    pub fn new(stream: Stream, before: StreamEnd) -> Self {
        let mut bytes = Vec::new();
        put_stream(&mut bytes, stream);
        put_end(&mut bytes, before);
        put_end(&mut bytes, before);
        bytes.extend(0u32.to_le_bytes());
        Self { stream, before, behind: before, entries: Vec::new(), bytes }
    }

    /// Adds the next block of the stream: its header, of the kind `own`, and its payload. False where the frame is full.
    ///
    /// # Panics
    /// Where `header` is not the header of this payload, or the block is not behind the last one.
    pub fn push(&mut self, seq: Seq, header: &[u8], payload: &[u8]) -> bool {
        self.push_pieces(seq, header, Pieces::Plain(payload))
    }

    /// The same, with a payload that is in a batch.
    ///
    /// # Panics
    /// As [`push`](Self::push).
    pub fn push_pieces(&mut self, seq: Seq, header: &[u8], payload: Pieces<'_>) -> bool {
        let entry = entry_lengths(header).expect("an entry's header");
        assert!(entry.kind == EntryKind::Own && entry.header == header.len(), "the header of an own entry");
        assert!(entry.payload as usize == payload.len() && seq > self.behind.seq, "the next block of the stream");
        let length = self.bytes.len() + 8 + header.len() + payload.len();
        if self.entries.len() == ENTRIES_MAX || length > ENTRIES_BYTES && !self.entries.is_empty() {
            return false;
        }
        self.bytes.extend(seq.0.to_le_bytes());
        let at = self.bytes.len();
        self.bytes.extend(header);
        payload.put(&mut self.bytes);
        let (header, payload) = (at..at + header.len(), at + header.len()..self.bytes.len());
        self.entries.push(EntryAt { seq, header, payload });
        self.behind = self.behind.then(seq, entry.payload, entry.payload_crc);
        let (end, count) = (STREAM_BYTES + END_BYTES, STREAM_BYTES + 2 * END_BYTES);
        self.bytes[end..end + 8].copy_from_slice(&self.behind.seq.0.to_le_bytes());
        self.bytes[end + 8..count].copy_from_slice(&self.behind.chain.0.to_le_bytes());
        self.bytes[count..count + 4].copy_from_slice(&(self.entries.len() as u32).to_le_bytes());
        true
    }

    /// How many of them are not behind this seq, and where the stream stands behind those.
    #[must_use]
    pub fn upto(&self, seq: Seq) -> (usize, StreamEnd) {
        let count = self.entries.partition_point(|entry| entry.seq <= seq);
        let end = self.entries[..count].iter().fold(self.before, |end, entry| self.after(end, entry));
        (count, end)
    }

    /// Where the stream stands behind the entry of this index, if it stands here before it.
    #[must_use]
    pub fn then(&self, before: StreamEnd, index: usize) -> StreamEnd {
        self.after(before, &self.entries[index])
    }

    fn after(&self, before: StreamEnd, entry: &EntryAt) -> StreamEnd {
        let of = entry_lengths(&self.bytes[entry.header.clone()]).expect("an entry's header");
        before.then(entry.seq, of.payload, of.payload_crc)
    }
}

pub(super) fn put_stream(out: &mut Vec<u8>, stream: Stream) {
    out.extend(encode_stream(&stream));
}

pub(super) fn put_end(out: &mut Vec<u8>, end: StreamEnd) {
    out.extend(end.seq.0.to_le_bytes());
    out.extend(end.chain.0.to_le_bytes());
}
