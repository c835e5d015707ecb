//! One shard: its core (what to do next), its intake ring, and the thread that drives both.

pub(crate) mod claim;
pub mod commit;
pub mod consumer;
pub mod core;
pub mod driver;
pub mod event;
pub mod handle;
pub(crate) mod intake;
pub mod marks;
#[cfg(all(test, forebay_model))]
mod model;
pub mod pace;
pub(crate) mod queue;
pub mod ring;
pub(crate) mod ring_file;
pub mod shared;
pub mod shipping;
pub mod tail;
pub mod thread;
pub mod waiters;
