//! Kills at any moment of flush, rename, merge and trim: every acknowledged row is in the data files once.
//!
//! The child is this same test program (the test `child` with `FOREBAY_DATA_KILL_CHILD` set). It flushes
//! all the time, into many small files that it merges as fast as it can, and reports each acknowledgement
//! in a record on stderr. The next child goes on where the acknowledgements ended, as a client does: what
//! it sends again is a retry, and must be gone after a merge. `FOREBAY_KILLS` sets the number of kills
//! (default 25); a failure prints the seed, `FOREBAY_KILL_SEED` repeats it as far as timing allows.

#![cfg(feature = "parquet")]

mod data_rows;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use data_rows::rows;
use forebay::data::parquet::{ParquetOptions, ParquetStore};
use forebay::data::upkeep::UpkeepOptions;
use forebay::engine::tools::merge_files;
use forebay::{Block, Config, Engine};

const WRITERS: u64 = 4;
/// Kills of one store; then another is begun, so that reading it stays quick.
const KILLS_OF_ONE_STORE: u64 = 25;

fn open(dir: &Path) -> Engine {
    let config = Config::new(dir)
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(64 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(1024)
        .wal_bytes_max(64 << 20)
        .flush_period_ms(2)
        .buffer_bytes(16 << 10);
    let upkeep = UpkeepOptions { merge_percent: 100, ..UpkeepOptions::default() };
    let store = ParquetStore::new(ParquetOptions { upkeep, ..ParquetOptions::default() });
    Engine::open_with(config, Box::new(store)).expect("the store opens")
}

/// The block of a writer's counter: rows on two days, one of them with a text that only it has.
fn text(writer: u64, counter: u64) -> String {
    let day = 86_400_000_000_000 * (counter % 2);
    format!(
        "m,w={writer} n={counter}i,part=0i {}\nm,w={writer} n={counter}i,part=1i,text=\"{writer}-{counter}\" {}\n",
        counter + 1,
        day + counter + 1
    )
}

/// Runs in the child only: appends until it is killed.
#[test]
fn child() {
    let Ok(spec) = std::env::var("FOREBAY_DATA_KILL_CHILD") else { return };
    let (counters, dir) = spec.split_once('|').expect("counters|folder");
    let next: Vec<u64> = counters.split(',').map(|text| text.parse().expect("a counter")).collect();
    let engine = open(Path::new(dir));
    std::thread::scope(|scope| {
        for (writer, mut counter) in (0..).zip(next) {
            let handle = engine.writer("kill").expect("a writer").key(&[writer as u8]);
            scope.spawn(move || {
                loop {
                    handle.append(Block::lines(text(writer, counter)).expect("sound")).expect("an append");
                    let mut record = [0; 16];
                    record[..8].copy_from_slice(&writer.to_le_bytes());
                    record[8..].copy_from_slice(&counter.to_le_bytes());
                    // The parent may be gone; then this process is about to be killed.
                    let _ = std::io::stderr().write_all(&record);
                    counter += 1;
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
    });
}

/// From when on the time of a child counts.
#[derive(PartialEq)]
enum Until {
    Started,
    Writing,
}

/// Lets a child live for so long; `next` moves behind what it acknowledged.
fn live(dir: &Path, until: Until, time: Duration, next: &mut [u64]) {
    let counters: Vec<String> = next.iter().map(u64::to_string).collect();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["child", "--exact", "--nocapture"])
        .env("FOREBAY_DATA_KILL_CHILD", format!("{}|{}", counters.join(","), dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut pipe = child.stderr.take().expect("a pipe");
    let (first, is_open) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = vec![0; 16];
        if pipe.read_exact(&mut said).is_err() {
            said.clear();
        }
        // Nobody waits for a child that is to die while it opens the store.
        let _ = first.send(());
        pipe.read_to_end(&mut said).expect("what the child said");
        said
    });
    if until == Until::Writing {
        is_open.recv_timeout(Duration::from_secs(60)).expect("the child opens the store");
    }
    std::thread::sleep(time);
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let said = reader.join().expect("what the child said");
    for record in said.chunks_exact(16) {
        let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("8 bytes"));
        assert!(word(0) < WRITERS, "the child said: {}", String::from_utf8_lossy(&said));
        next[word(0) as usize] = word(8) + 1;
    }
}

/// How often each (writer, counter, part) is in the data files.
fn count(dir: &Path, context: &str) -> BTreeMap<(u64, u64, u64), u64> {
    let mut counts = BTreeMap::new();
    for words in rows(dir).into_values() {
        let word = |name: &str| {
            let found = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{context}: no {name} in {words:?}")).trim_matches('"').to_owned()
        };
        let number = |name: &str| word(name).parse::<u64>().expect("a number");
        let key = (number("w"), number("n"), number("part"));
        if key.2 == 1 {
            assert_eq!(word("text"), format!("{}-{}", key.0, key.1), "{context}");
        }
        *counts.entry(key).or_default() += 1;
    }
    counts
}

#[test]
fn a_kill_at_any_step_leaves_every_acknowledged_row_in_the_data_files_once() {
    let kills: u64 = std::env::var("FOREBAY_KILLS").map_or(25, |text| text.parse().expect("a number"));
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut seed: u64 =
        std::env::var("FOREBAY_KILL_SEED").map_or(clock.as_nanos() as u64, |text| text.parse().expect("a number"));
    let first_seed = seed;
    let mut random = |most: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % most
    };
    let mut done = 0;
    let mut rows_checked = 0;
    while done < kills {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mut next = [0; WRITERS as usize];
        for kill in done..kills.min(done + KILLS_OF_ONE_STORE) {
            let until = if random(5) == 0 { Until::Started } else { Until::Writing };
            live(folder.path(), until, Duration::from_millis(random(200)), &mut next);
            if kill % 5 == 4 {
                check(folder.path(), &next, &format!("kill {kill}, FOREBAY_KILL_SEED={first_seed}"));
            }
        }
        done = kills.min(done + KILLS_OF_ONE_STORE);
        let context = format!("after {done} kills, FOREBAY_KILL_SEED={first_seed}");
        check(folder.path(), &next, &context);
        merge_files(folder.path(), Default::default(), &mut |_| {}).expect("merges");
        let counts = count(folder.path(), &context);
        rows_checked += counts.len();
        if let Some((key, count)) = counts.iter().find(|(_, count)| **count != 1) {
            panic!("{context}: {key:?} is there {count} times after a merge");
        }
    }
    println!("{kills} kills, {rows_checked} rows");
    assert!(rows_checked as u64 > kills, "too few rows were written: {rows_checked}");
}

/// Everything that was acknowledged is there; what is there and was not is the one block under way.
fn check(dir: &Path, next: &[u64], context: &str) {
    open(dir).close().expect("a clean close");
    let counts = count(dir, context);
    for (writer, &next) in (0..).zip(next) {
        for counter in 0..next {
            for part in [0, 1] {
                assert!(counts.contains_key(&(writer, counter, part)), "{context}: {writer} {counter} {part} is lost");
            }
        }
    }
    let beyond = counts.keys().find(|(writer, counter, _)| *counter > next[*writer as usize]);
    assert_eq!(beyond, None, "{context}: a row that nobody sent");
}
