//! What an open found and did, in words for people and for programs. What fills them is `recover`.

use std::fmt;

use serde::Serialize;

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
    /// What is wrong.
    pub wrong: String,
    /// All of it is in synced data files too.
    pub flushed: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} segment {} offset {:#x} seq ", self.shard, self.segment, self.offset)?;
        match (self.from_seq, self.to_seq) {
            (Some(from), Some(to)) => write!(f, "{from}..{to}")?,
            (Some(from), None) => write!(f, "{from}..")?,
            (None, Some(to)) => write!(f, "..{to}")?,
            (None, None) => write!(f, "unknown")?,
        }
        write!(f, ": {}", self.wrong)
    }
}

/// Acknowledged, unflushed data is damaged; nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Damaged {
    /// Each damaged range of the log.
    pub log: Vec<Damage>,
    /// What is wrong with the intake ring, if that is damaged.
    pub ring: Option<String>,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WAL damaged: ")?;
        let ring = self.ring.iter().map(|ring| format!("intake ring: {ring}"));
        let all: Vec<String> = self.log.iter().map(ToString::to_string).chain(ring).collect();
        f.write_str(&all.join("; "))?;
        f.write_str(
            "; these blocks were acknowledged. Not opened, nothing changed. To go on: open with on_damage=salvage",
        )
    }
}
