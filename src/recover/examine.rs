//! Reading a shard and deciding what its opening takes. Changes nothing.

use std::collections::BTreeMap;

use crate::config::OnDamage;
use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::limits::{HANDLED_RANGES_MAX, SEGMENT_HEADER_BYTES};
use crate::recover::examined::{Examined, Intake, OpenError, ShardSetup, boot};
use crate::recover::lost::{damage, handled_ranges};
use crate::recover::read::{read_headers, scan};
use crate::report::{Damage, Damaged, ShardReport, TornTail, repair_command};
use crate::types::{BatchNo, Epoch, FileId, Nonce, SegmentNo, Seq};
use crate::wal::breaks::{Scanned, Torn};
use crate::wal::entry::{Identity, decode_entry};
use crate::wal::ring::{CutBy, Expect, LastLog, RingImage, RingVerdict, recover_ring};
use crate::wal::scan::Scan;
use crate::wal::segment::{FileName, Handled, SegmentHeader, parse_name, segment_name, spare_name};
use crate::wal::vector;
use crate::wal::verdict::Wrong;

/// Reads and judges a shard. `ring` is the whole ring file, if there is one; `progress` is told of
/// bytes as they are read.
///
/// # Errors
/// [`OpenError`]; nothing was changed.
pub fn examine(
    folder: &dyn Folder,
    setup: &ShardSetup,
    ring: Option<&[u8]>,
    progress: &mut dyn FnMut(u64),
) -> Result<Examined, OpenError> {
    let mut segments: BTreeMap<SegmentNo, u64> = BTreeMap::new();
    let (mut spares, mut unfinished) = (Vec::new(), Vec::new());
    for (name, bytes) in folder.list().map_err(OpenError::io("listing the shard's folder"))? {
        match parse_name(&name) {
            FileName::Segment(segment) => {
                segments.insert(segment, bytes);
            }
            FileName::Spare(id) => spares.push((id, bytes)),
            FileName::New(_) => unfinished.push(name),
            FileName::Other => {}
        }
    }
    spares.sort();
    unfinished.sort();
    let names =
        || segments.keys().map(|segment| segment_name(*segment)).chain(spares.iter().map(|(id, _)| spare_name(*id)));
    for name in names() {
        if !folder.try_lock(&name).map_err(OpenError::io(format!("locking {name}")))? {
            return Err(OpenError::Locked(name));
        }
    }
    // What the page cache says may not be what the device holds: make them agree, then ask the device.
    for segment in segments.keys() {
        let name = segment_name(*segment);
        folder.sync(&name).map_err(OpenError::io(format!("syncing {name}")))?;
    }
    folder.sync_folder().map_err(OpenError::io("syncing the shard's folder"))?;

    let spare_epoch = spares.iter().map(|(id, _)| epoch_of_spare(folder, setup, *id)).max().unwrap_or_default();
    let mut headers = read_headers(folder, setup, &segments)?;
    let as_it_is = |scan| scan;
    let mut scanned = scan(folder, setup.flushed, &headers, &segments, as_it_is, progress)?;
    // A salvage that was cut short handled nothing: it has not yet said so in the log, nor to anybody.
    let cut_short = |(segment, header): &(&SegmentNo, &mut Option<SegmentHeader>)| {
        **segment > scanned.end.segment && header.as_ref().is_some_and(|header| !header.handled.is_empty())
    };
    let mut cut_short_at = Vec::new();
    // Nothing in its segments is of the log; without its pin, what stands first in the oldest one would count as synced.
    let mut of_log = segments.clone();
    for (segment, header) in headers.iter_mut().filter(cut_short) {
        cut_short_at.extend(header.as_mut().into_iter().flat_map(unsay));
        of_log.insert(*segment, 0);
    }
    if !cut_short_at.is_empty() {
        scanned = scan(folder, setup.flushed, &headers, &of_log, as_it_is, progress)?;
    }
    if let Some(batch) = ring_has_all_from(setup, ring, &scanned) {
        let ending = |scan: Scan| scan.ending_before(batch);
        scanned = scan(folder, setup.flushed, &headers, &of_log, ending, progress)?;
    }
    if let Some((first, again)) = from_its_pin(folder, setup, &headers, &segments, ring, &scanned)? {
        scanned = again;
        cut_short_at.extend(headers.get_mut(&first).into_iter().flatten().flat_map(unsay));
    }
    let mut report = ShardReport {
        shard: setup.shard.0,
        log_seq: scanned.end.seq.0,
        batches: scanned.batches,
        bytes: segments.values().sum(),
        sealed: scanned.sealed,
        torn: scanned.torn.iter().map(torn_tail).collect(),
        damage: scanned.breaks.iter().flat_map(|at| damage(setup, at)).collect(),
        ..ShardReport::default()
    };
    let ring_missing = ring.is_none() && setup.intake != Intake::Direct;
    let image = RingImage(ring);
    let mut ring = match setup.intake {
        Intake::Ring | Intake::RingAfterPowerCut => behind(setup, &scanned, image),
        Intake::Direct => RingVerdict::Ignored,
    };
    let ring_is_damaged = matches!(&ring, RingVerdict::Damaged(_) | RingVerdict::Replay { damage: Some(_), .. });
    let ends_open = scanned.breaks.last().is_some_and(|at| at.resume.is_none());
    let at_end = |range: &Handled| (range.segment, range.offset) == (scanned.end.segment, scanned.end.offset);
    let said_in_part = !ends_open && is_salvage_of_the_end_in_part(&headers, &scanned, &ring);
    if let RingVerdict::Replay { header, entries, .. } = &mut ring
        && said_in_part
    {
        // It has left out what follows what is missing.
        image.leave_out_carried(header, entries);
    }
    let lost_behind = (said_in_part || (!ends_open && cut_short_at.iter().any(at_end))).then_some(scanned.end.seq);
    if !ring_is_damaged {
        // What it was about is not there to be seen any more.
        let unseen = |range: &&Handled| scanned.breaks.is_empty() || (lost_behind.is_some() && at_end(range));
        // Only a ring of this boot knows what was lost behind the range.
        let ends_known = matches!(&ring, RingVerdict::Replay { header, cut: None, .. } if header.boot == boot(setup));
        let as_damage = |range: &Handled| {
            let damage = unfinished_salvage(setup, range);
            Damage { flushed: damage.flushed && ends_known, ..damage }
        };
        report.damage.extend(cut_short_at.iter().filter(unseen).map(as_damage));
        if said_in_part {
            let (segment, offset) = (scanned.end.segment, scanned.end.offset);
            let at_end = Handled { segment, offset, ..Handled::default() };
            let behind = unfinished_salvage(setup, &at_end);
            let from_seq = Some(scanned.end.seq.next().0);
            report.damage.push(Damage { from_seq, to_seq: None, flushed: false, ..behind });
        }
    }
    let refused: Vec<Damage> = report.damage.iter().filter(|damage| !damage.flushed).cloned().collect();
    report.ring = ring_in_words(&ring, setup.flushed);
    let ring_damage = report.ring.clone().filter(|_| ring_is_damaged);
    if setup.on_damage == OnDamage::Refuse && (!refused.is_empty() || ring_damage.is_some()) {
        return Err(Box::new(Damaged { log: refused, ring: ring_damage, command: repair_command(None, None) }).into());
    }
    let last = scanned.end.segment;
    let now = scanned.breaks.iter().map(|at| (at.segment, at.resume.map_or(last, |resume| resume.resume_segment)));
    let earlier = headers.values().flatten().flat_map(|header| &header.handled);
    let earlier = earlier.map(|range| (range.segment, range.resume_segment));
    let ranges = now.chain(earlier).map(|(from, to)| from..=to.max(from));
    let damaged = ranges.flat_map(|range| segments.range(range).map(|(segment, _)| *segment)).collect();
    let has_batches = |segment| scanned.segments.iter().any(|used| used.header.segment == segment);
    let others = headers.iter().filter(|(segment, _)| !has_batches(**segment));
    let others = others.map(|(segment, header)| (*segment, header.clone()));
    let (hollow, leftover) = others.partition(|(segment, _)| *segment <= last && in_log(&scanned, *segment));
    let handled = handled_ranges(&scanned.breaks);
    if handled.len() >= HANDLED_RANGES_MAX {
        let keep = handled[handled.len() + 1 - HANDLED_RANGES_MAX].segment;
        return Err(OpenError::TooDamaged { shard: setup.shard, ranges: handled.len(), keep });
    }
    Ok(Examined {
        epoch_max: scanned
            .newest
            .as_ref()
            .map_or(Epoch(0), |header| header.epoch)
            .max(ring_epoch(&ring))
            .max(spare_epoch),
        report,
        setup: *setup,
        leftover,
        hollow,
        damaged,
        spares,
        unfinished,
        handled,
        from: SegmentNo(0),
        ring,
        lost_behind,
        ring_missing,
        scanned,
    })
}

/// Takes from a salvage's segment what it says is handled; another one stays as it is.
fn unsay(header: &mut SegmentHeader) -> Vec<Handled> {
    if !header.handled.is_empty() {
        header.pin = None;
    }
    std::mem::take(&mut header.handled)
}

/// The epoch of the newest recovery, if the log ends in it and does not say that it is over.
fn unfinished(scanned: &Scanned) -> Option<Epoch> {
    let newest = scanned.newest.as_ref()?.epoch;
    let ends_in_it = scanned.segments.last()?.header.epoch == newest;
    (ends_in_it && scanned.intake_done.0 + 1 < newest.0).then_some(newest)
}

/// The log up to where the newest recovery began, and the segment in which it did, if that one was cut short in its
/// replay and the ring still has all of what it replayed: it is done again then, into the same segments. To go on behind
/// it would use up a segment of the reserve each time, until a full disk prevented the start. A salvage is done
/// again whole: what it handled is damage still, and what it said is lost will be said again. So it is where what it
/// began with is still there, whatever the ring has.
fn from_its_pin(
    folder: &dyn Folder,
    setup: &ShardSetup,
    headers: &BTreeMap<SegmentNo, Option<SegmentHeader>>,
    segments: &BTreeMap<SegmentNo, u64>,
    ring: Option<&[u8]>,
    scanned: &Scanned,
) -> Result<Option<(SegmentNo, Scanned)>, OpenError> {
    let Some(newest) = unfinished(scanned) else { return Ok(None) };
    // The pin's segment, and so all of what that recovery wrote, is still there.
    let pinned = |header: &&SegmentHeader| header.epoch == newest && header.pin.is_some();
    let Some(first) = headers.values().flatten().find(pinned).map(|header| header.segment) else { return Ok(None) };
    // Batches of its own that did not arrive are none that anybody had been told of.
    if scanned.breaks.iter().any(|at| at.segment < first) {
        return Ok(None);
    }
    let mut upto_pin: BTreeMap<_, _> =
        headers.range(..=first).map(|(segment, header)| (*segment, header.clone())).collect();
    let mut is_salvage = false;
    if let Some(Some(header)) = upto_pin.get_mut(&first) {
        is_salvage = !unsay(header).is_empty();
    }
    // Of its first segment only the header, which holds the pin.
    let mut bytes: BTreeMap<SegmentNo, u64> =
        segments.range(..first).map(|(segment, bytes)| (*segment, *bytes)).collect();
    bytes.insert(first, 0);
    let again = scan(folder, setup.flushed, &upto_pin, &bytes, |scan| scan, &mut |_| {})?;
    let image = RingImage(ring);
    let verdict = behind(setup, &again, image);
    if ring_epoch(&verdict) >= newest {
        // That one was made when it was over.
        return Ok(None);
    }
    let has_all = match verdict {
        RingVerdict::Replay { header, entries, .. } => {
            let mut ends = again.ends.clone();
            // As that recovery did when it began.
            vector::fold(&mut ends, vector::rows_max(setup.segment_bytes).0);
            let mut scratch = Vec::new();
            for entry in entries.iter().take_while(|entry| entry.seq <= scanned.end.seq) {
                let Some(span) = entry.what.span() else { continue };
                let (head, _) = image.entry(&header, span, &mut scratch);
                let block = decode_entry(head).expect("an entry that the ring's recovery checked");
                let Identity { stream, seq } =
                    block.identity.unwrap_or(Identity { stream: header.stream(), seq: entry.seq });
                let end = ends.entry(stream).or_default();
                *end = end.behind(&block, seq);
            }
            ends == scanned.ends && entries.last().is_some_and(|last| last.seq >= scanned.end.seq)
        }
        _ => false,
    };
    // What it did not come to may be in a batch that is damaged in part, or it came to nothing.
    let is_all_there = is_salvage && again.end.seq >= scanned.end.seq;
    Ok((has_all || is_all_there).then_some((first, again)))
}

/// The log ends in what a salvage of its damaged end wrote before it was cut short, and the ring has no longer all of the
/// rest, or it would be done again: what is missing had perhaps been synced where the damage was.
fn is_salvage_of_the_end_in_part(
    headers: &BTreeMap<SegmentNo, Option<SegmentHeader>>,
    scanned: &Scanned,
    ring: &RingVerdict,
) -> bool {
    let Some(newest) = unfinished(scanned) else { return false };
    let of_the_end = |header: &SegmentHeader| {
        let own = (header.segment, SEGMENT_HEADER_BYTES as u32);
        header.epoch == newest && header.handled.iter().any(|range| (range.resume_segment, range.resume_offset) == own)
    };
    // A ring of its own epoch was made when it was over.
    ring_epoch(ring) < newest && headers.values().flatten().any(of_the_end)
}

/// The first of the batches at the log's end that are damaged in part, one behind the other, and of which the ring still
/// has everything: they are taken from there. Whole ones are never given up for it: a power cut may take the ring.
fn ring_has_all_from(setup: &ShardSetup, ring: Option<&[u8]>, scanned: &Scanned) -> Option<BatchNo> {
    if setup.intake == Intake::Direct {
        return None;
    }
    let (mut first, mut behind) = (None, (scanned.end.segment, scanned.end.offset));
    for at in scanned.breaks.iter().rev() {
        let (Some(range), Some(next), Some(in_part)) = (at.resume, at.next, &at.in_part) else { break };
        if at.wrong == Wrong::Anew || (range.resume_segment, range.resume_offset) != behind {
            break;
        }
        behind = (range.segment, range.offset);
        // Where nothing is lost, or the store has it, there is nothing to take from the ring.
        if in_part.is_nothing() || range.resume_seq.prev() <= setup.flushed {
            continue;
        }
        let mut expected = expectation(setup, scanned);
        (expected.last_log.seq, expected.last_log.lost_to_damage) = (next.seq.prev(), true);
        match recover_ring(&RingImage(ring), &expected) {
            RingVerdict::Replay { from, entries, damage: None, .. }
                if from <= next.seq && entries.last().is_some_and(|last| last.seq >= scanned.end.seq) =>
            {
                first = Some(next.number);
            }
            _ => break,
        }
    }
    first
}

/// What becomes of the ring behind this log.
fn behind(setup: &ShardSetup, scanned: &Scanned, image: RingImage<'_>) -> RingVerdict {
    let mut verdict = recover_ring(&image, &expectation(setup, scanned));
    let lost_whole = scanned.breaks.iter().any(|at| at.in_part.is_none() && at.resume.is_some());
    if let RingVerdict::Replay { header, from, entries, .. } = &mut verdict
        && (lost_whole
            || !scanned.knows_ends
            || *from > scanned.end.seq.next()
            || is_salvage_cut_short(scanned, header.epoch))
    {
        image.leave_out_carried(header, entries);
    }
    verdict
}

/// A salvage behind this ring's opening has begun to write the ring's entries, and was cut short: it has left out what
/// follows what it found missing, and so must who goes on with it.
fn is_salvage_cut_short(scanned: &Scanned, ring: Epoch) -> bool {
    let headers = || scanned.segments.iter().rev().map(|found| &found.header);
    let Some(newest) = headers().next().filter(|newest| newest.epoch > ring) else { return false };
    let before = headers().find(|header| header.epoch <= ring).map_or(&[][..], |header| &header.handled);
    newest.handled.iter().any(|range| !before.contains(range))
}

fn expectation(setup: &ShardSetup, scanned: &Scanned) -> Expect {
    let newest = scanned.newest.as_ref();
    Expect {
        store: setup.store,
        shard: setup.shard,
        boot: boot(setup),
        last_log: LastLog {
            epoch: newest.map_or(Epoch(0), |header| header.epoch),
            nonce: newest.map_or(Nonce(0), |header| header.nonce),
            boot: newest.map_or([0; 16], |header| header.boot),
            seq: scanned.end.seq,
            intake_done: scanned.intake_done,
            // A seal speaks for the opening that it ended, not for one that began since.
            sealed: scanned.sealed
                && scanned.segments.last().map(|last| last.header.epoch) == newest.map(|header| header.epoch),
            lost_to_damage: scanned.breaks.last().is_some_and(|last| last.resume.is_none()),
        },
    }
}

/// The epoch in which a spare was last in use: where damage took the log's newest segments, and a salvage that was
/// cut short has given back those ahead of them, nothing else knows that it was given.
fn epoch_of_spare(folder: &dyn Folder, setup: &ShardSetup, id: FileId) -> Epoch {
    let mut buf = AlignedBuf::new(SEGMENT_HEADER_BYTES);
    // One that cannot be read is not used again.
    let count = folder.read(&spare_name(id), 0, &mut buf).unwrap_or(0);
    let header = SegmentHeader::decode(&buf[..count]).ok();
    let ours = header.filter(|header| header.store == setup.store && header.shard == setup.shard);
    ours.map_or(Epoch(0), |header| header.epoch)
}

fn ring_epoch(ring: &RingVerdict) -> Epoch {
    match ring {
        RingVerdict::Replay { header, .. } => header.epoch,
        _ => Epoch(0),
    }
}

/// The segment holds something of the log, or lies in a damaged range that is kept.
fn in_log(scanned: &Scanned, segment: SegmentNo) -> bool {
    let first = scanned.segments.first().map_or(scanned.end.segment, |first| first.header.segment);
    segment >= first.min(scanned.breaks.first().map_or(first, |at| at.segment)) && segment <= scanned.end.segment
}

/// What the ring says of itself, where it is not simply replayed.
fn ring_in_words(ring: &RingVerdict, flushed: Seq) -> Option<String> {
    match ring {
        RingVerdict::Ignored => None,
        RingVerdict::Quarantine(why) => Some(format!("{why}; after a power cut: in quarantine")),
        RingVerdict::Damaged(why) => Some(why.to_string()),
        RingVerdict::Replay { cut, damage, .. } => {
            let damage = damage.as_ref().map(|damage| {
                let ranges = damage.lost_behind(flushed).map(|(first, last)| format!("{first}..{last}"));
                let what = match ranges.collect::<Vec<_>>().join(", ") {
                    none if none.is_empty() => "the store has what is lost".to_owned(),
                    ranges => format!("seq {ranges} lost"),
                };
                format!("slot {}: {}; {what}", damage.slot, damage.why)
            });
            let cut = cut.as_ref().map(|cut| {
                let how = match cut.by {
                    CutBy::PowerCut => "a power cut",
                    CutBy::LostLog => "an I/O error, counted as a power cut",
                };
                format!("ended at seq {} by {how}; {} later entries in quarantine", cut.at, cut.later.len())
            });
            damage.into_iter().chain(cut).reduce(|damage, cut| format!("{damage}; {cut}"))
        }
    }
}

/// Damage that a salvage had begun to handle when it was cut short.
fn unfinished_salvage(setup: &ShardSetup, range: &Handled) -> Damage {
    let to = range.resume_seq.prev();
    Damage {
        shard: setup.shard.0,
        segment: range.segment.0,
        offset: range.offset,
        from_seq: None,
        to_seq: Some(to.0),
        lost_blocks: None,
        wrong: "lost to damage; its salvage was cut short, its bytes are in quarantine".to_owned(),
        flushed: to <= setup.flushed,
    }
}

fn torn_tail(torn: &Torn) -> TornTail {
    TornTail { segment: torn.segment.0, offset: torn.offset, upto: torn.upto }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Chain, ShardId, StoreId};
    use crate::wal::intake::{FREED_AT, RingHeader, SLOT_BYTES, SLOTS_AT, Slot, slot_checksum};
    use crate::wal::log::LogBounds;
    use crate::wal::segment::LogEnd;

    const NOW: [u8; 16] = [9; 16];
    const BEFORE: [u8; 16] = [8; 16];

    fn ring(boot: [u8; 16]) -> RingHeader {
        let (store, shard, epoch, nonce) = (StoreId([7; 16]), ShardId(3), Epoch(4), Nonce(5));
        RingHeader { store, shard, boot, epoch, nonce, first_seq: Seq(1), slots: 64, bytes: 64 << 10 }
    }

    /// A ring with three voids, as a running engine leaves it.
    fn image(header: &RingHeader) -> Vec<u8> {
        let mut bytes = vec![0; header.file_bytes() as usize];
        for at in [0, SLOTS_AT / 2] {
            bytes[at..at + header.encode().len()].copy_from_slice(&header.encode());
        }
        let freed = crate::wal::intake::freed_word(header.slot_seed(), Seq(1), Seq(0));
        bytes[FREED_AT..FREED_AT + 8].copy_from_slice(&freed.to_le_bytes());
        let void = crate::wal::entry::void_entry();
        for seq in 1..=3u64 {
            let unit = seq as usize - 1;
            let at = header.area_at() as usize + unit * 64;
            bytes[at..at + void.bytes().len()].copy_from_slice(void.bytes());
            let slot = Slot {
                claim_unit: unit as u32,
                claim_units: 1,
                length: 0,
                header_bytes: void.bytes().len() as u32,
                header_crc: crc32fast::hash(void.bytes()),
                payload_crc: crc32fast::hash(&[]),
            };
            let sum = slot_checksum(slot.premix(header.slot_seed()), Seq(seq));
            let words = [seq, sum].into_iter().chain(slot.words()).flat_map(u64::to_le_bytes);
            let slot_at = SLOTS_AT + seq as usize * SLOT_BYTES;
            words.enumerate().for_each(|(index, byte)| bytes[slot_at + index] = byte);
        }
        bytes
    }

    /// What becomes of a ring: how many entries are replayed and whether it was cut, or why it is not.
    fn verdict(intake: Intake, boot: [u8; 16], image: Option<&[u8]>) -> String {
        let newest = SegmentHeader {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            segment: SegmentNo(1),
            epoch: Epoch(4),
            nonce: Nonce(5),
            file_id: FileId(1),
            generation: crate::types::Generation(1),
            filled_upto: 0,
            segment_bytes: 1 << 20,
            boot,
            pin: None,
            handled: Vec::new(),
        };
        let end = LogEnd { segment: SegmentNo(1), chain: Chain(1), ..LogEnd::default() };
        let scanned = Scanned { newest: Some(newest), end, intake_done: Epoch(3), ..Scanned::default() };
        let setup = ShardSetup {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            boot: NOW,
            segment_bytes: 1 << 20,
            bounds: LogBounds { segments_max: 8, reserve: 1 },
            batch_bytes_max: 4096,
            on_damage: OnDamage::Refuse,
            flushed: Seq(0),
            intake,
        };
        match recover_ring(&RingImage(image), &expectation(&setup, &scanned)) {
            RingVerdict::Ignored => "ignored".to_owned(),
            RingVerdict::Damaged(_) | RingVerdict::Replay { damage: Some(_), .. } => "damaged".to_owned(),
            RingVerdict::Quarantine(_) => "quarantine".to_owned(),
            RingVerdict::Replay { entries, cut: None, .. } => format!("{} taken", entries.len()),
            RingVerdict::Replay { entries, cut: Some(cut), .. } => {
                format!("{} taken, cut, {} behind", entries.len(), cut.later.len())
            }
        }
    }

    #[test]
    fn a_ring_that_is_to_count_as_after_a_power_cut_is_judged_as_one_of_another_boot() {
        // (what is wrong with it, its verdict within one boot, and after another)
        let table: [(&str, &str, &str); 5] = [
            ("nothing", "3 taken", "3 taken"),
            ("a slot", "damaged", "1 taken, cut, 1 behind"),
            ("both headers", "damaged", "quarantine"),
            ("its length", "damaged", "quarantine"),
            ("missing", "damaged", "quarantine"),
        ];
        for (wrong, one_boot, another) in table {
            for boot in [NOW, BEFORE] {
                let mut bytes = image(&ring(boot));
                match wrong {
                    "a slot" => bytes[SLOTS_AT + 2 * SLOT_BYTES + 8] ^= 1,
                    "both headers" => [0, SLOTS_AT / 2].into_iter().for_each(|at| bytes[at + 40] ^= 1),
                    "its length" => bytes.truncate(bytes.len() - 4096),
                    _ => {}
                }
                let bytes = (wrong != "missing").then_some(&bytes[..]);
                let by_boot = if boot == NOW { one_boot } else { another };
                assert_eq!(verdict(Intake::Ring, boot, bytes), by_boot, "{wrong}");
                assert_eq!(verdict(Intake::RingAfterPowerCut, boot, bytes), another, "{wrong}");
            }
        }
    }
}
