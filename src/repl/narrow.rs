//! Where two histories of one stream part: a search that asks both logs about the same few seqs, round by round.
//!
//! The end of a stream at a seq has a hash over all of it, so where the ends are the same, all before them is; the first
//! seq at which they differ is looked for between one where they are the same and one where they are not.

use crate::repl::asks::At;
use crate::types::Seq;

/// Seqs that are asked about in one round.
pub const PROBES: u64 = 64;
/// More rounds no two logs need that stay as they are: each leaves a 64th of the seqs.
const ROUNDS_MAX: u32 = 32;

/// A search that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    /// Here they are the same, as far as is known.
    equal: Seq,
    /// Here they are not.
    differs: Seq,
    /// What the two logs say of that.
    found: Option<(At, At)>,
    /// What was between the two and before this, one of the logs cannot tell.
    known_from: Seq,
    rounds: u32,
}

/// Both answers about one seq.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// What was asked about.
    pub seq: Seq,
    /// What is said here.
    pub here: At,
    /// What is said at the peer.
    pub there: At,
}

/// What a round has brought.
#[derive(Clone, Copy, Debug)]
pub enum Narrowed {
    /// There is more to ask.
    Further(Narrow),
    /// The first seq at which they differ, and what is said of it.
    Found(Answer),
    /// They are the same up to `equal` and not at `differs`; what is between the logs cannot tell.
    Between {
        /// The last seq that is known to be the same.
        equal: Seq,
        /// The first one that is known not to be.
        differs: Seq,
    },
    /// They are the same after all.
    Same,
}

impl Narrow {
    /// Of a stream whose ends at this seq are not the same.
    #[must_use]
    pub const fn new(differs: Seq) -> Self {
        Self { equal: Seq(0), differs, found: None, known_from: Seq(0), rounds: 0 }
    }

    /// What both logs are to be asked about now, lowest first.
    #[must_use]
    pub fn seqs(&self) -> Vec<Seq> {
        let (first, count) = self.candidates();
        let spread = |nth: u64| first + (u128::from(count) * u128::from(nth) / u128::from(PROBES)) as u64;
        let mut seqs: Vec<Seq> = match count {
            0..=PROBES => (first..first + count).map(Seq).collect(),
            _ => (0..PROBES).map(|nth| Seq(spread(nth))).collect(),
        };
        if self.found.is_none() {
            seqs.push(self.differs);
        }
        seqs
    }

    /// The first seq that may be the one, and how many there are before the one that is known to differ.
    fn candidates(&self) -> (u64, u64) {
        let first = self.equal.next().max(self.known_from).0;
        (first, self.differs.0.saturating_sub(first))
    }

    /// Takes in both answers to what was to be asked, lowest seq first.
    #[must_use]
    pub fn told(mut self, answers: &[Answer]) -> Narrowed {
        let mut is_same = false;
        for answer in answers.iter().filter(|answer| answer.seq <= self.differs) {
            match (answer.here.end(), answer.there.end()) {
                (Some(here), Some(there)) if here == there => {
                    is_same = answer.seq == self.differs;
                    self.equal = answer.seq;
                }
                (Some(_), Some(_)) => {
                    (self.differs, self.found) = (answer.seq, Some((answer.here, answer.there)));
                    break;
                }
                _ => {
                    let begins = |at| match at {
                        At::Begins(end) => end.seq,
                        At::Nothing => self.differs.next(),
                        At::End(_) | At::Block { .. } => Seq(0),
                    };
                    let both = begins(answer.here).max(begins(answer.there));
                    self.known_from = self.known_from.max(both).max(answer.seq.next());
                }
            }
        }
        self.rounds += 1;
        let Self { equal, differs, found, .. } = self;
        match found {
            _ if is_same => Narrowed::Same,
            Some((here, there)) if equal.next() == differs => Narrowed::Found(Answer { seq: differs, here, there }),
            Some(_) if self.candidates().1 > 0 && self.rounds < ROUNDS_MAX => Narrowed::Further(self),
            _ => Narrowed::Between { equal, differs },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::chance::Chance;
    use crate::repl::asked::Asked;
    use crate::types::{Epoch, Nonce, ShardId, StoreId, Stream};
    use crate::wal::batch::{StreamEnd, StreamEnds};

    const STREAM: Stream = Stream { origin: StoreId([1; 16]), shard: ShardId(0), epoch: Epoch(1), nonce: Nonce(1) };

    /// A log: seqs, and what stands there in place of content; what is before `begins` is not there any more.
    struct Log {
        blocks: Vec<(u64, u32)>,
        begins: usize,
    }

    impl Log {
        fn end(&self) -> StreamEnd {
            self.blocks.iter().fold(StreamEnd::default(), |end, (seq, crc)| end.then(Seq(*seq), 1, *crc))
        }

        fn at(&self, seqs: &[Seq]) -> Vec<At> {
            let rows: Vec<_> = seqs.iter().map(|seq| (STREAM, *seq)).collect();
            let mut asked = Asked::new(&rows);
            let step = |end: StreamEnd, (seq, crc): &(u64, u32)| end.then(Seq(*seq), 1, *crc);
            let mut end = self.blocks[..self.begins].iter().fold(StreamEnd::default(), step);
            let begins = StreamEnds::from([(STREAM, end)]);
            asked.leave_out(&begins);
            asked.begin(&begins);
            for block in &self.blocks[self.begins..] {
                end = step(end, block);
                asked.goes_on(STREAM, end, At::Block { end, length: 1, payload_crc: block.1 }, None);
            }
            asked.end()
        }
    }

    fn search(here: &Log, there: &Log, differs: Seq) -> (Narrowed, u32) {
        let mut narrow = Narrow::new(differs);
        loop {
            let seqs = narrow.seqs();
            assert!(!seqs.is_empty() && seqs.len() <= PROBES as usize + 1, "{narrow:?}");
            assert!(seqs.is_sorted_by(|one, other| one < other) && *seqs.last().expect("one") <= differs);
            let both = here.at(&seqs).into_iter().zip(there.at(&seqs));
            let answers: Vec<_> =
                seqs.iter().zip(both).map(|(seq, (here, there))| Answer { seq: *seq, here, there }).collect();
            match narrow.told(&answers) {
                Narrowed::Further(further) => narrow = further,
                other => return (other, narrow.rounds + 1),
            }
        }
    }

    /// Two logs that are the same up to a block, and the seq of the first difference.
    fn two(chance: &mut Chance, begin: bool) -> (Log, Log, u64) {
        let spread = [1, 3, 1000, 1 << 40][chance.below(4) as usize];
        let count = chance.within(1, 300) as usize;
        let mut seq = chance.below(spread);
        let blocks = (0..count).map(|_| {
            seq += 1 + chance.below(spread);
            (seq, chance.below(1 << 30) as u32)
        });
        let blocks: Vec<_> = blocks.collect();
        let mut other = blocks.clone();
        let at = chance.below(count as u64) as usize;
        let first = blocks[at].0;
        if chance.percent(50) {
            // Other content, with the same seqs from there on.
            other[at].1 += 1;
        } else {
            other.remove(at);
        }
        let last = blocks[count - 1].0 + 1;
        let blocks = [&blocks[..], &[(last, 7)]].concat();
        let other = [&other[..], &[(last, 7)]].concat();
        let mut from = |log: &[(u64, u32)]| if begin { chance.below(log.len() as u64) as usize } else { 0 };
        let begins = (from(&blocks), from(&other));
        (Log { blocks, begins: begins.0 }, Log { blocks: other, begins: begins.1 }, first)
    }

    #[test]
    fn the_first_difference_is_found_whatever_the_seqs() {
        for seed in 0..400 {
            let (here, there, first) = two(&mut Chance::new(seed), false);
            let differs = here.end().seq;
            let (found, rounds) = search(&here, &there, differs);
            let Narrowed::Found(answer) = found else { panic!("seed {seed}: {found:?}") };
            assert_eq!(answer.seq, Seq(first), "seed {seed}");
            assert_ne!(answer.here.end(), answer.there.end());
            assert_eq!(answer.here.end().map(|end| end.seq), Some(Seq(first)), "it is here");
            assert!(rounds <= 10, "seed {seed}: {rounds} rounds for {differs} seqs");
        }
    }

    #[test]
    fn where_a_log_begins_later_it_is_said_between_which_seqs_the_difference_lies() {
        let (mut exact, mut between) = (0, 0);
        for seed in 0..400 {
            let (here, there, first) = two(&mut Chance::new(seed), true);
            let first = Seq(first);
            match search(&here, &there, here.end().seq).0 {
                Narrowed::Found(answer) => {
                    assert_eq!(answer.seq, first, "seed {seed}");
                    exact += 1;
                }
                Narrowed::Between { equal, differs } => {
                    assert!(equal < first && first <= differs, "seed {seed}: {equal} {first} {differs}");
                    let begins = |log: &Log| log.begins.checked_sub(1).map_or(0, |last| log.blocks[last].0);
                    assert_eq!(differs.0, begins(&here).max(begins(&there)), "seed {seed}");
                    between += 1;
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert!(exact > 50 && between > 50, "{exact} {between}");
    }

    #[test]
    fn logs_that_are_the_same_after_all_are_the_same() {
        let log = || Log { blocks: vec![(1, 1), (2, 2), (9, 3)], begins: 0 };
        assert!(matches!(search(&log(), &log(), Seq(9)).0, Narrowed::Same));
    }

    #[test]
    fn a_peer_that_never_knows_anything_is_not_asked_for_ever() {
        for says in [At::Nothing, At::Begins(StreamEnd::default())] {
            let mut narrow = Narrow::new(Seq(1 << 62));
            let rounds = (1..).find(|_| {
                let answers = narrow.seqs().into_iter().map(|seq| Answer { seq, here: says, there: says });
                match narrow.told(&answers.collect::<Vec<_>>()) {
                    Narrowed::Further(further) => narrow = further,
                    Narrowed::Between { .. } => return true,
                    other => panic!("{other:?}"),
                }
                false
            });
            assert!(rounds <= Some(ROUNDS_MAX));
        }
    }
}
