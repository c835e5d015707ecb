//! [`Salvaging`]: the sink with which a repair opens a store that has data files.

use crate::data::encode::WriteOptions;
use crate::data::parquet_files::Files;
use crate::data::store::{Home, Keeps, Store, StoreError, Unit};
use crate::types::{Position, ShardId};

/// It salvages the manifest and knows what the data files hold; it takes nothing, and keeps the log.
#[derive(Default)]
pub struct Salvaging {
    files: Option<Files>,
}

impl Store for Salvaging {
    fn open(&mut self, home: &Home<'_>) -> Result<(), StoreError> {
        self.files = Some(Files::open(home, WriteOptions::default())?);
        Ok(())
    }

    fn keeps(&self) -> Keeps {
        Keeps::Log
    }

    fn progress(&mut self, shard: ShardId) -> Result<Option<Position>, StoreError> {
        Ok(self.files.as_ref().and_then(|files| files.lock().catalog().progress.get(&shard).copied()))
    }

    fn flush(&mut self, _unit: &mut Unit<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
