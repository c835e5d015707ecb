//! Where blocks go from the log: the [`Store`](store::Store) trait and what comes with the crate.

pub mod catalog;
pub mod dir_tree;
pub mod files;
pub mod flusher;
pub mod format;
pub mod manifest;
pub mod schema;
pub mod store;
pub mod tree;
