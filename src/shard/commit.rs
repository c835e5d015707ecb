//! Group commit: which batches are on their way, which sync covers which, and how far the marks
//! may move.
//!
//! Credit is a set, the mark its contiguous prefix: writes and syncs may end in any order, and a
//! sync is credited only with writes that had completed when it was submitted.

use std::collections::VecDeque;

use crate::io::disk::{Instant, OpId};
use crate::types::{BatchNo, SegmentNo, Seq};
use crate::wal::batch::BatchHeader;

/// What has happened to a run of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Writing(OpId),
    Written,
    Syncing(OpId),
    Synced,
    Failed,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A write to this segment and offset.
    Write(SegmentNo, u32),
    /// A sync of this segment.
    Sync(SegmentNo),
}

/// Consecutive batches of one segment in the same state.
#[derive(Clone, Copy, Debug)]
struct Run {
    segment: SegmentNo,
    offset: u32,
    last: BatchNo,
    last_seq: Seq,
    bytes: u64,
    began: Instant,
    state: State,
}

/// The batches between the synced prefix and the end of the log.
#[derive(Debug, Default)]
pub struct Commit {
    runs: VecDeque<Run>,
    written: (BatchNo, Seq),
    synced: (BatchNo, Seq),
    writing: usize,
    syncing: Vec<(OpId, Instant)>,
}

impl Commit {
    /// Begins behind a log whose every batch is synced.
    #[must_use]
    pub fn new(last: BatchNo, last_seq: Seq) -> Self {
        Self { written: (last, last_seq), synced: (last, last_seq), ..Self::default() }
    }

    /// A batch was submitted for writing.
    pub fn writing(&mut self, op: OpId, at: (SegmentNo, u32), batch: &BatchHeader, began: Instant) {
        self.runs.push_back(Run {
            segment: at.0,
            offset: at.1,
            last: batch.number,
            last_seq: batch.last_seq(),
            bytes: u64::from(batch.length),
            began,
            state: State::Writing(op),
        });
        self.writing += 1;
    }

    /// A batch's write completed: when it was submitted. `None` if this was no write of ours.
    pub fn wrote(&mut self, op: OpId) -> Option<Instant> {
        self.write_ended(op, State::Written)
    }

    /// A write that makes itself durable completed: when it was submitted. `None` if this was no write
    /// of ours.
    pub fn wrote_synced(&mut self, op: OpId) -> Option<Instant> {
        self.write_ended(op, State::Synced)
    }

    fn write_ended(&mut self, op: OpId, state: State) -> Option<Instant> {
        let at = self.position(State::Writing(op))?;
        let began = self.runs[at].began;
        self.runs[at].state = state;
        self.writing -= 1;
        self.merge();
        Some(began)
    }

    /// A sync of `segment` is being submitted: it will be credited with what is written now. False
    /// if there is nothing that it would cover.
    pub fn syncing(&mut self, op: OpId, segment: SegmentNo, now: Instant) -> bool {
        let mut any = false;
        for run in self.runs.iter_mut().filter(|run| run.segment == segment && run.state == State::Written) {
            run.state = State::Syncing(op);
            any = true;
        }
        if any {
            self.syncing.push((op, now));
        }
        any
    }

    /// A sync completed: when it was submitted. `None` if this was no sync of ours.
    pub fn was_synced(&mut self, op: OpId) -> Option<Instant> {
        let began = self.sync_ended(op)?;
        #[cfg(feature = "sim")]
        if crate::planted::is_planted(crate::planted::Mutant::CreditAtCompletion) {
            for run in self.runs.iter_mut().filter(|run| run.state == State::Written) {
                run.state = State::Syncing(op);
            }
        }
        for run in self.runs.iter_mut().filter(|run| run.state == State::Syncing(op)) {
            run.state = State::Synced;
        }
        self.merge();
        Some(began)
    }

    fn sync_ended(&mut self, op: OpId) -> Option<Instant> {
        let at = self.syncing.iter().position(|(id, _)| *id == op)?;
        Some(self.syncing.swap_remove(at).1)
    }

    /// An operation ended without success: what it covered gets no credit, ever. `None` if it was
    /// not ours.
    pub fn failed(&mut self, op: OpId) -> Option<Failed> {
        let write = self.position(State::Writing(op));
        let at = write.or_else(|| self.position(State::Syncing(op)))?;
        let (segment, offset) = (self.runs[at].segment, self.runs[at].offset);
        for run in self.runs.iter_mut() {
            if matches!(run.state, State::Writing(id) | State::Syncing(id) if id == op) {
                run.state = State::Failed;
            }
        }
        if write.is_some() {
            self.writing -= 1;
            Some(Failed::Write(segment, offset))
        } else {
            self.sync_ended(op);
            Some(Failed::Sync(segment))
        }
    }

    /// Nothing that is on its way will be heard of again.
    pub fn give_up(&mut self) {
        for run in self.runs.iter_mut().filter(|run| matches!(run.state, State::Writing(_) | State::Syncing(_))) {
            run.state = State::Failed;
        }
        self.writing = 0;
        self.syncing.clear();
    }

    fn position(&self, state: State) -> Option<usize> {
        self.runs.iter().position(|run| run.state == state)
    }

    /// Joins neighbours in the same state and moves the prefixes.
    fn merge(&mut self) {
        while let Some(first) = self.runs.front().filter(|run| run.state == State::Synced) {
            self.synced = (first.last, first.last_seq);
            self.runs.pop_front();
        }
        let mut kept: VecDeque<Run> = VecDeque::with_capacity(self.runs.len());
        for run in self.runs.drain(..) {
            match kept.back_mut() {
                Some(last) if last.segment == run.segment && last.state == run.state => {
                    last.last = run.last;
                    last.last_seq = run.last_seq;
                    last.bytes += run.bytes;
                }
                _ => kept.push_back(run),
            }
        }
        self.runs = kept;
        let done = self.runs.iter().take_while(|run| !matches!(run.state, State::Writing(_) | State::Failed));
        let written = done.last().map_or(self.synced, |run| (run.last, run.last_seq));
        self.written = self.written.max(written);
    }

    /// Segments, before `end` only, with written batches that no sync covers yet and without a sync on its
    /// way: what a sync of a segment leaves waits for its end, and for no other segment's.
    #[must_use]
    pub fn unsynced_segments(&self, end: Option<SegmentNo>) -> Vec<SegmentNo> {
        let is_syncing =
            |of: &Run| self.runs.iter().any(|run| run.segment == of.segment && matches!(run.state, State::Syncing(_)));
        let mut segments: Vec<SegmentNo> = self
            .runs
            .iter()
            .filter(|run| run.state == State::Written && end.is_none_or(|end| run.segment < end) && !is_syncing(run))
            .map(|run| run.segment)
            .collect();
        segments.dedup();
        segments
    }

    /// Writes on their way.
    #[must_use]
    pub const fn writes_in_flight(&self) -> usize {
        self.writing
    }

    /// Syncs on their way.
    #[must_use]
    pub const fn syncs_in_flight(&self) -> usize {
        self.syncing.len()
    }

    /// Bytes of batches that are not synced.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.runs.iter().filter(|run| run.state != State::Synced).map(|run| run.bytes).sum()
    }

    /// Nothing is unsynced.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.runs.is_empty()
    }

    /// The last seq of the written prefix.
    #[must_use]
    pub const fn written(&self) -> Seq {
        self.written.1
    }

    /// The last batch and seq of the synced prefix.
    #[must_use]
    pub const fn synced(&self) -> (BatchNo, Seq) {
        self.synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Chain;

    /// A batch of ten blocks.
    fn header(batch: u64) -> BatchHeader {
        BatchHeader {
            number: BatchNo(batch),
            first_seq: Seq(10 * batch - 9),
            numbered: 10,
            prev_chain: Chain(0),
            durable_upto: BatchNo(0),
            prev_end: 0,
            length: 4096,
            entries_bytes: 0,
            streams: 0,
            body_crc: 0,
            seal: false,
            chain: Chain(0),
        }
    }

    fn commit_of(writes: u64) -> Commit {
        let mut commit = Commit::new(BatchNo(0), Seq(0));
        for batch in 1..=writes {
            let segment = SegmentNo(1 + batch / 4);
            commit.writing(OpId(batch), (segment, 8192), &header(batch), Instant(batch));
        }
        commit
    }

    #[test]
    fn marks_are_the_contiguous_prefix() {
        let mut commit = commit_of(3);
        commit.wrote(OpId(2)).expect("a write");
        assert_eq!((commit.written(), commit.synced()), (Seq(0), (BatchNo(0), Seq(0))));
        assert!(commit.syncing(OpId(9), SegmentNo(1), Instant(0)));
        commit.wrote(OpId(1)).expect("a write");
        assert_eq!(commit.written(), Seq(20));
        commit.was_synced(OpId(9)).expect("a sync");
        assert_eq!(commit.synced(), (BatchNo(0), Seq(0)), "batch 1 is not covered");
        assert!(commit.syncing(OpId(10), SegmentNo(1), Instant(0)));
        commit.was_synced(OpId(10)).expect("a sync");
        assert_eq!(commit.synced(), (BatchNo(2), Seq(20)));
    }

    #[test]
    fn a_sync_is_not_credited_with_a_write_that_completed_after_its_submission() {
        let mut commit = commit_of(2);
        commit.wrote(OpId(1)).expect("a write");
        assert!(commit.syncing(OpId(9), SegmentNo(1), Instant(0)));
        commit.wrote(OpId(2)).expect("a write");
        commit.was_synced(OpId(9)).expect("a sync");
        assert_eq!(commit.synced(), (BatchNo(1), Seq(10)));
        assert_eq!(commit.unsynced_segments(None), [SegmentNo(1)]);
        assert_eq!(commit.unsynced_segments(Some(SegmentNo(1))), []);
    }

    #[test]
    fn a_write_that_syncs_itself_vouches_for_itself_alone() {
        let mut commit = commit_of(2);
        assert_eq!(commit.wrote_synced(OpId(2)), Some(Instant(2)));
        assert_eq!((commit.written(), commit.synced()), (Seq(0), (BatchNo(0), Seq(0))));
        commit.wrote(OpId(1)).expect("a write");
        assert_eq!((commit.written(), commit.synced()), (Seq(20), (BatchNo(0), Seq(0))));
        assert!(commit.syncing(OpId(9), SegmentNo(1), Instant(0)));
        commit.was_synced(OpId(9)).expect("a sync");
        assert_eq!(commit.synced(), (BatchNo(2), Seq(20)));
    }

    #[test]
    fn a_sync_waits_for_its_own_segment_only() {
        // Batches 1 to 3 are in segment 1, the others in segment 2.
        let mut commit = commit_of(5);
        (1..=4).for_each(|write| assert!(commit.wrote(OpId(write)).is_some()));
        assert!(commit.syncing(OpId(9), SegmentNo(1), Instant(100)));
        assert_eq!(commit.unsynced_segments(None), [SegmentNo(2)]);
        assert!(commit.syncing(OpId(10), SegmentNo(2), Instant(200)));
        commit.wrote(OpId(5)).expect("a write");
        assert_eq!(commit.unsynced_segments(None), [], "batch 5 waits for the sync of its segment");
        assert_eq!(commit.syncs_in_flight(), 2);
        assert_eq!(commit.was_synced(OpId(10)), Some(Instant(200)));
        assert_eq!(commit.synced(), (BatchNo(0), Seq(0)), "segment 1 comes first");
        assert_eq!(commit.unsynced_segments(None), [SegmentNo(2)]);
        assert_eq!(commit.was_synced(OpId(9)), Some(Instant(100)));
        assert_eq!((commit.synced(), commit.syncs_in_flight()), ((BatchNo(4), Seq(40)), 0));
    }

    #[test]
    fn foreign_operations_are_not_ours() {
        let mut commit = commit_of(1);
        assert_eq!(commit.wrote(OpId(5)), None);
        assert_eq!(commit.was_synced(OpId(1)), None);
        assert!(!commit.syncing(OpId(9), SegmentNo(1), Instant(0)), "nothing is written yet");
    }
}
