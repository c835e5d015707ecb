//! What a shard's core is told, and what it answers.
//!
//! The driver and the simulator speak to [`Core`](crate::shard::core::Core) in these.

use std::io;
use std::sync::Arc;

use crate::error::Fault;
use crate::io::disk::{DiskOp, Done, Instant, OpId};
use crate::shard::marks::Marks;
use crate::types::{SegmentNo, Seq};
use crate::wal::batch::{BatchBuilder, Push};
use crate::wal::log::UsedSegment;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The driver looked at the intake ring.
    Looked(Look),
    /// The answer to [`Effect::Fill`]: the batch as far as it was filled, and why it ended there.
    Filled(Box<BatchBuilder>, Push),
    /// A disk operation ended.
    Done(Done),
    /// The disk itself is gone; nothing that was submitted will come home.
    DiskLost(io::Error),
    /// The store and all readers are done with everything up to here; the store alone up to `flushed`.
    Released {
        /// The store's mark.
        flushed: Seq,
        /// The mark up to which segments may be given back.
        released: Seq,
    },
    /// Somebody waits for this to be synced, whatever the policy.
    SyncWanted(Seq),
    /// The ring is closed: write what it holds, sync, seal.
    Stop,
    /// Time passed.
    Tick,
}

/// What the intake ring looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The last seq of the published prefix.
    pub published: Seq,
    /// Bytes that wait in the ring.
    pub bytes: u64,
    /// At least a quarter of the ring is used.
    pub quarter_full: bool,
    /// A seq behind the prefix is taken, or a claim is on its way.
    pub unpublished: bool,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Fill this batch from the ring up to the seq that was last looked at, and answer `Filled`.
    Fill(Box<BatchBuilder>, Seq),
    /// Submit this operation.
    Disk(OpId, DiskOp),
    /// The marks moved.
    Marks(Marks),
    /// Only the reserve is left: the ring takes nothing until [`Effect::Reopen`].
    StoreFull,
    /// The reserve is whole again.
    Reopen,
    /// The log goes on in this segment.
    Segment(UsedSegment),
    /// This segment's end is known.
    SegmentEnded(SegmentNo, u32),
    /// The shard is dead.
    Fault(Arc<Fault>),
    /// The log is sealed and synced; no operation is on its way.
    Stopped,
    /// For the statistics.
    Observed(Observed),
}

/// Facts for the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A batch was submitted.
    Batch {
        /// Blocks and voids in it.
        blocks: u32,
        /// Its length in bytes.
        bytes: u32,
    },
    /// The write of a batch that a sync is to follow took so many nanoseconds.
    Wrote(u64),
    /// A sync took so long.
    Sync {
        /// Nanoseconds from submission to completion.
        took_ns: u64,
        /// The age of the oldest acknowledged block that it covered, in nanoseconds.
        unsynced_ns: u64,
        /// Bytes that were written or being written and unsynced when it ended.
        unsynced_bytes: u64,
    },
    /// The ring was closed for a while: the log is at its bound, or no segment was ready in time.
    Stall,
}

/// How the driver may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Not at all: the next step has work.
    No,
    /// Until a publication, a completion or the time, if one is given.
    UntilPublication(Option<Instant>),
    /// Until the ring is a quarter full, a completion or the time.
    UntilQuarter(Option<Instant>),
}
