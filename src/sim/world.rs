//! One history of a store with one shard: lives, their ends, and recoveries that may be cut short
//! themselves, all from one seed. After each recovery the log is held against the model.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::config::OnDamage;
use crate::io::chance::Chance;
use crate::io::disk::Folder;
use crate::io::maker::Maker;
use crate::io::medium::{Fate, Flaws, Medium};
use crate::io::sim::{SharedMedium, SimDisk};
use crate::limits::{PAGE_BYTES, SEGMENT_HEADER_BYTES, SEGMENTS_AHEAD};
use crate::planted::{Mutant, is_planted, plant};
use crate::recover::{Intake, Kept, OpenError, Opened, Quarantine, ShardSetup, carry_out, examine, put_aside};
use crate::shard::core::{Core, CoreConfig};
use crate::sim::check::{Ending, Facts, Model, Rot};
use crate::sim::life::{Ended, Ground, Life};
use crate::sim::plan::{CRASH_LOOP, End, LifePlan, Limits, Plan, RING_BYTES, RING_SLOTS};
use crate::sim::ring::{Hit, SimRing};
use crate::types::{Epoch, Nonce, Seq, ShardId, StoreId, Stream};
use crate::wal::batch::Place;
use crate::wal::intake::RingHeader;
use crate::wal::log::Log;
use crate::wal::segment::{FileName, SegmentHeader, parse_name};
use crate::wal::verdict::{Check, Stamps, check};

const STORE: StoreId = StoreId(*b"simulated store.");
const SHARD: ShardId = ShardId(0);
/// Attempts to open after which a recovery counts as hung; each lets writes in flight come closer to landing.
const ATTEMPTS_MAX: u32 = 1_000;

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// A planted bug.
    pub mutant: Option<Mutant>,
    /// Bounds for a smaller history.
    pub limits: Limits,
    /// Whether to keep the trace.
    pub trace: Tracing,
}

/// Whether a trace is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracing {
    /// No.
    #[default]
    Off,
    /// Yes.
    On,
}

/// What a history amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lives.
    pub lives: u64,
    /// Recoveries that came to their end.
    pub recoveries: u64,
    /// Recoveries that were cut short.
    pub cut_recoveries: u64,
    /// Blocks found, summed over the recoveries.
    pub blocks: u64,
    /// Acknowledged blocks that a power cut took, as it may.
    pub lost: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Lives that ended in an I/O fault.
    pub faults: u64,
    /// Damages that were refused and then salvaged.
    pub salvages: u64,
    /// Flipped bits that did no harm.
    pub harmless_flips: u64,
    /// A number that depends on everything found.
    pub digest: u64,
}

impl Summary {
    /// Adds another history.
    pub fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.recoveries += other.recoveries;
        self.cut_recoveries += other.cut_recoveries;
        self.blocks += other.blocks;
        self.lost += other.lost;
        self.power_cuts += other.power_cuts;
        self.faults += other.faults;
        self.salvages += other.salvages;
        self.harmless_flips += other.harmless_flips;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// The life, from 0.
    pub life: u32,
    /// What is wrong.
    pub what: String,
    /// The trace, if one was kept.
    pub trace: String,
}

/// Runs a history.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(run: &Run) -> Result<(Summary, String), Box<Violation>> {
    plant(run.mutant);
    let mut world = World::new(run);
    // A panic of the engine is a violation like any other.
    let result = catch_unwind(AssertUnwindSafe(|| world.history())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    plant(None);
    let trace = world.medium.lock().trace().to_owned();
    let what = match result {
        Ok(()) => return Ok((world.summary, trace)),
        Err(what) => what,
    };
    Err(Box::new(Violation { seed: run.seed, life: world.life, what, trace }))
}

struct World {
    plan: Plan,
    chance: Chance,
    seed: Chance,
    medium: SharedMedium,
    ring: SimRing,
    model: Model,
    counters: Vec<u32>,
    released: Seq,
    boot: u64,
    life: u32,
    /// How the store was left; what the next recovery is held against.
    facts: Facts,
    /// Flipped bits that nobody has met yet: they may lie where a later generation's log will end.
    lurking: u32,
    /// Flipped bits of the ring since it was made.
    ring_flips: u32,
    /// Those of them that hit a copy of its header.
    ring_header_flips: u32,
    summary: Summary,
}

struct Bin;

impl Quarantine for Bin {
    fn keep(&mut self, _: Kept<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    fn new(run: &Run) -> Self {
        let seed = Chance::new(run.seed);
        let mut chance = seed.fork(1);
        let plan = Plan::new(&mut chance, run.limits);
        let mut medium = Medium::new(seed.fork(2), plan.unit);
        medium.flaws = Flaws {
            no_folder_sync: is_planted(Mutant::NoFolderSync),
            retry_sync: is_planted(Mutant::RetrySync),
            no_locks: is_planted(Mutant::RecycleWithoutLock),
            no_write_sync: is_planted(Mutant::AckBeforeSync),
        };
        if run.trace == Tracing::On {
            medium.keep_trace();
            medium.note(|| format!("seed {} {plan:?}", run.seed));
        }
        let counters = vec![0; plan.writers as usize];
        Self {
            plan,
            chance,
            seed,
            medium: SharedMedium::new(medium),
            ring: SimRing::default(),
            model: Model::default(),
            counters,
            released: Seq(0),
            boot: 1,
            life: 0,
            facts: Facts { ending: Ending::Kill, synced: Seq(0), window: None, rot: Rot::Nothing },
            lurking: 0,
            ring_flips: 0,
            ring_header_flips: 0,
            summary: Summary::default(),
        }
    }

    fn history(&mut self) -> Result<(), String> {
        let mut deaths = 0;
        for life in 0..self.plan.lives {
            self.life = life;
            // Each life has numbers of its own, so that a shorter history is a prefix of a longer one.
            self.chance = self.seed.fork(u64::from(life) + 100);
            let plan = LifePlan::new(&mut self.chance, &self.plan);
            let (core, disk, own) = self.open(deaths)?;
            deaths = plan.recovery_deaths;
            self.medium.lock().note(|| format!("life {life}: {plan:?}"));
            let ground = Ground {
                plan: &self.plan,
                medium: &self.medium,
                ring: &mut self.ring,
                model: &mut self.model,
                counters: &mut self.counters,
                released: &mut self.released,
            };
            let chance = self.chance.fork(3);
            let ended = Life::new(ground, plan, own, core, disk, chance).run()?;
            self.end(plan, ended);
        }
        self.life = self.plan.lives;
        let (core, ..) = self.open(deaths)?;
        drop(core);
        // Once more, as a store that nobody uses is opened: nothing changes.
        self.facts = Facts { ending: Ending::Kill, synced: self.model.last(), window: None, rot: Rot::Nothing };
        self.medium.lock().kill();
        self.open(0).map(|_| ())
    }

    /// The life is over: what is left of it.
    fn end(&mut self, plan: LifePlan, ended: Ended) {
        self.summary.lives += 1;
        self.summary.faults += u64::from(ended.fault);
        let cut = match plan.end {
            End::Kill | End::KillAndReboot if self.chance.percent(20) && self.medium.lock().is_crashed() => {
                End::PowerCut
            }
            End::StopAndPowerCut | End::PowerCut => End::PowerCut,
            other => other,
        };
        // A fault counts as a power cut for what was not synced.
        let ending = if ended.fault || matches!(cut, End::PowerCut | End::KillAndReboot) {
            Ending::PowerCut
        } else {
            Ending::Kill
        };
        self.facts = Facts { ending, synced: ended.synced, window: ended.window, rot: Rot::Nothing };
        self.crash(cut);
        if plan.rot {
            self.rot();
        }
    }

    fn crash(&mut self, end: End) {
        match end {
            End::Kill | End::Stop => self.medium.lock().kill(),
            End::KillAndReboot => {
                self.medium.lock().cut_power(Fate::Kept);
                self.ring.write_all_back();
                self.boot += 1;
            }
            End::PowerCut | End::StopAndPowerCut => {
                let fate = self.chance.pick(&Fate::ALL);
                self.medium.lock().cut_power(fate);
                let fate = self.chance.pick(&[Fate::Lost, Fate::Kept, Fate::Units, Fate::Units]);
                self.ring.cut_power(fate, self.plan.unit, &mut self.chance);
                self.boot += 1;
                self.summary.power_cuts += 1;
            }
        }
    }

    /// What the store says at open.
    fn flushed(&self) -> Seq {
        if self.plan.store_remembers { self.released } else { Seq(0) }
    }

    fn boot(&self) -> [u8; 16] {
        u128::from(self.boot).to_le_bytes()
    }

    /// Opens the store, dying `deaths` times on the way, and checks what it finds.
    fn open(&mut self, mut deaths: u32) -> Result<(Core, SimDisk, Stream), String> {
        let mut on_damage = OnDamage::Refuse;
        let crash_loop = deaths == CRASH_LOOP;
        // A crash loop goes on until somebody ends it.
        let calls = if crash_loop { 25 } else { 60 };
        if crash_loop && self.chance.percent(50) {
            // The disk was filled by others meanwhile.
            self.medium.lock().faults.full = true;
        }
        for _ in 0..ATTEMPTS_MAX {
            self.medium.lock().faults.last_call = (deaths > 0).then(|| self.chance.below(calls));
            let opened = self.try_open(on_damage);
            match opened {
                Ok(Some(opened)) => {
                    self.medium.lock().faults.last_call = None;
                    self.medium.lock().faults.full = false;
                    return self.opened(opened);
                }
                Ok(None) => {}
                Err(OpenError::Locked(name)) => {
                    self.medium.lock().note(|| format!("{name} is locked"));
                    continue;
                }
                Err(OpenError::Damaged(damaged))
                    if (self.facts.rot != Rot::Nothing || self.lurking + self.ring_flips > 0)
                        && on_damage == OnDamage::Refuse =>
                {
                    self.medium.lock().note(|| format!("refused: {damaged}"));
                    self.summary.salvages += 1;
                    if self.facts.rot == Rot::Nothing && damaged.ring.is_some() && self.ring_header_flips > 1 {
                        self.facts.rot = Rot::Ring;
                    }
                    on_damage = OnDamage::Salvage;
                    continue;
                }
                Err(_) if self.medium.lock().is_crashed() => {}
                Err(error) => return Err(format!("not opened: {error}")),
            }
            deaths = deaths.saturating_sub(1);
            self.summary.cut_recoveries += 1;
            let ends: &[End] = if crash_loop { &[End::Kill] } else { &[End::Kill, End::PowerCut, End::KillAndReboot] };
            let end = self.chance.pick(ends);
            if end != End::Kill {
                self.facts.ending = Ending::PowerCut;
            }
            self.crash(end);
        }
        Err("the store cannot be opened for locks that are never given back".to_owned())
    }

    /// One attempt; `None` if the process died while it made the ring.
    fn try_open(&mut self, on_damage: OnDamage) -> Result<Option<(Log, Maker, Stream)>, OpenError> {
        let folder = self.medium.folder();
        let setup = ShardSetup {
            store: STORE,
            shard: SHARD,
            boot: self.boot(),
            segment_bytes: self.plan.segment_bytes,
            bounds: self.plan.bounds,
            batch_bytes_max: self.plan.batch_bytes_max,
            on_damage,
            flushed: self.flushed(),
            intake: Intake::Ring,
        };
        let spares_max = self.plan.bounds.reserve as usize + SEGMENTS_AHEAD + 1;
        let mut draw = self.chance.fork(4);
        self.chance.next_u64();
        let mut maker =
            Maker::new(STORE, SHARD, self.plan.segment_bytes, spares_max, Box::new(move || draw.next_u64()));
        let examined = examine(&folder, &setup, self.ring.image(), &mut |_| {})?;
        let (epoch, nonce) = (Epoch(examined.epoch_max.0 + 1), Nonce(self.chance.next_u64()));
        let own = Stream { origin: STORE, shard: SHARD, epoch, nonce };
        let report = || format!("examined: {}", serde_json::to_string(&examined.report).unwrap_or_default());
        self.medium.lock().note(report);
        put_aside(&examined, &folder, &mut Bin, self.ring.image())?;
        let image = self.ring.image().filter(|_| examined.needs_ring_image()).map(<[u8]>::to_vec);
        if examined.needs_new_ring() && !self.make_ring(Epoch(0), nonce, Seq(1)) {
            return Ok(None);
        }
        let Opened { log, .. } = carry_out(examined, &folder, &mut maker, own, image.as_deref())?;
        let made = self.make_ring(epoch, nonce, log.last_seq().next());
        Ok(made.then_some((log, maker, own)))
    }

    /// Makes the ring; false if the process dies meanwhile.
    fn make_ring(&mut self, epoch: Epoch, nonce: Nonce, first_seq: Seq) -> bool {
        let boot = self.boot();
        let (slots, bytes) = (RING_SLOTS, RING_BYTES);
        let header = RingHeader { store: STORE, shard: SHARD, boot, epoch, nonce, first_seq, slots, bytes };
        let dying = self.medium.lock().faults.last_call.is_some();
        let steps = if dying && self.chance.percent(40) { self.chance.within(1, 6) } else { u64::MAX };
        self.ring.create(header, &mut self.chance, steps)
    }

    fn opened(&mut self, (log, maker, own): (Log, Maker, Stream)) -> Result<(Core, SimDisk, Stream), String> {
        let folder = self.medium.folder();
        let found = self.model.check(&log, &folder, &self.facts)?;
        self.facts.rot = Rot::Nothing;
        (self.ring_flips, self.ring_header_flips) = (0, 0);
        self.medium.lock().note(|| format!("opened under {own:?}: {found:?}"));
        self.summary.recoveries += 1;
        self.summary.blocks += found.blocks;
        self.summary.lost += found.lost;
        for word in [found.first.0, found.last.0, found.blocks, self.medium.lock().now.0] {
            self.summary.digest = crate::types::mix64(self.summary.digest, word);
        }
        // A store that forgets is given everything that is in the log once more.
        if !self.plan.store_remembers {
            self.released = found.first.prev();
        }
        let flushed = self.flushed();
        let config = CoreConfig {
            own,
            policy: self.plan.policy,
            batch_bytes_max: self.plan.batch_bytes_max,
            bounds: self.plan.bounds,
        };
        let core = Core::new(config, log, flushed);
        let disk = SimDisk::new(folder, maker, self.chance.fork(5), self.plan.pace);
        Ok((core, disk, own))
    }

    /// Flips one bit of the log or the ring; batches that it hits may be lost, with a report.
    fn rot(&mut self) {
        if self.chance.percent(40) {
            let hit = self.ring.rot(&mut self.chance);
            self.medium.lock().note(|| format!("rot in the ring: {hit:?}"));
            self.ring_flips += 1;
            match hit {
                Hit::Header => self.ring_header_flips += 1,
                Hit::Entry(seq) => self.model.rot_entry(seq),
                Hit::Nothing => {}
            }
            self.summary.harmless_flips += 1;
            return;
        }
        let folder = self.medium.folder();
        let mut names: Vec<(String, u64)> = folder.list().unwrap_or_default();
        names.retain(|(name, _)| matches!(parse_name(name), FileName::Segment(_)));
        let Some((name, bytes)) = names.get(self.chance.below(names.len().max(1) as u64) as usize).cloned() else {
            return;
        };
        let mut content = vec![0; bytes as usize];
        let Ok(count) = folder.read(&name, 0, &mut content) else { return };
        let Ok(header) = SegmentHeader::decode(&content[..count]) else { return };
        let stamps = Stamps::new(&header);
        let mut batches = Vec::new();
        let mut at = SEGMENT_HEADER_BYTES;
        while at + PAGE_BYTES <= count {
            match check(&content[at..count], &Place::new(&header, at as u32), &stamps) {
                Check::Sound(batch) => {
                    batches.push((at, batch));
                    at += batch.length as usize;
                }
                _ => at += PAGE_BYTES,
            }
        }
        let reach = batches.last().map_or(count, |(at, batch)| (at + batch.length as usize + PAGE_BYTES).min(count));
        let at = self.chance.below(reach as u64) as usize;
        let bit = self.chance.below(8);
        self.medium.lock().rot(&name, at, |bytes| bytes[0] ^= 1 << bit);
        self.medium.lock().note(|| format!("rot: {name} {at:#x} bit {bit}"));
        self.facts.rot = Rot::Log;
        self.lurking += 1;
        let mut hit = false;
        content[at] ^= 1 << bit;
        // Where earlier flips left only one whole copy of the header, this one may take that too.
        let headless = SegmentHeader::decode(&content[..count]).is_err();
        // A write that did not arrive whole is damage now, wherever in it the bit was; what stood there
        // is lost to it as far as the log goes on behind.
        let before = batches.iter().rfind(|(start, batch)| start + batch.length as usize <= at);
        let from = before.map_or(SEGMENT_HEADER_BYTES, |(start, batch)| start + batch.length as usize);
        for page in (from..=at).step_by(PAGE_BYTES) {
            self.model.rot_place(Place::new(&header, page as u32));
        }
        let behind = batches.iter().find(|(start, _)| *start > at);
        if let (Some((_, before)), Some((_, behind))) = (before, behind) {
            for seq in before.last_seq().0 + 1..behind.first_seq.0 {
                self.model.rot_entry(Seq(seq));
            }
        }
        for (start, batch) in batches {
            if headless || (start..start + batch.length as usize).contains(&at) {
                hit = true;
                self.model.rot(Place::new(&header, start as u32), &batch);
            }
        }
        self.summary.harmless_flips += u64::from(!hit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk::Instant;
    use crate::sim::blocks::BlockName;
    use crate::sim::check::{Item, What};
    use crate::sim::ring::Upto;
    use crate::wal::log::LogBounds;

    /// The reserve holds what the ring holds once, not once for each attempt to write it there.
    #[test]
    fn a_crash_loop_in_the_replay_on_a_full_disk_ends_in_an_open_store() {
        let mut world = World::new(&Run::default());
        world.plan.segment_bytes = 32 << 10;
        world.plan.batch_bytes_max = 4 << 10;
        world.plan.block_bytes_max = 1000;
        world.plan.bounds = LogBounds { segments_max: 10, reserve: 3 };
        let (core, disk, own) = world.open(0).expect("a new store");
        drop((core, disk));
        for counter in 0.. {
            let name = BlockName { writer: 0, counter, length: 1000 };
            let mut payload = Vec::new();
            name.payload(&mut payload);
            let header = name.header(&payload);
            let Some(claim) = world.ring.claim(header.bytes().len() + payload.len()) else { break };
            world.ring.copy(claim, header.bytes(), &payload, usize::MAX);
            let seq = world.ring.take_seq(claim);
            world.ring.fill(seq, claim, header.bytes(), &payload, Upto::Tag, &mut world.chance);
            let item = Item { acked: Some(Instant(0)), ..Item::new(own, What::Block(name)) };
            world.model.given(seq, item);
        }
        world.medium.lock().kill();
        world.medium.lock().faults.full = true;
        // At each call many times over, up to the number with which the opening comes to its end.
        let mut deaths = 0;
        for calls in (0..).flat_map(|calls| [calls; 8]) {
            world.medium.lock().faults.last_call = Some(calls);
            let opened = world.try_open(OnDamage::Refuse);
            if !world.medium.lock().is_crashed() {
                opened.expect("it opens on a full disk");
                break;
            }
            deaths += 1;
            world.medium.lock().kill();
        }
        assert!(deaths > 20, "{deaths} deaths");
        world.medium.lock().kill();
        world.open(0).expect("all is there");
    }
}
