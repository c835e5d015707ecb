//! What a scan finds, and what it makes of it when all evidence is in: where the log stopped, why that is
//! damage or its end, and where the log ends. Pure; the rules are in `wal/mod.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::NUMBER_MAX;
use crate::types::{BatchNo, Chain, Epoch, SegmentNo, Seq, Stream};
use crate::wal::batch::{BatchHeader, StreamEnd, StreamEnds};
use crate::wal::entry::Control;
use crate::wal::log::UsedSegment;
use crate::wal::segment::{Handled, LogEnd, SegmentHeader};
use crate::wal::vector::FOLDED;
use crate::wal::verdict::{Check, InPart, Lost, Wrong};

/// What the next batch must say to continue the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Its number.
    pub number: BatchNo,
    /// Its `prev_chain`.
    pub chain: Chain,
    /// Its first seq.
    pub seq: Seq,
}

/// A place at which the log stopped and something follows that must not be believed unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The segment.
    pub segment: SegmentNo,
    /// The offset in it, in bytes.
    pub offset: u32,
    /// What would have continued the log; `None` at the start of the oldest segment.
    pub next: Option<Next>,
    /// What is wrong there.
    pub wrong: Wrong,
    /// Why it counts as damage.
    pub proof: Proof,
    /// Where the log goes on behind it, if it does.
    pub resume: Option<Handled>,
    /// What is lost in it, where the rest of a batch is whole; `None`: all up to where the log goes on.
    pub in_part: Option<InPart>,
    /// A place before it, where the log stopped with something that is no batch of its own: what is to
    /// blame is a segment that is missing or unreadable behind that.
    pub also: Option<(SegmentNo, u32)>,
}

/// Why a break is damage and not the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A later batch names this one as synced, a pin lies behind it, or a file is missing.
    Durable,
    /// Neither a write nor its absence explains the bytes.
    Bytes,
}

/// A write at the end of the log that did not arrive whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub segment: SegmentNo,
    /// Where the log ends in it.
    pub offset: u32,
    /// Up to where this generation wrote behind that, in bytes.
    pub upto: u32,
}

/// The batches of a log that are damaged in part, by place.
pub type Partly = BTreeMap<(SegmentNo, u32), InPart>;

/// Blocks that the log passes over where damage was handled earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Where they stood.
    pub at: (SegmentNo, u32),
    /// Which.
    pub lost: Lost,
    /// As part of what.
    pub range: Handled,
}

/// Blocks of a stream that stood where the log passes over damage: it goes on behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The stream.
    pub stream: Stream,
    /// The last seq in it that was there.
    pub from: Seq,
    /// The last one that is not.
    pub upto: Seq,
    /// The log has these blocks before this seq of its own.
    pub before: Seq,
}

impl Hole {
    /// What is missing of a stream that was known to stand at `known` and goes on behind `end`.
    pub(super) fn between(known: Option<&StreamEnd>, stream: Stream, end: StreamEnd, before: Seq) -> Option<Self> {
        let from = known.map_or(Seq(0), |known| known.seq);
        (stream.nonce != FOLDED && from < end.seq && end.seq.0 <= NUMBER_MAX).then_some(Self {
            stream,
            from,
            upto: end.seq,
            before,
        })
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// The segments of the log, oldest first, with their ends.
    pub segments: Vec<UsedSegment>,
    /// Where the log ends.
    pub end: LogEnd,
    /// Where every stream stands there.
    pub ends: StreamEnds,
    /// The streams of which a block stood in it.
    pub listed: BTreeSet<Stream>,
    /// Rings up to this epoch are done with.
    pub intake_done: Epoch,
    /// The segment header with the highest epoch.
    pub newest: Option<SegmentHeader>,
    /// The log ends with a seal.
    pub sealed: bool,
    /// Batches in it.
    pub batches: u64,
    /// Damage, in order. The log goes on behind a break that has a `resume`; the last may have none.
    pub breaks: Vec<Break>,
    /// The torn tails, where there are any.
    pub torn: Vec<Torn>,
    /// The gaps that the log names, each with the segment in which it was found; 0 where that was given back.
    pub gaps: Vec<(SegmentNo, Control)>,
    /// Batches that are damaged in part, now or earlier.
    pub partly: Partly,
    /// What a salvage has said to be lost, or should have.
    pub passed: Vec<Passed>,
    /// What is missing within streams that were carried here.
    pub holes: Vec<Hole>,
    /// `ends` are those of all streams: what said so at the log's beginning is not lost.
    pub knows_ends: bool,
}

/// A pause: the log stopped here for now.
#[derive(Clone, Debug)]
pub(super) struct Pause {
    /// Where the log stopped: a handled range is known by this.
    pub(super) stop: (SegmentNo, u32),
    /// What is to blame, which may lie in a later segment.
    pub(super) segment: SegmentNo,
    pub(super) offset: u32,
    /// What does not continue the log before that.
    pub(super) also: Option<(SegmentNo, u32)>,
    pub(super) next: Option<Next>,
    pub(super) check: Check,
    pub(super) torn: Option<Torn>,
    /// What was known then, for the case that the log ends here.
    pub(super) before: Box<Progress>,
    pub(super) resume: Option<Handled>,
    /// What is lost, where only a part of the batch is.
    pub(super) in_part: Option<InPart>,
    pub(super) proven: bool,
    /// The highest `durable_upto` behind it.
    pub(super) durable_upto: BatchNo,
}

impl Pause {
    /// The log stopped here, with this known of it, and nothing is known of what follows.
    pub(super) fn new(stop: (SegmentNo, u32), next: Option<Next>, check: Check, before: Progress) -> Self {
        Self {
            stop,
            segment: stop.0,
            offset: stop.1,
            also: None,
            next,
            check,
            torn: None,
            before: Box::new(before),
            resume: None,
            in_part: None,
            proven: false,
            durable_upto: BatchNo(0),
        }
    }

    /// Something proves that more of the log had been synced here.
    pub(super) fn is_durable(&self, flushed: Seq) -> bool {
        self.proven
            || self.next.is_none()
            || self.next.is_some_and(|next| self.durable_upto >= next.number)
            // Where nothing sound follows, the store has all that there is to have.
            || (self.resume.is_some() && self.next.is_some_and(|next| next.seq <= flushed))
    }

    /// A whole segment is missing or cannot be read.
    pub(super) const fn is_of_a_file(&self) -> bool {
        matches!(self.check, Check::Damaged(wrong, _) if is_of_a_file(wrong))
    }
}

/// A whole segment is missing or cannot be read.
const fn is_of_a_file(wrong: Wrong) -> bool {
    matches!(wrong, Wrong::Missing | Wrong::SegmentHeader)
}

/// What is known of the log so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) segments: Vec<UsedSegment>,
    pub(super) ends: StreamEnds,
    pub(super) listed: BTreeSet<Stream>,
    pub(super) intake_done: Epoch,
    pub(super) sealed: bool,
    pub(super) batches: u64,
    pub(super) end: LogEnd,
    pub(super) gaps: Vec<(SegmentNo, Control)>,
    pub(super) partly: Partly,
    pub(super) passed: Vec<Passed>,
    pub(super) holes: Vec<Hole>,
    /// A vector was read: `ends` are those of all streams.
    pub(super) knows_ends: bool,
}

impl Next {
    /// What follows this batch.
    pub(super) fn behind(batch: &BatchHeader) -> Self {
        Self { number: BatchNo(batch.number.0 + 1), chain: batch.chain, seq: batch.last_seq().next() }
    }

    /// What follows this range.
    pub(super) const fn of(range: &Handled) -> Self {
        Self { number: range.resume_batch, chain: range.resume_chain, seq: range.resume_seq }
    }
}

/// How a scan ended.
pub(super) struct Ending {
    /// The segment header with the highest epoch.
    pub(super) newest: Option<SegmentHeader>,
    /// The log was being followed, not searched for.
    pub(super) followed: bool,
    /// The store has everything up to here.
    pub(super) flushed: Seq,
    /// The log ends at the break before this batch.
    pub(super) before: Option<BatchNo>,
}

/// Judges every break and says where the log ends.
pub(super) fn judged(pauses: Vec<Pause>, mut progress: Progress, ending: Ending) -> Scanned {
    let mut breaks = Vec::new();
    let mut torn = Vec::new();
    let count = pauses.len();
    // What was known at each break, and what stands there.
    let mut known: Vec<(Box<Progress>, Option<Torn>)> = Vec::new();
    for (index, pause) in pauses.into_iter().enumerate() {
        let open = index + 1 == count && !ending.followed;
        // What a recovery writes has been in the store before: that says nothing of these writes.
        let newest = ending.newest.as_ref().map_or(Epoch(0), |header| header.epoch);
        let replaying = pause.before.intake_done.0 + 1 < newest.0;
        let durable = pause.is_durable(if replaying { Seq(0) } else { ending.flushed });
        #[cfg(feature = "sim")]
        let durable = (durable && !crate::planted::is_planted(crate::planted::Mutant::DurableUptoIgnored)) || {
            use crate::planted::{Mutant, is_planted};
            (is_planted(Mutant::HeaderIsProof) && pause.resume.is_some())
                || (is_planted(Mutant::SealIsProof) && pause.resume.is_some() && progress.sealed)
        };
        let damage = judge(pause.check, durable);
        let Some((wrong, proof)) = damage else {
            // The log ends here; everything read behind it was in flight and never proven.
            torn.extend(pause.torn);
            progress = *pause.before;
            break;
        };
        let Pause { segment, offset, next, resume, in_part, also, .. } = pause;
        breaks.push(Break { segment, offset, next, wrong, proof, resume, in_part, also });
        if open {
            torn.extend(pause.torn);
            progress = (*pause.before).clone();
        }
        known.push((pause.before, pause.torn));
    }
    let is_end = |at: &Break| at.next.is_some_and(|next| Some(next.number) == ending.before);
    if let Some(index) = breaks.iter().position(is_end) {
        breaks.truncate(index + 1);
        known.truncate(index + 1);
        (breaks[index].resume, breaks[index].in_part) = (None, None);
        torn = Vec::from_iter(known[index].1);
        progress = (*known[index].0).clone();
    }
    // Nothing is left of what the log went on with behind the last break: that one is its end.
    while let (Some(end), Some((before, at))) = (breaks.last_mut(), known.last()) {
        let behind = progress.batches - before.batches;
        if end.resume.is_some() {
            if behind > 0 || progress.end != before.end {
                break;
            }
            (end.resume, end.in_part) = (None, None);
            torn = Vec::from_iter(*at);
            progress = (**before).clone();
        }
        // Perhaps the one before it as well.
        let Some((earlier, _)) = known.len().checked_sub(2).map(|index| &known[index]) else { break };
        if (earlier.batches, earlier.end) != (progress.batches, progress.end) {
            break;
        }
        let later = breaks.pop().expect("two breaks");
        known.pop();
        // Of several that are one, a file that is missing or unreadable is to blame.
        if let Some(one) = breaks.last_mut()
            && is_of_a_file(later.wrong)
            && !is_of_a_file(one.wrong)
        {
            one.also = Some((one.segment, one.offset));
            (one.segment, one.offset, one.wrong, one.proof) = (later.segment, later.offset, later.wrong, later.proof);
        }
    }
    Scanned {
        segments: progress.segments,
        end: progress.end,
        ends: progress.ends,
        listed: progress.listed,
        intake_done: progress.intake_done,
        newest: ending.newest,
        sealed: progress.sealed,
        batches: progress.batches,
        breaks,
        torn,
        gaps: progress.gaps,
        partly: progress.partly,
        passed: progress.passed,
        holes: progress.holes,
        knows_ends: progress.knows_ends,
    }
}

/// The decision table: what stands at a place where the log stops, and whether something proves that
/// more was durable there. `None`: the log ends.
pub(super) const fn judge(check: Check, durable: bool) -> Option<(Wrong, Proof)> {
    match (check, durable) {
        (Check::End | Check::Torn(_), false) => None,
        (Check::End | Check::Torn(_), true) => Some((Wrong::Lost, Proof::Durable)),
        (Check::Damaged(wrong, _), false) => Some((wrong, Proof::Bytes)),
        (Check::Damaged(wrong, _), true) => Some((wrong, Proof::Durable)),
        // A whole batch of this place that does not continue the log: nothing innocent leaves that.
        (Check::Sound(_), false) => Some((Wrong::Chain, Proof::Bytes)),
        (Check::Sound(_), true) => Some((Wrong::Chain, Proof::Durable)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pause after which nothing of the log was read.
    fn pause(segment: u64, offset: u32, check: Check, resume: Option<Handled>) -> Pause {
        let next = Some(Next::of(&Handled::default()));
        let pause = Pause::new((SegmentNo(segment), offset), next, check, Progress::default());
        Pause { resume, proven: true, ..pause }
    }

    #[test]
    fn of_two_breaks_that_are_one_the_file_that_cannot_be_read_is_to_blame() {
        let unreadable = Check::Damaged(Wrong::SegmentHeader, None);
        let pauses = vec![pause(1, 0x3000, Check::End, Some(Handled::default())), pause(2, 0, unreadable, None)];
        let ending = Ending { newest: None, followed: false, flushed: Seq(0), before: None };
        let found = judged(pauses, Progress::default(), ending).breaks;
        let found: Vec<_> = found.iter().map(|at| (at.segment.0, at.offset, at.wrong, at.also, at.resume)).collect();
        assert_eq!(found, [(2, 0, Wrong::SegmentHeader, Some((SegmentNo(1), 0x3000)), None)]);
    }
}
