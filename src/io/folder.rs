//! [`DirFolder`]: a shard's real directory.
//!
//! It keeps one descriptor per file name, opened with `O_DIRECT` where the file system has it, and
//! the descriptor keeps the file's lock. The disks write through these same descriptors, so a
//! write in flight keeps its segment locked even after the process was killed. The table of names
//! is locked while names change, never while data moves.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::io::buf::AlignedBuf;
use crate::io::disk::Folder;
use crate::limits::PAGE_BYTES;

/// Bytes of one write while a new file is zero-filled.
const FILL_BYTES: usize = 4 << 20;

/// A directory, and the files in it that were used; shared as `Arc<DirFolder>`.
#[derive(Debug)]
pub struct DirFolder {
    dir: OwnedFd,
    /// How files are opened.
    access: OFlags,
    files: Mutex<HashMap<String, Arc<OpenFile>>>,
}

/// A file's one descriptor. Its lock, once taken, lasts until the last user lets go of it.
#[derive(Debug)]
pub struct OpenFile {
    fd: OwnedFd,
    direct: bool,
    locked: AtomicBool,
}

impl DirFolder {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// As the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: fs::open(path, flags, Mode::empty())?, access: OFlags::RDWR, files: Mutex::default() })
    }

    /// The file's descriptor: the one that holds the lock, if that was taken.
    ///
    /// # Errors
    /// As the file system says.
    pub fn file(&self, name: &str) -> io::Result<Arc<OpenFile>> {
        let mut files = self.table();
        if let Some(file) = files.get(name) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenFile::open(&self.dir, name, self.access)?);
        files.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    /// Closes every file and so gives up their locks. A file that is asked for again is opened anew.
    pub fn release(&self) {
        self.table().clear();
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<OpenFile>>> {
        // An entry is inserted or removed in one step, so a poisoned table is still whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Folder for DirFolder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    names.push((name.to_owned(), stat.st_size as u64));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(names)
    }

    fn try_lock(&self, name: &str) -> io::Result<bool> {
        self.file(name)?.try_lock(FlockOperation::NonBlockingLockExclusive)
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.file(name)?;
        if file.takes(buf) {
            return file.read(offset, buf);
        }
        let mut bounce = AlignedBuf::new(buf.len());
        let count = file.read(offset, &mut bounce)?.min(buf.len());
        buf[..count].copy_from_slice(&bounce[..count]);
        Ok(count)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<()> {
        let mut files = self.table();
        let file = Arc::new(OpenFile::open(&self.dir, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?);
        files.insert(name.to_owned(), Arc::clone(&file));
        drop(files);
        let filled = file.try_lock(FlockOperation::NonBlockingLockExclusive).and_then(|_| file.zero_fill(len));
        if filled.is_err() {
            // The first error is the one to report; a file that stays is removed at the next open.
            let _ = self.remove(name);
        }
        filled
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(name)?;
        if file.takes(bytes) {
            return file.write(offset, bytes);
        }
        check_pages(bytes.len() as u64)?;
        let mut bounce = AlignedBuf::new(bytes.len());
        bounce.copy_from_slice(bytes);
        file.write(offset, &bounce)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.file(name)?.sync()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut files = self.table();
        fs::renameat(&self.dir, from, &self.dir, to)?;
        files.remove(to);
        if let Some(file) = files.remove(from) {
            files.insert(to.to_owned(), file);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut files = self.table();
        fs::unlinkat(&self.dir, name, AtFlags::empty())?;
        files.remove(name);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if crate::planted::is_planted(crate::planted::Mutant::NoFolderSync) {
            return Ok(());
        }
        Ok(fs::fsync(&self.dir)?)
    }
}

impl OpenFile {
    fn open(dir: &OwnedFd, name: &str, flags: OFlags) -> io::Result<Self> {
        check_name(name)?;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let (fd, direct) = match retry_on_intr(|| fs::openat(dir, name, flags | OFlags::DIRECT, mode)) {
            Ok(fd) => (fd, true),
            // A file system without direct I/O. It may have made the file before it refused.
            Err(Errno::INVAL) => (retry_on_intr(|| fs::openat(dir, name, flags - OFlags::EXCL, mode))?, false),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { fd, direct, locked: AtomicBool::new(false) })
    }

    /// Whether reads and writes go past the page cache.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct
    }

    fn try_lock(&self, how: FlockOperation) -> io::Result<bool> {
        if self.locked.load(Ordering::Acquire) {
            return Ok(true);
        }
        match retry_on_intr(|| fs::flock(&self.fd, how)) {
            Ok(()) => self.locked.store(true, Ordering::Release),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Whether the kernel accepts this memory for this file.
    fn takes(&self, memory: &[u8]) -> bool {
        !self.direct
            || ((memory.as_ptr() as usize).is_multiple_of(PAGE_BYTES) && memory.len().is_multiple_of(PAGE_BYTES))
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            let count = retry_on_intr(|| rustix::io::pread(&self.fd, &mut buf[filled..], offset + filled as u64))?;
            filled += count;
            // A direct read that does not end at a page has met the end of the file.
            if count == 0 || (self.direct && !count.is_multiple_of(PAGE_BYTES)) {
                break;
            }
        }
        Ok(filled)
    }

    /// Writes all of `bytes` at `offset`; blocks.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            match self.write_some(offset + written as u64, &bytes[written..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => written += count,
            }
        }
        Ok(())
    }

    /// One `pwrite`, which may be short; blocks.
    pub(crate) fn write_some(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::pwrite(&self.fd, bytes, offset))?)
    }

    /// fdatasync. Not even an interrupted one is tried again: an error may be reported only once.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(fs::fdatasync(&self.fd)?)
    }

    fn zero_fill(&self, len: u64) -> io::Result<()> {
        check_pages(len)?;
        // Space first: so a full disk is known at once, and extents are contiguous.
        match retry_on_intr(|| fs::fallocate(&self.fd, FallocateFlags::empty(), 0, len)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = AlignedBuf::new((FILL_BYTES as u64).min(len) as usize);
        let mut offset = 0;
        while offset < len {
            let count = (zeros.len() as u64).min(len - offset);
            self.write(offset, &zeros[..count as usize])?;
            offset += count;
        }
        Ok(())
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A folder that is only read, through descriptors that cannot write: nothing of it is made durable.
#[derive(Debug)]
pub struct ReadOnly {
    folder: DirFolder,
    locks: Locks,
}

/// What a reader does about files that others may be writing to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// They are not asked for: what is read may change meanwhile.
    NotAsked,
    /// They are taken shared: nobody writes as long as the folder is open.
    Shared,
}

impl ReadOnly {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// As the file system says.
    pub fn open(path: &Path, locks: Locks) -> io::Result<Self> {
        Ok(Self { folder: DirFolder { access: OFlags::RDONLY, ..DirFolder::open(path)? }, locks })
    }
}

impl Folder for ReadOnly {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.folder.list()
    }

    fn try_lock(&self, name: &str) -> io::Result<bool> {
        match self.locks {
            Locks::NotAsked => Ok(true),
            Locks::Shared => self.folder.file(name)?.try_lock(FlockOperation::NonBlockingLockShared),
        }
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.folder.read(name, offset, buf)
    }

    fn create(&self, _name: &str, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write(&self, _name: &str, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Names stay within the folder.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a plain file name")));
    }
    Ok(())
}

fn check_pages(len: u64) -> io::Result<()> {
    if len == 0 || !len.is_multiple_of(PAGE_BYTES as u64) {
        let wrong = format!("{len} bytes are not a whole number of {PAGE_BYTES}-byte pages");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, wrong));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, DirFolder) {
        // Beside the sources: the system's temporary folder may be kept in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").expect("a folder");
        let folder = DirFolder::open(dir.path()).expect("it opens");
        (dir, folder)
    }

    #[test]
    fn new_files_are_zero_filled_locked_and_complete() {
        let (dir, folder) = folder();
        let len = FILL_BYTES as u64 + 8192;
        folder.create("a", len).expect("created");
        assert_eq!(folder.list().expect("listed"), [("a".to_owned(), len)]);
        assert!(std::fs::read(dir.path().join("a")).expect("read").iter().all(|&byte| byte == 0));
        let other = DirFolder::open(dir.path()).expect("it opens");
        assert!(!other.try_lock("a").expect("tried"), "the maker holds the lock");
        assert_eq!(folder.create("a", len).expect_err("twice").kind(), io::ErrorKind::AlreadyExists);
        assert!(!other.try_lock("a").expect("tried"), "a refused creation takes nothing away");
    }

    #[test]
    fn a_file_that_cannot_be_filled_is_not_left_behind() {
        let (_dir, folder) = folder();
        assert!(folder.create("a", 4096 + 512).is_err());
        assert!(folder.create("b", 1 << 60).is_err(), "beyond any disk");
        assert_eq!(folder.list().expect("listed"), []);
        folder.create("a", 4096).expect("the name is free");
    }

    #[test]
    fn locks_follow_a_rename_and_end_with_the_name() {
        let (dir, folder) = folder();
        let other = DirFolder::open(dir.path()).expect("it opens");
        folder.create("a", 4096).expect("created");
        folder.create("over", 4096).expect("created");
        folder.rename("a", "over").expect("renamed");
        assert!(folder.try_lock("over").expect("tried"), "a lock can be asked for again");
        assert!(!other.try_lock("over").expect("tried"));
        assert_eq!(folder.file("a").expect_err("gone").kind(), io::ErrorKind::NotFound);
        folder.remove("over").expect("removed");
        folder.create("over", 4096).expect("created");
        drop(folder);
        let fresh = DirFolder::open(dir.path()).expect("it opens");
        assert!(fresh.try_lock("over").expect("tried"), "a dropped folder lets go");
    }

    #[test]
    fn reads_back_what_was_written_in_aligned_and_other_memory() {
        let (_dir, folder) = folder();
        folder.create("a", 16384).expect("created");
        let mut buf = AlignedBuf::new(8192);
        buf.fill(7);
        folder.write("a", 4096, &buf).expect("written");
        folder.sync("a").expect("synced");
        let mut bytes = vec![1; 16384 + 4096 + 1];
        // One byte into the vector it cannot be aligned, and it reaches past the end.
        assert_eq!(folder.read("a", 0, &mut bytes[1..]).expect("read"), 16384);
        assert!(bytes[1..4097].iter().all(|&byte| byte == 0));
        assert!(bytes[4097..12289].iter().all(|&byte| byte == 7));
        assert_eq!(folder.read("a", 8192, &mut buf).expect("read"), 8192);
        assert_eq!((buf[0], buf[4095], buf[4096]), (7, 7, 0));
        folder.write("a", 0, &vec![9; 4097][1..]).expect("written from any memory");
        assert_eq!(folder.read("a", 0, &mut buf).expect("read"), 8192);
        assert_eq!((buf[0], buf[4095], buf[4096]), (9, 9, 7));
        assert_eq!(folder.read("a", 1 << 20, &mut buf).expect("read"), 0);
    }

    #[test]
    fn a_file_that_ends_inside_a_page_is_read_to_its_end() {
        let (dir, folder) = folder();
        std::fs::write(dir.path().join("a"), [5; 5000]).expect("written");
        let mut buf = AlignedBuf::new(12288);
        assert_eq!(folder.read("a", 0, &mut buf).expect("read"), 5000);
        assert!(buf[..5000].iter().all(|&byte| byte == 5));
    }

    #[test]
    fn who_only_reads_needs_no_right_to_write_and_keeps_writers_out() {
        let (dir, folder) = folder();
        folder.create("a", 4096).expect("created");
        let of_a_moment = ReadOnly::open(dir.path(), Locks::NotAsked).expect("it opens");
        let shared = || ReadOnly::open(dir.path(), Locks::Shared).expect("it opens");
        assert!(of_a_moment.try_lock("a").expect("not asked"));
        assert!(!shared().try_lock("a").expect("tried"), "its writer is there");
        drop(folder);
        let (first, second) = (shared(), shared());
        assert!(first.try_lock("a").expect("tried") && second.try_lock("a").expect("tried"));
        let writer = DirFolder::open(dir.path()).expect("it opens");
        assert!(!writer.try_lock("a").expect("tried"), "readers are there");
        let mut buf = AlignedBuf::new(4096);
        assert_eq!(first.read("a", 0, &mut buf).expect("read"), 4096);
        let file = first.folder.file("a").expect("open");
        let refused = file.write(0, &buf).expect_err("a descriptor that cannot write");
        assert_eq!(refused.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let (_dir, folder) = folder();
        for name in ["", ".", "..", "../a", "a/b", "/etc/passwd"] {
            assert_eq!(folder.file(name).expect_err(name).kind(), io::ErrorKind::InvalidInput);
            assert_eq!(folder.remove(name).expect_err(name).kind(), io::ErrorKind::InvalidInput);
            assert_eq!(folder.rename("a", name).expect_err(name).kind(), io::ErrorKind::InvalidInput);
        }
    }
}
