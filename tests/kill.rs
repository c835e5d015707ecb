//! Fault 1 and promises P1 to P4: a process is killed at any moment, while it writes or while it
//! recovers, and nothing that it acknowledged is lost, twice, out of order or in part.
//!
//! The child is this same test program (the test `child` with `FOREBAY_KILL_CHILD` set). It reports
//! what it does in 16-byte records on stderr, each one `write` and so whole. `FOREBAY_KILLS` sets
//! the number of kills per setting (default 25); a failure prints the seed, `FOREBAY_KILL_SEED`
//! repeats it as far as timing allows.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use forebay::{Block, Config, Cursor, Engine, store};

const WRITERS: u32 = 8;
const OPENED: u32 = u32::MAX;

fn config(dir: &Path, setting: &str) -> Config {
    let config = Config::new(dir)
        .shards(2)
        .segment_bytes(1 << 20)
        .block_bytes_max(64 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(2048)
        .wal_bytes_max(3 << 30);
    match setting {
        "1" => config.wal_level(1),
        "2,P" => config.wal_level(2).wal_fsync_period_ms(20),
        _ => config.wal_level(2).wal_fsync_period_ms(0),
    }
}

/// What block `counter` of a writer holds: nothing else may come back under that name.
fn payload(writer: u32, counter: u64) -> Vec<u8> {
    let length = 16 + (counter.wrapping_mul(2_654_435_761) ^ u64::from(writer)) as usize % 3000;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(writer.to_le_bytes());
    bytes.extend(counter.to_le_bytes());
    let mut state = counter ^ u64::from(writer) << 32 | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push(state as u8);
    }
    bytes
}

fn name_of(bytes: &[u8]) -> (u32, u64) {
    let writer = u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes"));
    (writer, u64::from_le_bytes(bytes[4..12].try_into().expect("8 bytes")))
}

fn record(writer: u32, counter: u64) {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&writer.to_le_bytes());
    bytes[4..12].copy_from_slice(&counter.to_le_bytes());
    // The parent may be gone; then this process is about to be killed.
    let _ = std::io::stderr().write_all(&bytes);
}

/// Runs in the child only: opens the store, says so, and appends until it is killed.
#[test]
fn child() {
    let Ok(spec) = std::env::var("FOREBAY_KILL_CHILD") else { return };
    let (setting, dir) = spec.split_once('|').expect("setting|folder");
    let engine = Engine::open_with(config(Path::new(dir), setting), Box::new(store::Hold)).expect("the store opens");
    let mut next = [0; WRITERS as usize];
    for delivered in engine.subscribe(Cursor::start()).expect("a subscription").until_end() {
        next[name_of(delivered.expect("a block").block.payload()).0 as usize] += 1;
    }
    record(OPENED, 0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let handle = engine.writer("kill").expect("a writer").key(&writer.to_le_bytes());
            let mut counter = next[writer as usize];
            scope.spawn(move || {
                loop {
                    handle.append(Block::raw("t", payload(writer, counter))).expect("an append");
                    record(writer, counter);
                    counter += 1;
                }
            });
        }
    });
}

struct Run {
    child: Child,
    records: Receiver<(u32, u64)>,
}

impl Run {
    fn start(dir: &Path, setting: &str) -> Self {
        let spec = format!("{setting}|{}", dir.display());
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["child", "--exact", "--nocapture"])
            .env("FOREBAY_KILL_CHILD", spec)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut pipe = child.stderr.take().expect("a pipe");
        let (sender, records) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 16];
            while pipe.read_exact(&mut bytes).is_ok() {
                let (writer, counter) = name_of(&bytes);
                if bytes[12..] != [0; 4] || (writer >= WRITERS && writer != OPENED) {
                    let mut text = bytes.to_vec();
                    let _ = pipe.read_to_end(&mut text);
                    panic!("the child said: {}", String::from_utf8_lossy(&text));
                }
                if sender.send((writer, counter)).is_err() {
                    return;
                }
            }
        });
        Self { child, records }
    }

    /// Kills the child and gives every acknowledgement that it sent.
    fn kill(mut self, acked: &mut [Option<u64>]) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("an end");
        for (writer, counter) in self.records.iter().filter(|(writer, _)| *writer != OPENED) {
            acked[writer as usize] = Some(counter);
        }
    }

    fn wait_until_open(&self) {
        let first = self.records.recv_timeout(Duration::from_secs(60)).expect("the child opens the store");
        assert_eq!(first.0, OPENED);
    }
}

/// Reads everything back and checks it; the next counter of each writer.
fn check(dir: &Path, setting: &str, acked: &[Option<u64>], begun: &[u64], lives: u64, context: &str) -> Vec<u64> {
    let engine = Engine::open_with(config(dir, setting), Box::new(store::Hold)).expect("the store opens");
    let mut seen: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut receipts = std::collections::HashSet::new();
    for delivered in engine.subscribe(Cursor::start()).expect("a subscription").until_end() {
        let delivered = delivered.expect("a block");
        assert!(receipts.insert(delivered.receipt), "{context}: {:?} twice", delivered.receipt);
        let bytes = delivered.block.payload();
        let (writer, counter) = name_of(bytes);
        assert_eq!(bytes, payload(writer, counter), "{context}: block {counter} of writer {writer} differs");
        seen.entry(writer).or_default().push(counter);
    }
    let mut next = Vec::new();
    for writer in 0..WRITERS {
        let counters = seen.remove(&writer).unwrap_or_default();
        let dense: Vec<u64> = (0..counters.len() as u64).collect();
        assert_eq!(counters, dense, "{context}: writer {writer} out of order, twice or with a hole");
        let count = counters.len() as u64;
        if let Some(last) = acked[writer as usize] {
            assert!(count > last, "{context}: writer {writer} was told that {last} is safe; {count} are there");
        }
        // In each life one block per writer may have been accepted without its acknowledgement having been sent.
        let most = acked[writer as usize].map_or(0, |last| last + 1).max(begun[writer as usize]) + lives;
        assert!(count <= most, "{context}: writer {writer} has {count} blocks, submitted were {most}");
        next.push(count);
    }
    assert!(seen.is_empty(), "{context}: blocks of nobody: {seen:?}");
    engine.close().expect("a clean close");
    next
}

fn kills(setting: &str) {
    let count: u64 = std::env::var("FOREBAY_KILLS").map_or(25, |text| text.parse().expect("a number"));
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut seed: u64 =
        std::env::var("FOREBAY_KILL_SEED").map_or(clock.as_nanos() as u64, |text| text.parse().unwrap());
    let first_seed = seed;
    let mut random = |most: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % most
    };
    let mut folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut acked = vec![None; WRITERS as usize];
    let mut next = vec![0; WRITERS as usize];
    let (mut during_recovery, mut open_us) = (0, 20_000);
    for kill in 0..count {
        let context = format!("setting ({setting}), kill {kill}, FOREBAY_KILL_SEED={first_seed}");
        // A quarter while it recovers, some of them several times in a row.
        let lives = if kill % 4 == 3 { 1 + random(3) } else { 1 };
        for _ in 0..lives {
            let run = Run::start(folder.path(), setting);
            if kill % 4 == 3 {
                std::thread::sleep(Duration::from_micros(random(open_us)));
                during_recovery += 1;
            } else {
                let began = Instant::now();
                run.wait_until_open();
                open_us = (began.elapsed().as_micros() as u64).max(1000);
                std::thread::sleep(Duration::from_micros(random(40_000)));
            }
            run.kill(&mut acked);
        }
        next = check(folder.path(), setting, &acked, &next, lives, &context);
        // Nothing is ever trimmed here: begin anew before the log becomes long.
        if kill % 40 == 39 {
            folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
            (acked, next) = (vec![None; WRITERS as usize], vec![0; WRITERS as usize]);
        }
    }
    println!("({setting}): {count} kills, {during_recovery} of them during recovery");
    assert!(during_recovery * 5 >= count.saturating_sub(4), "too few kills during recovery");
}

#[test]
fn a_kill_loses_nothing_acknowledged_at_level_1() {
    kills("1");
}

#[test]
fn a_kill_loses_nothing_acknowledged_at_level_2_with_a_period() {
    kills("2,P");
}

#[test]
fn a_kill_loses_nothing_acknowledged_at_level_2_with_fsync() {
    kills("2,0");
}
