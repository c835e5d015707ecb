//! Reading the blocks of a log that was just examined, before it goes on, and saying which are needed.

use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::recover::examine::{Examined, OpenError, read_segment};
use crate::types::SegmentNo;
use crate::wal::batch::Place;
use crate::wal::entry::{EntryKind, decode_entry};
use crate::wal::log::UsedSegment;
use crate::wal::read::each_entry;
use crate::wal::verdict::{Check, Stamps, check};

impl Examined {
    /// Shows the payload of every block of the log, in order. Ranges that are handled as damaged are
    /// passed over. For small logs: each segment is read as a whole.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn each_payload(&self, folder: &dyn Folder, mut take: impl FnMut(SegmentNo, &[u8])) -> Result<(), OpenError> {
        let mut scratch = Vec::new();
        let mut from = None;
        for used in &self.scanned.segments {
            let header = &used.header;
            let mut offset = match from {
                Some((segment, _)) if header.segment < segment => continue,
                Some((segment, offset)) if header.segment == segment => offset,
                _ => SEGMENT_HEADER_BYTES as u32,
            };
            from = None;
            let mut buf = AlignedBuf::new(header.segment_bytes as usize);
            let count = read_segment(folder, header.segment, header.segment_bytes, &mut buf)?;
            let stamps = Stamps::new(header);
            let end = used.end.min(count as u32);
            while offset < end {
                let place = Place::new(header, offset);
                let rest = &buf[offset as usize..end as usize];
                if let Check::Sound(batch) = check(rest, &place, &stamps) {
                    each_entry(rest, &batch, &mut scratch, |head, payload| {
                        let kind = decode_entry(head).map(|entry| entry.kind);
                        if matches!(kind, Some(EntryKind::Own | EntryKind::Carried)) {
                            take(header.segment, payload);
                        }
                    });
                    offset += batch.length;
                    continue;
                }
                let earlier = self.scanned.segments.iter().flat_map(|used| &used.header.handled);
                let mut ranges = self.handled.iter().chain(earlier);
                match ranges.find(|range| (range.segment, range.offset) == (header.segment, offset)) {
                    Some(range) if range.resume_segment == header.segment => offset = range.resume_offset,
                    Some(range) => {
                        from = Some((range.resume_segment, range.resume_offset));
                        break;
                    }
                    None => break,
                }
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
