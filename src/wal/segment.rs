//! Segment headers and file names: which file is which part of the log, and what it pins.
//!
//! A header is written twice, in two pages, and synced before its file gets the segment's name; so
//! a named segment has a readable header unless it is damaged.

use crate::limits::{
    GENERATION_MAX, HANDLED_RANGES_MAX, NUMBER_MAX, PAGE_BYTES, SEGMENT_FILE_BYTES, SEGMENT_HEADER_BYTES,
};
use crate::types::{BatchNo, Chain, Epoch, FileId, Generation, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream, mix64};
use crate::wal::codec::{FORMAT_VERSION, crc_before, layout};

const MAGIC: [u8; 8] = *b"FOREBAYS";

layout!(SEGMENT {
    magic: 8,
    version: 2,
    shard: 2,
    handled_count: 4,
    store: 16,
    segment: 8,
    epoch: 8,
    nonce: 8,
    file_id: 8,
    generation: 4,
    filled_upto: 4,
    segment_bytes: 8,
    boot: 16,
    pin_segment: 8,
    pin_batch: 8,
    pin_chain: 8,
    pin_seq: 8,
    pin_offset: 4,
    pinned: 4,
    handled: crate::wal::segment::HANDLED::BYTES * crate::limits::HANDLED_RANGES_MAX,
    crc: 4,
});
layout!(HANDLED {
    segment: 8,
    resume_segment: 8,
    resume_batch: 8,
    resume_chain: 8,
    resume_seq: 8,
    offset: 4,
    resume_offset: 4,
});

/// A place between two batches, and what the log looks like there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// The segment in which the last batch before this place stands (0: there is none).
    pub segment: SegmentNo,
    /// The offset right behind it.
    pub offset: u32,
    /// Its number.
    pub batch: BatchNo,
    /// The chain after it.
    pub chain: Chain,
    /// The last seq in it or before.
    pub seq: Seq,
}

/// A damaged range that was salvaged: a scan that comes to its start goes on at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// The segment of the first damaged byte.
    pub segment: SegmentNo,
    /// Its offset.
    pub offset: u32,
    /// The segment of the first sound batch behind the range.
    pub resume_segment: SegmentNo,
    /// Its offset.
    pub resume_offset: u32,
    /// Its number.
    pub resume_batch: BatchNo,
    /// Its `prev_chain`.
    pub resume_chain: Chain,
    /// Its first seq.
    pub resume_seq: Seq,
}

impl Handled {
    /// It does not end before it begins, and ends where a batch can begin: a scan that follows it gets on.
    #[must_use]
    pub(crate) fn is_in_bounds(&self) -> bool {
        let resume_offset = self.resume_offset as usize;
        (self.segment, self.offset) <= (self.resume_segment, self.resume_offset)
            && resume_offset >= SEGMENT_HEADER_BYTES
            && resume_offset.is_multiple_of(PAGE_BYTES)
            && self.resume_segment.0.max(self.resume_batch.0).max(self.resume_seq.0) <= NUMBER_MAX
            && self.resume_batch.0.min(self.resume_seq.0) >= 1
    }

    /// The place lies in it. A range may begin where a segment's log ended, with its first damaged byte
    /// in the next segment.
    #[must_use]
    pub fn covers(&self, segment: SegmentNo, offset: u32) -> bool {
        let at = (segment, offset);
        (self.segment, self.offset) <= at && at < (self.resume_segment, self.resume_offset)
    }
}

/// What a segment file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The segment's number.
    pub segment: SegmentNo,
    /// The opening that `own` entries in it belong to.
    pub epoch: Epoch,
    /// Its nonce.
    pub nonce: Nonce,
    /// The file's identity since it was zero-filled.
    pub file_id: FileId,
    /// How often it has been put to use.
    pub generation: Generation,
    /// Bytes from the start that an earlier generation is known to have written and synced.
    pub filled_upto: u32,
    /// The file's length in bytes.
    pub segment_bytes: u64,
    /// The boot in which the header was written.
    pub boot: [u8; 16],
    /// Written by recovery: the log before this segment ends exactly here.
    pub pin: Option<LogEnd>,
    /// Damaged ranges before this segment that need not be reported again.
    pub handled: Vec<Handled>,
}

impl SegmentHeader {
    /// The stream of what was accepted in its opening.
    #[must_use]
    pub const fn stream(&self) -> Stream {
        Stream { origin: self.store, shard: self.shard, epoch: self.epoch, nonce: self.nonce }
    }

    /// The stamp of this generation's sectors.
    #[must_use]
    pub fn stamp(&self) -> u32 {
        stamp(self.store, self.file_id, self.generation)
    }

    /// Both copies, as they stand at the start of the file.
    ///
    /// # Panics
    /// Where there are more handled ranges than a header can hold.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use SEGMENT::*;
        assert!(self.handled.len() <= HANDLED_RANGES_MAX, "{} handled ranges", self.handled.len());
        let mut page = vec![0; PAGE_BYTES];
        magic.put(&mut page, &MAGIC);
        version.put(&mut page, &FORMAT_VERSION.to_le_bytes());
        shard.put(&mut page, &self.shard.0.to_le_bytes());
        store.put(&mut page, &self.store.0);
        segment.put(&mut page, &self.segment.0.to_le_bytes());
        epoch.put(&mut page, &self.epoch.0.to_le_bytes());
        nonce.put(&mut page, &self.nonce.0.to_le_bytes());
        file_id.put(&mut page, &self.file_id.0.to_le_bytes());
        generation.put(&mut page, &self.generation.0.to_le_bytes());
        filled_upto.put(&mut page, &self.filled_upto.to_le_bytes());
        segment_bytes.put(&mut page, &self.segment_bytes.to_le_bytes());
        boot.put(&mut page, &self.boot);
        if let Some(pin) = &self.pin {
            pinned.put(&mut page, &1u32.to_le_bytes());
            pin_segment.put(&mut page, &pin.segment.0.to_le_bytes());
            pin_batch.put(&mut page, &pin.batch.0.to_le_bytes());
            pin_chain.put(&mut page, &pin.chain.0.to_le_bytes());
            pin_seq.put(&mut page, &pin.seq.0.to_le_bytes());
            pin_offset.put(&mut page, &pin.offset.to_le_bytes());
        }
        handled_count.put(&mut page, &(self.handled.len() as u32).to_le_bytes());
        let rows = page[handled.at..handled.at + handled.size].chunks_exact_mut(HANDLED::BYTES);
        for (row, range) in rows.zip(&self.handled) {
            HANDLED::segment.put(row, &range.segment.0.to_le_bytes());
            HANDLED::offset.put(row, &range.offset.to_le_bytes());
            HANDLED::resume_segment.put(row, &range.resume_segment.0.to_le_bytes());
            HANDLED::resume_offset.put(row, &range.resume_offset.to_le_bytes());
            HANDLED::resume_batch.put(row, &range.resume_batch.0.to_le_bytes());
            HANDLED::resume_chain.put(row, &range.resume_chain.0.to_le_bytes());
            HANDLED::resume_seq.put(row, &range.resume_seq.0.to_le_bytes());
        }
        let sum = crc_before(crc, &page);
        crc.put(&mut page, &sum.to_le_bytes());
        page.extend_from_within(..);
        page
    }

    /// The header in the first [`SEGMENT_HEADER_BYTES`] of a file: the first copy that is whole.
    ///
    /// # Errors
    /// What is wrong with both copies.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(HeaderError::Short)?;
        let (first, second) = bytes.split_at(PAGE_BYTES);
        Self::decode_copy(first).or_else(|wrong| Self::decode_copy(second).map_err(|_| wrong))
    }

    /// The header in one of its copies.
    pub(crate) fn decode_copy(page: &[u8]) -> Result<Self, HeaderError> {
        use SEGMENT::*;
        if magic.of(page) != MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc.u32(page) != crc_before(crc, page) {
            return Err(HeaderError::Checksum);
        }
        if version.u16(page) != FORMAT_VERSION {
            return Err(HeaderError::Version(version.u16(page)));
        }
        let count = handled_count.u32(page) as usize;
        let bytes = segment_bytes.u64(page);
        let generation_no = generation.u32(page);
        if count > HANDLED_RANGES_MAX
            || !SEGMENT_FILE_BYTES.contains(&bytes)
            || !(1..=GENERATION_MAX).contains(&generation_no)
        {
            return Err(HeaderError::Bounds);
        }
        let numbers = [segment, epoch, pin_segment, pin_batch, pin_seq];
        if numbers.into_iter().any(|number| number.u64(page) > NUMBER_MAX) {
            return Err(HeaderError::Bounds);
        }
        let ranges = page[handled.at..handled.at + handled.size].chunks_exact(HANDLED::BYTES).take(count);
        let header = Self {
            store: StoreId(store.array(page)),
            shard: ShardId(shard.u16(page)),
            segment: SegmentNo(segment.u64(page)),
            epoch: Epoch(epoch.u64(page)),
            nonce: Nonce(nonce.u64(page)),
            file_id: FileId(file_id.u64(page)),
            generation: Generation(generation_no),
            filled_upto: filled_upto.u32(page),
            segment_bytes: bytes,
            boot: boot.array(page),
            pin: (pinned.u32(page) == 1).then(|| LogEnd {
                segment: SegmentNo(pin_segment.u64(page)),
                offset: pin_offset.u32(page),
                batch: BatchNo(pin_batch.u64(page)),
                chain: Chain(pin_chain.u64(page)),
                seq: Seq(pin_seq.u64(page)),
            }),
            handled: ranges
                .map(|row| Handled {
                    segment: SegmentNo(HANDLED::segment.u64(row)),
                    offset: HANDLED::offset.u32(row),
                    resume_segment: SegmentNo(HANDLED::resume_segment.u64(row)),
                    resume_offset: HANDLED::resume_offset.u32(row),
                    resume_batch: BatchNo(HANDLED::resume_batch.u64(row)),
                    resume_chain: Chain(HANDLED::resume_chain.u64(row)),
                    resume_seq: Seq(HANDLED::resume_seq.u64(row)),
                })
                .collect(),
        };
        let sound = |range: &Handled| range.is_in_bounds() && range.resume_segment <= header.segment;
        if header.handled.iter().all(sound) { Ok(header) } else { Err(HeaderError::Bounds) }
    }
}

/// Why a segment header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file ends before the header does.
    #[error("the file is too short for a segment header")]
    Short,
    /// Not a segment header at all.
    #[error("no segment header (magic)")]
    Magic,
    /// Both copies fail their checksum.
    #[error("segment header checksum mismatch in both copies")]
    Checksum,
    /// A later format.
    #[error("segment format version {0}; this program knows version {FORMAT_VERSION}")]
    Version(u16),
    /// A field is out of its bounds.
    #[error("segment header field out of bounds")]
    Bounds,
}

/// The stamp of one generation of one file: never 0, so that it differs from zero fill.
#[must_use]
pub fn stamp(store: StoreId, file_id: FileId, generation: Generation) -> u32 {
    #[cfg(feature = "sim")]
    let generation = match crate::planted::is_planted(crate::planted::Mutant::NoGenerationStamp) {
        true => Generation(1),
        false => generation,
    };
    let mixed = mix64(mix64(store.mixed(), file_id.0), u64::from(generation.0));
    ((mixed ^ (mixed >> 32)) as u32).max(1)
}

/// The name of a segment's file.
#[must_use]
pub fn segment_name(segment: SegmentNo) -> String {
    named("", segment.0, ".wal")
}

/// The name of a file that waits for its use.
#[must_use]
pub fn spare_name(file_id: FileId) -> String {
    named("spare-", file_id.0, ".wal")
}

/// The name of a file that is being zero-filled.
#[must_use]
pub fn new_name(file_id: FileId) -> String {
    named("new-", file_id.0, ".tmp")
}

/// A number in 16 hexadecimal digits between the two. By hand: names are made for every operation, and
/// formatting took a tenth of a simulation's time.
fn named(prefix: &str, number: u64, suffix: &str) -> String {
    let mut name = String::with_capacity(prefix.len() + 16 + suffix.len());
    name.push_str(prefix);
    name.extend((0..16).rev().map(|digit| char::from(b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15])));
    name.push_str(suffix);
    name
}

/// What a file name in a shard's folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// A segment.
    Segment(SegmentNo),
    /// A spare.
    Spare(FileId),
    /// The rest of an interrupted fill.
    New(FileId),
    /// Something else; left alone.
    Other,
}

/// Reads a file name.
#[must_use]
pub fn parse_name(name: &str) -> FileName {
    let hex = |digits: &str| {
        let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    let within = |prefix: &str, suffix: &str| name.strip_prefix(prefix)?.strip_suffix(suffix).and_then(hex);
    if let Some(id) = within("spare-", ".wal") {
        FileName::Spare(FileId(id))
    } else if let Some(id) = within("new-", ".tmp") {
        FileName::New(FileId(id))
    } else if let Some(number) = within("", ".wal") {
        FileName::Segment(SegmentNo(number))
    } else {
        FileName::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            segment: SegmentNo(42),
            epoch: Epoch(5),
            nonce: Nonce(6),
            file_id: FileId(8),
            generation: Generation(2),
            filled_upto: 8192,
            segment_bytes: 1 << 20,
            boot: [9; 16],
            pin: Some(LogEnd {
                segment: SegmentNo(41),
                offset: 12288,
                batch: BatchNo(77),
                chain: Chain(78),
                seq: Seq(79),
            }),
            handled: vec![Handled {
                segment: SegmentNo(40),
                offset: 8192,
                resume_segment: SegmentNo(40),
                resume_offset: 16384,
                resume_batch: BatchNo(70),
                resume_chain: Chain(71),
                resume_seq: Seq(72),
            }],
        }
    }

    #[test]
    fn header_survives_the_loss_of_either_copy() {
        let sound = header().encode();
        assert_eq!(SegmentHeader::decode(&sound), Ok(header()));
        for page in 0..2 {
            let mut torn = sound.clone();
            torn[page * PAGE_BYTES..(page + 1) * PAGE_BYTES].fill(0);
            assert_eq!(SegmentHeader::decode(&torn), Ok(header()));
        }
        assert_eq!(SegmentHeader::decode(&sound[..4096]), Err(HeaderError::Short));
        assert_eq!(SegmentHeader::decode(&vec![0; 8192]), Err(HeaderError::Magic));
    }

    #[test]
    fn header_detects_every_flipped_bit() {
        let sound = header().encode();
        for bit in 0..(SEGMENT::BYTES * 8) {
            let mut bad = sound.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad[PAGE_BYTES + bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_handled_range_that_leads_back_or_between_pages_is_not_believed() {
        let sound = header().handled[0];
        for handled in [
            Handled { resume_offset: 4096, ..sound },
            Handled { resume_offset: 8192 + 512, ..sound },
            Handled { resume_segment: SegmentNo(39), ..sound },
            Handled { offset: 20480, ..sound },
            Handled { resume_segment: SegmentNo(43), ..sound },
            Handled { resume_seq: Seq(u64::MAX), ..sound },
        ] {
            let header = SegmentHeader { handled: vec![handled], ..header() };
            assert_eq!(SegmentHeader::decode(&header.encode()), Err(HeaderError::Bounds), "{handled:?}");
        }
        let at_once = Handled { resume_offset: sound.offset, ..sound };
        let header = SegmentHeader { handled: vec![at_once], ..header() };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn a_number_that_has_no_next_one_is_not_believed() {
        let pin = header().pin.expect("a pin");
        for header in [
            SegmentHeader { segment: SegmentNo(u64::MAX), ..header() },
            SegmentHeader { epoch: Epoch(u64::MAX), ..header() },
            SegmentHeader { pin: Some(LogEnd { batch: BatchNo(u64::MAX), ..pin }), ..header() },
            SegmentHeader { pin: Some(LogEnd { seq: Seq(u64::MAX), ..pin }), ..header() },
        ] {
            assert_eq!(SegmentHeader::decode(&header.encode()), Err(HeaderError::Bounds), "{header:?}");
        }
    }

    #[test]
    fn names_round_trip_and_others_are_left_alone() {
        assert_eq!(parse_name(&segment_name(SegmentNo(42))), FileName::Segment(SegmentNo(42)));
        assert_eq!(parse_name(&spare_name(FileId(u64::MAX))), FileName::Spare(FileId(u64::MAX)));
        assert_eq!(parse_name(&new_name(FileId(1))), FileName::New(FileId(1)));
        for other in ["intake.ring", "42.wal", "000000000000002A.wal", "", ".wal", "+00000000000002a.wal"] {
            assert_eq!(parse_name(other), FileName::Other, "{other}");
        }
    }
}
