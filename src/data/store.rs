//! The sink of the engine: takes blocks out of the log, and says how far it holds them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::OnDamage;
use crate::data::format::HeldFile;
use crate::serve::line_error::LineError;
use crate::stats::StoreCounters;
use crate::types::{Block, Chain, Epoch, Position, Receipt, Seq, ShardId, StoreId, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};

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

/// Where a store keeps its data, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Home<'a> {
    /// The engine's folder; its lock is held.
    pub dir: &'a Path,
    /// The engine's identity.
    pub store: StoreId,
    /// Its shards.
    pub shards: usize,
    /// The boot that is running now.
    pub boot: [u8; 16],
    /// What to do about damage to what the store itself relies on.
    pub on_damage: OnDamage,
    /// Where the store counts what it does, for who asks the engine.
    pub counters: &'a Arc<StoreCounters>,
}

/// A sink for blocks. It is called from one thread at a time, never a shard's.
///
/// The engine calls `open` once, then `progress` for each shard, `admission`, `for_shard`, and from
/// then on `flush`; `close` once everything is flushed.
pub trait Store: Send {
    /// What it does with blocks; default [`Keeps::Blocks`].
    fn keeps(&self) -> Keeps {
        Keeps::Blocks
    }

    /// Called first, while nobody else can have the engine's folder open.
    ///
    /// # Errors
    /// What prevents it from being used: the engine does not open.
    fn open(&mut self, _home: &Home<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    /// Asked at open: up to which position of this shard it durably holds data.
    ///
    /// # Errors
    /// What prevents it from knowing: the engine does not open.
    fn progress(&mut self, shard: ShardId) -> Result<Option<Position>, StoreError>;

    /// Who judges blocks of lines before they are accepted; default nobody.
    fn admission(&self) -> Option<Arc<dyn Admission>> {
        None
    }

    /// A part of the store that flushes this shard alone, on a thread of its own; default none: one
    /// thread flushes the shards in turn. Asked for every shard or, after the first `None`, no more.
    fn for_shard(&mut self, _shard: ShardId) -> Option<Box<dyn Store>> {
        None
    }

    /// Takes blocks of `unit`, as many as it likes, and makes them durable together with the progress
    /// [`Unit::upto`], in one atomic step. After an error the same blocks come again.
    ///
    /// # Errors
    /// What prevented it.
    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError>;

    /// How what it holds is handed on to another site whose log does not reach back so far; default not at all. Asked
    /// once, behind `open`.
    fn handover(&self) -> Option<Arc<dyn Handover>> {
        None
    }

    /// Called last, at the engine's close.
    ///
    /// # Errors
    /// What prevented it from finishing what it does beside flushing.
    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Judges blocks of lines by what is known of their tables. Called from writers' threads.
pub trait Admission: Send + Sync {
    /// A writer's block, before it is accepted.
    ///
    /// # Errors
    /// The line that cannot be taken, and why: nothing of the block is logged.
    fn admit(&self, namespace: &str, block: &Block) -> Result<(), LineError>;

    /// A block that is in the log already and not yet in the store: it counts as known.
    fn learn(&self, namespace: &str, block: &Block);
}

/// What a store holds, handed on to another one as files. Called from any thread.
pub trait Handover: Send + Sync {
    /// Where streams end in what it holds, and those of its files that may have blocks behind what `has` says of each
    /// stream. The files are there until something else becomes of them: who asks for one that is gone asks anew.
    ///
    /// # Errors
    /// What prevents it.
    fn holding(&self, has: &dyn Fn(&Stream) -> Seq) -> Result<Holding, StoreError>;

    /// Opens the file with this number.
    ///
    /// # Errors
    /// It is not there, or not any more.
    fn open_file(&self, no: u64) -> Result<File, StoreError>;

    /// Takes over what is wanted of another store's files, which stand at these paths, and with it that its streams
    /// end there: all of it, durably, or nothing; given up once it is told to `stop`. How many rows that were.
    ///
    /// # Errors
    /// What prevented it: a file is damaged, or is none that such a store has. Whether it is there all the same,
    /// [`adopted`](Self::adopted) says.
    fn take_over(&self, files: &[(HeldFile, PathBuf)], wanted: &Wanted, stop: &AtomicBool) -> Result<u64, StoreError>;

    /// Where streams end by what was taken over so: the log says so, too, or must be told.
    ///
    /// # Errors
    /// That is not known before the store is opened again.
    fn adopted(&self) -> Result<StreamEnds, StoreError>;
}

/// What a store hands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Where each stream ends in it.
    pub ends: StreamEnds,
    /// Blocks that are in none of them, as they are lost: the seqs between these two.
    pub gaps: Vec<(Stream, Seq, Seq)>,
    /// Its files.
    pub files: Vec<HeldFile>,
}

/// Blocks that are to be taken over, by stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where each stream ends with them.
    pub ends: StreamEnds,
    /// By origin, shard and epoch: behind the first and up to the second number.
    numbers: BTreeMap<(StoreId, ShardId, Epoch), (Seq, Seq)>,
}

impl Wanted {
    /// Blocks of this stream behind `held`, up to `end`. False where another stream of the same epoch is wanted: files do
    /// not tell them apart.
    #[must_use]
    pub fn add(&mut self, stream: Stream, held: Seq, end: StreamEnd) -> bool {
        self.ends.insert(stream, end);
        self.numbers.insert((stream.origin, stream.shard, stream.epoch), (held, end.seq)).is_none()
    }

    /// Whether a block is one of them.
    #[must_use]
    pub fn has(&self, origin: StoreId, shard: ShardId, epoch: Epoch, seq: Seq) -> bool {
        self.numbers.get(&(origin, shard, epoch)).is_some_and(|(held, end)| *held < seq && seq <= *end)
    }
}

/// Blocks of one shard, in order, for a store.
pub struct Unit<'a> {
    shard: ShardId,
    upto: Position,
    end: Position,
    bytes: u64,
    bytes_max: u64,
    blocks: &'a mut dyn Iterator<Item = Result<Delivered, StoreError>>,
}

impl<'a> Unit<'a> {
    /// A unit of these blocks of a shard, which stand behind `from`, none of them taken yet; `end` is
    /// reached with the last of them. No block follows once the payloads taken have `bytes_max` bytes.
    #[must_use]
    pub fn new(
        shard: ShardId,
        (from, end): (Position, Position),
        bytes_max: u64,
        blocks: &'a mut dyn Iterator<Item = Result<Delivered, StoreError>>,
    ) -> Self {
        Self { shard, upto: from, end, bytes: 0, bytes_max, blocks }
    }

    /// The shard.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    /// The position that the store has reached once it holds every block that it took so far.
    #[must_use]
    pub const fn upto(&self) -> Position {
        self.upto
    }

    /// Payload bytes that were taken so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Iterator for Unit<'_> {
    type Item = Result<Delivered, StoreError>;

    /// The next block; an error of the log ends the unit.
    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes >= self.bytes_max {
            return None;
        }
        let next = self.blocks.next();
        match &next {
            Some(Ok(delivered)) => {
                self.upto = delivered.position;
                self.bytes += delivered.block.payload.len() as u64;
            }
            Some(Err(_)) => {}
            None => self.upto = self.end,
        }
        next
    }
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
    /// The chain of its stream up to and with it.
    pub chain: Chain,
    /// The writer's namespace.
    pub namespace: String,
    /// When it was accepted, in nanoseconds of the wall clock since 1970.
    pub received_at_ns: i64,
    /// The block. Its payload shares its memory with those of the blocks that were logged with it: who keeps it for long
    /// copies it.
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
