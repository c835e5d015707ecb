//! Forebay: a durable ingestion engine for Linux.

pub mod config;
pub mod data;
pub mod engine;
pub mod error;
pub mod io;
pub mod limits;
#[cfg(feature = "sim")]
pub mod planted;
pub mod reader;
pub mod recover;
pub mod serve;
pub mod shard;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stats;
pub(crate) mod sync;
pub mod types;
pub mod wal;

pub use config::{Config, IoChoice, OnDamage, SyncPolicy};
pub use data::store;
pub use engine::{Engine, Status, Subscription, Ticket, Writer};
pub use error::{Error, Fault, Rejected, Why};
pub use recover::RecoveryReport;
pub use shard::marks::Marks;
pub use stats::Stats;
pub use types::{Block, BlockKind, Cursor, Durability, Position, Receipt};
