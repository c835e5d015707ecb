//! What a store is, and who has it open: the files IDENTITY and LOCK.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::Error;
use crate::io::clock::random_u64;
use crate::io::disk::is_no_space;
use crate::limits::{SEGMENT_BYTES, SHARDS_MAX};
use crate::report::repair_command;
use crate::types::StoreId;
use crate::wal::FORMAT_VERSION;

const LOCK: &str = "LOCK";
/// Its file.
pub const NAME: &str = "IDENTITY";
const TEMPORARY: &str = "IDENTITY.tmp";
/// An IDENTITY is a few hundred bytes; a longer file is none.
const BYTES_MAX: u64 = 64 << 10;

/// How often, and after which nap, a lock that is held is tried again.
const LOCK_TRIES: u32 = 10;
const LOCK_NAP: std::time::Duration = std::time::Duration::from_millis(20);

/// IDENTITY as it stands in its file.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    identity: Identity,
    /// CRC-32 of the rest; there since it was first written so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<u32>,
}

/// What was decided when the store was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the formats.
    pub format: u16,
    /// The store's id, 32 hexadecimal digits.
    pub store: String,
    /// Shards.
    pub shards: usize,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

/// What is wrong with the text of an IDENTITY.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is not what was written.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// It is of a version that this program does not know.
    #[error("says that the store has format {0}; this program knows {FORMAT_VERSION}")]
    Format(u16),
}

impl Identity {
    /// The identity of the store in `config`'s folder; a new one is made where there is no store.
    ///
    /// # Errors
    /// A damaged or later IDENTITY, or an option that contradicts it.
    pub fn open(config: &mut Config) -> Result<(Self, bool), Error> {
        match Self::read(&config.dir)? {
            Some(identity) => {
                identity.check(config)?;
                Ok((identity, false))
            }
            // Its shards would be taken for another store's.
            None if config.dir.join("shard-0000").exists() => Err(Error::Config(format!(
                "{} is missing, though its shards are there. Restore it from a backup, or have it made from them: {}",
                config.dir.join(NAME).display(),
                repair_command(Some(&config.dir), None)
            ))),
            None => Ok((Self::make(config)?, true)),
        }
    }

    /// The identity of the store in this folder, if there is one.
    ///
    /// # Errors
    /// A damaged or later IDENTITY.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(NAME);
        let context = || format!("reading {}", path.display());
        match File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(Error::io(context()))?;
                Self::parse(&String::from_utf8_lossy(&bytes)).map(Some).map_err(|wrong| {
                    let cure = match wrong {
                        Wrong::Format(_) => String::new(),
                        Wrong::Damaged(_) => format!(
                            ". Restore it from a backup, or have it made from the shards: {}",
                            repair_command(Some(dir), None)
                        ),
                    };
                    Error::Config(format!("{} {wrong}{cure}", path.display()))
                })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(context())(error)),
        }
    }

    /// The identity in the text of an IDENTITY.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let read = serde_json::from_str(text).map_err(|error| Wrong::Damaged(error.to_string()));
        let Written { identity, check } = read?;
        let Self { format, store, shards, segment_bytes } = &identity;
        if *format != FORMAT_VERSION {
            return Err(Wrong::Format(*format));
        }
        if check.is_some_and(|check| check != identity.check_sum()) {
            return Err(Wrong::Damaged("its check does not hold".to_owned()));
        }
        if store.len() != 32 || !store.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let store = store.chars().take(40).collect::<String>();
            return Err(Wrong::Damaged(format!("it names the store '{store}', which is no id")));
        }
        if !(1..=SHARDS_MAX).contains(shards) {
            return Err(Wrong::Damaged(format!("it names {shards} shards; a store has 1 to {SHARDS_MAX}")));
        }
        if !SEGMENT_BYTES.contains(segment_bytes) {
            return Err(Wrong::Damaged(format!("it names segments of {segment_bytes} bytes, which no store has")));
        }
        Ok(identity)
    }

    /// Puts it in place in this folder, durably.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let written = Written { identity: self.clone(), check: Some(self.check_sum()) };
        let text = serde_json::to_string_pretty(&written).expect("plain fields");
        replace_file(dir, TEMPORARY, NAME, text.as_bytes())
    }

    fn check_sum(&self) -> u32 {
        crc32fast::hash(serde_json::to_string(self).expect("plain fields").as_bytes())
    }

    /// The store's id.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.store.parse().unwrap_or_default()
    }

    fn check(&self, config: &mut Config) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Config(text));
        if config.shards.is_some_and(|shards| shards != self.shards) {
            return fail(format!(
                "shards = {}, but this store was made with {}; leave the option out",
                config.shards_wanted(),
                self.shards
            ));
        }
        let default = Config::new("").segment_bytes;
        if config.segment_bytes != self.segment_bytes && config.segment_bytes != default {
            return fail(format!(
                "segment_bytes = {}, but this store was made with {}; leave the option out",
                config.segment_bytes, self.segment_bytes
            ));
        }
        config.shards = Some(self.shards);
        config.segment_bytes = self.segment_bytes;
        config.check()
    }

    fn make(config: &Config) -> Result<Self, Error> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random_u64().to_le_bytes());
        id[8..].copy_from_slice(&random_u64().to_le_bytes());
        // RFC 4122: version 4, variant 1.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        let identity = Self {
            format: FORMAT_VERSION,
            store: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            shards: config.shards_wanted(),
            segment_bytes: config.segment_bytes,
        };
        identity.write(&config.dir)?;
        Ok(identity)
    }
}

/// Puts a small file in place, atomically and durably. Where it fails the old one stays.
///
/// # Errors
/// As the file system says.
pub fn replace_file(dir: &Path, temporary: &str, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let write = || {
        let mut file = File::create(dir.join(temporary))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(dir.join(temporary), dir.join(name))?;
        File::open(dir)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to report; on a full disk this gives back what there is.
        let _ = fs::remove_file(dir.join(temporary));
    }
    written.map_err(Error::io(format!("writing {}", dir.join(name).display())))
}

/// The lock on a store, held as long as this lives.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

/// What a reader found of a store's lock.
#[derive(Debug)]
pub enum SharedLock {
    /// No engine has the store open, nor can one as long as this lives.
    Held(StoreLock),
    /// There is no lock: a copy of a store.
    None,
    /// An engine has it open: its process, as far as it is known.
    InUse(String),
}

impl StoreLock {
    /// Takes the lock and leaves this process's id in the file.
    ///
    /// # Errors
    /// [`Error::InUse`] with the holder's id, as far as it is known.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(LOCK);
        let context = || format!("locking {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let file = options.open(&path).map_err(Error::io(context()))?;
        if !lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(Error::io(context()))? {
            return Err(Error::InUse { dir: dir.to_owned(), holder: holder(file) });
        }
        let note = || {
            let id = std::process::id().to_string();
            file.write_all_at(id.as_bytes(), 0)?;
            file.set_len(id.len() as u64)
        };
        match note() {
            // It only helps those who ask for the lock.
            Err(error) if is_no_space(&error) => {}
            other => other.map_err(Error::io(context()))?,
        }
        Ok(Self { _file: file })
    }
}

impl SharedLock {
    /// Takes the lock together with other readers; changes no byte.
    ///
    /// # Errors
    /// As the file system says.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(LOCK);
        let context = || format!("locking {}", path.display());
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::None),
            other => other.map_err(Error::io(context()))?,
        };
        match lock(&file, FlockOperation::NonBlockingLockShared).map_err(Error::io(context()))? {
            true => Ok(Self::Held(StoreLock { _file: file })),
            false => Ok(Self::InUse(holder(file))),
        }
    }
}

/// Whether the lock was to be had. A process that is just being started by this one holds a copy of
/// every descriptor until its exec, so that a store closed a moment ago may seem to be in use.
fn lock(file: &File, how: FlockOperation) -> std::io::Result<bool> {
    for tries in 0..=LOCK_TRIES {
        match flock(file, how) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if tries < LOCK_TRIES => std::thread::sleep(LOCK_NAP),
            Err(rustix::io::Errno::WOULDBLOCK) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Who holds the lock, as far as it is known. A reader leaves no note: then it is that of a process
/// that was there before.
fn holder(file: File) -> String {
    let mut note = String::new();
    let pid = file.take(32).read_to_string(&mut note).ok().and_then(|_| note.trim().parse::<u32>().ok());
    match pid.filter(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
        Some(pid) => format!("pid {pid}"),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: u16, store: &str, shards: usize, segment_bytes: u64) -> String {
        let store = store.to_owned();
        serde_json::to_string(&Identity { format, store, shards, segment_bytes }).expect("plain fields")
    }

    #[test]
    fn an_identity_that_cannot_be_used_says_what_is_wrong() {
        let id = "0123456789ABcdef0123456789abcdef";
        let sound = Identity::parse(&text(1, id, 2, 64 << 20)).expect("a sound one");
        assert_eq!(sound.store().to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        for (bad, says) in [
            (text(2, id, 2, 64 << 20), "says that the store has format 2; this program knows 1"),
            (text(1, "0123", 2, 64 << 20), "names the store '0123'"),
            (text(1, &"\u{e9}".repeat(16), 2, 64 << 20), "which is no id"),
            (text(1, id, 0, 64 << 20), "names 0 shards"),
            (text(1, id, 257, 64 << 20), "names 257 shards"),
            (text(1, id, 2, u64::MAX), "names segments of 18446744073709551615 bytes"),
            ("{".to_owned(), "is damaged: "),
        ] {
            let error = Identity::parse(&bad).expect_err(&bad).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
