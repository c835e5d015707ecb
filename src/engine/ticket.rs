//! [`Ticket`]: an acknowledgement that is still to come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::engine::inner::Inner;
use crate::error::Error;
use crate::shard::waiters::{Mark, Parked, Waited};
use crate::types::{Durability, Receipt};

/// A block that was accepted; wait for its acknowledgement with [`wait`](Self::wait) or `.await`.
#[must_use = "without waiting nobody learns whether the block became safe"]
pub struct Ticket {
    inner: Arc<Inner>,
    shard: usize,
    receipt: Receipt,
    durability: Durability,
    parked: Parked,
}

impl Ticket {
    pub(crate) fn new(inner: Arc<Inner>, shard: usize, receipt: Receipt, durability: Durability) -> Self {
        Self { inner, shard, receipt, durability, parked: Parked::default() }
    }

    /// Where the block stands; known before it is safe.
    #[must_use]
    pub const fn receipt(&self) -> Receipt {
        self.receipt
    }

    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where the shard failed first.
    pub fn wait(self) -> Result<Receipt, Error> {
        self.inner.not_forked()?;
        self.inner.shards[self.shard].wait(self.receipt.seq, self.durability)?;
        Ok(self.receipt)
    }

    fn mark(inner: &Inner, shard: usize, durability: Durability) -> Option<&Mark> {
        let shared = &inner.shards[shard].shared;
        match durability {
            Durability::Accepted => None,
            Durability::Written => Some(&shared.written),
            Durability::Synced => Some(&shared.synced),
            Durability::Flushed => Some(&shared.flushed),
        }
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.inner.not_forked()?;
        let Some(mark) = Self::mark(&this.inner, this.shard, this.durability) else {
            return Poll::Ready(Ok(this.receipt));
        };
        match mark.poll(this.receipt.seq, &mut this.parked, context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Waited::Reached) => Poll::Ready(Ok(this.receipt)),
            Poll::Ready(Waited::TimedOut | Waited::Failed) => Poll::Ready(Err(this.inner.shards[this.shard].unknown())),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(mark) = Self::mark(&self.inner, self.shard, self.durability)
            && !self.inner.is_forked()
        {
            mark.unpark(&mut self.parked);
        }
    }
}
