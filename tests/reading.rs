//! Other programs read the data files: DuckDB, Polars and pandas find in them what line protocol said,
//! while the engine runs, after its close, and after a merge.
//!
//! `FOREBAY_PYTHON` names a Python with the packages of `scripts/requirements.txt`; `.ci/run` makes one.
//! Without it these tests are skipped, and fail where `REQUIRE_RIG=1`.

#![cfg(feature = "parquet")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use forebay::data::parquet::{ParquetOptions, ParquetStore};
use forebay::data::upkeep::UpkeepOptions;
use forebay::serve::lines;
use forebay::{Block, Config, Engine};
use tempfile::TempDir;

const WEATHER: &str = "tests/data/nyc-weather-2000.lp";
const READERS: [&str; 3] = ["duckdb", "polars", "pandas"];

fn python() -> Option<PathBuf> {
    let named = std::env::var_os("FOREBAY_PYTHON").map(PathBuf::from);
    if named.is_none() {
        let why = "FOREBAY_PYTHON names no Python with duckdb, polars and pandas; see scripts/requirements.txt";
        assert!(std::env::var("REQUIRE_RIG").as_deref() != Ok("1"), "{why}");
        eprintln!("SKIPPED: {why}");
    }
    named
}

fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    let program = program.as_ref();
    Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("REQUIRE_RIG", "1")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// What a successful run says on stdout.
fn said(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{said}{complaint}", output.status);
    said.into_owned()
}

fn open(dir: &Path) -> Engine {
    let config = Config::new(dir)
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(128 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(256)
        .wal_bytes_max(64 << 20);
    // Files are merged when a test says so.
    let upkeep = UpkeepOptions { merge_percent: 0, ..UpkeepOptions::default() };
    let store = ParquetStore::new(ParquetOptions { upkeep, ..ParquetOptions::default() });
    Engine::open_with(config, Box::new(store)).expect("opens")
}

/// A text in pieces of about this many bytes, each of whole lines.
fn pieces(text: &str, bytes: usize) -> Vec<String> {
    let (mut pieces, mut piece, mut at) = (Vec::new(), String::new(), 0);
    while at < text.len() {
        let end = lines::line_end(text.as_bytes(), at).unwrap_or(text.len());
        piece.push_str(&text[at..end]);
        if piece.len() >= bytes || end == text.len() {
            pieces.push(std::mem::take(&mut piece));
        }
        at = end;
    }
    pieces
}

/// Appends a text in blocks, to all shards; it is in data files once the engine is closed.
fn append(engine: &Engine, text: &str) {
    for (at, piece) in pieces(text, 20_000).into_iter().enumerate() {
        let writer = engine.writer("plant7").expect("a writer").key(&at.to_le_bytes());
        writer.append(Block::lines(piece).expect("sound lines")).expect("taken");
    }
}

fn weather() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(WEATHER)).expect("the weather")
}

/// What is read from `data` is what `expected` says, with all three.
fn compare(python: &Path, dir: &TempDir, expected: &str) {
    let data = dir.path().join("data");
    let said_of = said(python, &["scripts/read-with.py", data.to_str().expect("UTF-8"), "--expect", expected]);
    assert!(said_of.ends_with("as expected: duckdb, polars, pandas\n"), "{said_of}");
    for reader in READERS {
        assert!(said_of.contains(&format!("plant7/weather with {reader}: 2000 rows in ")), "{said_of}");
    }
    assert!(said_of.contains("rows by origin: EWR 2000"), "{said_of}");
    // The same from the list of the program that lists them.
    let list = dir.path().join("files.json");
    let listed =
        said(env!("CARGO_BIN_EXE_forebay"), &["files", "--json", "--dir", dir.path().to_str().expect("UTF-8")]);
    fs::write(&list, listed).expect("written");
    let list = list.to_str().expect("UTF-8");
    let said_of = said(python, &["scripts/read-with.py", "--files", list, "--expect", expected]);
    assert!(said_of.ends_with("as expected: duckdb, polars, pandas\n"), "{said_of}");
}

fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

#[test]
fn the_script_passes_its_own_test() {
    let Some(python) = python() else { return };
    assert!(said(python, &["scripts/read-with.py", "--self-test"]).ends_with("self test passed\n"));
}

#[test]
fn weather_is_read_back_by_three_readers_at_every_stage() {
    let Some(python) = python() else { return };
    let dir = folder();
    let text = weather();
    let middle = text.len() / 2 + text[text.len() / 2..].find('\n').expect("a line's end") + 1;
    let engine = open(dir.path());
    append(&engine, &text[..middle]);
    let writer = engine.writer("plant7").expect("a writer");
    writer.append(Block::raw("weather", &b"raw bytes in a table of the same name"[..])).expect("taken");
    engine.close().expect("closes");
    let engine = open(dir.path());
    append(&engine, &text[middle..]);
    engine.close().expect("closes");
    let engine = open(dir.path());
    compare(&python, &dir, WEATHER);
    engine.close().expect("closes");
    compare(&python, &dir, WEATHER);
    let merged = said(env!("CARGO_BIN_EXE_forebay"), &["merge", "--dir", dir.path().to_str().expect("UTF-8")]);
    assert!(merged.contains("0 repeated by retries dropped"), "{merged}");
    compare(&python, &dir, WEATHER);
}

#[test]
fn a_value_that_is_not_what_was_written_is_seen() {
    let Some(python) = python() else { return };
    let dir = folder();
    let text = weather();
    let engine = open(dir.path());
    append(&engine, &text);
    engine.close().expect("closes");
    let data = dir.path().join("data");
    let changed = dir.path().join("changed.lp");
    fs::write(&changed, text.replacen("temp=39.02", "temp=39.03", 1)).expect("written");
    let arguments =
        ["scripts/read-with.py", data.to_str().expect("UTF-8"), "--expect", changed.to_str().expect("UTF-8")];
    let output = run(&python, &arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{complaint}");
    for reader in READERS {
        assert!(complaint.contains(&format!("plant7/weather with {reader}: column 'temp' adds up to ")), "{complaint}");
    }
}
