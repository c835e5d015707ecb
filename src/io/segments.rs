//! What both production disks share: taking operations in, the files of the segments in use, the
//! thread that makes and recycles them, and the way home for what a disk's threads have finished.
//!
//! Making a segment takes a zero fill and several syncs, so it happens on a thread of its own, one
//! per disk, which owns the [`Maker`]. The thread inherits the CPU mask of whoever makes the disk.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::io::buf::AlignedBuf;
use crate::io::disk::{DiskOp, Done, OpId, Outcome};
use crate::io::folder::{DirFolder, OpenFile};
use crate::io::maker::Maker;
use crate::io::waker::Inbox;
use crate::limits::PAGE_BYTES;
use crate::types::SegmentNo;
use crate::wal::segment::{SegmentHeader, segment_name};

/// What a thread of a disk reports.
pub(crate) enum Finished {
    /// A write or a sync ended.
    Data(SegmentNo, Done),
    /// A preparation or a retirement ended; the file of what was prepared.
    Made(Done, Option<(SegmentNo, Arc<OpenFile>)>),
    /// A thread panicked: what it had taken in never ends.
    Died,
}

/// A write or a sync on its way. It owns all that the kernel uses for it.
pub(crate) struct Job {
    pub(crate) id: OpId,
    pub(crate) segment: SegmentNo,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) work: Work,
}

pub(crate) enum Work {
    Write { offset: u32, buf: AlignedBuf },
    WriteSynced { offset: u32, buf: AlignedBuf },
    Sync,
}

impl Job {
    /// The end of this operation, from what the system call gave.
    pub(crate) fn done(self, result: io::Result<usize>) -> Done {
        #[cfg(feature = "sim")]
        let result = match (&self.work, result) {
            (Work::Sync, Err(_)) if crate::planted::is_planted(crate::planted::Mutant::RetrySync) => {
                self.file.sync().map(|()| 0)
            }
            (_, result) => result,
        };
        let outcome = self.work.outcome(result);
        Done { id: self.id, outcome, buf: self.work.into_buf() }
    }
}

impl Work {
    fn outcome(&self, result: io::Result<usize>) -> Outcome {
        match (self, result) {
            (_, Err(error)) => Outcome::Failed(error),
            (Self::Write { buf, .. } | Self::WriteSynced { buf, .. }, Ok(count)) if count != buf.len() => {
                Outcome::Failed(io::ErrorKind::WriteZero.into())
            }
            (Self::Write { .. }, Ok(_)) => Outcome::Written,
            (Self::WriteSynced { .. } | Self::Sync, Ok(_)) => Outcome::Synced,
        }
    }

    fn into_buf(self) -> Option<AlignedBuf> {
        match self {
            Self::Write { buf, .. } | Self::WriteSynced { buf, .. } => Some(buf),
            Self::Sync => None,
        }
    }
}

/// The segments of one disk.
pub(crate) struct Segments {
    open: HashMap<SegmentNo, Open>,
    /// Operations that ended without having begun.
    refused: Vec<Done>,
    inbox: Arc<Inbox<Finished>>,
    requests: Option<Sender<(OpId, Request)>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Operations whose end comes through the inbox.
    awaited: usize,
    died: bool,
}

struct Open {
    file: Arc<OpenFile>,
    in_flight: usize,
}

enum Request {
    Prepare(Box<SegmentHeader>),
    Retire(SegmentNo, u32),
}

impl Segments {
    /// Starts the thread; `ready` are segments that can be written at once.
    pub(crate) fn start(
        folder: Arc<DirFolder>,
        maker: Maker,
        ready: &[SegmentNo],
        inbox: Arc<Inbox<Finished>>,
    ) -> io::Result<Self> {
        let mut open = HashMap::new();
        for &segment in ready {
            open.insert(segment, Open { file: folder.file(&segment_name(segment))?, in_flight: 0 });
        }
        let (requests, received) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let thread = {
            let (inbox, closing) = (Arc::clone(&inbox), Arc::clone(&closing));
            let body = move || make_segments(&folder, maker, &received, &closing, &inbox);
            std::thread::Builder::new().name("forebay-maker".to_owned()).spawn(body)?
        };
        let (requests, thread) = (Some(requests), Some(thread));
        Ok(Self { open, refused: Vec::new(), inbox, requests, closing, thread, awaited: 0, died: false })
    }

    /// Takes an operation in. A write or a sync comes back as a job for the disk; it counts as in
    /// flight until [`Self::end`].
    ///
    /// # Panics
    /// Where a write is not in whole pages, or a segment is retired with operations in flight.
    pub(crate) fn take_in(&mut self, id: OpId, op: DiskOp) -> Option<Job> {
        let (segment, work) = match op {
            DiskOp::Write { segment, offset, buf } => (segment, Work::Write { offset, buf }),
            DiskOp::WriteSynced { segment, offset, buf } => (segment, Work::WriteSynced { offset, buf }),
            DiskOp::Sync { segment } => (segment, Work::Sync),
            DiskOp::Prepare { header } => {
                self.request(id, Request::Prepare(header));
                return None;
            }
            DiskOp::Retire { segment, end } => {
                let in_flight = self.open.remove(&segment).map_or(0, |open| open.in_flight);
                assert_eq!(in_flight, 0, "segment {segment} is retired with operations in flight");
                self.request(id, Request::Retire(segment, end));
                return None;
            }
        };
        if let Work::Write { offset, buf } | Work::WriteSynced { offset, buf } = &work {
            let whole = (*offset as usize).is_multiple_of(PAGE_BYTES) && buf.len().is_multiple_of(PAGE_BYTES);
            assert!(whole && !buf.is_empty(), "a write of {} bytes at {offset} is not whole pages", buf.len());
        }
        let Some(open) = self.open.get_mut(&segment) else {
            let why = format!("segment {segment} is not prepared, or was retired");
            let outcome = Outcome::Failed(io::Error::new(io::ErrorKind::NotFound, why));
            self.refused.push(Done { id, outcome, buf: work.into_buf() });
            return None;
        };
        open.in_flight += 1;
        Some(Job { id, segment, file: Arc::clone(&open.file), work })
    }

    /// The operation of a job has ended.
    pub(crate) fn end(&mut self, segment: SegmentNo) {
        self.open.get_mut(&segment).expect("a segment in flight is not retired").in_flight -= 1;
    }

    /// Announces an operation whose end will come as [`Finished::Data`].
    pub(crate) const fn expect_data(&mut self) {
        self.awaited += 1;
    }

    fn request(&mut self, id: OpId, request: Request) {
        self.awaited += 1;
        let requests = self.requests.as_ref().expect("taken only on drop");
        // Fails only where the thread has died, which it reported itself.
        let _ = requests.send((id, request));
    }

    /// Appends what the threads have finished, and what was refused.
    pub(crate) fn collect(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        done.append(&mut self.refused);
        if self.awaited == 0 {
            return Ok(());
        }
        for finished in self.inbox.take() {
            match finished {
                Finished::Data(segment, end) => {
                    self.end(segment);
                    done.push(end);
                }
                Finished::Made(end, made) => {
                    if let Some((segment, file)) = made {
                        self.open.insert(segment, Open { file, in_flight: 0 });
                    }
                    done.push(end);
                }
                Finished::Died => {
                    self.died = true;
                    continue;
                }
            }
            self.awaited -= 1;
        }
        if self.died {
            return Err(io::Error::other("a thread of this disk panicked; its message is in the log"));
        }
        Ok(())
    }

    /// Declares that the disk is about to wait; `false` if there is something to collect instead.
    pub(crate) fn sleep(&self) -> bool {
        self.awaited == 0 || self.inbox.sleep()
    }
}

impl Drop for Segments {
    /// Lets a request that is being handled come to its end, and drops the others.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported through the inbox.
            let _ = thread.join();
        }
    }
}

fn make_segments(
    folder: &DirFolder,
    mut maker: Maker,
    requests: &Receiver<(OpId, Request)>,
    closing: &AtomicBool,
    inbox: &Arc<Inbox<Finished>>,
) {
    let _notice = DeathNotice(Arc::clone(inbox));
    for (id, request) in requests {
        if closing.load(Ordering::Acquire) {
            return;
        }
        let (outcome, made) = match request {
            Request::Prepare(header) => match make(folder, &mut maker, *header) {
                Ok((header, file)) => (Outcome::Prepared(Box::new(header.clone())), Some((header.segment, file))),
                Err(error) => (Outcome::Failed(error), None),
            },
            Request::Retire(segment, end) => match maker.retire(folder, segment, end) {
                Ok(()) => (Outcome::Retired, None),
                Err(error) => (Outcome::Failed(error), None),
            },
        };
        inbox.push(Finished::Made(Done { id, outcome, buf: None }, made));
    }
}

fn make(folder: &DirFolder, maker: &mut Maker, wanted: SegmentHeader) -> io::Result<(SegmentHeader, Arc<OpenFile>)> {
    let header = maker.prepare(folder, wanted)?;
    let file = folder.file(&segment_name(header.segment))?;
    Ok((header, file))
}

/// Reports its thread's panic, so that the disk fails instead of waiting for ever.
pub(crate) struct DeathNotice(pub(crate) Arc<Inbox<Finished>>);

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.push(Finished::Died);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_are_short_or_errors_are_failures() {
        let write = Work::Write { offset: 0, buf: AlignedBuf::new(8192) };
        assert!(matches!(write.outcome(Ok(8192)), Outcome::Written));
        for short in [0, 4096] {
            let outcome = write.outcome(Ok(short));
            assert!(matches!(outcome, Outcome::Failed(error) if error.kind() == io::ErrorKind::WriteZero));
        }
        assert!(matches!(Work::Sync.outcome(Ok(0)), Outcome::Synced));
        for work in [write, Work::Sync] {
            let outcome = work.outcome(Err(io::Error::from_raw_os_error(5)));
            assert!(matches!(outcome, Outcome::Failed(error) if error.raw_os_error() == Some(5)));
        }
    }
}
