//! What can go wrong, in three shapes: an [`Error`] that the caller can act on, a block that comes
//! back with the reason ([`Rejected`]), and a [`Fault`] that ended a shard.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::report::Damaged;
use crate::serve::line_error::LineError;
use crate::types::{Block, Position, SegmentNo, Seq, ShardId, StoreId, Term};

/// The operation of the log path that failed first; the shard accepts nothing after it.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "fatal: {operation}(shard {shard}, segment {segment}, offset {offset:#x}): {cause}. Nothing more is acknowledged \
     by this shard; {unknown} blocks have an unknown outcome. Restart to recover"
)]
pub struct Fault {
    /// The shard.
    pub shard: ShardId,
    /// `write`, `fdatasync` or what else was asked.
    pub operation: &'static str,
    /// The segment.
    pub segment: SegmentNo,
    /// The offset in it, in bytes; 0 for a sync.
    pub offset: u32,
    /// Accepted blocks that are not synced.
    pub unknown: u64,
    /// What the system said.
    pub cause: Arc<io::Error>,
}

/// Why a store that replicates accepts nothing of clients at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotActive {
    /// Another store is active.
    #[error("fenced: term {term} is active at {active}")]
    Fenced {
        /// The term.
        term: Term,
        /// That store.
        active: StoreId,
    },
    /// It was active, and has heard from none of its peers since it started.
    #[error("waiting: no peer has been heard since the start, and start_alone is not set")]
    Waiting,
    /// It is a standby, and knows of no active store.
    #[error("standby: no store is known to be active; promote one")]
    Standby,
}

/// Why a block was not taken. Nothing of it was logged.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// The intake is full at present.
    #[error("the intake of shard {0} is full; wait, or append with a deadline")]
    Full(ShardId),
    /// No room came within `append_deadline_ms`.
    #[error("no room in the intake of shard {shard} within {deadline_ms} ms: the disk or the store does not keep up")]
    Deadline {
        /// The shard.
        shard: ShardId,
        /// The deadline that passed, in milliseconds.
        deadline_ms: u64,
    },
    /// The disk, or the log's bound, is full up to the reserve.
    #[error(
        "the store is full: shard {0} has only its reserve left; free space on the disk, or wait until the store has taken \
         more of the log. Intake resumes by itself"
    )]
    StoreFull(ShardId),
    /// The shard stopped at an I/O error.
    #[error(transparent)]
    Fault(#[from] Arc<Fault>),
    /// The store is not the active one.
    #[error(transparent)]
    NotActive(#[from] NotActive),
    /// The engine is closing or closed.
    #[error("the engine is closed")]
    Closed,
    /// The call came from a forked child.
    #[error("this process was forked after the store was opened; open it in the child's own process instead")]
    Forked,
    /// More followers are to have it than there are.
    #[error("an acknowledgement by {wanted} followers was asked for, and {known} are configured")]
    TooFewFollowers {
        /// How many are asked for.
        wanted: u8,
        /// How many there are.
        known: usize,
    },
    /// Larger than a block may be.
    #[error("a block of {bytes} bytes is larger than block_bytes_max = {max}")]
    TooLarge {
        /// The payload's length.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// A line's field has another type than its table knows.
    #[error(transparent)]
    Line(#[from] LineError),
    /// Namespace and table do not fit.
    #[error("namespace and table are {bytes} bytes together; at most {max} fit", max = crate::limits::NAMES_BYTES_MAX)]
    NamesTooLong {
        /// Their length.
        bytes: usize,
    },
}

/// Why it is not known what became of a block that was accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// Its shard failed first: it may or may not be there after the next open.
    #[error(transparent)]
    Fault(Arc<Fault>),
    /// It is in this store's log, and too few followers had it in time.
    #[error(
        "{has} of {wanted} followers had it synced within {deadline_ms} ms. It is in the log of shard {shard} and goes to \
         each as soon as it is linked; lost it can be with this site until then"
    )]
    NotShipped {
        /// The shard.
        shard: ShardId,
        /// Followers that were asked for.
        wanted: u8,
        /// Those that had it.
        has: u8,
        /// The deadline that passed, in milliseconds.
        deadline_ms: u64,
    },
}

/// A block that was not taken, and why.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Rejected {
    /// The block, unchanged.
    pub block: Block,
    /// The reason.
    pub why: Why,
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The block was not taken.
    #[error(transparent)]
    Rejected(#[from] Box<Rejected>),
    /// The block was accepted, and it did not become as safe as asked.
    #[error("unknown outcome: {0}")]
    OutcomeUnknown(Unknown),
    /// An option is misplaced, unknown or out of its bounds.
    #[error("configuration: {0}")]
    Config(String),
    /// Another process has the store open.
    #[error("store {dir} is in use by {holder}", dir = .dir.display())]
    InUse {
        /// The store's folder.
        dir: PathBuf,
        /// `pid N`, as far as it is known.
        holder: String,
    },
    /// Acknowledged, unflushed data is damaged.
    #[error("{0}")]
    Damaged(Box<Damaged>),
    /// A system call failed outside the log path.
    #[error("{context}: {cause}")]
    Io {
        /// What was being done, with the file's name.
        context: String,
        /// What the system said; part of the message, so that a chain of causes does not say it twice.
        cause: io::Error,
    },
    /// A shard stopped at an I/O error.
    #[error(transparent)]
    Fault(#[from] Arc<Fault>),
    /// The engine is closing or closed.
    #[error("the engine is closed")]
    Closed,
    /// The call came from a forked child.
    #[error("this process was forked after the store was opened; open it in the child's own process instead")]
    Forked,
    /// The receipt is of another store, or of an epoch that is not known any more.
    #[error("the receipt is not of this store's retained log")]
    UnknownReceipt,
    /// The reader's place was lost in a power cut: what it read past this position is not in the log.
    #[error("shard {shard}: the log was rewound to seq {seq} of epoch {epoch}", seq = .to.seq, epoch = .to.epoch)]
    Rewound {
        /// The shard.
        shard: ShardId,
        /// The last position that is still true.
        to: Position,
    },
    /// The log behind the reader's place has been trimmed.
    #[error("shard {shard}: the log begins at seq {first}; what the reader had not read before it was trimmed")]
    Behind {
        /// The shard.
        shard: ShardId,
        /// The first seq that is still there.
        first: Seq,
    },
    /// A peer, or the node that is to ask it, is not there at present.
    #[error("{0}")]
    Unreachable(String),
    /// The store (the sink of data files) failed.
    #[error("store: {0}")]
    Store(String),
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(Box::new(rejected))
    }
}

impl Error {
    /// Wraps a system error with what was being done.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |cause| Self::Io { context, cause }
    }

    /// The exit code of a program that ends with this error: 73 in use, 74 I/O fault, 75 fenced or not there at present,
    /// 2 usage, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::InUse { .. } => 73,
            Self::Fault(_) | Self::OutcomeUnknown(Unknown::Fault(_)) | Self::Io { .. } => 74,
            Self::OutcomeUnknown(Unknown::NotShipped { .. }) | Self::Unreachable(_) => 75,
            Self::Rejected(rejected) if matches!(rejected.why, Why::Fault(_)) => 74,
            Self::Rejected(rejected) if matches!(rejected.why, Why::NotActive(_)) => 75,
            Self::Config(_) => 2,
            _ => 1,
        }
    }
}
