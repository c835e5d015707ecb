//! [`UringDisk`]: the disk on io_uring. One of the three files that may contain `unsafe`.
//!
//! One ring per disk, used by one thread. A poll costs at most one `io_uring_enter`, and none if it
//! neither submits nor waits. Completions are taken by that same call (`DEFER_TASKRUN`, where the
//! kernel has it: of the modes tried, the least latency and CPU for a lone write and sync). The
//! eventfd of the [`Waker`] is watched by a read that stays armed in the ring and travels with
//! other submissions.
//!
//! A buffer belongs to the kernel from the moment it is pushed until its completion is seen. It
//! stands in a slot of this disk meanwhile, and so does its file; neither is ever freed before.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::process::{Resource, getrlimit};

use crate::io::buf::AlignedBuf;
use crate::io::clock::MonotonicClock;
use crate::io::disk::{Clock, Disk, DiskOp, Done, OpId, Wait};
use crate::io::folder::DirFolder;
use crate::io::maker::Maker;
use crate::io::segments::{Finished, Job, Segments, Work};
use crate::io::waker::{Inbox, Waker};
use crate::types::SegmentNo;

/// Entries of the submission queue; the completion queue has twice as many.
const ENTRIES: u32 = 256;
/// Marks the completion of the armed read of the waker; slots are far below.
const WAKE: u64 = u64::MAX;
/// What an eventfd gives to a reader, in bytes.
const WAKE_BYTES: u32 = 8;

/// File operations on io_uring. Made on any thread; then polled and dropped on one.
pub struct UringDisk {
    ring: IoUring,
    /// The ring belongs to the thread that polls first.
    enabled: bool,
    slots: Slots,
    in_flight_max: usize,
    /// Taken in, and not yet pushed.
    waiting: VecDeque<Job>,
    segments: Segments,
    waker: Arc<Waker>,
    /// The armed read puts the eventfd's count here; nobody looks at it.
    wake_count: AlignedBuf,
    wake_armed: bool,
    enters: u64,
}

/// Operations that the kernel may be working on; a completion names its slot.
#[derive(Default)]
struct Slots {
    slots: Vec<Option<Job>>,
    free: Vec<usize>,
}

impl UringDisk {
    /// A disk over `folder`; `ready` are the segments that can be written at once, and `waker`
    /// ends this disk's waits and no other's.
    ///
    /// # Errors
    /// Where io_uring cannot be used, with the cause and the cure in words (`Unsupported`,
    /// `PermissionDenied`, `OutOfMemory`); where a segment cannot be opened or a thread started.
    pub fn new(folder: Arc<DirFolder>, maker: Maker, ready: &[SegmentNo], waker: Arc<Waker>) -> io::Result<Self> {
        let ring = set_up()?;
        let segments = Segments::start(folder, maker, ready, Inbox::<Finished>::new(Arc::clone(&waker)))?;
        // One completion is left for the waker, so that the queue can never overflow.
        let in_flight_max = ring.params().cq_entries() as usize - 1;
        Ok(Self {
            ring,
            enabled: false,
            slots: Slots::default(),
            in_flight_max,
            waiting: VecDeque::new(),
            segments,
            waker,
            wake_count: AlignedBuf::new(WAKE_BYTES as usize),
            wake_armed: false,
            enters: 0,
        })
    }

    /// System calls made to submit or to wait, since the disk was made.
    #[must_use]
    pub const fn enters(&self) -> u64 {
        self.enters
    }

    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Pushes what waits, as far as there is room in both queues.
    fn push_waiting(&mut self) -> io::Result<()> {
        while self.slots.used() < self.in_flight_max {
            if self.ring.submission().is_full() {
                self.enter(Wait::No)?;
                if self.ring.submission().is_full() {
                    break; // The kernel takes no more at present; the next poll goes on.
                }
            }
            let Some(job) = self.waiting.pop_front() else { break };
            let slot = self.slots.insert(job);
            let entry = self.slots.entry(slot).user_data(slot as u64);
            // SAFETY: the entry points to a buffer and a descriptor that the slot owns. The slot is
            // emptied only by `reap`, once the kernel has completed the entry; on drop the slots
            // are kept until all have completed, or are leaked.
            unsafe { self.ring.submission().push(&entry) }.expect("it was not full");
        }
        Ok(())
    }

    /// Arms the read of the eventfd, if it is not. `false` where there is no room at present.
    fn arm_wake(&mut self) -> bool {
        if !self.wake_armed {
            let fd = Fd(self.waker.as_fd().as_raw_fd());
            let read = opcode::Read::new(fd, self.wake_count.as_mut_ptr(), WAKE_BYTES).build().user_data(WAKE);
            // SAFETY: the buffer and the eventfd are owned by this disk, are not touched while the
            // read is armed, and are kept or leaked on drop as the slots are.
            self.wake_armed = unsafe { self.ring.submission().push(&read) }.is_ok();
        }
        self.wake_armed
    }

    /// The one system call: submits what was pushed, and waits for one completion unless `No`.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.enters += 1;
        let submitter = self.ring.submitter();
        let entered = match wait {
            Wait::No => submitter.submit(),
            Wait::Event => submitter.submit_and_wait(1),
            Wait::Until(then) => {
                let ns = then.since_ns(MonotonicClock.now());
                let time = Timespec::new().sec(ns / 1_000_000_000).nsec((ns % 1_000_000_000) as u32);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) if passes(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes completions from the queue; whether the waker was among them.
    fn reap(&mut self, done: &mut Vec<Done>) -> io::Result<bool> {
        let mut woken = false;
        for completion in self.ring.completion() {
            let (slot, result) = (completion.user_data(), completion.result());
            if slot == WAKE {
                self.wake_armed = false;
                woken = true;
                if result < 0 && result != -Errno::INTR.raw_os_error() {
                    return Err(io::Error::from_raw_os_error(-result));
                }
                continue;
            }
            let job = self.slots.remove(slot as usize);
            self.segments.end(job.segment);
            let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            done.push(job.done(result));
        }
        Ok(woken)
    }
}

impl Disk for UringDisk {
    fn submit(&mut self, id: OpId, op: DiskOp) {
        self.waiting.extend(self.segments.take_in(id, op));
    }

    fn poll(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        self.enable()?;
        let before = done.len();
        let woken = self.reap(done)?;
        self.segments.collect(done)?;
        self.push_waiting()?;
        let idle = done.len() == before && !woken;
        let waits = idle && wait != Wait::No && self.arm_wake() && self.segments.sleep();
        let submission = self.ring.submission();
        let pending = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if waits {
            self.enter(wait)?;
        } else if pending {
            self.enter(Wait::No)?;
        }
        self.reap(done)?;
        self.segments.collect(done)
    }
}

impl Drop for UringDisk {
    /// Waits for what is in flight; what was not pushed never begins.
    fn drop(&mut self) {
        if self.wake_armed {
            self.waker.wake();
        }
        let mut ended = Vec::new();
        while self.slots.used() > 0 || self.wake_armed {
            let entered = self.ring.submit_and_wait(1);
            let lost = entered.is_err_and(|error| !passes(&error));
            if lost || self.reap(&mut ended).is_err() {
                // Dropped on another thread than the one that polled, or the ring has failed: the
                // kernel may still use this memory and these files, so nobody else ever will.
                std::mem::forget(std::mem::take(&mut self.slots));
                std::mem::forget(std::mem::replace(&mut self.wake_count, AlignedBuf::new(1)));
                std::mem::forget(Arc::clone(&self.waker));
                return;
            }
        }
    }
}

impl Slots {
    fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, job: Job) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(job);
        slot
    }

    /// The submission for the operation in a slot.
    fn entry(&self, slot: usize) -> squeue::Entry {
        let job = self.slots[slot].as_ref().expect("a used slot");
        let fd = Fd(job.file.as_fd().as_raw_fd());
        let write = |offset: u32, buf: &AlignedBuf| {
            let len = u32::try_from(buf.len()).expect("a batch is smaller than a segment");
            opcode::Write::new(fd, buf.as_ptr(), len).offset(u64::from(offset))
        };
        match &job.work {
            Work::Write { offset, buf } => write(*offset, buf).build(),
            #[cfg(feature = "sim")]
            Work::WriteSynced { offset, buf } if crate::planted::is_planted(crate::planted::Mutant::AckBeforeSync) => {
                write(*offset, buf).build()
            }
            Work::WriteSynced { offset, buf } => {
                write(*offset, buf).rw_flags(ReadWriteFlags::DSYNC.bits().cast_signed()).build()
            }
            Work::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    fn remove(&mut self, slot: usize) -> Job {
        let job = self.slots[slot].take().expect("an operation completes once");
        self.free.push(slot);
        job
    }
}

/// A call that ended early: by a signal, at its time, or because the kernel must first be relieved
/// of completions or memory. What was not submitted stays in the queue for the next call.
fn passes(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INTR | Errno::TIME | Errno::AGAIN | Errno::BUSY))
}

/// Whether io_uring can be used here.
///
/// # Errors
/// The cause and the cure in words.
pub fn available() -> io::Result<()> {
    set_up().map(drop)
}

fn set_up() -> io::Result<IoUring> {
    let ring = build().map_err(|error| explain(&error))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| explain(&error))?;
    if missing(|code| probe.is_supported(code)) || !ring.params().is_feature_ext_arg() {
        let why = "io_uring is older here than that of Linux 5.15. Cure: a newer kernel, or --io pwrite";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(ring)
}

/// The best mode that the kernel knows. Each is disabled until the polling thread enables it.
fn build() -> io::Result<IoUring> {
    let deferred = IoUring::builder()
        .setup_r_disabled()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(ENTRIES);
    let invalid = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::INVAL);
    match deferred {
        Err(error) if invalid(&error) => {}
        other => return other,
    }
    let cooperative = IoUring::builder()
        .setup_r_disabled()
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(ENTRIES);
    match cooperative {
        Err(error) if invalid(&error) => IoUring::builder().setup_r_disabled().build(ENTRIES),
        other => other,
    }
}

/// Whether something is missing that this disk uses, or the last operation that came with 5.15.
fn missing(supported: impl Fn(u8) -> bool) -> bool {
    [opcode::Write::CODE, opcode::Read::CODE, opcode::Fsync::CODE, opcode::LinkAt::CODE]
        .into_iter()
        .any(|code| !supported(code))
}

/// Why io_uring cannot be had, and what helps.
fn explain(error: &io::Error) -> io::Error {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = disabled.as_deref().map_or("absent", str::trim);
    let (kind, why) = match Errno::from_io_error(error) {
        Some(Errno::NOSYS) => (
            io::ErrorKind::Unsupported,
            "this kernel has no io_uring, or a seccomp profile hides it. Cure: Linux 5.15 or later, and a container \
             profile that allows io_uring_setup, io_uring_enter and io_uring_register; or --io pwrite"
                .to_owned(),
        ),
        Some(Errno::PERM | Errno::ACCESS) => (
            io::ErrorKind::PermissionDenied,
            format!(
                "a seccomp profile or the system forbids io_uring (sysctl kernel.io_uring_disabled is {disabled}). Cure: \
                 a container profile that allows io_uring_setup, io_uring_enter and io_uring_register, and \
                 sysctl kernel.io_uring_disabled=0; or --io pwrite"
            ),
        ),
        Some(Errno::NOMEM) => {
            let bytes = getrlimit(Resource::Memlock).current;
            let limit = bytes.map_or("unlimited".to_owned(), |bytes| format!("{} KiB", bytes >> 10));
            (
                io::ErrorKind::OutOfMemory,
                format!(
                    "not enough memory that may be locked (the limit is {limit}). Cure: ulimit -l 8192, \
                     prlimit --memlock, or LimitMEMLOCK= of the service; or --io pwrite"
                ),
            )
        }
        _ => (error.kind(), "unexpected. Cure: --io pwrite".to_owned()),
    };
    io::Error::new(kind, format!("io_uring cannot be set up: {error}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_failures_name_cause_and_cure() {
        for (errno, kind, cause, cure) in [
            (Errno::NOSYS, io::ErrorKind::Unsupported, "no io_uring", "seccomp"),
            (Errno::PERM, io::ErrorKind::PermissionDenied, "kernel.io_uring_disabled is", "io_uring_setup"),
            (Errno::NOMEM, io::ErrorKind::OutOfMemory, "the limit is", "ulimit -l"),
        ] {
            let error = explain(&errno.into());
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(text.contains(cause) && text.contains(cure) && text.contains("--io pwrite"), "{text}");
        }
    }

    #[test]
    fn kernels_before_5_15_are_recognized() {
        assert!(!missing(|_| true));
        assert!(missing(|code| code < opcode::MkDirAt::CODE));
        assert!(missing(|code| code != opcode::Fsync::CODE));
    }
}
