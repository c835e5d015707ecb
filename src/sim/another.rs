//! Another store, whose blocks come to the simulated one with identities of their own.
//!
//! It goes on with a stream behind what is held of that, as a link does that was cut, or was opened anew meanwhile.
//! One writer brings all of its blocks, in their order; its seqs are not dense. Now and then it has lost blocks to damage:
//! then that writer brings the end that is to be adopted.

use crate::io::chance::Chance;
use crate::types::{Chain, Epoch, Nonce, Seq, StoreId, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::entry::{Absent, Adopted, Identity};

const ORIGIN: StoreId = StoreId(*b"another store...");
const NONCE: Nonce = Nonce(7);
/// Who brings its blocks.
const WRITER: usize = 0;

/// Percent of what it sends that stands for lost blocks.
const LOST_PERCENT: u64 = 15;

/// What comes from the other store.
#[derive(Clone, Copy, Debug)]
pub enum Sent {
    /// A block.
    Block(Identity),
    /// An end, without the blocks up to it.
    Lost(Adopted),
}

impl Sent {
    /// Why blocks are not there that it stands for.
    #[must_use]
    pub const fn absent(self) -> Option<Absent> {
        match self {
            Self::Block(_) => None,
            Self::Lost(adopted) => Some(adopted.absent),
        }
    }
}

/// The other store, as far as it sends to one shard in one life.
#[derive(Debug)]
pub struct Another {
    stream: Stream,
    /// Up to where it was sent.
    end: StreamEnd,
    percent: u64,
    chance: Chance,
    is_held_up: bool,
}

impl Another {
    /// One that brings so many percent of its writer's blocks to a log that holds this of all streams.
    #[must_use]
    pub fn new(ends: &StreamEnds, own: Stream, percent: u64, mut chance: Chance) -> Self {
        let known = ends.iter().filter(|(stream, _)| (stream.origin, stream.nonce) == (ORIGIN, NONCE));
        let newest = known.max_by_key(|(stream, _)| stream.epoch);
        let (stream, end) = match newest {
            Some((stream, end)) if chance.percent(60) => (*stream, *end),
            _ => {
                // Even where damage took all that named a stream, an epoch is never that of another one.
                let epoch = Epoch(newest.map_or(0, |(stream, _)| stream.epoch.0).max(own.epoch.0) + 1);
                (Stream { origin: ORIGIN, nonce: NONCE, epoch, shard: own.shard }, StreamEnd::default())
            }
        };
        Self { stream, end, percent, chance, is_held_up: false }
    }

    /// What a writer brings next, if that comes from there.
    pub fn next(&mut self, writer: usize) -> Option<Sent> {
        let comes = self.percent > 0 && writer == WRITER && !self.is_held_up && self.chance.percent(self.percent);
        comes.then(|| {
            let last = Identity { stream: self.stream, seq: Seq(self.end.seq.0 + self.chance.within(1, 3)) };
            if !self.chance.percent(LOST_PERCENT) {
                return Sent::Block(last);
            }
            let absent = self.chance.pick(&[Absent::Lost, Absent::Lost, Absent::InDataFiles]);
            // The chain over blocks that nobody has.
            Sent::Lost(Adopted { last, chain: Chain(self.chance.next_u64()), absent })
        })
    }

    /// That was given a seq, a block with this payload: its stream, and where it stands behind it.
    pub fn sent(&mut self, sent: Sent, payload: &[u8]) -> (Stream, StreamEnd) {
        self.end = match sent {
            Sent::Block(of) => self.end.then(of.seq, payload.len() as u32, crc32fast::hash(payload)),
            Sent::Lost(adopted) => StreamEnd { seq: adopted.last.seq, chain: adopted.chain },
        };
        (self.stream, self.end)
    }

    /// The writer is held up in a publication: it is in no other.
    pub const fn hold_up(&mut self) {
        self.is_held_up = true;
    }
}
