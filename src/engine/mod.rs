//! The face of the crate: opening a store, writers, receipts, reading back, closing.

pub mod backfill;
pub mod chains;
pub(crate) mod identity;
pub mod inbound;
mod inner;
pub(crate) mod open;
pub mod outbound;
mod replicate;
mod subscription;
mod ticket;
pub mod tools;
mod writer;

pub use open::{Engine, Status};
pub use subscription::Subscription;
pub use ticket::Ticket;
pub use writer::Writer;
