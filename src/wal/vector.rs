//! The vector: what a shard holds of each stream, as a record that each segment begins with.
//!
//! Segments are given back and the stream tables in them are gone; what was in them a store must still know, or it
//! would take it a second time from another site. So the first batch of each segment begins with a control entry that
//! says where every stream stood before it, and which of its blocks are lost.
//!
//! ```text
//! record    4 u8, ends u32, gaps u32; ends x (stream, seq u64, chain u64); gaps x (stream, from u64, to u64)
//! stream    origin 16, shard u16, epoch u64, nonce u64
//! ```
//!
//! Each opening that takes a block adds a stream. Where they become too many, the older ones of an origin's shard are
//! folded into one row: a stream with the nonce 0, which no opening has, of the last folded epoch; its seq is how
//! many were folded and its chain is one over all of them. Folding on leads to the same row, in however many steps.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::limits::VECTOR_SEGMENT_SHARE;
use crate::types::{Chain, Nonce, Seq, ShardId, StoreId, Stream, mix64};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::entry::{Control, STREAM_BYTES, decode_stream, encode_stream};

/// The first byte of the record; those of [`Control`] are below it.
const KIND: u8 = 4;
const ROW_BYTES: usize = STREAM_BYTES + 8 + 8;
const HEAD_BYTES: usize = 1 + 4 + 4;
/// More rows no record has.
const ROWS_MAX: u64 = 4096;

/// The nonce of a folded row.
pub const FOLDED: Nonce = Nonce(0);

/// Rows of ends and of gaps in the record of a segment of so many bytes, at most.
#[must_use]
pub const fn rows_max(segment_bytes: u64) -> (usize, usize) {
    let rows = segment_bytes / VECTOR_SEGMENT_SHARE / ROW_BYTES as u64;
    let rows = if rows < ROWS_MAX { rows } else { ROWS_MAX } as usize;
    let gaps = rows / 3;
    (rows - gaps, gaps)
}

/// The record as a control's payload. Where there are too many gaps the oldest are left out: they are said in the
/// segment in which they were found, and were told to whoever opened the store then.
#[must_use]
pub fn encode(ends: &StreamEnds, gaps: &[Control], segment_bytes: u64) -> Vec<u8> {
    let (_, gaps_max) = rows_max(segment_bytes);
    let mut gaps: Vec<(Stream, Seq, Seq)> = gaps
        .iter()
        .filter_map(|gap| match gap {
            Control::Gap { stream, from, to } => Some((*stream, *from, *to)),
            Control::IntakeDone(_) | Control::EpochClosed(_) => None,
        })
        .collect();
    gaps.sort_by_key(|(stream, from, to)| (stream.epoch, *stream, *from, *to));
    let gaps = &gaps[gaps.len().saturating_sub(gaps_max)..];
    let mut out = Vec::with_capacity(HEAD_BYTES + (ends.len() + gaps.len()) * ROW_BYTES);
    out.push(KIND);
    out.extend((ends.len() as u32).to_le_bytes());
    out.extend((gaps.len() as u32).to_le_bytes());
    let ends: BTreeMap<_, _> = ends.iter().map(|(stream, end)| (*stream, *end)).collect();
    let rows = ends.into_iter().map(|(stream, end)| (stream, end.seq.0, end.chain.0));
    for (stream, one, two) in rows.chain(gaps.iter().map(|(stream, from, to)| (*stream, from.0, to.0))) {
        out.extend(encode_stream(&stream));
        out.extend(one.to_le_bytes());
        out.extend(two.to_le_bytes());
    }
    out
}

/// Reads the record from a control's payload; `None` where it is none.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<(StreamEnds, Vec<Control>)> {
    let (head, rows) = payload.split_at_checked(HEAD_BYTES)?;
    let count = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes")) as usize;
    let (ends, gaps) = (count(1), count(5));
    if head[0] != KIND || ends.checked_add(gaps)?.checked_mul(ROW_BYTES)? != rows.len() {
        return None;
    }
    let mut rows = rows.chunks_exact(ROW_BYTES).map(|row| {
        let word = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("8 bytes"));
        let stream = decode_stream(row[..STREAM_BYTES].try_into().expect("a row"));
        (stream, word(STREAM_BYTES), word(STREAM_BYTES + 8))
    });
    let ends = rows.by_ref().take(ends).map(|(stream, seq, chain)| {
        let end = StreamEnd { seq: Seq(seq), chain: Chain(chain) };
        (stream, end)
    });
    let ends = ends.collect();
    let gaps = rows.map(|(stream, from, to)| Control::Gap { stream, from: Seq(from), to: Seq(to) }).collect();
    Some((ends, gaps))
}

/// Folds until at most `most` streams are left, those first of which there are most of one origin's shard. None of the
/// newest epoch of each is folded: they may still grow. Whoever takes in streams bounds how many those are.
pub fn fold(ends: &mut StreamEnds, most: usize) {
    if ends.len() <= most {
        return;
    }
    let mut of_shard: BTreeMap<(StoreId, ShardId), Vec<Stream>> = BTreeMap::new();
    for stream in ends.keys().filter(|stream| stream.nonce != FOLDED) {
        of_shard.entry((stream.origin, stream.shard)).or_default().push(*stream);
    }
    for streams in of_shard.values_mut() {
        streams.sort();
        let newest = streams.last().map(|last| last.epoch);
        streams.retain(|stream| Some(stream.epoch) < newest);
    }
    while ends.len() > most {
        let most_of = of_shard.values_mut().max_by_key(|streams| streams.len());
        let Some(streams) = most_of.filter(|streams| !streams.is_empty()) else { return };
        // All of an epoch, or the row would say more than was folded.
        let epoch = streams[(streams.len() - 1) / 2].epoch;
        let upto = streams.partition_point(|stream| stream.epoch <= epoch);
        fold_into_one(ends, streams.drain(..upto).collect());
    }
}

/// Whoever has this vector knows of a stream only that it was held, with others.
#[must_use]
pub fn is_folded(ends: &StreamEnds, of: &Stream) -> bool {
    folded_row(ends, *of).is_some_and(|row| of.epoch <= row.epoch)
}

/// What a vector says of a stream up to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// All of it, as far as the vector can tell.
    All,
    /// Less.
    Less,
    /// Something else: there are two histories of it.
    Other,
}

/// Whether all of a stream up to `end`, or of what a folded row stands for, is held by whoever has this vector.
#[must_use]
pub fn holds(ends: &StreamEnds, stream: Stream, end: StreamEnd) -> Holds {
    let compare = |theirs: StreamEnd| match theirs.seq.cmp(&end.seq) {
        Ordering::Greater => Holds::All,
        Ordering::Equal if theirs.chain == end.chain => Holds::All,
        Ordering::Equal => Holds::Other,
        Ordering::Less => Holds::Less,
    };
    if end.seq == Seq(0) {
        return Holds::All;
    }
    if let Some(row) = folded_row(ends, stream)
        && row.epoch >= stream.epoch
    {
        // One hash over more than is asked about is not compared here: see [`differ_folded`].
        return if row == stream && ends[&row] != end { Holds::Other } else { Holds::All };
    }
    if stream.nonce != FOLDED {
        return ends.get(&stream).map_or(Holds::Less, |theirs| compare(*theirs));
    }
    // Which of the streams differs, and who has more of it, no hash over all of them says: theirs may still grow.
    if folded_upto(ends, stream) == Some(end) { Holds::All } else { Holds::Less }
}

/// A folded row of `theirs`, or of `mine`, up to which the two do not hold the same, where neither knows any more what
/// the difference is: blocks of its streams cannot be sent by whoever holds `mine`, and must not be taken for held.
/// It may be that `mine` has less and is on its way to the same.
#[must_use]
pub fn differ_folded(mine: &StreamEnds, theirs: &StreamEnds) -> Option<Stream> {
    theirs.keys().filter(|row| row.nonce == FOLDED).find_map(|row| {
        match folded_row(mine, *row).filter(|further| further.epoch > row.epoch) {
            // Theirs may still grow up to there, unless they have what comes behind it.
            Some(further) => {
                let of_shard = |one: &Stream| (one.origin, one.shard) == (row.origin, row.shard);
                let went_on = theirs.keys().any(|one| of_shard(one) && one.epoch > further.epoch);
                let other = |end: StreamEnd| end != mine[&further];
                (went_on && folded_upto(theirs, further).is_some_and(other)).then_some(further)
            }
            None => folded_upto(mine, *row).filter(|end| *end != theirs[row]).map(|_| *row),
        }
    })
}

/// The row of what this vector has folded of a stream's origin and shard.
fn folded_row(ends: &StreamEnds, of: Stream) -> Option<Stream> {
    ends.keys().find(|row| row.nonce == FOLDED && (row.origin, row.shard) == (of.origin, of.shard)).copied()
}

/// What this vector, folded up to another one's row, would say there: `None` where it has none of those streams. It must
/// not have folded newer ones.
fn folded_upto(ends: &StreamEnds, row: Stream) -> Option<StreamEnd> {
    let of_shard = |one: &Stream| (one.origin, one.shard) == (row.origin, row.shard);
    let mut folded: StreamEnds = ends.iter().filter(|(one, _)| of_shard(one)).map(|(one, end)| (*one, *end)).collect();
    let mut streams: Vec<Stream> = folded.keys().copied().filter(|one| one.nonce != FOLDED).collect();
    streams.retain(|one| one.epoch <= row.epoch);
    streams.sort();
    fold_into_one(&mut folded, streams);
    folded_row(&folded, row).map(|row| folded[&row])
}

/// These streams of one origin's shard, oldest first, behind the row that is folded already.
fn fold_into_one(ends: &mut StreamEnds, streams: Vec<Stream>) {
    let Some(last) = streams.last().copied() else { return };
    let before = folded_row(ends, last).and_then(|row| ends.remove(&row));
    let mut folded = before.unwrap_or_default();
    for stream in &streams {
        let end = ends.remove(stream).expect("a stream of these");
        let words = [stream.epoch.0, stream.nonce.0, end.seq.0, end.chain.0];
        folded.chain = Chain(words.into_iter().fold(folded.chain.0, mix64));
        folded.seq = folded.seq.next();
    }
    ends.insert(Stream { nonce: FOLDED, ..last }, folded);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn stream(origin: u8, epoch: u64) -> Stream {
        Stream { origin: StoreId([origin; 16]), shard: ShardId(3), epoch: Epoch(epoch), nonce: Nonce(100 + epoch) }
    }

    fn end(seq: u64) -> StreamEnd {
        StreamEnd { seq: Seq(seq), chain: Chain(seq * 7) }
    }

    #[test]
    fn the_record_reads_back() {
        let ends: StreamEnds = (1..9).map(|epoch| (stream(1, epoch), end(epoch))).collect();
        let gaps: Vec<Control> =
            (1..5).map(|at| Control::Gap { stream: stream(1, at), from: Seq(at), to: Seq(u64::MAX) }).collect();
        let record = encode(&ends, &gaps, 1 << 20);
        assert_eq!(decode(&record), Some((ends.clone(), gaps.clone())));
        assert_eq!(record, encode(&ends, &gaps, 1 << 20), "the same vector is the same bytes");
        assert_eq!(decode(&record[..record.len() - 1]), None);
        assert_eq!(Control::decode(&record), None, "no other control begins so");
        let mut longer = record.clone();
        longer[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&longer), None);
        assert_eq!(decode(&Control::IntakeDone(Epoch(1)).encode()), None);
    }

    #[test]
    fn the_record_of_a_small_segment_leaves_out_the_oldest_gaps() {
        let gaps: Vec<Control> =
            (1..50).map(|at| Control::Gap { stream: stream(1, at), from: Seq(at), to: Seq(at + 2) }).collect();
        let (_, gaps_max) = rows_max(16 << 10);
        let (_, read) = decode(&encode(&StreamEnds::new(), &gaps, 16 << 10)).expect("a record");
        assert_eq!(read, gaps[gaps.len() - gaps_max..]);
        assert!(encode(&StreamEnds::new(), &gaps, 16 << 10).len() as u64 <= (16 << 10) / VECTOR_SEGMENT_SHARE);
    }

    #[test]
    fn folding_on_leads_to_the_same_row() {
        let all: StreamEnds =
            (1..=40).map(|epoch| (stream(1, epoch), end(epoch))).chain([(stream(2, 5), end(1))]).collect();
        let mut once = all.clone();
        fold(&mut once, 22);
        assert!(once.len() <= 22 && once.contains_key(&stream(1, 40)) && once.contains_key(&stream(2, 5)));
        let (row, folded) = once.iter().find(|(row, _)| row.nonce == FOLDED).expect("a folded row");
        assert_eq!(folded.seq.0, row.epoch.0, "one stream an epoch");
        let mut twice = all.clone();
        fold(&mut twice, 38);
        fold(&mut twice, 10);
        let mut other = all.clone();
        other.remove(&stream(1, 2));
        fold(&mut once, 10);
        fold(&mut other, 10);
        let row = |ends: &StreamEnds| ends.iter().find(|(row, _)| row.nonce == FOLDED).map(|(row, end)| (*row, *end));
        // Folded up to the same epoch by other steps, it is the same row; with a stream less it is another.
        let upto = row(&twice).expect("a row").0.epoch;
        let mut whole = StreamEnds::new();
        whole.extend(all.iter().filter(|(stream, _)| stream.epoch <= upto).map(|(stream, end)| (*stream, *end)));
        let mut streams: Vec<Stream> = whole.keys().copied().filter(|one| one.origin == StoreId([1; 16])).collect();
        streams.sort();
        fold_into_one(&mut whole, streams);
        assert_eq!(row(&whole), row(&twice));
        assert_ne!(row(&other).map(|(_, end)| end.chain), row(&once).map(|(_, end)| end.chain));
    }

    #[test]
    fn a_vector_knows_what_it_holds() {
        let details: StreamEnds = (1..=9).map(|epoch| (stream(1, epoch), end(epoch))).collect();
        let fold_upto = |epoch: u64, of: &StreamEnds| {
            let mut folded = of.clone();
            let mut streams: Vec<Stream> =
                of.keys().copied().filter(|one| one.nonce != FOLDED && one.epoch.0 <= epoch).collect();
            streams.sort();
            fold_into_one(&mut folded, streams);
            folded
        };
        let (three, six) = (fold_upto(3, &details), fold_upto(6, &details));
        let row = |of: &StreamEnds| of.iter().find(|(row, _)| row.nonce == FOLDED).map(|(row, end)| (*row, *end));
        let (row_3, row_6) = (row(&three).expect("a row"), row(&six).expect("a row"));
        for vector in [&details, &three, &six] {
            assert_eq!(holds(vector, stream(1, 7), end(7)), Holds::All);
            assert_eq!(holds(vector, stream(1, 7), end(8)), Holds::Less);
            assert_eq!(holds(vector, stream(1, 7), end(6)), Holds::All, "it has more");
            assert_eq!(holds(vector, stream(1, 7), StreamEnd { chain: Chain(1), ..end(7) }), Holds::Other);
            assert_eq!(holds(vector, stream(1, 10), end(1)), Holds::Less);
            assert_eq!(holds(vector, stream(2, 1), StreamEnd::default()), Holds::All, "nothing is always held");
            assert_eq!(holds(vector, row_6.0, row_6.1), Holds::All, "from details, or a shorter row and details");
            let is_six = *vector == six;
            let other = if is_six { Holds::Other } else { Holds::Less };
            assert_eq!(holds(vector, row_6.0, StreamEnd { chain: Chain(1), ..row_6.1 }), other);
        }
        assert_eq!(holds(&details, row_3.0, row_3.1), Holds::All);
        assert_eq!(holds(&six, row_3.0, row_3.1), Holds::All, "covered, and cannot be compared");
        assert_eq!(holds(&six, stream(1, 2), end(99)), Holds::All);
        let mut without = details.clone();
        without.remove(&stream(1, 2));
        assert_eq!(holds(&without, row_6.0, row_6.1), Holds::Less);
        assert_eq!(holds(&StreamEnds::new(), row_6.0, row_6.1), Holds::Less);
        let mut clone = details.clone();
        clone.insert(Stream { nonce: Nonce(7), ..stream(1, 2) }, end(3));
        assert_eq!(holds(&clone, row_6.0, row_6.1), Holds::Less);
        assert_eq!(holds(&fold_upto(6, &clone), row_6.0, row_6.1), Holds::Other);
        // What is folded is compared with what was folded elsewhere, up to the same epoch.
        let shorter = |epoch| {
            let mut shorter = details.clone();
            shorter.insert(stream(1, epoch), end(epoch - 1));
            shorter
        };
        for mine in [&details, &three, &six] {
            for theirs in [&details, &three, &six] {
                assert_eq!(differ_folded(mine, theirs), None);
            }
            assert!(differ_folded(mine, &fold_upto(3, &shorter(2))).is_some(), "at 3, or at 6 where mine begins");
        }
        assert_eq!(differ_folded(&shorter(5), &six), Some(row_6.0), "it has less than what was folded, or more");
        assert_eq!(differ_folded(&shorter(5), &three), None, "epoch 5 is known to both");
        assert_eq!(differ_folded(&StreamEnds::new(), &six), None, "nothing to send");
        let behind: StreamEnds =
            three.iter().filter(|(row, _)| row.epoch.0 < 6).map(|(row, end)| (*row, *end)).collect();
        assert_eq!(differ_folded(&six, &behind), None, "it is on its way");
    }

    #[test]
    fn what_may_still_grow_is_not_folded() {
        let mut few: StreamEnds = [(stream(1, 1), end(1)), (stream(2, 1), end(1)), (stream(3, 1), end(1))].into();
        fold(&mut few, 2);
        assert_eq!(few.len(), 3);
        // A cloned store: one epoch with many nonces.
        let clone = |nonce| Stream { nonce: Nonce(nonce), ..stream(1, 7) };
        let mut clones: StreamEnds = (1..20).map(|nonce| (clone(nonce), end(nonce))).collect();
        clones.insert(stream(1, 2), end(1));
        clones.insert(stream(1, 3), end(1));
        fold(&mut clones, 5);
        assert_eq!(clones.len(), 20, "all of the newest epoch, and one row");
    }
}
