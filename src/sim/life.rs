//! One life of the engine: writers publish, the real core decides, the simulated disk carries out,
//! until the life's end comes.
//!
//! A turn does what the shard's driver does: look at the ring, step the core, carry out its effects in
//! order, sleep as the core says. Who has the next turn, and when all lives of a process end, is the
//! world's business. Checked on the way: marks only grow and keep their order; nothing moves after a
//! fault; buffers on their way to the disk are bounded; a shard with work does not sleep for ever, nor
//! is it stuck once a disk that stalled goes on; a clean stop comes to its end with everything synced.

use std::collections::VecDeque;

use crate::config::SyncPolicy;
use crate::io::chance::Chance;
use crate::io::disk::{Disk, Done, Instant, Wait};
use crate::io::medium::Faults;
use crate::io::sim::{STALL_NS, SharedMedium, SimDisk};
use crate::limits::{BATCHES_IN_FLIGHT_MAX, DRAIN_PERIOD_US, UNPUBLISHED_NAP_US};
use crate::planted::{Mutant, is_planted};
use crate::shard::core::Core;
use crate::shard::event::{Effect, Event, Sleep};
use crate::shard::marks::Marks;
use crate::sim::another::{Another, Sent};
use crate::sim::blocks::BlockName;
use crate::sim::check::{Item, Model, What};
use crate::sim::plan::{LifePlan, Plan, Trouble, Wall};
use crate::sim::ring::{Claim, SimRing, Upto};
use crate::types::{Chain, Seq, Stream};
use crate::wal::batch::StreamEnd;
use crate::wal::entry::{EncodedEntry, EntryKind, void_entry};

/// Turns after which a life counts as hung.
const TURNS_MAX: u64 = 2_000_000;
/// How long a writer is held up between taking a seq and filling its slot at most, in microseconds.
const HOLD_US: u64 = 3_000;
/// Segments that draining a full ring may need, each made while it waits.
const SEGMENTS_IN_A_DRAIN: u64 = 6;
/// A shard with work stands still when for so long, in microseconds, nothing is published and no operation
/// ends and no mark moves: longer than the store's longest pause and a writer's longest wait together.
const STUCK_US: u64 = 700_000;
/// A life in which things go on happening, and nothing is published for so long, is over, in microseconds.
const FRUITLESS_US: u64 = 5_000_000;
/// A wall clock's farthest jump, in nanoseconds: three years.
const WALL_JUMP_NS: u64 = 3 * 365 * 86_400_000_000_000;
/// A monotonic clock's farthest jump, in hours.
const JUMP_HOURS: u64 = 12;

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
    /// The clock that `received_at` comes from.
    pub wall: Wall,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Life goes on.
    On,
    /// The log is sealed.
    Stopped,
    /// The process dies here.
    Crashed,
}

/// How a life ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The synced mark as told last.
    pub synced: Seq,
    /// An operation on the log failed.
    pub fault: bool,
    /// At (2, P): blocks that were acknowledged before this must survive. Jumps of the clock do not count.
    pub window: Option<Instant>,
    /// The ring was full because the disk stalled, and took blocks again by itself.
    pub outlived_a_stall: bool,
    /// When a block was published last.
    pub last_publication: Instant,
    /// When an operation on the log failed.
    pub fault_at: Option<Instant>,
}

/// Why a life may be over.
struct Due {
    /// Enough was published, or nothing can be any more.
    enough: bool,
    /// Nothing at all has happened for too long.
    still: bool,
    /// Nothing was published for much too long, whatever else happened.
    fruitless: bool,
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
    done: Vec<Done>,
    marks: Marks,
    acked: Seq,
    writers: Vec<Instant>,
    held: Vec<Publication>,
    another: Another,
    published: u32,
    closed: bool,
    store_full: bool,
    stopped: bool,
    fault_at: Option<Instant>,
    release_at: Instant,
    /// What the store has reported in this life. It reports once even where it had all before: so does the
    /// driver, and without that no segment of an earlier life would be given back.
    reported: Seq,
    crash_at: Option<Instant>,
    full_at: Option<Instant>,
    /// When the monotonic clock jumps.
    jump_at: Option<Instant>,
    wall: Chance,
    wall_ns: i64,
    longest_hold_us: u64,
    /// In time without jumps, as `fault_at` is.
    last_publication: Instant,
    /// When last something was published, an operation ended or a mark moved.
    last_event: Instant,
    due: bool,
    turns: u64,
    full_in_a_stall: bool,
    outlived_a_stall: bool,
}

impl<'a> Life<'a> {
    /// A life that begins with this core.
    #[must_use]
    pub fn new(
        ground: Ground<'a>,
        plan: LifePlan,
        own: Stream,
        core: Core,
        mut disk: SimDisk,
        mut chance: Chance,
    ) -> Self {
        let now = ground.medium.lock().now;
        let real = ground.medium.lock().real_now();
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
                Trouble::LostWrite(at) => faults.write_lost = Some(at),
                Trouble::MisdirectedWrite(at) => faults.write_misdirected = Some(at),
                Trouble::Stall(at) => disk.stall(at),
                Trouble::Full | Trouble::ClockJump(_) | Trouble::None => {}
            }
        }
        let jump_at = match plan.trouble {
            Trouble::ClockJump(after_us) => Some(now.plus_us(after_us)),
            _ => None,
        };
        let (wall, wall_ns) = (chance.fork(7), 1_700_000_000_000_000_000);
        let full_at = (plan.trouble == Trouble::Full).then(|| now.plus_us(chance.below(20_000)));
        let another = Another::new(&core.log().ends, own, ground.plan.foreign_percent, chance.fork(10));
        Self {
            ground,
            plan,
            own,
            core,
            disk,
            chance,
            effects: VecDeque::new(),
            scratch: Vec::new(),
            done: Vec::new(),
            marks,
            acked: marks.synced,
            writers,
            held: Vec::new(),
            another,
            published: 0,
            closed: false,
            store_full,
            stopped: false,
            fault_at: None,
            release_at,
            reported: Seq(0),
            crash_at: None,
            full_at,
            jump_at,
            wall,
            wall_ns,
            longest_hold_us: 0,
            last_publication: real,
            last_event: real,
            due: false,
            turns: 0,
            full_in_a_stall: false,
            outlived_a_stall: false,
        }
    }

    /// One round of the shard's driver. Time goes no further than `horizon`, where others have their
    /// turn; `None`: it is alone.
    ///
    /// # Errors
    /// A promise that did not hold.
    pub fn turn(&mut self, horizon: Option<Instant>) -> Result<Turn, String> {
        self.turns += 1;
        if self.turns > TURNS_MAX {
            return Err(format!("the shard spins: {:?}", self.core.marks()));
        }
        if self.stopped {
            return Ok(Turn::Stopped);
        }
        let now = self.now();
        if self.crash_at.is_some_and(|at| now >= at) {
            return Ok(Turn::Crashed);
        }
        let look = self.ground.ring.look();
        self.step(Event::Looked(look))?;
        if self.stopped {
            return Ok(Turn::On);
        }
        let mut done = std::mem::take(&mut self.done);
        let alive = match self.core.sleep(self.now()) {
            Sleep::No => {
                self.advance(self.now().plus_us(1))?;
                self.disk.poll(Wait::No, &mut done).is_ok()
            }
            sleep => {
                let wait = self.sleep(sleep, horizon)?;
                self.disk.poll(wait, &mut done).is_ok()
            }
        };
        if !alive {
            return Ok(Turn::Crashed);
        }
        for done in done.drain(..) {
            self.last_event = self.real();
            self.step(Event::Done(done))?;
        }
        self.done = done;
        Ok(Turn::On)
    }

    /// When it wants its next turn; `None`: nothing is going to happen by itself.
    pub fn next(&mut self) -> Option<Instant> {
        let now = self.now();
        let until = match self.core.sleep(now) {
            _ if self.stopped => return Some(now),
            Sleep::No => return Some(now),
            Sleep::UntilPublication(until) | Sleep::UntilQuarter(until) => until,
        };
        [until, self.next_event(), self.disk.next_due(), self.crash_at].into_iter().flatten().min()
    }

    /// Enough was published, or nothing can be any more: the process may end.
    ///
    /// # Errors
    /// Where nothing can be published, and neither a full disk nor an operation on its way explains that.
    pub fn is_due(&mut self) -> Result<bool, String> {
        if !self.due {
            let Due { enough, still, fruitless } = self.looks_due();
            if still && !enough && self.plan.trouble != Trouble::Full && self.disk.is_idle() {
                return Err(format!("the shard has stood still for {STUCK_US} us: {:?}", self.core.marks()));
            }
            self.due = enough || still || fruitless;
        }
        Ok(self.due)
    }

    fn looks_due(&self) -> Due {
        let stall = if matches!(self.plan.trouble, Trouble::Stall(_)) { STALL_NS / 1_000 } else { 0 };
        let now = self.real();
        Due {
            enough: self.published >= self.plan.blocks || self.fault_at.is_some(),
            still: now > self.last_event.plus_us(STUCK_US + stall),
            fruitless: now > self.last_publication.plus_us(FRUITLESS_US + stall),
        }
    }

    /// The process ends then, wherever this life is.
    pub const fn crash_at(&mut self, at: Instant) {
        self.crash_at = Some(at);
    }

    /// The engine is closed.
    ///
    /// # Errors
    /// A promise that did not hold.
    pub fn stop(&mut self) -> Result<(), String> {
        // The disk is not full for ever: a stop may need room.
        self.ground.medium.lock().faults.full = false;
        self.full_at = None;
        self.closed = true;
        // Closed first, then looked at: so the last look has seen every claim.
        let look = self.ground.ring.look();
        self.step(Event::Looked(look))?;
        self.step(Event::Stop)
    }

    fn now(&self) -> Instant {
        self.ground.medium.lock().now
    }

    /// The same without the clock's jumps.
    fn real(&self) -> Instant {
        self.ground.medium.lock().real_now()
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
            Effect::Disk(id, op) => {
                self.disk.submit(id, op);
                // The seal waits for nobody.
                if self.disk.writes() > BATCHES_IN_FLIGHT_MAX + 1 {
                    return Err(format!("{} writes are in flight together", self.disk.writes()));
                }
            }
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
                self.fault_at = Some(self.real());
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
        let now = self.real();
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
        if self.fault_at.is_some() && marks.synced > before.synced {
            return Err(format!("acknowledged after a fault: {before:?} -> {marks:?}"));
        }
        self.marks = marks;
        self.last_event = now;
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
    fn sleep(&mut self, sleep: Sleep, horizon: Option<Instant>) -> Result<Wait, String> {
        let (until, quarter) = match sleep {
            Sleep::UntilPublication(until) => (until, false),
            Sleep::UntilQuarter(until) => (until, true),
            Sleep::No => (Some(self.now()), false),
        };
        loop {
            if !self.due {
                let Due { enough, still, fruitless } = self.looks_due();
                if enough || still || fruitless {
                    return Ok(Wait::No);
                }
            }
            let next_world = self.next_event();
            let next_shard = [until, self.disk.next_due(), self.crash_at].into_iter().flatten().min();
            let Some(next) = [next_world, next_shard].into_iter().flatten().min() else {
                if horizon.is_some() {
                    return Ok(Wait::No);
                }
                return Err(format!("the shard sleeps for ever: {:?}", self.core.marks()));
            };
            if horizon.is_some_and(|horizon| next > horizon) {
                return Ok(Wait::No);
            }
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
        let release = (self.reported < self.marks.synced).then_some(self.release_at);
        [held, writers, release, self.full_at, self.jump_at].into_iter().flatten().min()
    }

    /// Goes to this time and does what happens outside the shard until then; true if something was
    /// published or reported.
    fn advance(&mut self, to: Instant) -> Result<bool, String> {
        // After a jump of the clock what was to come may lie behind.
        let to = to.max(self.now());
        self.ground.medium.lock().now = to;
        let mut woken = false;
        if self.jump_at.is_some_and(|at| to >= at) {
            self.jump_at = None;
            let hours = self.chance.within(1, JUMP_HOURS);
            self.ground.medium.lock().jump(hours * 3_600_000_000_000);
        }
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
            if self.reported < self.marks.synced {
                let upto = self.marks.synced;
                self.reported = upto;
                self.ground.model.flush(self.ground.released.next(), upto);
                *self.ground.released = upto.max(*self.ground.released);
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
        let sent = if void { None } else { self.another.next(writer) };
        let mut payload = Vec::new();
        let (name, made, received_at_ns) = self.make(writer, sent, &mut payload);
        let header = if void { void_entry() } else { made };
        payload.truncate(if void { 0 } else { payload.len() });
        let Some(claim) = self.ground.ring.claim(header.bytes().len() + payload.len()) else {
            self.full_in_a_stall |= self.disk.is_stalled(now);
            self.writers[writer] = now.plus_us(self.chance.within(20, 2_000));
            return false;
        };
        self.ground.counters[writer] += 1;
        self.last_publication = self.real();
        self.last_event = self.last_publication;
        self.outlived_a_stall |= self.full_in_a_stall;
        let hold = self.chance.percent(self.ground.plan.hold_percent);
        let hold_us = if hold { self.chance.within(1, HOLD_US) } else { 0 };
        let all = header.bytes().len() + payload.len();
        if !(hold && is_planted(Mutant::SequenceBeforeCopy)) {
            self.ground.ring.copy(claim, header.bytes(), &payload, all);
        }
        let seq = self.ground.ring.take_seq(claim);
        let what = if void { What::Void } else { What::Hole(name) };
        let item = self.accepted(seq, sent, &payload, what);
        self.ground.model.given(seq, Item { received_at_ns, ..item });
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

    /// A writer's next block, or what it brings of another store.
    fn make(&mut self, writer: usize, sent: Option<Sent>, payload: &mut Vec<u8>) -> (BlockName, EncodedEntry, i64) {
        let length = self.chance.within(0, u64::from(self.ground.plan.block_bytes_max)) as u32;
        let name = BlockName { writer: writer as u32, counter: self.ground.counters[writer], length };
        name.made(sent, self.received_at(), payload)
    }

    /// This was given a seq.
    fn accepted(&mut self, seq: Seq, sent: Option<Sent>, payload: &[u8], what: What) -> Item {
        let of_own = (self.own, StreamEnd { seq, chain: Chain(0) });
        let (stream, behind) = sent.map_or(of_own, |sent| self.another.sent(sent, payload));
        Item { adopts: sent.and_then(Sent::absent), ..Item::new(stream, behind, what) }
    }

    /// What the wall clock says; it goes forward and back as it likes.
    fn received_at(&mut self) -> i64 {
        if self.ground.wall == Wall::Jumps {
            let farthest = if self.wall.percent(10) { WALL_JUMP_NS } else { 1_000_000 };
            let by = self.wall.below(farthest) as i64;
            self.wall_ns = self.wall_ns.wrapping_add(if self.wall.percent(50) { by } else { -by });
        }
        self.wall_ns
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
        let now = self.real();
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

    /// The end: writers stop wherever they are, and the ring is left as a killed process would leave it.
    ///
    /// # Errors
    /// A clean stop that did not come to its end.
    pub fn end(mut self) -> Result<Ended, String> {
        let now = self.real();
        if self.stopped && self.fault_at.is_none() {
            let last = self.ground.model.last();
            if self.marks.synced != last {
                return Err(format!("closed with {:?}, but {last} was the last seq", self.marks));
            }
        }
        if !self.stopped {
            let foreign = [EntryKind::Carried as u8, EntryKind::Adopted as u8];
            let is_carried = |held: &Publication| foreign.contains(&held.header.bytes()[0]);
            if self.held.iter().any(is_carried) {
                self.another.hold_up();
            }
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
        *faults = Faults { full: faults.full, ..Faults::default() };
        Ok(Ended {
            synced: self.marks.synced,
            fault: self.fault_at.is_some(),
            window,
            outlived_a_stall: self.outlived_a_stall,
            last_publication: self.last_publication,
            fault_at: self.fault_at,
        })
    }

    /// Each writer may be anywhere in a publication when it is killed.
    fn die_in_publication(&mut self) {
        for writer in 0..self.writers.len() {
            if self.chance.percent(50) {
                continue;
            }
            let sent = self.another.next(writer);
            let mut payload = Vec::new();
            let (name, header, received_at_ns) = self.make(writer, sent, &mut payload);
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
            let item = self.accepted(seq, sent, &payload, What::Hole(name));
            self.ground.model.given(seq, Item { received_at_ns, ..item });
            let publication = Publication { due: Instant(0), seq, claim, header, payload };
            self.fill(&publication, if early { Upto::Tag } else { upto });
        }
    }
}
