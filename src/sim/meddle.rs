//! Files that are missing, of another store or another shard, or of an older backup (FAULTS, row 31).
//!
//! Between two lives one file is exchanged, the store is examined, which changes nothing, and the file is
//! put back. Promised: such a store is refused with the file's name, or what is missing made no difference.
//! The oldest segment is left alone where the store keeps nothing: one that is missing there cannot be
//! told from one that was given back. So is the log's last segment after a power cut, and one before it that
//! nothing behind it says to have been synced: an older state of it cannot be told from one whose writes were lost.

use crate::config::OnDamage;
use crate::io::chance::Chance;
use crate::io::medium::FolderNo;
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::recover::{Damaged, Examined, OpenError};
use crate::sim::check::{Kind, Wrong};
use crate::sim::shard::{Common, Shard};
use crate::types::{SegmentNo, Seq, ShardId, StoreId};
use crate::wal::segment::{FileName, SegmentHeader, parse_name};

/// Examinations after which locks count as never given back.
const ATTEMPTS_MAX: u32 = 1_000;

/// One segment as it was once.
#[derive(Clone, Debug)]
pub struct Backup {
    folder: FolderNo,
    name: String,
    content: Vec<u8>,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meddling {
    Missing,
    OtherStore,
    OtherShard,
    OtherName,
    Older,
    RingMissing,
    RingOfOtherStore,
}

/// Exchanges a file of this shard and sees whether that is noticed; true if it made a difference. Keeps a
/// backup for a later time.
///
/// # Errors
/// A store that was opened with less than it had, or refused without the file's name.
pub fn meddle(
    shard: &mut Shard,
    of: Common<'_>,
    chance: &mut Chance,
    backup: &mut Option<Backup>,
) -> Result<bool, Wrong> {
    // Damage of an earlier day may be in the way: two faults on the only copy are one too many.
    let Ok(before) = examined(shard, of)? else { return Ok(false) };
    if !before.report.damage.is_empty() {
        return Ok(false);
    }
    let segments = shard.segments(of.medium);
    let meddling = chance.pick(&[
        Meddling::Missing,
        Meddling::Missing,
        Meddling::OtherStore,
        Meddling::OtherShard,
        Meddling::OtherName,
        Meddling::Older,
        Meddling::Older,
        Meddling::RingMissing,
        Meddling::RingOfOtherStore,
    ]);
    let index = chance.below(segments.len().max(1) as u64) as usize;
    let Some((name, content)) = segments.get(index) else { return Ok(false) };
    let FileName::Segment(segment) = parse_name(name) else { return Ok(false) };
    let noticed = match meddling {
        Meddling::RingMissing | Meddling::RingOfOtherStore => with_ring(shard, of, meddling, &before)?,
        _ => {
            let older = backup.take().filter(|old| old.folder == shard.folder);
            let older = older.filter(|old| old.name == *name && old.content != *content).map(|old| old.content);
            if meddling == Meddling::Older && older.is_none() {
                *backup = Some(Backup { folder: shard.folder, name: name.clone(), content: content.clone() });
                return Ok(false);
            }
            let what = Exchange { meddling, name, segment, content, oldest: index == 0, older };
            with_segment(shard, of, what, &before)?
        }
    };
    if noticed {
        of.medium.lock().note(|| format!("{meddling:?} {name}: noticed, and put back"));
    }
    Ok(noticed)
}

struct Exchange<'a> {
    meddling: Meddling,
    name: &'a str,
    segment: SegmentNo,
    content: &'a [u8],
    oldest: bool,
    older: Option<Vec<u8>>,
}

fn with_segment(shard: &Shard, of: Common<'_>, what: Exchange<'_>, before: &Examined) -> Result<bool, Wrong> {
    let Exchange { meddling, name, segment, content, oldest, older } = what;
    let Ok(header) = SegmentHeader::decode(content) else { return Ok(false) };
    let under = |header: SegmentHeader| {
        let mut other = content.to_vec();
        other[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        Some(other)
    };
    let instead = match meddling {
        Meddling::Missing => None,
        Meddling::OtherStore => under(SegmentHeader { store: StoreId(*b"quite another 1."), ..header }),
        Meddling::OtherShard => under(SegmentHeader { shard: ShardId(header.shard.0 + 1), ..header }),
        Meddling::OtherName => under(SegmentHeader { segment: SegmentNo(segment.0 + 1), ..header }),
        _ => older,
    };
    let put = |content: Option<Vec<u8>>| of.medium.lock().replace(shard.folder, name, content);
    put(instead);
    let found = examined(shard, of);
    let proven = shard.proven(of.medium);
    put(Some(content.to_vec()));
    let found = found?;
    let expected = || format!("{name} ({meddling:?}) is not noticed");
    match (meddling, found) {
        (Meddling::OtherStore | Meddling::OtherShard, Err(OpenError::Foreign { name: named, .. })) if named == name => {
            Ok(true)
        }
        (Meddling::OtherStore | Meddling::OtherShard, found) => Err(silent(expected(), &found)),
        // Nobody knows the name of what stood before all that is there.
        (_, Err(OpenError::Damaged(damaged))) if oldest || names(&damaged, segment) => Ok(true),
        // The log ends before the ring that followed it.
        (_, Err(OpenError::Damaged(damaged)))
            if damaged.ring.as_ref().is_some_and(|ring| ring.contains("log lacks")) =>
        {
            Ok(true)
        }
        // An older state lacks what continued the log, which stops in the segment before, and perhaps the pin
        // that says where that one ended.
        (Meddling::Older, Err(OpenError::Damaged(damaged))) if names(&damaged, SegmentNo(segment.0 - 1)) => Ok(true),
        (_, Ok(after)) => {
            // The engine asks the store whether the log reaches back to what it has.
            let flushed = if of.plan.store_remembers { shard.released } else { Seq(u64::MAX) };
            let gap = after.first_seq().is_some_and(|first| first.prev() > flushed);
            let (end, reached) = before.reach();
            let told = after.report.ring.is_some() || of.boot != header.boot;
            // Its end is one that a power cut may leave, unless something says that more had been synced.
            let may_end = proven <= after.scanned.end.batch;
            // Where nothing is left of the log, its oldest segment was its last too.
            if after.reach().1 < reached && !gap && !(told && (segment == end || oldest || may_end)) {
                return Err(silent(expected(), &Ok(after)));
            }
            Ok(gap)
        }
        (_, found) => Err(silent(expected(), &found)),
    }
}

fn with_ring(shard: &mut Shard, of: Common<'_>, meddling: Meddling, before: &Examined) -> Result<bool, Wrong> {
    let other = StoreId(*b"quite another 1.");
    let was = shard.ring.exchange(match meddling {
        Meddling::RingMissing => None,
        _ => Some(other),
    });
    let found = examined(shard, of);
    shard.ring.put_back(was);
    match found? {
        Err(OpenError::Damaged(damaged)) if damaged.ring.as_ref().is_some_and(|ring| ring.contains("intake ring")) => {
            Ok(true)
        }
        Ok(after) if after.report.ring.is_some() || after.reach() == before.reach() => Ok(after.report.ring.is_some()),
        found => Err(silent(format!("the ring ({meddling:?}) is not noticed"), &found)),
    }
}

/// Examined as often as it takes until no lock is held any more.
fn examined(shard: &Shard, of: Common<'_>) -> Result<Result<Examined, OpenError>, Wrong> {
    for _ in 0..ATTEMPTS_MAX {
        match shard.examine(of, OnDamage::Refuse) {
            Err(OpenError::Locked(_)) => {}
            found => return Ok(found),
        }
    }
    Err("locks are never given back".to_owned().into())
}

fn names(damaged: &Damaged, segment: SegmentNo) -> bool {
    damaged.log.iter().any(|damage| damage.segment == segment.0)
}

fn silent(what: String, found: &Result<Examined, OpenError>) -> Wrong {
    match found {
        Ok(examined) => {
            let report = serde_json::to_string(&examined.report).unwrap_or_default();
            Wrong { kind: Kind::SilentLoss, what: format!("{what}: {report}") }
        }
        // Refused, but not by its name.
        Err(error) => Wrong { kind: Kind::Other, what: format!("{what}: {error}") },
    }
}
