//! How a node stands: its role, its marks, its links.

use std::net::SocketAddr;

use serde::Serialize;

use crate::types::StoreId;

/// A node at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its store.
    pub store: String,
    /// `active`, `standby` or `active-active`.
    pub role: String,
    /// The highest term that it knows.
    pub term: u64,
    /// The store that was promoted to it; `null` where none is known.
    pub active: Option<String>,
    /// Why clients' blocks are not accepted; `null` where they are.
    pub refuses: Option<String>,
    /// Why a shard has stopped; `null` where none has.
    pub fault: Option<String>,
    /// Where followers dial.
    pub listen: Option<SocketAddr>,
    /// By shard.
    pub shards: Vec<ShardMarks>,
    /// Sites that follow this one, and sites that it follows.
    pub links: Vec<LinkStatus>,
}

/// A shard's marks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ShardMarks {
    /// The last seq that was accepted.
    pub accepted: u64,
    /// That is written.
    pub written: u64,
    /// That is synced.
    pub synced: u64,
    /// That the store holds.
    pub flushed: u64,
    /// That is not in the log any more.
    pub trimmed: u64,
}

/// Which way blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To a site that follows this one.
    Out,
    /// From a site that this one follows.
    In,
}

/// A link, or a peer that is dialled.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// The peer's store.
    pub peer: String,
    /// Which way.
    pub way: Way,
    /// The peer's address.
    pub address: String,
    /// Blocks go over it.
    pub is_up: bool,
    /// Blocks and voids that their store has accepted and that are not synced at the follower.
    pub behind_blocks: u64,
    /// Bytes of them that are on their way.
    pub behind_bytes: u64,
    /// Bytes of blocks that went over it, and over those before it, since the node was started.
    pub moved_bytes: u64,
    /// How old the oldest of them is, in milliseconds; of a link from a source, for how long there have been any.
    pub behind_ms: u64,
    /// Data files go over it, as the follower is behind the log; `null` where none do.
    pub backfill: Option<Backfill>,
    /// Why it was over last.
    pub ended: Option<String>,
}

/// How far a follower that is behind the log has come with data files.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Backfill {
    /// The files.
    pub files: u64,
    /// Those that are still to come.
    pub files_left: u64,
    /// Bytes that are.
    pub bytes_left: u64,
}

impl LinkStatus {
    /// A link that is up.
    pub(super) fn up(peer: StoreId, way: Way, address: &str) -> Self {
        Self {
            peer: peer.to_string(),
            way,
            address: address.to_owned(),
            is_up: true,
            behind_blocks: 0,
            behind_bytes: 0,
            moved_bytes: 0,
            behind_ms: 0,
            backfill: None,
            ended: None,
        }
    }
}
