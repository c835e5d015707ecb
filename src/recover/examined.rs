//! What is known of a shard before its opening, and what its examination found.

use std::collections::BTreeSet;
use std::io;

use crate::config::OnDamage;
use crate::io::disk::is_no_space;
use crate::report::{Damaged, ShardReport};
use crate::types::{Epoch, FileId, SegmentNo, Seq, ShardId, StoreId};
use crate::wal::breaks::Scanned;
use crate::wal::log::LogBounds;
use crate::wal::ring::RingVerdict;
use crate::wal::segment::{Handled, SegmentHeader, segment_name};

/// No kernel's boot id: those are UUIDs of version 4.
const ANOTHER_BOOT: [u8; 16] = [0xff; 16];

/// What is known of a shard before it is opened.
#[derive(Clone, Copy, Debug)]
pub struct ShardSetup {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The boot that is running now.
    pub boot: [u8; 16],
    /// A segment's length in bytes.
    pub segment_bytes: u64,
    /// Segments.
    pub bounds: LogBounds,
    /// A batch's size in bytes beyond which no block joins it.
    pub batch_bytes_max: usize,
    /// What to do about damage.
    pub on_damage: OnDamage,
    /// Up to which seq the store holds data.
    pub flushed: Seq,
    /// Whether it has a ring.
    pub intake: Intake,
}

/// Where the entries of a log come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// An intake ring, whose entries may be ahead of the log.
    Ring,
    /// The same, and it counts as after a power cut, whatever the boot ids say: for a device that was
    /// detached and attached again.
    RingAfterPowerCut,
    /// One writer, who waits for the log itself.
    Direct,
}

/// Why a shard cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Acknowledged, unflushed data is damaged.
    #[error(transparent)]
    Damaged(#[from] Box<Damaged>),
    /// A write of a killed process, or another process, still holds this file; try again.
    #[error("{0} is still locked by a write of another process")]
    Locked(String),
    /// A file belongs to another store or shard.
    #[error(
        "{name} is of store {store}, shard {shard}; it does not belong here. Move it away, or restore the right one"
    )]
    Foreign {
        /// The file.
        name: String,
        /// The store that its header names.
        store: StoreId,
        /// The shard that its header names.
        shard: ShardId,
    },
    /// There are more damaged ranges than salvage can name.
    #[error(
        "shard {shard} has {ranges} damaged ranges, more than salvage can name at once. To go on: copy the store, move \
         the segments before {} out of the shard's folder, and salvage what is left",
        segment_name(*.keep)
    )]
    TooDamaged {
        /// The shard.
        shard: ShardId,
        /// Ranges.
        ranges: usize,
        /// The first segment with which they can be named.
        keep: SegmentNo,
    },
    /// A system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// The disk is full: what was tried may be tried again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }

    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

/// A shard that was read, and what its opening takes.
#[derive(Debug)]
pub struct Examined {
    /// The highest epoch that the shard has seen; the new one must be higher.
    pub epoch_max: Epoch,
    /// What was found.
    pub report: ShardReport,
    pub(crate) setup: ShardSetup,
    pub(crate) scanned: Scanned,
    /// Segments that hold nothing of the log, with their headers, if readable.
    pub(crate) leftover: Vec<(SegmentNo, Option<SegmentHeader>)>,
    /// Segments in the middle of the log that hold nothing but damage.
    pub(crate) hollow: Vec<(SegmentNo, Option<SegmentHeader>)>,
    /// Segments that damage was found in, now or earlier: their files are not used again.
    pub(crate) damaged: BTreeSet<SegmentNo>,
    pub(crate) spares: Vec<(FileId, u64)>,
    pub(crate) unfinished: Vec<String>,
    pub(crate) handled: Vec<Handled>,
    /// Nothing before this segment is needed any more.
    pub(crate) from: SegmentNo,
    pub(crate) ring: RingVerdict,
    /// A salvage was cut short that had put the damaged end of the log aside and not yet said so in it:
    /// what was lost stood behind this seq.
    pub(crate) lost_behind: Option<Seq>,
    pub(super) ring_missing: bool,
}

impl Examined {
    /// The ring that is there, if any, cannot be read and would be missed by the next open.
    #[must_use]
    pub const fn needs_new_ring(&self) -> bool {
        match &self.ring {
            RingVerdict::Ignored => self.ring_missing,
            RingVerdict::Replay { .. } => false,
            RingVerdict::Quarantine(_) | RingVerdict::Damaged(_) => true,
        }
    }

    /// The seq of the first block that may stand in the log; `None` where there is no log.
    #[must_use]
    pub fn first_seq(&self) -> Option<Seq> {
        self.scanned.segments.first().map(|oldest| oldest.first_seq)
    }

    /// The segment in which the log ends, and the last seq that log and ring have together.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn reach(&self) -> (SegmentNo, Seq) {
        let in_ring = match &self.ring {
            RingVerdict::Replay { entries, .. } => entries.last().map(|last| last.seq),
            _ => None,
        };
        (self.scanned.end.segment, self.scanned.end.seq.max(in_ring.unwrap_or_default()))
    }

    /// Entries of the ring are to be replayed, or all of it goes to quarantine.
    #[must_use]
    pub const fn needs_ring_image(&self) -> bool {
        match &self.ring {
            RingVerdict::Ignored => false,
            RingVerdict::Replay { entries, cut, damage, .. } => {
                !entries.is_empty() || cut.is_some() || damage.is_some()
            }
            RingVerdict::Quarantine(_) | RingVerdict::Damaged(_) => true,
        }
    }
}

/// The epoch of a store's next opening: one for all shards, so that a cursor over them can be compared,
/// and above every one that any of them has seen.
#[must_use]
pub fn next_epoch<'a>(shards: impl IntoIterator<Item = &'a Examined>) -> Epoch {
    let epochs = shards.into_iter().map(|examined| examined.epoch_max);
    #[cfg(feature = "sim")]
    if crate::planted::is_planted(crate::planted::Mutant::EpochOfOneShard) {
        return Epoch(epochs.last().map_or(0, |last| last.0) + 1);
    }
    Epoch(epochs.max().map_or(0, |max| max.0) + 1)
}

/// The boot by which a ring is judged.
pub(super) fn boot(setup: &ShardSetup) -> [u8; 16] {
    if setup.intake == Intake::RingAfterPowerCut { ANOTHER_BOOT } else { setup.boot }
}
