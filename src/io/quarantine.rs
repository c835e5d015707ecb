//! `quarantine/`: bytes that are no part of the log any more, kept for who wants to look.
//!
//! Damaged bytes are all kept; of torn tails, at most
//! [`QUARANTINE_TORN_BYTES_MAX`], the oldest go first, and none where the disk is full: a store opens there too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use crate::io::disk::is_no_space;
use crate::limits::QUARANTINE_TORN_BYTES_MAX;
use crate::recover::{Kept, Quarantine};
use crate::types::Epoch;

/// The folder.
#[derive(Debug)]
pub struct QuarantineFolder {
    dir: PathBuf,
    epoch: Epoch,
}

impl QuarantineFolder {
    /// The quarantine of the store in `dir`, for what the open under `epoch` puts aside.
    #[must_use]
    pub fn new(dir: &std::path::Path, epoch: Epoch) -> Self {
        Self { dir: dir.join("quarantine"), epoch }
    }

    /// Removes the oldest torn tails until `more` bytes fit their bound.
    fn make_room(&self, more: u64) -> io::Result<()> {
        let mut torn = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(".torn") {
                torn.push((entry.file_name(), entry.metadata()?.len()));
            }
        }
        // Names begin with the epoch in fixed width: their order is their age.
        torn.sort();
        let mut total = more + torn.iter().map(|(_, bytes)| bytes).sum::<u64>();
        for (name, bytes) in torn {
            if total <= QUARANTINE_TORN_BYTES_MAX {
                break;
            }
            fs::remove_file(self.dir.join(name))?;
            total -= bytes;
        }
        Ok(())
    }

    fn write(&self, name: &str, kept: &Kept<'_>) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let mut bytes = kept.bytes;
        if !kept.damaged {
            bytes = &bytes[..bytes.len().min(QUARANTINE_TORN_BYTES_MAX as usize)];
            self.make_room(bytes.len() as u64)?;
        }
        let mut file = File::create(self.dir.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }
}

impl Quarantine for QuarantineFolder {
    fn keep(&mut self, kept: Kept<'_>) -> io::Result<()> {
        let kind = if kept.damaged { "damaged" } else { "torn" };
        let name = format!(
            "{:016x}-shard-{:04}-segment-{:016x}-{:08x}.{kind}",
            self.epoch.0, kept.shard.0, kept.segment.0, kept.offset
        );
        match self.write(&name, &kept) {
            Err(error) if is_no_space(&error) && !kept.damaged => {
                let _ = fs::remove_file(self.dir.join(&name));
                tracing::warn!("{} bytes of a torn tail are not kept in quarantine/{name}: {error}", kept.bytes.len());
                Ok(())
            }
            other => other,
        }
    }
}
