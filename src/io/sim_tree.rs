//! The simulated folder of the data files: [`Tree`] on the machine of a [`Medium`],
//! whose kills, power cuts and armed faults count here too: one process dies as a whole. What is durable
//! when, `io/tree_state.rs` says.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::data::tree::{NewFile, Tree};
use crate::io::chance::Chance;
use crate::io::medium::{Medium, dead};
use crate::io::sim::SharedMedium;
use crate::io::tree_state::{State, above, parent};

/// The folder on the device, in several hands.
#[derive(Clone, Debug)]
pub struct SharedTree {
    medium: SharedMedium,
    state: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    tree: State,
    /// Ends of processes that the tree has heard of.
    ends: usize,
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
        Self { medium, state: Arc::new(Mutex::new(Shared { tree: State::new(chance), ends: 0 })) }
    }

    /// The folder, as the process that runs now has it.
    #[must_use]
    pub fn tree(&self) -> SimTree {
        SimTree { shared: self.clone(), process: self.medium.lock().process() }
    }

    /// What a reader finds in a file.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.state(&self.medium.lock()).tree.read(path).map(<[u8]>::to_vec)
    }

    /// All files, as a reader finds them.
    #[must_use]
    pub fn paths(&self) -> BTreeSet<String> {
        self.state(&self.medium.lock()).tree.list().map(|(path, _)| path.clone()).collect()
    }

    /// Somebody removes a file by hand, and syncs nothing.
    pub fn remove_by_hand(&self, path: &str) {
        self.state(&self.medium.lock()).tree.remove(path);
    }

    /// Somebody cuts a file short by hand; that is durable.
    pub fn shorten_by_hand(&self, path: &str, len: usize) {
        self.state(&self.medium.lock()).tree.shorten(path, len);
    }

    /// The state, after the ends that processes came to meanwhile.
    fn state(&self, medium: &Medium) -> MutexGuard<'_, Shared> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(end) = medium.ends().get(state.ends) {
            state.ends += 1;
            if let Some(fate) = end {
                state.tree.cut_power(*fate);
            }
        }
        state
    }
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
        let done = if happens { change(&mut state.tree) } else { Err(dead()) };
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
        Ok(state.tree.list().map(|(path, bytes)| (path.clone(), bytes as u64)).collect())
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
                if full && !state.has_folder(path) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.make_folders(&format!("{path}/"));
                Ok(())
            },
        )
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let full = self.is_full();
        self.change(
            || format!("rename {from} {to}"),
            |state| {
                if full && !state.has_folder(parent(to)) {
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

    fn sync_all_folders(&self) -> io::Result<()> {
        let all = {
            let medium = self.shared.medium.lock();
            let state = self.shared.state(&medium);
            state.tree.folders().chain([""]).map(|folder| format!("{folder}/.")).collect::<Vec<_>>()
        };
        self.sync_folders(&all)
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
            sync(&mut state.tree);
        } else if fails {
            fail(&mut state.tree);
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
        self.tree
            .change(|| format!("write {} bytes to {}", bytes.len(), self.path), |state| Ok(state.write(file, bytes)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        let file = self.file;
        let sync = |state: &mut State| state.sync(file);
        self.tree.sync_step(|| format!("sync {}", self.path), sync, |state| state.spoil(file))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::io::medium::Fate;

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
                if let Some(path) = synced {
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
