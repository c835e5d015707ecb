//! All runs of a plan, one after the other, each over its own store; then what is said about them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::args::{Baseline, Job, Plan, Setting, StoreKind, Workload};
use crate::baseline::PlainFile;
#[cfg(feature = "parquet")]
use crate::data_files::each_row;
use crate::engine::{EngineTarget, NAMESPACE, read_back};
use crate::env::Env;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::{EngineName, Report};
use crate::run::{Measured, measure};
use crate::verify::{Verdict, Verifier};
use crate::verify_rows::RowVerifier;
use crate::{plot, tables};

/// Stands in a folder that this program made, and may therefore empty; locked while it works there.
const MARKER: &str = "LOAD-TEST";
/// Stands in every store.
const STORE_FILE: &str = "IDENTITY";
/// Stands in every store that has data files.
const DATA_FOLDER: &str = "data";

/// How a session ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// A proof failed.
    CheckFailed,
    /// The user ended it.
    Interrupted,
}

/// Does the job.
///
/// # Errors
/// The first run that failed.
pub fn run(job: &Job, interrupt: &Interrupt) -> Result<Outcome> {
    let place = Place::prepare(job)?;
    let outcome = run_in(job, &place, interrupt);
    match &outcome {
        Ok(Outcome::Done | Outcome::Interrupted) => place.remove()?,
        _ => place.leave(),
    }
    outcome
}

fn run_in(job: &Job, place: &Place, interrupt: &Interrupt) -> Result<Outcome> {
    let env = Env::of(&job.dir);
    let mut outputs = Outputs::open(job)?;
    let mut reports: Vec<Vec<Report>> = job.plans.iter().map(|_| Vec::new()).collect();
    let mut outcome = Outcome::Done;
    let runs: Vec<_> = job.plans.iter().enumerate().flat_map(|(table, plan)| runs_of(plan, table)).collect();
    for &(table, repeat, (setting, engine)) in &runs {
        let plan = &job.plans[table];
        let (measured, verdict) = one_run(plan, place, engine, setting, repeat, interrupt)?;
        // What was interrupted before its measurement began has no figures.
        if !interrupt.has_come() || measured.done.blocks > 0 {
            let report = Report::new(engine, plan, setting, repeat, &measured, verdict.as_ref(), &env);
            outputs.write(&report, plan, &measured)?;
            reports[table].push(report);
        }
        if let Some(verdict) = verdict.filter(|verdict| !verdict.holds()) {
            outcome = Outcome::CheckFailed;
            for problem in &verdict.problems {
                eprintln!("check failed: {} run {repeat}: {problem}", setting.label());
            }
        }
        if interrupt.has_come() {
            break;
        }
    }
    let done: usize = reports.iter().map(Vec::len).sum();
    let interrupted = interrupt.has_come().then(|| format!("Interrupted: {done} of {} runs", runs.len()));
    if interrupted.is_some() && outcome == Outcome::Done {
        outcome = Outcome::Interrupted;
    }
    let tables: Vec<(&Plan, &[Report])> = job.plans.iter().zip(reports.iter().map(Vec::as_slice)).collect();
    let text = tables::render(&tables, interrupted.as_deref());
    if job.json_on_stdout() {
        eprint!("{text}")
    } else {
        print!("{text}")
    }
    if let Some(path) = job.plot.as_ref().filter(|_| done > 0) {
        plot::draw(path, &tables)?;
    }
    Ok(outcome)
}

/// All runs of a table, in turn: table, repeat, and what is run.
fn runs_of(plan: &Plan, table: usize) -> impl Iterator<Item = (usize, u32, (Setting, EngineName))> {
    let of_repeat = move |repeat| turns(plan, repeat).into_iter().map(move |turn| (table, repeat, turn));
    (1..=plan.repeat).flat_map(of_repeat)
}

/// The runs of one repeat. Every other repeat goes backwards, so that no setting always runs behind
/// the same other one, whose traces in the disk and the page cache it would have to bear.
fn turns(plan: &Plan, repeat: u32) -> Vec<(Setting, EngineName)> {
    let engines: &[_] = match plan.baseline {
        None => &[EngineName::Forebay],
        Some(Baseline::Beside) => &[EngineName::Forebay, EngineName::File],
        Some(Baseline::Only) => &[EngineName::File],
    };
    let of = |&setting| engines.iter().map(move |&engine| (setting, engine));
    let mut turns: Vec<_> = plan.settings.iter().flat_map(of).collect();
    if repeat.is_multiple_of(2) {
        turns.reverse();
    }
    turns
}

fn one_run(
    plan: &Plan,
    place: &Place,
    engine: EngineName,
    setting: Setting,
    repeat: u32,
    interrupt: &Interrupt,
) -> Result<(Measured, Option<Verdict>)> {
    let seconds = match plan.workload {
        Workload::Input(..) => 0.0,
        _ => plan.seconds,
    };
    let name = if engine == EngineName::File { "plain file" } else { "forebay" };
    let progress = Progress::new(&format!("{} {name}, {repeat}/{}", setting.label(), plan.repeat), seconds);
    let dir = place.for_run(engine, plan.store, setting, repeat)?;
    let result = match engine {
        EngineName::File => {
            let file = PlainFile::create(&dir, setting)?;
            (measure(&file, plan, None, None, &progress, interrupt)?, None)
        }
        EngineName::Forebay => {
            let run = plan.verify.then(run_number);
            progress.say("opening");
            // Without a sink the log is trimmed; what is already there is not ours to take away.
            let hold = match (plan.store, place.existing_store) {
                (StoreKind::Parquet, _) => None,
                (StoreKind::None, true) => Some("what was there before"),
                (StoreKind::None, false) => plan.verify.then_some("--verify"),
            };
            let target = EngineTarget::open(&dir, plan, setting, hold)?;
            let mut measured = match measure(&target, plan, run, hold, &progress, interrupt) {
                Ok(measured) => measured,
                Err(failed) => {
                    // What was acknowledged is to be kept, whatever the close says beside that.
                    let _ = target.close();
                    return Err(failed.into());
                }
            };
            progress.say("closing");
            let closing = Instant::now();
            target.close()?;
            measured.close_seconds = closing.elapsed().as_secs_f64();
            let verdict = match run {
                None => None,
                Some(run) => {
                    progress.say("verifying");
                    Some(verified(plan, &dir, setting, run, &measured, place)?)
                }
            };
            (measured, verdict)
        }
    };
    place.after_run(&dir)?;
    Ok(result)
}

/// Proves what the log holds, or what the data files do.
fn verified(
    plan: &Plan,
    dir: &Path,
    setting: Setting,
    run: u64,
    measured: &Measured,
    place: &Place,
) -> Result<Verdict> {
    match plan.store {
        StoreKind::None => {
            let mut verifier = Verifier::new(run, &measured.ledgers, !place.existing_store);
            read_back(dir, plan, setting, &mut verifier)?;
            Ok(verifier.finish())
        }
        StoreKind::Parquet => {
            let mut verifier = RowVerifier::new(&measured.rows, NAMESPACE, !place.existing_store);
            let read = each_row(dir, &mut |row| verifier.see(row));
            let mut verdict = verifier.finish();
            if let Err(error) = read {
                verdict.problem(|| format!("the data files: {error:#}"));
            }
            Ok(verdict)
        }
    }
}

#[cfg(not(feature = "parquet"))]
fn each_row(_: &Path, _: &mut dyn FnMut(&crate::verify_rows::DataRow<'_>)) -> Result<()> {
    bail!("no data files can be read: this program is built without the feature 'parquet'")
}

/// Tells one run's blocks from another's.
fn run_number() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    forebay::types::mix64(now.as_nanos() as u64, u64::from(std::process::id()))
}

/// Where stores and files of the runs are.
struct Place {
    dir: PathBuf,
    /// The folder was made by this program.
    made: bool,
    /// Held for its lock.
    _marker: Option<File>,
    existing_store: bool,
    keep: bool,
    /// There is only one run: its store is the folder itself.
    single: bool,
}

impl Place {
    fn prepare(job: &Job) -> Result<Self> {
        let dir = job.dir.clone();
        let named = || format!("--dir {}", dir.display());
        let existing_store = dir.join(STORE_FILE).exists() && !dir.join(MARKER).exists();
        let stores = job.plans.iter().any(|plan| plan.store == StoreKind::Parquet);
        ensure!(
            !existing_store || !stores || dir.join(DATA_FOLDER).exists(),
            "--dir {}: a store without data files: use --store none, or name another folder",
            dir.display()
        );
        let mut made = false;
        let mut marker = None;
        if !existing_store {
            if dir.join(MARKER).exists() {
                drop(lock_marker(&dir)?);
                fs::remove_dir_all(&dir).with_context(named)?;
            } else if dir.exists() && fs::read_dir(&dir).with_context(named)?.next().is_some() {
                bail!("--dir {}: neither empty nor a store; name another folder", dir.display());
            }
            fs::create_dir_all(&dir).with_context(named)?;
            made = true;
            // A folder that is to be kept belongs to the user from the start.
            if !job.keep {
                fs::write(dir.join(MARKER), "Made by load-test; it may be removed.\n").with_context(named)?;
                marker = Some(lock_marker(&dir)?);
            }
        }
        Ok(Self { dir, made, _marker: marker, existing_store, keep: job.keep, single: job.is_single() })
    }

    fn for_run(&self, engine: EngineName, store: StoreKind, setting: Setting, repeat: u32) -> Result<PathBuf> {
        if engine == EngineName::Forebay && self.existing_store {
            return Ok(self.dir.clone());
        }
        if engine == EngineName::Forebay && self.single && self.keep {
            return Ok(self.dir.clone());
        }
        let kind = match (engine, store) {
            (EngineName::File, StoreKind::None) => "file",
            (EngineName::File, StoreKind::Parquet) => "file-beside-parquet",
            (EngineName::Forebay, StoreKind::None) => "store",
            (EngineName::Forebay, StoreKind::Parquet) => "parquet",
        };
        let period = setting.period_ms().map_or(String::new(), |ms| format!("-{ms}"));
        let path = self.dir.join(format!("{kind}-{}{period}-run-{repeat}", setting.wal_level()));
        ensure!(!path.exists(), "{} is there already; remove it or name another --dir", path.display());
        Ok(path)
    }

    fn after_run(&self, path: &Path) -> Result<()> {
        if self.keep || path == self.dir {
            return Ok(());
        }
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))
    }

    /// After a failure: the folder is the user's now, and the next session must not empty it.
    fn leave(&self) {
        if self.made {
            let _ = fs::remove_file(self.dir.join(MARKER));
            // Succeeds only where nothing was written.
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            eprintln!("what was written is kept in {}", self.dir.display());
        }
    }

    fn remove(&self) -> Result<()> {
        if !self.made || self.keep {
            return Ok(());
        }
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

/// The lock on a folder that this program made; an error where another one works in it.
fn lock_marker(dir: &Path) -> Result<File> {
    let path = dir.join(MARKER);
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let holder = "another load-test; name another --dir".to_owned();
            Err(forebay::Error::InUse { dir: dir.to_owned(), holder }.into())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Files that the user asked for. They are made before the first run: a bad path should not cost one.
struct Outputs {
    json: Option<Box<dyn Write>>,
    hdr: Option<PathBuf>,
    histograms: Vec<(String, Duration, Duration, Histogram<u64>)>,
    clock: Duration,
}

impl Outputs {
    fn open(job: &Job) -> Result<Self> {
        let create = |path: &PathBuf| File::create(path).with_context(|| format!("cannot make {}", path.display()));
        let json: Option<Box<dyn Write>> = match &job.json {
            Some(path) if path.as_os_str() == "-" => Some(Box::new(std::io::stdout())),
            Some(path) => Some(Box::new(create(path)?)),
            None => None,
        };
        job.hdr.as_ref().map(create).transpose()?;
        Ok(Self { json, hdr: job.hdr.clone(), histograms: Vec::new(), clock: Duration::ZERO })
    }

    fn write(&mut self, report: &Report, plan: &Plan, measured: &Measured) -> Result<()> {
        if let Some(json) = &mut self.json {
            let mut line = serde_json::to_string(report)?;
            line.push('\n');
            json.write_all(line.as_bytes()).and_then(|()| json.flush()).context("cannot write JSON")?;
        }
        if let Some(path) = self.hdr.clone() {
            let length = Duration::from_secs_f64(measured.seconds);
            let engine = if report.engine == EngineName::File { "file" } else { "forebay" };
            let period = report.setting.period_ms().map_or(String::new(), |ms| format!("-{ms}"));
            // A tag cannot hold commas and spaces.
            let store = if plan.store == StoreKind::Parquet { "-parquet" } else { "" };
            let tag = format!("{engine}{store}-{}{period}-run-{}", report.setting.wal_level(), report.repeat);
            let latencies = measured.corrected.as_ref().unwrap_or(&measured.service).clone();
            self.histograms.push((tag, self.clock, length, latencies));
            self.clock += length;
            self.write_histograms(&path)?;
        }
        Ok(())
    }

    /// The log as far as it is known, anew each time: few runs, and a session that fails leaves its runs.
    fn write_histograms(&self, path: &Path) -> Result<()> {
        let named = || format!("cannot write {}", path.display());
        let mut text = Vec::new();
        let mut serializer = V2Serializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("forebay load-test: from start to acknowledgement, in nanoseconds")
            .with_start_time(UNIX_EPOCH)
            .begin_log_with(&mut text, &mut serializer)
            .with_context(named)?;
        for (tag, start, length, histogram) in &self.histograms {
            log.write_histogram(histogram, *start, *length, Tag::new(tag))
                .map_err(|error| anyhow::anyhow!("{}: {error:?}", named()))?;
        }
        drop(log);
        fs::write(path, text).with_context(named)
    }
}
