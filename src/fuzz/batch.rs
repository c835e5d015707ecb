//! Batches: headers, entries, stream table, sectors. A batch reads back as it was built; with rot in it it
//! is never taken, and never taken for torn unless a sector is one that was not written; whatever passes
//! all checks can be read to its end.

use crate::fuzz::choices::Choices;
use crate::fuzz::log::{Made, SEGMENT, any_ends, any_entry, make_right, plain_header};
use crate::io::buf::AlignedBuf;
use crate::limits::{PAGE_BYTES, SECTOR_BYTES, SEGMENT_HEADER_BYTES};
use crate::types::{BatchNo, Chain, Generation, Seq};
use crate::wal::batch::{After, BATCH, BatchBuilder, BatchHeader, Begin, Link, Place, Push, StreamEnds};
use crate::wal::entry::{Control, EntryKind, decode_entry};
use crate::wal::read::{each_control, each_entry, stream_rows};
use crate::wal::segment::SegmentHeader;
use crate::wal::vector;
use crate::wal::verdict::{Check, Stamp, Stamps, check};

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    match from.byte() % 3 {
        0 => built(&mut from),
        1 => raw(&mut from),
        _ => crafted(&mut from),
    }
}

/// A batch, and where it stands.
struct Built {
    segment: SegmentHeader,
    place: Place,
    /// From its place to the segment's end.
    bytes: Vec<u8>,
    /// What stood there before.
    before: Vec<u8>,
    header: BatchHeader,
    entries: Vec<Made>,
    ends: StreamEnds,
}

fn build(from: &mut Choices<'_>) -> Built {
    let generation = 1 + u32::from(from.byte() % 4);
    let filled_upto = if generation == 1 { 0 } else { [0, 16384, SEGMENT as u32][from.below(3)] };
    let segment = plain_header(42, generation, filled_upto);
    let offset = SEGMENT_HEADER_BYTES + from.below(4) * PAGE_BYTES;
    let place = Place::new(&segment, offset as u32);
    let room = SEGMENT - offset;
    let mut before = vec![0; room];
    let older = SegmentHeader { generation: Generation(generation - 1), ..segment.clone() }.stamp();
    for (index, sector) in before.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        if offset + index * SECTOR_BYTES < filled_upto as usize {
            sector[..4].copy_from_slice(&older.to_le_bytes());
        }
    }
    let ends = any_ends(from);
    let first_seq = Seq(from.modest());
    let begin =
        Begin { place, own: segment.stream(), first_seq, soft_bytes: room, hard_bytes: room, ends, vector: Vec::new() };
    let said = vector::encode(&begin.ends, &[], 1 << 30);
    assert_eq!(vector::decode(&said), Some((begin.ends.clone(), Vec::new())), "a vector reads back");
    let mut batch = BatchBuilder::new(begin, AlignedBuf::new(SEGMENT));
    let mut entries = Vec::new();
    for _ in 0..=from.byte() % 12 {
        let (head, payload) = any_entry(from, 6000);
        if batch.push(head.bytes(), &payload) == Push::Taken {
            entries.push((head, payload));
        }
    }
    let link = Link {
        number: BatchNo(from.modest()),
        prev_chain: Chain(from.number()),
        prev_end: from.word(),
        durable_upto: BatchNo(from.number()),
        seal: from.flag(),
    };
    let (image, header, After { ends, .. }) = batch.finish(link);
    let mut bytes = before.clone();
    bytes[..image.len()].copy_from_slice(&image);
    Built { segment, place, bytes, before, header, entries, ends }
}

fn built(from: &mut Choices<'_>) {
    let made = build(from);
    let stamps = Stamps::new(&made.segment);
    assert_eq!(check(&made.bytes, &made.place, &stamps), Check::Sound(made.header), "a batch is as it was built");
    let mut expected = made.entries.iter();
    each_entry(&made.bytes, &made.header, &mut Vec::new(), |head, payload| {
        let (made_head, made_payload) = expected.next().expect("no more entries than were put in");
        assert!(head == made_head.bytes() && payload == made_payload, "an entry is as it was put in");
    });
    assert!(expected.next().is_none(), "every entry is there");
    for row in stream_rows(&made.bytes, &made.header) {
        assert_eq!(made.ends.get(&row.stream), Some(&row.last), "the table says how far each stream came");
    }
    let length = made.header.length as usize;
    let mut bytes = made.bytes.clone();
    if from.flag() {
        from.rot(&mut bytes, (0, length));
    }
    if from.flag() {
        from.lose(&mut bytes, &made.before, (0, length));
    }
    let stale = |bytes: &[u8]| {
        let sectors = bytes[..length].chunks_exact(SECTOR_BYTES).enumerate();
        let at = |index| made.place.offset as usize + index * SECTOR_BYTES;
        sectors.filter(|(index, sector)| stamps.read(sector, at(*index)) == Stamp::Stale).count()
    };
    match check(&bytes, &made.place, &stamps) {
        Check::Sound(header) => {
            assert!(bytes[..length] == made.bytes[..length], "a changed batch was taken");
            assert_eq!(header, made.header);
        }
        Check::End | Check::Torn(_) => assert!(stale(&bytes) > 0, "rot was taken for a write that did not arrive"),
        Check::Damaged(..) => assert!(bytes[..length] != made.bytes[..length], "a sound batch was refused"),
    }
}

fn raw(from: &mut Choices<'_>) {
    let segment = plain_header(42, 1 + u32::from(from.byte() % 4), from.word());
    let place = Place::new(&segment, (SEGMENT_HEADER_BYTES + from.below(4) * PAGE_BYTES) as u32);
    let dressed = from.flag();
    let mut bytes = from.all().to_vec();
    if dressed {
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES).max(PAGE_BYTES), 0);
        make_right(&mut bytes, &place, segment.stamp());
    }
    readable_if_sound(&bytes, &place, &Stamps::new(&segment));
}

fn crafted(from: &mut Choices<'_>) {
    let mut made = build(from);
    let length = made.header.length as usize;
    from.rot(&mut made.bytes, (4, length));
    if from.flag() {
        // The numbers of the header are what everything else is read by.
        from.rot(&mut made.bytes, (4, 4 + BATCH::BYTES));
    }
    make_right(&mut made.bytes[..length], &made.place, made.segment.stamp());
    readable_if_sound(&made.bytes, &made.place, &Stamps::new(&made.segment));
}

/// Whatever passes the checks can be read without a panic, and adds up.
fn readable_if_sound(bytes: &[u8], place: &Place, stamps: &Stamps) {
    let Check::Sound(header) = check(bytes, place, stamps) else { return };
    assert!(header.length as usize <= bytes.len(), "no batch is longer than its place");
    let (mut numbered, mut controls, mut stream_bytes) = (0, 0, 0);
    each_entry(bytes, &header, &mut Vec::new(), |head, payload| {
        stream_bytes += head.len() + payload.len();
        let Some(entry) = decode_entry(head) else { return };
        assert_eq!(entry.length as usize, payload.len(), "a payload is as long as its header says");
        assert_eq!(entry.payload_crc, crc32fast::hash(payload), "a payload that was taken holds");
        assert_eq!(decode_entry(entry.encode().bytes()), Some(entry), "what is read can be written");
        numbered += u32::from(entry.kind != EntryKind::Control);
        controls += u32::from(entry.kind == EntryKind::Control);
    });
    assert_eq!(stream_bytes, header.entries_bytes as usize, "entries fill what the header says");
    assert!(numbered <= header.numbered, "no more blocks than the header says");
    assert!(header.first_seq <= header.last_seq().next(), "seqs go up");
    each_control(bytes, &header, |payload| {
        if let Some(control) = Control::decode(payload) {
            assert_eq!(control.encode(), payload, "what is read can be written");
        } else if let Some((ends, gaps)) = vector::decode(payload) {
            let again = vector::encode(&ends, &gaps, 1 << 30);
            assert_eq!(vector::decode(&again).map(|(ends, _)| ends), Some(ends), "what is read can be written");
        }
    });
    assert_eq!(stream_rows(bytes, &header).len(), header.streams as usize);
}
