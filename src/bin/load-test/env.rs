//! The machine that figures were taken on.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What figures depend on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Env {
    /// This program's version.
    pub version: &'static str,
    /// The commit that it was built from, where the build said so (`FOREBAY_COMMIT`).
    pub commit: Option<&'static str>,
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's name.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The type of the file system that holds the store.
    pub file_system: String,
    /// Its mount options.
    pub mount_options: String,
    /// The device or source that is mounted.
    pub device: String,
}

impl Env {
    /// Of this machine, for a store in `dir`, which must exist.
    pub fn of(dir: &Path) -> Self {
        let uname = rustix::system::uname();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.into());
        let (file_system, mount_options, device) = mount_of(&mounts, &real).unwrap_or_default();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let info = rustix::system::sysinfo();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("FOREBAY_COMMIT"),
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: model.map_or("unknown", |(_, name)| name).trim().into(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: info.totalram as u64 * u64::from(info.mem_unit),
            file_system,
            mount_options,
            device,
        }
    }
}

/// The most memory that this process has had, in bytes, files mapped into it included.
pub fn memory_peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Type, options and source of the innermost mount that holds the path, as `/proc/self/mountinfo` says.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String, String)> {
    let line = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let mut source = source.split(' ');
        let point = mount.get(4)?.replace("\\040", " ");
        let found = (source.next()?.into(), (*mount.get(5)?).into(), source.next()?.into());
        path.starts_with(&point).then_some((point.len(), found))
    };
    // The last of several mounts on one point is the one that is seen.
    mounts.lines().filter_map(line).max_by_key(|(length, _)| *length).map(|(_, found)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_named() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 22 0:25 / /my\\040data rw,noatime - xfs /dev/vdb rw\n\
                      31 22 0:26 / /my rw - tmpfs none rw\n";
        let found = |path| mount_of(mounts, Path::new(path)).map(|(kind, options, _)| (kind, options));
        assert_eq!(found("/my data/x"), Some(("xfs".into(), "rw,noatime".into())));
        assert_eq!(found("/my/x"), Some(("tmpfs".into(), "rw".into())));
        assert_eq!(found("/mystery"), Some(("ext4".into(), "rw,relatime".into())));
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_is_described() {
        let env = Env::of(Path::new("."));
        assert!(env.cores > 0 && env.memory_bytes > 0 && !env.kernel.is_empty() && !env.file_system.is_empty());
    }
}
