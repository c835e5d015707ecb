//! Rings as a killed or cut-off engine leaves them, whole and damaged.

use super::*;
use crate::types::BlockKind;
use crate::wal::entry::{Absent, Adopted, Entry, Identity, void_entry};
use crate::wal::intake::{SLOT, Slot, freed_word, slot_checksum, units_for};
use proptest::prelude::*;

const BOOT: [u8; 16] = [9; 16];

fn header() -> RingHeader {
    RingHeader {
        store: StoreId([7; 16]),
        shard: ShardId(3),
        boot: BOOT,
        epoch: Epoch(4),
        nonce: Nonce(5),
        first_seq: Seq(100),
        slots: 64,
        bytes: 64 << 10,
    }
}

fn log_at(seq: u64) -> Expect {
    let last_log = LastLog {
        epoch: Epoch(4),
        nonce: Nonce(5),
        boot: BOOT,
        seq: Seq(seq),
        intake_done: Epoch(3),
        sealed: false,
        lost_to_damage: false,
    };
    Expect { store: StoreId([7; 16]), shard: ShardId(3), boot: BOOT, last_log }
}

/// The seqs that are replayed, voids as (seq, false); and where the ring was cut, why, and how many lie behind.
type Replayed = (Vec<(u64, bool)>, Option<(u64, CutBy, usize)>);

/// A ring as a running engine leaves it.
struct Image {
    bytes: Vec<u8>,
    unit: u32,
    next: u64,
}

impl Image {
    fn new() -> Self {
        let mut bytes = vec![0; header().file_bytes() as usize];
        for at in [0, SLOTS_AT / 2] {
            bytes[at..at + header().encode().len()].copy_from_slice(&header().encode());
        }
        Self { bytes, unit: 0, next: 100 }
    }

    fn slot_at(seq: u64) -> usize {
        SLOTS_AT + (seq % 64) as usize * SLOT_BYTES
    }

    fn payload_of(seq: u64, len: usize) -> Vec<u8> {
        (0..len).map(|at| (at as u64 * 31 + seq) as u8).collect()
    }

    fn publish(&mut self, len: usize) -> u64 {
        let payload = Self::payload_of(self.next, len);
        let head = Entry {
            kind: EntryKind::Own,
            block_kind: BlockKind::Raw,
            namespace: "n",
            table: "t",
            length: len as u32,
            received_at_ns: 1,
            rows: 1,
            payload_crc: crc32fast::hash(&payload),
            identity: None,
        }
        .encode();
        self.put(head.bytes(), &payload)
    }

    fn publish_void(&mut self) -> u64 {
        self.put(void_entry().bytes(), &[])
    }

    fn put(&mut self, head: &[u8], payload: &[u8]) -> u64 {
        let units = units_for(head.len() + payload.len()) as u32;
        let (area_at, area) = (header().area_at() as usize, header().bytes as usize);
        for (index, &byte) in head.iter().chain(payload).enumerate() {
            self.bytes[area_at + (self.unit as usize * 64 + index) % area] = byte;
        }
        let slot = Slot {
            claim_unit: self.unit,
            claim_units: units,
            length: payload.len() as u32,
            header_bytes: head.len() as u32,
            header_crc: crc32fast::hash(head),
            payload_crc: crc32fast::hash(payload),
        };
        let checksum = slot_checksum(slot.premix(header().slot_seed()), Seq(self.next));
        let words = [self.next, checksum].into_iter().chain(slot.words());
        let at = Self::slot_at(self.next);
        for (index, word) in words.enumerate() {
            self.bytes[at + index * 8..at + index * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.unit += units;
        self.next += 1;
        self.next - 1
    }

    /// A seq that is taken and never published.
    fn skip(&mut self) {
        self.next += 1;
    }

    fn free(&mut self, upto: u64) {
        let word = freed_word(header().slot_seed(), Seq(100), Seq(upto));
        self.bytes[FREED_AT..FREED_AT + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn verdict(&self, expect: &Expect) -> RingVerdict {
        recover_ring(&RingImage(Some(&self.bytes)), expect)
    }

    fn replayed(&self, expect: &Expect) -> Replayed {
        match self.verdict(expect) {
            RingVerdict::Replay { entries, cut, damage: None, .. } => (
                entries.iter().map(|entry| (entry.seq.0, entry.what != What::Void)).collect(),
                cut.map(|cut| (cut.at.0, cut.by, cut.later.len())),
            ),
            other => panic!("{other:?}"),
        }
    }

    /// Ranges of seqs that are damaged, what is wrong with the first, and the blocks that are replayed.
    fn damage(&self, expect: &Expect) -> (Vec<(u64, u64)>, RingWrong, Vec<u64>) {
        match self.verdict(expect) {
            RingVerdict::Replay { damage: Some(damage), entries, .. } => {
                let lost = damage.lost.iter().map(|(first, last)| (first.0, last.0)).collect();
                let blocks = entries.iter().filter(|entry| entry.what != What::Void);
                (lost, damage.why, blocks.map(|entry| entry.seq.0).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn other_boot(expect: Expect) -> Expect {
    Expect { boot: [8; 16], ..expect }
}

#[test]
fn the_table_says_what_the_design_says_for_every_combination() {
    use SlotClass::*;
    let mut seen = 0;
    for class in [Empty, OlderLap, Whole, LaterLap, Broken] {
        for boot in [Boot::Same, Boot::Other] {
            for behind in [Behind::Nothing, Behind::Something] {
                for lost in [Lost::Unsynced, Lost::Damaged] {
                    seen += 1;
                    let step = decide(class, boot, behind, lost);
                    let unpublished = matches!(class, Empty | OlderLap);
                    // Only what passed every check is taken, and all of that.
                    assert_eq!(step == Step::Take, class == Whole);
                    // A void stands for what was never acknowledged: within one boot only.
                    assert_eq!(step == Step::Void, unpublished && boot == Boot::Same && behind == Behind::Something);
                    // Nothing is missing where nothing stands.
                    assert_eq!(step == Step::End, unpublished && behind == Behind::Nothing);
                    // A power cut is no reason to refuse; within one boot damage always is.
                    let damaged = matches!(step, Step::Damaged(_));
                    let refuse = class == Broken || (class == LaterLap && lost == Lost::Damaged);
                    assert_eq!(damaged, boot == Boot::Same && refuse);
                    // Whatever else ends the ring early is reported, with its cause.
                    assert_eq!(step == Step::Cut(CutBy::LostLog), boot == Boot::Same && class == LaterLap && !damaged);
                    let torn = boot == Boot::Other && class != Whole && step != Step::End;
                    assert_eq!(step == Step::Cut(CutBy::PowerCut), torn);
                }
            }
        }
    }
    assert_eq!(seen, 5 * 2 * 2 * 2);
}

#[test]
fn a_kill_loses_nothing_and_what_was_never_published_is_a_void() {
    let mut image = Image::new();
    for len in [0, 1, 300] {
        image.publish(len);
    }
    image.skip();
    image.publish_void();
    let last = image.publish(10);
    image.skip();
    let all = vec![(100, true), (101, true), (102, true), (103, false), (104, false), (105, true)];
    assert_eq!(image.replayed(&log_at(99)), (all.clone(), None));
    assert_eq!(image.replayed(&log_at(101)), (all[2..].to_vec(), None), "what the log has is skipped");
    assert_eq!(image.replayed(&log_at(last)), (vec![], None));
    let RingVerdict::Replay { entries, header, .. } = image.verdict(&log_at(99)) else { panic!("replayed above") };
    let What::Block(span) = entries[2].what else { panic!("a block") };
    let mut scratch = Vec::new();
    let (head, payload) = RingImage(Some(&image.bytes)).entry(&header, &span, &mut scratch);
    assert_eq!(decode_entry(head).map(|entry| entry.table.to_owned()), Some("t".to_owned()));
    assert_eq!(payload, Image::payload_of(102, 300));
}

#[test]
fn an_adopted_end_is_replayed_as_what_it_is_and_left_out_where_carried_blocks_are() {
    let stream = crate::types::Stream { origin: StoreId([8; 16]), ..crate::types::Stream::default() };
    let last = Identity { stream, seq: Seq(6) };
    let adopted = Adopted { last, chain: crate::types::Chain(77), absent: Absent::Lost };
    let mut image = Image::new();
    image.publish(3);
    image.put(adopted.entry().bytes(), &[]);
    image.publish(3);
    let RingVerdict::Replay { header, mut entries, damage: None, cut: None, .. } = image.verdict(&log_at(99)) else {
        panic!("all of it is whole")
    };
    let kinds = |entries: &[Replay]| entries.iter().map(|entry| entry.what.span().is_some()).collect::<Vec<_>>();
    assert_eq!(kinds(&entries), [true; 3]);
    let What::Adopted(span) = entries[1].what else { panic!("an adopted end") };
    let image = RingImage(Some(&image.bytes));
    let mut scratch = Vec::new();
    let (head, payload) = image.entry(&header, &span, &mut scratch);
    assert_eq!((decode_entry(head).and_then(|entry| entry.adopted()), payload), (Some(adopted), &b""[..]));
    image.leave_out_carried(&header, &mut entries);
    assert_eq!(kinds(&entries), [true, false, true]);
}

#[test]
fn laps_of_slots_and_of_the_byte_area_are_followed() {
    let mut image = Image::new();
    let last = (0..300).map(|_| image.publish(600)).last().expect("some");
    image.free(last - 40);
    let seqs = (last - 39..=last).map(|seq| (seq, true)).collect();
    assert_eq!(image.replayed(&log_at(last - 40)), (seqs, None));
}

#[test]
fn after_a_power_cut_the_first_slot_that_is_not_whole_ends_the_ring() {
    let mut image = Image::new();
    for _ in 0..6 {
        image.publish(100);
    }
    let whole = image.bytes.clone();
    let whole_until_102 = vec![(100, true), (101, true)];
    let cut = |later| Some((102, CutBy::PowerCut, later));
    image.bytes[Image::slot_at(102)..][..SLOT_BYTES].fill(0);
    assert_eq!(image.replayed(&other_boot(log_at(99))), (whole_until_102.clone(), cut(3)));
    image.bytes[Image::slot_at(104)..][..8].fill(0xff);
    assert_eq!(image.replayed(&other_boot(log_at(99))), (whole_until_102.clone(), cut(2)));
    image.bytes = whole;
    image.bytes[header().area_at() as usize + 2 * 128 + 60] ^= 1;
    assert_eq!(image.replayed(&other_boot(log_at(99))), (whole_until_102, cut(3)));
    assert_eq!(image.damage(&log_at(99)), (vec![(102, 102)], RingWrong::Entry, vec![100, 101, 103, 104, 105]));
}

#[test]
fn what_is_whole_around_damaged_entries_is_replayed_and_they_are_named() {
    let mut image = Image::new();
    for _ in 100..110 {
        image.publish(40);
    }
    let flip = |image: &mut Image, seq| image.bytes[Image::slot_at(seq) + 20] ^= 1;
    for seq in [100, 103, 104] {
        flip(&mut image, seq);
    }
    let blocks = vec![101, 102, 105, 106, 107, 108, 109];
    assert_eq!(image.damage(&log_at(99)), (vec![(100, 100), (103, 104)], RingWrong::Entry, blocks));
    // The first are passed over; those behind the last block need no void.
    flip(&mut image, 109);
    image.bytes[Image::slot_at(115)..][..8].fill(0xff);
    assert_eq!(image.damage(&log_at(99)).0, [(100, 100), (103, 104), (109, 109), (115, 115)]);
    let RingVerdict::Replay { from, entries, .. } = image.verdict(&log_at(99)) else { panic!("replayed above") };
    assert_eq!((from, entries.len()), (Seq(101), 8));
}

#[test]
fn a_log_that_lost_written_batches_cuts_the_ring_unless_they_were_durable() {
    // 64 slots: the slots of 110.. are used again.
    let mut image = Image::new();
    let last = (0..80).map(|_| image.publish(600)).last().expect("some");
    let seqs: Vec<_> = (last - 63..=last).map(|seq| (seq, true)).collect();
    image.free(last - 64);
    let lost = Some((110, CutBy::LostLog, 0));
    assert_eq!(image.replayed(&log_at(109)).1.map(|cut| (cut.0, cut.1)), lost.map(|cut| (cut.0, cut.1)));
    let mut durable = log_at(109);
    durable.last_log.lost_to_damage = true;
    let (lost, why, blocks) = image.damage(&durable);
    assert_eq!((lost, why), (vec![(110, last - 64)], RingWrong::LostLog));
    assert_eq!(blocks, (last - 63..=last).collect::<Vec<_>>(), "what the log never had is whole");
    assert_eq!(image.replayed(&log_at(last - 64)), (seqs, None));
    // Slots stand, but their room was given back and used again.
    let mut image = Image::new();
    let last = (0..40).map(|_| image.publish(3000)).last().expect("some");
    image.free(last - 10);
    assert_eq!(image.replayed(&log_at(110)).1, Some((111, CutBy::LostLog, 21)));
}

#[test]
fn a_log_that_ends_before_its_ring_began_has_lost_what_was_synced() {
    let mut image = Image::new();
    // The ring begins with seq 100.
    image.publish(1);
    for expect in [log_at(97), other_boot(log_at(97))] {
        assert_eq!(image.damage(&expect), (vec![(98, 99)], RingWrong::ShortLog, vec![100]));
    }
    let mut known = log_at(97);
    known.last_log.lost_to_damage = true;
    assert_eq!(image.replayed(&known).0, [(100, true)], "the log says so itself");
    assert_eq!(image.replayed(&log_at(99)).0, [(100, true)]);
}

#[test]
fn done_sealed_and_new_rings_are_ignored() {
    let mut image = Image::new();
    image.publish(1);
    let edit = |change: fn(&mut LastLog)| {
        let mut expect = log_at(99);
        change(&mut expect.last_log);
        expect
    };
    assert_eq!(image.verdict(&edit(|log| log.sealed = true)), RingVerdict::Ignored);
    assert_eq!(image.verdict(&edit(|log| log.intake_done = Epoch(4))), RingVerdict::Ignored);
    let missing = RingImage(None);
    assert_eq!(recover_ring(&missing, &edit(|log| log.sealed = true)), RingVerdict::Ignored);
    assert_eq!(recover_ring(&missing, &edit(|log| log.epoch = Epoch(0))), RingVerdict::Ignored);
    let later = edit(|log| (log.epoch, log.nonce) = (Epoch(5), Nonce(6)));
    assert_eq!(image.replayed(&later).0, [(100, true)], "recovery was cut off after its segment");
}

#[test]
fn a_ring_that_cannot_be_read_is_damage_within_one_boot_and_quarantined_after_another() {
    let mut image = Image::new();
    image.publish(1);
    let check = |image: RingImage<'_>, expect: Expect, wrong| {
        assert_eq!(recover_ring(&image, &expect), RingVerdict::Damaged(wrong));
        let later = Expect { boot: [1; 16], ..expect };
        assert_eq!(recover_ring(&image, &later), RingVerdict::Quarantine(wrong));
    };
    check(RingImage(None), log_at(99), RingWrong::Missing);
    check(RingImage(Some(&image.bytes[..image.bytes.len() - 1])), log_at(99), RingWrong::Size);
    check(RingImage(Some(&[])), log_at(99), RingWrong::Header);
    check(RingImage(Some(&image.bytes)), Expect { shard: ShardId(4), ..log_at(99) }, RingWrong::Foreign);
    let mut cloned = log_at(99);
    cloned.last_log.nonce = Nonce(6);
    check(RingImage(Some(&image.bytes)), cloned, RingWrong::Foreign);
    let mut older = log_at(99);
    older.last_log.epoch = Epoch(3);
    check(RingImage(Some(&image.bytes)), older, RingWrong::Foreign);
    image.bytes[3] ^= 1;
    assert_eq!(image.replayed(&log_at(99)).0, [(100, true)], "one copy is enough");
    image.bytes[SLOTS_AT / 2] ^= 1;
    check(RingImage(Some(&image.bytes)), log_at(99), RingWrong::Header);
}

#[test]
fn a_tag_of_one_bit_that_is_lost_loses_no_block() {
    let mut image = Image::new();
    for _ in 100..130 {
        image.publish(40);
    }
    image.bytes[Image::slot_at(128)..][SLOT::tag.at..SLOT::tag.size].fill(0);
    assert_eq!(image.replayed(&log_at(99)).0.len(), 30);
    assert!(image.replayed(&log_at(99)).0.iter().all(|&(_, block)| block));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Any single flipped bit of a ring within its boot: refused, or all that was published is there.
    #[test]
    fn one_flipped_bit_is_never_silent(
        lens in prop::collection::vec(0usize..700, 1..150),
        keep in 0usize..60,
        place in any::<prop::sample::Index>(),
        bit in 0u8..8,
        hot in any::<bool>(),
    ) {
        let mut image = Image::new();
        for &len in &lens {
            image.publish(len);
        }
        let last = image.next - 1;
        let from = last - (keep.min(lens.len()) as u64).min(last - 99) + 1;
        image.free(from - 1);
        let before = image.replayed(&log_at(from - 1));
        let at = if hot { SLOTS_AT + place.index(64 * SLOT_BYTES) } else { place.index(image.bytes.len()) };
        image.bytes[at] ^= 1 << bit;
        match image.verdict(&log_at(from - 1)) {
            RingVerdict::Damaged(_) => {}
            RingVerdict::Replay { entries, damage: Some(damage), .. } => {
                // One flip takes one entry at most, and that is named.
                let blocks = before.0.iter().filter(|(seq, block)| *block && damage.lost != [(Seq(*seq), Seq(*seq))]);
                let kept = entries.iter().filter(|entry| entry.what != What::Void).map(|entry| (entry.seq.0, true));
                prop_assert!(blocks.copied().eq(kept), "{:?}", damage);
            }
            RingVerdict::Replay { .. } => prop_assert_eq!(image.replayed(&log_at(from - 1)), before),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// Any number of arbitrary changes: no panic, and nothing that was not published is taken.
    #[test]
    fn no_change_panics_or_yields_a_block_that_was_not_published(
        lens in prop::collection::vec(0usize..700, 1..150),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..40),
        log in 90u64..260,
        same_boot in any::<bool>(),
    ) {
        let mut image = Image::new();
        for &len in &lens {
            image.publish(len);
        }
        for (place, byte, kind) in changes {
            let at = match kind {
                0 => place.index(image.bytes.len()),
                1 => place.index(SLOTS_AT),
                2 => SLOTS_AT + place.index(64 * SLOT_BYTES),
                _ => SLOTS_AT + place.index(64) * SLOT_BYTES + (byte % 40) as usize,
            };
            image.bytes[at] = byte;
        }
        let expect = if same_boot { log_at(log) } else { other_boot(log_at(log)) };
        if let RingVerdict::Replay { header, from, entries, cut, .. } = image.verdict(&expect) {
            let later = cut.map(|cut| cut.later).unwrap_or_default();
            for (index, entry) in entries.iter().enumerate() {
                prop_assert_eq!(entry.seq.0, from.0 + index as u64, "no hole");
            }
            for entry in entries.iter().chain(&later) {
                if let What::Block(span) = entry.what {
                    let published = (entry.seq.0 - 100) as usize;
                    let mut scratch = Vec::new();
                    let (_, payload) = RingImage(Some(&image.bytes)).entry(&header, &span, &mut scratch);
                    prop_assert_eq!(payload, Image::payload_of(entry.seq.0, lens[published]));
                }
            }
        }
    }
}
