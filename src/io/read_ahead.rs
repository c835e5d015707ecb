//! [`ReadAhead`]: one read after the other on a thread of its own, while who asked for it is busy with the last one.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::io::buf::AlignedBuf;
use crate::io::disk::{Folder, read_around};
use crate::types::SegmentNo;
use crate::wal::segment::segment_name;

/// What is to be read: bytes of a segment from an offset on, as many as the buffer is long.
struct Wanted {
    segment: SegmentNo,
    offset: u32,
    buf: AlignedBuf,
}

/// A thread that reads. It ends when this is dropped.
pub struct ReadAhead {
    wanted: SyncSender<Wanted>,
    read: Receiver<(Wanted, io::Result<usize>)>,
    /// Segment, offset and bytes of what is being read, or was read and not taken.
    asked: Option<(SegmentNo, u32, usize)>,
    /// Not in use.
    spare: Option<AlignedBuf>,
}

impl ReadAhead {
    /// Starts the thread, which reads segments in this folder.
    ///
    /// # Errors
    /// Where there can be no further thread.
    pub fn start(folder: Arc<dyn Folder>) -> io::Result<Self> {
        // One is under way at most: neither side ever waits to hand something over.
        let (wanted, asks) = sync_channel::<Wanted>(1);
        let (answers, read) = sync_channel(1);
        std::thread::Builder::new().name("forebay-ahead".to_owned()).spawn(move || {
            for mut wanted in asks {
                let name = segment_name(wanted.segment);
                let read = read_around(&*folder, &name, u64::from(wanted.offset), &mut wanted.buf);
                if answers.send((wanted, read)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { wanted, read, asked: None, spare: None })
    }

    /// Asks for so many bytes of a segment, unless something else was asked for and not taken.
    pub fn ask(&mut self, segment: SegmentNo, offset: u32, count: usize) {
        if self.asked.is_some() {
            return;
        }
        let fits = |spare: &AlignedBuf| spare.capacity() >= count;
        let mut buf = self.spare.take().filter(fits).unwrap_or_else(|| AlignedBuf::new(count));
        buf.set_len(count);
        if self.wanted.send(Wanted { segment, offset, buf }).is_ok() {
            self.asked = Some((segment, offset, count));
        }
    }

    /// Waits for what was asked for and puts it in place of `buf`; how many bytes of it there are. `None` where it is not
    /// what begins there and has at least so many bytes.
    pub fn take(
        &mut self,
        (segment, offset, count): (SegmentNo, u32, usize),
        buf: &mut AlignedBuf,
    ) -> Option<io::Result<usize>> {
        let (of, from, has) = self.asked.take()?;
        let (wanted, read) = self.read.recv().ok()?;
        if (of, from) != (segment, offset) || has < count {
            self.spare = Some(wanted.buf);
            return None;
        }
        self.spare = Some(std::mem::replace(buf, wanted.buf));
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::folder::DirFolder;
    use crate::limits::PAGE_BYTES;

    #[test]
    fn what_was_asked_for_is_taken_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let bytes: Vec<u8> = (0..4 * PAGE_BYTES).map(|at| (at / PAGE_BYTES) as u8).collect();
        std::fs::write(dir.path().join(segment_name(SegmentNo(7))), &bytes).expect("a file");
        let folder = Arc::new(DirFolder::open(dir.path()).expect("a folder"));
        let mut ahead = ReadAhead::start(folder).expect("a thread");
        let mut buf = AlignedBuf::new(PAGE_BYTES);
        let (segment, page) = (SegmentNo(7), PAGE_BYTES as u32);
        assert!(ahead.take((segment, 0, PAGE_BYTES), &mut buf).is_none(), "nothing was asked for");
        ahead.ask(segment, page, 2 * PAGE_BYTES);
        ahead.ask(segment, 0, PAGE_BYTES);
        let read = ahead.take((segment, page, PAGE_BYTES), &mut buf).expect("asked for").expect("read");
        assert_eq!((read, buf[0], buf[PAGE_BYTES]), (2 * PAGE_BYTES, 1, 2));
        ahead.ask(segment, page, PAGE_BYTES);
        assert!(ahead.take((segment, 2 * page, PAGE_BYTES), &mut buf).is_none(), "it begins elsewhere");
        ahead.ask(segment, page, PAGE_BYTES);
        assert!(ahead.take((segment, page, 2 * PAGE_BYTES), &mut buf).is_none(), "it is too short");
        ahead.ask(segment, 3 * page, 2 * PAGE_BYTES);
        let read = ahead.take((segment, 3 * page, 2 * PAGE_BYTES), &mut buf).expect("asked for").expect("read");
        assert_eq!((read, buf[0]), (PAGE_BYTES, 3), "the file ends there");
        ahead.ask(SegmentNo(8), 0, PAGE_BYTES);
        let read = ahead.take((SegmentNo(8), 0, PAGE_BYTES), &mut buf).expect("asked for");
        assert_eq!(read.expect_err("no such file").kind(), io::ErrorKind::NotFound);
    }
}
