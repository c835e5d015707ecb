//! What both production disks share: the files of the segments in use, the thread that makes and
//! recycles them, and the way home for what a disk's threads have finished.
//!
//! Making a segment takes a zero fill and several syncs, so it happens on a thread of its own, one
//! per disk, which owns the [`Maker`]. The thread inherits the CPU mask of whoever makes the disk.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::io::disk::{Done, OpId, Outcome};
use crate::io::folder::{DirFolder, OpenFile};
use crate::io::maker::Maker;
use crate::io::waker::Inbox;
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

/// The segments of one disk.
pub(crate) struct Segments {
    open: HashMap<SegmentNo, Open>,
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
        Ok(Self { open, inbox, requests, closing, thread, awaited: 0, died: false })
    }

    /// The file for a write or a sync, which counts as in flight until [`Self::end`].
    pub(crate) fn begin(&mut self, segment: SegmentNo) -> io::Result<Arc<OpenFile>> {
        let open = self.open.get_mut(&segment).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("segment {segment} is not prepared, or was retired"))
        })?;
        open.in_flight += 1;
        Ok(Arc::clone(&open.file))
    }

    /// The other half of [`Self::begin`].
    pub(crate) fn end(&mut self, segment: SegmentNo) {
        let open = self.open.get_mut(&segment).expect("a segment in flight is not retired");
        open.in_flight -= 1;
    }

    /// Announces an operation whose end will come as [`Finished::Data`].
    pub(crate) const fn expect_data(&mut self) {
        self.awaited += 1;
    }

    pub(crate) fn prepare(&mut self, id: OpId, header: Box<SegmentHeader>) {
        self.request(id, Request::Prepare(header));
    }

    pub(crate) fn retire(&mut self, id: OpId, segment: SegmentNo, end: u32) {
        if let Some(open) = self.open.remove(&segment) {
            assert_eq!(open.in_flight, 0, "segment {segment} is retired with operations in flight");
        }
        self.request(id, Request::Retire(segment, end));
    }

    fn request(&mut self, id: OpId, request: Request) {
        self.awaited += 1;
        let requests = self.requests.as_ref().expect("taken only on drop");
        // Fails only where the thread has died, which it reported itself.
        let _ = requests.send((id, request));
    }

    /// Appends what the threads have finished.
    pub(crate) fn collect(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
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
