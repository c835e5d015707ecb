//! One store of several, on a device of its own: it is opened, lives, is killed or loses its power, and is put back from
//! a backup. What it holds is checked at each opening, by the shard's own timeline and by what the streams are.

use crate::config::{OnDamage, SyncPolicy};
use crate::error::NotActive;
use crate::io::chance::Chance;
use crate::io::disk::Instant;
use crate::io::medium::{Fate, FolderNo, Medium};
use crate::io::sim::SharedMedium;
use crate::planted::{Mutant, is_planted};
use crate::recover::{OpenError, next_epoch};
use crate::repl::entries::Entries;
use crate::repl::receiver::{Receiver, Refused};
use crate::repl::role::Roles;
use crate::repl::wire::{Hello, Stand};
use crate::sim::blocks::BlockName;
use crate::sim::check::{Ending, Facts, Rot, What, Wrong};
use crate::sim::plan::{End, Plan};
use crate::sim::shard::{Carried, Common, Shard, not_opened};
use crate::sim::site_shard::{Given, OpenShard};
use crate::sim::sites_check::{Ledger, Promotion, SITES, Upto, must_hold};
use crate::types::{Epoch, Nonce, Opening, Seq, ShardId, StoreId, Stream};
use crate::wal::batch::{StreamEnd, StreamEnds};
use crate::wal::entry::{Entry, EntryKind, Identity, decode_entry, void_entry};
use crate::wal::vector::{FOLDED, is_folded};

/// Attempts to open after which a recovery counts as hung.
const ATTEMPTS_MAX: u32 = 1_000;
/// Calls within which a recovery that dies does so.
const CALLS: u64 = 60;
/// Rounds of a time slice after which a shard counts as spinning.
const ROUNDS_MAX: u32 = 1_000_000;
/// How long a writer is held up between taking a seq and filling its slot at most, in microseconds.
const HOLD_US: u64 = 3_000;
/// Percent of the changes of a role at which the process dies right before they are written, and right behind.
const DIES_AT_ROLE_PERCENT: u64 = 4;

/// The process came to its end in what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead;

/// How stores are run.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// An active one that starts again accepts before it has heard from a peer.
    pub starts_alone: bool,
    /// The log is given back as far as all have it. None is put back from a backup then.
    pub trims: bool,
}

/// All that is lost with a store, as it was once.
#[derive(Clone)]
struct Backup {
    medium: Medium,
    shards: Vec<Shard>,
    stand: Stand,
    met: Promotion,
    durable: Upto,
    acked: Upto,
    last: Opening,
}

/// A store that is open.
pub struct Process {
    /// Which opening it is.
    pub opening: Opening,
    /// Its shards.
    pub shards: Vec<OpenShard>,
    /// What it takes in.
    pub receiver: Receiver,
    roles: Roles,
    /// Whether blocks of clients are taken.
    accepts: Result<(), NotActive>,
    /// The best promotion that it has met.
    met: Promotion,
    /// By peer and shard: up to where it has the log.
    retained: Vec<Vec<Seq>>,
}

/// The store.
pub struct Site {
    /// Its number among the stores.
    pub number: usize,
    /// Its name.
    pub id: StoreId,
    /// Its settings.
    pub plan: Plan,
    /// Its device.
    pub medium: SharedMedium,
    /// Its shards: files, rings, histories.
    pub shards: Vec<Shard>,
    /// The process, if one runs.
    pub process: Option<Process>,
    /// Up to where it has each stream, whatever happens to it.
    pub durable: Upto,
    /// Up to where it has acknowledged each stream to a source.
    pub acked: Upto,
    /// What it knew of folded streams when it was opened last.
    folded: StreamEnds,
    boot: u64,
    /// Its ROLE.
    stand: Stand,
    /// The best promotion that it had met when that was written.
    met: Promotion,
    starts_alone: bool,
    /// It gives back what all have.
    pub trims: bool,
    /// Its latest opening.
    last: Opening,
    counter: u32,
    wall_ns: i64,
    backup: Option<Box<Backup>>,
}

impl Site {
    /// A store that was never opened.
    #[must_use]
    pub fn new(number: usize, plan: Plan, shards: u16, stand: Stand, habits: Habits, chance: &Chance) -> Self {
        let id = store_id(number);
        let mut medium = Medium::new(chance.fork(20 + number as u64), plan.unit);
        let shard = |index: u16, medium: &mut Medium| {
            let folder = if index == 0 { FolderNo(0) } else { medium.add_folder() };
            Shard::new(id, ShardId(index), folder, 0)
        };
        let shards = (0..shards).map(|index| shard(index, &mut medium)).collect();
        Self {
            number,
            id,
            plan,
            medium: SharedMedium::new(medium),
            shards,
            process: None,
            durable: Upto::new(),
            acked: Upto::new(),
            folded: StreamEnds::new(),
            boot: 1,
            stand,
            met: Promotion::said(stand),
            starts_alone: habits.starts_alone,
            trims: habits.trims,
            last: Opening::default(),
            counter: 0,
            wall_ns: 1_700_000_000_000_000_000 + number as i64,
            backup: None,
        }
    }

    /// The process that runs.
    ///
    /// # Panics
    /// Where none does.
    pub fn up(&mut self) -> &mut Process {
        self.process.as_mut().expect("an open store")
    }

    /// The present, as this store has it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.medium.lock().now
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.medium.lock().note(what);
    }

    /// Opens it, dying `deaths` times on the way, and holds what it finds against what it must hold.
    ///
    /// # Errors
    /// The first promise that does not hold.
    pub fn open(&mut self, mut deaths: u32, ledger: &mut Ledger, chance: &mut Chance) -> Result<Found, Wrong> {
        let mut cut = 0;
        for _ in 0..ATTEMPTS_MAX {
            self.medium.lock().faults.last_call = (deaths > 0).then(|| chance.below(CALLS));
            match self.try_open(chance) {
                Ok(Some(opened)) => {
                    self.medium.lock().faults.last_call = None;
                    return self.opened(opened, ledger, chance).map(|found| Found { cut, ..found });
                }
                Ok(None) => {}
                Err((_, OpenError::Locked(_))) => continue,
                Err(_) if self.medium.lock().is_crashed() => {}
                Err((shard, error)) => return Err(not_opened(shard, &error)),
            }
            deaths = deaths.saturating_sub(1);
            cut += 1;
            let end = chance.pick(&[End::Kill, End::PowerCut, End::KillAndReboot]);
            if end != End::Kill {
                self.shards.iter_mut().for_each(|shard| shard.facts.ending = Ending::PowerCut);
            }
            self.crash(end, chance);
        }
        Err("the store cannot be opened for locks that are never given back".to_owned().into())
    }

    /// One attempt, in the engine's order; `None` if the process died while it made a ring.
    fn try_open(&mut self, chance: &mut Chance) -> Result<Option<Vec<Carried>>, (usize, OpenError)> {
        let of = Common { plan: &self.plan, medium: &self.medium, boot: u128::from(self.boot).to_le_bytes() };
        let mut examined = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            examined.push(shard.examine(of, OnDamage::Refuse).map_err(|error| (index, error))?);
        }
        let epoch = next_epoch(&examined);
        let nonce = if is_planted(Mutant::NoNonce) { Nonce(1) } else { Nonce(chance.next_u64().max(1)) };
        let mut opened = Vec::new();
        for ((index, shard), examined) in self.shards.iter_mut().enumerate().zip(examined) {
            match shard.carry_out(of, examined, (epoch, nonce), chance).map_err(|error| (index, error))? {
                Some(made) => opened.push(made),
                None => return Ok(None),
            }
        }
        Ok(Some(opened))
    }

    /// Holds what was opened against what it must hold, and begins to live.
    fn opened(&mut self, opened: Vec<Carried>, ledger: &mut Ledger, chance: &mut Chance) -> Result<Found, Wrong> {
        let of = Common { plan: &self.plan, medium: &self.medium, boot: u128::from(self.boot).to_le_bytes() };
        let mut found = Found::default();
        let mut ends = StreamEnds::new();
        for ((opened, ..), shard) in opened.iter().zip(&mut self.shards) {
            let (of_shard, _) = shard.opened(of, opened)?;
            found.blocks += of_shard.blocks;
            found.lost += of_shard.lost;
            ends.extend(opened.log.ends.iter().map(|(stream, end)| (*stream, *end)));
        }
        ledger.forget_holes(self.last, &self.shards);
        ledger.check_prefixes(&self.shards)?;
        let held = self.held(&ends)?;
        self.folded = ends.iter().filter(|(row, _)| row.nonce == FOLDED).map(|(row, end)| (*row, *end)).collect();
        self.durable.retain(|stream, _| !is_folded(&ends, stream));
        self.acked.retain(|stream, _| !is_folded(&ends, stream));
        must_hold(&held, &self.durable, "was synced here")?;
        must_hold(&held, &self.acked, "was acknowledged to a source")?;
        self.durable = held;
        let opening = Opening::of(&opened[0].2);
        if opened.iter().any(|(.., own)| Opening::of(own) != opening) {
            return Err("its shards have other openings".to_owned().into());
        }
        self.last = opening;
        let roles = Roles::new(self.id, self.stand, self.starts_alone);
        let own = opened.iter().map(|(.., own)| *own).collect();
        let numbers = chance.fork(3);
        chance.next_u64();
        let chances = (0..).map(|index| numbers.fork(50 + index));
        let shards = opened.into_iter().zip(&self.shards).zip(chances);
        let shards =
            shards.map(|((opened, shard), chance)| OpenShard::new(opened, shard, &self.plan, &self.medium, chance));
        self.note(|| format!("opened as {opening:?}: {found:?}, {:?}", roles.stand()));
        self.process = Some(Process {
            opening,
            shards: shards.collect(),
            receiver: Receiver::new(self.id, ends, own),
            accepts: roles.accepts(),
            roles,
            met: self.met,
            retained: vec![vec![Seq(0); self.shards.len()]; SITES],
        });
        self.may_accept()?;
        Ok(Found { epoch: opening.epoch, ..found })
    }

    /// Up to where it holds each stream, as its log says.
    fn held(&self, ends: &StreamEnds) -> Result<Upto, Wrong> {
        let rows = ends.iter().filter(|(stream, _)| stream.nonce != FOLDED);
        let held: Upto = rows.map(|(stream, end)| (*stream, end.seq)).collect();
        let blocks = self.shards.iter().flat_map(|shard| shard.model.items());
        let blocks = blocks.filter(|(_, item)| matches!(item.what, What::Block(_)));
        let last: Upto = blocks.map(|(_, item)| (item.stream, item.number)).collect();
        match last
            .iter()
            .filter(|(stream, _)| !is_folded(ends, stream))
            .filter(|(stream, seq)| held.get(stream) != Some(seq))
            .min()
        {
            None => Ok(held),
            Some((stream, seq)) => {
                Err(format!("{stream:?} ends at {:?} in the log, whose last block of it is {seq}", held.get(stream))
                    .into())
            }
        }
    }

    /// A peer has this shard's log up to here, and will not ask for it again.
    ///
    /// # Errors
    /// A fault: nothing here fails.
    pub fn shipped(&mut self, peer: usize, shard: usize, upto: Seq) -> Result<(), Wrong> {
        if !self.trims {
            return Ok(());
        }
        let now = self.now();
        let process = self.process.as_mut().expect("an open store");
        let retained = &mut process.retained[peer][shard];
        *retained = (*retained).max(upto);
        let everywhere = process.retained.iter().enumerate().filter(|(peer, _)| *peer != self.number);
        let everywhere = everywhere.map(|(_, shards)| shards[shard]).min().unwrap_or_default();
        Ok(process.shards[shard].release(&mut self.shards[shard], everywhere, now)?)
    }

    /// The process ends so. What it was in the middle of it leaves there: a publication of `last`, perhaps.
    pub fn end(&mut self, end: End, last: Option<(ShardId, Given)>, chance: &mut Chance) {
        let Some(process) = self.process.take() else { return };
        let mut last = last;
        for (mut open, shard) in process.shards.into_iter().zip(&mut self.shards) {
            let here = last.take_if(|(of, _)| *of == shard.id).map(|(_, block)| block);
            open.die(shard, here, chance);
            let ending = if end == End::Kill { Ending::Kill } else { Ending::PowerCut };
            shard.facts = Facts { ending, synced: open.synced(), window: None, rot: Rot::Nothing };
        }
        self.crash(end, chance);
    }

    fn crash(&mut self, end: End, chance: &mut Chance) {
        match end {
            End::Kill | End::Stop => self.medium.lock().kill(),
            End::KillAndReboot => {
                self.medium.lock().cut_power(Fate::Kept);
                self.shards.iter_mut().for_each(|shard| shard.ring.write_all_back());
                self.boot += 1;
            }
            End::PowerCut | End::StopAndPowerCut => {
                let fate = chance.pick(&Fate::ALL);
                self.medium.lock().cut_power(fate);
                self.shards.iter_mut().for_each(|shard| shard.cut_power(self.plan.unit, chance));
                self.boot += 1;
            }
        }
    }

    /// Copies all of it, while no process runs.
    pub fn back_up(&mut self) {
        assert!(self.process.is_none(), "a store that is not open");
        self.note(|| "a backup is made".to_owned());
        let mut medium = self.medium.lock().clone();
        medium.take_trace();
        self.backup = Some(Box::new(Backup {
            medium,
            shards: self.shards.clone(),
            stand: self.stand,
            met: self.met,
            durable: self.durable.clone(),
            acked: self.acked.clone(),
            last: self.last,
        }));
    }

    /// Puts the backup in its place; false where there is none.
    pub fn restore(&mut self) -> bool {
        assert!(self.process.is_none(), "a store that is not open");
        let Some(backup) = self.backup.clone() else { return false };
        let Backup { medium, shards, stand, met, durable, acked, last } = *backup;
        self.note(|| "the backup is put in its place".to_owned());
        let before = self.medium.lock().take_trace();
        self.medium = SharedMedium::new(medium);
        self.medium.lock().put_trace(before);
        (self.shards, self.stand, self.met) = (shards, stand, met);
        (self.durable, self.acked, self.last) = (durable, acked, last);
        // On another machine, or on another day.
        self.boot += 1;
        self.shards.iter_mut().for_each(|shard| shard.facts.ending = Ending::PowerCut);
        true
    }

    /// Lets so many microseconds pass.
    ///
    /// # Errors
    /// A promise that did not hold.
    pub fn run(&mut self, us: u64, chance: &mut Chance) -> Result<(), Wrong> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let to = self.medium.lock().now.plus_us(us);
        for _ in 0..ROUNDS_MAX {
            let now = self.medium.lock().now;
            let mut next: Option<Instant> = None;
            for (open, shard) in process.shards.iter_mut().zip(&mut self.shards) {
                open.go_on(shard, now, chance);
                open.look(shard, now)?;
                let wanted = open.next(now).map(|at| at.max(now.plus_us(1)));
                next = [next, wanted].into_iter().flatten().min();
            }
            if chance.percent(2) {
                self.shards.iter_mut().for_each(|shard| shard.ring.write_back(chance));
            }
            let at = next.filter(|at| *at <= to).unwrap_or(to);
            self.medium.lock().now = at;
            for (open, shard) in process.shards.iter_mut().zip(&mut self.shards) {
                open.poll(shard, at)?;
                for (stream, seq) in open.newly_synced.drain(..) {
                    self.durable.insert(stream, seq);
                }
            }
            if at == to {
                return Ok(());
            }
        }
        Err("a shard spins".to_owned().into())
    }

    /// All that it accepted may leave.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.shards.iter().zip(&self.shards).all(|(open, shard)| open.is_quiet(shard)))
    }

    /// A client's block; true where it was accepted.
    ///
    /// # Errors
    /// It was accepted, and may not be.
    pub fn append(&mut self, writer: u32, ledger: &mut Ledger, chance: &mut Chance) -> Result<bool, Wrong> {
        if self.process.as_ref().is_none_or(|process| process.accepts.is_err()) {
            return Ok(false);
        }
        self.may_accept()?;
        let shard = writer as usize % self.shards.len();
        let block = self.block(writer, chance);
        let (name, received_at_ns) = (block.name, block.received_at_ns);
        let hold = chance.percent(self.plan.hold_percent).then(|| chance.within(1, HOLD_US));
        let now = self.now();
        let open = &mut self.process.as_mut().expect("it is open").shards[shard];
        let own = open.own;
        let Some(seq) = open.give(&mut self.shards[shard], block, hold, (now, chance)) else { return Ok(false) };
        self.note(|| format!("accepted {own:?} {seq}: {name:?}"));
        name.map_or(Ok(()), |name| ledger.accepted(own, seq, name, received_at_ns)).map(|()| true)
    }

    /// A client's next block, or a claim that it drops.
    fn block(&mut self, writer: u32, chance: &mut Chance) -> Given {
        self.counter += 1;
        self.wall_ns += chance.below(1_000_000) as i64;
        let received_at_ns = self.wall_ns;
        let length = chance.within(0, u64::from(self.plan.block_bytes_max)) as u32;
        let name = BlockName { writer: self.number as u32 * 16 + writer, counter: self.counter, length };
        let mut payload = Vec::new();
        if chance.percent(1) {
            return Given { header: void_entry(), payload, name: None, carried: None, received_at_ns: 0 };
        }
        name.payload(&mut payload);
        let header = name.header(&payload, received_at_ns, None);
        Given { header, payload, name: Some(name), carried: None, received_at_ns }
    }

    /// One that a client is in the middle of when the process ends.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn last_block(&mut self, ledger: &mut Ledger, chance: &mut Chance) -> Result<Option<(ShardId, Given)>, Wrong> {
        let accepts = self.process.as_ref().is_some_and(|process| process.accepts.is_ok());
        if !accepts || chance.percent(50) {
            return Ok(None);
        }
        let index = chance.below(self.shards.len() as u64) as usize;
        let block = self.block(index as u32, chance);
        let own = self.up().shards[index].own;
        let seq = self.shards[index].model.last().next();
        // Where there is no room for it nobody ever hears of it.
        if let Some(name) = block.name {
            ledger.accepted(own, seq, name, block.received_at_ns)?;
        }
        Ok(Some((ShardId(index as u16), block)))
    }

    /// Takes what is new of a frame; false where there is no room for all of it yet.
    ///
    /// # Errors
    /// [`Refused`]: nothing of it may be taken; a block that is none of a writer's.
    pub fn take(&mut self, frame: &Entries, chance: &mut Chance) -> Result<Result<bool, Refused>, Wrong> {
        let now = self.now();
        let process = self.process.as_mut().expect("an open store");
        let new = match process.receiver.is_new(frame) {
            Ok(new) => new,
            Err(refused) => return Ok(Err(refused)),
        };
        let index = usize::from(process.receiver.shard_of(frame.stream).0);
        let (open, shard) = (&mut process.shards[index], &mut self.shards[index]);
        let mut end = new.start.checked_sub(1).map_or(frame.before, |last| frame.upto(frame.entries[last].seq).1);
        let (mut last, mut all) = (None, true);
        for at in new {
            let behind = frame.then(end, at);
            let Some(local) = open.give(shard, carried(frame, at, behind)?, None, (now, chance)) else {
                all = false;
                break;
            };
            end = behind;
            process.receiver.took(frame.stream, end, local);
            last = Some(local);
        }
        if let Some(last) = last {
            open.want_synced(shard, last, now)?;
            self.note(|| format!("took {:?} up to {}, as {last}", frame.stream, end.seq));
        }
        Ok(Ok(all))
    }

    /// What is synced by now its sources may be told.
    pub fn tell_synced(&mut self) {
        let process = self.process.as_mut().expect("an open store");
        for (open, shard) in process.shards.iter().zip(&self.shards) {
            process.receiver.synced(shard.id, open.shared.synced.at());
        }
    }

    /// It acknowledges these to a source.
    pub fn acknowledged(&mut self, rows: &[(Stream, Seq)], ledger: &Ledger) {
        for (stream, seq) in rows {
            // Of its own stream it has a block under some of the seqs.
            let Some(last) = ledger.last_upto(*stream, *seq) else { continue };
            let acked = self.acked.entry(*stream).or_default();
            *acked = (*acked).max(last);
        }
    }

    /// It has this of a stream, whatever happens to it, or has folded it.
    #[must_use]
    pub fn has_durably(&self, stream: Stream, seq: Seq) -> bool {
        self.durable.get(&stream).is_some_and(|upto| *upto >= seq) || self.has_folded(stream)
    }

    /// It knows of a stream only that it held that, with others.
    #[must_use]
    pub fn has_folded(&self, stream: Stream) -> bool {
        is_folded(&self.folded, &stream)
    }

    /// All that it would tell a source that it holds.
    #[must_use]
    pub fn vector(&self) -> StreamEnds {
        let receiver = &self.process.as_ref().expect("an open store").receiver;
        receiver.vector().into_iter().flat_map(|part| part.ends).collect()
    }

    /// Where it stands.
    #[must_use]
    pub fn stand(&self) -> Stand {
        self.process.as_ref().map_or(self.stand, |process| process.roles.stand())
    }

    /// The best promotion that it has met.
    #[must_use]
    pub fn met(&self) -> Promotion {
        self.process.as_ref().map_or(self.met, |process| process.met)
    }

    /// Blocks of clients are taken.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.accepts.is_ok())
    }

    /// What it says first on a link.
    #[must_use]
    pub fn hello(&self, session: u64) -> Hello {
        let opening = self.process.as_ref().expect("an open store").opening;
        Hello { opening, shards: self.shards.len() as u16, stand: self.stand(), session }
    }

    /// Takes in what a peer says of itself; true where this store stands elsewhere now.
    ///
    /// # Errors
    /// [`Dead`], or a promise that does not hold.
    pub fn meet(
        &mut self,
        peer: StoreId,
        (theirs, met): (Stand, Promotion),
        chance: &mut Chance,
    ) -> Result<Result<bool, Dead>, Wrong> {
        let process = self.up();
        process.met = process.met.better(met);
        let changed = process.roles.meet(peer, theirs);
        self.settle(changed, chance)
    }

    /// Somebody makes it something else.
    ///
    /// # Errors
    /// As [`meet`](Self::meet).
    pub fn change(&mut self, change: fn(&mut Roles), chance: &mut Chance) -> Result<Result<bool, Dead>, Wrong> {
        let process = self.up();
        change(&mut process.roles);
        process.met = process.met.better(Promotion::said(process.roles.stand()));
        self.settle(true, chance)
    }

    /// Fenced at once, accepting only what is written: as a node does.
    fn settle(&mut self, changed: bool, chance: &mut Chance) -> Result<Result<bool, Dead>, Wrong> {
        let process = self.process.as_mut().expect("an open store");
        let accepts = process.roles.accepts();
        if accepts.is_err() {
            process.accepts = accepts;
        }
        let stand = process.roles.stand();
        if changed {
            let fate = chance.below(100);
            if fate < DIES_AT_ROLE_PERCENT {
                return Ok(Err(Dead));
            }
            if stand.term < self.stand.term {
                return Err(format!("term {} goes back to {}", self.stand.term, stand.term).into());
            }
            (self.stand, self.met) = (stand, process.met);
            if fate < 2 * DIES_AT_ROLE_PERCENT {
                return Ok(Err(Dead));
            }
        }
        self.process.as_mut().expect("an open store").accepts = accepts;
        self.note(|| format!("{:?}, accepts: {accepts:?}", stand));
        self.may_accept()?;
        Ok(Ok(changed))
    }

    /// P7: one that accepts has met no better promotion than its own, now or in an earlier life.
    ///
    /// # Errors
    /// It has.
    pub fn may_accept(&self) -> Result<(), Wrong> {
        let Some(process) = self.process.as_ref().filter(|process| process.accepts.is_ok()) else { return Ok(()) };
        let (stand, met) = (process.roles.stand(), process.met.better(self.met));
        match met.lets(stand, self.id) {
            true => Ok(()),
            false => Err(format!("store {} accepts as {stand:?}, and has met {met:?}", self.number).into()),
        }
    }

    /// Links read only what a power cut cannot take.
    #[must_use]
    pub fn sends_synced_only(&self) -> bool {
        self.plan.policy == SyncPolicy::Each
    }
}

/// What an opening found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Openings that were cut short before it.
    pub cut: u64,
    /// Blocks.
    pub blocks: u64,
    /// Acknowledged blocks that a power cut took, as it may.
    pub lost: u64,
    /// The opening's epoch.
    pub epoch: Epoch,
}

/// The name of a store.
#[must_use]
pub const fn store_id(number: usize) -> StoreId {
    StoreId([number as u8 + 1; 16])
}

/// A block of a frame, as its follower gives it to a shard.
///
/// # Errors
/// It is no writer's block.
pub fn carried(frame: &Entries, index: usize, behind: StreamEnd) -> Result<Given, Wrong> {
    let at = &frame.entries[index];
    let (header, payload) = (&frame.bytes[at.header.clone()], &frame.bytes[at.payload.clone()]);
    let own = decode_entry(header).expect("checked when the frame was read");
    let name = BlockName::read(header, payload, &mut Vec::new());
    let name = name.ok_or_else(|| format!("{:?} {} is sent, and is nobody's block", frame.stream, at.seq))?;
    let identity = Some(Identity { stream: frame.stream, seq: at.seq });
    let received_at_ns = own.received_at_ns;
    let header = Entry { kind: EntryKind::Carried, identity, ..own }.encode();
    let carried = Some((frame.stream, behind));
    Ok(Given { header, payload: payload.to_vec(), name: Some(name), carried, received_at_ns })
}
