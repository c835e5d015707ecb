//! What a store is, and who has it open: the files IDENTITY and LOCK.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::Error;
use crate::io::clock::random_u64;
use crate::limits::{SEGMENT_BYTES, SHARDS_MAX};
use crate::types::StoreId;
use crate::wal::FORMAT_VERSION;

const NAME: &str = "IDENTITY";
const TEMPORARY: &str = "IDENTITY.tmp";
/// An IDENTITY is a few hundred bytes; a longer file is none.
const BYTES_MAX: u64 = 64 << 10;

/// How often, and after which nap, a lock that is held is tried again.
const LOCK_TRIES: u32 = 10;
const LOCK_NAP: std::time::Duration = std::time::Duration::from_millis(20);

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
                let mut text = String::new();
                file.take(BYTES_MAX).read_to_string(&mut text).map_err(Error::io(context()))?;
                let identity =
                    Self::parse(&text).map_err(|what| Error::Config(format!("{} {what}", path.display())))?;
                Ok(Some(identity))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(context())(error)),
        }
    }

    /// The identity in the text of an IDENTITY.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind the file's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let damaged = |what: String| format!("is damaged: {what}. Restore it from a backup");
        let identity: Self = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        let Self { format, store, shards, segment_bytes } = &identity;
        if *format != FORMAT_VERSION {
            return Err(format!("says that the store has format {format}; this program knows {FORMAT_VERSION}"));
        }
        if store.len() != 32 || !store.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let store = store.chars().take(40).collect::<String>();
            return Err(damaged(format!("it names the store '{store}', which is no id")));
        }
        if !(1..=SHARDS_MAX).contains(shards) {
            return Err(damaged(format!("it names {shards} shards; a store has 1 to {SHARDS_MAX}")));
        }
        if !SEGMENT_BYTES.contains(segment_bytes) {
            return Err(damaged(format!("it names segments of {segment_bytes} bytes, which no store has")));
        }
        Ok(identity)
    }

    /// The store's id.
    #[must_use]
    pub fn store(&self) -> StoreId {
        let digits = |at: usize| u8::from_str_radix(&self.store[2 * at..2 * at + 2], 16).unwrap_or(0);
        StoreId(std::array::from_fn(digits))
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
        let text = serde_json::to_string_pretty(&identity).expect("plain fields");
        replace_file(&config.dir, TEMPORARY, NAME, text.as_bytes())?;
        Ok(identity)
    }
}

/// Puts a small file in place, atomically and durably.
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
    write().map_err(Error::io(format!("writing {}", dir.join(name).display())))
}

/// The lock on a store, held as long as this lives.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Takes the lock and leaves this process's id in the file.
    ///
    /// # Errors
    /// [`Error::InUse`] with the holder's id, as far as it is known.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("LOCK");
        let context = || format!("locking {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut file = options.open(&path).map_err(Error::io(context()))?;
        // A process that is just being started by this one holds a copy of every descriptor until its
        // exec, so that a store closed a moment ago may seem to be in use.
        let mut locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        for _ in 0..LOCK_TRIES {
            if locked != Err(rustix::io::Errno::WOULDBLOCK) {
                break;
            }
            std::thread::sleep(LOCK_NAP);
            locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        match locked {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                let mut holder = String::new();
                let known = file.take(32).read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let holder = if known { format!("pid {}", holder.trim()) } else { "another process".to_owned() };
                return Err(Error::InUse { dir: dir.to_owned(), holder });
            }
            Err(error) => return Err(Error::io(context())(error.into())),
        }
        let mut note = || {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())
        };
        note().map_err(Error::io(context()))?;
        Ok(Self { _file: file })
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
            let error = Identity::parse(&bad).expect_err(&bad);
            assert!(error.contains(says), "{error}");
        }
    }
}
