//! [`Inner`]: what engine, writers, tickets and subscriptions share of an open store.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, SyncPolicy};
use crate::data::store::Admission;
use crate::error::Error;
use crate::repl::receiver::Receiver;
use crate::shard::handle::ShardHandle;
use crate::stats::StoreCounters;
use crate::types::{Durability, Receipt, Seq};

/// An open store.
pub struct Inner {
    pub(crate) config: Config,
    pub(crate) policy: SyncPolicy,
    pub(crate) shards: Arc<[ShardHandle]>,
    pub(crate) next_shard: AtomicUsize,
    pub(crate) next_reader: AtomicUsize,
    /// Reader 0 holds the log from open until the first subscription takes over.
    pub(crate) held_at_open: Mutex<bool>,
    pub(crate) io: &'static str,
    pub(crate) cpus: Vec<usize>,
    pub(crate) wal_bytes_max: u64,
    pub(crate) counters: Arc<StoreCounters>,
    /// Who judges blocks of lines before they are accepted.
    pub(crate) admission: Option<Arc<dyn Admission>>,
    /// What the store takes in from others, whatever the number of its sources.
    pub(crate) receiver: Mutex<Receiver>,
}

impl Inner {
    /// This process is a forked child of the one that opened the store: the threads are not there, and a lock
    /// may be held for ever.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.shards.iter().any(|shard| shard.ring.is_forked())
    }

    /// Comes before anything that takes a lock or waits.
    pub(crate) fn not_forked(&self) -> Result<(), Error> {
        if self.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }

    /// Waits until everything that was accepted so far is synced.
    ///
    /// # Errors
    /// As [`Engine::sync`](crate::Engine::sync).
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.not_forked()?;
        let upto: Vec<Seq> = self.shards.iter().map(|shard| shard.ring.last_given()).collect();
        for (shard, seq) in self.shards.iter().zip(&upto) {
            shard.shared.want_synced(*seq);
        }
        self.shards.iter().zip(&upto).try_for_each(|(shard, seq)| shard.wait(*seq, Durability::Synced))
    }

    pub(crate) fn shard_of(&self, receipt: &Receipt) -> Result<&ShardHandle, Error> {
        self.shards
            .get(usize::from(receipt.stream.shard.0))
            .filter(|shard| shard.own.origin == receipt.stream.origin)
            .ok_or(Error::UnknownReceipt)
    }

    /// The first subscription takes over what was held from open.
    pub(crate) fn end_hold_at_open(&self) {
        let mut held = self.held_at_open.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *held) {
            for shard in self.shards.iter() {
                shard.shared.hold(0, None);
            }
        }
    }
}
