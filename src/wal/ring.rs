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
    /// Batches behind the log's end are proven to have been synced.
    pub lost_was_durable: bool,
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
    /// A number that was taken and never acknowledged.
    Void,
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
    /// The log lost batches that were synced.
    #[error("intake shows that synced batches are lost")]
    LostDurable,
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
    },
    /// Another boot, and nothing readable: the file goes to quarantine and is reported.
    Quarantine(RingWrong),
    /// Acknowledged blocks are damaged.
    Damaged {
        /// The slot and its seq, where one is to blame.
        at: Option<(u32, Seq)>,
        /// What is wrong.
        why: RingWrong,
    },
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
    /// They were synced.
    Durable,
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
        (LaterLap, Boot::Same, _, Lost::Durable) => Step::Damaged(RingWrong::LostDurable),
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
        Err(why) if log.boot == expect.boot => return RingVerdict::Damaged { at: None, why },
        Err(why) => return RingVerdict::Quarantine(why),
    };
    let boot = if header.boot == expect.boot { Boot::Same } else { Boot::Other };
    let unreadable = |why| match boot {
        Boot::Same => RingVerdict::Damaged { at: None, why },
        Boot::Other => RingVerdict::Quarantine(why),
    };
    if header.epoch > log.epoch || (header.epoch == log.epoch && header.nonce != log.nonce && log.epoch != Epoch(0)) {
        return unreadable(RingWrong::Foreign);
    }
    if log.sealed || header.epoch <= log.intake_done || header.epoch == Epoch(0) || header.is_plain_memory() {
        return RingVerdict::Ignored;
    }
    let Some(bytes) = image.0.filter(|bytes| bytes.len() as u64 == header.file_bytes()) else {
        return unreadable(RingWrong::Size);
    };
    let lost = if log.lost_was_durable { Lost::Durable } else { Lost::Unsynced };
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
        let slots = u64::from(self.header.slots).min(u64::MAX - from.0);
        let found: Vec<(Seq, SlotClass, Option<What>)> = (from.0..from.0 + slots)
            .map(Seq)
            .map(|seq| {
                let (class, what) = self.classify(seq, freed);
                (seq, class, what)
            })
            .collect();
        let standing = |class| !matches!(class, SlotClass::Empty | SlotClass::OlderLap);
        let end = found.iter().rposition(|&(_, class, _)| standing(class)).map_or(0, |last| last + 1);
        let whole = |(seq, _, what): &(Seq, SlotClass, Option<What>)| what.map(|what| Replay { seq: *seq, what });
        let mut entries = Vec::with_capacity(end);
        let mut cut = None;
        for (index, &(seq, class, what)) in found.iter().enumerate() {
            let behind = if index + 1 < end { Behind::Something } else { Behind::Nothing };
            match decide(class, boot, behind, lost) {
                Step::Take => entries.extend(what.map(|what| Replay { seq, what })),
                Step::Void => entries.push(Replay { seq, what: What::Void }),
                Step::End => break,
                Step::Cut(by) => {
                    cut = Some(Cut {
                        at: seq,
                        by,
                        later: found[index + 1..end.max(index + 1)].iter().filter_map(whole).collect(),
                    });
                    break;
                }
                Step::Damaged(why) => return RingVerdict::Damaged { at: Some((self.slot_of(seq), seq)), why },
            }
        }
        RingVerdict::Replay { header: self.header, from, entries, cut }
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
            EntryKind::Void if agrees && span.length == 0 => Some(What::Void),
            _ => None,
        }
    }
}

impl<'a> RingImage<'a> {
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
