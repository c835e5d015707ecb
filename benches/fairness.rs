//! Whether anybody starves: 50 writers of one size, and one writer of the largest blocks among 49 of
//! the smallest.
//!
//! `cargo bench --bench fairness` runs 10 s each at level 1 with the default sizes; without `--bench`
//! (as the tests run it) a moment with small ones, to see that it works. Prints one JSON line each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay::{Block, Config, Engine};

const WRITERS: usize = 50;

fn config(full: bool, dir: &std::path::Path) -> Config {
    let config = Config::new(dir).wal_level(1);
    if full {
        return config;
    }
    config
        .segment_bytes(4 << 20)
        .block_bytes_max(1 << 20)
        .batch_bytes_max(1 << 20)
        .intake_bytes(2 << 20)
        .intake_slots(4096)
        .wal_bytes_max(256 << 20)
}

/// What each writer got through, and the longest append of the first one.
fn run(full: bool, seconds: f64, first_bytes: usize) -> (Vec<u64>, Duration) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let engine = Engine::open(config(full, dir.path())).expect("opens");
    let over = AtomicBool::new(false);
    let results: Vec<(u64, Duration)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (engine, over) = (&engine, &over);
                let payload = bytes::Bytes::from(vec![7; if writer == 0 { first_bytes } else { 128 }]);
                scope.spawn(move || {
                    let writer = engine.writer("bench").expect("a writer");
                    let (mut count, mut longest) = (0, Duration::ZERO);
                    while !over.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        writer.append(Block::raw("t", payload.clone())).expect("an append within its deadline");
                        longest = longest.max(began.elapsed());
                        count += 1;
                    }
                    (count, longest)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(seconds));
        over.store(true, Ordering::Relaxed);
        handles.into_iter().map(|handle| handle.join().expect("a writer")).collect()
    });
    engine.close().expect("a clean close");
    let longest = results[0].1;
    (results.into_iter().map(|(count, _)| count).collect(), longest)
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--bench");
    let seconds = if full { 10.0 } else { 0.3 };
    let (counts, _) = run(full, seconds, 128);
    let (most, least) = (counts.iter().max().expect("writers"), counts.iter().min().expect("writers"));
    let ratio = *most as f64 / *least as f64;
    println!(
        "{{\"schema\":\"forebay.fairness/1\",\"seconds\":{seconds},\"most\":{most},\"least\":{least},\"ratio\":{ratio:.3}}}"
    );
    let large = if full { 16 << 20 } else { 1 << 20 };
    let (counts, longest) = run(full, seconds, large);
    println!(
        "{{\"schema\":\"forebay.large-among-small/1\",\"seconds\":{seconds},\"large_bytes\":{large},\"large_per_s\":{:.2},\
         \"large_longest_ms\":{:.1},\"small_per_s\":{:.0}}}",
        counts[0] as f64 / seconds,
        longest.as_secs_f64() * 1e3,
        counts[1..].iter().sum::<u64>() as f64 / seconds
    );
    assert!(counts.iter().all(|count| *count > 0), "somebody got nothing through");
}
