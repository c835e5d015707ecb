//! The names and the content of a simulated folder tree: what a reader finds, what is durable, and what
//! a power cut makes of the difference. `io/sim_tree.rs` dresses it as a [`Tree`](crate::data::tree::Tree).
//!
//! # The model
//! - A reader finds what was written. After a power cut an unsynced file may be as it was when it was
//!   synced last, or of any length in between, with blocks of zeros in it. A failed sync decides the
//!   same, and no later sync makes up for it.
//! - A name that was created or removed is durable after a sync of its folder; a folder's own name
//!   after a sync of the folder above. Without those a power cut may keep or drop it, in order or each
//!   file by itself.
//! - A rename is durable once both folders are synced; until then a power cut leaves the file under the
//!   old name or the new one, never both and never neither. That is what the journals of ext4 and XFS
//!   give, where a rename is one transaction; that a sync of one of the folders suffices there is not
//!   relied upon. A name in a folder that is not durable itself counts as not there.
//! - Where files can be made no more, so can folders, and nothing can be written to files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::io::chance::Chance;
use crate::io::medium::Fate;

/// A torn file's content differs in blocks of so many bytes.
const BLOCK_BYTES: usize = 64;

#[derive(Debug, Default)]
struct Content {
    /// What a reader finds.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    dirty: bool,
}

#[derive(Debug)]
struct NameOp {
    /// The file, or none for a folder.
    file: Option<usize>,
    /// Its name behind the operation.
    name: Option<String>,
    /// The folders that must be synced, and whether they were.
    folders: Vec<(String, bool)>,
}

/// The tree on the device.
#[derive(Debug)]
pub struct State {
    chance: Chance,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
    durable_folders: BTreeSet<String>,
    ops: Vec<NameOp>,
}

impl State {
    /// An empty folder.
    pub const fn new(chance: Chance) -> Self {
        Self {
            chance,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            folders: BTreeSet::new(),
            durable_folders: BTreeSet::new(),
            ops: Vec::new(),
        }
    }

    /// The paths that a reader finds, with the files' lengths in bytes.
    pub fn list(&self) -> impl Iterator<Item = (&String, usize)> {
        self.names.iter().map(|(path, &file)| (path, self.files[file].bytes.len()))
    }

    /// What a reader finds in a file.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        self.names.get(path).map(|&file| &*self.files[file].bytes)
    }

    /// The folders in it.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.folders.iter().map(String::as_str)
    }

    /// There is such a folder.
    pub fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }

    /// Appends to a file, perhaps less than is asked; how much.
    pub fn write(&mut self, file: usize, bytes: &[u8]) -> usize {
        let count = if bytes.len() > 1 && self.chance.percent(20) { bytes.len() / 2 } else { bytes.len() };
        self.files[file].bytes.extend_from_slice(&bytes[..count]);
        self.files[file].dirty = true;
        count
    }

    /// A file's sync succeeds.
    pub fn sync(&mut self, file: usize) {
        let content = &mut self.files[file];
        if content.dirty {
            content.durable.clone_from(&content.bytes);
            content.dirty = false;
        }
    }

    /// A file is cut short, durably.
    pub fn shorten(&mut self, path: &str, len: usize) {
        if let Some(&file) = self.names.get(path) {
            let content = &mut self.files[file];
            content.bytes.truncate(len);
            content.durable.clone_from(&content.bytes);
        }
    }

    /// Makes the folders that lead to a path.
    pub fn make_folders(&mut self, path: &str) {
        let mut missing = above(path).filter(|folder| !folder.is_empty() && !self.folders.contains(*folder));
        let mut missing: Vec<String> = missing.by_ref().map(str::to_owned).collect();
        missing.reverse();
        for folder in missing {
            self.folders.insert(folder.clone());
            let above = vec![(parent(&folder).to_owned(), false)];
            self.ops.push(NameOp { file: None, name: Some(folder), folders: above });
        }
    }

    /// A file, empty.
    pub fn create(&mut self, path: &str) -> usize {
        self.make_folders(path);
        if let Some(&file) = self.names.get(path) {
            self.files[file].bytes.clear();
            self.files[file].dirty = true;
            return file;
        }
        let file = self.files.len();
        self.files.push(Content { dirty: true, ..Content::default() });
        self.names.insert(path.to_owned(), file);
        let folders = vec![(parent(path).to_owned(), false)];
        self.ops.push(NameOp { file: Some(file), name: Some(path.to_owned()), folders });
        file
    }

    /// Renames a file.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.make_folders(to);
        self.names.insert(to.to_owned(), file);
        let folders = vec![(parent(from).to_owned(), false), (parent(to).to_owned(), false)];
        self.ops.push(NameOp { file: Some(file), name: Some(to.to_owned()), folders });
        Ok(())
    }

    /// Removes a file, if it is there.
    pub fn remove(&mut self, path: &str) {
        if let Some(file) = self.names.remove(path) {
            let folders = vec![(parent(path).to_owned(), false)];
            self.ops.push(NameOp { file: Some(file), name: None, folders });
        }
    }

    /// A folder's sync succeeds.
    pub fn sync_folder(&mut self, folder: &str) {
        for of in self.ops.iter_mut().flat_map(|op| &mut op.folders) {
            of.1 |= of.0 == folder;
        }
        // What is durable now; with it goes what was done to the same file before.
        let mut left = Vec::new();
        for op in std::mem::take(&mut self.ops) {
            if op.folders.iter().all(|(_, synced)| *synced) && self.is_reachable(&op) {
                left.retain(|earlier: &NameOp| op.file.is_none() || earlier.file != op.file);
                self.arrive(op);
            } else {
                left.push(op);
            }
        }
        self.ops = left;
    }

    /// The folders of its new name are durable.
    fn is_reachable(&self, op: &NameOp) -> bool {
        let mut folders = op.name.iter().flat_map(|name| above(name));
        folders.all(|folder| folder.is_empty() || self.durable_folders.contains(folder))
    }

    fn arrive(&mut self, op: NameOp) {
        match (op.file, op.name) {
            (Some(file), name) => {
                self.durable_names.retain(|_, of| *of != file);
                self.durable_names.extend(name.map(|name| (name, file)));
            }
            (None, name) => self.durable_folders.extend(name),
        }
    }

    /// A failed sync: nobody knows what arrived, and what did not never will.
    pub fn spoil(&mut self, file: usize) {
        let content = &mut self.files[file];
        content.durable = torn(&mut self.chance, content, Fate::Units);
        content.dirty = false;
    }

    /// The power fails.
    pub fn cut_power(&mut self, fate: Fate) {
        let ops = std::mem::take(&mut self.ops);
        let in_order = matches!(fate, Fate::Lost | Fate::Kept) || self.chance.percent(50);
        let kept = match fate {
            Fate::Lost => 0,
            Fate::Kept => ops.len(),
            _ => self.chance.below(ops.len() as u64 + 1) as usize,
        };
        let mut stopped = BTreeSet::new();
        for (index, op) in ops.into_iter().enumerate() {
            let chosen = if in_order { index < kept } else { self.chance.percent(50) };
            let arrives = chosen && self.is_reachable(&op) && op.file.is_none_or(|file| !stopped.contains(&file));
            if arrives {
                self.arrive(op);
            } else {
                stopped.extend(op.file);
            }
        }
        self.names.clone_from(&self.durable_names);
        self.folders.clone_from(&self.durable_folders);
        for content in &mut self.files {
            if content.dirty {
                content.durable = torn(&mut self.chance, content, fate);
                content.dirty = false;
            }
            content.bytes.clone_from(&content.durable);
        }
    }
}

/// What a power cut leaves of an unsynced file.
fn torn(chance: &mut Chance, content: &Content, fate: Fate) -> Vec<u8> {
    let (old, new) = (&content.durable, &content.bytes);
    match fate {
        Fate::Lost => return old.clone(),
        Fate::Kept => return new.clone(),
        _ => {}
    }
    let (shorter, longer) = (old.len().min(new.len()), old.len().max(new.len()));
    let whole_length = chance.percent(50);
    let len = if whole_length { new.len() } else { chance.within(shorter as u64, longer as u64) as usize };
    let mut left = vec![0; len];
    for at in (0..len).step_by(BLOCK_BYTES) {
        let from = if chance.percent(50) { new } else { old };
        let upto = (at + BLOCK_BYTES).min(len).min(from.len());
        if at < upto {
            left[at..upto].copy_from_slice(&from[at..upto]);
        }
    }
    left
}

/// The folder of a path; the outermost is "".
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The folders that lead to a path, from the deepest up to "".
pub fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(parent(path)), |folder| (!folder.is_empty()).then(|| parent(folder)))
}
