//! The block device below a folder, as sysfs shows it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the kernel says of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name, such as `nvme0n1`; `None` where the file system has no single device of its own, as over a
    /// network, or on several.
    pub name: Option<String>,
    /// `write back` or `write through`, as the kernel sees its cache.
    pub write_cache: Option<String>,
    /// It can make a single write durable by itself.
    pub fua: Option<bool>,
    /// The kernel's I/O scheduler for it.
    pub scheduler: Option<String>,
}

impl Device {
    /// The device that holds `dir`.
    #[must_use]
    pub fn below(dir: &Path) -> Self {
        let Some(path) = path_below(dir) else { return Self::default() };
        let says = |name: &str| fs::read_to_string(path.join("queue").join(name)).map(|text| text.trim().to_owned());
        let in_use = |all: String| all.split(['[', ']']).nth(1).map(str::to_owned);
        Self {
            name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
            write_cache: says("write_cache").ok(),
            fua: says("fua").ok().map(|fua| fua != "0"),
            scheduler: says("scheduler").ok().and_then(in_use),
        }
    }
}

/// Flush requests that the device below `dir` has completed since it was attached; `None` where nobody counts.
#[must_use]
pub fn flushes(dir: &Path) -> Option<u64> {
    // Field 16, since Linux 5.5.
    fs::read_to_string(path_below(dir)?.join("stat")).ok()?.split_whitespace().nth(15)?.parse().ok()
}

/// The device's folder in sysfs. A partition counts no flushes, nor does a device that is made of others: it
/// passes them on.
fn path_below(dir: &Path) -> Option<PathBuf> {
    let id = fs::metadata(dir).ok()?.dev();
    let mut path =
        fs::canonicalize(format!("/sys/dev/block/{}:{}", rustix::fs::major(id), rustix::fs::minor(id))).ok()?;
    loop {
        if path.join("partition").exists() {
            path.pop();
        }
        let parts = fs::read_dir(path.join("slaves")).into_iter().flatten();
        let parts: Vec<_> = parts.filter_map(|part| fs::canonicalize(part.ok()?.path()).ok()).collect();
        match <[PathBuf; 1]>::try_from(parts) {
            Ok([part]) => path = part,
            Err(parts) => return parts.is_empty().then_some(path),
        }
    }
}
