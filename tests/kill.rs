//! Faults 1 and 35 and promises P1 to P4: a process is killed at any moment, while it writes or while it
//! recovers, and nothing that it acknowledged is lost, twice, out of order or in part. A crash loop leaves a
//! store that is no larger than its options say, and that starts.
//!
//! The child is this same test program (the test `child` with `FOREBAY_KILL_CHILD` set). It reports
//! what it does in 16-byte records on stderr, each one `write` and so whole. `FOREBAY_KILLS` sets the
//! number of kills per setting (default 25), `FOREBAY_CRASH_LOOPS` that of the crash loop (default 30); a
//! failure prints the seed, `FOREBAY_KILL_SEED` repeats it as far as timing allows.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use forebay::store::{Store, StoreError, Unit};
use forebay::types::{Epoch, Nonce, Position, Seq, ShardId};
use forebay::{Block, Config, Cursor, Engine, store};

const WRITERS: u32 = 8;
const OPENED: u32 = u32::MAX;
const SHARDS: usize = 2;
const SEGMENT_BYTES: u64 = 1 << 20;
const INTAKE_BYTES: u64 = 512 << 10;
const INTAKE_SLOTS: u64 = 2048;

fn config(dir: &Path, setting: &str) -> Config {
    let config = Config::new(dir)
        .shards(SHARDS)
        .segment_bytes(SEGMENT_BYTES)
        .block_bytes_max(64 << 10)
        .batch_bytes_max(128 << 10)
        .intake_bytes(INTAKE_BYTES)
        .intake_slots(INTAKE_SLOTS)
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
        Self::start_test("child", format!("{setting}|{}", dir.display()))
    }

    fn start_test(name: &str, spec: String) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([name, "--exact", "--nocapture"])
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

    /// Kills the child and gives every acknowledgement that it sent; whether it had opened the store.
    fn kill(mut self, acked: &mut [Option<u64>]) -> bool {
        assert_eq!(self.child.try_wait().expect("a status"), None, "the child ended by itself");
        self.child.kill().expect("a kill");
        self.child.wait().expect("an end");
        let mut opened = false;
        for (writer, counter) in self.records {
            match writer {
                OPENED => opened = true,
                _ => acked[writer as usize] = Some(counter),
            }
        }
        opened
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

/// The seed, and numbers below what is asked for.
fn random() -> (u64, impl FnMut(u64) -> u64) {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut seed: u64 =
        std::env::var("FOREBAY_KILL_SEED").map_or(clock.as_nanos() as u64, |text| text.parse().expect("a number"));
    let first = seed;
    let next = move |most: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % most
    };
    (first, next)
}

fn kills(setting: &str) {
    let count: u64 = std::env::var("FOREBAY_KILLS").map_or(25, |text| text.parse().expect("a number"));
    let (first_seed, mut random) = random();
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

/// The log's bound in the crash loop: small enough to be reached within a life.
const LOOP_WAL_BYTES_MAX: u64 = 32 << 20;
/// What a start adds to a log at its bound: a segment of its own, and the reserve (of two) anew.
const START_BYTES_MAX: u64 = SHARDS as u64 * 3 * SEGMENT_BYTES;
/// A ring's file: the bytes, a line for each slot, the header's pages.
const RING_BYTES_MAX: u64 = INTAKE_BYTES + 64 * INTAKE_SLOTS + (64 << 10);
/// What `quarantine/` may hold of torn tails.
const QUARANTINE_BYTES_MAX: u64 = 64 << 20;
/// Everything else: IDENTITY, LOCK, the report, what the store itself keeps.
const REST_BYTES_MAX: u64 = 256 << 10;

/// Takes blocks, checks them and keeps what it needs for that: its progress, and each writer's next counter,
/// in one file that is replaced.
struct Counted {
    dir: PathBuf,
    /// Takes nothing: the log runs up to its bound.
    stuck: bool,
    kept: Kept,
}

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Kept {
    /// By shard: epoch, nonce and seq.
    progress: [(u64, u64, u64); SHARDS],
    next: [u64; WRITERS as usize],
}

impl Counted {
    const WRONG: &str = "wrong";

    fn new(dir: &Path, stuck: bool) -> Self {
        let dir = dir.join("kept");
        fs::create_dir_all(&dir).expect("a folder");
        let text = fs::read(dir.join("state"));
        let kept = text.map_or(Kept::default(), |text| serde_json::from_slice(&text).expect("as it was written"));
        Self { dir, stuck, kept }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let mut file = fs::File::create(self.dir.join("tmp"))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(self.dir.join("tmp"), self.dir.join(name))?;
        fs::File::open(&self.dir)?.sync_all()
    }
}

impl Store for Counted {
    fn progress(&mut self, shard: ShardId) -> Result<Option<Position>, StoreError> {
        let (epoch, nonce, seq) = self.kept.progress[usize::from(shard.0)];
        Ok((seq > 0).then_some(Position { epoch: Epoch(epoch), nonce: Nonce(nonce), seq: Seq(seq) }))
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        if self.stuck {
            return Err("takes nothing".into());
        }
        let mut kept = self.kept.clone();
        for delivered in unit.by_ref() {
            let block = delivered?.block;
            let (&is_first, bytes) = block.payload().split_last().ok_or("an empty block")?;
            let (writer, counter) = name_of(bytes);
            let next = &mut kept.next[writer as usize];
            // A life begins with the first block that was not acknowledged: it may be there already.
            let is_next = counter == *next || is_first == 1 && counter + 1 == *next;
            if bytes != payload(writer, counter) || !is_next {
                let wrong = format!("block {counter} of writer {writer} where {next} is next, or it differs");
                self.put(Self::WRONG, wrong.as_bytes())?;
                return Err(wrong.into());
            }
            *next = counter + 1;
        }
        let at = unit.upto();
        kept.progress[usize::from(unit.shard().0)] = (at.epoch.0, at.nonce.0, at.seq.0);
        self.put("state", &serde_json::to_vec(&kept)?)?;
        self.kept = kept;
        Ok(())
    }
}

fn open_in_the_loop(dir: &Path, setting: &str, stuck: bool) -> Engine {
    let config = config(dir, setting).wal_bytes_max(LOOP_WAL_BYTES_MAX).buffer_bytes(256 << 10).flush_period_ms(5);
    Engine::open_with(config, Box::new(Counted::new(dir, stuck))).expect("the store opens")
}

/// Runs in the child only: opens the store, says so, and goes on behind what was acknowledged until it is killed.
#[test]
fn child_of_the_crash_loop() {
    let Ok(spec) = std::env::var("FOREBAY_KILL_CHILD") else { return };
    let [setting, stuck, next, dir] = spec.split('|').collect::<Vec<_>>()[..] else { panic!("{spec}") };
    let engine = open_in_the_loop(Path::new(dir), setting, stuck == "stuck");
    record(OPENED, 0);
    std::thread::scope(|scope| {
        for (writer, next) in (0..).zip(next.split(',')) {
            let handle = engine.writer("kill").expect("a writer").key(&u32::to_le_bytes(writer));
            let first: u64 = next.parse().expect("a counter");
            scope.spawn(move || {
                for counter in first.. {
                    let mut bytes = payload(writer, counter);
                    bytes.push(u8::from(counter == first));
                    handle.append(Block::raw("t", bytes)).expect("an append");
                    record(writer, counter);
                }
            });
        }
    });
}

/// Bytes of all files below a folder whose path holds `name`.
fn bytes_below(dir: &Path, name: &str) -> u64 {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let bytes = entries.map(|path| match path.is_dir() {
        true => bytes_below(&path, name),
        false if path.to_string_lossy().contains(name) => fs::metadata(&path).expect("a file").len(),
        false => 0,
    });
    bytes.sum()
}

#[test]
fn a_crash_loop_loses_nothing_and_leaves_a_bounded_store_that_starts() {
    let count: u64 = std::env::var("FOREBAY_CRASH_LOOPS").map_or(30, |text| text.parse().expect("a number"));
    let (first_seed, mut random) = random();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let dir = folder.path();
    let mut acked = vec![None; WRITERS as usize];
    let next =
        |acked: &[Option<u64>]| -> Vec<u64> { acked.iter().map(|last| last.map_or(0, |last| last + 1)).collect() };
    let (mut opened, mut log_max, mut quarantine_max) = (0, 0, 0);
    for kill in 0..count {
        let setting = ["1", "2,P", "2,0"][kill as usize % 3];
        // For many lives in a row it takes nothing: the log is full, and each start must get along with that.
        let stuck = if kill % 30 < 20 { "stuck" } else { "takes" };
        let context = format!("kill {kill}, setting ({setting}), {stuck}, FOREBAY_KILL_SEED={first_seed}");
        let counters: Vec<String> = next(&acked).iter().map(u64::to_string).collect();
        let run = Run::start_test(
            "child_of_the_crash_loop",
            format!("{setting}|{stuck}|{}|{}", counters.join(","), dir.display()),
        );
        // A third of the kills while it recovers, or soon after.
        let life_ms = if random(3) == 0 { random(40) } else { random(1000) };
        std::thread::sleep(Duration::from_millis(life_ms));
        opened += u64::from(run.kill(&mut acked));
        assert_eq!(fs::read_to_string(dir.join("kept/wrong")).unwrap_or_default(), "", "{context}");
        let (all, rings) = (bytes_below(dir, ""), bytes_below(dir, "intake.ring"));
        let (log, quarantine) = (bytes_below(dir, "/shard-") - rings, bytes_below(dir, "/quarantine/"));
        assert!(log <= LOOP_WAL_BYTES_MAX + START_BYTES_MAX, "{context}: {log} bytes of segments");
        assert!(rings <= SHARDS as u64 * RING_BYTES_MAX, "{context}: {rings} bytes of rings");
        assert!(quarantine <= QUARANTINE_BYTES_MAX, "{context}: {quarantine} bytes in quarantine");
        let rest = all - log - rings - quarantine;
        assert!(rest <= REST_BYTES_MAX, "{context}: {rest} bytes beside");
        (log_max, quarantine_max) = (log_max.max(log), quarantine_max.max(quarantine));
    }
    open_in_the_loop(dir, "1", false).close().expect("everything is flushed");
    let there = Counted::new(dir, false).kept.next;
    for (writer, (there, acked)) in there.iter().zip(next(&acked)).enumerate() {
        // At most the block under way beyond it, in the last life or in one before.
        assert!((acked..=acked + 1).contains(there), "writer {writer}: {there} blocks, {acked} acknowledged");
    }
    println!(
        "{count} kills of one store, {} of them before it was open; {} blocks; at most {log_max} bytes of segments, \
         {quarantine_max} in quarantine",
        count - opened,
        there.iter().sum::<u64>()
    );
    // A few kills may all come before a store is open.
    let happened = opened > 0 && there.iter().all(|count| *count > 0);
    assert!(happened || count < 10, "{opened} of {count} opened: {there:?}");
}
