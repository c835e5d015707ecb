//! [`Ticket`]: an acknowledgement that is still to come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::engine::inner::Inner;
use crate::error::Error;
use crate::shard::handle::ShardHandle;
use crate::shard::shipping::Waiting;
use crate::shard::waiters::{Mark, Parked, Waited};
use crate::types::{Durability, Receipt};

/// A block that was accepted; wait for its acknowledgement with [`wait`](Self::wait) or `.await`.
#[must_use = "without waiting nobody learns whether the block became safe"]
pub struct Ticket {
    inner: Arc<Inner>,
    shard: usize,
    receipt: Receipt,
    waits: Waits,
}

/// What it waits for.
enum Waits {
    Mark(Durability, Parked),
    Followers(u8, Instant, Waiting),
}

impl Ticket {
    pub(crate) fn new(inner: Arc<Inner>, shard: usize, receipt: Receipt, durability: Durability) -> Self {
        let waits = match durability {
            Durability::Shipped(followers) => {
                let deadline = Instant::now() + inner.shards[shard].shipped_deadline;
                Waits::Followers(followers, deadline, Waiting::default())
            }
            durability => Waits::Mark(durability, Parked::default()),
        };
        Self { inner, shard, receipt, waits }
    }

    /// Where the block stands; known before it is safe.
    #[must_use]
    pub const fn receipt(&self) -> Receipt {
        self.receipt
    }

    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where the shard failed first, or too few followers had the block in time.
    pub fn wait(self) -> Result<Receipt, Error> {
        self.inner.not_forked()?;
        let (shard, seq) = (&self.inner.shards[self.shard], self.receipt.seq);
        match self.waits {
            Waits::Mark(durability, _) => shard.wait(seq, durability)?,
            Waits::Followers(followers, deadline, _) => {
                shard.shipped(seq, followers, shard.shared.shipping.wait(followers, seq, deadline))?;
            }
        }
        Ok(self.receipt)
    }

    fn mark(shard: &ShardHandle, durability: Durability) -> Option<&Mark> {
        match durability {
            Durability::Accepted | Durability::Shipped(_) => None,
            Durability::Written => Some(&shard.shared.written),
            Durability::Synced => Some(&shard.shared.synced),
            Durability::Flushed => Some(&shard.shared.flushed),
        }
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.inner.not_forked()?;
        let (shard, receipt) = (&this.inner.shards[this.shard], this.receipt);
        match &mut this.waits {
            Waits::Mark(durability, parked) => {
                let Some(mark) = Self::mark(shard, *durability) else { return Poll::Ready(Ok(receipt)) };
                mark.poll(receipt.seq, parked, context).map(|waited| match waited {
                    Waited::Reached => Ok(receipt),
                    Waited::TimedOut | Waited::Failed => Err(shard.unknown()),
                })
            }
            Waits::Followers(followers, deadline, waiting) => {
                let (of, shared) = ((*followers, receipt.seq), &shard.shared);
                let waited = shared.shipping.poll(of, *deadline, waiting, context, || shared.wake());
                waited.map(|waited| shard.shipped(receipt.seq, *followers, waited).map(|()| receipt))
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.inner.is_forked() {
            return;
        }
        let shard = &self.inner.shards[self.shard];
        match &mut self.waits {
            Waits::Mark(durability, parked) => {
                if let Some(mark) = Self::mark(shard, *durability) {
                    mark.unpark(parked);
                }
            }
            Waits::Followers(followers, _, waiting) => shard.shared.shipping.forget(*followers, waiting),
        }
    }
}
