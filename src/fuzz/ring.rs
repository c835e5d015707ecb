//! What an opening finds in an intake ring. A ring is read back as it was published; with rot in it no
//! entry is taken that nobody published, and within one boot none is left out without a word; whatever
//! stands in the file, there is a verdict, and what it says can be read.

use std::collections::BTreeMap;

use crate::fuzz::choices::Choices;
use crate::fuzz::log::{Made, any_entry};
use crate::limits::NUMBER_MAX;
use crate::types::{Epoch, Nonce, Seq, ShardId, StoreId};
use crate::wal::codec::crc_before;
use crate::wal::entry::{EntryKind, decode_entry, void_entry};
use crate::wal::intake::{
    FREED_AT, RING, RING_HEADER_BYTES, RingHeader, SLOT_BYTES, SLOTS_AT, Slot, freed_word, slot_checksum, units_for,
};
use crate::wal::ring::{Expect, LastLog, Replay, RingImage, RingVerdict, What, recover_ring};

const BOOT: [u8; 16] = [9; 16];
const SLOTS: u64 = 64;
const BYTES: u64 = 4096;

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    match from.byte() % 3 {
        0 | 1 => built(&mut from),
        _ => crafted(&mut from),
    }
}

/// A ring as a killed engine leaves it.
struct Image {
    header: RingHeader,
    bytes: Vec<u8>,
    /// What was published and not given back, by seq; `None` for a void.
    published: BTreeMap<u64, Option<Made>>,
    unit: u32,
    next: u64,
    freed: u64,
}

impl Image {
    fn new(first_seq: u64) -> Self {
        let header = RingHeader {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            boot: BOOT,
            epoch: Epoch(4),
            nonce: Nonce(5),
            first_seq: Seq(first_seq),
            slots: SLOTS as u32,
            bytes: BYTES,
        };
        let mut bytes = vec![0; header.file_bytes() as usize];
        for at in [0, SLOTS_AT / 2] {
            bytes[at..at + RING_HEADER_BYTES].copy_from_slice(&header.encode());
        }
        Self { header, bytes, published: BTreeMap::new(), unit: 0, next: first_seq, freed: first_seq - 1 }
    }

    /// Units that nobody uses: a lap of the area less what is not given back.
    fn units_used(&self) -> usize {
        let units = |made: &Option<Made>| {
            made.as_ref().map_or(1, |(head, payload)| units_for(head.bytes().len() + payload.len()))
        };
        self.published.values().map(units).sum()
    }

    fn publish(&mut self, (head, payload): Made, is_void: bool) {
        let units = units_for(head.bytes().len() + payload.len());
        if self.next - self.freed > SLOTS || self.units_used() + units > self.header.units() as usize {
            return;
        }
        let (area_at, area) = (self.header.area_at() as usize, self.header.bytes as usize);
        for (index, &byte) in head.bytes().iter().chain(&payload).enumerate() {
            self.bytes[area_at + (self.unit as usize * 64 + index) % area] = byte;
        }
        let slot = Slot {
            claim_unit: self.unit,
            claim_units: units as u32,
            length: payload.len() as u32,
            header_bytes: head.bytes().len() as u32,
            header_crc: crc32fast::hash(head.bytes()),
            payload_crc: crc32fast::hash(&payload),
        };
        let checksum = slot_checksum(slot.premix(self.header.slot_seed()), Seq(self.next));
        let words = [self.next, checksum].into_iter().chain(slot.words());
        let at = slot_at(self.next);
        for (index, word) in words.enumerate() {
            self.bytes[at + index * 8..at + index * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.published.insert(self.next, (!is_void).then_some((head, payload)));
        self.unit = self.unit.wrapping_add(units as u32);
        self.next += 1;
    }

    /// The log has everything up to here.
    fn free(&mut self, upto: u64) {
        self.freed = upto;
        self.published = self.published.split_off(&(upto + 1));
        let word = freed_word(self.header.slot_seed(), self.header.first_seq, Seq(upto));
        self.bytes[FREED_AT..FREED_AT + 8].copy_from_slice(&word.to_le_bytes());
    }
}

const fn slot_at(seq: u64) -> usize {
    SLOTS_AT + (seq % SLOTS) as usize * SLOT_BYTES
}

/// A ring that was in use for a while: what was written since is given back from time to time.
fn build(from: &mut Choices<'_>) -> Image {
    let mut image = Image::new(from.modest());
    for _ in 0..from.byte() {
        match from.byte() % 8 {
            0 => image.publish((void_entry(), Vec::new()), true),
            1 => {
                let used = image.next - 1 - image.freed;
                image.free(image.freed + u64::from(from.byte()) % (used + 1));
            }
            _ => {
                let (head, payload) = any_entry(from, 400);
                let kind = decode_entry(head.bytes()).expect("an entry").kind;
                if kind != EntryKind::Control {
                    image.publish((head, payload), kind == EntryKind::Void);
                }
            }
        }
    }
    image
}

fn expect_of(image: &Image, log_seq: u64, boot: [u8; 16]) -> Expect {
    let last_log = LastLog {
        epoch: image.header.epoch,
        nonce: image.header.nonce,
        boot: image.header.boot,
        seq: Seq(log_seq),
        intake_done: Epoch(3),
        sealed: false,
        lost_to_damage: false,
    };
    Expect { store: image.header.store, shard: image.header.shard, boot, last_log }
}

fn built(from: &mut Choices<'_>) {
    let mut image = build(from);
    // Writers that were killed between their seq and their slot; what they took was never acknowledged.
    let killed: Vec<u64> = image.published.keys().copied().filter(|_| from.byte().is_multiple_of(16)).collect();
    for seq in &killed {
        image.published.remove(seq);
        image.bytes[slot_at(*seq)..slot_at(*seq) + SLOT_BYTES].fill(0);
    }
    // The log has at least what was given back.
    let ahead = image.next - 1 - image.freed;
    let log_seq = image.freed + u64::from(from.byte()) % (ahead + 1);
    let boot = if from.flag() { BOOT } else { [8; 16] };
    let expect = expect_of(&image, log_seq, boot);
    let open: BTreeMap<u64, Option<Made>> = image.published.split_off(&(log_seq + 1));
    let last = open.last_key_value().map_or(log_seq, |(seq, _)| *seq);
    match recover_ring(&RingImage(Some(&image.bytes)), &expect) {
        RingVerdict::Replay { from, entries, cut, damage: None, .. } => {
            assert_eq!(from, Seq(log_seq + 1).max(image.header.first_seq));
            let end = if boot == BOOT { last } else { entries.last().map_or(log_seq, |last| last.seq.0) };
            assert!(boot != BOOT || cut.is_none(), "within one boot a whole ring is not cut");
            let hole = (log_seq + 1..=last).find(|seq| !open.contains_key(seq));
            assert_eq!(end, if boot == BOOT { last } else { hole.map_or(last, |hole| hole - 1) });
            compare(&image, &entries, &open);
            assert_eq!(entries.len() as u64, end - log_seq, "one entry for each seq");
        }
        other => panic!("a whole ring is read: {other:?}"),
    }
    let sound = image.bytes.clone();
    let length = image.bytes.len();
    let range = [(0, length), (0, SLOTS_AT), (SLOTS_AT, SLOTS_AT + 64 * SLOT_BYTES)][from.below(3)];
    from.rot(&mut image.bytes, range);
    let verdict = recover_ring(&RingImage(Some(&image.bytes)), &expect);
    readable(&image, &verdict);
    let RingVerdict::Replay { entries, cut, damage, .. } = verdict else {
        assert!(sound != image.bytes && !matches!(verdict, RingVerdict::Ignored), "a ring was ignored");
        return;
    };
    compare(&image, &entries, &open);
    if boot != BOOT || cut.is_some() || damage.is_some() {
        return;
    }
    // No tag may be left of the last entries: nothing tells that from a writer that was killed before.
    let taken = |seq: &u64| entries.iter().any(|entry| entry.seq.0 == *seq && entry.what != What::Void);
    let blocks = open.iter().filter(|(_, made)| made.is_some());
    for (seq, _) in blocks.filter(|(seq, _)| !taken(seq)) {
        let at = slot_at(*seq);
        let is_changed = sound[at..at + 8] != image.bytes[at..at + 8];
        let tag = u64::from_le_bytes(image.bytes[at..at + 8].try_into().expect("8 bytes"));
        let one_bit = (tag ^ seq).count_ones() == 1;
        assert!(is_changed && !one_bit, "seq {seq} was published and is not there, without a word");
        assert!(tag == 0 || tag < *seq, "only an empty slot, or one of an earlier lap, is no damage");
    }
}

/// Every block that is replayed is, byte for byte, the one that was published under its seq.
fn compare(image: &Image, entries: &[Replay], open: &BTreeMap<u64, Option<Made>>) {
    assert!(entries.windows(2).all(|two| two[0].seq.next() == two[1].seq), "no seq twice, none left out");
    let mut scratch = Vec::new();
    for entry in entries {
        let Some(span) = entry.what.span() else { continue };
        let (head, payload) = RingImage(Some(&image.bytes)).entry(&image.header, span, &mut scratch);
        let made = open.get(&entry.seq.0).and_then(Option::as_ref);
        let same = made.is_some_and(|(made, made_payload)| made.bytes() == head && made_payload == payload);
        assert!(same, "seq {} was never published like this", entry.seq);
    }
}

/// A ring whose header and slots say anything, with checksums that hold.
fn crafted(from: &mut Choices<'_>) {
    let mut image = build(from);
    if from.flag() {
        let any = RingHeader {
            first_seq: Seq(from.number()),
            epoch: Epoch(from.number() % 6),
            boot: if from.flag() { BOOT } else { [8; 16] },
            ..image.header
        };
        image.bytes[..RING_HEADER_BYTES].copy_from_slice(&any.encode());
        image.header = any;
        from.rot(&mut image.bytes, (0, RING_HEADER_BYTES));
        let record = &mut image.bytes[..RING_HEADER_BYTES];
        let sum = crc_before(RING::crc, record);
        RING::crc.put(record, &sum.to_le_bytes());
    }
    let seed = RingHeader::decode(&image.bytes).unwrap_or(image.header).slot_seed();
    for _ in 0..from.byte() % 16 {
        let seq = from.number();
        let slot = Slot {
            claim_unit: from.word(),
            claim_units: if from.flag() { from.word() } else { u32::from(from.byte()) },
            length: if from.flag() { from.word() } else { u32::from(from.byte()) },
            header_bytes: if from.flag() { from.word() } else { 24 + u32::from(from.byte()) },
            header_crc: from.word(),
            payload_crc: from.word(),
        };
        let words = [seq, slot_checksum(slot.premix(seed), Seq(seq))].into_iter().chain(slot.words());
        for (index, word) in words.enumerate() {
            image.bytes[slot_at(seq) + index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }
    if from.flag() {
        let first = image.header.first_seq.min(Seq(NUMBER_MAX));
        let word = freed_word(seed, first, Seq(first.0.saturating_add(u64::from(from.word()))));
        image.bytes[FREED_AT..FREED_AT + 8].copy_from_slice(&word.to_le_bytes());
    }
    let length = image.bytes.len();
    from.rot(&mut image.bytes, (0, length));
    if from.byte().is_multiple_of(8) {
        let length = from.below(length);
        image.bytes.truncate(length);
    }
    let log_seq = match from.byte() % 3 {
        0 => image.next - 1,
        1 => image.freed,
        _ => from.number().min(NUMBER_MAX),
    };
    let mut expect = expect_of(&image, log_seq, if from.flag() { BOOT } else { [8; 16] });
    expect.last_log.epoch = Epoch(u64::from(from.byte() % 6));
    expect.last_log.lost_to_damage = from.flag();
    expect.last_log.sealed = from.byte().is_multiple_of(8);
    expect.last_log.intake_done = Epoch(u64::from(from.byte() % 4));
    let verdict = recover_ring(&RingImage(Some(&image.bytes)), &expect);
    readable(&image, &verdict);
}

/// What a verdict says is there can be had, and there is no more of it than the ring has slots.
fn readable(image: &Image, verdict: &RingVerdict) {
    let RingVerdict::Replay { header, from, entries, cut, damage } = verdict else { return };
    let later = cut.iter().flat_map(|cut| &cut.later);
    assert!(entries.len() + later.clone().count() <= header.slots as usize, "no more entries than slots");
    assert!(entries.first().is_none_or(|first| first.seq >= *from), "no entry before the first");
    let mut scratch = Vec::new();
    for entry in entries.iter().chain(later) {
        let Some(span) = entry.what.span() else { continue };
        let (head, payload) = RingImage(Some(&image.bytes)).entry(header, span, &mut scratch);
        let read = decode_entry(head).expect("an entry that is replayed can be read");
        assert_eq!(read.length as usize, payload.len());
        assert_eq!(read.payload_crc, crc32fast::hash(payload));
    }
    for (first, last) in damage.iter().flat_map(|damage| &damage.lost) {
        assert!(first <= last, "a range from its first to its last");
    }
}
