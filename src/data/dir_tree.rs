//! [`DirTree`]: the real folder of the data files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::data::format::MANIFEST;
use crate::data::tree::{NewFile, Tree};

/// CRC-32 of a file's bytes, and how many there are.
///
/// # Errors
/// As the file system says.
pub fn checksum(mut file: &File) -> io::Result<(u32, u64)> {
    let (mut sum, mut bytes) = (crc32fast::Hasher::new(), 0);
    let mut buf = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buf)?;
        if count == 0 {
            return Ok((sum.finalize(), bytes));
        }
        sum.update(&buf[..count]);
        bytes += count as u64;
    }
}

/// A folder, and those below it.
#[derive(Debug)]
pub struct DirTree {
    root: PathBuf,
}

impl DirTree {
    /// The tree below an existing folder.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn list_below(&self, dir: &Path, below: &str, found: &mut Vec<(String, u64)>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // A name that is no text is none of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() && path != MANIFEST {
                self.list_below(&entry.path(), &path, found)?;
            } else if kind.is_file() {
                match entry.metadata() {
                    Ok(metadata) => found.push((path, metadata.len())),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Syncs the folders below one, then that one.
    fn sync_below(&self, dir: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            // Somebody removes a folder meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound && dir != self.root => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            // The manifest syncs its own.
            if entry.file_type()?.is_dir() && entry.path() != self.root.join(MANIFEST) {
                self.sync_below(&entry.path())?;
            }
        }
        match File::open(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound && dir != self.root => Ok(()),
            other => other?.sync_all(),
        }
    }

    fn make_folder_of(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), fs::create_dir_all)
    }
}

impl Tree for DirTree {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        self.list_below(&self.root, "", &mut found)?;
        Ok(found)
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn NewFile>> {
        let path = self.root.join(path);
        self.make_folder_of(&path)?;
        Ok(Box::new(OnDisk(File::create(path)?)))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.root.join(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.root.join(to);
        self.make_folder_of(&to)?;
        fs::rename(self.root.join(from), to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_folders(&self, paths: &[String]) -> io::Result<()> {
        let mut folders = BTreeSet::new();
        for path in paths {
            let mut folder = Path::new(path).parent();
            while let Some(one) = folder {
                // Those above were taken in with it.
                if !folders.insert(one) {
                    break;
                }
                folder = one.parent();
            }
        }
        // From the deepest up: a folder's name comes after what is in it.
        for folder in folders.into_iter().rev() {
            match File::open(self.root.join(folder)) {
                Ok(folder) => folder.sync_all()?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync_all_folders(&self) -> io::Result<()> {
        self.sync_below(&self.root)
    }
}

struct OnDisk(File);

impl Write for OnDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for OnDisk {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
