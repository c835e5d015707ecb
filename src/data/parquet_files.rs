//! [`Files`]: the Parquet files of an open store: opening them, flushing a unit of blocks into new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::Thread;
use std::time::Duration;

use smol_str::SmolStr;

use crate::config::OnDamage;
use crate::data::dir_tree::DirTree;
use crate::data::encode::{WriteOptions, Written};
use crate::data::files::{DataFiles, FilesError, Settled};
use crate::data::format::{DATA, DataFile, FileNo, MANIFEST, Record, SchemaColumn, ShardProgress, StreamUpto};
use crate::data::manifest::{Manifest, ManifestError, ManifestSetup, SEGMENT_BYTES};
use crate::data::rows::Rows;
use crate::data::schema::{Placed, Schemas};
use crate::data::store::{Delivered, Home, StoreError, Unit};
use crate::data::tree::{NewFile, Tree};
use crate::io::clock::random_u64;
use crate::io::folder::DirFolder;
use crate::io::quarantine::QuarantineFolder;
use crate::recover::OpenError;
use crate::report::repair_command;
use crate::stats::StoreCounters;
use crate::types::{Chain, Nonce, Seq, Stream};

/// A flush ends early once it has rows for so many files.
const PARTS_MAX: usize = 256;
/// A flush ends early once its rows take so much memory, in bytes.
const ROWS_BYTES_MAX: u64 = 128 << 20;

/// An open store's files; shared by its flushes and its upkeep.
pub struct Files {
    root: PathBuf,
    tree: Arc<DirTree>,
    /// Held to read while temporary files are written, to write while others are removed.
    writing: RwLock<()>,
    files: Mutex<DataFiles>,
    schemas: Arc<RwLock<Schemas>>,
    options: WriteOptions,
    counters: Arc<StoreCounters>,
    /// Who wants to know of commits.
    waiting: OnceLock<Thread>,
}

impl Files {
    /// Opens the files of the engine at home, and settles what a crash left.
    ///
    /// # Errors
    /// What prevents it; nothing that is committed has changed.
    pub fn open(home: &Home<'_>, options: WriteOptions) -> Result<Self, StoreError> {
        let root = home.dir.join(DATA);
        let manifest_dir = root.join(MANIFEST);
        fs::create_dir_all(&manifest_dir).map_err(FilesError::io(format!("making {}", manifest_dir.display())))?;
        let tree = Arc::new(DirTree::new(&root));
        tree.sync_folders(&[format!("{MANIFEST}/.")]).map_err(FilesError::io("syncing the data folder"))?;
        fs::File::open(home.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(FilesError::io(format!("syncing {}", home.dir.display())))?;
        let setup = ManifestSetup {
            store: home.store,
            boot: home.boot,
            on_damage: home.on_damage,
            nonce: Nonce(random_u64()),
            segment_bytes: SEGMENT_BYTES,
        };
        let manifest = open_manifest(home.dir, &manifest_dir, &setup)?;
        let mut files = DataFiles::new(Arc::clone(&tree) as Arc<dyn Tree>, manifest);
        let Settled { missing, damaged, unknown, .. } = files.settle()?;
        if !unknown.is_empty() {
            lost_record(home, &root, &unknown)?;
            // A power cut must not bring them back.
            tree.sync_folders(&unknown).map_err(FilesError::io("syncing the folders of data files"))?;
        }
        if !missing.is_empty() {
            tracing::warn!(
                "{} data files are gone, as if deleted by hand: {}{}; their rows are lost, the store goes on without them",
                missing.len(),
                missing.iter().take(3).cloned().collect::<Vec<_>>().join(", "),
                if missing.len() > 3 { ", ..." } else { "" }
            );
            match files.forget(&missing) {
                // It is done at the next open.
                Err(error) if error.is_no_space() => {}
                other => other?,
            }
        }
        if let Some(first) = damaged.first() {
            tracing::warn!(
                "{} data files have not the length that they were written with, {first} among them; they are left alone",
                damaged.len()
            );
        }
        let mut schemas = Schemas::default();
        for ((namespace, table, key), kind) in &files.catalog().columns {
            schemas.table_mut(namespace, table).insert_recorded(key, kind.parse()?);
        }
        let (files, schemas) = (Mutex::new(files), Arc::new(RwLock::new(schemas)));
        Ok(Self {
            root,
            tree,
            writing: RwLock::new(()),
            files,
            schemas,
            options,
            counters: Arc::clone(home.counters),
            waiting: OnceLock::new(),
        })
    }

    /// The files and their manifest.
    pub fn lock(&self) -> MutexGuard<'_, DataFiles> {
        // What a panic may have left undone is settled before the next commit.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is known of the tables.
    #[must_use]
    pub const fn schemas(&self) -> &Arc<RwLock<Schemas>> {
        &self.schemas
    }

    /// What is counted.
    #[must_use]
    pub fn counters(&self) -> &StoreCounters {
        &self.counters
    }

    /// How pages are compressed.
    #[must_use]
    pub const fn options(&self) -> WriteOptions {
        self.options
    }

    /// Finishes a commit that failed half-way.
    ///
    /// # Errors
    /// As [`DataFiles::settle`].
    pub fn settle(&self) -> Result<(), FilesError> {
        if self.lock().is_unsettled() {
            let _nobody_writes = self.writing.write().unwrap_or_else(PoisonError::into_inner);
            self.lock().settle()?;
        }
        Ok(())
    }

    /// Writes new files by `write`, then commits them with what else the transaction says. Where it
    /// fails, nothing of it stays behind.
    ///
    /// # Errors
    /// What prevented it.
    pub fn commit_new(
        &self,
        write: impl FnOnce(&mut NewFiles<'_>) -> Result<(), StoreError>,
        complete: impl FnOnce(Vec<DataFile>) -> Record,
    ) -> Result<(), StoreError> {
        self.settle()?;
        let _writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        let mut new = NewFiles { files: self, written: Vec::new(), begun: Vec::new() };
        if let Err(error) = write(&mut new) {
            for no in &new.begun {
                // What stays is removed at the next open.
                let _ = self.tree.remove(&no.tmp_path());
            }
            return Err(error);
        }
        let transaction = complete(new.written);
        self.lock().commit(transaction)?;
        if let Some(thread) = self.waiting.get() {
            thread.unpark();
        }
        Ok(())
    }

    /// This thread is unparked after each commit from now on; the first that asks.
    pub fn unpark_after_commits(&self, thread: Thread) {
        let _ = self.waiting.set(thread);
    }

    /// Takes blocks of a unit into new files, and commits them with the shard's progress.
    ///
    /// # Errors
    /// What prevented it; nothing of it is committed, or all of it.
    pub fn flush(&self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        let mut rows = Rows::new();
        let mut aside = BTreeSet::new();
        let mut streams: BTreeMap<Stream, (Seq, Chain)> = BTreeMap::new();
        while rows.parts() < PARTS_MAX && rows.bytes() < ROWS_BYTES_MAX {
            let Some(delivered) = unit.next() else { break };
            let delivered = delivered?;
            self.add(&mut rows, &delivered, &mut aside)?;
            streams.insert(delivered.receipt.stream, (delivered.receipt.seq, delivered.chain));
        }
        let upto = unit.upto();
        let (mut conflicts, mut bytes, mut files, mut count, mut repeated) = (0, 0, 0, rows.rows(), 0);
        let mut columns = Vec::new();
        self.commit_new(
            |new| {
                rows.into_parts().into_iter().try_for_each(|part| {
                    let name = part.name();
                    conflicts += part.count_values(|name| aside.contains(name));
                    new.write(name, |out| {
                        let (written, dropped) = part.write(out, self.options)?;
                        repeated += dropped;
                        Ok(written)
                    })
                })
            },
            |add| {
                columns = self.unrecorded(&add);
                (files, bytes) = (add.len() as u64, add.iter().map(|file| file.bytes).sum());
                let streams = streams.into_iter().map(|(stream, (seq, chain))| StreamUpto::new(stream, seq, chain));
                let progress = ShardProgress {
                    shard: unit.shard().0,
                    epoch: upto.epoch.0,
                    nonce: upto.nonce.0,
                    seq: upto.seq.0,
                    streams: streams.collect(),
                };
                Record { add, columns: columns.clone(), progress: vec![progress], ..Record::default() }
            },
        )?;
        count -= repeated;
        let counts = self.counters();
        for (counter, more) in [
            (&counts.files, files),
            (&counts.rows, count),
            (&counts.bytes, bytes),
            (&counts.conflicts, conflicts),
            (&counts.repeated_rows, repeated),
        ] {
            counter.fetch_add(more, Ordering::Relaxed);
        }
        self.recorded(&columns);
        Ok(())
    }

    /// Columns of these files' tables that no transaction names yet.
    pub(crate) fn unrecorded(&self, files: &[DataFile]) -> Vec<SchemaColumn> {
        let schemas = self.schemas.read().unwrap_or_else(PoisonError::into_inner);
        let tables: BTreeSet<(&str, &str)> =
            files.iter().map(|file| (file.part.namespace.as_str(), file.part.table.as_str())).collect();
        let mut columns = Vec::new();
        for (namespace, table) in tables {
            let keys = schemas.table(namespace, table).into_iter().flat_map(|known| known.unrecorded());
            columns.extend(keys.map(|(key, of)| SchemaColumn {
                namespace: namespace.to_owned(),
                table: table.to_owned(),
                key: key.to_string(),
                kind: of.to_string(),
            }));
        }
        columns
    }

    /// A transaction names these columns.
    pub(crate) fn recorded(&self, columns: &[SchemaColumn]) {
        let mut schemas = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        for column in columns {
            schemas.table_mut(&column.namespace, &column.table).recorded(&column.key);
        }
    }

    /// Adds a block's rows; notes the columns of conflicts.
    fn add(&self, rows: &mut Rows, delivered: &Delivered, aside: &mut BTreeSet<SmolStr>) -> Result<(), StoreError> {
        let mut resolve = |namespace: &str, table: &str, key: &str, of| {
            let mut schemas = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
            let column = schemas.column(namespace, table, key, of);
            let Placed::Conflict(was) = column.placed else { return column.name };
            aside.insert(column.name.clone());
            if column.is_new {
                tracing::warn!(
                    "namespace {namespace:?}, table {table:?}: '{key}' is {was} there; {of} values of it go to the \
                     column '{}'",
                    column.name
                );
            }
            column.name
        };
        Ok(rows.add(delivered, &mut resolve)?)
    }
}

/// Files of a commit, while they are being written.
pub struct NewFiles<'a> {
    files: &'a Files,
    written: Vec<DataFile>,
    begun: Vec<FileNo>,
}

impl NewFiles<'_> {
    /// Writes one file of this part; synced on return.
    ///
    /// # Errors
    /// What prevented it.
    pub fn write(
        &mut self,
        part: crate::data::format::PartName,
        fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<Written, StoreError>,
    ) -> Result<(), StoreError> {
        let no = self.files.lock().next_no();
        self.begun.push(no);
        let path = no.tmp_path();
        let file = self.files.tree.create(&path).map_err(FilesError::io(format!("making {path}")))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let written = fill(&mut out)?;
        let writing = || FilesError::io(format!("writing {path}"));
        let mut file: Box<dyn NewFile> = out.into_inner().map_err(|error| writing()(error.into_error()))?;
        file.sync().map_err(FilesError::io(format!("fdatasync of {path}")))?;
        let Written { rows, bytes, crc, time_min, time_max, .. } = written;
        self.written.push(DataFile { no, part, rows, bytes, crc, time_min, time_max });
        Ok(())
    }
}

fn open_manifest(dir: &Path, manifest_dir: &Path, setup: &ManifestSetup) -> Result<Manifest, StoreError> {
    let mut said = Duration::ZERO;
    let mut waited = Duration::ZERO;
    loop {
        let folder =
            DirFolder::open(manifest_dir).map_err(FilesError::io(format!("opening {}", manifest_dir.display())))?;
        let mut quarantine =
            |epoch| -> Box<dyn crate::recover::Quarantine> { Box::new(QuarantineFolder::new(dir, epoch)) };
        match Manifest::open(Arc::new(folder), setup, &mut quarantine, Box::new(random_u64)) {
            Ok((manifest, report)) => {
                for damage in &report.damage {
                    tracing::warn!("the manifest of the data files: damage salvaged: {damage}");
                }
                return Ok(manifest);
            }
            Err(ManifestError::Log(OpenError::Locked(name))) => {
                // Writes of a killed process go on landing; its file's lock lasts as long.
                if waited >= said {
                    tracing::info!("waiting for writes of an earlier process to the manifest's {name}");
                    said += Duration::from_secs(1);
                }
                std::thread::sleep(Duration::from_millis(20));
                waited += Duration::from_millis(20);
            }
            Err(ManifestError::Log(OpenError::Damaged(mut damaged))) => {
                damaged.command = repair_command(Some(dir), None);
                return Err(ManifestError::Log(OpenError::Damaged(damaged)).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Files that no transaction names prove that the manifest has lost what it had synced.
fn lost_record(home: &Home<'_>, root: &Path, unknown: &[String]) -> Result<(), StoreError> {
    let first = &unknown[0];
    if home.on_damage == OnDamage::Refuse {
        return Err(format!(
            "{} data files below {} are not in the manifest, {first} among them: it has lost records. Nothing was changed. \
             To go on: restore {} from a backup, or move those files to quarantine/: {} | on_damage=salvage",
            unknown.len(),
            root.display(),
            root.join(MANIFEST).display(),
            repair_command(Some(home.dir), None)
        )
        .into());
    }
    let quarantine = home.dir.join("quarantine").join(DATA);
    for path in unknown {
        let to = quarantine.join(path);
        let moved = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::rename(root.join(path), &to));
        moved.map_err(FilesError::io(format!("moving {path} to quarantine/")))?;
    }
    tracing::warn!(
        "{} data files that the manifest does not know were moved to {}",
        unknown.len(),
        quarantine.display()
    );
    Ok(())
}
