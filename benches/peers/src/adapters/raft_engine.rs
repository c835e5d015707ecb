//! raft-engine: a raft group for each writer, a log batch of one entry for each block.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::disk::sync_files;
use crate::peer::{Options, Peer, PeerWriter, Sync};

/// What is filled ahead: raft-engine makes half as much again of it.
const PREFILL_BYTES: u64 = 1 << 30;
/// Entries that are read at a time.
const READ_AT_ONCE: u64 = 64;

pub struct RaftEngine {
    engine: Engine,
    dir: PathBuf,
    sync: Sync,
}

impl RaftEngine {
    pub fn open(options: Options<'_>, prefilled: bool) -> Result<Self> {
        let engine = Engine::open(config(options.dir, prefilled)?)?;
        Ok(Self { engine, dir: options.dir.to_owned(), sync: options.sync })
    }
}

fn config(dir: &Path, prefilled: bool) -> Result<Config> {
    Ok(Config {
        dir: dir.to_str().context("a folder whose name is text")?.to_owned(),
        // No block can be made smaller; trying would cost.
        batch_compression_threshold: ReadableSize(0),
        prefill_for_recycle: prefilled,
        prefill_limit: prefilled.then_some(ReadableSize(PREFILL_BYTES)),
        ..Config::default()
    })
}

pub fn asked(sync: Sync, prefilled: bool) -> Value {
    json!({
        "write_sync": sync == Sync::Each,
        "batch_compression_threshold": 0,
        "prefill_limit": prefilled.then_some(PREFILL_BYTES),
    })
}

pub fn read_back(options: Options<'_>, prefilled: bool, writers: u32, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let engine = Engine::open(config(options.dir, prefilled)?)?;
    for region in 0..u64::from(writers) {
        let (Some(first), Some(last)) = (engine.first_index(region), engine.last_index(region)) else { continue };
        let mut from = first;
        while from <= last {
            let (mut found, end) = (Vec::new(), (from + READ_AT_ONCE).min(last + 1));
            engine.fetch_entries_to::<Blob>(region, from, end, None, &mut found)?;
            ensure!(found.len() as u64 == end - from, "entries {from}..{end} of group {region} are not there");
            found.iter().for_each(|entry| see(entry.get_value()));
            from = end;
        }
    }
    Ok(())
}

/// Entries of bytes; raft's index, which begins at 1, is the block's and one.
#[derive(Clone)]
struct Blob;

impl MessageExt for Blob {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        u64::from_le_bytes(entry.get_value()[..8].try_into().expect("eight bytes")) + 1
    }
}

impl Peer for RaftEngine {
    fn writer(&self, blocks: Blocks) -> Result<Box<dyn PeerWriter + '_>> {
        let mut entry = BytesValue::new();
        entry.set_value(blocks.template().to_vec());
        let region = u64::from(blocks.writer());
        Ok(Box::new(One { peer: self, region, batch: LogBatch::with_capacity(1), entry }))
    }

    /// By hand: `Engine::sync` of 0.4.2 writes an empty batch, which returns before anything is synced.
    fn sync(&self) -> Result<()> {
        sync_files(&self.dir)
    }
}

struct One<'a> {
    peer: &'a RaftEngine,
    region: u64,
    batch: LogBatch,
    entry: BytesValue,
}

impl PeerWriter for One<'_> {
    fn append(&mut self, index: u64) -> Result<()> {
        // Raft's indices are consecutive, so even blocks that are not marked bear their own.
        self.entry.mut_value()[..8].copy_from_slice(&index.to_le_bytes());
        self.batch.add_entries::<Blob>(self.region, std::slice::from_ref(&self.entry))?;
        self.peer.engine.write(&mut self.batch, self.peer.sync == Sync::Each)?;
        Ok(())
    }
}
