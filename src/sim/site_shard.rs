//! One open shard of a store that others follow and that follows others: the real core over the simulated disk and
//! ring, and what links read of it.
//!
//! It does what the shard's driver does: looks at the ring, steps the core, carries out its effects in order. Time is
//! the store's business.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::SyncPolicy;
use crate::io::chance::Chance;
use crate::io::disk::{Disk, Done, Folder, Instant, Wait};
use crate::io::sim::{SharedMedium, SimDisk};
use crate::shard::core::{Core, CoreConfig};
use crate::shard::event::{Effect, Event, Sleep};
use crate::shard::marks::Marks;
use crate::shard::ring::Wake;
use crate::shard::shared::{ReadableSegment, SegmentTable, Shared};
use crate::sim::blocks::BlockName;
use crate::sim::check::{Item, What};
use crate::sim::plan::Plan;
use crate::sim::ring::{Claim, Upto};
use crate::sim::shard::{Carried, Shard};
use crate::types::{Seq, Stream};
use crate::wal::batch::StreamEnd;
use crate::wal::entry::EncodedEntry;

/// Nobody sleeps in the simulator.
struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

/// A block that is given to a shard.
pub struct Given {
    /// Its header, as it will stand in the log.
    pub header: EncodedEntry,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its name; `None`: it is a void.
    pub name: Option<BlockName>,
    /// Its stream, and where that stands behind it; `None`: it is accepted here.
    pub carried: Option<(Stream, StreamEnd)>,
    /// When it was accepted.
    pub received_at_ns: i64,
}

/// A writer that is held up between taking a seq and filling its slot.
struct Held {
    due: Instant,
    seq: Seq,
    claim: Claim,
    block: Given,
}

/// The shard.
pub struct OpenShard {
    core: Core,
    disk: SimDisk,
    /// The stream of what is accepted now.
    pub own: Stream,
    /// What links read of it.
    pub shared: Arc<Shared>,
    /// The same.
    pub folder: Arc<dyn Folder>,
    policy: SyncPolicy,
    effects: VecDeque<Effect>,
    scratch: Vec<Effect>,
    done: Vec<Done>,
    held: Vec<Held>,
    is_full: bool,
    synced: Seq,
    /// Blocks that were synced and not asked for since: stream, seq.
    pub newly_synced: Vec<(Stream, Seq)>,
}

impl OpenShard {
    /// A shard that was just opened.
    #[must_use]
    pub fn new(carried: Carried, shard: &Shard, plan: &Plan, medium: &SharedMedium, chance: Chance) -> Self {
        let (opened, maker, own) = carried;
        let log = opened.log;
        let handled = log.current.header.handled.clone();
        let mut table = SegmentTable { handled, partly: opened.partly, ..SegmentTable::default() };
        for used in &log.used {
            let (header, first_seq) = (used.header.clone(), used.first_seq);
            table.segments.push_back(ReadableSegment { header, first_seq, end: Some(used.end) });
        }
        table.begin(&log.current);
        let config =
            CoreConfig { own, policy: plan.policy, batch_bytes_max: plan.batch_bytes_max, bounds: plan.bounds };
        let core = Core::new(config, log, Seq(0));
        let marks = core.marks();
        Self {
            disk: SimDisk::new(shard.files(medium), maker, chance, plan.pace),
            own,
            shared: Arc::new(Shared::new(marks, plan.policy, Arc::new(Nobody), table)),
            folder: Arc::new(shard.files(medium)),
            policy: plan.policy,
            effects: VecDeque::new(),
            scratch: Vec::new(),
            done: Vec::new(),
            held: Vec::new(),
            is_full: core.is_store_full(),
            synced: marks.synced,
            newly_synced: Vec::new(),
            core,
        }
    }

    /// Up to where it is synced.
    #[must_use]
    pub const fn synced(&self) -> Seq {
        self.synced
    }

    /// Everything that was given to it may leave.
    #[must_use]
    pub fn is_quiet(&self, shard: &Shard) -> bool {
        let marks = self.core.marks();
        let upto = if self.policy == SyncPolicy::Each { marks.synced } else { marks.written };
        self.held.is_empty() && upto == shard.model.last()
    }

    /// Publishes a block, or takes its seq and leaves its slot for later, so many microseconds. `None` where there is
    /// no room.
    pub fn give(
        &mut self,
        shard: &mut Shard,
        block: Given,
        hold_us: Option<u64>,
        (now, chance): (Instant, &mut Chance),
    ) -> Option<Seq> {
        if self.is_full {
            return None;
        }
        let (claim, seq) = self.claim(shard, &block)?;
        let held = Held { due: now.plus_us(hold_us.unwrap_or(0)), seq, claim, block };
        match hold_us {
            Some(_) => self.held.push(held),
            None => self.publish(shard, &held, (now, chance)),
        }
        Some(seq)
    }

    /// Copies a block into the ring and takes its seq.
    fn claim(&self, shard: &mut Shard, block: &Given) -> Option<(Claim, Seq)> {
        let all = block.header.bytes().len() + block.payload.len();
        let claim = shard.ring.claim(all)?;
        shard.ring.copy(claim, block.header.bytes(), &block.payload, all);
        let seq = shard.ring.take_seq(claim);
        let (stream, behind) = block.carried.unwrap_or((self.own, StreamEnd { seq, ..StreamEnd::default() }));
        let what = block.name.map_or(What::Void, What::Hole);
        shard.model.given(seq, Item { received_at_ns: block.received_at_ns, ..Item::new(stream, behind, what) });
        Some((claim, seq))
    }

    fn publish(&self, shard: &mut Shard, held: &Held, (now, chance): (Instant, &mut Chance)) {
        let Held { seq, claim, block, .. } = held;
        shard.ring.fill(*seq, *claim, block.header.bytes(), &block.payload, Upto::Tag, chance);
        let item = shard.model.item(*seq).expect("a seq that was given");
        if let What::Hole(name) = item.what {
            item.what = What::Block(name);
        }
        item.acked = (self.policy != SyncPolicy::Each).then_some(now);
    }

    /// The writers that were held up long enough go on.
    pub fn go_on(&mut self, shard: &mut Shard, now: Instant, chance: &mut Chance) {
        while let Some(index) = self.held.iter().position(|held| held.due <= now) {
            let held = self.held.swap_remove(index);
            self.publish(shard, &held, (now, chance));
        }
    }

    /// The process ends: who is in the middle of a publication, with `last` perhaps another one, leaves it there.
    pub fn die(&mut self, shard: &mut Shard, last: Option<Given>, chance: &mut Chance) {
        if let Some(block) = last
            && !self.is_full
            && let Some((claim, seq)) = self.claim(shard, &block)
        {
            self.held.push(Held { due: Instant(0), seq, claim, block });
        }
        for Held { seq, claim, block, .. } in self.held.drain(..) {
            let upto = chance.pick(&[Upto::Seq, Upto::Cleared, Upto::PartOfSlot, Upto::AllButTag]);
            shard.ring.fill(seq, claim, block.header.bytes(), &block.payload, upto, chance);
        }
    }

    /// Somebody waits for this to be synced.
    ///
    /// # Errors
    /// A fault: nothing here fails.
    pub fn want_synced(&mut self, shard: &mut Shard, seq: Seq, now: Instant) -> Result<(), String> {
        self.look(shard, now)?;
        self.step(shard, now, Event::SyncWanted(seq))
    }

    /// Everybody has all up to here, as far as it is synced: what is not needed for more is given back.
    ///
    /// # Errors
    /// As [`want_synced`](Self::want_synced).
    pub fn release(&mut self, shard: &mut Shard, upto: Seq, now: Instant) -> Result<(), String> {
        let upto = upto.min(self.synced);
        if upto <= shard.released {
            return Ok(());
        }
        shard.model.flush(shard.released.next(), upto);
        shard.released = upto;
        self.step(shard, now, Event::Released { flushed: upto, released: upto })
    }

    /// Looks at the ring, and does what follows.
    ///
    /// # Errors
    /// As [`want_synced`](Self::want_synced).
    pub fn look(&mut self, shard: &mut Shard, now: Instant) -> Result<(), String> {
        let look = shard.ring.look();
        self.step(shard, now, Event::Looked(look))
    }

    /// When it wants its next turn; `None`: nothing is going to happen by itself.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let until = match self.core.sleep(now) {
            Sleep::No => return Some(now),
            Sleep::UntilPublication(until) | Sleep::UntilQuarter(until) => until,
        };
        let held = self.held.iter().map(|held| held.due).min();
        [until, held, self.disk.next_due()].into_iter().flatten().min()
    }

    /// Takes in what has ended by now.
    ///
    /// # Errors
    /// As [`want_synced`](Self::want_synced).
    pub fn poll(&mut self, shard: &mut Shard, now: Instant) -> Result<(), String> {
        let mut done = std::mem::take(&mut self.done);
        self.disk.poll(Wait::No, &mut done).map_err(|error| format!("the disk is gone: {error}"))?;
        for done in done.drain(..) {
            self.step(shard, now, Event::Done(done))?;
        }
        self.done = done;
        Ok(())
    }

    fn step(&mut self, shard: &mut Shard, now: Instant, event: Event) -> Result<(), String> {
        self.core.step(now, event, &mut self.scratch);
        self.effects.extend(self.scratch.drain(..));
        while let Some(effect) = self.effects.pop_front() {
            match effect {
                Effect::Fill(mut batch, upto) => {
                    let push = shard.ring.drain(&mut batch, upto);
                    self.core.step(now, Event::Filled(batch, push), &mut self.scratch);
                    // What follows from the fill comes before what was decided after asking for it.
                    for effect in self.scratch.drain(..).rev() {
                        self.effects.push_front(effect);
                    }
                }
                Effect::Disk(id, op) => {
                    self.shared.submitting(&op);
                    self.disk.submit(id, op);
                }
                Effect::Marks(marks) => self.moved(shard, marks, now),
                Effect::StoreFull => self.is_full = true,
                Effect::Reopen => self.is_full = false,
                Effect::Segment(segment) => self.shared.segments().begin(&segment),
                Effect::SegmentEnded(segment, end) => self.shared.segments().end(segment, end),
                Effect::Fault(fault) => return Err(format!("a fault where nothing fails: {fault}")),
                Effect::Stopped | Effect::Observed(_) => {}
            }
        }
        Ok(())
    }

    fn moved(&mut self, shard: &mut Shard, marks: Marks, now: Instant) {
        self.shared.publish(marks);
        shard.ring.free(marks.written);
        while self.synced < marks.synced {
            self.synced = self.synced.next();
            let Some(item) = shard.model.item(self.synced) else { continue };
            item.acked = item.acked.or(Some(now));
            if matches!(item.what, What::Block(_)) {
                self.newly_synced.push((item.stream, item.number));
            }
        }
    }
}
