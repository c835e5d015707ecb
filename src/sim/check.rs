//! What must hold: the model of one shard's history, and the comparison of a recovered log with it.
//!
//! Every seq that was given is an [`Item`] of the timeline. After each recovery the log is read, entry
//! by entry, and each must be what the timeline has under its seq: the same block, whole, under the
//! identity that it was accepted with. As the timeline has one item per seq and each writer's blocks
//! in order, that excludes strangers, doubles and disorder (P4, R7). What may be missing depends on
//! how the last life ended ([`Ending`]).

use std::collections::{HashMap, HashSet, VecDeque};

use crate::io::disk::{Folder, Instant};
use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::sim::blocks::BlockName;
use crate::types::{Chain, FileId, Receipt, SegmentNo, Seq, StoreId, Stream};
use crate::wal::batch::{BatchHeader, Place, StreamEnd, StreamEnds};
use crate::wal::breaks::Partly;
use crate::wal::entry::{Absent, Control, EntryKind, decode_entry, decode_identity, entry_lengths};
use crate::wal::log::Log;
use crate::wal::read::{each_adopted, each_control, each_entry, stream_rows};
use crate::wal::segment::segment_name;
use crate::wal::vector::{self, FOLDED, is_folded};
use crate::wal::verdict::{Check, InPart, Stamps, check, partly};

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which kind.
    pub kind: Kind,
    /// In words.
    pub what: String,
}

/// The kinds that are counted by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An acknowledged block is not there, or another is, and nothing says so.
    SilentLoss,
    /// A store that nobody damaged is not opened.
    FalseRefusal,
    /// Anything else.
    Other,
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self { kind: Kind::Other, what }
    }
}

impl Wrong {
    const fn silent(what: String) -> Self {
        Self { kind: Kind::SilentLoss, what }
    }
}

/// What stands under a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A block that was published.
    Block(BlockName),
    /// A block that was given a seq and perhaps never published.
    Hole(BlockName),
    /// No block.
    Void,
    /// It was lost to damage, which was reported.
    Gap,
}

/// One seq of the timeline.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// The stream that it was accepted in.
    pub stream: Stream,
    /// Its seq in that.
    pub number: Seq,
    /// The chain of that behind it; 0 where this store gives it.
    pub chain: Chain,
    /// What it is.
    pub what: What,
    /// When it was acknowledged at the level that its policy promises.
    pub acked: Option<Instant>,
    /// The store has it in data of its own.
    pub flushed: bool,
    /// A batch that holds it was damaged by the simulator.
    pub damaged: bool,
    /// When it was accepted, by the wall clock.
    pub received_at_ns: i64,
    /// It is no block, but the end of a stream that is adopted, for this reason.
    pub adopts: Option<Absent>,
}

impl Item {
    /// Lost to damage, now or earlier.
    const fn is_lost(&self) -> bool {
        self.damaged || matches!(self.what, What::Gap)
    }

    /// A seq that was just given.
    #[must_use]
    pub const fn new(stream: Stream, behind: StreamEnd, what: What) -> Self {
        let StreamEnd { seq: number, chain } = behind;
        Self {
            stream,
            number,
            chain,
            what,
            acked: None,
            flushed: false,
            damaged: false,
            received_at_ns: 0,
            adopts: None,
        }
    }
}

/// How the last life ended, as far as it bounds what may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Nothing that was acknowledged.
    Kill,
    /// A suffix of what was not synced.
    PowerCut,
}

/// What the world knows beside the timeline.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The ending.
    pub ending: Ending,
    /// The synced mark as it was told last.
    pub synced: Seq,
    /// Blocks that were acknowledged before this must be there; (2, P) only.
    pub window: Option<Instant>,
    /// What the simulator has damaged since the last recovery.
    pub rot: Rot,
}

/// Damage by the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// None.
    Nothing,
    /// A bit of the log.
    Log,
    /// So much of the intake ring that nothing in it can be read: what was in the ring alone is in
    /// quarantine.
    Ring,
}

/// The timeline.
#[derive(Clone, Debug, Default)]
pub struct Model {
    items: VecDeque<Item>,
    /// The seq of the first item, minus one.
    before: u64,
    payload: Vec<u8>,
    /// Where each stream stood at the last recovery, as far as it was not damaged since.
    vector: StreamEnds,
    /// The last block of each stream that the store has.
    in_store: HashMap<Stream, Seq>,
    /// What was lost up to ends that were adopted, as far as it was found at the last recovery.
    adopted: Vec<Receipt>,
    /// Streams of which other stores have sent something.
    carried: HashSet<Stream>,
    /// Damaged batches, and what cannot be told from them.
    rotten: HashSet<Place>,
    /// Damaged places of files, in whatever generation they are met.
    lurking: HashSet<(FileId, u32)>,
}

/// What the log has under a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    No,
    Block,
    Void,
}

/// The outcome of a check, for the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The first seq in the log.
    pub first: Seq,
    /// The last.
    pub last: Seq,
    /// Blocks in it.
    pub blocks: u64,
    /// Acknowledged blocks that a power cut took, as it may.
    pub lost: u64,
}

impl Model {
    /// The last seq that was given.
    #[must_use]
    pub fn last(&self) -> Seq {
        Seq(self.before + self.items.len() as u64)
    }

    /// The item of a seq.
    pub fn item(&mut self, seq: Seq) -> Option<&mut Item> {
        self.items.get_mut(seq.0.checked_sub(self.before + 1)? as usize)
    }

    /// Every item that is not forgotten, in order, with its seq.
    pub fn items(&self) -> impl Iterator<Item = (Seq, &Item)> {
        self.behind(Seq(0))
    }

    /// Those behind this seq.
    pub fn behind(&self, seq: Seq) -> impl Iterator<Item = (Seq, &Item)> {
        let skipped = seq.0.saturating_sub(self.before);
        let seqs = (self.before + skipped + 1..).map(Seq);
        seqs.zip(self.items.iter().skip(skipped as usize))
    }

    /// The next seq was given.
    pub fn given(&mut self, seq: Seq, item: Item) {
        assert_eq!(seq, self.last().next(), "seqs are dense");
        if item.chain != Chain(0) {
            self.carried.insert(item.stream);
        }
        self.items.push_back(item);
    }

    /// The store has taken these into its data.
    pub fn flush(&mut self, from: Seq, upto: Seq) {
        for seq in (from.0..=upto.0).map(Seq) {
            if let Some(item) = self.item(seq) {
                item.flushed = true;
                let (stream, number, is_block) = (item.stream, item.number, matches!(item.what, What::Block(_)));
                if is_block {
                    self.in_store.insert(stream, number);
                }
            }
        }
    }

    /// Everything up to here may be forgotten once it is not in the log any more.
    fn forget(&mut self, upto: Seq) {
        while self.before < upto.0 && self.items.pop_front().is_some() {
            self.before += 1;
        }
    }

    /// Compares the recovered log with the timeline, and goes on from what is there.
    ///
    /// # Errors
    /// The first promise that does not hold.
    pub fn check(
        &mut self,
        (log, in_part): (&Log, &Partly),
        folder: &dyn Folder,
        facts: &Facts,
    ) -> Result<Found, Wrong> {
        let mut found = Found::default();
        let mut seen = vec![Seen::No; self.items.len()];
        let mut ends: Vec<(Stream, StreamEnd)> = Vec::new();
        let mut link: Option<(Place, BatchHeader)> = None;
        let mut skipping = false;
        let mut gaps: Vec<Control> = Vec::new();
        let used: Vec<_> = log.used.iter().chain([&log.current]).collect();
        let (mut scratch, mut bytes) = (Vec::new(), Vec::new());
        for (index, segment) in used.iter().enumerate() {
            // What lies between may have been damaged whole, its header with it: then the log goes on behind that.
            let before = used[..index].iter().rfind(|before| before.end as usize > SEGMENT_HEADER_BYTES);
            let before = before.map_or(SegmentNo(0), |before| before.header.segment);
            let between = |place: &Place| before < place.segment && place.segment < segment.header.segment;
            skipping |= self.rotten.iter().any(between);
            bytes.resize(segment.end as usize, 0);
            let name = segment_name(segment.header.segment);
            let count = folder.read(&name, 0, &mut bytes).map_err(|error| format!("{name} cannot be read: {error}"))?;
            let own = segment.header.stream();
            let stamps = Stamps::new(&segment.header);
            let mut at = SEGMENT_HEADER_BYTES;
            while at < segment.end as usize {
                let place = Place::new(&segment.header, at as u32);
                let verdict = check(&bytes[at..count], &place, &stamps);
                let then = in_part.get(&(place.segment, place.offset));
                let batch = match (verdict, then) {
                    (Check::Sound(batch), None) => Some((batch, InPart::default())),
                    (Check::Sound(_), Some(_)) => None,
                    (_, Some(then)) => partly(&verdict, &bytes[at..count], own).filter(|(_, now)| now == then),
                    (_, None) => None,
                };
                let Some((batch, lost)) = batch else {
                    // What was lost unsynced right behind damage cannot be told from it.
                    skipping |= self.is_rotten(place);
                    if !skipping {
                        return Err(format!("{name} {at:#x}: the log was opened and holds {verdict:?}").into());
                    }
                    self.rotten.insert(place);
                    at += PAGE_BYTES;
                    continue;
                };
                skipping = false;
                each_control(&bytes[at..], &batch, |control| gaps.extend(gaps_in(control)));
                each_adopted(&bytes[at..], &batch, own, |adopted, before| gaps.extend(adopted.gap(before)));
                self.check_link(link, (place, &batch), facts.synced, &mut found)?;
                self.check_batch(&bytes[at..], &batch, (own, &lost, facts), (&mut seen, &mut scratch, &mut found))?;
                self.check_rows(&bytes[at..], &batch, own, &mut ends, &mut scratch)?;
                link = Some((place, batch));
                at += batch.length as usize;
            }
            let end = Place::new(&segment.header, segment.end);
            if self.is_rotten(end) {
                skipping = true;
                self.rotten.insert(end);
            }
        }
        for (stream, end) in &ends {
            // A later segment's vector knows of blocks that were lost to damage.
            let behind = log.ends.get(stream).map_or(0, |found| found.seq.0);
            let knows_lost = self.has_lost_between(*stream, end.seq, Seq(behind));
            if log.ends.get(stream) != Some(end) && !knows_lost && !is_folded(&log.ends, stream) {
                return Err(format!("the log's end of {stream:?} is {:?}, not {end:?}", log.ends.get(stream)).into());
            }
        }
        self.check_vector(&ends, log, facts)?;
        if log.last_seq() != found.last.max(log.current.first_seq.prev()) {
            return Err(format!("the log ends at seq {}, not {}", found.last, log.last_seq()).into());
        }
        found.last = log.last_seq();
        self.check_missing(&seen, log.current.header.store, facts, &mut found).map_err(Wrong::silent)?;
        self.check_gaps(&seen, &gaps, log, facts.synced).map_err(Wrong::silent)?;
        self.settle(&seen, &found);
        Ok(found)
    }

    /// What was in segments that are given back is still known of each stream.
    fn check_vector(&mut self, ends: &[(Stream, StreamEnd)], log: &Log, facts: &Facts) -> Result<(), String> {
        // Damage can take the only record of a stream, and with a report it may.
        let undamaged = facts.rot == Rot::Nothing && self.rotten.is_empty() && self.lurking.is_empty();
        for (stream, end) in self.vector.iter().filter(|_| undamaged) {
            let listed = ends.iter().any(|(known, _)| known == stream);
            let now = log.ends.get(stream);
            // One that other stores send goes on over many openings, in segments that are given back by now.
            let went_on = self.carried.contains(stream) && now.is_some_and(|now| now.seq > end.seq);
            if !listed && !is_folded(&log.ends, stream) && stream.nonce != FOLDED && now != Some(end) && !went_on {
                return Err(format!("{stream:?} stood at {end:?} and nothing was added, and now stands at {now:?}"));
            }
        }
        for (stream, seq) in self.in_store.iter().filter(|_| undamaged) {
            if !is_folded(&log.ends, stream) && log.ends.get(stream).is_none_or(|end| end.seq < *seq) {
                let now = log.ends.get(stream);
                return Err(format!("the store has {stream:?} up to seq {seq}, and its end is {now:?}"));
            }
        }
        let is_named = |lost: &Receipt| log.gaps.iter().any(|gap| gap.is_of(lost));
        // Of very many the oldest are left out.
        let (_, gaps_max) = vector::rows_max(log.current.header.segment_bytes);
        if let Some(lost) = self.adopted.iter().find(|lost| undamaged && log.gaps.len() < gaps_max && !is_named(lost)) {
            return Err(format!("{lost:?} is lost at its source, and no gap names it any more: {:?}", log.gaps));
        }
        self.adopted.retain(is_named);
        self.vector.clone_from(&log.ends);
        self.in_store.retain(|stream, _| log.ends.contains_key(stream));
        Ok(())
    }

    /// The simulator damages what holds this; it may be lost, with a report.
    pub fn rot_entry(&mut self, seq: Seq) {
        if let Some(item) = self.item(seq) {
            item.damaged = true;
        }
    }

    /// The simulator damages what stands here, which is no whole batch.
    pub fn rot_place(&mut self, place: Place) {
        self.lurk(place.file_id, place.offset);
        self.rotten.insert(place);
    }

    /// The simulator damages a page of a file that may be part of a log one day.
    pub fn lurk(&mut self, file: FileId, page: u32) {
        self.lurking.insert((file, page));
    }

    /// The simulator damages this batch; what is in it may be lost, with a report.
    pub fn rot(&mut self, place: Place, batch: &BatchHeader) {
        self.rot_place(place);
        for seq in batch.first_seq.0..batch.first_seq.0 + u64::from(batch.numbered) {
            self.rot_entry(Seq(seq));
        }
    }

    /// The simulator has damaged what stands here, in this use of the file or in an earlier one.
    fn is_rotten(&self, place: Place) -> bool {
        self.rotten.contains(&place) || self.lurking.contains(&(place.file_id, place.offset))
    }

    /// Lost to damage, now or earlier.
    fn is_lost(&mut self, seq: Seq) -> bool {
        self.item(seq).is_some_and(|item| item.is_lost())
    }

    /// A block of this stream behind `after`, up to `upto`, is lost to damage, now or earlier.
    fn has_lost_between(&self, stream: Stream, after: Seq, upto: Seq) -> bool {
        let is_between = |item: &&Item| item.stream == stream && item.number > after && item.number <= upto;
        self.items.iter().filter(is_between).any(Item::is_lost)
    }

    /// Batches follow each other; only behind damage does a batch follow nothing.
    fn check_link(
        &mut self,
        link: Option<(Place, BatchHeader)>,
        (place, batch): (Place, &BatchHeader),
        synced: Seq,
        found: &mut Found,
    ) -> Result<(), String> {
        let Some((before_place, before)) = link else {
            found.first = batch.first_seq;
            found.last = batch.first_seq.prev();
            return Ok(());
        };
        let at = |place: &Place| (place.segment, place.offset);
        let between = at(&before_place)..at(&place);
        // Where a segment was exchanged the damage stood in the file before this one.
        let was_here = |rotten: &Place| at(rotten) == at(&place) && *rotten != place;
        let behind_damage = self.rotten.iter().any(|rotten| between.contains(&at(rotten)) || was_here(rotten));
        let chained = batch.prev_chain == before.chain && batch.number.0 == before.number.0 + 1;
        // Seqs are passed over only where they were lost to damage, or where the store has them and the log
        // lost them.
        let mut passed = (found.last.0 + 1..batch.first_seq.0).map(Seq);
        let in_store = |item: &mut Item| item.flushed;
        let passes =
            passed.all(|seq| seq.0 <= self.before || self.is_lost(seq) || self.item(seq).is_some_and(in_store));
        if batch.first_seq > found.last && (behind_damage || (chained && passes)) {
            if behind_damage {
                // What was not synced yet may be lost with it: a gap names that too.
                (found.last.0.max(synced.0) + 1..batch.first_seq.0).for_each(|seq| self.rot_entry(Seq(seq)));
            }
            found.last = batch.first_seq.prev();
            return Ok(());
        }
        Err(format!("batch {} (first seq {}) does not follow batch {}", batch.number, batch.first_seq, before.number))
    }

    fn check_batch(
        &mut self,
        bytes: &[u8],
        batch: &BatchHeader,
        (own, lost, facts): (Stream, &InPart, &Facts),
        (seen, scratch, found): (&mut [Seen], &mut Vec<u8>, &mut Found),
    ) -> Result<(), Wrong> {
        let mut wrong = None;
        let mut payload = std::mem::take(&mut self.payload);
        each_entry(bytes, batch, scratch, |head, body| {
            let kind = kind_of(head);
            if kind == Some(EntryKind::Control) || wrong.is_some() {
                return;
            }
            let seq = found.last.next();
            found.last = seq;
            let identity = match kind {
                Some(EntryKind::Own) => Some((own, seq)),
                Some(EntryKind::Carried | EntryKind::Adopted) => {
                    decode_identity(head).map(|identity| (identity.stream, identity.seq))
                }
                _ => None,
            };
            let name = BlockName::read(head, body, &mut payload);
            let Some(index) = seq.0.checked_sub(self.before + 1) else {
                // Forgotten by the model: trimmed in an earlier life, and still in the log.
                return;
            };
            if lost.has_lost(seq) {
                // What did not arrive over a damaged place cannot be told from damage.
                let is_damaged = |item: &Item| item.is_lost() || item.flushed || seq > facts.synced;
                if !self.items.get(index as usize).is_some_and(is_damaged) {
                    wrong = Some(format!("seq {seq} counts as damaged, and nobody has damaged it"));
                }
                return;
            }
            let Some(item) = self.items.get(index as usize) else {
                wrong = Some(format!("seq {seq} was never given and holds {name:?}"));
                return;
            };
            let agrees = match (item.what, identity) {
                (What::Block(block) | What::Hole(block), Some(identity)) => {
                    let is_adopted = kind == Some(EntryKind::Adopted);
                    found.blocks += u64::from(!is_adopted);
                    is_adopted == item.adopts.is_some()
                        && (is_adopted || name == Some(block))
                        && identity == (item.stream, item.number)
                        && entry_received_at(head) == Some(item.received_at_ns)
                }
                (What::Void | What::Hole(_), None) => true,
                // A void stands where the ring's entry is damaged, or given back: behind a damaged log even what the
                // store has is replayed, as far as it is there.
                (What::Block(_), None) => {
                    let behind_damage = || self.items.iter().take(index as usize).any(|item| item.damaged);
                    let again = item.stream.origin != own.origin && (facts.rot != Rot::Nothing || behind_damage());
                    item.damaged || (item.flushed && facts.rot != Rot::Nothing) || again
                }
                (What::Void | What::Gap, _) => false,
            };
            if !agrees {
                wrong = Some(format!(
                    "seq {seq} should be {:?} of {:?}, found {name:?} of {identity:?}",
                    item.what, item.stream
                ));
            }
            seen[index as usize] = if identity.is_some() { Seen::Block } else { Seen::Void };
        });
        self.payload = payload;
        wrong.map_or(Ok(()), |what| Err(Wrong::silent(what)))
    }

    /// The stream table must say what the entries do (R7: chains are over identities).
    fn check_rows(
        &mut self,
        bytes: &[u8],
        batch: &BatchHeader,
        own: Stream,
        ends: &mut Vec<(Stream, StreamEnd)>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), String> {
        let rows = stream_rows(bytes, batch);
        let mut running: Vec<(Stream, StreamEnd)> = rows.iter().map(|row| (row.stream, row.prev)).collect();
        let mut seq = batch.first_seq;
        let mut stray = false;
        each_entry(bytes, batch, scratch, |head, _| {
            let (stream, at) = match kind_of(head) {
                Some(EntryKind::Own) => (own, seq),
                Some(EntryKind::Carried | EntryKind::Adopted) => {
                    let identity = decode_identity(head).expect("a sound batch");
                    (identity.stream, identity.seq)
                }
                Some(EntryKind::Void) => {
                    seq = seq.next();
                    return;
                }
                _ => return,
            };
            seq = seq.next();
            match running.iter_mut().find(|(known, _)| *known == stream) {
                Some((_, end)) => {
                    *end = end.behind(&decode_entry(head).expect("a batch whose body holds"), at);
                }
                None => stray = true,
            }
        });
        let last: Vec<_> = rows.iter().map(|row| (row.stream, row.last)).collect();
        if stray || running != last {
            return Err(format!("batch {}: its stream table is {last:?}, its entries say {running:?}", batch.number));
        }
        for row in rows {
            // What its source has as the same end is the same history.
            let is_end =
                |item: &&Item| (item.stream, item.number) == (row.stream, row.last.seq) && item.what != What::Gap;
            let is_foreign = row.stream.origin != own.origin;
            let source = self.items.iter().rev().filter(|_| is_foreign).find(is_end);
            if let Some(source) = source.filter(|source| source.chain != row.last.chain) {
                return Err(format!(
                    "batch {}: {row:?} is another history, its source has {:?}",
                    batch.number, source.chain
                ));
            }
            match ends.iter_mut().find(|(stream, _)| *stream == row.stream) {
                Some((_, end)) => {
                    if *end != row.prev && !self.has_lost_between(row.stream, end.seq, row.prev.seq) {
                        return Err(format!("batch {}: {:?} does not follow {end:?}", batch.number, row));
                    }
                    *end = row.last;
                }
                None => ends.push((row.stream, row.last)),
            }
        }
        Ok(())
    }

    fn check_missing(&self, seen: &[Seen], own: StoreId, facts: &Facts, found: &mut Found) -> Result<(), String> {
        let mut damaged_before = facts.rot != Rot::Nothing;
        for (index, item) in self.items.iter().enumerate() {
            let seq = Seq(self.before + 1 + index as u64);
            damaged_before |= item.damaged;
            if seen[index] != Seen::No || item.damaged || !matches!(item.what, What::Block(_)) {
                continue;
            }
            if facts.rot == Rot::Ring && seq > found.last {
                continue;
            }
            if damaged_before && seq > found.last && item.stream.origin != own {
                // Its source sends it again.
                continue;
            }
            let behind = seq < found.first || (facts.rot == Rot::Log && seq > found.last);
            if behind && item.flushed {
                continue;
            }
            if facts.rot == Rot::Log && seq > facts.synced && seq <= found.last {
                // Lost unsynced right behind damage: nothing proves that the sound batches behind
                // both do not belong to the log, so they are kept.
                continue;
            }
            if seq >= found.first && seq <= found.last {
                return Err(format!("seq {seq} ({:?}) is a hole in the log, which ends at {}", item.what, found.last));
            }
            let Some(acked) = item.acked else { continue };
            if facts.ending == Ending::Kill || seq <= facts.synced {
                return Err(format!(
                    "seq {seq} ({:?}, acknowledged at {} us) is lost; the log ends at {}, synced was {}",
                    item.what,
                    acked.0 / 1_000,
                    found.last,
                    facts.synced
                ));
            }
            if facts.window.is_some_and(|from| acked < from) {
                return Err(format!(
                    "seq {seq} was acknowledged at {} us, longer ago than may be lost ({} us)",
                    acked.0 / 1_000,
                    facts.window.map_or(0, |from| from.0 / 1_000)
                ));
            }
            found.lost += 1;
        }
        Ok(())
    }

    /// What is lost within the log is named in it.
    fn check_gaps(&self, seen: &[Seen], gaps: &[Control], log: &Log, synced: Seq) -> Result<(), String> {
        for (index, item) in self.items.iter().enumerate() {
            let seq = Seq(self.before + 1 + index as u64);
            let receipt = Receipt { stream: item.stream, seq: item.number };
            let is_there = seen[index] == Seen::Block;
            if is_there && item.adopts == Some(Absent::Lost) && !gaps.iter().any(|gap| gap.is_of(&receipt)) {
                return Err(format!("seq {seq} of {:?} {} is adopted, and no gap names it", item.stream, item.number));
            }
            if let Some(gap) = gaps.iter().find(|gap| is_there && item.adopts.is_none() && gap.is_of(&receipt)) {
                return Err(format!("seq {seq} ({:?}) is there, and {gap:?} names it as lost", item.what));
            }
            let first = log.used.front().unwrap_or(&log.current).first_seq;
            let counts = first <= seq && (seq <= log.last_seq() || seq <= synced);
            if is_there || item.flushed || !counts || !matches!(item.what, What::Block(_)) {
                continue;
            }
            // Of a stream that was lost whole nobody knows any more: its place is named all the same.
            let end = log.ends.get(&item.stream);
            if item.stream.origin != log.current.header.store && end.is_none_or(|end| end.seq < item.number) {
                // It is asked for anew.
                continue;
            }
            let names = |gap: &Control| match gap {
                Control::Gap { stream, .. } if end.is_none() => gap.is_of(&Receipt { stream: *stream, seq }),
                Control::Gap { .. } => gap.is_of(&receipt),
                _ => false,
            };
            if !gaps.iter().any(names) {
                return Err(format!(
                    "seq {seq} ({:?}) of {:?} {} is lost, and no gap names it: the end is {end:?}, {gaps:?}",
                    item.what, item.stream, item.number
                ));
            }
        }
        Ok(())
    }

    /// What is not there is gone for ever; what is there must stay.
    fn settle(&mut self, seen: &[Seen], found: &Found) {
        for (index, item) in self.items.iter_mut().enumerate() {
            let lost = Receipt { stream: item.stream, seq: item.number };
            if item.adopts == Some(Absent::Lost) && seen[index] == Seen::Block && !self.adopted.contains(&lost) {
                self.adopted.push(lost);
            }
            item.what = match (item.what, seen[index]) {
                (_, Seen::No) => What::Gap,
                (What::Hole(name), Seen::Block) => What::Block(name),
                (_, Seen::Void) => What::Void,
                (what, Seen::Block) => what,
            };
            // What a recovery has found it has made durable.
            item.acked = Some(Instant(0));
            item.damaged = false;
        }
        self.items.truncate((found.last.0.saturating_sub(self.before)) as usize);
        // Where all of the log was damaged it begins anew.
        self.before = self.before.min(found.last.0);
        if found.first > Seq(0) {
            self.forget(found.first.prev());
        }
    }
}

/// The gaps that a control names, be it of one or all.
fn gaps_in(control: &[u8]) -> Vec<Control> {
    let of_vector = || vector::decode(control).map(|(_, gaps)| gaps).unwrap_or_default();
    Control::decode(control).map_or_else(of_vector, |gap| vec![gap])
}

fn entry_received_at(head: &[u8]) -> Option<i64> {
    decode_entry(head).map(|entry| entry.received_at_ns)
}

fn kind_of(head: &[u8]) -> Option<EntryKind> {
    entry_lengths(head).map(|lengths| lengths.kind)
}
