//! An engine at rest costs nothing: its threads make no system call once the last block is safe.
//!
//! A thread that makes a system call to wait again has been switched to and away from, so the kernel's
//! count of voluntary context switches stands still exactly as long as the thread sleeps on.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use forebay::{Block, Config, Durability, Engine, IoChoice};

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

#[test]
fn an_idle_engine_sleeps_at_every_setting_and_disk() {
    let settings: [(&str, fn(Config) -> Config); 3] = [
        ("(1)", |config| config.wal_level(1)),
        ("(2,50)", |config| config.wal_level(2).wal_fsync_period_ms(50)),
        ("(2,0)", |config| config.wal_level(2).wal_fsync_period_ms(0)),
    ];
    for io in [IoChoice::Uring, IoChoice::Pwrite] {
        for (name, setting) in settings {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
            let config = Config::new(dir.path())
                .shards(2)
                .segment_bytes(1 << 20)
                .block_bytes_max(256 << 10)
                .batch_bytes_max(256 << 10)
                .intake_bytes(512 << 10)
                .intake_slots(1024);
            let engine = Engine::open(setting(config).io(io)).expect("opens");
            let writer = engine.writer("n").expect("a writer");
            for _ in 0..100 {
                let receipt = writer.append(Block::raw("t", vec![1; 5000])).expect("an append");
                engine.wait(&receipt, Durability::Synced).expect("a sync");
            }
            std::thread::sleep(Duration::from_secs(1));
            let before = switches();
            assert!(before.len() >= 4, "two shards and their makers: {before:?}");
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(switches(), before, "{name} {io}");
            engine.close().expect("a clean close");
        }
    }
}
