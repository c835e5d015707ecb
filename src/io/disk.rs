//! What the engine asks of the world: a [`Disk`] for the write path, a [`Folder`] for everything
//! that is not hurried, and a [`Clock`].
//!
//! Three disks implement these traits: `uring` and `pwrite` for production, `sim` for the
//! simulator. One conformance suite (`tests/disks.rs`) holds all three to what is written here.

use std::io;

use rustix::io::Errno;

use crate::io::buf::AlignedBuf;
use crate::limits::PAGE_BYTES;
use crate::types::SegmentNo;
use crate::wal::segment::SegmentHeader;

/// A point in monotonic time, in nanoseconds from an origin that only the [`Clock`] knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// This point `us` microseconds later.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us.saturating_mul(1_000)))
    }

    /// Nanoseconds since `earlier`; 0 where that lies ahead.
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Monotonic time.
pub trait Clock {
    /// The present.
    fn now(&self) -> Instant;
}

/// Names one operation of one [`Disk`]; given by whoever submits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// One asynchronous operation.
#[derive(Debug)]
pub enum DiskOp {
    /// Writes the whole of `buf` (a multiple of 4 KiB) at `offset` of a prepared segment.
    Write {
        /// The segment.
        segment: SegmentNo,
        /// Where, in bytes; a multiple of 4 KiB.
        offset: u32,
        /// What; comes home in the [`Done`].
        buf: AlignedBuf,
    },
    /// A `Write` that is durable when it ends, as if its own `Sync` had followed. It says nothing
    /// about any other write. For a batch that somebody waits for: cheaper than the two.
    WriteSynced {
        /// The segment.
        segment: SegmentNo,
        /// Where, in bytes; a multiple of 4 KiB.
        offset: u32,
        /// What; comes home in the [`Done`].
        buf: AlignedBuf,
    },
    /// Makes durable what writes to this segment completed *before this was submitted*.
    Sync {
        /// The segment.
        segment: SegmentNo,
    },
    /// Makes a segment ready to be written: a spare file, or a new zero-filled one, gets this
    /// header (its file id, generation and `filled_upto` are filled in), synced, and its name.
    Prepare {
        /// The header as the shard wants it.
        header: Box<SegmentHeader>,
    },
    /// Gives back a segment that nobody reads any more: it becomes a spare, or is deleted.
    Retire {
        /// The segment.
        segment: SegmentNo,
        /// Where its log ended, in bytes: everything before is known to be written and synced.
        end: u32,
    },
}

/// How an operation ended.
#[derive(Debug)]
pub enum Outcome {
    /// A `Write` wrote all its bytes.
    Written,
    /// A `Sync` succeeded, or a `WriteSynced` wrote all its bytes and they are durable.
    Synced,
    /// A `Prepare` succeeded; the header as it stands in the file.
    Prepared(Box<SegmentHeader>),
    /// A `Retire` succeeded.
    Retired,
    /// It failed, was short (as `WriteZero`) or was cancelled. It may have had any part of its effect.
    Failed(io::Error),
}

/// The end of one operation. Operations end in any order.
#[derive(Debug)]
pub struct Done {
    /// Which one.
    pub id: OpId,
    /// How it ended.
    pub outcome: Outcome,
    /// The buffer of a `Write` or `WriteSynced`, whatever its outcome.
    pub buf: Option<AlignedBuf>,
}

/// How long [`Disk::poll`] may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until an operation ends or the disk's waker is used.
    Event,
    /// The same, but at most until then.
    Until(Instant),
}

/// Asynchronous file operations of one shard. Owned and driven by that shard's thread.
pub trait Disk {
    /// Takes an operation in; it may start only at the next `poll`. Never blocks.
    fn submit(&mut self, id: OpId, op: DiskOp);

    /// Starts what was submitted, waits as `wait` says for at least one end, and appends all that
    /// have ended to `done`. May return early with none.
    ///
    /// # Errors
    /// Where the disk itself (not one operation) has failed: the shard is lost.
    fn poll(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()>;
}

/// Blocking file operations in one shard's folder: recovery, and making and recycling segments.
///
/// Names are plain file names. A created, renamed or removed name is durable only after
/// [`sync_folder`](Folder::sync_folder); written bytes only after [`sync`](Folder::sync).
pub trait Folder: Send + Sync {
    /// All names in the folder with their files' lengths, in any order.
    ///
    /// # Errors
    /// As the file system says.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Takes the file's advisory lock and keeps it until the name is removed or the folder
    /// dropped; `false` if somebody else (perhaps a write of a killed process) still holds it.
    ///
    /// # Errors
    /// As the file system says.
    fn try_lock(&self, name: &str) -> io::Result<bool>;

    /// Reads up to `buf.len()` bytes (a multiple of 4 KiB) at `offset` past the page cache; the
    /// number of bytes read, less than asked only at the file's end.
    ///
    /// # Errors
    /// As the file system says.
    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Makes a new file of `len` zero bytes, every one of them written. Not yet synced. The
    /// maker holds its lock.
    ///
    /// # Errors
    /// As the file system says: `StorageFull` leaves no file behind.
    fn create(&self, name: &str, len: u64) -> io::Result<()>;

    /// Writes all of `bytes` (aligned, a multiple of 4 KiB) at `offset`.
    ///
    /// # Errors
    /// As the file system says.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// fdatasync.
    ///
    /// # Errors
    /// As the device says; never to be tried again.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Renames within the folder, over an existing file if there is one.
    ///
    /// # Errors
    /// As the file system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the file system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// fsync of the folder itself.
    ///
    /// # Errors
    /// As the device says.
    fn sync_folder(&self) -> io::Result<()>;
}

/// The disk, or the quota on it, is full: no fault of the disk, and room may come.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What [`read_around`] puts where the disk gives nothing back: no stamp and no header of any log.
pub const UNREADABLE: u8 = 0xEE;

/// [`Folder::read`] around pages that cannot be read, as where a sector has gone bad or the file system's own
/// checksum fails: they are filled with [`UNREADABLE`], so that they are judged as damage like any other, and
/// what is sound around them can be had.
///
/// # Errors
/// As the file system says of anything but single pages.
pub fn read_around(folder: &dyn Folder, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    // The second and third are what a direct read says of a bad sector and of a failed integrity check.
    let of_a_page =
        |error: &io::Error| matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::NODATA | Errno::ILSEQ));
    let why = match folder.read(name, offset, buf) {
        Err(error) if of_a_page(&error) => error,
        other => return other,
    };
    let (mut count, mut unreadable) = (0, 0);
    for page in buf.chunks_mut(PAGE_BYTES) {
        let (whole, at) = (page.len(), offset + count as u64);
        let read = match folder.read(name, at, page) {
            Err(error) if of_a_page(&error) => {
                page.fill(UNREADABLE);
                unreadable += 1;
                whole
            }
            other => other?,
        };
        count += read;
        if read < whole {
            break;
        }
    }
    tracing::warn!("{name}: {unreadable} pages behind {offset:#x} cannot be read: {why}");
    Ok(count)
}
