//! Rot, counted: one history after another ends in single flipped bits, some in each class of bytes of log
//! and ring (FAULTS, rows 5, 6 and 34).
//!
//! For each flip the whole store is copied, damaged and opened, refusing first and then salvaging, and
//! held against its history. So what is counted as refused was also salvaged, with every sound block
//! given back and the gaps named. The histories themselves are damaged by nothing else.

use std::fmt;

use crate::io::chance::Chance;
use crate::limits::{PAGE_BYTES, SECTOR_BYTES, SECTOR_STREAM_BYTES, SEGMENT_HEADER_BYTES};
use crate::sim::check::{Kind, Wrong};
use crate::sim::plan::{LifePlan, RING_SLOTS, Trouble};
use crate::sim::shard::batches;
use crate::sim::world::{Run, Violation, World, caught};
use crate::wal::batch::{BATCH, BatchHeader, STREAM};
use crate::wal::intake::{FREED_AT, RING_HEADER_BYTES, SLOT_BYTES, SLOTS_AT};
use crate::wal::read::for_each_entry;
use crate::wal::segment::SegmentHeader;

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A class of bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Class {
            $($(#[$doc])* $name,)*
        }

        impl Class {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// In words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

classes! {
    /// The first copy of a segment's header.
    SegmentHeaderA = "segment header, first copy",
    /// The second copy.
    SegmentHeaderB = "segment header, second copy",
    /// A sector's stamp.
    Stamp = "sector stamp",
    /// A batch's header.
    BatchHeader = "batch header",
    /// An entry's header, with its identity and names.
    EntryHeader = "entry header",
    /// A payload.
    Payload = "payload",
    /// The stream table.
    StreamTable = "stream table",
    /// The zeros at a batch's end.
    Padding = "padding",
    /// The last batch of a segment, all of it.
    Tail = "last batch of a segment",
    /// The page behind the last batch of a segment.
    Behind = "behind the last batch",
    /// A copy of the ring's header.
    RingHeader = "ring header",
    /// The mark of what the ring gave back.
    RingFreed = "ring's freed mark",
    /// A slot of the ring.
    RingSlot = "ring slot",
    /// The ring's byte area.
    RingBytes = "ring bytes",
}

/// What flips came to, in all or in one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlipCount {
    /// Flips.
    pub flips: u64,
    /// Refused, and then salvaged.
    pub refused: u64,
    /// Opened with every block there, and the damage named in the report.
    pub told: u64,
    /// Opened with every block there.
    pub harmless: u64,
    /// Opened with a block lost or changed, and nothing said. None may be.
    pub silent: u64,
    /// Stores that were refused before they were damaged. None may be.
    pub false_refusals: u64,
}

/// The counts by class, in the order of [`Class::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlipSummary {
    /// By class.
    pub classes: [FlipCount; Class::ALL.len()],
}

impl FlipSummary {
    /// Adds another history's.
    pub fn add(&mut self, other: &Self) {
        for (sum, other) in self.classes.iter_mut().zip(&other.classes) {
            sum.add(other);
        }
    }

    /// Over all classes.
    #[must_use]
    pub fn total(&self) -> FlipCount {
        let mut total = FlipCount::default();
        self.classes.iter().for_each(|class| total.add(class));
        total
    }
}

impl FlipCount {
    const fn add(&mut self, other: &Self) {
        self.flips += other.flips;
        self.refused += other.refused;
        self.told += other.told;
        self.harmless += other.harmless;
        self.silent += other.silent;
        self.false_refusals += other.false_refusals;
    }
}

impl fmt::Display for FlipSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = Class::ALL.iter().map(|class| class.name()).zip(self.classes);
        for (name, count) in rows.chain([("all", self.total())]) {
            let FlipCount { flips, refused, told, harmless, silent, false_refusals } = count;
            writeln!(
                f,
                "{name:28} {flips:9} flips: {refused:9} refused and salvaged, {told:9} told, {harmless:9} harmless, {silent} silent \
                 losses, {false_refusals} false refusals"
            )?;
        }
        Ok(())
    }
}

/// Runs a history, and damages what is left of it `per_class` times in each class.
///
/// # Errors
/// A promise that did not hold and is neither a silent loss nor a false refusal: these are counted, and
/// the first of them is the violation.
pub fn flips(run: &Run, per_class: u32) -> Result<FlipSummary, (Box<FlipSummary>, Box<Violation>)> {
    let mut summary = Box::<FlipSummary>::default();
    let mut world = World::new(run);
    let mut first = None;
    let untouched = caught(run.mutant, || {
        world.lives(undamaged)?;
        world.copy().open(0).map(|_| ())
    });
    let violation = |world: &World, Wrong { kind, what }: Wrong, trace: &str| {
        let (seed, life, trace) = (run.seed, world.life, trace.to_owned());
        Box::new(Violation { seed, life, kind, what, trace })
    };
    if let Err(wrong) = untouched {
        summary.classes[0].false_refusals += u64::from(wrong.kind == Kind::FalseRefusal);
        let trace = world.medium.lock().trace().to_owned();
        return Err((summary, violation(&world, wrong, &trace)));
    }
    for (index, class) in Class::ALL.iter().enumerate() {
        for number in 0..per_class {
            let mut damaged = world.copy();
            let mut chance = Chance::new(run.seed).fork(1_000 + index as u64).fork(u64::from(number));
            if !flip(&mut damaged, *class, &mut chance) {
                continue;
            }
            let opened = caught(run.mutant, || damaged.open(0).map(|_| ()));
            let count = &mut summary.classes[index];
            count.flips += 1;
            match opened {
                Ok(()) if damaged.summary.salvages > 0 => count.refused += 1,
                Ok(()) if damaged.summary.told > 0 => count.told += 1,
                Ok(()) => count.harmless += 1,
                Err(wrong) => {
                    count.silent += u64::from(wrong.kind == Kind::SilentLoss);
                    let what = format!("flip {number} in the {}: {}", class.name(), wrong.what);
                    let trace = damaged.medium.lock().trace().to_owned();
                    first.get_or_insert_with(|| violation(&world, Wrong { what, ..wrong }, &trace));
                }
            }
        }
    }
    match first {
        Some(violation) => Err((summary, violation)),
        None => Ok(*summary),
    }
}

/// A life that damages nothing.
fn undamaged(plan: LifePlan) -> LifePlan {
    let damages = matches!(plan.trouble, Trouble::LostWrite(_) | Trouble::MisdirectedWrite(_));
    let trouble = if damages { Trouble::None } else { plan.trouble };
    LifePlan { rot: false, meddling: false, trouble, ..plan }
}

/// Flips a bit of this class; false where there is none.
fn flip(world: &mut World, class: Class, chance: &mut Chance) -> bool {
    let index = chance.below(world.shards.len() as u64) as usize;
    let shard = &mut world.shards[index];
    let bit = chance.below(8) as u32;
    let bytes = shard.ring.image().map_or(0, <[u8]>::len);
    let area = SLOTS_AT + RING_SLOTS as usize * SLOT_BYTES;
    let in_ring = match class {
        _ if bytes == 0 => None,
        Class::RingHeader => {
            Some(chance.below(2) as usize * PAGE_BYTES + chance.below(RING_HEADER_BYTES as u64) as usize)
        }
        Class::RingFreed => Some(FREED_AT + chance.below(8) as usize),
        Class::RingSlot => Some(chance.within(SLOTS_AT as u64, area as u64 - 1) as usize),
        Class::RingBytes => Some(chance.within(area as u64, bytes as u64 - 1) as usize),
        _ => None,
    };
    if let Some(at) = in_ring {
        let hit = shard.ring.flip(at, bit);
        shard.ring_was_hit(hit);
        return true;
    }
    let segments = shard.segments(&world.medium);
    let sound = |(name, content): &(String, Vec<u8>)| {
        let header = SegmentHeader::decode(content).ok()?;
        let batches = batches(&header, content);
        (!batches.is_empty()).then(|| (name.clone(), content.clone(), batches))
    };
    let segments: Vec<_> = segments.iter().filter_map(sound).collect();
    if segments.is_empty() {
        return false;
    }
    let (name, content, batches) = &segments[chance.below(segments.len() as u64) as usize];
    let Some(at) = place(class, content, batches, chance) else { return false };
    shard.flip(&world.medium, name, content, (at, bit));
    true
}

/// A byte of this class in a segment.
fn place(class: Class, content: &[u8], batches: &[(usize, BatchHeader)], chance: &mut Chance) -> Option<usize> {
    let &(at, batch) = batches.get(chance.below(batches.len() as u64) as usize)?;
    let any = |range: std::ops::Range<usize>, chance: &mut Chance| {
        (!range.is_empty()).then(|| chance.within(range.start as u64, range.end as u64 - 1) as usize)
    };
    let entries = BATCH::BYTES..BATCH::BYTES + batch.entries_bytes as usize;
    let table = entries.end..entries.end + batch.streams as usize * STREAM::BYTES;
    let mut parts = Vec::new();
    for_each_entry(&content[at..], &batch, |_, from, header, (payload, _)| {
        let from_header = from + header;
        parts.push(match class {
            Class::EntryHeader => from..from_header,
            _ => from_header..from_header + payload as usize,
        });
    });
    parts.retain(|part| !part.is_empty());
    let in_stream = match class {
        Class::SegmentHeaderA => return any(0..PAGE_BYTES, chance),
        Class::SegmentHeaderB => return any(PAGE_BYTES..SEGMENT_HEADER_BYTES, chance),
        Class::Stamp => {
            let sector = any(0..batch.length as usize / SECTOR_BYTES, chance)?;
            return Some(at + sector * SECTOR_BYTES + chance.below(4) as usize);
        }
        Class::Tail => {
            let (at, batch) = batches.last()?;
            return any(*at..at + batch.length as usize, chance);
        }
        Class::Behind => {
            let (at, batch) = batches.last()?;
            let end = at + batch.length as usize;
            return any(end..(end + PAGE_BYTES).min(content.len()), chance);
        }
        Class::BatchHeader => 0..BATCH::BYTES,
        Class::EntryHeader | Class::Payload => {
            parts.get(chance.below(parts.len().max(1) as u64) as usize).cloned().unwrap_or(0..0)
        }
        Class::StreamTable => table,
        Class::Padding => table.end..batch.length as usize / SECTOR_BYTES * SECTOR_STREAM_BYTES,
        Class::RingHeader | Class::RingFreed | Class::RingSlot | Class::RingBytes => return None,
    };
    let at_stream = any(in_stream, chance)?;
    let stamps = SECTOR_BYTES - SECTOR_STREAM_BYTES;
    Some(at + at_stream / SECTOR_STREAM_BYTES * SECTOR_BYTES + stamps + at_stream % SECTOR_STREAM_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnDamage;
    use crate::recover::OpenError;
    use crate::sim::check::Ending;
    use crate::sim::plan::{End, Limits};

    /// The damaged segment at the log's end is exchanged before the log says what was lost in it. Whoever
    /// dies in between, twice over, must leave enough for the next opening to say it.
    #[test]
    fn a_salvage_of_the_logs_end_that_is_cut_short_twice_names_its_gap_all_the_same() {
        let limits = Limits { lives_max: 1, ..Limits::default() };
        let mut salvages = 0;
        for seed in (0..20).chain([24_533]) {
            let mut world = World::new(&Run { seed, limits, ..Run::default() });
            let life =
                |plan| LifePlan { end: End::PowerCut, recovery_deaths: 0, trouble: Trouble::None, ..undamaged(plan) };
            world.lives(life).expect("every promise held");
            for call in 0..40 {
                let mut damaged = world.copy();
                if !flip(&mut damaged, Class::Tail, &mut Chance::new(seed)) {
                    break;
                }
                for _ in 0..2 {
                    damaged.medium.lock().faults.last_call = Some(call);
                    let opened = damaged.try_open(OnDamage::Salvage);
                    damaged.medium.lock().faults.last_call = None;
                    assert!(opened.is_ok() || damaged.medium.lock().is_crashed(), "seed {seed} call {call}");
                    damaged.medium.lock().kill();
                }
                damaged.open(0).unwrap_or_else(|wrong| panic!("seed {seed} call {call}: {wrong:?}"));
                salvages += damaged.summary.salvages;
            }
        }
        assert!(salvages > 100, "{salvages}");
    }

    /// A salvage writes what the ring has behind a segment that is lost whole. A power cut may keep any of these writes;
    /// what the store has says nothing of them, since it had it from the damaged log.
    #[test]
    fn a_salvage_whose_writes_arrived_in_part_is_done_again() {
        let limits = Limits { lives_max: 1, ..Limits::default() };
        let mut salvages = 0;
        for seed in (0..20).chain([109, 440]) {
            let mut world = World::new(&Run { seed, limits, ..Run::default() });
            world.plan.store_remembers = true;
            let life =
                |plan| LifePlan { end: End::Kill, recovery_deaths: 0, trouble: Trouble::None, ..undamaged(plan) };
            world.lives(life).expect("every promise held");
            for call in 0..60 {
                let mut damaged = world.copy();
                // Both copies of the header of one segment.
                for class in [Class::SegmentHeaderA, Class::SegmentHeaderB] {
                    flip(&mut damaged, class, &mut Chance::new(seed));
                }
                damaged.medium.lock().faults.last_call = Some(call);
                let opened = (0..1_000).map(|_| damaged.try_open(OnDamage::Salvage));
                let is_locked = |opened: &Result<_, _>| matches!(opened, Err((_, OpenError::Locked(_))));
                let opened = opened.into_iter().find(|opened| !is_locked(opened)).expect("locks are given back");
                damaged.medium.lock().faults.last_call = None;
                assert!(opened.is_ok() || damaged.medium.lock().is_crashed(), "seed {seed} call {call}");
                damaged.shards.iter_mut().for_each(|shard| shard.facts.ending = Ending::PowerCut);
                damaged.crash(End::PowerCut);
                damaged.open(0).unwrap_or_else(|wrong| panic!("seed {seed} call {call}: {wrong:?}"));
                salvages += damaged.summary.salvages;
            }
        }
        assert!(salvages > 100, "{salvages}");
    }
}
