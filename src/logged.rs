//! What a log has of its streams, as whoever reads it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::data::store::Delivered;
use crate::types::{Block, Position, Receipt, Seq, ShardId, Stream};
use crate::wal::batch::{BatchHeader, StreamEnd, StreamEnds};
use crate::wal::entry::{Absent, EncodedEntry, Entry, EntryKind, decode_entry};
use crate::wal::read::{ENTRIES_AT, Pieces, copied, entries};
use crate::wal::vector::{self, FOLDED};

/// What a log has of a stream, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Logged {
    /// A block.
    Block(LoggedBlock),
    /// Blocks that are not in it.
    Missing(Missing),
    /// Blocks that the follower accepts itself, which are passed over.
    Passed {
        /// The seq of the log up to which it has nothing else.
        local: Seq,
        /// Their stream.
        stream: Stream,
        /// The last of them.
        seq: Seq,
    },
}

/// A block of the log: its reader has the rest of it, until it is asked for what comes next.
#[derive(Clone, Copy, Debug)]
pub struct LoggedBlock {
    /// Its seq in the log.
    pub local: Seq,
    /// The stream.
    pub stream: Stream,
    /// Where it stood before it.
    pub before: StreamEnd,
    /// Where it stands behind it.
    pub behind: StreamEnd,
    /// Bytes of its payload.
    pub payload_bytes: u32,
    /// CRC-32 of its payload.
    pub payload_crc: u32,
    /// Where its header stands in the stream of the batch that its reader has at hand.
    pub(crate) at: usize,
    /// Bytes of its header.
    pub(crate) header_bytes: usize,
}

impl LoggedBlock {
    /// Its header as it was where it was accepted.
    pub(crate) fn header(&self, image: &[u8]) -> EncodedEntry {
        let head = copied(image, self.at, self.header_bytes);
        let entry = decode_entry(&head).expect("an entry of a batch whose body holds");
        Entry { kind: EntryKind::Own, identity: None, ..entry }.encode()
    }

    pub(crate) fn payload<'a>(&self, image: &'a [u8]) -> Pieces<'a> {
        Pieces::Stamped { image, at: self.at + self.header_bytes, len: self.payload_bytes as usize }
    }
}

/// The batch that the blocks at hand are of.
pub(crate) struct AtHand {
    batch: BatchHeader,
    offset: u32,
    /// What it is, where that is not in the reader's buffer.
    memory: Option<Arc<Vec<u8>>>,
    /// Its entries, once they were asked for.
    entries: Option<Bytes>,
}

impl AtHand {
    pub(crate) const fn new(batch: BatchHeader, offset: u32, memory: Option<Arc<Vec<u8>>>) -> Self {
        Self { batch, offset, memory, entries: None }
    }

    /// It, where the reader's buffer holds what stands from an offset on.
    pub(crate) fn image<'a>(&'a self, (buf, from): (&'a [u8], u32)) -> &'a [u8] {
        match &self.memory {
            Some(image) => image,
            None => &buf[(self.offset - from) as usize..][..self.batch.length as usize],
        }
    }

    /// A block of it, which stands at this position of the shard's log.
    pub(crate) fn delivered(
        &mut self,
        block: &LoggedBlock,
        read: (&[u8], u32),
        (shard, position): (ShardId, Position),
    ) -> Delivered {
        let entries = match self.entries.take() {
            Some(entries) => entries,
            None => Bytes::from(entries(self.image(read), &self.batch)),
        };
        let start = block.at - ENTRIES_AT;
        let begin = start + block.header_bytes;
        let entry = decode_entry(&entries[start..begin]).expect("an entry of a batch whose body holds");
        let delivered = Delivered {
            receipt: Receipt { stream: block.stream, seq: block.behind.seq },
            shard,
            chain: block.behind.chain,
            position,
            namespace: entry.namespace.to_owned(),
            received_at_ns: entry.received_at_ns,
            block: Block {
                kind: entry.block_kind,
                table: entry.table.into(),
                rows: entry.rows,
                // The payloads of a batch are parts of one copy.
                payload: entries.slice(begin..begin + block.payload_bytes as usize),
                shapes: Box::default(),
            },
        };
        self.entries = Some(entries);
        delivered
    }
}

/// Blocks of a stream that are not in the log, though its end says that they were.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    /// The seq of the log that stands for them, or the last one before them.
    pub local: Seq,
    /// The stream.
    pub stream: Stream,
    /// Where it stood before them.
    pub before: StreamEnd,
    /// Where it stands behind them.
    pub behind: StreamEnd,
    /// What the log says of them, where it took that over; else damage took them here.
    pub absent: Option<Absent>,
}

/// What a vector at the beginning of a segment, if this is one, says of streams that is more than what was read before
/// it: damage took their last blocks whole.
pub(crate) fn missing_before(known: &mut StreamEnds, control: &[u8], local: Seq) -> impl Iterator<Item = Missing> {
    let said: BTreeMap<_, _> = vector::decode(control).map(|(ends, _)| ends).unwrap_or_default().into_iter().collect();
    said.into_iter().filter_map(move |(stream, behind)| {
        let before = known.get(&stream).copied().unwrap_or_default();
        (stream.nonce != FOLDED && before.seq < behind.seq).then(|| {
            known.insert(stream, behind);
            Missing { local, stream, before, behind, absent: None }
        })
    })
}

/// Blocks that were one behind the other are missing together.
pub(crate) fn put_missing(ready: &mut VecDeque<Logged>, missing: Missing) {
    match ready.back_mut() {
        Some(Logged::Missing(last))
            if (last.stream, last.behind, last.absent) == (missing.stream, missing.before, missing.absent) =>
        {
            (last.local, last.behind) = (missing.local, missing.behind);
        }
        _ => ready.push_back(Logged::Missing(missing)),
    }
}
