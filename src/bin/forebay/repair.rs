//! `forebay repair`: salvages a store that does not open.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use forebay::IntakeRule;
use forebay::inspect::{Mode, Plan, Repaired, repair};

use crate::out::{StoreArgs, count};

/// Options of the command.
#[derive(Args)]
pub struct RepairArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Take the intake rings as after a power cut: for a device that was detached and attached again
    #[arg(long)]
    intake_as_power_cut: bool,
    /// Repair a store without data files, out of which nothing ever took blocks
    #[arg(long, conflicts_with = "dry_run")]
    log_alone: bool,
}

/// Repairs it.
pub fn run(args: &RepairArgs) -> Result<()> {
    let rule = if args.intake_as_power_cut { IntakeRule::AsPowerCut } else { IntakeRule::ByBoot };
    let mode = match (args.dry_run, args.log_alone) {
        (true, _) => Mode::DryRun,
        (false, true) => Mode::LogAlone,
        (false, false) => Mode::Repair,
    };
    let done = repair(&args.store.place(rule), mode)?;
    let mut out = io::stdout().lock();
    if args.store.json {
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
    } else {
        as_text(&done, &mut out)?;
    }
    Ok(out.flush()?)
}

fn as_text(done: &Repaired, out: &mut impl Write) -> Result<()> {
    if let Some(wrong) = &done.identity_wrong {
        writeln!(out, "IDENTITY made anew from the segments' headers: {wrong}")?;
    }
    for plan in done.shards.iter().chain(&done.manifest) {
        plan_as_text(plan, out)?;
    }
    for (file, bytes) in &done.quarantined {
        writeln!(out, "{file}: {bytes} bytes")?;
    }
    match (done.dry_run, done.is_sound()) {
        (true, true) => writeln!(out, "nothing to repair")?,
        (true, false) => writeln!(out, "nothing was changed: this is what a repair would do")?,
        (false, _) => writeln!(out, "repaired: the store opens")?,
    }
    Ok(())
}

fn plan_as_text(plan: &Plan, out: &mut impl Write) -> Result<()> {
    let name = plan.shard.map_or_else(|| "manifest".to_owned(), |shard| format!("shard {shard}"));
    write!(out, "{name}: kept {} of the log", count(plan.blocks_kept, "block"))?;
    if plan.blocks_replayed > 0 {
        write!(out, " and {} of the ring", count(plan.blocks_replayed, "block"))?;
    }
    writeln!(out)?;
    for damage in &plan.damage {
        writeln!(out, "{name}: lost{}: {damage}", if damage.flushed { ", but flushed" } else { "" })?;
    }
    if let Some(ring) = &plan.ring {
        writeln!(out, "{name}: intake ring: {ring}")?;
    }
    for gap in &plan.gaps {
        writeln!(out, "{name}: gap: {gap}")?;
    }
    for torn in &plan.torn {
        writeln!(out, "{name}: torn tail in segment {} at {:#x}..{:#x}", torn.segment, torn.offset, torn.upto)?;
    }
    for segment in &plan.headers {
        writeln!(out, "{name}: one copy of the header of segment {segment} written anew from the other")?;
    }
    Ok(())
}
