//! One shard of the simulated store: its files, its ring, its history, and what has been done to it
//! behind the engine's back. Opening it is split where the engine splits it: first all shards are
//! examined, then each is carried out under the epoch that they share.

use std::ops::Range;

use crate::config::OnDamage;
use crate::io::chance::Chance;
use crate::io::disk::Folder;
use crate::io::maker::Maker;
use crate::io::medium::{Fate, FolderNo};
use crate::io::sim::{SharedMedium, SimFolder};
use crate::limits::{PAGE_BYTES, SECTOR_BYTES, SECTOR_STREAM_BYTES, SEGMENT_HEADER_BYTES, SEGMENTS_AHEAD};
use crate::recover::{
    Examined, Intake, Kept, OpenError, Opened, Quarantine, ShardSetup, carry_out, examine, put_aside,
};
use crate::sim::check::{Ending, Facts, Found, Kind, Model, Rot, Wrong};
use crate::sim::life::Ended;
use crate::sim::plan::{Plan, RING_BYTES, RING_SLOTS};
use crate::sim::ring::{Hit, SimRing};
use crate::types::{BatchNo, Epoch, FileId, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream};
use crate::wal::batch::{BATCH, BatchHeader, Place, STREAM};
use crate::wal::entry::EntryKind;
use crate::wal::intake::RingHeader;
use crate::wal::read::for_each_entry;
use crate::wal::segment::{FileName, SegmentHeader, parse_name, segment_name};
use crate::wal::verdict::{Stamps, check, readable};

/// The simulated store.
pub const STORE: StoreId = StoreId(*b"simulated store.");

struct Bin;

impl Quarantine for Bin {
    fn keep(&mut self, _: Kept<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

/// What all shards of a store have in common at one moment.
#[derive(Clone, Copy)]
pub struct Common<'a> {
    /// The plan of the seed.
    pub plan: &'a Plan,
    /// The device.
    pub medium: &'a SharedMedium,
    /// The boot that is running.
    pub boot: [u8; 16],
}

/// A shard from the beginning of its history to the end.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its store.
    pub store: StoreId,
    /// Its number.
    pub id: ShardId,
    /// Its folder.
    pub folder: FolderNo,
    /// Its ring.
    pub ring: SimRing,
    /// Its history.
    pub model: Model,
    /// Each writer's count of blocks.
    pub counters: Vec<u32>,
    /// Up to where the store has all data.
    pub released: Seq,
    /// How it was left; what the next recovery is held against.
    pub facts: Facts,
    /// Damages that nobody has met yet: they may lie where a later generation's log will end.
    pub lurking: u32,
    /// The batches that strayed writes of the last life took: their numbers and first seqs.
    strays: Vec<(BatchNo, Seq)>,
    /// Batches that are damaged in part, as the last recovery found them.
    kept: Vec<(SegmentNo, u32)>,
    /// Flipped bits of the ring since it was made.
    ring_flips: u32,
    /// Those of them that hit a copy of its header.
    ring_header_flips: u32,
}

impl Shard {
    /// A shard that was never opened.
    #[must_use]
    pub fn new(store: StoreId, id: ShardId, folder: FolderNo, writers: usize) -> Self {
        Self {
            store,
            id,
            folder,
            ring: SimRing::default(),
            model: Model::default(),
            counters: vec![0; writers],
            released: Seq(0),
            facts: Facts { ending: Ending::Kill, synced: Seq(0), window: None, rot: Rot::Nothing },
            lurking: 0,
            kept: Vec::new(),
            strays: Vec::new(),
            ring_flips: 0,
            ring_header_flips: 0,
        }
    }

    /// Its folder, as the process that runs now has it.
    #[must_use]
    pub fn files(&self, medium: &SharedMedium) -> SimFolder {
        medium.folder_no(self.folder)
    }

    /// What the store says at open.
    fn flushed(&self, plan: &Plan) -> Seq {
        if plan.store_remembers { self.released } else { Seq(0) }
    }

    /// Something was done to it behind the engine's back, so that it may be refused.
    #[must_use]
    pub fn may_be_refused(&self) -> bool {
        self.facts.rot != Rot::Nothing || self.lurking + self.ring_flips > 0
    }

    /// Its log was refused, which nothing in this life explains: damage of an earlier one was met.
    pub fn refused_for_its_log(&mut self) {
        if self.facts.rot == Rot::Nothing {
            self.facts.rot = Rot::Log;
        }
    }

    /// It was refused for its ring, which nothing in this life explains: nothing in it may be readable.
    pub fn refused_for_its_ring(&mut self) {
        if self.facts.rot == Rot::Nothing && self.ring_header_flips > 1 {
            self.facts.rot = Rot::Ring;
        }
    }

    /// Reads and judges it; changes nothing.
    ///
    /// # Errors
    /// As [`examine`](fn@examine), and where the store says that it lacks what the log has given back.
    pub fn examine(&self, of: Common<'_>, on_damage: OnDamage) -> Result<Examined, OpenError> {
        let setup = ShardSetup {
            store: self.store,
            shard: self.id,
            boot: of.boot,
            segment_bytes: of.plan.segment_bytes,
            bounds: of.plan.bounds,
            batch_bytes_max: of.plan.batch_bytes_max,
            on_damage,
            flushed: self.flushed(of.plan),
            intake: Intake::Ring,
        };
        let examined = examine(&self.files(of.medium), &setup, self.ring.image(), &mut |_| {})?;
        let report = || format!("examined: {}", serde_json::to_string(&examined.report).unwrap_or_default());
        of.medium.lock().note(report);
        Ok(examined)
    }

    /// Opens it under this epoch; `None` if the process died while it made the ring.
    ///
    /// # Errors
    /// As the steps of recovery.
    pub fn carry_out(
        &mut self,
        of: Common<'_>,
        examined: Examined,
        (epoch, nonce): (Epoch, Nonce),
        chance: &mut Chance,
    ) -> Result<Option<Carried>, OpenError> {
        let folder = self.files(of.medium);
        let spares_max = of.plan.bounds.reserve as usize + SEGMENTS_AHEAD + 1;
        let mut draw = chance.fork(4);
        chance.next_u64();
        let mut maker =
            Maker::new(self.store, self.id, of.plan.segment_bytes, spares_max, Box::new(move || draw.next_u64()));
        let own = Stream { origin: self.store, shard: self.id, epoch, nonce };
        put_aside(&examined, &folder, &mut Bin, self.ring.image())?;
        let image = self.ring.image().filter(|_| examined.needs_ring_image()).map(<[u8]>::to_vec);
        if examined.needs_new_ring() && !self.make_ring(of, (Epoch(0), nonce), Seq(1), chance) {
            return Ok(None);
        }
        let opened = carry_out(examined, &folder, &mut maker, own, image.as_deref())?;
        let made = self.make_ring(of, (epoch, nonce), opened.log.last_seq().next(), chance);
        Ok(made.then_some((opened, maker, own)))
    }

    /// Makes the ring; false if the process dies meanwhile.
    fn make_ring(
        &mut self,
        of: Common<'_>,
        (epoch, nonce): (Epoch, Nonce),
        first_seq: Seq,
        chance: &mut Chance,
    ) -> bool {
        let (slots, bytes) = (RING_SLOTS, RING_BYTES);
        let header =
            RingHeader { store: self.store, shard: self.id, boot: of.boot, epoch, nonce, first_seq, slots, bytes };
        let dying = of.medium.lock().faults.last_call.is_some();
        let steps = if dying && chance.percent(40) { chance.within(1, 6) } else { u64::MAX };
        self.ring.create(header, chance, steps)
    }

    /// Compares what was opened with the history, and goes on from what is there: where the store's
    /// progress is.
    ///
    /// # Errors
    /// The first promise that does not hold.
    pub fn opened(&mut self, of: Common<'_>, opened: &Opened) -> Result<(Found, Seq), Wrong> {
        let found = self.model.check((&opened.log, &opened.partly), &self.files(of.medium), &self.facts)?;
        self.facts.rot = Rot::Nothing;
        self.strays.clear();
        self.kept = opened.partly.keys().copied().collect();
        (self.ring_flips, self.ring_header_flips) = (0, 0);
        // A store that forgets is given everything that is in the log once more.
        if !of.plan.store_remembers {
            self.released = found.first.prev();
        }
        Ok((found, self.flushed(of.plan)))
    }

    /// A life is over.
    pub fn ended(&mut self, ended: Ended, ending: Ending) {
        // A fault counts as a power cut for what was not synced.
        let ending = if ended.fault { Ending::PowerCut } else { ending };
        self.facts = Facts { ending, synced: ended.synced, window: ended.window, rot: Rot::Nothing };
    }

    /// The power fails.
    pub fn cut_power(&mut self, unit: usize, chance: &mut Chance) {
        let fate = chance.pick(&[Fate::Lost, Fate::Kept, Fate::Units, Fate::Units]);
        self.ring.cut_power(fate, unit, chance);
    }

    /// Flips one bit of the ring, anywhere.
    pub fn rot_ring(&mut self, chance: &mut Chance) -> Hit {
        let hit = self.ring.rot(chance);
        self.ring_was_hit(hit);
        hit
    }

    /// A bit of the ring was flipped.
    pub fn ring_was_hit(&mut self, hit: Hit) {
        self.ring_flips += 1;
        match hit {
            Hit::Header => self.ring_header_flips += 1,
            Hit::Entry(seq) => self.model.rot_entry(seq),
            // What the log lost without a sync cannot be told from damage any more, so it is refused, and
            // entries behind it are kept.
            Hit::Freed(freed) => (self.facts.synced.0 + 1..=freed.0).for_each(|seq| self.model.rot_entry(Seq(seq))),
            Hit::Nothing => {}
        }
    }

    /// Its segments, with all that is in them.
    #[must_use]
    pub fn segments(&self, medium: &SharedMedium) -> Vec<(String, Vec<u8>)> {
        let folder = self.files(medium);
        let names = folder.list().unwrap_or_default().into_iter();
        let segments = names.filter(|(name, _)| matches!(parse_name(name), FileName::Segment(_)));
        segments.filter_map(|(name, bytes)| Some((name.clone(), read(&folder, &name, bytes as usize)?))).collect()
    }

    /// Flips one bit of the log, somewhere up to a page behind its end in one segment; true if a batch
    /// was hit.
    pub fn rot_log(&mut self, medium: &SharedMedium, chance: &mut Chance) -> Option<bool> {
        let folder = self.files(medium);
        let mut names: Vec<(String, u64)> = folder.list().unwrap_or_default();
        names.retain(|(name, _)| matches!(parse_name(name), FileName::Segment(_)));
        // What a salvage has kept of a damaged batch is damaged again.
        let kept = (!self.kept.is_empty() && chance.percent(60)).then(|| chance.pick(&self.kept));
        let of_kept =
            kept.and_then(|(segment, _)| names.iter().find(|(name, _)| *name == segment_name(segment)).cloned());
        let any = || names.get(chance.below(names.len().max(1) as u64) as usize).cloned();
        let (name, bytes) = of_kept.or_else(any)?;
        let content = read(&folder, &name, bytes as usize)?;
        let header = SegmentHeader::decode(&content).ok()?;
        if let Some((_, at)) = kept.filter(|(segment, _)| *segment == header.segment) {
            let at = at as usize + chance.below(2 * PAGE_BYTES as u64) as usize;
            if at < content.len() {
                return Some(self.flip(medium, &name, &content, (at, chance.below(8) as u32)));
            }
        }
        let batches = batches(&header, &content);
        let reach = batches
            .last()
            .map_or(content.len(), |(at, batch)| (at + batch.length as usize + PAGE_BYTES).min(content.len()));
        let at = chance.below(reach as u64) as usize;
        Some(self.flip(medium, &name, &content, (at, chance.below(8) as u32)))
    }

    /// Flips this bit of a segment, which holds `content`; true if a batch was hit.
    pub fn flip(&mut self, medium: &SharedMedium, name: &str, content: &[u8], (at, bit): (usize, u32)) -> bool {
        medium.lock().rot(self.folder, name, at, |bytes| bytes[0] ^= 1 << bit);
        medium.lock().note(|| format!("rot: {name} {at:#x} bit {bit}"));
        let Ok(header) = SegmentHeader::decode(content) else { return false };
        let mut flipped = content[..SEGMENT_HEADER_BYTES].to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1 << bit;
        }
        // Where earlier flips left only one whole copy of the header, this one may take that too.
        let headless = SegmentHeader::decode(&flipped).is_err();
        !self.damaged(medium, (&header, content), at..at + 1, headless).is_empty()
    }

    /// What stands in this range of a segment is damaged, and may be lost with a report; without it the
    /// segment would hold `truth`. The batches that it hits.
    fn damaged(
        &mut self,
        medium: &SharedMedium,
        (header, truth): (&SegmentHeader, &[u8]),
        range: Range<usize>,
        headless: bool,
    ) -> Vec<BatchHeader> {
        self.facts.rot = Rot::Log;
        self.lurking += 1;
        let batches = batches(header, truth);
        // A write that did not arrive whole is damage now, wherever in it the range is; what stood there
        // is lost to it as far as the log goes on behind.
        let before = batches.iter().rfind(|(start, batch)| start + batch.length as usize <= range.start);
        let from = before.map_or(SEGMENT_HEADER_BYTES, |(start, batch)| start + batch.length as usize);
        for page in (from..range.end).step_by(PAGE_BYTES) {
            self.model.rot_place(Place::new(header, page as u32));
        }
        if headless {
            // Whatever stood in it, or was to.
            self.model.rot_place(Place::new(header, SEGMENT_HEADER_BYTES as u32));
            // The write that hit the header may be missing from it, and may have gone over others of its batches.
            let others = self.segments(medium).into_iter();
            let others = others.filter_map(|(_, content)| Some((SegmentHeader::decode(&content).ok()?, content)));
            let (mut from, mut upto) = (Seq(0), self.model.last());
            for (other, content) in others.filter(|(other, _)| other.segment != header.segment) {
                for (_, batch) in self::batches(&other, &content) {
                    if other.segment < header.segment {
                        from = from.max(batch.last_seq());
                    } else {
                        upto = upto.min(batch.first_seq.prev());
                    }
                }
            }
            // What it said of earlier damage is gone with it: nothing proves what stands behind that.
            let first_handled = header.handled.iter().map(|range| range.resume_seq.prev()).min();
            let from = first_handled.map_or(from, |first| first.min(from));
            (from.0 + 1..=upto.0).for_each(|seq| self.model.rot_entry(Seq(seq)));
        }
        let behind = batches.iter().find(|(start, _)| *start >= range.end);
        if let (Some((_, before)), Some((_, behind))) = (before, behind) {
            for seq in before.last_seq().0 + 1..behind.first_seq.0 {
                self.model.rot_entry(Seq(seq));
            }
        }
        let hit = |(start, batch): &(usize, BatchHeader)| {
            headless || (*start < range.end && range.start < start + batch.length as usize)
        };
        let hit: Vec<_> = batches.into_iter().filter(hit).collect();
        for (start, batch) in &hit {
            let place = Place::new(header, *start as u32);
            match (!headless).then(|| hit_payloads(&truth[*start..], batch, (*start, &range))).flatten() {
                // Everything else in it is sound, and must be given back.
                Some(seqs) => {
                    self.model.rot_place(place);
                    seqs.into_iter().for_each(|seq| self.model.rot_entry(seq));
                }
                None => self.model.rot(place, batch),
            }
        }
        hit.into_iter().map(|(_, batch)| batch).collect()
    }

    /// A write strayed from, or to, these places of one of its files, in each of which `right` should stand
    /// and `wrong` was put. What it hits may be lost, with a report: without one only where nothing that was
    /// written afterwards says that it had been there.
    pub fn strayed(&mut self, medium: &SharedMedium, name: &str, places: &[Astray<'_>]) {
        self.lurking += 1;
        let lurk = |model: &mut Model, file: FileId| {
            for place in places {
                let pages = (place.at / PAGE_BYTES * PAGE_BYTES..place.at + place.right.len()).step_by(PAGE_BYTES);
                pages.for_each(|page| model.lurk(file, page as u32));
            }
        };
        if let FileName::Spare(file) = parse_name(name) {
            lurk(&mut self.model, file);
        }
        let FileName::Segment(_) = parse_name(name) else { return };
        let Some((_, content)) = self.segments(medium).into_iter().find(|(known, _)| known == name) else { return };
        let mut truth = content.clone();
        let mut hits: Vec<Range<usize>> = Vec::new();
        for Astray { at, right, wrong } in places {
            if content.len() < at + right.len() {
                continue;
            }
            let sectors = right.chunks(SECTOR_BYTES).zip(wrong.chunks(SECTOR_BYTES)).enumerate();
            let mut hit: Option<Range<usize>> = None;
            for (index, (right, wrong)) in sectors {
                let sector = at + index * SECTOR_BYTES..at + index * SECTOR_BYTES + right.len();
                // Where something else was written since, all is well.
                if content[sector.clone()] == *wrong && right != wrong {
                    truth[sector.clone()].copy_from_slice(right);
                    hit = Some(hit.map_or(sector.start, |hit| hit.start)..sector.end);
                }
            }
            hits.extend(hit);
        }
        let Ok(header) = SegmentHeader::decode(&truth) else { return };
        let headless = SegmentHeader::decode(&content).as_ref() != Ok(&header);
        // What was written over it since may be lost in a power cut to come.
        lurk(&mut self.model, header.file_id);
        for hit in hits {
            let batches = self.damaged(medium, (&header, &truth), hit, headless);
            self.strays.extend(batches.iter().map(|batch| (batch.number, batch.first_seq)));
        }
        self.weigh(medium);
    }

    /// Where nothing that is there says that a strayed batch had been synced, it may be lost as if it had
    /// not been. A power cut may take what said so.
    pub fn weigh(&mut self, medium: &SharedMedium) {
        if self.strays.is_empty() {
            return;
        }
        let proven = self.proven(medium);
        for (_, first_seq) in self.strays.iter().filter(|(number, _)| *number > proven) {
            self.facts.ending = Ending::PowerCut;
            self.facts.synced = self.facts.synced.min(first_seq.prev());
            self.facts.window = None;
        }
    }

    /// The last batch that another one which is there says to be synced.
    pub(super) fn proven(&self, medium: &SharedMedium) -> BatchNo {
        let segments = self.segments(medium);
        let headers = segments.iter().filter_map(|(_, content)| Some((SegmentHeader::decode(content).ok()?, content)));
        let all = headers.flat_map(|(header, content)| batches(&header, content));
        all.map(|(_, batch)| batch.durable_upto).max().unwrap_or_default()
    }
}

fn read(folder: &SimFolder, name: &str, bytes: usize) -> Option<Vec<u8>> {
    let mut content = vec![0; bytes];
    let count = folder.read(name, 0, &mut content).ok()?;
    content.truncate(count);
    Some(content)
}

/// A place that a strayed write should have reached, or that it hit.
#[derive(Clone, Copy, Debug)]
pub struct Astray<'a> {
    /// The offset in the file, in bytes.
    pub at: usize,
    /// What should stand there.
    pub right: &'a [u8],
    /// What was put there.
    pub wrong: &'a [u8],
}

/// The seqs whose payloads a range of a segment hits, in a batch of which it hits nothing else but stamps and padding;
/// `bytes` are the segment's from the batch's start on.
fn hit_payloads(bytes: &[u8], batch: &BatchHeader, (start, range): (usize, &Range<usize>)) -> Option<Vec<Seq>> {
    let is_hit = |stream: Range<usize>| {
        stream.into_iter().any(|at| {
            let (sector, within) = (at / SECTOR_STREAM_BYTES, at % SECTOR_STREAM_BYTES);
            range.contains(&(start + sector * SECTOR_BYTES + SECTOR_BYTES - SECTOR_STREAM_BYTES + within))
        })
    };
    let entries = BATCH::BYTES + batch.entries_bytes as usize;
    let mut others = is_hit(0..BATCH::BYTES) || is_hit(entries..entries + batch.streams as usize * STREAM::BYTES);
    let (mut seq, mut seqs) = (batch.first_seq, Vec::new());
    for_each_entry(bytes, batch, |kind, at, header_bytes, (payload, _)| {
        others |= is_hit(at..at + header_bytes);
        if kind == EntryKind::Control {
            return;
        }
        if is_hit(at + header_bytes..at + header_bytes + payload as usize) {
            seqs.push(seq);
        }
        seq = seq.next();
    });
    (!others).then_some(seqs)
}

/// A shard whose opening was carried out.
pub type Carried = (Opened, Maker, Stream);

/// The batches of a segment of which nothing but payloads may be damaged, with their offsets.
#[must_use]
pub fn batches(header: &SegmentHeader, content: &[u8]) -> Vec<(usize, BatchHeader)> {
    let stamps = Stamps::new(header);
    let mut batches = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while at + PAGE_BYTES <= content.len() {
        let checked = check(&content[at..], &Place::new(header, at as u32), &stamps);
        match readable(&checked, &content[at..], header.stream()) {
            Some(batch) => {
                batches.push((at, batch));
                at += batch.length as usize;
            }
            None => at += PAGE_BYTES,
        }
    }
    batches
}

/// A shard that nobody damaged, or whose damage was to be salvaged, is not opened.
pub(super) fn not_opened(shard: usize, error: &OpenError) -> Wrong {
    let refused = matches!(error, OpenError::Damaged(_) | OpenError::Foreign { .. });
    let kind = if refused { Kind::FalseRefusal } else { Kind::Other };
    Wrong { kind, what: format!("shard {shard} is not opened: {error}") }
}
