//! What a store sends to one follower: which blocks of its log that one lacks, in which frames, and how far it has
//! come. A state machine without I/O.
//!
//! It is shown the blocks of each shard's log in order, from a place before which the follower holds everything
//! ([`Sender::covers`]). Promises: what the follower has is not sent again, what it lacks is sent once and in order,
//! and `shipped` counts what it has synced.

use std::collections::{HashMap, VecDeque};

use crate::repl::entries::{ENTRIES_BYTES, Entries};
use crate::repl::wire::{Frame, Vector};
use crate::types::{Opening, Seq, ShardId, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::read::Pieces;
use crate::wal::vector::{Holds, differ_folded, holds, is_folded};

/// Streams of which a follower may say that it holds something.
const STREAMS_MAX: usize = 1 << 20;

/// Why nothing more can be sent; the link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// There are two histories of this stream.
    #[error("stream {}/{}/{} is another one at the follower up to seq {at}; nothing of it goes either way. Keep the store that is right, and start the other one anew", .stream.origin, .stream.shard, .stream.epoch)]
    Diverged {
        /// The stream.
        stream: Stream,
        /// Up to where they were compared.
        at: Seq,
    },
    /// Old streams of which both sites know only what they are together, and that is not the same.
    #[error("what is held of store {} shard {} up to epoch {} differs between this store and the follower, and its single streams are no longer known. Let this store follow that one until it has everything; where that does not end it, keep the store that is right, and start the other one anew", .row.origin, .row.shard, .row.epoch)]
    Folded {
        /// The folded row.
        row: Stream,
    },
    /// It says that it holds more streams than there can be.
    #[error("a vector of more than {STREAMS_MAX} streams")]
    TooMany,
}

/// A block of the log.
#[derive(Clone, Copy, Debug)]
pub struct Offered<'a> {
    /// The shard.
    pub shard: ShardId,
    /// Its seq in the shard's log.
    pub local: Seq,
    /// The stream.
    pub stream: Stream,
    /// Where the stream stood before it.
    pub before: StreamEnd,
    /// Where it stands behind it.
    pub behind: StreamEnd,
    /// Its header, of the kind `own`.
    pub header: &'a [u8],
    /// Its payload.
    pub payload: Pieces<'a>,
}

/// Blocks that a shard's log has not.
#[derive(Clone, Copy, Debug)]
pub struct OfferedGap {
    /// The shard.
    pub shard: ShardId,
    /// The seq in its log that stands for them, or the last one before them.
    pub local: Seq,
    /// The stream.
    pub stream: Stream,
    /// Where it stood before them.
    pub before: StreamEnd,
    /// Where it stands behind them.
    pub behind: StreamEnd,
}

/// What was shown and is not known to be synced at the follower.
#[derive(Clone, Copy, Debug)]
struct Unacked {
    local: Seq,
    of: Stream,
    seq: Seq,
    /// Bytes that were sent for it.
    bytes: usize,
}

/// One follower.
#[derive(Clone, Debug)]
pub struct Sender {
    follower: Opening,
    /// What the follower holds, and what was sent to it.
    ends: StreamEnds,
    is_ready: bool,
    /// Up to where each stream is synced there.
    acked: HashMap<Stream, Seq>,
    /// By shard.
    unacked: Vec<VecDeque<Unacked>>,
    /// By shard: of these, so many that come first the follower accepts itself.
    own_first: Vec<usize>,
    /// By shard: up to where its log was shown.
    shown: Vec<Seq>,
    shipped: Vec<Seq>,
    bytes: usize,
    open: Option<Entries>,
}

impl Sender {
    /// For a follower of a store with so many shards. What the follower accepts itself, under this epoch and nonce, is
    /// not sent back to it.
    #[must_use]
    pub fn new(shards: usize, follower: Opening) -> Self {
        Self {
            follower,
            ends: StreamEnds::new(),
            is_ready: false,
            acked: HashMap::new(),
            unacked: vec![VecDeque::new(); shards],
            own_first: vec![0; shards],
            shown: vec![Seq(0); shards],
            shipped: vec![Seq(0); shards],
            bytes: 0,
            open: None,
        }
    }

    /// The opening that the follower is.
    #[must_use]
    pub const fn follower(&self) -> Opening {
        self.follower
    }

    /// A frame of the follower's vector; behind the last of them it says nothing.
    ///
    /// # Errors
    /// [`Stop::TooMany`].
    pub fn vector(&mut self, frame: &Vector) -> Result<(), Stop> {
        if self.is_ready {
            return Ok(());
        }
        self.ends.extend(frame.ends.iter().copied());
        self.is_ready |= frame.last;
        if self.ends.len() > STREAMS_MAX { Err(Stop::TooMany) } else { Ok(()) }
    }

    /// The follower has said all of what it holds.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Up to where the follower has a stream, as far as it has said.
    #[must_use]
    pub fn has(&self, stream: Stream) -> Seq {
        if Opening::of(&stream) == self.follower || is_folded(&self.ends, &stream) && !self.ends.contains_key(&stream) {
            return Seq(u64::MAX);
        }
        self.ends.get(&stream).map_or(Seq(0), |end| end.seq)
    }

    /// Whether what is folded there is what is held here.
    ///
    /// # Errors
    /// [`Stop::Folded`].
    pub fn compare(&self, held: &StreamEnds) -> Result<(), Stop> {
        differ_folded(held, &self.ends).map_or(Ok(()), |row| Err(Stop::Folded { row }))
    }

    /// Whether the follower holds everything before a place of the log, at which its streams stood here. So that is
    /// where to begin: at the last one that is covered.
    ///
    /// # Errors
    /// [`Stop::Diverged`].
    pub fn covers(&self, place: &StreamEnds) -> Result<bool, Stop> {
        let mut all = true;
        // What it accepts itself it has, and does not say.
        for (stream, end) in place.iter().filter(|(stream, _)| Opening::of(stream) != self.follower) {
            match holds(&self.ends, *stream, *end) {
                Holds::All => {}
                Holds::Less => all = false,
                Holds::Other => return Err(Stop::Diverged { stream: *stream, at: end.seq }),
            }
        }
        Ok(all)
    }

    /// A shard's log is shown from behind this seq on, where its streams stood here and which is covered. What the
    /// follower accepts itself counts as shipped only once it has synced that.
    pub fn begin(&mut self, shard: ShardId, local: Seq, place: &StreamEnds) {
        let of_follower = place.iter().filter(|(stream, _)| Opening::of(stream) == self.follower);
        let unacked = &mut self.unacked[usize::from(shard.0)];
        unacked.extend(of_follower.map(|(of, end)| Unacked { local: Seq(0), of: *of, seq: end.seq, bytes: 0 }));
        if let Some(last) = unacked.back_mut() {
            last.local = local;
        }
        self.shown(shard, local);
    }

    /// Shows the next block of a shard's log; frames that are full, or that end with it, are appended to `out`.
    ///
    /// # Errors
    /// [`Stop::Diverged`]: nothing of it is sent.
    pub fn offer(&mut self, block: &Offered<'_>, out: &mut Vec<Frame>) -> Result<(), Stop> {
        let Offered { stream, before, behind, .. } = *block;
        let diverged = |at| Err(Stop::Diverged { stream, at });
        let (held, is_its_own, is_folded) = self.held(stream, behind);
        let is_old = is_its_own || is_folded;
        #[cfg(feature = "sim")]
        let held = if held == before
            && block.local.0.is_multiple_of(8)
            && crate::planted::is_planted(crate::planted::Mutant::ResumesTooFar)
        {
            self.ends.insert(stream, behind);
            behind
        } else {
            held
        };
        let mut bytes = 0;
        if is_old || behind.seq <= held.seq {
            if !is_old && behind.seq == held.seq && behind.chain != held.chain {
                return diverged(held.seq);
            }
        } else {
            if before.seq == held.seq && before.chain != held.chain || held.seq > before.seq {
                return diverged(held.seq);
            }
            // The follower has all of what stood before the beginning: the log has lost it since.
            self.pass_over(stream, (held, before), out);
            bytes = block.header.len() + block.payload.len();
            if self.open.as_ref().is_some_and(|open| open.stream != stream) {
                self.flush(out);
            }
            let mut open = self.open.take().unwrap_or_else(|| Entries::new(stream, before));
            if !open.push_pieces(behind.seq, block.header, block.payload) {
                out.push(Frame::Entries(std::mem::replace(&mut open, Entries::new(stream, before))));
                // The next one may well be as full.
                open.bytes.reserve(ENTRIES_BYTES);
                let fits = open.push_pieces(behind.seq, block.header, block.payload);
                assert!(fits, "a block fits a frame of its own");
            }
            assert_eq!(open.behind, behind, "the log's chains are those of its blocks");
            self.open = Some(open);
            self.ends.insert(stream, behind);
        }
        self.put(block.shard, Unacked { local: block.local, of: stream, seq: behind.seq, bytes }, is_folded);
        Ok(())
    }

    /// Shows blocks that a shard's log has not, where they stood; frames as with [`offer`](Self::offer).
    ///
    /// # Errors
    /// [`Stop::Diverged`]: nothing of it is sent.
    pub fn offer_gap(&mut self, gap: &OfferedGap, out: &mut Vec<Frame>) -> Result<(), Stop> {
        let OfferedGap { stream, before, behind, .. } = *gap;
        let (held, is_its_own, is_folded) = self.held(stream, behind);
        if !is_its_own && !is_folded {
            let is_other = |end: StreamEnd| held.seq == end.seq && held.chain != end.chain;
            if is_other(before) || is_other(behind) {
                return Err(Stop::Diverged { stream, at: held.seq });
            }
            self.pass_over(stream, (held, behind), out);
        }
        self.put(gap.shard, Unacked { local: gap.local, of: stream, seq: behind.seq, bytes: 0 }, is_folded);
        Ok(())
    }

    /// Passes over blocks of a shard's log that the follower accepts itself, up to this one of their stream.
    pub fn pass(&mut self, shard: ShardId, local: Seq, of: Stream, seq: Seq) {
        self.put(shard, Unacked { local, of, seq, bytes: 0 }, false);
    }

    /// What the follower holds of a stream, as far as it was told or sent; whether it accepts it itself, and whether it is
    /// one of those that it has folded.
    fn held(&self, stream: Stream, behind: StreamEnd) -> (StreamEnd, bool, bool) {
        let held = self.ends.get(&stream);
        let is_its_own = Opening::of(&stream) == self.follower;
        let is_told = is_its_own || held.is_some();
        let is_folded = !is_told && holds(&self.ends, stream, behind) == Holds::All;
        (held.copied().unwrap_or_default(), is_its_own, is_folded)
    }

    /// Of what the follower lacks between these ends there is nothing here.
    fn pass_over(&mut self, stream: Stream, (held, behind): (StreamEnd, StreamEnd), out: &mut Vec<Frame>) {
        if held.seq < behind.seq {
            self.flush(out);
            out.push(Frame::Gap { stream, before: held, behind });
            self.ends.insert(stream, behind);
        }
    }

    /// This was shown; `is_folded`: it is of a stream that is held for long.
    fn put(&mut self, shard: ShardId, entry: Unacked, is_folded: bool) {
        self.bytes += entry.bytes;
        let (shard, local) = (usize::from(shard.0), entry.local);
        if is_folded {
            self.acked.insert(entry.of, Seq(u64::MAX));
        }
        // Before it counts as shown: what was shown and is not waited for is shipped.
        self.unacked[shard].push_back(entry);
        self.shown[shard] = self.shown[shard].max(local);
        // What waits behind something else waits on.
        if self.unacked[shard].len() == 1 || is_folded {
            self.settle(shard);
        } else {
            self.count_own_first(shard);
        }
    }

    /// A shard's log was shown up to here, be there blocks or not.
    pub fn shown(&mut self, shard: ShardId, upto: Seq) {
        let shard = usize::from(shard.0);
        self.shown[shard] = self.shown[shard].max(upto);
        self.settle(shard);
    }

    /// Ends the frame that is being filled.
    pub fn flush(&mut self, out: &mut Vec<Frame>) {
        out.extend(self.open.take().map(Frame::Entries));
    }

    /// The follower has synced these.
    pub fn acked(&mut self, rows: &[(Stream, Seq)]) {
        for (stream, seq) in rows {
            if self.acked.len() < STREAMS_MAX || self.acked.contains_key(stream) {
                let acked = self.acked.entry(*stream).or_default();
                *acked = (*acked).max(*seq);
            }
        }
        (0..self.shipped.len()).for_each(|shard| self.settle(shard));
    }

    /// Takes off what is acknowledged.
    fn settle(&mut self, shard: usize) {
        let unacked = &mut self.unacked[shard];
        while let Some(first) = unacked.front()
            && self.acked.get(&first.of).is_some_and(|acked| *acked >= first.seq)
        {
            self.bytes -= first.bytes;
            self.shipped[shard] = first.local;
            unacked.pop_front();
            self.own_first[shard] = self.own_first[shard].saturating_sub(1);
        }
        if unacked.is_empty() {
            self.shipped[shard] = self.shipped[shard].max(self.shown[shard]);
        }
        self.count_own_first(shard);
    }

    fn count_own_first(&mut self, shard: usize) {
        let (unacked, own_first) = (&self.unacked[shard], &mut self.own_first[shard]);
        while unacked.get(*own_first).is_some_and(|entry| Opening::of(&entry.of) == self.follower) {
            *own_first += 1;
        }
    }

    /// Up to which seq of a shard's log the follower has everything synced, as far as was shown.
    #[must_use]
    pub fn shipped(&self, shard: ShardId) -> Seq {
        self.shipped[usize::from(shard.0)]
    }

    /// Up to which seq of a shard's log the follower has everything, as far as was shown: what it accepts itself it has,
    /// synced or not.
    #[must_use]
    pub fn had(&self, shard: ShardId) -> Seq {
        let shard = usize::from(shard.0);
        match self.unacked[shard].get(self.own_first[shard]) {
            Some(first) => first.local.prev(),
            None => self.shown[shard],
        }
    }

    /// Bytes that were sent and are not acknowledged.
    #[must_use]
    pub const fn bytes_unacked(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, Nonce, StoreId};

    const SHARD: ShardId = ShardId(0);

    fn stream(store: u8) -> Stream {
        Stream { origin: StoreId([store; 16]), shard: SHARD, epoch: Epoch(1), nonce: Nonce(7) }
    }

    fn end(of: StreamEnd, seq: u64) -> StreamEnd {
        of.then(Seq(seq), 0, 0)
    }

    fn sender() -> Sender {
        let mut sender = Sender::new(1, Opening::of(&stream(2)));
        sender.vector(&Vector { last: true, ..Vector::default() }).expect("an empty vector");
        sender
    }

    #[test]
    fn what_is_shown_counts_as_shipped_when_it_is_acknowledged_and_not_before() {
        let mut sender = sender();
        let header = crate::wal::entry::Entry {
            kind: crate::wal::entry::EntryKind::Own,
            block_kind: crate::types::BlockKind::Raw,
            namespace: "n",
            table: "t",
            length: 0,
            received_at_ns: 0,
            rows: 0,
            payload_crc: 0,
            identity: None,
        }
        .encode();
        let (before, behind) = (StreamEnd::default(), end(StreamEnd::default(), 1));
        let (local, of, header) = (Seq(1), stream(1), header.bytes());
        let block = Offered { shard: SHARD, local, stream: of, before, behind, header, payload: Pieces::Plain(&[]) };
        sender.offer(&block, &mut Vec::new()).expect("one history");
        assert_eq!(sender.shipped(SHARD), Seq(0));
        sender.acked(&[(of, Seq(1))]);
        assert_eq!(sender.shipped(SHARD), Seq(1));
    }

    #[test]
    fn what_the_follower_accepts_itself_counts_as_shipped_when_it_has_synced_that() {
        let mut sender = sender();
        let place = StreamEnds::from_iter([(stream(2), end(StreamEnd::default(), 4))]);
        assert_eq!(sender.covers(&place), Ok(true));
        sender.begin(SHARD, Seq(9), &place);
        assert_eq!(sender.shipped(SHARD), Seq(0));
        sender.acked(&[(stream(2), Seq(3))]);
        assert_eq!(sender.shipped(SHARD), Seq(0));
        sender.acked(&[(stream(2), Seq(4))]);
        assert_eq!(sender.shipped(SHARD), Seq(9));
    }
}
