//! Forebay: a durable ingestion engine for Linux.
//!
//! [`Engine::open`] opens a store, [`Engine::writer`] gives writers, [`Writer::append`] returns when a
//! block is as safe as [`Config`] says, [`Engine::subscribe`] reads the log back, and a [`Store`](store::Store)
//! takes blocks out of it. What each [`Durability`] survives stands in `docs/durability.md`; how the
//! parts work together, in `docs/architecture.md`. Modules are public for the tests and tools of this
//! package; what is re-exported here is the interface.

pub mod config;
pub mod data;
pub mod engine;
pub mod error;
#[cfg(feature = "sim")]
pub mod fuzz;
pub mod inspect;
pub mod io;
pub mod limits;
pub mod logged;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "sim")]
pub mod planted;
pub mod probe;
pub mod reader;
pub mod recover;
pub mod repl;
pub mod report;
pub mod serve;
pub mod shard;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stats;
pub(crate) mod sync;
pub mod types;
pub mod wal;

pub use config::{Config, IntakeRule, IoChoice, OnDamage, SyncPolicy};
pub use data::store;
pub use engine::{Engine, Status, Subscription, Ticket, Writer};
pub use error::{Error, Fault, Rejected, Unknown, Why};
pub use recover::RecoveryReport;
pub use shard::marks::Marks;
pub use stats::Stats;
pub use types::{Block, BlockKind, Cursor, Durability, Position, Receipt};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
