//! Every bound in one place: what an option may be, and what a format field may say before
//! anything is allocated for it.

/// Bytes in a unit of atomic device writes that the format relies on.
pub const SECTOR_BYTES: usize = 512;
/// Bytes that batches are padded to, and that direct I/O is aligned to.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a batch's stream in one sector: the rest is its stamp.
pub const SECTOR_STREAM_BYTES: usize = SECTOR_BYTES - 4;
/// Bytes at the start of a segment that hold its header, twice; the first batch starts here.
pub const SEGMENT_HEADER_BYTES: usize = 2 * PAGE_BYTES;

/// The largest seq, epoch, or number of a batch, segment or data file that a header or record may say:
/// far beyond what a store can come to, and so that there is always a next one.
pub const NUMBER_MAX: u64 = u64::MAX >> 1;
/// Namespace and table together, in bytes.
pub const NAMES_BYTES_MAX: usize = 255;
/// Shapes of lines that are noted with a block; one with more is read again where they matter.
pub const BLOCK_SHAPES_MAX: usize = 128;
/// The number that stands where a shard's would in the manifest's log: no store has so many shards.
pub const MANIFEST_SHARD: u16 = u16::MAX;
/// A store's shards.
pub const SHARDS_MAX: usize = 256;
/// A segment, in bytes: bounds of the option.
pub const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 30);
/// A block, in bytes: no option allows a longer one.
pub const BLOCK_BYTES_MAX: u64 = *SEGMENT_BYTES.end() / 4;
/// A segment, in bytes: what a header may say. Smaller than any option allows, so that a simulated
/// log can go through many segments quickly.
pub const SEGMENT_FILE_BYTES: std::ops::RangeInclusive<u64> = (16 << 10)..=*SEGMENT_BYTES.end();
/// The intake ring, in bytes: bounds of the option (a power of two).
pub const INTAKE_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(4 << 30);
/// The intake ring, in bytes: what a header may say, again smaller than any option allows.
pub const RING_FILE_BYTES: std::ops::RangeInclusive<u64> = (4 << 10)..=*INTAKE_BYTES.end();
/// The intake ring's slots: bounds of the option (a power of two).
pub const INTAKE_SLOTS: std::ops::RangeInclusive<u64> = 64..=(1 << 24);
/// One intake unit, in bytes: claims are counted in units.
pub const INTAKE_UNIT_BYTES: usize = 64;
/// `wal_fsync_period_ms`: bounds of the option.
pub const FSYNC_PERIOD_MS: std::ops::RangeInclusive<u64> = 0..=180_000;
/// The longest that an append waits for room: bounds of the option.
pub const APPEND_DEADLINE_MS: std::ops::RangeInclusive<u64> = 1..=3_600_000;
/// Followers that an acknowledgement can wait for, at most.
pub const SHIPPED_FOLLOWERS_MAX: u8 = 8;
/// How long it waits for them, in milliseconds.
pub const SHIPPED_DEADLINE_MS: std::ops::RangeInclusive<u64> = 1..=3_600_000;

/// Entry headers that one block may need at most, in bytes (fixed part, identity, names).
pub const ENTRY_HEADER_BYTES_MAX: usize = 24 + 48 + NAMES_BYTES_MAX;
/// A slot's share of the reserve, in bytes: what its entry may need in the log beside its payload.
pub const SLOT_RESERVE_BYTES: u64 = 128;

/// A generation at which a segment file is zero-filled anew under a new file id.
pub const GENERATION_MAX: u32 = 65_536;
/// Streams with a block in one batch.
pub const BATCH_STREAMS_MAX: usize = 1024;
/// Entries in one batch.
pub const BATCH_ENTRIES_MAX: usize = 1 << 20;
/// Batch writes of one shard that are in flight together.
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Each but the first waits until the one before has been in flight for so long, in microseconds, and one more for
/// each KiB of it.
pub const OVERLAP_AFTER_US: u64 = 1_000;
/// Damaged ranges that a segment header can name as handled.
pub const HANDLED_RANGES_MAX: usize = 64;
/// What a segment's first batch says of the streams before it takes at most one part of so many of the segment.
pub const VECTOR_SEGMENT_SHARE: u64 = 16;
/// Segments that are prepared ahead of need, beside the reserve.
pub const SEGMENTS_AHEAD: usize = 2;
/// Torn tails that are kept in `quarantine/`, in bytes.
pub const QUARANTINE_TORN_BYTES_MAX: u64 = 64 << 20;

/// At level 1 and (2, P) a shard drains its ring this often, in microseconds.
pub const DRAIN_PERIOD_US: u64 = 1_000;
/// A shard that meets a taken but unpublished slot naps this long, in microseconds.
pub const UNPUBLISHED_NAP_US: u64 = 50;
/// At level 1 a written but unsynced batch is synced after this long, in milliseconds.
pub const LEVEL_1_SYNC_MS: u64 = 30_000;
