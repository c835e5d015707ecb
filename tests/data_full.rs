//! Fault 10 for data files: the disk that they are on is full. Nothing is lost, writers wait, and flushing
//! goes on by itself when there is room.
//!
//! The data folder is a small file system in memory, so it takes root to mount one. Skipped, with the
//! reason, where that is not possible; `REQUIRE_RIG=1` makes that a failure.

#![cfg(feature = "parquet")]

mod data_rows;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use data_rows::rows;
use forebay::data::parquet::{ParquetOptions, ParquetStore};
use forebay::data::upkeep::UpkeepOptions;
use forebay::{Block, Config, Engine};

/// A mounted file system; gone with this.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir_all(at).expect("a folder");
        let option = format!("size={size}");
        mount(&["-t", "tmpfs", "-o", &option, "tmpfs", &at.display().to_string()])?;
        Ok(Self(at.to_owned()))
    }

    fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}"), &self.0.display().to_string()]).expect("more room");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking(), "unmounted");
    }
}

fn mount(args: &[&str]) -> Result<(), String> {
    let done = Command::new("mount").args(args).output().map_err(|error| error.to_string())?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

/// Opens it without merging: what a merge needs for a while could make room when it ends.
fn open(config: Config) -> Engine {
    let upkeep = UpkeepOptions { merge_percent: 0, ..UpkeepOptions::default() };
    let store = ParquetStore::new(ParquetOptions { upkeep, ..ParquetOptions::default() });
    Engine::open_with(config, Box::new(store)).expect("opens, on a full disk too")
}

/// Text that does not compress.
fn text(counter: u64) -> String {
    let mut state = counter + 1;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    let long: String = (0..250).map(|_| noise()).collect();
    (0..4).map(|row| format!("m n={counter}i,row={row}i,text=\"{long}{}\" {}\n", noise(), counter * 4 + row)).collect()
}

#[test]
fn a_full_disk_of_data_files_loses_nothing_and_flushing_goes_on_by_itself() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mounted = match Mounted::new(&dir.path().join("data"), "24m") {
        Ok(mounted) => mounted,
        Err(why) => {
            assert!(std::env::var_os("REQUIRE_RIG").is_none(), "no file system can be mounted: {why}");
            eprintln!("SKIPPED: no file system can be mounted: {why}");
            return;
        }
    };
    let config = Config::new(dir.path())
        .shards(1)
        .segment_bytes(1 << 20)
        .block_bytes_max(128 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(256)
        .wal_bytes_max(256 << 20)
        .buffer_bytes(1 << 20)
        .flush_period_ms(50);
    let engine = open(config.clone());
    let writer = engine.writer("n").expect("a writer");
    let mut counter = 0;
    let began = Instant::now();
    while engine.stats().store.failed_flushes < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "the disk is never full: {:?}", engine.stats().store);
        let marks = engine.marks()[0];
        if marks.accepted.0 - marks.flushed.0 < 1000 {
            writer.append(Block::lines(text(counter)).expect("sound")).expect("the log has room");
            counter += 1;
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // Closed while it is full, which is an error: what the log holds is still to be flushed.
    let error = engine.close().expect_err("not everything is flushed").to_string();
    assert!(error.contains("No space left on device"), "{error}");
    let engine = open(config);
    let writer = engine.writer("n").expect("a writer");
    writer.append(Block::lines(text(counter)).expect("sound")).expect("the log has room");
    mounted.resize("400m");
    let began = Instant::now();
    while engine.marks().iter().any(|marks| marks.flushed < marks.accepted) {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?} {:?}", engine.marks(), engine.stats().store);
        std::thread::sleep(Duration::from_millis(20));
    }
    engine.close().expect("closes");
    assert_eq!(rows(dir.path()).len() as u64, (counter + 1) * 4);
    drop(mounted);
}
