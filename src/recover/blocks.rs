//! Reading the blocks of a log that was just examined, before it goes on, and saying which are needed.

use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::recover::examined::{Examined, OpenError};
use crate::recover::read::read_segment;
use crate::types::SegmentNo;
use crate::wal::batch::{BatchHeader, Place, decode_header};
use crate::wal::log::UsedSegment;
use crate::wal::segment::{Handled, SegmentHeader};
use crate::wal::verdict::{Check, InPart, Stamps, check};

/// A batch of the log, as it stands in its segment.
#[derive(Clone, Copy, Debug)]
pub struct LogBatch<'a> {
    /// The segment.
    pub segment: &'a SegmentHeader,
    /// Where it stands there, in bytes.
    pub offset: u32,
    /// Its header.
    pub header: BatchHeader,
    /// The segment from there on.
    pub bytes: &'a [u8],
    /// What was handled as damaged lies between the batch before and this one.
    pub behind_damage: bool,
    /// What is lost of it, where it is damaged in part.
    pub in_part: Option<&'a InPart>,
}

impl Examined {
    /// Shows every batch of the log, in order. Ranges that are handled as damaged are passed over. Each
    /// segment is read as a whole, one at a time.
    ///
    /// # Errors
    /// [`OpenError::Io`], or what `take` says.
    pub fn each_batch<E: From<OpenError>>(
        &self,
        folder: &dyn Folder,
        mut take: impl FnMut(&LogBatch<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let earlier = self.scanned.segments.iter().flat_map(|used| &used.header.handled);
        let ranges: Vec<&Handled> = self.handled.iter().chain(earlier).collect();
        let mut behind_damage = false;
        for used in &self.scanned.segments {
            let header = &used.header;
            let mut buf = AlignedBuf::new(header.segment_bytes as usize);
            let count = read_segment(folder, header.segment, header.segment_bytes, &mut buf)?;
            let stamps = Stamps::new(header);
            let end = used.end.min(count as u32);
            let mut offset = SEGMENT_HEADER_BYTES as u32;
            while offset < end {
                let place = Place::new(header, offset);
                let bytes = &buf[offset as usize..end as usize];
                let in_part = self.scanned.partly.get(&(header.segment, offset));
                if let (Some(_), Some(batch)) = (in_part, decode_header(bytes, &place)) {
                    take(&LogBatch { segment: header, offset, header: batch, bytes, behind_damage, in_part })?;
                    behind_damage = false;
                    offset += batch.length;
                    continue;
                }
                if let Some(range) = ranges.iter().find(|range| range.covers(header.segment, offset)) {
                    behind_damage = true;
                    match range.resume_segment == header.segment {
                        true => offset = range.resume_offset,
                        false => break,
                    }
                    continue;
                }
                let Check::Sound(batch) = check(bytes, &place, &stamps) else { break };
                take(&LogBatch { segment: header, offset, header: batch, bytes, behind_damage, in_part })?;
                behind_damage = false;
                offset += batch.length;
            }
        }
        Ok(())
    }

    /// For a log without a ring: that its blocks are needed from this segment to that one only.
    ///
    /// The segments before them are given back ahead of all else, so that the opening has a file. Where
    /// the newest recovery lies behind them nothing that began since has come to its end: it is done
    /// again from its pin, into the same segments. A crash loop on a full disk so uses up none.
    pub fn needs_only(&mut self, from: Option<SegmentNo>, upto: Option<SegmentNo>) {
        let Self { scanned, hollow, .. } = self;
        if !scanned.breaks.is_empty() || !hollow.is_empty() {
            return;
        }
        self.from = from.unwrap_or_default();
        let Some(newest) = scanned.newest.as_ref().map(|newest| newest.epoch) else { return };
        let pinned = |used: &UsedSegment| used.header.epoch == newest && used.header.pin.is_some();
        let Some(index) = scanned.segments.iter().position(pinned) else { return };
        let first = scanned.segments[index].header.clone();
        // A salvage names in its segments what is lost.
        let says_something = !first.handled.is_empty() || scanned.gaps.iter().any(|(at, _)| *at >= first.segment);
        if says_something || upto >= Some(first.segment) {
            return;
        }
        scanned.end = first.pin.expect("a pinned segment");
        scanned.ends.remove(&first.stream());
        let again = scanned.segments.drain(index..).map(|used| (used.header.segment, Some(used.header)));
        self.leftover.splice(..0, again);
    }
}
