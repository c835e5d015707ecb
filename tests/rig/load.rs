//! The engine under load, in a process of its own: it opens the store, appends, and marks each acknowledgement
//! in the disk's log before it goes on.

use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay::data::parquet::{ParquetOptions, ParquetStore};
use forebay::data::upkeep::UpkeepOptions;
use forebay::planted::{Mutant, plant_everywhere};
use forebay::{Block, Config, Cursor, Durability, Engine, Error, OnDamage, Receipt, Rejected, Why, Writer, store};
use rustix::fs::{Advice, fadvise, syncfs};
use serde::{Deserialize, Serialize};

use crate::device::Rig;
use crate::image::{Mark, MarkKind};
use crate::server::MARKS;

/// The environment variable that makes this program the engine's process, with its [`Load`].
pub const LOAD: &str = "FOREBAY_RIG_LOAD";
pub const WRITERS: u32 = 8;
/// What a writer says.
pub const WAITS: &str = "waits";
pub const FULL: &str = "full";
pub const AGAIN: &str = "again";

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    Level1,
    Period,
    Each,
}

impl Setting {
    pub const PERIOD_MS: u64 = 30;
    pub const ALL: [Self; 3] = [Self::Level1, Self::Period, Self::Each];
}

/// What becomes of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sink {
    /// They stay in the log.
    Hold,
    /// They leave it once they are synced, so that files are recycled.
    Null,
    /// They become rows of data files, a few at a time.
    Parquet,
}

/// What the engine's process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub store: PathBuf,
    pub marks: PathBuf,
    pub setting: Setting,
    pub sink: Sink,
    /// Blocks a writer.
    pub blocks: u64,
    /// Openings one after another, each but the last ended by a clean close.
    pub lives: u32,
    /// Every so-manieth block of a writer is to be synced at every level.
    pub synced_every: u64,
    /// Pages of the ring are written to the disk at any time, as a kernel that is short of memory does.
    pub writeback: bool,
    /// So is the file system's journal.
    pub commits: bool,
    /// Milliseconds between the opening and the first append: the segments ahead of need are there by then.
    pub settle_ms: u64,
    /// Writers say on stderr when they begin to wait for room ([`WAITS`], or [`FULL`] where they are told that the
    /// store is full), and when what they waited with is acknowledged ([`AGAIN`]).
    pub tells: bool,
    /// A planted bug, by its name.
    pub mutant: Option<String>,
}

impl Load {
    pub fn new(rig: &Rig, setting: Setting, sink: Sink, blocks: u64) -> Self {
        let (store, marks) = (rig.store(), rig.dir.join(MARKS));
        Self {
            store,
            marks,
            setting,
            sink,
            blocks,
            lives: 1,
            synced_every: 64,
            writeback: true,
            commits: false,
            settle_ms: 0,
            tells: false,
            mutant: None,
        }
    }

    /// Runs it to its end; what it said on stderr and its exit code.
    pub fn run(&self) -> (String, i32) {
        let mut child = self.spawn();
        let mut text = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
        let status = child.wait().expect("an end");
        (text, status.code().unwrap_or(-1))
    }

    pub fn spawn(&self) -> Child {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["load", "--exact", "--nocapture"])
            .env(LOAD, serde_json::to_string(self).expect("plain fields"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the engine's process")
    }

    /// Opens the store as this says.
    pub fn open(&self) -> Result<Engine, Error> {
        self.open_with(OnDamage::Refuse)
    }

    pub fn open_with(&self, on_damage: OnDamage) -> Result<Engine, Error> {
        let config = config(&self.store, self.setting).on_damage(on_damage);
        match self.sink {
            Sink::Hold => Engine::open_with(config, Box::new(store::Hold)),
            Sink::Null => Engine::open_with(config.hold_for_subscriber(true), Box::new(store::Null)),
            Sink::Parquet => {
                let upkeep = UpkeepOptions { merge_percent: 100, ..UpkeepOptions::default() };
                let store = ParquetStore::new(ParquetOptions { upkeep, ..ParquetOptions::default() });
                Engine::open_with(config.buffer_bytes(16 << 10).flush_period_ms(10), Box::new(store))
            }
        }
    }

    fn block(&self, writer: u32, counter: u64) -> Block {
        match self.sink {
            Sink::Parquet => Block::lines(lines(writer, counter)).expect("sound"),
            Sink::Hold | Sink::Null => Block::raw("t", payload(writer, counter)),
        }
    }
}

/// As small as the options allow, so that images are small and segments are many.
pub fn config(dir: &Path, setting: Setting) -> Config {
    let config = Config::new(dir)
        .shards(2)
        .cpus(Vec::new())
        .segment_bytes(1 << 20)
        .block_bytes_max(16 << 10)
        .batch_bytes_max(64 << 10)
        .intake_bytes(128 << 10)
        .intake_slots(256)
        .wal_bytes_max(24 << 20)
        // However slow the machine: no append of the rig gives up.
        .append_deadline_ms(600_000);
    match setting {
        Setting::Level1 => config.wal_level(1),
        Setting::Period => config.wal_level(2).wal_fsync_period_ms(Setting::PERIOD_MS),
        Setting::Each => config.wal_level(2).wal_fsync_period_ms(0),
    }
}

/// What block `counter` of a writer holds: nothing else may come back under that name.
pub fn payload(writer: u32, counter: u64) -> Vec<u8> {
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

/// The block as two rows on two days, one of them with a text that only it has.
pub fn lines(writer: u32, counter: u64) -> String {
    let at = 86_400_000_000_000 * (counter % 2) + counter + 1;
    let text = row_text(writer, counter);
    format!("m,w={writer} n={counter}i,part=0i {at}\nm,w={writer} n={counter}i,part=1i,text=\"{text}\" {}\n", at + 1)
}

pub fn row_text(writer: u32, counter: u64) -> String {
    format!("{writer}-{counter}-{}", "x".repeat((counter as usize * 7 + writer as usize) % 500))
}

/// The name of a block, where it has one.
pub fn name_of(bytes: &[u8]) -> Option<(u32, u64)> {
    let writer = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    Some((writer, u64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?)))
}

/// Runs in the engine's process only.
pub fn work(load: &Load) {
    plant_everywhere(load.mutant.as_deref().map(|name| name.parse::<Mutant>().expect("a planted bug")));
    for life in 1..=load.lives {
        match live(load, life) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(error.exit_code().into());
            }
        }
    }
}

fn live(load: &Load, life: u32) -> Result<(), Error> {
    let marker = Marker::connect(&load.marks);
    let engine = load.open()?;
    // After a clean close all is there; it need not be in the log any more.
    let mut next = [u64::from(life - 1) * load.blocks; WRITERS as usize];
    for delivered in engine.subscribe(Cursor::start())?.until_end() {
        let delivered = delivered?;
        if let Some((writer, counter)) = name_of(delivered.block.payload()).filter(|_| load.sink != Sink::Parquet) {
            next[writer as usize] = counter + 1;
        }
    }
    std::thread::sleep(Duration::from_millis(load.settle_ms));
    for (writer, counter) in (0..).zip(next) {
        marker.mark(Mark { kind: MarkKind::Opened, writer, counter, shard: 0, epoch: engine.report().epoch, seq: 0 });
    }
    let ended = AtomicBool::new(false);
    let failed: Option<Error> = std::thread::scope(|scope| {
        scope.spawn(|| watch_for_stalls(&Marker::connect(&load.marks), &ended));
        scope.spawn(|| write_back(load, &ended));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (engine, from) = (&engine, next[writer as usize]);
                let marker = Marker::connect(&load.marks);
                scope.spawn(move || append(engine, load, writer, from..u64::from(life) * load.blocks, &marker))
            })
            .collect();
        let failed: Vec<_> = writers.into_iter().filter_map(|writer| writer.join().expect("a writer").err()).collect();
        ended.store(true, Ordering::Release);
        failed.into_iter().next()
    });
    if load.setting == Setting::Period && failed.is_none() {
        wait_until_synced(&engine);
    }
    let stats = engine.stats();
    for (kind, longest_us) in [(MarkKind::LongestWrite, &stats.write_us), (MarkKind::LongestSync, &stats.sync_us)] {
        let counter = (longest_us.max() + 1) * 1_000;
        marker.mark(Mark { kind, writer: 0, counter, shard: 0, epoch: 0, seq: 0 });
    }
    let counter = waited_for_cpu();
    marker.mark(Mark { kind: MarkKind::Waited, writer: 0, counter, shard: 0, epoch: 0, seq: 0 });
    engine.close()?;
    failed.map_or(Ok(()), Err)
}

/// For how long the shards' threads, and the kernel's that carry out their calls, could have run and had no CPU.
fn waited_for_cpu() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this process's threads");
    let waited = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let is_of_a_shard = name.starts_with("forebay-shard") || name.starts_with("iou-");
        // Run, waited, times: nanoseconds, as the scheduler counts them.
        let times = std::fs::read_to_string(task.join("schedstat")).ok()?;
        is_of_a_shard.then(|| times.split(' ').nth(1)?.parse::<u64>().ok()).flatten()
    });
    waited.sum()
}

/// The period syncs all that was acknowledged, without being asked.
fn wait_until_synced(engine: &Engine) {
    let began = Instant::now();
    while engine.marks().iter().any(|marks| marks.synced < marks.accepted) {
        assert!(began.elapsed() < Duration::from_secs(60), "not synced by itself: {:?}", engine.marks());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn append(engine: &Engine, load: &Load, writer: u32, counters: Range<u64>, marker: &Marker) -> Result<(), Error> {
    let handle = engine.writer("rig").expect("a writer").key(&writer.to_le_bytes());
    for counter in counters {
        let synced = counter % load.synced_every == load.synced_every - 1;
        let block = load.block(writer, counter);
        let appended = match synced {
            _ if load.tells => append_and_tell(engine, &handle, block, synced),
            true => handle.append_with(block, Durability::Synced),
            false => handle.append(block),
        };
        match appended {
            Ok(receipt) => {
                marker.mark(marked(if synced { MarkKind::Synced } else { MarkKind::Acked }, writer, counter, &receipt));
            }
            Err(error) => {
                marker.mark(Mark { kind: MarkKind::Failed, writer, counter, shard: 0, epoch: 0, seq: 0 });
                eprintln!("writer {writer}: {error}");
                return Err(error);
            }
        }
        if load.setting != Setting::Each {
            // So that a run lasts several periods, and its images stay small.
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    Ok(())
}

/// Appends as one who wants to know whether the store is full, and then waits like all others.
fn append_and_tell(engine: &Engine, handle: &Writer, block: Block, synced: bool) -> Result<Receipt, Error> {
    let mut waited = false;
    let receipt = match handle.submit(block) {
        Ok(ticket) => ticket.wait()?,
        Err(Rejected { block, why: why @ (Why::Full(_) | Why::StoreFull(_)) }) => {
            waited = true;
            eprintln!("{}", if matches!(why, Why::StoreFull(_)) { FULL } else { WAITS });
            handle.append(block)?
        }
        Err(other) => return Err(Error::Rejected(Box::new(other))),
    };
    if waited {
        eprintln!("{AGAIN}");
    }
    if synced {
        // What was accepted is synced, however full the disk.
        engine.wait(&receipt, Durability::Synced)?;
    }
    Ok(receipt)
}

fn marked(kind: MarkKind, writer: u32, counter: u64, receipt: &Receipt) -> Mark {
    let Receipt { stream, seq } = receipt;
    Mark { kind, writer, counter, shard: stream.shard.0, epoch: stream.epoch.0, seq: seq.0 }
}

/// Marks for how long this process could not run: what it promises in time it promises while it runs.
fn watch_for_stalls(marker: &Marker, ended: &AtomicBool) {
    let nap = Duration::from_millis(2);
    while !ended.load(Ordering::Acquire) {
        let began = Instant::now();
        std::thread::sleep(nap);
        let late = began.elapsed().saturating_sub(nap);
        if late > Duration::from_millis(3) {
            let counter = late.as_nanos() as u64;
            marker.mark(Mark { kind: MarkKind::Stalled, writer: 0, counter, shard: 0, epoch: 0, seq: 0 });
        }
    }
}

/// Has the kernel write dirty pages of the rings, without a flush; and the journal, with one.
fn write_back(load: &Load, ended: &AtomicBool) {
    let rings: Vec<_> = (0..2).map(|shard| load.store.join(format!("shard-{shard:04}/intake.ring"))).collect();
    while load.writeback && !ended.load(Ordering::Acquire) {
        for ring in &rings {
            if let Ok(file) = std::fs::File::open(ring) {
                // Advice: where it is not taken, pages stay in memory.
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
            }
        }
        if load.commits
            && let Ok(folder) = std::fs::File::open(&load.store)
        {
            syncfs(&folder).expect("the file system is sound");
        }
        std::thread::sleep(Duration::from_millis(if load.commits { 1 } else { 7 }));
    }
}

/// Leaves marks in the disk's log.
pub struct Marker(Mutex<UnixStream>);

impl Marker {
    pub fn connect(path: &Path) -> Self {
        Self(Mutex::new(UnixStream::connect(path).expect("the server takes marks")))
    }

    /// Returns once it stands there.
    pub fn mark(&self, mark: Mark) {
        let mut stream = self.0.lock().expect("no panic");
        stream.write_all(&mark.encode()).expect("the server is there");
        stream.read_exact(&mut [0]).expect("the server is there");
    }
}
