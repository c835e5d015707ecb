//! [`StoreView`]: a store as its files stand, read and judged as an opening would do it.
//!
//! Promises: no byte, name or time of modification changes, and a file system that is mounted
//! read-only will do. One shard is held in memory at a time. What is read of a store that an engine
//! has open is of a moment, and says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{IntakeRule, OnDamage};
use crate::data::catalog::Catalog;
use crate::data::format::{DATA, MANIFEST};
use crate::data::manifest::{ManifestSetup, SEGMENT_BYTES, found_in, shard_setup};
use crate::engine::identity::{Identity, SharedLock, StoreLock};
use crate::engine::open::{boot_id, read_ring};
use crate::error::Error;
use crate::inspect::identity::identity_of;
use crate::io::disk::{Folder, read_around};
use crate::io::folder::{Locks, ReadOnly};
use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::recover::{Examined, Intake, OpenError, ShardSetup, examine};
use crate::types::{Nonce, Position, SegmentNo, Seq, ShardId};
use crate::wal::intake::{RingHeader, SLOTS_AT};
use crate::wal::log::LogBounds;
use crate::wal::segment::{FileName, SegmentHeader, parse_name};

/// How often, and after which nap, a log that changes meanwhile is read again.
const TRIES: u32 = 20;
const NAP: Duration = Duration::from_millis(25);

/// Where a store is, and by what its rings are judged.
#[derive(Clone, Debug)]
pub struct Where {
    /// The store's folder.
    pub dir: PathBuf,
    /// The folder of the intake rings, if the engine was told to keep them elsewhere.
    pub intake_dir: Option<PathBuf>,
    /// By what the rings are judged.
    pub intake_rule: IntakeRule,
}

/// Whether others may change the store meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They may: what is read is of a moment.
    OfAMoment,
    /// No engine has it open, nor can one as long as the view lives; other readers can.
    Alone,
}

/// A store.
#[derive(Debug)]
pub struct StoreView {
    /// Where it is.
    pub at: Where,
    /// What it is.
    pub identity: Identity,
    /// What is wrong with its IDENTITY, where that had to be made from the segments' headers.
    pub identity_wrong: Option<String>,
    /// The engine that has it open, as far as it is known.
    pub in_use: Option<String>,
    /// The manifest of its data files, if it has one.
    pub manifest: Option<ManifestView>,
    boot: [u8; 16],
    access: Access,
    _lock: Option<StoreLock>,
}

/// The log of a shard or of the manifest.
#[derive(Debug)]
pub struct LogView {
    /// Its folder.
    pub folder: ReadOnly,
    /// The files in it.
    pub files: Vec<FileView>,
    /// What an opening with salvage would do, or why it could not.
    pub examined: Result<Examined, String>,
}

/// What a file of a log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds a part of the log.
    Log,
    /// In the middle of the log, and damaged all through.
    Damaged,
    /// Prepared, and not yet reached by the log.
    Ready,
    /// It holds nothing of the log any more.
    Leftover,
    /// Waits to become a segment.
    Spare,
    /// The rest of an interrupted fill.
    Unfinished,
    /// No file of a log.
    Other,
}

/// A file in a log's folder.
#[derive(Clone, Debug)]
pub struct FileView {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The segment that its name stands for.
    pub segment: Option<SegmentNo>,
    /// The two copies of its header, where they are whole and of this segment.
    pub copies: [Option<SegmentHeader>; 2],
    /// What it is for.
    pub role: Role,
}

/// A shard.
#[derive(Debug)]
pub struct ShardView {
    /// Its number.
    pub shard: ShardId,
    /// Its log.
    pub log: LogView,
    /// Its ring.
    pub ring: RingView,
    /// How far the data files hold it.
    pub progress: Option<Position>,
}

/// A shard's intake ring.
#[derive(Clone, Debug)]
pub struct RingView {
    /// Its file.
    pub path: PathBuf,
    /// The file's length in bytes; `None` where it is missing.
    pub bytes: Option<u64>,
    /// The two copies of its header, where they are whole.
    pub copies: [Option<RingHeader>; 2],
}

/// The manifest of the data files.
#[derive(Debug)]
pub struct ManifestView {
    /// Its log.
    pub log: LogView,
    /// What its records add up to, or why they do not.
    pub catalog: Result<Catalog, String>,
}

impl StoreView {
    /// Reads what a store is, and its manifest.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no store, [`Error::Io`]; with [`Access::Alone`] also
    /// [`Error::InUse`].
    pub fn read(at: &Where, access: Access) -> Result<Self, Error> {
        let (identity, identity_wrong) = identity_of(&at.dir)?;
        let lock = SharedLock::take(&at.dir)?;
        let (lock, in_use) = match (lock, access) {
            (SharedLock::InUse(holder), Access::Alone) => {
                return Err(Error::InUse { dir: at.dir.clone(), holder });
            }
            (SharedLock::InUse(holder), Access::OfAMoment) => (None, Some(holder)),
            (SharedLock::Held(lock), Access::Alone) => (Some(lock), None),
            (SharedLock::Held(_) | SharedLock::None, _) => (None, None),
        };
        let (at, boot) = (at.clone(), boot_id()?);
        let mut this = Self { at, identity, identity_wrong, in_use, manifest: None, boot, access, _lock: lock };
        this.manifest = this.read_manifest()?;
        Ok(this)
    }

    /// Reads a shard.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Io`].
    pub fn shard(&self, shard: ShardId) -> Result<ShardView, Error> {
        let name = format!("shard-{:04}", shard.0);
        let folder = self.at.dir.join(&name);
        let path = self.at.intake_dir.as_ref().map_or(folder.clone(), |other| other.join(&name)).join("intake.ring");
        let image = read_ring(&path)?;
        let ring = RingView {
            bytes: image.as_ref().map(|image| image.len() as u64),
            copies: [0, SLOTS_AT / 2].map(|at| RingHeader::decode(image.as_ref()?.get(at..)?)),
            path,
        };
        let catalog = self.manifest.as_ref().and_then(|manifest| manifest.catalog.as_ref().ok());
        let progress = catalog.and_then(|catalog| catalog.progress.get(&shard).copied());
        let setup = ShardSetup {
            store: self.identity.store(),
            shard,
            boot: self.boot,
            segment_bytes: self.identity.segment_bytes,
            bounds: LogBounds { segments_max: u64::MAX, reserve: 0 },
            batch_bytes_max: PAGE_BYTES,
            on_damage: OnDamage::Salvage,
            flushed: progress.map_or(Seq(0), |at| at.seq),
            intake: match self.at.intake_rule {
                IntakeRule::ByBoot => Intake::Ring,
                IntakeRule::AsPowerCut => Intake::RingAfterPowerCut,
            },
        };
        Ok(ShardView { shard, log: self.log(&folder, &setup, image.as_deref())?, ring, progress })
    }

    /// All shards' numbers.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.identity.shards).map(|shard| ShardId(shard as u16))
    }

    /// The ring was last opened since the kernel booted.
    #[must_use]
    pub fn is_of_this_boot(&self, header: &RingHeader) -> bool {
        header.boot == self.boot
    }

    fn read_manifest(&self) -> Result<Option<ManifestView>, Error> {
        let dir = self.at.dir.join(DATA).join(MANIFEST);
        if !dir.is_dir() {
            return Ok(None);
        }
        let setup = shard_setup(&ManifestSetup {
            store: self.identity.store(),
            boot: self.boot,
            on_damage: OnDamage::Salvage,
            nonce: Nonce(0),
            segment_bytes: SEGMENT_BYTES,
        });
        let mut tries = 0;
        loop {
            let log = self.log(&dir, &setup, None)?;
            let catalog = match &log.examined {
                Ok(examined) => found_in(examined, &log.folder).map_err(|error| error.to_string()),
                Err(error) => Err(error.clone()),
            };
            if catalog.is_ok() || self.in_use.is_none() || tries == TRIES {
                let catalog = catalog.map(|found| found.catalog);
                return Ok(Some(ManifestView { log, catalog }));
            }
            tries += 1;
            std::thread::sleep(NAP);
        }
    }

    fn log(&self, dir: &Path, setup: &ShardSetup, ring: Option<&[u8]>) -> Result<LogView, Error> {
        let locks = if self.access == Access::Alone { Locks::Shared } else { Locks::NotAsked };
        let mut tries = 0;
        loop {
            let folder = ReadOnly::open(dir, locks).map_err(Error::io(format!("opening {}", dir.display())))?;
            let examined = examine(&folder, setup, ring, &mut |_| {});
            let changed =
                matches!(&examined, Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound);
            if changed && self.in_use.is_some() && tries < TRIES {
                // Segments are given back and made while they are read.
                tries += 1;
                std::thread::sleep(NAP);
                continue;
            }
            if let Err(OpenError::Locked(name)) = &examined {
                let holder = format!("a write of another process to {name}");
                return Err(Error::InUse { dir: self.at.dir.clone(), holder });
            }
            let files = files(&folder, examined.as_ref().ok())
                .map_err(Error::io(format!("reading the headers in {}", dir.display())))?;
            return Ok(LogView { folder, files, examined: examined.map_err(|error| error.to_string()) });
        }
    }
}

/// What lies in the folder of the quarantine, by path and length; what cannot be read is left out.
#[must_use]
pub fn quarantine(dir: &Path) -> Vec<(String, u64)> {
    fn below(dir: &Path, root: &Path, found: &mut Vec<(String, u64)>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => below(&path, root, found),
                Ok(metadata) => {
                    let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                    found.push((name, metadata.len()));
                }
                Err(_) => {}
            }
        }
    }
    let mut found = Vec::new();
    below(&dir.join("quarantine"), dir, &mut found);
    found.sort();
    found
}

fn files(folder: &dyn Folder, examined: Option<&Examined>) -> io::Result<Vec<FileView>> {
    let mut files = Vec::new();
    for (name, bytes) in folder.list()? {
        let kind = parse_name(&name);
        let segment = if let FileName::Segment(segment) = kind { Some(segment) } else { None };
        let copies = match segment {
            Some(segment) => copies(folder, &name, segment)?,
            None => [None, None],
        };
        let role = match (kind, examined) {
            (FileName::Segment(segment), Some(examined)) => role(examined, segment),
            (FileName::Segment(_), None) => Role::Log,
            (FileName::Spare(_), _) => Role::Spare,
            (FileName::New(_), _) => Role::Unfinished,
            (FileName::Other, _) => Role::Other,
        };
        files.push(FileView { name, bytes, segment, copies, role });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

pub(super) fn copies(folder: &dyn Folder, name: &str, segment: SegmentNo) -> io::Result<[Option<SegmentHeader>; 2]> {
    let mut buf = crate::io::buf::AlignedBuf::new(SEGMENT_HEADER_BYTES);
    let count = match read_around(folder, name, 0, &mut buf) {
        // Given back meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        other => other?,
    };
    let head = &buf[..count];
    Ok([0, PAGE_BYTES].map(|at| {
        let copy = SegmentHeader::decode_copy(head.get(at..at + PAGE_BYTES)?).ok()?;
        (copy.segment == segment).then_some(copy)
    }))
}

fn role(examined: &Examined, segment: SegmentNo) -> Role {
    if examined.scanned.segments.iter().any(|used| used.header.segment == segment) {
        Role::Log
    } else if examined.hollow.iter().any(|(hollow, _)| *hollow == segment) {
        Role::Damaged
    } else if segment > examined.scanned.end.segment {
        Role::Ready
    } else {
        Role::Leftover
    }
}
