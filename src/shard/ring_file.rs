//! Making the ring file: fully written, taken over by a new epoch, safe at every step.
//!
//! Promises: when [`prepare`] returns a file, both header copies are synced and every slot is empty;
//! after a cut at any step before that, the file is the old one or an empty new one, and its newest
//! readable header says which. A file in place is never shorter than its header says.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, IFlags, MemfdFlags, ioctl_getflags, ioctl_setflags, memfd_create, statfs};

use crate::limits::PAGE_BYTES;
use crate::types::Epoch;
use crate::wal::intake::{RingHeader, SLOTS_AT};

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// File systems on which a shared mapping of a fully written file keeps what a killed process stored.
const TRUSTED: [u32; 6] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    BTRFS,       // with NOCOW
    0xf2f5_2010, // F2FS
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
];
const BTRFS: u32 = 0x9123_683e;

/// Where the ring's bytes are.
#[derive(Debug)]
pub(crate) enum Backing {
    /// In the file at the path.
    File(File),
    /// In plain memory; the file at the path, if one was asked for, says so.
    Memory(OwnedFd),
}

/// Makes or takes over the ring file.
pub(crate) fn prepare(path: &Path, header: &RingHeader) -> io::Result<Backing> {
    if !header.has_sound_sizes() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "intake_slots or intake_bytes out of bounds"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let kind = kind_of(statfs(folder)?.f_type);
    if TRUSTED.contains(&kind) {
        // A ring of epoch 0 takes the place of one that cannot be read: whole or not at all, so that
        // a cut meanwhile does not make less of what is damaged.
        if header.epoch > Epoch(0)
            && let Some(file) = take_over(path, header, kind)?
        {
            return Ok(Backing::File(file));
        }
        if let Some(file) = make(path, folder, header, kind)? {
            return Ok(Backing::File(file));
        }
    }
    let plain = RingHeader { slots: 0, bytes: 0, ..*header };
    make(path, folder, &plain, 0)?;
    Ok(Backing::Memory(memory(header)?))
}

/// Memory like a ring file, zeroed.
pub(crate) fn memory(header: &RingHeader) -> io::Result<OwnedFd> {
    let fd = memfd_create("forebay-intake", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, header.file_bytes())?;
    Ok(fd)
}

/// The magic number as it is documented: 32 bits, whatever the word's sign and size.
const fn kind_of(kind: FsWord) -> u32 {
    kind as u32
}

/// Uses the file that is there, if it is one of this size without holes: only slots and headers are written.
fn take_over(path: &Path, header: &RingHeader, kind: u32) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    let whole = found.is_file() && found.len() == header.file_bytes() && found.blocks() * 512 >= found.len();
    if !whole || (kind == BTRFS && !ioctl_getflags(&file)?.contains(IFlags::NOCOW)) {
        return Ok(None);
    }
    zero(&file, SLOTS_AT as u64, header.area_at())?;
    write_headers(&file, header)?;
    Ok(Some(file))
}

/// Makes the file anew beside the old one, whole and synced before it takes its place. `None` where
/// the file system copies on write all the same.
fn make(path: &Path, folder: &Path, header: &RingHeader, kind: u32) -> io::Result<Option<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let tmp = PathBuf::from(name);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&tmp)?;
    if kind == BTRFS {
        // It works on an empty file only.
        ioctl_setflags(&file, ioctl_getflags(&file)? | IFlags::NOCOW)?;
        if !ioctl_getflags(&file)?.contains(IFlags::NOCOW) {
            std::fs::remove_file(&tmp)?;
            return Ok(None);
        }
    }
    zero(&file, 0, header.file_bytes())?;
    write_headers(&file, header)?;
    file.sync_all()?;
    std::fs::rename(&tmp, path)?;
    File::open(folder)?.sync_all()?;
    Ok(Some(file))
}

/// Writes zeros from `at` up to `end`.
fn zero(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let len = (end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

/// Copy A, sync, copy B, sync: at no time is neither readable.
fn write_headers(file: &File, header: &RingHeader) -> io::Result<()> {
    let mut page = Vec::with_capacity(PAGE_BYTES);
    page.write_all(&header.encode())?;
    page.resize(PAGE_BYTES, 0);
    for copy in 0..2 {
        file.write_all_at(&page, copy * PAGE_BYTES as u64)?;
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Nonce, Seq, ShardId, StoreId};

    fn header(epoch: u64) -> RingHeader {
        RingHeader {
            store: StoreId([7; 16]),
            shard: ShardId(3),
            boot: [9; 16],
            epoch: Epoch(epoch),
            nonce: Nonce(5),
            first_seq: Seq(6),
            slots: 64,
            bytes: 64 << 10,
        }
    }

    #[test]
    fn a_file_is_taken_over_with_empty_slots_and_remade_for_another_size() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("intake.ring");
        let Backing::File(file) = prepare(&path, &header(0)).expect("made") else {
            return; // The folder for temporary files is on a file system that is not trusted.
        };
        file.write_all_at(&[1; 200_000][..header(0).file_bytes() as usize - SLOTS_AT], SLOTS_AT as u64)
            .expect("filled");
        let node = file.metadata().expect("is there").ino();
        prepare(&path, &header(1)).expect("taken over");
        let bytes = std::fs::read(&path).expect("is there");
        assert_eq!(std::fs::metadata(&path).expect("is there").ino(), node, "the same file");
        for copy in [0, PAGE_BYTES] {
            assert_eq!(RingHeader::decode(&bytes[copy..]), Some(header(1)));
        }
        let (slots, area) = bytes[SLOTS_AT..].split_at(header(1).area_at() as usize - SLOTS_AT);
        assert!(slots.iter().all(|&byte| byte == 0) && area.iter().all(|&byte| byte == 1));
        let larger = RingHeader { bytes: 128 << 10, ..header(2) };
        prepare(&path, &larger).expect("made anew");
        let bytes = std::fs::read(&path).expect("is there");
        assert_eq!((bytes.len() as u64, RingHeader::decode(&bytes)), (larger.file_bytes(), Some(larger)));
        assert_eq!(std::fs::read_dir(dir.path()).expect("is there").count(), 1, "nothing is left over");
    }
}
