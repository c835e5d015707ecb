//! [`DataFiles`]: files and the manifest kept in step, whatever happens in between.
//!
//! A commit goes in this order, each step durable before the next: the new files under temporary
//! names; a transaction in the manifest that names them, what they replace and how far the log is in
//! them; the final names; the removal of what was replaced. So a file with a final name stands in the
//! manifest, and a row counts from the transaction on. [`DataFiles::settle`] finishes what a crash or
//! an error left undone, and removes what no transaction named.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use crate::data::catalog::Catalog;
use crate::data::format::{DataFile, FileNo, Record, TMP};
use crate::data::manifest::{Manifest, ManifestError};
use crate::data::tree::Tree;

/// Why files could not be committed. The log has every block that no transaction has.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An earlier commit is not carried out in full: [`DataFiles::settle`] comes first.
    #[error("an earlier commit of data files is not finished yet")]
    Unsettled,
    /// The file system.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the system said.
        source: io::Error,
    },
}

impl FilesError {
    /// The disk is full: nothing has changed, and it may be tried again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Manifest(ManifestError::Log(error)) => error.is_no_space(),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// Wraps a system error with what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

/// What settling found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Committed files that got their final names now.
    pub renamed: Vec<String>,
    /// Committed files that are not there: deleted by hand.
    pub missing: Vec<String>,
    /// Committed files that are not of their length. They keep their names and their places.
    pub damaged: Vec<String>,
    /// Files named as ours are that no transaction names: the manifest has lost a record.
    pub unknown: Vec<String>,
    /// Temporary and replaced files that were removed.
    pub removed: Vec<String>,
}

/// The data files of a store.
pub struct DataFiles {
    tree: Arc<dyn Tree>,
    manifest: Manifest,
    /// A commit is not carried out in full.
    unsettled: bool,
    /// The number of the next file; those of failed commits are not given again.
    next_file: FileNo,
    /// Folders that are known to be there, durably.
    folders: BTreeSet<String>,
}

/// No file is given this number or a higher one: there would be no room to count on.
const NO_BEYOND: u64 = 1 << 60;

/// Whether this bug is planted; never in a product.
macro_rules! planted {
    ($name:ident) => {{
        #[cfg(feature = "sim")]
        let planted = crate::planted::is_planted(crate::planted::Mutant::$name);
        #[cfg(not(feature = "sim"))]
        let planted = false;
        planted
    }};
}

impl DataFiles {
    /// The files of a manifest that was just opened; [`settle`](Self::settle) comes next.
    #[must_use]
    pub fn new(tree: Arc<dyn Tree>, manifest: Manifest) -> Self {
        let next_file = manifest.catalog().next_file;
        Self { tree, manifest, unsettled: true, next_file, folders: BTreeSet::new() }
    }

    /// What is committed.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        self.manifest.catalog()
    }

    /// That its manifest may be used.
    ///
    /// # Errors
    /// As [`Manifest::check`].
    pub fn check(&self) -> Result<(), FilesError> {
        Ok(self.manifest.check()?)
    }

    /// A number that no file has had.
    pub fn next_no(&mut self) -> FileNo {
        let no = self.next_file;
        self.next_file.0 += 1;
        no
    }

    /// Finishes every commit of the manifest and removes what belongs to none. To be called while no
    /// temporary file is being written.
    ///
    /// # Errors
    /// [`FilesError::Io`]; it may be called again. [`FilesError::Manifest`] where that has failed: it may
    /// be ahead of the catalog, so nothing is known to belong to none.
    pub fn settle(&mut self) -> Result<Settled, FilesError> {
        self.manifest.check()?;
        let mut settled = Settled::default();
        let listed = self.tree.list().map_err(FilesError::io("listing the data files"))?;
        let mut there: BTreeMap<String, u64> = listed.into_iter().collect();
        for file in self.manifest.catalog().files.values() {
            let (tmp, path) = (file.no.tmp_path(), file.path());
            match (there.remove(&path), there.get(&tmp)) {
                (Some(bytes), _) if bytes == file.bytes => {}
                (_, Some(&bytes)) if bytes == file.bytes && !planted!(RenamesUnfinished) => {
                    self.rename(&tmp, &path)?;
                    there.remove(&tmp);
                    settled.renamed.push(path);
                }
                (Some(_), _) => settled.damaged.push(path),
                (None, _) => settled.missing.push(path),
            }
        }
        for file in self.manifest.catalog().doomed.values() {
            if there.remove(&file.path()).is_some() {
                settled.removed.push(file.path());
            }
        }
        for path in there.into_keys() {
            if path.starts_with(TMP) && path[TMP.len()..].starts_with('/') {
                settled.removed.push(path);
            } else if FileNo::of_path(&path).is_some() {
                settled.unknown.push(path);
            }
        }
        self.remove(&settled.removed)?;
        // What an earlier process or somebody else renamed or removed may not be durable yet: a file that
        // came back would belong to nobody.
        self.tree.sync_all_folders().map_err(FilesError::io("syncing the folders of data files"))?;
        self.manifest.forget_doomed();
        self.pass_over(&settled.unknown)?;
        self.unsettled = false;
        Ok(settled)
    }

    /// The numbers of these files, which a lost record had given, are not given again.
    fn pass_over(&mut self, unknown: &[String]) -> Result<(), FilesError> {
        let numbers = unknown.iter().filter_map(|path| FileNo::of_path(path)).filter(|no| no.0 < NO_BEYOND);
        let next = numbers.max().map(|no| FileNo(no.0 + 1));
        let Some(next_file) = next.filter(|next| *next > self.next_file) else { return Ok(()) };
        self.next_file = next_file;
        match self.manifest.append(Record { next_file, ..Record::default() }) {
            // The next transaction says so too.
            Err(ManifestError::Log(error)) if error.is_no_space() => Ok(()),
            other => Ok(other?),
        }
    }

    /// Commits files that stand, synced, under their temporary names. On return everything that the
    /// transaction names is durable under its final name, and what it removes is gone.
    ///
    /// # Errors
    /// [`FilesError`]. Where the catalog has the transaction all the same, [`settle`](Self::settle)
    /// goes on with it. [`FilesError::Unsettled`] where it must do so first, for another one.
    pub fn commit(&mut self, transaction: Record) -> Result<(), FilesError> {
        if self.unsettled {
            return Err(FilesError::Unsettled);
        }
        let added: Vec<(String, String)> =
            transaction.add.iter().map(|file| (file.no.tmp_path(), file.path())).collect();
        let files = &self.manifest.catalog().files;
        let removed: Vec<String> =
            transaction.remove.iter().filter_map(|no| files.get(no)).map(DataFile::path).collect();
        if let Some((first, _)) = added.first()
            && !planted!(TmpFolderNotSynced)
        {
            self.sync_folders(std::slice::from_ref(first))?;
        }
        // Before the record: on a full disk none can be made, and then the record could not be carried out.
        self.make_folders(added.iter().map(|(_, path)| path))?;
        self.unsettled = true;
        if planted!(RenameBeforeRecord) {
            added.iter().try_for_each(|(tmp, path)| self.rename(tmp, path))?;
        }
        if planted!(RemoveBeforeRecord) {
            self.remove(&removed)?;
        }
        if planted!(ProgressBeforeFiles) {
            let progress = transaction.progress.clone();
            self.manifest.append(Record { next_file: self.next_file, progress, ..Record::default() })?;
        }
        self.manifest.append(Record { next_file: self.next_file, ..transaction })?;
        if !planted!(RenameBeforeRecord) {
            added.iter().try_for_each(|(tmp, path)| self.rename(tmp, path))?;
        }
        let (from, to): (Vec<String>, Vec<String>) = added.into_iter().unzip();
        if !planted!(FinalFolderNotSynced) {
            self.sync_folders(&to)?;
        }
        // The old names last: two names of one file would be two files to whoever reads the folder.
        self.remove(&removed)?;
        let touched: Vec<String> = from.into_iter().chain(removed).collect();
        self.sync_folders(&touched)?;
        self.manifest.forget_doomed();
        self.unsettled = false;
        Ok(())
    }

    /// A commit failed half-way: [`settle`](Self::settle) is to be called before the next.
    #[must_use]
    pub const fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Takes files out of the catalog that are not there any more, though they are committed and settled.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn forget(&mut self, paths: &[String]) -> Result<(), FilesError> {
        let files = self.manifest.catalog().files.values();
        let gone: Vec<FileNo> = files.filter(|file| paths.contains(&file.path())).map(|file| file.no).collect();
        if self.unsettled {
            return Err(FilesError::Unsettled);
        }
        if !gone.is_empty() {
            // Whoever removed them may not have synced that; a file that came back would belong to nobody.
            self.sync_folders(paths)?;
            self.commit(Record { forget: gone, ..Record::default() })?;
        }
        Ok(())
    }

    /// Makes the folders of these paths, durably.
    fn make_folders<'a>(&mut self, paths: impl Iterator<Item = &'a String>) -> Result<(), FilesError> {
        let folder = |path: &'a String| path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let new: BTreeSet<&str> = paths.map(folder).filter(|folder| !self.folders.contains(*folder)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let new: Vec<String> = new.into_iter().map(str::to_owned).collect();
        for folder in &new {
            self.tree.make_folder(folder).map_err(FilesError::io(format!("making {folder}")))?;
        }
        // All at once: they are mostly days of one table.
        self.sync_folders(&new)?;
        self.folders.extend(new);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FilesError> {
        self.tree.rename(from, to).map_err(FilesError::io(format!("renaming {from} to {to}")))
    }

    fn remove(&self, paths: &[String]) -> Result<(), FilesError> {
        paths.iter().try_for_each(|path| self.tree.remove(path).map_err(FilesError::io(format!("removing {path}"))))
    }

    fn sync_folders(&self, paths: &[String]) -> Result<(), FilesError> {
        self.tree.sync_folders(paths).map_err(FilesError::io("syncing the folders of data files"))
    }
}
