//! The log on disk, format version 1. This table is the definition; a test compares it with the
//! constants. All numbers are little-endian. Sizes and offsets are in bytes.
//!
//! ```text
//! store     IDENTITY  LOCK  shard-0000/ ...  quarantine/  recovery-report.json
//! shard     NNNNNNNNNNNNNNNN.wal   a segment (16 hexadecimal digits)
//!           spare-FFFFFFFFFFFFFFFF.wal   a zero-filled or recycled file, by file id
//!           new-FFFFFFFFFFFFFFFF.tmp     a file being filled; removed at open
//!           intake.ring                  the intake ring
//!           intake.ring.tmp              one being made; removed at open
//! segment   header copy at 0, the same again at 4096, batches from 8192 on, back to back
//! batch     n x 4096; each 512 B sector = stamp u32 + 508 B of one byte stream:
//!           batch header, entries, stream table, zero padding
//! stamp     mix of store id, file id and generation; never 0
//! entry     entry header, identity (carried and adopted), namespace, table, payload; the first one of a segment is
//!           a control: what the shard holds of each stream (`vector.rs`), if it holds any
//! kind      1 own, 2 carried, 3 void, 4 control, 5 adopted (`entry.rs`); each but a control takes a seq. An adopted
//!           one has no names and no payload: its identity's stream stands at its seq from there on, with the chain in
//!           received_at, whatever it stood at before; rows says why blocks up to there are not here: 1 lost to
//!           damage at their source, 2 in data files only. Programs from before it was added call it damage
//! ring      header copy at 0, the same again at 4096, slots from 8192 on, byte area from the next
//!           4096 on; at 2048 a u64: seqs freed since first_seq, and 16 bits of check
//! slot      for seq % slots; its entry (as in a batch) stands from claim_unit % units on, in units
//!           of 64, and wraps round at the end of the byte area
//!
//! segment header (SEGMENT)          batch header (BATCH)
//!   0   8 magic                       0   4 magic
//!   8   2 version                     4   2 version
//!  10   2 shard                       6   2 flags
//!  12   4 handled_count               8  16 store
//!  16  16 store                      24   8 segment
//!  32   8 segment                    32   8 file_id
//!  40   8 epoch                      40   8 epoch
//!  48   8 nonce                      48   8 number
//!  56   8 file_id                    56   8 first_seq
//!  64   4 generation                 64   8 prev_chain
//!  68   4 filled_upto                72   8 durable_upto
//!  72   8 segment_bytes              80   4 generation
//!  80  16 boot                       84   4 offset
//!  96   8 pin_segment                88   4 prev_end
//! 104   8 pin_batch                  92   4 length
//! 112   8 pin_chain                  96   4 count
//! 120   8 pin_seq                   100   4 entries_bytes
//! 128   4 pin_offset                104   4 streams
//! 132   4 pinned                    108   4 body_crc
//! 136 3072 handled                  112   2 shard
//! 3208  4 crc                       114  10 zero
//!                                   124   4 crc
//!
//! entry header (ENTRY)              identity of a carried entry (IDENTITY)
//!   0   1 kind                        0  16 origin
//!   1   1 block_kind                 16   8 epoch
//!   2   1 namespace_bytes            24   8 nonce
//!   3   1 table_bytes                32   8 seq
//!   4   4 length                     40   2 shard
//!   8   8 received_at                42   6 zero
//!  16   4 rows
//!  20   4 payload_crc               row of the stream table (STREAM)
//!                                     0  16 origin
//! handled range (HANDLED)            16   8 epoch
//!   0   8 segment                    24   8 nonce
//!   8   8 resume_segment             32   8 prev_seq
//!  16   8 resume_batch               40   8 prev_chain
//!  24   8 resume_chain               48   8 last_seq
//!  32   8 resume_seq                 56   8 last_chain
//!  40   4 offset                     64   2 shard
//!  44   4 resume_offset              66   6 zero
//!
//! ring header (RING)                ring slot (SLOT)
//!   0   8 magic                       0   8 tag
//!   8   2 version                     8   8 checksum
//!  10   2 shard                      16   4 claim_unit
//!  12   4 slots                      20   4 claim_units
//!  16  16 store                      24   4 length
//!  32  16 boot                       28   4 header_bytes
//!  48   8 epoch                      32   4 header_crc
//!  56   8 nonce                      36   4 payload_crc
//!  64   8 first_seq                  40  24 zero
//!  72   8 bytes
//!  80   4 crc
//! ```
//!
//! # When a batch continues the log
//!
//! 1. Its first sector bears the fresh stamp, and its header's crc, magic, store, shard, segment,
//!    file id, generation and offset are those of the place where it stands.
//! 2. Its number, first seq, `prev_chain` and `prev_end` follow from the batch before it.
//! 3. Every sector of its length bears the fresh stamp; `body_crc` (entry headers and stream
//!    table) and every payload crc hold.
//!
//! The oldest segment that is there begins the log: its predecessor was retired only after its own
//! first batch was synced. A pinned segment begins where its pin says, whatever stands behind that.
//!
//! # At the first batch that does not
//!
//! 1. Proven durable -> damaged. Only these prove it: a `durable_upto` in a readable later header,
//!    the store's `flushed` (not of what a recovery wrote that is not over: the store may have had it
//!    before), a pin, the retirement of the predecessor.
//! 2. Header readable, at least one sector with an older stamp of this file, or with a zero stamp
//!    where it was never written (at or beyond `filled_upto`) -> torn, the log ends; every sector
//!    fresh, or an unknown stamp -> damaged.
//! 3. Header unreadable: its sector's stamp older or rightly zero -> the log ends; else damaged.
//! 4. Where it ends in one segment it goes on if the next segment's first batch continues it.
//! 5. Damaged, and it would continue the log but for payloads, stamps or padding -> damaged in part: its
//!    entries whose payload crc holds are of the log, which goes on behind it. So it is read again as long as
//!    its range is handled; what is passed over there must be named by a gap or be flushed.

pub mod batch;
pub mod breaks;
pub(crate) mod codec;
pub mod entry;
pub mod intake;
pub mod log;
pub mod read;
pub mod ring;
pub mod scan;
pub mod segment;
pub mod vector;
pub mod verdict;

pub use codec::FORMAT_VERSION;
