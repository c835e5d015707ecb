//! The scan of a log, and the examination of a shard's folder. A log that nobody touched is read to its
//! end; rot is never passed over without a word, nor is the loss of what a later batch knows to be synced;
//! what a salvage has handled stays handled, and new damage in it is seen. Whatever a folder holds, there
//! is an answer.

use std::collections::BTreeMap;
use std::io;

use crate::config::OnDamage;
use crate::fuzz::choices::Choices;
use crate::fuzz::log::{SEGMENT, Written, any_header, make_right, plain_header};
use crate::fuzz::segment;
use crate::io::disk::Folder;
use crate::limits::{PAGE_BYTES, SECTOR_BYTES, SEGMENT_HEADER_BYTES};
use crate::recover::{Intake, ShardSetup, compare_with_gaps, examine};
use crate::types::{BatchNo, Epoch, Nonce, SegmentNo, Seq, ShardId, StoreId, Stream};
use crate::wal::batch::{BATCH, STREAM, decode_header};
use crate::wal::breaks::{Break, Scanned};
use crate::wal::entry::Control;
use crate::wal::log::{LogBounds, UsedSegment};
use crate::wal::read::{copied, for_each_entry};
use crate::wal::scan::Scan;
use crate::wal::segment::{Handled, LogEnd, SegmentHeader, segment_name};
use crate::wal::verdict::{Stamp, Stamps, check, readable};

/// Segments that a life begins with at most.
const SEGMENTS_MAX: usize = 4;

/// Where a salvage does not know it.
const SALVAGED: Stream = Stream { origin: StoreId([7; 16]), shard: ShardId(0), epoch: Epoch(1), nonce: Nonce(1) };

type Files = BTreeMap<SegmentNo, Vec<u8>>;

/// One input.
///
/// # Panics
/// Where a promise is broken.
pub fn run(data: &[u8]) {
    let mut from = Choices::new(data);
    match from.byte() % 4 {
        0..=2 => lives(&mut from),
        _ => crafted(&mut from),
    }
}

/// A log is written, damaged, scanned, salvaged, and goes on: once or twice.
fn lives(from: &mut Choices<'_>) {
    let segments = 1 + from.below(SEGMENTS_MAX);
    let generation = 1 + u32::from(from.byte() % 3);
    let mut written = Written::new(from, segments as u64, generation);
    write(from, &mut written);
    let files = files_of(&written);
    let whole = scan(&files);
    assert_eq!((whole.breaks.len(), whole.torn.len()), (0, 0), "a sound log has no damage: {:?}", whole.breaks);
    assert_eq!((whole.end.batch, whole.end.chain), (written.log.number, written.log.chain), "it is read to its end");
    assert_eq!((whole.end.seq, whole.batches), (written.log.last_seq(), written.batches.len() as u64));
    assert_eq!(whole.ends, written.log.ends, "streams stand where they were left");
    let damaged = damage(from, &files, &written);
    let got = scan(&damaged);
    judge(&files, &damaged, &whole, &got);
    if got.batches == 0 {
        return;
    }
    let mut salvaged = salvage(&written, damaged, &got);
    let handled = !got.breaks.is_empty();
    if handled {
        salvaged.append_controls(&gaps(&got));
    }
    let again = scan(&files_of(&salvaged));
    assert!(again.breaks.is_empty(), "what was handled is no damage: {:?} {:?}", got.breaks, again.breaks);
    let batches = got.batches + u64::from(handled);
    assert_eq!((again.end.seq, again.batches), (got.end.seq, batches), "a salvage changes nothing of what is sound");
    write(from, &mut salvaged);
    let files = files_of(&salvaged);
    let whole = scan(&files);
    assert!(whole.breaks.is_empty(), "a sound log behind a salvage has no damage: {:?}", whole.breaks);
    assert_eq!((whole.end.batch, whole.end.chain), (salvaged.log.number, salvaged.log.chain), "to its end");
    let damaged = damage(from, &files, &salvaged);
    let got = scan(&damaged);
    judge(&files, &damaged, &whole, &got);
}

fn write(from: &mut Choices<'_>, written: &mut Written) {
    for _ in 0..1 + from.byte() % 8 {
        if !written.append(from) {
            break;
        }
    }
}

fn files_of(written: &Written) -> Files {
    written.files.iter().map(|(segment, (_, bytes))| (*segment, bytes.clone())).collect()
}

/// As an opening does: headers first, then the segments in order.
fn scan(files: &Files) -> Scanned {
    let headers: BTreeMap<SegmentNo, Option<SegmentHeader>> = files
        .iter()
        .map(|(segment, bytes)| {
            let header = SegmentHeader::decode(bytes).ok();
            (*segment, header.filter(|header| header.segment == *segment))
        })
        .collect();
    let mut scan = Scan::new(headers.clone(), Seq(0));
    for (segment, bytes) in files {
        scan.feed(*segment, if headers[segment].is_some() { bytes } else { &[] });
    }
    let mut scanned = scan.finish();
    compare_with_gaps(&mut scanned, Seq(0));
    scanned
}

/// What a salvage says to be lost.
fn gaps(scanned: &Scanned) -> Vec<Control> {
    let of = |at: &Break| match &at.in_part {
        Some(in_part) => {
            in_part.lost.iter().map(|run| gap(run.stream, run.number.prev(), run.number_of(run.last).next())).collect()
        }
        None => {
            let before = at.next.map_or(Seq(0), |next| next.seq.prev());
            vec![gap(None, before, at.resume.map_or(Seq(u64::MAX), |resume| resume.resume_seq))]
        }
    };
    scanned.breaks.iter().flat_map(of).collect()
}

fn gap(stream: Option<Stream>, from: Seq, to: Seq) -> Control {
    Control::Gap { stream: stream.unwrap_or(SALVAGED), from, to }
}

/// Rot, lost writes and lost files; the oldest segment stays, since its absence says nothing.
fn damage(from: &mut Choices<'_>, files: &Files, written: &Written) -> Files {
    let mut damaged = files.clone();
    for _ in 0..=from.byte() % 3 {
        let segment = *damaged.keys().nth(from.below(damaged.len())).expect("a file");
        let bytes = damaged.get_mut(&segment).expect("a file");
        match from.byte() % 16 {
            0..8 => from.rot(bytes, (SEGMENT_HEADER_BYTES, SEGMENT)),
            8..13 => {
                let old = written.before.get(&segment).unwrap_or(bytes).clone();
                from.lose(bytes, &old, (SEGMENT_HEADER_BYTES, SEGMENT));
            }
            13 => {
                from.rot(bytes, (0, PAGE_BYTES));
                from.rot(bytes, (PAGE_BYTES, SEGMENT_HEADER_BYTES));
            }
            14 => bytes[..SEGMENT_HEADER_BYTES].fill(0),
            _ if damaged.keys().next() != Some(&segment) => {
                damaged.remove(&segment);
            }
            _ => {}
        }
    }
    damaged
}

/// Compares what is found in damaged files with what was found in the sound ones.
fn judge(sound: &Files, damaged: &Files, whole: &Scanned, got: &Scanned) {
    let (batches, left) = (batches(sound), batches(damaged));
    if left.iter().any(|batch| !batches.iter().any(|other| other.end == batch.end)) {
        // Damage of an earlier life was undone.
        return;
    }
    let ends = batches.iter().map(|batch| batch.end).chain(sound.values().filter_map(|bytes| {
        let header = SegmentHeader::decode(bytes).ok()?;
        header.pin
    }));
    let none_at_all = got.batches == 0;
    let handled =
        sound.values().filter_map(|bytes| SegmentHeader::decode(bytes).ok()).flat_map(|header| header.handled);
    let mut ends = ends.chain(handled.map(|range| LogEnd {
        segment: range.resume_segment,
        offset: range.resume_offset,
        batch: BatchNo(range.resume_batch.0 - 1),
        chain: range.resume_chain,
        seq: range.resume_seq.prev(),
    }));
    let is_known = |end: &LogEnd| (end.batch, end.chain, end.seq) == (got.end.batch, got.end.chain, got.end.seq);
    assert!(none_at_all || ends.any(|end| is_known(&end)), "the log ends where no batch ended");
    assert!(got.batches <= whole.batches.max(batches.len() as u64), "no batch twice");
    assert!(got.segments.is_sorted_by(|one, other| one.header.segment < other.header.segment));
    for batch in batches.iter().filter(|batch| batch.counts_in(whole) && batch.end.batch <= got.end.batch) {
        let given_up = got.breaks.iter().filter(|at| at.in_part.is_none()).any(|at| {
            at.next.is_none_or(|next| next.number <= batch.end.batch)
                && at.resume.is_some_and(|resume| batch.end.batch < resume.resume_batch)
                && !may_be_left_over(batch, at, (sound, damaged), (&batches, &left))
        });
        assert!(
            !given_up || !batch.can_be_read(sound, damaged),
            "whole blocks of batch {:?} from {:#x} are given up: {:#?}",
            batch.end,
            batch.from,
            got.breaks
        );
    }
    if !got.breaks.is_empty() {
        return;
    }
    if damaged == sound {
        assert_eq!((got.end, got.batches), (whole.end, whole.batches), "the same bytes say the same");
    }
    // One that was damaged in part already, and has no block any more, may be gone without a word.
    let is_left = |batch: &Found| left.iter().any(|other| other.end == batch.end);
    let is_empty = |batch: &Found| {
        let in_part = whole.partly.get(&(batch.end.segment, batch.from as u32));
        in_part.is_some_and(|of| batch.numbered == of.lost.iter().map(|run| run.last.0 - run.first.0 + 1).sum::<u64>())
    };
    let is_gone = |batch: &&Found| batch.counts_in(whole) && is_empty(batch) && !is_left(batch);
    let gone = batches.iter().filter(is_gone).count() as u64;
    // Gaps that nobody meant may name what was kept.
    let known: Vec<Control> = whole.passed.iter().map(|passed| gap(passed.lost.stream, Seq(0), Seq(0))).collect();
    let stream = |gap: &Control| if let Control::Gap { stream, .. } = gap { Some(*stream) } else { None };
    let is_ours = |gap: &Control| stream(gap) == Some(SALVAGED) || known.iter().any(|one| stream(one) == stream(gap));
    let was_salvaged = !whole.passed.is_empty() || !whole.partly.is_empty();
    let foreign = was_salvaged && !whole.gaps.iter().all(|(_, gap)| is_ours(gap));
    if !foreign && !has_losses(sound, damaged) {
        assert_eq!((got.end, got.batches + gone), (whole.end, whole.batches), "rot was passed over");
        assert_eq!(got.ends, whole.ends, "rot was passed over");
    }
    // Without a word, only what nobody knows to be synced may be gone.
    for batch in batches.iter().filter(|batch| batch.counts_in(whole)) {
        let untouched = damaged.get(&batch.end.segment).is_some_and(|bytes| {
            let header = &sound[&batch.end.segment][..SEGMENT_HEADER_BYTES];
            bytes[..SEGMENT_HEADER_BYTES] == *header
                && bytes[batch.from..batch.end.offset as usize]
                    == sound[&batch.end.segment][batch.from..batch.end.offset as usize]
        });
        assert!(!untouched || batch.durable_upto <= got.end.batch, "a synced batch is gone without a word");
    }
    for bytes in damaged.values() {
        if let Some(pin) = SegmentHeader::decode(bytes).ok().and_then(|header| header.pin) {
            assert!(got.end.batch >= pin.batch, "a pinned batch is gone without a word");
        }
    }
    // Between two batches that were read none is left out. (A file without any, in a range that was handled,
    // may be gone.)
    let counts = |batch: &&Found| {
        batch.counts_in(whole) && (!is_empty(batch) || is_left(batch)) && batch.end.batch <= got.end.batch
    };
    let counted = batches.iter().filter(counts).count();
    assert_eq!(counted as u64, got.batches, "a batch was passed over");
}

/// Behind a segment that is gone a later opening begins, whose pin may have stood in it; and ahead of that a write has not
/// arrived, which nothing says was synced. What stands behind that write may be left over from before the pin.
fn may_be_left_over(
    batch: &Found,
    at: &Break,
    (sound, damaged): (&Files, &Files),
    (batches, left): (&[Found], &[Found]),
) -> bool {
    let Some((segment, offset)) = at.also else { return false };
    let header = |segment| damaged.get(segment).and_then(|bytes: &Vec<u8>| SegmentHeader::decode(bytes).ok());
    let mut behind = damaged.range(SegmentNo(at.segment.0 + 1)..).filter_map(|(segment, _)| header(segment));
    let opens_anew = header(&batch.end.segment)
        .is_some_and(|before| behind.next().is_some_and(|behind| behind.epoch > before.epoch));
    let did_not_arrive = |lost: &&Found| {
        (lost.end.segment, lost.from) == (segment, offset as usize) && lost.has_stale_sectors(sound, damaged)
    };
    let lost = batches.iter().find(did_not_arrive);
    let is_synced =
        |lost: &Found| left.iter().any(|other| other.end.segment < at.segment && other.durable_upto >= lost.end.batch);
    opens_anew && lost.is_some_and(|lost| lost.end.batch <= batch.end.batch && !is_synced(lost))
}

/// A batch in a file of which nothing but payloads may be damaged.
struct Found {
    from: usize,
    end: LogEnd,
    durable_upto: BatchNo,
    numbered: u64,
}

impl Found {
    /// Nothing but its payloads, its padding and stamps have changed, and no sector of it looks as if it had not been
    /// written; nor has the header of its segment.
    fn can_be_read(&self, sound: &Files, damaged: &Files) -> bool {
        let (Some(before), Some(after)) = (sound.get(&self.end.segment), damaged.get(&self.end.segment)) else {
            return false;
        };
        let Ok(header) = SegmentHeader::decode(before) else { return false };
        if before[..SEGMENT_HEADER_BYTES] != after[..SEGMENT_HEADER_BYTES] || self.has_stale_sectors(sound, damaged) {
            return false;
        }
        let place = crate::wal::batch::Place::new(&header, self.from as u32);
        let batch = decode_header(&before[self.from..], &place).expect("a whole batch");
        let (before, after) = (&before[self.from..], &after[self.from..]);
        let same = |at, len| copied(before, at, len) == copied(after, at, len);
        let rows = (BATCH::BYTES + batch.entries_bytes as usize, batch.streams as usize * STREAM::BYTES);
        let mut all = same(0, BATCH::BYTES) && same(rows.0, rows.1);
        for_each_entry(before, &batch, |_, at, header_bytes, _| all &= same(at, header_bytes));
        all
    }

    /// A sector of it looks as if it had not been written.
    fn has_stale_sectors(&self, sound: &Files, damaged: &Files) -> bool {
        let (Some(before), Some(after)) = (sound.get(&self.end.segment), damaged.get(&self.end.segment)) else {
            return false;
        };
        let Ok(stamps) = SegmentHeader::decode(before).map(|header| Stamps::new(&header)) else { return false };
        let mut sectors = (self.from..self.end.offset as usize).step_by(SECTOR_BYTES);
        sectors.any(|at| stamps.read(&after[at..], at) == Stamp::Stale)
    }

    /// It is part of the log, and not a leftover behind a pin.
    fn counts_in(&self, whole: &Scanned) -> bool {
        whole.segments.iter().any(|used| used.header.segment == self.end.segment && self.end.offset <= used.end)
            && self.end.batch <= whole.end.batch
    }
}

fn batches(files: &Files) -> Vec<Found> {
    let mut found = Vec::new();
    for bytes in files.values() {
        let Ok(header) = SegmentHeader::decode(bytes) else { continue };
        let stamps = Stamps::new(&header);
        let mut at = SEGMENT_HEADER_BYTES;
        while at < SEGMENT {
            let place = crate::wal::batch::Place::new(&header, at as u32);
            let checked = check(&bytes[at..], &place, &stamps);
            let Some(batch) = readable(&checked, &bytes[at..], header.stream()) else {
                at += PAGE_BYTES;
                continue;
            };
            let from = at;
            at += batch.length as usize;
            let (segment, offset) = (header.segment, at as u32);
            let end = LogEnd { segment, offset, batch: batch.number, chain: batch.chain, seq: batch.last_seq() };
            let (durable_upto, numbered) = (batch.durable_upto, u64::from(batch.numbered));
            found.push(Found { from, end, durable_upto, numbered });
        }
    }
    found
}

/// A sector that was written looks as if it had not been, or a file is gone: nobody could tell that from a
/// power cut.
fn has_losses(sound: &Files, damaged: &Files) -> bool {
    sound.iter().any(|(segment, before)| {
        let (Some(after), Ok(header)) = (damaged.get(segment), SegmentHeader::decode(before)) else {
            return !damaged.contains_key(segment);
        };
        let stamps = Stamps::new(&header);
        let stale = |bytes: &[u8], at: usize| stamps.read(&bytes[at..], at) == Stamp::Stale;
        let mut sectors = (SEGMENT_HEADER_BYTES..SEGMENT).step_by(SECTOR_BYTES);
        sectors.any(|at| stale(after, at) && !stale(before, at))
    })
}

/// What recovery makes of it: a new segment that pins the end and names what was handled. Segments behind
/// the end are given back, highest first.
fn salvage(written: &Written, damaged: Files, got: &Scanned) -> Written {
    let mut handled: Vec<Handled> = got.breaks.iter().filter_map(|at| at.resume).collect();
    let number = got.end.segment.0 + 1;
    if got.breaks.last().is_some_and(|at| at.resume.is_none()) {
        handled.push(Handled {
            segment: got.end.segment,
            offset: got.end.offset,
            resume_segment: SegmentNo(number),
            resume_offset: SEGMENT_HEADER_BYTES as u32,
            resume_batch: BatchNo(got.end.batch.0 + 1),
            resume_chain: got.end.chain,
            resume_seq: got.end.seq.next(),
        });
    }
    let epoch = Epoch(6);
    let head = SegmentHeader {
        epoch,
        nonce: Nonce(60),
        file_id: crate::types::FileId(2000),
        pin: Some(got.end),
        handled,
        ..plain_header(number, 1, 0)
    };
    let next = SegmentHeader {
        pin: None,
        handled: Vec::new(),
        file_id: crate::types::FileId(2001),
        segment: SegmentNo(number + 1),
        ..head.clone()
    };
    let mut files: BTreeMap<SegmentNo, (SegmentHeader, Vec<u8>)> = damaged
        .into_iter()
        .filter(|(segment, _)| segment.0 < number)
        .map(|(segment, bytes)| {
            let header = SegmentHeader::decode(&bytes).unwrap_or_else(|_| plain_header(segment.0, 1, 0));
            (segment, (header, bytes))
        })
        .collect();
    let mut before = written.before.clone();
    for header in [&head, &next] {
        let mut bytes = header.encode();
        bytes.resize(SEGMENT, 0);
        before.insert(header.segment, bytes.clone());
        files.insert(header.segment, (header.clone(), bytes));
    }
    let log = crate::wal::log::Log {
        used: Default::default(),
        current: UsedSegment {
            header: head,
            first_batch: BatchNo(got.end.batch.0 + 1),
            first_seq: got.end.seq.next(),
            last_seq: got.end.seq,
            end: SEGMENT_HEADER_BYTES as u32,
        },
        ready: [next].into(),
        number: got.end.batch,
        chain: got.end.chain,
        ends: got.ends.clone(),
        gaps: got.gaps.iter().map(|(_, gap)| *gap).collect(),
        says_vector: true,
        prev_end: got.end.offset,
    };
    Written::again(log, files, before)
}

/// Files whose headers and batches say anything, with checksums that hold, in a shard's folder.
fn crafted(from: &mut Choices<'_>) {
    let segments = 1 + from.below(SEGMENTS_MAX);
    let mut written = Written::new(from, segments as u64, 1);
    write(from, &mut written);
    let batches = written.batches.clone();
    let mut files = files_of(&written);
    for (place, batch) in batches {
        if from.byte().is_multiple_of(4) {
            let stamp = written.files[&place.segment].0.stamp();
            let bytes = files.get_mut(&place.segment).expect("a file");
            let range = place.offset as usize..(place.offset + batch.length) as usize;
            from.rot(bytes, (range.start + 4, range.start + 132));
            make_right(&mut bytes[range], &place, stamp);
        }
    }
    let numbers: Vec<SegmentNo> = files.keys().copied().collect();
    for number in numbers {
        match from.byte() % 4 {
            0 => {
                let header = any_header(from, number.0);
                let header = SegmentHeader { file_id: written.files[&number].0.file_id, nonce: Nonce(6), ..header };
                files.get_mut(&number).expect("a file")[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
            }
            1 => {
                let bytes = files.get_mut(&number).expect("a file");
                for copy in bytes[..SEGMENT_HEADER_BYTES].chunks_exact_mut(PAGE_BYTES) {
                    from.rot(copy, (0, 140));
                    segment::make_right(copy);
                }
            }
            _ => {}
        }
    }
    let pages: usize = files.len() * SEGMENT / PAGE_BYTES;
    let got = scan(&files);
    assert!(got.batches <= pages as u64, "no batch twice");
    assert!(got.breaks.len() <= pages + files.len(), "no break twice");
    let names = files.into_iter().map(|(segment, bytes)| (segment_name(segment), bytes)).collect();
    let on_damage = if from.flag() { OnDamage::Salvage } else { OnDamage::Refuse };
    let header = plain_header(1, 1, 0);
    let setup = ShardSetup {
        store: header.store,
        shard: header.shard,
        boot: header.boot,
        segment_bytes: SEGMENT as u64,
        bounds: LogBounds { segments_max: 16, reserve: 2 },
        batch_bytes_max: 4096,
        on_damage,
        flushed: Seq(from.number()),
        intake: if from.flag() { Intake::Ring } else { Intake::Direct },
    };
    if let Ok(examined) = examine(&Memory(names), &setup, None, &mut |_| {}) {
        assert!(on_damage == OnDamage::Salvage || examined.report.damage.iter().all(|damage| damage.flushed));
    }
}

/// A folder that can be read.
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn file(&self, name: &str) -> io::Result<&[u8]> {
        self.0.get(name).map(Vec::as_slice).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn not_here<T>() -> io::Result<T> {
    Err(io::Error::other("an examination changes nothing"))
}

impl Folder for Memory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.0.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn try_lock(&self, _: &str) -> io::Result<bool> {
        Ok(true)
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.file(name)?;
        let rest = &file[(offset as usize).min(file.len())..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn create(&self, _: &str, _: u64) -> io::Result<()> {
        not_here()
    }

    fn write(&self, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
        not_here()
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.file(name).map(|_| ())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        not_here()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        not_here()
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }
}
