//! Real input through kills: resumed each time where the acknowledgements ended, and in the end every row
//! of it is in the data files once, value by value, at each setting.
//!
//! The child is this same test program (the test `child` with `FOREBAY_DATA_INPUT_CHILD` set). It reports
//! each acknowledgement on stderr. `FOREBAY_INPUT` names another input of line protocol (gzip is
//! recognized) than the 2,000 rows of weather, `FOREBAY_KILLS` the kills at each setting (default 20); a
//! failure prints the seed, `FOREBAY_KILL_SEED` repeats it as far as timing allows.

#![cfg(feature = "parquet")]

mod data_rows;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use data_rows::rows;
use forebay::engine::tools::merge_files;
use forebay::serve::lines::{FieldValue, line_end, lines};
use forebay::{Block, Config, Engine};

const WRITERS: usize = 4;
const ROWS_IN_A_BLOCK: usize = 50;
const SETTINGS: [&str; 3] = ["1", "2,3000", "2,0"];

fn open(dir: &Path, setting: &str) -> Engine {
    let config = Config::new(dir)
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(64 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(1024)
        .wal_bytes_max(64 << 20)
        .flush_period_ms(5)
        .buffer_bytes(64 << 10);
    let config = match setting.split_once(',') {
        None => config.wal_level(1),
        Some((_, period)) => config.wal_level(2).wal_fsync_period_ms(period.parse().expect("milliseconds")),
    };
    Engine::open(config).expect("the store opens")
}

/// The input, cut into blocks.
fn blocks() -> Vec<String> {
    let path = std::env::var_os("FOREBAY_INPUT").map_or("tests/data/nyc-weather-2000.lp".into(), PathBuf::from);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut text).expect("gzip");
    } else {
        text = bytes;
    }
    let (mut blocks, mut rest) = (Vec::new(), &text[..]);
    while !rest.is_empty() {
        let next = |at: usize| line_end(rest, at).unwrap_or(rest.len());
        let end = (0..ROWS_IN_A_BLOCK).fold(0, |at, _| next(at));
        blocks.push(String::from_utf8(rest[..end].to_vec()).expect("text"));
        rest = &rest[end..];
    }
    blocks
}

/// Runs in the child only: appends what is left of the input. Writer n has blocks n, n + 4, n + 8, ...
#[test]
fn child() {
    let Ok(spec) = std::env::var("FOREBAY_DATA_INPUT_CHILD") else { return };
    let mut words = spec.splitn(3, '|');
    let mut word = || words.next().expect("setting|counters|folder");
    let (setting, counters, dir) = (word(), word(), word());
    let next: Vec<usize> = counters.split(':').map(|text| text.parse().expect("a counter")).collect();
    let blocks = &blocks();
    let engine = open(Path::new(dir), setting);
    std::thread::scope(|scope| {
        for (number, next) in next.into_iter().enumerate() {
            let writer = engine.writer("weather").expect("a writer").key(&[number as u8]);
            scope.spawn(move || {
                for (counter, text) in blocks.iter().skip(number).step_by(WRITERS).enumerate().skip(next) {
                    writer.append(Block::lines(text.clone()).expect("sound")).expect("an append");
                    // The parent may be gone; then this process is about to be killed.
                    let _ = std::io::stderr().write_all(&[number as u8, counter as u8, (counter >> 8) as u8]);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
    engine.close().expect("a clean close");
}

/// Lets a child live, for so long after its first acknowledgement or to its end; `next` moves behind what
/// it acknowledged.
fn live(dir: &Path, setting: &str, time: Option<Duration>, next: &mut [usize]) {
    let counters: Vec<String> = next.iter().map(usize::to_string).collect();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["child", "--exact", "--nocapture"])
        .env("FOREBAY_DATA_INPUT_CHILD", format!("{setting}|{}|{}", counters.join(":"), dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut pipe = child.stderr.take().expect("a pipe");
    let (first, is_writing) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = vec![0; 3];
        if pipe.read_exact(&mut said).is_err() {
            said.clear();
        }
        let _ = first.send(());
        pipe.read_to_end(&mut said).expect("what the child said");
        said
    });
    if let Some(time) = time {
        is_writing.recv_timeout(Duration::from_secs(60)).expect("the child writes, or ends");
        std::thread::sleep(time);
        child.kill().expect("a kill");
    }
    let status = child.wait().expect("an end");
    let said = reader.join().expect("what the child said");
    let records = said.chunks_exact(3).map(|record| (usize::from(record[0]), [record[1], record[2]]));
    for (writer, counter) in records {
        assert!(writer < WRITERS, "the child said: {}", String::from_utf8_lossy(&said));
        next[writer] = usize::from(u16::from_le_bytes(counter)) + 1;
    }
    assert!(time.is_some() || status.success(), "the child said: {}", String::from_utf8_lossy(&said));
}

/// The rows that the input has, as the data files show them, and how often each is there.
fn expected(blocks: &[String]) -> BTreeMap<Vec<String>, u64> {
    let mut rows = BTreeMap::new();
    for line in blocks.iter().flat_map(|block| lines(block.as_bytes())) {
        let line = line.expect("sound");
        let mut tags: Vec<String> = line.tags().map(|(key, value)| format!("{key}={value:?}")).collect();
        let mut fields: Vec<(String, String)> = line
            .fields()
            .map(|(key, value)| match value {
                FieldValue::Float(value) => (key.into(), format!("{value:?}")),
                FieldValue::Integer(value) => (key.into(), format!("{value}")),
                FieldValue::Unsigned(value) => (key.into(), format!("{value}u")),
                FieldValue::Boolean(value) => (key.into(), format!("{value}")),
                FieldValue::Text(value) => (key.into(), format!("{value:?}")),
            })
            .collect();
        tags.sort();
        fields.sort();
        let time = format!("time={}", line.time().expect("a time"));
        let fields = fields.into_iter().map(|(key, value)| format!("{key}={value}"));
        *rows.entry([time].into_iter().chain(tags).chain(fields).collect()).or_default() += 1;
    }
    rows
}

#[test]
fn an_input_resumed_after_each_kill_is_in_the_data_files_once() {
    let kills: u32 = std::env::var("FOREBAY_KILLS").map_or(20, |text| text.parse().expect("a number"));
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut seed: u64 =
        std::env::var("FOREBAY_KILL_SEED").map_or(clock.as_nanos() as u64, |text| text.parse().expect("a number"));
    let first_seed = seed;
    let blocks = blocks();
    let expected = expected(&blocks);
    for setting in SETTINGS {
        let context = format!("setting ({setting}), FOREBAY_KILL_SEED={first_seed}");
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mut next = [0; WRITERS];
        let mut killed_while_writing = 0;
        for _ in 0..kills {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // All lives together have less time than the naps of its writers take.
            let most = 700 * blocks.len() as u64 / WRITERS as u64 / u64::from(kills);
            live(folder.path(), setting, Some(Duration::from_micros(seed % (2 * most))), &mut next);
            killed_while_writing += u32::from(next.iter().sum::<usize>() < blocks.len());
        }
        live(folder.path(), setting, None, &mut next);
        assert_eq!(next.iter().sum::<usize>(), blocks.len(), "{context}: all blocks are acknowledged");
        // What was sent again after a kill may be there twice until files are merged.
        let before = rows(folder.path()).len() as u64;
        let merged = merge_files(folder.path(), Default::default(), &mut |_| {}).expect("merges");
        let mut found: BTreeMap<Vec<String>, u64> = BTreeMap::new();
        for row in rows(folder.path()).into_values() {
            *found.entry(row).or_default() += 1;
        }
        let wrong = found.iter().find(|(row, count)| expected.get(*row) != Some(count));
        assert_eq!(wrong, None, "{context}: the input has it {:?} times", wrong.map(|(row, _)| expected.get(row)));
        let lost = expected.keys().find(|row| !found.contains_key(*row));
        assert_eq!(lost, None, "{context}: lost");
        println!(
            "({setting}): {} rows after {kills} kills, {killed_while_writing} of them while there was input left; \
             {before} before the merge, which dropped {}",
            found.values().sum::<u64>(),
            merged.rows_dropped
        );
        assert!(killed_while_writing * 4 >= kills, "{context}: {killed_while_writing} kills tell little");
    }
}
