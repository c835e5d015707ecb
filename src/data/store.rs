//! The sink of the engine: takes blocks out of the log, and says how far it holds them.

use crate::types::{Block, Position, Receipt, ShardId};

/// What a store does with blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// It takes them; the log is trimmed behind its progress.
    Blocks,
    /// It takes none; the log is trimmed once synced and read by subscribers.
    Nothing,
    /// It takes none, and the log is never trimmed: for tools that read everything back.
    Log,
}

/// An error of a store, in words. The engine tries again; nothing is lost, the log is still there.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// A sink for blocks. It is called from one thread, never a shard's.
pub trait Store: Send {
    /// What it does with blocks; default [`Keeps::Blocks`].
    fn keeps(&self) -> Keeps {
        Keeps::Blocks
    }

    /// Asked at open: up to which position of this shard it durably holds data.
    ///
    /// # Errors
    /// What prevents it from knowing: the engine does not open.
    fn progress(&mut self, shard: ShardId) -> Result<Option<Position>, StoreError>;

    /// Takes all of `unit`, and makes it durable together with the progress `unit.upto`, in one
    /// atomic step. After an error the same blocks come again.
    ///
    /// # Errors
    /// What prevented it.
    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError>;
}

/// Blocks of one shard, in order, for a store.
pub struct Unit<'a> {
    /// The shard.
    pub shard: ShardId,
    /// The position that the store has reached once it holds all of them.
    pub upto: Position,
    /// The blocks; an error of the log ends the unit.
    pub blocks: &'a mut dyn Iterator<Item = Result<Delivered, StoreError>>,
}

/// A block as it comes out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Its identity, which never changes.
    pub receipt: Receipt,
    /// The shard in whose log it stands.
    pub shard: ShardId,
    /// Where it stands there.
    pub position: Position,
    /// The writer's namespace.
    pub namespace: String,
    /// When it was accepted, in nanoseconds of the wall clock since 1970.
    pub received_at_ns: i64,
    /// The block.
    pub block: Block,
}

/// Keeps nothing: the log alone, as a queue for subscribers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Store for Null {
    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    fn progress(&mut self, _shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }

    fn flush(&mut self, _unit: &mut Unit<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Keeps nothing and lets nothing be trimmed: everything since the store was made can be read back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hold;

impl Store for Hold {
    fn keeps(&self) -> Keeps {
        Keeps::Log
    }

    fn progress(&mut self, _shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }

    fn flush(&mut self, _unit: &mut Unit<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
