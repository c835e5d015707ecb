//! Promise P1 down to the device: at (2, 0) each synced batch costs a flush, and the kernel's own
//! count of flushes says so.
//!
//! The kernel lets flushes that wait at the same time share one command, so only syncs that follow
//! one another are counted one by one; of concurrent ones each command can serve at most as many as
//! are under way. Other programs' flushes only add to the count. Skipped, with the reason, where
//! the device needs no flush; where there is no device to ask, `REQUIRE_RIG=1` makes that a failure.

use std::path::Path;

use forebay::limits::BATCHES_IN_FLIGHT_MAX;
use forebay::probe::Device;
use forebay::probe::device::flushes;
use forebay::{Block, Config, Engine, IoChoice};

/// Blocks of all writers together.
const BLOCKS: u64 = 800;

/// Why flushes of the device below a folder cannot be counted.
enum NotCounted {
    /// A sync needs no flush there, for this reason.
    NeedsNone(&'static str),
    /// Nobody knows.
    Unknown(String),
}

fn counted(dir: &Path) -> Result<String, NotCounted> {
    let device = Device::below(dir);
    if device.write_cache.as_deref() == Some("write through") {
        return Err(NotCounted::NeedsNone("its write cache is write-through"));
    }
    if device.fua == Some(true) {
        return Err(NotCounted::NeedsNone("it has FUA: a write can be durable by itself"));
    }
    match (device.name, flushes(dir)) {
        (Some(name), Some(_)) => Ok(name),
        (Some(name), None) => Err(NotCounted::Unknown(format!("{name} does not say what it flushes"))),
        (None, _) => Err(NotCounted::Unknown("the file system has no single block device of its own".to_owned())),
    }
}

/// Writes at (2, 0) and gives the syncs that the engine counted, and the flushes that the kernel did.
fn run(io: IoChoice, shards: usize, writers: u64) -> Option<(u64, u64)> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let device = match counted(dir.path()) {
        Ok(device) => device,
        Err(NotCounted::NeedsNone(why)) => {
            eprintln!("SKIPPED: flushes of the device below {} cannot be counted: {why}", dir.path().display());
            return None;
        }
        Err(NotCounted::Unknown(why)) => {
            let why = format!("flushes cannot be counted below {}: {why}", dir.path().display());
            assert!(
                std::env::var_os("REQUIRE_RIG").is_none(),
                "{why}. CARGO_TARGET_DIR can name a folder on ext4 or XFS"
            );
            eprintln!("SKIPPED: {why}");
            return None;
        }
    };
    let config = Config::new(dir.path())
        .io(io)
        .shards(shards)
        .segment_bytes(4 << 20)
        .block_bytes_max(256 << 10)
        .batch_bytes_max(256 << 10)
        .intake_bytes(512 << 10)
        .intake_slots(1024)
        .wal_level(2)
        .wal_fsync_period_ms(0);
    let engine = Engine::open_with(config, Box::new(forebay::store::Null)).expect("opens");
    let before = (engine.stats().syncs, flushes(dir.path()).expect("counted"));
    std::thread::scope(|scope| {
        for _ in 0..writers {
            let writer = engine.writer("n").expect("a writer");
            scope.spawn(move || {
                for _ in 0..BLOCKS / writers {
                    writer.append(Block::raw("t", vec![7; 1000])).expect("an append");
                }
            });
        }
    });
    let after = (engine.stats().syncs, flushes(dir.path()).expect("counted"));
    let counts = (after.0 - before.0, after.1 - before.1);
    println!("{io}, {shards} shards, {writers} writers: {} syncs, {} flushes of {device}", counts.0, counts.1);
    Some(counts)
}

/// One test, so that no other one's flushes are counted with its own.
#[test]
fn each_sync_is_a_flush_of_the_device() {
    for io in [IoChoice::Uring, IoChoice::Pwrite] {
        let Some((syncs, flushes)) = run(io, 1, 1) else { return };
        assert!(syncs >= BLOCKS, "{io}: {syncs} syncs for {BLOCKS} blocks, each of which waited for one");
        assert!(flushes >= syncs, "{io}: {syncs} syncs, but {flushes} flushes");
        let shards = 2;
        let Some((syncs, flushes)) = run(io, shards, 8) else { return };
        let under_way = (BATCHES_IN_FLIGHT_MAX * shards) as u64;
        assert!(syncs > 0 && flushes * under_way >= syncs, "{io}: {syncs} syncs, but {flushes} flushes");
    }
}
