//! [`Subscription`]: the log read back, block by block, from a cursor on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::SyncPolicy;
use crate::data::store::Delivered;
use crate::engine::inner::Inner;
use crate::error::Error;
use crate::reader::LogReader;
use crate::types::{Cursor, Position, Seq};

/// How long one shard is waited for before the others are looked at again.
const TURN: Duration = Duration::from_millis(2);

/// An iterator over all shards' blocks, each shard's in its order. It waits for more, unless
/// [`until_end`](Self::until_end) was asked for.
pub struct Subscription {
    inner: Arc<Inner>,
    id: u64,
    readers: Vec<LogReader>,
    turn: usize,
    until_end: Option<Vec<Seq>>,
}

impl Subscription {
    pub(crate) fn new(inner: Arc<Inner>, cursor: Cursor) -> Result<Self, Error> {
        let id = inner.next_reader.fetch_add(1, Ordering::Relaxed) as u64;
        let synced_only = inner.policy == SyncPolicy::Each;
        for (index, shard) in inner.shards.iter().enumerate() {
            // Held first, looked up then: what is found cannot go away in between.
            shard.shared.hold(id, Some(cursor.positions.get(index).copied().unwrap_or_default().seq));
        }
        inner.end_hold_at_open();
        let mut this = Self { id, readers: Vec::new(), turn: 0, until_end: None, inner };
        for (index, shard) in this.inner.shards.iter().enumerate() {
            let position = cursor.positions.get(index).copied().unwrap_or_default();
            let (folder, shared) = (Arc::clone(&shard.folder), Arc::clone(&shard.shared));
            this.readers.push(LogReader::new(shard.shard, folder, shared, synced_only, position)?);
        }
        Ok(this)
    }

    /// Ends behind what was accepted up to now, instead of waiting for more.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.until_end = Some(self.inner.shards.iter().map(|shard| shard.ring.last_given()).collect());
        self
    }

    /// The place behind the last block that was delivered: a later subscription goes on there.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { positions: self.readers.iter().map(LogReader::position).collect::<Vec<Position>>() }
    }

    fn next_delivered(&mut self) -> Result<Option<Delivered>, Error> {
        self.inner.not_forked()?;
        loop {
            let mut all_ended = true;
            for _ in 0..self.readers.len() {
                let index = self.turn;
                let reader = &mut self.readers[index];
                if let Some(delivered) = reader.next_ready()? {
                    let seq = delivered.position.seq.prev();
                    if reader.is_drained() {
                        self.inner.shards[index].shared.hold(self.id, Some(seq));
                    }
                    return Ok(Some(delivered));
                }
                let at_end = self.until_end.as_ref().is_some_and(|end| reader.next_seq() > end[index]);
                all_ended &= at_end || reader.is_over();
                self.turn = (self.turn + 1) % self.readers.len();
            }
            if all_ended {
                return Ok(None);
            }
            self.readers[self.turn].wait(TURN);
        }
    }
}

impl Iterator for Subscription {
    type Item = Result<Delivered, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_delivered().transpose()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.inner.is_forked() {
            return;
        }
        for shard in self.inner.shards.iter() {
            shard.shared.hold(self.id, None);
        }
    }
}
