//! Which crash states are made of a recording. A cut is a place in its log; what a flush covers that had
//! completed by then is there, and of the rest anything may be.

use std::collections::BTreeSet;

use forebay::data::manifest::MANIFEST_SHARD;
use serde::{Deserialize, Serialize};

use crate::device::Fs;
use crate::image::{BatchAt, Change, How, PAGE, SECTOR, State, Step, What};

/// Pages that ext4 and btrfs themselves rely on to be written whole or not at all.
const SUPERBLOCKS: [usize; 3] = [0, (64 << 10) / PAGE, (64 << 20) / PAGE];

/// Sectors of a page of XFS. It takes a block of its own metadata for whole whose first sector has a newer number than
/// its journal, and then mounts no more if the others are old: so what is not known to be the engine's is torn between
/// pages there, and within them on ext4.
const PAGE_OF_XFS: usize = 8;

/// Kinds of crash states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// All that arrived before the cut.
    Prefix,
    /// Of what is not flushed, any subset.
    Subset,
    /// The same, and some of it torn.
    Torn,
    /// One durable batch of the log never got to the disk, though it said so.
    Lost,
    /// One durable batch of the log was written where another one belongs.
    Misdirected,
}

impl Kind {
    /// What a power cut makes of a disk that honours flush.
    pub const CUTS: [Self; 3] = [Self::Prefix, Self::Subset, Self::Torn];
}

/// A small generator: a seed gives the same numbers everywhere.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// The writes before `cut` that a flush made durable: completed before it arrived, and it completed.
pub fn durable(steps: &[Step], cut: usize) -> BTreeSet<usize> {
    let Some(last) = steps[..cut].iter().rev().find_map(|step| match step.what {
        What::Flushed { flush, failed: false } => Some(flush),
        _ => None,
    }) else {
        return BTreeSet::new();
    };
    // Flushes may overlap: the one that arrived last of those that completed covers the most.
    let upto = steps[..cut].iter().fold(last, |upto, step| match step.what {
        What::Flushed { flush, failed: false } => upto.max(flush),
        _ => upto,
    });
    let completed = |step: &Step| match step.what {
        What::Written { write, failed: false } => Some(write),
        _ => None,
    };
    steps[..upto].iter().filter_map(completed).collect()
}

/// A state of this kind; `None` where the recording has none.
pub fn state(fs: Fs, steps: &[Step], kind: Kind, random: &mut Random) -> Option<State> {
    let cut = cut(steps, random);
    let durable = durable(steps, cut);
    let mut changes = Vec::new();
    // In some states hardly anything arrives, in others nearly all.
    let (arrives, tears) = ([10, 50, 90][random.below(3)], [20, 80][random.below(2)]);
    for (write, step) in steps[..cut].iter().enumerate() {
        let What::Write { offset, bytes, batch } = &step.what else { continue };
        if durable.contains(&write) || kind == Kind::Prefix {
            continue;
        }
        if !random.percent(arrives) {
            changes.push(Change { write, how: How::Lost });
        } else if kind == Kind::Torn && !SUPERBLOCKS.contains(&(offset / PAGE)) && random.percent(tears) {
            let unit = if fs == Fs::Xfs && batch.is_none() { PAGE_OF_XFS } else { 1 };
            changes.push(Change { write, how: How::Torn(torn(bytes / SECTOR, unit, random)) });
        }
    }
    if matches!(kind, Kind::Lost | Kind::Misdirected) {
        let victims = with_witnesses(steps, &durable, cut);
        let victim = *victims.get(random.below(victims.len()))?;
        let how = match kind {
            Kind::Lost => How::Lost,
            _ => {
                let target = *victims.get(random.below(victims.len()))?;
                let What::Write { offset, .. } = steps[target].what else { return None };
                if target == victim {
                    return None;
                }
                How::Moved(offset)
            }
        };
        changes.push(Change { write: victim, how });
        changes.sort_by_key(|change| change.write);
    }
    Some(State { cut, changes })
}

/// For each record of the data files' manifest the state in which just that write was lost: cut before a flush
/// made it durable. What it names must not have its final name by then.
pub fn without_each_record(steps: &[Step]) -> Vec<State> {
    let is_record = |step: &Step| match step.what {
        What::Write { batch: Some(batch), .. } => batch.shard == MANIFEST_SHARD.0,
        _ => false,
    };
    let durable_at = |write: usize| {
        let written =
            steps.iter().position(|step| matches!(step.what, What::Written { write: of, .. } if of == write))?;
        steps.iter().position(|step| matches!(step.what, What::Flushed { flush, .. } if flush > written))
    };
    let records = steps.iter().enumerate().filter(|(_, step)| is_record(step));
    let without = |write| State {
        cut: durable_at(write).unwrap_or(steps.len()),
        changes: vec![Change { write, how: How::Lost }],
    };
    records.map(|(write, _)| without(write)).collect()
}

/// Half of all cuts fall right behind an acknowledgement, when the most is promised.
fn cut(steps: &[Step], random: &mut Random) -> usize {
    let at = 1 + random.below(steps.len());
    if random.percent(50) {
        return at;
    }
    let is_mark = |step: &Step| matches!(step.what, What::Mark(_));
    steps[at - 1..].iter().position(is_mark).map_or(at, |behind| at + behind)
}

/// What arrives of a torn write, in sectors: a beginning, an end, whole pages, or any of them; so many that stand
/// together in a page arrive together or not at all.
fn torn(sectors: usize, together: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let at = (random.below(sectors + 1) / together * together).min(sectors);
    let unit = match random.below(4) {
        0 => return vec![(0, at)],
        1 => return vec![(at, sectors)],
        2 => 8,
        _ => together,
    };
    let there = (0..sectors.div_ceil(unit)).filter(|_| random.percent(50));
    there.map(|number| (number * unit, ((number + 1) * unit).min(sectors))).collect()
}

/// Durable batches of which a durable later one of the same shard and segment says that they were synced.
fn with_witnesses(steps: &[Step], durable: &BTreeSet<usize>, cut: usize) -> Vec<usize> {
    let batch = |index: usize| match steps[index].what {
        What::Write { batch, .. } => batch,
        _ => None,
    };
    let batches: Vec<(usize, BatchAt)> =
        durable.iter().filter(|write| **write < cut).filter_map(|&write| Some((write, batch(write)?))).collect();
    let is_witness = |victim: &BatchAt, other: &BatchAt| {
        (other.shard, other.segment) == (victim.shard, victim.segment) && other.durable_upto >= victim.number
    };
    let has = |victim: &BatchAt| batches.iter().any(|(_, other)| is_witness(victim, other));
    batches.iter().filter(|(_, victim)| has(victim)).map(|(write, _)| *write).collect()
}
