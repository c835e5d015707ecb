//! What a run writes to: the engine, or the plain file that it is compared with.

use std::fmt::Debug;
use std::future::Future;

use anyhow::Result;
use forebay::types::Seq;
use forebay::{Block, Receipt};
use hdrhistogram::Histogram;
use serde_json::Value;

/// Something that acknowledges blocks.
pub trait Target: Sync {
    /// One writer's end of it.
    type Writer: TargetWriter;

    /// An end for one more writer.
    ///
    /// # Errors
    /// As the target says.
    fn writer(&self) -> Result<Self::Writer>;

    /// Returns when everything that was acknowledged so far is synced.
    ///
    /// # Errors
    /// As the device says.
    fn sync(&self) -> Result<()>;

    /// Counts since it was opened.
    fn counts(&self) -> Counts;
}

/// One writer's end of a [`Target`].
pub trait TargetWriter: Send {
    /// A block under way; ready when it is acknowledged.
    type Ticket: Future<Output = Result<Option<Receipt>>> + Unpin;

    /// Waits for the acknowledgement; says where the block stands, if the target gives receipts.
    ///
    /// # Errors
    /// As the target says; the block may or may not be there.
    fn append(&mut self, block: Block) -> Result<Option<Receipt>>;

    /// Does not wait; gives the block back where there is no room now.
    ///
    /// # Errors
    /// As the target says.
    fn submit(&mut self, block: Block) -> Result<std::result::Result<Self::Ticket, Block>>;
}

/// What a target counts, since it was opened.
#[derive(Clone, Debug)]
pub struct Counts {
    /// How it writes: what runs, not what was asked for.
    pub io: String,
    /// Shards.
    pub shards: usize,
    /// The CPUs they are pinned to; empty: not pinned.
    pub cpus: Vec<usize>,
    /// Batches written.
    pub batches: u64,
    /// Blocks in them.
    pub blocks_written: u64,
    /// Durations of successful fdatasyncs, in microseconds.
    pub sync_us: Histogram<u64>,
    /// The most that was ever acknowledged and not synced, in bytes.
    pub unsynced_max_bytes: u64,
    /// The longest that anything was, in milliseconds.
    pub unsynced_max_ms: f64,
    /// The log's size, and its bound; in bytes.
    pub wal_bytes: (u64, u64),
    /// How often a shard took nothing more because its log was full.
    pub stalls: u64,
    /// How long appends waited because the store was slower, all writers together, in milliseconds.
    pub paced_ms: f64,
    /// The last block accepted by each shard.
    pub accepted: Vec<Seq>,
    /// The last block of each shard that is in data files, and all before it.
    pub flushed: Vec<Seq>,
    /// The marks of each shard.
    pub marks: Value,
}
