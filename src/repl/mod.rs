//! Replication between sites: what they say to each other, and which of them may accept.

pub mod role;
pub mod wire;
