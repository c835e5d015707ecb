//! Whether anybody starves: 50 writers of one size, and one writer of the largest blocks among 49 of
//! the smallest.
//!
//! The first is run with the writers where the scheduler puts them and with each bound to a CPU in
//! turn, and beside it the same threads without an engine: what the scheduler alone makes of them.
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

/// What the writers do, and on which CPUs.
#[derive(Clone, Copy)]
struct Load {
    seconds: f64,
    /// Bytes of the first writer's blocks; those of the others have 128.
    first_bytes: usize,
    /// Writer `n` stays on the `n`-th CPU, counted round, instead of where the scheduler puts it.
    pinned: bool,
}

/// Takes turns on 50 threads, each with what `make` made for it and a payload of its own: how many each
/// took, and the longest of the first one.
fn writers<T: Fn(&bytes::Bytes)>(load: Load, make: impl Fn() -> T + Sync) -> (Vec<u64>, Duration) {
    let over = AtomicBool::new(false);
    let cpus = core_affinity::get_core_ids().expect("the CPUs of this process");
    let results: Vec<(u64, Duration)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (over, make, cpu) = (&over, &make, cpus[writer % cpus.len()]);
                let payload = bytes::Bytes::from(vec![7; if writer == 0 { load.first_bytes } else { 128 }]);
                scope.spawn(move || {
                    assert!(!load.pinned || core_affinity::set_for_current(cpu), "a CPU of this process");
                    let turn = make();
                    let (mut count, mut longest) = (0, Duration::ZERO);
                    while !over.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        turn(&payload);
                        longest = longest.max(began.elapsed());
                        count += 1;
                    }
                    (count, longest)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(load.seconds));
        over.store(true, Ordering::Relaxed);
        handles.into_iter().map(|handle| handle.join().expect("a writer")).collect()
    });
    let longest = results[0].1;
    (results.into_iter().map(|(count, _)| count).collect(), longest)
}

/// The writers append to an engine.
fn append(full: bool, load: Load) -> (Vec<u64>, Duration) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let engine = Engine::open_with(config(full, dir.path()), Box::new(forebay::store::Null)).expect("opens");
    let found = writers(load, || {
        let writer = engine.writer("bench").expect("a writer");
        move |payload: &bytes::Bytes| {
            writer.append(Block::raw("t", payload.clone())).expect("an append within its deadline");
        }
    });
    engine.close().expect("a clean close");
    found
}

fn print_fairness(what: &str, load: Load, counts: &[u64]) {
    let (most, least) = (counts.iter().max().expect("writers"), counts.iter().min().expect("writers"));
    // In a moment, or on a busy machine, a thread may not have run at all: no ratio then.
    let ratio = if *least > 0 { format!("{:.3}", *most as f64 / *least as f64) } else { "null".into() };
    println!(
        "{{\"schema\":\"forebay.fairness/1\",\"what\":\"{what}\",\"pinned\":{},\"seconds\":{},\"most\":{most},\
         \"least\":{least},\"ratio\":{ratio}}}",
        load.pinned, load.seconds
    );
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--bench");
    let seconds = if full { 10.0 } else { 0.3 };
    for pinned in [false, true] {
        let load = Load { seconds, first_bytes: 128, pinned };
        print_fairness("append", load, &append(full, load).0);
        // The control: the same threads with nothing between them but the scheduler.
        let (counts, _) = writers(load, || |payload: &bytes::Bytes| assert_ne!(crc32fast::hash(payload), 0));
        print_fairness("checksum", load, &counts);
    }
    let large = if full { 16 << 20 } else { 1 << 20 };
    let (counts, longest) = append(full, Load { seconds, first_bytes: large, pinned: false });
    println!(
        "{{\"schema\":\"forebay.large-among-small/1\",\"seconds\":{seconds},\"large_bytes\":{large},\"large_per_s\":{:.2},\
         \"large_longest_ms\":{:.1},\"small_per_s\":{:.0}}}",
        counts[0] as f64 / seconds,
        longest.as_secs_f64() * 1e3,
        counts[1..].iter().sum::<u64>() as f64 / seconds
    );
}
