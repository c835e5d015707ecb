//! Forebay: a durable ingestion engine for Linux.

pub mod config;
pub mod error;
pub mod io;
pub mod limits;
#[cfg(feature = "sim")]
pub mod planted;
pub mod recover;
pub mod serve;
pub mod shard;
#[cfg(feature = "sim")]
pub mod sim;
pub mod types;
pub mod wal;

pub use config::{Config, IoChoice, OnDamage, SyncPolicy};
pub use error::{Error, Fault, Rejected, Why};
pub use types::{Block, BlockKind, Cursor, Durability, Position, Receipt};
