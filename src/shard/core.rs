//! The shard's decisions: a plain state machine without I/O, clock or thread.
//!
//! [`Core::step`] takes an event and appends effects; [`Core::sleep`] says how long the driver may
//! wait for the next event. All control flow of the write path is here. Promises kept here: a mark
//! moves only on completions (R1), the first failed operation on the log latches the shard (R2),
//! and a segment is given back only when all of it is synced and released (R6).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::config::SyncPolicy;
use crate::error::Fault;
use crate::io::buf::AlignedBuf;
use crate::io::disk::{DiskOp, Done, Instant, OpId, Outcome, is_no_space};
use crate::limits::{
    BATCHES_IN_FLIGHT_MAX, DRAIN_PERIOD_US, LEVEL_1_SYNC_MS, OVERLAP_AFTER_US, PAGE_BYTES, UNPUBLISHED_NAP_US,
};
use crate::shard::commit::{Commit, Failed};
use crate::shard::event::{Effect, Event, Look, Observed, Sleep};
use crate::shard::marks::Marks;
use crate::types::{SegmentNo, Seq, Stream};
use crate::wal::batch::{BatchBuilder, Begin, Push};
use crate::wal::log::{Log, LogBounds};

/// Empty drain periods after which a shard sleeps until the next publication.
const IDLE_PERIODS: u32 = 8;
/// How long after a failed preparation (disk full) the next one is tried, in microseconds.
const PREPARE_AGAIN_US: u64 = 200_000;

/// Options and identity of a core.
#[derive(Clone, Copy, Debug)]
pub struct CoreConfig {
    /// The stream of what is accepted now.
    pub own: Stream,
    /// When acknowledgements wait for fsync.
    pub policy: SyncPolicy,
    /// A batch's size in bytes beyond which no block joins it.
    pub batch_bytes_max: usize,
    /// Segments.
    pub bounds: LogBounds,
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    log: Log,
    commit: Commit,
    marks: Marks,
    told: Marks,
    released: Seq,
    pool: Vec<AlignedBuf>,
    filling: bool,
    bytes_needed: usize,
    next_op: u64,
    preparing: Option<OpId>,
    prepare_after: Instant,
    disk_full: bool,
    store_full: bool,
    /// Until then the last batch that was written is alone on its way.
    overlap_after: Instant,
    retiring: HashMap<OpId, Seq>,
    look: Look,
    last_look: Instant,
    idle_periods: u32,
    drain_due: Option<Instant>,
    dirty_since: Option<Instant>,
    sync_target: Option<(Seq, Instant)>,
    sync_next: Option<(Seq, Instant)>,
    stop: Stop,
    fault: Option<Arc<Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    Draining,
    Sealing,
    Stopped,
}

impl Core {
    /// A core for a recovered (or new) log, every batch of which is synced.
    #[must_use]
    pub fn new(config: CoreConfig, log: Log, flushed: Seq) -> Self {
        let last = log.last_seq();
        let log_ready = log.ready.len();
        let first = log.used.front().unwrap_or(&log.current).first_seq;
        let marks = Marks {
            shard: config.own.shard,
            accepted: last,
            written: last,
            synced: last,
            // What was trimmed had been flushed, even where the store does not remember it.
            flushed: flushed.max(first.prev()).min(last),
            trimmed: first.prev(),
        };
        Self {
            config,
            commit: Commit::new(log.number, last),
            log,
            marks,
            told: Marks::default(),
            released: first.prev(),
            pool: Vec::new(),
            filling: false,
            bytes_needed: 0,
            next_op: 1,
            preparing: None,
            prepare_after: Instant(0),
            disk_full: false,
            store_full: log_ready as u64 <= config.bounds.reserve,
            overlap_after: Instant(0),
            retiring: HashMap::new(),
            look: Look { published: last, ..Look::default() },
            last_look: Instant(0),
            idle_periods: 0,
            drain_due: None,
            dirty_since: None,
            sync_target: None,
            sync_next: None,
            stop: Stop::No,
            fault: None,
        }
    }

    /// The marks as they stand.
    #[must_use]
    pub const fn marks(&self) -> Marks {
        self.marks
    }

    /// Only the reserve is left: the ring must take nothing.
    #[must_use]
    pub const fn is_store_full(&self) -> bool {
        self.store_full
    }

    /// The log's segments.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// Takes one event in and appends what is to be done, in order.
    pub fn step(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Looked(look) => self.looked(now, look),
            Event::Filled(batch, push) => self.filled(now, *batch, push, effects),
            Event::Done(done) => self.done(now, done, effects),
            Event::DiskLost(cause) => self.disk_lost(cause, effects),
            Event::Released { flushed, released } => {
                self.marks.flushed = self.marks.flushed.max(flushed.min(self.marks.synced));
                self.released = self.released.max(released.min(self.marks.flushed));
            }
            Event::SyncWanted(seq) => {
                self.want_sync(seq.min(self.look.published), now);
            }
            Event::Stop if self.stop == Stop::No => self.stop = Stop::Draining,
            Event::Stop | Event::Tick => {}
        }
        if self.fault.is_none() {
            self.decide(now, effects);
        } else if self.stop != Stop::No && self.stop != Stop::Stopped && self.is_quiet() {
            self.stop = Stop::Stopped;
            effects.push(Effect::Stopped);
        }
    }

    /// How long the driver may sleep, given that every effect was carried out.
    #[must_use]
    pub fn sleep(&self, now: Instant) -> Sleep {
        if self.filling {
            return Sleep::No;
        }
        if self.fault.is_some() {
            return Sleep::UntilPublication(None);
        }
        let mut until: Option<Instant> = None;
        let mut earlier = |at: Option<Instant>| {
            if let Some(at) = at {
                until = Some(until.map_or(at, |until| until.min(at)));
            }
        };
        let waiting = self.waiting();
        let may_write = self.can_begin() && self.may_write(now);
        if waiting && may_write {
            if self.must_drain_now(now) {
                return Sleep::No;
            }
            earlier(self.drain_due);
        }
        if !may_write && self.can_begin() {
            earlier(self.overlaps_at());
        }
        if self.stop == Stop::Draining && self.look.unpublished {
            earlier(Some(self.last_look.plus_us(UNPUBLISHED_NAP_US)));
        }
        if !waiting && self.config.policy != SyncPolicy::Each && self.idle_periods < IDLE_PERIODS {
            earlier(Some(self.last_look.plus_us(DRAIN_PERIOD_US)));
        }
        // Once a due sync has its target, the end of a write is what it waits for.
        if self.sync_target.is_none() {
            earlier(self.sync_due());
        }
        // Past that time no more is wanted, or the shard stops: there is nothing to wait for.
        if self.disk_full && self.preparing.is_none() && self.prepare_after > now {
            earlier(Some(self.prepare_after));
        }
        let quarter = (waiting || self.idle_periods < IDLE_PERIODS) && self.config.policy != SyncPolicy::Each;
        // While no batch can be begun, a publication is nothing to wake up for.
        if quarter || waiting || !may_write { Sleep::UntilQuarter(until) } else { Sleep::UntilPublication(until) }
    }

    /// When one more batch may be on its way, beside those that are. A small batch costs the device, and whoever
    /// wakes its waiters, as much as a large one, and large ones hold each other up: so what waits grows meanwhile,
    /// unless the device is slow.
    fn overlaps_at(&self) -> Option<Instant> {
        (self.commit.writes_in_flight() < BATCHES_IN_FLIGHT_MAX).then_some(self.overlap_after)
    }

    /// The device takes one more batch.
    fn may_write(&self, now: Instant) -> bool {
        #[cfg(feature = "sim")]
        if crate::planted::is_planted(crate::planted::Mutant::WritesWithoutBound) {
            return true;
        }
        self.commit.writes_in_flight() == 0 || self.overlaps_at().is_some_and(|at| at <= now)
    }

    /// There is a segment to write the next batch to.
    fn can_begin(&self) -> bool {
        let enough = !self.log.is_full() && self.log.room() >= self.bytes_needed;
        enough || !self.log.ready.is_empty()
    }

    /// Blocks wait in the ring.
    fn waiting(&self) -> bool {
        self.look.published > self.log.last_seq()
    }

    fn looked(&mut self, now: Instant, look: Look) {
        if look.published > self.look.published && self.dirty_since.is_none() {
            // What was published since the last look is at most this old: with an empty ring the
            // shard is woken by the first publication, else it looks once per drain period.
            let period = Instant(now.0.saturating_sub(DRAIN_PERIOD_US * 1000));
            self.dirty_since = Some(if self.idle_periods < IDLE_PERIODS { self.last_look.max(period) } else { now });
        }
        let was_waiting = self.waiting();
        self.look = look;
        self.marks.accepted = self.marks.accepted.max(look.published);
        if self.waiting() {
            self.idle_periods = 0;
            if !was_waiting || self.drain_due.is_none() {
                self.drain_due = Some(now.plus_us(DRAIN_PERIOD_US));
            }
        } else if now >= self.last_look.plus_us(DRAIN_PERIOD_US) {
            self.idle_periods = (self.idle_periods + 1).min(IDLE_PERIODS);
        }
        if now >= self.last_look.plus_us(DRAIN_PERIOD_US) || self.waiting() || self.stop != Stop::No {
            self.last_look = now;
        }
    }

    fn must_drain_now(&self, now: Instant) -> bool {
        self.config.policy == SyncPolicy::Each
            || self.look.quarter_full
            || self.drain_due.is_some_and(|due| now >= due)
            || self.sync_target.is_some_and(|(target, _)| target > self.log.last_seq())
            || self.store_full
            || self.stop != Stop::No
    }

    /// When the next sync is due by the policy.
    fn sync_due(&self) -> Option<Instant> {
        let since = self.dirty_since?;
        match self.config.policy {
            SyncPolicy::Each => None,
            SyncPolicy::Periodic { ms } => Some(since.plus_us(ms * 1000)),
            SyncPolicy::Level1 => Some(since.plus_us(LEVEL_1_SYNC_MS * 1000)),
        }
    }

    /// Everything that may be begun now is begun, in the order in which it unblocks other things.
    fn decide(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.decide_marks(effects);
        self.decide_segments(now, effects);
        if self.sync_target.is_none() && self.sync_due().is_some_and(|due| now >= due) {
            self.sync_target = Some((self.look.published, now));
        }
        if !self.filling {
            self.decide_batch(now, effects);
        }
        self.decide_sync(now, effects);
        self.decide_stop(now, effects);
    }

    fn decide_marks(&mut self, effects: &mut Vec<Effect>) {
        self.marks.written = self.commit.written();
        self.marks.synced = self.commit.synced().1;
        if self.marks != self.told {
            self.told = self.marks;
            effects.push(Effect::Marks(self.marks));
        }
    }

    fn decide_segments(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(oldest) = self.log.retire(self.released, self.commit.synced()) {
            let op = self.op();
            self.retiring.insert(op, oldest.last_seq);
            effects.push(Effect::Disk(op, DiskOp::Retire { segment: oldest.header.segment, end: oldest.end }));
        }
        if self.preparing.is_none()
            && now >= self.prepare_after
            && self.stop == Stop::No
            && let Some(header) = self.log.wants(self.config.bounds)
        {
            let op = self.op();
            self.preparing = Some(op);
            effects.push(Effect::Disk(op, DiskOp::Prepare { header: Box::new(header) }));
        }
        // With only the reserve left nothing more may be accepted, whatever the cause: the reserve is
        // for what was accepted before, here or in a recovery.
        let only_reserve = self.log.ready.len() as u64 <= self.config.bounds.reserve;
        #[cfg(feature = "sim")]
        let only_reserve =
            only_reserve || (self.store_full && crate::planted::is_planted(crate::planted::Mutant::NeverReopens));
        if only_reserve != self.store_full && self.stop == Stop::No {
            self.store_full = only_reserve;
            if only_reserve {
                effects.push(Effect::Observed(Observed::Stall));
            }
            effects.push(if only_reserve { Effect::StoreFull } else { Effect::Reopen });
        }
    }

    /// Goes on in the next segment; false if none is ready.
    fn rotate(&mut self, effects: &mut Vec<Effect>) -> bool {
        let ended = (self.log.current.header.segment, self.log.current.end);
        if !self.log.rotate() {
            return false;
        }
        effects.push(Effect::SegmentEnded(ended.0, ended.1));
        effects.push(Effect::Segment(self.log.current.clone()));
        true
    }

    fn decide_batch(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.waiting() || !self.may_write(now) || !self.must_drain_now(now) {
            return;
        }
        let room = self.log.room();
        if (self.log.is_full() || room < self.bytes_needed) && !self.rotate(effects) {
            return;
        }
        self.filling = true;
        let batch = Box::new(self.begin());
        effects.push(Effect::Fill(batch, self.look.published));
    }

    fn begin(&mut self) -> BatchBuilder {
        let begin = Begin {
            vector: self.log.vector(),
            place: self.log.place(),
            own: self.config.own,
            first_seq: self.log.last_seq().next(),
            soft_bytes: self.config.batch_bytes_max,
            hard_bytes: self.log.room(),
            ends: std::mem::take(&mut self.log.ends),
        };
        let usual = self.config.batch_bytes_max.next_multiple_of(PAGE_BYTES);
        let capacity = usual.max(self.bytes_needed).max(begin.bytes_least());
        let buf = match self.pool.pop() {
            Some(buf) if buf.capacity() >= capacity => buf,
            _ => AlignedBuf::new(capacity),
        };
        BatchBuilder::new(begin, buf)
    }

    fn filled(&mut self, now: Instant, batch: BatchBuilder, push: Push, effects: &mut Vec<Effect>) {
        assert!(self.filling, "a batch that nobody asked for");
        self.filling = false;
        self.bytes_needed = 0;
        if batch.entries() == 0 {
            if let Push::NeedsBytes(bytes) = push {
                self.bytes_needed = bytes;
            }
            let (buf, ends) = batch.abandon();
            self.log.ends = ends;
            self.home(buf);
            return;
        }
        self.write(now, batch, false, effects);
        self.drain_due = self.waiting().then_some(now);
    }

    fn write(&mut self, now: Instant, batch: BatchBuilder, seal: bool, effects: &mut Vec<Effect>) {
        let place = self.log.place();
        let link = self.log.link(self.commit.synced().0, seal);
        let (buf, header, after) = batch.finish(link);
        self.log.appended(&header, after);
        let op = self.op();
        let (segment, offset) = (place.segment, place.offset);
        self.overlap_after = now.plus_us(OVERLAP_AFTER_US + u64::from(header.length) / 1024);
        self.commit.writing(op, (segment, offset), &header, now);
        effects.push(Effect::Observed(Observed::Batch { blocks: header.numbered, bytes: header.length }));
        // Where somebody waits for it, one write that is durable by itself beats a write and a sync.
        let write = match self.config.policy {
            SyncPolicy::Each => DiskOp::WriteSynced { segment, offset, buf },
            SyncPolicy::Level1 | SyncPolicy::Periodic { .. } => DiskOp::Write { segment, offset, buf },
        };
        effects.push(Effect::Disk(op, write));
    }

    fn decide_sync(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let target_written = self.sync_target.is_some_and(|(target, _)| self.marks.written >= target);
        // Without a segment to go on in, what is written cannot wait for the rest of the target.
        let cut_off = self.sync_target.is_some() && !self.can_begin();
        let each = self.config.policy == SyncPolicy::Each;
        let all = each || target_written || cut_off || self.stop == Stop::Sealing;
        // Segments that the log has left are synced at every level, with no ack waiting for it.
        let end = (!all).then_some(self.log.current.header.segment);
        for segment in self.commit.unsynced_segments(end) {
            let op = self.op();
            if self.commit.syncing(op, segment, now) {
                effects.push(Effect::Disk(op, DiskOp::Sync { segment }));
            }
        }
        if target_written {
            self.target_reached();
        }
    }

    fn target_reached(&mut self) {
        if let Some((target, since)) = self.sync_target
            && self.marks.synced >= target
        {
            self.sync_target = self.sync_next.take().filter(|(next, _)| *next > self.marks.synced);
            self.dirty_since = (self.look.published > self.marks.synced).then_some(since);
        }
    }

    /// A target that a sync is waited for stays where it is: one that moved on with what is accepted
    /// would never be reached under load. What is wanted beyond it comes next.
    fn want_sync(&mut self, seq: Seq, now: Instant) {
        match self.sync_target {
            _ if seq <= self.marks.synced => {}
            None => self.sync_target = Some((seq, now)),
            Some((target, _)) if seq <= target => {}
            Some(_) => {
                let (next, since) = self.sync_next.unwrap_or((seq, now));
                self.sync_next = Some((next.max(seq), since));
            }
        }
    }

    fn decide_stop(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        match self.stop {
            Stop::Draining if !self.waiting() && !self.look.unpublished && !self.filling => {
                if self.log.is_full() && !self.rotate(effects) {
                    return;
                }
                self.stop = Stop::Sealing;
                let batch = self.begin();
                self.write(now, batch, true, effects);
            }
            Stop::Sealing if self.commit.is_clean() && self.is_quiet() => {
                self.stop = Stop::Stopped;
                effects.push(Effect::Stopped);
            }
            _ => {}
        }
    }

    /// No operation is on its way.
    fn is_quiet(&self) -> bool {
        self.commit.writes_in_flight() == 0
            && self.commit.syncs_in_flight() == 0
            && self.preparing.is_none()
            && self.retiring.is_empty()
    }

    fn done(&mut self, now: Instant, done: Done, effects: &mut Vec<Effect>) {
        if let Some(buf) = done.buf {
            self.home(buf);
        }
        match done.outcome {
            Outcome::Failed(cause) if self.preparing == Some(done.id) && is_no_space(&cause) => {
                self.preparing = None;
                self.disk_full = true;
                self.prepare_after = now.plus_us(PREPARE_AGAIN_US);
            }
            Outcome::Failed(cause) => self.latch(done.id, cause, effects),
            // After a fault nothing is credited any more, whatever the device says.
            _ if self.fault.is_some() => {
                self.forget(done.id);
            }
            Outcome::Written => {
                let began = self.commit.wrote(done.id).expect("a write of this shard");
                effects.push(Effect::Observed(Observed::Wrote(now.since_ns(began))));
            }
            Outcome::Synced => self.synced(now, done.id, effects),
            Outcome::Prepared(header) => {
                assert_eq!(self.preparing.take(), Some(done.id), "one preparation at a time");
                self.disk_full = false;
                self.log.ready.push_back(*header);
            }
            Outcome::Retired => {
                let seq = self.retiring.remove(&done.id).expect("a retirement of this shard");
                self.marks.trimmed = self.marks.trimmed.max(seq);
            }
        }
    }

    fn synced(&mut self, now: Instant, op: OpId, effects: &mut Vec<Effect>) {
        let before = self.marks.synced;
        let unsynced_bytes = self.commit.unsynced_bytes();
        let own_write = self.commit.wrote_synced(op);
        let began = own_write.or_else(|| self.commit.was_synced(op)).expect("a sync of this shard");
        self.marks.written = self.commit.written();
        self.marks.synced = self.commit.synced().1;
        effects.push(Effect::Observed(Observed::Sync {
            took_ns: now.since_ns(began),
            unsynced_ns: self.dirty_since.map_or(0, |since| now.since_ns(since)),
            unsynced_bytes,
        }));
        if self.config.policy == SyncPolicy::Each && self.marks.synced > before {
            self.dirty_since = (self.look.published > self.marks.synced).then_some(began);
        }
        self.target_reached();
    }

    /// The operation is over, without credit: what it was, and where.
    fn forget(&mut self, op: OpId) -> (&'static str, SegmentNo, u32) {
        let current = self.log.current.header.segment;
        if self.preparing == Some(op) {
            self.preparing = None;
            return ("prepare", current, 0);
        }
        if self.retiring.remove(&op).is_some() {
            return ("retire", current, 0);
        }
        match self.commit.failed(op).expect("an operation of this shard") {
            Failed::Write(segment, offset) => ("write", segment, offset),
            Failed::Sync(segment) => ("fdatasync", segment, 0),
        }
    }

    fn latch(&mut self, op: OpId, cause: io::Error, effects: &mut Vec<Effect>) {
        let (operation, segment, offset) = self.forget(op);
        self.fail(operation, segment, offset, cause, effects);
    }

    fn disk_lost(&mut self, cause: io::Error, effects: &mut Vec<Effect>) {
        self.commit.give_up();
        self.preparing = None;
        self.retiring.clear();
        self.fail("io", self.log.current.header.segment, 0, cause, effects);
    }

    fn fail(
        &mut self,
        operation: &'static str,
        segment: SegmentNo,
        offset: u32,
        cause: io::Error,
        effects: &mut Vec<Effect>,
    ) {
        if self.fault.is_some() {
            return;
        }
        let fault = Arc::new(Fault {
            shard: self.config.own.shard,
            operation,
            segment,
            offset,
            unknown: self.look.published.0.saturating_sub(self.marks.synced.0),
            cause: Arc::new(cause),
        });
        self.fault = Some(Arc::clone(&fault));
        effects.push(Effect::Fault(fault));
    }

    /// A buffer came home; those of unusual size and more than can be in flight are dropped.
    fn home(&mut self, buf: AlignedBuf) {
        let usual = self.config.batch_bytes_max.next_multiple_of(PAGE_BYTES);
        if buf.capacity() == usual && self.pool.len() <= BATCHES_IN_FLIGHT_MAX {
            self.pool.push(buf);
        }
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }
}
