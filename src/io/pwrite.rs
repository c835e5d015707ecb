//! [`PwriteDisk`]: the disk for machines where io_uring is blocked. A few threads call `pwrite` and
//! `fdatasync`; everything that [`Disk`] promises holds as it does on io_uring.
//!
//! A write costs two changes of thread more than on io_uring. The threads inherit the CPU mask of
//! whoever makes the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::io::buf::AlignedBuf;
use crate::io::clock::MonotonicClock;
use crate::io::disk::{Clock, Disk, DiskOp, Done, OpId, Outcome, Wait};
use crate::io::folder::{DirFolder, OpenFile};
use crate::io::maker::Maker;
use crate::io::segments::{DeathNotice, Finished, Segments};
use crate::io::waker::{Inbox, Waker};
use crate::limits::{BATCHES_IN_FLIGHT_MAX, PAGE_BYTES};
use crate::types::SegmentNo;

/// Threads of one disk that write and sync.
const THREADS: usize = BATCHES_IN_FLIGHT_MAX;

/// File operations on threads of its own.
pub struct PwriteDisk {
    segments: Segments,
    jobs: Arc<Jobs>,
    threads: Vec<JoinHandle<()>>,
    waker: Arc<Waker>,
    /// Ended without having begun.
    refused: Vec<Done>,
}

struct Jobs {
    state: Mutex<JobsState>,
    changed: Condvar,
}

#[derive(Default)]
struct JobsState {
    waiting: VecDeque<Job>,
    closing: bool,
}

struct Job {
    id: OpId,
    segment: SegmentNo,
    file: Arc<OpenFile>,
    work: Work,
}

enum Work {
    Write { offset: u32, buf: AlignedBuf },
    Sync,
}

impl PwriteDisk {
    /// A disk over `folder`; `ready` are the segments that can be written at once, and `waker`
    /// ends this disk's waits and no other's.
    ///
    /// # Errors
    /// Where a segment cannot be opened or a thread cannot be started.
    pub fn new(folder: Arc<DirFolder>, maker: Maker, ready: &[SegmentNo], waker: Arc<Waker>) -> io::Result<Self> {
        let inbox = Inbox::new(Arc::clone(&waker));
        let segments = Segments::start(folder, maker, ready, Arc::clone(&inbox))?;
        let jobs = Arc::new(Jobs { state: Mutex::default(), changed: Condvar::new() });
        let mut disk = Self { segments, jobs, threads: Vec::with_capacity(THREADS), waker, refused: Vec::new() };
        for _ in 0..THREADS {
            let (jobs, inbox) = (Arc::clone(&disk.jobs), Arc::clone(&inbox));
            let body = move || work(&jobs, &inbox);
            disk.threads.push(std::thread::Builder::new().name("forebay-pwrite".to_owned()).spawn(body)?);
        }
        Ok(disk)
    }

    fn start(&mut self, id: OpId, segment: SegmentNo, work: Work) {
        match self.segments.begin(segment) {
            Ok(file) => {
                self.segments.expect_data();
                self.jobs.lock().waiting.push_back(Job { id, segment, file, work });
                self.jobs.changed.notify_one();
            }
            Err(error) => {
                let buf = work.into_buf();
                self.refused.push(Done { id, outcome: Outcome::Failed(error), buf });
            }
        }
    }

    fn collect(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        done.append(&mut self.refused);
        self.segments.collect(done)
    }
}

impl Disk for PwriteDisk {
    fn submit(&mut self, id: OpId, op: DiskOp) {
        match op {
            DiskOp::Write { segment, offset, buf } => {
                check_alignment(offset, &buf);
                self.start(id, segment, Work::Write { offset, buf });
            }
            DiskOp::Sync { segment } => self.start(id, segment, Work::Sync),
            DiskOp::Prepare { header } => self.segments.prepare(id, header),
            DiskOp::Retire { segment, end } => self.segments.retire(id, segment, end),
        }
    }

    fn poll(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        self.collect(done)?;
        if done.len() > before || wait == Wait::No || !self.segments.sleep() {
            return self.collect(done);
        }
        let timeout = match wait {
            Wait::Until(then) => {
                let ns = then.since_ns(MonotonicClock.now());
                Some(Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ })
            }
            Wait::No | Wait::Event => None,
        };
        match poll(&mut [PollFd::new(&*self.waker, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => self.waker.consume()?,
            Err(error) => return Err(error.into()),
        }
        self.collect(done)
    }
}

impl Drop for PwriteDisk {
    /// Waits for what is in flight; what has not begun never does.
    fn drop(&mut self) {
        let mut state = self.jobs.lock();
        state.closing = true;
        state.waiting.clear();
        drop(state);
        self.jobs.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic in there was reported through the inbox.
            let _ = thread.join();
        }
    }
}

/// What both disks ask of a write.
///
/// # Panics
/// Where the offset or the length is not a multiple of 4 KiB, or there is nothing to write.
pub(crate) fn check_alignment(offset: u32, buf: &AlignedBuf) {
    let aligned = (offset as usize).is_multiple_of(PAGE_BYTES) && buf.len().is_multiple_of(PAGE_BYTES);
    assert!(aligned && !buf.is_empty(), "a write of {} bytes at {offset} is not whole pages", buf.len());
}

impl Work {
    fn into_buf(self) -> Option<AlignedBuf> {
        match self {
            Self::Write { buf, .. } => Some(buf),
            Self::Sync => None,
        }
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, JobsState> {
        // Each change is one step, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closing {
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(jobs: &Jobs, inbox: &Arc<Inbox<Finished>>) {
    let _notice = DeathNotice(Arc::clone(inbox));
    while let Some(Job { id, segment, file, work }) = jobs.next() {
        let outcome = match &work {
            Work::Write { offset, buf } => match file.write_some(u64::from(*offset), buf) {
                Ok(count) if count == buf.len() => Outcome::Written,
                Ok(_) => Outcome::Failed(io::ErrorKind::WriteZero.into()),
                Err(error) => Outcome::Failed(error),
            },
            Work::Sync => file.sync().map_or_else(Outcome::Failed, |()| Outcome::Synced),
        };
        inbox.push(Finished::Data(segment, Done { id, outcome, buf: work.into_buf() }));
    }
}
