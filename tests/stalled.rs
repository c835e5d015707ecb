//! A store that stalls costs bounded memory and a bounded log, and everything goes on by itself.
//!
//! One test at a time, for the memory that it looks at is the whole process's. `FOREBAY_STALL_SECONDS` sets
//! how long writers stand still (default 3). In a child of the second test, `FOREBAY_STALL_DATA` is what the
//! kernel gives it in bytes beside what it has before the store is opened: with more asked, it is ended.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forebay::store::{Store, StoreError, Unit};
use forebay::types::{Position, ShardId};
use forebay::{Block, Config, Engine};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The test that the child runs.
const STALLED: &str = "a_stalled_store_costs_bounded_memory_and_log_and_goes_on_by_itself";
const DATA: &str = "FOREBAY_STALL_DATA";
const MIB: u64 = 1 << 20;
const SHARDS: u64 = 2;
const WRITERS: u64 = 8;
const BLOCK_BYTES: u64 = 16 << 10;
const RING_BYTES: u64 = 8 * MIB;
const BUFFER_BYTES: u64 = 4 * MIB;
/// Much more than memory may grow by: a log that were kept in memory would be seen.
const WAL_BYTES_MAX: u64 = 512 * MIB;
/// What is promised is (ring + buffer + 64 MiB) a shard; without the ring, see `memory_bytes`.
const MEMORY_BYTES_MAX: u64 = SHARDS * (BUFFER_BYTES + 64 * MIB);

/// Takes nothing while the gate is shut: the call that hands it blocks does not return.
struct Gated {
    gate: Arc<(Mutex<bool>, Condvar)>,
    /// The next counter of each writer.
    next: Arc<Mutex<HashMap<u64, u64>>>,
}

impl Store for Gated {
    fn progress(&mut self, _shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        let (shut, opened) = &*self.gate;
        drop(opened.wait_while(shut.lock().expect("no panic"), |shut| *shut).expect("no panic"));
        let mut next = self.next.lock().expect("no panic");
        for delivered in unit.by_ref() {
            let block = delivered?.block;
            let number = |at: usize| u64::from_le_bytes(block.payload()[at..at + 8].try_into().expect("8 bytes"));
            let next = next.entry(number(0)).or_default();
            assert_eq!(number(8), *next, "writer {}: each block once, in order", number(0));
            *next += 1;
        }
        Ok(())
    }
}

/// Opens the gate and stops the writers, also when an assertion fails: the scope waits for them.
struct Released<'a> {
    gate: &'a (Mutex<bool>, Condvar),
    stop: &'a AtomicBool,
}

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        open(self.gate);
    }
}

fn open(gate: &(Mutex<bool>, Condvar)) {
    *gate.0.lock().expect("no panic") = false;
    gate.1.notify_all();
}

/// Memory that is this process's alone. The rings are not in it: they are mapped files, whose pages
/// are the kernel's and which never grow; mapped twice in a row they would even count twice.
fn memory_bytes() -> u64 {
    status("RssAnon:") + status("RssShmem:")
}

/// A field of the process's status, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux 4.5 or later");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") << 10
}

/// One of the two tests at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In the child: from here on the kernel gives so much private writable memory and no more. That counts heaps
/// and stacks, whether used or not, and not the rings, which are mapped files.
fn limit_memory(more: u64) {
    let limit = Some(status("VmData:") + more);
    setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit }).expect("a limit");
}

/// Bytes of all segment files, those in the making too, and of all rings.
fn files_bytes(dir: &Path) -> (u64, u64) {
    let (mut log, mut rings) = (0, 0);
    for shard in 0..SHARDS {
        for file in fs::read_dir(dir.join(format!("shard-{shard:04}"))).expect("a shard's folder") {
            let file = file.expect("a file");
            // It may have been renamed meanwhile.
            let Ok(bytes) = file.metadata().map(|data| data.len()) else { continue };
            let is_ring = file.file_name().to_string_lossy().contains("intake");
            *if is_ring { &mut rings } else { &mut log } += bytes;
        }
    }
    (log, rings)
}

#[test]
fn a_stalled_store_costs_bounded_memory_and_log_and_goes_on_by_itself() {
    let _alone = alone();
    if let Ok(more) = std::env::var(DATA) {
        limit_memory(more.parse().expect("bytes"));
    }
    let stall = std::env::var("FOREBAY_STALL_SECONDS").map_or(3, |text| text.parse().expect("seconds"));
    let stall = Duration::from_secs(stall);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let gate = Arc::new((Mutex::new(true), Condvar::new()));
    let taken = Arc::new(Mutex::new(HashMap::new()));
    let before = memory_bytes();
    let config = Config::new(dir.path())
        .shards(SHARDS as usize)
        .segment_bytes(8 * MIB)
        .block_bytes_max(MIB)
        .batch_bytes_max(MIB)
        .intake_bytes(RING_BYTES)
        .intake_slots(4096)
        .buffer_bytes(BUFFER_BYTES)
        .wal_bytes_max(WAL_BYTES_MAX)
        .append_deadline_ms(stall.as_millis() as u64 + 600_000);
    let store = Gated { gate: Arc::clone(&gate), next: Arc::clone(&taken) };
    let engine = Engine::open_with(config, Box::new(store)).expect("opens");
    let stop = AtomicBool::new(false);
    let appended: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let all = || appended.iter().map(|count| count.load(Ordering::Acquire)).sum::<u64>();
    let (mut memory_max, mut log_max) = (0, 0);
    let mut look = || {
        let (log, rings) = files_bytes(dir.path());
        memory_max = memory_max.max(memory_bytes().saturating_sub(before));
        log_max = log_max.max(log);
        let stats = engine.stats();
        assert!(stats.wal_bytes_used <= stats.wal_bytes_max, "{} of {}", stats.wal_bytes_used, stats.wal_bytes_max);
        assert!(log <= WAL_BYTES_MAX, "{log} bytes of segments");
        assert!(rings <= SHARDS * (RING_BYTES + MIB), "{rings} bytes of rings");
        assert!(memory_max <= MEMORY_BYTES_MAX, "{memory_max} bytes of memory");
        std::thread::sleep(Duration::from_millis(20));
    };
    let stood = std::thread::scope(|scope| {
        let _released = Released { gate: &gate, stop: &stop };
        for (number, appended) in (0..).zip(&appended) {
            let (writer, stop) = (engine.writer("n").expect("a writer"), &stop);
            scope.spawn(move || {
                let mut counter = 0u64;
                while !stop.load(Ordering::Acquire) {
                    let mut payload = vec![1; BLOCK_BYTES as usize];
                    payload[..8].copy_from_slice(&u64::to_le_bytes(number));
                    payload[8..16].copy_from_slice(&counter.to_le_bytes());
                    writer.append(Block::raw("t", payload)).expect("an append");
                    counter += 1;
                    appended.store(counter, Ordering::Release);
                }
            });
        }
        let began = Instant::now();
        let mut last = (0, Instant::now());
        while last.1.elapsed() < stall {
            if all() != last.0 {
                last = (all(), Instant::now());
            }
            look();
            assert!(began.elapsed() < stall + Duration::from_secs(300), "writers are never held up");
        }
        assert!(last.0 * BLOCK_BYTES > WAL_BYTES_MAX / 2, "{} blocks: the log was not used", last.0);
        open(&gate);
        let opened = Instant::now();
        while (all() - last.0) * BLOCK_BYTES < WAL_BYTES_MAX / 2 {
            look();
            assert!(opened.elapsed() < Duration::from_secs(300), "writers go on by themselves");
        }
        last.0
    });
    engine.close().expect("a clean close flushes the rest");
    let taken = taken.lock().expect("no panic");
    for (number, count) in (0..).zip(&appended) {
        assert_eq!(taken.get(&number), Some(&count.load(Ordering::Acquire)), "blocks of writer {number}");
    }
    println!(
        "stood still {stall:?} at {stood} blocks of {BLOCK_BYTES} bytes, {} in the end; memory grew by at most {} MiB; \
         segments at most {} MiB of {}",
        all(),
        memory_max / MIB,
        log_max / MIB,
        WAL_BYTES_MAX / MIB
    );
}

/// Fault 32: the same under a limit that the kernel enforces, and the proof that it does.
#[test]
fn under_a_memory_limit_of_the_kernels_a_stalled_store_goes_on_too() {
    let _alone = alone();
    let limited = |bytes: u64| -> Output {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([STALLED, "--exact", "--nocapture"]).env(DATA, bytes.to_string()).output().expect("a child")
    };
    let done = limited(MEMORY_BYTES_MAX);
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}: {said}{}", done.status, String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("stood still") && said.contains("1 passed"), "{said}");
    println!("within {} MiB: {said}", MEMORY_BYTES_MAX / MIB);
    // Less than the buffers need: a child that did not notice would prove nothing.
    let ended = limited(BUFFER_BYTES / 4);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("memory allocation of"), "{}: {said}", ended.status);
}
