//! Counters of a running engine.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// The longest write or sync that is told apart, in nanoseconds: ten minutes.
const CALL_NS_MAX: u64 = 600_000_000_000;

/// What a shard's thread has counted since open.
#[derive(Clone, Debug)]
pub struct ShardStats {
    /// Batches written.
    pub batches: u64,
    /// Blocks and voids in them.
    pub blocks: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// How long each write of a batch took that a sync follows, in nanoseconds.
    pub write_ns: Histogram<u64>,
    /// How long each sync took, in nanoseconds: an fdatasync, or a write that makes itself durable.
    pub sync_ns: Histogram<u64>,
    /// The greatest age of an acknowledged block at the end of the sync that covered it, in nanoseconds.
    pub unsynced_max_ns: u64,
    /// The most bytes that one sync had to cover.
    pub unsynced_max_bytes: u64,
    /// How often nothing could be drained for want of a segment.
    pub stalls: u64,
    /// Bytes of segment files in the log.
    pub wal_bytes: u64,
    /// How long appends waited for their turns, all together, in nanoseconds.
    pub paced_ns: u64,
}

impl Default for ShardStats {
    fn default() -> Self {
        Self {
            batches: 0,
            blocks: 0,
            bytes: 0,
            write_ns: histogram(CALL_NS_MAX),
            sync_ns: histogram(CALL_NS_MAX),
            unsynced_max_ns: 0,
            unsynced_max_bytes: 0,
            stalls: 0,
            wal_bytes: 0,
            paced_ns: 0,
        }
    }
}

fn histogram(max: u64) -> Histogram<u64> {
    Histogram::new_with_max(max, 3).expect("three significant digits")
}

macro_rules! store_counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a store and its flusher count as they go.
        #[derive(Debug, Default)]
        pub struct StoreCounters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// What a store and its flusher have counted since open.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StoreStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl StoreCounters {
            /// The counts as they stand.
            #[must_use]
            pub fn read(&self) -> StoreStats {
                StoreStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

store_counts! {
    /// Units that the store took.
    flushes,
    /// Flushes that failed; each was tried again.
    failed_flushes,
    /// Data files written by flushes.
    files,
    /// Rows in them.
    rows,
    /// Their bytes.
    bytes,
    /// Values that went to columns `<field>@<type>`, because their table knows the field as another type.
    conflicts,
    /// Merges of data files.
    merges,
    /// Rows that flushes and merges dropped, because a client's retry had repeated them.
    repeated_rows,
}

/// What an engine has counted since open, all shards together.
#[derive(Clone, Debug)]
pub struct Stats {
    /// What ran: `uring` or `pwrite`.
    pub io: String,
    /// Shards.
    pub shards: usize,
    /// The CPU that each shard is pinned to, as read back; empty where none is.
    pub cpus: Vec<usize>,
    /// Acknowledgements come from memory that survives the process.
    pub intake_shared: bool,
    /// Batches written.
    pub batches: u64,
    /// Blocks and voids in them.
    pub blocks_written: u64,
    /// Their bytes on disk.
    pub bytes_written: u64,
    /// How long each write of a batch took that a sync follows, in microseconds.
    pub write_us: Histogram<u64>,
    /// Completed syncs: fdatasyncs, and writes that make themselves durable.
    pub syncs: u64,
    /// How long they took, in microseconds.
    pub sync_us: Histogram<u64>,
    /// The most bytes that one sync had to cover.
    pub unsynced_max_bytes: u64,
    /// The greatest age of an acknowledged, unsynced block, in milliseconds.
    pub unsynced_max_ms: f64,
    /// How often a shard could not go on for want of a segment.
    pub stalls: u64,
    /// How long appends waited for their turns because the store was slower, all together, in milliseconds.
    pub paced_ms: f64,
    /// Bytes of segment files in the log.
    pub wal_bytes_used: u64,
    /// Their bound.
    pub wal_bytes_max: u64,
    /// What the store and its flusher have counted.
    pub store: StoreStats,
}

impl Stats {
    /// Sums of shards.
    #[must_use]
    pub(crate) fn sum(
        shards: &[ShardStats],
        io: &str,
        cpus: Vec<usize>,
        intake_shared: bool,
        wal_bytes_max: u64,
        store: StoreStats,
    ) -> Self {
        let in_us = |of: fn(&ShardStats) -> &Histogram<u64>| {
            let mut all = histogram(CALL_NS_MAX / 1000);
            for value in shards.iter().flat_map(|shard| of(shard).iter_recorded()) {
                all.saturating_record_n(value.value_iterated_to() / 1000, value.count_at_value());
            }
            all
        };
        let sync_us = in_us(|shard| &shard.sync_ns);
        let sum = |of: fn(&ShardStats) -> u64| shards.iter().map(of).sum::<u64>();
        let max = |of: fn(&ShardStats) -> u64| shards.iter().map(of).max().unwrap_or(0);
        Self {
            io: io.to_owned(),
            shards: shards.len(),
            cpus,
            intake_shared,
            batches: sum(|shard| shard.batches),
            blocks_written: sum(|shard| shard.blocks),
            bytes_written: sum(|shard| shard.bytes),
            write_us: in_us(|shard| &shard.write_ns),
            syncs: sync_us.len(),
            sync_us,
            unsynced_max_bytes: max(|shard| shard.unsynced_max_bytes),
            unsynced_max_ms: max(|shard| shard.unsynced_max_ns) as f64 / 1e6,
            stalls: sum(|shard| shard.stalls),
            paced_ms: sum(|shard| shard.paced_ns) as f64 / 1e6,
            wal_bytes_used: sum(|shard| shard.wal_bytes),
            wal_bytes_max,
            store,
        }
    }
}
