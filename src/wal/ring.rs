//! Reading a ring back at open: bytes in, a verdict out. (Skeleton.)
use crate::types::{Epoch, Nonce, Seq, ShardId, StoreId};
use crate::wal::intake::RingHeader;

/// The bytes of a ring file, or that it is missing.
#[derive(Clone, Copy, Debug)]
pub struct RingImage<'a>(pub Option<&'a [u8]>);

/// What the log says, as far as a ring is judged by it.
#[derive(Clone, Copy, Debug)]
pub struct LastLog {
    /// The highest epoch in any segment header; 0 where there is no segment.
    pub epoch: Epoch,
    /// The nonce beside it.
    pub nonce: Nonce,
    /// The boot id beside it.
    pub boot: [u8; 16],
    /// The last seq in the log.
    pub seq: Seq,
    /// Rings up to this epoch are done with.
    pub intake_done: Epoch,
    /// The log ends with a seal.
    pub sealed: bool,
    /// Batches behind the log's end are proven to have been synced.
    pub lost_was_durable: bool,
}

/// Whose ring it should be, and what is known besides.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The present boot id.
    pub boot: [u8; 16],
    /// The log.
    pub last_log: LastLog,
}

/// Where an entry stands in the image's byte area (it may wrap round at its end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset in the byte area.
    pub at: u64,
    /// Bytes of the entry's header.
    pub header_bytes: u32,
    /// Bytes of its payload.
    pub length: u32,
}

/// What is replayed under one seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A block.
    Block(Span),
    /// A number that was taken and never acknowledged.
    Void,
}

/// One entry to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Its number.
    pub seq: Seq,
    /// What it is.
    pub what: What,
}

/// Why a ring ended before its last published entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutBy {
    /// Another boot: pages that had not reached the disk are gone.
    PowerCut,
    /// The log lost batches that were written but not synced, after an I/O error: as a power cut.
    LostLog,
}

/// Where a ring ended, and what is still there behind that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first seq that is not there.
    pub at: Seq,
    /// Why.
    pub by: CutBy,
    /// Whole entries behind it, for quarantine.
    pub later: Vec<Replay>,
}

/// Why a ring cannot be read, or one of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingWrong {
    /// There is no file.
    #[error("intake ring missing")]
    Missing,
    /// Neither header copy is readable.
    #[error("intake ring header unreadable")]
    Header,
    /// It is of another store, shard or history.
    #[error("intake ring is not of this log")]
    Foreign,
    /// The file's size is not what its header says.
    #[error("intake ring has the wrong size")]
    Size,
    /// A slot or its entry.
    #[error("intake entry damaged")]
    Entry,
    /// The log lost batches that were synced.
    #[error("intake shows that synced batches are lost")]
    LostDurable,
}

/// What is to be done with a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingVerdict {
    /// All of it is in the log, or nothing was ever accepted.
    Ignored,
    /// These entries follow the log, in order and without a hole, under the ring's own epoch.
    Replay {
        /// The ring's header.
        header: RingHeader,
        /// The seq of the first.
        from: Seq,
        /// The entries; may be none.
        entries: Vec<Replay>,
        /// Where and why the ring ended early, if it did: reported.
        cut: Option<Cut>,
    },
    /// Another boot, and nothing readable: the file goes to quarantine and is reported.
    Quarantine(RingWrong),
    /// Acknowledged blocks are damaged.
    Damaged {
        /// The slot and its seq, where one is to blame.
        at: Option<(u32, Seq)>,
        /// What is wrong.
        why: RingWrong,
    },
}

/// Judges a ring.
#[must_use]
pub fn recover_ring(image: &RingImage<'_>, expect: &Expect) -> RingVerdict {
    let _ = (image, expect);
    todo!()
}

impl<'a> RingImage<'a> {
    /// An entry's header and payload; `scratch` is used where it wraps round.
    #[must_use]
    pub fn entry<'s>(&self, header: &RingHeader, span: &Span, scratch: &'s mut Vec<u8>) -> (&'s [u8], &'s [u8])
    where
        'a: 's,
    {
        let _ = (header, span, scratch);
        todo!()
    }
}
