//! One history of a store: lives, their ends, and recoveries that may be cut short themselves, all from
//! one seed. After each recovery every shard's log is held against its model.
//!
//! The shards of a store have one device, one clock and one process, and are opened as the engine opens
//! them: all are examined, then each is carried out, under one epoch. Their lives run side by side.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::config::OnDamage;
use crate::io::chance::Chance;
use crate::io::disk::Instant;
use crate::io::medium::{Fate, Flaws, FolderNo, Medium};
use crate::io::sim::{SharedMedium, SimDisk};
use crate::planted::{Mutant, is_planted, plant};
use crate::recover::{OpenError, next_epoch};
use crate::shard::core::{Core, CoreConfig};
use crate::sim::check::{Ending, Facts, Kind, Rot, Wrong};
use crate::sim::life::{Ended, Ground, Life, Turn};
use crate::sim::meddle::{Backup, meddle};
use crate::sim::plan::{CRASH_LOOP, End, LifePlan, Limits, Plan, Shards, Trouble, Wall};
use crate::sim::shard::{Astray, Carried, Common, STORE, Shard, not_opened};
use crate::types::{Epoch, Nonce, ShardId, Stream};

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
    /// The store's shards.
    pub shards: Shards,
    /// What `received_at` is taken from. Nothing else may depend on it.
    pub wall: Wall,
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
    /// Damages that no opening was refused for, as they cost nothing, and that were reported.
    pub told: u64,
    /// Flipped bits that did no harm.
    pub harmless_flips: u64,
    /// Writes that the device lost or put elsewhere.
    pub strayed: u64,
    /// Files that were missing or others than they were, and noticed.
    pub meddled: u64,
    /// Stalls in which the ring was full, and after which it took blocks again.
    pub stalls: u64,
    /// Lives in which a shard went on behind another's fault.
    pub went_on: u64,
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
        self.told += other.told;
        self.harmless_flips += other.harmless_flips;
        self.strayed += other.strayed;
        self.meddled += other.meddled;
        self.stalls += other.stalls;
        self.went_on += other.went_on;
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
    /// Which kind of promise it is.
    pub kind: Kind,
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
    let mut world = World::new(run);
    let result = caught(run.mutant, || world.history());
    let trace = world.medium.lock().trace().to_owned();
    match result {
        Ok(()) => Ok((world.summary, trace)),
        Err(Wrong { kind, what }) => Err(Box::new(Violation { seed: run.seed, life: world.life, kind, what, trace })),
    }
}

/// Runs this with a bug planted. A panic of the engine is a violation like any other.
pub(super) fn caught<T>(mutant: Option<Mutant>, history: impl FnOnce() -> Result<T, Wrong>) -> Result<T, Wrong> {
    plant(mutant);
    let result = catch_unwind(AssertUnwindSafe(history)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()).into())
    });
    plant(None);
    result
}

/// A store and its surroundings.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) chance: Chance,
    seed: Chance,
    pub(super) medium: SharedMedium,
    pub(super) shards: Vec<Shard>,
    pub(super) backup: Option<Backup>,
    boot: u64,
    epoch: Epoch,
    wall: Wall,
    pub(super) life: u32,
    pub(super) summary: Summary,
}

/// A shard that was opened.
type OpenedShard = (Core, SimDisk, Stream);

impl World {
    pub(super) fn new(run: &Run) -> Self {
        let seed = Chance::new(run.seed);
        let mut chance = seed.fork(1);
        let plan = Plan::new(&mut chance, run.limits);
        let count = match run.shards {
            Shards::One => 1,
            Shards::Several => chance.within(2, 3) as usize,
        };
        let mut medium = Medium::new(seed.fork(2), plan.unit);
        let flawed = |mutant| run.mutant == Some(mutant);
        medium.flaws = Flaws {
            no_folder_sync: flawed(Mutant::NoFolderSync),
            retry_sync: flawed(Mutant::RetrySync),
            no_locks: flawed(Mutant::RecycleWithoutLock),
            no_write_sync: flawed(Mutant::AckBeforeSync),
        };
        if run.trace == Tracing::On {
            medium.keep_trace();
            medium.note(|| format!("seed {} {count} shards {plan:?}", run.seed));
        }
        let folder = |index: usize, medium: &mut Medium| if index == 0 { FolderNo(0) } else { medium.add_folder() };
        let writers = plan.writers as usize;
        let shard = |index| Shard::new(STORE, ShardId(index as u16), folder(index, &mut medium), writers);
        let shards = (0..count).map(shard).collect();
        Self {
            plan,
            chance,
            seed,
            medium: SharedMedium::new(medium),
            shards,
            backup: None,
            boot: 1,
            epoch: Epoch(0),
            wall: run.wall,
            life: 0,
            summary: Summary::default(),
        }
    }

    /// The same once more, with a device of its own.
    pub(super) fn copy(&self) -> Self {
        Self {
            plan: self.plan.clone(),
            chance: self.chance.clone(),
            seed: self.seed.clone(),
            medium: SharedMedium::new(self.medium.lock().clone()),
            shards: self.shards.clone(),
            backup: None,
            summary: Summary::default(),
            ..*self
        }
    }

    fn history(&mut self) -> Result<(), Wrong> {
        let deaths = self.lives(|plan| plan)?;
        self.open(deaths)?;
        // Once more, as a store that nobody uses is opened: nothing changes.
        for shard in &mut self.shards {
            shard.facts = Facts { ending: Ending::Kill, synced: shard.model.last(), window: None, rot: Rot::Nothing };
        }
        self.medium.lock().kill();
        self.open(0).map(|_| ())
    }

    /// Lives all lives, each as its plan, changed by `change`, says; how often the next opening dies.
    pub(super) fn lives(&mut self, change: impl Fn(LifePlan) -> LifePlan) -> Result<u32, Wrong> {
        let mut deaths = 0;
        for life in 0..self.plan.lives {
            self.life = life;
            // Each life has numbers of its own, so that a shorter history is a prefix of a longer one.
            self.chance = self.seed.fork(u64::from(life) + 100);
            let plan = change(LifePlan::new(&mut self.chance, &self.plan));
            let opened = self.open(deaths)?;
            deaths = plan.recovery_deaths;
            self.medium.lock().note(|| format!("life {life}: {plan:?}"));
            let ended = self.live(plan, opened)?;
            self.end(plan, ended)?;
        }
        self.life = self.plan.lives;
        Ok(deaths)
    }

    /// All shards live side by side until the process ends.
    fn live(&mut self, plan: LifePlan, opened: Vec<OpenedShard>) -> Result<Vec<Ended>, Wrong> {
        let mut lives = Vec::new();
        for ((core, disk, own), (index, shard)) in opened.into_iter().zip(self.shards.iter_mut().enumerate()) {
            let ground = Ground {
                plan: &self.plan,
                medium: &self.medium,
                ring: &mut shard.ring,
                model: &mut shard.model,
                counters: &mut shard.counters,
                released: &mut shard.released,
                wall: self.wall,
            };
            // What is armed on the device strikes any shard.
            let counted = matches!(plan.trouble, Trouble::Full | Trouble::Stall(_)) || index == 0;
            let plan = if counted { plan } else { LifePlan { trouble: Trouble::None, ..plan } };
            lives.push(Life::new(ground, plan, own, core, disk, self.chance.fork(3 + 100 * index as u64)));
        }
        run_lives(&mut lives, plan, &self.medium, &mut self.chance)?;
        Ok(lives.into_iter().map(Life::end).collect::<Result<_, _>>()?)
    }

    /// The life is over: what is left of it.
    fn end(&mut self, plan: LifePlan, ended: Vec<Ended>) -> Result<(), Wrong> {
        self.summary.lives += 1;
        let first_fault = ended.iter().filter_map(|ended| ended.fault_at).min();
        self.summary.faults += u64::from(first_fault.is_some());
        let went_on = |ended: &Ended| !ended.fault && first_fault.is_some_and(|at| ended.last_publication > at);
        self.summary.went_on += u64::from(ended.iter().any(went_on));
        self.summary.stalls += ended.iter().map(|ended| u64::from(ended.outlived_a_stall)).sum::<u64>();
        let cut = match plan.end {
            End::Kill | End::KillAndReboot if self.chance.percent(20) && self.medium.lock().is_crashed() => {
                End::PowerCut
            }
            End::StopAndPowerCut | End::PowerCut => End::PowerCut,
            other => other,
        };
        let ending = match cut {
            End::PowerCut | End::KillAndReboot => Ending::PowerCut,
            _ => Ending::Kill,
        };
        for (shard, ended) in self.shards.iter_mut().zip(ended) {
            shard.ended(ended, ending);
        }
        self.crash(cut);
        self.strayed();
        if plan.meddling {
            let of = Common { plan: &self.plan, medium: &self.medium, boot: boot_id(self.boot) };
            let shard = self.chance.below(self.shards.len() as u64) as usize;
            let noticed = meddle(&mut self.shards[shard], of, &mut self.chance, &mut self.backup)?;
            self.summary.meddled += u64::from(noticed);
        }
        if plan.rot {
            self.rot();
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, end: End) {
        match end {
            End::Kill | End::Stop => self.medium.lock().kill(),
            End::KillAndReboot => {
                self.medium.lock().cut_power(Fate::Kept);
                self.shards.iter_mut().for_each(|shard| shard.ring.write_all_back());
                self.boot += 1;
            }
            End::PowerCut | End::StopAndPowerCut => {
                let fate = self.chance.pick(&Fate::ALL);
                self.medium.lock().cut_power(fate);
                for shard in &mut self.shards {
                    shard.cut_power(self.plan.unit, &mut self.chance);
                }
                self.boot += 1;
                self.summary.power_cuts += 1;
            }
        }
    }

    /// What follows from a write that strayed in the life that is over.
    fn strayed(&mut self) {
        let Some(strayed) = self.medium.lock().strayed.take() else { return };
        self.summary.strayed += 1;
        let from = Astray { at: strayed.at, right: &strayed.data, wrong: &strayed.instead };
        let hit = strayed.hit.as_ref();
        let to = hit.map(|(file, at, over)| (*file, Astray { at: *at, right: over, wrong: &strayed.data }));
        // First what it hit: where it should have gone to is the truth, whatever it came over.
        let places: Vec<_> = to.into_iter().chain([(strayed.file, from)]).collect();
        let files = [Some(strayed.file), hit.map(|hit| hit.0).filter(|file| *file != strayed.file)];
        for file in files.into_iter().flatten() {
            let named = self.medium.lock().name_of(file).map(|(folder, name)| (folder, name.to_owned()));
            let Some((folder, name)) = named else { continue };
            let places: Vec<_> = places.iter().filter(|(of, _)| *of == file).map(|(_, place)| *place).collect();
            let shard = self.shards.iter_mut().find(|shard| shard.folder == folder);
            shard.expect("a shard's folder").strayed(&self.medium, &name, &places);
        }
    }

    /// Flips one bit of a log or a ring.
    fn rot(&mut self) {
        let shard = self.chance.below(self.shards.len() as u64) as usize;
        let shard = &mut self.shards[shard];
        if self.chance.percent(40) {
            let hit = shard.rot_ring(&mut self.chance);
            self.medium.lock().note(|| format!("rot in the ring: {hit:?}"));
            self.summary.harmless_flips += 1;
        } else if let Some(hit) = shard.rot_log(&self.medium, &mut self.chance) {
            self.summary.harmless_flips += u64::from(!hit);
        }
    }

    /// Opens the store, dying `deaths` times on the way, and checks what it finds.
    pub(super) fn open(&mut self, mut deaths: u32) -> Result<Vec<OpenedShard>, Wrong> {
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
            match self.try_open(on_damage) {
                Ok(Some(opened)) => {
                    self.medium.lock().faults.last_call = None;
                    self.medium.lock().faults.full = false;
                    return self.opened(opened);
                }
                Ok(None) => {}
                Err((_, OpenError::Locked(name))) => {
                    self.medium.lock().note(|| format!("{name} is locked"));
                    continue;
                }
                Err((shard, OpenError::Damaged(damaged)))
                    if self.shards[shard].may_be_refused() && on_damage == OnDamage::Refuse =>
                {
                    self.medium.lock().note(|| format!("refused: {damaged}"));
                    self.summary.salvages += 1;
                    if damaged.ring.is_some() {
                        self.shards[shard].refused_for_its_ring();
                    }
                    if !damaged.log.is_empty() && self.shards[shard].lurking > 0 {
                        self.shards[shard].refused_for_its_log();
                    }
                    on_damage = OnDamage::Salvage;
                    continue;
                }
                Err((shard, OpenError::Foreign { name, .. })) if self.shards[shard].may_be_refused() => {
                    // The header of another shard's segment went there. It is moved away, as the error says.
                    self.medium.lock().note(|| format!("refused: {name} is foreign"));
                    self.medium.lock().replace(self.shards[shard].folder, &name, None);
                    continue;
                }
                Err(_) if self.medium.lock().is_crashed() => {}
                Err((shard, error)) => return Err(not_opened(shard, &error)),
            }
            deaths = deaths.saturating_sub(1);
            self.summary.cut_recoveries += 1;
            let ends: &[End] = if crash_loop { &[End::Kill] } else { &[End::Kill, End::PowerCut, End::KillAndReboot] };
            let end = self.chance.pick(ends);
            if end != End::Kill {
                self.shards.iter_mut().for_each(|shard| shard.facts.ending = Ending::PowerCut);
            }
            self.crash(end);
            self.shards.iter_mut().for_each(|shard| shard.weigh(&self.medium));
        }
        Err("the store cannot be opened for locks that are never given back".to_owned().into())
    }

    /// One attempt, in the engine's order; `None` if the process died while it made a ring. An error
    /// comes with the index of its shard.
    pub(super) fn try_open(&mut self, on_damage: OnDamage) -> Result<Option<Vec<Carried>>, (usize, OpenError)> {
        let of = Common { plan: &self.plan, medium: &self.medium, boot: boot_id(self.boot) };
        let mut examined = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            let found = shard.examine(of, on_damage).map_err(|error| (index, error))?;
            self.summary.told += u64::from(on_damage == OnDamage::Refuse && !found.report.damage.is_empty());
            examined.push(found);
        }
        let mut epoch = next_epoch(&examined);
        if is_planted(Mutant::EpochFromWallClock) {
            // Minutes, as somebody might who thinks that no two openings are closer than that.
            epoch = Epoch(28_000_000 + self.chance.fork(8).below(1_000));
        }
        let nonce = Nonce(self.chance.next_u64());
        let mut opened = Vec::new();
        for ((index, shard), examined) in self.shards.iter_mut().enumerate().zip(examined) {
            let made = shard.carry_out(of, examined, (epoch, nonce), &mut self.chance);
            match made.map_err(|error| (index, error))? {
                Some(made) => opened.push(made),
                None => return Ok(None),
            }
        }
        Ok(Some(opened))
    }

    /// Holds what was opened against the history.
    fn opened(&mut self, opened: Vec<Carried>) -> Result<Vec<OpenedShard>, Wrong> {
        let epoch = opened[0].2.epoch;
        if epoch <= self.epoch || opened.iter().any(|(.., own)| own.epoch != epoch) {
            return Err(format!("epoch {epoch} does not stand above {} in all shards", self.epoch).into());
        }
        self.epoch = epoch;
        let mut shards = Vec::new();
        for ((opened, maker, own), (index, shard)) in opened.into_iter().zip(self.shards.iter_mut().enumerate()) {
            let of = Common { plan: &self.plan, medium: &self.medium, boot: boot_id(self.boot) };
            let (found, flushed) = shard.opened(of, &opened)?;
            self.medium.lock().note(|| format!("opened under {own:?}: {found:?}"));
            self.summary.recoveries += 1;
            self.summary.blocks += found.blocks;
            self.summary.lost += found.lost;
            for word in [found.first.0, found.last.0, found.blocks, epoch.0, self.medium.lock().now.0] {
                self.summary.digest = crate::types::mix64(self.summary.digest, word);
            }
            let config = CoreConfig {
                own,
                policy: self.plan.policy,
                batch_bytes_max: self.plan.batch_bytes_max,
                bounds: self.plan.bounds,
            };
            let core = Core::new(config, opened.log, flushed);
            let chance = self.chance.fork(5 + 100 * index as u64);
            shards.push((core, SimDisk::new(shard.files(&self.medium), maker, chance, self.plan.pace), own));
        }
        Ok(shards)
    }
}

fn boot_id(boot: u64) -> [u8; 16] {
    u128::from(boot).to_le_bytes()
}

/// Runs lives side by side until they are stopped, or the process crashes. Who has the earliest event
/// has the next turn.
fn run_lives(lives: &mut [Life<'_>], plan: LifePlan, medium: &SharedMedium, chance: &mut Chance) -> Result<(), Wrong> {
    let alone = lives.len() == 1;
    let mut next: Vec<Option<Instant>> = vec![Some(medium.lock().now); lives.len()];
    let mut stopped = vec![false; lives.len()];
    let mut ends = false;
    loop {
        if !ends && lives.iter_mut().try_fold(true, |due, life| life.is_due().map(|this| this && due))? {
            ends = true;
            let now = medium.lock().now;
            end_begins(lives, plan, now, chance)?;
            next.fill(Some(now));
        }
        let earliest = (0..lives.len()).filter(|&index| !stopped[index]).min_by_key(|&index| {
            // One for which nothing is going to happen comes last.
            next[index].map_or(u64::MAX, |at| at.0)
        });
        let Some(index) = earliest else { return Ok(()) };
        let others = (0..lives.len()).filter(|&other| other != index && !stopped[other]);
        let horizon = others.filter_map(|other| next[other]).min();
        match lives[index].turn(horizon.filter(|_| !alone))? {
            Turn::On if alone => {}
            Turn::On => next[index] = lives[index].next(),
            Turn::Stopped => stopped[index] = true,
            Turn::Crashed => return Ok(()),
        }
    }
}

/// All has been published: decides when and how the end comes.
fn end_begins(lives: &mut [Life<'_>], plan: LifePlan, now: Instant, chance: &mut Chance) -> Result<(), Wrong> {
    let stops = matches!(plan.end, End::Stop | End::StopAndPowerCut);
    if !stops || chance.percent(30) {
        let spans: &[u64] = if stops { &[100, 2_000, 20_000] } else { &[1, 100, 2_000, 20_000] };
        let span = chance.pick(spans);
        let at = now.plus_us(chance.below(span));
        lives.iter_mut().for_each(|life| life.crash_at(at));
    }
    if stops {
        for life in lives {
            life.stop()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::blocks::BlockName;
    use crate::sim::check::{Item, What};
    use crate::sim::ring::Upto;
    use crate::wal::batch::StreamEnd;
    use crate::wal::log::LogBounds;

    /// The reserve holds what the ring holds once, not once for each attempt to write it there.
    #[test]
    fn a_crash_loop_in_the_replay_on_a_full_disk_ends_in_an_open_store() {
        let mut world = World::new(&Run::default());
        let mut chance = Chance::new(1);
        world.plan.segment_bytes = 32 << 10;
        world.plan.batch_bytes_max = 4 << 10;
        world.plan.block_bytes_max = 1000;
        world.plan.bounds = LogBounds { segments_max: 10, reserve: 3 };
        let own = world.open(0).expect("a new store").remove(0).2;
        for counter in 0.. {
            let name = BlockName { writer: 0, counter, length: 1000 };
            let mut payload = Vec::new();
            name.payload(&mut payload);
            let header = name.header(&payload, 0, None);
            let Some(claim) = world.shards[0].ring.claim(header.bytes().len() + payload.len()) else { break };
            world.shards[0].ring.copy(claim, header.bytes(), &payload, usize::MAX);
            let seq = world.shards[0].ring.take_seq(claim);
            world.shards[0].ring.fill(seq, claim, header.bytes(), &payload, Upto::Tag, &mut chance);
            let item = Item {
                acked: Some(Instant(0)),
                ..Item::new(own, StreamEnd { seq, ..StreamEnd::default() }, What::Block(name))
            };
            world.shards[0].model.given(seq, item);
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
