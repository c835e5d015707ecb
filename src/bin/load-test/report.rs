//! One run in figures, under the names that scripts read: schema `forebay.load-test/1`.

use forebay::probe::{FLUSH_US_MIN, Load};
use serde::Serialize;
use serde_json::Value;

use crate::args::{Plan, Setting, StoreKind, Workload};
use crate::columns::Compared;
use crate::env::{Env, memory_peak_bytes};
use crate::run::Measured;
use crate::stats::Percentiles;
use crate::target::Counts;
use crate::verify::Verdict;
use crate::watch::{Pace, Timeline};

/// The name of this shape; a field may be added under it, never changed.
pub const SCHEMA: &str = "forebay.load-test/1";
/// A run is bound by the making of its blocks where that took more than this share of all cores' time.
const MAKING_SHARE_MAX: f64 = 0.5;
/// A run is bound by the store where its shards took nothing for more than this share of the time.
const STORE_WAIT_SHARE_MAX: f64 = 0.1;

/// What was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// The engine.
    Forebay,
    /// One plain file.
    File,
}

/// How a run was set up.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    wal_level: u8,
    wal_fsync_period_ms: Option<u64>,
    writers: usize,
    in_flight: usize,
    rate: Option<f64>,
    block_bytes: Option<u64>,
    rows_per_block: Option<u32>,
    input: Option<String>,
    shards: usize,
    cpus: Vec<usize>,
    io: String,
    store: &'static str,
    repeat: u32,
}

/// fdatasyncs of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Fsync {
    /// How many.
    pub count: u64,
    /// How long they took, in microseconds.
    pub us: Percentiles,
}

/// The most that was acknowledged and not synced.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UnsyncedMax {
    bytes: u64,
    ms: f64,
}

/// What the store took in, while blocks were written and then up to the end of the close.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stored {
    /// Rows, also those of the warm-up that it had not taken before.
    pub rows: u64,
    /// From the first measured block to the end of the close.
    pub seconds: f64,
    /// Rows a second.
    pub rows_per_s: f64,
    /// The part of these seconds that the close took.
    pub close_seconds: f64,
    /// The share of the measured time in which a shard took nothing, its log being full, or in which writers
    /// waited for their turns.
    pub wait_share: f64,
    /// The most bytes that the log's segments had.
    pub wal_peak_bytes: u64,
    /// The most memory that this process has had so far, other runs included.
    pub memory_peak_bytes: Option<u64>,
}

/// Blocks of the least and of the most served writer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WriterBlocks {
    min: u64,
    max: u64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    /// What was written to.
    pub engine: EngineName,
    settings: Settings,
    /// Its setting, for tables.
    #[serde(skip)]
    pub setting: Setting,
    /// Which repeat, from 1.
    pub repeat: u32,
    /// From the first measured block to the end of the final sync.
    pub seconds: f64,
    /// Acknowledged blocks.
    pub blocks: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks a second.
    pub blocks_per_s: f64,
    /// What the disk allows, where it was probed; of a closed loop over the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_blocks_per_s: Option<f64>,
    /// Rows a second.
    pub rows_per_s: f64,
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// From start to ack of each block.
    pub ack_us: Percentiles,
    /// From the intended start, in an open loop.
    pub ack_us_corrected: Option<Percentiles>,
    /// fdatasyncs.
    pub fsync: Fsync,
    /// Blocks in a batch, in the mean.
    pub blocks_per_batch: f64,
    unsynced_max: UnsyncedMax,
    writer_blocks: WriterBlocks,
    /// How evenly it went.
    pub by_second: Pace,
    /// The same in short steps: a line that shows stalls.
    pub timeline: Timeline,
    /// What the store took in; `None` where there is none.
    pub stored: Option<Stored>,
    marks: Value,
    /// Where verified: acknowledged blocks that are there.
    pub verified_blocks: Option<u64>,
    /// Where verified: acknowledged blocks that are not.
    pub lost_blocks: Option<u64>,
    /// Where verified: what else is wrong.
    pub wrong_blocks: Option<u64>,
    /// Where data files were verified: acknowledged rows that are in them.
    pub verified_rows: Option<u64>,
    /// Where data files were verified against an input: its columns and theirs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Compared>,
    /// What the figure measures instead of the log.
    pub bound_by: Option<&'static str>,
    /// Why it ended before its time.
    pub ended_early: Option<String>,
    /// What the reader of these figures must know.
    pub warnings: Vec<String>,
    env: Env,
}

impl Report {
    /// A run in figures.
    pub fn new(
        engine: EngineName,
        plan: &Plan,
        setting: Setting,
        repeat: u32,
        measured: &Measured,
        verdict: Option<&Verdict>,
        env: &Env,
    ) -> Self {
        let (before, after) = &measured.counts;
        let mut syncs = after.sync_us.clone();
        // Counts only grow; where one was cleared in between, all of the later ones stand.
        let _ = syncs.subtract(&before.sync_us);
        let fsync = Fsync { count: syncs.len(), us: Percentiles::of(&syncs, 1.0) };
        let per_second = |count: u64| round3(count as f64 / measured.seconds);
        let batches = after.batches - before.batches;
        let mut warnings = Vec::new();
        if fsync.count > 0 && fsync.us.p50 < FLUSH_US_MIN {
            warnings.push(format!(
                "the median fdatasync took {} us: no device flushes that fast; these figures are no evidence about power loss",
                fsync.us.p50
            ));
        }
        Self {
            schema: SCHEMA,
            engine,
            settings: Settings::of(engine, plan, setting, after),
            setting,
            repeat,
            seconds: round3(measured.seconds),
            blocks: measured.done.blocks,
            rows: measured.done.rows,
            bytes: measured.done.bytes,
            blocks_per_s: per_second(measured.done.blocks),
            predicted_blocks_per_s: match engine {
                EngineName::Forebay => predicted(plan, setting, measured),
                EngineName::File => None,
            },
            rows_per_s: per_second(measured.done.rows),
            bytes_per_s: per_second(measured.done.bytes),
            ack_us: Percentiles::of(&measured.service, 1e3),
            ack_us_corrected: measured.corrected.as_ref().map(|corrected| Percentiles::of(corrected, 1e3)),
            fsync,
            blocks_per_batch: match batches {
                0 => 0.0,
                _ => round3((after.blocks_written - before.blocks_written) as f64 / batches as f64),
            },
            unsynced_max: UnsyncedMax { bytes: after.unsynced_max_bytes, ms: round3(after.unsynced_max_ms) },
            writer_blocks: WriterBlocks { min: measured.served.0, max: measured.served.1 },
            by_second: measured.pace.clone(),
            timeline: measured.timeline.clone(),
            stored: (engine == EngineName::Forebay && plan.store == StoreKind::Parquet).then(|| Stored::of(measured)),
            marks: after.marks.clone(),
            verified_blocks: verdict.map(|verdict| verdict.verified),
            lost_blocks: verdict.map(|verdict| verdict.lost),
            wrong_blocks: verdict.map(|verdict| verdict.wrong),
            verified_rows: verdict.and_then(|verdict| verdict.rows),
            columns: verdict.map(|verdict| verdict.columns.clone()).unwrap_or_default(),
            bound_by: match measured {
                _ if measured.store_wait_share > STORE_WAIT_SHARE_MAX => Some("store"),
                _ if measured.making_share > MAKING_SHARE_MAX => Some("generator"),
                _ => None,
            },
            ended_early: measured.ended_early.clone(),
            warnings,
            env: env.clone(),
        }
    }

    /// How it wrote: what ran.
    pub fn io(&self) -> &str {
        &self.settings.io
    }
}

fn predicted(plan: &Plan, setting: Setting, measured: &Measured) -> Option<f64> {
    let probe = plan.probe.as_ref().filter(|_| plan.rate.is_none() && measured.done.blocks > 0)?;
    let block_bytes = measured.done.bytes / measured.done.blocks;
    let load = Load { writers: plan.writers as u64, in_flight: plan.in_flight as u64, block_bytes };
    Some(round3(probe.predict(setting.policy(), load).blocks_per_s))
}

impl Settings {
    fn of(engine: EngineName, plan: &Plan, setting: Setting, counts: &Counts) -> Self {
        let (block_bytes, rows_per_block, input) = match &plan.workload {
            Workload::Raw(bytes) => (Some(*bytes), None, None),
            Workload::Meters(rows) => (None, Some(*rows), None),
            Workload::Input(path, rows) => (None, Some(*rows), Some(path.display().to_string())),
        };
        Self {
            wal_level: setting.wal_level(),
            wal_fsync_period_ms: setting.period_ms(),
            writers: plan.writers,
            in_flight: plan.in_flight,
            rate: plan.rate,
            block_bytes,
            rows_per_block,
            input,
            shards: counts.shards,
            cpus: counts.cpus.clone(),
            io: counts.io.clone(),
            store: match engine {
                EngineName::Forebay => plan.store.word(),
                EngineName::File => StoreKind::None.word(),
            },
            repeat: plan.repeat,
        }
    }
}

impl Stored {
    fn of(measured: &Measured) -> Self {
        let (before, after) = &measured.counts;
        // What is accepted at the end is stored at the end of the close; blocks have the rows of the measured ones.
        let pairs = after.accepted.iter().zip(&before.flushed);
        let blocks: u64 = pairs.map(|(end, begin)| end.0.saturating_sub(begin.0)).sum();
        let rows = blocks as f64 * measured.done.rows as f64 / measured.done.blocks.max(1) as f64;
        let seconds = measured.seconds + measured.close_seconds;
        Self {
            rows: rows.round() as u64,
            seconds: round3(seconds),
            rows_per_s: round3(rows / seconds),
            close_seconds: round3(measured.close_seconds),
            wait_share: round3(measured.store_wait_share),
            wal_peak_bytes: measured.wal_peak_bytes,
            memory_peak_bytes: memory_peak_bytes(),
        }
    }
}

fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use clap::Parser;
    use forebay::types::Seq;

    use super::*;
    use crate::args::Args;
    use crate::run::Done;
    use crate::stats::{histogram_ns, histogram_us};

    /// A made-up run of 2 s.
    pub fn report(options: &str, blocks: u64, sync_us: u64, making_share: f64) -> Report {
        report_of(options, blocks, sync_us, (making_share, 0.0))
    }

    /// The same with the share of the time in which writers waited for the store.
    pub fn report_of(options: &str, blocks: u64, sync_us: u64, (making_share, store_wait_share): (f64, f64)) -> Report {
        let words = std::iter::once("load-test").chain(options.split_whitespace());
        let plan = Args::try_parse_from(words).expect("sound").job().expect("sound").plans.remove(0);
        let mut counts = Counts {
            io: "uring".into(),
            shards: 2,
            cpus: vec![0, 1],
            batches: 10,
            blocks_written: 100,
            sync_us: histogram_us(),
            unsynced_max_bytes: 4096,
            unsynced_max_ms: 1.5,
            wal_bytes: (0, 1),
            stalls: 0,
            paced_ms: 0.0,
            accepted: vec![Seq(60), Seq(40)],
            flushed: vec![Seq(60), Seq(0)],
            marks: Value::Array(Vec::new()),
        };
        let before = counts.clone();
        counts.batches += blocks / 10;
        counts.blocks_written += blocks;
        counts.accepted[0].0 += blocks;
        counts.sync_us.record_n(sync_us, blocks / 10).expect("within bounds");
        let mut service = histogram_ns();
        service.record_n(150, blocks).expect("within bounds");
        let measured = Measured {
            seconds: 2.0,
            done: Done { blocks, rows: blocks, bytes: blocks * 4096 },
            corrected: plan.rate.map(|_| service.clone()),
            service,
            counts: (before, counts),
            making_share,
            store_wait_share,
            wal_peak_bytes: 0,
            pace: Pace::default(),
            timeline: Timeline { interval_ms: 20, bytes: vec![4096, 0] },
            close_seconds: 3.0,
            served: (1, 2),
            ended_early: None,
            ledgers: Vec::new(),
            rows: Vec::new(),
        };
        let verdict = plan.verify.then(|| Verdict { verified: blocks, ..Verdict::default() });
        let env = Env::of(Path::new("."));
        Report::new(EngineName::Forebay, &plan, plan.settings[0], 1, &measured, verdict.as_ref(), &env)
    }

    #[test]
    fn every_promised_name_is_in_the_json() {
        let json = serde_json::to_value(report("--wal-level 2 --wal-fsync-period 0", 1000, 900, 0.0)).expect("json");
        for name in [
            "schema",
            "engine",
            "settings",
            "seconds",
            "blocks",
            "rows",
            "bytes",
            "blocks_per_s",
            "rows_per_s",
            "bytes_per_s",
            "ack_us",
            "ack_us_corrected",
            "fsync",
            "blocks_per_batch",
            "unsynced_max",
            "timeline",
            "marks",
            "verified_blocks",
            "lost_blocks",
            "env",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        for name in [
            "wal_level",
            "wal_fsync_period_ms",
            "writers",
            "in_flight",
            "block_bytes",
            "rows_per_block",
            "shards",
            "io",
            "store",
        ] {
            assert!(json["settings"].get(name).is_some(), "{name}");
        }
        for name in ["min", "mean", "p50", "p90", "p95", "p99", "p999", "max"] {
            assert!(json["ack_us"].get(name).is_some() && json["fsync"]["us"].get(name).is_some(), "{name}");
        }
        assert_eq!((&json["schema"], &json["engine"]), (&SCHEMA.into(), &"forebay".into()));
        assert_eq!((&json["settings"]["wal_level"], &json["settings"]["wal_fsync_period_ms"]), (&2.into(), &0.into()));
        assert_eq!((&json["blocks_per_s"], &json["ack_us"]["p50"]), (&500.0.into(), &0.15.into()));
        assert_eq!((&json["fsync"]["count"], &json["blocks_per_batch"]), (&100.into(), &10.0.into()));
        assert_eq!(json["timeline"], serde_json::json!({"interval_ms": 20, "bytes": [4096, 0]}));
        assert!(json["ack_us_corrected"].is_null() && json["verified_blocks"].is_null());
    }

    #[test]
    fn open_loops_and_verified_runs_have_their_figures() {
        let json = serde_json::to_value(report("--rate 500/s --verify", 1000, 900, 0.0)).expect("json");
        assert_eq!(json["ack_us_corrected"]["p99"], 0.15);
        assert_eq!((&json["verified_blocks"], &json["lost_blocks"]), (&1000.into(), &0.into()));
    }

    #[test]
    #[cfg(feature = "parquet")]
    fn what_a_store_took_is_timed_to_the_end_of_the_close() {
        let json = serde_json::to_value(report("--store parquet --verify", 960, 900, 0.0)).expect("json");
        assert_eq!(
            (&json["settings"]["store"], &json["settings"]["rows_per_block"]),
            (&"parquet".into(), &1000.into())
        );
        let stored = &json["stored"];
        // 40 blocks of the warm-up were not stored before.
        assert_eq!(
            (&stored["rows"], &stored["seconds"], &stored["rows_per_s"]),
            (&1000.into(), &5.0.into(), &200.0.into())
        );
        assert!(serde_json::to_value(report("", 960, 900, 0.0)).expect("json")["stored"].is_null());
    }

    #[test]
    fn a_run_whose_writers_waited_for_the_store_is_bound_by_it() {
        assert_eq!(report_of("", 1000, 900, (0.9, 0.2)).bound_by, Some("store"));
        assert_eq!(report_of("", 1000, 900, (0.1, 0.05)).bound_by, None);
    }

    #[test]
    fn an_implausible_flush_and_a_busy_generator_are_called_out() {
        let sound = report("", 1000, 900, 0.1);
        assert!(sound.warnings.is_empty() && sound.bound_by.is_none());
        let odd = report("", 1000, 5, 0.9);
        assert!(odd.warnings[0].contains("no evidence about power loss"));
        assert_eq!(odd.bound_by, Some("generator"));
    }
}
