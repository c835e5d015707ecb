//! How fast a long log is read at open, against a plain sequential read of the same files.
//!
//! `cargo bench --bench cold_open` writes 1 GiB of 4 KiB blocks, kills nothing, and then opens the
//! store and reads its files with O_DIRECT in turn; without `--bench` (as `cargo test --benches`
//! runs it) it does the same with 8 MiB, to see that it works. Prints one JSON line.

use std::path::Path;
use std::time::{Duration, Instant};

use forebay::io::buf::AlignedBuf;
use forebay::io::disk::Folder;
use forebay::io::folder::DirFolder;
use forebay::{Block, Config, Engine, store};

const BLOCK_BYTES: usize = 4096;
const READ_BYTES: usize = 4 << 20;

fn config(dir: &Path, bytes: u64) -> Config {
    let segment = if bytes < 1 << 30 { 1 << 20 } else { 64 << 20 };
    Config::new(dir)
        .shards(2)
        .segment_bytes(segment)
        .block_bytes_max(segment / 4)
        .batch_bytes_max(segment / 16)
        .intake_bytes(segment)
        .intake_slots(16384)
        .wal_bytes_max(4 * bytes + 64 * segment)
}

/// Reads every file of the log once, in order; bytes and time.
fn read_plainly(dir: &Path) -> (u64, Duration) {
    let mut buf = AlignedBuf::new(READ_BYTES);
    let began = Instant::now();
    let mut total = 0;
    for shard in 0..2 {
        let folder = DirFolder::open(&dir.join(format!("shard-{shard:04}"))).expect("a folder");
        let mut names: Vec<_> =
            folder.list().expect("a list").into_iter().filter(|(name, _)| !name.starts_with("spare")).collect();
        names.retain(|(name, _)| name.ends_with(".wal"));
        names.sort();
        for (name, _) in names {
            let mut at = 0;
            loop {
                let count = folder.read(&name, at, &mut buf).expect("a read");
                if count == 0 {
                    break;
                }
                at += count as u64;
            }
            total += at;
        }
    }
    (total, began.elapsed())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--bench");
    let (bytes, repeats) = if full { (1u64 << 30, 5) } else { (8 << 20, 2) };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let engine = Engine::open_with(config(dir.path(), bytes), Box::new(store::Hold)).expect("opens");
    let writers: Vec<_> = (0..2).map(|_| engine.writer("bench").expect("a writer")).collect();
    let payload = bytes::Bytes::from(vec![7; BLOCK_BYTES]);
    for block in 0..bytes / BLOCK_BYTES as u64 {
        writers[block as usize % 2].append(Block::raw("t", payload.clone())).expect("an append");
    }
    drop(writers);
    engine.close().expect("a clean close");
    let (mut opens, mut reads, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repeats {
        let (read_bytes, read) = read_plainly(dir.path());
        let began = Instant::now();
        let engine = Engine::open_with(config(dir.path(), bytes), Box::new(store::Hold)).expect("opens again");
        let open = began.elapsed();
        let found: u64 = engine.report().shards.iter().map(|shard| shard.bytes).sum();
        engine.close().expect("a clean close");
        let read_rate = read_bytes as f64 / read.as_secs_f64();
        let open_rate = found as f64 / open.as_secs_f64();
        reads.push(read_rate / (1 << 20) as f64);
        opens.push(open_rate / (1 << 20) as f64);
        ratios.push(open_rate / read_rate);
    }
    println!(
        "{{\"schema\":\"forebay.cold-open/1\",\"log_bytes\":{bytes},\"repeats\":{repeats},\"open_mib_per_s\":{:.1},\
         \"read_mib_per_s\":{:.1},\"ratio\":{:.3}}}",
        median(opens),
        median(reads),
        median(ratios)
    );
}
