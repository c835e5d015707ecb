//! What a shard's thread shares with writers, readers and the flusher: marks to wait on, requests,
//! the table of segments, counters. No lock here is held across a system call.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use crate::config::SyncPolicy;
use crate::error::Fault;
use crate::io::disk::DiskOp;
use crate::shard::marks::Marks;
use crate::shard::pace::Pace;
use crate::shard::ring::Wake;
use crate::shard::shipping::Shipping;
use crate::shard::tail::Tail;
use crate::shard::waiters::Mark;
use crate::stats::ShardStats;
use crate::types::{SegmentNo, Seq, ShardId};
use crate::wal::batch::Place;
use crate::wal::breaks::Partly;
use crate::wal::log::UsedSegment;
use crate::wal::segment::{Handled, SegmentHeader};

/// A segment as readers see it.
#[derive(Clone, Debug)]
pub struct ReadableSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// The seq of the first block that may stand in it.
    pub first_seq: Seq,
    /// Where its log ends, once that is known.
    pub end: Option<u32>,
}

/// The segments that hold the log, oldest first, and the ranges in them to skip.
#[derive(Debug, Default)]
pub struct SegmentTable {
    /// The segments.
    pub segments: VecDeque<ReadableSegment>,
    /// Salvaged ranges.
    pub handled: Vec<Handled>,
    /// Batches in these that hold whole blocks.
    pub partly: Partly,
}

/// The shared part of one shard.
pub struct Shared {
    shard: ShardId,
    /// The `written` mark.
    pub written: Mark,
    /// The `synced` mark.
    pub synced: Mark,
    /// The `flushed` mark.
    pub flushed: Mark,
    /// What followers have.
    pub shipping: Shipping,
    /// The log's newest batches, while somebody reads them.
    pub tail: Arc<Tail>,
    /// How fast writers may append.
    pub pace: Pace,
    accepted: AtomicU64,
    trimmed: AtomicU64,
    fault: OnceLock<Arc<Fault>>,
    stopped: AtomicBool,
    wake: Arc<dyn Wake>,
    /// Every write is synced: nobody need ask for it.
    syncs_each: bool,
    sync_wanted: AtomicU64,
    store_flushed: AtomicU64,
    stop: AtomicBool,
    holds: Mutex<HashMap<u64, Seq>>,
    segments: Mutex<SegmentTable>,
    stats: Mutex<ShardStats>,
    flusher: OnceLock<Thread>,
    /// Bytes of log at which the flusher is woken.
    flusher_at: AtomicU64,
    /// Up to where it is not to wait for its period.
    flush_wanted: AtomicU64,
}

/// A poisoned lock is taken all the same: every section under these locks leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The shared part of a shard whose core stands at `marks` and syncs by this policy.
    #[must_use]
    pub fn new(marks: Marks, policy: SyncPolicy, wake: Arc<dyn Wake>, table: SegmentTable) -> Self {
        Self {
            shard: marks.shard,
            written: Mark::new(marks.written),
            synced: Mark::new(marks.synced),
            flushed: Mark::new(marks.flushed),
            shipping: Shipping::default(),
            tail: Arc::default(),
            pace: Pace::new(),
            accepted: AtomicU64::new(marks.accepted.0),
            trimmed: AtomicU64::new(marks.trimmed.0),
            fault: OnceLock::new(),
            stopped: AtomicBool::new(false),
            wake,
            syncs_each: policy == SyncPolicy::Each,
            sync_wanted: AtomicU64::new(0),
            store_flushed: AtomicU64::new(marks.flushed.0),
            stop: AtomicBool::new(false),
            holds: Mutex::new(HashMap::new()),
            segments: Mutex::new(table),
            stats: Mutex::new(ShardStats::default()),
            flusher: OnceLock::new(),
            flusher_at: AtomicU64::new(u64::MAX),
            flush_wanted: AtomicU64::new(0),
        }
    }

    /// The marks. `accepted` is what the shard has seen; the ring may already hold more.
    #[must_use]
    pub fn marks(&self) -> Marks {
        // Lower marks first: each is at most the ones read after it.
        let trimmed = Seq(self.trimmed.load(Ordering::Acquire));
        let flushed = self.flushed.at();
        let synced = self.synced.at();
        let written = self.written.at();
        let accepted = Seq(self.accepted.load(Ordering::Acquire)).max(written);
        Marks { shard: self.shard, accepted, written, synced, flushed, trimmed }
    }

    /// The marks moved: wakes who waits for them.
    pub fn publish(&self, marks: Marks) {
        self.accepted.fetch_max(marks.accepted.0, Ordering::AcqRel);
        self.synced.advance(marks.synced);
        self.written.advance(marks.written);
        self.flushed.advance(marks.flushed);
        self.trimmed.fetch_max(marks.trimmed.0, Ordering::AcqRel);
    }

    /// The shard died: everybody who waits learns it. The first fault stays.
    pub fn fail(&self, fault: Arc<Fault>) {
        let _ = self.fault.set(fault);
        self.end();
    }

    /// The shard's thread ended, for good or ill.
    pub fn end(&self) {
        self.stopped.store(true, Ordering::Release);
        for mark in [&self.written, &self.synced, &self.flushed] {
            mark.fail();
        }
        self.shipping.fail();
    }

    /// The fault that ended the shard, if one did.
    #[must_use]
    pub fn fault(&self) -> Option<Arc<Fault>> {
        self.fault.get().cloned()
    }

    /// The thread has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Asks for a sync up to `seq`, whatever the policy.
    pub fn want_synced(&self, seq: Seq) {
        if !self.syncs_each && self.sync_wanted.fetch_max(seq.0, Ordering::AcqRel) < seq.0 {
            self.wake.wake();
        }
    }

    /// Asks the flusher for everything up to this seq, without waiting for its period.
    pub fn want_flushed(&self, upto: Seq) {
        self.flush_wanted.fetch_max(upto.0, Ordering::SeqCst);
        if let Some(flusher) = self.flusher.get() {
            flusher.unpark();
        }
    }

    /// Whether somebody has asked for more than that.
    #[must_use]
    pub fn wants_flushed(&self, flushed: Seq) -> bool {
        self.flush_wanted.load(Ordering::SeqCst) > flushed.0
    }

    /// The flusher's thread asks to be unparked, once, when this many bytes of log are written since
    /// the open; false where they already are.
    pub fn wake_flusher_at(&self, bytes: u64) -> bool {
        self.flusher.get_or_init(std::thread::current);
        self.flusher_at.store(bytes, Ordering::Release);
        // Under the lock that `logged` has taken before: one of the two sees what the other did.
        self.stats().bytes < bytes
    }

    /// The thread would sleep for too long.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// A batch was written: counts it, and wakes the flusher if it waits for that.
    pub fn logged(&self, blocks: u64, bytes: u64) {
        let mut stats = self.stats();
        stats.batches += 1;
        stats.blocks += blocks;
        stats.bytes += bytes;
        let bytes = stats.bytes;
        drop(stats);
        if bytes >= self.flusher_at.load(Ordering::Acquire)
            && let Some(flusher) = self.flusher.get()
        {
            self.flusher_at.store(u64::MAX, Ordering::Release);
            flusher.unpark();
        }
    }

    /// The store holds everything up to `seq`.
    pub fn store_flushed(&self, seq: Seq) {
        if self.store_flushed.fetch_max(seq.0, Ordering::AcqRel) < seq.0 {
            self.wake.wake();
        }
    }

    /// Asks the thread to seal the log and end; the ring is closed.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    /// Sets, moves or (`None`) removes what a reader still needs: everything behind `seq`.
    pub fn hold(&self, reader: u64, seq: Option<Seq>) {
        let mut holds = lock(&self.holds);
        let before = holds.values().min().copied();
        match seq {
            Some(seq) => holds.insert(reader, seq),
            None => holds.remove(&reader),
        };
        let moved = holds.values().min().copied() != before;
        drop(holds);
        if moved {
            self.wake.wake();
        }
    }

    /// What readers still need: everything behind this.
    #[must_use]
    pub fn held(&self) -> Seq {
        lock(&self.holds).values().min().copied().unwrap_or(Seq(u64::MAX))
    }

    /// The requests as they stand: sync wanted, flushed by the store, stop.
    #[must_use]
    pub fn requests(&self) -> (Seq, Seq, bool) {
        (
            Seq(self.sync_wanted.load(Ordering::Acquire)),
            Seq(self.store_flushed.load(Ordering::Acquire)),
            self.stop.load(Ordering::Acquire),
        )
    }

    /// What readers are to know of an operation before the disk has it.
    pub fn submitting(&self, op: &DiskOp) {
        match op {
            DiskOp::Write { segment, offset, buf } | DiskOp::WriteSynced { segment, offset, buf } => {
                let place = self.tail.is_read().then(|| self.segments().place(*segment, *offset)).flatten();
                if let Some(place) = place {
                    self.tail.keep(&place, buf);
                }
            }
            DiskOp::Retire { segment, .. } => self.segments().retire(*segment),
            DiskOp::Sync { .. } | DiskOp::Prepare { .. } => {}
        }
    }

    /// The table of segments.
    pub fn segments(&self) -> MutexGuard<'_, SegmentTable> {
        lock(&self.segments)
    }

    /// The counters.
    pub fn stats(&self) -> MutexGuard<'_, ShardStats> {
        lock(&self.stats)
    }
}

impl SegmentTable {
    /// The log goes on in this segment.
    pub fn begin(&mut self, segment: &UsedSegment) {
        self.segments.push_back(ReadableSegment {
            header: segment.header.clone(),
            first_seq: segment.first_seq,
            end: None,
        });
    }

    /// The segment's end is known.
    pub fn end(&mut self, segment: SegmentNo, end: u32) {
        if let Some(found) = self.segments.iter_mut().find(|found| found.header.segment == segment) {
            found.end = Some(end);
        }
    }

    /// A place in one of them.
    fn place(&self, segment: SegmentNo, offset: u32) -> Option<Place> {
        let found = self.segments.iter().rev().find(|found| found.header.segment == segment);
        found.map(|found| Place::new(&found.header, offset))
    }

    /// The segment is being given back.
    pub fn retire(&mut self, segment: SegmentNo) {
        self.segments.retain(|found| found.header.segment != segment);
    }
}
