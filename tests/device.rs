//! Promise P1 down to the device: at (2, 0) each synced batch costs a flush, and the kernel's own
//! count of flushes says so.
//!
//! The kernel lets flushes that wait at the same time share one command, so only syncs that follow
//! one another are counted one by one; of concurrent ones each command can serve at most as many as
//! are under way. Other programs' flushes only add to the count. Skipped, with the reason, where
//! the device needs no flush; where there is no device to ask, `REQUIRE_RIG=1` makes that a failure.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use forebay::limits::BATCHES_IN_FLIGHT_MAX;
use forebay::{Block, Config, Engine, IoChoice};

/// Blocks of all writers together.
const BLOCKS: u64 = 800;

/// The device below a folder, as sysfs shows it.
enum Below {
    /// Its flushes are counted.
    Counted(PathBuf),
    /// A sync needs no flush there, for this reason.
    NeedsNone(String),
    /// Nobody knows which device it is, for this reason.
    Unknown(String),
}

fn below(dir: &Path) -> Below {
    let id = fs::metadata(dir).expect("a folder").dev();
    let (major, minor) = (rustix::fs::major(id), rustix::fs::minor(id));
    let Ok(mut device) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else {
        return Below::Unknown(format!("the file system has no block device of its own ({major}:{minor})"));
    };
    // A partition counts no flushes, nor does a device that is made of others: it passes them on.
    loop {
        if device.join("partition").exists() {
            device.pop();
        }
        let parts = fs::read_dir(device.join("slaves")).into_iter().flatten();
        let parts: Vec<_> = parts.filter_map(|part| fs::canonicalize(part.ok()?.path()).ok()).collect();
        match <[PathBuf; 1]>::try_from(parts) {
            Ok([part]) => device = part,
            Err(parts) if parts.is_empty() => break,
            Err(parts) => return Below::Unknown(format!("{} is made of {parts:?}", device.display())),
        }
    }
    let says = |name: &str| fs::read_to_string(device.join("queue").join(name)).map(|text| text.trim().to_owned());
    match (says("write_cache"), says("fua"), flushes(&device)) {
        (Ok(cache), _, _) if cache == "write through" => Below::NeedsNone("its write cache is write-through".into()),
        (_, Ok(fua), _) if fua != "0" => Below::NeedsNone("it has FUA: a write can be durable by itself".into()),
        (Ok(_), Ok(_), Some(_)) => Below::Counted(device),
        _ => Below::Unknown(format!("{} does not say what it flushes", device.display())),
    }
}

/// Flush requests that the device has completed: field 16, since Linux 5.5.
fn flushes(device: &Path) -> Option<u64> {
    fs::read_to_string(device.join("stat")).ok()?.split_whitespace().nth(15)?.parse().ok()
}

/// Writes at (2, 0) and gives the syncs that the engine counted, and the flushes that the kernel did.
fn run(io: IoChoice, shards: usize, writers: u64) -> Option<(u64, u64)> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let device = match below(dir.path()) {
        Below::Counted(device) => device,
        Below::NeedsNone(why) => {
            eprintln!("SKIPPED: flushes of the device below {} cannot be counted: {why}", dir.path().display());
            return None;
        }
        Below::Unknown(why) => {
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
    let before = (engine.stats().syncs, flushes(&device).expect("counted"));
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
    let after = (engine.stats().syncs, flushes(&device).expect("counted"));
    let counts = (after.0 - before.0, after.1 - before.1);
    println!(
        "{io}, {shards} shards, {writers} writers: {} syncs, {} flushes of {}",
        counts.0,
        counts.1,
        device.display()
    );
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
