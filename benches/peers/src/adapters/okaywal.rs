//! okaywal: one entry of one chunk for each block. A commit always waits for fdatasync, which it shares with
//! other commits.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use okaywal::{Configuration, Entry, EntryId, LogManager, LogVoid, ReadChunkResult, SegmentReader, WriteAheadLog};
use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::peer::{Options, Peer, PeerWriter};

/// As long as Forebay's segments; the default of 1 MiB would change files thousands of times a run.
const PREALLOCATE_BYTES: u32 = 64 << 20;
/// The default's share of a file.
const CHECKPOINT_AFTER_BYTES: u64 = 48 << 20;
/// A group of blocks goes out in one write.
const BUFFER_BYTES: usize = 1 << 20;

pub struct Okaywal {
    log: WriteAheadLog,
}

impl Okaywal {
    pub fn open(options: Options<'_>) -> Result<Self> {
        Ok(Self { log: configuration(options).open(LogVoid)? })
    }
}

fn configuration(options: Options<'_>) -> Configuration {
    // What is checkpointed can no longer be read.
    let checkpoint_after = if options.hold { u64::MAX } else { CHECKPOINT_AFTER_BYTES };
    Configuration::default_for(options.dir)
        .preallocate_bytes(PREALLOCATE_BYTES)
        .checkpoint_after_bytes(checkpoint_after)
        .buffer_bytes(BUFFER_BYTES)
}

pub fn asked() -> Value {
    json!({
        "preallocate_bytes": PREALLOCATE_BYTES,
        "checkpoint_after_bytes": CHECKPOINT_AFTER_BYTES,
        "buffer_bytes": BUFFER_BYTES,
        "manager": "LogVoid",
    })
}

pub fn read_back(options: Options<'_>, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let found = Arc::new(Mutex::new(Vec::new()));
    configuration(options).open(Recovered(Arc::clone(&found)))?.shutdown()?;
    let found = found.lock().unwrap_or_else(PoisonError::into_inner);
    found.iter().for_each(|block| see(block));
    Ok(())
}

/// Keeps what recovery shows.
#[derive(Debug)]
struct Recovered(Arc<Mutex<Vec<Vec<u8>>>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            let block = chunk.read_all()?;
            if chunk.check_crc()? {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
            }
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

impl Peer for Okaywal {
    fn writer(&self, blocks: Blocks) -> Result<Box<dyn PeerWriter + '_>> {
        Ok(Box::new(One { log: &self.log, blocks }))
    }

    /// Everything that was acknowledged is.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

struct One<'a> {
    log: &'a WriteAheadLog,
    blocks: Blocks,
}

impl PeerWriter for One<'_> {
    fn append(&mut self, index: u64) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(&self.blocks.at(index))?;
        entry.commit()?;
        Ok(())
    }
}
