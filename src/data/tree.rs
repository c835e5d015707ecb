//! What data files need of a file system: the trait [`Tree`].

use std::io;

/// The folder of the data files and all folders below it, but not the manifest.
///
/// Paths are relative, with `/` between names. A created, renamed or removed name, of a file or a folder,
/// is durable only after [`sync_folders`](Tree::sync_folders) of its path; written bytes only after
/// [`NewFile::sync`].
pub trait Tree: Send + Sync {
    /// The paths of all files, with their lengths in bytes, in any order.
    ///
    /// # Errors
    /// As the file system says.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// A new file, empty; one of that path that is there already is emptied. Its folder is made.
    ///
    /// # Errors
    /// As the file system says.
    fn create(&self, path: &str) -> io::Result<Box<dyn NewFile>>;

    /// Makes a folder and those that lead to it, unless they are there.
    ///
    /// # Errors
    /// As the file system says.
    fn make_folder(&self, path: &str) -> io::Result<()>;

    /// Renames a file; the folders of the new path are made.
    ///
    /// # Errors
    /// As the file system says; `NotFound` where it is not there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. One that is not there is removed already.
    ///
    /// # Errors
    /// As the file system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes durable what was created, renamed or removed at these paths, and the folders that lead
    /// to them.
    ///
    /// # Errors
    /// As the device says.
    fn sync_folders(&self, paths: &[String]) -> io::Result<()>;

    /// Makes durable whatever was created, renamed or removed, by whomever.
    ///
    /// # Errors
    /// As the device says.
    fn sync_all_folders(&self) -> io::Result<()>;
}

/// A file that is being written.
pub trait NewFile: io::Write + Send {
    /// fdatasync.
    ///
    /// # Errors
    /// As the device says; the file must then be written anew.
    fn sync(&mut self) -> io::Result<()>;
}
