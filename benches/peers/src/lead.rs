//! The process that leads: deals out the runs in a random order, each to a process and a folder of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::adapters::walrus::DIR_VARIABLE;
use crate::args::{Args, Child};
use crate::peer::{Engine, Sync};
use crate::report::{self, CHECK_SCHEMA, SCHEMA};

/// A process that takes so much longer than it was asked to is ended, and its run has failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the leader looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(10);

/// One combination.
#[derive(Clone, Copy)]
struct Job {
    engine: Engine,
    sync: Sync,
    block_bytes: usize,
}

/// Runs everything that was asked for. False where something failed, which then has a line that says so.
///
/// # Errors
/// Where the folder or the record cannot be used.
pub fn go(args: &Args) -> Result<bool> {
    let made = !args.dir.exists();
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let dir = fs::canonicalize(&args.dir)?;
    let mut record = Record::open(&args.json)?;
    let seed = args
        .seed
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64));
    eprintln!("seed {seed}");
    let mut shuffler = Shuffler(seed | 1);
    let mut sound = true;
    let rounds = if args.check { 1 } else { args.repeat };
    for round in 0..rounds {
        let mut jobs = jobs(args);
        shuffler.shuffle(&mut jobs);
        for job in jobs {
            let Job { engine, sync, block_bytes } = job;
            let schema = if args.check { CHECK_SCHEMA } else { SCHEMA };
            let mut line = report::head(schema, engine, sync, args.writers, block_bytes);
            report::add(&mut line, json!({ "repeat": args.first_repeat + round }));
            let outcome = match engine.unsupported(sync) {
                Some(why) => Ok(json!({ "skipped": why })),
                None => {
                    let folder = Folder::make(&dir)?;
                    let run =
                        || if args.check { check(args, job, &folder.0) } else { measure(args, job, &folder.0, round) };
                    run()
                }
            };
            let outcome = outcome.unwrap_or_else(|error| json!({ "failed": format!("{error:#}") }));
            report::add(&mut line, outcome);
            report::add(&mut line, json!({ "seed": seed }));
            sound &= is_sound(&line);
            eprintln!("{}", summary(&line));
            record.write(&line)?;
        }
    }
    if made {
        fs::remove_dir(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(sound)
}

fn jobs(args: &Args) -> Vec<Job> {
    let mut jobs = Vec::new();
    for &engine in &args.engines {
        for &sync in &args.sync {
            jobs.extend(args.block_bytes.iter().map(|&block_bytes| Job { engine, sync, block_bytes }));
        }
    }
    jobs
}

fn measure(args: &Args, job: Job, dir: &Path, round: u32) -> Result<Value> {
    let patience = PATIENCE + Duration::from_secs_f64(args.seconds + args.warmup);
    let (status, line) = child(args, Child::Measure, job, dir, round, patience)?;
    ensure!(status.success(), "the process ended with {status}");
    line.context("the process printed no line")
}

/// Writes in a process that is killed as the last block is acknowledged, and reads in another.
fn check(args: &Args, job: Job, dir: &Path) -> Result<Value> {
    let (status, line) = child(args, Child::Write, job, dir, 0, PATIENCE)?;
    ensure!(status.signal() == Some(9), "the writing process ended with {status}, before it was to be killed");
    let mut all = line.context("the writing process printed no line")?;
    let (status, line) = child(args, Child::Read, job, dir, 0, PATIENCE)?;
    ensure!(status.success(), "the reading process ended with {status}");
    report::add(&mut all, line.context("the reading process printed no line")?);
    Ok(all)
}

/// Runs one process for one job, and gives the JSON that it printed last.
fn child(
    args: &Args,
    what: Child,
    job: Job,
    dir: &Path,
    round: u32,
    patience: Duration,
) -> Result<(ExitStatus, Option<Value>)> {
    let mut command = Command::new(std::env::current_exe()?);
    let what = match what {
        Child::Measure => "measure",
        Child::Write => "write",
        Child::Read => "read",
    };
    let repeat = args.first_repeat + round;
    command.args(["--child", what, "--engines", &job.engine.name(), "--sync", &job.sync.to_string()]);
    command.args(["--block-bytes", &job.block_bytes.to_string(), "--writers", &args.writers.to_string()]);
    command.args(["--seconds", &args.seconds.to_string(), "--warmup", &args.warmup.to_string()]);
    command.args(["--blocks", &args.blocks.to_string(), "--first-repeat", &repeat.to_string()]);
    command.args(args.visible.then_some("--visible"));
    command.arg("--dir").arg(dir);
    // walrus takes its folder from here, and prints what it does unless it is told not to.
    command.env(DIR_VARIABLE, dir).env("WALRUS_QUIET", "1");
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = process.stdout.take().context("a pipe")?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let end = Instant::now() + patience;
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            process.kill()?;
            process.wait()?;
            bail!("not done after {} s, and ended", patience.as_secs());
        }
        thread::sleep(LOOK);
    };
    let text = reader.join().expect("a thread that does not panic")?;
    let last = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    Ok((status, last))
}

fn is_sound(line: &Value) -> bool {
    if line["schema"] != CHECK_SCHEMA || !line["skipped"].is_null() {
        return line["failed"].is_null();
    }
    line["acked_blocks"].is_u64() && line["acked_blocks"] == line["verified_blocks"] && line["wrong_blocks"] == 0
}

fn summary(line: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let settings = &line["settings"];
    let what =
        format!("{:<18}{:<6}{:>7} bytes  ", text(&line["engine"]), text(&settings["sync"]), settings["block_bytes"]);
    let found = match (&line["skipped"], &line["failed"]) {
        (Value::String(why), _) => format!("skipped: {why}"),
        (_, Value::String(why)) => format!("FAILED: {why}"),
        _ if line["schema"] == CHECK_SCHEMA => format!(
            "{} {} of {} acknowledged blocks are there after SIGKILL, {} wrong",
            if is_sound(line) { "ok:" } else { "WRONG:" },
            line["verified_blocks"],
            line["acked_blocks"],
            line["wrong_blocks"]
        ),
        _ => format!("{} blocks/s, p99 {} us", line["blocks_per_s"], line["ack_us"]["p99"]),
    };
    format!("{what}{found}")
}

/// A folder for one run, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn make(dir: &Path) -> Result<Self> {
        let path = dir.join(format!("run-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Where lines go.
enum Record {
    Stdout,
    File(File),
}

impl Record {
    fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self::File(file.with_context(|| format!("cannot open {}", path.display()))?))
    }

    fn write(&mut self, line: &Value) -> Result<()> {
        match self {
            Self::Stdout => println!("{line}"),
            Self::File(file) => writeln!(file, "{line}")?,
        }
        Ok(())
    }
}

/// xorshift64: an order that is the same for the same seed.
struct Shuffler(u64);

impl Shuffler {
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            items.swap(last, (self.0 % (last as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_order_of_all() {
        let order = |seed: u64| {
            let mut items: Vec<u32> = (0..30).collect();
            Shuffler(seed | 1).shuffle(&mut items);
            items
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(9));
        let mut all = order(7);
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<u32>>());
    }

    #[test]
    fn a_lost_a_wrong_and_an_absent_block_fail_a_check() {
        let line = |verified, wrong| json!({ "schema": CHECK_SCHEMA, "acked_blocks": 9, "verified_blocks": verified, "wrong_blocks": wrong });
        assert!(is_sound(&line(9, 0)));
        assert!(!is_sound(&line(8, 0)) && !is_sound(&line(9, 1)));
        assert!(!is_sound(&json!({ "schema": CHECK_SCHEMA, "failed": "open" })));
        assert!(!is_sound(&json!({ "schema": SCHEMA, "failed": "open" })));
        assert!(is_sound(&json!({ "schema": SCHEMA, "blocks": 1 })));
    }
}
