//! What a setting can have of a disk: a bound from the disk alone. Making, copying and checksumming blocks
//! costs CPU too, so small blocks at level 1 stay below it.

use serde::{Deserialize, Serialize};

use crate::config::SyncPolicy;
use crate::limits::{PAGE_BYTES, SECTOR_BYTES, SECTOR_STREAM_BYTES};
use crate::probe::measure::{Point, Probe};
use crate::wal::batch::BATCH;
use crate::wal::entry::ENTRY_BYTES;

/// Bytes of a namespace and a table name that a prediction assumes.
const NAMES_BYTES: usize = 16;
/// The largest batch by default.
const BATCH_BYTES_MAX: f64 = (4 << 20) as f64;

/// Closed-loop writers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// How many.
    pub writers: u64,
    /// Blocks that each has under way.
    pub in_flight: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

/// A bound on blocks a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// 1 or 2.
    pub wal_level: u8,
    /// Milliseconds, at level 2.
    pub wal_fsync_period_ms: Option<u64>,
    /// The load.
    pub load: Load,
    /// What the disk allows.
    pub blocks_per_s: f64,
}

impl Probe {
    /// What the disk allows at this setting.
    #[must_use]
    pub fn predict(&self, policy: SyncPolicy, load: Load) -> Prediction {
        let (wal_level, wal_fsync_period_ms) = match policy {
            SyncPolicy::Level1 => (1, None),
            SyncPolicy::Periodic { ms } => (2, Some(ms)),
            SyncPolicy::Each => (2, Some(0)),
        };
        let blocks_per_s = match policy {
            SyncPolicy::Each => self.each(load),
            SyncPolicy::Level1 | SyncPolicy::Periodic { .. } => {
                self.write.iter().map(Point::bytes_per_s).fold(0.0, f64::max) / stored(load.block_bytes)
            }
        };
        Prediction { wal_level, wal_fsync_period_ms, load, blocks_per_s }
    }

    /// All blocks under way are divided among the batches in flight; each acknowledges its share when it ends.
    fn each(&self, load: Load) -> f64 {
        let under_way = (load.writers * load.in_flight) as f64;
        let stored = stored(load.block_bytes);
        let with = |in_flight: f64| {
            let a_batch = (under_way / in_flight).min((BATCH_BYTES_MAX / stored).max(1.0)).max(1.0);
            let bytes = (a_batch * stored + BATCH::BYTES as f64).max(PAGE_BYTES as f64);
            in_flight * a_batch / self.synced_s(bytes, in_flight)
        };
        let counts = self.write_synced.iter().map(|point| point.in_flight as f64).filter(|count| *count <= under_way);
        counts.map(with).fold(0.0, f64::max)
    }

    /// Seconds of a durable write of so many bytes, between the sizes that were measured; beyond them in
    /// proportion.
    fn synced_s(&self, bytes: f64, in_flight: f64) -> f64 {
        let points: Vec<&Point> =
            self.write_synced.iter().filter(|point| point.in_flight as f64 == in_flight).collect();
        let Some(above) = points.iter().position(|point| point.bytes as f64 >= bytes) else {
            return points.last().map_or(f64::INFINITY, |last| last.mean_s() * bytes / last.bytes as f64);
        };
        let Some(below) = above.checked_sub(1) else { return points[above].mean_s() };
        let (below, above) = (points[below], points[above]);
        let share = (bytes - below.bytes as f64) / (above.bytes - below.bytes) as f64;
        below.mean_s() + share * (above.mean_s() - below.mean_s())
    }
}

/// Bytes that a block takes in the log, its share of a batch's header left out.
fn stored(block_bytes: u64) -> f64 {
    (block_bytes as usize + ENTRY_BYTES + NAMES_BYTES) as f64 * SECTOR_BYTES as f64 / SECTOR_STREAM_BYTES as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::device::Device;
    use crate::probe::measure::Flush;

    /// A durable write takes 100 us and 1 us for each 4 KiB, however many are in flight.
    fn disk() -> Probe {
        let point = |bytes: u64, in_flight: u64, us: f64| Point {
            bytes,
            in_flight,
            operations: in_flight * 1000,
            seconds: us / 1e3,
            us_p50: us,
            us_p99: us,
        };
        let us = |bytes: u64| 100.0 + bytes as f64 / 4096.0;
        let sizes = [4096, 65536, 1 << 20];
        let synced = sizes.into_iter().flat_map(|bytes| [1, 4].map(|count| point(bytes, count, us(bytes))));
        Probe {
            io: "uring".into(),
            device: Device::default(),
            flush: Flush::Plausible,
            flushes_counted: None,
            overwrite: point(4096, 1, 100.0),
            append: point(4096, 1, 100.0),
            write: vec![point(1 << 20, 4, 1000.0)],
            write_synced: synced.collect(),
        }
    }

    #[test]
    fn one_writer_gets_what_a_durable_write_takes() {
        let load = Load { writers: 1, in_flight: 1, block_bytes: 128 };
        let each = disk().predict(SyncPolicy::Each, load);
        assert_eq!((each.wal_level, each.wal_fsync_period_ms), (2, Some(0)));
        assert!((each.blocks_per_s - 1e6 / 101.0).abs() < 1.0, "{each:?}");
    }

    #[test]
    fn many_writers_share_batches_and_as_many_as_help_are_in_flight() {
        let load = Load { writers: 40, in_flight: 1, block_bytes: 4096 };
        let found = disk().predict(SyncPolicy::Each, load).blocks_per_s;
        // Four batches of ten blocks: 40 blocks in about 110 us.
        assert!((330_000.0..400_000.0).contains(&found), "{found}");
        let more = Load { writers: 400, ..load };
        assert!(disk().predict(SyncPolicy::Each, more).blocks_per_s > 3.0 * found);
    }

    #[test]
    fn without_a_wait_for_fsync_the_bandwidth_is_the_bound() {
        let load = Load { writers: 50, in_flight: 1, block_bytes: 65536 };
        // 4 MiB in a millisecond.
        let bandwidth = 4.0 * (1 << 20) as f64 * 1e3;
        for policy in [SyncPolicy::Level1, SyncPolicy::Periodic { ms: 3000 }] {
            let found = disk().predict(policy, load).blocks_per_s * 65536.0 / bandwidth;
            assert!((0.98..1.0).contains(&found), "{policy:?}: {found}");
        }
    }
}
