//! Where blocks go from the log: the [`Store`](store::Store) trait and what comes with the crate.

pub mod flusher;
pub mod schema;
pub mod store;
