//! Three stores that follow each other: each on a device of its own, at a level of its own, with the real core, scan,
//! recovery and segment maker, the real sender, receiver and roles, and frames as bytes over links that delay, repeat,
//! swap and cut them. Stores are killed, lose their power, die in recoveries and while they write their ROLE, are
//! promoted, demoted and put back from a backup.
//!
//! After each opening a store holds the beginning of each stream, with everything in it that was synced there or
//! acknowledged to a source. In the end all are linked until nothing moves: then every store holds the same (P8), with
//! all that any of them had synced and was not put back since. At no time does a store accept that has met a better
//! promotion than its own (P7).

use std::sync::Arc;

use crate::config::SyncPolicy;
use crate::io::chance::Chance;
use crate::logged::Logged;
use crate::reader::LogReader;
use crate::repl::role::Roles;
use crate::repl::wire::{Reason, Role, Stand};
use crate::sim::blocks::BlockName;
use crate::sim::check::{What, Wrong};
use crate::sim::plan::{End, Limits, Plan};
use crate::sim::site::{Dead, Habits, Site, store_id};
use crate::sim::site_link::{Came, Link};
use crate::sim::sites_check::{Ledger, SITES, Upto, Walk, must_hold};
use crate::sim::world::{Run, Tracing, Violation, caught};
use crate::types::{Position, Seq, mix64};
use crate::wal::batch::StreamEnds;
use crate::wal::entry::Entry;
use crate::wal::vector::{FOLDED, Holds, holds, rows_max};

/// Shards of a store at most.
const SHARDS_MAX: u64 = 2;
/// Links of two stores in one direction at the same time.
const LINKS_MAX: usize = 3;
/// Rounds within which stores that are linked and left alone are equal.
const ROUNDS_MAX: u32 = 2_000;
/// How long such a round takes, in microseconds: at level 1 a store syncs its own blocks after half a minute.
const SETTLING_US: u64 = 50_000;
/// Segments that a shard's log may have, so that nothing need be given back.
const SEGMENTS_MAX: u64 = 10_000;

/// What a history of stores that follow each other amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SitesSummary {
    /// Openings.
    pub openings: u64,
    /// Openings that were cut short.
    pub cut_openings: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Kills.
    pub kills: u64,
    /// Links that were dialled.
    pub links: u64,
    /// Links that the network cut or meddled with.
    pub troubled: u64,
    /// Times that somebody promoted or demoted a store.
    pub changes: u64,
    /// Times that a store met another active one, or a later term.
    pub fenced: u64,
    /// Stores that were put back from a backup.
    pub restored: u64,
    /// Blocks and voids that were given back, as all had them.
    pub trimmed: u64,
    /// Acknowledged blocks that a power cut took at the store that had accepted them.
    pub lost: u64,
    /// Blocks that clients had accepted.
    pub accepted: u64,
    /// Blocks that each store holds in the end.
    pub blocks: u64,
    /// A number that depends on everything found.
    pub digest: u64,
}

impl SitesSummary {
    /// Adds another history.
    pub fn add(&mut self, other: &Self) {
        self.openings += other.openings;
        self.cut_openings += other.cut_openings;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.links += other.links;
        self.troubled += other.troubled;
        self.changes += other.changes;
        self.fenced += other.fenced;
        self.restored += other.restored;
        self.trimmed += other.trimmed;
        self.lost += other.lost;
        self.accepted += other.accepted;
        self.blocks += other.blocks;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// Runs a history of stores that follow each other.
///
/// # Errors
/// The first promise that did not hold.
pub fn run_sites(run: &Run) -> Result<(SitesSummary, String), Box<Violation>> {
    let mut world = World::new(run);
    let result = caught(run.mutant, || world.history());
    world.gather();
    match result {
        Ok(()) => Ok((world.summary, world.trace)),
        Err(Wrong { kind, what }) => {
            Err(Box::new(Violation { seed: run.seed, life: world.life, kind, what, trace: world.trace }))
        }
    }
}

struct World {
    sites: Vec<Site>,
    links: Vec<Link>,
    ledger: Ledger,
    seed: Chance,
    chance: Chance,
    habits: Habits,
    lives: u32,
    blocks: u32,
    writers: u32,
    session: u64,
    life: u32,
    summary: SitesSummary,
    trace: String,
}

impl World {
    fn new(run: &Run) -> Self {
        let seed = Chance::new(run.seed);
        let mut chance = seed.fork(1);
        let plan = common(&mut chance, run.limits);
        let (lives, blocks, writers) = (plan.lives, plan.blocks, plan.writers);
        let all_active = chance.percent(30);
        let habits = Habits { starts_alone: chance.percent(20), trims: chance.percent(40) };
        let sites: Vec<Site> = (0..SITES)
            .map(|number| {
                let shards = chance.within(1, SHARDS_MAX) as u16;
                let plan = of_site(&plan, &mut chance);
                let stand = first_stand(number, all_active, &mut chance);
                let site = Site::new(number, plan, shards, stand, habits, &seed);
                if run.trace == Tracing::On {
                    let mut medium = site.medium.lock();
                    medium.keep_trace();
                    medium.note(|| format!("seed {} {shards} shards {stand:?} {:?}", run.seed, site.plan));
                }
                site
            })
            .collect();
        Self {
            sites,
            links: Vec::new(),
            ledger: Ledger::default(),
            seed,
            chance,
            habits,
            lives,
            blocks,
            writers,
            session: 0,
            life: 0,
            summary: SitesSummary::default(),
            trace: String::new(),
        }
    }

    /// The notes of all devices so far, in the order of what happened.
    fn gather(&mut self) {
        for site in &self.sites {
            for line in site.medium.lock().take_trace().lines() {
                self.trace.push_str(&format!("store {} {line}\n", site.number));
            }
        }
    }

    fn history(&mut self) -> Result<(), Wrong> {
        for life in 0..self.lives {
            self.life = life;
            // Each life has numbers of its own, so that a shorter history is a prefix of a longer one.
            self.chance = self.seed.fork(u64::from(life) + 100);
            let mut blocks = self.blocks;
            for _ in 0..self.chance.within(20, 200) {
                self.happen(&mut blocks)?;
                self.gather();
            }
        }
        self.life = self.lives;
        self.chance = self.seed.fork(2);
        self.settle()
    }

    /// One thing.
    fn happen(&mut self, blocks: &mut u32) -> Result<(), Wrong> {
        let site = self.chance.below(SITES as u64) as usize;
        if self.sites[site].process.is_none() {
            if self.chance.percent(40) {
                let deaths = self.chance.pick(&[0, 0, 0, 0, 1, 2]);
                self.open(site, deaths)?;
            }
            return Ok(());
        }
        match self.chance.below(40) {
            0..=7 => {
                for _ in 0..self.chance.within(1, 12) {
                    if *blocks > 0 {
                        *blocks -= 1;
                        self.append(site)?;
                    }
                }
            }
            8..=13 => self.pass(site)?,
            14 | 15 => self.dial(site),
            16 => {
                if let Some(link) = self.any_link().filter(|_| self.chance.percent(40)) {
                    self.summary.troubled += 1;
                    self.links[link].cut(&mut self.chance);
                }
            }
            17 => {
                if let Some(link) = self.any_link() {
                    self.summary.troubled += 1;
                    self.links[link].meddle(&mut self.chance);
                }
            }
            18 => self.links.iter_mut().for_each(Link::give_up),
            19..=22 => self.with_link(Self::fill)?,
            23..=27 => self.with_link(Self::down)?,
            28..=30 => self.with_link(Self::up)?,
            31 | 32 => {
                if let Some(link) = self.any_link() {
                    self.acknowledge(link);
                }
            }
            33..=36 => self.with_link(Self::pump)?,
            37 if self.chance.percent(30) && self.has_room_for_openings() => {
                let end = self.chance.pick(&[End::Kill, End::Kill, End::PowerCut, End::PowerCut, End::KillAndReboot]);
                self.end(site, end)?;
                self.between(site);
            }
            38 if self.chance.percent(35) => self.change(site)?,
            _ => self.pass(site)?,
        }
        self.links.retain(|link| !link.is_over());
        self.one_accepts_of_a_term()
    }

    /// No store need fold what it knows of streams yet: two that have folded at different times, and held different
    /// parts of a stream then, cannot be compared.
    fn has_room_for_openings(&self) -> bool {
        let (rows, _) = rows_max(self.sites[0].plan.segment_bytes);
        let to_come = self.sites.iter().map(|site| site.shards.len()).sum::<usize>();
        self.ledger.streams() + to_come + SHARDS_MAX as usize <= rows
    }

    /// A store that is not open may be backed up, or put back.
    fn between(&mut self, site: usize) {
        if self.habits.trims {
            return;
        }
        if self.chance.percent(30) {
            self.sites[site].back_up();
        } else if self.chance.percent(40) && self.sites[site].restore() {
            self.summary.restored += 1;
            // It takes longer than anybody waits; what it had acknowledged is no more.
            self.links.retain(|link| link.from != site && link.to != site);
        }
    }

    fn open(&mut self, site: usize, deaths: u32) -> Result<(), Wrong> {
        let found = self.sites[site].open(deaths, &mut self.ledger, &mut self.chance)?;
        self.summary.openings += 1;
        self.summary.cut_openings += found.cut;
        self.summary.lost += found.lost;
        for word in [site as u64, found.blocks, found.lost, found.epoch.0, self.sites[site].now().0] {
            self.summary.digest = mix64(self.summary.digest, word);
        }
        Ok(())
    }

    /// The process of a store is over.
    fn end(&mut self, site: usize, end: End) -> Result<(), Wrong> {
        *(if end == End::Kill { &mut self.summary.kills } else { &mut self.summary.power_cuts }) += 1;
        let last = self.sites[site].last_block(&mut self.ledger, &mut self.chance)?;
        self.sites[site].end(end, last, &mut self.chance);
        for link in &mut self.links {
            link.lose(site, &mut self.chance);
        }
        Ok(())
    }

    fn append(&mut self, site: usize) -> Result<(), Wrong> {
        let writer = self.chance.below(u64::from(self.writers)) as u32;
        let accepted = self.sites[site].append(writer, &mut self.ledger, &mut self.chance)?;
        self.summary.accepted += u64::from(accepted);
        Ok(())
    }

    fn pass(&mut self, site: usize) -> Result<(), Wrong> {
        let us = self.chance.pick(&[50, 500, 2_000, 10_000]);
        self.sites[site].run(us, &mut self.chance)
    }

    fn dial(&mut self, site: usize) {
        let from = (site + 1 + self.chance.below(SITES as u64 - 1) as usize) % SITES;
        let same = self.links.iter().filter(|link| (link.from, link.to) == (from, site)).count();
        if self.sites[from].process.is_some() && same < LINKS_MAX {
            self.session += 1;
            self.summary.links += 1;
            self.links.push(Link::dial(&self.sites, from, site, self.session));
        }
    }

    fn any_link(&mut self) -> Option<usize> {
        (!self.links.is_empty()).then(|| self.chance.below(self.links.len() as u64) as usize)
    }

    fn with_link(&mut self, step: fn(&mut Self, usize) -> Result<(), Wrong>) -> Result<(), Wrong> {
        self.any_link().map_or(Ok(()), |link| step(self, link))
    }

    fn fill(&mut self, link: usize) -> Result<(), Wrong> {
        let from = self.links[link].from;
        if self.sites[from].process.is_some() {
            let shard = self.chance.below(self.sites[from].shards.len() as u64) as usize;
            let most = self.chance.within(1, 20);
            self.links[link].fill(&self.sites[from], shard, most)?;
        }
        Ok(())
    }

    fn down(&mut self, link: usize) -> Result<(), Wrong> {
        for _ in 0..self.chance.within(1, 4) {
            self.deliver_down(link)?;
        }
        Ok(())
    }

    fn deliver_down(&mut self, link: usize) -> Result<bool, Wrong> {
        let to = self.links[link].to;
        let (any, came) = self.links[link].deliver_down(&mut self.sites[to], &mut self.chance)?;
        self.follow(to, came)?;
        Ok(any)
    }

    fn up(&mut self, link: usize) -> Result<(), Wrong> {
        for _ in 0..self.chance.within(1, 4) {
            self.deliver_up(link)?;
        }
        Ok(())
    }

    fn deliver_up(&mut self, link: usize) -> Result<bool, Wrong> {
        let (from, to) = (self.links[link].from, self.links[link].to);
        let fed = self.links[link].feeds();
        let (any, came) = self.links[link].deliver_up(&mut self.sites, &mut self.chance)?;
        if !fed && self.links[link].feeds() {
            self.supersede(from, to);
        }
        self.follow(from, came)?;
        Ok(any)
    }

    /// Of the links of two stores that feed, the newest counts.
    fn supersede(&mut self, from: usize, to: usize) {
        let of = |link: &&mut Link| (link.from, link.to) == (from, to) && link.feeds();
        let newest = self.links.iter_mut().filter(of).map(|link| link.session()).max();
        for link in self.links.iter_mut().filter(of).filter(|link| Some(link.session()) < newest) {
            link.end(&self.sites[from], Reason::Superseded);
        }
    }

    /// What follows from what a store has met.
    fn follow(&mut self, site: usize, came: Came) -> Result<(), Wrong> {
        match came {
            Came::Unchanged => Ok(()),
            Came::Changed => {
                self.summary.fenced += 1;
                self.changed(site);
                Ok(())
            }
            Came::Over => {
                let end = self.chance.pick(&[End::Kill, End::PowerCut]);
                self.end(site, end)
            }
        }
    }

    /// All links of a store that stands elsewhere now end: they begin with where it stands.
    fn changed(&mut self, site: usize) {
        for link in &mut self.links {
            link.end(&self.sites[site], Reason::Fenced);
        }
    }

    fn acknowledge(&mut self, link: usize) -> bool {
        let to = self.links[link].to;
        self.sites[to].process.is_some() && self.links[link].acknowledge(&mut self.sites[to], &self.ledger)
    }

    /// A link that nothing holds up, for a while.
    fn pump(&mut self, link: usize) -> Result<(), Wrong> {
        let (from, to) = (self.links[link].from, self.links[link].to);
        for _ in 0..self.chance.within(1, 4) {
            self.up(link)?;
            self.fill(link)?;
            self.down(link)?;
            self.pass(from)?;
            self.pass(to)?;
            self.acknowledge(link);
        }
        Ok(())
    }

    /// Somebody promotes or demotes a store.
    fn change(&mut self, site: usize) -> Result<(), Wrong> {
        let change = self.chance.pick(&[Roles::promote, Roles::promote, Roles::promote, Roles::demote, Roles::share]);
        self.summary.changes += 1;
        match self.sites[site].change(change, &mut self.chance)? {
            Ok(_) => {
                self.changed(site);
                Ok(())
            }
            Err(Dead) => self.follow(site, Came::Over),
        }
    }

    /// P7: of stores that have met the same promotion one at most accepts, unless all that do share it.
    fn one_accepts_of_a_term(&self) -> Result<(), Wrong> {
        let accepting = || self.sites.iter().filter(|site| site.accepts());
        let shares = |site: &Site| site.stand().role == Role::ActiveActive;
        for one in accepting() {
            let is_beside = |other: &&Site| other.number > one.number && other.met() == one.met();
            let other = accepting().filter(is_beside).find(|other| !shares(one) || !shares(other));
            if let Some(other) = other {
                let what =
                    format!("stores {} and {} both accept, and have met {:?}", one.number, other.number, one.met());
                return Err(what.into());
            }
        }
        Ok(())
    }

    /// All stores are opened and linked, and left alone until nothing moves. Then all of them are equal, and are once
    /// more when they were killed and opened again.
    fn settle(&mut self) -> Result<(), Wrong> {
        self.links.clear();
        for site in 0..SITES {
            if self.sites[site].process.is_none() {
                self.open(site, 0)?;
            }
        }
        let mut must = Upto::new();
        for (stream, seq) in self.sites.iter().flat_map(|site| &site.durable) {
            let most = must.entry(*stream).or_default();
            *most = (*most).max(*seq);
        }
        self.link_all()?;
        self.gather();
        self.sites.iter().try_for_each(|site| read_back(site, &self.ledger))?;
        for site in 0..SITES {
            self.sites[site].end(End::Kill, None, &mut self.chance);
            self.open(site, 0)?;
            let must = must.iter().filter(|(stream, _)| !self.sites[site].has_folded(**stream));
            let must = must.map(|(stream, seq)| (*stream, *seq)).collect();
            must_hold(&self.sites[site].durable, &must, &format!("another store than {site} had it synced"))?;
        }
        let shards = self.sites.iter().flat_map(|site| &site.shards);
        self.summary.trimmed += shards.map(|shard| shard.released.0).sum::<u64>();
        self.summary.blocks += self.ledger.held(&self.sites[0].durable);
        self.equal_vectors()
    }

    /// Links all with all, until nobody has anything to say.
    fn link_all(&mut self) -> Result<(), Wrong> {
        for _ in 0..ROUNDS_MAX {
            for (from, to) in (0..SITES).flat_map(|from| (0..SITES).map(move |to| (from, to))) {
                let known = self.links.iter().any(|link| (link.from, link.to) == (from, to));
                if from != to && !known {
                    self.session += 1;
                    self.links.push(Link::dial(&self.sites, from, to, self.session));
                }
            }
            let mut moved = false;
            for index in 0..self.links.len() {
                while self.deliver_up(index)? {
                    moved = true;
                }
                let from = self.links[index].from;
                for shard in 0..self.sites[from].shards.len() {
                    if self.sites[from].process.is_some() {
                        moved |= self.links[index].fill(&self.sites[from], shard, u64::MAX)? > 0;
                    }
                }
                while self.deliver_down(index)? {
                    moved = true;
                }
                moved |= self.acknowledge(index);
                // Of one whose store has died meanwhile.
                self.links[index].give_up();
            }
            self.links.retain(|link| !link.is_over());
            for site in 0..SITES {
                // One may have died while it wrote its role.
                if self.sites[site].process.is_none() {
                    self.open(site, 0)?;
                    moved = true;
                }
                self.sites[site].run(SETTLING_US, &mut self.chance)?;
            }
            let quiet = self.sites.iter().all(Site::is_quiet) && self.links.len() == SITES * (SITES - 1);
            let done = self.links.iter().all(|link| link.is_quiet() && link.has_shipped(&self.sites[link.from]));
            if !moved && quiet && done {
                return self.one_accepts_of_a_term();
            }
        }
        let quiet: Vec<bool> = self.sites.iter().map(Site::is_quiet).collect();
        let links = self.links.iter();
        let links = links.map(|link| (link.from, link.to, link.is_quiet(), link.has_shipped(&self.sites[link.from])));
        let links: Vec<_> = links.collect();
        Err(format!("stores that are linked and left alone do not come to an end: {quiet:?}, {links:?}").into())
    }

    /// What the stores say that they hold is the same.
    fn equal_vectors(&self) -> Result<(), Wrong> {
        let all: Vec<StreamEnds> = self.sites.iter().map(Site::vector).collect();
        for (one, two) in (0..SITES).flat_map(|one| (0..SITES).map(move |two| (one, two))) {
            for (stream, end) in &all[one] {
                let same = all[two].get(stream) == Some(end);
                let folded = all[two].keys().any(|row| row.nonce == FOLDED) || stream.nonce == FOLDED;
                if !(same || folded && holds(&all[two], *stream, *end) == Holds::All) {
                    let theirs = all[two].get(stream);
                    return Err(
                        format!("{stream:?} ends at {end:?} in store {one} and at {theirs:?} in store {two}").into()
                    );
                }
            }
        }
        Ok(())
    }
}

/// What all stores have in common: sizes, as a block must fit everywhere, and how long the history is.
fn common(chance: &mut Chance, limits: Limits) -> Plan {
    let mut plan = Plan::new(chance, limits);
    plan.bounds.segments_max = SEGMENTS_MAX;
    plan.store_remembers = false;
    plan.foreign_percent = 0;
    plan
}

/// What is each store's own.
fn of_site(plan: &Plan, chance: &mut Chance) -> Plan {
    let other = Plan::new(chance, Limits::default());
    let policy = chance.pick(&[SyncPolicy::Level1, SyncPolicy::Periodic { ms: 20 }, SyncPolicy::Each]);
    let policy = match (policy, other.policy) {
        (SyncPolicy::Periodic { .. }, SyncPolicy::Periodic { ms }) => SyncPolicy::Periodic { ms },
        (policy, _) => policy,
    };
    Plan { policy, unit: other.unit, hold_percent: other.hold_percent, pace: other.pace, ..plan.clone() }
}

/// What a store is before anybody promotes one.
fn first_stand(number: usize, all_active: bool, chance: &mut Chance) -> Stand {
    let role = match (all_active, number) {
        (true, _) if chance.percent(80) => Role::ActiveActive,
        (false, 0) => Role::Active,
        _ => Role::Standby,
    };
    let active = if role == Role::Active { store_id(number) } else { Stand::default().active };
    Stand { role, active, ..Stand::default() }
}

/// All that is in a store's log is what it should be, as a reader of it sees it.
fn read_back(site: &Site, ledger: &Ledger) -> Result<(), Wrong> {
    let mut walk = Walk::default();
    let process = site.process.as_ref().expect("an open store");
    for (open, shard) in process.shards.iter().zip(&site.shards) {
        let (folder, shared) = (Arc::clone(&open.folder), Arc::clone(&open.shared));
        let reader = LogReader::new(shard.id, folder, shared, false, Position::default());
        let mut reader = reader.map_err(|error| error.to_string())?;
        let mut local = Seq(0);
        while let Some(logged) = reader.next_logged(Seq(u64::MAX)).map_err(|error| error.to_string())? {
            let Logged::Block(block) = &logged else {
                return Err(format!("store {} lacks blocks in shard {}", site.number, shard.id).into());
            };
            let delivered = &reader.delivered(block);
            let (stream, seq) = (delivered.receipt.stream, delivered.receipt.seq);
            let name = name_of(delivered).ok_or_else(|| format!("{stream:?} {seq} is nobody's block"))?;
            ledger.is_next(&mut walk, stream, (seq, name, delivered.received_at_ns))?;
            local = delivered.position.seq;
        }
        let last = shard.model.items().filter(|(_, item)| matches!(item.what, What::Block(_))).last();
        if last.is_some_and(|(seq, item)| seq != local && !item.flushed) {
            return Err(format!("store {} reads shard {} up to {local}, and no further", site.number, shard.id).into());
        }
    }
    ledger.begins(&walk, &site.shards)
}

fn name_of(delivered: &crate::data::store::Delivered) -> Option<BlockName> {
    let block = &delivered.block;
    let payload = &block.payload;
    let header = Entry {
        kind: crate::wal::entry::EntryKind::Own,
        block_kind: block.kind,
        namespace: &delivered.namespace,
        table: &block.table,
        length: payload.len() as u32,
        received_at_ns: delivered.received_at_ns,
        rows: block.rows,
        payload_crc: crc32fast::hash(payload),
        identity: None,
    }
    .encode();
    BlockName::read(header.bytes(), payload, &mut Vec::new())
}
