//! All runs of a plan, one after the other, each over its own store; then what is said about them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::args::{Plan, Setting, Workload};
use crate::baseline::PlainFile;
use crate::engine::{EngineTarget, read_back};
use crate::env::Env;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::{EngineName, Report};
use crate::run::{Measured, measure};
use crate::verify::{Verdict, Verifier};
use crate::{plot, tables};

/// Stands in a folder that this program made, and may therefore empty; locked while it works there.
const MARKER: &str = "LOAD-TEST";
/// Stands in every store.
const STORE_FILE: &str = "IDENTITY";

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

/// Does what the plan says.
///
/// # Errors
/// The first run that failed.
pub fn run(plan: &Plan, interrupt: &Interrupt) -> Result<Outcome> {
    let place = Place::prepare(plan)?;
    let outcome = run_in(plan, &place, interrupt);
    match &outcome {
        Ok(Outcome::Done | Outcome::Interrupted) => place.remove()?,
        _ => place.leave(),
    }
    outcome
}

fn run_in(plan: &Plan, place: &Place, interrupt: &Interrupt) -> Result<Outcome> {
    let env = Env::of(&plan.dir);
    let mut outputs = Outputs::open(plan)?;
    let mut reports = Vec::new();
    let mut outcome = Outcome::Done;
    let runs: Vec<_> =
        (1..=plan.repeat).flat_map(|repeat| turns(plan, repeat).into_iter().map(move |turn| (repeat, turn))).collect();
    for &(repeat, (setting, engine)) in &runs {
        let (measured, verdict) = one_run(plan, place, engine, setting, repeat, interrupt)?;
        // What was interrupted before its measurement began has no figures.
        if !interrupt.has_come() || measured.done.blocks > 0 {
            let report = Report::new(engine, plan, setting, repeat, &measured, verdict.as_ref(), &env);
            outputs.write(&report, &measured)?;
            reports.push(report);
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
    let interrupted = interrupt.has_come().then(|| format!("Interrupted: {} of {} runs", reports.len(), runs.len()));
    if interrupted.is_some() && outcome == Outcome::Done {
        outcome = Outcome::Interrupted;
    }
    let text = tables::render(plan, &reports, interrupted.as_deref());
    if plan.json_on_stdout() {
        eprint!("{text}")
    } else {
        print!("{text}")
    }
    if let Some(path) = plan.plot.as_ref().filter(|_| !reports.is_empty()) {
        plot::draw(path, plan, &reports)?;
    }
    Ok(outcome)
}

/// The runs of one repeat. Every other repeat goes backwards, so that no setting always runs behind
/// the same other one, whose traces in the disk and the page cache it would have to bear.
fn turns(plan: &Plan, repeat: u32) -> Vec<(Setting, EngineName)> {
    let engines: &[_] = if plan.baseline { &[EngineName::Forebay, EngineName::File] } else { &[EngineName::Forebay] };
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
    let dir = place.for_run(engine, setting, repeat)?;
    let result = match engine {
        EngineName::File => {
            let file = PlainFile::create(&dir, setting)?;
            (measure(&file, plan, None, None, &progress, interrupt)?, None)
        }
        EngineName::Forebay => {
            let run = plan.verify.then(run_number);
            progress.say("opening");
            // Without a sink the log is trimmed; what is already there is not ours to take away.
            let hold = match place.existing_store {
                true => Some("what was there before"),
                false => plan.verify.then_some("--verify"),
            };
            let target = EngineTarget::open(&dir, plan, setting, hold)?;
            let measured = match measure(&target, plan, run, hold, &progress, interrupt) {
                Ok(measured) => measured,
                Err(failed) => {
                    // What was acknowledged is to be kept, whatever the close says beside that.
                    let _ = target.close();
                    return Err(failed.into());
                }
            };
            target.close()?;
            let verdict = match run {
                None => None,
                Some(run) => {
                    progress.say("verifying");
                    let mut verifier = Verifier::new(run, &measured.ledgers, !place.existing_store);
                    read_back(&dir, plan, setting, &mut verifier)?;
                    Some(verifier.finish())
                }
            };
            (measured, verdict)
        }
    };
    place.after_run(plan, &dir)?;
    Ok(result)
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
    fn prepare(plan: &Plan) -> Result<Self> {
        let dir = plan.dir.clone();
        let named = || format!("--dir {}", dir.display());
        let existing_store = dir.join(STORE_FILE).exists() && !dir.join(MARKER).exists();
        let single = plan.settings.len() == 1 && plan.repeat == 1 && !plan.baseline;
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
            if !plan.keep {
                fs::write(dir.join(MARKER), "Made by load-test; it may be removed.\n").with_context(named)?;
                marker = Some(lock_marker(&dir)?);
            }
        }
        Ok(Self { dir, made, _marker: marker, existing_store, keep: plan.keep, single })
    }

    fn for_run(&self, engine: EngineName, setting: Setting, repeat: u32) -> Result<PathBuf> {
        if engine == EngineName::Forebay && self.existing_store {
            return Ok(self.dir.clone());
        }
        if engine == EngineName::Forebay && self.single && self.keep {
            return Ok(self.dir.clone());
        }
        let kind = if engine == EngineName::File { "file" } else { "store" };
        let period = setting.period_ms().map_or(String::new(), |ms| format!("-{ms}"));
        let path = self.dir.join(format!("{kind}-{}{period}-run-{repeat}", setting.wal_level()));
        ensure!(!path.exists(), "{} is there already; remove it or name another --dir", path.display());
        Ok(path)
    }

    fn after_run(&self, plan: &Plan, path: &Path) -> Result<()> {
        if plan.keep || path == self.dir {
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
    fn open(plan: &Plan) -> Result<Self> {
        let create = |path: &PathBuf| File::create(path).with_context(|| format!("cannot make {}", path.display()));
        let json: Option<Box<dyn Write>> = match &plan.json {
            Some(path) if path.as_os_str() == "-" => Some(Box::new(std::io::stdout())),
            Some(path) => Some(Box::new(create(path)?)),
            None => None,
        };
        plan.hdr.as_ref().map(create).transpose()?;
        Ok(Self { json, hdr: plan.hdr.clone(), histograms: Vec::new(), clock: Duration::ZERO })
    }

    fn write(&mut self, report: &Report, measured: &Measured) -> Result<()> {
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
            let tag = format!("{engine}-{}{period}-run-{}", report.setting.wal_level(), report.repeat);
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
