//! Runs histories of the simulated store: `simulate --seed N` or `simulate --seeds A..B --jobs J`. Each
//! seed is a history of a shard and one of data files.
//!
//! Exit code 0 only if every promise held. A failing seed is printed with the command that repeats
//! it. With a planted bug (`--mutant`) the codes are turned round: 0 only if it was caught.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, ValueEnum};
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
    /// Only this world.
    #[arg(long, value_enum)]
    world: Option<World>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum World {
    /// A shard: its core, its log, its ring.
    Shard,
    /// Data files and their manifest.
    Files,
}

/// What the histories amounted to.
#[derive(Default)]
struct Total {
    shard: Summary,
    files: FilesSummary,
}

/// The first violation, and the world that it is in.
type Found = (World, Box<Violation>);

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
    let (total, violation) = run_all(&seeds, &options, limits);
    let seconds = began.elapsed().as_secs_f64();
    let count = seeds.end - seeds.start;
    if let Some((world, violation)) = &violation {
        report(*world, violation, &options, limits);
    } else {
        println!("{:?}\n{:?}", total.shard, total.files);
        let digest = total.shard.digest.wrapping_add(total.files.digest);
        let rate = count as f64 / seconds;
        println!("{count} seeds in {seconds:.1} s ({rate:.0} seeds/s), 0 violations, digest {digest:016x}");
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

fn run_all(seeds: &Range<u64>, options: &Options, limits: Limits) -> (Total, Option<Found>) {
    let next = AtomicU64::new(seeds.start);
    let over = AtomicBool::new(false);
    let trace = if options.trace { Tracing::On } else { Tracing::Off };
    let job = || {
        let mut sum = Total::default();
        while !over.load(Ordering::Relaxed) {
            let first = next.fetch_add(SEEDS_AT_ONCE, Ordering::Relaxed);
            for seed in first..(first + SEEDS_AT_ONCE).min(seeds.end) {
                if let Err(found) = both(&Run { seed, mutant: options.mutant, limits, trace }, options.world, &mut sum)
                {
                    over.store(true, Ordering::Relaxed);
                    return (sum, Some(found));
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
        let mut total = Total::default();
        let mut first: Option<Found> = None;
        for job in jobs {
            let (sum, violation) = job.join().expect("a job that does not panic");
            total.shard.add(&sum.shard);
            total.files.add(&sum.files);
            first = match (first, violation) {
                (Some(old), Some(new)) => Some(if new.1.seed < old.1.seed { new } else { old }),
                (old, new) => old.or(new),
            };
        }
        (total, first)
    })
}

/// One seed in each world.
fn both(of: &Run, only: Option<World>, sum: &mut Total) -> Result<(), Found> {
    if only != Some(World::Files) {
        let (summary, trace) = run(of).map_err(|violation| (World::Shard, violation))?;
        print!("{trace}");
        sum.shard.add(&summary);
    }
    if only != Some(World::Shard) {
        let (summary, trace) = run_files(of).map_err(|violation| (World::Files, violation))?;
        print!("{trace}");
        sum.files.add(&summary);
    }
    Ok(())
}

fn report(world: World, violation: &Violation, options: &Options, limits: Limits) {
    print!("{}", violation.trace);
    println!("seed {} life {}: {}", violation.seed, violation.life, violation.what);
    let failing = Run { seed: violation.seed, mutant: options.mutant, limits, trace: Tracing::Off };
    println!("repeat with: {}", command(world, &failing));
    if options.shrink {
        let (smaller, violation) = match world {
            World::Shard => shrink(&failing, run),
            World::Files => shrink(&failing, run_files),
        };
        println!("smaller: {}\n  {}", command(world, &smaller), violation.what);
    }
}

fn command(world: World, run: &Run) -> String {
    let mut command = format!("cargo run --release --features sim --bin simulate -- --seed {}", run.seed);
    command.push_str(if world == World::Shard { " --world shard" } else { " --world files" });
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
