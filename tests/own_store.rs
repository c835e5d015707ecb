//! Rules for a store of one's own, proved with the one of `examples/sqlite`: a process is killed at
//! any moment, and every acknowledged block ends up in the database once, whole, under its own name.
//!
//! The child is this same test program (the test `child` with `FOREBAY_STORE_CHILD` set). It reports
//! each acknowledgement in a 32-byte record on stderr, one `write` and so whole. `FOREBAY_KILLS`
//! sets the number of kills (default 12); a failure prints the seed, `FOREBAY_KILL_SEED` repeats it
//! as far as timing allows.

#[path = "../examples/sqlite/store.rs"]
mod store;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use forebay::{Block, Config, Engine, Receipt};
use rusqlite::Connection;

const WRITERS: u32 = 6;
/// The counter of the record that says "the store is open".
const OPENED: u64 = u64::MAX;

/// The identity of a block: epoch, shard, seq.
type Name = (u64, u64, u64);
/// What a block says about itself: life of the child, writer, counter.
type Content = (u32, u32, u32);

fn open(dir: &Path, level: u32) -> Engine {
    let config = Config::new(dir.join("engine"))
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(64 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(2048)
        .wal_bytes_max(128 << 20)
        .buffer_bytes(64 << 10)
        .flush_period_ms(5);
    let config = match level {
        0 => config.wal_level(1),
        1 => config.wal_level(2).wal_fsync_period_ms(20),
        _ => config.wal_level(2).wal_fsync_period_ms(0),
    };
    let sqlite = store::Sqlite::new(&database(dir)).expect("the database opens");
    Engine::open_with(config, Box::new(sqlite)).expect("the store opens")
}

fn database(dir: &Path) -> PathBuf {
    dir.join("blocks.sqlite")
}

/// Rows of this block; 0: it is a raw one.
fn rows_of(counter: u32) -> u32 {
    if counter.is_multiple_of(3) { 0 } else { 1 + counter % 7 }
}

fn block((life, writer, counter): Content) -> Block {
    match rows_of(counter) {
        0 => {
            let filling = ".".repeat(counter.wrapping_mul(2_654_435_761) as usize % 3000);
            Block::raw("blobs", format!("[{life},{writer},{counter},\"{filling}\"]"))
        }
        rows => {
            let line = |row| format!("points,writer={writer} life={life}i,counter={counter}i,row={row}i {row}\n");
            Block::lines((0..rows).map(line).collect::<String>()).expect("sound lines")
        }
    }
}

/// What the child says: a block was acknowledged, or the store is open.
#[derive(Clone, Copy)]
struct Record {
    name: Name,
    content: Content,
}

impl Record {
    fn new(receipt: &Receipt, content: Content) -> Self {
        let stream = receipt.stream;
        Self { name: (stream.epoch.0, u64::from(stream.shard.0), receipt.seq.0), content }
    }

    /// Writer and shard are small numbers: text in place of a record is seen by its high bytes.
    fn send(self) {
        let ((epoch, shard, seq), (life, writer, counter)) = (self.name, self.content);
        let words = [epoch, seq, shard << 32 | u64::from(writer), u64::from(life) << 32 | u64::from(counter)];
        // The parent may be gone; then this process is about to be killed.
        let _ = std::io::stderr().write_all(&words.map(u64::to_le_bytes).concat());
    }

    fn read(bytes: &[u8; 32]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let (epoch, seq, (shard, writer), tail) = (word(0), word(8), (word(16) >> 32, word(16) as u32), word(24));
        let sound = shard < 2 && writer < WRITERS && epoch < 1 << 32;
        sound.then_some(Self { name: (epoch, shard, seq), content: ((tail >> 32) as u32, writer, tail as u32) })
    }
}

/// Runs in the child only: opens the store, says so, and appends until it is killed.
#[test]
fn child() {
    let Ok(spec) = std::env::var("FOREBAY_STORE_CHILD") else { return };
    let mut parts = spec.splitn(3, '|');
    let mut number = || parts.next().expect("level|life|folder").parse().expect("a number");
    let (level, life): (u32, u32) = (number(), number());
    let engine = open(Path::new(parts.next().expect("a folder")), level);
    Record { name: (0, 0, OPENED), content: (life, 0, 0) }.send();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let handle = engine.writer("kill").expect("a writer").key(&writer.to_le_bytes());
            scope.spawn(move || {
                for counter in 0.. {
                    let content = (life, writer, counter);
                    let receipt = handle.append(block(content)).expect("an append");
                    Record::new(&receipt, content).send();
                    // As fast as they can, writers would fill the log with what the store takes minutes for.
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
    });
}

struct Run {
    child: Child,
    records: Receiver<Record>,
}

impl Run {
    fn start(dir: &Path, level: u32, life: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["child", "--exact", "--nocapture"])
            .env("FOREBAY_STORE_CHILD", format!("{level}|{life}|{}", dir.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut pipe = child.stderr.take().expect("a pipe");
        let (sender, records) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 32];
            while pipe.read_exact(&mut bytes).is_ok() {
                let Some(record) = Record::read(&bytes) else {
                    let mut text = bytes.to_vec();
                    let _ = pipe.read_to_end(&mut text);
                    panic!("the child said: {}", String::from_utf8_lossy(&text));
                };
                if sender.send(record).is_err() {
                    return;
                }
            }
        });
        Self { child, records }
    }

    fn wait_until_open(&self) {
        let first = self.records.recv_timeout(Duration::from_secs(60)).expect("the child opens the store");
        assert_eq!(first.name.2, OPENED);
    }

    /// Kills the child and gives every acknowledgement that it sent.
    fn kill(mut self) -> Vec<Record> {
        self.child.kill().expect("a kill");
        let ended = self.child.wait().expect("an end");
        assert_eq!(ended.code(), None, "the child ended by itself: {ended}");
        self.records.iter().filter(|record| record.name.2 != OPENED).collect()
    }
}

/// The first three columns of a row: the name of its block.
fn name(row: &rusqlite::Row<'_>) -> rusqlite::Result<Name> {
    let number = |at| row.get(at).map(i64::cast_unsigned);
    Ok((number(0)?, number(1)?, number(2)?))
}

/// Everything in the database: what each block says about itself, under its name.
fn read(dir: &Path, context: &str) -> HashMap<Name, Content> {
    // A kill may have come before the tables.
    drop(store::Sqlite::new(&database(dir)).expect("the database opens"));
    let database = Connection::open(database(dir)).expect("the database");
    let mut blocks: HashMap<Name, Vec<(Content, i64)>> = HashMap::new();

    let select = "SELECT epoch, shard, seq, row, namespace || '.' || measurement, time, tags, fields FROM points";
    let mut points = database.prepare(select).expect(select);
    let points = points.query_map([], |row| {
        let texts: [String; 3] = [row.get(4)?, row.get(6)?, row.get(7)?];
        Ok((name(row)?, row.get::<_, i64>(3)?, row.get::<_, i64>(5)?, texts))
    });
    for point in points.expect("points") {
        let (name, row, time, [table, tags, fields]) = point.expect("a point");
        let number = |text: &str, key: &str| {
            let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
            value[key].as_u64().or_else(|| value[key].as_str()?.parse().ok()).expect("a number") as u32
        };
        let content = (number(&fields, "life"), number(&tags, "writer"), number(&fields, "counter"));
        assert_eq!((table.as_str(), time), ("kill.points", row), "{context}: not what was written: {fields}");
        assert_eq!(i64::from(number(&fields, "row")), row, "{context}: not what was written: {fields}");
        blocks.entry(name).or_default().push((content, row));
    }

    let select = "SELECT epoch, shard, seq, namespace || '.' || name, payload FROM blobs";
    let mut blobs = database.prepare(select).expect(select);
    let blobs = blobs.query_map([], |row| Ok((name(row)?, row.get::<_, String>(3)?, row.get::<_, Vec<u8>>(4)?)));
    for blob in blobs.expect("blobs") {
        let (name, table, payload) = blob.expect("a blob");
        let (life, writer, counter, _): (u32, u32, u32, String) = serde_json::from_slice(&payload).expect("JSON");
        let content = (life, writer, counter);
        let is_whole = block(content).payload() == payload;
        assert!(table == "kill.blobs" && is_whole, "{context}: not what was written: {table} {content:?}");
        blocks.entry(name).or_default().push((content, 0));
    }

    let mut contents = HashMap::new();
    for (name, mut rows) in blocks {
        rows.sort_unstable();
        let content = rows[0].0;
        let expected: Vec<_> = (0..i64::from(rows_of(content.2).max(1))).map(|row| (content, row)).collect();
        assert_eq!(rows, expected, "{context}: {name:?} is not there once and whole");
        contents.insert(name, content);
    }
    contents
}

/// Every writer's blocks of a life are a beginning of what it submitted, and none is there twice.
fn check_order(blocks: &HashMap<Name, Content>, acked: &[Record], context: &str) {
    let mut counters: BTreeMap<(u32, u32), Vec<(Name, u32)>> = BTreeMap::new();
    for (name, (life, writer, counter)) in blocks {
        counters.entry((*life, *writer)).or_default().push((*name, *counter));
    }
    for ((life, writer), mut found) in counters {
        found.sort_unstable();
        let counters: Vec<u32> = found.iter().map(|(_, counter)| *counter).collect();
        let dense: Vec<u32> = (0..counters.len() as u32).collect();
        assert_eq!(counters, dense, "{context}: writer {writer} of life {life}: out of order, twice or a hole");
        let last = acked.iter().filter(|record| (record.content.0, record.content.1) == (life, writer)).count();
        // One block may have been accepted without its acknowledgement having been sent.
        assert!(counters.len() <= last + 1, "{context}: {} blocks of {last} acknowledged ones", counters.len());
    }
}

#[test]
fn a_kill_leaves_every_acknowledged_block_in_an_own_store_exactly_once() {
    let count: u32 = std::env::var("FOREBAY_KILLS").map_or(12, |text| text.parse().expect("a number"));
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut seed: u64 =
        std::env::var("FOREBAY_KILL_SEED").map_or(clock.as_nanos() as u64, |text| text.parse().unwrap());
    let context = format!("FOREBAY_KILL_SEED={seed}");
    let mut random = |most: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % most
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let dir = folder.path();
    let mut acked: Vec<Record> = Vec::new();
    let (mut behind, mut flushed) = (0, 0);
    for life in 0..count {
        let run = Run::start(dir, random(3) as u32, life);
        if life % 4 == 3 {
            // While it opens, which includes the questions to the store.
            std::thread::sleep(Duration::from_micros(random(60_000)));
        } else {
            run.wait_until_open();
            std::thread::sleep(Duration::from_micros(random(120_000)));
        }
        let known = acked.len();
        acked.extend(run.kill());
        let there = read(dir, &format!("{context}, kill {life}"));
        let in_store = acked[known..].iter().filter(|record| there.contains_key(&record.name)).count();
        flushed += u32::from(in_store > 0);
        behind += u32::from(in_store < acked.len() - known);
    }
    open(dir, 0).close().expect("a clean close");
    let there = read(dir, &context);
    for record in &acked {
        let found = there.get(&record.name);
        assert_eq!(found, Some(&record.content), "{context}: {:?} was acknowledged", record.name);
    }
    check_order(&there, &acked, &context);
    println!("{} blocks acknowledged, {} in the store; {count} kills", acked.len(), there.len());
    println!("{flushed} kills after a flush, {behind} with blocks that only the log held");
    assert!(flushed * 4 >= count && behind * 4 >= count, "{context}: {flushed} and {behind} kills tell little");
}
