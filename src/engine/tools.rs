//! What can be done to a store's data files from outside the engine: listing and merging them.

use std::path::{Path, PathBuf};
#[cfg(feature = "parquet")]
use std::sync::Arc;

use crate::config::OnDamage;
use crate::data::catalog::Catalog;
#[cfg(feature = "parquet")]
use crate::data::encode::{Compression, WriteOptions};
use crate::data::format::{DATA, DataFile, MANIFEST};
use crate::data::manifest::{Manifest, ManifestSetup, SEGMENT_BYTES};
#[cfg(feature = "parquet")]
use crate::data::parquet_files::Files;
#[cfg(feature = "parquet")]
use crate::data::store::Home;
#[cfg(feature = "parquet")]
use crate::data::upkeep::{MergeWhat, Merged, merge_all};
use crate::engine::identity::Identity;
#[cfg(feature = "parquet")]
use crate::engine::identity::StoreLock;
use crate::engine::open::boot_id;
use crate::error::Error;
use crate::io::folder::{Locks, ReadOnly};
use crate::types::Nonce;

/// How often the manifest is read again while a running engine changes it.
const TRIES: u32 = 20;
const NAP: std::time::Duration = std::time::Duration::from_millis(25);

/// The data files of a store.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The store's id.
    pub store: String,
    /// The data folder; paths of files are below it.
    pub root: PathBuf,
    /// The files that hold the store's rows, each row in one of them.
    pub files: Vec<DataFile>,
}

/// Lists the data files of the store in this folder: those that its manifest names, whether or not an
/// engine has it open. Changes nothing.
///
/// # Errors
/// [`Error::Config`] where there is no store, [`Error::Store`] where the manifest cannot be read.
pub fn list_files(dir: &Path) -> Result<Listing, Error> {
    let identity = identity(dir)?;
    let root = dir.join(DATA);
    let manifest = root.join(MANIFEST);
    let mut files = Vec::new();
    if manifest.exists() {
        let setup = ManifestSetup {
            store: identity.store(),
            boot: boot_id()?,
            on_damage: OnDamage::Refuse,
            nonce: Nonce(0),
            segment_bytes: SEGMENT_BYTES,
        };
        files = read(&manifest, &setup)?.files.into_values().collect();
    }
    Ok(Listing { store: identity.store().to_string(), root, files })
}

/// Reads the manifest of a store that may be open elsewhere: what is caught between two steps of its
/// writer is read again.
fn read(manifest: &Path, setup: &ManifestSetup) -> Result<Catalog, Error> {
    let mut tries = 0;
    loop {
        let folder = ReadOnly::open(manifest, Locks::NotAsked);
        let folder = folder.map_err(Error::io(format!("opening {}", manifest.display())))?;
        match Manifest::read(&folder, setup) {
            Ok(catalog) => return Ok(catalog),
            Err(_) if tries < TRIES => {
                tries += 1;
                std::thread::sleep(NAP);
            }
            Err(error) => return Err(Error::Store(error.to_string())),
        }
    }
}

/// Merges the small files of the store in this folder, which no engine may have open: that merges by
/// itself. `told` hears of each merge.
///
/// # Errors
/// [`Error::InUse`], [`Error::Config`] where there is no store, [`Error::Store`].
#[cfg(feature = "parquet")]
pub fn merge_files(dir: &Path, compression: Compression, told: &mut dyn FnMut(&Merged)) -> Result<Merged, Error> {
    let identity = identity(dir)?;
    let _lock = StoreLock::take(dir)?;
    let home = Home {
        dir,
        store: identity.store(),
        shards: identity.shards,
        boot: boot_id()?,
        on_damage: OnDamage::Refuse,
        counters: &Arc::default(),
    };
    let failed = |error: crate::data::store::StoreError| Error::Store(error.to_string());
    let files = Files::open(&home, WriteOptions { compression, ..WriteOptions::default() }).map_err(failed)?;
    merge_all(&files, MergeWhat::EverySmall, told).map_err(failed)
}

fn identity(dir: &Path) -> Result<Identity, Error> {
    Identity::read(dir)?.ok_or_else(|| {
        Error::Config(format!(
            "{} is no store: it has no IDENTITY. Name the folder that the engine was opened with",
            dir.display()
        ))
    })
}
