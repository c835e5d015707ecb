//! One adapter for each peer.

pub mod file;
pub mod fjall;
pub mod forebay;
pub mod okaywal;
pub mod raft_engine;
pub mod walrus;
