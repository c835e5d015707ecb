//! What an open found and did, in words for people and for programs. What fills them is `recover`.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::limits::MANIFEST_SHARD;

/// What `Engine::open` found and did; also left in the store as `recovery-report.json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RecoveryReport {
    /// `forebay.recovery/1`.
    pub schema: &'static str,
    /// The store's identity.
    pub store: String,
    /// The epoch that this open began.
    pub epoch: u64,
    /// One report per shard.
    pub shards: Vec<ShardReport>,
}

/// What was found in one shard.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShardReport {
    /// The shard.
    pub shard: u16,
    /// The last position in the log that was read.
    pub log_seq: u64,
    /// Batches read.
    pub batches: u64,
    /// Bytes of log read.
    pub bytes: u64,
    /// The store had been closed cleanly.
    pub sealed: bool,
    /// Blocks that were in the intake ring only, now in the log.
    pub replayed_blocks: u64,
    /// Numbers that were taken and never acknowledged.
    pub voids: u64,
    /// What the ring says of itself, where it was not simply replayed.
    pub ring: Option<String>,
    /// Writes that did not arrive whole, copied to `quarantine/`.
    pub torn: Vec<TornTail>,
    /// Damage that was salvaged, or that lay in flushed data only.
    pub damage: Vec<Damage>,
    /// What this open has named in the log as lost, stream by stream.
    pub gaps: Vec<Gap>,
}

/// Blocks of one stream that are lost to damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The store that accepted them.
    pub origin: String,
    /// Its shard.
    pub shard: u16,
    /// The opening in which it did.
    pub epoch: u64,
    /// Its nonce.
    pub nonce: u64,
    /// The last number before the gap that is there; 0 where none is.
    pub after: u64,
    /// The first number behind it that is there; `None` where none is.
    pub before: Option<u64>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream of epoch {}: seq {}..", self.epoch, self.after + 1)?;
        self.before.map_or(Ok(()), |before| write!(f, "{}", before - 1))
    }
}

/// The end of a log behind which something had begun to be written.
#[derive(Clone, Debug, Serialize)]
pub struct TornTail {
    /// The segment.
    pub segment: u64,
    /// Where the log ends in it, in bytes.
    pub offset: u32,
    /// Up to where something was written, in bytes.
    pub upto: u32,
}

/// A damaged range of the log.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// The shard.
    pub shard: u16,
    /// The segment.
    pub segment: u64,
    /// The first damaged offset in it, in bytes.
    pub offset: u32,
    /// The first seq that is missing; `None` where the log's beginning itself is damaged.
    pub from_seq: Option<u64>,
    /// The last seq that is missing; `None` where nothing sound follows.
    pub to_seq: Option<u64>,
    /// Blocks that are lost, where that is known: where only a part of a batch is damaged. Each run of lost blocks is a
    /// range of its own then.
    pub lost_blocks: Option<u64>,
    /// What is wrong.
    pub wrong: String,
    /// All of it is in synced data files too, or nothing is lost: an opening goes on by itself.
    pub flushed: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shard {
            MANIFEST_SHARD => f.write_str("manifest")?,
            shard => write!(f, "shard {shard}")?,
        }
        write!(f, " segment {} offset {:#x} seq ", self.segment, self.offset)?;
        match (self.from_seq, self.to_seq) {
            (Some(from), Some(to)) => write!(f, "{from}..{to}")?,
            (Some(from), None) => write!(f, "{from}..")?,
            (None, Some(to)) => write!(f, "..{to}")?,
            (None, None) => write!(f, "unknown")?,
        }
        write!(f, ": {}", self.wrong)?;
        if self.lost_blocks == Some(0) {
            f.write_str(", no block is lost")?;
        }
        Ok(())
    }
}

/// Acknowledged, unflushed data is damaged; nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Damaged {
    /// Each damaged range of the log.
    pub log: Vec<Damage>,
    /// What is wrong with the intake ring, if that is damaged.
    pub ring: Option<String>,
    /// The command that goes on, see [`repair_command`].
    pub command: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WAL damaged: ")?;
        let ring = self.ring.iter().map(|ring| format!("intake ring: {ring}"));
        let all: Vec<String> = self.log.iter().map(ToString::to_string).chain(ring).collect();
        f.write_str(&all.join("; "))?;
        let what = match self.log.iter().all(|damage| damage.shard == MANIFEST_SHARD) && self.ring.is_none() {
            true => "it was synced",
            false => "these blocks were acknowledged",
        };
        write!(f, "; {what}. Not opened, nothing changed. To go on: {} | on_damage=salvage", self.command)
    }
}

/// The command that salvages a store, as a shell takes it.
#[must_use]
pub fn repair_command(dir: Option<&Path>, intake_dir: Option<&Path>) -> String {
    let dir = dir.map_or_else(|| "DIR".to_owned(), quoted);
    let intake = intake_dir.map(|dir| format!(" --intake-dir {}", quoted(dir))).unwrap_or_default();
    format!("forebay repair --dir {dir}{intake}")
}

fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |char: char| char.is_alphanumeric() || "/._-+:@%=,".contains(char);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted_into_a_shell() {
        let dirs = |dir: &str| repair_command(Some(Path::new(dir)), None);
        assert_eq!(dirs("/var/lib/store-1"), "forebay repair --dir /var/lib/store-1");
        assert_eq!(dirs("/a b/it's"), "forebay repair --dir '/a b/it'\\''s'");
        let both = repair_command(None, Some(Path::new("/ring")));
        assert_eq!(both, "forebay repair --dir DIR --intake-dir /ring");
    }
}
