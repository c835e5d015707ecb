//! The one loop that runs a [`Core`] over a disk, a clock and an intake.
//!
//! It carries effects out in order, feeds what happened back, and sleeps as the core says. All
//! decisions are the core's, but for how long readers may hold the log.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::data::store::Keeps;
use crate::io::disk::{Clock, Disk, DiskOp, Done, Instant, Wait};
use crate::shard::consumer::WakeOn;
use crate::shard::core::Core;
use crate::shard::event::{Effect, Event, Look, Observed, Sleep};
use crate::shard::ring::Closed;
use crate::shard::shared::Shared;
use crate::types::{SegmentNo, Seq};
use crate::wal::batch::{BatchBuilder, Push};

/// The shard's side of an intake ring, as the driver needs it.
pub trait Intake {
    /// Looks for what was published since.
    fn look(&mut self) -> Look;
    /// Copies entries up to `upto` into a batch; why it stopped.
    fn drain(&mut self, batch: &mut BatchBuilder, upto: Seq) -> Push;
    /// Gives back the room of everything up to `upto`.
    fn free(&mut self, upto: Seq);
    /// Before a sleep; false where there is something to do.
    fn prepare_sleep(&mut self, on: WakeOn) -> bool;
    /// Before a sleep: serves deadlines of who waits; in how many nanoseconds the next one ends.
    fn deadline_ns(&mut self) -> Option<u64>;
    /// After a sleep.
    fn awake(&mut self);
    /// Nothing is accepted from here on.
    fn close(&mut self, why: Closed);
    /// Opens again after `StoreFull`.
    fn reopen(&mut self);
}

/// How long the log is held for readers.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// What the store does with blocks.
    pub keeps: Keeps,
    /// Nanoseconds for which a finished segment is held for readers.
    pub period_ns: u64,
    /// Finished segments that are held for readers at most.
    pub segments: u64,
    /// Segments at which readers are overtaken, so that writers are not held up.
    pub pressure_segments: u64,
}

/// Whether a driver goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It does.
    On,
    /// The log is sealed and synced, or the shard is dead: nothing is left to do.
    Over,
}

/// The loop's state.
pub struct Driver<D, C, I> {
    core: Core,
    disk: D,
    clock: C,
    intake: I,
    shared: Arc<Shared>,
    retention: Retention,
    effects: VecDeque<Effect>,
    scratch: Vec<Effect>,
    done: Vec<Done>,
    asked: (Seq, Seq, bool),
    released: (Seq, Seq),
    /// Finished segments: number, last seq, when they were finished.
    finished: VecDeque<(SegmentNo, Seq, Instant)>,
    over: bool,
}

impl<D: Disk, C: Clock, I: Intake> Driver<D, C, I> {
    /// A driver for a core that has not taken a step yet.
    pub fn new(core: Core, disk: D, clock: C, intake: I, shared: Arc<Shared>, retention: Retention) -> Self {
        let now = clock.now();
        let used = core.log().used.iter();
        let finished = used.map(|used| (used.header.segment, used.last_seq, now)).collect();
        Self {
            core,
            disk,
            clock,
            intake,
            shared,
            retention,
            effects: VecDeque::new(),
            scratch: Vec::new(),
            done: Vec::new(),
            asked: (Seq(0), Seq(0), false),
            released: (Seq(0), Seq(0)),
            finished,
            over: false,
        }
    }

    /// Turns until the log is sealed or the shard is dead.
    pub fn run(&mut self) {
        self.step(Event::Tick);
        while self.turn() == Turn::On {}
    }

    /// Sleeps as long as there is nothing to do, then does what there is.
    pub fn turn(&mut self) -> Turn {
        let wait = self.wait();
        let polled = self.disk.poll(wait, &mut self.done);
        self.intake.awake();
        if let Err(cause) = polled {
            self.step(Event::DiskLost(cause));
            return Turn::Over;
        }
        let mut done = std::mem::take(&mut self.done);
        for done in done.drain(..) {
            self.step(Event::Done(done));
        }
        self.done = done;
        self.take_requests();
        let look = self.intake.look();
        self.step(Event::Looked(look));
        self.release();
        if self.over { Turn::Over } else { Turn::On }
    }

    fn wait(&mut self) -> Wait {
        let now = self.clock.now();
        let (on, until) = match self.core.sleep(now) {
            Sleep::No => return Wait::No,
            Sleep::UntilPublication(until) => (WakeOn::Publication, until),
            Sleep::UntilQuarter(until) => (WakeOn::Quarter, until),
        };
        if !self.intake.prepare_sleep(on) || self.shared.requests() != self.asked {
            return Wait::No;
        }
        let deadline = self.intake.deadline_ns().map(|ns| Instant(now.0.saturating_add(ns)));
        let until = [until, deadline].into_iter().flatten().min();
        until.map_or(Wait::Event, Wait::Until)
    }

    fn take_requests(&mut self) {
        let asked = self.shared.requests();
        if asked.0 > self.asked.0 {
            let look = self.intake.look();
            self.step(Event::Looked(look));
            self.step(Event::SyncWanted(asked.0));
        }
        if asked.2 && !self.asked.2 {
            let look = self.intake.look();
            self.step(Event::Looked(look));
            self.step(Event::Stop);
        }
        self.asked = asked;
    }

    /// Tells the core what the store and the readers are done with.
    fn release(&mut self) {
        let marks = self.core.marks();
        let flushed = match self.retention.keeps {
            Keeps::Blocks => self.asked.1,
            Keeps::Nothing => marks.synced,
            Keeps::Log => Seq(0),
        };
        let held = self.shared.held();
        let released = if held >= flushed { flushed } else { held.max(self.overtaken()).min(flushed) };
        if (flushed, released) != self.released {
            self.released = (flushed, released);
            self.step(Event::Released { flushed, released });
        }
    }

    /// Up to where readers may be overtaken: segments held too long, too many, or in the way.
    fn overtaken(&self) -> Seq {
        let now = self.clock.now();
        let count = self.finished.len() as u64;
        let log = self.core.log();
        let pressed = (log.used.len() + 1 + log.ready.len()) as u64 >= self.retention.pressure_segments;
        let mut upto = Seq(0);
        for (index, (_, last_seq, since)) in self.finished.iter().enumerate() {
            let too_many = count - index as u64 > self.retention.segments;
            let too_old = now.since_ns(*since) > self.retention.period_ns;
            if too_many || too_old || (pressed && index == 0) {
                upto = *last_seq;
            } else {
                break;
            }
        }
        upto
    }

    /// One event, and everything that follows from it.
    pub fn step(&mut self, event: Event) {
        let now = self.clock.now();
        self.core.step(now, event, &mut self.scratch);
        self.effects.extend(self.scratch.drain(..));
        while let Some(effect) = self.effects.pop_front() {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Fill(mut batch, upto) => {
                let push = self.intake.drain(&mut batch, upto);
                let now = self.clock.now();
                self.core.step(now, Event::Filled(batch, push), &mut self.scratch);
                // What follows from the fill comes before what was decided after asking for it.
                for effect in self.scratch.drain(..).rev() {
                    self.effects.push_front(effect);
                }
            }
            Effect::Disk(id, op) => {
                self.shared.submitting(&op);
                if let DiskOp::Retire { segment, .. } = &op {
                    self.finished.retain(|(finished, ..)| finished != segment);
                    self.count_log();
                }
                self.disk.submit(id, op);
            }
            Effect::Marks(marks) => {
                self.shared.publish(marks);
                self.intake.free(marks.written);
            }
            Effect::StoreFull => self.intake.close(Closed::StoreFull),
            Effect::Reopen => self.intake.reopen(),
            Effect::Segment(segment) => {
                self.shared.segments().begin(&segment);
                self.count_log();
            }
            Effect::SegmentEnded(segment, end) => {
                self.shared.segments().end(segment, end);
                let last_seq = self.core.log().used.back().map_or(Seq(0), |used| used.last_seq);
                self.finished.push_back((segment, last_seq, self.clock.now()));
            }
            Effect::Fault(fault) => {
                self.intake.close(Closed::Fault(Arc::clone(&fault)));
                tracing::error!("{fault}");
                self.shared.fail(fault);
            }
            Effect::Stopped => self.over = true,
            Effect::Observed(observed) => self.observe(observed),
        }
    }

    fn count_log(&self) {
        self.shared.stats().wal_bytes = self.core.log().bytes();
    }

    fn observe(&self, observed: Observed) {
        match observed {
            Observed::Batch { blocks, bytes } => self.shared.logged(u64::from(blocks), u64::from(bytes)),
            Observed::Wrote(took_ns) => self.shared.stats().write_ns.saturating_record(took_ns),
            Observed::Sync { took_ns, unsynced_ns, unsynced_bytes } => {
                let mut stats = self.shared.stats();
                stats.sync_ns.saturating_record(took_ns);
                stats.unsynced_max_ns = stats.unsynced_max_ns.max(unsynced_ns);
                stats.unsynced_max_bytes = stats.unsynced_max_bytes.max(unsynced_bytes);
            }
            Observed::Stall => self.shared.stats().stalls += 1,
        }
    }

    /// The disk, for who ends the shard.
    pub fn into_disk(self) -> D {
        self.disk
    }
}
