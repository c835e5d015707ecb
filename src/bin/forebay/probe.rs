//! `forebay probe`: what a disk can do, whether its flush looks real, and what each setting can have of it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use forebay::IoChoice;
use forebay::config::SyncPolicy;
use forebay::probe::{Device, Flush, Load, Options, Point, Prediction, Probe, probe};
use serde_json::Value;

use crate::out::with_schema;

const SCHEMA: &str = "forebay.probe/1";
const SECONDS_MAX: f64 = 600.0;
const WRITERS: u64 = 50;
const BLOCKS: [u64; 3] = [128, 4096, 65536];
const POLICIES: [SyncPolicy; 3] = [SyncPolicy::Level1, SyncPolicy::Periodic { ms: 3000 }, SyncPolicy::Each];

/// Options of the command.
#[derive(Args)]
pub struct ProbeArgs {
    /// A folder on the disk to measure; it needs 300 MiB there for the time being
    #[arg(long)]
    dir: PathBuf,
    /// auto, uring or pwrite
    #[arg(long, default_value_t = IoChoice::Auto)]
    io: IoChoice,
    /// How long all measurements take together
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn run(args: &ProbeArgs) -> Result<()> {
    if !(0.1..=SECONDS_MAX).contains(&args.seconds) {
        bail!(forebay::Error::Config(format!("--seconds {}: it must be between 0.1 and {SECONDS_MAX}", args.seconds)));
    }
    let time = Duration::from_secs_f64(args.seconds);
    let found = probe(&Options { dir: args.dir.clone(), io: args.io, time })?;
    let loads = BLOCKS.map(|block_bytes| Load { writers: WRITERS, in_flight: 1, block_bytes });
    let predicted: Vec<Prediction> =
        POLICIES.iter().flat_map(|policy| loads.map(|load| found.predict(*policy, load))).collect();
    let mut out = io::stdout().lock();
    if args.json {
        let mut object = serde_json::to_value(&found)?;
        object["predicted"] = Value::from(predicted.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
        writeln!(out, "{}", with_schema(SCHEMA, &object))?;
    } else {
        as_text(&found, &predicted, &mut out)?;
    }
    Ok(out.flush()?)
}

fn as_text(found: &Probe, predicted: &[Prediction], out: &mut impl Write) -> Result<()> {
    writeln!(out, "device: {}; by {}", device(&found.device), found.io)?;
    writeln!(out, "flush: {}", flush(found))?;
    writeln!(out)?;
    writeln!(out, "{:<40} {:>12} {:>10} {:>10} {:>10}", "", "in flight", "MiB/s", "p50 us", "p99 us")?;
    line("4 KiB overwritten, fdatasync each", &found.overwrite, out)?;
    line("4 KiB appended, fdatasync each", &found.append, out)?;
    for point in &found.write {
        line(&format!("{} written", size(point.bytes)), point, out)?;
    }
    for point in &found.write_synced {
        line(&format!("{} written, each durable by itself", size(point.bytes)), point, out)?;
    }
    writeln!(out)?;
    writeln!(out, "what the disk allows, in blocks/s of {WRITERS} writers (the CPU may allow less):")?;
    writeln!(out, "{:<12} {:>12} {:>12} {:>12}", "setting", size(BLOCKS[0]), size(BLOCKS[1]), size(BLOCKS[2]))?;
    for of_policy in predicted.chunks(BLOCKS.len()) {
        let setting = match of_policy[0].wal_fsync_period_ms {
            None => "(1)".to_owned(),
            Some(ms) => format!("(2, {ms})"),
        };
        write!(out, "{setting:<12}")?;
        for prediction in of_policy {
            write!(out, " {:>12.0}", prediction.blocks_per_s)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn line(what: &str, point: &Point, out: &mut impl Write) -> Result<()> {
    let rate = point.bytes_per_s() / f64::from(1 << 20);
    let Point { in_flight, us_p50, us_p99, .. } = point;
    Ok(writeln!(out, "{what:<40} {in_flight:>12} {rate:>10.1} {us_p50:>10.0} {us_p99:>10.0}")?)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn device(device: &Device) -> String {
    let Some(name) = &device.name else { return "not a single one that the kernel names".to_owned() };
    let says = |what: &Option<String>| what.clone().unwrap_or_else(|| "not known".to_owned());
    let fua = match device.fua {
        Some(true) => "with FUA",
        Some(false) => "no FUA",
        None => "FUA not known",
    };
    format!("{name}, cache {}, {fua}, scheduler {}", says(&device.write_cache), says(&device.scheduler))
}

fn flush(found: &Probe) -> String {
    let us = found.overwrite.us_p50;
    let counted = found.flushes_counted.map_or_else(String::new, |counted| {
        format!("; the device counted {counted} flushes for {} syncs", found.overwrite.operations)
    });
    match found.flush {
        Flush::Plausible => format!("looks real ({us:.0} us with its write{counted}); only a power cut proves it"),
        Flush::NotNeeded => {
            "not needed: the kernel sees no volatile write cache; only a power cut proves it".to_owned()
        }
        Flush::NotSent => format!("NOT SENT to the device{counted}: a power cut may take what was synced"),
        Flush::TooFast => {
            format!(
                "TOO FAST to be real ({us:.0} us with its write{counted}): figures here say nothing about power loss"
            )
        }
    }
}
