//! Runs histories of the simulated store: `simulate --seed N` or `simulate --seeds A..B --jobs J`. Each
//! seed is a history of one shard, one of several shards, one of data files, and one of stores that follow each other. `--soak` goes on until it
//! is ended; `--flips N` ends each history of one shard in N flipped bits of each class of bytes.
//!
//! Exit code 0 only if every promise held. A failing seed is printed with the command that repeats
//! it. With a planted bug (`--mutant`) the codes are turned round: 0 only if it was caught.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use forebay::planted::Mutant;
use forebay::sim::{
    FilesSummary, FlipSummary, Limits, Run, Shards, SitesSummary, Summary, Tracing, Violation, flips, run, run_files,
    run_sites, shrink,
};

/// Seeds that a job takes at once.
const SEEDS_AT_ONCE: u64 = 16;
/// How often a soak says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Runs histories of a simulated store: kills, power cuts, torn writes, I/O errors, flipped bits")]
struct Options {
    /// One history.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Histories A to B-1, as `A..B`.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Go on from the first seed until Ctrl-C, with a line a minute on stderr.
    #[arg(long)]
    soak: bool,
    /// End a soak after so many minutes.
    #[arg(long, requires = "soak")]
    minutes: Option<u64>,
    /// End each history of one shard in so many single flipped bits of each class of bytes, and count.
    #[arg(long, conflicts_with = "world")]
    flips: Option<u32>,
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
    /// Several shards side by side.
    Shards,
    /// Data files and their manifest.
    Files,
    /// Stores that follow each other.
    Sites,
}

/// What the histories amounted to.
#[derive(Default)]
struct Total {
    seeds: u64,
    shard: Summary,
    shards: Summary,
    flips: FlipSummary,
    files: FilesSummary,
    sites: SitesSummary,
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
        (None, seed) => seed.unwrap_or(0)..seed.unwrap_or(0) + 1,
    };
    let seeds = if options.soak { seeds.start..u64::MAX } else { seeds };
    let limits = Limits { lives_max: options.lives, blocks_max: options.blocks, writers_max: options.writers };
    let began = Instant::now();
    let (total, violation) = run_all(&seeds, &options, limits, began);
    let seconds = began.elapsed().as_secs_f64();
    if options.flips.is_some() {
        print!("{}", total.flips);
    }
    let (count, rate) = (total.seeds, total.seeds as f64 / seconds);
    if let Some((world, violation)) = &violation {
        report(*world, violation, &options, limits);
        println!("{count} seeds in {seconds:.1} s ({rate:.0} seeds/s) before the first violation");
    } else {
        if options.flips.is_none() {
            println!("{:?}\nshards {:?}\n{:?}\n{:?}", total.shard, total.shards, total.files, total.sites);
        }
        let digest = total.shard.digest.wrapping_add(total.shards.digest).wrapping_add(total.files.digest);
        let digest = digest.wrapping_add(total.sites.digest);
        println!(
            "{count} seeds in {seconds:.1} s ({rate:.0} seeds/s), 0 violations (0 silent losses, 0 false refusals), \
             digest {digest:016x}"
        );
    }
    match (violation.is_some(), options.mutant) {
        (false, None) | (true, Some(_)) => ExitCode::SUCCESS,
        (false, Some(mutant)) => {
            eprintln!("the planted bug {mutant} was not caught by {} seeds from {} on", total.seeds, seeds.start);
            ExitCode::FAILURE
        }
        (true, None) => ExitCode::FAILURE,
    }
}

fn run_all(seeds: &Range<u64>, options: &Options, limits: Limits, began: Instant) -> (Total, Option<Found>) {
    let next = AtomicU64::new(seeds.start);
    let over = AtomicBool::new(false);
    let trace = if options.trace { Tracing::On } else { Tracing::Off };
    let until = options.minutes.map(|minutes| began + Duration::from_secs(60 * minutes));
    let job = || {
        let mut sum = Total::default();
        while !over.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let first = next.fetch_add(SEEDS_AT_ONCE, Ordering::Relaxed);
            for seed in first..first.saturating_add(SEEDS_AT_ONCE).min(seeds.end) {
                let run = Run { seed, mutant: options.mutant, limits, trace, ..Run::default() };
                if let Err(found) = each_world(&run, options, &mut sum) {
                    over.store(true, Ordering::Relaxed);
                    return (sum, Some(found));
                }
                sum.seeds += 1;
            }
            if first >= seeds.end {
                break;
            }
        }
        (sum, None)
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(job)).collect();
        let mut said = Instant::now();
        while options.soak && !jobs.iter().all(|job| job.is_finished()) {
            std::thread::sleep(Duration::from_millis(200));
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                let (at, minutes) = (next.load(Ordering::Relaxed), began.elapsed().as_secs() / 60);
                eprintln!("{minutes} min: seeds {}..{at}, every promise held so far", seeds.start);
            }
        }
        let mut total = Total::default();
        let mut first: Option<Found> = None;
        for job in jobs {
            let (sum, violation) = job.join().expect("a job that does not panic");
            total.seeds += sum.seeds;
            total.shard.add(&sum.shard);
            total.shards.add(&sum.shards);
            total.files.add(&sum.files);
            total.sites.add(&sum.sites);
            total.flips.add(&sum.flips);
            first = match (first, violation) {
                (Some(old), Some(new)) => Some(if new.1.seed < old.1.seed { new } else { old }),
                (old, new) => old.or(new),
            };
        }
        (total, first)
    })
}

/// One seed in each world.
fn each_world(of: &Run, options: &Options, sum: &mut Total) -> Result<(), Found> {
    if let Some(per_class) = options.flips {
        let (summary, found) = match flips(of, per_class) {
            Ok(summary) => (summary, Ok(())),
            Err((summary, violation)) => (*summary, Err((World::Shard, violation))),
        };
        sum.flips.add(&summary);
        return found;
    }
    let is_wanted = |world| options.world.is_none_or(|only| only == world);
    for (world, shards, sum) in
        [(World::Shard, Shards::One, &mut sum.shard), (World::Shards, Shards::Several, &mut sum.shards)]
    {
        if is_wanted(world) {
            let (summary, trace) = run(&Run { shards, ..*of }).map_err(|violation| (world, violation))?;
            print!("{trace}");
            sum.add(&summary);
        }
    }
    if is_wanted(World::Files) {
        let (summary, trace) = run_files(of).map_err(|violation| (World::Files, violation))?;
        print!("{trace}");
        sum.files.add(&summary);
    }
    if is_wanted(World::Sites) {
        let (summary, trace) = run_sites(of).map_err(|violation| (World::Sites, violation))?;
        print!("{trace}");
        sum.sites.add(&summary);
    }
    Ok(())
}

fn report(world: World, violation: &Violation, options: &Options, limits: Limits) {
    print!("{}", violation.trace);
    println!("seed {} life {}: {:?}: {}", violation.seed, violation.life, violation.kind, violation.what);
    let shards = if world == World::Shards { Shards::Several } else { Shards::One };
    let failing = Run { seed: violation.seed, mutant: options.mutant, limits, shards, ..Run::default() };
    println!("repeat with: {}", command(world, &failing, options.flips));
    if options.shrink && options.flips.is_none() {
        let in_world = |run_: &Run| match world {
            World::Files => run_files(run_).map(|_| ()),
            World::Sites => run_sites(run_).map(|_| ()),
            World::Shard | World::Shards => run(run_).map(|_| ()),
        };
        let (smaller, violation) = shrink(&failing, in_world);
        let traced = in_world(&Run { trace: Tracing::On, ..smaller }).expect_err("the same fails again");
        print!("{}", traced.trace);
        println!("smaller: {}\n  {}", command(world, &smaller, None), violation.what);
    }
}

fn command(world: World, run: &Run, flips: Option<u32>) -> String {
    let mut command = format!("cargo run --release --features sim --bin simulate -- --seed {}", run.seed);
    match (flips, world) {
        (Some(per_class), _) => command.push_str(&format!(" --flips {per_class}")),
        (None, World::Shard) => command.push_str(" --world shard"),
        (None, World::Shards) => command.push_str(" --world shards"),
        (None, World::Files) => command.push_str(" --world files"),
        (None, World::Sites) => command.push_str(" --world sites"),
    }
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
