//! Where blocks go from the log: the [`Store`](store::Store) trait and what comes with the crate.

pub mod catalog;
#[cfg(feature = "parquet")]
pub mod decode;
pub mod dir_tree;
#[cfg(feature = "parquet")]
pub mod encode;
pub mod files;
pub mod flusher;
pub mod format;
#[cfg(feature = "parquet")]
mod handover;
pub mod manifest;
#[cfg(feature = "parquet")]
pub mod merge;
#[cfg(feature = "parquet")]
mod pages;
#[cfg(feature = "parquet")]
pub mod parquet;
#[cfg(feature = "parquet")]
pub mod parquet_files;
#[cfg(feature = "parquet")]
mod repeated;
#[cfg(feature = "parquet")]
pub mod rows;
pub mod schema;
pub mod schema_gate;
#[cfg(feature = "parquet")]
mod sorted;
pub mod store;
pub mod tree;
#[cfg(feature = "parquet")]
pub mod upkeep;
