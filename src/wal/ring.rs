//! Reading an intake ring back at open: the file's bytes and what the log says go in, a verdict
//! comes out. Pure.
//!
//! Each seq that may stand in the ring has one slot. The slot is classified (`SlotClass`), and
//! `decide` says what becomes of the seq: that table is the whole rule. Promises: no entry is
//! taken whose checksums do not hold; within one boot no published entry is left out silently; no
//! length is used before it was bounded.
//!
//! A missing ring is no damage only where there is no segment: so a shard's ring file is made (for
//! epoch 0) before its first segment. The freed mark (`wal/mod.rs`) tells entries whose room was used
//! again, because the log had them, from damaged ones: without it a log that lost written batches
//! could not be told from damage, since the byte area turns over long before the slots do.

use crate::types::{Epoch, Nonce, Seq, ShardId, StoreId};
use crate::wal::entry::{EntryKind, decode_entry};
use crate::wal::intake::{FREED_AT, RingHeader, SLOT_BYTES, SLOTS_AT, SlotRecord, Span, read_freed};

/// The bytes of a whole ring file; `None` where it is missing.
#[derive(Clone, Copy, Debug)]
pub struct RingImage<'a>(pub Option<&'a [u8]>);

/// What the log says, as far as a ring is judged by it.
#[derive(Clone, Copy, Debug)]
pub struct LastLog {
    /// The highest epoch in any segment header; 0 where there is no segment.
    pub epoch: Epoch,
    /// The nonce beside it.
    pub nonce: Nonce,
    /// The boot id beside it.
    pub boot: [u8; 16],
    /// The last seq in the log.
    pub seq: Seq,
    /// Rings up to this epoch are done with.
    pub intake_done: Epoch,
    /// The log ends with a seal.
    pub sealed: bool,
    /// What stood behind the log's end is lost to damage, not only unsynced.
    pub lost_to_damage: bool,
}

/// Whose ring it should be, and what is known besides.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The present boot id.
    pub boot: [u8; 16],
    /// The log.
    pub last_log: LastLog,
}

/// What is replayed under one seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A block.
    Block(Span),
    /// The end of a stream of another store that is taken over.
    Adopted(Span),
    /// A number that was taken and never acknowledged, or whose block is damaged.
    Void,
}

impl What {
    /// Where its entry stands, if it has one.
    #[must_use]
    pub const fn span(&self) -> Option<&Span> {
        match self {
            Self::Block(span) | Self::Adopted(span) => Some(span),
            Self::Void => None,
        }
    }
}

/// One entry to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Its number.
    pub seq: Seq,
    /// What it is.
    pub what: What,
}

/// Why a ring ended before its last published entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutBy {
    /// Another boot: pages that had not reached the disk are gone.
    PowerCut,
    /// The log lost batches that were written but not synced, after an I/O error: as a power cut.
    LostLog,
}

/// Where a ring ended, and what is still there behind that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first seq that is not there.
    pub at: Seq,
    /// Why.
    pub by: CutBy,
    /// Whole entries behind it, for quarantine.
    pub later: Vec<Replay>,
}

/// Why a ring cannot be read, or one of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingWrong {
    /// There is no file.
    #[error("intake ring missing")]
    Missing,
    /// Neither header copy is readable.
    #[error("intake ring header unreadable")]
    Header,
    /// It is of another store, shard or history.
    #[error("intake ring is not of this log")]
    Foreign,
    /// The file's size is not what its header says.
    #[error("intake ring has the wrong size")]
    Size,
    /// A slot or its entry.
    #[error("intake entry damaged")]
    Entry,
    /// It was given back because the log had it, and there it is damaged.
    #[error("intake entry is lost with the damaged log")]
    LostLog,
    /// The log had been synced up to the ring's beginning before there was a ring, and ends before it.
    #[error("the log lacks blocks that it had when the intake ring began")]
    ShortLog,
}

/// What is to be done with a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingVerdict {
    /// All of it is in the log, or nothing was ever accepted.
    Ignored,
    /// These entries follow the log, in order and without a hole, under the ring's own epoch.
    Replay {
        /// The ring's header.
        header: RingHeader,
        /// The seq of the first; beyond the log's last + 1 where the log lost what came before.
        from: Seq,
        /// The entries; may be none.
        entries: Vec<Replay>,
        /// Where and why the ring ended early, if it did: reported.
        cut: Option<Cut>,
        /// Acknowledged blocks among or behind these that are damaged: refused, or gone on without them.
        damage: Option<RingDamage>,
    },
    /// Another boot, and nothing readable: the file goes to quarantine and is reported.
    Quarantine(RingWrong),
    /// Nothing of it can be read, and acknowledged blocks may be in it.
    Damaged(RingWrong),
}

/// Entries of a ring that cannot be had any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingDamage {
    /// The first one's slot.
    pub slot: u32,
    /// What is wrong there.
    pub why: RingWrong,
    /// Their seqs in order, as first and last of each range. Those before the first entry that is
    /// replayed are passed over, those between others have voids in their places.
    pub lost: Vec<(Seq, Seq)>,
}

impl RingDamage {
    /// The ranges of what the store, which holds everything up to `flushed`, does not have either.
    pub fn lost_behind(&self, flushed: Seq) -> impl Iterator<Item = (Seq, Seq)> {
        let behind = move |&(first, last): &(Seq, Seq)| (first.max(flushed.next()), last);
        self.lost.iter().map(behind).filter(|(first, last)| first <= last)
    }

    fn add(damage: &mut Option<Self>, slot: u32, seq: Seq, why: RingWrong) {
        let this = damage.get_or_insert_with(|| Self { slot, why, lost: Vec::new() });
        match this.lost.last_mut() {
            Some((_, last)) if last.next() == seq => *last = seq,
            _ => this.lost.push((seq, seq)),
        }
    }
}

/// What stands in the slot of a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotClass {
    /// Never filled, or being filled.
    Empty,
    /// A sound slot of an earlier seq.
    OlderLap,
    /// The seq's own slot and entry, every check passed.
    Whole,
    /// A sound slot of a later seq, or room that was given back since: the log had this entry.
    LaterLap,
    /// None of these.
    Broken,
}

/// Whether the ring was last opened since the kernel booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// Yes: every store of the killed process is there.
    Same,
    /// No: any mix of older and newer pages.
    Other,
}

/// Whether anything but empty slots and older laps stands behind a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// No.
    Nothing,
    /// Yes.
    Something,
}

/// What is known of batches that the log lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// They may have been written and not synced.
    Unsynced,
    /// Damage took them.
    Damaged,
}

/// What becomes of a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its entry is replayed.
    Take,
    /// It was taken and never acknowledged: a void is replayed.
    Void,
    /// The ring ends before it; nothing is missing.
    End,
    /// The ring ends before it, as after a power cut; what is whole behind it goes to quarantine.
    Cut(CutBy),
    /// Acknowledged blocks are damaged.
    Damaged(RingWrong),
}

/// The rule.
pub(crate) const fn decide(class: SlotClass, boot: Boot, behind: Behind, lost: Lost) -> Step {
    use SlotClass::{Broken, Empty, LaterLap, OlderLap, Whole};
    match (class, boot, behind, lost) {
        (Whole, _, _, _) => Step::Take,
        (Empty | OlderLap, _, Behind::Nothing, _) => Step::End,
        (Empty | OlderLap, Boot::Same, Behind::Something, _) => Step::Void,
        (LaterLap, Boot::Same, _, Lost::Unsynced) => Step::Cut(CutBy::LostLog),
        (LaterLap, Boot::Same, _, Lost::Damaged) => Step::Damaged(RingWrong::LostLog),
        (Broken, Boot::Same, _, _) => Step::Damaged(RingWrong::Entry),
        (Empty | OlderLap, Boot::Other, Behind::Something, _) | (LaterLap | Broken, Boot::Other, _, _) => {
            Step::Cut(CutBy::PowerCut)
        }
    }
}

/// Judges a ring.
#[must_use]
pub fn recover_ring(image: &RingImage<'_>, expect: &Expect) -> RingVerdict {
    let log = &expect.last_log;
    let header = match read_header(image, expect) {
        Ok(header) => header,
        Err(RingWrong::Missing) if log.epoch == Epoch(0) => return RingVerdict::Ignored,
        Err(RingWrong::Missing | RingWrong::Header) if log.sealed => return RingVerdict::Ignored,
        Err(why) if log.boot == expect.boot => return RingVerdict::Damaged(why),
        Err(why) => return RingVerdict::Quarantine(why),
    };
    let boot = if header.boot == expect.boot { Boot::Same } else { Boot::Other };
    let unreadable = |why| match boot {
        Boot::Same => RingVerdict::Damaged(why),
        Boot::Other => RingVerdict::Quarantine(why),
    };
    let log_is_known = log.epoch != Epoch(0) || !log.lost_to_damage;
    if (header.epoch > log.epoch && log_is_known)
        || (header.epoch == log.epoch && header.nonce != log.nonce && log.epoch != Epoch(0))
    {
        return unreadable(RingWrong::Foreign);
    }
    if log.sealed || header.epoch <= log.intake_done || header.epoch == Epoch(0) || header.is_plain_memory() {
        return RingVerdict::Ignored;
    }
    let Some(bytes) = image.0.filter(|bytes| bytes.len() as u64 == header.file_bytes()) else {
        return unreadable(RingWrong::Size);
    };
    let lost = if log.lost_to_damage { Lost::Damaged } else { Lost::Unsynced };
    Reader { bytes, header, seed: header.slot_seed() }.replay(log.seq, boot, lost)
}

/// The newest readable header copy of this store and shard: copy A is written and synced before
/// copy B is touched, and nothing is accepted before both stand.
fn read_header(image: &RingImage<'_>, expect: &Expect) -> Result<RingHeader, RingWrong> {
    let bytes = image.0.ok_or(RingWrong::Missing)?;
    let copies = [0, SLOTS_AT / 2].map(|at| RingHeader::decode(bytes.get(at..)?));
    let readable = copies.into_iter().flatten();
    if readable.clone().next().is_none() {
        return Err(RingWrong::Header);
    }
    let ours = readable.filter(|header| header.store == expect.store && header.shard == expect.shard);
    ours.max_by_key(|header| header.epoch).ok_or(RingWrong::Foreign)
}

struct Reader<'a> {
    bytes: &'a [u8],
    header: RingHeader,
    seed: u64,
}

impl Reader<'_> {
    fn replay(&self, log_seq: Seq, boot: Boot, lost: Lost) -> RingVerdict {
        let from = self.header.first_seq.max(log_seq.next());
        let freed = read_freed(
            u64::from_le_bytes(self.bytes[FREED_AT..FREED_AT + 8].try_into().expect("8 bytes")),
            self.seed,
            self.header.first_seq,
        );
        // The slots have had what stands before these for a lap or more: the log had it.
        let slots = u64::from(self.header.slots);
        let start = from.max(Seq(self.newest().0.saturating_sub(slots - 1)));
        let found: Vec<(Seq, SlotClass, Option<What>)> = (start.0..start.0 + slots.min(u64::MAX - start.0))
            .map(Seq)
            .map(|seq| {
                let (class, what) = self.classify(seq, freed);
                (seq, class, what)
            })
            .collect();
        let standing = |class| !matches!(class, SlotClass::Empty | SlotClass::OlderLap);
        let end = found.iter().rposition(|&(_, class, _)| standing(class)).map_or(0, |last| last + 1);
        let whole = |(seq, _, what): &(Seq, SlotClass, Option<What>)| what.map(|what| Replay { seq: *seq, what });
        let later = |index: usize| found[index..end.max(index)].iter().filter_map(whole).collect();
        let mut entries = Vec::with_capacity(end);
        let (mut cut, mut from) = (None, from);
        let mut damage = (lost == Lost::Unsynced && log_seq.next() < self.header.first_seq).then(|| RingDamage {
            slot: self.slot_of(log_seq.next()),
            why: RingWrong::ShortLog,
            lost: vec![(log_seq.next(), self.header.first_seq.prev())],
        });
        if from < start {
            match decide(SlotClass::LaterLap, boot, Behind::Something, lost) {
                Step::Damaged(why) => {
                    damage = Some(RingDamage { slot: self.slot_of(from), why, lost: vec![(from, start.prev())] });
                    from = start;
                }
                Step::Cut(by) => {
                    let cut = Some(Cut { at: from, by, later: later(0) });
                    return RingVerdict::Replay { header: self.header, from, entries, cut, damage };
                }
                Step::Take | Step::Void | Step::End => unreachable!("room that was given back was in the log"),
            }
        }
        for (index, &(seq, class, what)) in found.iter().enumerate() {
            let behind = if index + 1 < end { Behind::Something } else { Behind::Nothing };
            match decide(class, boot, behind, lost) {
                Step::Take => entries.extend(what.map(|what| Replay { seq, what })),
                Step::Void => entries.push(Replay { seq, what: What::Void }),
                Step::End => break,
                Step::Cut(by) => {
                    cut = Some(Cut { at: seq, by, later: later(index + 1) });
                    break;
                }
                Step::Damaged(why) => {
                    RingDamage::add(&mut damage, self.slot_of(seq), seq, why);
                    entries.push(Replay { seq, what: What::Void });
                }
            }
        }
        if let Some(damage) = &damage {
            let first = damage.lost.first().map_or(Seq(0), |(first, _)| *first);
            let behind = entries.partition_point(|entry| entry.seq <= first);
            RingImage(Some(self.bytes)).leave_out_carried(&self.header, &mut entries[behind..]);
            // Behind the last block nothing is worth a number: a damaged slot there may never have had one.
            let last = entries.iter().rposition(|entry| entry.what != What::Void);
            entries.truncate(last.map_or(0, |last| last + 1));
            // Many may have gone with the log: these are passed over at once.
            if let Some(&(_, lost)) = damage.lost.first().filter(|(first, _)| *first <= from && last.is_some()) {
                let behind = lost.next().max(from);
                entries.drain(..(behind.0 - from.0) as usize);
                from = behind;
            }
        }
        RingVerdict::Replay { header: self.header, from, entries, cut, damage }
    }

    /// The newest seq that a slot holds.
    fn newest(&self) -> Seq {
        let slots = self.bytes[SLOTS_AT..][..self.header.slots as usize * SLOT_BYTES].chunks_exact(SLOT_BYTES);
        let tags = slots.enumerate().filter_map(|(index, slot)| {
            let record = SlotRecord::decode(slot);
            let sound = self.slot_of(Seq(record.tag)) as usize == index && record.holds_for(Seq(record.tag), self.seed);
            (sound && record.tag >= self.header.first_seq.0).then_some(Seq(record.tag))
        });
        tags.max().unwrap_or(self.header.first_seq.prev())
    }

    const fn slot_of(&self, seq: Seq) -> u32 {
        (seq.0 & (self.header.slots as u64 - 1)) as u32
    }

    fn classify(&self, seq: Seq, freed: Seq) -> (SlotClass, Option<What>) {
        let at = SLOTS_AT + self.slot_of(seq) as usize * SLOT_BYTES;
        let record = SlotRecord::decode(&self.bytes[at..at + SLOT_BYTES]);
        // A writer clears the tag, fills the slot and sets the tag last. All but the tag of a whole
        // entry means that it was killed just before that, or that a tag of one bit lost it: the
        // block may be taken, and in the second case must be.
        if record.tag == seq.0 || record.tag == 0 {
            let what = self.whole(&record, seq);
            if what.is_some() {
                return (SlotClass::Whole, what);
            }
        }
        let of_this_slot = record.tag >= self.header.first_seq.0 && self.slot_of(Seq(record.tag)) == self.slot_of(seq);
        let sound = of_this_slot && record.holds_for(Seq(record.tag), self.seed);
        let class = if seq <= freed || (sound && record.tag > seq.0) {
            SlotClass::LaterLap
        } else if record.tag == 0 {
            SlotClass::Empty
        } else if sound && record.tag < seq.0 {
            SlotClass::OlderLap
        } else {
            SlotClass::Broken
        };
        (class, None)
    }

    /// The entry, if every check holds.
    fn whole(&self, record: &SlotRecord, seq: Seq) -> Option<What> {
        #[cfg(feature = "sim")]
        let unchecked = crate::planted::is_planted(crate::planted::Mutant::RingEntryUnchecked);
        #[cfg(not(feature = "sim"))]
        let unchecked = false;
        if !unchecked && !record.holds_for(seq, self.seed) {
            return None;
        }
        let span = record.slot.span(&self.header)?;
        let mut scratch = Vec::new();
        let (head, payload) = RingImage(Some(self.bytes)).entry(&self.header, &span, &mut scratch);
        if !unchecked && crc32fast::hash(head) != record.slot.header_crc
            || crc32fast::hash(payload) != record.slot.payload_crc
        {
            return None;
        }
        let entry = decode_entry(head)?;
        let agrees = entry.encode().bytes().len() == head.len()
            && entry.length == span.length
            && entry.payload_crc == record.slot.payload_crc;
        match entry.kind {
            EntryKind::Own | EntryKind::Carried if agrees => Some(What::Block(span)),
            EntryKind::Adopted if agrees => Some(What::Adopted(span)),
            EntryKind::Void if agrees && span.length == 0 => Some(What::Void),
            _ => None,
        }
    }
}

impl<'a> RingImage<'a> {
    /// Puts voids in the places of blocks that were carried here and of adopted ends, behind damage that may have taken one of their stream:
    /// what follows would be another history of it. The store's vector does not say that they are there, so their
    /// source sends them again.
    pub fn leave_out_carried(self, header: &RingHeader, entries: &mut [Replay]) {
        #[cfg(feature = "sim")]
        if crate::planted::is_planted(crate::planted::Mutant::CarriedBehindDamage) {
            return;
        }
        let mut scratch = Vec::new();
        for entry in entries {
            let Some(span) = entry.what.span() else { continue };
            let (head, _) = self.entry(header, span, &mut scratch);
            if decode_entry(head).is_some_and(|block| block.identity.is_some()) {
                entry.what = What::Void;
            }
        }
    }

    /// An entry's header and payload; copied into `scratch` only where it wraps round the area's end.
    ///
    /// # Panics
    /// Where the image is not the one that `header` and `span` were read from.
    #[must_use]
    pub fn entry<'s>(self, header: &RingHeader, span: &Span, scratch: &'s mut Vec<u8>) -> (&'s [u8], &'s [u8])
    where
        'a: 's,
    {
        let file = self.0.expect("an image that was read");
        let area = &file[header.area_at() as usize..header.file_bytes() as usize];
        let (at, bytes) = (span.at as usize, span.header_bytes as usize + span.length as usize);
        let whole = if at + bytes <= area.len() {
            &area[at..at + bytes]
        } else {
            scratch.clear();
            scratch.extend_from_slice(&area[at..]);
            scratch.extend_from_slice(&area[..bytes - (area.len() - at)]);
            &scratch[..]
        };
        whole.split_at(span.header_bytes as usize)
    }
}

#[cfg(test)]
mod tests;
