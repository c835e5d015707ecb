//! [`ShardHandle`]: one running shard as writers, readers and the flusher see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Unknown};
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
    /// How long an acknowledgement waits for followers.
    pub shipped_deadline: Duration,
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
    /// [`Error::OutcomeUnknown`] where the shard failed first, or too few followers had it in time; [`Error::Closed`]
    /// where the shard ended.
    pub fn wait(&self, seq: Seq, durability: Durability) -> Result<(), Error> {
        let mark = match durability {
            Durability::Shipped(followers) => {
                let waited = self.shared.shipping.wait(followers, seq, Instant::now() + self.shipped_deadline);
                return self.shipped(seq, followers, waited);
            }
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

    /// How a wait for followers ended.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn shipped(&self, seq: Seq, followers: u8, waited: Waited) -> Result<(), Error> {
        match waited {
            Waited::Reached => Ok(()),
            Waited::Failed => Err(self.unknown()),
            Waited::TimedOut => Err(Error::OutcomeUnknown(Unknown::NotShipped {
                shard: self.shard,
                wanted: followers,
                has: self.shared.shipping.count(seq),
                deadline_ms: self.shipped_deadline.as_millis() as u64,
            })),
        }
    }

    /// The error of a block whose shard ended before it was safe.
    #[must_use]
    pub fn unknown(&self) -> Error {
        self.shared.fault().map_or(Error::Closed, |fault| Error::OutcomeUnknown(Unknown::Fault(fault)))
    }
}
