//! What an opening has to say is lost: of each break, and of what an earlier salvage should have said and did not.

use std::collections::BTreeSet;

use crate::recover::examined::{Examined, ShardSetup, boot};
use crate::report::{Damage, Gap};
use crate::types::{SegmentNo, Seq, Stream};
use crate::wal::batch::StreamEnd;
use crate::wal::breaks::{Break, Hole, Next, Passed, Proof, Scanned};
use crate::wal::entry::Control;
use crate::wal::ring::{Replay, RingVerdict};
use crate::wal::segment::{Handled, SegmentHeader};
use crate::wal::vector::FOLDED;
use crate::wal::verdict::{InPart, Lost, Wrong};

/// Sees to it that every block that the log passes over is lost for good. A batch that is damaged in part counts no more
/// where a salvage has said all of what is lost in it. And where neither a gap names a block nor the store has it, a
/// salvage had kept it, and it is damaged since: a break for each such place.
pub(crate) fn compare_with_gaps(scanned: &mut Scanned, flushed: Seq) {
    // What is not known to be of another store was numbered by this one.
    let store = scanned.newest.as_ref().map(|newest| newest.store);
    let is_own =
        |(_, gap): &&(SegmentNo, Control)| matches!(gap, Control::Gap { stream, .. } if Some(stream.origin) == store);
    let own_gaps: Vec<_> = scanned.gaps.iter().filter(is_own).copied().collect();
    let unsaid = |run: &Lost| {
        let gaps = if run.stream.is_some() { &scanned.gaps } else { &own_gaps };
        let behind = run.numbers_behind(flushed).map(|numbers| unnamed(gaps, run.stream, numbers));
        behind.unwrap_or_default()
    };
    let is_said = |run: &Lost| unsaid(run).is_empty();
    let is_known = |of: &InPart| !of.controls && !of.lost.is_empty() && of.lost.iter().all(is_said);
    scanned.breaks.retain(|at| !at.in_part.as_ref().is_some_and(is_known));
    #[cfg(feature = "sim")]
    if crate::planted::is_planted(crate::planted::Mutant::AnewUnnoticed) {
        return;
    }
    let mut anew: Vec<Break> = Vec::new();
    for &Passed { at: (segment, offset), lost, range } in &scanned.passed {
        let mut runs: Vec<Lost> = unsaid(&lost).into_iter().map(|numbers| lost.part(numbers)).collect();
        let Some(run) = runs.first() else { continue };
        match anew.last_mut() {
            Some(Break { segment: before, offset: at, in_part: Some(of), .. })
                if (*before, *at) == (segment, offset) =>
            {
                of.lost.append(&mut runs);
            }
            _ => anew.push(Break {
                segment,
                offset,
                next: Some(Next { number: range.resume_batch, chain: range.resume_chain, seq: run.first }),
                wrong: Wrong::Anew,
                proof: Proof::Durable,
                resume: Some(range),
                in_part: Some(InPart { lost: runs, controls: false }),
                also: None,
            }),
        }
    }
    let open = scanned.breaks.pop_if(|last| last.resume.is_none());
    scanned.breaks.append(&mut anew);
    scanned.breaks.sort_by_key(|at| (at.segment, at.offset));
    scanned.breaks.extend(open);
}

/// The seqs from the first to the last that no gap of this stream names; of any stream where that is not known.
fn unnamed(gaps: &[(SegmentNo, Control)], of: Option<Stream>, (first, last): (Seq, Seq)) -> Vec<(Seq, Seq)> {
    let mut named: Vec<(Seq, Seq)> = gaps
        .iter()
        .filter_map(|(_, gap)| match gap {
            // One without an end is of a stream that ended there: it says nothing of others.
            Control::Gap { stream, from, to } if of.map_or(*to != Seq(u64::MAX), |of| of == *stream) => {
                Some((*from, *to))
            }
            _ => None,
        })
        .collect();
    named.sort();
    let mut runs = Vec::new();
    let mut at = first;
    for (from, to) in named {
        if at <= from {
            runs.push((at, from.min(last)));
        }
        at = at.max(to);
        if at > last {
            break;
        }
    }
    if at <= last {
        runs.push((at, last));
    }
    runs.retain(|(first, last)| first <= last);
    runs
}

/// The ranges that a salvage of these breaks has handled. Batches next to each other that are damaged in part are one.
pub(crate) fn handled_ranges(breaks: &[Break]) -> Vec<Handled> {
    let mut ranges: Vec<(Handled, bool)> = Vec::new();
    for at in breaks {
        let Some(range) = at.resume else { continue };
        let in_part = at.in_part.is_some();
        if ranges.iter().any(|(known, _)| *known == range) {
            continue;
        }
        match ranges.last_mut() {
            Some((before, true))
                if in_part && (before.resume_segment, before.resume_offset) == (range.segment, range.offset) =>
            {
                *before = Handled { segment: before.segment, offset: before.offset, ..range };
            }
            _ => ranges.push((range, in_part)),
        }
    }
    ranges.into_iter().map(|(range, _)| range).collect()
}

/// A break in words: one damage, or one for each run of blocks that is lost.
pub(crate) fn damage(setup: &ShardSetup, at: &Break) -> Vec<Damage> {
    let whole = Damage {
        shard: setup.shard.0,
        segment: at.segment.0,
        offset: at.offset,
        from_seq: at.next.map(|next| next.seq.0),
        to_seq: at.resume.map(|resume| resume.resume_seq.prev().0),
        lost_blocks: None,
        wrong: at.wrong.to_string(),
        flushed: at.resume.is_some_and(|resume| resume.resume_seq.prev() <= setup.flushed),
    };
    match &at.in_part {
        None => vec![whole],
        Some(InPart { lost, controls }) if lost.is_empty() => {
            // An opening needs to ask nobody about that.
            let wrong = format!("{}{}", whole.wrong, if *controls { " in a control entry" } else { "" });
            vec![Damage { lost_blocks: Some(0), flushed: whole.flushed || !controls, wrong, ..whole }]
        }
        Some(InPart { lost, controls }) => lost
            .iter()
            .map(|run| Damage {
                from_seq: Some(run.first.0),
                to_seq: Some(run.last.0),
                lost_blocks: Some(run.last.0 - run.first.0 + 1),
                flushed: run.last <= setup.flushed && !controls,
                ..whole.clone()
            })
            .collect(),
    }
}

/// The gaps that salvaged damage leaves in each stream of this store that was known before it.
pub(crate) fn gaps(examined: &Examined) -> Vec<Control> {
    // A stream may be lost whole: then only a segment's header still knows it, or the ring's.
    let used = examined.scanned.segments.iter().map(|used| &used.header);
    let others = examined.hollow.iter().chain(&examined.leftover).filter_map(|(_, header)| header.as_ref());
    let of_header = used.chain(others).map(SegmentHeader::stream);
    // Or the vector does, of which those that ended before the log begins have nothing to lose in it.
    let first = examined.first_seq().unwrap_or_default();
    let may_be_there =
        |(stream, end): (&Stream, &StreamEnd)| (stream.nonce != FOLDED && end.seq >= first).then_some(*stream);
    let of_vector = examined.scanned.ends.iter().filter_map(may_be_there);
    let listed = examined.scanned.listed.iter().copied();
    let of_ring = match &examined.ring {
        RingVerdict::Replay { header, .. } => Some(header.stream()),
        _ => None,
    };
    let known: BTreeSet<Stream> = listed.chain(of_header).chain(of_vector).chain(of_ring).collect();
    let known: Vec<Stream> = known.into_iter().filter(|stream| stream.origin == examined.setup.store).collect();
    // The ring knows best what is lost of its stream at the log's end.
    let (ring_stream, in_ring) = match &examined.ring {
        RingVerdict::Replay { header, damage: Some(damage), entries, .. } => {
            let last = entries.last().map(|last| last.seq);
            let behind = |seq: Seq| if last > Some(seq) { seq.next() } else { Seq(u64::MAX) };
            let lost = damage.lost_behind(examined.setup.flushed).flat_map(|(from, to)| {
                // What the log lacks from before the ring may be of any stream.
                let (streams, to) = match to < header.first_seq {
                    true => (known.clone(), to.next()),
                    false => (vec![header.stream()], behind(to)),
                };
                streams.into_iter().map(move |stream| Control::Gap { stream, from: from.prev(), to })
            });
            (Some(header.stream()), lost.collect())
        }
        RingVerdict::Replay { header, cut, entries, .. } if !entries.is_empty() => {
            let tail_is_lost =
                examined.lost_behind.is_some() || examined.scanned.breaks.last().is_some_and(|at| at.resume.is_none());
            // After a power cut what the ring had behind them is not known.
            let ends_here = cut.is_none() && header.boot == boot(&examined.setup);
            let last = entries.last().filter(|_| tail_is_lost && !ends_here);
            let gap = |last: &Replay| Control::Gap { stream: header.stream(), from: last.seq, to: Seq(u64::MAX) };
            (Some(header.stream()), last.map(gap).into_iter().collect())
        }
        // How many it had nobody knows; they were of the opening that the newest segment names.
        RingVerdict::Damaged(_) => {
            let from = examined.scanned.end.seq;
            let stream = examined.scanned.newest.as_ref().map(SegmentHeader::stream);
            (stream, stream.map(|stream| Control::Gap { stream, from, to: Seq(u64::MAX) }).into_iter().collect())
        }
        _ => (None, Vec::new()),
    };
    let flushed = examined.setup.flushed;
    let runs = examined.scanned.breaks.iter().flat_map(|at| at.in_part.iter().flat_map(|of| &of.lost));
    let in_part = runs.filter(|run| run.last > flushed).flat_map(|run| {
        let (from, to) = (run.number.prev(), run.number_of(run.last).next());
        let of = run.stream.map_or_else(|| known.clone(), |stream| vec![stream]);
        of.into_iter().map(move |stream| Control::Gap { stream, from, to })
    });
    let whole = examined.scanned.breaks.iter().filter(|at| at.in_part.is_none());
    let whole = whole.filter(|at| at.resume.is_none_or(|resume| resume.resume_seq.prev() > flushed));
    let in_log = whole.flat_map(|at| {
        let from = at.next.map_or(Seq(0), |next| next.seq.prev());
        let to = at.resume.map_or(Seq(u64::MAX), |resume| resume.resume_seq);
        let ours = known.iter().filter(move |stream| at.resume.is_some() || Some(**stream) != ring_stream);
        ours.map(move |&stream| Control::Gap { stream, from, to })
    });
    let behind = examined.lost_behind.into_iter().flat_map(|from| {
        let ours = known.iter().filter(|stream| Some(**stream) != ring_stream);
        ours.map(move |&stream| Control::Gap { stream, from, to: Seq(u64::MAX) })
    });
    let mut gaps: Vec<Control> = in_part.chain(in_log).chain(behind).chain(in_ring).collect();
    // Streams that were carried here have seqs of their own: only where they go on tells what is missing.
    let said = examined.scanned.gaps.iter().map(|(_, gap)| *gap).chain(gaps.iter().copied());
    let said: Vec<_> = said.map(|gap| (SegmentNo(0), gap)).collect();
    let is_said = |hole: &&Hole| unnamed(&said, Some(hole.stream), (hole.from.next(), hole.upto)).is_empty();
    let unsaid = examined.scanned.holes.iter().filter(|hole| hole.before.prev() > flushed && !is_said(hole));
    gaps.extend(unsaid.map(|hole| Control::Gap { stream: hole.stream, from: hole.from, to: hole.upto.next() }));
    gaps
}

/// A gap for a report.
pub(crate) fn gap_in_words(gap: &Control) -> Option<Gap> {
    let Control::Gap { stream, from, to } = gap else { return None };
    Some(Gap {
        origin: stream.origin.to_string(),
        shard: stream.shard.0,
        epoch: stream.epoch.0,
        nonce: stream.nonce.0,
        after: from.0,
        before: (*to != Seq(u64::MAX)).then_some(to.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, FileId, Generation, Nonce, ShardId, StoreId};

    fn gap(epoch: u64, from: u64, to: u64) -> (SegmentNo, Control) {
        let stream = Stream { epoch: Epoch(epoch), ..Stream::default() };
        (SegmentNo(1), Control::Gap { stream, from: Seq(from), to: Seq(to) })
    }

    #[test]
    fn what_no_gap_names_is_told_apart() {
        let gaps = [gap(1, 20, 30), gap(1, 4, 8), gap(1, 5, 7), gap(2, 9, 12), gap(1, 29, u64::MAX)];
        let one = Some(Stream { epoch: Epoch(1), ..Stream::default() });
        let runs = |of, first, last| -> Vec<(u64, u64)> {
            let runs = unnamed(&gaps, of, (Seq(first), Seq(last)));
            runs.into_iter().map(|(first, last)| (first.0, last.0)).collect()
        };
        assert_eq!(runs(one, 1, 25), [(1, 4), (8, 20)]);
        assert_eq!(runs(None, 1, 25), [(1, 4), (8, 9), (12, 20)]);
        assert_eq!(runs(None, 25, 40), [(30, 40)], "a gap without an end is of its own stream");
        assert_eq!(runs(one, 5, 7), []);
        assert_eq!(runs(one, 21, 1 << 60), []);
        assert_eq!(runs(one, 8, 8), [(8, 8)]);
        assert_eq!(runs(one, 30, 29), []);
        assert_eq!(runs(Some(Stream { epoch: Epoch(3), ..Stream::default() }), 2, 3), [(2, 3)]);
    }

    #[test]
    fn what_is_lost_of_this_stores_numbers_is_not_named_by_a_gap_of_another_stores() {
        let store = StoreId([7; 16]);
        let run = Lost { stream: None, first: Seq(10), last: Seq(12), number: Seq(10) };
        let newest = SegmentHeader {
            store,
            shard: ShardId(0),
            segment: SegmentNo(1),
            epoch: Epoch(1),
            nonce: Nonce(2),
            file_id: FileId(3),
            generation: Generation(1),
            filled_upto: 0,
            segment_bytes: 1 << 20,
            boot: [9; 16],
            pin: None,
            handled: Vec::new(),
        };
        for (origin, breaks) in [(store, 0), (StoreId([8; 16]), 1)] {
            let stream = Stream { origin, ..Stream::default() };
            let mut scanned = Scanned {
                newest: Some(newest.clone()),
                passed: vec![Passed { at: (SegmentNo(1), 0x2000), lost: run, range: Handled::default() }],
                gaps: vec![(SegmentNo(1), Control::Gap { stream, from: Seq(3), to: Seq(900) })],
                ..Scanned::default()
            };
            compare_with_gaps(&mut scanned, Seq(0));
            assert_eq!(scanned.breaks.len(), breaks, "{origin}");
        }
    }

    #[test]
    fn batches_next_to_each_other_that_are_damaged_in_part_are_one_range() {
        let at = |offset, upto, in_part: bool| Break {
            segment: SegmentNo(1),
            offset,
            next: None,
            wrong: Wrong::Payload,
            proof: Proof::Bytes,
            resume: Some(Handled {
                segment: SegmentNo(1),
                offset,
                resume_segment: SegmentNo(1),
                resume_offset: upto,
                ..Handled::default()
            }),
            in_part: in_part.then(InPart::default),
            also: None,
        };
        let breaks = [at(1, 2, false), at(2, 3, true), at(3, 4, true), at(4, 5, false), at(6, 7, true), at(8, 9, true)];
        let found: Vec<_> = handled_ranges(&breaks).iter().map(|range| (range.offset, range.resume_offset)).collect();
        assert_eq!(found, [(1, 2), (2, 4), (4, 5), (6, 7), (8, 9)]);
    }
}
