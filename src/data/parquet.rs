//! [`ParquetStore`]: blocks become Parquet files, one for each table, UTC day and flush.
//!
//! Each shard's blocks are flushed on a thread of their own; a flush collects rows, writes each part as
//! a file under a temporary name, and commits them together with the shard's progress. What a file
//! looks like is `encode`'s affair, how a commit survives everything is that of [`DataFiles`](crate::data::files::DataFiles). The types
//! of columns are what the manifest says, then what the log says; see `docs/data-files.md`.

use std::sync::Arc;

use crate::data::encode::{Compression, Repeated, WriteOptions};
use crate::data::parquet_files::Files;
use crate::data::schema_gate::SchemaGate;
use crate::data::store::{Admission, Handover, Home, Store, StoreError, Unit};
use crate::data::upkeep::{Upkeep, UpkeepOptions};
use crate::types::{Position, ShardId};

/// Options of a [`ParquetStore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParquetOptions {
    /// How pages are compressed.
    pub compression: Compression,
    /// What becomes of rows that a client's retry repeated.
    pub repeated: Repeated,
    /// What is done to files beside writing them.
    pub upkeep: UpkeepOptions,
}

/// A store of Parquet files in the engine's folder.
pub struct ParquetStore {
    options: ParquetOptions,
    open: Option<Arc<Files>>,
    /// Ends with the store that was opened, not with its parts for shards.
    upkeep: Option<Upkeep>,
}

impl ParquetStore {
    /// A store with these options; it is opened by the engine.
    #[must_use]
    pub const fn new(options: ParquetOptions) -> Self {
        Self { options, open: None, upkeep: None }
    }

    fn files(&self) -> Result<&Arc<Files>, StoreError> {
        self.open.as_ref().ok_or_else(|| "the store is not open".into())
    }
}

impl Default for ParquetStore {
    fn default() -> Self {
        Self::new(ParquetOptions::default())
    }
}

impl Store for ParquetStore {
    fn open(&mut self, home: &Home<'_>) -> Result<(), StoreError> {
        let files = Arc::new(Files::open(
            home,
            WriteOptions { compression: self.options.compression, repeated: self.options.repeated },
        )?);
        self.upkeep = Upkeep::start(Arc::clone(&files), self.options.upkeep)?;
        self.open = Some(files);
        Ok(())
    }

    fn progress(&mut self, shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(self.files()?.lock().catalog().progress.get(&shard).copied())
    }

    fn admission(&self) -> Option<Arc<dyn Admission>> {
        let files = self.open.as_ref()?;
        Some(Arc::new(SchemaGate::new(Arc::clone(files.schemas()))))
    }

    fn for_shard(&mut self, _shard: ShardId) -> Option<Box<dyn Store>> {
        Some(Box::new(Self { options: self.options, open: self.open.clone(), upkeep: None }))
    }

    fn flush(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        self.files()?.flush(unit)
    }

    fn handover(&self) -> Option<Arc<dyn Handover>> {
        self.open.clone().map(|files| files as Arc<dyn Handover>)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.upkeep.take().map_or(Ok(()), Upkeep::end)
    }
}

impl std::fmt::Debug for ParquetStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetStore").field("options", &self.options).finish_non_exhaustive()
    }
}
