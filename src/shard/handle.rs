//! [`ShardHandle`]: one running shard as writers, readers and the flusher see it.

use std::sync::Arc;

use crate::error::Error;
use crate::io::folder::DirFolder;
use crate::shard::marks::Marks;
use crate::shard::ring::Ring;
use crate::shard::shared::Shared;
use crate::shard::waiters::Waited;
use crate::types::{Durability, Seq, ShardId, Stream};
use crate::wal::batch::StreamEnds;
use crate::wal::entry::Control;

/// One running shard, from outside its thread.
pub struct ShardHandle {
    /// The shard.
    pub shard: ShardId,
    /// The stream that it accepts blocks for: this opening's.
    pub own: Stream,
    /// The writers' side of its intake.
    pub ring: Arc<Ring>,
    /// What it shares.
    pub shared: Arc<Shared>,
    /// Where its segments are.
    pub folder: Arc<DirFolder>,
    /// Where every stream of the log stood when the store was opened.
    pub before: StreamEnds,
    /// The gaps that the log named when the store was opened, this opening's own included.
    pub gaps: Vec<Control>,
}

impl ShardHandle {
    /// Where it stands.
    #[must_use]
    pub fn marks(&self) -> Marks {
        let marks = self.shared.marks();
        Marks { accepted: marks.accepted.max(self.ring.last_given()), ..marks }
    }

    /// Waits until `seq` of this opening is as safe as asked; waiting for `Synced` starts a sync.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where the shard failed first, [`Error::Closed`] where it ended.
    pub fn wait(&self, seq: Seq, durability: Durability) -> Result<(), Error> {
        let mark = match durability {
            Durability::Accepted => return Ok(()),
            Durability::Written => &self.shared.written,
            Durability::Synced => &self.shared.synced,
            Durability::Flushed => &self.shared.flushed,
        };
        if mark.at() < seq && durability >= Durability::Synced {
            self.shared.want_synced(seq);
        }
        match mark.wait(seq, None) {
            Waited::Reached => Ok(()),
            Waited::TimedOut | Waited::Failed => Err(self.unknown()),
        }
    }

    /// The error of a block whose shard ended before it was safe.
    #[must_use]
    pub fn unknown(&self) -> Error {
        self.shared.fault().map_or(Error::Closed, Error::OutcomeUnknown)
    }
}
