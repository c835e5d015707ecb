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

use crate::io::clock::MonotonicClock;
use crate::io::disk::{Clock, Disk, DiskOp, Done, OpId, Wait};
use crate::io::folder::DirFolder;
use crate::io::maker::Maker;
use crate::io::segments::{DeathNotice, Finished, Job, Segments, Work};
use crate::io::waker::{Inbox, Waker};
use crate::limits::BATCHES_IN_FLIGHT_MAX;
use crate::types::SegmentNo;

/// Threads of one disk that write and sync.
const THREADS: usize = BATCHES_IN_FLIGHT_MAX;

/// File operations on threads of its own.
pub struct PwriteDisk {
    segments: Segments,
    jobs: Arc<Jobs>,
    threads: Vec<JoinHandle<()>>,
    waker: Arc<Waker>,
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
        let mut disk = Self { segments, jobs, threads: Vec::with_capacity(THREADS), waker };
        for _ in 0..THREADS {
            let (jobs, inbox) = (Arc::clone(&disk.jobs), Arc::clone(&inbox));
            let body = move || work(&jobs, &inbox);
            disk.threads.push(std::thread::Builder::new().name("forebay-pwrite".to_owned()).spawn(body)?);
        }
        Ok(disk)
    }
}

impl Disk for PwriteDisk {
    fn submit(&mut self, id: OpId, op: DiskOp) {
        if let Some(job) = self.segments.take_in(id, op) {
            self.segments.expect_data();
            self.jobs.lock().waiting.push_back(job);
            self.jobs.changed.notify_one();
        }
    }

    fn poll(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        self.segments.collect(done)?;
        if done.len() > before || wait == Wait::No || !self.segments.sleep() {
            return self.segments.collect(done);
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
        self.segments.collect(done)
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
    while let Some(job) = jobs.next() {
        let result = match &job.work {
            Work::Write { offset, buf } => job.file.write_some(u64::from(*offset), buf),
            // On a thread of its own anyway, two calls are faster than one with RWF_DSYNC.
            Work::WriteSynced { offset, buf } => match job.file.write_some(u64::from(*offset), buf) {
                Ok(count) if count == buf.len() => job.file.sync().map(|()| count),
                short => short,
            },
            Work::Sync => job.file.sync().map(|()| 0),
        };
        inbox.push(Finished::Data(job.segment, job.done(result)));
    }
}
