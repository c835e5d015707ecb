//! Forebay: a durable ingestion engine for Linux.

pub mod config;
pub mod data;
pub mod engine;
pub mod error;
pub mod io;
pub mod limits;
pub mod reader;
pub mod recover;
pub mod report;
pub mod serve;
pub mod shard;
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
