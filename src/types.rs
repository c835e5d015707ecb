//! The words of the engine as types: numbers that must not be mixed up are different types.
//!
//! Everything here is plain data. A `Seq` is a position in one shard's log, an `Epoch` is one
//! opening of the store, a `Stream` is what one opening of one shard accepted; DESIGN terms are
//! used unchanged in code, metrics, JSON and documents.

use std::fmt;

use bytes::Bytes;
use smol_str::SmolStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A position in one shard's log. Blocks and voids take the next number; control entries take none. The first is 1; 0 means "nothing yet".
    Seq(u64)
);
number!(
    /// One opening of the store. Grows with each open; the first is 1.
    Epoch(u64)
);
number!(
    /// Drawn at random at each open, so that two histories with the same epoch can be told apart.
    Nonce(u64)
);
number!(
    /// A shard's number, from 0.
    ShardId(u16)
);
number!(
    /// A segment's number in its shard, from 1; grows by one.
    SegmentNo(u64)
);
number!(
    /// A batch's number in its shard, from 1; grows by one across segments and epochs.
    BatchNo(u64)
);
number!(
    /// How often a segment file has been put to use since it was zero-filled; the first use is 1.
    Generation(u32)
);
number!(
    /// Drawn at random when a segment file is zero-filled.
    FileId(u64)
);
number!(
    /// A 64-bit mix over everything that came before: of batches in a log, or of blocks in a stream.
    Chain(u64)
);

number!(
    /// What a line of line protocol is made of, as a hash; see [`Line::shape`](crate::serve::lines::Line::shape).
    Shape(u64)
);

/// A shape, and where in a payload the first line of it starts, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShapeAt {
    pub(crate) shape: Shape,
    pub(crate) at: usize,
}

impl Seq {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number before this one; 0 stays 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// A store's identity, drawn at random when it is created (RFC 4122, version 4).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for StoreId {
    type Err = String;

    /// 32 hexadecimal digits, with or without the dashes of a UUID.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|one| *one != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("'{text}' is no store's id: 32 hexadecimal digits"));
        }
        let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("two digits");
        Ok(Self(std::array::from_fn(byte)))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What one shard of one store accepted during one opening: an immutable, ordered list of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The store that accepted the blocks.
    pub origin: StoreId,
    /// The shard that accepted them, in that store's numbering.
    pub shard: ShardId,
    /// The opening in which they were accepted.
    pub epoch: Epoch,
    /// The nonce of that opening.
    pub nonce: Nonce,
}

/// The number of a promotion: it grows with each, and of two stores that were promoted the one with the higher is active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One opening of one store, all of its shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Opening {
    /// The store.
    pub origin: StoreId,
    /// The number of the opening.
    pub epoch: Epoch,
    /// Its nonce.
    pub nonce: Nonce,
}

impl Opening {
    /// The one in which the blocks of a stream were accepted.
    #[must_use]
    pub const fn of(stream: &Stream) -> Self {
        Self { origin: stream.origin, epoch: stream.epoch, nonce: stream.nonce }
    }
}

/// A place in one shard's log that stays meaningful outside the process: a number that was lost in
/// a power cut is given again, but under another epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The opening under which `seq` was given.
    pub epoch: Epoch,
    /// The nonce of that opening.
    pub nonce: Nonce,
    /// The last position that is covered; 0 for "from the start".
    pub seq: Seq,
}

/// A reader's place in the whole store: one [`Position`] per shard, in the order of the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// One position per shard; a missing one means "from the start of that shard's log".
    pub positions: Vec<Position>,
}

impl Cursor {
    /// The start of the log as it is retained.
    #[must_use]
    pub const fn start() -> Self {
        Self { positions: Vec::new() }
    }
}

/// Proof of acceptance: where the block stands. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The stream that the block belongs to.
    pub stream: Stream,
    /// The block's number in that stream (increasing, not dense).
    pub seq: Seq,
}

/// How far a block has come. See `docs/durability.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In the intake ring: survives the process.
    Accepted,
    /// In a completed log write: survives most kernel crashes too.
    Written,
    /// Covered by a completed fdatasync: survives a power cut.
    Synced,
    /// In the store's synced data: survives the log's deletion.
    Flushed,
    /// Synced at so many followers (1 to 8): survives the loss of the site. Behind a power cut here a follower gives
    /// back what only it has left, so this counts as more than the rest; where every acknowledgement waits for fsync
    /// it is synced here, too.
    Shipped(u8),
}

/// What the payload of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlockKind {
    /// Bytes that the engine does not look into.
    Raw = 1,
    /// Checked line protocol.
    Lines = 2,
}

/// One unit of data: it is safe as a whole or not there at all.
///
/// `table` and the writer's namespace together are at most 255 bytes; `payload` is at most
/// `block_bytes_max`. Both are checked when the block is appended.
#[derive(Clone, Debug)]
pub struct Block {
    pub(crate) kind: BlockKind,
    pub(crate) table: SmolStr,
    pub(crate) rows: u32,
    pub(crate) payload: Bytes,
    /// The distinct shapes of its lines, in the order of the payload; none where nobody noted them.
    pub(crate) shapes: Box<[ShapeAt]>,
}

impl PartialEq for Block {
    /// What was noted about a payload is no part of what it is.
    fn eq(&self, other: &Self) -> bool {
        let all = |block: &Self| (block.kind, block.rows);
        all(self) == all(other) && self.table == other.table && self.payload == other.payload
    }
}

impl Eq for Block {}

impl Block {
    /// A block of bytes for `table`; it counts as one row.
    ///
    /// ```
    /// let block = forebay::Block::raw("blobs", &b"any bytes"[..]);
    /// assert_eq!(block.payload(), b"any bytes");
    /// ```
    pub fn raw(table: impl Into<SmolStr>, payload: impl Into<Bytes>) -> Self {
        Self { kind: BlockKind::Raw, table: table.into(), rows: 1, payload: payload.into(), shapes: Box::default() }
    }

    /// What the payload is.
    #[must_use]
    pub const fn kind(&self) -> BlockKind {
        self.kind
    }

    /// The table; empty for line protocol with several measurements.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Rows in the payload: lines of line protocol, 1 for a raw block.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.rows
    }

    /// The bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The bytes, to keep without copying them.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }
}

/// A 64-bit mix of two words (the finalizer of splitmix64 over their combination). Not
/// cryptographic: it guards against accidents, not against an adversary.
#[must_use]
#[inline]
pub const fn mix64(state: u64, word: u64) -> u64 {
    let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl StoreId {
    /// The identity folded into one word, as a start for [`mix64`].
    #[must_use]
    pub fn mixed(self) -> u64 {
        let (low, high) = self.0.split_at(8);
        let word = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("8 of 16 bytes"));
        mix64(mix64(0, word(low)), word(high))
    }
}

impl Chain {
    /// The chain after one more block of a stream.
    #[must_use]
    #[inline]
    pub const fn then(self, seq: Seq, length: u32, payload_crc: u32) -> Self {
        Self(mix64(mix64(self.0, seq.0), (length as u64) << 32 | payload_crc as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_id_prints_as_a_uuid() {
        let id = StoreId(*b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10");
        assert_eq!(id.to_string(), "01020304-0506-0708-090a-0b0c0d0e0f10");
    }

    #[test]
    fn chains_depend_on_order_and_content() {
        let a = Chain(0).then(Seq(1), 10, 7).then(Seq(2), 10, 7);
        let b = Chain(0).then(Seq(2), 10, 7).then(Seq(1), 10, 7);
        let c = Chain(0).then(Seq(1), 10, 7).then(Seq(2), 10, 8);
        assert!(a != b && a != c && b != c);
    }
}
