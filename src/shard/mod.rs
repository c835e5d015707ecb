//! One shard: its core (what to do next), its intake ring, and the thread that drives both.

pub mod commit;
pub mod core;
pub mod driver;
pub mod marks;
pub mod ring;
pub mod shared;
pub mod thread;
pub mod waiters;
