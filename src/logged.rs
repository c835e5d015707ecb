//! What a log has of its streams, as whoever reads it is told.

use std::collections::{BTreeMap, VecDeque};

use crate::data::store::Delivered;
use crate::types::{Seq, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::entry::Absent;
use crate::wal::vector::{self, FOLDED};

/// What a log has of a stream, one after the other.
pub enum Logged {
    /// A block.
    Block(LoggedBlock),
    /// Blocks that are not in it.
    Missing(Missing),
    /// Blocks that the follower accepts itself, which are passed over.
    Passed {
        /// The seq of the log up to which it has nothing else.
        local: Seq,
        /// Their stream.
        stream: Stream,
        /// The last of them.
        seq: Seq,
    },
}

/// A block of the log, with what its stream's chain is made of.
pub struct LoggedBlock {
    /// The block; its chain is the one behind it.
    pub delivered: Delivered,
    /// Where its stream stood before it.
    pub before: StreamEnd,
    /// CRC-32 of its payload.
    pub payload_crc: u32,
}

/// Blocks of a stream that are not in the log, though its end says that they were.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    /// The seq of the log that stands for them, or the last one before them.
    pub local: Seq,
    /// The stream.
    pub stream: Stream,
    /// Where it stood before them.
    pub before: StreamEnd,
    /// Where it stands behind them.
    pub behind: StreamEnd,
    /// What the log says of them, where it took that over; else damage took them here.
    pub absent: Option<Absent>,
}

/// What a vector at the beginning of a segment, if this is one, says of streams that is more than what was read before
/// it: damage took their last blocks whole.
pub(crate) fn missing_before(known: &mut StreamEnds, control: &[u8], local: Seq) -> impl Iterator<Item = Missing> {
    let said: BTreeMap<_, _> = vector::decode(control).map(|(ends, _)| ends).unwrap_or_default().into_iter().collect();
    said.into_iter().filter_map(move |(stream, behind)| {
        let before = known.get(&stream).copied().unwrap_or_default();
        (stream.nonce != FOLDED && before.seq < behind.seq).then(|| {
            known.insert(stream, behind);
            Missing { local, stream, before, behind, absent: None }
        })
    })
}

/// Blocks that were one behind the other are missing together.
pub(crate) fn put_missing(ready: &mut VecDeque<Logged>, missing: Missing) {
    match ready.back_mut() {
        Some(Logged::Missing(last))
            if (last.stream, last.behind, last.absent) == (missing.stream, missing.before, missing.absent) =>
        {
            (last.local, last.behind) = (missing.local, missing.behind);
        }
        _ => ready.push_back(Logged::Missing(missing)),
    }
}
