//! The engine as a [`Target`], and the reading back of what it holds.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use forebay::data::store::{Hold, Null, Store};
use forebay::{Block, Config, Cursor, Engine, Receipt, Ticket, Why, Writer};
use serde_json::json;

use crate::args::{Plan, Setting, StoreKind};
use crate::target::{Counts, Target, TargetWriter};
use crate::verify::Verifier;

/// The namespace of everything that this program writes.
pub const NAMESPACE: &str = "load-test";
/// The engine's default for a batch, in bytes.
const BATCH_BYTES: u64 = 4 << 20;

/// An open store.
pub struct EngineTarget {
    engine: Engine,
}

impl EngineTarget {
    /// Opens or makes the store; its log is trimmed unless there is a reason to hold it.
    ///
    /// # Errors
    /// As the engine says.
    pub fn open(dir: &Path, plan: &Plan, setting: Setting, hold: Option<&str>) -> Result<Self> {
        Self::open_with(dir, plan, setting, store_of(plan, hold)?)
    }

    /// The same with a store of the caller's.
    ///
    /// # Errors
    /// As the engine says.
    pub fn open_with(dir: &Path, plan: &Plan, setting: Setting, store: Box<dyn Store>) -> Result<Self> {
        Ok(Self { engine: Engine::open_with(config(dir, plan, setting), store)? })
    }

    /// Closes it cleanly.
    ///
    /// # Errors
    /// As the engine says.
    pub fn close(self) -> Result<()> {
        Ok(self.engine.close()?)
    }
}

/// The store that the plan asks for.
fn store_of(plan: &Plan, hold: Option<&str>) -> Result<Box<dyn Store>> {
    match (plan.store, hold) {
        (StoreKind::Parquet, _) => parquet(plan),
        (StoreKind::None, Some(_)) => Ok(Box::new(Hold)),
        (StoreKind::None, None) => Ok(Box::new(Null)),
    }
}

#[cfg(feature = "parquet")]
fn parquet(plan: &Plan) -> Result<Box<dyn Store>> {
    use forebay::data::encode::Repeated;
    use forebay::data::parquet::{ParquetOptions, ParquetStore};

    let mut options = ParquetOptions::default();
    // A line that the input itself repeats would be taken for a client's retry.
    if plan.verify {
        options.repeated = Repeated::Keep;
    }
    Ok(Box::new(ParquetStore::new(options)))
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &Plan) -> Result<Box<dyn Store>> {
    anyhow::bail!("--store parquet: not built into this program: build it with the feature 'parquet', or use none")
}

/// Opens the store again and shows the verifier every block in it.
///
/// # Errors
/// Where it cannot be opened or read.
pub fn read_back(dir: &Path, plan: &Plan, setting: Setting, verifier: &mut Verifier<'_>) -> Result<()> {
    let engine = Engine::open_with(config(dir, plan, setting), Box::new(Hold))?;
    for delivered in engine.subscribe(Cursor::start())?.until_end() {
        verifier.see(&delivered?.block);
    }
    Ok(engine.close()?)
}

fn config(dir: &Path, plan: &Plan, setting: Setting) -> Config {
    let mut config = Config::new(dir).wal_level(setting.wal_level()).io(plan.io);
    if let Some(ms) = setting.period_ms() {
        config = config.wal_fsync_period_ms(ms);
    }
    if let Some(shards) = plan.shards {
        config = config.shards(shards);
    }
    if let Some(cpus) = &plan.cpus {
        config = config.cpus(cpus.clone());
    }
    let sizes = &plan.sizes;
    if let Some(bytes) = sizes.intake_bytes {
        config = config.intake_bytes(bytes);
    }
    if let Some(bytes) = sizes.segment_bytes {
        // A batch must fit a quarter of a segment.
        config = config.segment_bytes(bytes).batch_bytes_max((bytes / 4).min(BATCH_BYTES));
    }
    if let Some(bytes) = sizes.block_bytes_max {
        config = config.block_bytes_max(bytes);
    }
    if let Some(bytes) = sizes.wal_bytes_max {
        config = config.wal_bytes_max(bytes);
    }
    if let Some(bytes) = sizes.buffer_bytes {
        config = config.buffer_bytes(bytes);
    }
    config
}

impl Target for EngineTarget {
    type Writer = EngineWriter;

    fn writer(&self) -> Result<EngineWriter> {
        Ok(EngineWriter { writer: self.engine.writer(NAMESPACE)? })
    }

    fn sync(&self) -> Result<()> {
        Ok(self.engine.sync()?)
    }

    fn counts(&self) -> Counts {
        let stats = self.engine.stats();
        let all = self.engine.marks();
        let marks = all.iter().map(|marks| {
            json!({
                "shard": marks.shard.0,
                "accepted": marks.accepted.0,
                "written": marks.written.0,
                "synced": marks.synced.0,
                "flushed": marks.flushed.0,
                "trimmed": marks.trimmed.0,
            })
        });
        Counts {
            io: stats.io,
            shards: stats.shards,
            cpus: stats.cpus,
            batches: stats.batches,
            blocks_written: stats.blocks_written,
            sync_us: stats.sync_us,
            unsynced_max_bytes: stats.unsynced_max_bytes,
            unsynced_max_ms: stats.unsynced_max_ms,
            wal_bytes: (stats.wal_bytes_used, stats.wal_bytes_max),
            stalls: stats.stalls,
            paced_ms: stats.paced_ms,
            accepted: all.iter().map(|marks| marks.accepted).collect(),
            flushed: all.iter().map(|marks| marks.flushed).collect(),
            marks: marks.collect(),
        }
    }
}

/// A writer of an [`EngineTarget`].
pub struct EngineWriter {
    writer: Writer,
}

impl TargetWriter for EngineWriter {
    type Ticket = EngineTicket;

    #[inline]
    fn append(&mut self, block: Block) -> Result<Option<Receipt>> {
        Ok(Some(self.writer.append(block)?))
    }

    fn submit(&mut self, block: Block) -> Result<std::result::Result<EngineTicket, Block>> {
        match self.writer.submit(block) {
            Ok(ticket) => Ok(Ok(EngineTicket(ticket))),
            Err(rejected) if matches!(rejected.why, Why::Full(_) | Why::StoreFull(_)) => Ok(Err(rejected.block)),
            Err(rejected) => Err(forebay::Error::from(Box::new(rejected)).into()),
        }
    }
}

/// A block under way.
pub struct EngineTicket(Ticket);

impl Future for EngineTicket {
    type Output = Result<Option<Receipt>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.map(Some).map_err(Into::into))
    }
}
