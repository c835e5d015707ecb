//! Why a link between two sites ends.

use crate::error::Error;
use crate::repl::receiver::Refused;
use crate::repl::sender::Stop;
use crate::repl::wire::WireError;
use crate::types::{Seq, Stream};

/// Why a link ends: what was said on it, or what happened to the store here.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// What was sent is no frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Blocks that cannot be taken.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nothing more can be sent to this follower.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// A block that this store has no room for by its options.
    #[error(
        "stream {}/{}/{}: a block of {bytes} bytes is larger than block_bytes_max = {max} here; raise it, as where the \
         block comes from", .stream.origin, .stream.shard, .stream.epoch
    )]
    TooLarge {
        /// Its stream.
        stream: Stream,
        /// The payload's length.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// Blocks that this store has in data files, and its log has lost to damage.
    #[error(
        "blocks {first}..{last} of stream {}/{}/{} are in data files here and no longer in the log, from which a follower \
         is served: start it anew from a site whose log has them", .stream.origin, .stream.shard, .stream.epoch
    )]
    NotInLog {
        /// Their stream.
        stream: Stream,
        /// The first of them.
        first: Seq,
        /// The last.
        last: Seq,
    },
    /// The store here.
    #[error(transparent)]
    Store(#[from] Error),
}
