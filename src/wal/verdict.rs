//! Judging the bytes at one place of a segment: rules 1 to 3 of `wal/mod.rs`, as far as these bytes
//! alone can tell. What follows from a verdict is the scan's business.

use std::collections::HashSet;

use crate::limits::{BATCH_STREAMS_MAX, NUMBER_MAX, PAGE_BYTES, SECTOR_BYTES, SECTOR_STREAM_BYTES};
use crate::types::{Generation, Seq, Stream};
use crate::wal::batch::{BATCH, BatchHeader, Place, STREAM, decode_header, padded};
use crate::wal::entry::{EntryKind, decode_identity};
use crate::wal::read::{copied, for_each_entry, pieces};
use crate::wal::segment::{SegmentHeader, stamp};

/// The stamps of a segment's sectors, by what they mean.
#[derive(Debug)]
pub struct Stamps {
    fresh: u32,
    older: HashSet<u32>,
    filled_upto: usize,
}

/// What a sector's stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Written in this generation.
    Fresh,
    /// Written in an older generation of this file, or never: this generation's write did not arrive.
    Stale,
    /// None of these: something else changed it.
    Unknown,
}

impl Stamps {
    /// The stamps of the segment with this header.
    #[must_use]
    pub fn new(header: &SegmentHeader) -> Self {
        let of = |generation| stamp(header.store, header.file_id, Generation(generation));
        Self {
            fresh: of(header.generation.0),
            older: (1..header.generation.0).map(of).collect(),
            filled_upto: header.filled_upto as usize,
        }
    }

    /// Reads the stamp of the sector at `offset` of the segment.
    #[must_use]
    #[inline]
    pub fn read(&self, sector: &[u8], offset: usize) -> Stamp {
        let stamp = u32::from_le_bytes(sector[..4].try_into().expect("4 bytes"));
        if stamp == self.fresh {
            Stamp::Fresh
        } else if self.older.contains(&stamp) || (stamp == 0 && offset >= self.filled_upto) {
            Stamp::Stale
        } else {
            Stamp::Unknown
        }
    }
}

/// Why a batch cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Wrong {
    #[error("batch header unreadable")]
    Header,
    #[error("batch header field out of bounds")]
    Bounds,
    #[error("sector stamp unknown")]
    Stamp,
    #[error("body checksum mismatch")]
    Body,
    #[error("payload checksum mismatch")]
    Payload,
    #[error("batch does not continue the log")]
    Chain,
    #[error("segment header unreadable")]
    SegmentHeader,
    #[error("segment missing")]
    Missing,
    #[error("batch lost, though it was synced")]
    Lost,
    #[error("damaged anew, where a salvage had kept it")]
    Anew,
}

/// The verdict on the bytes at one place, as far as they alone can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A whole batch of this place.
    Sound(BatchHeader),
    /// Nothing was written here in this generation.
    End,
    /// A write that did not arrive whole.
    Torn(BatchHeader),
    /// Something that neither a write nor its absence explains. The header, if it is readable.
    Damaged(Wrong, Option<BatchHeader>),
}

/// Judges the bytes at a place; `bytes` reaches from there to the segment's end.
#[must_use]
pub fn check(bytes: &[u8], place: &Place, stamps: &Stamps) -> Check {
    let at = place.offset as usize;
    if bytes.len() < PAGE_BYTES {
        return Check::End;
    }
    let unreadable = match stamps.read(bytes, at) {
        Stamp::Stale => return Check::End,
        Stamp::Unknown => Wrong::Stamp,
        Stamp::Fresh => Wrong::Header,
    };
    let Some(header) = decode_header(bytes, place) else {
        return Check::Damaged(unreadable, None);
    };
    let length = header.length as usize;
    let stream = BATCH::BYTES + header.entries_bytes as usize + header.streams as usize * STREAM::BYTES;
    let numbers = (1..=NUMBER_MAX).contains(&header.first_seq.0) && (1..=NUMBER_MAX).contains(&header.number.0);
    if length > bytes.len() || header.streams as usize > BATCH_STREAMS_MAX || padded(stream) != length || !numbers {
        return Check::Damaged(Wrong::Bounds, Some(header));
    }
    let bytes = &bytes[..length];
    let (mut stale, mut unknown) = (false, false);
    for (index, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
        match stamps.read(sector, at + index * SECTOR_BYTES) {
            Stamp::Fresh => {}
            Stamp::Stale => stale = true,
            Stamp::Unknown => unknown = true,
        }
    }
    if unknown {
        return Check::Damaged(Wrong::Stamp, Some(header));
    }
    if stale {
        return Check::Torn(header);
    }
    match check_body(bytes, &header) {
        Ok(()) => Check::Sound(header),
        Err(wrong) => Check::Damaged(wrong, Some(header)),
    }
}

/// Blocks of a stream, one behind the other, that are lost from a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The stream; `None` where only their numbers are known.
    pub stream: Option<Stream>,
    /// The first, by its seq in the log.
    pub first: Seq,
    /// The last.
    pub last: Seq,
    /// The first one's seq in its stream, which the others follow; the same where the stream is not known.
    pub number: Seq,
}

impl Lost {
    /// The seq in its stream of the block with this seq in the log.
    #[must_use]
    pub const fn number_of(&self, seq: Seq) -> Seq {
        // What stands in a log is anything.
        Seq(self.number.0.saturating_add(seq.0 - self.first.0))
    }

    /// What is left of it with these seqs in its stream.
    #[must_use]
    pub const fn part(&self, (from, to): (Seq, Seq)) -> Self {
        let first = Seq(self.first.0 + (from.0 - self.number.0));
        Self { stream: self.stream, first, last: Seq(first.0 + (to.0 - from.0)), number: from }
    }

    /// The seqs in its stream of those behind this seq of the log; `None` where all are before it.
    #[must_use]
    pub fn numbers_behind(&self, seq: Seq) -> Option<(Seq, Seq)> {
        (self.last > seq).then(|| (self.number_of(self.first.max(seq.next())), self.number_of(self.last)))
    }
}

/// What is lost of a batch that is damaged in part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InPart {
    /// Its blocks.
    pub lost: Vec<Lost>,
    /// What its control entries said, or some of them.
    pub controls: bool,
}

impl InPart {
    /// This seq is a lost block's.
    #[must_use]
    pub fn has_lost(&self, seq: Seq) -> bool {
        self.lost.iter().any(|run| run.first <= seq && seq <= run.last)
    }

    /// Every block and what the control entries say is there.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.lost.is_empty() && !self.controls
    }
}

/// A batch at this place that is not sound, where only payloads are damaged or did not arrive: its header, its entries'
/// headers and its stream table hold. Its header, and what is lost of it; `own` is the segment's stream.
#[must_use]
pub fn partly(checked: &Check, bytes: &[u8], own: Stream) -> Option<(BatchHeader, InPart)> {
    let (Check::Torn(header) | Check::Damaged(Wrong::Stamp | Wrong::Payload, Some(header))) = checked else {
        return None;
    };
    #[cfg(feature = "sim")]
    if crate::planted::is_planted(crate::planted::Mutant::BatchGivenUp) {
        return None;
    }
    let bytes = &bytes[..header.length as usize];
    let (mut all, mut is_known) = (InPart::default(), true);
    let holds = body_holds(bytes, header, |kind, seq, (at, header_bytes)| {
        let (stream, number) = match kind {
            EntryKind::Own => (own, seq),
            EntryKind::Carried => {
                let Some(identity) = decode_identity(&copied(bytes, at, header_bytes)) else {
                    return is_known = false;
                };
                (identity.stream, identity.seq)
            }
            EntryKind::Control => return all.controls = true,
            // They have no payload: what they say is in their headers.
            EntryKind::Void | EntryKind::Adopted => return,
        };
        let one = Lost { stream: Some(stream), first: seq, last: seq, number };
        match all.lost.last_mut() {
            Some(run) if (run.stream, run.last.next(), run.number_of(seq)) == (one.stream, seq, number) => {
                run.last = seq
            }
            _ => all.lost.push(one),
        }
    });
    (holds && is_known).then_some((*header, all))
}

/// The header of a batch that is sound, or damaged in part only.
#[must_use]
pub fn readable(checked: &Check, bytes: &[u8], own: Stream) -> Option<BatchHeader> {
    match checked {
        Check::Sound(batch) => Some(*batch),
        _ => partly(checked, bytes, own).map(|(batch, _)| batch),
    }
}

/// The body's checksum holds. Calls for each entry whose payload's does not: its kind, its seq (the next one's where it
/// has none), and where its header stands in the batch's stream.
fn body_holds(bytes: &[u8], header: &BatchHeader, mut damaged: impl FnMut(EntryKind, Seq, (usize, usize))) -> bool {
    let mut body = crc32fast::Hasher::new();
    let mut seq = header.first_seq;
    let whole = for_each_entry(bytes, header, |kind, at, header_bytes, payload| {
        let mut crc = crc32fast::Hasher::new();
        for piece in pieces(bytes, at, header_bytes) {
            body.update(piece);
        }
        for piece in pieces(bytes, at + header_bytes, payload.0 as usize) {
            crc.update(piece);
        }
        if crc.finalize() != payload.1 {
            damaged(kind, seq, (at, header_bytes));
        }
        seq.0 += u64::from(kind != EntryKind::Control);
    });
    for piece in pieces(bytes, BATCH::BYTES + header.entries_bytes as usize, header.streams as usize * STREAM::BYTES) {
        body.update(piece);
    }
    whole && body.finalize() == header.body_crc && seq == header.last_seq().next()
}

fn check_body(bytes: &[u8], header: &BatchHeader) -> Result<(), Wrong> {
    let mut payloads_hold = true;
    if !body_holds(bytes, header, |_, _, _| payloads_hold = false) {
        return Err(Wrong::Body);
    }
    let end = BATCH::BYTES + header.entries_bytes as usize + header.streams as usize * STREAM::BYTES;
    let rest = bytes.len() / SECTOR_BYTES * SECTOR_STREAM_BYTES - end;
    if !payloads_hold || pieces(bytes, end, rest).any(|piece| piece.iter().fold(0, |all, byte| all | byte) != 0) {
        return Err(Wrong::Payload);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::io::buf::AlignedBuf;
    use crate::types::{BatchNo, BlockKind, Chain, Epoch, FileId, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream};
    use crate::wal::batch::{After, BatchBuilder, Begin, Link, Push, StreamEnd, StreamEnds};
    use crate::wal::entry::{Absent, Adopted, Control, Entry, Identity, decode_entry, void_entry};
    use crate::wal::read::{each_adopted, each_entry, stream_rows};

    fn header(generation: u32) -> SegmentHeader {
        SegmentHeader {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            segment: SegmentNo(42),
            epoch: Epoch(5),
            nonce: Nonce(6),
            file_id: FileId(8),
            generation: Generation(generation),
            filled_upto: 0,
            segment_bytes: 1 << 20,
            boot: [9; 16],
            pin: None,
            handled: Vec::new(),
        }
    }

    fn own() -> Stream {
        Stream { origin: StoreId([7; 16]), shard: ShardId(3), epoch: Epoch(5), nonce: Nonce(6) }
    }

    fn entry(identity: Option<Identity>, payload: &[u8]) -> crate::wal::entry::EncodedEntry {
        Entry {
            kind: if identity.is_some() { EntryKind::Carried } else { EntryKind::Own },
            block_kind: BlockKind::Raw,
            namespace: "ns",
            table: "table",
            length: payload.len() as u32,
            received_at_ns: 1,
            rows: 1,
            payload_crc: crc32fast::hash(payload),
            identity,
        }
        .encode()
    }

    /// One own block, one carried, a void and a control, at offset 8192 of a 1 MiB segment.
    fn sample(generation: u32) -> (Vec<u8>, Place, Stamps) {
        let segment = header(generation);
        let place = Place::new(&segment, 8192);
        let ends = HashMap::from([(own(), StreamEnd { seq: Seq(10), chain: Chain(99) })]);
        let begin = Begin {
            place,
            own: own(),
            first_seq: Seq(11),
            soft_bytes: 1 << 16,
            hard_bytes: 1 << 16,
            ends,
            vector: Vec::new(),
        };
        let mut builder = BatchBuilder::new(begin, AlignedBuf::new(1 << 16));
        let long: Vec<u8> = (0..5000u32).map(|at| (at % 251) as u8).collect();
        assert_eq!(builder.push(entry(None, &long).bytes(), &long), Push::Taken);
        let other = Stream { epoch: Epoch(4), ..own() };
        let identity = Identity { stream: other, seq: Seq(9) };
        assert_eq!(builder.push(entry(Some(identity), b"carried").bytes(), b"carried"), Push::Taken);
        assert_eq!(builder.push(void_entry().bytes(), b""), Push::Taken);
        let control = Control::IntakeDone(Epoch(4)).encode();
        assert_eq!(builder.push(Control::IntakeDone(Epoch(4)).entry(&control).bytes(), &control), Push::Taken);
        let link =
            Link { number: BatchNo(7), prev_chain: Chain(70), prev_end: 0, durable_upto: BatchNo(5), seal: false };
        let (image, written, After { ends, .. }) = builder.finish(link);
        assert_eq!((written.numbered, written.last_seq()), (3, Seq(13)));
        assert_eq!(ends.len(), 2);
        let mut bytes = image.to_vec();
        bytes.resize((1 << 20) - 8192, 0);
        (bytes, place, Stamps::new(&segment))
    }

    fn length(bytes: &[u8], place: &Place) -> usize {
        decode_header(bytes, place).expect("readable").length as usize
    }

    #[test]
    fn a_batch_reads_back_as_it_was_built() {
        let (bytes, place, stamps) = sample(1);
        let Check::Sound(header) = check(&bytes, &place, &stamps) else { panic!("not sound") };
        let mut seen = Vec::new();
        each_entry(&bytes, &header, &mut Vec::new(), |head, body| {
            let entry = decode_entry(head).expect("an entry");
            seen.push((entry.kind, body.len(), crc32fast::hash(body) == entry.payload_crc));
        });
        use EntryKind::{Carried, Control, Own, Void};
        assert_eq!(seen, [(Own, 5000, true), (Carried, 7, true), (Void, 0, true), (Control, 9, true)]);
        let rows = stream_rows(&bytes, &header);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].prev.seq, rows[0].last.seq, rows[1].last.seq), (Seq(10), Seq(11), Seq(9)));
        assert_eq!(rows[0].prev.chain, Chain(99));
    }

    #[test]
    fn an_adopted_end_stands_in_a_damaged_batch_as_in_a_sound_one() {
        let segment = header(1);
        let place = Place::new(&segment, 8192);
        let (soft_bytes, hard_bytes) = (1 << 16, 1 << 16);
        let (first_seq, ends, vector) = (Seq(11), StreamEnds::new(), Vec::new());
        let begin = Begin { place, own: own(), first_seq, soft_bytes, hard_bytes, ends, vector };
        let mut builder = BatchBuilder::new(begin, AlignedBuf::new(1 << 16));
        let stream = Stream { origin: StoreId([8; 16]), ..own() };
        let carried = |seq| entry(Some(Identity { stream, seq: Seq(seq) }), b"carried");
        let adopted =
            Adopted { last: Identity { stream, seq: Seq(6) }, chain: Chain(u64::MAX - 5), absent: Absent::Lost };
        assert_eq!(builder.push(carried(2).bytes(), b"carried"), Push::Taken);
        assert_eq!(builder.push(adopted.entry().bytes(), b""), Push::Taken);
        assert_eq!(builder.push(carried(9).bytes(), b"carried"), Push::Taken);
        let link =
            Link { number: BatchNo(7), prev_chain: Chain(70), prev_end: 0, durable_upto: BatchNo(5), seal: false };
        let (image, written, after) = builder.finish(link);
        let behind = StreamEnd::adopted(&adopted).then(Seq(9), 7, crc32fast::hash(b"carried"));
        assert_eq!((written.numbered, after.ends[&stream]), (3, behind));
        assert_eq!(after.gaps, [Control::Gap { stream, from: Seq(2), to: Seq(7) }]);
        let stamps = Stamps::new(&segment);
        let mut bytes = image.to_vec();
        let seen = |bytes: &[u8]| {
            let mut seen = Vec::new();
            each_adopted(bytes, &written, own(), |adopted, before| seen.push((*adopted, before)));
            seen
        };
        assert_eq!(check(&bytes, &place, &stamps), Check::Sound(written));
        assert_eq!(seen(&bytes), [(adopted, Seq(2))]);
        // The payload of the block before it.
        let at = bytes.windows(7).position(|seven| seven == b"carried").expect("the payload");
        bytes[at] ^= 1;
        let checked = check(&bytes, &place, &stamps);
        let (_, lost) = partly(&checked, &bytes, own()).expect("the rest holds");
        let run = Lost { stream: Some(stream), first: Seq(11), last: Seq(11), number: Seq(2) };
        assert_eq!(lost, InPart { lost: vec![run], controls: false });
        assert_eq!(seen(&bytes), [(adopted, Seq(2))]);
    }

    #[test]
    fn no_flipped_bit_passes_or_looks_torn() {
        let (sound, place, stamps) = sample(3);
        let length = length(&sound, &place);
        for bit in 0..length * 8 {
            let mut bytes = sound[..length].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verdict = check(&bytes, &place, &stamps);
            assert!(matches!(verdict, Check::Damaged(..)), "bit {bit}: {verdict:?}");
        }
    }

    #[test]
    fn every_subset_of_lost_sectors_is_torn_or_the_end() {
        let (sound, place, stamps) = sample(2);
        let (older, ..) = sample(1);
        let sectors = length(&sound, &place) / SECTOR_BYTES;
        for lost in 1..1u32 << sectors.min(12) {
            for old in [&vec![0; older.len()], &older] {
                let mut bytes = sound.clone();
                for sector in (0..sectors).filter(|sector| lost >> (sector % 12) & 1 == 1) {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    bytes[range.clone()].copy_from_slice(&old[range]);
                }
                match check(&bytes, &place, &stamps) {
                    Check::End => assert_eq!(lost & 1, 1, "{lost:b}"),
                    Check::Torn(_) => assert_eq!(lost & 1, 0, "{lost:b}"),
                    other => panic!("{lost:b}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_zeroed_sector_is_damage_where_an_older_generation_was_written() {
        let (sound, place, _) = sample(2);
        let stamps = Stamps::new(&SegmentHeader { filled_upto: 1 << 20, ..header(2) });
        let mut bytes = sound;
        bytes[512..1024].fill(0);
        assert!(matches!(check(&bytes, &place, &stamps), Check::Damaged(Wrong::Stamp, Some(_))));
    }

    #[test]
    fn a_batch_of_another_place_is_not_taken() {
        let (bytes, place, stamps) = sample(1);
        for other in [
            Place { offset: 12288, ..place },
            Place { segment: SegmentNo(43), ..place },
            Place { shard: ShardId(2), ..place },
            Place { epoch: Epoch(6), ..place },
        ] {
            assert_eq!(check(&bytes, &other, &stamps), Check::Damaged(Wrong::Header, None), "{other:?}");
        }
    }

    #[test]
    fn a_number_that_has_no_next_one_is_out_of_bounds() {
        let (bytes, place, stamps) = sample(1);
        for (field, value) in [(BATCH::first_seq, 0), (BATCH::first_seq, u64::MAX), (BATCH::number, u64::MAX)] {
            let mut bytes = bytes.clone();
            let record = &mut bytes[4..4 + BATCH::BYTES];
            field.put(record, &u64::to_le_bytes(value));
            let sum = crate::wal::codec::crc_before(BATCH::crc, record);
            BATCH::crc.put(record, &sum.to_le_bytes());
            assert!(matches!(check(&bytes, &place, &stamps), Check::Damaged(Wrong::Bounds, Some(_))), "{value}");
        }
    }

    #[test]
    fn a_full_batch_takes_no_more_and_a_large_block_goes_alone() {
        let segment = header(1);
        let begin = |ends| Begin {
            place: Place::new(&segment, 8192),
            own: own(),
            first_seq: Seq(1),
            soft_bytes: 8192,
            hard_bytes: 1 << 20,
            ends,
            vector: Vec::new(),
        };
        let mut builder = BatchBuilder::new(begin(StreamEnds::new()), AlignedBuf::new(16384));
        let large = vec![1; 12000];
        assert_eq!(builder.push(entry(None, b"x").bytes(), b"x"), Push::Taken);
        assert_eq!(builder.push(entry(None, &large).bytes(), &large), Push::BatchFull);
        let mut builder = BatchBuilder::new(begin(StreamEnds::new()), AlignedBuf::new(16384));
        assert_eq!(builder.push(entry(None, &large).bytes(), &large), Push::Taken);
        assert_eq!(builder.push(entry(None, b"x").bytes(), b"x"), Push::BatchFull);
        let mut builder = BatchBuilder::new(begin(StreamEnds::new()), AlignedBuf::new(16384));
        let larger = vec![1; 20000];
        assert_eq!(builder.push(entry(None, &larger).bytes(), &larger), Push::NeedsBytes(20480));
    }
}
