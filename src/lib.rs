//! Forebay: a durable ingestion engine for Linux.

pub mod io;
pub mod limits;
pub mod types;
pub mod wal;

pub use types::{Block, BlockKind, Cursor, Durability, Position, Receipt};
