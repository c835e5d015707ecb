//! The whole path with Parquet: blocks become data files, once each, whatever happens to files, manifest
//! and process in between.

#![cfg(feature = "parquet")]

mod data_rows;

use std::path::Path;

use data_rows::rows;
use forebay::data::parquet::{ParquetOptions, ParquetStore};
use forebay::data::upkeep::UpkeepOptions;
use forebay::engine::tools::{list_files, merge_files};
use forebay::{Block, Config, Engine};

/// Small sizes, so that everything happens often.
fn config(dir: &Path) -> Config {
    Config::new(dir)
        .shards(1)
        .segment_bytes(1 << 20)
        .block_bytes_max(128 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(256)
        .wal_bytes_max(32 << 20)
}

fn open(config: Config) -> Engine {
    let upkeep = UpkeepOptions { merge_percent: 0, ..UpkeepOptions::default() };
    let store = ParquetStore::new(ParquetOptions { upkeep, ..ParquetOptions::default() });
    Engine::open_with(config, Box::new(store)).expect("opens")
}

#[test]
fn every_value_of_a_line_and_a_raw_block_is_in_the_data_files() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let engine = open(config(dir.path()));
    let writer = engine.writer("plant7").expect("a writer");
    let text = "m,b=y,a=x f=1.5,i=-7i,u=18446744073709551615u,t=true,s=\"quo\\\"te\" 1000\n\
                m f=2,new=\"\" -1\n\
                other\\ table,a=x time=3i,_seq=4i 9223372036854775807\n";
    writer.append(Block::lines(text).expect("sound")).expect("taken");
    writer.append(Block::raw("blobs", &b"any \x00 bytes"[..])).expect("taken");
    engine.close().expect("closes");
    let rows: Vec<Vec<String>> = rows(dir.path()).into_values().collect();
    let expected: [&[&str]; 4] = [
        &["time=1000", "a=\"x\"", "b=\"y\"", "f=1.5", "i=-7", "s=\"quo\\\"te\"", "t=true", "u=18446744073709551615u"],
        &["time=-1", "f=2.0", "new=\"\""],
        &["time=9223372036854775807", "a=\"x\"", "_seq@integer=4", "time@integer=3"],
        &["payload=\"any \\0 bytes\""],
    ];
    assert_eq!(rows, expected);
    let listing = list_files(dir.path()).expect("a list");
    let folders: Vec<String> = listing.files.iter().map(|file| file.part.folder()).collect();
    assert!(folders.contains(&"plant7/m/day=1970-01-01".to_owned()), "{folders:?}");
    assert!(folders.contains(&"plant7/m/day=1969-12-31".to_owned()), "{folders:?}");
    assert!(folders.contains(&"plant7/other%20table/day=2262-04-11".to_owned()), "{folders:?}");
}

#[test]
fn small_files_become_one_and_a_retry_of_a_block_vanishes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let lines = |from: u64| (from..from + 10).map(|n| format!("m,id={} v={n}i {n}\n", n % 3)).collect::<String>();
    for from in [0, 10, 10, 20] {
        let engine = open(config(dir.path()));
        let writer = engine.writer("n").expect("a writer");
        writer.append(Block::lines(lines(from)).expect("sound")).expect("taken");
        engine.close().expect("closes");
    }
    let before = rows(dir.path());
    assert_eq!((before.len(), list_files(dir.path()).expect("a list").files.len()), (40, 4));
    let merged = merge_files(dir.path(), Default::default(), &mut |_| {}).expect("merges");
    assert_eq!((merged.files_before, merged.files_after, merged.rows, merged.rows_dropped), (4, 1, 30, 10));
    let after = rows(dir.path());
    let mut values: Vec<&Vec<String>> = after.values().collect();
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 30);
    assert!(after.keys().all(|[_, epoch, ..]| *epoch != 2), "the earlier of two sendings is the one that goes");
    assert_eq!(merge_files(dir.path(), Default::default(), &mut |_| {}).expect("merges").files_before, 0);
}

#[test]
fn a_file_deleted_by_hand_is_forgotten_and_a_file_that_no_record_names_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for n in 0..2 {
        let engine = open(config(dir.path()));
        let writer = engine.writer("n").expect("a writer");
        writer.append(Block::lines(format!("m v={n}i {n}")).expect("sound")).expect("taken");
        engine.close().expect("closes");
    }
    let listing = list_files(dir.path()).expect("a list");
    let path = listing.root.join(listing.files[0].path());
    let kept = std::fs::read(&path).expect("a data file");
    std::fs::remove_file(&path).expect("deleted");
    open(config(dir.path())).close().expect("opens without it");
    assert_eq!(list_files(dir.path()).expect("a list").files.len(), 1);
    std::fs::write(&path, kept).expect("put back");
    let error = Engine::open_with(config(dir.path()), Box::new(ParquetStore::default())).err().expect("refused");
    let text = error.to_string();
    assert!(text.contains("not in the manifest") && text.contains("salvage"), "{text}");
    let salvage = config(dir.path()).on_damage(forebay::OnDamage::Salvage);
    open(salvage).close().expect("opens");
    assert!(!path.exists() && rows(dir.path()).len() == 1);
}

#[test]
fn a_field_of_another_type_is_refused_and_nothing_of_its_block_is_logged() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let engine = open(config(dir.path()));
    let writer = engine.writer("n").expect("a writer");
    writer.append(Block::lines("m,id=1 v=1.5 1\n").expect("sound")).expect("taken");
    let marks = engine.marks();
    let mixed = Block::lines("m,id=1 v=2.5,new=1i 2\nm,id=1 v=3i 3\n").expect("sound");
    let error = writer.append(mixed.clone()).expect_err("a conflict").to_string();
    assert!(error.starts_with("line 2, column 8: 'v' is integer here and float in its table"), "{error}");
    let rejected = writer.submit(mixed.clone()).err().expect("a conflict");
    assert_eq!(rejected.block, mixed, "the block comes back");
    assert_eq!(engine.marks()[0].accepted, marks[0].accepted);
    // The block left nothing behind: its new field can have any type.
    writer.append(Block::lines("m new=\"text\" 4\n").expect("sound")).expect("taken");
    engine.close().expect("closes");
    // The manifest knows the types.
    let engine = open(config(dir.path()));
    let writer = engine.writer("n").expect("a writer");
    let error = writer.append(Block::lines("m new=1 5\n").expect("sound")).expect_err("a conflict").to_string();
    assert!(error.contains("float here and string"), "{error}");
    assert_eq!(rows(dir.path()).len(), 2);
}

#[test]
fn the_log_alone_teaches_types_and_conflicts_in_it_are_flushed_beside() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    // Without a store that judges them, anything gets into the log.
    let engine = Engine::open_with(config(dir.path()), Box::new(forebay::store::Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    writer.append(Block::lines("m v=1.5,time=1i 1\nm v=2i 2\nm v=\"x\",v2=t 3\n").expect("sound")).expect("taken");
    engine.close().expect("closes");
    let engine = open(config(dir.path()).flush_period_ms(60_000));
    let writer = engine.writer("n").expect("a writer");
    let error = writer.append(Block::lines("m v=3i 5\n").expect("sound")).expect_err("a conflict").to_string();
    assert!(error.contains("integer here and float"), "{error}");
    engine.close().expect("closes");
    assert_eq!(list_files(dir.path()).expect("a list").files.len(), 1);
    let rows: Vec<Vec<String>> = rows(dir.path()).into_values().collect();
    let expected: [&[&str]; 3] =
        [&["time=1", "time@integer=1", "v=1.5"], &["time=2", "v@integer=2"], &["time=3", "v2=true", "v@string=\"x\""]];
    assert_eq!(rows, expected);
}

#[test]
fn of_two_writers_who_give_a_field_two_types_one_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let engine = open(config(dir.path()));
    for field in 0..100 {
        let texts = [format!("m f{field}=1i 1\n"), format!("m f{field}=t 1\n")];
        let taken: Vec<bool> = std::thread::scope(|scope| {
            let writers = texts.map(|text| {
                let writer = engine.writer("n").expect("a writer");
                scope.spawn(move || writer.append(Block::lines(text).expect("sound")).is_ok())
            });
            writers.map(|writer| writer.join().expect("a writer")).to_vec()
        });
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "field {field}");
    }
    engine.close().expect("closes");
    assert_eq!(rows(dir.path()).len(), 100);
}

#[test]
fn what_the_store_does_is_counted_and_old_days_are_removed() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    let engine = Engine::open_with(config(dir.path()), Box::new(forebay::store::Hold)).expect("opens");
    let writer = engine.writer("n").expect("a writer");
    writer.append(Block::lines(format!("m v=1 1\nm v=1i 2\nm v=2 {now}\n")).expect("sound")).expect("taken");
    engine.close().expect("closes");
    let upkeep = UpkeepOptions { merge_percent: 0, data_retention_days: Some(2) };
    let store = ParquetStore::new(ParquetOptions { upkeep, ..ParquetOptions::default() });
    let engine = Engine::open_with(config(dir.path()).flush_period_ms(10), Box::new(store)).expect("opens");
    let is_done = || engine.stats().store.files == 2 && list_files(dir.path()).expect("a list").files.len() == 1;
    let began = std::time::Instant::now();
    while !is_done() {
        assert!(began.elapsed().as_secs() < 60, "{:?}", engine.stats().store);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let counts = engine.stats().store;
    assert_eq!((counts.flushes, counts.rows, counts.conflicts, counts.failed_flushes), (1, 3, 1, 0));
    engine.close().expect("closes");
    assert_eq!(rows(dir.path()).len(), 1);
}
