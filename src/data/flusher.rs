//! The flusher: hands synced blocks to the store, unit by unit, on a thread of its own.
//!
//! A unit is what a shard has synced since the last one: cut after `buffer_bytes` of log, after
//! `flush_period_ms`, and at close. It is streamed from the log, so memory does not grow with a slow
//! store; a store that fails is asked again, and the log keeps everything until it has succeeded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::data::store::{Delivered, Store, StoreError, Unit};
use crate::error::Error;
use crate::reader::LogReader;
use crate::shard::handle::ShardHandle;
use crate::shard::waiters::Waited;
use crate::types::{Position, Seq};

/// How long a store that failed is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// When a shard's blocks are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushWhen {
    /// After so many bytes of log.
    pub bytes: u64,
    /// After so long.
    pub period: Duration,
}

/// The flusher's thread.
pub struct Flusher {
    closing: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), StoreError>>,
}

impl Flusher {
    /// Starts the thread for these shards.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start(shards: Arc<[ShardHandle]>, when: FlushWhen, store: Box<dyn Store>) -> Result<Self, Error> {
        let closing = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&closing);
        let thread = std::thread::Builder::new()
            .name("forebay-flusher".to_owned())
            .spawn(move || run(&shards, when, store, &stop))
            .map_err(Error::io("starting the flusher's thread"))?;
        Ok(Self { closing, thread })
    }

    /// Flushes what is left, once, and ends.
    ///
    /// # Errors
    /// [`Error::Store`] where the store did not take it: the log still has it.
    pub fn close(self) -> Result<(), Error> {
        self.closing.store(true, Ordering::Release);
        self.thread.thread().unpark();
        match self.thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Store(error.to_string())),
            Err(_) => Err(Error::Store("the store panicked; the log keeps what it did not take".to_owned())),
        }
    }
}

/// One shard as the flusher sees it.
struct Source<'a> {
    shard: &'a ShardHandle,
    flushed: Position,
    /// When there began to be something to hand over.
    since: Option<Instant>,
    written_bytes: u64,
    failed: Option<Instant>,
}

fn run(
    shards: &[ShardHandle],
    when: FlushWhen,
    mut store: Box<dyn Store>,
    closing: &AtomicBool,
) -> Result<(), StoreError> {
    let mut sources = Vec::new();
    for shard in shards {
        let flushed = store.progress(shard.shard)?.unwrap_or_default();
        sources.push(Source { shard, flushed, since: None, written_bytes: 0, failed: None });
    }
    loop {
        // Read before the sources are: what was accepted before the close is then seen.
        let last_turn = closing.load(Ordering::Acquire);
        let mut outcome = Ok(());
        for source in &mut sources {
            if source.is_due(when, last_turn) {
                let flushed = source.flush(store.as_mut());
                if let Err(error) = flushed {
                    tracing::warn!(
                        "shard {}: the store did not take its blocks: {error}; trying again",
                        source.shard.shard
                    );
                    source.failed = Some(Instant::now());
                    outcome = Err(error);
                }
            }
        }
        if last_turn {
            return outcome;
        }
        match sources.iter_mut().filter_map(|source| source.rest(when)).min() {
            Some(rest) => std::thread::park_timeout(rest),
            None => std::thread::park(),
        }
    }
}

impl Source<'_> {
    fn is_due(&mut self, when: FlushWhen, last_turn: bool) -> bool {
        let shared = &self.shard.shared;
        if self.shard.ring.last_given() <= self.flushed.seq {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.failed.is_some_and(|failed| failed.elapsed() < AGAIN) && !last_turn {
            return false;
        }
        let bytes = shared.stats().bytes - self.written_bytes;
        last_turn || bytes >= when.bytes || since.elapsed() >= when.period
    }

    /// How long this shard may be left alone; `None`: until its shard wakes this thread.
    fn rest(&mut self, when: FlushWhen) -> Option<Duration> {
        let shared = &self.shard.shared;
        if let Some(failed) = self.failed {
            return Some(AGAIN.saturating_sub(failed.elapsed()));
        }
        // In this order: what was accepted after the second look is logged after the first.
        let bytes = shared.stats().bytes;
        let is_idle = self.shard.ring.last_given() <= self.flushed.seq;
        let wake_at = if is_idle { bytes + 1 } else { self.written_bytes + when.bytes };
        if !shared.wake_flusher_at(wake_at) {
            return Some(Duration::ZERO);
        }
        if is_idle {
            self.since = None;
            return None;
        }
        let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        Some(when.period.saturating_sub(waited))
    }

    /// Hands over everything up to now; synced first, at every level.
    fn flush(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        let shared = &self.shard.shared;
        let bytes = shared.stats().bytes;
        let upto = self.shard.ring.last_given();
        shared.want_synced(upto);
        if shared.synced.wait(upto, None) != Waited::Reached {
            return Err(self.shard.unknown().to_string().into());
        }
        let folder = Arc::clone(&self.shard.folder);
        let mut reader = LogReader::new(self.shard.shard, folder, Arc::clone(shared), true, self.flushed)?;
        let own = self.shard.own;
        let mut blocks = std::iter::from_fn(|| next_upto(&mut reader, upto));
        let position = Position { epoch: own.epoch, nonce: own.nonce, seq: upto };
        let mut unit = Unit { shard: self.shard.shard, upto: position, blocks: &mut blocks };
        store.flush(&mut unit)?;
        if let Some(rest) = unit.blocks.next() {
            rest?;
            return Err("the store said that it took the unit, but left blocks of it".into());
        }
        self.flushed = position;
        self.since = None;
        self.written_bytes = bytes;
        self.failed = None;
        shared.store_flushed(upto);
        Ok(())
    }
}

fn next_upto(reader: &mut LogReader, upto: Seq) -> Option<Result<Delivered, StoreError>> {
    if reader.position().seq >= upto {
        return None;
    }
    match reader.next_ready() {
        Ok(Some(delivered)) if delivered.position.seq > upto => None,
        Ok(next) => next.map(Ok),
        Err(error) => Some(Err(error.into())),
    }
}
