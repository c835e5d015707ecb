//! An engine at rest costs nothing: its threads make no system call once the last block is safe.
//!
//! A thread that makes a system call to wait again has been switched to and away from, so the kernel's
//! count of voluntary context switches stands still exactly as long as the thread sleeps on.
//! `FOREBAY_IDLE_SECONDS` sets for how long that is looked at (default 2).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use forebay::store::{Null, Store, StoreError, Unit};
use forebay::types::ShardId;
use forebay::{Block, Config, Durability, Engine, IoChoice, Position};

/// Voluntary and involuntary switches of this process's engine threads, by thread.
fn switches() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").expect("tasks") {
        let path = task.expect("a task").path();
        let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            line.trim_start_matches(':').trim().to_owned()
        };
        let name = field("Name");
        if name.starts_with("forebay-") {
            let count = |name| field(name).parse::<u64>().expect("a count");
            found.insert(format!("{name} {}", field("Pid")), count("voluntary_ctxt_switches"));
        }
    }
    found
}

/// Where blocks go.
#[derive(Clone, Copy)]
enum Sink {
    /// Nowhere.
    None,
    /// To a store, within so many milliseconds.
    Taken(u64),
    /// To Parquet files, within so many milliseconds.
    #[cfg(feature = "parquet")]
    Files(u64),
}

/// A store that takes every block and forgets it.
struct Drain;

impl Store for Drain {
    fn progress(&mut self, _shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        for block in unit.by_ref() {
            block?;
        }
        Ok(())
    }
}

#[test]
fn an_idle_engine_sleeps_at_every_setting_and_disk() {
    let seconds = std::env::var("FOREBAY_IDLE_SECONDS").map_or(2, |text| text.parse().expect("seconds"));
    let settings = [
        ("(1)", None, Sink::None),
        ("(1), all blocks taken", None, Sink::Taken(100)),
        ("(1), blocks to be taken later", None, Sink::Taken(60_000)),
        #[cfg(feature = "parquet")]
        ("(1), all blocks in files", None, Sink::Files(100)),
        ("(2,50)", Some(50), Sink::None),
        ("(2,0)", Some(0), Sink::None),
    ];
    for io in [IoChoice::Uring, IoChoice::Pwrite] {
        for (name, period_ms, sink) in settings {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
            let config = Config::new(dir.path())
                .shards(2)
                .segment_bytes(1 << 20)
                .block_bytes_max(256 << 10)
                .batch_bytes_max(256 << 10)
                .intake_bytes(512 << 10)
                .intake_slots(1024);
            let config = match period_ms {
                None => config.wal_level(1),
                Some(ms) => config.wal_level(2).wal_fsync_period_ms(ms),
            };
            let config = config.io(io);
            let engine = match sink {
                Sink::None => Engine::open_with(config, Box::new(Null)),
                #[cfg(feature = "parquet")]
                Sink::Files(ms) => Engine::open(config.flush_period_ms(ms)),
                Sink::Taken(ms) => Engine::open_with(config.flush_period_ms(ms), Box::new(Drain)),
            };
            let engine = engine.expect("opens");
            let writer = engine.writer("n").expect("a writer");
            for _ in 0..100 {
                let receipt = writer.append(Block::raw("t", vec![1; 5000])).expect("an append");
                engine.wait(&receipt, Durability::Synced).expect("a sync");
            }
            std::thread::sleep(Duration::from_secs(1));
            let before = switches();
            assert!(before.len() >= 4, "two shards and their makers: {before:?}");
            std::thread::sleep(Duration::from_secs(seconds));
            assert_eq!(switches(), before, "{name} {io}");
            engine.close().expect("a clean close");
        }
    }
}
