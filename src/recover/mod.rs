//! Opening one shard after whatever happened to it.
//!
//! [`examine`](fn@examine) takes the locks, syncs, reads the log past the page cache, reads the ring, and decides;
//! it changes nothing. [`put_aside`] copies to quarantine what will be lost. [`carry_out`](fn@carry_out) then
//! makes, in this order: a new segment under a new epoch that pins where the log ends; the ring's entries, under their own epoch; `intake done`; the
//! reserve. Everything is synced before the caller makes a new ring and accepts. A cut anywhere in
//! between leaves something that the same steps bring to the same end.

mod append;
mod blocks;
mod carry_out;
mod examine;
mod examined;
mod lost;
mod read;

pub use crate::report::{Damage, Damaged, Gap, RecoveryReport, ShardReport, TornTail};
pub use append::{Appender, Ground};
pub use blocks::LogBatch;
pub use carry_out::{Kept, Opened, Quarantine, carry_out, put_aside};
pub use examine::examine;
pub use examined::{Examined, Intake, OpenError, ShardSetup, next_epoch};
#[cfg(feature = "sim")]
pub(crate) use lost::compare_with_gaps;
pub(crate) use lost::{gap_in_words, gaps};
