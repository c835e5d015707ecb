//! One life of the engine: writers publish, the real core decides, the simulated disk carries out,
//! until the life's end comes.
//!
//! The loop does what the shard's driver does: look at the ring, step the core, carry out its
//! effects in order, sleep as the core says. Checked on the way: marks only grow and keep their
//! order; nothing moves after a fault; a shard with work does not sleep for ever; a clean stop
//! comes to its end with everything synced.

use std::collections::VecDeque;

use crate::config::SyncPolicy;
use crate::io::chance::Chance;
use crate::io::disk::{Disk, Instant, Wait};
use crate::io::sim::{SharedMedium, SimDisk};
use crate::limits::{BATCHES_IN_FLIGHT_MAX, DRAIN_PERIOD_US, UNPUBLISHED_NAP_US};
use crate::planted::{Mutant, is_planted};
use crate::shard::core::{Core, Effect, Event, Sleep};
use crate::shard::marks::Marks;
use crate::sim::blocks::BlockName;
use crate::sim::check::{Item, Model, What};
use crate::sim::plan::{End, LifePlan, Plan, Trouble};
use crate::sim::ring::{Claim, SimRing, Upto};
use crate::types::{Seq, Stream};
use crate::wal::entry::{EncodedEntry, void_entry};

/// Steps after which a life counts as hung.
const STEPS_MAX: u64 = 2_000_000;
/// How long a writer is held up between taking a seq and filling its slot at most, in microseconds.
const HOLD_US: u64 = 3_000;
/// Segments that draining a full ring may need, each made while it waits.
const SEGMENTS_IN_A_DRAIN: u64 = 6;
/// After so long without a publication a life ends, in microseconds.
const STUCK_US: u64 = 700_000;

/// What lasts from one life to the next and is changed by this one.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The plan of the seed.
    pub plan: &'a Plan,
    /// The device.
    pub medium: &'a SharedMedium,
    /// The ring's file.
    pub ring: &'a mut SimRing,
    /// The history.
    pub model: &'a mut Model,
    /// Each writer's count of blocks.
    pub counters: &'a mut Vec<u32>,
    /// Up to where the store has all data, and segments may be given back.
    pub released: &'a mut Seq,
}

/// How a life ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The synced mark as told last.
    pub synced: Seq,
    /// An operation on the log failed.
    pub fault: bool,
    /// At (2, P): blocks that were acknowledged before this must survive.
    pub window: Option<Instant>,
}

struct Publication {
    due: Instant,
    seq: Seq,
    claim: Claim,
    header: EncodedEntry,
    payload: Vec<u8>,
}

/// The life.
pub struct Life<'a> {
    ground: Ground<'a>,
    plan: LifePlan,
    own: Stream,
    core: Core,
    disk: SimDisk,
    chance: Chance,
    effects: VecDeque<Effect>,
    scratch: Vec<Effect>,
    marks: Marks,
    acked: Seq,
    writers: Vec<Instant>,
    held: Vec<Publication>,
    published: u32,
    closed: bool,
    store_full: bool,
    stopping: bool,
    stopped: bool,
    fault: bool,
    fault_at: Option<Instant>,
    release_at: Instant,
    crash_at: Option<Instant>,
    full_at: Option<Instant>,
    longest_hold_us: u64,
    last_publication: Instant,
}

impl<'a> Life<'a> {
    /// A life that begins with this core.
    #[must_use]
    pub fn new(ground: Ground<'a>, plan: LifePlan, own: Stream, core: Core, disk: SimDisk, mut chance: Chance) -> Self {
        let now = ground.medium.lock().now;
        let writers = (0..ground.plan.writers).map(|_| now.plus_us(chance.below(ground.plan.pause_us))).collect();
        let release_at = now.plus_us(chance.below(ground.plan.store_us));
        let marks = core.marks();
        let store_full = core.is_store_full();
        {
            let faults = &mut ground.medium.lock().faults;
            match plan.trouble {
                Trouble::WriteError(at) => faults.write_error = Some(at),
                Trouble::ShortWrite(at) => faults.write_short = Some(at),
                Trouble::SyncError(at) => faults.sync_error = Some(at),
                Trouble::DieInCall(at) => faults.last_call = Some(at),
                Trouble::Full | Trouble::None => {}
            }
        }
        let full_at = (plan.trouble == Trouble::Full).then(|| now.plus_us(chance.below(20_000)));
        Self {
            ground,
            plan,
            own,
            core,
            disk,
            chance,
            effects: VecDeque::new(),
            scratch: Vec::new(),
            marks,
            acked: marks.synced,
            writers,
            held: Vec::new(),
            published: 0,
            closed: false,
            store_full,
            stopping: false,
            stopped: false,
            fault: false,
            fault_at: None,
            release_at,
            crash_at: None,
            full_at,
            longest_hold_us: 0,
            last_publication: now,
        }
    }

    /// Lives until the end comes, and leaves the ring as a killed process would.
    ///
    /// # Errors
    /// A promise that did not hold.
    pub fn run(mut self) -> Result<Ended, String> {
        let mut done = Vec::new();
        for _ in 0..STEPS_MAX {
            let now = self.now();
            if self.stopped || self.crash_at.is_some_and(|at| now >= at) {
                return self.end();
            }
            self.expect_end(now)?;
            let look = self.ground.ring.look();
            self.step(Event::Looked(look))?;
            if self.stopped {
                continue;
            }
            let alive = match self.core.sleep(self.now()) {
                Sleep::No => {
                    self.advance(self.now().plus_us(1))?;
                    self.disk.poll(Wait::No, &mut done).is_ok()
                }
                sleep => {
                    let wait = self.sleep(sleep)?;
                    self.disk.poll(wait, &mut done).is_ok()
                }
            };
            if !alive {
                return self.end();
            }
            for done in done.drain(..) {
                self.step(Event::Done(done))?;
            }
        }
        Err(format!("the shard spins: {:?}", self.core.marks()))
    }

    fn now(&self) -> Instant {
        self.ground.medium.lock().now
    }

    /// Enough was published; a life in which nothing can be published any more ends too.
    fn is_due(&self, now: Instant) -> bool {
        let enough = self.published >= self.plan.blocks || self.fault_at.is_some();
        self.crash_at.is_none() && !self.stopping && (enough || now > self.last_publication.plus_us(STUCK_US))
    }

    /// Decides when the end comes, once it is due.
    fn expect_end(&mut self, now: Instant) -> Result<(), String> {
        if !self.is_due(now) {
            return Ok(());
        }
        if matches!(self.plan.end, End::Stop | End::StopAndPowerCut) {
            // The disk is not full for ever: a stop may need room.
            self.ground.medium.lock().faults.full = false;
            self.full_at = None;
            self.closed = true;
            self.stopping = true;
            if self.chance.percent(30) {
                let span = self.chance.pick(&[100, 2_000, 20_000]);
                self.crash_at = Some(now.plus_us(self.chance.below(span)));
            }
            // Closed first, then looked at: so the last look has seen every claim.
            let look = self.ground.ring.look();
            self.step(Event::Looked(look))?;
            return self.step(Event::Stop);
        }
        let span = self.chance.pick(&[1, 100, 2_000, 20_000]);
        self.crash_at = Some(now.plus_us(self.chance.below(span)));
        Ok(())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        let now = self.now();
        let mut effects = std::mem::take(&mut self.scratch);
        self.core.step(now, event, &mut effects);
        self.effects.extend(effects.drain(..));
        self.scratch = effects;
        while let Some(effect) = self.effects.pop_front() {
            self.carry_out(effect)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), String> {
        let now = self.now();
        match effect {
            Effect::Fill(mut batch, upto) => {
                let push = self.ground.ring.drain(&mut batch, upto);
                let mut effects = std::mem::take(&mut self.scratch);
                self.core.step(now, Event::Filled(batch, push), &mut effects);
                // What follows from the fill comes before what was decided after asking for it.
                for effect in effects.drain(..).rev() {
                    self.effects.push_front(effect);
                }
                self.scratch = effects;
            }
            Effect::Disk(id, op) => self.disk.submit(id, op),
            Effect::Marks(marks) => self.moved(marks)?,
            Effect::StoreFull => {
                self.ground.medium.lock().note(|| "the ring is closed: only the reserve is left".to_owned());
                self.store_full = true;
            }
            Effect::Reopen => {
                self.ground.medium.lock().note(|| "the ring is open again".to_owned());
                self.store_full = false;
            }
            Effect::Fault(fault) => {
                self.ground.medium.lock().note(|| format!("fault: {fault}"));
                self.fault = true;
                self.fault_at = Some(now);
                self.closed = true;
            }
            Effect::Stopped => self.stopped = true,
            Effect::Segment(segment) => {
                self.ground.medium.lock().note(|| format!("the log goes on in segment {}", segment.header.segment));
            }
            Effect::SegmentEnded(..) | Effect::Observed(_) => {}
        }
        Ok(())
    }

    fn moved(&mut self, marks: Marks) -> Result<(), String> {
        let before = self.marks;
        let now = self.now();
        self.ground.medium.lock().note(|| {
            let Marks { accepted, written, synced, flushed, trimmed, .. } = marks;
            format!("marks {accepted} {written} {synced} {flushed} {trimmed}")
        });
        let row = |marks: Marks| [marks.accepted, marks.written, marks.synced, marks.flushed, marks.trimmed];
        if !row(marks).is_sorted_by(|left, right| left >= right) {
            return Err(format!("marks out of order: {marks:?}"));
        }
        if row(marks).iter().zip(row(before)).any(|(after, before)| *after < before) {
            return Err(format!("a mark went back: {before:?} -> {marks:?}"));
        }
        if self.fault && marks.synced > before.synced {
            return Err(format!("acknowledged after a fault: {before:?} -> {marks:?}"));
        }
        self.marks = marks;
        self.ground.ring.free(marks.written);
        if self.ground.plan.policy == SyncPolicy::Each {
            while self.acked < marks.synced {
                self.acked = self.acked.next();
                if let Some(item) = self.ground.model.item(self.acked) {
                    item.acked = Some(now);
                }
            }
        }
        Ok(())
    }

    /// Lets time pass for everybody but the shard until something concerns it.
    fn sleep(&mut self, sleep: Sleep) -> Result<Wait, String> {
        let (until, quarter) = match sleep {
            Sleep::UntilPublication(until) => (until, false),
            Sleep::UntilQuarter(until) => (until, true),
            Sleep::No => (Some(self.now()), false),
        };
        loop {
            if self.is_due(self.now()) {
                return Ok(Wait::No);
            }
            let next_world = self.next_event();
            let next_shard = [until, self.disk.next_due(), self.crash_at].into_iter().flatten().min();
            let Some(next) = [next_world, next_shard].into_iter().flatten().min() else {
                return Err(format!("the shard sleeps for ever: {:?}", self.core.marks()));
            };
            if next_shard.is_some_and(|at| at <= next) {
                return Ok(Wait::Until(next.max(self.now())));
            }
            let woken = self.advance(next)?;
            if woken && (!quarter || self.ground.ring.look().quarter_full) {
                return Ok(Wait::No);
            }
        }
    }

    /// When something happens outside the shard.
    fn next_event(&self) -> Option<Instant> {
        let held = self.held.iter().map(|publication| publication.due).min();
        let writers = if self.closed { None } else { self.writers.iter().min().copied() };
        let release = (*self.ground.released < self.marks.synced).then_some(self.release_at);
        [held, writers, release, self.full_at].into_iter().flatten().min()
    }

    /// Goes to this time and does what happens outside the shard until then; true if something was
    /// published or reported.
    fn advance(&mut self, to: Instant) -> Result<bool, String> {
        {
            let mut medium = self.ground.medium.lock();
            medium.now = medium.now.max(to);
        }
        let mut woken = false;
        if self.full_at.is_some_and(|at| to >= at) {
            let full = !self.ground.medium.lock().faults.full;
            self.ground.medium.lock().faults.full = full;
            self.full_at = Some(to.plus_us(self.chance.within(1_000, 2_000_000)));
        }
        while let Some(index) = self.held.iter().position(|publication| publication.due <= to) {
            let publication = self.held.swap_remove(index);
            self.publish(&publication, Upto::Tag);
            woken = true;
        }
        if !self.closed {
            for writer in 0..self.writers.len() {
                if self.writers[writer] <= to {
                    woken |= self.write(writer, to);
                }
            }
        }
        if self.release_at <= to {
            self.release_at = to.plus_us(self.chance.within(1, self.ground.plan.store_us));
            if *self.ground.released < self.marks.synced {
                let upto = self.marks.synced;
                self.ground.model.flush(self.ground.released.next(), upto);
                *self.ground.released = upto;
                self.step(Event::Released { flushed: upto, released: upto })?;
                woken = true;
            }
        }
        if self.chance.percent(2) {
            self.ground.ring.write_back(&mut self.chance);
        }
        Ok(woken)
    }

    /// A writer's turn; true if it published.
    fn write(&mut self, writer: usize, now: Instant) -> bool {
        self.writers[writer] = now.plus_us(self.chance.within(1, self.ground.plan.pause_us));
        if self.store_full || self.published >= self.plan.blocks {
            self.writers[writer] = now.plus_us(self.chance.within(1_000, 20_000));
            return false;
        }
        let void = self.chance.percent(1);
        let length = self.chance.within(0, u64::from(self.ground.plan.block_bytes_max)) as u32;
        let name = BlockName { writer: writer as u32, counter: self.ground.counters[writer], length };
        let mut payload = Vec::new();
        let header = if void {
            void_entry()
        } else {
            name.payload(&mut payload);
            name.header(&payload)
        };
        let Some(claim) = self.ground.ring.claim(header.bytes().len() + payload.len()) else {
            self.writers[writer] = now.plus_us(self.chance.within(20, 2_000));
            return false;
        };
        self.ground.counters[writer] += 1;
        self.last_publication = now;
        let hold = self.chance.percent(self.ground.plan.hold_percent);
        let hold_us = if hold { self.chance.within(1, HOLD_US) } else { 0 };
        let all = header.bytes().len() + payload.len();
        if !(hold && is_planted(Mutant::SequenceBeforeCopy)) {
            self.ground.ring.copy(claim, header.bytes(), &payload, all);
        }
        let seq = self.ground.ring.take_seq(claim);
        let what = if void { What::Void } else { What::Hole(name) };
        self.ground.model.given(seq, Item::new(self.own, what));
        self.published += 1;
        let publication = Publication { due: now.plus_us(hold_us), seq, claim, header, payload };
        if hold && is_planted(Mutant::SequenceBeforeCopy) {
            self.fill(&publication, Upto::Tag);
        }
        if hold {
            self.longest_hold_us = self.longest_hold_us.max(hold_us);
            // The writer goes on when this one is done.
            self.writers[writer] = self.writers[writer].max(publication.due.plus_us(1));
            self.held.push(publication);
            return true;
        }
        self.publish(&publication, Upto::Tag);
        true
    }

    fn fill(&mut self, publication: &Publication, upto: Upto) {
        let (header, payload) = (publication.header.bytes(), &publication.payload);
        self.ground.ring.fill(publication.seq, publication.claim, header, payload, upto, &mut self.chance);
    }

    fn publish(&mut self, publication: &Publication, upto: Upto) {
        if is_planted(Mutant::SequenceBeforeCopy) {
            let all = publication.header.bytes().len() + publication.payload.len();
            self.ground.ring.copy(publication.claim, publication.header.bytes(), &publication.payload, all);
        }
        self.fill(publication, upto);
        if upto != Upto::Tag {
            return;
        }
        let now = self.now();
        let seq = publication.seq;
        let acks_now = self.ground.plan.policy != SyncPolicy::Each;
        let item = self.ground.model.item(seq).expect("a seq that was given");
        if let What::Hole(name) = item.what {
            item.what = What::Block(name);
        }
        item.acked = acks_now.then_some(now);
        let what = item.what;
        self.ground.medium.lock().note(|| format!("published {seq} {what:?}"));
    }

    /// The end: writers stop wherever they are.
    fn end(mut self) -> Result<Ended, String> {
        let now = self.now();
        if self.stopped && !self.fault {
            let last = self.ground.model.last();
            if self.marks.synced != last {
                return Err(format!("closed with {:?}, but {last} was the last seq", self.marks));
            }
        }
        if !self.stopped {
            for publication in std::mem::take(&mut self.held) {
                let upto = self.chance.pick(&[Upto::Seq, Upto::Cleared, Upto::PartOfSlot, Upto::AllButTag]);
                if !is_planted(Mutant::SequenceBeforeCopy) {
                    self.publish(&publication, upto);
                }
            }
            if !self.closed {
                self.die_in_publication();
            }
        }
        let window = match self.ground.plan.policy {
            SyncPolicy::Periodic { ms } => {
                // One drain: what is in the ring may take several batches and segments, each of
                // which waits for the disk; it never waits for the store.
                let slowest = self.disk.slowest();
                let drain = (DRAIN_PERIOD_US + UNPUBLISHED_NAP_US + self.longest_hold_us) * 1_000
                    + slowest.write_ns * BATCHES_IN_FLIGHT_MAX as u64
                    + slowest.make_ns * SEGMENTS_IN_A_DRAIN;
                let span = (ms * 1_000_000).max(slowest.sync_ns) + drain + slowest.sync_ns + 100_000;
                Some(Instant(self.fault_at.unwrap_or(now).0.saturating_sub(span)))
            }
            SyncPolicy::Level1 | SyncPolicy::Each => None,
        };
        let faults = &mut self.ground.medium.lock().faults;
        (faults.write_error, faults.write_short, faults.sync_error, faults.last_call) = (None, None, None, None);
        Ok(Ended { synced: self.marks.synced, fault: self.fault, window })
    }

    /// Each writer may be anywhere in a publication when it is killed.
    fn die_in_publication(&mut self) {
        for writer in 0..self.writers.len() {
            if self.chance.percent(50) {
                continue;
            }
            let length = self.chance.within(0, u64::from(self.ground.plan.block_bytes_max)) as u32;
            let name = BlockName { writer: writer as u32, counter: self.ground.counters[writer], length };
            let mut payload = Vec::new();
            name.payload(&mut payload);
            let header = name.header(&payload);
            let all = header.bytes().len() + payload.len();
            let Some(claim) = self.ground.ring.claim(all) else { return };
            self.ground.counters[writer] += 1;
            let upto = self.chance.pick(&[
                Upto::PartOfCopy,
                Upto::Copied,
                Upto::Seq,
                Upto::Cleared,
                Upto::PartOfSlot,
                Upto::AllButTag,
            ]);
            let bytes = if upto == Upto::PartOfCopy { self.chance.below(all as u64 + 1) as usize } else { all };
            let early = is_planted(Mutant::SequenceBeforeCopy) && matches!(upto, Upto::PartOfCopy);
            self.ground.ring.copy(claim, header.bytes(), &payload, bytes);
            if matches!(upto, Upto::PartOfCopy | Upto::Copied) && !early {
                continue;
            }
            let seq = self.ground.ring.take_seq(claim);
            self.ground.model.given(seq, Item::new(self.own, What::Hole(name)));
            let publication = Publication { due: Instant(0), seq, claim, header, payload };
            self.fill(&publication, if early { Upto::Tag } else { upto });
        }
    }
}
