//! What one shard's log is asked about its streams, answered by reading it once. A state machine without I/O: it is
//! shown where the streams stood at a place of the log, and what follows on that.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::repl::asks::At;
use crate::types::{Seq, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::vector::is_folded;

/// What is asked, and what is answered so far.
#[derive(Debug)]
pub struct Asked {
    /// By stream: seqs that are not answered, lowest first, and the rows that they are of.
    open: BTreeMap<Stream, VecDeque<(Seq, usize)>>,
    /// Where each of them stands behind what was shown.
    now: HashMap<Stream, At>,
    told: Vec<At>,
}

impl Asked {
    /// How each of these streams stood at its seq.
    #[must_use]
    pub fn new(rows: &[(Stream, Seq)]) -> Self {
        let mut open: BTreeMap<Stream, Vec<(Seq, usize)>> = BTreeMap::new();
        for (index, (stream, seq)) in rows.iter().enumerate() {
            open.entry(*stream).or_default().push((*seq, index));
        }
        let sorted = open.into_iter().map(|(stream, mut seqs)| {
            seqs.sort_unstable();
            (stream, VecDeque::from(seqs))
        });
        Self { open: sorted.collect(), now: HashMap::new(), told: vec![At::Nothing; rows.len()] }
    }

    /// All of it.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether all that is open can be answered from a place on at which the streams stood here.
    #[must_use]
    pub fn is_known_from(&self, ends: &StreamEnds) -> bool {
        self.open.iter().all(|(stream, seqs)| stood(ends, stream).is_some_and(|end| end.seq <= seqs[0].0))
    }

    /// The log begins where the streams stood here: answers what was before that.
    pub fn leave_out(&mut self, begins: &StreamEnds) {
        for (stream, seqs) in &mut self.open {
            let end = stood(begins, stream);
            while let Some((seq, row)) = seqs.front().copied()
                && end.is_none_or(|end| seq < end.seq)
            {
                self.told[row] = end.map_or(At::Nothing, At::Begins);
                seqs.pop_front();
            }
        }
        self.open.retain(|_, seqs| !seqs.is_empty());
    }

    /// The log is shown from where the streams stood here.
    pub fn begin(&mut self, ends: &StreamEnds) {
        let now = self.open.keys().map(|stream| (*stream, At::End(stood(ends, stream).unwrap_or_default())));
        self.now = now.collect();
    }

    /// A stream comes to `end`, of which `to` is to be said. What is asked about before stands where it stood; where
    /// blocks in between are not in this log and not lost either, `between` is to be said of those.
    pub fn goes_on(&mut self, stream: Stream, end: StreamEnd, to: At, between: Option<At>) {
        let Some(seqs) = self.open.get_mut(&stream) else { return };
        let was = self.now.insert(stream, to).unwrap_or(At::Nothing);
        while let Some((seq, row)) = seqs.front().copied()
            && seq < end.seq
        {
            let is_between = was.end().is_none_or(|was| was.seq < seq);
            self.told[row] = between.filter(|_| is_between).unwrap_or(was);
            seqs.pop_front();
        }
        if seqs.is_empty() {
            self.open.remove(&stream);
        }
    }

    /// The log ends, or nothing more is to be shown: a row for each that was asked for.
    #[must_use]
    pub fn end(mut self) -> Vec<At> {
        for (stream, seqs) in self.open {
            for (_, row) in seqs {
                self.told[row] = self.now[&stream];
            }
        }
        self.told
    }
}

/// Where a stream stood at a place of the log; `None` where that is not known of it alone.
fn stood(ends: &StreamEnds, stream: &Stream) -> Option<StreamEnd> {
    match ends.get(stream) {
        Some(end) => Some(*end),
        None if is_folded(ends, stream) => None,
        None => Some(StreamEnd::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Chain, Epoch, Nonce, ShardId, StoreId};
    use crate::wal::vector::FOLDED;

    fn stream(epoch: u64) -> Stream {
        Stream { origin: StoreId([1; 16]), shard: ShardId(0), epoch: Epoch(epoch), nonce: Nonce(9) }
    }

    fn end(seq: u64) -> StreamEnd {
        StreamEnd { seq: Seq(seq), chain: Chain(seq * 77) }
    }

    fn block(seq: u64) -> At {
        At::Block { end: end(seq), length: 1, payload_crc: seq as u32 }
    }

    #[test]
    fn each_seq_is_answered_with_what_stands_there_or_before() {
        let rows = [9, 4, 3, 1, 5, 6, 2].map(|seq| (stream(1), Seq(seq)));
        let mut asked = Asked::new(&rows);
        let begins = StreamEnds::from([(stream(1), end(2))]);
        assert!(!asked.is_known_from(&begins), "seq 1 was before");
        asked.leave_out(&begins);
        assert!(asked.is_known_from(&begins) && !asked.is_answered());
        asked.begin(&begins);
        for seq in [4, 6] {
            asked.goes_on(stream(1), end(seq), block(seq), None);
            asked.goes_on(stream(2), end(seq), block(seq), None);
        }
        let told = [block(6), block(4), At::End(end(2)), At::Begins(end(2)), block(4), block(6), At::End(end(2))];
        assert_eq!(asked.end(), told);
    }

    #[test]
    fn a_stream_that_begins_in_the_log_stood_at_nothing_before() {
        let mut asked = Asked::new(&[(stream(1), Seq(3)), (stream(1), Seq(7))]);
        assert!(asked.is_known_from(&StreamEnds::new()));
        asked.begin(&StreamEnds::new());
        asked.goes_on(stream(1), end(7), block(7), None);
        assert!(!asked.is_answered(), "it may not end there");
        asked.goes_on(stream(1), end(8), block(8), None);
        assert!(asked.is_answered());
        assert_eq!(asked.end(), [At::End(StreamEnd::default()), block(7)]);
    }

    #[test]
    fn what_is_not_in_the_log_is_lost_or_cannot_be_told() {
        let rows = [2, 3, 4, 5, 6, 7].map(|seq| (stream(1), Seq(seq)));
        let shown = |between| {
            let mut asked = Asked::new(&rows);
            asked.begin(&StreamEnds::new());
            asked.goes_on(stream(1), end(2), block(2), None);
            asked.goes_on(stream(1), end(5), At::End(end(5)), between);
            asked.goes_on(stream(1), end(6), block(6), None);
            asked.end()
        };
        let behind = [At::End(end(5)), block(6), block(6)];
        assert_eq!(shown(None)[..3], [block(2), block(2), block(2)]);
        let begins = At::Begins(end(5));
        assert_eq!(shown(Some(begins))[..3], [block(2), begins, begins]);
        assert!(shown(None)[3..] == behind && shown(Some(begins))[3..] == behind);
    }

    #[test]
    fn of_a_folded_stream_nothing_is_known() {
        let folded = StreamEnds::from([(Stream { nonce: FOLDED, ..stream(5) }, end(3))]);
        let mut asked = Asked::new(&[(stream(4), Seq(1)), (stream(6), Seq(1))]);
        assert!(!asked.is_known_from(&folded));
        asked.leave_out(&folded);
        assert!(asked.is_known_from(&folded));
        asked.begin(&folded);
        assert_eq!(asked.end(), [At::Nothing, At::End(StreamEnd::default())]);
    }
}
