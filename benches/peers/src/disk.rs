//! The disk below the folder: syncing what a peer cannot sync itself, and counting flushes.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

/// Syncs every file below `dir`, and its folders: what a peer that has no call for it would do at the end.
///
/// # Errors
/// As the file system says.
pub fn sync_files(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_files(&path)?;
        } else {
            File::open(&path)?.sync_data().with_context(|| format!("fdatasync of {}", path.display()))?;
        }
    }
    File::open(dir)?.sync_all().context("fsync of a folder")
}

/// Writes out all that the file system holds, so that no run pays for what came before it.
///
/// # Errors
/// As the file system says.
pub fn settle(dir: &Path) -> Result<()> {
    rustix::fs::syncfs(File::open(dir)?).context("syncfs")
}

/// Flushes that the disk below `dir` has done since it was there; of all processes together. `None` where
/// the kernel does not count them.
pub fn flushes(dir: &Path) -> Option<u64> {
    let device = rustix::fs::stat(dir).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // The 16th field: Documentation/block/stat.rst of the kernel.
    stat.split_whitespace().nth(15)?.parse().ok()
}
