//! The simulated folder of the data files: [`Tree`] on the machine of a [`Medium`](crate::io::medium::Medium),
//! whose kills, power cuts and armed faults count here too: one process dies as a whole.
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::data::tree::{NewFile, Tree};
use crate::io::chance::Chance;
use crate::io::medium::{Fate, Medium, dead};
use crate::io::sim::SharedMedium;

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

#[derive(Debug)]
struct State {
    chance: Chance,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
    durable_folders: BTreeSet<String>,
    ops: Vec<NameOp>,
    /// Ends of processes that were taken in.
    ends: usize,
}

/// The folder on the device, in several hands.
#[derive(Clone, Debug)]
pub struct SharedTree {
    medium: SharedMedium,
    state: Arc<Mutex<State>>,
}

/// The folder as one process has it.
#[derive(Clone, Debug)]
pub struct SimTree {
    shared: SharedTree,
    process: u64,
}

impl SharedTree {
    /// An empty folder on this machine.
    #[must_use]
    pub fn new(medium: SharedMedium, chance: Chance) -> Self {
        let state = State {
            chance,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            folders: BTreeSet::new(),
            durable_folders: BTreeSet::new(),
            ops: Vec::new(),
            ends: 0,
        };
        Self { medium, state: Arc::new(Mutex::new(state)) }
    }

    /// The folder, as the process that runs now has it.
    #[must_use]
    pub fn tree(&self) -> SimTree {
        SimTree { shared: self.clone(), process: self.medium.lock().process() }
    }

    /// What a reader finds in a file.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state(&self.medium.lock());
        state.names.get(path).map(|&file| state.files[file].bytes.clone())
    }

    /// All files, as a reader finds them.
    #[must_use]
    pub fn paths(&self) -> BTreeSet<String> {
        self.state(&self.medium.lock()).names.keys().cloned().collect()
    }

    /// Somebody removes a file by hand, and syncs nothing.
    pub fn remove_by_hand(&self, path: &str) {
        self.state(&self.medium.lock()).remove(path);
    }

    /// Somebody cuts a file short by hand; that is durable.
    pub fn shorten_by_hand(&self, path: &str, len: usize) {
        let mut state = self.state(&self.medium.lock());
        if let Some(&file) = state.names.get(path) {
            let content = &mut state.files[file];
            content.bytes.truncate(len);
            content.durable.clone_from(&content.bytes);
        }
    }

    /// The state, after the ends that processes came to meanwhile.
    fn state(&self, medium: &Medium) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(end) = medium.ends().get(state.ends) {
            state.ends += 1;
            if let Some(fate) = end {
                state.cut_power(*fate);
            }
        }
        state
    }
}

impl State {
    fn make_folders(&mut self, path: &str) {
        let mut missing = above(path).filter(|folder| !folder.is_empty() && !self.folders.contains(*folder));
        let mut missing: Vec<String> = missing.by_ref().map(str::to_owned).collect();
        missing.reverse();
        for folder in missing {
            self.folders.insert(folder.clone());
            let above = vec![(parent(&folder).to_owned(), false)];
            self.ops.push(NameOp { file: None, name: Some(folder), folders: above });
        }
    }

    fn create(&mut self, path: &str) -> usize {
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

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.make_folders(to);
        self.names.insert(to.to_owned(), file);
        let folders = vec![(parent(from).to_owned(), false), (parent(to).to_owned(), false)];
        self.ops.push(NameOp { file: Some(file), name: Some(to.to_owned()), folders });
        Ok(())
    }

    fn remove(&mut self, path: &str) {
        if let Some(file) = self.names.remove(path) {
            let folders = vec![(parent(path).to_owned(), false)];
            self.ops.push(NameOp { file: Some(file), name: None, folders });
        }
    }

    fn sync_folder(&mut self, folder: &str) {
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
    fn spoil(&mut self, file: usize) {
        let content = &mut self.files[file];
        content.durable = torn(&mut self.chance, content, Fate::Units);
        content.dirty = false;
    }

    fn cut_power(&mut self, fate: Fate) {
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
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The folders that lead to a path, from the deepest up to "".
fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(parent(path)), |folder| (!folder.is_empty()).then(|| parent(folder)))
}

impl SimTree {
    /// Does `change`, unless the process dies first or the operation fails; either may come right
    /// behind it.
    fn change<T>(
        &self,
        what: impl FnOnce() -> String,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut medium = self.shared.medium.lock();
        let goes_on = medium.enter_change(self.process)?;
        medium.note(what);
        let fails = goes_on && medium.write_fails();
        let happens = (goes_on && !fails) || medium.coin();
        let mut state = self.shared.state(&medium);
        let done = if happens { change(&mut state) } else { Err(dead()) };
        match (goes_on, fails) {
            (true, false) => done,
            (true, true) => Err(io::Error::from_raw_os_error(5)),
            (false, _) => Err(dead()),
        }
    }

    fn is_full(&self) -> bool {
        self.shared.medium.lock().faults.full
    }
}

impl Tree for SimTree {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut medium = self.shared.medium.lock();
        medium.enter(self.process)?;
        let state = self.shared.state(&medium);
        Ok(state.names.iter().map(|(path, &file)| (path.clone(), state.files[file].bytes.len() as u64)).collect())
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn NewFile>> {
        if self.is_full() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.change(|| format!("create {path}"), |state| Ok(state.create(path)))?;
        Ok(Box::new(SimFile { tree: self.clone(), file, path: path.to_owned() }))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        let full = self.is_full();
        self.change(
            || format!("make folder {path}"),
            |state| {
                if full && !state.folders.contains(path) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.make_folders(&format!("{path}/"));
                Ok(())
            },
        )?;
        self.sync_folders(&[path.to_owned()])
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let full = self.is_full();
        self.change(
            || format!("rename {from} {to}"),
            |state| {
                if full && !state.folders.contains(parent(to)) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.rename(from, to)
            },
        )
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let remove = |state: &mut State| {
            state.remove(path);
            Ok(())
        };
        self.change(|| format!("remove {path}"), remove)
    }

    fn sync_folders(&self, paths: &[String]) -> io::Result<()> {
        let folders: BTreeSet<&str> = paths.iter().flat_map(|path| above(path)).collect();
        // From the deepest up, each a step of its own.
        for folder in folders.into_iter().rev() {
            self.sync_step(|| format!("sync folder '{folder}'"), |state| state.sync_folder(folder), |_| {})?;
        }
        Ok(())
    }
}

impl SimTree {
    fn sync_step(
        &self,
        what: impl FnOnce() -> String,
        sync: impl FnOnce(&mut State),
        fail: impl FnOnce(&mut State),
    ) -> io::Result<()> {
        let mut medium = self.shared.medium.lock();
        let goes_on = medium.enter_change(self.process)?;
        medium.note(what);
        let fails = goes_on && medium.sync_fails();
        let happens = !fails && (goes_on || medium.coin());
        let mut state = self.shared.state(&medium);
        if happens {
            sync(&mut state);
        } else if fails {
            fail(&mut state);
            return Err(io::Error::from_raw_os_error(5));
        }
        if goes_on { Ok(()) } else { Err(dead()) }
    }
}

#[derive(Debug)]
struct SimFile {
    tree: SimTree,
    file: usize,
    path: String,
}

impl io::Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tree.is_full() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.file;
        self.tree.change(
            || format!("write {} bytes to {}", bytes.len(), self.path),
            |state| {
                // A caller must expect less than it asked for.
                let count = if bytes.len() > 1 && state.chance.percent(20) { bytes.len() / 2 } else { bytes.len() };
                state.files[file].bytes.extend_from_slice(&bytes[..count]);
                state.files[file].dirty = true;
                Ok(count)
            },
        )
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        let file = self.file;
        let sync = |state: &mut State| {
            let content = &mut state.files[file];
            if content.dirty {
                content.durable.clone_from(&content.bytes);
                content.dirty = false;
            }
        };
        self.tree.sync_step(|| format!("sync {}", self.path), sync, |state| state.spoil(file))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn machine(seed: u64) -> (SharedMedium, SharedTree) {
        let medium = SharedMedium::new(Medium::new(Chance::new(seed), 512));
        (medium.clone(), SharedTree::new(medium, Chance::new(seed)))
    }

    /// A file of 200 bytes, synced, whose name is durable.
    fn with_file(shared: &SharedTree, path: &str) {
        let tree = shared.tree();
        let mut file = tree.create(path).expect("created");
        file.write_all(&[7; 200]).expect("written");
        file.sync().expect("synced");
        tree.sync_folders(&[path.to_owned()]).expect("synced");
    }

    #[test]
    fn names_are_durable_with_their_folder_and_those_above() {
        let (medium, shared) = machine(1);
        let mut file = shared.tree().create("a/b/c").expect("created");
        file.write_all(&[1; 100]).expect("written");
        file.sync().expect("synced");
        medium.lock().cut_power(Fate::Lost);
        assert!(shared.paths().is_empty());
        with_file(&shared, "a/b/c");
        medium.lock().cut_power(Fate::Lost);
        assert_eq!(shared.read("a/b/c"), Some(vec![7; 200]));
        shared.tree().remove("a/b/c").expect("removed");
        medium.lock().kill();
        assert!(shared.paths().is_empty());
        medium.lock().cut_power(Fate::Lost);
        assert_eq!(shared.paths().len(), 1);
    }

    #[test]
    fn a_rename_shows_the_old_name_or_the_new_one_until_both_folders_are_synced() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            for synced in [None, Some("x/f"), Some("y/g")] {
                let (medium, shared) = machine(seed);
                with_file(&shared, "x/f");
                let tree = shared.tree();
                tree.rename("x/f", "y/g").expect("renamed");
                for path in synced {
                    tree.sync_folders(&[path.to_owned()]).expect("synced");
                }
                medium.lock().cut_power(Fate::Units);
                let paths = shared.paths();
                assert_eq!(paths.len(), 1, "never both, never neither");
                seen.insert((synced, paths.first().cloned()));
                assert_eq!(shared.read(paths.first().expect("one")), Some(vec![7; 200]));
            }
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
        let (medium, shared) = machine(1);
        with_file(&shared, "x/f");
        shared.tree().rename("x/f", "y/g").expect("renamed");
        shared.tree().sync_folders(&["x/f".to_owned(), "y/g".to_owned()]).expect("synced");
        medium.lock().cut_power(Fate::Lost);
        assert_eq!(shared.paths().first().map(String::as_str), Some("y/g"));
    }

    #[test]
    fn what_was_not_synced_may_be_short_or_torn_and_a_failed_sync_is_not_made_up_for() {
        let mut lengths = BTreeSet::new();
        let mut torn = 0;
        for seed in 0..100 {
            let (medium, shared) = machine(seed);
            with_file(&shared, "f");
            let mut file = shared.tree().create("f").expect("emptied");
            file.write_all(&[9; 300]).expect("written");
            if seed % 2 == 0 {
                medium.lock().faults.sync_error = Some(0);
                file.sync().expect_err("a failed sync");
                file.sync().expect("a sync that has nothing to do");
                assert_eq!(shared.read("f"), Some(vec![9; 300]), "the cache has it");
            }
            medium.lock().cut_power(if seed % 2 == 0 { Fate::Kept } else { Fate::Units });
            let left = shared.read("f").expect("its name is durable");
            lengths.insert(left.len());
            torn += u64::from(left.contains(&7) || left.contains(&0));
        }
        assert!(lengths.len() > 20 && torn > 50, "{lengths:?} {torn}");
    }

    #[test]
    fn a_process_dies_as_a_whole() {
        let (medium, shared) = machine(3);
        let tree = shared.tree();
        medium.lock().faults.last_call = Some(1);
        tree.create("f").expect("the call before the last");
        tree.remove("f").expect_err("the last");
        assert!(medium.lock().is_crashed());
        tree.list().expect_err("dead");
        crate::io::disk::Folder::list(&medium.folder()).expect_err("dead");
        medium.lock().kill();
        shared.tree().list().expect("another process");
        tree.list().expect_err("still dead");
    }
}
