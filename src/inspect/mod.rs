//! Looking at a store from outside the engine: printing it, checking it, and repairing it.
//!
//! Everything is read through the same examination, scan and verdicts that an opening uses, and through
//! descriptors that cannot write; only [`repair()`](fn@repair) changes a store. What programs print of this is JSON with
//! the schemas `forebay.inspect/1`, `forebay.verify/1` and `forebay.repair/1`.

mod identity;
mod read;
mod repair;
#[cfg(feature = "parquet")]
mod salvaging;
mod show;
mod verify;

pub use read::{Access, FileView, LogView, ManifestView, RingView, Role, ShardView, StoreView, Where};
pub use repair::{Mode, Plan, Repaired, repair};
pub use show::{BatchLine, EndLine, EntryLine, FileLine, RingLine, ShardLine, StoreLine};
pub use verify::{Concerns, Finding, LogCounts, Verified, verify};
