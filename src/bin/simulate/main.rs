//! Runs histories of the simulated store: `simulate --seed N` or `simulate --seeds A..B --jobs J`.
//!
//! Exit code 0 only if every promise held. A failing seed is printed with the command that repeats
//! it. With a planted bug (`--mutant`) the codes are turned round: 0 only if it was caught.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use forebay::planted::Mutant;
use forebay::sim::{FilesSummary, Limits, Run, Summary, Tracing, Violation, run, run_files, shrink};

/// Seeds that a job takes at once.
const SEEDS_AT_ONCE: u64 = 16;

#[derive(Parser)]
#[command(about = "Runs histories of a simulated store: kills, power cuts, torn writes, I/O errors, flipped bits")]
struct Options {
    /// One history.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Histories A to B-1, as `A..B`.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Histories at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print the trace.
    #[arg(long)]
    trace: bool,
    /// Plant this bug and expect it to be caught.
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Look for a smaller history that fails too.
    #[arg(long)]
    shrink: bool,
    /// At most so many lives.
    #[arg(long, default_value_t = u32::MAX, hide_default_value = true)]
    lives: u32,
    /// At most so many blocks in a life.
    #[arg(long, default_value_t = u32::MAX, hide_default_value = true)]
    blocks: u32,
    /// At most so many writers.
    #[arg(long, default_value_t = u32::MAX, hide_default_value = true)]
    writers: u32,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is written A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("'{text}': {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err(format!("{text} holds no seed")) } else { Ok(range) }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seeds = match (&options.seeds, options.seed) {
        (Some(seeds), _) => seeds.clone(),
        (None, Some(seed)) => seed..seed + 1,
        (None, None) => 0..1,
    };
    let limits = Limits { lives_max: options.lives, blocks_max: options.blocks, writers_max: options.writers };
    let began = Instant::now();
    let (summary, violation) = run_all(&seeds, &options, limits);
    let seconds = began.elapsed().as_secs_f64();
    let count = seeds.end - seeds.start;
    if let Some(violation) = &violation {
        report(violation, &options, limits);
    } else {
        println!("{count} histories in {seconds:.1} s, 0 violations: {summary:?}");
    }
    match (violation.is_some(), options.mutant) {
        (false, None) | (true, Some(_)) => ExitCode::SUCCESS,
        (false, Some(mutant)) => {
            eprintln!("the planted bug {mutant} was not caught by seeds {}..{}", seeds.start, seeds.end);
            ExitCode::FAILURE
        }
        (true, None) => ExitCode::FAILURE,
    }
}

fn run_all(seeds: &Range<u64>, options: &Options, limits: Limits) -> (Summary, Option<Box<Violation>>) {
    let next = AtomicU64::new(seeds.start);
    let over = AtomicBool::new(false);
    let trace = if options.trace { Tracing::On } else { Tracing::Off };
    let job = || {
        let mut sum = Summary::default();
        while !over.load(Ordering::Relaxed) {
            let first = next.fetch_add(SEEDS_AT_ONCE, Ordering::Relaxed);
            for seed in first..(first + SEEDS_AT_ONCE).min(seeds.end) {
                match run(&Run { seed, mutant: options.mutant, limits, trace }) {
                    Ok((summary, trace)) => {
                        print!("{trace}");
                        sum.add(&summary);
                    }
                    Err(violation) => {
                        over.store(true, Ordering::Relaxed);
                        return (sum, Some(violation));
                    }
                }
            }
            if first >= seeds.end {
                break;
            }
        }
        (sum, None)
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(job)).collect();
        let mut total = Summary::default();
        let mut first: Option<Box<Violation>> = None;
        for job in jobs {
            let (sum, violation) = job.join().expect("a job that does not panic");
            total.add(&sum);
            first = match (first, violation) {
                (Some(old), Some(new)) => Some(if new.seed < old.seed { new } else { old }),
                (old, new) => old.or(new),
            };
        }
        (total, first)
    })
}

fn report(violation: &Violation, options: &Options, limits: Limits) {
    print!("{}", violation.trace);
    println!("seed {} life {}: {}", violation.seed, violation.life, violation.what);
    let run = Run { seed: violation.seed, mutant: options.mutant, limits, trace: Tracing::Off };
    println!("repeat with: {}", command(&run));
    if options.shrink {
        let (smaller, violation) = shrink(&run);
        println!("smaller: {}\n  {}", command(&smaller), violation.what);
    }
}

fn command(run: &Run) -> String {
    let mut command = format!("cargo run --release --features sim --bin simulate -- --seed {}", run.seed);
    let whole = Limits::default();
    for (name, value, default) in [
        ("lives", run.limits.lives_max, whole.lives_max),
        ("blocks", run.limits.blocks_max, whole.blocks_max),
        ("writers", run.limits.writers_max, whole.writers_max),
    ] {
        if value != default {
            command.push_str(&format!(" --{name} {value}"));
        }
    }
    if let Some(mutant) = run.mutant {
        command.push_str(&format!(" --mutant {mutant}"));
    }
    command.push_str(" --trace");
    command
}
