//! [`Writer`]: appends blocks.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::config::SyncPolicy;
use crate::engine::inner::Inner;
use crate::engine::ticket::Ticket;
use crate::error::{Error, Rejected, Why};
use crate::limits::{NAMES_BYTES_MAX, SHIPPED_FOLLOWERS_MAX};
use crate::shard::handle::ShardHandle;
use crate::shard::ring::{Closed, Refused};
use crate::types::{Block, BlockKind, Durability, Receipt, Seq, mix64};
use crate::wal::entry::{EncodedEntry, Entry, EntryKind};

/// Appends blocks of one namespace to one shard, in order. Cheap to clone; may be used from any thread.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
    namespace: Arc<str>,
    shard: usize,
}

impl Writer {
    pub(crate) fn new(inner: Arc<Inner>, namespace: Arc<str>, shard: usize) -> Self {
        Self { inner, namespace, shard }
    }

    /// The same namespace on the shard that this key belongs to: equal keys keep one order.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Self {
        let words = key.chunks(8).map(|piece| {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            u64::from_le_bytes(word)
        });
        let hash = words.fold(key.len() as u64, mix64);
        Self { shard: (hash % self.inner.shards.len() as u64) as usize, ..self.clone() }
    }

    /// Appends a block and waits for its acknowledgement: at (2, 0) until it is synced, else until
    /// it is accepted; with `shipped_followers` until so many followers have it synced. Waits for room at most
    /// `append_deadline_ms`; where the store is slower than its writers and has let a quarter of the log's bound fill
    /// up, also up to a second for its turn.
    ///
    /// # Errors
    /// [`Error::Rejected`] gives the block back: nothing of it was logged.
    /// [`Error::OutcomeUnknown`]: it was accepted, and its shard failed before it was safe, or too few followers had it
    /// within `shipped_deadline_ms`.
    pub fn append(&self, block: Block) -> Result<Receipt, Error> {
        self.append_with(block, self.acknowledged())
    }

    /// The same, waiting for at least this durability.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_with(&self, block: Block, durability: Durability) -> Result<Receipt, Error> {
        let shard = self.shard();
        if let Err(why) = self.check(&block).and_then(|()| self.can_be(durability)) {
            return Err(rejected(block, why));
        }
        shard.shared.pace.wait(block.payload.len(), Duration::from_millis(self.inner.config.append_deadline_ms));
        let mut entry = self.entry(&block);
        let published = match shard.ring.try_publish(&mut entry, &block.payload) {
            Err(Refused::Full | Refused::Closed(Closed::StoreFull)) => {
                shard.ring.publish_by(&mut entry, &block.payload, self.deadline())
            }
            other => other,
        };
        match published {
            Ok(seq) => {
                // One of the two need not come with the other.
                shard.wait(seq, self.acknowledged())?;
                shard.wait(seq, durability)?;
                Ok(self.receipt(seq))
            }
            Err(refused) => Err(rejected(block, self.why(refused))),
        }
    }

    /// Appends a block without waiting for room; the ticket waits for the acknowledgement.
    ///
    /// # Errors
    /// The block comes back with the reason; nothing of it was logged.
    pub fn submit(&self, block: Block) -> Result<Ticket, Rejected> {
        if let Err(why) = self.check(&block).and_then(|()| self.can_be(self.acknowledged())) {
            return Err(Rejected { block, why });
        }
        let mut entry = self.entry(&block);
        match self.shard().ring.try_publish(&mut entry, &block.payload) {
            Ok(seq) => Ok(Ticket::new(Arc::clone(&self.inner), self.shard, self.receipt(seq), self.acknowledged())),
            Err(refused) => Err(Rejected { block, why: self.why(refused) }),
        }
    }

    /// [`append`](Self::append) as a future; needs no particular runtime.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_async(&self, block: Block) -> Result<Receipt, Error> {
        if let Err(why) = self.check(&block).and_then(|()| self.can_be(self.acknowledged())) {
            return Err(rejected(block, why));
        }
        let mut entry = self.entry(&block);
        let ring = &self.shard().ring;
        let published = match ring.try_publish(&mut entry, &block.payload) {
            Err(Refused::Full | Refused::Closed(Closed::StoreFull)) => {
                let mut place = ring.queue_ticket(self.deadline());
                poll_fn(|context| match place.poll(context, &mut entry, &block.payload) {
                    Poll::Ready(outcome) => Poll::Ready(outcome),
                    Poll::Pending => Poll::Pending,
                })
                .await
            }
            other => other,
        };
        match published {
            Ok(seq) => Ticket::new(Arc::clone(&self.inner), self.shard, self.receipt(seq), self.acknowledged()).await,
            Err(refused) => Err(rejected(block, self.why(refused))),
        }
    }

    fn shard(&self) -> &ShardHandle {
        &self.inner.shards[self.shard]
    }

    /// What an acknowledgement means under the store's policy.
    fn acknowledged(&self) -> Durability {
        match self.inner.policy {
            _ if self.inner.config.shipped_followers > 0 => Durability::Shipped(self.inner.config.shipped_followers),
            SyncPolicy::Each => Durability::Synced,
            _ if self.shard().ring.is_shared_file() => Durability::Accepted,
            _ => Durability::Written,
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.inner.config.append_deadline_ms)
    }

    fn receipt(&self, seq: Seq) -> Receipt {
        Receipt { stream: self.shard().own, seq }
    }

    /// There are as many followers as are asked for.
    #[inline]
    fn can_be(&self, durability: Durability) -> Result<(), Why> {
        let Durability::Shipped(wanted) = durability.max(self.acknowledged()) else { return Ok(()) };
        let known = self.shard().shared.shipping.known().min(usize::from(SHIPPED_FOLLOWERS_MAX));
        if usize::from(wanted) > known { Err(Why::TooFewFollowers { wanted, known }) } else { Ok(()) }
    }

    #[inline]
    fn check(&self, block: &Block) -> Result<(), Why> {
        // Before the locks of whoever judges the block or paces the writer.
        if self.shard().ring.is_forked() {
            return Err(Why::Forked);
        }
        let names = self.namespace.len() + block.table.len();
        if names > NAMES_BYTES_MAX {
            return Err(Why::NamesTooLong { bytes: names });
        }
        let bytes = block.payload.len() as u64;
        let max = self.inner.config.block_bytes_max;
        if bytes > max {
            return Err(Why::TooLarge { bytes, max });
        }
        match &self.inner.admission {
            Some(admission) if block.kind == BlockKind::Lines => Ok(admission.admit(&self.namespace, block)?),
            _ => Ok(()),
        }
    }

    #[inline]
    fn entry(&self, block: &Block) -> EncodedEntry {
        // Before 1970 or after 2262 the clock is wrong anyway; the order of blocks does not depend on it.
        let now = clock_gettime(ClockId::Realtime);
        Entry {
            kind: EntryKind::Own,
            block_kind: block.kind,
            namespace: &self.namespace,
            table: &block.table,
            length: block.payload.len() as u32,
            received_at_ns: now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec),
            rows: block.rows,
            payload_crc: 0,
            identity: None,
        }
        .encode()
    }

    fn why(&self, refused: Refused) -> Why {
        let shard = self.shard().shard;
        match refused {
            Refused::Full => Why::Full(shard),
            Refused::Deadline => Why::Deadline { shard, deadline_ms: self.inner.config.append_deadline_ms },
            Refused::Closed(Closed::Fault(fault)) => Why::Fault(fault),
            Refused::Closed(Closed::StoreFull) => Why::StoreFull(shard),
            Refused::Closed(Closed::NotActive(why)) => Why::NotActive(why),
            Refused::Closed(Closed::Closing) => Why::Closed,
            Refused::TooLarge => Why::TooLarge { bytes: 0, max: self.inner.config.block_bytes_max },
            Refused::Forked => Why::Forked,
        }
    }
}

fn rejected(block: Block, why: Why) -> Error {
    Error::Rejected(Box::new(Rejected { block, why }))
}
