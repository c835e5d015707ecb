//! An open store as one of several sites.

use std::sync::Arc;

use crate::engine::inbound::Inbound;
use crate::engine::open::Engine;
use crate::engine::outbound::Outbound;
use crate::error::{Error, NotActive};
use crate::repl::wire::Vector;
use crate::types::Opening;

impl Engine {
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

    /// A link to a follower that begins now; `follower` is the opening that it has said it is.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn outbound(&self, follower: Opening) -> Result<Outbound, Error> {
        self.inner.not_forked()?;
        Ok(Outbound::new(Arc::clone(&self.inner), follower))
    }
}
