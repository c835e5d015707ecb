//! The simulated intake ring: the real format in a file image, published into step by step, so that
//! a kill can come between any two steps of a writer and a power cut can mix old and new pages.
//!
//! It mirrors the protocol of the live ring (claim, copy, seq, slot, tag), not its atomics.

use std::collections::VecDeque;

use crate::io::chance::Chance;
use crate::io::medium::Fate;
use crate::limits::{INTAKE_UNIT_BYTES, PAGE_BYTES, SECTOR_BYTES};
use crate::shard::event::Look;
use crate::types::{Epoch, Seq, StoreId};
use crate::wal::batch::{BatchBuilder, Push};
use crate::wal::intake::{
    FREED_AT, RingHeader, SLOT_BYTES, SLOTS_AT, Slot, SlotRecord, freed_word, slot_checksum, units_for,
};

/// The ring's file, and the live ring in it.
#[derive(Clone, Debug, Default)]
pub struct SimRing {
    /// What the kernel holds: survives a kill.
    image: Option<Vec<u8>>,
    /// What the device holds.
    durable: Option<Vec<u8>>,
    header: Option<RingHeader>,
    next_seq: Seq,
    published: Seq,
    freed: Seq,
    next_unit: u64,
    freed_unit: u64,
    /// Claims in the order of their units, from number `first_claim` on.
    claims: VecDeque<Held>,
    first_claim: u64,
    unnumbered: u64,
}

#[derive(Clone, Debug)]
struct Held {
    units: u64,
    seq: Option<Seq>,
    free: bool,
}

/// A reservation of room.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    number: u64,
    unit: u64,
    units: u64,
}

/// How far a writer comes before it is killed or held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upto {
    /// Its entry is copied in part.
    PartOfCopy,
    /// Its entry is copied; it has no seq.
    Copied,
    /// It has a seq; its slot is as it was.
    Seq,
    /// Its slot's tag is cleared.
    Cleared,
    /// Its slot is filled in part.
    PartOfSlot,
    /// Its slot is filled but for the tag.
    AllButTag,
    /// It is published.
    Tag,
}

impl SimRing {
    /// The file as a process reads it.
    #[must_use]
    pub fn image(&self) -> Option<&[u8]> {
        self.image.as_deref()
    }

    /// Makes the ring for a new epoch, as far as `steps` go; true if that was all of them.
    pub fn create(&mut self, header: RingHeader, chance: &mut Chance, mut steps: u64) -> bool {
        let mut step = || {
            steps = steps.saturating_sub(1);
            steps > 0
        };
        let bytes = header.file_bytes() as usize;
        let copy = header.encode();
        let slots = SLOTS_AT..SLOTS_AT + header.slots as usize * SLOT_BYTES;
        if header.epoch == Epoch(0) || self.image.as_ref().is_none_or(|image| image.len() != bytes) {
            // Made beside the old one and renamed over it.
            let goes_on = step();
            if goes_on || chance.percent(50) {
                let mut image = vec![0; bytes];
                image[..copy.len()].copy_from_slice(&copy);
                image[PAGE_BYTES..PAGE_BYTES + copy.len()].copy_from_slice(&copy);
                self.image = Some(image);
                self.durable.clone_from(&self.image);
            }
            if !goes_on {
                return false;
            }
        }
        let image = self.image.as_mut().expect("just made");
        if !step() {
            // Slots in no order.
            image[slots].chunks_exact_mut(SLOT_BYTES).filter(|_| chance.percent(50)).for_each(|slot| slot.fill(0));
            return false;
        }
        image[slots].fill(0);
        if !step() {
            return false;
        }
        image[..copy.len()].copy_from_slice(&copy);
        image[FREED_AT..FREED_AT + 8].fill(0);
        if !step() {
            return false;
        }
        self.durable.clone_from(&self.image);
        if !step() {
            return false;
        }
        let image = self.image.as_mut().expect("just made");
        image[PAGE_BYTES..PAGE_BYTES + copy.len()].copy_from_slice(&copy);
        if !step() {
            return false;
        }
        self.durable.clone_from(&self.image);
        self.next_seq = header.first_seq;
        self.published = header.first_seq.prev();
        self.freed = self.published;
        (self.next_unit, self.freed_unit) = (0, 0);
        self.claims.clear();
        self.unnumbered = 0;
        self.header = Some(header);
        true
    }

    fn header(&self) -> &RingHeader {
        self.header.as_ref().expect("a ring that was made")
    }

    fn live(&mut self) -> &mut [u8] {
        self.image.as_mut().expect("a ring that was made")
    }

    /// Reserves room for an entry of `bytes`, and a slot; `None` where the ring is full.
    pub fn claim(&mut self, bytes: usize) -> Option<Claim> {
        let units = units_for(bytes) as u64;
        let fits = self.next_unit + units - self.freed_unit <= u64::from(self.header().units())
            && self.next_seq.0 + self.unnumbered - self.freed.0 <= u64::from(self.header().slots);
        fits.then(|| {
            let claim = Claim { number: self.first_claim + self.claims.len() as u64, unit: self.next_unit, units };
            self.next_unit += units;
            self.unnumbered += 1;
            self.claims.push_back(Held { units, seq: None, free: false });
            claim
        })
    }

    /// Copies an entry into its room, the whole or its first `bytes`.
    pub fn copy(&mut self, claim: Claim, header: &[u8], payload: &[u8], bytes: usize) {
        let area = self.header().area_at() as usize;
        let len = self.header().bytes as usize;
        let mut at = claim.unit as usize * INTAKE_UNIT_BYTES % len;
        let mut left = bytes;
        let area = &mut self.live()[area..area + len];
        for mut part in [header, payload] {
            part = &part[..part.len().min(left)];
            left -= part.len();
            let (now, wrapped) = part.split_at(part.len().min(len - at));
            area[at..at + now.len()].copy_from_slice(now);
            area[..wrapped.len()].copy_from_slice(wrapped);
            at = (at + part.len()) % len;
        }
    }

    /// Takes the next seq for a claim.
    pub fn take_seq(&mut self, claim: Claim) -> Seq {
        let seq = self.next_seq;
        self.next_seq = seq.next();
        self.unnumbered -= 1;
        self.claims[(claim.number - self.first_claim) as usize].seq = Some(seq);
        seq
    }

    /// Fills the slot of a seq: clears the tag, writes the words (or some of them), sets the tag.
    pub fn fill(&mut self, seq: Seq, claim: Claim, header: &[u8], payload: &[u8], upto: Upto, chance: &mut Chance) {
        let slot = Slot {
            claim_unit: claim.unit as u32,
            claim_units: claim.units as u32,
            length: payload.len() as u32,
            header_bytes: header.len() as u32,
            header_crc: crc32fast::hash(header),
            payload_crc: crc32fast::hash(payload),
        };
        let checksum = slot_checksum(slot.premix(self.header().slot_seed()), seq);
        let at = SLOTS_AT + (seq.0 % u64::from(self.header().slots)) as usize * SLOT_BYTES;
        let record = &mut self.live()[at..at + SLOT_BYTES];
        if upto == Upto::Seq {
            return;
        }
        record[..8].fill(0);
        if upto == Upto::Cleared {
            return;
        }
        let words = [checksum].into_iter().chain(slot.words());
        for (index, word) in words.enumerate().take(5) {
            if upto != Upto::PartOfSlot || chance.percent(50) {
                record[8 + index * 8..16 + index * 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        if upto == Upto::Tag {
            record[..8].copy_from_slice(&seq.0.to_le_bytes());
        }
    }

    fn record(&self, seq: Seq) -> SlotRecord {
        let at = SLOTS_AT + (seq.0 % u64::from(self.header().slots)) as usize * SLOT_BYTES;
        SlotRecord::decode(&self.image().expect("a ring that was made")[at..at + SLOT_BYTES])
    }

    /// What the shard sees.
    pub fn look(&mut self) -> Look {
        while self.published.next() < self.next_seq && self.record(self.published.next()).tag == self.published.next().0
        {
            self.published = self.published.next();
        }
        let used = self.next_unit - self.freed_unit;
        let slots_used = self.next_seq.0 - 1 - self.freed.0;
        Look {
            published: self.published,
            bytes: used * INTAKE_UNIT_BYTES as u64,
            quarter_full: used * 4 >= u64::from(self.header().units())
                || slots_used * 4 >= u64::from(self.header().slots),
            unpublished: self.published.next() < self.next_seq || self.unnumbered > 0,
        }
    }

    /// Copies entries into a batch up to `upto`.
    pub fn drain(&self, batch: &mut BatchBuilder, upto: Seq) -> Push {
        let header = self.header();
        let image = crate::wal::ring::RingImage(self.image());
        let mut scratch = Vec::new();
        while batch.next_seq() <= upto {
            let record = self.record(batch.next_seq());
            assert_eq!(record.tag, batch.next_seq().0, "a published slot");
            let span = record.slot.span(header).expect("a slot of this process");
            let (head, payload) = image.entry(header, &span, &mut scratch);
            match batch.push(head, payload) {
                Push::Taken => {}
                full => return full,
            }
        }
        Push::Taken
    }

    /// Gives back the room of everything up to `upto`.
    pub fn free(&mut self, upto: Seq) {
        if upto <= self.freed {
            return;
        }
        self.freed = upto;
        let word = freed_word(self.header().slot_seed(), self.header().first_seq, upto);
        self.live()[FREED_AT..FREED_AT + 8].copy_from_slice(&word.to_le_bytes());
        for claim in &mut self.claims {
            claim.free |= claim.seq.is_some_and(|seq| seq <= upto);
        }
        while let Some(claim) = self.claims.front().filter(|claim| claim.free) {
            self.freed_unit += claim.units;
            self.first_claim += 1;
            self.claims.pop_front();
        }
    }

    /// Puts another file in this one's place: none, or the same of another store. What was there.
    pub fn exchange(&mut self, store: Option<StoreId>) -> Option<Vec<u8>> {
        let was = self.image.take();
        let (Some(store), Some(header), Some(image)) = (store, self.header, &was) else { return was };
        let copy = RingHeader { store, ..header }.encode();
        let mut other = image.clone();
        other[..copy.len()].copy_from_slice(&copy);
        other[PAGE_BYTES..PAGE_BYTES + copy.len()].copy_from_slice(&copy);
        self.image = Some(other);
        was
    }

    /// Puts the file back.
    pub fn put_back(&mut self, image: Option<Vec<u8>>) {
        self.image = image;
    }

    /// The kernel writes some pages back by itself.
    pub fn write_back(&mut self, chance: &mut Chance) {
        if let (Some(image), Some(durable)) = (&self.image, &mut self.durable) {
            let percent = chance.within(5, 95);
            mix(durable, image, PAGE_BYTES, || chance.percent(percent));
        }
    }

    /// The machine is shut down in order after the process was killed: everything reaches the device.
    pub fn write_all_back(&mut self) {
        self.durable.clone_from(&self.image);
    }

    /// The power fails.
    pub fn cut_power(&mut self, fate: Fate, unit: usize, chance: &mut Chance) {
        if let (Some(image), Some(durable)) = (&self.image, &mut self.durable) {
            match fate {
                Fate::Lost => {}
                Fate::Kept => durable.clone_from(image),
                _ => {
                    let percent = chance.within(5, 95);
                    mix(durable, image, unit.clamp(SECTOR_BYTES, PAGE_BYTES), || chance.percent(percent));
                }
            }
        }
        self.image.clone_from(&self.durable);
    }

    /// Changes a bit behind everybody's back; what it hits.
    pub fn rot(&mut self, chance: &mut Chance) -> Hit {
        let Some(bytes) = self.image.as_ref().map(Vec::len) else { return Hit::Nothing };
        let at = match chance.below(3) {
            0 => chance.below(bytes as u64) as usize,
            1 => chance.within(SLOTS_AT as u64, bytes as u64 - 1) as usize,
            // Where the shard will look next.
            _ => {
                let seq = self.freed.0 + chance.within(1, 8);
                let slots = self.header.map_or(1, |header| u64::from(header.slots));
                SLOTS_AT + (seq % slots) as usize * SLOT_BYTES + chance.below(SLOT_BYTES as u64) as usize
            }
        };
        let bit = chance.below(8) as u32;
        self.flip(at, bit)
    }

    /// Changes this bit; what it hits.
    pub fn flip(&mut self, at: usize, bit: u32) -> Hit {
        self.live()[at] ^= 1 << bit;
        let Some(header) = &self.header else { return Hit::Nothing };
        if at < SLOTS_AT {
            let is_freed = (FREED_AT..FREED_AT + 8).contains(&at);
            let is_header = at % PAGE_BYTES < FREED_AT;
            return if is_freed {
                Hit::Freed(self.freed)
            } else if is_header {
                Hit::Header
            } else {
                Hit::Nothing
            };
        }
        let area = header.area_at() as usize;
        let hits = |seq: Seq| {
            if at < area {
                return (at - SLOTS_AT) / SLOT_BYTES == (seq.0 % u64::from(header.slots)) as usize;
            }
            let unit = ((at - area) / INTAKE_UNIT_BYTES) as u64;
            let units = u64::from(header.units());
            self.claims
                .iter()
                .zip(self.units())
                .any(|(claim, from)| claim.seq == Some(seq) && (unit + units - from % units) % units < claim.units)
        };
        (self.freed.0 + 1..self.next_seq.0).map(Seq).find(|seq| hits(*seq)).map_or(Hit::Nothing, Hit::Entry)
    }

    /// Where each claim begins, in units.
    fn units(&self) -> impl Iterator<Item = u64> {
        self.claims.iter().scan(self.freed_unit, |next, claim| {
            let from = *next;
            *next += claim.units;
            Some(from)
        })
    }
}

/// What a changed bit of the ring belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// A copy of the header.
    Header,
    /// The mark of what was given back, which was this.
    Freed(Seq),
    /// The slot or the bytes of an entry that is not given back.
    Entry(Seq),
    /// Nothing that is needed.
    Nothing,
}

fn mix(old: &mut [u8], new: &[u8], unit: usize, mut arrives: impl FnMut() -> bool) {
    for (old, new) in old.chunks_mut(unit).zip(new.chunks(unit)) {
        if arrives() {
            old.copy_from_slice(new);
        }
    }
}
