//! Reading a shard's log from its oldest segment to its end: which batches continue it, and where
//! and why it stops. Pure: headers and bytes in, a [`Scanned`] out.
//!
//! Segments are fed in order. Where a batch does not continue the log the scan looks for what comes
//! after, and follows it too; only at the end, when all evidence is in, is each such break judged
//! (the rules are in `wal/mod.rs`). At a break that is no damage the log ends, and what was read
//! behind it is forgotten.

use std::collections::{BTreeMap, HashMap};

use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::types::{BatchNo, Epoch, SegmentNo, Seq};
use crate::wal::batch::{BatchHeader, Place, decode_header};
use crate::wal::breaks::{Ending, Hole, Next, Passed, Pause, Progress, Scanned, Torn, judge, judged};
use crate::wal::entry::Control;
use crate::wal::log::UsedSegment;
use crate::wal::read::{each_adopted, each_control, stream_rows};
use crate::wal::segment::{Handled, LogEnd, SegmentHeader};
use crate::wal::vector;
use crate::wal::verdict::{Check, Lost, Stamp, Stamps, Wrong, check, partly};

/// Pauses beyond which a batch that is damaged in part is lost whole: each holds what was known before it.
const PAUSES_IN_PART_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next batch is expected at the place that is being read.
    Following(Option<Next>),
    /// The log paused; look for anything sound.
    Searching,
    /// A handled range: go on at its end.
    Skipping(Handled),
}

/// The scan of one shard.
#[derive(Debug)]
pub struct Scan {
    headers: BTreeMap<SegmentNo, Option<SegmentHeader>>,
    pins: HashMap<SegmentNo, LogEnd>,
    handled: Vec<Handled>,
    state: State,
    progress: Progress,
    pauses: Vec<Pause>,
    fed: Option<SegmentNo>,
    /// The highest so far.
    epoch: Epoch,
    flushed: Seq,
    ends_before: Option<BatchNo>,
    /// Here the log goes on where it had paused in the segment before.
    joins: Option<(SegmentNo, u32)>,
}

impl Scan {
    /// A scan over segments with these headers; `None` for one whose header is unreadable. The store
    /// holds everything up to `flushed`, so that had been synced.
    #[must_use]
    pub fn new(headers: BTreeMap<SegmentNo, Option<SegmentHeader>>, flushed: Seq) -> Self {
        let readable = || headers.values().flatten();
        let pins = readable().filter_map(|header| Some((header.pin?.segment, header.pin?))).collect();
        let handled = readable().flat_map(|header| header.handled.iter().copied()).collect();
        // Nothing of the log is known before its oldest segment: it ends there, unless that one holds more.
        let before =
            |oldest: &SegmentNo| LogEnd { segment: SegmentNo(oldest.0.saturating_sub(1)), ..LogEnd::default() };
        let pin = |header: &Option<SegmentHeader>| header.as_ref().and_then(|header| header.pin);
        let end = headers.first_key_value().map(|(oldest, header)| pin(header).unwrap_or_else(|| before(oldest)));
        // Where nothing was ever given back there was no stream before.
        let knows_ends = end.is_some_and(|end| end.seq == Seq(0)) && headers.contains_key(&SegmentNo(1));
        let progress = Progress { end: end.unwrap_or_default(), knows_ends, ..Progress::default() };
        let (state, pauses) = (State::Following(None), Vec::new());
        let (fed, epoch, ends_before, joins) = (None, Epoch(0), None, None);
        Self { headers, pins, handled, state, progress, pauses, fed, epoch, flushed, ends_before, joins }
    }

    /// The log ends at the break before this batch, whatever stands behind it: for a log whose ring has all of that.
    #[must_use]
    pub const fn ending_before(mut self, batch: BatchNo) -> Self {
        self.ends_before = Some(batch);
        self
    }

    /// Takes in the next segment: its whole content, or an empty slice where its header is unreadable.
    ///
    /// # Panics
    /// Where segments are not fed in ascending order or were not announced.
    pub fn feed(&mut self, segment: SegmentNo, bytes: &[u8]) {
        assert!(self.fed.is_none_or(|fed| fed < segment), "segments are fed in order");
        let header = self.headers.get(&segment).expect("an announced segment").clone();
        #[cfg(feature = "sim")]
        let unnoticed = crate::planted::is_planted(crate::planted::Mutant::MissingSegmentUnnoticed);
        #[cfg(not(feature = "sim"))]
        let unnoticed = false;
        if let Some(fed) = self.fed
            && segment.0 != fed.0 + 1
            && !unnoticed
        {
            self.broken_off(SegmentNo(fed.0 + 1), Wrong::Missing);
        }
        let oldest = self.fed.is_none();
        self.fed = Some(segment);
        if let State::Skipping(range) = self.state {
            if range.resume_segment < segment {
                self.resume_is_gone(range, Wrong::Missing);
            } else if range.resume_segment == segment && header.is_none() {
                self.resume_is_gone(range, Wrong::SegmentHeader);
            }
        }
        let Some(header) = header else {
            self.broken_off(segment, Wrong::SegmentHeader);
            return;
        };
        if !oldest && header.epoch > self.epoch {
            self.pin_is_gone();
        }
        self.epoch = self.epoch.max(header.epoch);
        if let Some(pin) = header.pin {
            self.pinned(&header, pin, oldest);
        }
        self.read(&header, bytes);
    }

    /// A new epoch stands behind a segment that is gone, and perhaps with that the pin of a recovery, which said where
    /// the log before it ended. What was read behind the first break that nothing else proves may have been left over
    /// from before that recovery: it stays out, and all of it is part of one break.
    fn pin_is_gone(&mut self) {
        let is_gone = |last: &&Pause| last.is_of_a_file() && last.resume.is_none();
        let Some(last) = self.pauses.last().filter(is_gone).cloned() else { return };
        // What the store holds may be of seqs that were given again since.
        let unproven = |pause: &Pause| pause.resume.is_some() && judge(pause.check, pause.is_durable(Seq(0))).is_none();
        let Some(first) = self.pauses.iter().position(unproven) else { return };
        self.pauses.truncate(first + 1);
        let pause = &mut self.pauses[first];
        pause.also = Some((pause.segment, pause.offset));
        (pause.segment, pause.offset, pause.check) = (last.segment, last.offset, last.check);
        (pause.resume, pause.in_part, pause.proven) = (None, None, true);
        self.progress = (*pause.before).clone();
    }

    /// The segment in which the log goes on behind a handled range is missing or cannot be read: damage
    /// that nobody has handled.
    fn resume_is_gone(&mut self, range: Handled, wrong: Wrong) {
        self.state = State::Following(Some(Next::of(&range)));
        self.broken_off(range.resume_segment, wrong);
    }

    /// A whole segment is missing or cannot be read: damage, whatever else is known.
    fn broken_off(&mut self, segment: SegmentNo, wrong: Wrong) {
        if let (State::Following(next), Some(range)) = (self.state, self.handled_at(segment, 0)) {
            self.pass_over(range, (segment, 0), next);
            self.state = State::Skipping(range);
            return;
        }
        let next = self.pause_if_following(segment, 0, Check::Damaged(wrong, None));
        if next && let Some(pause) = self.pauses.last_mut() {
            pause.proven = true;
        }
    }

    /// Pauses unless the scan is searching already; true if this is a pause of its own.
    fn pause_if_following(&mut self, segment: SegmentNo, offset: u32, check: Check) -> bool {
        let next = match self.state {
            State::Following(next) => next,
            State::Searching => {
                // Part of a break that is open already; a missing file proves that one.
                if let (Some(pause), Check::Damaged(Wrong::Missing | Wrong::SegmentHeader, _)) =
                    (self.pauses.last_mut(), &check)
                {
                    pause.proven = true;
                    // The first of several files is to blame.
                    if !pause.is_of_a_file() {
                        if pause.check != Check::End {
                            pause.also = Some((pause.segment, pause.offset));
                        }
                        (pause.segment, pause.offset) = (segment, offset);
                        pause.check = check;
                    }
                }
                return false;
            }
            State::Skipping(_) => return false,
        };
        self.state = State::Searching;
        self.pauses.push(Pause::new((segment, offset), next, check, self.progress.clone()));
        true
    }

    /// A recovery pinned where the log before this segment ends.
    fn pinned(&mut self, header: &SegmentHeader, pin: LogEnd, oldest: bool) {
        let next = Next { number: BatchNo(pin.batch.0 + 1), chain: pin.chain, seq: pin.seq.next() };
        // A recovery that lost the log's tail to damage passes over the seqs in it.
        let end = LogEnd { seq: pin.seq, ..self.progress.end };
        let at_pin = oldest || (end == pin && self.progress.end.seq <= pin.seq);
        match self.state {
            State::Following(_) if !at_pin => {
                self.pause_if_following(self.progress.end.segment, self.progress.end.offset, Check::End);
                self.resume(header, SEGMENT_HEADER_BYTES as u32, next, true);
            }
            State::Searching if !at_pin => self.resume(header, SEGMENT_HEADER_BYTES as u32, next, true),
            State::Searching => {
                // The log paused exactly where the pin says that it ends: that is no break at all.
                let pause = self.pauses.pop().expect("a pause while searching");
                self.progress = *pause.before;
            }
            State::Following(_) | State::Skipping(_) => {}
        }
        // Whatever stopped the log before the pin, it went on behind that.
        for pause in &mut self.pauses {
            pause.proven = true;
        }
        self.progress.end = pin;
        self.state = State::Following(Some(next));
    }

    /// The open pause ends here: the log goes on with this.
    fn resume(&mut self, header: &SegmentHeader, offset: u32, next: Next, proven: bool) {
        let pause = self.pauses.last_mut().expect("a pause to resume from");
        pause.proven |= proven;
        pause.resume = Some(Handled {
            segment: pause.stop.0,
            offset: pause.stop.1,
            resume_segment: header.segment,
            resume_offset: offset,
            resume_batch: next.number,
            resume_chain: next.chain,
            resume_seq: next.seq,
        });
        self.state = State::Following(Some(next));
    }

    fn read(&mut self, header: &SegmentHeader, bytes: &[u8]) {
        let stamps = Stamps::new(header);
        let limit = self.pins.get(&header.segment).map_or(bytes.len(), |pin| pin.offset as usize).min(bytes.len());
        let mut at = SEGMENT_HEADER_BYTES;
        if let State::Skipping(range) = self.state
            && range.resume_segment == header.segment
        {
            at = range.resume_offset as usize;
            self.behind(&range);
        }
        self.look_at_first_page(header, &stamps, &bytes[..limit]);
        while at + PAGE_BYTES <= limit {
            let place = Place::new(header, at as u32);
            at += match self.state {
                State::Skipping(_) => return,
                State::Searching => self.search(header, place, &stamps, &bytes[at..limit]),
                State::Following(next) => match self.follow(header, place, next, &stamps, &bytes[at..limit]) {
                    Some(length) => length,
                    None => {
                        if let Some(to) = self.pause_or_skip(header, place, &stamps, bytes, limit) {
                            at = to;
                            continue;
                        }
                        // The page itself is searched too: it may hold a batch of a later number.
                        0
                    }
                },
            };
        }
    }

    /// Where the log stopped in the segment before because nothing more was written there, it went
    /// on here, if anywhere: then damage to the first page is damage to the log.
    fn look_at_first_page(&mut self, header: &SegmentHeader, stamps: &Stamps, bytes: &[u8]) {
        let Some(pause) = self.pauses.last() else { return };
        let follows = pause.stop.0.0 + 1 == header.segment.0 && pause.check == Check::End;
        if self.state != State::Searching || !follows || bytes.len() <= SEGMENT_HEADER_BYTES {
            return;
        }
        let place = Place::new(header, SEGMENT_HEADER_BYTES as u32);
        let other = |batch: BatchHeader| pause.next.is_some_and(|next| next.number != batch.number);
        let is_other = decode_header(&bytes[SEGMENT_HEADER_BYTES..], &place).is_some_and(other);
        if !is_other && self.handled_at(place.segment, place.offset).is_some() {
            // The log is known to have gone on here.
            let pause = self.pauses.pop().expect("the pause just looked at");
            self.progress = *pause.before;
            self.state = State::Following(pause.next);
            self.joins = Some((place.segment, place.offset));
            return;
        }
        // A header that can be read may say that this is not where the log went on.
        if let Check::Damaged(..) = check(&bytes[SEGMENT_HEADER_BYTES..], &place, stamps)
            && !is_other
        {
            self.move_pause(header, place, stamps, &bytes[SEGMENT_HEADER_BYTES..]);
        }
    }

    /// A range that begins here. It may end here too, with a batch of a later number: then that is expected now.
    fn handled_at(&self, segment: SegmentNo, offset: u32) -> Option<Handled> {
        let expected = |range: &Handled| self.state == State::Following(Some(Next::of(range)));
        let begins = |range: &&Handled| range.segment == segment && range.offset == offset;
        self.handled.iter().find(|range| begins(range) && !expected(range)).copied()
    }

    /// The log goes on behind this range: what is left of it is lost.
    fn pass_over(&mut self, range: Handled, at: (SegmentNo, u32), next: Option<Next>) {
        // Nothing is known of what stood before the log's beginning but what the store has of it.
        let known = (self.flushed > Seq(0)).then(|| self.flushed.next());
        let Some(first) = next.map(|next| next.seq).or(known) else { return };
        let lost = Lost { stream: None, first, last: range.resume_seq.prev(), number: first };
        if lost.first <= lost.last {
            self.progress.passed.push(Passed { at, lost, range });
        }
    }

    /// The batch at this place continues the log: takes it and gives its length.
    fn follow(
        &mut self,
        header: &SegmentHeader,
        place: Place,
        next: Option<Next>,
        stamps: &Stamps,
        bytes: &[u8],
    ) -> Option<usize> {
        let Check::Sound(batch) = check(bytes, &place, stamps) else { return None };
        if !self.continues(&batch, place, next) {
            return None;
        }
        self.take(header, &batch, place, bytes);
        Some(batch.length as usize)
    }

    fn continues(&self, batch: &BatchHeader, place: Place, next: Option<Next>) -> bool {
        let first = place.offset as usize == SEGMENT_HEADER_BYTES;
        next.is_none_or(|next| {
            let prev_end = if first { self.progress.end.offset } else { 0 };
            let after_break = self.pauses.last().is_some_and(|pause| {
                pause.resume.is_some_and(|at| at.resume_segment == place.segment && at.resume_offset == place.offset)
            });
            batch.number == next.number
                && batch.prev_chain == next.chain
                && batch.first_seq == next.seq
                && (batch.prev_end == prev_end
                    || after_break
                    || self.is_resume(place)
                    || self.joins == Some((place.segment, place.offset)))
        })
    }

    /// A handled range ends here, so the batch's `prev_end` lies in the range.
    fn is_resume(&self, place: Place) -> bool {
        self.handled.iter().any(|range| range.resume_segment == place.segment && range.resume_offset == place.offset)
    }

    fn take(&mut self, header: &SegmentHeader, batch: &BatchHeader, place: Place, bytes: &[u8]) {
        // The log begins here, and says so where there is anything to be said.
        self.progress.knows_ends |= self.progress.batches == 0 && self.pauses.is_empty();
        // Behind the lost beginning more is lost.
        let lost_again = self.pauses.len() > 1;
        let progress = &mut self.progress;
        let end = place.offset + batch.length;
        match progress.segments.last_mut() {
            Some(last) if last.header.segment == header.segment => {
                last.end = end;
                last.last_seq = batch.last_seq();
            }
            _ => progress.segments.push(UsedSegment {
                header: header.clone(),
                first_batch: batch.number,
                first_seq: batch.first_seq,
                last_seq: batch.last_seq(),
                end,
            }),
        }
        progress.end = LogEnd {
            segment: header.segment,
            offset: end,
            batch: batch.number,
            chain: batch.chain,
            seq: batch.last_seq(),
        };
        progress.sealed = batch.seal;
        progress.batches += 1;
        each_control(bytes, batch, |payload| match Control::decode(payload) {
            Some(Control::IntakeDone(epoch)) => progress.intake_done = progress.intake_done.max(epoch),
            Some(gap @ Control::Gap { .. }) => {
                progress.gaps.retain(|(_, known)| *known != gap);
                progress.gaps.push((header.segment, gap));
            }
            Some(Control::EpochClosed(_)) => {}
            // It stands before all blocks of its batch.
            None => {
                let Some((ends, gaps)) = vector::decode(payload) else { return };
                if progress.batches > 1 {
                    for (stream, end) in &ends {
                        let known = progress.ends.get(stream);
                        // Where the beginning is lost, one that was not met since may have ended before it; but where it is
                        // not the only loss, what of it is missing may be in the other.
                        if progress.knows_ends || known.is_some() || lost_again {
                            progress.holes.extend(Hole::between(known, *stream, *end, batch.first_seq));
                        }
                    }
                }
                progress.knows_ends = true;
                progress.ends = ends;
                for gap in gaps {
                    if progress.gaps.iter().all(|(_, known)| *known != gap) {
                        progress.gaps.push((SegmentNo(0), gap));
                    }
                }
            }
        });
        each_adopted(bytes, batch, header.stream(), |adopted, before| {
            if let Some(gap) = adopted.gap(before) {
                progress.gaps.retain(|(_, known)| *known != gap);
                progress.gaps.push((header.segment, gap));
            }
        });
        for row in stream_rows(bytes, batch) {
            if row.stream != header.stream() {
                let before = batch.first_seq;
                progress.holes.extend(Hole::between(progress.ends.get(&row.stream), row.stream, row.prev, before));
            }
            progress.ends.insert(row.stream, row.last);
            progress.listed.insert(row.stream);
        }
        for pause in &mut self.pauses {
            pause.durable_upto = pause.durable_upto.max(batch.durable_upto);
        }
        self.state = State::Following(Some(Next::behind(batch)));
    }

    /// The log does not go on at this place. Where a handled range begins here, the offset at which
    /// it goes on in this segment (or the segment's end).
    fn pause_or_skip(
        &mut self,
        header: &SegmentHeader,
        place: Place,
        stamps: &Stamps,
        bytes: &[u8],
        limit: usize,
    ) -> Option<usize> {
        if let Some(range) = self.handled_at(place.segment, place.offset) {
            return Some(self.pass(range, header, place, stamps, &bytes[..limit]));
        }
        let State::Following(next) = self.state else { return None };
        let at = place.offset as usize;
        let checked = check(&bytes[at..limit], &place, stamps);
        let in_part = partly(&checked, &bytes[at..limit], header.stream());
        // With very many of them each is lost whole, so that those next to each other are one break.
        let few = self.pauses.len() < PAUSES_IN_PART_MAX;
        let in_part = in_part.filter(|(batch, _)| few && self.continues(batch, place, next));
        let verdict = match checked {
            Check::Sound(batch) => Check::Damaged(Wrong::Chain, Some(batch)),
            other => other,
        };
        self.pause_if_following(place.segment, place.offset, verdict);
        let fresh = |page: &usize| {
            bytes[*page..(*page + PAGE_BYTES).min(limit)]
                .chunks_exact(crate::limits::SECTOR_BYTES)
                .enumerate()
                .any(|(index, sector)| stamps.read(sector, page + index * crate::limits::SECTOR_BYTES) == Stamp::Fresh)
        };
        let last = (at..limit).step_by(PAGE_BYTES).rfind(fresh);
        if let (Some(pause), Some(last)) = (self.pauses.last_mut(), last) {
            let upto = (last + PAGE_BYTES) as u32;
            pause.torn = Some(Torn { segment: header.segment, offset: place.offset, upto });
        }
        // Where a part of the batch is whole the log goes on right behind it.
        let (batch, in_part) = in_part?;
        let behind = place.offset + batch.length;
        self.resume(header, behind, Next::behind(&batch), false);
        if let Some(pause) = self.pauses.last_mut() {
            pause.in_part = Some(in_part.clone());
        }
        self.take(header, &batch, place, &bytes[at..limit]);
        self.progress.partly.insert((place.segment, place.offset), in_part);
        Some(behind as usize)
    }

    /// The log goes on behind a handled range, or ends there.
    fn behind(&mut self, range: &Handled) {
        self.state = State::Following(Some(Next::of(range)));
        self.progress.end = LogEnd {
            segment: range.resume_segment,
            offset: range.resume_offset,
            batch: BatchNo(range.resume_batch.0 - 1),
            chain: range.resume_chain,
            seq: range.resume_seq.prev(),
        };
    }

    /// Goes on behind a handled range, with what can still be read of the batches in it; `bytes` are the segment's. The
    /// offset to go on at, or the segment's end.
    fn pass(&mut self, range: Handled, header: &SegmentHeader, from: Place, stamps: &Stamps, bytes: &[u8]) -> usize {
        let ends_here = range.resume_segment == from.segment;
        let end = if ends_here { (range.resume_offset as usize).min(bytes.len()) } else { bytes.len() };
        let mut place = from;
        // One that reaches into another segment was lost whole, whatever can be read in it.
        while let State::Following(next) = self.state
            && ends_here
            && (place.offset as usize) < end
        {
            let rest = &bytes[place.offset as usize..];
            let in_part = partly(&check(rest, &place, stamps), rest, header.stream());
            let fits = |batch: &BatchHeader| (place.offset + batch.length) as usize <= end;
            let Some((batch, in_part)) = in_part.filter(|(batch, _)| fits(batch) && self.continues(batch, place, next))
            else {
                break;
            };
            let at = (place.segment, place.offset);
            self.take(header, &batch, place, rest);
            self.progress.passed.extend(in_part.lost.iter().map(|&lost| Passed { at, lost, range }));
            self.progress.partly.insert(at, in_part);
            place.offset += batch.length;
        }
        if let State::Following(next) = self.state {
            self.pass_over(range, (place.segment, place.offset), next);
        }
        if ends_here {
            self.behind(&range);
            return range.resume_offset as usize;
        }
        self.state = State::Skipping(range);
        bytes.len()
    }

    /// Looks at one page for a batch that lies behind the open pause; the bytes to go on by.
    fn search(&mut self, header: &SegmentHeader, place: Place, stamps: &Stamps, bytes: &[u8]) -> usize {
        if stamps.read(bytes, place.offset as usize) == Stamp::Stale {
            return PAGE_BYTES;
        }
        let Some(batch) = decode_header(bytes, &place) else { return PAGE_BYTES };
        for pause in &mut self.pauses {
            pause.durable_upto = pause.durable_upto.max(batch.durable_upto);
        }
        let pause = self.pauses.last().expect("a pause while searching");
        let first = place.offset as usize == SEGMENT_HEADER_BYTES;
        let continues_pause = pause.next.is_some_and(|next| {
            batch.number == next.number && batch.prev_chain == next.chain && batch.first_seq == next.seq
        });
        if first && continues_pause && batch.prev_end == pause.stop.1 && header.segment.0 == pause.stop.0.0 + 1 {
            // The log simply went on in this segment; the rest of the last one was never written.
            if !self.can_be_read(header, place, stamps, bytes) {
                return self.move_pause(header, place, stamps, bytes);
            }
            let pause = self.pauses.pop().expect("the pause just looked at");
            self.progress = *pause.before;
            self.state = State::Following(pause.next);
            self.joins = Some((place.segment, place.offset));
            return 0;
        }
        // What lies between may be a segment without a batch, whose header is lost.
        let behind_empty = first && continues_pause && batch.prev_end as usize == SEGMENT_HEADER_BYTES;
        let behind = behind_empty || pause.next.is_none_or(|next| batch.number > next.number);
        if !behind || !self.can_be_read(header, place, stamps, bytes) {
            return PAGE_BYTES;
        }
        let next = Next { number: batch.number, chain: batch.prev_chain, seq: batch.first_seq };
        self.resume(header, place.offset, next, false);
        // What is expected here now is there, or a part of it.
        0
    }

    /// There is a batch that is sound or damaged in part only.
    fn can_be_read(&self, header: &SegmentHeader, place: Place, stamps: &Stamps, bytes: &[u8]) -> bool {
        let checked = check(bytes, &place, stamps);
        let few = self.pauses.len() < PAUSES_IN_PART_MAX;
        matches!(checked, Check::Sound(_)) || (few && partly(&checked, bytes, header.stream()).is_some())
    }

    /// The log went on in this segment with a batch that is not sound: the break is here.
    fn move_pause(&mut self, header: &SegmentHeader, place: Place, stamps: &Stamps, bytes: &[u8]) -> usize {
        let check = check(bytes, &place, stamps);
        let pause = self.pauses.last_mut().expect("a pause while searching");
        pause.segment = place.segment;
        pause.offset = place.offset;
        pause.check = check;
        let upto = match check {
            Check::Torn(batch) | Check::Damaged(_, Some(batch)) => place.offset.saturating_add(batch.length),
            _ => place.offset + PAGE_BYTES as u32,
        };
        let upto = upto.min(header.segment_bytes as u32);
        pause.torn = Some(Torn { segment: place.segment, offset: place.offset, upto });
        PAGE_BYTES
    }

    /// Judges every break and says where the log ends.
    #[must_use]
    pub fn finish(self) -> Scanned {
        let newest = self.headers.into_values().flatten().max_by_key(|header| header.epoch);
        let followed = matches!(self.state, State::Following(_) | State::Skipping(_));
        judged(self.pauses, self.progress, Ending { newest, followed, flushed: self.flushed, before: self.ends_before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buf::AlignedBuf;
    use crate::types::{Chain, FileId, Generation, ShardId, StoreId, Stream};
    use crate::wal::batch::{BatchBuilder, Begin, Push, StreamEnd, StreamEnds};
    use crate::wal::breaks::Proof;
    use crate::wal::entry::{Absent, Adopted, EncodedEntry, Entry, EntryKind, Identity};
    use crate::wal::log::Log;
    use crate::wal::verdict::InPart;

    const SEGMENT: usize = 1 << 20;

    /// A log that is written batch by batch into plain memory.
    struct Written {
        log: Log,
        files: BTreeMap<SegmentNo, (SegmentHeader, Vec<u8>)>,
        batches: Vec<(SegmentNo, u32, u32)>,
    }

    fn header(segment: u64, pin: Option<LogEnd>) -> SegmentHeader {
        SegmentHeader {
            store: StoreId([7; 16]),
            shard: ShardId(0),
            segment: SegmentNo(segment),
            epoch: Epoch(1),
            nonce: crate::types::Nonce(2),
            file_id: FileId(100 + segment),
            generation: Generation(1),
            filled_upto: 0,
            segment_bytes: SEGMENT as u64,
            boot: [9; 16],
            pin,
            handled: Vec::new(),
        }
    }

    impl Written {
        fn new() -> Self {
            let current = UsedSegment {
                header: header(1, Some(LogEnd::default())),
                first_batch: BatchNo(1),
                first_seq: Seq(1),
                last_seq: Seq(0),
                end: SEGMENT_HEADER_BYTES as u32,
            };
            let log = Log {
                used: Default::default(),
                current,
                ready: [header(2, None), header(3, None)].into(),
                number: BatchNo(0),
                chain: Chain(0),
                ends: StreamEnds::new(),
                gaps: Vec::new(),
                says_vector: true,
                prev_end: 0,
            };
            let mut this = Self { log, files: BTreeMap::new(), batches: Vec::new() };
            for header in [header(1, Some(LogEnd::default())), header(2, None), header(3, None)] {
                let mut bytes = header.encode();
                bytes.resize(SEGMENT, 0);
                this.files.insert(header.segment, (header, bytes));
            }
            this
        }

        fn append(&mut self, blocks: u32, durable_upto: u64) {
            let block = |block: u32| {
                let payload = [block as u8; 700];
                let entry = Entry {
                    kind: EntryKind::Own,
                    block_kind: crate::types::BlockKind::Raw,
                    namespace: "n",
                    table: "t",
                    length: 700,
                    received_at_ns: 0,
                    rows: 1,
                    payload_crc: crc32fast::hash(&payload),
                    identity: None,
                };
                (entry.encode(), payload.to_vec())
            };
            self.append_all((0..blocks).map(block), durable_upto);
        }

        fn append_all(&mut self, entries: impl Iterator<Item = (EncodedEntry, Vec<u8>)>, durable_upto: u64) {
            let own = Stream { origin: StoreId([7; 16]), ..Stream::default() };
            let begin = Begin {
                vector: self.log.vector(),
                place: self.log.place(),
                own,
                first_seq: self.log.last_seq().next(),
                soft_bytes: 1 << 16,
                hard_bytes: self.log.room(),
                ends: std::mem::take(&mut self.log.ends),
            };
            let mut batch = BatchBuilder::new(begin, AlignedBuf::new(1 << 16));
            for (entry, payload) in entries {
                assert_eq!(batch.push(entry.bytes(), &payload), Push::Taken);
            }
            let place = self.log.place();
            let (image, header, after) = batch.finish(self.log.link(BatchNo(durable_upto), false));
            self.log.appended(&header, after);
            let (_, bytes) = self.files.get_mut(&place.segment).expect("a file");
            bytes[place.offset as usize..][..image.len()].copy_from_slice(&image);
            self.batches.push((place.segment, place.offset, header.length));
        }

        fn rotate(&mut self) {
            assert!(self.log.rotate());
        }

        fn lose(&mut self, batch: usize) {
            let (segment, offset, length) = self.batches[batch];
            self.files.get_mut(&segment).expect("a file").1[offset as usize..][..length as usize].fill(0);
        }

        fn flip(&mut self, batch: usize, byte: usize) {
            let (segment, offset, _) = self.batches[batch];
            self.files.get_mut(&segment).expect("a file").1[offset as usize + byte] ^= 0x10;
        }

        fn scan(&self) -> Scanned {
            self.scan_with(Seq(0))
        }

        fn scan_with(&self, flushed: Seq) -> Scanned {
            let headers = self.files.iter().map(|(segment, (header, _))| (*segment, Some(header.clone()))).collect();
            let mut scan = Scan::new(headers, flushed);
            for (segment, (_, bytes)) in &self.files {
                scan.feed(*segment, bytes);
            }
            scan.finish()
        }
    }

    /// Five batches of two blocks in three segments; `durable` as each batch knew it.
    fn five(durable: [u64; 5]) -> Written {
        let mut written = Written::new();
        for (index, durable_upto) in durable.into_iter().enumerate() {
            if index == 2 || index == 4 {
                written.rotate();
            }
            written.append(2, durable_upto);
        }
        written
    }

    #[test]
    fn every_combination_of_the_decision_table() {
        let batch = |written: &Written| {
            let (header, bytes) = &written.files[&SegmentNo(1)];
            decode_header(&bytes[8192..], &Place::new(header, 8192)).expect("a batch")
        };
        let some = batch(&five([0; 5]));
        for (check, innocent, wrong) in [
            (Check::End, true, Wrong::Lost),
            (Check::Torn(some), true, Wrong::Lost),
            (Check::Sound(some), false, Wrong::Chain),
            (Check::Damaged(Wrong::Body, Some(some)), false, Wrong::Body),
            (Check::Damaged(Wrong::Header, None), false, Wrong::Header),
        ] {
            assert_eq!(judge(check, true), Some((wrong, Proof::Durable)), "{check:?}");
            let unproven = (!innocent).then_some((wrong, Proof::Bytes));
            assert_eq!(judge(check, false), unproven, "{check:?}");
        }
    }

    #[test]
    fn a_whole_log_is_read_to_its_end() {
        let scanned = five([0, 0, 1, 2, 3]).scan();
        assert_eq!((scanned.end.batch, scanned.end.seq, scanned.end.segment), (BatchNo(5), Seq(10), SegmentNo(3)));
        assert!(scanned.breaks.is_empty() && scanned.torn.is_empty());
        assert_eq!(scanned.segments.len(), 3);
    }

    #[test]
    fn lost_writes_in_flight_end_the_log_wherever_they_stand() {
        // Batch 3 (the first of segment 2) is lost; 4 and 5 landed and knew only of 2 as synced.
        let mut written = five([0, 0, 1, 2, 2]);
        written.lose(2);
        let scanned = written.scan();
        assert_eq!((scanned.end.batch, scanned.end.seq), (BatchNo(2), Seq(4)));
        assert!(scanned.breaks.is_empty(), "{:?}", scanned.breaks);
    }

    #[test]
    fn what_the_store_holds_turns_a_lost_batch_into_damage_and_what_follows_is_kept() {
        let mut written = five([0, 0, 1, 2, 2]);
        written.lose(2);
        // Batch 3 has the seqs 5 and 6.
        assert_eq!(written.scan_with(Seq(4)).breaks, []);
        let scanned = written.scan_with(Seq(5));
        assert_eq!((scanned.breaks.len(), scanned.end.batch), (1, BatchNo(5)), "{:?}", scanned.breaks);
        assert_eq!((scanned.breaks[0].wrong, scanned.breaks[0].proof), (Wrong::Lost, Proof::Durable));
        // Nothing is behind the last one.
        let mut written = five([0, 0, 1, 2, 2]);
        written.lose(4);
        let scanned = written.scan_with(Seq(10));
        assert_eq!((scanned.breaks.len(), scanned.end.batch), (0, BatchNo(4)), "{:?}", scanned.breaks);
    }

    #[test]
    fn a_later_durable_upto_turns_a_lost_batch_into_damage() {
        for lost in 0..4 {
            let mut written = five([0, 1, 2, 3, 4]);
            written.lose(lost);
            let scanned = written.scan();
            assert_eq!(scanned.breaks.len(), 1, "batch {lost}: {:?}", scanned.breaks);
            let found = &scanned.breaks[0];
            assert_eq!(found.proof, Proof::Durable);
            assert_eq!(found.next.map(|next| next.number), Some(BatchNo(lost as u64 + 1)));
            assert_eq!(found.resume.map(|at| at.resume_batch), Some(BatchNo(lost as u64 + 2)));
            assert_eq!(scanned.end.batch, BatchNo(5), "what is sound behind it is still read");
        }
    }

    #[test]
    fn rot_in_any_batch_is_damage_and_the_rest_is_read() {
        for batch in 0..5 {
            for byte in [0, 10, 130, 140, 600, 1300] {
                let mut written = five([0, 0, 0, 0, 0]);
                written.flip(batch, byte);
                let scanned = written.scan();
                assert_eq!(scanned.breaks.len(), 1, "batch {batch} byte {byte}: {:?}", scanned.breaks);
                let in_part = [0, 600, 1300].contains(&byte);
                let end = if batch == 4 && !in_part { 4 } else { 5 };
                assert_eq!(scanned.end.batch, BatchNo(end), "batch {batch} byte {byte}");
                assert_eq!(scanned.breaks[0].in_part.is_some(), in_part, "batch {batch} byte {byte}");
                assert_eq!(scanned.batches, if in_part { 5 } else { 4 }, "batch {batch} byte {byte}");
            }
        }
    }

    fn lost(scanned: &Scanned) -> Vec<Option<Vec<(u64, u64)>>> {
        let runs = |of: &InPart| of.lost.iter().map(|run| (run.first.0, run.last.0)).collect();
        scanned.breaks.iter().map(|at| at.in_part.as_ref().map(runs)).collect()
    }

    #[test]
    fn where_only_a_payload_is_damaged_the_rest_of_its_batch_is_kept() {
        for batch in 0..5 {
            let seq = 2 * batch as u64 + 1;
            // A stamp; the first payload; the second; both.
            for (bytes, runs) in [
                (&[2][..], vec![]),
                (&[600], vec![(seq, seq)]),
                (&[1300], vec![(seq + 1, seq + 1)]),
                (&[600, 1300], vec![(seq, seq + 1)]),
            ] {
                let mut written = five([0; 5]);
                let whole = written.scan();
                bytes.iter().for_each(|byte| written.flip(batch, *byte));
                let scanned = written.scan();
                assert_eq!(lost(&scanned), [Some(runs)], "batch {batch} {bytes:?}");
                assert_eq!((scanned.end, scanned.batches), (whole.end, 5));
                assert_eq!(scanned.ends, whole.ends, "streams stand where its table says");
                assert_eq!(scanned.partly.len(), 1);
            }
        }
    }

    #[test]
    fn a_batch_that_is_damaged_in_part_is_found_behind_one_that_is_damaged_whole() {
        let mut written = five([0; 5]);
        written.flip(1, 140);
        written.flip(2, 600);
        let scanned = written.scan();
        assert_eq!(lost(&scanned), [None, Some(vec![(5, 5)])]);
        assert_eq!((scanned.batches, scanned.end.batch), (4, BatchNo(5)));
    }

    /// The sector with the batch's second payload did not arrive.
    fn tear(written: &mut Written, batch: usize) {
        let (segment, offset, _) = written.batches[batch];
        written.files.get_mut(&segment).expect("a file").1[offset as usize + 1024..][..512].fill(0);
    }

    /// Nobody was told of batch 2 when the power failed: the sector with its second payload did not arrive.
    #[test]
    fn a_torn_batch_that_holds_whole_blocks_is_still_the_end() {
        let mut written = five([0; 5]);
        tear(&mut written, 1);
        let scanned = written.scan();
        assert_eq!((scanned.breaks.len(), scanned.end.batch, scanned.torn.len()), (0, BatchNo(1), 1));
        assert!(scanned.partly.is_empty());
        // Behind one that is damaged it is no proof that the log went on there.
        let mut written = five([0; 5]);
        written.flip(0, 140);
        tear(&mut written, 1);
        (2..5).for_each(|batch| written.lose(batch));
        let scanned = written.scan();
        let found: Vec<_> = scanned.breaks.iter().map(|at| (at.offset, at.resume)).collect();
        assert_eq!((found, scanned.batches), (vec![(8192, None)], 0));
        // Where a later batch knows it to be synced its first block is kept.
        let mut written = five([0, 0, 2, 2, 2]);
        tear(&mut written, 1);
        let scanned = written.scan();
        assert_eq!((lost(&scanned), scanned.batches), (vec![Some(vec![(4, 4)])], 5));
    }

    #[test]
    fn a_last_batch_that_is_damaged_in_part_is_left_to_a_ring_that_has_all_of_it() {
        let mut written = five([0; 5]);
        let before = five([0; 5]);
        written.flip(4, 600);
        let headers = written.files.iter().map(|(segment, (header, _))| (*segment, Some(header.clone()))).collect();
        let mut scan = Scan::new(headers, Seq(0)).ending_before(BatchNo(5));
        for (segment, (_, bytes)) in &written.files {
            scan.feed(*segment, bytes);
        }
        let scanned = scan.finish();
        assert_eq!((lost(&scanned), scanned.end.batch, scanned.batches), (vec![None], BatchNo(4), 4));
        assert_eq!((scanned.breaks[0].resume, scanned.partly.len()), (None, 0));
        assert_eq!(before.scan().end.batch, BatchNo(5));
    }

    /// The segment behind a salvage of what the scan found.
    fn salvage(written: &mut Written, handled: Vec<Handled>, end: LogEnd) {
        let mut later = header(end.segment.0 + 1, Some(end));
        later.handled = handled;
        let mut bytes = later.encode();
        bytes.resize(SEGMENT, 0);
        written.files.insert(later.segment, (later, bytes));
    }

    #[test]
    fn what_a_salvage_kept_of_a_batch_is_read_again_and_what_it_lost_is_told() {
        for ranges_as_one in [false, true] {
            let mut written = five([0; 5]);
            written.flip(2, 600);
            written.flip(3, 1300);
            let found = written.scan();
            assert_eq!(lost(&found), [Some(vec![(5, 5)]), Some(vec![(8, 8)])]);
            let mut handled: Vec<Handled> = found.breaks.iter().filter_map(|at| at.resume).collect();
            if ranges_as_one {
                handled = vec![Handled { segment: handled[0].segment, offset: handled[0].offset, ..handled[1] }];
            }
            salvage(&mut written, handled, found.end);
            let passed = |written: &Written| -> Vec<(u64, u64)> {
                let scanned = written.scan();
                assert_eq!((lost(&scanned).len(), scanned.end), (0, found.end));
                scanned.passed.iter().map(|passed| (passed.lost.first.0, passed.lost.last.0)).collect()
            };
            assert_eq!(passed(&written), [(5, 5), (8, 8)]);
            assert_eq!((written.scan().partly, written.scan().ends), (found.partly.clone(), found.ends.clone()));
            // More of it rots.
            written.flip(3, 600);
            assert_eq!(passed(&written), [(5, 5), (7, 8)]);
            written.flip(3, 140);
            assert_eq!(passed(&written), [(5, 5), (7, 8)]);
            written.flip(2, 140);
            let all = if ranges_as_one { vec![(5, 8)] } else { vec![(5, 6), (7, 8)] };
            assert_eq!(passed(&written), all);
        }
    }

    #[test]
    fn a_pin_fixes_the_end_and_leftovers_behind_it_stay_out() {
        let mut written = five([0; 5]);
        // A recovery found the log to end after batch 3: batch 4, in flight then, landed all the same.
        let end = {
            let (segment, offset, length) = written.batches[2];
            let header = &written.files[&segment];
            let batch = decode_header(&header.1[offset as usize..], &Place::new(&header.0, offset)).expect("batch 3");
            let offset = offset + length;
            LogEnd { segment, offset, batch: batch.number, chain: batch.chain, seq: batch.last_seq() }
        };
        let pinned = header(3, Some(end));
        let mut bytes = pinned.encode();
        bytes.resize(SEGMENT, 0);
        written.files.insert(SegmentNo(3), (pinned, bytes));
        let scanned = written.scan();
        assert_eq!(scanned.end, end);
        assert!(scanned.breaks.is_empty(), "{:?}", scanned.breaks);
        // What the pin names as the end must be there.
        written.lose(2);
        assert_eq!(written.scan().breaks.len(), 1);
    }

    #[test]
    fn a_pin_proves_all_that_stands_before_it() {
        let mut written = five([0; 5]);
        let later = header(4, Some(written.scan().end));
        let mut bytes = later.encode();
        bytes.resize(SEGMENT, 0);
        written.files.insert(SegmentNo(4), (later, bytes));
        assert!(written.scan().breaks.is_empty());
        // No batch behind it knew it to be synced; the recovery did.
        written.lose(1);
        let scanned = written.scan();
        let found: Vec<_> = scanned.breaks.iter().map(|found| (found.wrong, found.proof)).collect();
        assert_eq!(found, [(Wrong::Lost, Proof::Durable)]);
        assert_eq!(scanned.batches, 4);
    }

    /// What stands before it goes to quarantine too, and is not blamed.
    #[test]
    fn an_end_that_is_adopted_is_the_streams_end_and_names_what_is_lost_in_this_segment_and_the_next() {
        let stream = Stream { origin: StoreId([8; 16]), epoch: Epoch(3), ..Stream::default() };
        let adopted = |seq, chain, absent| {
            let adopted = Adopted { last: Identity { stream, seq: Seq(seq) }, chain: Chain(chain), absent };
            (adopted.entry(), Vec::new())
        };
        let mut written = Written::new();
        written.append(2, 0);
        written.append_all([adopted(7, 70, Absent::Lost), adopted(9, 90, Absent::InDataFiles)].into_iter(), 1);
        written.append_all([adopted(12, 120, Absent::Lost)].into_iter(), 2);
        let gap = |from, to| Control::Gap { stream, from: Seq(from), to: Seq(to) };
        let gaps = [gap(0, 8), gap(9, 13)];
        let check = |written: &Written, segment: u64| {
            let scanned = written.scan();
            assert!(scanned.breaks.is_empty(), "{:?}", scanned.breaks);
            assert_eq!(scanned.ends[&stream], StreamEnd { seq: Seq(12), chain: Chain(120) });
            assert_eq!(scanned.gaps, gaps.map(|gap| (SegmentNo(segment), gap)));
            assert_eq!((&written.log.gaps[..], &written.log.ends), (&gaps[..], &scanned.ends));
        };
        check(&written, 1);
        written.rotate();
        written.append(1, 3);
        check(&written, 1);
        // The segment is given back.
        written.files.remove(&SegmentNo(1));
        check(&written, 0);
    }

    #[test]
    fn a_missing_segment_is_named_where_the_log_stopped_before_it() {
        let mut written = five([0, 0, 1, 2, 3]);
        written.flip(1, 140);
        let stopped = (written.batches[1].0, written.batches[1].1);
        written.files.remove(&SegmentNo(2));
        let scanned = written.scan();
        let found: Vec<_> = scanned.breaks.iter().map(|at| (at.segment, at.offset, at.wrong, at.also)).collect();
        assert_eq!(found, [(SegmentNo(2), 0, Wrong::Missing, Some(stopped))]);
    }

    #[test]
    fn a_missing_segment_is_named() {
        let mut written = five([0; 5]);
        written.files.remove(&SegmentNo(2));
        let scanned = written.scan();
        assert_eq!(scanned.breaks.len(), 1);
        assert_eq!((scanned.breaks[0].segment, scanned.breaks[0].wrong), (SegmentNo(2), Wrong::Missing));
        assert_eq!(scanned.end.batch, BatchNo(5));
    }

    /// Five batches of which the second is lost, and a salvage that has handled that: the log resumes in
    /// segment 2.
    fn salvaged() -> Written {
        let mut written = five([0, 1, 2, 3, 4]);
        written.lose(1);
        let scanned = written.scan();
        let mut later = header(4, Some(scanned.end));
        later.handled = vec![scanned.breaks[0].resume.expect("a resume")];
        let mut bytes = later.encode();
        bytes.resize(SEGMENT, 0);
        written.files.insert(SegmentNo(4), (later, bytes));
        written
    }

    #[test]
    fn a_handled_range_is_not_damage_again() {
        let again = salvaged().scan();
        assert!(again.breaks.is_empty(), "{:?}", again.breaks);
        assert_eq!((again.end.batch, again.batches), (BatchNo(5), 4));
    }

    /// Batch 2 was lost in a power cut, and batch 3 behind it, in flight then, landed. The recovery went on in
    /// segment 2, and its log in segment 3.
    #[test]
    fn where_a_pin_is_gone_nothing_left_over_from_before_it_comes_back() {
        nothing_left_over_comes_back(|written| written.lose(1));
        // Some of its blocks landed.
        nothing_left_over_comes_back(|written| tear(written, 1));
    }

    fn nothing_left_over_comes_back(lose: impl Fn(&mut Written)) {
        let mut written = Written::new();
        (0..3).for_each(|_| written.append(2, 0));
        lose(&mut written);
        let end = written.scan().end;
        assert_eq!(end.batch, BatchNo(1));
        let of_recovery = |segment, pin| SegmentHeader { epoch: Epoch(2), ..header(segment, pin) };
        for (segment, pin) in [(2, Some(end)), (3, None), (4, None)] {
            let header = of_recovery(segment, pin);
            let mut bytes = header.encode();
            bytes.resize(SEGMENT, 0);
            written.files.insert(SegmentNo(segment), (header, bytes));
        }
        written.log.current = UsedSegment {
            header: of_recovery(2, Some(end)),
            first_batch: BatchNo(2),
            first_seq: end.seq.next(),
            last_seq: end.seq,
            end: SEGMENT_HEADER_BYTES as u32,
        };
        (written.log.number, written.log.chain, written.log.prev_end) = (end.batch, end.chain, end.offset);
        written.log.ready = [of_recovery(3, None), of_recovery(4, None)].into();
        (0..2).for_each(|_| written.append(2, 1));
        written.rotate();
        (0..2).for_each(|_| written.append(2, 3));
        let whole = written.scan();
        assert_eq!((whole.breaks.len(), whole.batches, whole.end.batch), (0, 5, BatchNo(5)), "{:?}", whole.breaks);
        // Batches 1, 4 and 5 are left, and numbers up to 3 are proven by segment 3 only.
        written.files.remove(&SegmentNo(2));
        let scanned = written.scan();
        let found: Vec<_> = scanned.breaks.iter().map(|at| (at.segment, at.wrong, at.also)).collect();
        assert_eq!(found, [(SegmentNo(2), Wrong::Missing, Some((SegmentNo(1), end.offset)))]);
        assert_eq!((scanned.batches, scanned.end.batch), (3, BatchNo(5)));
        assert_eq!(scanned.breaks[0].resume.map(|at| (at.resume_segment, at.resume_seq)), Some((SegmentNo(3), Seq(7))));
        // Nor does it once that is salvaged.
        let handled = scanned.breaks.iter().filter_map(|at| at.resume).collect();
        salvage(&mut written, handled, scanned.end);
        let again = written.scan();
        assert_eq!((again.breaks.len(), again.batches, again.end), (0, 3, scanned.end), "{:?}", again.breaks);
        let passed: Vec<_> = again.passed.iter().map(|passed| (passed.lost.first.0, passed.lost.last.0)).collect();
        assert_eq!(passed, [(3, 6)]);
    }

    #[test]
    fn a_segment_that_is_gone_where_a_handled_range_ends_is_damage() {
        let mut written = salvaged();
        written.files.remove(&SegmentNo(2));
        let scanned = written.scan();
        let found: Vec<_> = scanned.breaks.iter().map(|found| (found.segment, found.wrong)).collect();
        assert_eq!(found, [(SegmentNo(2), Wrong::Missing)]);
        assert_eq!(scanned.batches, 2, "the first, and the one in segment 3");
        let mut written = salvaged();
        written.files.remove(&SegmentNo(2));
        written.files.remove(&SegmentNo(3));
        let found: Vec<_> = written.scan().breaks.iter().map(|found| (found.segment, found.wrong)).collect();
        assert_eq!(found, [(SegmentNo(2), Wrong::Missing)]);
    }

    #[test]
    fn a_segment_header_that_rots_where_a_handled_range_ends_is_damage() {
        let written = salvaged();
        let headers =
            written.files.iter().map(|(segment, (header, _))| (*segment, (segment.0 != 2).then(|| header.clone())));
        let mut scan = Scan::new(headers.collect(), Seq(0));
        for (segment, (_, bytes)) in &written.files {
            scan.feed(*segment, if segment.0 == 2 { &[] } else { bytes });
        }
        let scanned = scan.finish();
        let found: Vec<_> = scanned.breaks.iter().map(|found| (found.segment, found.wrong)).collect();
        assert_eq!(found, [(SegmentNo(2), Wrong::SegmentHeader)]);
        assert_eq!(scanned.batches, 2, "the first, and the one in segment 3");
    }

    #[test]
    fn rot_where_a_handled_range_begins_and_ends_is_damage() {
        // Batch 2 was lost and batch 3 written over it: the log resumes right where it broke.
        let mut written = Written::new();
        written.append(2, 0);
        written.append(2, 1);
        let (_, offset, _) = written.batches[1];
        written.log.current.end = offset;
        written.append(2, 2);
        let scanned = written.scan();
        let resume = scanned.breaks[0].resume.expect("a resume");
        assert_eq!((resume.resume_segment, resume.resume_offset), (resume.segment, resume.offset));
        let mut later = header(2, Some(scanned.end));
        later.handled = vec![resume];
        let mut bytes = later.encode();
        bytes.resize(SEGMENT, 0);
        written.files.remove(&SegmentNo(3));
        written.files.insert(SegmentNo(2), (later, bytes));
        assert!(written.scan().breaks.is_empty());
        written.flip(2, 600);
        assert_eq!(written.scan().breaks.len(), 1);
    }
}
