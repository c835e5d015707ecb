//! What a store takes in from others: which blocks of a frame are new, where they go, and what may be acknowledged.
//! A state machine without I/O, one for a store, whatever the number of its sources.
//!
//! Promises: of each stream a store holds a prefix, so a frame is taken only where it continues that, whoever sent it
//! and however often (P8); what is acknowledged is synced here; what two sites have as different blocks under one seq
//! is never mixed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use crate::repl::entries::Entries;
use crate::repl::wire::{ROWS_MAX, Vector};
use crate::types::{Seq, ShardId, StoreId, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::vector::is_folded;

/// Shards of other stores of which a store holds streams, at most: its shards' vectors must have room for them.
const ORIGINS_MAX: usize = 512;

/// Why a frame is not taken; the link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not continue what is held.
    #[error("stream {}/{}/{} stands at seq {held} here, and the frame goes on behind {before}", .stream.origin, .stream.shard, .stream.epoch)]
    Hole {
        /// The stream.
        stream: Stream,
        /// Where it stands here.
        held: Seq,
        /// Where the frame begins.
        before: Seq,
    },
    /// There are two histories of this stream.
    #[error("stream {}/{}/{} is another one here up to seq {at}; nothing of it goes either way. Keep the store that is right, and start the other one anew", .stream.origin, .stream.shard, .stream.epoch)]
    Diverged {
        /// The stream.
        stream: Stream,
        /// Up to where they were compared.
        at: Seq,
    },
    /// A stream of which nothing more is known than that it was held, with others, up to somewhere.
    #[error("stream {}/{}/{} is one of those that are folded here: whether its blocks are held is no longer known. The source should not have sent them; start this store anew from it", .stream.origin, .stream.shard, .stream.epoch)]
    Folded {
        /// The stream.
        stream: Stream,
    },
    /// Data files of a source are being taken over: what streams come to is not known before that is done.
    #[error("data files are being taken over here; it goes on behind that")]
    Busy,
    /// More origins than a store can keep account of.
    #[error("blocks of more than {ORIGINS_MAX} origins and shards")]
    TooMany,
}

/// A stream as it is taken in.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// Up to where it was given to a shard.
    end: StreamEnd,
    /// Up to where that is synced.
    synced: StreamEnd,
}

/// What the streams of a store have come to.
#[derive(Debug)]
pub struct Receiver {
    store: StoreId,
    /// By local shard: what was given to it and is not synced yet, as (its seq, stream, where that stands behind it).
    waiting: Vec<VecDeque<(Seq, Stream, StreamEnd)>>,
    /// By local shard: up to where it is synced.
    own_synced: Vec<Seq>,
    taken: HashMap<Stream, Taken>,
    /// The vector as it was when the store was opened; what is folded is looked up here.
    opened: StreamEnds,
    /// The streams that this store is accepting now.
    own: Vec<Stream>,
    /// Nothing is taken at present.
    is_busy: bool,
    /// Nor before the log knows what was taken over.
    is_owed: bool,
}

impl Receiver {
    /// For a store that was just opened, all of which is synced: its vector, and the streams that it accepts now, by shard.
    #[must_use]
    pub fn new(store: StoreId, opened: StreamEnds, own: Vec<Stream>) -> Self {
        let taken = opened.iter().map(|(stream, end)| (*stream, Taken { end: *end, synced: *end })).collect();
        Self {
            store,
            waiting: vec![VecDeque::new(); own.len()],
            own_synced: vec![Seq(0); own.len()],
            taken,
            opened,
            own,
            is_busy: false,
            is_owed: false,
        }
    }

    /// The local shard that a stream goes to, all of it: its own one, or one by its origin and shard.
    #[must_use]
    pub fn shard_of(&self, stream: Stream) -> ShardId {
        let shards = self.own.len() as u64;
        if stream.origin == self.store && u64::from(stream.shard.0) < shards {
            return stream.shard;
        }
        // The shards of one origin are spread evenly.
        ShardId((stream.origin.mixed().wrapping_add(u64::from(stream.shard.0)) % shards) as u16)
    }

    /// What is held and synced, but for what this opening accepts itself: frames of a vector, the last one marked. Who
    /// is told of it lets go of it.
    #[must_use]
    pub fn vector(&self) -> Vec<Vector> {
        let synced = self.taken.iter().map(|(stream, taken)| (*stream, taken.synced));
        let ends: BTreeMap<Stream, StreamEnd> = synced.filter(|(_, end)| end.seq > Seq(0)).collect();
        let ends: Vec<_> = ends.into_iter().collect();
        let mut frames: Vec<Vector> =
            ends.chunks(ROWS_MAX).map(|ends| Vector { last: false, ends: ends.to_vec(), gaps: Vec::new() }).collect();
        if frames.is_empty() {
            frames.push(Vector::default());
        }
        frames.last_mut().expect("at least one").last = true;
        frames
    }

    /// What was taken of each stream, synced or not, but for what this opening accepts itself.
    #[must_use]
    pub fn ends(&self) -> StreamEnds {
        self.taken.iter().map(|(stream, taken)| (*stream, taken.end)).collect()
    }

    /// Nothing is taken from any link from here on.
    ///
    /// # Errors
    /// [`Refused::Busy`] where somebody else has seen to that.
    pub fn begin_takeover(&mut self) -> Result<(), Refused> {
        if self.is_busy && !self.is_owed {
            return Err(Refused::Busy);
        }
        (self.is_busy, self.is_owed) = (true, false);
        Ok(())
    }

    /// The takeover is over. Where it `owes` the log what it has taken over, nothing is taken all the same, before
    /// another one has told it.
    pub const fn end_takeover(&mut self, owes: bool) {
        (self.is_busy, self.is_owed) = (owes, owes);
    }

    /// Where a stream stands here, synced or not; `None` where nobody can say: it is accepted here at present, or one of
    /// those that are folded.
    #[must_use]
    pub fn end_of(&self, stream: Stream) -> Option<StreamEnd> {
        if self.own.contains(&stream) {
            return None;
        }
        match self.taken.get(&stream) {
            Some(taken) => Some(taken.end),
            None => self.is_known(stream).ok().map(|()| StreamEnd::default()),
        }
    }

    /// The entries of a frame that are new, in their order: none where all are held.
    ///
    /// # Errors
    /// [`Refused`]: nothing of it may be taken.
    pub fn is_new(&self, frame: &Entries) -> Result<Range<usize>, Refused> {
        let stream = frame.stream;
        let none = frame.entries.len()..frame.entries.len();
        if self.is_busy {
            return Err(Refused::Busy);
        }
        if self.own.contains(&stream) {
            // It left this process, so it is here.
            return Ok(none);
        }
        let Some(taken) = self.taken.get(&stream) else {
            self.is_known(stream)?;
            return match frame.before.seq {
                Seq(0) if !self.has_room_for(stream) => Err(Refused::TooMany),
                Seq(0) => Ok(0..frame.entries.len()),
                before => Err(Refused::Hole { stream, held: Seq(0), before }),
            };
        };
        let held = taken.end;
        if frame.before.seq > held.seq {
            return Err(Refused::Hole { stream, held: held.seq, before: frame.before.seq });
        }
        if frame.behind.seq < held.seq {
            return Ok(none);
        }
        // What is held must be an end that the frame passes.
        let (first, at) = frame.upto(held.seq);
        if at != held {
            return Err(Refused::Diverged { stream, at: held.seq });
        }
        Ok(first..frame.entries.len())
    }

    /// Blocks of a stream are lost at a source, which stood at `before` and goes on behind `behind`. From where on they
    /// are missing here, if they are: then that end is to be adopted. Blocks between that are held stay, though another
    /// source may have more of them.
    ///
    /// # Errors
    /// [`Refused`]: what is behind it cannot be taken either.
    pub fn lacks(&self, stream: Stream, before: StreamEnd, behind: StreamEnd) -> Result<Option<StreamEnd>, Refused> {
        let diverged = |at| Err(Refused::Diverged { stream, at });
        if self.is_busy {
            return Err(Refused::Busy);
        }
        if self.own.contains(&stream) {
            return Ok(None);
        }
        let held = match self.taken.get(&stream) {
            Some(taken) => taken.end,
            None => self.is_known(stream).map(|()| StreamEnd::default())?,
        };
        if before.seq > held.seq {
            return Err(Refused::Hole { stream, held: held.seq, before: before.seq });
        }
        let is_other = |end: StreamEnd| held.seq == end.seq && held.chain != end.chain;
        if is_other(before) || is_other(behind) {
            return diverged(held.seq);
        }
        if held.seq >= behind.seq {
            return Ok(None);
        }
        if self.has_room_for(stream) { Ok(Some(held)) } else { Err(Refused::TooMany) }
    }

    /// What is held of a stream is known: none of it, or so much.
    fn is_known(&self, stream: Stream) -> Result<(), Refused> {
        if is_folded(&self.opened, &stream) { Err(Refused::Folded { stream }) } else { Ok(()) }
    }

    /// There is room for this stream's origin.
    fn has_room_for(&self, new: Stream) -> bool {
        let mut origins = self.origins();
        origins.len() < ORIGINS_MAX || !origins.insert((new.origin, new.shard))
    }

    /// There is room for the origins of all of these.
    ///
    /// # Errors
    /// [`Refused::TooMany`].
    pub fn has_room_for_all<'a>(&self, new: impl Iterator<Item = &'a Stream>) -> Result<(), Refused> {
        let mut origins = self.origins();
        origins.extend(new.map(|stream| (stream.origin, stream.shard)));
        if origins.len() <= ORIGINS_MAX { Ok(()) } else { Err(Refused::TooMany) }
    }

    fn origins(&self) -> BTreeSet<(StoreId, ShardId)> {
        self.taken.keys().map(|stream| (stream.origin, stream.shard)).collect()
    }

    /// The stream has come to `end` here: its next block, or that end where it was adopted, was given the seq `local` in
    /// its shard.
    ///
    /// # Panics
    /// Where it had come further, or the shard has given a later seq before.
    pub fn took(&mut self, stream: Stream, end: StreamEnd, local: Seq) {
        let shard = usize::from(self.shard_of(stream).0);
        let taken = self.taken.entry(stream).or_default();
        assert!(taken.end.seq < end.seq, "blocks of a stream are taken in order");
        taken.end = end;
        let waiting = &mut self.waiting[shard];
        assert!(waiting.back().is_none_or(|(last, ..)| *last < local), "a shard's seqs go up");
        waiting.push_back((local, stream, end));
    }

    /// A shard has synced everything up to this seq. Whether any stream moved.
    pub fn synced(&mut self, shard: ShardId, upto: Seq) -> bool {
        let own = &mut self.own_synced[usize::from(shard.0)];
        *own = upto.max(*own);
        let waiting = &mut self.waiting[usize::from(shard.0)];
        // As a rule many of one stream stand behind each other.
        let mut last: Option<(Stream, StreamEnd)> = None;
        while let Some(&(local, stream, end)) = waiting.front()
            && local <= upto
        {
            waiting.pop_front();
            if let Some((before, synced)) = last.replace((stream, end)).filter(|(before, _)| *before != stream) {
                self.taken.entry(before).or_default().synced = synced;
            }
        }
        if let Some((stream, end)) = last {
            self.taken.entry(stream).or_default().synced = end;
        }
        last.is_some()
    }

    /// Blocks that were taken and are not synced.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// The first seq of this shard that was taken and is not synced.
    #[must_use]
    pub fn first_unsynced(&self, shard: ShardId) -> Option<Seq> {
        self.waiting[usize::from(shard.0)].front().map(|(local, ..)| *local)
    }

    /// Up to where this stream is synced here.
    #[must_use]
    pub fn synced_upto(&self, stream: Stream) -> Seq {
        #[cfg(feature = "sim")]
        if crate::planted::is_planted(crate::planted::Mutant::AcksUnsynced) {
            return self.taken.get(&stream).map_or(Seq(0), |taken| taken.end.seq);
        }
        self.taken.get(&stream).map_or(Seq(0), |taken| taken.synced.seq)
    }
}

/// One source, as far as it was answered.
#[derive(Debug)]
pub struct Source {
    /// The streams that it was told of or that it sent, and up to where each was acknowledged to it.
    acked: BTreeMap<Stream, Seq>,
    /// The same of what this store accepts itself.
    own: BTreeMap<Stream, Seq>,
}

impl Source {
    /// One that is told the receiver's vector now: what that says is held is not sent, and acknowledged all the same.
    #[must_use]
    pub fn new(receiver: &Receiver) -> Self {
        Self { acked: receiver.taken.keys().map(|stream| (*stream, Seq(0))).collect(), own: BTreeMap::new() }
    }

    /// It sent something of this stream, new or not.
    pub fn sent(&mut self, stream: Stream) {
        self.acked.entry(stream).or_insert(Seq(0));
    }

    /// There is something to acknowledge to it.
    #[must_use]
    pub fn is_owed(&self, receiver: &Receiver) -> bool {
        self.acked.iter().any(|(stream, acked)| receiver.synced_upto(*stream) > *acked)
    }

    /// What is to be acknowledged to it now, at most a frame of it.
    pub fn acks(&mut self, receiver: &Receiver) -> Vec<(Stream, Seq)> {
        let mut rows = Vec::new();
        // What this store accepts itself a source may have got from others, and holds for it like anything else.
        for (stream, synced) in receiver.own.iter().zip(&receiver.own_synced) {
            let told = self.own.entry(*stream).or_default();
            if *synced > *told {
                *told = *synced;
                rows.push((*stream, *synced));
            }
        }
        for (stream, acked) in &mut self.acked {
            let synced = receiver.synced_upto(*stream);
            if synced > *acked && rows.len() < ROWS_MAX {
                *acked = synced;
                rows.push((*stream, synced));
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, Nonce};

    #[test]
    fn the_shards_of_one_origin_are_spread_evenly_and_own_ones_stay_where_they_are() {
        let stream = |origin, shard| Stream { origin, shard: ShardId(shard), epoch: Epoch(1), nonce: Nonce(2) };
        let store = StoreId([1; 16]);
        for shards in 1..9 {
            let own: Vec<_> = (0..shards).map(|shard| stream(store, shard)).collect();
            let receiver = Receiver::new(store, StreamEnds::new(), own.clone());
            assert!(own.iter().all(|own| receiver.shard_of(*own) == own.shard));
            for origin in 2..20 {
                let of = |shard| receiver.shard_of(stream(StoreId([origin; 16]), shard)).0;
                let mut there: Vec<u16> = (0..shards).map(of).collect();
                there.sort_unstable();
                assert!(there.into_iter().eq(0..shards));
                assert_eq!(of(shards), of(0), "where there are more of them they go round");
            }
        }
    }
}
