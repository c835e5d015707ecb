//! Replication between sites: what they say to each other, and which of them may accept.

pub mod entries;
pub mod link_error;
pub mod receiver;
pub mod role;
pub mod sender;
pub mod wire;
