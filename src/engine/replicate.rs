//! An open store as one of several sites.

use std::sync::Arc;

use crate::engine::chains::Chains;
use crate::engine::inbound::Inbound;
use crate::engine::open::Engine;
use crate::engine::outbound::Retained;
use crate::error::{Error, NotActive};
use crate::repl::wire::Vector;
use crate::types::Opening;

impl Engine {
    /// The store, and this opening of it: what its clients' blocks are accepted under.
    #[must_use]
    pub fn opening(&self) -> Opening {
        Opening::of(&self.inner.shards[0].own)
    }

    /// The largest payload in bytes that is taken.
    #[must_use]
    pub fn block_bytes_max(&self) -> u64 {
        self.inner.config.block_bytes_max
    }

    /// Says whether blocks of clients are accepted: for a store that replicates, and is not always the active one.
    /// Nothing that is claimed behind this call gets in where they are not; who waits for room is refused. What comes
    /// from other stores is taken all the same.
    pub fn set_active(&self, active: Result<(), NotActive>) {
        for shard in self.inner.shards.iter() {
            shard.ring.fence(active.err());
        }
    }

    /// A link to a source that begins now, and what that is told of this store: the frames of its vector.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn inbound(&self) -> Result<(Inbound, Vec<Vector>), Error> {
        self.inner.not_forked()?;
        Ok(Inbound::new(Arc::clone(&self.inner)))
    }

    /// What the log says of its streams, for one that compares this store with another.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn chains(&self) -> Result<Chains, Error> {
        self.inner.not_forked()?;
        Ok(Chains::new(Arc::clone(&self.inner)))
    }

    /// Holds the log for a follower, from all that is there on: links to it move that on.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn retain(&self) -> Result<Arc<Retained>, Error> {
        self.inner.not_forked()?;
        let retained = Retained::new(Arc::clone(&self.inner));
        self.inner.end_hold_at_open();
        Ok(Arc::new(retained))
    }
}
