//! The watermarks of a shard: `accepted >= written >= synced >= flushed >= trimmed`.

use crate::types::{Seq, ShardId};

/// Where a shard stands. Each mark is the last seq of a contiguous prefix, and only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The shard.
    pub shard: ShardId,
    /// Published in the intake ring: survives the process.
    pub accepted: Seq,
    /// In a log write that completed.
    pub written: Seq,
    /// Covered by a completed fdatasync: survives a power cut.
    pub synced: Seq,
    /// In the store's synced data: survives the log's deletion.
    pub flushed: Seq,
    /// No longer in the log.
    pub trimmed: Seq,
}
