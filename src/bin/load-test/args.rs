//! The command line: what was typed ([`Args`]) becomes what is to be done ([`Plan`]), or an error
//! that names the option.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use forebay::limits::{FSYNC_PERIOD_MS, SHARDS_MAX};
use forebay::probe::Probe;
use forebay::{IoChoice, SyncPolicy};

use crate::meters::ROW_BYTES_MAX;

/// Bytes in a raw block where nothing else is asked for.
const BLOCK_BYTES: u64 = 4096;
/// Lines in a block of line protocol where nothing else is asked for.
const ROWS_PER_BLOCK: u32 = 1000;
/// The engine's default for the largest block, in bytes.
const BLOCK_BYTES_MAX: u64 = 16 << 20;
/// Repeats of each setting where several are compared.
const REPEATS: u32 = 3;
/// The period of `wal_level` 2 where none is given, in milliseconds.
const FSYNC_PERIOD_DEFAULT_MS: u64 = 3000;
/// A verified raw block holds at least its identity.
const VERIFIED_BLOCK_BYTES_MIN: u64 = crate::workload::IDENTITY_BYTES as u64;

/// Measures what each fsync setting costs on this disk.
///
/// Without options: two tables, each of the settings (1), (2,3000) and (2,0), three times in turn with 50
/// writers, and by how much each is slower than the one before it. First the log alone: raw blocks of 4 KiB,
/// kept by no store. Then the whole path: rows of the meters table, up to Parquet files.
#[derive(Debug, Parser)]
#[command(name = "load-test", version)]
pub struct Args {
    /// Folder for the stores of the run; made, and removed at the end. An existing store is used, and nothing in it trimmed.
    #[arg(long, default_value = "forebay-load-test", value_name = "DIR")]
    dir: PathBuf,
    /// Do not remove the folder at the end.
    #[arg(long)]
    keep: bool,
    /// Threads that write.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    writers: u32,
    /// Blocks that a writer has under way at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536), value_name = "N")]
    in_flight: u32,
    /// How long each run is measured.
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: f64,
    /// How long each run goes before it is measured.
    #[arg(long, default_value = "1", value_parser = seconds, value_name = "SECONDS")]
    warmup: f64,
    /// Measure at least until so many bytes are acknowledged (k, m, g: powers of 1024).
    #[arg(long, value_parser = bytes, value_name = "N")]
    bytes: Option<u64>,
    /// Run this level alone. 1: no ack waits for fsync; 2: with fsync.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2), value_name = "1|2")]
    wal_level: Option<u8>,
    /// Level 2 only. 0: each ack waits for fsync; P: fsync every P milliseconds (0..=180000; default 3000).
    #[arg(long, value_parser = clap::value_parser!(u64).range(FSYNC_PERIOD_MS), value_name = "MS")]
    wal_fsync_period: Option<u64>,
    /// Shards of a new store; default: one per core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    shards: Option<u16>,
    /// CPUs that shards are pinned to, such as 2-5,8.
    #[arg(long, value_parser = cpus, value_name = "LIST")]
    cpus: Option<Cpus>,
    /// How the log is written.
    #[arg(long, default_value = "auto", value_parser = io_choice, value_name = "auto|uring|pwrite")]
    io: IoChoice,
    /// Open loop: blocks a second of all writers together; latency counts from the intended start.
    #[arg(long, value_parser = rate, value_name = "R/s")]
    rate: Option<f64>,
    /// Line protocol to write, once, in place of made-up blocks; gzip is recognized.
    #[arg(long, value_name = "FILE[.gz]", conflicts_with_all = ["block_bytes", "rate", "bytes"])]
    input: Option<PathBuf>,
    /// Raw blocks of so many bytes (default 4096; k, m, g: powers of 1024).
    #[arg(long, value_parser = bytes, value_name = "N", conflicts_with = "rows_per_block")]
    block_bytes: Option<u64>,
    /// Blocks of so many lines: of the input, or of the meters table (default 1000).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    rows_per_block: Option<u32>,
    /// Where synced blocks go (default: parquet for lines, none for raw blocks). none: the log alone.
    #[arg(long, value_parser = store_kind, value_name = "parquet|none")]
    store: Option<StoreKind>,
    /// After each run prove that every acknowledged block is there once: in the log, which is opened again, or
    /// with a store row by row in its data files.
    #[arg(long)]
    verify: bool,
    /// Measure the same against one plain file, written under a lock, in the same repeats; or that file only.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "beside", value_name = "beside|only")]
    baseline: Option<Baseline>,
    /// How often each setting is run, in turn (default 3; 1 for a single setting or an input).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    repeat: Option<u32>,
    /// One JSON object per run and line; - is stdout, which then carries nothing else.
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Latencies of all runs as an HdrHistogram log, in nanoseconds.
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
    /// Throughput and latency as a picture.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// What `forebay probe --json` wrote: each setting is compared with what the disk allows.
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// A shard's intake ring.
    #[arg(long, value_parser = bytes, value_name = "N", hide_short_help = true)]
    intake_bytes: Option<u64>,
    /// A segment of the log.
    #[arg(long, value_parser = bytes, value_name = "N", hide_short_help = true)]
    segment_bytes: Option<u64>,
    /// The largest block.
    #[arg(long, value_parser = bytes, value_name = "N", hide_short_help = true)]
    block_bytes_max: Option<u64>,
    /// The log's bound on disk.
    #[arg(long, value_parser = bytes, value_name = "N", hide_short_help = true)]
    wal_bytes_max: Option<u64>,
    /// Bytes of a shard's log that make a flush to the store due.
    #[arg(long, value_parser = bytes, value_name = "N", hide_short_help = true)]
    buffer_bytes: Option<u64>,
}

/// One fsync setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setting {
    /// `wal_level` 1.
    Level1,
    /// `wal_level` 2 with this `wal_fsync_period` in milliseconds; 0: every ack waits for fsync.
    Level2(u64),
}

impl Setting {
    /// `(1)` or `(2,P)`.
    pub fn label(self) -> String {
        match self {
            Self::Level1 => "(1)".into(),
            Self::Level2(ms) => format!("(2,{ms})"),
        }
    }

    /// The level, 1 or 2.
    pub fn wal_level(self) -> u8 {
        match self {
            Self::Level1 => 1,
            Self::Level2(_) => 2,
        }
    }

    /// As the engine calls it.
    pub fn policy(self) -> SyncPolicy {
        match self {
            Self::Level1 => SyncPolicy::Level1,
            Self::Level2(0) => SyncPolicy::Each,
            Self::Level2(ms) => SyncPolicy::Periodic { ms },
        }
    }

    /// The period in milliseconds, at level 2.
    pub fn period_ms(self) -> Option<u64> {
        match self {
            Self::Level1 => None,
            Self::Level2(ms) => Some(ms),
        }
    }
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Blocks of that many bytes.
    Raw(u64),
    /// Blocks of that many rows of the meters table.
    Meters(u32),
    /// The lines of a file, that many in a block.
    Input(PathBuf, u32),
}

/// Where synced blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Into Parquet files.
    Parquet,
    /// Nowhere: the log alone.
    None,
}

impl StoreKind {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::None => "none",
        }
    }

    /// Where lines go if nobody says where.
    const fn of_lines() -> Self {
        if cfg!(feature = "parquet") { Self::Parquet } else { Self::None }
    }
}

/// Where one plain file is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Baseline {
    /// In turn with the engine.
    Beside,
    /// In its place.
    Only,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where stores are made.
    pub dir: PathBuf,
    /// Whether what was made stays.
    pub keep: bool,
    /// Where JSON goes.
    pub json: Option<PathBuf>,
    /// Where histograms go.
    pub hdr: Option<PathBuf>,
    /// Where the picture goes.
    pub plot: Option<PathBuf>,
    /// The tables, in order.
    pub plans: Vec<Plan>,
}

impl Job {
    /// Whether stdout belongs to JSON alone.
    pub fn json_on_stdout(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }

    /// Whether there is only one run in all.
    pub fn is_single(&self) -> bool {
        let single = |plan: &Plan| plan.settings.len() == 1 && plan.repeat == 1 && plan.baseline.is_none();
        self.plans.len() == 1 && self.plans.iter().all(single)
    }
}

/// The runs of one table.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Threads.
    pub writers: usize,
    /// Blocks under way for each.
    pub in_flight: usize,
    /// Measured time of a run.
    pub seconds: f64,
    /// Time before it.
    pub warmup: f64,
    /// The run measures at least this much.
    pub bytes_min: u64,
    /// Settings to compare, in order.
    pub settings: Vec<Setting>,
    /// Shards asked for.
    pub shards: Option<usize>,
    /// CPUs asked for.
    pub cpus: Option<Vec<usize>>,
    /// The way of I/O asked for.
    pub io: IoChoice,
    /// Blocks a second of all writers, for an open loop.
    pub rate: Option<f64>,
    /// What is written.
    pub workload: Workload,
    /// Where it goes.
    pub store: StoreKind,
    /// Whether each run is proven.
    pub verify: bool,
    /// Whether the plain file is measured, too or only.
    pub baseline: Option<Baseline>,
    /// How often each setting is run.
    pub repeat: u32,
    /// Sizes of the engine that were given.
    pub sizes: Sizes,
    /// What the disk can do, where it was measured.
    pub probe: Option<Arc<Probe>>,
}

/// Sizes of the engine, where they are not its defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// A shard's intake ring, in bytes.
    pub intake_bytes: Option<u64>,
    /// A segment, in bytes.
    pub segment_bytes: Option<u64>,
    /// The largest block, in bytes.
    pub block_bytes_max: Option<u64>,
    /// The log's bound, in bytes.
    pub wal_bytes_max: Option<u64>,
    /// What makes a flush due, in bytes.
    pub buffer_bytes: Option<u64>,
}

impl Args {
    /// Checks what belongs together.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn job(self) -> Result<Job, String> {
        let settings = match (self.wal_level, self.wal_fsync_period) {
            (None, None) => vec![Setting::Level1, Setting::Level2(FSYNC_PERIOD_DEFAULT_MS), Setting::Level2(0)],
            (Some(2), period) => vec![Setting::Level2(period.unwrap_or(FSYNC_PERIOD_DEFAULT_MS))],
            (_, None) => vec![Setting::Level1],
            (_, Some(_)) => return Err("--wal-fsync-period needs --wal-level 2: at level 1 nothing is synced".into()),
        };
        if self.seconds == 0.0 {
            return Err("--seconds 0: a run must last".into());
        }
        if self.buffer_bytes == Some(0) {
            return Err("--buffer-bytes 0: a flush must have something to take".into());
        }
        let workload = match (&self.input, self.block_bytes, self.rows_per_block) {
            (Some(file), _, rows) => Workload::Input(file.clone(), rows.unwrap_or(ROWS_PER_BLOCK)),
            (None, None, Some(rows)) => Workload::Meters(rows),
            (None, None, None) if self.store == Some(StoreKind::Parquet) => Workload::Meters(ROWS_PER_BLOCK),
            (None, bytes, _) => Workload::Raw(bytes.unwrap_or(BLOCK_BYTES)),
        };
        let store = self.store.unwrap_or(match workload {
            Workload::Raw(_) => StoreKind::None,
            Workload::Meters(_) | Workload::Input(..) => StoreKind::of_lines(),
        });
        let probe = self.probe.as_deref().map(read_probe).transpose()?.map(Arc::new);
        let mut plans = vec![self.plan(&settings, workload, store, probe.clone())?];
        // One setting, or blocks of one kind (a rate counts blocks), are one table.
        let is_narrow = self.wal_level.is_some() || self.rate.is_some() || self.block_bytes.is_some();
        if !is_narrow && self.store.is_none() && self.input.is_none() && self.rows_per_block.is_none() {
            let whole_path = self.plan(&settings, Workload::Meters(ROWS_PER_BLOCK), StoreKind::of_lines(), probe)?;
            plans.extend(Some(whole_path).filter(|plan| plan.store == StoreKind::Parquet));
        }
        Ok(Job { dir: self.dir, keep: self.keep, json: self.json, hdr: self.hdr, plot: self.plot, plans })
    }

    fn plan(
        &self,
        settings: &[Setting],
        workload: Workload,
        store: StoreKind,
        probe: Option<Arc<Probe>>,
    ) -> Result<Plan, String> {
        let max = self.block_bytes_max.unwrap_or(BLOCK_BYTES_MAX);
        match workload {
            Workload::Raw(bytes) if bytes > max => {
                return Err(format!("--block-bytes {bytes}: the largest block has {max} bytes"));
            }
            Workload::Raw(bytes) if self.verify && bytes < VERIFIED_BLOCK_BYTES_MIN => {
                return Err(format!(
                    "--block-bytes {bytes}: --verify needs blocks of {VERIFIED_BLOCK_BYTES_MIN} bytes"
                ));
            }
            Workload::Meters(rows) if u64::from(rows) * ROW_BYTES_MAX > max => {
                return Err(format!(
                    "--rows-per-block {rows}: rows have up to {ROW_BYTES_MAX} bytes, and the largest block has {max} \
                     bytes, enough for {} rows",
                    max / ROW_BYTES_MAX
                ));
            }
            _ => {}
        }
        let many = settings.len() > 1 && !matches!(workload, Workload::Input(..));
        Ok(Plan {
            writers: self.writers as usize,
            in_flight: self.in_flight as usize,
            seconds: self.seconds,
            warmup: self.warmup,
            bytes_min: self.bytes.unwrap_or(0),
            settings: settings.to_vec(),
            shards: self.shards.map(usize::from),
            cpus: self.cpus.as_ref().map(|Cpus(list)| list.clone()),
            io: self.io,
            rate: self.rate,
            workload,
            store,
            verify: self.verify,
            baseline: self.baseline,
            repeat: self.repeat.unwrap_or(if many { REPEATS } else { 1 }),
            sizes: Sizes {
                intake_bytes: self.intake_bytes,
                segment_bytes: self.segment_bytes,
                block_bytes_max: self.block_bytes_max,
                wal_bytes_max: self.wal_bytes_max,
                buffer_bytes: self.buffer_bytes,
            },
            probe,
        })
    }
}

fn read_probe(file: &Path) -> Result<Probe, String> {
    let named =
        |why: &dyn std::fmt::Display| format!("--probe {}: {why}; forebay probe --json makes it", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| named(&error))?;
    serde_json::from_str(&text).map_err(|error| named(&error))
}

/// A list of CPUs. A type of its own: clap would take a plain `Vec` for a repeated option.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cpus(Vec<usize>);

fn cpus(text: &str) -> Result<Cpus, String> {
    let number = |part: &str| part.parse::<usize>().ok().filter(|&cpu| cpu < 4096);
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last && list.len() + last - first < SHARDS_MAX => {
                list.extend(first..=last);
            }
            (Some(first), Some(last)) if first <= last => {
                return Err(format!("more than {SHARDS_MAX} CPUs, the most shards that a store can have"));
            }
            _ => return Err(format!("'{part}' is neither a CPU nor a range of CPUs such as 2-5")),
        }
    }
    Ok(Cpus(list))
}

fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        _ => (&lower[..], 0),
    };
    let number = digits.parse::<u64>().map_err(|_| "not a number of bytes such as 4096, 64k or 1g".to_string())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>().unwrap_or(f64::NAN);
    let sound = number.is_finite() && number > 0.0 && number <= 1e9;
    sound.then_some(number).ok_or_else(|| "not a number of blocks a second such as 5000/s".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().unwrap_or(f64::NAN);
    (0.0..=86_400.0).contains(&number).then_some(number).ok_or_else(|| "not within 0..=86400 seconds".into())
}

fn store_kind(text: &str) -> Result<StoreKind, String> {
    match text {
        "none" => Ok(StoreKind::None),
        "parquet" if cfg!(feature = "parquet") => Ok(StoreKind::Parquet),
        "parquet" => Err("not built into this program: build it with the feature 'parquet', or use none".into()),
        _ => Err("must be parquet or none".into()),
    }
}

fn io_choice(text: &str) -> Result<IoChoice, String> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn job(line: &str) -> Result<Job, String> {
        let words = std::iter::once("load-test").chain(line.split_whitespace());
        Args::try_parse_from(words).map_err(|error| error.to_string())?.job()
    }

    /// The first table.
    fn plan(line: &str) -> Result<Plan, String> {
        job(line).map(|mut job| job.plans.remove(0))
    }

    /// What each table is of.
    fn tables(line: &str) -> Vec<(Workload, &'static str)> {
        let plans = job(line).expect(line).plans;
        plans.into_iter().map(|plan| (plan.workload, plan.store.word())).collect()
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn without_options_the_three_settings_run_three_times_with_50_writers() {
        let plan = plan("").expect("defaults");
        assert_eq!(plan.settings, [Setting::Level1, Setting::Level2(3000), Setting::Level2(0)]);
        assert_eq!((plan.writers, plan.in_flight, plan.repeat), (50, 1, 3));
        assert_eq!((plan.seconds, plan.warmup, plan.workload), (5.0, 1.0, Workload::Raw(4096)));
    }

    #[test]
    #[cfg(feature = "parquet")]
    fn without_options_there_are_two_tables_and_blocks_of_one_kind_make_one() {
        let (raw, meters) = ((Workload::Raw(4096), "none"), (Workload::Meters(1000), "parquet"));
        for line in ["", "--verify --baseline", "--writers 7 --seconds 1 --repeat 9 --shards 1"] {
            assert_eq!(tables(line), [raw.clone(), meters.clone()], "{line}");
        }
        for line in ["--store none", "--wal-level 2", "--rate 10/s"] {
            assert_eq!(tables(line), std::slice::from_ref(&raw), "{line}");
        }
        for line in ["--store parquet", "--rows-per-block 1000", "--wal-level 1 --store parquet"] {
            assert_eq!(tables(line), std::slice::from_ref(&meters), "{line}");
        }
        assert_eq!(tables("--rows-per-block 9 --store none"), [(Workload::Meters(9), "none")]);
        assert_eq!(tables("--block-bytes 9"), [(Workload::Raw(9), "none")]);
        assert_eq!(tables("--block-bytes 9 --store parquet"), [(Workload::Raw(9), "parquet")]);
        assert_eq!(tables("--input x"), [(Workload::Input("x".into(), 1000), "parquet")]);
    }

    #[test]
    #[cfg(not(feature = "parquet"))]
    fn without_a_store_there_is_the_log_alone() {
        assert_eq!(tables(""), [(Workload::Raw(4096), "none")]);
        assert_eq!(tables("--rows-per-block 1000"), [(Workload::Meters(1000), "none")]);
        let message = job("--store parquet").expect_err("no store");
        assert!(message.contains("--store") && message.contains("build it with the feature 'parquet'"), "{message}");
    }

    #[test]
    fn only_a_single_run_is_alone_in_its_folder() {
        let single = |line| job(line).expect(line).is_single();
        assert!(single("--wal-level 1") && single("--wal-level 2 --rows-per-block 10"));
        assert!(!single("") && !single("--wal-level 1 --repeat 2") && !single("--wal-level 1 --baseline"));
    }

    #[test]
    fn an_explicit_setting_runs_alone_and_once() {
        let settings = |line| plan(line).map(|plan| (plan.settings, plan.repeat));
        assert_eq!(settings("--wal-level 1"), Ok((vec![Setting::Level1], 1)));
        assert_eq!(settings("--wal-level 2"), Ok((vec![Setting::Level2(3000)], 1)));
        assert_eq!(settings("--wal-level 2 --wal-fsync-period 0 --repeat 5"), Ok((vec![Setting::Level2(0)], 5)));
        assert_eq!(settings("--wal-level 2 --wal-fsync-period 180000"), Ok((vec![Setting::Level2(180_000)], 1)));
    }

    #[test]
    fn every_misuse_names_its_option() {
        for (line, option) in [
            ("--wal-level 3", "--wal-level"),
            ("--wal-fsync-period 3000", "--wal-fsync-period"),
            ("--wal-level 1 --wal-fsync-period 0", "--wal-fsync-period"),
            ("--wal-level 2 --wal-fsync-period 180001", "--wal-fsync-period"),
            ("--writers 0", "--writers"),
            ("--in-flight 0", "--in-flight"),
            ("--block-bytes 10 --rows-per-block 10", "--block-bytes"),
            ("--block-bytes 17m", "--block-bytes"),
            ("--block-bytes many", "--block-bytes"),
            ("--block-bytes 8 --verify", "--block-bytes"),
            ("--rows-per-block 0", "--rows-per-block"),
            ("--input x --block-bytes 10", "--input"),
            ("--input x --rate 10/s", "--input"),
            ("--rows-per-block 1000000", "--rows-per-block"),
            ("--rows-per-block 1000 --block-bytes-max 64k", "--rows-per-block"),
            ("--buffer-bytes 0", "--buffer-bytes"),
            ("--store disk", "--store"),
            ("--rate 0", "--rate"),
            ("--rate fast", "--rate"),
            ("--seconds 0", "--seconds"),
            ("--seconds=-1", "--seconds"),
            ("--warmup nan", "--warmup"),
            ("--cpus 5-2", "--cpus"),
            ("--cpus 0-256", "--cpus"),
            ("--cpus 0-250,0-250", "--cpus"),
            ("--io aio", "--io"),
            ("--repeat 0", "--repeat"),
            ("--frobnicate", "--frobnicate"),
        ] {
            let message = plan(line).expect_err(line);
            assert!(message.contains(option), "{line}: {message}");
        }
    }

    /// What is typed is a job or a refusal, whatever it is.
    #[test]
    fn any_words_are_taken_or_refused() {
        let mut number = 0u64;
        let mut below = move |bound: usize| {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (number >> 33) as usize % bound
        };
        let command = Args::command();
        let options: Vec<String> =
            command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
        let values = [
            "",
            "0",
            "1",
            "2",
            "-1",
            "4k",
            "17m",
            "99999999999g",
            "18446744073709551615",
            "18446744073709551616",
            "nan",
            "inf",
            "1e308",
            "1e-320",
            "10/s",
            "/s",
            "-",
            "--",
            "2-5,8",
            "4095-4095",
            "0-",
            "-,",
            "uring",
            "parquet",
            "none",
            "\u{e9}k",
            "k",
            "x",
        ];
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut line = vec!["load-test".to_owned()];
            for _ in 0..below(4) {
                line.push(options[below(options.len())].clone());
                line.extend((below(5) > 0).then(|| values[below(values.len())].to_owned()));
            }
            let parsed = Args::try_parse_from(&line).map_err(|error| error.to_string()).and_then(Args::job);
            match parsed {
                Ok(job) => {
                    assert!(!job.plans.is_empty() && job.plans.iter().all(|plan| plan.writers >= 1), "{line:?}");
                    taken += 1;
                }
                Err(message) => {
                    assert!(!message.is_empty(), "{line:?}");
                    refused += 1;
                }
            }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
    }

    #[test]
    fn sizes_rates_and_lists_are_read() {
        assert_eq!(plan("--block-bytes 64k").map(|plan| plan.workload), Ok(Workload::Raw(65_536)));
        assert_eq!(plan("--rows-per-block 7").map(|plan| plan.workload), Ok(Workload::Meters(7)));
        assert_eq!(plan("--rate 2500/s").map(|plan| plan.rate), Ok(Some(2500.0)));
        assert_eq!(plan("--cpus 2-4,8").map(|plan| plan.cpus), Ok(Some(vec![2, 3, 4, 8])));
        assert_eq!(plan("--bytes 2g").map(|plan| plan.bytes_min), Ok(2 << 30));
    }
}
