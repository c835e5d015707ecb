//! Carrying an opening out: the only part of recovery that writes.

use std::io;

use crate::io::buf::AlignedBuf;
use crate::io::disk::{Folder, read_around};
use crate::io::maker::Maker;
use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::recover::append::{Appender, Ground};
use crate::recover::examined::{Examined, Intake, OpenError};
use crate::recover::lost::{gap_in_words, gaps};
use crate::report::ShardReport;
use crate::types::{BatchNo, Epoch, FileId, Generation, SegmentNo, ShardId, Stream};
use crate::wal::breaks::Partly;
use crate::wal::entry::{Control, Entry, EntryKind, Identity, decode_entry, void_entry};
use crate::wal::log::{Log, UsedSegment};
use crate::wal::ring::{Replay, RingImage, RingVerdict, What};
use crate::wal::segment::{Handled, LogEnd, SegmentHeader, segment_name};

/// Where bytes go that are no part of the log any more but must not be lost.
pub trait Quarantine {
    /// Keeps a copy, durably.
    ///
    /// # Errors
    /// As the file system says.
    fn keep(&mut self, kept: Kept<'_>) -> io::Result<()>;
}

/// Bytes for the quarantine.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The shard.
    pub shard: ShardId,
    /// The segment; 0 for the ring.
    pub segment: SegmentNo,
    /// Where the bytes stood, in bytes.
    pub offset: u64,
    /// Damaged bytes are kept without a bound, torn tails within one.
    pub damaged: bool,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// The first step: copies to quarantine what will not be part of the log or of a ring any more.
/// Where [`Examined::needs_new_ring`], the caller then puts an empty ring of epoch 0 in place, so
/// that a cut after the new epoch's header is not taken for a ring that was lost.
///
/// # Errors
/// [`OpenError::Io`]; doing it again is safe.
pub fn put_aside(
    examined: &Examined,
    folder: &dyn Folder,
    quarantine: &mut dyn Quarantine,
    ring_image: Option<&[u8]>,
) -> Result<(), OpenError> {
    let shard = examined.setup.shard;
    let segment_bytes = examined.setup.segment_bytes as usize;
    let mut keep = |segment: SegmentNo, from: usize, upto: usize, damaged: bool| {
        let name = segment_name(segment);
        let mut buf = AlignedBuf::new((upto - from).max(PAGE_BYTES));
        let Ok(count) = read_around(folder, &name, from as u64, &mut buf) else {
            // A missing file is part of the damage that is being salvaged.
            return Ok(());
        };
        let bytes = &buf[..count.min(upto - from)];
        quarantine
            .keep(Kept { shard, segment, offset: from as u64, damaged, bytes })
            .map_err(OpenError::io(format!("copying {name} to quarantine")))
    };
    for torn in &examined.scanned.torn {
        keep(torn.segment, torn.offset as usize, torn.upto as usize, false)?;
    }
    for at in &examined.scanned.breaks {
        let upto = match at.resume {
            Some(resume) if resume.resume_segment == at.segment => resume.resume_offset as usize,
            _ => segment_bytes,
        };
        keep(at.segment, at.offset as usize, upto, true)?;
        if let Some((segment, offset)) = at.also {
            keep(segment, offset as usize, segment_bytes, true)?;
        }
    }
    // Of several segments that cannot be read in one place of the log a break names the first.
    let named = |segment: SegmentNo| examined.scanned.breaks.iter().any(|at| (at.segment, at.offset) == (segment, 0));
    for (segment, header) in examined.hollow.iter().chain(&examined.leftover) {
        if header.is_none() && !named(*segment) {
            keep(*segment, 0, segment_bytes, true)?;
        }
    }
    let ring_aside = match &examined.ring {
        RingVerdict::Ignored | RingVerdict::Replay { cut: None, damage: None, .. } => None,
        RingVerdict::Replay { cut: Some(cut), damage: None, .. } => (!cut.later.is_empty()).then_some(false),
        RingVerdict::Quarantine(_) => Some(false),
        RingVerdict::Damaged(_) | RingVerdict::Replay { damage: Some(_), .. } => Some(true),
    };
    if let (Some(damaged), Some(bytes)) = (ring_aside, ring_image) {
        quarantine
            .keep(Kept { shard, segment: SegmentNo(0), offset: 0, damaged, bytes })
            .map_err(OpenError::io("copying intake.ring to quarantine"))?;
    }
    Ok(())
}

/// A shard's log, ready for a core.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The gaps that it names.
    pub gaps: Vec<Control>,
    /// Its batches that are damaged in part.
    pub partly: Partly,
    /// What was found and done.
    pub report: ShardReport,
}

/// The second step, after [`put_aside`]: does what the examination decided; afterwards the log is ready for a core, and no ring of an
/// older epoch is needed. `own` names the new epoch, higher than [`Examined::epoch_max`].
///
/// # Errors
/// [`OpenError`]; doing all of it again is safe.
pub fn carry_out(
    mut examined: Examined,
    folder: &dyn Folder,
    maker: &mut Maker,
    own: Stream,
    ring_image: Option<&[u8]>,
) -> Result<Opened, OpenError> {
    assert!(own.epoch > examined.epoch_max, "a new epoch");
    for name in &examined.unfinished {
        folder.remove(name).map_err(OpenError::io(format!("removing {name}")))?;
    }
    for &(id, bytes) in &examined.spares {
        maker.adopt_spare(folder, id, bytes).map_err(OpenError::io(format!("adopting spare {:016x}", id.0)))?;
    }
    let now = gaps(&examined);
    let beginning = beginning(&mut examined);
    // From the highest down: at no time may a segment seem to be missing in between.
    for (segment, header) in examined.leftover.iter().rev() {
        let name = segment_name(*segment);
        match header {
            Some(header) if !examined.damaged.contains(segment) => maker.adopt_segment(header),
            // Not known to the maker, so removed.
            Some(_) => {}
            None => {
                folder.remove(&name).map_err(OpenError::io(format!("removing {name}")))?;
                folder.sync_folder().map_err(OpenError::io("syncing the shard's folder"))?;
                continue;
            }
        }
        maker.retire(folder, *segment, 0).map_err(OpenError::io(format!("retiring {name}")))?;
    }
    give_back(&mut examined, folder, maker)?;
    examined.report.gaps = now.iter().filter_map(gap_in_words).collect();
    let gaps: Vec<Control> = examined.scanned.gaps.iter().map(|(_, gap)| *gap).chain(now.iter().copied()).collect();
    let mut at = Ground { folder, maker };
    let mut log = begin_epoch(&mut examined, beginning, &mut at, own, gaps)?;
    for gap in now {
        let payload = gap.encode();
        log.push(&mut at, gap.entry(&payload).bytes(), &payload)?;
    }
    if let RingVerdict::Replay { header, entries, .. } = &examined.ring {
        let stream = header.stream();
        let image = RingImage(ring_image);
        let mut scratch = Vec::new();
        for entry in entries {
            let replayed = match &entry.what {
                What::Block(span) | What::Adopted(span) => {
                    let (head, payload) = image.entry(header, span, &mut scratch);
                    replay(&mut log, &mut at, stream, entry, (head, payload))?
                }
                What::Void => log.push(&mut at, void_entry().bytes(), &[]).map(|()| EntryKind::Void)?,
            };
            match replayed {
                EntryKind::Carried => examined.report.replayed_blocks += 1,
                EntryKind::Void => examined.report.voids += 1,
                _ => {}
            }
        }
    }
    let done = Control::IntakeDone(Epoch(own.epoch.0 - 1));
    let payload = done.encode();
    log.push(&mut at, done.entry(&payload).bytes(), &payload)?;
    log.sync(&mut at)?;
    log.make_reserve(&mut at)?;
    let log = log.into_log();
    // With what the ring has adopted.
    let gaps = log.gaps.clone();
    Ok(Opened { log, gaps, partly: examined.scanned.partly, report: examined.report })
}

/// Gives back the segments that are not needed, oldest first.
fn give_back(examined: &mut Examined, folder: &dyn Folder, maker: &mut Maker) -> Result<(), OpenError> {
    let segments = &mut examined.scanned.segments;
    let count = segments.iter().take_while(|used| used.header.segment < examined.from).count();
    for UsedSegment { header, end, .. } in segments.drain(..count) {
        if !examined.damaged.contains(&header.segment) {
            maker.adopt_segment(&header);
        }
        let name = segment_name(header.segment);
        maker.retire(folder, header.segment, end).map_err(OpenError::io(format!("retiring {name}")))?;
    }
    Ok(())
}

/// An entry of the ring under the identity that it was accepted with, a block as `carried`; the kind that it has now.
fn replay(
    log: &mut Appender,
    at: &mut Ground<'_>,
    stream: Stream,
    entry: &Replay,
    (head, payload): (&[u8], &[u8]),
) -> Result<EntryKind, OpenError> {
    let header = decode_entry(head).expect("an entry that the ring's recovery checked");
    #[cfg(feature = "sim")]
    let is_dropped =
        header.kind == EntryKind::Adopted && crate::planted::is_planted(crate::planted::Mutant::AdoptedDropped);
    #[cfg(not(feature = "sim"))]
    let is_dropped = false;
    if header.kind == EntryKind::Void || is_dropped {
        return log.push(at, void_entry().bytes(), &[]).map(|()| EntryKind::Void);
    }
    #[cfg(feature = "sim")]
    let stream = match crate::planted::is_planted(crate::planted::Mutant::ReplayUnderNewEpoch) {
        true => log.own(),
        false => stream,
    };
    let identity = header.identity.unwrap_or(Identity { stream, seq: entry.seq });
    let kind = if header.kind == EntryKind::Adopted { EntryKind::Adopted } else { EntryKind::Carried };
    let carried = Entry { kind, identity: Some(identity), ..header }.encode();
    log.push(at, carried.bytes(), payload).map(|()| kind)
}

/// Where the log goes on, and the segment that is already there, if it may be put to use again.
struct Beginning {
    pin: LogEnd,
    /// Its header, and where its log ended.
    renewed: Option<(SegmentHeader, u32)>,
}

/// Where the log's last segment holds no block it is put to use again, so that a crash loop does not
/// use up segments; unless it alone says what there was before it of each stream. So is a leftover that has
/// the next segment's number: it may be the only one that says where the log ends, and it must not be gone
/// before another one says so.
fn beginning(examined: &mut Examined) -> Beginning {
    let scanned = &mut examined.scanned;
    let mut pin = scanned.end;
    let mut renewed = None;
    let empty = scanned.segments.last().is_some_and(|last| {
        last.header.segment == scanned.end.segment
            && last.header.handled.is_empty()
            && last.header.pin.is_some_and(|pin| pin.seq == last.last_seq && pin.segment.0 + 1 == last.header.segment.0)
    });
    // Cut short, nobody would know that nothing was there of the streams in the ring.
    let replays = matches!(&examined.ring, RingVerdict::Replay { entries, .. } if !entries.is_empty());
    let is_said_before = examined.setup.intake == Intake::Direct
        || scanned.segments.len() > 1
        || (scanned.ends.is_empty() && scanned.gaps.is_empty() && !replays);
    let names_no_gap = scanned.gaps.iter().all(|(segment, _)| *segment != scanned.end.segment);
    if empty && is_said_before && names_no_gap && scanned.breaks.is_empty() {
        let last = scanned.segments.pop().expect("the segment just looked at");
        pin = last.header.pin.expect("a pinned segment");
        renewed = Some((last.header, last.end));
    }
    let next = SegmentNo(pin.segment.0 + 1);
    let leftover = examined.leftover.iter().position(|(segment, _)| *segment == next);
    if let (None, Some(index)) = (&renewed, leftover) {
        // A damaged file is not used again; another is renamed over it.
        let (segment, header) = examined.leftover.remove(index);
        renewed = header.filter(|_| !examined.damaged.contains(&segment)).map(|header| (header, 0));
    }
    // Where the log's tail is lost to damage, the seqs in it are passed over: what the ring has keeps
    // its place, and no seq that the store has data of is given again.
    match &mut examined.ring {
        RingVerdict::Replay { from, entries, .. }
            if entries.last().is_some_and(|last| last.seq > examined.setup.flushed) =>
        {
            pin.seq = pin.seq.max(from.prev());
        }
        RingVerdict::Replay { entries, .. } if examined.setup.flushed > pin.seq => {
            entries.clear();
            pin.seq = examined.setup.flushed;
        }
        _ => pin.seq = pin.seq.max(examined.setup.flushed),
    }
    Beginning { pin, renewed }
}

/// Makes the segment in which the new epoch begins.
fn begin_epoch(
    examined: &mut Examined,
    Beginning { pin, renewed }: Beginning,
    at: &mut Ground<'_>,
    own: Stream,
    gaps: Vec<Control>,
) -> Result<Appender, OpenError> {
    let (bounds, soft_bytes) = (examined.setup.bounds, examined.setup.batch_bytes_max);
    let scanned = &mut examined.scanned;
    #[cfg(feature = "sim")]
    if crate::planted::is_planted(crate::planted::Mutant::AppendToRecovered)
        && let Some(last) =
            scanned.segments.pop_if(|last| (last.end as usize) + 4 * PAGE_BYTES < last.header.segment_bytes as usize)
    {
        at.maker.adopt_segment(&last.header);
        let (used, ready) = (scanned.segments.drain(..).collect(), std::collections::VecDeque::new());
        let (ends, gaps, says_vector) = (std::mem::take(&mut scanned.ends), gaps, true);
        let (number, chain) = (pin.batch, pin.chain);
        let log = Log { used, current: last, ready, number, chain, ends, gaps, says_vector, prev_end: 0 };
        return Ok(Appender::new(log, own, bounds, soft_bytes));
    }
    let mut handled = examined.handled.clone();
    let open_end = examined.lost_behind.is_some() || scanned.breaks.last().is_some_and(|at| at.resume.is_none());
    let ring_is_damaged = matches!(&examined.ring, RingVerdict::Replay { damage: Some(_), .. });
    if open_end || (ring_is_damaged && pin.seq > scanned.end.seq) {
        // Until a batch says what is lost, this tells the next open that a salvage was cut short.
        handled.push(Handled {
            segment: pin.segment,
            offset: pin.offset,
            resume_segment: SegmentNo(pin.segment.0 + 1),
            resume_offset: SEGMENT_HEADER_BYTES as u32,
            resume_batch: BatchNo(pin.batch.0 + 1),
            resume_chain: pin.chain,
            resume_seq: pin.seq.next(),
        });
    }
    let header = SegmentHeader {
        store: own.origin,
        shard: own.shard,
        segment: SegmentNo(pin.segment.0 + 1),
        epoch: own.epoch,
        nonce: own.nonce,
        file_id: FileId(0),
        generation: Generation(0),
        filled_upto: 0,
        segment_bytes: examined.setup.segment_bytes,
        boot: examined.setup.boot,
        pin: Some(pin),
        handled,
    };
    let hollow = examined.hollow.iter().filter_map(|(_, header)| header.as_ref());
    let headers = scanned.segments.iter().map(|used| &used.header).chain(hollow);
    for header in headers.filter(|header| !examined.damaged.contains(&header.segment)) {
        at.maker.adopt_segment(header);
    }
    let renewed = match &renewed {
        Some((old, end)) => at
            .maker
            .renew(at.folder, old, *end, header.clone())
            .map_err(OpenError::io(format!("renewing {}", segment_name(header.segment))))?,
        None => None,
    };
    let header = match renewed {
        Some(header) => header,
        None => at.prepare(header)?,
    };
    let used = with_hollow(scanned.segments.drain(..).collect(), &examined.hollow, &header, pin);
    let current = UsedSegment {
        header,
        first_batch: BatchNo(pin.batch.0 + 1),
        first_seq: pin.seq.next(),
        last_seq: pin.seq,
        end: SEGMENT_HEADER_BYTES as u32,
    };
    let log = Log {
        used,
        current,
        ready: std::collections::VecDeque::new(),
        number: pin.batch,
        chain: pin.chain,
        ends: std::mem::take(&mut scanned.ends),
        gaps,
        // One that only one writer reads, and who keeps what it says anew.
        says_vector: examined.setup.intake != Intake::Direct,
        prev_end: pin.offset,
    };
    Ok(Appender::new(log, own, bounds, soft_bytes))
}

/// The log's segments with those between them that hold nothing but damage, so that these are given
/// back in their turn: one that stayed behind would seem to be the log's beginning.
fn with_hollow(
    segments: Vec<UsedSegment>,
    hollow: &[(SegmentNo, Option<SegmentHeader>)],
    next: &SegmentHeader,
    pin: LogEnd,
) -> std::collections::VecDeque<UsedSegment> {
    let mut used: Vec<UsedSegment> = segments;
    for (segment, header) in hollow.iter().rev() {
        let at = used.partition_point(|used| used.header.segment < *segment);
        let (batch, seq) =
            used.get(at).map_or((pin.batch.0 + 1, pin.seq), |used| (used.first_batch.0, used.first_seq.prev()));
        let header = header.clone().unwrap_or_else(|| SegmentHeader { segment: *segment, ..next.clone() });
        let (first_batch, end) = (BatchNo(batch), SEGMENT_HEADER_BYTES as u32);
        used.insert(at, UsedSegment { header, first_batch, first_seq: seq.next(), last_seq: seq, end });
    }
    used.into()
}
