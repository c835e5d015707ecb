//! `forebay verify`: checks every checksum and chain of a store, or compares it with a peer's.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use forebay::IntakeRule;
use forebay::inspect::{LogCounts, Verified, verify};

use crate::out::{CHECK_FAILED, StoreArgs, count};

/// Options of the command.
#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Compare the store, which a node has open, with that of this peer of it, and name the first difference
    #[cfg(feature = "server")]
    #[arg(long, value_name = "STORE_ID", conflicts_with = "intake_dir")]
    peer: Option<forebay::types::StoreId>,
}

/// Checks it; 3 where something is not as it was written.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    #[cfg(feature = "server")]
    if let Some(peer) = args.peer {
        return crate::verify_peer::run(&args.store.dir, peer, args.store.json);
    }
    let found = verify(&args.store.place(IntakeRule::ByBoot))?;
    let mut out = io::stdout().lock();
    if args.store.json {
        writeln!(out, "{}", serde_json::to_string(&found)?)?;
    } else {
        as_text(&found, args, &mut out)?;
    }
    out.flush()?;
    Ok(if found.sound { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
}

fn as_text(found: &Verified, args: &VerifyArgs, out: &mut impl Write) -> Result<()> {
    for counts in found.shards.iter().chain(&found.manifest) {
        counts_as_text(counts, out)?;
    }
    if found.manifest.is_some() {
        writeln!(out, "data files: {}, {} bytes", found.data_files, found.data_bytes)?;
    }
    for finding in &found.findings {
        writeln!(out, "{finding}")?;
    }
    if found.sound {
        return Ok(writeln!(out, "sound")?);
    }
    writeln!(out, "not sound: {}", count(found.findings.len() as u64, "finding"))?;
    let of_data = |part: &str| part == "data file";
    if found.findings.iter().any(|finding| of_data(finding.part)) {
        writeln!(out, "Data files: restore them from a backup, or move them away; the store goes on without them")?;
    }
    if found.findings.iter().any(|finding| !of_data(finding.part)) {
        let place = args.store.place(IntakeRule::ByBoot);
        let command = forebay::report::repair_command(Some(&place.dir), place.intake_dir.as_deref());
        writeln!(out, "To go on: {command} --dry-run says what would be kept, and without --dry-run it is done")?;
    }
    Ok(())
}

fn counts_as_text(counts: &LogCounts, out: &mut impl Write) -> Result<()> {
    let name = counts.shard.map_or_else(|| "manifest".to_owned(), |shard| format!("shard {shard}"));
    write!(
        out,
        "{name}: {}, {}, {}, {} bytes, seq up to {}",
        count(counts.segments, "segment"),
        match counts.batches {
            1 => "1 batch".to_owned(),
            batches => format!("{batches} batches"),
        },
        count(counts.blocks, "block"),
        counts.bytes,
        counts.log_seq
    )?;
    if let Some(flushed) = counts.flushed_seq {
        write!(out, ", flushed up to {flushed}")?;
    }
    if counts.ring_blocks > 0 {
        write!(out, ", {} in the ring only", count(counts.ring_blocks, "block"))?;
    }
    writeln!(out, "{}", if counts.sealed { ", sealed" } else { "" })?;
    for torn in &counts.torn {
        writeln!(
            out,
            "{name}: torn tail in segment {} at {:#x}..{:#x}: a write that did not arrive whole; no damage",
            torn.segment, torn.offset, torn.upto
        )?;
    }
    match &counts.ring {
        Some(ring) => Ok(writeln!(out, "{name}: intake ring: {ring}")?),
        None => Ok(()),
    }
}
