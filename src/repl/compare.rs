//! Comparing two stores, stream by stream: which they have to the same end, which one of them has more of, and where two
//! histories of one stream part. A state machine without I/O: it is given where the streams of both stand, says what both
//! logs are to be asked then, and takes in the answers, until nothing more is to be asked.
//!
//! Stores are written to while they are compared: where one has more of a stream, both are compared up to where the other
//! stands.

use std::collections::{BTreeMap, BTreeSet};

use crate::repl::asks::{ASKED_MAX, At};
use crate::repl::narrow::{Answer, Narrow, Narrowed};
use crate::repl::wire::{ROWS_MAX, Vector};
use crate::types::{Seq, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::vector::{FOLDED, Holds, holds, is_folded};

/// Rows that a store may say of its streams.
const ROWS_IN_ALL_MAX: usize = 1 << 20;
/// Streams of which the first difference is looked for.
const SOUGHT_MAX: usize = 64;
/// Runs of lost blocks of a stream that are looked into.
const RUNS_MAX: usize = 64;

/// Where the streams of a store stand, and what is lost of them: blocks behind the one seq and before the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stands {
    /// The end of each stream.
    pub ends: StreamEnds,
    /// What is lost.
    pub gaps: BTreeSet<(Stream, Seq, Seq)>,
}

/// It says of more streams than there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {ROWS_IN_ALL_MAX} streams and gaps")]
pub struct TooMany;

impl Stands {
    /// As frames of a vector, the last one marked.
    #[must_use]
    pub fn frames(&self) -> Vec<Vector> {
        let ends: BTreeMap<Stream, StreamEnd> = self.ends.iter().map(|(stream, end)| (*stream, *end)).collect();
        let (ends, gaps): (Vec<_>, Vec<_>) = (ends.into_iter().collect(), self.gaps.iter().copied().collect());
        let with_ends = ends.chunks(ROWS_MAX).map(|ends| Vector { ends: ends.to_vec(), ..Vector::default() });
        let with_gaps = gaps.chunks(ROWS_MAX).map(|gaps| Vector { gaps: gaps.to_vec(), ..Vector::default() });
        let mut frames: Vec<Vector> = with_ends.chain(with_gaps).collect();
        if frames.is_empty() {
            frames.push(Vector::default());
        }
        frames.last_mut().expect("at least one").last = true;
        frames
    }

    /// Takes in one of these frames. True where it was the last.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn take(&mut self, part: Vector) -> Result<bool, TooMany> {
        self.ends.extend(part.ends);
        self.gaps.extend(part.gaps);
        if self.ends.len() + self.gaps.len() > ROWS_IN_ALL_MAX { Err(TooMany) } else { Ok(part.last) }
    }

    fn is_lost(&self, stream: Stream, seq: Seq) -> bool {
        self.runs(stream, seq).iter().any(|run| run.first <= seq && seq <= run.last)
    }

    /// What is lost of a stream up to a seq, in order, none of it twice.
    fn runs(&self, stream: Stream, upto: Seq) -> Vec<Run> {
        let of_stream = self.gaps.range((stream, Seq(0), Seq(0))..=(stream, Seq(u64::MAX), Seq(u64::MAX)));
        let mut runs: Vec<Run> = Vec::new();
        for (_, after, before) in of_stream {
            let run = Run { first: after.next(), last: before.prev().min(upto) };
            match runs.last_mut() {
                _ if run.first > run.last => {}
                Some(last) if run.first <= last.last.next() => last.last = last.last.max(run.last),
                _ => runs.push(run),
            }
        }
        runs
    }
}

/// Seqs from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: Seq,
    last: Seq,
}

/// What of `these` is not in `others`; both in order.
fn without(these: &[Run], others: &[Run]) -> Vec<Run> {
    let mut left = Vec::new();
    for run in these {
        let mut first = run.first;
        for other in others.iter().filter(|other| other.last >= run.first && other.first <= run.last) {
            if first < other.first {
                left.push(Run { first, last: other.first.prev() });
            }
            first = first.max(other.last.next());
        }
        if first <= run.last {
            left.push(Run { first, last: run.last });
        }
    }
    left
}

/// One of the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that compares.
    Here,
    /// Its peer.
    There,
}

/// How the two stores' parts of a stream are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They are the same.
    Identical,
    /// There is more of it at the peer.
    Behind,
    /// There is more of it here.
    Ahead,
    /// They are two histories, or one has lost what the other has.
    Differing,
    /// The peer has nothing of it.
    OnlyHere,
    /// There is nothing of it here.
    OnlyThere,
    /// One of them, or both, know only one hash over it and others.
    Folded,
}

/// A stream, compared. A row that stands for several that are folded has how many those are in place of a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The stream.
    pub stream: Stream,
    /// How the two are.
    pub standing: Standing,
    /// Up to where it is here.
    pub here: Option<Seq>,
    /// Up to where it is at the peer.
    pub there: Option<Seq>,
    /// Up to where both are known to be the same; `None` where the logs cannot tell.
    pub identical_upto: Option<Seq>,
    /// Where they differ.
    pub difference: Option<Difference>,
}

/// Where two parts of a stream differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Exactly here first.
    At {
        /// The seq.
        seq: Seq,
        /// What is here.
        here: What,
        /// What is at the peer.
        there: What,
    },
    /// Behind the one seq and at the other or before: what is between them is not in both logs any more.
    Between {
        /// The last seq that is known to be the same.
        equal: Seq,
        /// The first one that is known not to be.
        differs: Seq,
    },
    /// One of them has lost blocks between these seqs that the other has.
    Lost {
        /// The one.
        side: Side,
        /// The first seq.
        first: Seq,
        /// The last.
        last: Seq,
    },
    /// In one of several streams that are folded.
    Folded,
    /// At this seq or before: enough others are looked into.
    NotSought {
        /// The seq.
        by: Seq,
    },
}

/// What a store has at a seq of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A block.
    Block {
        /// Bytes of its payload.
        length: u32,
        /// CRC-32 of its payload.
        payload_crc: u32,
    },
    /// A block that is not in its log.
    NotInLog,
    /// None.
    Nothing,
    /// One that it has lost.
    Lost,
}

/// What is still to be found out about a stream.
#[derive(Clone, Debug)]
enum Step {
    /// Whether the two are the same where the shorter one ends.
    End(Seq),
    /// Where they part.
    Narrow(Narrow),
    /// Whether the other one has what is lost at one of them; if not, this holds.
    Lost(Vec<(Side, Run)>, Compared),
}

/// Two stores that are being compared.
#[derive(Debug)]
pub struct Comparison {
    here: Stands,
    there: Stands,
    open: BTreeMap<Stream, Step>,
    done: BTreeMap<Stream, Compared>,
    sought: usize,
}

impl Comparison {
    /// Of two stores whose streams stand so.
    #[must_use]
    pub fn new(here: Stands, there: Stands) -> Self {
        let streams: BTreeSet<Stream> = here.ends.keys().chain(there.ends.keys()).copied().collect();
        let mut this = Self { here, there, open: BTreeMap::new(), done: BTreeMap::new(), sought: 0 };
        for stream in streams {
            let ends = (this.here.ends.get(&stream).copied(), this.there.ends.get(&stream).copied());
            if stream.nonce == FOLDED {
                this.folded(stream, ends);
                continue;
            }
            match ends {
                (Some(here), Some(there)) if here == there => this.same(stream, here.seq),
                (Some(here), Some(there)) if here.seq == there.seq => this.seek(stream, here.seq),
                (Some(here), Some(there)) => {
                    this.open.insert(stream, Step::End(here.seq.min(there.seq)));
                }
                (Some(_), _) if is_folded(&this.there.ends, &stream) => this.put(stream, Standing::Folded),
                (_, Some(_)) if is_folded(&this.here.ends, &stream) => this.put(stream, Standing::Folded),
                (Some(_), _) => this.put(stream, Standing::OnlyHere),
                (None, _) => this.put(stream, Standing::OnlyThere),
            }
        }
        this
    }

    /// What both logs are to be asked now; nothing where all is known.
    #[must_use]
    pub fn asks(&self) -> Vec<(Stream, Seq)> {
        let mut rows = Vec::new();
        for (stream, step) in &self.open {
            let seqs = match step {
                Step::End(seq) => vec![*seq],
                Step::Narrow(narrow) => narrow.seqs(),
                Step::Lost(runs, _) => runs.iter().map(|(_, run)| run.last).collect(),
            };
            if rows.len() + seqs.len() > ASKED_MAX {
                break;
            }
            rows.extend(seqs.into_iter().map(|seq| (*stream, seq)));
        }
        rows
    }

    /// Takes in what both logs have told, a row for each of [`asks`](Self::asks).
    ///
    /// # Panics
    /// Where there are more rows, or fewer.
    pub fn told(&mut self, here: &[At], there: &[At]) {
        let rows = self.asks();
        assert!(rows.len() == here.len() && rows.len() == there.len(), "a row for each that was asked for");
        let answers: Vec<(Stream, Answer)> = rows
            .into_iter()
            .zip(here.iter().zip(there))
            .map(|((stream, seq), (here, there))| (stream, Answer { seq, here: *here, there: *there }))
            .collect();
        for of_stream in answers.chunk_by(|one, other| one.0 == other.0) {
            let stream = of_stream[0].0;
            let answers: Vec<Answer> = of_stream.iter().map(|(_, answer)| *answer).collect();
            match self.open.remove(&stream).expect("it was asked about") {
                Step::End(seq) => self.at_end(stream, seq, &answers[0]),
                Step::Narrow(narrow) => self.narrowed(stream, narrow.told(&answers)),
                Step::Lost(runs, or) => self.lost(&runs, or, &answers),
            }
        }
    }

    /// All streams, in order.
    #[must_use]
    pub fn end(self) -> Vec<Compared> {
        self.done.into_values().collect()
    }

    fn at_end(&mut self, stream: Stream, seq: Seq, answer: &Answer) {
        let (here, there) = (self.here.ends[&stream], self.there.ends[&stream]);
        let (shorter, longer) =
            if here.seq < there.seq { (here, answer.there.end()) } else { (there, answer.here.end()) };
        match longer {
            Some(end) if end == shorter => self.same(stream, seq),
            Some(_) => self.seek(stream, seq),
            None => self.put(stream, self.by_length(stream)),
        }
    }

    fn narrowed(&mut self, stream: Stream, narrowed: Narrowed) {
        let (identical_upto, difference) = match narrowed {
            Narrowed::Further(narrow) => {
                self.open.insert(stream, Step::Narrow(narrow));
                return;
            }
            Narrowed::Same => {
                let (here, there) = (self.here.ends[&stream], self.there.ends[&stream]);
                return self.same(stream, here.seq.min(there.seq));
            }
            Narrowed::Found(Answer { seq, here, there }) => {
                let (here, there) = (what(&self.here, stream, seq, here), what(&self.there, stream, seq, there));
                (Some(seq.prev()), Difference::At { seq, here, there })
            }
            Narrowed::Between { equal, differs } => (Some(equal), Difference::Between { equal, differs }),
        };
        let row = self.row(stream, Standing::Differing);
        self.done.insert(stream, Compared { identical_upto, difference: Some(difference), ..row });
    }

    /// They have the same hash up to here; what is lost at one may be at the other all the same.
    fn same(&mut self, stream: Stream, upto: Seq) {
        let row = Compared { identical_upto: Some(upto), ..self.row(stream, self.by_length(stream)) };
        let (here, there) = (self.here.runs(stream, upto), self.there.runs(stream, upto));
        let only_here = without(&here, &there).into_iter().map(|run| (Side::Here, run));
        let mut runs: Vec<_> =
            only_here.chain(without(&there, &here).into_iter().map(|run| (Side::There, run))).collect();
        runs.sort_by_key(|(_, run)| run.first);
        runs.truncate(RUNS_MAX);
        if runs.is_empty() {
            self.done.insert(stream, row);
        } else {
            self.open.insert(stream, Step::Lost(runs, row));
        }
    }

    /// Where seqs are not dense a run may have no block in it.
    fn lost(&mut self, runs: &[(Side, Run)], or: Compared, answers: &[Answer]) {
        let is_there = |((side, run), answer): &(&(Side, Run), &Answer)| {
            let others = if *side == Side::Here { answer.there } else { answer.here };
            match others {
                At::Nothing => false,
                // That one names no loss there.
                At::Begins(_) => true,
                At::End(end) | At::Block { end, .. } => end.seq >= run.first,
            }
        };
        let found = runs.iter().zip(answers).find(is_there).map(|((side, run), _)| (*side, *run));
        let row = match found {
            None => or,
            Some((side, Run { first, last })) => Compared {
                standing: Standing::Differing,
                identical_upto: Some(first.prev()),
                difference: Some(Difference::Lost { side, first, last }),
                ..or
            },
        };
        self.done.insert(row.stream, row);
    }

    /// They differ at this seq or before.
    fn seek(&mut self, stream: Stream, by: Seq) {
        if self.sought < SOUGHT_MAX {
            self.sought += 1;
            self.open.insert(stream, Step::Narrow(Narrow::new(by)));
            return;
        }
        let row = self.row(stream, Standing::Differing);
        self.done.insert(stream, Compared { difference: Some(Difference::NotSought { by }), ..row });
    }

    /// A row that stands for several streams in at least one of the two.
    fn folded(&mut self, stream: Stream, ends: (Option<StreamEnd>, Option<StreamEnd>)) {
        let row = self.row(stream, Standing::Folded);
        let row = match ends {
            (Some(here), Some(there)) if here != there => {
                Compared { standing: Standing::Differing, difference: Some(Difference::Folded), ..row }
            }
            (Some(here), Some(_)) => Compared { identical_upto: Some(here.seq), ..row },
            (Some(end), None) | (None, Some(end)) => {
                let others = if ends.0.is_some() { &self.there.ends } else { &self.here.ends };
                let is_further = |other: &Stream| {
                    (other.origin, other.shard, other.nonce) == (stream.origin, stream.shard, FOLDED)
                        && other.epoch > stream.epoch
                };
                if others.keys().any(is_further) {
                    // That one's row says all of it.
                    return;
                }
                let is_same = holds(others, stream, end) == Holds::All;
                Compared { identical_upto: is_same.then_some(end.seq), ..row }
            }
            (None, None) => return,
        };
        self.done.insert(stream, row);
    }

    fn by_length(&self, stream: Stream) -> Standing {
        let (here, there) = (self.here.ends[&stream].seq, self.there.ends[&stream].seq);
        match here.cmp(&there) {
            std::cmp::Ordering::Equal => Standing::Identical,
            std::cmp::Ordering::Less => Standing::Behind,
            std::cmp::Ordering::Greater => Standing::Ahead,
        }
    }

    fn row(&self, stream: Stream, standing: Standing) -> Compared {
        let seq = |stands: &Stands| stands.ends.get(&stream).map(|end| end.seq);
        let (here, there) = (seq(&self.here), seq(&self.there));
        Compared { stream, standing, here, there, identical_upto: None, difference: None }
    }

    fn put(&mut self, stream: Stream, standing: Standing) {
        let row = self.row(stream, standing);
        self.done.insert(stream, row);
    }
}

/// What a store whose log says this of a seq has there.
fn what(stands: &Stands, stream: Stream, seq: Seq, at: At) -> What {
    match at {
        At::Block { end, length, payload_crc } if end.seq == seq => What::Block { length, payload_crc },
        _ if stands.is_lost(stream, seq) => What::Lost,
        At::End(end) if end.seq == seq => What::NotInLog,
        At::Block { .. } | At::End(_) | At::Nothing | At::Begins(_) => What::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repl::asked::Asked;
    use crate::types::{Epoch, Nonce, ShardId, StoreId};
    use crate::wal::vector::fold;

    fn stream(epoch: u64) -> Stream {
        Stream { origin: StoreId([1; 16]), shard: ShardId(0), epoch: Epoch(epoch), nonce: Nonce(epoch + 7) }
    }

    /// A store: of each stream, seqs and what stands for the content; `None` for one that is lost.
    type Store = BTreeMap<Stream, Vec<(u64, Option<u32>)>>;

    fn blocks(seqs: std::ops::RangeInclusive<u64>) -> Vec<(u64, Option<u32>)> {
        seqs.map(|seq| (seq, Some(seq as u32))).collect()
    }

    /// What is lost has the hash that it had.
    fn then(end: StreamEnd, (seq, crc): (u64, Option<u32>)) -> StreamEnd {
        end.then(Seq(seq), 1, crc.unwrap_or(seq as u32))
    }

    fn stands(store: &Store) -> Stands {
        let mut stands = Stands::default();
        for (stream, blocks) in store {
            let end = blocks.iter().fold(StreamEnd::default(), |end, block| then(end, *block));
            stands.ends.insert(*stream, end);
            let lost = blocks.iter().filter(|(_, crc)| crc.is_none());
            stands.gaps.extend(lost.map(|(seq, _)| (*stream, Seq(seq - 1), Seq(seq + 1))));
        }
        stands
    }

    fn at(store: &Store, rows: &[(Stream, Seq)]) -> Vec<At> {
        let mut asked = Asked::new(rows);
        asked.begin(&StreamEnds::new());
        for (stream, blocks) in store {
            let mut end = StreamEnd::default();
            for (index, block) in blocks.iter().enumerate() {
                end = then(end, *block);
                // What is lost together is passed over together.
                if block.1.is_none() && blocks.get(index + 1).is_some_and(|next| next.1.is_none()) {
                    continue;
                }
                let to = block.1.map_or(At::End(end), |crc| At::Block { end, length: 1, payload_crc: crc });
                asked.goes_on(*stream, end, to, None);
            }
        }
        asked.end()
    }

    fn compared(here: &Store, there: &Store) -> Vec<Compared> {
        let mut comparison = Comparison::new(stands(here), stands(there));
        loop {
            let rows = comparison.asks();
            if rows.is_empty() {
                return comparison.end();
            }
            comparison.told(&at(here, &rows), &at(there, &rows));
        }
    }

    fn one(here: Vec<(u64, Option<u32>)>, there: Vec<(u64, Option<u32>)>) -> Compared {
        let rows = compared(&Store::from([(stream(1), here)]), &Store::from([(stream(1), there)]));
        assert_eq!(rows.len(), 1);
        rows[0]
    }

    #[test]
    fn every_standing_is_told_from_the_others() {
        let here = Store::from([
            (stream(1), blocks(1..=9)),
            (stream(2), blocks(1..=4)),
            (stream(3), blocks(1..=8)),
            (stream(4), blocks(2..=3)),
        ]);
        let there = Store::from([
            (stream(1), blocks(1..=9)),
            (stream(2), blocks(1..=9)),
            (stream(3), blocks(1..=5)),
            (stream(5), blocks(1..=1)),
        ]);
        let told: Vec<_> = compared(&here, &there)
            .into_iter()
            .map(|row| (row.stream.epoch.0, row.standing, row.identical_upto.map(|seq| seq.0), row.difference))
            .collect();
        let expected = [
            (1, Standing::Identical, Some(9), None),
            (2, Standing::Behind, Some(4), None),
            (3, Standing::Ahead, Some(5), None),
            (4, Standing::OnlyHere, None, None),
            (5, Standing::OnlyThere, None, None),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_first_difference_and_what_either_has_there_is_named() {
        let mut other = blocks(1..=900);
        other[436].1 = Some(5);
        let row = one(blocks(1..=900), other.clone());
        let block = |payload_crc| What::Block { length: 1, payload_crc };
        let at = Difference::At { seq: Seq(437), here: block(437), there: block(5) };
        assert_eq!((row.standing, row.identical_upto), (Standing::Differing, Some(Seq(436))));
        assert_eq!(row.difference, Some(at));
        // One of them has more, and a block that the other has not.
        let mut longer = blocks(1..=2000);
        longer.remove(99);
        let row = one(blocks(1..=900), longer);
        let at = Difference::At { seq: Seq(100), here: block(100), there: What::Nothing };
        assert_eq!((row.standing, row.difference), (Standing::Differing, Some(at)));
    }

    #[test]
    fn what_is_lost_at_one_of_them_and_not_at_the_other_is_a_difference() {
        let lose = |seqs: &[usize]| {
            let mut blocks = blocks(1..=20);
            seqs.iter().for_each(|seq| blocks[seq - 1].1 = None);
            blocks
        };
        assert_eq!(one(lose(&[4, 5]), lose(&[4, 5])).standing, Standing::Identical);
        let row = one(lose(&[4, 5, 9]), lose(&[4]));
        let lost = Difference::Lost { side: Side::Here, first: Seq(5), last: Seq(5) };
        assert_eq!((row.standing, row.difference), (Standing::Differing, Some(lost)));
        let row = one(blocks(1..=30), lose(&[7, 8]));
        let lost = Difference::Lost { side: Side::There, first: Seq(7), last: Seq(8) };
        assert_eq!((row.standing, row.difference, row.identical_upto), (Standing::Differing, Some(lost), Some(Seq(6))));
        // The shorter one ends within what the other has lost.
        let row = one(blocks(1..=7), lose(&[7, 8]));
        let Some(Difference::At { seq, there, .. }) = row.difference else { panic!("{row:?}") };
        assert_eq!((seq, there), (Seq(7), What::Lost));
    }

    #[test]
    fn a_gap_without_a_block_is_none() {
        let sparse = || vec![(1, Some(1)), (5, Some(5)), (9, Some(9))];
        let store = Store::from([(stream(1), sparse())]);
        let mut named = stands(&store);
        named.gaps.insert((stream(1), Seq(5), Seq(9)));
        let mut comparison = Comparison::new(named, stands(&store));
        let rows = comparison.asks();
        assert_eq!(rows, [(stream(1), Seq(8))]);
        comparison.told(&at(&store, &rows), &at(&store, &rows));
        assert!(comparison.asks().is_empty());
        assert_eq!(comparison.end()[0].standing, Standing::Identical);
    }

    #[test]
    fn runs_are_joined_and_taken_from_each_other() {
        let run = |first, last| Run { first: Seq(first), last: Seq(last) };
        let gap = |after, before| (stream(1), Seq(after), Seq(before));
        let stands = Stands { gaps: [gap(1, 4), gap(3, 6), gap(9, u64::MAX)].into(), ..Stands::default() };
        assert_eq!(stands.runs(stream(1), Seq(20)), [run(2, 5), run(10, 20)]);
        assert_eq!(stands.runs(stream(1), Seq(9)), [run(2, 5)]);
        assert_eq!(stands.runs(stream(2), Seq(9)), []);
        assert_eq!(without(&[run(2, 5), run(10, 20)], &[run(3, 3), run(12, 30)]), [run(2, 2), run(4, 5), run(10, 11)]);
        assert_eq!(without(&[run(2, 5)], &[run(1, 9)]), []);
        assert_eq!(without(&[run(2, 5)], &[]), [run(2, 5)]);
    }

    #[test]
    fn folded_rows_are_compared_as_far_as_they_can_be() {
        let of = |epochs: u64| -> StreamEnds {
            let end = |epoch: u64| StreamEnd::default().then(Seq(epoch), 1, 1);
            (1..=epochs).map(|epoch| (stream(epoch), end(epoch))).collect()
        };
        let folded = |mut ends: StreamEnds, most| {
            fold(&mut ends, most);
            Stands { ends, gaps: BTreeSet::new() }
        };
        let told = |here: &Stands, there: &Stands| {
            let comparison = Comparison::new(here.clone(), there.clone());
            assert!(comparison.asks().is_empty());
            comparison.end()
        };
        let count = |rows: &[Compared], standing| rows.iter().filter(|row| row.standing == standing).count();
        let (details, some, more) = (folded(of(20), 20), folded(of(20), 12), folded(of(20), 6));
        for (here, there) in [(&some, &some), (&details, &some), (&some, &details), (&more, &some), (&some, &more)] {
            let rows = told(here, there);
            let fold = rows.iter().find(|row| row.stream.nonce == FOLDED).expect("a row");
            assert!(fold.standing == Standing::Folded && fold.identical_upto.is_some(), "{fold:?}");
            assert_eq!(count(&rows, Standing::Identical) + count(&rows, Standing::Folded), rows.len());
        }
        let mut other = of(20);
        other.insert(stream(1), StreamEnd::default().then(Seq(1), 9, 9));
        let rows = told(&some, &folded(other.clone(), 12));
        assert_eq!(count(&rows, Standing::Differing), 1);
        // Which of them it is, and whether it is only shorter, one hash does not say.
        let rows = told(&some, &folded(other, 20));
        let fold = rows.iter().find(|row| row.stream.nonce == FOLDED).expect("a row");
        assert_eq!((fold.standing, fold.identical_upto), (Standing::Folded, None));
    }

    #[test]
    fn no_more_streams_are_looked_into_than_may_be() {
        let here: Store = (1..=100).map(|epoch| (stream(epoch), blocks(1..=3))).collect();
        let there: Store =
            (1..=100).map(|epoch| (stream(epoch), vec![(1, Some(1)), (2, Some(9)), (3, Some(3))])).collect();
        let rows = compared(&here, &there);
        let exact = |row: &&Compared| matches!(row.difference, Some(Difference::At { seq: Seq(2), .. }));
        assert_eq!(rows.iter().filter(exact).count(), SOUGHT_MAX);
        assert!(rows.iter().all(|row| row.standing == Standing::Differing && row.difference.is_some()));
    }

    #[test]
    fn what_a_store_says_goes_in_frames_and_is_bounded() {
        let ends: StreamEnds = (1..=3000).map(|epoch| (stream(epoch), StreamEnd::default())).collect();
        let gaps = (1..=2000).map(|seq| (stream(1), Seq(seq), Seq(seq + 2))).collect();
        let stands = Stands { ends, gaps };
        let frames = stands.frames();
        assert_eq!(frames.len(), 5);
        let mut taken = Stands::default();
        let lasts: Vec<_> = frames.into_iter().map(|frame| taken.take(frame).expect("not too many")).collect();
        assert_eq!(lasts, [false, false, false, false, true]);
        assert_eq!(taken, stands);
        assert_eq!(Stands::default().frames(), [Vector { last: true, ..Vector::default() }]);
        let part = |from: u64| Vector {
            gaps: (from..from + 1024).map(|seq| (stream(1), Seq(seq), Seq(seq + 2))).collect(),
            ..Vector::default()
        };
        let mut taken = Stands::default();
        assert!((0..1025).any(|nth| taken.take(part(nth * 1024)) == Err(TooMany)));
    }
}
