//! `forebay verify` and `repair` on a store with data files: damage to those, and to their manifest.

#![cfg(feature = "parquet")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use forebay::data::decode::DataReader;
use forebay::data::parquet::{ParquetOptions, ParquetStore};
use forebay::data::upkeep::UpkeepOptions;
use forebay::engine::tools::list_files;
use forebay::{Block, Config, Engine};
use serde_json::Value;
use tempfile::TempDir;

const ROWS: u64 = 60;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn open(dir: &Path) -> Engine {
    let config = Config::new(dir)
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(32 << 10)
        .batch_bytes_max(64 << 10)
        .intake_bytes(128 << 10)
        .intake_slots(64)
        .wal_bytes_max(64 << 20);
    let upkeep = UpkeepOptions { merge_percent: 0, ..UpkeepOptions::default() };
    let options = ParquetOptions { upkeep, ..ParquetOptions::default() };
    Engine::open_with(config, Box::new(ParquetStore::new(options))).expect("it opens")
}

/// So many openings, each of which leaves a file of its own for either shard.
fn made(openings: u64) -> TempDir {
    let dir = folder();
    for opening in 0..openings {
        let engine = open(dir.path());
        let writers = [engine.writer("n").expect("a writer"), engine.writer("n").expect("a writer")];
        for row in 0..ROWS / 2 / openings {
            for (shard, writer) in writers.iter().enumerate() {
                let line = format!("m,shard={shard} value={row} {}\n", opening * 1_000 + row + 1);
                writer.append(Block::lines(line).expect("a line")).expect("an append");
            }
        }
        engine.close().expect("a clean close");
    }
    dir
}

fn rows_of(path: &Path) -> u64 {
    DataReader::open(fs::File::open(path).expect("a file"), path).expect("a data file").rows()
}

fn rows(dir: &Path) -> u64 {
    list_files(dir).expect("a list").files.iter().map(|file| file.rows).sum()
}

fn forebay(command: &str, dir: &Path) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args([command, "--json", "--dir"])
        .arg(dir)
        .output()
        .expect("it runs");
    let out = String::from_utf8(output.stdout).expect("text");
    let value = serde_json::from_str(&out);
    let value =
        value.unwrap_or_else(|error| panic!("{command}: {error}: {out}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("no signal"), value)
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("a flip");
    file.sync_all().expect("a sync");
}

fn field<'a>(finding: &'a Value, name: &str) -> &'a str {
    finding[name].as_str().expect("text")
}

/// Part and concern of each finding.
fn parts(verified: &Value) -> Vec<(&str, &str)> {
    let findings = verified["findings"].as_array().expect("findings");
    findings.iter().map(|finding| (field(finding, "part"), field(finding, "concerns"))).collect()
}

#[test]
fn a_store_with_data_files_is_sound_and_a_repair_changes_no_row() {
    let dir = made(3);
    assert_eq!(rows(dir.path()), ROWS);
    let (code, verified) = forebay("verify", dir.path());
    assert_eq!((code, &verified["data_files"]), (0, &Value::from(6)), "{verified}");
    let (code, repaired) = forebay("repair", dir.path());
    assert_eq!((code, &repaired["quarantined"]), (0, &Value::Array(Vec::new())), "{repaired}");
    assert_eq!(forebay("verify", dir.path()).0, 0);
    open(dir.path()).close().expect("a clean close");
    assert_eq!(rows(dir.path()), ROWS);
}

#[test]
fn damage_in_a_data_file_is_found_and_left_to_its_owner() {
    for at in [0.0, 0.1, 0.5, 0.9, 0.999] {
        let dir = made(3);
        let listing = list_files(dir.path()).expect("a list");
        let file = &listing.files[2];
        let path = listing.root.join(file.path());
        let at = (at * file.bytes as f64) as u64;
        flip(&path, at);
        let (code, verified) = forebay("verify", dir.path());
        assert_eq!((code, parts(&verified)), (3, vec![("data file", "flushed")]), "{at}: {verified}");
        assert_eq!(verified["findings"][0]["file"], format!("data/{}", file.path()));
        assert_eq!(forebay("repair", dir.path()).0, 0);
        assert_eq!(forebay("verify", dir.path()).0, 3, "a repair does not pass judgement on data files");
        assert!(path.exists(), "what is sound in it can still be read");
        // What the message says: move it away; the store goes on without it.
        fs::rename(&path, dir.path().join("moved.parquet")).expect("moved");
        assert_eq!(parts(&forebay("verify", dir.path()).1), [("data file", "flushed")]);
        open(dir.path()).close().expect("a clean close");
        assert_eq!(forebay("verify", dir.path()).0, 0);
        assert_eq!(rows(dir.path()), ROWS - file.rows);
    }
}

/// Each batch of the manifest: its file, and its offset there.
fn manifest_batches(dir: &Path) -> Vec<(PathBuf, u64)> {
    let (_, inspected) = forebay("inspect", dir);
    let mut found = Vec::new();
    for file in inspected["data_files"]["manifest_files"].as_array().expect("files") {
        if file["role"] == "log" {
            let path = dir.join("data/_manifest").join(field(file, "file"));
            let bytes = fs::read(&path).expect("a segment");
            let (mut at, end) = (8192, file["end"].as_u64().expect("a number") as usize);
            while at < end {
                found.push((path.clone(), at as u64));
                // A batch's length stands at 92 of its header, behind the sector's stamp.
                at += u32::from_le_bytes(bytes[at + 96..at + 100].try_into().expect("4 bytes")) as usize;
            }
        }
    }
    found
}

#[test]
fn damage_in_the_manifest_loses_no_row() {
    // In the first opening's manifest nothing but the damaged record says with what it begins.
    for openings in [1, 3] {
        let base = made(openings);
        let batches = manifest_batches(base.path());
        assert_eq!(batches.len(), 4, "the end of the intake, the state, and a transaction for each shard");
        for (index, (path, at)) in batches.iter().enumerate() {
            for (what, within) in [("stamp", 0), ("header", 4 + 60), ("entry header", 4 + 130), ("payload", 4 + 153)] {
                let dir = folder();
                let from = format!("{}/.", base.path().display());
                assert!(Command::new("cp").args(["-a", &from]).arg(dir.path()).status().expect("cp").success());
                flip(&dir.path().join(path.strip_prefix(base.path()).expect("below")), at + within);
                let what = format!("{what} of manifest batch {index} of {} after {openings} openings", batches.len());
                mended_manifest(&what, dir.path(), openings);
            }
        }
    }
}

fn mended_manifest(what: &str, dir: &Path, openings: u64) {
    let (code, verified) = forebay("verify", dir);
    assert_eq!(code, 3, "{what}: {verified}");
    assert!(parts(&verified).iter().all(|(part, _)| *part == "manifest"), "{what}: {verified}");
    let (code, repaired) = forebay("repair", dir);
    assert_eq!(code, 0, "{what}: {repaired}");
    let quarantined: Vec<&str> = repaired["quarantined"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|kept| kept[0].as_str().expect("a name"))
        .collect();
    assert!(quarantined.iter().any(|name| name.ends_with(".damaged")), "{what}: {repaired}");
    let (code, verified) = forebay("verify", dir);
    assert_eq!(code, 0, "{what}: {verified}");
    let aside: u64 =
        quarantined.iter().filter(|name| name.ends_with(".parquet")).map(|name| rows_of(&dir.join(name))).sum();
    // What a lost record had committed comes out of the log again, as far as that still has it; the files
    // that it named are kept.
    open(dir).close().expect("a clean close");
    assert_eq!(forebay("verify", dir).0, 0, "{what}");
    let there = rows(dir);
    assert!(there <= ROWS && there + aside >= ROWS, "{what}: {there} rows, and {aside} aside");
    assert!(there == ROWS || openings > 1, "{what}: {there} rows");
}
