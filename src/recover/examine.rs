//! Reading a shard and deciding what its opening takes. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc;
use std::thread;

use crate::config::OnDamage;
use crate::io::buf::AlignedBuf;
use crate::io::disk::{Folder, UNREADABLE, is_no_space, read_around};
use crate::limits::{HANDLED_RANGES_MAX, PAGE_BYTES, SEGMENT_BYTES, SEGMENT_HEADER_BYTES};
use crate::report::{Damage, Damaged, ShardReport, TornTail, repair_command};
use crate::types::{Epoch, FileId, Nonce, SegmentNo, Seq, ShardId, StoreId};
use crate::wal::batch::StreamEnd;
use crate::wal::entry::{Identity, decode_entry};
use crate::wal::log::LogBounds;
use crate::wal::ring::{CutBy, Expect, LastLog, RingDamage, RingImage, RingVerdict, What, recover_ring};
use crate::wal::scan::{Break, Scan, Scanned, Torn};
use crate::wal::segment::{FileName, Handled, SegmentHeader, parse_name, segment_name, spare_name};

/// Bytes per read of a segment, and how many a reader may be ahead of the scan.
const READ_BYTES: usize = 4 << 20;
/// Logs below this size are read without a thread of their own.
const THREAD_FROM_BYTES: u64 = 32 << 20;

/// No kernel's boot id: those are UUIDs of version 4.
const ANOTHER_BOOT: [u8; 16] = [0xff; 16];

/// What is known of a shard before it is opened.
#[derive(Clone, Copy, Debug)]
pub struct ShardSetup {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The boot that is running now.
    pub boot: [u8; 16],
    /// A segment's length in bytes.
    pub segment_bytes: u64,
    /// Segments.
    pub bounds: LogBounds,
    /// A batch's size in bytes beyond which no block joins it.
    pub batch_bytes_max: usize,
    /// What to do about damage.
    pub on_damage: OnDamage,
    /// Up to which seq the store holds data.
    pub flushed: Seq,
    /// Whether it has a ring.
    pub intake: Intake,
}

/// Where the entries of a log come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// An intake ring, whose entries may be ahead of the log.
    Ring,
    /// The same, and it counts as after a power cut, whatever the boot ids say: for a device that was
    /// detached and attached again.
    RingAfterPowerCut,
    /// One writer, who waits for the log itself.
    Direct,
}

/// Why a shard cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Acknowledged, unflushed data is damaged.
    #[error(transparent)]
    Damaged(#[from] Box<Damaged>),
    /// A write of a killed process, or another process, still holds this file; try again.
    #[error("{0} is still locked by a write of another process")]
    Locked(String),
    /// A file belongs to another store or shard.
    #[error(
        "{name} is of store {store}, shard {shard}; it does not belong here. Move it away, or restore the right one"
    )]
    Foreign {
        /// The file.
        name: String,
        /// The store that its header names.
        store: StoreId,
        /// The shard that its header names.
        shard: ShardId,
    },
    /// There are more damaged ranges than salvage can name.
    #[error(
        "shard {shard} has {ranges} damaged ranges, more than salvage can name at once. To go on: copy the store, move \
         the segments before {} out of the shard's folder, and salvage what is left",
        segment_name(*.keep)
    )]
    TooDamaged {
        /// The shard.
        shard: ShardId,
        /// Ranges.
        ranges: usize,
        /// The first segment with which they can be named.
        keep: SegmentNo,
    },
    /// A system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// The disk is full: what was tried may be tried again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }

    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

/// A shard that was read, and what its opening takes.
#[derive(Debug)]
pub struct Examined {
    /// The highest epoch that the shard has seen; the new one must be higher.
    pub epoch_max: Epoch,
    /// What was found.
    pub report: ShardReport,
    pub(crate) setup: ShardSetup,
    pub(crate) scanned: Scanned,
    /// Segments that hold nothing of the log, with their headers, if readable.
    pub(crate) leftover: Vec<(SegmentNo, Option<SegmentHeader>)>,
    /// Segments in the middle of the log that hold nothing but damage.
    pub(crate) hollow: Vec<(SegmentNo, Option<SegmentHeader>)>,
    /// Segments that damage was found in, now or earlier: their files are not used again.
    pub(crate) damaged: BTreeSet<SegmentNo>,
    pub(crate) spares: Vec<(FileId, u64)>,
    pub(crate) unfinished: Vec<String>,
    pub(crate) handled: Vec<Handled>,
    /// Nothing before this segment is needed any more.
    pub(crate) from: SegmentNo,
    pub(crate) ring: RingVerdict,
    /// A salvage was cut short that had put the damaged end of the log aside and not yet said so in it:
    /// what was lost stood behind this seq.
    pub(crate) lost_behind: Option<Seq>,
    ring_missing: bool,
}

impl Examined {
    /// The ring that is there, if any, cannot be read and would be missed by the next open.
    #[must_use]
    pub const fn needs_new_ring(&self) -> bool {
        match &self.ring {
            RingVerdict::Ignored => self.ring_missing,
            RingVerdict::Replay { .. } => false,
            RingVerdict::Quarantine(_) | RingVerdict::Damaged(_) => true,
        }
    }

    /// The seq of the first block that may stand in the log; `None` where there is no log.
    #[must_use]
    pub fn first_seq(&self) -> Option<Seq> {
        self.scanned.segments.first().map(|oldest| oldest.first_seq)
    }

    /// The segment in which the log ends, and the last seq that log and ring have together.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn reach(&self) -> (SegmentNo, Seq) {
        let in_ring = match &self.ring {
            RingVerdict::Replay { entries, .. } => entries.last().map(|last| last.seq),
            _ => None,
        };
        (self.scanned.end.segment, self.scanned.end.seq.max(in_ring.unwrap_or_default()))
    }

    /// Entries of the ring are to be replayed, or all of it goes to quarantine.
    #[must_use]
    pub const fn needs_ring_image(&self) -> bool {
        match &self.ring {
            RingVerdict::Ignored => false,
            RingVerdict::Replay { entries, cut, damage, .. } => {
                !entries.is_empty() || cut.is_some() || damage.is_some()
            }
            RingVerdict::Quarantine(_) | RingVerdict::Damaged(_) => true,
        }
    }
}

/// The epoch of a store's next opening: one for all shards, so that a cursor over them can be compared,
/// and above every one that any of them has seen.
#[must_use]
pub fn next_epoch<'a>(shards: impl IntoIterator<Item = &'a Examined>) -> Epoch {
    let epochs = shards.into_iter().map(|examined| examined.epoch_max);
    #[cfg(feature = "sim")]
    if crate::planted::is_planted(crate::planted::Mutant::EpochOfOneShard) {
        return Epoch(epochs.last().map_or(0, |last| last.0) + 1);
    }
    Epoch(epochs.max().map_or(0, |max| max.0) + 1)
}

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
    let mut scanned = scan(folder, setup.flushed, &headers, &segments, progress)?;
    // A salvage that was cut short handled nothing: it has not yet said so in the log, nor to anybody.
    let cut_short = |(segment, header): &(&SegmentNo, &mut Option<SegmentHeader>)| {
        **segment > scanned.end.segment && header.as_ref().is_some_and(|header| !header.handled.is_empty())
    };
    let mut cut_short_at = Vec::new();
    let unsaid: Vec<_> = headers.iter_mut().filter(cut_short).filter_map(|(_, header)| header.as_mut()).collect();
    if !unsaid.is_empty() {
        for header in unsaid {
            cut_short_at.append(&mut header.handled);
            header.pin = None;
        }
        scanned = scan(folder, setup.flushed, &headers, &segments, progress)?;
    }
    if let Some(again) = from_its_pin(folder, setup, &headers, &segments, ring, &scanned)? {
        scanned = again;
    }
    let mut report = ShardReport {
        shard: setup.shard.0,
        log_seq: scanned.end.seq.0,
        batches: scanned.batches,
        bytes: segments.values().sum(),
        sealed: scanned.sealed,
        torn: scanned.torn.iter().map(torn_tail).collect(),
        damage: scanned.breaks.iter().map(|at| damage(setup, at)).collect(),
        ..ShardReport::default()
    };
    let ring_missing = ring.is_none() && setup.intake != Intake::Direct;
    let ring = match setup.intake {
        Intake::Ring | Intake::RingAfterPowerCut => recover_ring(&RingImage(ring), &expectation(setup, &scanned)),
        Intake::Direct => RingVerdict::Ignored,
    };
    let ring_is_damaged = matches!(&ring, RingVerdict::Damaged(_) | RingVerdict::Replay { damage: Some(_), .. });
    let ends_open = scanned.breaks.last().is_some_and(|at| at.resume.is_none());
    let at_end = |range: &Handled| (range.segment, range.offset) == (scanned.end.segment, scanned.end.offset);
    let lost_behind = (!ends_open && cut_short_at.iter().any(at_end)).then_some(scanned.end.seq);
    if !ring_is_damaged {
        // What it was about is not there to be seen any more.
        let unseen = |range: &&Handled| scanned.breaks.is_empty() || (lost_behind.is_some() && at_end(range));
        report.damage.extend(cut_short_at.iter().filter(unseen).map(|range| unfinished_salvage(setup, range)));
    }
    let refused: Vec<Damage> = report.damage.iter().filter(|damage| !damage.flushed).cloned().collect();
    report.ring = ring_in_words(&ring);
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
    let handled: Vec<Handled> = scanned.breaks.iter().filter_map(|at| at.resume).collect();
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

/// The log up to where the newest recovery began, if that one was cut short in its replay and the ring
/// still has all of what it replayed: it is done again then, into the same segments. To go on behind
/// it would use up a segment of the reserve each time, until a full disk prevented the start.
fn from_its_pin(
    folder: &dyn Folder,
    setup: &ShardSetup,
    headers: &BTreeMap<SegmentNo, Option<SegmentHeader>>,
    segments: &BTreeMap<SegmentNo, u64>,
    ring: Option<&[u8]>,
    scanned: &Scanned,
) -> Result<Option<Scanned>, OpenError> {
    let Some(newest) = scanned.newest.as_ref().map(|newest| newest.epoch) else { return Ok(None) };
    let ends_in_it = scanned.segments.last().is_some_and(|last| last.header.epoch == newest);
    if !ends_in_it || scanned.intake_done.0 + 1 >= newest.0 || !scanned.breaks.is_empty() {
        return Ok(None);
    }
    // The pin's segment, and so all of what that recovery wrote, is still there.
    let pinned = |header: &&SegmentHeader| header.epoch == newest && header.pin.is_some();
    let Some(first) = headers.values().flatten().find(pinned) else { return Ok(None) };
    if !first.handled.is_empty() {
        // A salvage: its segment names what need not be reported again.
        return Ok(None);
    }
    let first = first.segment;
    let upto_pin = headers.range(..=first).map(|(segment, header)| (*segment, header.clone())).collect();
    // Of its first segment only the header, which holds the pin.
    let mut bytes: BTreeMap<SegmentNo, u64> =
        segments.range(..first).map(|(segment, bytes)| (*segment, *bytes)).collect();
    bytes.insert(first, 0);
    let again = scan(folder, setup.flushed, &upto_pin, &bytes, &mut |_| {})?;
    let image = RingImage(ring);
    let has_all = match recover_ring(&image, &expectation(setup, &again)) {
        RingVerdict::Replay { header, entries, damage: None, .. } => {
            let mut ends = again.ends.clone();
            let mut scratch = Vec::new();
            for entry in entries.iter().take_while(|entry| entry.seq <= scanned.end.seq) {
                let What::Block(span) = &entry.what else { continue };
                let (head, _) = image.entry(&header, span, &mut scratch);
                let block = decode_entry(head).expect("an entry that the ring's recovery checked");
                let Identity { stream, seq } =
                    block.identity.unwrap_or(Identity { stream: header.stream(), seq: entry.seq });
                let end = ends.entry(stream).or_default();
                *end = StreamEnd { seq, chain: end.chain.then(seq, block.length, block.payload_crc) };
            }
            ends == scanned.ends && entries.last().is_some_and(|last| last.seq >= scanned.end.seq)
        }
        _ => false,
    };
    // A salvage of the ring alone has said in its segments what is lost.
    let says_nothing = scanned.gaps.iter().all(|(segment, _)| *segment < first);
    Ok((has_all && says_nothing && again.breaks.is_empty()).then_some(again))
}

/// The boot by which a ring is judged.
pub(super) fn boot(setup: &ShardSetup) -> [u8; 16] {
    if setup.intake == Intake::RingAfterPowerCut { ANOTHER_BOOT } else { setup.boot }
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

fn read_headers(
    folder: &dyn Folder,
    setup: &ShardSetup,
    segments: &BTreeMap<SegmentNo, u64>,
) -> Result<BTreeMap<SegmentNo, Option<SegmentHeader>>, OpenError> {
    let mut buf = AlignedBuf::new(SEGMENT_HEADER_BYTES);
    let mut headers = BTreeMap::new();
    for (&segment, &bytes) in segments {
        let name = segment_name(segment);
        let failed = || OpenError::io(format!("reading {name}"));
        let mut count = read_around(folder, &name, 0, &mut buf).map_err(failed())?;
        if buf[..count].iter().all(|byte| *byte == UNREADABLE) {
            // Not a page, but the whole disk for all that can be seen.
            count = folder.read(&name, 0, &mut buf).map_err(failed())?;
        }
        let header = SegmentHeader::decode(&buf[..count]).ok();
        if let Some(header) = &header
            && (header.store != setup.store || header.shard != setup.shard)
        {
            #[cfg(feature = "sim")]
            if crate::planted::is_planted(crate::planted::Mutant::ForeignSegmentUnnoticed) {
                continue;
            }
            return Err(OpenError::Foreign { name, store: header.store, shard: header.shard });
        }
        let ours = header.filter(|header| header.segment == segment && header.segment_bytes == bytes);
        headers.insert(segment, ours);
    }
    Ok(headers)
}

fn scan(
    folder: &dyn Folder,
    flushed: Seq,
    headers: &BTreeMap<SegmentNo, Option<SegmentHeader>>,
    segments: &BTreeMap<SegmentNo, u64>,
    progress: &mut dyn FnMut(u64),
) -> Result<Scanned, OpenError> {
    let mut scan = Scan::new(headers.clone(), flushed);
    let total: u64 = segments.values().sum();
    let longest = segments.values().copied().max().unwrap_or(0).min(*SEGMENT_BYTES.end());
    if longest == 0 {
        return Ok(scan.finish());
    }
    let readable = |segment: SegmentNo| headers.get(&segment).is_some_and(Option::is_some);
    let capacity = (longest as usize).next_multiple_of(PAGE_BYTES);
    if total < THREAD_FROM_BYTES {
        let mut buf = AlignedBuf::new(capacity);
        for (&segment, &bytes) in segments {
            let count = if readable(segment) { read_segment(folder, segment, bytes, &mut buf)? } else { 0 };
            scan.feed(segment, &buf[..count]);
            progress(bytes);
        }
        return Ok(scan.finish());
    }
    // One segment is read while the one before it is scanned.
    thread::scope(|scope| {
        let (full_tx, full_rx) = mpsc::sync_channel::<Result<(SegmentNo, AlignedBuf, usize), OpenError>>(1);
        let (empty_tx, empty_rx) = mpsc::channel::<AlignedBuf>();
        for _ in 0..2 {
            empty_tx.send(AlignedBuf::new(capacity)).expect("the receiver is in this scope");
        }
        scope.spawn(move || {
            for (&segment, &bytes) in segments {
                let Ok(mut buf) = empty_rx.recv() else { return };
                let read = if readable(segment) { read_segment(folder, segment, bytes, &mut buf) } else { Ok(0) };
                let failed = read.is_err();
                if full_tx.send(read.map(|count| (segment, buf, count))).is_err() || failed {
                    return;
                }
            }
        });
        while let Ok(next) = full_rx.recv() {
            let (segment, buf, count) = next?;
            scan.feed(segment, &buf[..count]);
            progress(segments[&segment]);
            // The reader may have ended already; then nobody needs the buffer.
            let _ = empty_tx.send(buf);
        }
        Ok(scan.finish())
    })
}

pub(super) fn read_segment(
    folder: &dyn Folder,
    segment: SegmentNo,
    bytes: u64,
    buf: &mut AlignedBuf,
) -> Result<usize, OpenError> {
    let name = segment_name(segment);
    let length = (bytes as usize).min(buf.capacity());
    buf.set_len(length.next_multiple_of(PAGE_BYTES));
    let mut at = 0;
    while at < length {
        let upto = (at + READ_BYTES).min(buf.len());
        let count = read_around(folder, &name, at as u64, &mut buf[at..upto])
            .map_err(OpenError::io(format!("reading {name} at {at:#x}")))?;
        if count == 0 {
            break;
        }
        at += count;
    }
    Ok(at.min(length))
}

/// What the ring says of itself, where it is not simply replayed.
fn ring_in_words(ring: &RingVerdict) -> Option<String> {
    match ring {
        RingVerdict::Ignored => None,
        RingVerdict::Quarantine(why) => Some(format!("{why}; after a power cut: in quarantine")),
        RingVerdict::Damaged(why) => Some(why.to_string()),
        RingVerdict::Replay { cut, damage, .. } => {
            let damage = damage.as_ref().map(|RingDamage { slot, why, lost }| {
                let ranges: Vec<String> = lost.iter().map(|(first, last)| format!("{first}..{last}")).collect();
                format!("slot {slot}: {why}; seq {} lost", ranges.join(", "))
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

/// A break in words.
fn damage(setup: &ShardSetup, at: &Break) -> Damage {
    let to = at.resume.map(|resume| resume.resume_seq.prev());
    Damage {
        shard: setup.shard.0,
        segment: at.segment.0,
        offset: at.offset,
        from_seq: at.next.map(|next| next.seq.0),
        to_seq: to.map(|seq| seq.0),
        wrong: at.wrong.to_string(),
        flushed: to.is_some_and(|to| to <= setup.flushed),
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
    use crate::types::Chain;
    use crate::wal::intake::{FREED_AT, RingHeader, SLOT_BYTES, SLOTS_AT, Slot, slot_checksum};
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
