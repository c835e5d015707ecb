//! `forebay inspect`: prints a store's log without touching it.
//!
//! Batches and entries are printed as they are read, so that a long log takes no more memory than a short one.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use clap::Args;
use forebay::IntakeRule;
use forebay::inspect::{
    Access, BatchLine, EndLine, EntryLine, FileLine, RingLine, ShardLine, ShardView, StoreLine, StoreView,
};
use forebay::recover::LogBatch;
use forebay::types::{SegmentNo, ShardId};

use crate::out::{StoreArgs, with_schema};

/// Options of the command.
#[derive(Args)]
pub struct InspectArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// This shard only
    #[arg(long)]
    shard: Option<u16>,
    /// The batches of this segment only
    #[arg(long)]
    segment: Option<u64>,
    /// Each batch with its entries
    #[arg(long)]
    blocks: bool,
}

/// Prints it.
pub fn run(args: &InspectArgs) -> Result<()> {
    let store = StoreView::read(&args.store.place(IntakeRule::ByBoot), Access::OfAMoment)?;
    if let Some(shard) = args.shard.filter(|shard| usize::from(*shard) >= store.identity.shards) {
        let shards = store.identity.shards;
        return Err(forebay::Error::Config(format!("--shard {shard}: the store has {shards}, from 0 on")).into());
    }
    let shards = store.shards().filter(|shard| args.shard.is_none_or(|only| ShardId(only) == *shard));
    let mut out = BufWriter::new(io::stdout().lock());
    if args.store.json {
        begin_object(&with_schema("forebay.inspect/1", &StoreLine::of(&store)), "shard_logs", &mut out)?;
        for (index, shard) in shards.enumerate() {
            let view = store.shard(shard)?;
            write!(out, "{}", if index == 0 { "" } else { "," })?;
            begin_object(&serde_json::to_string(&ShardLine::of(&store, &view))?, "batches", &mut out)?;
            batches_as_json(&view, args, &mut out)?;
            write!(out, "]}}")?;
        }
        writeln!(out, "]}}")?;
    } else {
        store_as_text(&StoreLine::of(&store), &mut out)?;
        for shard in shards {
            let view = store.shard(shard)?;
            shard_as_text(&ShardLine::of(&store, &view), &mut out)?;
            each_batch(&view, args, |line, batch| batch_as_text(&line, batch, args.blocks, &mut out))?;
        }
    }
    Ok(out.flush()?)
}

/// An object without its end, and the beginning of one more field, an array.
fn begin_object(object: &str, array: &str, out: &mut impl Write) -> Result<()> {
    Ok(write!(out, "{},\"{array}\":[", object.strip_suffix('}').unwrap_or(object))?)
}

fn each_batch(
    view: &ShardView,
    args: &InspectArgs,
    take: impl FnMut(BatchLine, &LogBatch<'_>) -> Result<()>,
) -> Result<()> {
    view.each_batch(args.segment.map(SegmentNo), take)
}

fn batches_as_json(view: &ShardView, args: &InspectArgs, out: &mut impl Write) -> Result<()> {
    let mut first = true;
    each_batch(view, args, |line, batch| {
        let mut value = serde_json::to_value(line)?;
        if args.blocks {
            value["entries"] = serde_json::to_value(EntryLine::of(batch))?;
        }
        write!(out, "{}{value}", if first { "" } else { "," })?;
        first = false;
        Ok(())
    })
}

fn store_as_text(store: &StoreLine, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "store {}: format {}, {} shards, segments of {} bytes",
        store.store, store.format, store.shards, store.segment_bytes
    )?;
    if let Some(wrong) = &store.identity_wrong {
        writeln!(out, "  from the segments' headers: {wrong}")?;
    }
    if let Some(holder) = &store.in_use {
        writeln!(out, "  in use by {holder}: what follows is of a moment")?;
    }
    match &store.data_files {
        Some(data) => {
            let (files, rows, bytes) = (data.files, data.rows, data.bytes);
            writeln!(out, "data files: {files}, with {rows} rows in {bytes} bytes")?;
            for file in &data.manifest_files {
                file_as_text(file, out)?;
            }
            end_as_text("manifest", &data.manifest, out)?;
            if let Some(wrong) = &data.wrong {
                writeln!(out, "  {wrong}")?;
            }
        }
        None => writeln!(out, "data files: none")?,
    }
    for (file, bytes) in &store.quarantine {
        writeln!(out, "{file}: {bytes} bytes")?;
    }
    if let Some(recovery) = &store.recovery {
        writeln!(out, "recovery-report.json: {recovery}")?;
    }
    Ok(())
}

fn shard_as_text(shard: &ShardLine, out: &mut impl Write) -> Result<()> {
    writeln!(out, "shard {}", shard.shard)?;
    for file in &shard.files {
        file_as_text(file, out)?;
    }
    end_as_text("log", &shard.end, out)?;
    match shard.flushed {
        Some(seq) => writeln!(out, "  flushed up to seq {seq}")?,
        None => writeln!(out, "  flushed: not known here")?,
    }
    for gap in &shard.gaps {
        writeln!(out, "  lost: {gap}, shard {} of store {}", gap.shard, gap.origin)?;
    }
    ring_as_text(&shard.ring, out)
}

fn file_as_text(file: &FileLine, out: &mut impl Write) -> Result<()> {
    write!(out, "  {} {} {} bytes", file.file, file.role, file.bytes)?;
    if let Some(segment) = file.segment {
        let header = if file.header.is_empty() { "unreadable" } else { &file.header };
        write!(out, ", segment {segment}, header {header}")?;
    }
    if let (Some(epoch), Some(generation)) = (file.epoch, file.generation) {
        write!(out, ", epoch {epoch}, generation {generation}")?;
    }
    if let (Some(first), Some(last), Some(end)) = (file.first_seq, file.last_seq, file.end) {
        write!(out, ", seq {first}..{last}, end {end:#x}")?;
    }
    if let Some((segment, offset, seq)) = file.pin {
        write!(out, ", pin at segment {segment} offset {offset:#x} seq {seq}")?;
    }
    if file.handled > 0 {
        write!(out, ", {} handled ranges", file.handled)?;
    }
    Ok(writeln!(out)?)
}

fn end_as_text(what: &str, end: &EndLine, out: &mut impl Write) -> Result<()> {
    for damage in &end.damage {
        let flushed = damage.flushed && damage.lost_blocks != Some(0);
        writeln!(out, "  {what}: DAMAGED: {damage}{}", if flushed { " (flushed)" } else { "" })?;
    }
    for torn in &end.torn {
        writeln!(out, "  {what}: torn tail in segment {} at {:#x}..{:#x}", torn.segment, torn.offset, torn.upto)?;
    }
    Ok(writeln!(
        out,
        "  {what} ends in segment {} at {:#x}, batch {}, seq {}, after {} batches: {}: {}",
        end.segment, end.offset, end.batch, end.seq, end.batches, end.verdict, end.why
    )?)
}

fn ring_as_text(ring: &RingLine, out: &mut impl Write) -> Result<()> {
    let Some(bytes) = ring.bytes else { return Ok(writeln!(out, "  ring {}: missing", ring.file)?) };
    let header = if ring.header.is_empty() { "unreadable" } else { &ring.header };
    write!(out, "  ring {bytes} bytes, header {header}")?;
    if let (Some(epoch), Some(this_boot), Some(slots)) = (ring.epoch, ring.this_boot, ring.slots) {
        let boot = if this_boot { "this boot" } else { "another boot" };
        write!(out, ", epoch {epoch} of {boot}, {slots} slots")?;
    }
    write!(out, ": {}", ring.verdict)?;
    if ring.replay > 0 {
        write!(out, ", {} entries follow the log", ring.replay)?;
    }
    Ok(writeln!(out, "{}", ring.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())?)
}

fn batch_as_text(line: &BatchLine, batch: &LogBatch<'_>, blocks: bool, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "  {}batch {} in segment {} at {:#x}: seq {}, {} numbered, {} bytes, {} streams, durable up to {} {}",
        if line.behind_damage { "behind damage: " } else { "" },
        line.batch,
        line.segment,
        line.offset,
        line.first_seq,
        line.count,
        line.bytes,
        line.streams,
        line.durable_upto,
        line.flags
    )?;
    for (first, last) in &line.lost {
        writeln!(out, "    damaged: seq {first}..{last} lost")?;
    }
    for entry in EntryLine::of(batch).iter().filter(|_| blocks) {
        let seq = entry.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        write!(out, "    {seq} {}", entry.kind)?;
        if let Some(control) = &entry.control {
            write!(out, ": {control}")?;
        } else if entry.kind != "void" {
            write!(
                out,
                " {} {:?} {:?}: {} rows, {} bytes, received at {}",
                entry.block, entry.namespace, entry.table, entry.rows, entry.length, entry.received_at_ns
            )?;
        }
        if let Some((origin, shard, epoch, seq)) = &entry.identity {
            write!(out, ", seq {seq} of epoch {epoch}, shard {shard}, store {origin}")?;
        }
        if entry.damaged {
            write!(out, ", DAMAGED")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
