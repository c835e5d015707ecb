//! Reading the blocks of a log that was just examined, before it goes on.

use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::recover::examine::{Examined, OpenError, read_segment};
use crate::types::SegmentNo;
use crate::wal::batch::Place;
use crate::wal::entry::{EntryKind, decode_entry};
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
}
