//! The command: how often each setting is rehearsed, and what is said of it.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use forebay::types::mix64;

use super::rehearsal::{Load, Moment, Outcome, Setting, rehearse};
use crate::out::{CHECK_FAILED, with_schema};

const SCHEMA: &str = "forebay.rehearse/1";
/// The settings, each without and with an acknowledgement that waits for the follower.
const SETTINGS: [(u8, Option<u64>); 3] = [(1, None), (2, Some(3000)), (2, Some(0))];

/// Options of the command.
#[derive(Args)]
pub struct RehearseArgs {
    /// A folder in which the stores are made; what is kept of a rehearsal that failed is there
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Rehearsals of each setting
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Seconds of load before the first site is lost, at most
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Writers of each site
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    writers: u16,
    /// Blocks a second, all writers of a site together
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Bytes of a block
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    block_bytes: u32,
    /// Draws the moments; the same ones for the same number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object for each rehearsal
    #[arg(long)]
    json: bool,
}

/// Rehearses each setting so often; 3 where something that is promised did not hold.
pub fn run(args: &RehearseArgs) -> Result<ExitCode> {
    ensure!((0.1..=3600.0).contains(&args.seconds), "--seconds is not within 0.1..=3600");
    let load = Load { writers: args.writers, rate: args.rate, block_bytes: args.block_bytes as usize };
    let settings = SETTINGS.into_iter().flat_map(|(wal_level, wal_fsync_period_ms)| {
        [0, 1].map(|shipped| Setting { wal_level, wal_fsync_period_ms, shipped })
    });
    let settings: Vec<Setting> = settings.collect();
    let mut outcomes = Vec::new();
    let mut broken = Vec::new();
    for run in 0..args.runs {
        for (index, setting) in settings.iter().enumerate() {
            let seed = args.seed.wrapping_add(u64::from(run)).wrapping_mul(settings.len() as u64) + index as u64;
            let folder = args.dir.join(format!("forebay-rehearsal-{}-{run}-{index}", std::process::id()));
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            let outcome = rehearse(&folder, *setting, load, moment(seed, args.seconds)).with_context(|| {
                format!("rehearsal {run} of {}; it is kept in {}", in_words(setting), folder.display())
            })?;
            let wrong = outcome.broken();
            if wrong.is_empty() {
                fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
            }
            let where_it_is = |why| format!("{}: {why}; it is kept in {}", in_words(setting), folder.display());
            broken.extend(wrong.into_iter().map(where_it_is));
            if args.json {
                writeln!(io::stdout().lock(), "{}", with_schema(SCHEMA, &outcome))?;
            }
            outcomes.push(outcome);
        }
    }
    if !args.json {
        writeln!(io::stdout().lock(), "{}", as_text(args, &settings, &outcomes))?;
    }
    for why in &broken {
        eprintln!("error: {why}");
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
}

/// When the site is lost; in half of all cases the link is cut before, for a time or to the end.
fn moment(seed: u64, seconds: f64) -> Moment {
    let most = (seconds * 1e6) as u64;
    let upto = |draw: u64, most: u64| Duration::from_micros(mix64(seed, draw) % most);
    let cut = mix64(seed, 0).is_multiple_of(2).then(|| (upto(1, most / 4), upto(2, most / 4)));
    Moment { lost_after: Duration::from_micros(most / 4) + upto(3, most * 3 / 4), cut }
}

fn in_words(setting: &Setting) -> String {
    let level = match setting.wal_fsync_period_ms {
        None => format!("({})", setting.wal_level),
        Some(ms) => format!("({}, {ms})", setting.wal_level),
    };
    if setting.shipped == 0 { level } else { format!("{level} shipped {}", setting.shipped) }
}

fn as_text(args: &RehearseArgs, settings: &[Setting], outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let mut head = vec!["setting".to_owned(), "rehearsals".to_owned(), "acked".to_owned()];
    head.extend(["RPO blocks", "RPO ms", "RTO ms", "return ms", "failback ms", "lost"].map(str::to_owned));
    table.set_header(head);
    for (index, setting) in settings.iter().enumerate() {
        let of: Vec<&Outcome> = outcomes.iter().skip(index).step_by(settings.len()).collect();
        let both = |figure: &dyn Fn(&Outcome) -> f64, digits: usize| {
            let mut all: Vec<f64> = of.iter().map(|outcome| figure(outcome)).collect();
            all.sort_by(f64::total_cmp);
            let (median, most) = (all[all.len() / 2], all[all.len() - 1]);
            format!("{median:.digits$} / {most:.digits$}")
        };
        table.add_row(vec![
            in_words(setting),
            of.len().to_string(),
            of.iter().map(|outcome| outcome.acked).sum::<u64>().to_string(),
            both(&|outcome| outcome.rpo_blocks as f64, 0),
            both(&|outcome| outcome.rpo_ms, 1),
            both(&|outcome| outcome.rto_ms, 1),
            both(&|outcome| outcome.return_ms, 0),
            both(&|outcome| outcome.failback_ms, 1),
            of.iter().map(|outcome| outcome.lost).sum::<u64>().to_string(),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    format!(
        "{} writers, {} blocks/s of {} bytes; median / largest\n{table}\n\
         RPO: acknowledged blocks that the second site did not have when it took over, and the age of the oldest. They \
         come back with the first site.\n\
         RTO: from the loss of the first site to the second one's first acknowledgement; it was promoted at once.\n\
         Return: from the first site's start until both had everything. Failback: from its promotion to its first \
         acknowledgement.\n\
         All blocks of both stores were compared at the end of each rehearsal.",
        args.writers, args.rate, args.block_bytes
    )
}
