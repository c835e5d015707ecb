//! The intake ring on disk: its header, its slots, where they stand. What is found in a ring at
//! open is judged in `wal/ring.rs`; the live ring is `shard/intake.rs`. Pure: bytes and values.
//!
//! A ring file is header copy A (page 0) and copy B (page 1), an array of slots from 8192 on, and
//! the byte area behind it. An entry (header and payload) stands in the byte area at its claim's
//! first unit, wrapping round at the area's end; its slot is `seq % slots`.

use std::ops::RangeInclusive;

use crate::limits::{INTAKE_BYTES, INTAKE_SLOTS, INTAKE_UNIT_BYTES, PAGE_BYTES};
use crate::types::{Epoch, Nonce, Seq, ShardId, StoreId, mix64};
use crate::wal::codec::{FORMAT_VERSION, crc_before, layout};

const MAGIC: [u8; 8] = *b"FBYRING1";

layout!(RING {
    magic: 8,
    version: 2,
    shard: 2,
    slots: 4,
    store: 16,
    boot: 16,
    epoch: 8,
    nonce: 8,
    first_seq: 8,
    bytes: 8,
    crc: 4,
});
layout!(SLOT {
    tag: 8,
    checksum: 8,
    claim_unit: 4,
    claim_units: 4,
    length: 4,
    header_bytes: 4,
    header_crc: 4,
    payload_crc: 4,
    zero: 24,
});

/// Bytes of a ring header.
pub const RING_HEADER_BYTES: usize = RING::BYTES;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = SLOT::BYTES;
/// Where the shard notes the last seq that it has freed (u64), in page 0 behind header copy A.
pub const FREED_AT: usize = 2048;
/// Where the slots begin.
pub const SLOTS_AT: usize = 2 * PAGE_BYTES;

/// What a ring says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingHeader {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// The kernel's boot id when the ring was opened: tells a kill from a power cut.
    pub boot: [u8; 16],
    /// The opening whose entries it holds; 0 for a ring that was made and never opened.
    pub epoch: Epoch,
    /// That opening's nonce.
    pub nonce: Nonce,
    /// The seq of the first entry that it can hold.
    pub first_seq: Seq,
    /// Slots, a power of two; 0 where the ring is plain memory and the file only says so.
    pub slots: u32,
    /// Bytes of the byte area, a power of two; 0 where `slots` is.
    pub bytes: u64,
}
