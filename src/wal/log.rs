//! A shard's log as a row of segments: the one that is being written, those behind it that still
//! hold something, and those that are ready ahead of it.
//!
//! Decides where the next batch stands and when a segment may be given back. It does no I/O.

use std::collections::VecDeque;

use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES, SEGMENTS_AHEAD};
use crate::types::{BatchNo, Chain, SegmentNo, Seq};
use crate::wal::batch::{After, BatchHeader, Link, Place, StreamEnds};
use crate::wal::entry::Control;
use crate::wal::segment::SegmentHeader;
use crate::wal::vector;

/// A segment that the log has left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// The number of its first batch.
    pub first_batch: BatchNo,
    /// The seq of the first block that may stand in it.
    pub first_seq: Seq,
    /// The last seq in it or before.
    pub last_seq: Seq,
    /// Where its log ends, in bytes.
    pub end: u32,
}

/// The log of one shard, from its oldest segment to the ones prepared ahead.
#[derive(Debug)]
pub struct Log {
    /// Segments behind the current one, oldest first.
    pub used: VecDeque<UsedSegment>,
    /// The segment that is being written.
    pub current: UsedSegment,
    /// Segments ahead of it, in order.
    pub ready: VecDeque<SegmentHeader>,
    /// The last batch that was built.
    pub number: BatchNo,
    /// The chain after it.
    pub chain: Chain,
    /// Where each stream stands; lent to the batch that is being filled.
    pub ends: StreamEnds,
    /// The gaps that it names.
    pub gaps: Vec<Control>,
    /// Its segments begin with the [vector].
    pub says_vector: bool,
    /// Where the batch before the next one ended, if that is the first of its segment; else 0.
    pub prev_end: u32,
}

/// How many segments a shard may have, and must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Segments with and without content, at most.
    pub segments_max: u64,
    /// Ready segments that are used only while no room of the ring is given back, or by recovery.
    pub reserve: u64,
}

impl Log {
    /// Bytes left in the current segment.
    #[must_use]
    pub fn room(&self) -> usize {
        self.current.header.segment_bytes as usize - self.current.end as usize
    }

    /// The last seq in the log.
    #[must_use]
    pub const fn last_seq(&self) -> Seq {
        self.current.last_seq
    }

    /// Where the next batch stands.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::new(&self.current.header, self.current.end)
    }

    /// How the next batch hangs on the last one.
    #[must_use]
    pub const fn link(&self, durable_upto: BatchNo, seal: bool) -> Link {
        Link { number: BatchNo(self.number.0 + 1), prev_chain: self.chain, prev_end: self.prev_end, durable_upto, seal }
    }

    /// What the next batch says of the streams before it, if it is a segment's first and there is something to say;
    /// to be asked before their ends are lent.
    #[must_use]
    pub fn vector(&mut self) -> Vec<u8> {
        let begins = self.current.end as usize == SEGMENT_HEADER_BYTES;
        if !self.says_vector || !begins || (self.ends.is_empty() && self.gaps.is_empty()) {
            return Vec::new();
        }
        let segment_bytes = self.current.header.segment_bytes;
        vector::fold(&mut self.ends, vector::rows_max(segment_bytes).0);
        #[cfg(feature = "sim")]
        if crate::planted::is_planted(crate::planted::Mutant::VectorUnsaid) {
            return Vec::new();
        }
        vector::encode(&self.ends, &self.gaps, segment_bytes)
    }

    /// A batch was built at [`place`](Self::place).
    pub fn appended(&mut self, batch: &BatchHeader, after: After) {
        self.number = batch.number;
        self.chain = batch.chain;
        self.ends = after.ends;
        #[cfg(feature = "sim")]
        let unsaid = crate::planted::is_planted(crate::planted::Mutant::AdoptedUnsaid);
        #[cfg(not(feature = "sim"))]
        let unsaid = false;
        if !unsaid {
            self.gaps.extend(after.gaps);
        }
        self.prev_end = 0;
        self.current.last_seq = batch.last_seq();
        self.current.end += batch.length;
    }

    /// Whether the current segment has room for a page.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.room() < PAGE_BYTES
    }

    /// Goes on in the next ready segment. False if there is none.
    pub fn rotate(&mut self) -> bool {
        let Some(header) = self.ready.pop_front() else { return false };
        let next = UsedSegment {
            header,
            first_batch: BatchNo(self.number.0 + 1),
            first_seq: self.current.last_seq.next(),
            last_seq: self.current.last_seq,
            end: SEGMENT_HEADER_BYTES as u32,
        };
        self.prev_end = self.current.end;
        self.used.push_back(std::mem::replace(&mut self.current, next));
        true
    }

    /// The header of the next segment to prepare, if one is wanted and allowed.
    #[must_use]
    pub fn wants(&self, bounds: LogBounds) -> Option<SegmentHeader> {
        let ready = self.ready.len() as u64;
        let total = self.used.len() as u64 + 1 + ready;
        let wanted = bounds.reserve + SEGMENTS_AHEAD as u64;
        (ready < wanted && total < bounds.segments_max).then(|| {
            let last = self.ready.back().unwrap_or(&self.current.header);
            SegmentHeader {
                segment: SegmentNo(last.segment.0 + 1),
                pin: None,
                handled: Vec::new(),
                ..self.current.header.clone()
            }
        })
    }

    /// The oldest segment, if nothing in it is needed any more: all of it at or below `released`
    /// and synced, and the first batch behind it synced too (so that a later scan may take that
    /// one's presence for granted).
    pub fn retire(&mut self, released: Seq, synced: (BatchNo, Seq)) -> Option<UsedSegment> {
        let oldest = self.used.front()?;
        let next = self.used.get(1).unwrap_or(&self.current);
        let free = oldest.last_seq <= released && next.first_batch <= synced.0 && next.first_batch <= self.number;
        free.then(|| self.used.pop_front()).flatten()
    }

    /// Bytes of segment files in the log.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.used.len() + 1 + self.ready.len()) as u64 * self.current.header.segment_bytes
    }
}
