//! The intake ring on disk: its header, its slots, and where they stand. What is found in a ring at
//! open is judged in `wal/ring.rs`; the live ring is in `shard/`. Pure: bytes and values.
//!
//! A ring file is header copy A (page 0) and copy B (page 1), an array of slots from 8192 on, and
//! the byte area behind it. An entry (header, payload) stands in the byte area from its claim's
//! first unit on, and wraps round at the area's end. Its slot is `seq % slots`; slots never hold
//! user bytes.

use crate::limits::{ENTRY_HEADER_BYTES_MAX, INTAKE_SLOTS, INTAKE_UNIT_BYTES, NUMBER_MAX, PAGE_BYTES, RING_FILE_BYTES};
use crate::types::{Epoch, Nonce, Seq, ShardId, StoreId, Stream, mix64};
use crate::wal::codec::{FORMAT_VERSION, crc_before, layout};
use crate::wal::entry::ENTRY_BYTES;

const MAGIC: [u8; 8] = *b"FBYRING1";

layout!(RING {
    magic: 8,
    version: 2,
    shard: 2,
    slots: 4,
    store: 16,
    boot: 16,
    epoch: 8,
    nonce: 8,
    first_seq: 8,
    bytes: 8,
    crc: 4,
});
layout!(SLOT {
    tag: 8,
    checksum: 8,
    claim_unit: 4,
    claim_units: 4,
    length: 4,
    header_bytes: 4,
    header_crc: 4,
    payload_crc: 4,
    zero: 24,
});

/// Bytes of a ring header.
pub const RING_HEADER_BYTES: usize = RING::BYTES;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = SLOT::BYTES;
/// Where the shard notes the last seq that it has freed (u64): in page 0, behind header copy A.
pub const FREED_AT: usize = 2048;
/// Where the slots begin.
pub const SLOTS_AT: usize = 2 * PAGE_BYTES;

/// What a ring says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingHeader {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The kernel's boot id when the ring was opened: tells a kill from a power cut.
    pub boot: [u8; 16],
    /// The opening whose entries it holds; 0 for a ring that was made and never opened.
    pub epoch: Epoch,
    /// That opening's nonce.
    pub nonce: Nonce,
    /// The seq of the first entry that it can hold.
    pub first_seq: Seq,
    /// Slots, a power of two; 0 where the ring is plain memory and the file only says so.
    pub slots: u32,
    /// Bytes of the byte area, a power of two; 0 where `slots` is.
    pub bytes: u64,
}

impl RingHeader {
    /// The stream of what was accepted in its opening.
    #[must_use]
    pub const fn stream(&self) -> Stream {
        Stream { origin: self.store, shard: self.shard, epoch: self.epoch, nonce: self.nonce }
    }

    /// The header as bytes; both copies are equal.
    #[must_use]
    pub fn encode(&self) -> [u8; RING_HEADER_BYTES] {
        use RING::*;
        let mut record = [0; RING_HEADER_BYTES];
        magic.put(&mut record, &MAGIC);
        version.put(&mut record, &FORMAT_VERSION.to_le_bytes());
        shard.put(&mut record, &self.shard.0.to_le_bytes());
        slots.put(&mut record, &self.slots.to_le_bytes());
        store.put(&mut record, &self.store.0);
        boot.put(&mut record, &self.boot);
        epoch.put(&mut record, &self.epoch.0.to_le_bytes());
        nonce.put(&mut record, &self.nonce.0.to_le_bytes());
        first_seq.put(&mut record, &self.first_seq.0.to_le_bytes());
        bytes.put(&mut record, &self.bytes.to_le_bytes());
        let sum = crc_before(crc, &record);
        crc.put(&mut record, &sum.to_le_bytes());
        record
    }

    /// Reads one copy; `None` where it is not whole or its sizes and numbers are out of bounds.
    #[must_use]
    pub fn decode(page: &[u8]) -> Option<Self> {
        use RING::*;
        let record = page.get(..RING_HEADER_BYTES)?;
        let whole = magic.of(record) == MAGIC
            && crc.u32(record) == crc_before(crc, record)
            && version.u16(record) == FORMAT_VERSION;
        let header = Self {
            store: StoreId(store.array(record)),
            shard: ShardId(shard.u16(record)),
            boot: boot.array(record),
            epoch: Epoch(epoch.u64(record)),
            nonce: Nonce(nonce.u64(record)),
            first_seq: Seq(first_seq.u64(record)),
            slots: slots.u32(record),
            bytes: bytes.u64(record),
        };
        let numbers = (1..=NUMBER_MAX).contains(&header.first_seq.0) && header.epoch.0 <= NUMBER_MAX;
        (whole && numbers && (header.is_plain_memory() || header.has_sound_sizes())).then_some(header)
    }

    /// The ring was plain memory: the file holds these headers and nothing else.
    #[must_use]
    pub const fn is_plain_memory(&self) -> bool {
        self.slots == 0 && self.bytes == 0
    }

    /// Slots and bytes are powers of two within the bounds of their options.
    #[must_use]
    pub fn has_sound_sizes(&self) -> bool {
        self.slots.is_power_of_two()
            && self.bytes.is_power_of_two()
            && INTAKE_SLOTS.contains(&u64::from(self.slots))
            && RING_FILE_BYTES.contains(&self.bytes)
    }

    /// Where the byte area begins.
    #[must_use]
    pub const fn area_at(&self) -> u64 {
        if self.is_plain_memory() {
            return SLOTS_AT as u64;
        }
        (SLOTS_AT as u64 + self.slots as u64 * SLOT_BYTES as u64).next_multiple_of(PAGE_BYTES as u64)
    }

    /// The file's length.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.area_at() + self.bytes
    }

    /// Units of the byte area.
    #[must_use]
    pub const fn units(&self) -> u32 {
        (self.bytes / INTAKE_UNIT_BYTES as u64) as u32
    }

    /// Where the checksums of this ring's slots start from.
    #[must_use]
    pub fn slot_seed(&self) -> u64 {
        let store = mix64(self.store.mixed(), u64::from(self.shard.0));
        mix64(mix64(store, self.epoch.0), self.nonce.0)
    }
}

/// Units that an entry of so many bytes needs.
#[must_use]
pub const fn units_for(bytes: usize) -> usize {
    bytes.div_ceil(INTAKE_UNIT_BYTES)
}

/// What a slot says of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The claim's first unit, counted modulo 2^32 from the ring's opening.
    pub claim_unit: u32,
    /// The claim's units; a void may have more than its entry needs.
    pub claim_units: u32,
    /// Bytes of the payload.
    pub length: u32,
    /// Bytes of the entry's header.
    pub header_bytes: u32,
    /// CRC-32 of the header.
    pub header_crc: u32,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
}

impl Slot {
    /// The fields as the 64-bit words 2 to 4 of a slot, before they are made little-endian.
    #[must_use]
    #[inline]
    pub const fn words(&self) -> [u64; 3] {
        const fn pair(low: u32, high: u32) -> u64 {
            low as u64 | (high as u64) << 32
        }
        [
            pair(self.claim_unit, self.claim_units),
            pair(self.length, self.header_bytes),
            pair(self.header_crc, self.payload_crc),
        ]
    }

    /// The fields from the words 2 to 4.
    #[must_use]
    #[inline]
    pub const fn from_words([claim, lengths, crcs]: [u64; 3]) -> Self {
        Self {
            claim_unit: claim as u32,
            claim_units: (claim >> 32) as u32,
            length: lengths as u32,
            header_bytes: (lengths >> 32) as u32,
            header_crc: crcs as u32,
            payload_crc: (crcs >> 32) as u32,
        }
    }

    /// The part of the checksum that does not need the seq, so that it can be had before that is taken.
    #[must_use]
    #[inline]
    pub const fn premix(&self, seed: u64) -> u64 {
        let [claim, lengths, crcs] = self.words();
        mix64(mix64(mix64(seed, claim), lengths), crcs)
    }

    /// Where the entry begins in the byte area, and the lengths, if they are within the claim and
    /// the claim within the area; every other use of a length comes after this.
    #[must_use]
    pub fn span(&self, header: &RingHeader) -> Option<Span> {
        let units = header.units();
        let bytes = u64::from(self.header_bytes) + u64::from(self.length);
        let sound = (ENTRY_BYTES..=ENTRY_HEADER_BYTES_MAX).contains(&(self.header_bytes as usize))
            && self.claim_units <= units
            && bytes <= u64::from(self.claim_units) * INTAKE_UNIT_BYTES as u64;
        sound.then(|| Span {
            at: u64::from(self.claim_unit & (units - 1)) * INTAKE_UNIT_BYTES as u64,
            header_bytes: self.header_bytes,
            length: self.length,
        })
    }
}

const FREED_BITS: u32 = 48;

/// The word at [`FREED_AT`]: how many seqs of this ring are freed, and 16 bits of check.
#[must_use]
#[inline]
pub const fn freed_word(seed: u64, first: Seq, freed: Seq) -> u64 {
    let count = (freed.0 + 1 - first.0) & ((1 << FREED_BITS) - 1);
    count | mix64(seed, count) >> FREED_BITS << FREED_BITS
}

/// Reads the word at [`FREED_AT`]: the last freed seq, the one before `first` where the word is none.
#[must_use]
pub const fn read_freed(word: u64, seed: u64, first: Seq) -> Seq {
    let freed = Seq((first.0 + (word & ((1 << FREED_BITS) - 1))).saturating_sub(1));
    if freed_word(seed, first, freed) == word { freed } else { first.prev() }
}

/// A slot's checksum, from [`Slot::premix`] and the seq.
#[must_use]
#[inline]
pub const fn slot_checksum(premix: u64, seq: Seq) -> u64 {
    mix64(premix, seq.0)
}

/// A slot as it stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRecord {
    /// The seq; 0 where nothing is published.
    pub tag: u64,
    /// The checksum.
    pub checksum: u64,
    /// The rest.
    pub slot: Slot,
}

impl SlotRecord {
    /// Reads a slot; any 64 bytes are one.
    ///
    /// # Panics
    /// Where `record` is shorter than a slot.
    #[must_use]
    pub fn decode(record: &[u8]) -> Self {
        use SLOT::*;
        Self {
            tag: tag.u64(record),
            checksum: checksum.u64(record),
            slot: Slot {
                claim_unit: claim_unit.u32(record),
                claim_units: claim_units.u32(record),
                length: length.u32(record),
                header_bytes: header_bytes.u32(record),
                header_crc: header_crc.u32(record),
                payload_crc: payload_crc.u32(record),
            },
        }
    }

    /// The checksum is that of an entry with this seq.
    #[must_use]
    pub fn holds_for(&self, seq: Seq, seed: u64) -> bool {
        self.checksum == slot_checksum(self.slot.premix(seed), seq)
    }
}

/// Where an entry stands in the byte area; it may wrap round at the area's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset in the byte area.
    pub at: u64,
    /// Bytes of the entry's header.
    pub header_bytes: u32,
    /// Bytes of its payload.
    pub length: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RingHeader {
        RingHeader {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            boot: [9; 16],
            epoch: Epoch(4),
            nonce: Nonce(5),
            first_seq: Seq(6),
            slots: 64,
            bytes: 64 << 10,
        }
    }

    #[test]
    fn headers_round_trip_and_no_flipped_bit_is_believed() {
        let mut bytes = header().encode();
        assert_eq!(RingHeader::decode(&bytes), Some(header()));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RingHeader::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(RingHeader::decode(&bytes[..RING_HEADER_BYTES - 1]), None);
        let plain = RingHeader { slots: 0, bytes: 0, ..header() };
        assert_eq!(RingHeader::decode(&plain.encode()), Some(plain));
        for (slots, bytes) in [(0, 64 << 10), (64, 0), (65, 64 << 10), (64, 65 << 10), (1 << 31, 64 << 10)] {
            assert_eq!(RingHeader::decode(&RingHeader { slots, bytes, ..header() }.encode()), None, "{slots} {bytes}");
        }
        for first_seq in [0, u64::MAX] {
            let header = RingHeader { first_seq: Seq(first_seq), ..header() };
            assert_eq!(RingHeader::decode(&header.encode()), None, "{first_seq}");
        }
    }

    #[test]
    fn the_area_begins_on_a_page_behind_the_slots() {
        assert_eq!((header().area_at(), header().file_bytes(), header().units()), (12288, 12288 + 65536, 1024));
        let large = RingHeader { slots: 1 << 24, bytes: 4 << 30, ..header() };
        assert_eq!((large.area_at(), large.units()), (8192 + (1 << 30), 1 << 26));
    }

    #[test]
    fn words_are_the_layout() {
        let slot =
            Slot { claim_unit: 1, claim_units: 2, length: 3, header_bytes: 4, header_crc: 5, payload_crc: u32::MAX };
        let record: Vec<u8> =
            [10, 11].into_iter().chain(slot.words()).chain([0; 3]).flat_map(u64::to_le_bytes).collect();
        assert_eq!(record.len(), SLOT_BYTES);
        assert_eq!(SlotRecord::decode(&record), SlotRecord { tag: 10, checksum: 11, slot });
        assert_eq!(Slot::from_words(slot.words()), slot);
    }

    #[test]
    fn a_checksum_belongs_to_one_ring_one_seq_and_one_entry() {
        let slot = Slot { claim_unit: 1, claim_units: 2, length: 3, header_bytes: 24, header_crc: 5, payload_crc: 6 };
        let sum = |header: RingHeader, slot: Slot, seq| slot_checksum(slot.premix(header.slot_seed()), Seq(seq));
        let good = sum(header(), slot, 9);
        for header in [
            RingHeader { store: StoreId([8; 16]), ..header() },
            RingHeader { shard: ShardId(4), ..header() },
            RingHeader { epoch: Epoch(5), ..header() },
            RingHeader { nonce: Nonce(6), ..header() },
        ] {
            assert_ne!(sum(header, slot, 9), good);
        }
        assert_ne!(sum(header(), slot, 10), good);
        for slot in [
            Slot { claim_unit: 2, ..slot },
            Slot { claim_units: 3, ..slot },
            Slot { length: 4, ..slot },
            Slot { header_bytes: 25, ..slot },
            Slot { header_crc: 6, ..slot },
            Slot { payload_crc: 7, ..slot },
        ] {
            assert_ne!(sum(header(), slot, 9), good);
        }
    }

    #[test]
    fn a_flipped_freed_word_frees_nothing() {
        let seed = header().slot_seed();
        let word = freed_word(seed, Seq(6), Seq(1000));
        assert_eq!(read_freed(word, seed, Seq(6)), Seq(1000));
        assert_eq!(read_freed(freed_word(seed, Seq(6), Seq(5)), seed, Seq(6)), Seq(5));
        for bit in 0..64 {
            assert_eq!(read_freed(word ^ 1 << bit, seed, Seq(6)), Seq(5), "bit {bit}");
        }
    }

    #[test]
    fn no_span_leaves_its_claim_or_the_area() {
        let slot =
            Slot { claim_unit: 1023, claim_units: 2, length: 104, header_bytes: 24, header_crc: 0, payload_crc: 0 };
        assert_eq!(slot.span(&header()), Some(Span { at: 1023 * 64, header_bytes: 24, length: 104 }));
        for slot in [
            Slot { length: 105, ..slot },
            Slot { length: u32::MAX, ..slot },
            Slot { header_bytes: 23, ..slot },
            Slot { header_bytes: u32::MAX, ..slot },
            Slot { claim_units: 1025, ..slot },
        ] {
            assert_eq!(slot.span(&header()), None, "{slot:?}");
        }
    }
}
