//! Faults that need no disk of their own: a file system that may not be written, and two who want one store
//! (rows 28 and 29 of the table in `docs/durability.md`).
//!
//! Needs root for the read-only file system; where it is missing, `REQUIRE_RIG=1` makes that a failure.
//! `FOREBAY_RACES` sets how often two race for a store (default 100).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use forebay::store::Hold;
use forebay::{Block, Config, Durability, Engine, Error};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn small(dir: &Path) -> Config {
    let config = Config::new(dir).shards(1).segment_bytes(1 << 20).block_bytes_max(64 << 10);
    config.batch_bytes_max(64 << 10).intake_bytes(256 << 10).intake_slots(1024).wal_level(2).wal_fsync_period_ms(0)
}

/// Every file of a store, with its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.append(&mut tree(&path));
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => drop(found.insert(path, bytes)),
            // An engine that has the store open renames and removes files.
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {error}", path.display()),
        }
    }
    found
}

/// A store with one block; its folder holds nobody's lock.
fn store(dir: &Path) {
    let engine = Engine::open_with(small(dir), Box::new(Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    writer.append_with(Block::raw("t", &b"x"[..]), Durability::Synced).expect("an append");
    engine.close().expect("a clean close");
}

#[test]
fn of_two_who_open_one_store_one_is_refused_and_changes_nothing() {
    let dir = folder();
    store(dir.path());
    let races: usize = std::env::var("FOREBAY_RACES").map_or(100, |text| text.parse().expect("a number"));
    let (start, end) = (Barrier::new(2), Barrier::new(2));
    let open_all = || -> Vec<Result<(), Error>> {
        (0..races)
            .map(|_| {
                start.wait();
                let opened = Engine::open_with(small(dir.path()), Box::new(Hold));
                // Who has it keeps it until the other has been refused.
                end.wait();
                opened.map(|engine| engine.close().expect("a clean close"))
            })
            .collect()
    };
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(open_all);
        (open_all(), other.join().expect("no panic"))
    });
    println!("{} races", one.len());
    for (one, other) in one.into_iter().zip(other) {
        let (opened, refused) = if one.is_ok() { (one, other) } else { (other, one) };
        assert!(opened.is_ok(), "one of them has it: {opened:?}");
        let error = refused.expect_err("the other has not");
        assert_eq!(error.exit_code(), 73, "{error}");
        assert!(error.to_string().contains(&format!("in use by pid {}", std::process::id())), "{error}");
    }
    let _engine = Engine::open_with(small(dir.path()), Box::new(Hold)).expect("opens");
    // Segments are being made ahead; then nothing moves any more.
    let mut before = tree(dir.path());
    while {
        std::thread::sleep(Duration::from_millis(300));
        let now = tree(dir.path());
        std::mem::replace(&mut before, now) != before
    } {}
    assert!(Engine::open_with(small(dir.path()), Box::new(Hold)).is_err());
    assert!(tree(dir.path()) == before, "who was refused changed something");
}

#[test]
fn a_read_only_file_system_is_named_and_left_as_it_was() {
    let dir = folder();
    store(dir.path());
    let before = tree(dir.path());
    let path = dir.path().display();
    // In a mount namespace of its own: it goes with the process.
    let script = format!(
        "mount --bind {path} {path} && mount -o remount,bind,ro {path} || exit 99
         exec {} --dir {path} --seconds 1 --repeat 1 --wal-level 1 --store none --block-bytes 128",
        env!("CARGO_BIN_EXE_load-test")
    );
    let run = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output();
    let output = match run {
        Ok(output) if output.status.code() != Some(99) && !output.stderr.starts_with(b"unshare:") => output,
        other => {
            assert!(std::env::var_os("REQUIRE_RIG").is_none(), "nothing can be mounted: {other:?}");
            eprintln!("SKIPPED: a read-only file system needs root: {other:?}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{said}");
    let once = |what: &str| said.matches(what).count() == 1;
    assert!(once("Read-only file system") && once(&path.to_string()), "{said}");
    assert!(tree(dir.path()) == before, "a store on a read-only file system was changed");
}
